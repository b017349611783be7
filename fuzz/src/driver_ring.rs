//! The driver half of a queue, of either format, and the driver's data path, against a device that
//! writes what it likes, between the driver's steps and during them.
//!
//! A queue's half must give back no token that is not out, none twice, no length beyond what the buffers
//! have, and after a broken rule nothing but that. A path's frames must be what they say. Afterwards an
//! honest device must serve on the same memory.

use boardlane::memory::BusMemory;
use boardlane::net::device_path::DevicePath;
use boardlane::net::driver_path::{Buffers, DriverPath, MIN_ARENA, RECEIVE_BUFFER};
use boardlane::net::frame::Offloads;
use boardlane::net::path::{Inward, Path, PathError};
use boardlane::virtqueue::{Buffer, Chain, DriverQueue, QueueConfig, QueueError};

use super::octets::Octets;
use super::ring_memory::{
    Choice, Cursor, DATA, RINGS, STEPS, describe, fill, frame_len, judge, length, memory, poke,
    scribble, size, storm, zero_rings,
};

/// Bytes that the queue's half is tried with, and the path: what it needs to send, and three buffers.
const DATA_LEN: u64 = 0x4000;
const PATH_LEN: u64 = MIN_ARENA as u64 + 3 * RECEIVE_BUFFER as u64;
/// Where the path's receive buffers begin.
const RECEIVE: u64 = DATA + MIN_ARENA as u64;

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut script = Octets(data);
    match script.u8() % 2 {
        0 => queue(&mut script),
        _ => path(&mut script),
    }
}

/// How far the device has come in a queue.
#[derive(Clone, Copy)]
struct Device {
    queue: QueueConfig,
    used: u16,
    cursor: Cursor,
}

impl Device {
    fn new(queue: QueueConfig) -> Self {
        Self { queue, used: 0, cursor: Cursor::START }
    }

    /// One thing that a device does, good or not.
    fn step(&mut self, mem: &BusMemory, script: &mut Octets<'_>) {
        let size = self.queue.size.clamp(1, 32);
        match script.u8() % 8 {
            0..=3 => self.give_back(mem, u32::from(script.u8()) % u32::from(size), length(script)),
            4 => self.give_back(mem, script.u32(), length(script)),
            // What stands in the used ring or the event suppression.
            5 => {
                let at = self.queue.device + u64::from(script.u8()) / 2 * 2;
                poke(mem, at, &script.u16().to_le_bytes());
            }
            // The index alone.
            6 if !self.queue.packed => {
                self.used = self.used.wrapping_add(script.u8().into());
                poke(mem, self.queue.device + 2, &self.used.to_le_bytes());
            }
            6 => self.cursor = self.cursor.next(size),
            _ => scribble(mem, script),
        }
    }

    /// Uses the chain of this name.
    fn give_back(&mut self, mem: &BusMemory, id: u32, len: u32) {
        let size = self.queue.size.clamp(1, 32);
        if self.queue.packed {
            let at = self.queue.desc + 16 * u64::from(self.cursor.at);
            let [a, b, ..] = id.to_le_bytes();
            describe(mem, at, 0, len, [u16::from_le_bytes([a, b]), self.cursor.flags(true)]);
            self.cursor = self.cursor.next(size);
        } else {
            let at = self.queue.device + 4 + 8 * u64::from(self.used % size);
            poke(mem, at, &id.to_le_bytes());
            poke(mem, at + 4, &len.to_le_bytes());
            self.used = self.used.wrapping_add(1);
            poke(mem, self.queue.device + 2, &self.used.to_le_bytes());
        }
    }
}

/// A driver half, and what it has given out: the writable bytes behind each token.
struct Half {
    queue: DriverQueue,
    out: Vec<Option<u32>>,
    fault: Option<QueueError>,
}

fn queue(script: &mut Octets<'_>) {
    let choice = Choice::of(script);
    let mem = memory(DATA_LEN, choice.kind);
    let config = choice.queue(0, size(script));
    let Ok(mut half) = half(&mem, &config) else { return };
    let mut device = Device::new(config);
    // Another thread writes to the rings meanwhile, once in a script, as it takes long.
    let mut stormed = false;
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        match script.u8() % 12 {
            0..=3 => device.step(&mem, script),
            4 | 5 => half.add(&mem, script.u8(), script.u8()),
            6 => {
                let _ = half.queue.publish(&mem);
            }
            7 => half.scan(&mem),
            8 => drop(half.pop(&mem)),
            9 => {
                let verdict = half.queue.arm(&mem).map(drop);
                half.sticks(verdict);
            }
            10 => half.queue.disarm(&mem),
            _ if stormed => {}
            _ => {
                stormed = true;
                storm(&mem, script, || {
                    for turn in 0..8 {
                        half.add(&mem, turn, turn);
                        let _ = half.queue.publish(&mem);
                        half.scan(&mem);
                    }
                });
            }
        }
    }
    zero_rings(&mem);
    serves(&mem, self::half(&mem, &config).expect("as before"), &config);
}

fn half(mem: &BusMemory, config: &QueueConfig) -> Result<Half, QueueError> {
    let mut queue = config.activate_driver(mem)?;
    queue.set_indirect_tables(mem, RINGS + 0x3000, 8)?;
    let out = vec![None; queue.size().into()];
    Ok(Half { queue, out, fault: None })
}

impl Half {
    /// A chain of up to three buffers of each kind, under a token that is free.
    fn add(&mut self, mem: &BusMemory, shape: u8, len: u8) {
        let Some(token) = self.out.iter().position(Option::is_none) else { return };
        let len = u32::from(len) + 1;
        let buffer = |n: u32| Buffer { addr: DATA + u64::from(n) * 0x100, len };
        let readable: Vec<_> = (0..u32::from(shape & 3)).map(buffer).collect();
        let writable: Vec<_> = (4..4 + u32::from(shape >> 2 & 3)).map(buffer).collect();
        if readable.is_empty() && writable.is_empty() {
            return;
        }
        let number = token.try_into().expect("at most a ring");
        if self.queue.add(mem, &readable, &writable, number).is_ok() {
            assert_eq!(self.fault, None, "a broken queue takes nothing");
            self.out[token] = Some(len * u32::try_from(writable.len()).expect("three"));
        }
        assert!(self.queue.free() <= self.queue.size());
    }

    /// Takes all that is there, which is never more than is out.
    fn scan(&mut self, mem: &BusMemory) {
        let most = self.out.iter().flatten().count();
        let verdict = self.queue.used_ready(mem);
        if let Ok(ready) = verdict {
            assert!(usize::from(ready) <= most, "{ready} used of {most}");
        }
        self.sticks(verdict.map(drop));
        let mut taken = 0;
        while self.pop(mem) {
            taken += 1;
            assert!(taken <= most, "{taken} chains of {most}");
        }
    }

    fn pop(&mut self, mem: &BusMemory) -> bool {
        let verdict = self.queue.pop_used(mem);
        self.sticks(verdict.map(drop));
        let Ok(Some(used)) = verdict else { return false };
        let most = self.out[usize::from(used.token)].take();
        assert!(most.is_some_and(|most| used.len <= most), "{used:?} of {most:?}");
        true
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

/// Chains go out to an honest device, and come back.
fn serves(mem: &BusMemory, mut half: Half, config: &QueueConfig) {
    let mut device = config.activate_device(mem).expect("the driver's half took it");
    let mut chain = Chain::default();
    for turn in 0..2 * config.size + 1 {
        let writable = if config.size > 1 { 4 } else { 0 };
        half.add(mem, 1 | writable, turn.to_le_bytes()[0]);
        let _ = half.queue.publish(mem);
        assert_eq!(device.pop(mem, &mut chain), Ok(true));
        device.push(mem, chain.head, chain.writable_len());
        let _ = device.publish(mem);
        assert!(half.pop(mem), "used and not seen");
    }
}

/// What stands where, and what was agreed.
struct Link {
    mem: BusMemory,
    choice: Choice,
    queues: [QueueConfig; 2],
}

/// The driver's worker.
struct Worker {
    path: DriverPath,
    allowed: Offloads,
}

fn path(script: &mut Octets<'_>) {
    let choice = Choice::of(script);
    let queues = [0, 1].map(|which| choice.queue(which, script.choose(&[4, 8, 16, 32, 1, 2])));
    let link = Link { mem: memory(PATH_LEN, choice.kind), choice, queues };
    let mut devices = queues.map(Device::new);
    let mut worker = link.worker();
    for _ in 0..STEPS {
        if script.is_empty() || worker.step(&link.mem, &mut devices, script).is_err() {
            break;
        }
    }
    zero_rings(&link.mem);
    link.serves();
}

impl Link {
    fn worker(&self) -> Worker {
        let features = self.choice.features();
        let [receiveq, transmitq] = &self.queues;
        let buffers = Buffers { receive: RECEIVE..DATA + PATH_LEN, transmit: DATA..RECEIVE };
        let path = DriverPath::new(&self.mem, features, receiveq, transmitq, &buffers);
        let path = path.expect("our own layout");
        Worker { path, allowed: Offloads::to_driver(features) }
    }

    /// Frames go to an honest device and come from it.
    fn serves(&self) {
        let (mem, features) = (&self.mem, self.choice.features());
        let mut worker = self.worker();
        let [receiveq, transmitq] = &self.queues;
        let mut device = DevicePath::new(mem, features, receiveq, transmitq).expect("honest");
        for _ in 0..3 {
            assert!(worker.outward(mem, 72).expect("honest"), "no room");
            let _ = worker.path.flush(mem);
            let frame = device.receive(mem).expect("honest");
            assert!(matches!(frame, Inward::Frame { len: 60, .. }), "{frame:?}");
            device.received(mem).expect("honest");
            let _ = device.release(mem);
            let room = device.room(mem).expect("honest");
            assert!(room.fill(mem, &[0; 72]), "no buffer");
            assert_eq!(device.sent(mem, 72), Ok(None));
            let _ = device.flush(mem);
            assert_eq!(worker.inward(mem), Ok(Some(60)));
            let _ = worker.path.release(mem);
        }
    }
}

impl Worker {
    fn step(
        &mut self,
        mem: &BusMemory,
        devices: &mut [Device; 2],
        script: &mut Octets<'_>,
    ) -> Result<(), PathError> {
        match script.u8() % 12 {
            0..=2 => devices[0].step(mem, script),
            3 | 4 => devices[1].step(mem, script),
            // A header and the start of a frame, in a receive buffer.
            5 => {
                let at = RECEIVE + u64::from(script.u8() % 3) * u64::from(RECEIVE_BUFFER);
                let len = script.u8().into();
                poke(mem, at, script.take(len));
            }
            6 | 7 => drop(self.outward(mem, frame_len(script))?),
            8 | 9 => drop(self.inward(mem)?),
            10 => {
                let _ = (self.path.flush(mem), self.path.release(mem));
            }
            _ => {
                let _ = self.path.arm(mem, script.u8() & 1 != 0)?;
                let _ = self.path.arm_for_room(mem)?;
                self.path.disarm(mem);
            }
        }
        Ok(())
    }

    /// Sends a frame, if there is room.
    fn outward(&mut self, mem: &BusMemory, len: usize) -> Result<bool, PathError> {
        if fill(self.path.room(mem)?, mem, len).is_none() {
            return Ok(false);
        }
        Ok(self.path.sent(mem, len)?.is_none())
    }

    /// Takes a frame, if there is one; its length.
    fn inward(&mut self, mem: &BusMemory) -> Result<Option<usize>, PathError> {
        let frame = match self.path.receive(mem)? {
            Inward::Empty => return Ok(None),
            Inward::Dropped(_) => None,
            Inward::Frame { prefix, tail, len } => {
                judge(mem, prefix, tail, len, self.allowed);
                Some(len)
            }
        };
        self.path.received(mem)?;
        Ok(frame)
    }
}
