//! Our driver's path against the device's path by engine. The engine copies when it completes, in any
//! order and as late as it can, so whatever is told too early shows as bytes that are not there yet.

use super::pairs::compare;
use super::*;
use crate::net::driver_path::RECEIVE_BUFFER;
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::net::path::{PathError, Which};

/// Transfers under way, and how often they fail.
struct Engine {
    under_way: Vec<Transfer>,
    refused: Option<Transfer>,
    depth: usize,
    /// Of a hundred.
    bad: usize,
    /// Most transfers that were under way at once; how many have been; bytes.
    most: usize,
    transfers: usize,
    bytes: usize,
}

/// The device's end and its engine.
struct Board {
    end: End<EnginePath>,
    engine: Engine,
}

impl Board {
    fn new(mem: &BusMemory, features: Features, p: &Placement, depth: usize, below: usize) -> Self {
        let by_engine = EngineUse { cpu_below: below };
        let path = EnginePath::new(mem, features, &p.receiveq, &p.transmitq, by_engine).unwrap();
        let engine = Engine {
            under_way: Vec::new(),
            refused: None,
            depth,
            bad: 0,
            most: 0,
            transfers: 0,
            bytes: 0,
        };
        Self { end: End::new(path), engine }
    }

    fn submit(&mut self) {
        let Self { end, engine } = self;
        while let Some(transfer) = engine.refused.take().or_else(|| end.path.poll_transfer()) {
            assert!(!transfer.is_empty());
            if engine.under_way.len() >= engine.depth {
                engine.refused = Some(transfer);
                break;
            }
            engine.transfers += 1;
            engine.bytes += transfer.len();
            engine.under_way.push(transfer);
            engine.most = engine.most.max(engine.under_way.len());
        }
        while let Some((_, reason)) = end.path.poll_drop() {
            end.drops.push(reason);
        }
    }

    /// Copies and completes one transfer. `false`: there is none.
    fn complete(&mut self, mem: &BusMemory, random: &mut Random) -> Result<bool, PathError> {
        let Self { end, engine } = self;
        if engine.under_way.is_empty() {
            return Ok(false);
        }
        let at = random.below(engine.under_way.len());
        let transfer = engine.under_way.swap_remove(at);
        let local = end.path.local().unwrap();
        let done = if random.below(100) < engine.bad {
            // Some of it has been copied.
            for piece in transfer.pieces.iter().filter(|_| random.coin()) {
                assert!(copy(mem, &local, piece));
            }
            Completion { transfer, good: false }
        } else {
            carry_out(mem, &local, transfer)
        };
        assert!(done.good || engine.bad > 0);
        end.path.handle_completion(done)?;
        Ok(true)
    }

    /// As `End::turn`; it sleeps while the engine works, and completions wake it.
    fn turn(&mut self, mem: &BusMemory, batch: usize) -> bool {
        let rings = self.end.rings;
        if self.end.asleep {
            self.end.path.disarm(mem);
            self.end.asleep = false;
        }
        for _ in 0..4 {
            let (sent, blocked) = self.end.outward(mem, batch);
            let received = self.end.inward(mem, batch);
            self.submit();
            if sent + received > 0 {
                return self.end.rings > rings;
            }
            if !self.end.path.arm(mem, blocked).unwrap() {
                self.end.asleep = true;
                return self.end.rings > rings;
            }
            self.end.path.disarm(mem);
        }
        panic!("turns without progress, and does not sleep");
    }

    fn dma_errors(&self) -> usize {
        self.end.drops.iter().filter(|d| **d == Drop::DmaError).count()
    }
}

type Pair = (End<DriverPath>, Board);

/// Lets both ends work until both sleep; the engine completes something now and then if `completes`.
fn settle(mem: &BusMemory, (driver, board): &mut Pair, random: &mut Random, completes: bool) {
    let (mut wake_driver, mut wake_board) = (true, true);
    loop {
        let copying = completes && !board.engine.under_way.is_empty();
        if !(wake_driver || wake_board || !driver.asleep || !board.end.asleep || copying) {
            return;
        }
        match random.below(3) {
            0 if wake_driver || !driver.asleep => {
                wake_driver = false;
                wake_board |= driver.turn(mem, 1 + random.below(40));
            }
            1 if wake_board || !board.end.asleep => {
                wake_board = false;
                wake_driver |= board.turn(mem, 1 + random.below(40));
            }
            2 if completes => wake_board |= board.complete(mem, random).unwrap(),
            _ => {}
        }
    }
}

/// How many of the largest frames the board takes in while its engine does nothing, and how many of
/// the smallest the driver takes in all while it does nothing.
fn capacity(mem: &BusMemory, pair: &mut Pair, random: &mut Random) -> [usize; 2] {
    pair.1.end.outbox.extend((0..100).map(|i| frame(i, 65_577)));
    let (local, _) = pair.1.end.outward(mem, 100);
    pair.1.end.outbox.clear();
    settle(mem, pair, random, true);
    pair.0.inbox.clear();
    let board = &mut pair.1;
    board.end.outbox.extend((0..1000).map(|i| frame(i, 14)));
    let mut chains = 0;
    loop {
        let (sent, _) = board.end.outward(mem, 1000);
        board.submit();
        let more = board.complete(mem, random).unwrap();
        chains += sent;
        if sent == 0 && !more {
            break;
        }
    }
    board.end.outbox.clear();
    settle(mem, pair, random, true);
    assert_eq!(pair.0.inbox.len(), chains);
    pair.0.inbox.clear();
    [local, chains]
}

/// A slot, and a pair over it.
fn slot(
    len: u64,
    kinds: [Kind; 2],
    features: Features,
    sizes: [u16; 2],
    engine: [usize; 2],
) -> (BusMemory, Pair) {
    let placement = placed(len, features, sizes);
    let mem = memory(len, kinds[0], kinds[1]);
    let driver = End::new(driver_path(&mem, features, &placement));
    let board = Board::new(&mem, features, &placement, engine[0], engine[1]);
    (mem, (driver, board))
}

#[test]
fn frames_come_out_in_order_whole_and_unaltered_and_all_memory_comes_back() {
    const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];
    let mut random = Random(0xd_a7a);
    for round in 0..24 {
        let len = [1u64, 2, 16][round % 3] << 20;
        let kinds = [KINDS[random.below(3)], KINDS[random.below(3)]];
        let features = features(random.coin(), random.coin(), random.coin());
        let sizes = [4 << random.below(7), 4 << random.below(7)];
        let engine = [1 + random.below(12), [0, 256, usize::MAX][random.below(3)]];
        let (mem, mut ends) = slot(len, kinds, features, sizes, engine);
        let before = capacity(&mem, &mut ends, &mut random);
        for _ in 0..6 {
            let count = random.below(100);
            let mut to_device: VecDeque<_> = (0..count).map(|i| frame(i, random.len())).collect();
            let mut to_driver: VecDeque<_> =
                (0..100 - count).map(|i| frame(i, random.len())).collect();
            ends.0.outbox.extend(to_device.iter().cloned());
            ends.1.end.outbox.extend(to_driver.iter().cloned());
            settle(&mem, &mut ends, &mut random, true);
            compare(&mut ends.1.end.inbox, &mut to_device);
            compare(&mut ends.0.inbox, &mut to_driver);
        }
        let after = capacity(&mem, &mut ends, &mut random);
        assert_eq!(after, before, "{len} {sizes:?} {kinds:?} {features}");
        assert!(ends.0.drops.is_empty() && ends.1.end.drops.is_empty());
        assert_eq!(ends.1.engine.transfers == 0, engine[1] == usize::MAX, "who copied");
    }
}

#[test]
fn nothing_is_told_before_its_payload_has_been_copied() {
    let mut random = Random(5);
    let (mem, mut ends) =
        slot(16 << 20, [Kind::Cached; 2], features(true, true, true), [256; 2], [64, 0]);
    let frames: VecDeque<_> = (0..100).map(|i| frame(i, 14 + 300 * i)).collect();
    ends.0.outbox.extend(frames.iter().cloned());
    ends.1.end.outbox.extend(frames.iter().cloned());
    settle(&mem, &mut ends, &mut random, false);
    assert!(ends.1.engine.most >= 8, "{} transfers are under way", ends.1.engine.most);
    assert!(ends.0.inbox.is_empty(), "the driver is told of nothing");
    assert!(ends.1.end.inbox.is_empty(), "the netdev is given nothing");
    // The youngest transfers first: the oldest frames hold the others back.
    while ends.1.engine.under_way.len() > 2 {
        let transfer = ends.1.engine.under_way.pop().unwrap();
        let local = ends.1.end.path.local().unwrap();
        ends.1.end.path.handle_completion(carry_out(&mem, &local, transfer)).unwrap();
    }
    settle(&mem, &mut ends, &mut random, true);
    compare(&mut ends.0.inbox, &mut frames.clone());
    compare(&mut ends.1.end.inbox, &mut frames.clone());
}

/// Whether `got` is what is left of `sent` if some are taken out.
fn is_rest(got: &VecDeque<Vec<u8>>, sent: &VecDeque<Vec<u8>>) -> bool {
    let mut sent = sent.iter();
    got.iter().all(|g| sent.any(|s| s.len() == g.len() && s[12..] == g[12..]))
}

#[test]
fn each_frame_that_the_engine_spoils_is_counted_and_the_rings_go_on() {
    let mut random = Random(0xbad);
    for mergeable in [true, false] {
        let features = features(mergeable, true, true);
        let (mem, mut ends) = slot(2 << 20, [Kind::Cached; 2], features, [64; 2], [8, 0]);
        let before = capacity(&mem, &mut ends, &mut random);
        let mut all = 0;
        for _ in 0..20 {
            let errors = ends.1.dma_errors();
            ends.1.engine.bad = 20;
            let frames: VecDeque<_> = (0..100).map(|i| frame(i, random.len())).collect();
            ends.0.outbox.extend(frames.iter().cloned());
            ends.1.end.outbox.extend(frames.iter().cloned());
            settle(&mem, &mut ends, &mut random, true);
            let came = ends.0.inbox.len() + ends.1.end.inbox.len();
            assert!(is_rest(&ends.0.inbox, &frames) && is_rest(&ends.1.end.inbox, &frames));
            assert_eq!(came + ends.1.dma_errors() - errors, 200, "what came, and what is counted");
            ends.0.inbox.clear();
            ends.1.end.inbox.clear();
            all += ends.1.dma_errors() - errors;
            ends.1.engine.bad = 0;
            let mut clean: VecDeque<_> = (0..50).map(|i| frame(i, random.len())).collect();
            ends.0.outbox.extend(clean.iter().cloned());
            ends.1.end.outbox.extend(clean.iter().cloned());
            settle(&mem, &mut ends, &mut random, true);
            compare(&mut ends.0.inbox, &mut clean.clone());
            compare(&mut ends.1.end.inbox, &mut clean);
        }
        assert!(all > 100, "{all} frames were spoilt");
        assert!(ends.1.end.drops.iter().all(|d| *d == Drop::DmaError));
        assert!(ends.0.drops.iter().all(|d| *d == Drop::TooShort), "buffers that came back empty");
        assert_eq!(capacity(&mem, &mut ends, &mut random), before);
    }
}

#[test]
fn frames_that_a_queue_reset_ends_are_counted_for_their_direction() {
    for which in [Which::Receiveq, Which::Transmitq] {
        let features = features(true, true, true);
        let (mem, (mut driver, mut board)) =
            slot(16 << 20, [Kind::Cached; 2], features, [256, 256], [64, 0]);
        driver.outbox.push_back(frame(0, 500));
        board.end.outbox.push_back(frame(1, 500));
        driver.turn(&mem, 8);
        board.turn(&mem, 8);
        board.end.path.reset_queue(which);
        let drops: Vec<_> = std::iter::from_fn(|| board.end.path.poll_drop()).collect();
        assert_eq!(drops, [(which, Drop::QueueReset)]);
    }
}

#[test]
fn an_engine_that_fails_again_and_again_breaks_the_path() {
    let (mem, (_, mut board)) =
        slot(16 << 20, [Kind::Cached; 2], features(true, true, true), [256; 2], [64, 0]);
    board.engine.bad = 100;
    let mut random = Random(1);
    for number in 1..=16 {
        board.end.outbox.push_back(frame(number, 1000));
        board.turn(&mem, 64);
        let outcome = board.complete(&mem, &mut random);
        let expected = if number < 16 { Ok(true) } else { Err(PathError::Engine(16)) };
        assert_eq!(outcome, expected, "failure {number}");
    }
}

#[test]
fn one_success_forgives_the_failures_before_it() {
    let (mem, (_, mut board)) =
        slot(16 << 20, [Kind::Cached; 2], features(true, true, true), [256; 2], [64, 0]);
    let mut random = Random(1);
    for number in 0..45 {
        board.engine.bad = if number % 15 == 14 { 0 } else { 100 };
        board.end.outbox.push_back(frame(number, 1000));
        board.turn(&mem, 64);
        assert_eq!(board.complete(&mem, &mut random), Ok(true));
    }
}

#[test]
fn small_frames_share_a_transfer_and_large_ones_have_their_own() {
    let (mem, (_, mut board)) =
        slot(16 << 20, [Kind::Cached; 2], features(true, true, true), [256; 2], [64, 0]);
    board.end.outbox.extend((0..32).map(|i| frame(i, 100)));
    board.end.outward(&mem, 32);
    board.submit();
    assert_eq!((board.engine.transfers, board.engine.bytes), (1, 32 * 112));
    board.end.outbox.extend((0..3).map(|i| frame(i, 65_577)));
    board.end.outward(&mem, 3);
    board.submit();
    assert_eq!(board.engine.transfers, 4);
}

#[test]
fn short_frames_are_copied_by_the_cpu_and_keep_their_place_behind_long_ones() {
    let mut random = Random(3);
    let (mem, mut ends) =
        slot(16 << 20, [Kind::Cached; 2], features(true, true, true), [256; 2], [64, 256]);
    let mut frames: VecDeque<_> = [frame(1, 243), frame(2, 244), frame(3, 100)].into();
    ends.1.end.outbox.extend(frames.iter().cloned());
    settle(&mem, &mut ends, &mut random, false);
    assert_eq!(ends.1.engine.bytes, 256, "255 bytes by CPU, 256 by engine");
    assert_eq!(ends.0.inbox.len(), 1, "the third waits behind the second");
    settle(&mem, &mut ends, &mut random, true);
    compare(&mut ends.0.inbox, &mut frames);
}

#[test]
fn chains_in_hand_wake_a_board_whose_local_memory_has_come_back() {
    let features = features(true, true, true);
    let receive = placed(16 << 20, features, [256; 2]).buffers.receive;
    let posted = (receive.end - receive.start) as usize / RECEIVE_BUFFER as usize;
    let (mem, (_, mut board)) = slot(16 << 20, [Kind::Cached; 2], features, [256; 2], [64, 0]);
    let mut random = Random(1);
    // All chains but 16 are used up, 15 go with large frames that fill local memory, one is in hand.
    board.end.outbox.extend((0..posted - 16).map(|i| frame(i, 100)));
    board.end.outbox.extend((0..16).map(|i| frame(i, 65_577)));
    for _ in 0..posted {
        board.end.outward(&mem, 1);
        board.submit();
        while board.end.outbox.len() >= 16 && board.complete(&mem, &mut random).unwrap() {}
    }
    assert_eq!(board.end.outbox.len(), 1, "it waits for local memory");
    while !board.end.asleep {
        board.turn(&mem, 64);
    }
    while board.complete(&mem, &mut random).unwrap() {}
    let _ = board.turn(&mem, 64);
    while !board.end.asleep {
        board.turn(&mem, 64);
    }
    assert!(board.end.outbox.is_empty(), "it goes on without a doorbell");
}

#[test]
fn a_frame_that_is_no_frame_or_can_never_fit_is_dropped() {
    let (mem, (_, mut board)) =
        slot(1 << 20, [Kind::Cached; 2], features(true, true, true), [16; 2], [8, 0]);
    for (len, reason) in [(0, Drop::TooShort), (25, Drop::TooShort), (65_602, Drop::TooLong)] {
        assert!(!matches!(board.end.path.room(&mem).unwrap(), Room::Nowhere));
        assert_eq!(board.end.path.sent(&mem, len), Ok(Some(reason)), "{len} bytes");
    }
    assert!(!board.end.path.flush(&mem) && board.end.path.poll_transfer().is_none());
}
