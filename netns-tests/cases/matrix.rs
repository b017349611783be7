//! Frames of every kind, over links with every set of features that lacks one at most.
//!
//! A cell is a link: split or packed queues, copies by system calls or by engine, a number of queue
//! pairs, and a feature that one of its ends does without. Every cell is a case. A run without a filter
//! takes the cells that lack nothing, a tenth of the others that is always the same, and as many that a
//! seed chooses; a filter that begins with `matrix::` chooses from all.
//!
//! `BOARDLANE_CHECK_SEED` is the seed, of the choice and of the frames; `BOARDLANE_CHECK_FRAMES` is how
//! many frames are sent, half of them each way (100,000).

mod cells;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use boardlane::net::features::Features;
use boardlane::os::tap::Tap;

pub(crate) use cells::chosen;

use crate::checker::ledger::Allowed;
use crate::checker::{self, End, Plan, Report};
use crate::world::{World, check as test, wait};

/// The environment variable of the seed.
pub(crate) const SEED: &str = "BOARDLANE_CHECK_SEED";
const FRAMES: &str = "BOARDLANE_CHECK_FRAMES";
/// What the names of cells begin with.
pub(crate) const PREFIX: &str = "matrix::";
const MTU: u16 = 65_521;
/// The machines of the two ends.
const ENDS: [&str; 2] = ["master", "board0"];

/// The seed that is given, or one of the time.
pub(crate) fn seed() -> u64 {
    let given = std::env::var(SEED).ok();
    given.map_or_else(
        || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()),
        |text| text.parse().unwrap_or_else(|e| panic!("{SEED}={text}: {e}")),
    )
}

/// Runs the cell of this name.
pub(crate) fn run(name: &str) {
    let cell = cells::all().into_iter().find(|cell| cell.name() == name);
    let cell = cell.unwrap_or_else(|| panic!("there is no case {name}"));
    let world = World::running(1, |machine, _| cell.keys(machine));
    for machine in ENDS {
        let status = world.link_status(machine, "bl0").unwrap();
        let features: BTreeSet<_> = status.features.iter().map(String::as_str).collect();
        assert_eq!(features, cell.features(), "{machine}");
    }
    // A TAP that gets another queue deals its flows anew, and frames under way lose their order.
    wait("all queue pairs are used", || {
        let pairs = ENDS.map(|machine| world.link_status(machine, "bl0").unwrap().queues.len());
        test(pairs == [cell.pairs(); 2], pairs)
    });
    let allowed = allowed(&cell.features());
    let reports = check(&world, frames(), cell.pairs() > 1, allowed);
    for ((report, allowed), machine) in reports.iter().zip(allowed).zip(ENDS) {
        judge(&world, machine, report, allowed);
        let status = world.link_status(machine, "bl0").unwrap();
        let frames: Vec<_> = status.queues.iter().map(|queue| queue.tx.frames).collect();
        eprintln!("  by its queue pairs: {frames:?}");
        assert!(frames.iter().all(|frames| *frames > 0), "a queue pair that is not used");
    }
}

/// What is lost with an engine that fails now and then is what it spoilt, as it counts it.
pub(super) fn the_checker_misses_the_frames_that_an_engine_spoils_and_no_other() {
    let engine = "dma = \"engine\"\nengine = { error_ppm = 10_000, cpu_below = 0 }";
    let world = World::running(1, |machine, _| {
        let engine = if machine == "master" { "" } else { engine };
        format!("address = []\nmtu = {MTU}\n{engine}")
    });
    let names: BTreeSet<_> = Features::OFFER.names().collect();
    let [there, back] = check(&world, 20_000, false, allowed(&names));
    let queue = &world.link_status("board0", "bl0").unwrap().queues[0];
    for (report, drops) in [(there, &queue.rx.drops), (back, &queue.tx.drops)] {
        let spoilt = drops.get("dma_error").copied().unwrap_or(0);
        let Report { faults, .. } = report;
        eprintln!("{spoilt} frames spoilt, {} lost when finished", faults.lost);
        // One of them may be several segments.
        assert!(0 < spoilt && spoilt <= faults.lost && faults.lost <= spoilt * 128, "{faults:?}");
        assert_eq!(faults.count(), faults.lost, "{faults:?}");
    }
}

/// How many frames a cell sends.
pub(crate) fn frames() -> u64 {
    let given = std::env::var(FRAMES);
    given.map_or(100_000, |text| text.parse().unwrap_or_else(|e| panic!("{FRAMES}={text}: {e}")))
}

/// Sends so many frames, half of them each way.
fn check(world: &World, frames: u64, queues: bool, allowed: [Allowed; 2]) -> [Report; 2] {
    let uso = kernel_segments_udp(world);
    let plan = Plan { seed: seed(), frames: frames / 2, mtu: MTU, uso, queues };
    let ends = ENDS.map(|machine| world.inside(machine, || End::on("bl0")).unwrap());
    checker::check(ends, allowed, &plan).unwrap()
}

/// Whether a packet socket takes frames that are UDP to be segmented: since the version that has TAPs
/// hand them out.
fn kernel_segments_udp(world: &World) -> bool {
    let probe = || Tap::create("probe", false)?.probe_offload();
    world.inside("master", probe).unwrap().uso
}

/// What frames to the board may leave over, and what frames to the master.
fn allowed(features: &BTreeSet<&str>) -> [Allowed; 2] {
    let has = |name| features.contains(name);
    let to_board = Allowed {
        csum: has("CSUM"),
        tso4: has("HOST_TSO4"),
        tso6: has("HOST_TSO6"),
        ecn: has("HOST_ECN"),
        uso4: has("HOST_USO"),
        uso6: has("HOST_USO"),
    };
    let to_master = Allowed {
        csum: has("GUEST_CSUM"),
        tso4: has("GUEST_TSO4"),
        tso6: has("GUEST_TSO6"),
        ecn: has("GUEST_ECN"),
        uso4: has("GUEST_USO4"),
        uso6: has("GUEST_USO6"),
    };
    [to_board, to_master]
}

fn judge(world: &World, from: &str, report: &Report, allowed: Allowed) {
    let Report { frames, came, faults, foreign, socket_dropped, time } = report;
    let netdev = world.netdev(from, "bl0").unwrap();
    let queue_dropped = netdev["stats64"]["tx"]["dropped"].as_u64().unwrap();
    let rate = *frames as f64 / time.max(&Duration::from_millis(1)).as_secs_f64();
    eprintln!(
        "from {from}: {frames} frames, {} on the wire with {} bytes, in {:.2} s, {rate:.0} a second; \
         partial {}, unsegmented {:?}; of others {foreign}; its queue dropped {queue_dropped}",
        came.finished,
        came.bytes,
        time.as_secs_f64(),
        came.partial,
        came.whole,
    );
    assert_eq!(*socket_dropped, 0, "the cell is invalid: the receiving socket had no room");
    assert!(
        faults.count() == 0,
        "from {from}: lost {}, repeated {}, swapped {}, altered {}, not negotiated {}:\n{}",
        faults.lost,
        faults.repeated,
        faults.swapped,
        faults.altered,
        faults.not_allowed,
        faults.told.join("\n"),
    );
    let [tso4, tso6, uso] = came.whole.map(|n| n > 0);
    let used = (came.partial > 0, tso4, tso6, uso);
    let Allowed { csum, tso4, tso6, uso4, .. } = allowed;
    assert_eq!(used, (csum, tso4, tso6, uso4), "what was negotiated is what is used");
}
