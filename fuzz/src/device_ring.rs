//! The device half of a queue, of either format, and the device's data paths, against a driver that
//! writes what it likes, between the device's steps and during them.
//!
//! A queue's half must give out no chain outside the memory, none twice, never more than the ring has,
//! and after a broken rule nothing but that. A path's frames must be what they say. Afterwards an honest
//! driver must be served on the same memory.

use boardlane::dma::{Completion, Piece, Place, Transfer};
use boardlane::memory::{BusMemory, Kind};
use boardlane::net::device_path::DevicePath;
use boardlane::net::engine_path::{EnginePath, EngineUse};
use boardlane::net::frame::Offloads;
use boardlane::net::path::{Inward, Path, PathError, Which};
use boardlane::virtqueue::{Buffer, Chain, DeviceQueue, DriverQueue, QueueConfig, QueueError};

use super::octets::Octets;
use super::ring_memory::{
    Choice, Cursor, DATA, RINGS, STEPS, address, describe, fill, frame_len, judge, length, memory,
    peek, poke, scribble, size, storm, touch, zero_rings,
};

/// Bytes that descriptors may point to, for a queue's half and for a path: more than the largest frame.
const QUEUE_LEN: u64 = 0x2000;
const PATH_LEN: u64 = 0x1_8000;

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut script = Octets(data);
    match script.u8() % 4 {
        0 | 1 => queue(&mut script),
        2 => path(&mut script, false),
        _ => path(&mut script, true),
    }
}

/// The driver: one or two queues, and how far it has come in each.
struct Driver {
    mem: BusMemory,
    data_len: u64,
    queues: [QueueConfig; 2],
    avail: [u16; 2],
    cursors: [Cursor; 2],
}

impl Driver {
    fn new(choice: Choice, data_len: u64, sizes: [u16; 2]) -> Self {
        Self {
            mem: memory(data_len, choice.kind),
            data_len,
            queues: [choice.queue(0, sizes[0]), choice.queue(1, sizes[1])],
            avail: [0; 2],
            cursors: [Cursor::START; 2],
        }
    }

    /// One thing that a driver does, good or not.
    fn step(&mut self, which: usize, script: &mut Octets<'_>) {
        let queue = self.queues[which];
        let size = queue.size.clamp(1, 32);
        match script.u8() % 6 {
            // A descriptor, in the ring, the table, or an indirect table.
            0 => {
                let table = if script.u8() & 3 == 0 { RINGS + 0x3000 } else { queue.desc };
                let at = table + 16 * u64::from(u16::from(script.u8()) % size);
                let (addr, len) = (address(script, self.data_len), length(script));
                describe(&self.mem, at, addr, len, [script.u16(), script.u16()]);
            }
            1 | 2 if queue.packed => self.offer_packed(which, script),
            // A chain of one or two buffers, as it should be.
            1 => {
                let head = u16::from(script.u8()) % size;
                let (addr, len) = (address(script, self.data_len), length(script));
                let flags = u16::from(script.u8()) & 7;
                let next = u16::from(script.u8()) % size;
                describe(&self.mem, queue.desc + 16 * u64::from(head), addr, len, [flags, next]);
                self.offer(which, head);
            }
            2 => self.offer(which, u16::from(script.u8()) % size),
            // What stands in the available ring or the event suppression.
            3 => {
                let at = queue.driver + u64::from(script.u8() % 80) / 2 * 2;
                poke(&self.mem, at, &script.u16().to_le_bytes());
            }
            4 => scribble(&self.mem, script),
            // A whole indirect table, and a descriptor for it.
            _ => {
                let count = u32::from(script.u8() % 8);
                for i in 0..count {
                    let (addr, len) = (address(script, self.data_len), length(script));
                    let last = [u16::from(script.u8()) & 7, u16::from(script.u8()) & 7];
                    let last = if queue.packed { [0, last[0]] } else { last };
                    describe(&self.mem, RINGS + 0x3000 + 16 * u64::from(i), addr, len, last);
                }
                let len = 16 * count + u32::from(script.u8() == 255);
                self.offer_indirect(which, len);
            }
        }
    }

    /// Makes the chain at `head` of a split queue available.
    fn offer(&mut self, which: usize, head: u16) {
        let queue = &self.queues[which];
        let slot = self.avail[which] % queue.size.clamp(1, 32);
        poke(&self.mem, queue.driver + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.avail[which] = self.avail[which].wrapping_add(1);
        poke(&self.mem, queue.driver + 2, &self.avail[which].to_le_bytes());
    }

    /// Makes one descriptor of a packed queue available where the device looks for it.
    fn offer_packed(&mut self, which: usize, script: &mut Octets<'_>) {
        let (addr, len) = (address(script, self.data_len), length(script));
        let (id, flags) = (script.u8().into(), u16::from(script.u8()) & 7);
        self.put_packed(which, addr, len, id, flags);
    }

    fn put_packed(&mut self, which: usize, addr: u64, len: u32, id: u16, flags: u16) {
        let (queue, cursor) = (&self.queues[which], self.cursors[which]);
        let last = [id, flags | cursor.flags(false)];
        describe(&self.mem, queue.desc + 16 * u64::from(cursor.at), addr, len, last);
        self.cursors[which] = cursor.next(queue.size.clamp(1, 32));
    }

    fn offer_indirect(&mut self, which: usize, len: u32) {
        let queue = self.queues[which];
        if queue.packed {
            let id = self.cursors[which].at;
            self.put_packed(which, RINGS + 0x3000, len, id, 4);
        } else {
            let head = self.avail[which] % queue.size.clamp(1, 32);
            let at = queue.desc + 16 * u64::from(head);
            describe(&self.mem, at, RINGS + 0x3000, len, [4, 0]);
            self.offer(which, head);
        }
    }
}

/// A device half, and what it has given out.
struct Half {
    queue: DeviceQueue,
    in_order: bool,
    chain: Chain,
    /// Name and writable bytes of the chains that are held, oldest first.
    held: Vec<(u16, u32)>,
    /// How many were popped since one of them was pushed.
    fresh: u16,
    fault: Option<QueueError>,
    /// Another thread has written to the rings meanwhile: once in a script, as it takes long.
    stormed: bool,
}

fn queue(script: &mut Octets<'_>) {
    let choice = Choice::of(script);
    let mut driver = Driver::new(choice, QUEUE_LEN, [size(script), 4]);
    let fixed = driver.queues[0];
    if script.u8() == 0xff {
        let at = |script: &mut Octets<'_>| match script.u8() {
            pick @ 0..=0x7f => RINGS + u64::from(pick) * 16,
            _ => address(script, QUEUE_LEN),
        };
        let (desc, avail, used) = (at(script), at(script), at(script));
        driver.queues[0] = QueueConfig { desc, driver: avail, device: used, ..fixed };
    }
    if let Ok(queue) = driver.queues[0].activate_device(&driver.mem) {
        assert!(queue.size() > 0);
        let chain = Chain::default();
        let in_order = choice.in_order;
        let mut half = Half {
            queue,
            in_order,
            chain,
            held: Vec::new(),
            fresh: 0,
            fault: None,
            stormed: false,
        };
        // Where the areas are the script's, the driver writes to the fixed ones all the same.
        driver.queues[0] = fixed;
        half.play(&mut driver, script);
    }
    zero_rings(&driver.mem);
    if let Ok(device) = fixed.activate_device(&driver.mem) {
        let other = fixed.activate_driver(&driver.mem).expect("the device's half took it");
        serves(&driver.mem, device, other);
    }
}

impl Half {
    fn play(&mut self, driver: &mut Driver, script: &mut Octets<'_>) {
        for _ in 0..STEPS {
            if script.is_empty() {
                break;
            }
            let mem = &driver.mem;
            match script.u8() % 12 {
                0..=3 => driver.step(0, script),
                4 => self.scan(mem),
                5 => drop(self.pop(mem)),
                6 => {
                    let at = usize::from(script.u8());
                    self.push(mem, at, length(script));
                }
                7 => {
                    let _ = self.queue.publish(mem);
                }
                8 => {
                    let enough = script.u8().into();
                    let verdict = self.queue.arm_beyond(mem, enough).map(drop);
                    self.sticks(verdict);
                }
                9 => self.queue.disarm(mem),
                10 => {
                    let count = u16::from(script.u8()).min(self.fresh);
                    self.queue.unpop(count);
                    self.fresh -= count;
                    self.held.truncate(self.held.len() - usize::from(count));
                }
                _ if self.stormed => {}
                _ => {
                    self.stormed = true;
                    storm(mem, script, || {
                        for turn in 0..8 {
                            self.scan(mem);
                            self.push(mem, turn, turn.try_into().expect("below 8"));
                            let _ = self.queue.publish(mem);
                        }
                    });
                    self.scan(mem);
                }
            }
        }
    }

    /// Takes all that is there, which is never more than there are descriptors.
    fn scan(&mut self, mem: &BusMemory) {
        let verdict = self.queue.avail_ready(mem);
        if let Ok(ready) = verdict {
            assert!(ready <= self.queue.size());
        }
        self.sticks(verdict.map(drop));
        let most = usize::from(self.queue.size()) - self.held.len();
        let mut taken = 0;
        while self.pop(mem) {
            taken += 1;
            assert!(taken <= most, "{taken} chains of {most}");
        }
    }

    fn pop(&mut self, mem: &BusMemory) -> bool {
        let verdict = self.queue.pop(mem, &mut self.chain);
        self.sticks(verdict.map(drop));
        if verdict != Ok(true) {
            return false;
        }
        let (chain, size) = (&self.chain, usize::from(self.queue.size()));
        assert!(!self.held.iter().any(|(head, _)| *head == chain.head), "given out twice");
        let count = chain.readable.len() + chain.writable.len();
        assert!((1..=size).contains(&count), "a chain of {count} in a queue of {size}");
        let sum = |spans: &[boardlane::memory::Span]| spans.iter().map(|s| s.len()).sum::<usize>();
        assert_eq!(sum(&chain.readable), chain.readable_len() as usize);
        assert_eq!(sum(&chain.writable), chain.writable_len() as usize);
        chain.readable.iter().for_each(|span| touch(mem, *span, false));
        chain.writable.iter().for_each(|span| touch(mem, *span, true));
        self.held.push((chain.head, chain.writable_len()));
        self.fresh += 1;
        assert!(self.held.len() <= size, "more chains than descriptors");
        true
    }

    fn push(&mut self, mem: &BusMemory, at: usize, len: u32) {
        if self.held.is_empty() {
            return;
        }
        let at = if self.in_order { 0 } else { at % self.held.len() };
        let behind = self.held.len() - 1 - at;
        let (head, most) = self.held.remove(at);
        self.queue.push(mem, head, len.min(most));
        self.fresh = self.fresh.min(behind.try_into().expect("at most a ring"));
    }

    /// A queue that a rule was broken in says so for ever.
    fn sticks(&mut self, verdict: Result<(), QueueError>) {
        match (self.fault, verdict) {
            (None, Err(fault)) => {
                assert!(fault.to_string().len() < 200);
                self.fault = Some(fault);
            }
            (None, Ok(())) => {}
            (Some(fault), verdict) => assert_eq!(verdict, Err(fault), "once broken"),
        }
    }
}

/// An honest driver's chains come out, and come back.
fn serves(mem: &BusMemory, mut device: DeviceQueue, mut driver: DriverQueue) {
    let mut chain = Chain::default();
    for turn in 0..2 * driver.size() + 1 {
        let (question, answer) =
            (Buffer { addr: DATA, len: 40 }, Buffer { addr: DATA + 64, len: 8 });
        poke(mem, DATA, &[turn.to_le_bytes()[0]; 40]);
        let both = driver.size() > 1;
        let answers = if both { &[answer][..] } else { &[] };
        assert_eq!(driver.add(mem, &[question], answers, turn % driver.size()), Ok(()));
        let _ = driver.publish(mem);
        assert_eq!(device.pop(mem, &mut chain), Ok(true));
        assert_eq!(chain.readable_len(), 40);
        let mut text = [0; 40];
        mem.view(chain.readable[0]).expect("mapped").copy_to(0, &mut text);
        assert_eq!(text, [turn.to_le_bytes()[0]; 40]);
        let len = if both { 8 } else { 0 };
        device.push(mem, chain.head, len);
        let _ = device.publish(mem);
        let used = driver.pop_used(mem).expect("honest").expect("used");
        assert_eq!((used.token, used.len), (turn % driver.size(), len));
    }
}

/// What a worker knows of its path, and the engine's copies that are under way.
struct Worker {
    path: Box<dyn Path>,
    allowed: Offloads,
    transfers: Vec<Transfer>,
}

fn path(script: &mut Octets<'_>, engine: bool) {
    let choice = Choice::of(script);
    let mut driver = Driver::new(choice, PATH_LEN, [size(script), size(script)]);
    if let Ok(mut worker) = worker(&driver, choice, engine) {
        for _ in 0..STEPS {
            if script.is_empty() || worker.step(&mut driver, script).is_err() {
                break;
            }
        }
    }
    zero_rings(&driver.mem);
    let honest: Result<Vec<_>, _> =
        driver.queues.iter().map(|queue| queue.activate_driver(&driver.mem)).collect();
    if let (Ok(queues), Ok(worker)) = (honest, worker(&driver, choice, engine)) {
        let [receiveq, transmitq] = <[_; 2]>::try_from(queues).expect("two");
        worker.serves(&driver.mem, receiveq, transmitq);
    }
}

fn worker(driver: &Driver, choice: Choice, engine: bool) -> Result<Worker, PathError> {
    let (mem, features) = (&driver.mem, choice.features());
    let [receiveq, transmitq] = &driver.queues;
    let path: Box<dyn Path> = if engine {
        let by_engine = EngineUse { cpu_below: if choice.mergeable { 0 } else { 256 } };
        Box::new(EnginePath::new(mem, features, receiveq, transmitq, by_engine)?)
    } else {
        Box::new(DevicePath::new(mem, features, receiveq, transmitq)?)
    };
    Ok(Worker { path, allowed: Offloads::to_device(features), transfers: Vec::new() })
}

impl Worker {
    fn step(&mut self, driver: &mut Driver, script: &mut Octets<'_>) -> Result<(), PathError> {
        match script.u8() % 16 {
            0..=2 => driver.step(0, script),
            3..=5 => driver.step(1, script),
            6 => {
                // A header and the start of a frame, where buffers begin.
                let at = DATA + 0x200 * u64::from(script.u8() % 8);
                let len = script.u8().into();
                poke(&driver.mem, at, script.take(len));
            }
            7 | 8 => drop(self.outward(&driver.mem, frame_len(script))?),
            9 | 10 => drop(self.inward(&driver.mem)?),
            11 => {
                let _ = (self.path.flush(&driver.mem), self.path.release(&driver.mem));
            }
            12 => {
                let _ = self.path.arm(&driver.mem, script.u8() & 1 != 0)?;
                let _ = self.path.arm_for_room(&driver.mem)?;
                self.path.disarm(&driver.mem);
            }
            13 => {
                self.transfers.extend(std::iter::from_fn(|| self.path.poll_transfer()));
                assert!(self.transfers.len() <= 1024, "copies without end");
                if !self.transfers.is_empty() {
                    let at = usize::from(script.u8()) % self.transfers.len();
                    let transfer = self.transfers.swap_remove(at);
                    self.complete(&driver.mem, transfer, script.u8() != 0)?;
                }
            }
            14 => {
                let which = script.choose(&[Which::Receiveq, Which::Transmitq]);
                let at = usize::from(which == Which::Transmitq);
                self.path.reset_queue(which);
                driver.avail[at] = 0;
                driver.cursors[at] = Cursor::START;
                self.path.enable_queue(&driver.mem, which, &driver.queues[at])?;
            }
            _ => {
                while self.path.tick().is_some() {}
                while self.path.poll_drop().is_some() {}
            }
        }
        Ok(())
    }

    /// Sends a frame, if there is room.
    fn outward(&mut self, mem: &BusMemory, len: usize) -> Result<bool, PathError> {
        let local = self.path.local();
        let room = self.path.room(mem)?;
        if fill(room, local.as_deref().unwrap_or(mem), len).is_none() {
            return Ok(false);
        }
        Ok(self.path.sent(mem, len)?.is_none())
    }

    /// Takes a frame, if there is one; its length.
    fn inward(&mut self, mem: &BusMemory) -> Result<Option<usize>, PathError> {
        let local = self.path.local();
        let frame = match self.path.receive(mem)? {
            Inward::Empty => return Ok(None),
            Inward::Dropped(_) => None,
            Inward::Frame { prefix, tail, len } => {
                judge(local.as_deref().unwrap_or(mem), prefix, tail, len, self.allowed);
                Some(len)
            }
        };
        self.path.received(mem)?;
        Ok(frame)
    }

    fn complete(
        &mut self,
        mem: &BusMemory,
        transfer: Transfer,
        good: bool,
    ) -> Result<(), PathError> {
        let local = self.path.local().expect("an engine's");
        if good {
            transfer.pieces.iter().for_each(|piece| copy(mem, &local, piece));
        }
        self.path.handle_completion(Completion { transfer, good })
    }

    /// An honest driver's frame comes out, and it gets one.
    fn serves(mut self, mem: &BusMemory, mut receiveq: DriverQueue, mut transmitq: DriverQueue) {
        let buffer = Buffer { addr: DATA, len: 2048 };
        assert_eq!(receiveq.add(mem, &[], &[buffer], 0), Ok(()));
        let _ = receiveq.publish(mem);
        poke(mem, DATA + 0x1000, &[0; 72]);
        assert_eq!(transmitq.add(mem, &[Buffer { addr: DATA + 0x1000, len: 72 }], &[], 0), Ok(()));
        let _ = transmitq.publish(mem);
        let (mut sent, mut taken) = (false, None);
        for _ in 0..8 {
            sent = sent || self.outward(mem, 72).expect("an honest driver");
            taken = taken.or(self.inward(mem).expect("an honest driver"));
            while let Some(transfer) = self.path.poll_transfer() {
                self.complete(mem, transfer, true).expect("a good engine");
            }
            let _ = (self.path.flush(mem), self.path.release(mem));
        }
        assert_eq!((sent, taken), (true, Some(60)));
        let got = receiveq.pop_used(mem).expect("honest").expect("a frame");
        assert_eq!((got.token, got.len), (0, 72));
        let mut buffers = [0; 2];
        peek(mem, DATA + 10, &mut buffers);
        assert_eq!(buffers, [1, 0], "num_buffers");
        assert!(transmitq.pop_used(mem).expect("honest").is_some());
    }
}

/// What an engine does with one piece.
fn copy(mem: &BusMemory, local: &BusMemory, piece: &Piece) {
    let table = |place| match place {
        Place::Bus(span) => (mem, span),
        Place::Local(span) => (local, span),
    };
    let ((from, source), (to, target)) = (table(piece.from), table(piece.to));
    assert_eq!(source.len(), target.len());
    match (from.view(source), to.view(target)) {
        (Some(source), Some(target)) => source.copy_into(&target),
        // Memory that only an engine reaches is not there.
        _ => assert!([from.kind(source), to.kind(target)].contains(&Kind::DmaOnly)),
    }
}
