//! A master that is no boardlane: its driver is one of a stock kernel, driven by hand against the
//! board's daemon and its netdev.

pub(crate) mod filters;
pub(crate) mod misuse;
pub(crate) mod notices;
pub(crate) mod offloads;
pub(crate) mod queues;

use boardlane::daemon::status::{LinkState, LinkStatus, QueueStatus};
use boardlane::net::features::Features;
use boardlane::spec::virtio;

use crate::stock::frames::{BROADCAST, Wire, number_of, numbered};
use crate::stock::rings::{LINUX, Shape, format};
use crate::stock::{Driver, PACKED, SPLIT, Spot, Stock};
use crate::world::{World, check, wait};

/// A board whose config has these keys, and a backplane; nobody plays the master yet.
pub(super) fn board(keys: &'static str) -> World {
    let mut world = World::new(1, move |_, _| keys.to_owned());
    world.start("backplane");
    world.start("board0");
    world
}

/// A driver of these features on the board, with so many pairs, once its netdev is operational.
pub(super) fn drive(world: &World, features: Features, pairs: u16, shape: Shape) -> Driver {
    let driver = Stock::in_slot(&world.slot(0)).drive(features, pairs, shape);
    wait("the board's netdev is operational", || {
        check(world.is_operational("board0", "bl0"), "it is not")
    });
    driver
}

/// Tells the board's kernel where the driver's IP address is.
pub(super) fn neighbour(world: &World, driver: &mut Driver) {
    let mac: Vec<_> = driver.stock.config().mac.iter().map(|o| format!("{o:02x}")).collect();
    world.ip("board0", &format!("neigh replace 10.77.0.1 lladdr {} dev bl0", mac.join(":")));
}

/// What the board's daemon says of a queue pair.
fn pair(world: &World, pair: usize) -> QueueStatus {
    world.link_status("board0", "bl0").unwrap().queues[pair].clone()
}

/// How many frames a direction has dropped for this reason.
fn dropped(drops: &std::collections::BTreeMap<String, u64>, reason: &str) -> u64 {
    drops.get(reason).copied().unwrap_or(0)
}

/// The link as the board's daemon sees it, which has lived on.
fn alive(world: &World, pid: u32) -> LinkStatus {
    assert_eq!(world.status("board0").unwrap().pid, pid, "the daemon lives");
    assert!(!world.log("board0").contains("panicked"), "{}", world.log("board0"));
    world.link_status("board0", "bl0").unwrap()
}

/// The feature sets and placements that a driver may come with.
fn kinds() -> impl Iterator<Item = (Features, Shape)> {
    let no_events = Features::of(&[virtio::F_EVENT_IDX]);
    let no_tables = Features::of(&[virtio::F_INDIRECT_DESC]);
    let pages = Shape { buffer: 4096, tables: Spot::Window, ..LINUX };
    let in_window = Shape { rings: Spot::Window, ..pages };
    [
        (SPLIT, LINUX),
        (PACKED, pages),
        (SPLIT.minus(no_events), in_window),
        (PACKED.minus(no_events).minus(no_tables), LINUX),
    ]
    .into_iter()
    .inspect(|(features, shape)| eprintln!("{} rings, {shape:?}:", format(*features)))
}

/// Sends a frame to each of these addresses behind these tags, then a broadcast that passes any
/// filter: which of them have come by then.
fn pass(driver: &mut Driver, wire: &Wire, frames: &[([u8; 6], Vec<u8>)]) -> Vec<bool> {
    let receiver = &mut driver.pairs[0].0;
    receiver.take_all();
    let last = u32::try_from(frames.len()).unwrap();
    for (number, (to, tag)) in (0..).zip(frames) {
        wire.send(&numbered(*to, tag, number, 64 + 700 * number as usize % 1400));
    }
    wire.send(&numbered(BROADCAST, &[], last, 64));
    let mut came = vec![false; frames.len()];
    receiver.wait_for("the last frame", |frame| {
        let tagged =
            frames.iter().any(|(_, tag)| !tag.is_empty() && frame.data[12..].starts_with(tag));
        match number_of(&frame.data, if tagged { 4 } else { 0 }) {
            Some(number) if number < last => {
                let seen = std::mem::replace(&mut came[number as usize], true);
                assert!(!seen, "frame {number} came twice");
                false
            }
            number => number == Some(last),
        }
    });
    came
}

/// Frames both ways through every pair, whole.
pub(super) fn carries(world: &World, driver: &mut Driver) {
    let wire = Wire::new(world, "board0", "bl0");
    assert_eq!(pass(driver, &wire, &[([2, 0, 0, 0, 0, 1], vec![])]), [true]);
    for (i, (_, sender)) in (1000..).zip(&mut driver.pairs[..driver.used]) {
        sender.send(Default::default(), &numbered(BROADCAST, &[], i, 800));
        wait("a frame at the board", || {
            let frame = wire.take().ok_or("nothing")?;
            check(number_of(&frame, 0) == Some(i), "others")
        });
    }
    let link = world.link_status("board0", "bl0").unwrap();
    assert_eq!(link.state, LinkState::Up);
}
