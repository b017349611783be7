//! What the daemons may do once they run, and that it is enough.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{World, check, wait};

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const DAC_OVERRIDE: u64 = 1 << 1;
const CHOWN: u64 = 1;
const BROKERS: u64 = NET_ADMIN | NET_RAW | SYS_PTRACE | SYS_ADMIN | DAC_OVERRIDE | CHOWN;

/// What /proc says of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privs: bool,
    filtered: bool,
}

impl Thread {
    fn read(path: &str) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let lines: BTreeMap<_, _> = lines.collect();
        let set = |key| u64::from_str_radix(lines[key], 16).unwrap();
        Some(Self {
            name: lines["Name"].to_owned(),
            inheritable: set("CapInh"),
            permitted: set("CapPrm"),
            effective: set("CapEff"),
            bounding: set("CapBnd"),
            ambient: set("CapAmb"),
            no_new_privs: lines["NoNewPrivs"] == "1",
            filtered: lines["Seccomp"] == "2",
        })
    }

    /// Whether it is confined, with no capability but these.
    fn check(&self, most: u64) {
        assert_eq!(self.effective, self.permitted, "{self:?}");
        assert_eq!(self.permitted & !most, 0, "{self:?}");
        assert_eq!((self.inheritable, self.bounding, self.ambient), (0, 0, 0), "{self:?}");
        assert!(self.no_new_privs && self.filtered, "{self:?}");
    }
}

/// The threads of a process.
fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let found = tasks.filter_map(|task| Thread::read(task.path().join("status").to_str()?));
    let found: Vec<_> = found.collect();
    assert!(!found.is_empty());
    found
}

fn worker<'a>(threads: &'a [Thread], name: &str) -> &'a Thread {
    let found = threads.iter().find(|thread| thread.name == name);
    found.unwrap_or_else(|| panic!("no thread {name} in {threads:?}"))
}

/// The broker of a daemon: its one child.
fn broker(world: &World, daemon: &str) -> Option<Pid> {
    let pid = world.pid(daemon);
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children: Vec<i32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(children.len() <= 1, "{daemon} has children {children:?}");
    children.first().copied().and_then(Pid::from_raw)
}

fn number(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw_pid()).unwrap()
}

pub(crate) fn every_thread_of_every_process_is_confined_under_traffic() {
    let engine = |machine: &str, _| match machine {
        "board0" => "dma = \"engine\"\nengine = { latency_us = 20 }\nqueues = 2".to_owned(),
        _ => "queues = 2".to_owned(),
    };
    let world = World::running(1, engine);
    let steady = world.steady_ping("master", "10.77.0.2");
    world.transfer("master", "board0", "10.77.0.2", 4 << 20);
    for daemon in ["master", "board0"] {
        let all = threads(world.pid(daemon));
        eprintln!("{daemon}: {:?}", all.iter().map(|thread| &thread.name).collect::<Vec<_>>());
        all.iter().for_each(|thread| thread.check(NET_ADMIN));
        worker(&all, "bl0").check(0);
        let broker = broker(&world, daemon).expect("a broker");
        let all = threads(number(broker));
        all.iter().for_each(|thread| thread.check(BROKERS));
        assert_eq!((all.len(), all[0].name.as_str()), (1, "bl-broker"));
    }
    worker(&threads(world.pid("board0")), "bl-engine").check(0);
    threads(world.pid("backplane")).iter().for_each(|thread| thread.check(0));
    world.transfer("board0", "master", "fd77::1", 4 << 20);
    steady.finish_without_loss();
    for daemon in ["master", "board0", "backplane"] {
        let log = world.log(daemon);
        assert!(log.contains("confined by") && !log.contains("confined without"), "{log}");
    }
}

/// A process in a machine's network namespace, until it is dropped.
struct Resident(Child);

impl Resident {
    fn of(netns: &str) -> Self {
        let netns = Namespace::open(netns).unwrap().as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new("sleep");
        Self(child::spawn(command.arg("600").stdin(Stdio::null()), Some(netns)).unwrap())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn a_namespace_is_entered_by_name_by_path_and_by_a_process_in_it() {
    let mut world = World::new(3, |_, _| String::new());
    world.add_machine("inner");
    let inner = world.namespace("inner");
    let resident = Resident::of(&inner);
    let words =
        [format!("\"{inner}\""), format!("\"/run/netns/{inner}\""), resident.0.id().to_string()];
    let links = (0..3).map(|slot: u8| {
        // Two pairs, as the second one's queue is opened later.
        let keys = format!("netns = {}\nqueues = 2", words[usize::from(slot)]);
        world.link(&format!("bl{slot}"), slot, 1, &keys)
    });
    world.configure("master", &links.collect::<String>());
    for daemon in ["backplane", "master", "board0", "board1", "board2"] {
        world.start(daemon);
    }
    for slot in 0..3 {
        wait(&format!("link {slot} up"), || {
            let up = world.is_operational("inner", &format!("bl{slot}"));
            check(up, world.link_status("master", &format!("bl{slot}")))
        });
        world.ping_well("inner", &format!("10.77.{slot}.2"));
    }
    assert!(world.stop("master").success());
    assert!(world.netdev("inner", "bl0").is_none());
}

pub(crate) fn a_daemon_whose_broker_is_killed_stops_in_an_orderly_way() {
    let mut world = World::running(1, |_, _| String::new());
    for daemon in ["board0", "master"] {
        let broker = broker(&world, daemon).expect("a broker");
        kill_process(broker, Signal::KILL).unwrap();
        assert_eq!(world.wait_end(daemon).code(), Some(1));
        assert!(world.log(daemon).contains("the broker has ended"), "{}", world.log(daemon));
        assert!(world.netdev(daemon, "bl0").is_none());
        assert!(!world.directory(daemon).join("control.sock").exists());
        let (other, told) = match daemon {
            "master" => ("board0", "waiting for master"),
            _ => ("master", "waiting for board"),
        };
        world.wait_state(other, "bl0", LinkState::Waiting, told);
        world.start(daemon);
        world.wait_up(0);
    }
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_daemon_whose_broker_hangs_in_a_reload_can_be_stopped() {
    // Links that wait for a backplane ask for their slots, too.
    let mut world = World::new(3, |_, _| String::new());
    world.start("master");
    world.wait_state("master", "bl0", LinkState::Waiting, "");
    let broker = broker(&world, "master").expect("a broker");
    kill_process(broker, Signal::STOP).unwrap();
    world.signal("master", Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    world.signal("master", Signal::TERM);
    let since = Instant::now();
    // One that has ended and was not waited for has an empty command line.
    let line = format!("/proc/{}/cmdline", world.pid("master"));
    while !fs::read(&line).unwrap_or_default().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(15), "it has not ended");
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("it has ended after {:?}", since.elapsed());
    assert!(world.wait_end("master").success());
}

pub(crate) fn a_broker_ends_with_its_daemon_and_not_by_a_signal_meant_for_it() {
    let mut world = World::running(1, |_, _| String::new());
    let gone = |broker: Pid| {
        wait("the broker has ended", || {
            // One that nobody has waited for yet has an empty command line.
            let line = fs::read(format!("/proc/{}/cmdline", broker.as_raw_pid()));
            check(line.unwrap_or_default().is_empty(), broker)
        });
    };
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(broker(&world, "board0").unwrap(), signal).unwrap();
    }
    let index = world.netdev("board0", "bl0").unwrap()["ifindex"].clone();
    for _ in 0..3 {
        let broker = broker(&world, "board0").expect("a broker");
        world.kill("board0");
        world.start("board0");
        gone(broker);
        world.wait_ping("traffic back", "master", "10.77.0.2");
        assert_eq!(world.netdev("board0", "bl0").unwrap()["ifindex"], index, "adopted");
    }
    let broker = broker(&world, "board0").expect("a broker");
    assert!(world.stop("board0").success());
    gone(broker);
    let left: Vec<_> = fs::read_dir(world.directory("board0")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

pub(crate) fn each_part_of_it_can_be_left_out_by_name() {
    let mut world = World::running(1, |_, _| String::new());
    for off in ["caps", "seccomp", "landlock", "broker", "caps,seccomp,landlock,broker"] {
        let names: Vec<_> = off.split(',').collect();
        let is_off = |name| names.contains(&name);
        for daemon in ["master", "backplane"] {
            let of_backplane = off.trim_end_matches(",broker");
            let off = if daemon == "backplane" { of_backplane } else { off };
            if off == "broker" && daemon == "backplane" {
                continue;
            }
            let mut words = world.command(daemon);
            words.extend(["--no-confine".to_owned(), off.to_owned()]);
            assert!(world.stop(daemon).success());
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            world.start_words(daemon, daemon, &words);
            world.wait_up(0);
            let bare = is_off("broker") && daemon == "master";
            let wanted =
                (!bare && !is_off("seccomp"), bare || is_off("caps"), !bare && names.len() < 3);
            // It is confined a moment after its predecessor's link was last seen to be up.
            let all = wait(&format!("{daemon} confined without {off}"), || {
                let all = threads(world.pid(daemon));
                let main = &all[0];
                let found = (main.filtered, main.permitted & SYS_ADMIN != 0, main.no_new_privs);
                check(found == wanted, &all).map(|()| all)
            });
            if daemon == "master" {
                let worker = worker(&all, "bl0");
                assert_eq!(worker.filtered, !is_off("seccomp"), "{off}: {worker:?}");
                assert_eq!(worker.permitted == 0, !is_off("caps"), "{off}: {worker:?}");
                assert_eq!(broker(&world, daemon).is_none(), is_off("broker"), "{off}");
            }
        }
        // The link may just be moving to the new backplane.
        world.wait_ping("traffic", "board0", "10.77.0.1");
    }
    let words = world.command("backplane");
    let mut words: Vec<_> = words.iter().map(String::as_str).collect();
    words.extend(["--no-confine", "everything"]);
    assert_eq!(world.run("master", &words).status.code(), Some(2));
}

pub(crate) fn daemons_of_a_user_without_rights_are_confined_too() {
    let port = |machine: &str, _| match machine {
        "master" => "port = \"discard\"".to_owned(),
        _ => "port = \"echo\"".to_owned(),
    };
    let mut world = World::new(1, port);
    let directories = ["master", "board0"].map(|machine| world.directory(machine));
    let slots = world.slot(0).parent().unwrap().to_owned();
    fs::create_dir(&slots).unwrap();
    for directory in directories.iter().chain([&slots]) {
        std::os::unix::fs::chown(directory, Some(65534), Some(65534)).unwrap();
    }
    for daemon in ["backplane", "board0", "master"] {
        world.start_as(daemon, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    for (machine, name) in [("master", "bl0"), ("board0", "bl0")] {
        world.wait_state(machine, name, LinkState::Up, "");
    }
    for daemon in ["backplane", "board0", "master"] {
        let pids = [world.pid(daemon)].into_iter().chain(broker(&world, daemon).map(number));
        for thread in pids.flat_map(threads) {
            assert_eq!((thread.permitted, thread.inheritable), (0, 0), "{thread:?}");
            assert!(thread.no_new_privs && thread.filtered, "{thread:?}");
        }
        assert!(!world.log(daemon).contains("confined without"), "{}", world.log(daemon));
        assert!(world.stop(daemon).success());
    }
}
