//! The board's end of a link, against a driver of dialect v1 that does what Linux' does: one request at a
//! time, no look at the status after a reset, RESET_VQUEUE for each queue, and then the rings are freed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::link::{Event, Link, LinkParams};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::features::Features;
use boardlane::spec::{msg, net, virtio, window};
use boardlane::tunnel::fifo::Fifo;
use boardlane::tunnel::message::{Blocks, Body, Dialect, Message, decode, encode};
use boardlane::tunnel::part::{Layout, MemoryEntry, Params, Role};
use boardlane::tunnel::session::{Change, Session};

const WINDOW: u32 = 1 << 20;
const DRIVER_MEMORY: u32 = 1 << 20;
const HEARTBEAT: Duration = Duration::from_millis(250);

struct World {
    now: Instant,
    mem: Arc<BusMemory>,
    board: Link,
    /// The board's worker has the data path.
    worker: bool,
    /// It was told to give it back.
    stop: bool,
    fifo: Fifo,
    /// Keeps the session alive.
    session: Session,
}

impl World {
    /// Up to the point where messages flow.
    fn new() -> Self {
        let mut now = Instant::now();
        let len = u64::from(WINDOW) + u64::from(DRIVER_MEMORY);
        let memory = Arc::new(Mapping::anonymous(usize::try_from(len).unwrap(), Kind::Cached));
        let (start, offset) = (u64::from(WINDOW), usize::try_from(WINDOW).unwrap());
        let mem = Arc::new(
            BusMemory::new(vec![
                Region::mapped(0, start, Side::Near, memory.clone(), 0),
                Region::mapped(start, DRIVER_MEMORY.into(), Side::Far, memory, offset),
            ])
            .unwrap(),
        );
        let params = LinkParams {
            role: Role::Device,
            dialect: Dialect::V1,
            layout: Layout::Boardlane,
            window: 0..start,
            driver_memory: start..len,
            slot: 0,
            owner: 2,
            vectors: 2,
            heartbeat: HEARTBEAT,
            features_off: Features::NONE,
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            version: "1.0".to_owned(),
            engine: None,
            seed: 1,
        };
        let mut board = Link::new(now, mem.clone(), params).unwrap();
        board.handle_peers(now, BTreeSet::from([1]));
        let entry = |kind, bus_addr, len: u32| MemoryEntry { kind, bus_addr, len: len.into() };
        let params = Params {
            role: Role::Driver,
            window_addr: 0,
            window_len: WINDOW,
            owner: 1,
            vectors: 0,
            mailbox: start,
            window_mailbox: 0x4000,
            dma_only: false,
            table: vec![
                entry(window::MEMORY_WINDOW, 0, WINDOW),
                entry(window::MEMORY_DRIVER, start, DRIVER_MEMORY),
            ],
            slot: 0,
            heartbeat: HEARTBEAT,
            dead_after: 4 * HEARTBEAT,
        };
        let mut session = Session::new(now, &mem, params).unwrap();
        session.start(now, 7, 7);
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            board.handle_doorbell(now);
            board.handle_timeout(now);
            if let Some(Change::Up(_, fifo)) = session.handle_look(now, &mem, &|_| true) {
                let mut world = Self { now, mem, board, worker: false, stop: false, fifo, session };
                world.turn();
                return world;
            }
        }
        panic!("no session");
    }

    /// A millisecond of the board's.
    fn turn(&mut self) {
        self.now += Duration::from_millis(1);
        assert!(self.session.handle_look(self.now, &self.mem, &|_| true).is_none());
        self.board.handle_doorbell(self.now);
        self.board.handle_timeout(self.now);
        while let Some(event) = self.board.poll_event() {
            match event {
                Event::Start(_) => self.worker = true,
                Event::Stop => self.stop = true,
                _ => {}
            }
        }
    }

    /// The board's worker gives the data path back.
    fn worker_stops(&mut self) {
        assert!(self.worker && self.stop, "it was told to");
        (self.worker, self.stop) = (false, false);
        self.board.handle_stopped(self.now);
    }

    fn tell(&mut self, body: Body) {
        let mut octets = [0; msg::MAX_LEN];
        let message = Message { dev_num: 0, token: 1, body };
        let len = encode(Dialect::V1, &message, &mut octets);
        assert!(self.fifo.send(&self.mem, &octets[..len]).unwrap(), "there is room");
        self.turn();
    }

    fn hear(&mut self) -> Option<Body> {
        let mut slot = [0; window::SLOT_LEN];
        let there = self.fifo.receive(&self.mem, &mut slot).unwrap();
        there.then(|| decode(Dialect::V1, &slot).unwrap().body)
    }

    fn ask(&mut self, body: Body) -> Body {
        self.tell(body);
        self.hear().expect("an answer")
    }

    fn status(&mut self, status: u32) {
        let answer = self.ask(Body::SetDeviceStatus { status });
        assert_eq!(answer, Body::DeviceStatusSet { status });
    }

    /// Until DRIVER_OK.
    fn probe(&mut self) {
        let Body::DeviceInfo { num_feature_blocks: 2, .. } = self.ask(Body::GetDeviceInfo) else {
            panic!("not 64 feature bits")
        };
        for status in [0, 1, 3] {
            self.status(status);
        }
        let Body::DeviceFeatures(Blocks { blocks, .. }) =
            self.ask(Body::GetDeviceFeatures { index: 0, count: 2 })
        else {
            panic!("no features")
        };
        // Without an announcement that would be asked for in between; and a queue's reset is to be a surprise.
        let off = Features::of(&[net::F_GUEST_ANNOUNCE, virtio::F_RING_RESET]);
        let keep = |i| !off.block(i);
        let blocks = (0..).zip(blocks).map(|(i, bits)| bits & keep(i)).collect();
        let accepted = Body::SetDriverFeatures(Blocks { index: 0, blocks });
        assert_eq!(self.ask(accepted), Body::DriverFeaturesSet);
        self.status(11);
        for index in 0..2 {
            let Body::Vqueue(queue) = self.ask(Body::GetVqueue { index }) else {
                panic!("no queue")
            };
            assert_eq!((queue.max_size, queue.size, queue.flags), (256, 0, 0));
            let desc = u64::from(WINDOW) + 0x1_0000 * u64::from(index + 1);
            let set = Body::SetVqueue {
                index,
                flags: msg::VQ_ENABLE,
                size: queue.max_size,
                reserved: 0,
                desc,
                driver: desc + 0x2000,
                device: desc + 0x4000,
            };
            assert_eq!(self.ask(set), Body::VqueueSet);
        }
        self.status(15);
        assert!(self.worker, "the data path runs");
    }
}

#[test]
fn a_driver_that_goes_away_is_answered_when_its_rings_are_free_and_may_come_back() {
    let mut world = World::new();
    for _ in 0..3 {
        world.probe();
        world.tell(Body::SetDeviceStatus { status: 0 });
        for _ in 0..5 {
            assert_eq!(world.hear(), None, "the worker may still write to the rings");
            world.turn();
        }
        world.worker_stops();
        assert_eq!(world.hear(), Some(Body::DeviceStatusSet { status: 0 }));
        for index in 0..2 {
            assert_eq!(world.ask(Body::ResetVqueue { index }), Body::VqueueReset);
        }
    }
}

#[test]
fn a_driver_that_takes_a_queue_away_without_a_word_gets_it_when_it_is_free() {
    let mut world = World::new();
    world.probe();
    world.tell(Body::ResetVqueue { index: 1 });
    world.tell(Body::ResetVqueue { index: 0 });
    assert_eq!(world.hear(), None, "the worker may still write to the rings");
    world.worker_stops();
    world.turn();
    assert_eq!(world.hear(), Some(Body::VqueueReset));
    assert_eq!(world.hear(), Some(Body::VqueueReset));
    world.probe();
}
