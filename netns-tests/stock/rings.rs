//! The queues of a stock driver: receive buffers small and many, frames to send in two buffers.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::memory::BusMemory;
use boardlane::net::features::Features;
use boardlane::os::doorbell::ring_full_or_not;
use boardlane::spec::net::{self, HEADER_LEN, Header};
use boardlane::spec::{packed, split, virtio};
use boardlane::virtqueue::{Buffer, DriverQueue, QueueConfig, Used};
use zerocopy::{FromBytes, IntoBytes};

use super::{Spot, Stock};
use crate::world::PATIENCE;

/// How a driver makes its queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Descriptors of each.
    pub(crate) size: u16,
    /// Receive buffers: their length, and how many make a chain.
    pub(crate) buffer: u32,
    pub(crate) parts: u16,
    /// Longest frame to be sent.
    pub(crate) longest: u32,
    /// Where rings and indirect tables lie.
    pub(crate) rings: Spot,
    pub(crate) tables: Spot,
}

/// As Linux makes them: mergeable buffers of one frame, everything in its own memory.
pub(crate) const LINUX: Shape = Shape {
    size: 256,
    buffer: 1526,
    parts: 1,
    longest: 2048,
    rings: Spot::Driver,
    tables: Spot::Driver,
};

/// A frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) header: Header,
    pub(crate) data: Vec<u8>,
}

/// A ring and what is around it.
struct Ring {
    queue: DriverQueue,
    mem: Arc<BusMemory>,
    doorbell: Arc<OwnedFd>,
    /// Where its indirect tables lie, and of how many entries they are.
    tables: (u64, u16),
}

impl Ring {
    fn place(stock: &mut Stock, size: u16, shape: Shape, pair: u16) -> (Self, QueueConfig) {
        let config = areas(stock, size, shape.rings);
        let entries = shape.parts.max(2);
        let len = u64::from(split::DESC_LEN) * u64::from(entries) * u64::from(size);
        let tables = (stock.take(shape.tables, len), entries);
        let queue = config.activate_driver(&stock.mem).unwrap();
        let mut ring =
            Self { queue, mem: stock.mem.clone(), doorbell: stock.doorbell(pair), tables };
        ring.renew(&config);
        (ring, config)
    }

    /// Starts with empty rings.
    fn renew(&mut self, config: &QueueConfig) {
        self.queue = config.activate_driver(&self.mem).unwrap();
        self.queue.set_indirect_tables(&self.mem, self.tables.0, self.tables.1).unwrap();
    }

    fn publish(&mut self) {
        if self.queue.publish(&self.mem) {
            ring_full_or_not(&self.doorbell);
        }
    }

    fn write(&self, addr: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let span = self.mem.resolve(addr, len).unwrap();
        self.mem.view(span).unwrap().copy_from(0, data);
    }

    fn read(&self, addr: u64, len: u32) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        let span = self.mem.resolve(addr, len).unwrap();
        self.mem.view(span).unwrap().copy_to(0, &mut data);
        data
    }
}

/// Areas for a queue of this size.
fn areas(stock: &mut Stock, size: u16, spot: Spot) -> QueueConfig {
    let has = |bit| stock.features.has(bit);
    let (packed, event_idx, indirect, in_order) = (
        has(virtio::F_RING_PACKED),
        has(virtio::F_EVENT_IDX),
        has(virtio::F_INDIRECT_DESC),
        has(virtio::F_IN_ORDER),
    );
    let [desc, driver, device] = if packed {
        [packed::desc_len(size), packed::EVENT_LEN, packed::EVENT_LEN]
    } else {
        [split::desc_len(size), split::avail_len(size) + 2, split::used_len(size) + 2]
    }
    .map(|len| stock.take(spot, len.into()));
    QueueConfig { size, desc, driver, device, packed, in_order, event_idx, indirect }
}

/// A receiveq.
pub(crate) struct Receiver {
    pub(crate) index: u16,
    pub(crate) config: QueueConfig,
    ring: Ring,
    shape: Shape,
    base: u64,
    count: u16,
    mergeable: bool,
    /// It has been reset.
    left: bool,
    /// Frames taken.
    pub(crate) taken: u64,
    /// Chains that came back empty: frames that an engine spoilt or that were dropped late.
    pub(crate) empty: u64,
}

impl Receiver {
    pub(crate) fn place(stock: &mut Stock, pair: u16, shape: Shape) -> Self {
        let (ring, config) = Ring::place(stock, shape.size, shape, pair);
        let chain = u64::from(shape.buffer) * u64::from(shape.parts);
        let count = shape.size / shape.parts;
        let base = stock.take(Spot::Driver, chain * u64::from(shape.size));
        let mergeable = stock.features.has(net::F_MRG_RXBUF);
        Self {
            index: 2 * pair,
            config,
            ring,
            shape,
            base,
            count,
            mergeable,
            left: false,
            taken: 0,
            empty: 0,
        }
    }

    /// The chain of this number.
    fn buffers(&self, token: u16) -> Vec<Buffer> {
        let len = self.shape.buffer;
        let first = u64::from(token) * u64::from(self.shape.parts);
        (0..u64::from(self.shape.parts))
            .map(|part| Buffer { addr: self.base + (first + part) * u64::from(len), len })
            .collect()
    }

    /// Makes every buffer available.
    pub(crate) fn fill(&mut self) {
        for token in 0..self.count {
            self.post(token);
        }
        self.ring.publish();
    }

    fn post(&mut self, token: u16) {
        if self.left {
            return;
        }
        let buffers = self.buffers(token);
        self.ring.queue.add(&self.ring.mem, &[], &buffers, token).unwrap();
    }

    fn pop(&mut self) -> Option<Used> {
        self.ring.queue.pop_used(&self.ring.mem).unwrap()
    }

    fn content(&self, used: Used) -> Vec<u8> {
        let mut left = used.len;
        let mut data = Vec::new();
        for Buffer { addr, len } in self.buffers(used.token) {
            data.extend(self.ring.read(addr, len.min(left)));
            left -= len.min(left);
        }
        data
    }

    /// Takes the next frame, and makes its buffers available again.
    pub(crate) fn take(&mut self) -> Option<Came> {
        loop {
            let first = self.pop()?;
            if first.len == 0 {
                self.empty += 1;
                self.post(first.token);
                self.ring.publish();
                continue;
            }
            let mut tokens = vec![first.token];
            let mut data = self.content(first);
            let (header, _) = Header::read_from_prefix(&data).expect("a header");
            let count = if self.mergeable { header.num_buffers.get() } else { 1 };
            let start = Instant::now();
            while tokens.len() < usize::from(count) {
                assert!(start.elapsed() < PATIENCE, "{header:?}: the other buffers do not come");
                let Some(next) = self.pop() else { continue };
                data.extend(self.content(next));
                tokens.push(next.token);
            }
            for token in tokens {
                self.post(token);
            }
            self.ring.publish();
            data.drain(..HEADER_LEN);
            self.taken += 1;
            return Some(Came { header, data });
        }
    }

    /// The frames that are in a queue that has been reset: nothing is made available any more.
    pub(crate) fn leave(&mut self) -> Vec<Came> {
        self.left = true;
        self.take_all()
    }

    /// All frames that have come by now.
    pub(crate) fn take_all(&mut self) -> Vec<Came> {
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Takes frames until there is one like this; gives it.
    pub(crate) fn wait_for(&mut self, what: &str, mut like: impl FnMut(&Came) -> bool) -> Came {
        let start = Instant::now();
        loop {
            match self.take() {
                Some(came) if like(&came) => return came,
                Some(_) => {}
                None => {
                    assert!(start.elapsed() < PATIENCE, "{what} does not come");
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// Asks to be notified; whether there is something already.
    pub(crate) fn arm(&mut self) -> bool {
        self.ring.queue.arm(&self.ring.mem).unwrap()
    }

    /// Writes this octet all over the buffers.
    pub(crate) fn poison(&self, octet: u8) {
        let len = self.shape.buffer * u32::from(self.shape.parts) * u32::from(self.shape.size);
        self.ring.write(self.base, &vec![octet; len as usize]);
    }

    /// Whether the buffers hold this octet only.
    pub(crate) fn is_poisoned(&self, octet: u8) -> bool {
        let len = self.shape.buffer * u32::from(self.shape.parts) * u32::from(self.shape.size);
        self.ring.read(self.base, len).iter().all(|found| *found == octet)
    }

    /// Starts the queue anew, with a size up to that it was placed with.
    pub(crate) fn renew(&mut self, size: u16) {
        self.config.size = size;
        self.left = false;
        self.ring.renew(&self.config);
        self.count = size / self.shape.parts;
    }
}

/// A transmitq.
pub(crate) struct Sender {
    pub(crate) index: u16,
    pub(crate) config: QueueConfig,
    ring: Ring,
    slot: u32,
    base: u64,
    idle: Vec<u16>,
}

impl Sender {
    pub(crate) fn place(stock: &mut Stock, pair: u16, shape: Shape) -> Self {
        let (ring, config) = Ring::place(stock, shape.size, Shape { parts: 2, ..shape }, pair);
        let slot = (shape.longest + 64).next_multiple_of(64);
        let count = shape.size / 2;
        let base = stock.take(Spot::Driver, u64::from(slot) * u64::from(count));
        Self { index: 2 * pair + 1, config, ring, slot, base, idle: (0..count).collect() }
    }

    /// Sends a frame, with its header in a buffer of its own; waits for room.
    pub(crate) fn send(&mut self, header: Header, data: &[u8]) {
        let start = Instant::now();
        while self.idle.is_empty() {
            assert!(start.elapsed() < PATIENCE, "the agent does not use what was sent");
            self.reclaim();
        }
        assert!(self.try_send(header, data));
    }

    /// Sends a frame if there is room.
    pub(crate) fn try_send(&mut self, header: Header, data: &[u8]) -> bool {
        self.reclaim();
        let Some(token) = self.idle.pop() else { return false };
        let addr = self.base + u64::from(token) * u64::from(self.slot);
        self.ring.write(addr, header.as_bytes());
        self.ring.write(addr + 64, data);
        let len = u32::try_from(data.len()).unwrap();
        let buffers = [Buffer { addr, len: 12 }, Buffer { addr: addr + 64, len }];
        self.ring.queue.add(&self.ring.mem, &buffers, &[], token).unwrap();
        self.ring.publish();
        true
    }

    /// Takes back what the device has used; so many are left.
    pub(crate) fn reclaim(&mut self) -> usize {
        while let Some(used) = self.ring.queue.pop_used(&self.ring.mem).unwrap() {
            self.idle.push(used.token);
        }
        usize::from(self.config.size / 2) - self.idle.len()
    }

    /// Starts the queue anew, with a size up to that it was placed with.
    pub(crate) fn renew(&mut self, size: u16) {
        self.config.size = size;
        self.ring.renew(&self.config);
        self.idle = (0..size / 2).collect();
    }

    /// Asks to be notified; whether there is something already.
    pub(crate) fn arm(&mut self) -> bool {
        self.ring.queue.arm(&self.ring.mem).unwrap()
    }
}

/// The control queue: commands cut as Linux cuts them, a buffer each for header, data and answer.
pub(crate) struct Control {
    pub(crate) config: QueueConfig,
    ring: Ring,
    memory: u64,
}

/// Memory of a command.
const COMMAND_LEN: u64 = 32 << 10;

impl Control {
    pub(crate) fn place(stock: &mut Stock) -> Self {
        let shape = super::rings::LINUX;
        let (mut ring, config) = Ring::place(stock, 16, Shape { parts: 8, ..shape }, 0);
        // Its doorbell is that of messages.
        ring.doorbell = stock.theirs[0].clone();
        let memory = stock.take(Spot::Driver, COMMAND_LEN);
        Self { config, ring, memory }
    }

    /// Has the device carry out a command; `true`: it says OK.
    #[must_use]
    pub(crate) fn command(&mut self, code: (u8, u8), data: &[&[u8]]) -> bool {
        let header = [code.0, code.1];
        let pieces: Vec<&[u8]> = [&header[..]].into_iter().chain(data.iter().copied()).collect();
        match self.raw(&pieces, 1) {
            Some(net::ctrl::OK) => true,
            Some(net::ctrl::ERR) => false,
            other => panic!("{code:?} was answered by {other:?}"),
        }
    }

    /// Sends these octets, a buffer each, with so many bytes for an answer; the first one, if the
    /// device has written it.
    pub(crate) fn raw(&mut self, pieces: &[&[u8]], answer: u32) -> Option<u8> {
        let mut at = self.memory;
        let mut readable = Vec::new();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.ring.write(at, piece);
            readable.push(Buffer { addr: at, len: u32::try_from(piece.len()).unwrap() });
            at += piece.len() as u64;
        }
        self.ring.write(at, &[0x5a]);
        let writable = [Buffer { addr: at, len: answer }];
        let writable = if answer == 0 { &[][..] } else { &writable };
        self.ring.queue.add(&self.ring.mem, &readable, writable, 0).unwrap();
        self.ring.publish();
        let start = Instant::now();
        while self.ring.queue.pop_used(&self.ring.mem).unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "a command is not answered");
            thread::sleep(Duration::from_micros(20));
        }
        (answer > 0).then(|| self.ring.read(at, 1)[0])
    }

    /// Makes a chain available that a driver of good will could not make.
    pub(crate) fn wreck(&mut self, descriptors: &[[u64; 2]]) {
        let table = self.ring.mem.resolve(self.config.desc, 16 * 16).unwrap();
        let table = self.ring.mem.view(table).unwrap();
        for (i, [addr, rest]) in descriptors.iter().enumerate() {
            table.store_le64(16 * i, *addr);
            table.store_le64(16 * i + 8, *rest);
        }
        let avail = self.ring.mem.resolve(self.config.driver, split::avail_len(16)).unwrap();
        let avail = self.ring.mem.view(avail).unwrap();
        let index = avail.load_le16(2);
        avail.store_le16(4 + 2 * usize::from(index % 16), 0);
        avail.store_release_le32(0, u32::from(index.wrapping_add(1)) << 16);
        ring_full_or_not(&self.ring.doorbell);
    }
}

/// Whether a set has packed rings; for names in what a case says.
pub(crate) fn format(features: Features) -> &'static str {
    if features.has(virtio::F_RING_PACKED) { "packed" } else { "split" }
}
