//! What two CPUs may see of each other's stores: every interleaving, and every old value that the
//! orderings in the code do not rule out, by the loom model checker.
//!
//! The memory is loom's, in words of 4 bytes; an access of 8 is two of them, as on a CPU that has no
//! wider ones, which is the weaker promise. Queues are of two descriptors, and a FIFO is of one slot,
//! so that few steps go round them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use boardlane::memory::cells::{Cells, set_fences};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::spec::{amp_pci, window};
use boardlane::tunnel::amp::fifo::Area;
use boardlane::tunnel::fifo::{Fifo, Mailbox};
use boardlane::tunnel::part::Role;
use boardlane::virtqueue::{Buffer, Chain, DeviceQueue, DriverQueue, QueueConfig};
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;

/// What of the code's orderings is left out, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Release,
    Acquire,
    FullFences,
}

impl Without {
    fn order(self, order: Ordering) -> Ordering {
        match (self, order) {
            (Self::Release, Ordering::Release) | (Self::Acquire, Ordering::Acquire) => {
                Ordering::Relaxed
            }
            _ => order,
        }
    }

    fn fence(self, order: Ordering) {
        match (self, order) {
            (Self::Acquire, Ordering::Acquire) | (Self::FullFences, Ordering::SeqCst) => {}
            _ => fence(order),
        }
    }
}

/// Memory in loom's words.
#[derive(Debug)]
struct Words(Vec<AtomicU32>, Without);

impl Words {
    fn new(len: usize, without: Without) -> Self {
        Self((0..len / 4).map(|_| AtomicU32::new(0)).collect(), without)
    }
}

impl Cells for Words {
    fn len(&self) -> usize {
        self.0.len() * 4
    }

    fn load(&self, offset: usize, size: usize, order: Ordering) -> u64 {
        let order = self.1.order(order);
        let word = &self.0[offset / 4];
        if size == 8 {
            // The half that a release store writes last is looked at first.
            let high = self.0[offset / 4 + 1].load(order);
            return u64::from(high) << 32 | u64::from(word.load(order));
        }
        let value = u64::from(word.load(order)) >> (offset % 4 * 8);
        value & (u64::MAX >> (64 - size * 8))
    }

    fn store(&self, offset: usize, size: usize, value: u64, order: Ordering) {
        let order = self.1.order(order);
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        let low = u32::from_le_bytes([a, b, c, d]);
        let word = &self.0[offset / 4];
        match size {
            8 => {
                word.store(low, order);
                self.0[offset / 4 + 1].store(u32::from_le_bytes([e, f, g, h]), order);
            }
            4 => word.store(low, order),
            _ => {
                // Each word of the structures here has one writer, which sees what it wrote last.
                let shift = offset % 4 * 8;
                let mask = (u32::MAX >> (32 - size * 8)) << shift;
                let before = word.load(Ordering::Relaxed);
                word.store(before & !mask | low << shift, order);
            }
        }
    }
}

/// Runs `body` in every interleaving, on memory of `len` bytes from bus address 0 on; says how many.
fn check(len: usize, without: Without, body: impl Fn(&Arc<BusMemory>) + Send + Sync + 'static) {
    set_fences(Some(Rc::new(move |order| without.fence(order))));
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    loom::model(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let words = Arc::new(Words::new(len, without));
        let bytes = Arc::new(Mapping::model(words, Kind::Cached));
        let region = Region::mapped(0, len as u64, Side::Near, bytes, 0);
        body(&Arc::new(BusMemory::new(vec![region]).unwrap()));
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}

/// `story` holds as the code is, and shows it when one of these is left out.
fn needs(all: &[Without], story: impl Fn(Without) + Copy) {
    story(Without::Nothing);
    for without in all {
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| story(*without)));
        assert!(told.is_err(), "nobody misses {without:?}");
    }
}

const PAYLOAD: u64 = 88;
const LEN: usize = 96;

/// A queue of two, in whose memory everything has words of its own.
fn config(packed: bool, event_idx: bool) -> QueueConfig {
    QueueConfig {
        size: 2,
        desc: 0,
        driver: 32,
        device: 48,
        packed,
        in_order: false,
        event_idx,
        indirect: false,
    }
}

/// All kinds of queue.
const QUEUES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn start(mem: &BusMemory, config: QueueConfig) -> (DriverQueue, DeviceQueue) {
    (config.activate_driver(mem).unwrap(), config.activate_device(mem).unwrap())
}

fn write_payload(mem: &BusMemory, value: u32) {
    mem.view(mem.resolve(PAYLOAD, 4).unwrap()).unwrap().store_le32(0, value);
}

fn payload(mem: &BusMemory) -> u32 {
    mem.view(mem.resolve(PAYLOAD, 4).unwrap()).unwrap().load_le32(0)
}

/// Makes one buffer available, with this payload; whether the device is to be notified.
fn offer(driver: &mut DriverQueue, mem: &BusMemory, value: u32) -> bool {
    write_payload(mem, value);
    driver.add(mem, &[Buffer { addr: PAYLOAD, len: 4 }], &[], 1).unwrap();
    driver.publish(mem)
}

/// Takes the buffer that must be there, and its payload.
fn take(device: &mut DeviceQueue, mem: &BusMemory, chain: &mut Chain) -> u32 {
    assert!(device.pop(mem, chain).unwrap(), "the chain is there");
    assert_eq!(chain.readable, [mem.resolve(PAYLOAD, 4).unwrap()]);
    payload(mem)
}

/// Barriers A and C: while the driver publishes, the device goes to sleep.
fn make_available(packed: bool, event_idx: bool, without: Without) {
    check(LEN, without, move |mem| {
        let (mut driver, mut device) = start(mem, config(packed, event_idx));
        device.disarm(mem);
        let theirs = mem.clone();
        let other = thread::spawn(move || offer(&mut driver, &theirs, 7));
        let mut chain = Chain::default();
        let found = device.arm(mem).unwrap();
        if found {
            assert_eq!(take(&mut device, mem, &mut chain), 7);
        }
        let rung = other.join().unwrap();
        assert!(found || rung, "a notification is lost");
        if !found {
            assert_eq!(take(&mut device, mem, &mut chain), 7);
        }
    });
}

/// Barriers B and D: while the device uses a buffer, the driver goes to sleep.
fn make_used(packed: bool, event_idx: bool, without: Without) {
    check(LEN, without, move |mem| {
        let (mut driver, mut device) = start(mem, config(packed, event_idx));
        driver.add(mem, &[], &[Buffer { addr: PAYLOAD, len: 4 }], 5).unwrap();
        let _ = driver.publish(mem);
        driver.disarm(mem);
        let theirs = mem.clone();
        let other = thread::spawn(move || {
            let mut chain = Chain::default();
            assert!(device.pop(&theirs, &mut chain).unwrap());
            write_payload(&theirs, 9);
            device.push(&theirs, chain.head, 4);
            device.publish(&theirs)
        });
        let look = |driver: &mut DriverQueue| {
            let used = driver.pop_used(mem).unwrap().expect("it has been used");
            assert_eq!((used.token, used.len, payload(mem)), (5, 4, 9));
        };
        let found = driver.arm(mem).unwrap();
        if found {
            look(&mut driver);
        }
        let rung = other.join().unwrap();
        assert!(found || rung, "a notification is lost");
        if !found {
            look(&mut driver);
        }
    });
}

/// The second time round, where indices wrap and words are written over, and no notification is asked
/// for: the device looks again and again.
fn go_round(packed: bool, event_idx: bool, without: Without) {
    check(LEN, without, move |mem| {
        let (mut driver, mut device) = start(mem, config(packed, event_idx));
        let mut chain = Chain::default();
        for value in 1..=2 {
            let _ = offer(&mut driver, mem, value);
            assert_eq!(take(&mut device, mem, &mut chain), value);
            device.push(mem, chain.head, 0);
            let _ = device.publish(mem);
            assert!(driver.pop_used(mem).unwrap().is_some());
        }
        let theirs = mem.clone();
        let other = thread::spawn(move || {
            let _ = offer(&mut driver, &theirs, 3);
            driver
        });
        let early = device.pop(mem, &mut chain).unwrap();
        if early {
            assert_eq!(payload(mem), 3);
        }
        let mut driver = other.join().unwrap();
        if !early {
            assert_eq!(take(&mut device, mem, &mut chain), 3);
        }
        device.push(mem, chain.head, 0);
        let _ = device.publish(mem);
        assert!(driver.pop_used(mem).unwrap().is_some());
    });
}

const MAILBOX: u32 = window::mailbox_len(1);

/// Two FIFOs of one slot each.
fn fifos(mem: &BusMemory) -> (Fifo, Fifo) {
    let at = |addr: u32| Mailbox::at(mem, addr.into(), 1).unwrap();
    let (a, b) = (at(0), at(MAILBOX));
    (Fifo::start(mem, a, b), Fifo::start(mem, b, a))
}

/// The slot is used twice, so that what frees it counts as well as what fills it.
fn send_twice(without: Without) {
    check(2 * MAILBOX as usize, without, |mem| {
        let (mut sender, mut receiver) = fifos(mem);
        let theirs = mem.clone();
        let other = thread::spawn(move || {
            for n in [1, 2] {
                while !sender.send(&theirs, &[n; window::SLOT_LEN]).unwrap() {
                    thread::yield_now();
                }
            }
        });
        let mut slot = [0; window::SLOT_LEN];
        for n in [1, 2] {
            while !receiver.receive(mem, &mut slot).unwrap() {
                thread::yield_now();
            }
            assert_eq!(slot, [n; window::SLOT_LEN], "message {n}");
        }
        other.join().unwrap();
    });
}

/// The same over "AMP over PCI", whose queue has room for both.
fn send_two_to_a_device(without: Without) {
    check(amp_pci::FIFO_LEN as usize, without, |mem| {
        let end = |role| Area::at(mem, 0, role).unwrap().resume(mem).unwrap();
        let (mut sender, mut receiver) = (end(Role::Driver), end(Role::Device));
        let theirs = mem.clone();
        let other = thread::spawn(move || {
            for n in [1, 2] {
                assert!(sender.send(&theirs, &[n; amp_pci::SLOT_LEN]).unwrap());
            }
        });
        let mut slot = [0; amp_pci::SLOT_LEN];
        for n in [1, 2] {
            while !receiver.receive(mem, &mut slot).unwrap() {
                thread::yield_now();
            }
            assert_eq!(slot, [n; amp_pci::SLOT_LEN], "message {n}");
        }
        other.join().unwrap();
    });
}

#[test]
fn an_available_buffer_is_seen_whole_or_its_notification_is_sent() {
    for (packed, event_idx) in QUEUES {
        let all = [Without::Release, Without::Acquire, Without::FullFences];
        needs(&all, |without| make_available(packed, event_idx, without));
    }
}

#[test]
fn a_used_buffer_is_seen_whole_or_its_notification_is_sent() {
    for (packed, event_idx) in QUEUES {
        let all = [Without::Release, Without::Acquire, Without::FullFences];
        needs(&all, |without| make_used(packed, event_idx, without));
    }
}

#[test]
fn a_ring_that_goes_round_shows_no_old_descriptor() {
    for (packed, event_idx) in QUEUES {
        let all = [Without::Release, Without::Acquire];
        needs(&all, |without| go_round(packed, event_idx, without));
    }
}

#[test]
fn messages_come_whole_and_in_order_though_each_takes_the_slot_of_the_last() {
    needs(&[Without::Release, Without::Acquire], send_twice);
}

#[test]
fn messages_to_a_device_over_amp_pci_come_whole_and_in_order() {
    needs(&[Without::Release, Without::Acquire], send_two_to_a_device);
}
