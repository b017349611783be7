//! Boards that flood their master, and peers that come and go without end: other links, memory, log and
//! an orderly end are as without them.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::os::log::MOST;
use rustix::fs::{OFlags, fcntl_setfl};

use crate::board::{Board, Flood, Flooder};
use crate::cases::hostile::Intruder;
use crate::world::{World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// Memory that a daemon has to itself, in KiB. What its threads use and the allocator keeps varies a
/// little; what grows under a flood does so without end.
fn memory(world: &World, daemon: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", world.pid(daemon))).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
const TOLERANCE: u64 = 2048;

fn descriptors(world: &World, daemon: &str) -> usize {
    fs::read_dir(format!("/proc/{}/fd", world.pid(daemon))).unwrap().count()
}

/// A master and a backplane with an honest board in slot 1.
fn beside_an_honest_board() -> World {
    let mut world = World::new(2, plain);
    for daemon in ["backplane", "master", "board1"] {
        world.start(daemon);
    }
    world.wait_up(1);
    world
}

pub(crate) fn a_flood_of_any_kind_takes_no_memory_and_no_frame_of_another_link() {
    let mut world = beside_an_honest_board();
    let flooder = Flooder::in_slot(&world.slot(0));
    wait("the flooding board is up", || check(flooder.is_up(), "it is not"));
    world.wait_state("master", "bl0", LinkState::Up, "");
    let other = world.steady_ping("master", "10.77.1.2");
    // What floods need for good they have after the first of each.
    let mut before = None;
    for round in 0..2 {
        for kind in [Flood::Frames, Flood::Messages, Flood::Doorbells, Flood::All] {
            flooder.set(kind);
            thread::sleep(Duration::from_millis([500, 3000][round]));
            assert!(flooder.is_up(), "{kind:?}: {}", world.log("master"));
        }
        flooder.set(Flood::Nothing);
        let now = ["master", "backplane", "board1"].map(|daemon| memory(&world, daemon));
        eprintln!("{:?} frames, messages, rings; RssAnon {now:?} KiB", flooder.done());
        for (before, now) in before.unwrap_or(now).into_iter().zip(now) {
            assert!(now <= before + TOLERANCE, "memory grew from {before} to {now} KiB");
        }
        before = Some(now);
    }
    assert!(flooder.done().iter().all(|n| *n > 1000), "no flood: {:?}", flooder.done());
    other.finish_without_loss();
    let lines = world.log("master").lines().count();
    assert!(lines < 100, "{lines} lines:\n{}", world.log("master"));
    drop(flooder);
    world.start("board0");
    world.wait_up(0);
    world.wait_ping("traffic of a good agent", "master", "10.77.0.2");
}

pub(crate) fn a_board_that_comes_and_goes_without_end_fills_neither_log_nor_memory() {
    const TIME: Duration = Duration::from_secs(12);
    let mut world = beside_an_honest_board();
    let before = ["master", "backplane"].map(|daemon| memory(&world, daemon));
    let open = ["master", "backplane"].map(|daemon| descriptors(&world, daemon));
    let stop = Arc::new(AtomicBool::new(false));
    // One that begins a session as often as it can, and one that joins and leaves the slot.
    let sessions = thread::spawn({
        let (path, stop) = (world.slot(0), stop.clone());
        move || {
            let (mut board, mut count) = (Board::in_slot(&path), 0);
            while !stop.load(Ordering::Relaxed) {
                let until = Instant::now() + Duration::from_millis(60);
                while !board.is_up() && Instant::now() < until {
                    board.turn();
                }
                count += 1;
                board.begin();
            }
            count
        }
    });
    let joins = thread::spawn({
        let (path, stop) = (world.slot(0), stop.clone());
        move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += u32::from(std::os::unix::net::UnixStream::connect(&path).is_ok());
                thread::sleep(Duration::from_micros(200));
            }
            count
        }
    });
    let since = Instant::now();
    thread::sleep(TIME / 2);
    // What there is to say of another link is said.
    world.kill("board1");
    wait("the master says that board 1 is gone", || {
        let log = world.log("master");
        check(log.contains("bl1: down: board is gone"), log)
    });
    world.start("board1");
    world.wait_up(1);
    thread::sleep(TIME.saturating_sub(since.elapsed()));
    stop.store(true, Ordering::Relaxed);
    let (sessions, joins) = (sessions.join().unwrap(), joins.join().unwrap());
    eprintln!("{sessions} sessions were begun, {joins} connections made");
    assert!(sessions > 50 && joins > 1000, "no flood");
    // An interval ends by then.
    let intervals = usize::try_from(since.elapsed().as_secs() / 10 + 2).unwrap();
    for daemon in ["master", "backplane"] {
        let lines = world.log(daemon).lines().count();
        eprintln!("{daemon} said {lines} lines");
        // Two levels of the flooded link or slot, and what the honest one has to say.
        let most = intervals * 2 * (usize::try_from(MOST).unwrap() + 1) + 40;
        assert!(
            lines <= most,
            "{daemon}: {lines} lines, {most} are enough:\n{}",
            world.log(daemon)
        );
    }
    wait("the backplane says how many it has left out", || {
        let log = world.log("backplane");
        check(log.contains("slot 0: ") && log.contains("more lines were left out"), log)
    });
    wait("no more descriptors than before", || {
        let now = ["master", "backplane"].map(|daemon| descriptors(&world, daemon));
        check(now[0] <= open[0] && now[1] <= open[1], (open, now))
    });
    let now = ["master", "backplane"].map(|daemon| memory(&world, daemon));
    eprintln!("RssAnon {before:?} KiB, then {now:?}");
    for (before, now) in before.into_iter().zip(now) {
        assert!(now <= before + TOLERANCE, "memory grew from {before} to {now} KiB");
    }
    world.start("board0");
    world.wait_up(0);
}

/// Keeps doorbells full, and whoever rings one blocked in doing so.
fn hold(bells: Vec<Arc<OwnedFd>>, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for bell in &bells {
                fcntl_setfl(bell, OFlags::NONBLOCK).unwrap();
                for step in [u64::MAX - 1, 1 << 62, 1 << 32, 1] {
                    let _ = rustix::io::write(bell, &step.to_ne_bytes());
                }
                fcntl_setfl(bell, OFlags::empty()).unwrap();
            }
            thread::yield_now();
        }
    })
}

pub(crate) fn a_board_that_holds_whoever_rings_it_keeps_no_link_and_no_daemon_from_ending() {
    let mut world = beside_an_honest_board();
    let mut board = Board::in_slot(&world.slot(0));
    wait("the board is up", || {
        board.turn();
        check(board.is_up(), "it is not")
    });
    let other = world.steady_ping("master", "10.77.1.2");
    let stop = Arc::new(AtomicBool::new(false));
    let holder = hold(board.doorbells(), stop.clone());
    let since = Instant::now();
    // The master's kernel has something to say to each link now and then; this makes it say more.
    while since.elapsed() < Duration::from_secs(3) {
        board.turn();
        let _ = board.flood(Flood::Messages);
        world.ping(
            "master",
            "10.77.0.2",
            boardlane::daemon::traffic::Ping {
                count: 1,
                timeout: Duration::from_millis(1),
                ..Default::default()
            },
        );
    }
    other.finish_without_loss();
    let since = Instant::now();
    assert!(world.stop("master").success(), "{}", world.log("master"));
    eprintln!("the master has ended after {:?}", since.elapsed());
    assert!(world.netdev("master", "bl0").is_none() && world.netdev("master", "bl1").is_none());
    stop.store(true, Ordering::Relaxed);
    holder.join().unwrap();
    drop(board);
    world.start("master");
    world.start("board0");
    for slot in 0..2 {
        world.wait_up(slot);
    }
}

pub(crate) fn an_agent_is_not_held_by_another_client_of_its_slot() {
    let mut world = World::running(1, plain);
    let intruder = Intruder::in_slot(&world.slot(0));
    let bells = wait("the intruder has the doorbells", || {
        let bells: Vec<_> =
            intruder.shm.peers().values().flat_map(|peer| peer.vectors.clone()).collect();
        check(bells.len() > 1, bells.len()).map(|()| bells)
    });
    let stop = Arc::new(AtomicBool::new(false));
    let holder = hold(bells, stop.clone());
    for _ in 0..20 {
        world.ping(
            "master",
            "10.77.0.2",
            boardlane::daemon::traffic::Ping {
                count: 1,
                timeout: Duration::from_millis(50),
                ..Default::default()
            },
        );
    }
    for daemon in ["board0", "master"] {
        let since = Instant::now();
        assert!(world.stop(daemon).success(), "{}", world.log(daemon));
        eprintln!("{daemon} has ended after {:?}", since.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    holder.join().unwrap();
}
