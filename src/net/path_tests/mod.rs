//! The two data paths against each other and against other halves driven by hand, with a netdev that
//! is a vector of bytes.

mod copied;
mod echo;
mod engine;
mod halts;
mod hostile_device;
mod hostile_driver;
mod pairs;
mod queue_reset;
mod race;
mod stock_driver;

use std::collections::VecDeque;
use std::sync::Arc;

use super::device_path::DevicePath;
use super::driver_path::DriverPath;
use super::engine_path::copy;
use super::features::Features;
use super::frame::Drop;
use super::path::{self, Inward, MOST_SPANS, Path, Room};
use super::placement::{Placement, place};
use crate::dma::{Completion, Transfer};
use crate::memory::{BusMemory, Kind, Mapping, Region, Side};
use crate::spec::{net, virtio};

/// What the tunnel takes of the window and of driver memory.
const TUNNEL: u64 = 0x3000;

/// A slot's memory: the first quarter is the window.
fn memory(len: u64, window: Kind, driver: Kind) -> BusMemory {
    let mapped = |addr, len, side, kind| {
        let bytes = Arc::new(Mapping::anonymous(len as usize, kind));
        Region::mapped(addr, len, side, bytes, 0)
    };
    let (window_len, driver_len) = (len / 4, len - len / 4);
    BusMemory::new(vec![
        mapped(0, window_len, Side::Near, window),
        mapped(window_len, driver_len, Side::Far, driver),
    ])
    .unwrap()
}

/// With split rings, used in any order.
fn features(mergeable: bool, event_idx: bool, indirect: bool) -> Features {
    let off = [
        (mergeable, net::F_MRG_RXBUF),
        (event_idx, virtio::F_EVENT_IDX),
        (indirect, virtio::F_INDIRECT_DESC),
    ];
    let off = off
        .iter()
        .filter(|(on, _)| !on)
        .fold(Features::NONE, |set, (_, bit)| set.union(Features::of(&[*bit])));
    Features::OFFER.without(off.union(packed_in_order()))
}

fn packed_in_order() -> Features {
    Features::of(&[virtio::F_RING_PACKED, virtio::F_IN_ORDER])
}

/// The same features with each kind of rings that memory of these kinds can have.
fn with_rings(features: Features, kinds: [Kind; 2]) -> Vec<Features> {
    let in_order = Features::of(&[virtio::F_IN_ORDER]);
    let packed = packed_in_order().minus(in_order);
    let mut all = vec![features, features.union(in_order)];
    if kinds == [Kind::Cached; 2] {
        all.extend([features.union(packed), features.union(packed_in_order())]);
    }
    all
}

/// Our own placement in a slot of `len` bytes.
fn placed(len: u64, features: Features, sizes: [u16; 2]) -> Placement {
    let (window, driver) = (TUNNEL..len / 4, len / 4 + TUNNEL..len);
    place(window, driver, sizes, features).unwrap()
}

fn driver_path(mem: &BusMemory, features: Features, p: &Placement) -> DriverPath {
    DriverPath::new(mem, features, &p.receiveq, &p.transmitq, &p.buffers).unwrap()
}

fn device_path(mem: &BusMemory, features: Features, p: &Placement) -> DevicePath {
    DevicePath::new(mem, features, &p.receiveq, &p.transmitq).unwrap()
}

/// A netdev that can be read into ring memory as into private memory, and says so if it is cut.
fn read(mem: &BusMemory, room: Room<'_>, frame: &[u8]) {
    let spans = match &room {
        Room::Nowhere => panic!("there is no room"),
        Room::Private(_) => &[],
        Room::Shared(spans) | Room::Split { rest: spans, .. } => *spans,
    };
    assert!(spans.len() <= MOST_SPANS, "{} spans", spans.len());
    let len = spans.iter().map(|s| s.len()).sum::<usize>();
    assert!(spans.is_empty() || len >= frame.len(), "frame is cut");
    room.fill(mem, frame);
}

/// What a netdev would be given: the private start, then the shared rest.
fn written(mem: &BusMemory, prefix: &[u8], tail: &[crate::memory::Span], len: usize) -> Vec<u8> {
    let mut frame = prefix.to_vec();
    for span in tail {
        let at = frame.len();
        frame.resize(at + span.len(), 0);
        mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
    }
    assert_eq!(frame.len(), len + net::HEADER_LEN);
    frame
}

/// What an engine does: all pieces of a transfer.
fn carry_out(mem: &BusMemory, local: &BusMemory, transfer: Transfer) -> Completion {
    let good = transfer.pieces.iter().all(|piece| copy(mem, local, piece));
    Completion { transfer, good }
}

/// One end: a path, and a worker that does not spin and does not oversleep.
#[derive(Debug)]
struct End<P> {
    path: P,
    /// Where its frames are, if not in the link's memory.
    local: Option<Arc<BusMemory>>,
    outbox: VecDeque<Vec<u8>>,
    inbox: VecDeque<Vec<u8>>,
    drops: Vec<Drop>,
    asleep: bool,
    rings: u64,
}

impl<P: Path> End<P> {
    fn new(path: P) -> Self {
        Self {
            local: path.local(),
            path,
            outbox: VecDeque::new(),
            inbox: VecDeque::new(),
            drops: Vec::new(),
            asleep: false,
            rings: 0,
        }
    }

    /// Sends up to `batch` frames: how many, and whether it wants room.
    fn outward(&mut self, mem: &BusMemory, batch: usize) -> (usize, bool) {
        let (mut frames, mut blocked) = (0, false);
        while frames < batch {
            let room = self.path.room(mem).unwrap();
            if matches!(room, Room::Nowhere) {
                blocked = true;
                break;
            }
            let Some(frame) = self.outbox.pop_front() else { break };
            read(self.local.as_deref().unwrap_or(mem), room, &frame);
            self.drops.extend(self.path.sent(mem, frame.len()).unwrap());
            frames += 1;
        }
        self.rings += u64::from(self.path.flush(mem));
        (frames, blocked)
    }

    /// Takes up to `batch` frames in: how many.
    fn inward(&mut self, mem: &BusMemory, batch: usize) -> usize {
        let mut frames = 0;
        while frames < batch {
            match self.path.receive(mem).unwrap() {
                Inward::Empty => break,
                Inward::Dropped(reason) => self.drops.push(reason),
                Inward::Frame { prefix, tail, len } => {
                    let table = self.local.as_deref().unwrap_or(mem);
                    self.inbox.push_back(written(table, prefix, tail, len));
                }
            }
            self.path.received(mem).unwrap();
            frames += 1;
        }
        self.rings += u64::from(self.path.release(mem));
        frames
    }

    /// What a worker does until it has moved something or sleeps. `true`: ring the other end.
    fn turn(&mut self, mem: &BusMemory, batch: usize) -> bool {
        let rings = self.rings;
        if self.asleep {
            self.path.disarm(mem);
            self.asleep = false;
        }
        for _ in 0..4 {
            let (sent, blocked) = self.outward(mem, batch);
            if sent + self.inward(mem, batch) > 0 {
                return self.rings > rings;
            }
            if !self.path.arm(mem, blocked).unwrap() {
                self.asleep = true;
                return self.rings > rings;
            }
            self.path.disarm(mem);
        }
        panic!("turns without progress, and does not sleep: {self:?}");
    }
}

/// A frame of `len` bytes behind an empty header, whose bytes tell its number.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0; net::HEADER_LEN + len];
    for (i, byte) in frame[net::HEADER_LEN..].iter_mut().enumerate() {
        *byte = (number.wrapping_mul(37) + i + i / 251) as u8;
    }
    frame
}

/// Small, repeatable, good enough to mix things up (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Mostly small, sometimes as large as can be.
    fn len(&mut self) -> usize {
        match self.below(8) {
            0 => 14 + self.below(65_564),
            1 => 65_577 - self.below(3),
            2 => 244 + self.below(30),
            3 => 14,
            _ => 14 + self.below(1501),
        }
    }
}
