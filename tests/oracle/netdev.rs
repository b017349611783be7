//! A netdev that is a list of frames, and the worker that stands between it and one of our data paths:
//! it sleeps when it has nothing to do, and wakes only when the other end rings.

use std::collections::VecDeque;
use std::sync::LazyLock;

use boardlane::memory::BusMemory;
use boardlane::net::frame::Drop;
use boardlane::net::path::{Inward, Path, Room};
use boardlane::spec::net::HEADER_LEN;

use super::Random;

/// Longest frame without its header.
pub(super) const LONGEST: usize = 65_577;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = (0..LONGEST + 1021).map(|i| u8::try_from((i + i / 251) % 256).unwrap());
    bytes.collect()
});

/// A frame of `len` bytes, without a header, whose bytes tell its number.
pub(super) fn frame(number: usize, len: usize) -> &'static [u8] {
    &PATTERN[number * 37 % 1021..][..len]
}

/// Mostly small, sometimes as large as can be.
pub(super) fn frame_len(random: &mut Random) -> usize {
    match random.below(64) {
        0 => 14 + random.below(LONGEST - 13),
        1 => LONGEST - random.below(3),
        2..8 => 14 + random.below(9000),
        8..16 => 244 + random.below(30),
        16..24 => 14,
        _ => 14 + random.below(100),
    }
}

/// One of our ends.
#[derive(Debug)]
pub(super) struct Worker {
    path: Box<dyn Path>,
    /// Frames, without headers, that the netdev has for the ring.
    pub(super) outbox: VecDeque<&'static [u8]>,
    /// Frames, without headers, that came out of the ring.
    pub(super) inbox: VecDeque<Vec<u8>>,
    pub(super) drops: Vec<Drop>,
    asleep: bool,
}

impl Worker {
    pub(super) fn new(path: impl Path + 'static) -> Self {
        Self::over(Box::new(path))
    }

    pub(super) fn over(path: Box<dyn Path>) -> Self {
        Self {
            path,
            outbox: VecDeque::new(),
            inbox: VecDeque::new(),
            drops: Vec::new(),
            asleep: false,
        }
    }

    pub(super) fn into_path(self) -> Box<dyn Path> {
        self.path
    }

    fn outward(&mut self, mem: &BusMemory, batch: usize) -> (usize, bool) {
        for sent in 0..batch {
            let room = self.path.room(mem).unwrap();
            if matches!(room, Room::Nowhere) {
                return (sent, true);
            }
            let Some(frame) = self.outbox.pop_front() else { return (sent, false) };
            assert!(room.fill(mem, &[&[0; HEADER_LEN], frame].concat()), "there is room");
            let dropped = self.path.sent(mem, HEADER_LEN + frame.len()).unwrap();
            self.drops.extend(dropped);
        }
        (batch, false)
    }

    fn inward(&mut self, mem: &BusMemory, batch: usize) -> usize {
        for taken in 0..batch {
            match self.path.receive(mem).unwrap() {
                Inward::Empty => return taken,
                Inward::Dropped(reason) => self.drops.push(reason),
                Inward::Frame { prefix, tail, len } => {
                    let mut frame = prefix.to_vec();
                    for span in tail {
                        let at = frame.len();
                        frame.resize(at + span.len(), 0);
                        mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
                    }
                    assert_eq!(frame.len(), HEADER_LEN + len);
                    assert_eq!(frame[..10], [0; 10], "no offload was negotiated");
                    frame.drain(..HEADER_LEN);
                    self.inbox.push_back(frame);
                }
            }
            self.path.received(mem).unwrap();
        }
        batch
    }

    /// Works until it has moved something or sleeps. `true`: ring the other end.
    pub(super) fn turn(&mut self, mem: &BusMemory, batch: usize) -> bool {
        if std::mem::take(&mut self.asleep) {
            self.path.disarm(mem);
        }
        let mut ring = false;
        for _ in 0..4 {
            let (sent, blocked) = self.outward(mem, batch);
            ring |= self.path.flush(mem);
            let taken = self.inward(mem, batch);
            ring |= self.path.release(mem);
            if sent + taken > 0 {
                return ring;
            }
            if !self.path.arm(mem, blocked).unwrap() {
                self.asleep = true;
                return ring;
            }
            self.path.disarm(mem);
        }
        panic!("turns without progress, and does not sleep: {self:?}");
    }

    /// Works until it sleeps. `true`: ring the other end.
    pub(super) fn run(&mut self, mem: &BusMemory) -> bool {
        let mut ring = self.turn(mem, 64);
        while !self.asleep {
            ring |= self.turn(mem, 64);
        }
        ring
    }

    /// The worker goes on with another path.
    pub(super) fn replace(&mut self, by: impl FnOnce(&mut dyn Path) -> Box<dyn Path>) {
        self.path = by(&mut *self.path);
        self.asleep = false;
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep
    }
}
