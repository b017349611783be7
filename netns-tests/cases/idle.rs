//! What daemons cost whose links have nothing to do, and where their workers run.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use boardlane::daemon::config::HEARTBEAT_MS;
use boardlane::daemon::status::{CpuStatus, LinkState};

use super::reload::reload;
use crate::world::{World, check, wait};

/// Of one thread.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    /// How often it has gone to sleep.
    sleeps: u64,
    /// How long it has run, in nanoseconds.
    ran: u64,
    /// Where it may run.
    cpus: String,
}

/// A process's threads, by their ids.
fn threads(pid: u32) -> BTreeMap<String, Thread> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let read = |file| fs::read_to_string(entry.path().join(file));
        // One that has ended meanwhile has none.
        let (Ok(status), Ok(ran)) = (read("status"), read("schedstat")) else { continue };
        let lines: BTreeMap<_, _> =
            status.lines().filter_map(|line| line.split_once(":\t")).collect();
        let thread = Thread {
            name: lines["Name"].to_owned(),
            sleeps: lines["voluntary_ctxt_switches"].parse().unwrap(),
            ran: ran.split(' ').next().unwrap().parse().unwrap(),
            cpus: lines["Cpus_allowed_list"].to_owned(),
        };
        threads.insert(entry.file_name().to_string_lossy().into_owned(), thread);
    }
    threads
}

/// Waits until no thread of a daemon has slept more than a few times a heartbeat for a while, or run for
/// a twentieth of it. There is a second try and a third, as kernels send something now and then.
fn wait_calm(world: &World, daemon: &str, what: &str) {
    const WINDOW: Duration = Duration::from_millis(1000);
    let most = 8 * WINDOW.as_millis() / u128::from(HEARTBEAT_MS);
    let mut busy = Vec::new();
    for _ in 0..3 {
        let before = threads(world.pid(daemon));
        thread::sleep(WINDOW);
        let after = threads(world.pid(daemon));
        let spent = before.iter().filter_map(|(id, was)| {
            let now = after.get(id)?;
            Some((now.name.clone(), now.sleeps - was.sleeps, now.ran - was.ran))
        });
        let spent: Vec<_> = spent.collect();
        eprintln!("{what}, {daemon}: {spent:?}");
        busy = spent;
        busy.retain(|(_, sleeps, ran)| {
            u128::from(*sleeps) > most || u128::from(*ran) > WINDOW.as_nanos() / 20
        });
        if busy.is_empty() {
            return;
        }
    }
    panic!("{what}, {daemon} is busy: {busy:?}");
}

pub(crate) fn daemons_sleep_from_heartbeat_to_heartbeat_and_after_a_burst_again() {
    let world = World::running(1, |_, _| String::new());
    for daemon in ["master", "board0", "backplane"] {
        wait_calm(&world, daemon, "after the start");
    }
    world.transfer("master", "board0", "10.77.0.2", 8 << 20);
    world.transfer("board0", "master", "10.77.0.1", 8 << 20);
    for daemon in ["master", "board0"] {
        wait_calm(&world, daemon, "after a burst");
    }
}

/// A CPU that this process may run on.
fn allowed() -> u32 {
    let threads = threads(std::process::id());
    let cpus = &threads.values().next().unwrap().cpus;
    cpus.split([',', '-']).next().unwrap().parse().unwrap()
}

/// Where a daemon's workers may run, in order.
fn cpus_of_workers(world: &World, daemon: &str, link: &str) -> Vec<String> {
    let workers = threads(world.pid(daemon)).into_values().filter(|thread| thread.name == link);
    let mut cpus: Vec<_> = workers.map(|worker| worker.cpus).collect();
    cpus.sort();
    cpus
}

pub(crate) fn workers_run_on_the_cpus_of_their_config_and_anywhere_without_them() {
    /// Where there is none.
    const NOWHERE: u32 = 1023;
    let here = allowed();
    let keys = |cpus: &str| format!("queues = 2\ncpu = {cpus}");
    let of = |machine: &str, _| match machine {
        "master" => keys(&format!("[{here}, {NOWHERE}]")),
        _ => keys(&here.to_string()),
    };
    let world = World::running(1, of);
    let anywhere = threads(std::process::id()).into_values().next().unwrap().cpus;
    let both = |cpus: [&str; 2]| {
        let mut cpus = cpus.map(str::to_owned);
        cpus.sort();
        cpus
    };
    let bound = here.to_string();
    wait("workers are where they are to be", || {
        let seen = ["master", "board0"].map(|machine| cpus_of_workers(&world, machine, "bl0"));
        check(seen[0] == both([&bound, &anywhere]) && seen[1] == both([&bound, &bound]), seen)
    });
    let link = world.link_status("master", "bl0").unwrap();
    let reason = "it is not there, or not for this process".to_owned();
    let refused = CpuStatus { number: NOWHERE, reason: Some(reason) };
    let cpus: Vec<_> = link.queues.into_iter().map(|queue| queue.cpu.unwrap()).collect();
    assert_eq!((link.state, &cpus[0].reason, &cpus[1]), (LinkState::Up, &None, &refused));
    let said = format!("bl0: a worker is not bound to CPU {NOWHERE}: it is not there");
    assert!(world.log("master").contains(&said), "{}", world.log("master"));
    world.ping_well("master", "10.77.0.2");

    let done = reload(&world, "master", &world.link("bl0", 0, 1, "queues = 2"));
    assert_eq!(done, "restarted bl0; 0 unchanged");
    world.wait_up(0);
    wait("they are bound no more", || {
        let seen = cpus_of_workers(&world, "master", "bl0");
        check(seen == both([&anywhere, &anywhere]), seen)
    });
}
