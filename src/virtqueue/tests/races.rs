//! Two threads on one queue: what no interleaving may lose.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;

/// Where two threads meet: both go on from `wait` at as nearly the same moment as can be had.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    /// Waits for the other one, then for a few turns more.
    fn wait(&self, delay: usize) {
        let mine = self.0.fetch_add(1, Ordering::SeqCst);
        let both = (mine | 1) + 1;
        let mut turns = 0;
        while self.0.load(Ordering::SeqCst) < both {
            turns += 1;
            if turns % 200 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        (0..delay).for_each(|turn| _ = std::hint::black_box(turn));
    }
}

/// Barriers C and D on this machine: one end publishes while the other goes to sleep. Either the
/// publisher rings, or the sleeper finds what was published. Code that is not optimised takes so
/// long from its store to its load that even without a fence nothing is reordered: run this with
/// `--release` to be told of a missing one.
#[test]
fn who_publishes_rings_or_who_goes_to_sleep_finds_it() {
    const ROUNDS: u64 = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    // The ends' ways to their stores differ in length: try all shifts between them.
    const MOST: usize = 60;
    for (event_idx, packed) in [(true, false), (false, false), (true, true), (false, true)] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { packed, ..config(4, event_idx, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let meeting = Meeting::default();
        let rung = AtomicBool::new(false);
        let lost = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let check = |which: usize, found: bool| {
            let ok = found || rung.load(Ordering::SeqCst);
            lost[which].fetch_add(usize::from(!ok), Ordering::SeqCst);
        };
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut random = Random(0xd21);
                for _ in 0..ROUNDS {
                    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
                    driver.disarm(&mem);
                    meeting.wait(random.below(MOST));
                    rung.store(driver.publish(&mem), Ordering::SeqCst);
                    meeting.wait(0);
                    meeting.wait(random.below(MOST));
                    let found = driver.arm(&mem).unwrap();
                    meeting.wait(0);
                    check(1, found);
                    while driver.pop_used(&mem).unwrap().is_some() {}
                }
            });
            s.spawn(|| {
                let mut random = Random(0xde5);
                let mut chain = Chain::default();
                for _ in 0..ROUNDS {
                    device.disarm(&mem);
                    meeting.wait(random.below(MOST));
                    let found = device.arm(&mem).unwrap();
                    meeting.wait(0);
                    check(0, found);
                    assert!(device.pop(&mem, &mut chain).unwrap());
                    device.push(&mem, chain.head, 0);
                    meeting.wait(random.below(MOST));
                    rung.store(device.publish(&mem), Ordering::SeqCst);
                    meeting.wait(0);
                }
            });
        });
        let lost = lost.map(AtomicUsize::into_inner);
        assert_eq!(lost, [0, 0], "lost to the device, to the driver; {config:?}");
    }
}

/// Waits for the doorbell. An end that is done has rung before it hangs up.
fn sleep(doorbell: &Receiver<()>) {
    doorbell.recv_timeout(Duration::from_secs(10)).expect("a notification was lost");
}

fn send(
    driver: &mut DriverQueue,
    mem: &BusMemory,
    chains: u32,
    out: &Sender<()>,
    inn: &Receiver<()>,
) {
    let (mut sent, mut back) = (0u32, 0u32);
    let slot = |token: u16| BUFFERS + 8 * u64::from(token);
    let mut tokens: Vec<u16> = (0..driver.size()).collect();
    while back < chains {
        driver.disarm(mem);
        while let Some(used) = driver.pop_used(mem).unwrap() {
            tokens.push(used.token);
            back += 1;
        }
        while sent < chains && driver.free() > 0 {
            let token = tokens.pop().unwrap();
            poke(mem, slot(token), &u64::from(sent).to_le_bytes());
            driver.add(mem, &[buffer(slot(token), 8)], &[], token).unwrap();
            sent += 1;
        }
        if driver.publish(mem) {
            let _ = out.send(());
        }
        if back < chains && !driver.arm(mem).unwrap() {
            sleep(inn);
        }
    }
}

fn receive(
    device: &mut DeviceQueue,
    mem: &BusMemory,
    chains: u32,
    out: &Sender<()>,
    inn: &Receiver<()>,
) {
    let mut chain = Chain::default();
    let mut got = 0u32;
    while got < chains {
        device.disarm(mem);
        while device.pop(mem, &mut chain).unwrap() {
            let number = mem.view(chain.readable[0]).unwrap().load_le64(0);
            assert_eq!(number, u64::from(got), "the payload is older than its index");
            device.push(mem, chain.head, 0);
            got += 1;
        }
        if device.publish(mem) {
            let _ = out.send(());
        }
        if got < chains && !device.arm(mem).unwrap() {
            sleep(inn);
        }
    }
}

/// Two threads that sleep whenever they may: one that is not rung stops for good.
#[test]
fn ends_that_sleep_between_batches_never_wait_for_ever() {
    let split = [
        (config(1, true, false), Kind::Cached),
        (config(1, false, false), Kind::Cached),
        (config(4, true, false), Kind::Cached),
        (config(4, false, false), Kind::Cached),
        (config(4, true, false), Kind::Uncached),
        (config(64, true, false), Kind::Cached),
    ];
    let packed = [(1, true), (1, false), (3, true), (3, false), (4, true), (61, true)]
        .map(|(size, event_idx)| (packed_config(size, event_idx, false), Kind::Cached));
    for (config, kind) in split.into_iter().chain(packed) {
        const CHAINS: u32 = 30_000;
        let mem = memory(kind, kind);
        let config = QueueConfig { in_order: config.event_idx, ..config };
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let ((to_device, from_driver), (to_driver, from_device)) = (channel(), channel());
        std::thread::scope(|s| {
            let mem = &mem;
            s.spawn(move || send(&mut driver, mem, CHAINS, &to_device, &from_device));
            s.spawn(move || receive(&mut device, mem, CHAINS, &to_driver, &from_driver));
        });
    }
}
