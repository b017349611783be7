//! Where our own driver puts its queues and buffers.
//!
//! What an end's CPU reads lies near it, so that across the bus there are only writes: descriptor
//! tables, available rings and frames to be sent in the window, near the device; used rings and
//! receive buffers in driver memory, near the driver. The ring of a packed queue is read by both ends
//! and stands in the window, as its buffers' descriptors are read by the device; each event
//! suppression lies near its reader. Every area begins on a line of its own.

use std::ops::Range;

use super::control_driver::COMMAND_LEN;
use super::driver_path::{Buffers, MIN_ARENA, RECEIVE_BUFFER};
use super::features::Features;
use crate::spec::{packed, split, virtio, window};
use crate::virtqueue::QueueConfig;

/// Most entries of our queues: more in flight has not been found to help.
const MOST_ENTRIES: u16 = 256;
/// Most receive buffers: each costs a page or more of memory once it has been used, and few stay in a cache.
/// One TCP stream to the master, against a plain bridge: 128 of them 0.90, 64 1.04, 32 1.03, 16 0.82.
const MOST_BUFFERS: u64 = 64;
/// Most memory for frames to be sent: 31 of the largest, and few enough to stay in a cache.
const MOST_ARENA: u64 = 32 * RECEIVE_BUFFER as u64;

/// Queues and buffers of one pair.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The receiveq.
    pub receiveq: QueueConfig,
    /// The transmitq.
    pub transmitq: QueueConfig,
    /// Both sides' buffers.
    pub buffers: Buffers,
}

/// The control queue's entries: one command is under way at a time.
const CONTROL_ENTRIES: u16 = 16;

/// A control queue and the memory of its commands.
#[derive(Clone, Debug)]
pub struct ControlPlacement {
    /// The queue.
    pub queue: QueueConfig,
    /// Where a command goes, [`COMMAND_LEN`] bytes near the device.
    pub command: u64,
    /// Where its answer comes, as many bytes near the driver.
    pub answer: u64,
}

/// All queues of a device.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The pairs, at least one.
    pub pairs: Vec<Placement>,
    /// The control queue, if there is one.
    pub control: Option<ControlPlacement>,
}

/// What the device's CPU reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The window and driver memory.
    Both,
    /// The window: what it writes itself goes there too, and only frames go to driver memory, by engine.
    Window,
}

/// Hands out lines of a range.
struct Lines(Range<u64>);

impl Lines {
    fn take(&mut self, len: u64) -> Option<u64> {
        let at = self.0.start.next_multiple_of(window::LINE as u64);
        let end = at.checked_add(len)?;
        (end <= self.0.end).then(|| {
            self.0.start = end;
            at
        })
    }

    /// What is left, in `count` equal parts.
    fn shares(&self, count: usize) -> impl Iterator<Item = Range<u64>> + use<> {
        let Range { start, end } = self.0;
        let count = count as u64;
        let each = end.saturating_sub(start) / count;
        (0..count).map(move |i| start + i * each..start + (i + 1) * each)
    }
}

/// Lengths of a queue's descriptor, driver and device area.
fn area_lens(packed: bool, size: u16) -> [u64; 3] {
    if packed {
        return [packed::desc_len(size), packed::EVENT_LEN, packed::EVENT_LEN].map(u64::from);
    }
    // In whole words, as the rings are written.
    [split::desc_len(size), split::avail_len(size) + 2, split::used_len(size) + 2].map(u64::from)
}

/// Places the control queue, if there is one, and as many of the pairs as there is memory for, at
/// least one, in what is free of the window and of driver memory, both as bus addresses. The greatest
/// queue sizes are the device's, as is what its CPU reaches. `None` if there is too little memory.
pub fn place_all(
    free_window: Range<u64>,
    free_driver: Range<u64>,
    pairs: &[[u16; 2]],
    control: Option<u16>,
    features: Features,
    reach: Reach,
) -> Option<Queues> {
    let (mut window, mut driver) = (Lines(free_window), Lines(free_driver));
    let control = match control {
        None => None,
        Some(greatest) => {
            let size = greatest.min(CONTROL_ENTRIES);
            let queue = place_queue(&mut window, &mut driver, size, features, reach)?;
            let command = window.take(COMMAND_LEN.into())?;
            let home = written(&mut window, &mut driver, reach);
            Some(ControlPlacement { queue, command, answer: home.take(COMMAND_LEN.into())? })
        }
    };
    (1..=pairs.len()).rev().find_map(|count| {
        let shares = window.shares(count).zip(driver.shares(count)).zip(pairs);
        let placed = shares.map(|((window, driver), greatest)| {
            place_pair(window, driver, *greatest, features, reach)
        });
        Some(Queues { pairs: placed.collect::<Option<_>>()?, control: control.clone() })
    })
}

/// Where goes what the device's CPU writes: near the driver, if it can.
fn written<'l>(window: &'l mut Lines, driver: &'l mut Lines, reach: Reach) -> &'l mut Lines {
    match reach {
        Reach::Both => driver,
        Reach::Window => window,
    }
}

fn place_queue(
    window: &mut Lines,
    driver: &mut Lines,
    size: u16,
    features: Features,
    reach: Reach,
) -> Option<QueueConfig> {
    let packed = features.has(virtio::F_RING_PACKED);
    let [desc_len, driver_len, device_len] = area_lens(packed, size);
    Some(QueueConfig {
        size,
        desc: window.take(desc_len)?,
        driver: window.take(driver_len)?,
        device: written(window, driver, reach).take(device_len)?,
        packed,
        in_order: features.has(virtio::F_IN_ORDER),
        event_idx: features.has(virtio::F_EVENT_IDX),
        indirect: features.has(virtio::F_INDIRECT_DESC),
    })
}

/// Places a pair, as [`place_all`] does, for a device whose CPU reaches all memory.
pub fn place(
    free_window: Range<u64>,
    free_driver: Range<u64>,
    greatest: [u16; 2],
    features: Features,
) -> Option<Placement> {
    place_pair(free_window, free_driver, greatest, features, Reach::Both)
}

fn place_pair(
    free_window: Range<u64>,
    free_driver: Range<u64>,
    greatest: [u16; 2],
    features: Features,
    reach: Reach,
) -> Option<Placement> {
    let (mut window, mut driver) = (Lines(free_window), Lines(free_driver));
    let mut queue = |greatest: u16| {
        place_queue(&mut window, &mut driver, greatest.min(MOST_ENTRIES), features, reach)
    };
    let (receiveq, transmitq) = (queue(greatest[0])?, queue(greatest[1])?);
    let one = u64::from(RECEIVE_BUFFER);
    let arena = (window.0.end.saturating_sub(window.0.start.next_multiple_of(64))).min(MOST_ARENA);
    let arena = arena.max(MIN_ARENA.into());
    let transmit = window.take(arena)?;
    let fit = driver.0.end.saturating_sub(driver.0.start.next_multiple_of(64)) / one;
    let count = fit.min(MOST_BUFFERS).min(receiveq.size.into()).max(1);
    let receive = driver.take(count * one)?;
    let buffers =
        Buffers { receive: receive..receive + count * one, transmit: transmit..transmit + arena };
    Some(Placement { receiveq, transmitq, buffers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: Features = Features::of(&[virtio::F_EVENT_IDX]);
    const PACKED: Features = Features::of(&[virtio::F_RING_PACKED, virtio::F_IN_ORDER]);

    fn areas(p: &Placement) -> Vec<Range<u64>> {
        let q = |q: &QueueConfig| {
            let [desc, driver, device] = area_lens(q.packed, q.size);
            [q.desc..q.desc + desc, q.driver..q.driver + driver, q.device..q.device + device]
        };
        let mut all: Vec<_> = q(&p.receiveq).into_iter().chain(q(&p.transmitq)).collect();
        all.extend([p.buffers.receive.clone(), p.buffers.transmit.clone()]);
        all
    }

    #[test]
    fn areas_do_not_overlap_and_each_lies_where_its_reader_is() {
        for (mib, features) in [1u64, 2, 16, 256].into_iter().zip([SPLIT, PACKED].repeat(2)) {
            let len = mib << 20;
            let (window, driver) = (0x3000..len / 4, len / 4 + 0x2000..len);
            let p = place(window.clone(), driver.clone(), [1024, 1024], features).unwrap();
            let areas = areas(&p);
            for (i, a) in areas.iter().enumerate() {
                assert_eq!(a.start % 64, 0);
                let home = if [2, 5, 6].contains(&i) { &driver } else { &window };
                assert!(home.start <= a.start && a.end <= home.end, "{mib} MiB: area {i} {a:x?}");
                for b in &areas[i + 1..] {
                    assert!(a.end <= b.start || b.end <= a.start, "{a:x?} {b:x?}");
                }
            }
        }
    }

    #[test]
    fn what_was_negotiated_is_what_the_queues_are_configured_for() {
        let p = place(0..4 << 20, 4 << 20..16 << 20, [256, 256], PACKED).unwrap();
        let q = p.transmitq;
        assert_eq!((q.packed, q.in_order, q.event_idx, q.indirect), (true, true, false, false));
        assert_eq!(
            areas(&p)[..3].iter().map(|a| a.end - a.start).collect::<Vec<_>>(),
            [4096, 4, 4]
        );
        let p = place(0..4 << 20, 4 << 20..16 << 20, [256, 256], SPLIT).unwrap();
        let q = p.receiveq;
        assert_eq!((q.packed, q.in_order, q.event_idx, q.indirect), (false, false, true, false));
        assert_eq!(
            areas(&p)[..3].iter().map(|a| a.end - a.start).collect::<Vec<_>>(),
            [4096, 520, 2056]
        );
    }

    #[test]
    fn as_many_pairs_are_placed_as_there_is_memory_for() {
        let offered = [[256, 256]; 4];
        for (mib, count) in [(1u64, 1), (2, 3), (16, 4)] {
            let len = mib << 20;
            let (window, driver) = (0x3000..len / 4, len / 4 + 0x2000..len);
            let all = place_all(window.clone(), driver, &offered, Some(64), PACKED, Reach::Both);
            let all = all.unwrap();
            assert_eq!(all.pairs.len(), count, "{mib} MiB");
            let control = all.control.unwrap();
            let mut taken: Vec<_> = all.pairs.iter().flat_map(areas).collect();
            let queue = control.queue;
            let event = |at| at..at + 4;
            let ring = queue.desc..queue.desc + 256;
            taken.extend([ring, event(queue.driver), event(queue.device)]);
            taken.extend([control.command, control.answer].map(|at| at..at + 64));
            assert!(window.contains(&control.command) && control.answer >= len / 4);
            for (i, a) in taken.iter().enumerate() {
                assert!(a.end <= len);
                for b in &taken[i + 1..] {
                    assert!(a.end <= b.start || b.end <= a.start, "{a:x?} {b:x?}");
                }
            }
        }
    }

    #[test]
    fn a_device_that_reaches_the_window_only_writes_there_and_frames_go_to_driver_memory() {
        for features in [SPLIT, PACKED] {
            let (window, driver) = (0x5000..4u64 << 20, 4u64 << 20..16 << 20);
            let all =
                place_all(window.clone(), driver, &[[256, 256]], Some(64), features, Reach::Window);
            let all = all.unwrap();
            let control = all.control.unwrap();
            assert!([control.queue.device, control.answer].iter().all(|at| window.contains(at)));
            for (i, area) in areas(&all.pairs[0]).iter().enumerate() {
                assert_eq!(window.contains(&area.start), i != 6, "area {i}: {area:x?}");
            }
        }
    }

    #[test]
    fn too_little_memory_gives_no_placement() {
        assert!(place(0..0x1_0000, 0..1 << 20, [256, 256], SPLIT).is_none());
        assert!(place(0..1 << 20, 0..0x1_0000, [256, 256], SPLIT).is_none());
    }

    #[test]
    fn a_device_with_small_queues_gets_small_queues() {
        let p = place(0..4 << 20, 4 << 20..16 << 20, [4, 8], SPLIT).unwrap();
        assert_eq!((p.receiveq.size, p.transmitq.size), (4, 8));
        assert_eq!(p.buffers.receive.end - p.buffers.receive.start, 4 * u64::from(RECEIVE_BUFFER));
    }
}
