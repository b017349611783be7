//! Frames of every kind, over links with every set of features that lacks one at most.
//!
//! A cell is a link: split or packed queues, copies by system calls or by engine, a number of queue
//! pairs, and a feature that one of its ends does without. Every cell is a case. A run without a filter
//! takes the cells that lack nothing, a tenth of the others that is always the same, and as many that a
//! seed chooses; a filter that begins with `matrix::` chooses from all.
//!
//! `BOARDLANE_CHECK_SEED` is the seed, of the choice and of the frames; `BOARDLANE_CHECK_FRAMES` is how
//! many frames are sent, half of them each way (100,000).

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use boardlane::net::features::Features;
use boardlane::os::tap::Tap;

use crate::checker::ledger::Allowed;
use crate::checker::{self, End, Plan, Report};
use crate::world::World;

/// The environment variable of the seed.
pub(crate) const SEED: &str = "BOARDLANE_CHECK_SEED";
const FRAMES: &str = "BOARDLANE_CHECK_FRAMES";
/// What the names of cells begin with.
pub(crate) const PREFIX: &str = "matrix::";
const MTU: u16 = 65_521;
/// The machines of the two ends.
const ENDS: [&str; 2] = ["master", "board0"];
/// A link without these does not come up.
const NEEDED: [&str; 1] = ["VERSION_1"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    packed: bool,
    engine: bool,
    queues: u16,
    /// A feature, and the end that does without it.
    off: Option<(&'static str, &'static str)>,
}

impl Cell {
    fn name(&self) -> String {
        let ring = if self.packed { "packed" } else { "split" };
        let dma = if self.engine { "engine" } else { "direct" };
        let link = format!("{ring}_{dma}_{}", self.queues);
        match self.off {
            Some((feature, end)) => format!("{PREFIX}{link}_without_{feature}_at_{end}"),
            None => format!("{PREFIX}complete_{link}"),
        }
    }

    fn off(&self) -> Vec<&'static str> {
        let ring = (!self.packed).then_some("RING_PACKED");
        ring.into_iter().chain(self.off.map(|(feature, _)| feature)).collect()
    }

    /// What the link's status must show.
    fn features(&self) -> BTreeSet<&'static str> {
        Features::OFFER.without(Features::from_names(self.off()).unwrap()).names().collect()
    }

    /// The lines of one end's link.
    fn keys(&self, machine: &str) -> String {
        let end = if machine == "master" { "master" } else { "board" };
        let mine = self.off.filter(|(_, at)| *at == end).map(|(feature, _)| feature);
        let ring = (!self.packed && end == "board").then_some("RING_PACKED");
        let off: Vec<_> = ring.into_iter().chain(mine).collect();
        let dma = match end {
            "board" if self.engine => "dma = \"engine\"",
            "board" => "dma = \"direct\"",
            _ => "",
        };
        format!(
            "address = []\nmtu = {MTU}\nqueues = {}\nfeatures_off = {off:?}\n{dma}\n",
            self.queues
        )
    }
}

/// Every cell; those that lack nothing come first.
fn all() -> Vec<Cell> {
    let needed = Features::from_names(NEEDED).unwrap();
    let features: Vec<_> = Features::OFFER.minus(needed).names().collect();
    let ends = features.iter().flat_map(|&name| [Some((name, "board")), Some((name, "master"))]);
    let mut cells = Vec::new();
    for off in [None].into_iter().chain(ends) {
        for (packed, engine) in [(true, false), (true, true), (false, false), (false, true)] {
            let split_twice = !packed && off.is_some_and(|(feature, _)| feature == "RING_PACKED");
            let never_packed = packed && off.is_some_and(|(feature, _)| feature == "RING_PACKED");
            if split_twice || never_packed {
                continue;
            }
            cells.extend([1].map(|queues| Cell { packed, engine, queues, off }));
        }
    }
    cells
}

/// The names of the cells that are to be run.
pub(crate) fn chosen(filter: Option<&str>, seed: u64) -> Vec<String> {
    let cells = all();
    if filter.is_some_and(|filter| filter.starts_with(PREFIX)) {
        return cells.iter().map(Cell::name).collect();
    }
    let (complete, lacking): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.off.is_none());
    // Down the diagonals, so that each feature and each kind of link has its turn.
    let (fixed, rest): (Vec<_>, Vec<_>) =
        lacking.iter().enumerate().partition(|(i, _)| i % 10 == i / 10 % 10);
    let mut rest: Vec<_> = rest.into_iter().map(|(_, cell)| cell).collect();
    let mut dice = checker::maker::Dice::of(&[seed, 0xce11]);
    let by_seed: Vec<_> = fixed.iter().map(|_| rest.swap_remove(dice.below(rest.len()))).collect();
    let fixed = fixed.into_iter().map(|(_, cell)| cell);
    complete
        .into_iter()
        .chain(fixed.copied())
        .chain(by_seed.into_iter().copied())
        .map(Cell::name)
        .collect()
}

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
    let cell = all().into_iter().find(|cell| cell.name() == name);
    let cell = cell.unwrap_or_else(|| panic!("there is no case {name}"));
    let world = World::running(1, |machine, _| cell.keys(machine));
    for machine in ENDS {
        let status = world.link_status(machine, "bl0").unwrap();
        let features: BTreeSet<_> = status.features.iter().map(String::as_str).collect();
        assert_eq!(features, cell.features(), "{machine}");
    }
    let allowed = allowed(&cell.features());
    let reports = check(&world, frames(), allowed);
    for ((report, allowed), machine) in reports.iter().zip(allowed).zip(ENDS) {
        judge(&world, machine, report, allowed);
    }
}

/// What is lost with an engine that fails now and then is what it spoilt, as it counts it.
pub(super) fn the_checker_misses_the_frames_that_an_engine_spoils_and_no_other() {
    let engine = "dma = \"engine\"\nengine = { error_ppm = 1000, cpu_below = 0 }";
    let world = World::running(1, |machine, _| {
        let engine = if machine == "master" { "" } else { engine };
        format!("address = []\nmtu = {MTU}\n{engine}")
    });
    let names: BTreeSet<_> = Features::OFFER.names().collect();
    let [there, back] = check(&world, 20_000, allowed(&names));
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
fn check(world: &World, frames: u64, allowed: [Allowed; 2]) -> [Report; 2] {
    let uso = kernel_segments_udp(world);
    let plan = Plan { seed: seed(), frames: frames / 2, mtu: MTU, uso };
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
    assert_eq!(queue_dropped, 0, "nothing is lost, but {from}'s netdev dropped");
    let [tso4, tso6, uso] = came.whole.map(|n| n > 0);
    let used = (came.partial > 0, tso4, tso6, uso);
    let Allowed { csum, tso4, tso6, uso4, .. } = allowed;
    assert_eq!(used, (csum, tso4, tso6, uso4), "what was negotiated is what is used");
}
