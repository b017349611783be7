//! What the config says of a netdev, broken with `ip` under traffic, is so again; what it does not say stays
//! as it is.

pub(crate) mod places;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{self, Ping};
use boardlane::os::netlink::{Netlink, route_socket};
use boardlane::os::netns::Namespace;
use boardlane::plan::Observed;
use tokio::runtime::Runtime;

use crate::world::{PATIENCE, World, check, wait};

/// How often each thing is broken.
const ROUNDS: &str = "BOARDLANE_HEAL_ROUNDS";
/// Before a thing is broken, so that it is the first change after a quiet time; and from round to round, so
/// that nothing seems to be contended for.
const QUIET: Duration = Duration::from_millis(250);
const REST: Duration = Duration::from_millis(2300);

/// What a machine's kernel says of its netdevs, without a program's start.
struct Eye {
    runtime: Runtime,
    netlink: Netlink,
}

impl Eye {
    fn on(world: &World, machine: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = world.inside(machine, || route_socket().unwrap());
        let netlink = runtime.block_on(async { Netlink::over(socket).unwrap() });
        Self { runtime, netlink }
    }

    fn see(&self, name: &str) -> Option<Observed> {
        self.runtime.block_on(self.netlink.observe(name)).unwrap()
    }
}

fn has_address(seen: &Observed, address: &str) -> bool {
    seen.addresses.iter().any(|a| a.to_string() == address)
}

fn has_route(seen: &Observed, to: &str) -> bool {
    seen.routes.iter().any(|route| route.to.to_string() == to)
}

/// Something of the master's config.
struct Thing {
    name: &'static str,
    /// Words of `ip` that break it, one command after the other; `OTHER` is another namespace.
    broken_by: &'static str,
    /// The netdev that is looked at.
    of: &'static str,
    is_well: fn(&Observed) -> bool,
    /// What is broken with it, and is nobody's to heal.
    takes_all: bool,
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];

fn is_whole(seen: &Observed) -> bool {
    has_address(seen, "10.77.0.1/30")
        && has_address(seen, "fd77::1/64")
        && has_route(seen, "10.80.0.0/24")
        && has_route(seen, "fd80::/64")
        && (seen.up, seen.mac, seen.mtu) == (true, MAC, 1400)
        && seen.alias.as_deref() == Some("boardlane")
}

const fn thing(
    name: &'static str,
    broken_by: &'static str,
    is_well: fn(&Observed) -> bool,
) -> Thing {
    Thing { name, broken_by, of: "bl0", is_well, takes_all: false }
}

const REPLACED: &str = "route replace 10.80.0.0/24 dev f0; route del 10.80.0.0/24 dev f0";

const THINGS: [Thing; 13] = [
    thing("IPv4 address", "addr del 10.77.0.1/30 dev bl0", |s| has_address(s, "10.77.0.1/30")),
    thing("IPv6 address", "addr del fd77::1/64 dev bl0", |s| has_address(s, "fd77::1/64")),
    thing("IPv4 route", "route del 10.80.0.0/24", |s| has_route(s, "10.80.0.0/24")),
    // The other one is not ours to take away; where it goes again is room for ours.
    thing("IPv4 route that was replaced", REPLACED, |s| has_route(s, "10.80.0.0/24")),
    thing("IPv6 route", "-6 route del fd80::/64", |s| has_route(s, "fd80::/64")),
    thing("MTU", "link set bl0 mtu 1300", |s| s.mtu == 1400),
    thing("MAC address", "link set bl0 address 02:00:00:00:00:99", |s| s.mac == MAC),
    thing("alias", "link set bl0 alias nobody", |s| s.alias.as_deref() == Some("boardlane")),
    Thing {
        of: "bl2",
        ..thing("bridge port", "link set bl2 nomaster", |s| {
            s.master.as_ref().is_some_and(|master| master.name == "br0")
        })
    },
    thing("name", "link set bl0 name x0", is_whole),
    Thing { takes_all: true, ..thing("up", "link set bl0 down", is_whole) },
    Thing { takes_all: true, ..thing("network namespace", "link set bl0 netns OTHER", is_whole) },
    Thing { takes_all: true, ..thing("netdev", "link del bl0", is_whole) },
];

const KEYS: &str = "address = [\"10.77.0.1/30\", \"fd77::1/64\"]\nmtu = 1400\nup = true\n\
    mac = \"02:00:00:00:aa:01\"\n\
    route = [{ to = \"10.80.0.0/24\", via = \"10.77.0.2\" }, { to = \"fd80::/64\", via = \"fd77::2\" }]";

/// What is not in the config.
const FOREIGN: [&str; 2] =
    ["addr replace 192.0.2.1/24 dev bl0", "route replace 198.51.100.0/24 via 192.0.2.2"];

fn is_foreign_there(seen: &Observed) -> bool {
    has_address(seen, "192.0.2.1/24") && has_route(seen, "198.51.100.0/24")
}

/// Echo requests over a link all the while, answered or not.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn on(world: &World, machine: &str, to: &str) -> Self {
        let namespace = Namespace::open(&world.namespace(machine)).unwrap();
        let (stop, to) = (Arc::new(AtomicBool::new(false)), to.parse().unwrap());
        let flag = stop.clone();
        let plan = Ping { count: 1, timeout: Duration::from_millis(20), ..Ping::default() };
        let work = move || {
            while !flag.load(Ordering::Relaxed) {
                // Without the netdev there is no way to the other end.
                let _ = traffic::ping(to, &plan, &AtomicBool::new(false));
                thread::sleep(Duration::from_millis(1));
            }
        };
        let thread = thread::spawn(move || namespace.run(work).unwrap());
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Breaks a thing; how long it took to be as before, with the start of `ip`.
fn time(world: &World, eye: &Eye, thing: &Thing) -> Duration {
    thread::sleep(QUIET);
    let seen = eye.see(thing.of).expect(thing.of);
    assert!((thing.is_well)(&seen), "{}: {seen:?}", thing.name);
    let told = world.log("master");
    let words = thing.broken_by.replace("OTHER", &world.namespace("other"));
    let start = Instant::now();
    words.split("; ").for_each(|words| drop(world.ip("master", words)));
    let took = loop {
        let seen = eye.see(thing.of);
        let took = start.elapsed();
        if seen.as_ref().is_some_and(thing.is_well) {
            break took;
        }
        assert!(took < PATIENCE, "{}: {seen:?}", thing.name);
        thread::sleep(Duration::from_millis(1));
    };
    // It was broken, and this daemon it was that has healed it.
    wait(thing.name, || {
        let log = world.log("master");
        let more = log[told.len()..].to_owned();
        let set = format!("{}: set again", thing.of);
        check(more.contains(&set) || more.contains("has been deleted"), more)
    });
    took
}

pub(crate) fn each_thing_that_is_broken_is_set_again_and_others_stay() {
    let rounds = std::env::var(ROUNDS).map_or(1, |n| n.parse().expect(ROUNDS));
    let mut world = World::new(3, |machine, slot| match (machine, slot) {
        ("master", 0) => KEYS.to_owned(),
        ("master", 2) => "bridge = \"br0\"\naddress = []".to_owned(),
        _ => String::new(),
    });
    world.add_machine("other");
    world.ip("master", "link add br0 type bridge");
    world.ip("master", "link add f0 type veth peer name f1");
    for words in ["addr add 203.0.113.1/24 dev f0", "link set f0 mtu 1300", "link set f0 up"] {
        world.ip("master", words);
    }
    for daemon in ["backplane", "master", "board0", "board1", "board2"] {
        world.start(daemon);
    }
    (0..3).for_each(|slot| world.wait_up(slot));
    world.ip("master", "link set bl1 mtu 1380");
    let eye = Eye::on(&world, "master");
    let foreign = eye.see("f0").unwrap();
    let other = world.steady_ping("board1", "10.77.1.1");
    let traffic = Traffic::on(&world, "board0", "10.77.0.1");
    let mut took: Vec<Vec<Duration>> = THINGS.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        if round > 0 {
            thread::sleep(REST);
        }
        for (thing, took) in THINGS.iter().zip(&mut took) {
            FOREIGN.iter().for_each(|words| drop(world.ip("master", words)));
            took.push(time(&world, &eye, thing));
            for (from, to) in [("board0", "10.77.0.1"), ("master", "fd77::2")] {
                world.wait_ping("traffic back", from, to);
            }
            let seen = eye.see("bl0").unwrap();
            assert!(is_whole(&seen), "{}: {seen:?}", thing.name);
            assert!(thing.takes_all || is_foreign_there(&seen), "{}: {seen:?}", thing.name);
            assert_eq!(eye.see("bl1").unwrap().mtu, 1380, "the operator's");
            assert_eq!(eye.see("f0").unwrap(), foreign);
        }
    }
    drop(traffic);
    other.finish_without_loss();
    eprintln!("{}", table(&took));
}

/// Medians and longest times, as a table.
fn table(took: &[Vec<Duration>]) -> String {
    let mut text = format!("{:38} {:>9} {:>9}", "broken and set again, in ms", "median", "longest");
    for (thing, took) in THINGS.iter().zip(took) {
        let mut ms: Vec<_> = took.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let (median, longest) = (ms[ms.len() / 2], ms[ms.len() - 1]);
        let _ = write!(text, "\n{:38} {median:9.1} {longest:9.1}", thing.name);
    }
    text
}

pub(crate) fn who_keeps_setting_the_opposite_is_told_of_and_does_not_keep_the_daemon_busy() {
    let world = World::running(2, |machine, slot| match (machine, slot) {
        ("master", 0) => "mtu = 1400".to_owned(),
        _ => String::new(),
    });
    let other = world.steady_ping("master", "10.77.1.2");
    let script =
        "i=0; while [ $i -lt 1500 ]; do ip link set bl0 mtu 1300; sleep 0.004; i=$((i+1)); done";
    let namespace = world.namespace("master");
    let mut rival = std::process::Command::new("ip")
        .args(["netns", "exec", &namespace, "sh", "-c", script])
        .spawn()
        .unwrap();
    let told = "somebody else keeps undoing what is set here: MTU 1400";
    wait("status tells of it", || {
        let reason = world.link_status("master", "bl0")?.reason;
        check(reason.as_deref().is_some_and(|reason| reason.contains(told)), reason)
    });
    let set = |world: &World| world.log("master").matches("set again: MTU 1400").count();
    let before = set(&world);
    thread::sleep(Duration::from_secs(4));
    assert!(set(&world) - before <= 1, "{}", world.log("master"));
    rival.kill().unwrap();
    rival.wait().unwrap();
    let eye = Eye::on(&world, "master");
    wait("what the config says is so again", || {
        let seen = eye.see("bl0").unwrap();
        check(seen.mtu == 1400, seen.mtu)
    });
    wait("status says no more of it", || {
        let reason = world.link_status("master", "bl0")?.reason;
        check(reason.is_none(), reason)
    });
    assert_eq!(world.log("master").matches(told).count(), 1, "{}", world.log("master"));
    other.finish_without_loss();
}
