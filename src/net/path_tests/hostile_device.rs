//! The driver's path against a device that writes what it likes.

use super::*;
use crate::net::driver_path::RECEIVE_BUFFER;
use crate::net::frame::PREFIX_LEN;
use crate::net::path::PathError;
use crate::virtqueue::{QueueConfig, QueueError};

const SLOT: u64 = 1 << 20;

/// A device that is not bound by any rule, and the driver under test.
struct Hostile {
    mem: BusMemory,
    placement: Placement,
    /// Used index of the receiveq.
    used: u16,
    driver: End<DriverPath>,
}

impl Hostile {
    fn new(size: u16, kind: Kind, mergeable: bool) -> Self {
        let features = features(mergeable, true, true);
        let placement = placed(SLOT, features, [size, size]);
        let mem = memory(SLOT, kind, kind);
        let driver = End::new(driver_path(&mem, features, &placement));
        Self { mem, placement, used: 0, driver }
    }

    fn poke(&self, addr: u64, bytes: &[u8]) {
        let span = self.mem.resolve(addr, bytes.len() as u32).unwrap();
        self.mem.view(span).unwrap().copy_from(0, bytes);
    }

    /// Writes used entries, then the index behind them.
    fn use_raw(&mut self, queue: &QueueConfig, entries: &[(u32, u32)]) {
        for (id, len) in entries {
            let at = queue.device + 4 + 8 * u64::from(self.used % queue.size);
            self.poke(at, &id.to_le_bytes());
            self.poke(at + 4, &len.to_le_bytes());
            self.used = self.used.wrapping_add(1);
        }
        self.poke(queue.device, &[&[0; 2][..], &self.used.to_le_bytes()].concat());
    }

    /// Uses receive buffers, by head; each token is its head, as they are posted in order.
    fn receive(&mut self, entries: &[(u32, u32)]) {
        self.use_raw(&self.placement.receiveq.clone(), entries);
    }

    /// Writes to the start of a receive buffer.
    fn fill(&self, token: u32, bytes: &[u8]) {
        let one = u64::from(RECEIVE_BUFFER);
        self.poke(self.placement.buffers.receive.start + u64::from(token) * one, bytes);
    }

    fn posted(&self) -> u32 {
        let receive = &self.placement.buffers.receive;
        ((receive.end - receive.start) / u64::from(RECEIVE_BUFFER)) as u32
    }

    /// What comes of everything that is there.
    fn outcome(&mut self) -> Result<(Vec<usize>, Vec<Drop>), PathError> {
        let (mut frames, mut drops) = (Vec::new(), Vec::new());
        for _ in 0..1000 {
            match self.driver.path.receive(&self.mem)? {
                Inward::Empty => return Ok((frames, drops)),
                Inward::Dropped(reason) => {
                    let (start, total) = self.driver.path.rejected();
                    assert!(start.len() <= total.min(PREFIX_LEN), "{} of {total}", start.len());
                    drops.push(reason);
                }
                Inward::Frame { prefix, tail, len } => {
                    frames.push(written(&self.mem, prefix, tail, len).len());
                }
            }
            self.driver.path.received(&self.mem)?;
            let _ = self.driver.path.release(&self.mem);
        }
        panic!("no end to frames");
    }
}

/// Whether a fault is the expected one.
type Is = fn(QueueError) -> bool;

fn with_count(len: usize, num_buffers: u16) -> Vec<u8> {
    let mut frame = frame(1, len);
    frame[10..12].copy_from_slice(&num_buffers.to_le_bytes());
    frame
}

#[test]
fn every_used_length_gives_a_frame_or_a_reason() {
    for kind in [Kind::Cached, Kind::Uncached] {
        for mergeable in [true, false] {
            for len in (0..300).chain(65_500..=RECEIVE_BUFFER) {
                let mut hostile = Hostile::new(16, kind, mergeable);
                hostile.fill(0, &with_count(1000, 1));
                hostile.receive(&[(0, len)]);
                let expected = match len {
                    0..26 => (vec![], vec![Drop::TooShort]),
                    26..=65_601 => (vec![len as usize], vec![]),
                    _ => (vec![], vec![Drop::TooLong]),
                };
                assert_eq!(hostile.outcome(), Ok(expected), "{len} bytes");
            }
        }
    }
}

#[test]
fn a_count_of_buffers_that_cannot_be_is_dropped_and_the_ring_goes_on() {
    for count in [0, 12, 17, 255, 256, 0xffff] {
        let mut hostile = Hostile::new(256, Kind::Cached, true);
        assert_eq!(hostile.posted(), 11);
        hostile.fill(0, &with_count(1000, count));
        hostile.fill(1, &with_count(500, 1));
        hostile.receive(&[(0, 1012), (1, 512)]);
        let expected = (vec![512], vec![Drop::NumBuffers]);
        assert_eq!(hostile.outcome(), Ok(expected), "num_buffers {count}");
        // All eleven buffers are there again.
        for token in 2..11 {
            hostile.fill(token, &with_count(100, 1));
        }
        hostile.fill(0, &with_count(100, 1));
        hostile.receive(&(2..11).map(|token| (token, 112)).collect::<Vec<_>>());
        assert_eq!(hostile.outcome(), Ok((vec![112; 9], vec![])));
    }
}

#[test]
fn without_mergeable_buffers_the_count_says_nothing() {
    for count in [0, 1, 2, 0xffff] {
        let mut hostile = Hostile::new(16, Kind::Cached, false);
        hostile.fill(0, &with_count(1000, count));
        hostile.receive(&[(0, 1012)]);
        assert_eq!(hostile.outcome(), Ok((vec![1012], vec![])), "num_buffers {count}");
    }
}

#[test]
fn a_frame_in_many_buffers_may_come_bit_by_bit_and_is_whole_in_the_end() {
    for kind in [Kind::Cached, Kind::Uncached] {
        let mut hostile = Hostile::new(16, kind, true);
        let whole = with_count(3000, 5);
        for (token, part) in [(0, 0..40), (3, 40..41), (1, 41..1000), (2, 1000..3012)] {
            hostile.fill(token, &whole[part.clone()]);
            hostile.receive(&[(token, part.len() as u32)]);
            assert_eq!(hostile.outcome(), Ok((vec![], vec![])), "it is not whole yet");
            assert!(!hostile.driver.path.arm(&hostile.mem, false).unwrap(), "and may be slept on");
        }
        hostile.receive(&[(4, 0)]);
        assert_eq!(hostile.driver.inward(&hostile.mem, 9), 1);
        assert!(hostile.driver.inbox[0] == whole);
        // Longer than any frame, in buffers that are each in order.
        let mut hostile = Hostile::new(16, kind, true);
        hostile.fill(0, &with_count(60, 2));
        hostile.receive(&[(0, 40_000), (1, 40_000)]);
        assert_eq!(hostile.outcome(), Ok((vec![], vec![Drop::TooLong])));
    }
}

#[test]
fn a_ring_that_breaks_a_rule_is_broken_and_stays_so() {
    let cases: [(&[(u32, u32)], Is); 6] = [
        (&[(0, RECEIVE_BUFFER + 1)], |e| matches!(e, QueueError::UsedLength { .. })),
        (&[(0, u32::MAX)], |e| matches!(e, QueueError::UsedLength { .. })),
        (&[(11, 100)], |e| matches!(e, QueueError::UsedId { .. })),
        (&[(u32::MAX, 100)], |e| matches!(e, QueueError::UsedId { .. })),
        (&[(0x1_0000, 100)], |e| matches!(e, QueueError::UsedId { .. })),
        (&[(3, 0); 12], |e| matches!(e, QueueError::UsedJump { .. })),
    ];
    for (entries, expected) in cases {
        let mut hostile = Hostile::new(16, Kind::Cached, true);
        hostile.receive(entries);
        let fault = hostile.outcome().unwrap_err();
        assert!(matches!(fault, PathError::Receiveq(e) if expected(e)), "{entries:?}: {fault}");
        assert_eq!(hostile.outcome().unwrap_err(), fault);
        assert_eq!(hostile.driver.path.arm(&hostile.mem, true), Err(fault));
    }
    // One buffer twice in a batch: the second is not out any more, or not again.
    let mut hostile = Hostile::new(16, Kind::Cached, true);
    hostile.fill(0, &with_count(100, 2));
    hostile.receive(&[(0, 60), (0, 60)]);
    let fault = hostile.outcome().unwrap_err();
    assert_eq!(fault, PathError::Receiveq(QueueError::UsedId { id: 0 }));
    // The transmitq likewise.
    let mut hostile = Hostile::new(16, Kind::Cached, true);
    hostile.driver.outbox.push_back(frame(1, 60));
    hostile.driver.outward(&hostile.mem, 1);
    hostile.use_raw(&hostile.placement.transmitq.clone(), &[(1, 0)]);
    let fault = hostile.driver.path.room(&hostile.mem).unwrap_err();
    assert_eq!(fault, PathError::Transmitq(QueueError::UsedId { id: 1 }));
}

#[test]
fn what_was_checked_is_what_goes_on_whatever_the_memory_becomes() {
    for (kind, shared) in [(Kind::Cached, 1000), (Kind::Uncached, 0)] {
        let mut hostile = Hostile::new(16, kind, true);
        let good = with_count(1256, 2);
        hostile.fill(0, &good[..100]);
        hostile.fill(1, &good[100..]);
        hostile.receive(&[(0, 100)]);
        // The header has been looked at; it changes before the frame is whole, and after.
        assert_eq!(hostile.outcome(), Ok((vec![], vec![])));
        hostile.fill(0, &[0xff; 100]);
        hostile.receive(&[(1, 1168)]);
        let Inward::Frame { prefix, tail, len } =
            hostile.driver.path.receive(&hostile.mem).unwrap()
        else {
            panic!("the frame was sound when it was looked at");
        };
        let one = u64::from(RECEIVE_BUFFER);
        let start = hostile.placement.buffers.receive.start;
        let span = hostile.mem.resolve(start + one, 1168).unwrap();
        hostile.mem.view(span).unwrap().copy_from(0, &[0xff; 1168]);
        assert_eq!((prefix, len), (&good[..1268 - shared], 1256));
        assert_eq!(tail.iter().map(|s| s.len()).sum::<usize>(), shared);
        let sent = written(&hostile.mem, prefix, tail, len);
        assert!(sent[1268 - shared..].iter().all(|b| *b == 0xff), "the rest is what it is now");
    }
}

#[test]
fn octets_at_random_in_rings_and_buffers_never_panic() {
    let mut random = Random(0xbad);
    for round in 0..400 {
        let kind = if round % 2 == 0 { Kind::Cached } else { Kind::WriteCombined };
        let mut hostile = Hostile::new(4 << (round % 5), kind, random.coin());
        let size = hostile.placement.receiveq.size;
        for _ in 0..60 {
            let token = random.below(usize::from(size) + 2) as u32;
            let header: Vec<u8> =
                (0..12).map(|_| (random.below(5) * random.below(60)) as u8).collect();
            if token < hostile.posted() {
                hostile.fill(token, &header);
            }
            if random.below(3) > 0 {
                let len = [random.below(100), random.below(66_000)][random.below(2)];
                hostile.receive(&[(token, len as u32)]);
            }
            hostile.driver.outbox.push_back(frame(1, random.len()));
            let path = &mut hostile.driver.path;
            if path.room(&hostile.mem).is_err() || path.arm(&hostile.mem, true).is_err() {
                break;
            }
            hostile.driver.outward(&hostile.mem, 1);
            if hostile.outcome().is_err() {
                break;
            }
        }
    }
}
