//! Daemons that die and come back under traffic, again and again: how long that takes, and what it
//! leaves behind.
//!
//! *Ready* is a daemon whose control socket answers, and a backplane whose slot's socket is there.
//! *Back* is the time from then until datagrams flow each way without a pause, with both ends in a
//! new session; *silence* is the longest pause since the kill. `BOARDLANE_CYCLES` says how many
//! cycles there are of each kind, `BOARDLANE_CYCLES_SEED` at which moments.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use rustix::process::Signal;
use serde_json::Value;

use crate::probe::{PAUSE, Probe};
use crate::traffic::Random;
use crate::world::{PATIENCE, World};

const CYCLES: &str = "BOARDLANE_CYCLES";
const SEED: &str = "BOARDLANE_CYCLES_SEED";
/// Cycles after which what a daemon makes once is made.
const WARM_UP: u32 = 2;
/// Cycles of each kind unless told otherwise.
const USUAL: u32 = 4;
/// What a test may find too long; what is aimed at stands in `packaging/doc/results.md`.
const LIMIT: Duration = Duration::from_secs(10);
/// How far memory of its own may move that a daemon has had for some cycles: the allocator's noise.
const MEMORY_TOLERANCE_KB: u64 = 512;
const ALL: [&str; 3] = ["backplane", "master", "board0"];

/// How many cycles of each kind there are.
pub(crate) fn count() -> u32 {
    std::env::var(CYCLES).map_or(USUAL, |n| n.parse().expect("a number of cycles"))
}

/// A world under traffic.
struct Cycles {
    world: World,
    probe: Probe,
    random: Random,
}

/// How long one cycle took.
struct Took {
    back: Duration,
    silence: Duration,
}

impl Cycles {
    fn new(keys: &'static str, connection: bool) -> Self {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse().expect("a seed is a number"),
            Err(_) => u64::from(std::process::id()),
        };
        eprintln!("{CYCLES}={} {SEED}={seed}", count());
        let world = World::running(1, |_, _| keys.to_owned());
        let probe = Probe::start(&world, connection);
        Self { world, probe, random: Random(seed | 1) }
    }

    fn pause(&mut self, most_ms: u64) {
        thread::sleep(Duration::from_micros(self.random.next() % (1000 * most_ms)));
    }

    /// Ends a daemon at some moment, starts it again, and waits for the traffic.
    fn cycle(&mut self, daemon: &str, signal: Signal) -> Took {
        self.pause(150);
        let before = self.epochs().expect("the link was up");
        self.probe.forget();
        let from = Instant::now();
        self.world.signal(daemon, signal);
        self.world.wait_end(daemon);
        self.pause(50);
        self.start(daemon);
        let ready = Instant::now();
        self.settle(from, ready, before)
    }

    /// Starts a daemon and waits until it is ready.
    fn start(&mut self, daemon: &str) {
        let slot = self.world.slot(0);
        let file = || fs::metadata(&slot).map(|m| (m.ino(), m.ctime(), m.ctime_nsec())).ok();
        let left = file();
        self.world.start(daemon);
        let start = Instant::now();
        let is_ready = || match daemon {
            "backplane" => file().is_some_and(|now| Some(now) != left),
            machine => self.world.status(machine).is_ok(),
        };
        while !is_ready() {
            assert!(start.elapsed() < PATIENCE, "{daemon} not ready");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills some daemons at once, and starts them one after the other in some order. One may be killed
    /// again before it has done anything; one that lives may see nothing of all this for a while.
    fn tumult(&mut self) -> Took {
        self.pause(150);
        let before = self.epochs().expect("the link was up");
        let mut order = ALL;
        order.sort_by_cached_key(|_| self.random.next());
        let (dead, alive) = order.split_at(1 + self.below(3));
        eprintln!("killed: {dead:?}, to be started in this order");
        self.probe.forget();
        let from = Instant::now();
        let frozen = alive.first().filter(|_| self.below(2) == 0);
        frozen.iter().for_each(|daemon| self.world.signal(daemon, Signal::STOP));
        dead.iter().for_each(|daemon| self.world.signal(daemon, Signal::KILL));
        for daemon in dead {
            self.world.wait_end(daemon);
        }
        for daemon in dead {
            self.pause(300);
            self.start(daemon);
            if self.below(3) == 0 {
                self.pause(60);
                self.world.kill(daemon);
                self.start(daemon);
            }
        }
        let mut ready = Instant::now();
        if let Some(frozen) = frozen {
            self.pause(300);
            self.world.signal(frozen, Signal::CONT);
            ready = Instant::now();
        }
        self.settle(from, ready, before)
    }

    fn below(&mut self, n: u64) -> usize {
        usize::try_from(self.random.next() % n).unwrap()
    }

    /// Waits until both ends are in a session that is not `before`, and datagrams flow.
    fn settle(&mut self, from: Instant, ready: Instant, before: [u32; 2]) -> Took {
        loop {
            thread::sleep(Duration::from_millis(5));
            let now = Instant::now();
            let (since, silence) = self.probe.flowing(from, now);
            let is_new = self.epochs().is_ok_and(|epochs| epochs != before);
            if is_new && now >= since + 2 * PAUSE && now >= ready + 2 * PAUSE {
                self.probe.wait_message();
                return Took { back: since.saturating_duration_since(ready), silence };
            }
            assert!(
                now < ready + LIMIT,
                "not back within {} s: session {:?}",
                LIMIT.as_secs(),
                self.epochs()
            );
        }
    }

    /// The epochs of both ends, if they are up with each other.
    fn epochs(&self) -> Result<[u32; 2], String> {
        let [master, board] = ["master", "board0"].map(|end| self.world.link_status(end, "bl0"));
        let (master, board) = (master?, board?);
        let is_up = [&master, &board].iter().all(|end| end.state == LinkState::Up && end.carrier);
        let crossed = (master.epoch, master.peer_epoch) == (board.peer_epoch, board.epoch);
        match (master.epoch, board.epoch) {
            (Some(master), Some(board)) if is_up && crossed => Ok([master, board]),
            _ => Err(format!("{master:?} {board:?}")),
        }
    }

    /// So many cycles of one kind, and what they took.
    fn cycles(&mut self, n: u32, what: &str, mut cycle: impl FnMut(&mut Self) -> Took) {
        let mut all: Vec<Took> = (0..n).map(|_| cycle(self)).collect();
        let mut figures = |of: fn(&Took) -> Duration| {
            all.sort_by_key(of);
            let ms = |took: &Took| of(took).as_secs_f64() * 1e3;
            format!("{:.0} ms, at most {:.0} ms", ms(&all[all.len() / 2]), ms(&all[all.len() - 1]))
        };
        let (back, silence) = (figures(|took| took.back), figures(|took| took.silence));
        eprintln!("{n} times {what}: back after {back}; silence {silence}");
    }

    /// What a daemon holds: descriptors, and memory of its own in kB. It comes to rest first.
    fn holds(&self, daemon: &str) -> (usize, u64) {
        let pid = self.world.pid(daemon);
        let look = || {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            (fds, line.trim().trim_end_matches(" kB").parse().unwrap())
        };
        let (mut last, mut since) = (look(), Instant::now());
        while since.elapsed() < Duration::from_millis(1500) {
            thread::sleep(Duration::from_millis(20));
            let now = look();
            if now.0 != last.0 {
                since = Instant::now();
            }
            last = now;
        }
        last
    }

    /// The netdevs of both machines: what bears their names, and how it is set.
    fn netdevs(&self) -> Vec<String> {
        let line = |machine: &str, netdev: &Value| {
            let mut flags: Vec<_> = netdev["flags"].as_array().unwrap().iter().collect();
            flags.sort_by_key(|flag| flag.to_string());
            let addresses = netdev["addr_info"].as_array().unwrap();
            let addresses: Vec<_> =
                addresses.iter().map(|a| format!("{}/{}", a["local"], a["prefixlen"])).collect();
            let keys = ["ifname", "ifindex", "mtu", "address", "operstate", "qdisc"];
            let of_keys: Vec<_> = keys.iter().map(|key| netdev[key].to_string()).collect();
            format!("{machine}: {of_keys:?} {flags:?} {addresses:?}")
        };
        let machines = ["master", "board0"].into_iter();
        let all = machines.map(|machine| (machine, self.world.ip(machine, "addr show")));
        all.flat_map(|(machine, all)| all.iter().map(|n| line(machine, n)).collect::<Vec<_>>())
            .collect()
    }
}

pub(crate) fn each_that_is_killed_is_back_and_leaves_nothing() {
    let mut cycles = Cycles::new("", true);
    let netdevs = cycles.netdevs();
    for killed in ["board0", "master", "backplane"] {
        // What the first ones make is kept for the next.
        let what = format!("{killed} killed");
        cycles.cycles(WARM_UP, &what, |cycles| cycles.cycle(killed, Signal::KILL));
        let before = ALL.map(|daemon| cycles.holds(daemon));
        cycles.cycles(count(), &what, |cycles| cycles.cycle(killed, Signal::KILL));
        let after = ALL.map(|daemon| cycles.holds(daemon));
        for ((daemon, before), after) in ALL.iter().zip(before).zip(after) {
            eprintln!(
                "{daemon}: descriptors {} -> {}, memory {} -> {} kB",
                before.0, after.0, before.1, after.1
            );
            assert_eq!(before.0, after.0, "descriptors of {daemon}");
            assert!(before.1.abs_diff(after.1) <= MEMORY_TOLERANCE_KB, "memory of {daemon}");
        }
    }
    assert_eq!(cycles.netdevs().join("\n"), netdevs.join("\n"));
    cycles.probe.finish();
}

/// Stops daemons in an orderly way, as an upgrade does.
fn stop_and_start(keys: &'static str, connection: bool) {
    let mut cycles = Cycles::new(keys, connection);
    for daemon in ["board0", "master", "backplane"] {
        let what = format!("{daemon} stopped ({keys})");
        cycles.cycles(count(), &what, |cycles| cycles.cycle(daemon, Signal::TERM));
    }
    cycles.probe.finish();
}

pub(crate) fn each_that_is_stopped_is_back_with_the_netdev_that_it_kept() {
    stop_and_start("keep = true", true);
}

/// Without a connection: Linux gives one whose netdev goes a path MTU of 68, with which it is long in
/// coming back. Who wants connections to live through a stop keeps the netdev.
pub(crate) fn each_that_is_stopped_is_back_with_a_netdev_made_anew() {
    stop_and_start("", false);
}

pub(crate) fn those_that_are_killed_together_are_back_in_whatever_order() {
    let mut cycles = Cycles::new("", true);
    let netdevs = cycles.netdevs();
    cycles.cycles(2 * count(), "some of all killed", Cycles::tumult);
    assert_eq!(cycles.netdevs().join("\n"), netdevs.join("\n"));
    cycles.probe.finish();
}
