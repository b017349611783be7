//! Queue pairs and queues that come and go while the board sends.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::net::features::Features;
use boardlane::os::netns::Namespace;
use boardlane::spec::net::{Header, ctrl};
use boardlane::spec::virtio::status;
use boardlane::tunnel::message::Body;

use super::{board, drive, dropped, neighbour};
use crate::cases::vhost_net::OFFERED;
use crate::stock::frames::{BROADCAST, Wire, number_of, numbered, udp_of};
use crate::stock::rings::{Came, LINUX, Receiver, Sender, Shape};
use crate::stock::{Driver, PACKED, SPLIT};
use crate::world::{PATIENCE, World, check, wait};

const FLOWS: u16 = 16;
const FIRST_PORT: u16 = 20_000;

/// Flows of numbered datagrams from the board, until told to stop: how many were sent of each.
fn flows<'s>(
    scope: &'s Scope<'s, '_>,
    world: &World,
    stop: &'s AtomicBool,
) -> ScopedJoinHandle<'s, u32> {
    let namespace = Namespace::open(&world.namespace("board0")).unwrap();
    scope.spawn(move || {
        let send = || {
            let ip = Ipv4Addr::new(10, 77, 0, 2);
            let sockets: Vec<_> = (FIRST_PORT..FIRST_PORT + FLOWS)
                .map(|port| UdpSocket::bind((ip, port)).unwrap())
                .collect();
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for socket in &sockets {
                    let to = (Ipv4Addr::new(10, 77, 0, 1), 9);
                    assert_eq!(socket.send_to(&number.to_be_bytes(), to).unwrap(), 4);
                }
                number += 1;
                thread::sleep(Duration::from_millis(1));
            }
            number
        };
        namespace.run(send).unwrap()
    })
}

/// What has come of the flows.
#[derive(Default)]
struct Tally {
    /// The last number of a flow in a queue, by both.
    last: BTreeMap<(u16, usize), u32>,
    seen: BTreeMap<(u16, u32), usize>,
    /// Frames by queue.
    came: [u64; 2],
}

impl Tally {
    fn take(&mut self, queue: usize, frames: &[Came]) {
        for Came { data, .. } in frames {
            let Some((port, payload)) = udp_of(data).filter(|(_, payload)| payload.len() == 4)
            else {
                continue;
            };
            let number = u32::from_be_bytes(payload.try_into().unwrap());
            let earlier = self.last.insert((port, queue), number);
            assert!(earlier < Some(number), "flow {port}: {number} after {earlier:?} in {queue}");
            let twice = self.seen.insert((port, number), queue);
            assert_eq!(twice, None, "flow {port}: {number} came twice");
            self.came[queue] += 1;
        }
    }

    fn receive(&mut self, driver: &mut Driver) {
        for queue in 0..2 {
            let frames = driver.pairs[queue].0.take_all();
            self.take(queue, &frames);
        }
    }

    /// Receives until each of these queues has had so many more.
    fn receive_more(&mut self, driver: &mut Driver, queues: &[usize], more: u64) {
        let (before, start) = (self.came, Instant::now());
        while queues.iter().any(|queue| self.came[*queue] < before[*queue] + more) {
            assert!(start.elapsed() < PATIENCE, "{:?} came, before {before:?}", self.came);
            self.receive(driver);
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Numbers missing in a flow all of whose frames came by this queue.
    fn gaps(&self, queue: usize, sent: u32) -> Vec<(u16, u32)> {
        let mut gaps = Vec::new();
        for port in FIRST_PORT..FIRST_PORT + FLOWS {
            let of_flow = self.seen.range((port, 0)..=(port, u32::MAX));
            if of_flow.clone().all(|(_, by)| *by == queue) {
                gaps.extend(
                    (0..sent).filter(|n| !self.seen.contains_key(&(port, *n))).map(|n| (port, n)),
                );
            }
        }
        gaps
    }
}

/// Frames that the board's end says it has dropped, of all pairs, by the netdev's direction.
fn lost(world: &World, reason: &str) -> [u64; 2] {
    let queues = world.link_status("board0", "bl0").unwrap().queues;
    let sum = |drops: &dyn Fn(usize) -> u64| (0..queues.len()).map(drops).sum();
    [sum(&|i| dropped(&queues[i].tx.drops, reason)), sum(&|i| dropped(&queues[i].rx.drops, reason))]
}

/// Frames that the board's kernel has dropped because its queue was full.
fn overflown(world: &World) -> u64 {
    let netdev = world.netdev("board0", "bl0").unwrap();
    netdev["stats64"]["tx"]["dropped"].as_u64().unwrap()
}

fn use_pairs(driver: &mut Driver, pairs: u16) {
    let control = driver.control.as_mut().unwrap();
    assert!(control.command(ctrl::MQ_VQ_PAIRS_SET, &[&pairs.to_le_bytes()]));
    driver.used = pairs.into();
}

fn tap_queues(world: &World, count: u64) {
    wait(&format!("the TAP has {count} queues"), || {
        let netdev = world.ip("board0", "-d link show dev bl0").remove(0);
        let info = netdev["linkinfo"]["info_data"].clone();
        check(info["numqueues"] == count, info)
    });
}

/// `slack`: frames that may be lost without a word.
fn pairs_come_and_go(keys: &'static str, features: Features, slack: u64) {
    let world = board(keys);
    let mut driver = drive(&world, features, 2, LINUX);
    neighbour(&world, &mut driver);
    let mut tally = Tally::default();
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let source = flows(scope, &world, &stop);
        tally.receive_more(&mut driver, &[0], 100);
        assert_eq!(tally.came[1], 0, "a driver begins with one pair");
        for round in 0..10 {
            use_pairs(&mut driver, 2);
            tally.receive_more(&mut driver, &[0, 1], 200);
            if round == 0 {
                tap_queues(&world, 2);
            }
            use_pairs(&mut driver, 1);
            // What came before the answer is there now (§5.1.6.5.6.2).
            tally.receive(&mut driver);
            let before = tally.came[1];
            tally.receive_more(&mut driver, &[0], 500);
            assert_eq!(tally.came[1], before, "round {round}: pair 1 is not used any more");
            if round == 0 {
                tap_queues(&world, 1);
            }
        }
        stop.store(true, Ordering::Relaxed);
        source.join().unwrap()
    });
    let all = u64::from(sent) * u64::from(FLOWS);
    // Closing a queue of a TAP, the kernel discards what came after the daemon's last look at it.
    let seen = wait("what was sent to have come, or to be counted", || {
        tally.receive(&mut driver);
        let counted = lost(&world, "stale")[0] + overflown(&world);
        let missing = all - tally.came[0] - tally.came[1];
        check(missing <= counted + slack, (all, tally.came, counted)).map(|()| (missing, counted))
    });
    eprintln!("{all} sent, {:?} came, {} missing of which {} counted", tally.came, seen.0, seen.1);
}

pub(crate) fn pairs_come_and_go_under_traffic() {
    pairs_come_and_go("queues = 2", SPLIT, 20);
}

pub(crate) fn pairs_come_and_go_under_traffic_by_engine() {
    let keys = "queues = 2\ndma = \"engine\"\nengine = { latency_us = 1000, cpu_below = 0 }";
    pairs_come_and_go(keys, PACKED, 20);
}

pub(crate) fn pairs_come_and_go_under_traffic_by_vhost_net() {
    // vhost-net takes 64 frames at once, and what of them it cannot put back is gone.
    pairs_come_and_go("queues = 2\npump = \"vhost-net\"", OFFERED, 20 + 10 * 64);
}

/// A queue in other memory, which takes turns with the one that is set up.
struct Turns<T> {
    spare: T,
}

/// `batch`: frames that each reset may lose without a word where the netdev's queue is full.
fn resets(keys: &'static str, features: Features, batch: u64) {
    let world = board(keys);
    let mut driver = drive(&world, features, 2, LINUX);
    neighbour(&world, &mut driver);
    use_pairs(&mut driver, 2);
    tap_queues(&world, 2);
    let wire = Wire::new(&world, "board0", "bl0");
    let smaller = Shape { size: 128, ..LINUX };
    let mut receivers = Turns { spare: Receiver::place(&mut driver.stock, 0, smaller) };
    let mut senders = Turns { spare: Sender::place(&mut driver.stock, 0, smaller) };
    let before = overflown(&world);
    let (mut tally, mut sending) = (Tally::default(), Sending::default());
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let source = flows(scope, &world, &stop);
        for round in 0..100_u16 {
            sending.burst(&mut driver);
            tally.receive_more(&mut driver, &[0, 1], 20);
            if round % 2 == 0 {
                reset_receiveq(
                    &mut driver,
                    &mut receivers,
                    &mut tally,
                    [128, 64, 32][usize::from(round) % 3],
                );
            } else {
                sending.reset_transmitq(
                    &mut driver,
                    &mut senders,
                    [128, 64, 32][usize::from(round) % 3],
                );
            }
            sending.arrive(&wire);
        }
        stop.store(true, Ordering::Relaxed);
        source.join().unwrap()
    });
    wait("all frames to the board to have come", || {
        sending.arrive(&wire);
        let used = sending.used(&mut driver);
        let seen = (used, sending.came);
        check(seen.0 == seen.1, seen)
    });
    let all = u64::from(sent) * u64::from(FLOWS);
    wait("all frames from the board to have come, or to be counted", || {
        tally.receive(&mut driver);
        let counted = lost(&world, "queue_reset")[0] + overflown(&world) - before;
        // The kernel may have lost frames of its own, too.
        let missing = all - tally.came[0] - tally.came[1];
        check(missing <= counted + 100 * batch, (all, tally.came, counted))
    });
    // An emulated machine may be too slow for the flows, and what overflows may be any pair's.
    if batch == 0 || overflown(&world) == before {
        assert_eq!(tally.gaps(1, sent), [], "nothing is missing of the other pair");
    }
    let [tx, rx] = lost(&world, "queue_reset");
    eprintln!("{all} from the board, {tx} lost by resets; to it {:?}, {rx} lost", sending);
    assert!(rx <= sending.abandoned, "{rx} lost, {} abandoned", sending.abandoned);
}

fn reset_receiveq(driver: &mut Driver, turns: &mut Turns<Receiver>, tally: &mut Tally, size: u16) {
    driver.stock.reset_queue(0);
    assert!(!driver.stock.is_enabled(0));
    // What came before the answer is there; after it nobody writes to this memory any more.
    let old = &mut driver.pairs[0].0;
    let frames = old.leave();
    tally.take(0, &frames);
    old.poison(0xa5);
    std::mem::swap(old, &mut turns.spare);
    let new = &mut driver.pairs[0].0;
    new.renew(size);
    driver.stock.enable(0, &driver.pairs[0].0.config);
    driver.pairs[0].0.fill();
    tally.receive_more(driver, &[0, 1], 20);
    assert!(turns.spare.is_poisoned(0xa5), "a buffer of a queue that was reset was written");
}

/// Frames to the board.
#[derive(Debug, Default)]
struct Sending {
    next: u32,
    /// Those that a reset of their queue left unused.
    abandoned: u64,
    sent: u64,
    came: u64,
}

impl Sending {
    fn burst(&mut self, driver: &mut Driver) {
        for pair in [0, 1] {
            for _ in 0..20 {
                let frame = numbered(BROADCAST, &[], self.next, 100 + self.next as usize % 900);
                if driver.pairs[pair].1.try_send(Header::default(), &frame) {
                    self.next += 1;
                    self.sent += 1;
                }
            }
        }
    }

    fn reset_transmitq(&mut self, driver: &mut Driver, turns: &mut Turns<Sender>, size: u16) {
        driver.stock.reset_queue(1);
        let old = &mut driver.pairs[0].1;
        self.abandoned += old.reclaim() as u64;
        std::mem::swap(old, &mut turns.spare);
        let new = &mut driver.pairs[0].1;
        new.renew(size);
        driver.stock.enable(1, &driver.pairs[0].1.config);
    }

    /// Frames that the device has used.
    fn used(&self, driver: &mut Driver) -> u64 {
        let under_way: usize = driver.pairs.iter_mut().map(|(_, sender)| sender.reclaim()).sum();
        self.sent - self.abandoned - under_way as u64
    }

    fn arrive(&mut self, wire: &Wire) {
        while let Some(frame) = wire.take() {
            let number = number_of(&frame, 0).expect("a numbered frame");
            assert!(number < self.next);
            self.came += 1;
        }
    }
}

pub(crate) fn a_queue_reset_a_hundred_times_disturbs_no_other() {
    resets("queues = 2", SPLIT, 0);
}

pub(crate) fn a_queue_reset_a_hundred_times_by_engine_disturbs_no_other() {
    let keys = "queues = 2\ndma = \"engine\"\nengine = { latency_us = 1000, cpu_below = 0 }";
    resets(keys, PACKED, 0);
}

pub(crate) fn a_queue_reset_a_hundred_times_by_vhost_net_disturbs_no_other() {
    // As above.
    resets("queues = 2\npump = \"vhost-net\"", OFFERED, 64);
}

pub(crate) fn an_engine_too_slow_for_a_queue_reset_is_named_and_needs_a_reset() {
    let keys = "dma = \"engine\"\nengine = { latency_us = 1000000, depth = 1, cpu_below = 0 }";
    let world = board(keys);
    let mut driver = drive(&world, SPLIT, 1, LINUX);
    neighbour(&world, &mut driver);
    for number in 0..20 {
        let frame = numbered(BROADCAST, &[], number, 1000);
        assert!(driver.pairs[0].1.try_send(Header::default(), &frame));
        // A breath each, and so a transfer each.
        thread::sleep(Duration::from_millis(10));
    }
    let token = driver.stock.send(Body::ResetVqueue { index: 1 });
    let why = "the DMA engine has not done within 5 s what was under way";
    world.wait_state("board0", "bl0", LinkState::Down, why);
    // The engine is gone, so nothing uses the queue any more; the others have no worker either.
    assert_eq!(driver.stock.answer(token), Body::VqueueReset);
    assert!(driver.stock.status() & status::DEVICE_NEEDS_RESET != 0);
    driver.stock.reset();
    let log = world.log("board0");
    assert!(!log.contains("a worker did not give its queues back"), "{log}");
}
