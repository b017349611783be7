//! Frames that are on their way to or from a queue while its driver resets it, at the device's paths by
//! CPU and by engine.

use super::*;
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::net::path::{LentQueue, PathError, Which};
use crate::virtqueue::{At, Buffer, DriverQueue, Position, QueueConfig, Start};

const DATA: u64 = 0x10_0000;
/// Of a receive buffer.
const LEN: u32 = 1024;

struct Board {
    mem: BusMemory,
    queues: [QueueConfig; 2],
    driver: [DriverQueue; 2],
    path: Box<dyn Path>,
}

impl Board {
    fn new(engine: bool) -> Self {
        let mem = memory(16 << 20, Kind::Cached, Kind::Cached);
        let features = features(true, false, false);
        let queues = [0x3000, 0x8000].map(|desc| QueueConfig {
            size: 16,
            desc,
            driver: desc + 0x1000,
            device: desc + 0x2000,
            packed: false,
            in_order: false,
            event_idx: false,
            indirect: false,
        });
        let driver = queues.each_ref().map(|queue| queue.activate_driver(&mem).unwrap());
        let [rx, tx] = &queues;
        let path: Box<dyn Path> = if engine {
            let by_engine = EngineUse { cpu_below: 0 };
            Box::new(EnginePath::new(&mem, features, rx, tx, by_engine).unwrap())
        } else {
            Box::new(DevicePath::new(&mem, features, rx, tx).unwrap())
        };
        Self { mem, queues, driver, path }
    }

    fn post(&mut self, count: u16) {
        for token in 0..count {
            let buffer = Buffer { addr: DATA + u64::from(token) * u64::from(LEN), len: LEN };
            self.driver[0].add(&self.mem, &[], &[buffer], token).unwrap();
        }
        let _ = self.driver[0].publish(&self.mem);
    }

    /// The netdev has a frame of three receive buffers; whether it was taken.
    fn offer(&mut self) -> bool {
        let frame = frame(0, 3 * LEN as usize - net::HEADER_LEN);
        let local = self.path.local();
        let table = local.as_deref().unwrap_or(&self.mem);
        let taken = self.path.room(&self.mem).unwrap().fill(table, &frame);
        if taken {
            assert_eq!(self.path.sent(&self.mem, frame.len()), Ok(None));
        }
        taken
    }

    fn copy(&mut self) {
        let Some(local) = self.path.local() else { return };
        while let Some(transfer) = self.path.poll_transfer() {
            self.path.handle_completion(carry_out(&self.mem, &local, transfer)).unwrap();
        }
    }

    /// The queue at rest, then set up anew.
    fn reset(&mut self, which: Which) {
        self.path.reset_queue(which);
    }

    fn enable(&mut self, which: Which) {
        let queue = self.queues[which as usize];
        self.driver[which as usize] = queue.activate_driver(&self.mem).unwrap();
        self.path.enable_queue(&self.mem, which, &queue).unwrap();
    }

    /// How many buffers the driver gets back.
    fn used(&mut self) -> usize {
        let _ = self.path.flush(&self.mem);
        self.copy();
        let _ = self.path.flush(&self.mem);
        std::iter::from_fn(|| self.driver[0].pop_used(&self.mem).unwrap()).count()
    }

    fn drops(&mut self) -> Vec<(Which, Drop)> {
        std::iter::from_fn(|| self.path.poll_drop()).collect()
    }
}

#[test]
fn a_frame_that_waits_for_buffers_goes_to_the_queue_that_is_set_up_anew() {
    for engine in [false, true] {
        let mut board = Board::new(engine);
        board.post(2);
        assert!(board.offer());
        board.reset(Which::Receiveq);
        for _ in 0..2 {
            assert!(!board.offer(), "it waits still");
        }
        board.enable(Which::Receiveq);
        board.post(3);
        assert!(!board.offer(), "all buffers are taken");
        assert_eq!(board.used(), 3, "engine: {engine}");
        assert_eq!((board.path.tick(), board.drops()), (None, vec![]));
    }
}

#[test]
fn a_frame_that_waits_for_a_queue_that_does_not_come_back_is_counted_as_such() {
    for engine in [false, true] {
        let mut board = Board::new(engine);
        board.post(2);
        assert!(board.offer());
        board.reset(Which::Receiveq);
        assert!(!board.offer());
        assert_eq!(board.path.tick(), None);
        assert_eq!(board.path.tick(), Some(Drop::QueueReset), "engine: {engine}");
        assert_eq!((board.path.tick(), board.drops()), (None, vec![]));
    }
}

#[test]
fn a_frame_on_its_way_in_is_dropped_where_it_would_have_come_out() {
    let mut board = Board::new(true);
    let send = |board: &mut Board| {
        let frame = frame(0, 1000);
        let span = board.mem.resolve(DATA, frame.len() as u32).unwrap();
        board.mem.view(span).unwrap().copy_from(0, &frame);
        let buffer = Buffer { addr: DATA, len: frame.len() as u32 };
        board.driver[1].add(&board.mem, &[buffer], &[], 0).unwrap();
        let _ = board.driver[1].publish(&board.mem);
        assert!(matches!(board.path.receive(&board.mem), Ok(Inward::Empty)), "it is copied first");
        board.copy();
    };
    send(&mut board);
    board.reset(Which::Transmitq);
    board.enable(Which::Transmitq);
    assert!(matches!(board.path.receive(&board.mem), Ok(Inward::Empty)));
    let _ = board.path.release(&board.mem);
    assert_eq!(board.drops(), [(Which::Transmitq, Drop::QueueReset)]);
    assert_eq!(board.driver[1].pop_used(&board.mem), Ok(None), "the new queue had no such chain");
    send(&mut board);
    assert!(matches!(board.path.receive(&board.mem), Ok(Inward::Frame { len: 1000, .. })));
    board.path.received(&board.mem).unwrap();
    let _ = board.path.release(&board.mem);
    assert!(board.driver[1].pop_used(&board.mem).unwrap().is_some());
}

#[test]
fn frames_on_their_way_out_are_dropped_and_the_new_queue_is_whole() {
    let mut board = Board::new(true);
    board.post(6);
    assert!(board.offer() && board.offer());
    let _ = board.path.flush(&board.mem);
    board.copy();
    board.reset(Which::Receiveq);
    assert_eq!(board.drops(), [(Which::Receiveq, Drop::QueueReset); 2]);
    board.enable(Which::Receiveq);
    board.post(6);
    assert!(board.offer() && board.offer());
    assert_eq!(board.used(), 6);
}

#[test]
fn a_path_that_halts_tells_of_the_frame_that_waits_and_has_taken_no_buffer_for_it() {
    for engine in [false, true] {
        let mut board = Board::new(engine);
        board.post(2);
        assert!(board.offer(), "it takes three");
        let none = Some(Position::Split { avail: 0, used: 0 });
        assert_eq!(board.path.halt(&board.mem), [none; 2], "engine: {engine}");
        let mut told = Vec::from_iter(board.path.tick());
        told.extend(board.drops().iter().map(|(_, reason)| *reason));
        assert_eq!((told, board.path.tick()), (vec![Drop::QueueReset], None));
    }
}

#[test]
fn a_queue_that_was_reset_has_no_position_and_frames_that_came_are_used_before_the_other_s() {
    for (engine, reset) in
        [(false, Which::Receiveq), (false, Which::Transmitq), (true, Which::Transmitq)]
    {
        let mut board = Board::new(engine);
        board.post(6);
        assert!(board.offer());
        let _ = board.path.flush(&board.mem);
        board.copy();
        board.reset(reset);
        let at = |n| Some(Position::Split { avail: n, used: n });
        let positions = if reset == Which::Receiveq { [None, at(0)] } else { [at(3), None] };
        assert_eq!(board.path.halt(&board.mem), positions);
    }
}

#[test]
fn queues_are_lent_and_taken_back_where_they_stand_then() {
    let mut board = Board::new(false);
    let lent = |queues: [Option<LentQueue>; 2]| queues.map(|queue| queue.map(|queue| queue.next));
    board.reset(Which::Transmitq);
    assert_eq!(board.path.lend(&board.mem).map(lent), Some([Some(0), None]));
    board.path.take_back(&board.mem, Which::Receiveq, 0).unwrap();
    board.enable(Which::Transmitq);
    board.post(6);
    assert!(board.offer(), "three chains are used, and three held");
    let queues = board.path.lend(&board.mem).unwrap();
    assert_eq!(lent(queues), [Some(3), Some(0)]);
    assert_eq!(queues.map(|queue| queue.unwrap().config), board.queues);
    assert!(!board.offer(), "they are lent");
    // Another path is what goes on with them.
    let [rx, tx] = board.queues.each_ref();
    let starts = queues.map(|queue| Start::at(At::Base(queue.unwrap().next.into())));
    let features = features(true, false, false);
    let mut other = DevicePath::new_at(&board.mem, features, [rx, tx], starts).unwrap();
    let frame = frame(0, 2 * LEN as usize - net::HEADER_LEN);
    assert!(other.room(&board.mem).unwrap().fill(&board.mem, &frame));
    assert_eq!(other.sent(&board.mem, frame.len()), Ok(None));
    assert_eq!(other.lend(&board.mem).map(lent), Some([Some(5), Some(0)]));
    for (which, next) in Which::BOTH.into_iter().zip([5, 0]) {
        board.path.take_back(&board.mem, which, next).unwrap();
    }
    let mut used = 0;
    let _ = board.path.flush(&board.mem);
    while board.driver[0].pop_used(&board.mem).unwrap().is_some() {
        used += 1;
    }
    assert_eq!(used, 5, "each once");
    let garbled = board.path.take_back(&board.mem, Which::Receiveq, 1);
    assert!(matches!(garbled, Err(PathError::Receiveq(_))), "fewer than are used: {garbled:?}");
    assert_eq!(Board::new(true).path.lend(&board.mem), None, "an engine's");
}
