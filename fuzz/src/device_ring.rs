//! The device half of a queue, of either format, and the device's data paths, against a driver that
//! writes what it likes, between the device's steps and during them.
//!
//! A queue's half must give out no chain outside the memory, none twice, never more than the ring has,
//! and after a broken rule nothing but that. A path's frames must be what they say. Afterwards an honest
//! driver must be served on the same memory.

use boardlane::memory::BusMemory;
use boardlane::net::device_path::DevicePath;
use boardlane::net::engine_path::{EnginePath, EngineUse};
use boardlane::net::frame::Offloads;
use boardlane::net::path::{Path, PathError, Which};
use boardlane::virtqueue::{Buffer, Chain, DeviceQueue, DriverQueue, QueueConfig, QueueError};

use super::octets::Octets;
use super::ring_driver::Driver;
use super::ring_memory::{
    Choice, DATA, RINGS, STEPS, address, frame_len, length, memory, poke, size, storm, touch,
    zero_rings,
};
use super::ring_worker::Worker;

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

fn driver(choice: Choice, data_len: u64, [first, second]: [u16; 2]) -> Driver {
    let queues = vec![choice.queue(0, first), choice.queue(1, second)];
    Driver::new(memory(data_len, choice.kind), data_len, queues)
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
    let mut driver = driver(choice, QUEUE_LEN, [size(script), 4]);
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

fn path(script: &mut Octets<'_>, engine: bool) {
    let choice = Choice::of(script);
    let mut driver = driver(choice, PATH_LEN, [size(script), size(script)]);
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
    let [receiveq, transmitq] = [&driver.queues[0], &driver.queues[1]];
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
                driver.restart(at);
                self.path.enable_queue(&driver.mem, which, &driver.queues[at])?;
            }
            _ => {
                while self.path.tick().is_some() {}
                while self.path.poll_drop().is_some() {}
            }
        }
        Ok(())
    }
}
