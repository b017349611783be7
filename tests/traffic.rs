//! Traffic of our own between two namespaces that a veth pair joins.
//!
//! It needs root (or CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW) and the program `ip`. Without them
//! the cases are ignored, with the reason; where `CI=true` says that they must run, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it could not clean up"
)]

use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{
    Datagrams, Echoes, FrameFlood, Ping, TcpTest, datagram_throughput, flood_frames, frame_socket,
    message_round_trips, ping, ping_all, round_trips, tcp_throughput,
};
use boardlane::os::netns::Namespace;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Far more than any of the measurements takes; a hang takes longer.
const NEVER_LONGER: Duration = Duration::from_secs(10);

/// Two namespaces: `left` has 10.9.0.1 and fd09::1, `right` has 10.9.0.2 and fd09::2.
struct Pair {
    names: [String; 2],
    left: Namespace,
    right: Namespace,
}

impl Pair {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("bl-traffic-{}-{count}-{side}", std::process::id());
        let names = [name("left"), name("right")];
        let left = Namespace::create(&names[0])?;
        // From here on Drop removes what was made.
        let right = Namespace::create(&names[1]).inspect_err(|_| {
            let _ = Namespace::remove(&names[0]);
        })?;
        let pair = Self { names, left, right };
        let [left, right] = &pair.names;
        ip(&["-n", left, "link", "add", "v0", "type", "veth", "peer", "v0", "netns", right])?;
        for (name, host) in [(left, 1), (right, 2)] {
            ip(&["-n", name, "addr", "add", &format!("10.9.0.{host}/24"), "dev", "v0"])?;
            ip(&["-n", name, "addr", "add", &format!("fd09::{host}/64"), "dev", "v0", "nodad"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "v0", "up"])?;
        }
        pair.settle()?;
        Ok(pair)
    }

    /// The kernel finishes with a new link at its leisure, and first neighbour solicitations get lost.
    fn settle(&self) -> io::Result<()> {
        let plan = Ping { count: 1, timeout: Duration::from_millis(300), ..Ping::default() };
        let start = Instant::now();
        for target in ["10.9.0.2", "fd09::2"] {
            while self.ping(target, plan).received == 0 {
                if start.elapsed() > NEVER_LONGER {
                    return Err(io::Error::other(format!("no echo from {target} within 10 s")));
                }
            }
        }
        Ok(())
    }

    fn ping(&self, target: &str, plan: Ping) -> Echoes {
        let target: IpAddr = target.parse().unwrap();
        self.left.run(|| ping(target, &plan, &AtomicBool::new(false))).unwrap().unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = Namespace::remove(name) {
                eprintln!("{error}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(arguments).output()?;
    let error = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {error}", arguments.join(" "))))
}

type Case = fn(&Pair);

fn main() {
    let cases: [(&str, Case); 12] = [
        ("both_families_answer_without_loss", both_families_answer_without_loss),
        ("a_machine_answers_itself", a_machine_answers_itself),
        ("an_address_that_nobody_has_is_all_loss", an_address_that_nobody_has_is_all_loss),
        ("a_target_without_a_route_is_loss_too", a_target_without_a_route_is_loss_too),
        ("a_silent_target_costs_the_others_nothing", a_silent_target_costs_the_others_nothing),
        ("a_large_echo_comes_back_whole", a_large_echo_comes_back_whole),
        ("tcp_flows_both_ways_over_both_families", tcp_flows_both_ways_over_both_families),
        ("a_link_cut_while_measuring_is_no_hang", a_link_cut_while_measuring_is_no_hang),
        ("a_connection_without_a_way_is_an_error", a_connection_without_a_way_is_an_error),
        ("messages_come_back_one_by_one", messages_come_back_one_by_one),
        ("datagrams_arrive_in_both_families", datagrams_arrive_in_both_families),
        ("a_flood_of_frames_arrives_as_it_was_sent", a_flood_of_frames_arrives_as_it_was_sent),
    ];
    let missing = Pair::new().err().map(|error| error.to_string());
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let trial = |(name, run): (&'static str, Case)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(reason) if strict => Err(Failed::from(format!("cannot run: {reason}"))),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                let (pair, start) = (Pair::new()?, Instant::now());
                run(&pair);
                assert!(start.elapsed() < NEVER_LONGER, "took {:?}", start.elapsed());
                Ok(Completion::Completed)
            }
        })
    };
    let trials = cases.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn both_families_answer_without_loss(pair: &Pair) {
    for target in ["10.9.0.2", "fd09::2"] {
        let echoes = pair.ping(target, Ping::default());
        assert_eq!((echoes.sent, echoes.received), (10, 10), "{target}");
        let average = echoes.average().unwrap();
        assert!(Duration::ZERO < echoes.min, "{echoes:?}");
        assert!(echoes.min <= average && average <= echoes.max, "{echoes:?}");
        let (target, stop) = (target.parse().unwrap(), AtomicBool::new(false));
        let trips = pair.left.run(|| round_trips(target, &Ping::default(), &stop));
        let (echoes, trips) = trips.unwrap().unwrap();
        assert_eq!(trips.len(), 10, "{target}");
        assert_eq!(trips.iter().sum::<Duration>(), echoes.total, "{target}");
    }
}

fn a_machine_answers_itself(pair: &Pair) {
    // The raw socket hears its own requests as well: they must not count as replies.
    for target in ["10.9.0.1", "fd09::1"] {
        let echoes = pair.ping(target, Ping { count: 3, ..Ping::default() });
        assert_eq!((echoes.sent, echoes.received), (3, 3), "{target}");
    }
}

fn an_address_that_nobody_has_is_all_loss(pair: &Pair) {
    let plan = Ping { count: 3, timeout: Duration::from_millis(50), ..Ping::default() };
    for target in ["10.9.0.77", "fd09::77"] {
        let echoes = pair.ping(target, plan);
        assert_eq!((echoes.sent, echoes.received), (3, 0), "{target}");
    }
}

fn a_target_without_a_route_is_loss_too(pair: &Pair) {
    let echoes = pair.ping("192.0.2.1", Ping { count: 2, ..Ping::default() });
    assert_eq!((echoes.sent, echoes.received), (2, 0));
}

fn a_silent_target_costs_the_others_nothing(pair: &Pair) {
    let targets = ["10.9.0.1", "10.9.0.77", "10.9.0.2"].map(|text| text.parse().unwrap());
    let plan = Ping { count: 4, timeout: Duration::from_millis(200), ..Ping::default() };
    let run = || ping_all(&targets, &plan, &AtomicBool::new(false));
    let received: Vec<_> =
        pair.left.run(run).unwrap().unwrap().iter().map(|echoes| echoes.received).collect();
    assert_eq!(received, [4, 0, 4]);
}

fn a_large_echo_comes_back_whole(pair: &Pair) {
    for target in ["10.9.0.2", "fd09::2"] {
        let echoes = pair.ping(target, Ping { count: 2, payload: 40_000, ..Ping::default() });
        assert_eq!(echoes.received, 2, "{target}");
    }
}

fn tcp_flows_both_ways_over_both_families(pair: &Pair) {
    let test = TcpTest { duration: Duration::from_millis(200), streams: 2, congestion: None };
    let ways = [
        (&pair.right, &pair.left, "10.9.0.2"),
        (&pair.left, &pair.right, "10.9.0.1"),
        (&pair.right, &pair.left, "fd09::2"),
    ];
    for (server, client, address) in ways {
        let stop = AtomicBool::new(false);
        let address = address.parse().unwrap();
        let result = tcp_throughput(server, client, address, &test, &stop, &mut |_| {}).unwrap();
        assert!(result.gbit_s() > 0.0, "{address}: {result:?}");
        assert!(result.elapsed >= test.duration, "{address}: {result:?}");
    }
}

fn a_link_cut_while_measuring_is_no_hang(pair: &Pair) {
    let test = TcpTest { duration: Duration::from_secs(1), streams: 1, congestion: None };
    let mut cut = false;
    let mut on_progress = |_| {
        if !std::mem::replace(&mut cut, true) {
            ip(&["-n", &pair.names[1], "link", "set", "v0", "down"]).unwrap();
        }
    };
    let stop = AtomicBool::new(false);
    let address = "10.9.0.2".parse().unwrap();
    let result =
        tcp_throughput(&pair.right, &pair.left, address, &test, &stop, &mut on_progress).unwrap();
    assert!(result.bytes > 0 && result.elapsed >= test.duration, "{result:?}");
}

fn a_connection_without_a_way_is_an_error(pair: &Pair) {
    ip(&["-n", &pair.names[0], "link", "set", "v0", "down"]).unwrap();
    let test = TcpTest { duration: Duration::from_secs(1), streams: 1, congestion: None };
    let stop = AtomicBool::new(false);
    let address = "10.9.0.2".parse().unwrap();
    let result = tcp_throughput(&pair.right, &pair.left, address, &test, &stop, &mut |_| {});
    assert!(result.is_err(), "{result:?}");
}

fn messages_come_back_one_by_one(pair: &Pair) {
    let (duration, stop) = (Duration::from_millis(200), AtomicBool::new(false));
    let address = "10.9.0.2".parse().unwrap();
    let trips = message_round_trips(&pair.right, &pair.left, address, duration, &stop).unwrap();
    let total: Duration = trips.iter().sum();
    assert!(trips.len() > 10 && total >= duration, "{} in {total:?}", trips.len());
}

fn datagrams_arrive_in_both_families(pair: &Pair) {
    for (address, payload) in [("10.9.0.2", 1472), ("fd09::2", 1452)] {
        let test = Datagrams { duration: Duration::from_millis(200), payload };
        let (address, stop) = (address.parse().unwrap(), AtomicBool::new(false));
        let result = datagram_throughput(&pair.right, &pair.left, address, &test, &stop).unwrap();
        assert!(
            result.bytes > 0 && result.bytes % u64::from(payload) == 0,
            "{address}: {result:?}"
        );
    }
}

fn a_flood_of_frames_arrives_as_it_was_sent(pair: &Pair) {
    let received = || {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("v0:")).unwrap();
        let numbers: Vec<u64> =
            line.split_whitespace().take(2).map(|word| word.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    };
    let socket = pair.left.run(|| frame_socket("v0")).unwrap().unwrap();
    let (bytes_before, frames_before) = pair.right.run(received).unwrap();
    let flood = FrameFlood::default();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| flood_frames(&socket, 64, &flood));
        std::thread::sleep(Duration::from_millis(200));
        flood.done.store(true, Ordering::Relaxed);
        thread.join().unwrap().unwrap();
    });
    let (bytes, frames) = pair.right.run(received).unwrap();
    let (bytes, frames) = (bytes - bytes_before, frames - frames_before);
    let sent = flood.sent.load(Ordering::Relaxed);
    // The kernels of both have a few words of their own to say.
    assert!(frames > 100 && frames <= sent + 20, "{frames} of {sent}");
    assert!(bytes / frames <= 70, "{bytes} bytes in {frames} frames");
}
