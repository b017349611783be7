//! A whole link over memory that takes words only: each access that is made of it is checked.
//!
//! Both ends run here, on model memory of the kinds that a transport maps: uncached, write-combined, or
//! reached by a DMA engine alone. An access that is narrower than 4 bytes or not aligned fails the test.
//! `cargo test --features sim --test words`

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use boardlane::dma::{Completion, Piece, Place};
use boardlane::link::{Event, Link, LinkParams};
use boardlane::memory::cells::Cells;
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side, View};
use boardlane::net::engine_path::EngineUse;
use boardlane::net::features::Features;
use boardlane::net::path::{Inward, Path, Room};
use boardlane::spec::{net, virtio};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};

const SLOT: u64 = 4 << 20;
const WINDOW: u64 = SLOT / 4;

/// What holds a part's octets, in words of 8.
#[derive(Debug)]
struct Octets(Mutex<Vec<u64>>);

/// A part as one end maps it.
#[derive(Debug)]
struct Strict {
    octets: Arc<Octets>,
    kind: Kind,
    loads: Arc<AtomicU64>,
}

impl Strict {
    fn check(&self, offset: usize, size: usize) {
        let whole = size >= 4 || self.kind == Kind::Cached;
        assert!(whole && offset % size == 0, "{size} bytes at {offset:#x} of {:?}", self.kind);
    }
}

impl Cells for Strict {
    fn len(&self) -> usize {
        self.octets.0.lock().unwrap().len() * 8
    }

    fn load(&self, offset: usize, size: usize, _: Ordering) -> u64 {
        self.check(offset, size);
        self.loads.fetch_add(1, Ordering::Relaxed);
        let word = self.octets.0.lock().unwrap()[offset / 8];
        let shifted = word >> (8 * (offset % 8));
        if size == 8 { shifted } else { shifted & ((1 << (8 * size)) - 1) }
    }

    fn store(&self, offset: usize, size: usize, value: u64, _: Ordering) {
        self.check(offset, size);
        let mask = if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
        let shift = 8 * (offset % 8);
        let word = &mut self.octets.0.lock().unwrap()[offset / 8];
        *word = *word & !(mask << shift) | (value & mask) << shift;
    }
}

/// Kinds of the window and of driver memory, as an end sees them.
type Kinds = [Kind; 2];

/// One end: what a daemon has of a link.
struct End {
    link: Link,
    mem: Arc<BusMemory>,
    /// As its engine reaches memory.
    engine_mem: Arc<BusMemory>,
    path: Option<Box<dyn Path>>,
    features: Features,
    outbox: VecDeque<Vec<u8>>,
    inbox: Vec<Vec<u8>>,
    rung: bool,
    /// Loads from each part.
    loads: [Arc<AtomicU64>; 2],
}

/// The two parts.
fn parts() -> [Arc<Octets>; 2] {
    [WINDOW, SLOT - WINDOW]
        .map(|len| Arc::new(Octets(Mutex::new(vec![0; usize::try_from(len / 8).unwrap()]))))
}

impl End {
    fn new(now: Instant, role: Role, parts: &[Arc<Octets>; 2], kinds: Kinds, cell: &Cell) -> Self {
        let loads = [(); 2].map(|()| Arc::<AtomicU64>::default());
        let table = |kinds: Kinds| {
            let mut at = 0;
            let regions = [0, 1].map(|part| {
                let (octets, kind) = (parts[part].clone(), kinds[part]);
                let strict = Strict { octets, kind, loads: loads[part].clone() };
                let len = strict.len() as u64;
                let near = (role == Role::Device) == (part == 0);
                let side = if near { Side::Near } else { Side::Far };
                let backing = (kind != Kind::DmaOnly)
                    .then(|| (Arc::new(Mapping::model(Arc::new(strict), kind)), 0));
                let region = Region { bus_addr: at, len, side, backing };
                at += len;
                region
            });
            Arc::new(BusMemory::new(regions.into()).unwrap())
        };
        let mem = table(kinds);
        let engine_mem = table(kinds.map(|kind| match kind {
            Kind::DmaOnly => Kind::Uncached,
            kind => kind,
        }));
        let owner = if role == Role::Driver { 1 } else { 2 };
        let params = LinkParams {
            role,
            dialect: Dialect::V2,
            layout: Layout::Boardlane,
            window: 0..WINDOW,
            driver_memory: WINDOW..SLOT,
            slot: 0,
            owner,
            vectors: 2,
            heartbeat: Duration::from_millis(250),
            features_off: cell.off,
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            version: "words".to_owned(),
            engine: cell.engine.filter(|_| role == Role::Device),
            seed: owner.into(),
        };
        let mut link = Link::new(now, mem.clone(), params).unwrap();
        link.handle_peers(now, BTreeSet::from([1, 2]));
        Self {
            link,
            mem,
            engine_mem,
            path: None,
            features: Features::NONE,
            outbox: VecDeque::new(),
            inbox: Vec::new(),
            rung: false,
            loads,
        }
    }

    /// Does what the link wants done; `true` if the other end's doorbell is to be rung.
    fn turn(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.rung) {
            self.link.handle_doorbell(now);
        }
        if self.link.poll_timeout().is_some_and(|t| t <= now) {
            self.link.handle_timeout(now);
        }
        let mut ring = false;
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Ring { .. } => ring = true,
                Event::Start(start) => self.features = start.features,
                Event::StartPair(start) => self.path = Some(start.path),
                Event::Stop | Event::StopPair(_) => panic!("the link went down"),
                _ => {}
            }
        }
        ring | self.breathe()
    }

    /// What a worker does, with vectors of octets where it has a TAP.
    fn breathe(&mut self) -> bool {
        let Some(path) = &mut self.path else { return false };
        let mem = &self.mem;
        let local = path.local();
        let frames = local.as_ref().unwrap_or(mem);
        while let Some(frame) = self.outbox.front() {
            let room = path.room(mem).unwrap();
            let lent = match &room {
                Room::Shared(rest) | Room::Split { rest, .. } => *rest,
                Room::Private(_) | Room::Nowhere => &[],
            };
            assert!(lent.iter().all(|span| frames.kind(*span) == Kind::Cached), "lent");
            if !room.fill(frames, frame) {
                break;
            }
            assert_eq!(path.sent(mem, frame.len()).unwrap(), None);
            self.outbox.pop_front();
        }
        copies(&mut **path, &self.engine_mem);
        let mut ring = path.flush(mem);
        loop {
            match path.receive(mem).unwrap() {
                Inward::Empty => break,
                Inward::Dropped(reason) => panic!("dropped: {}", reason.name()),
                Inward::Frame { prefix, tail, .. } => {
                    let mut frame = prefix.to_vec();
                    for span in tail {
                        assert_eq!(frames.kind(*span), Kind::Cached, "lent to a system call");
                        let at = frame.len();
                        frame.resize(at + span.len(), 0);
                        frames.view(*span).unwrap().copy_to(0, &mut frame[at..]);
                    }
                    self.inbox.push(frame);
                }
            }
            path.received(mem).unwrap();
        }
        copies(&mut **path, &self.engine_mem);
        ring |= path.release(mem) | path.flush(mem);
        ring
    }
}

/// What an engine does.
fn copies(path: &mut dyn Path, bus: &BusMemory) {
    let Some(local) = path.local() else { return };
    while let Some(transfer) = path.poll_transfer() {
        for Piece { from, to } in &transfer.pieces {
            let view = |place: &Place| -> View<'_> {
                match place {
                    Place::Bus(span) => bus.view(*span).unwrap(),
                    Place::Local(span) => local.view(*span).unwrap(),
                }
            };
            view(from).copy_into(&view(to));
        }
        path.handle_completion(Completion { transfer, good: true }).unwrap();
    }
}

/// A frame of `len` octets behind an empty virtio-net header; they tell its number.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0; net::HEADER_LEN + len];
    for (i, octet) in frame[net::HEADER_LEN..].iter_mut().enumerate() {
        *octet = u8::try_from((number * 31 + i) % 251).unwrap();
    }
    frame
}

/// What a link is like.
struct Cell {
    /// As the board sees the window and driver memory, and as the master does.
    board: Kinds,
    master: Kinds,
    off: Features,
    engine: Option<EngineUse>,
}

impl Cell {
    /// Frames of all lengths go both ways; loads from the window by the master, and from driver memory by
    /// the board, per frame.
    fn run(&self) -> [f64; 2] {
        let mut now = Instant::now();
        let parts = parts();
        let mut board = End::new(now, Role::Device, &parts, self.board, self);
        let mut master = End::new(now, Role::Driver, &parts, self.master, self);
        let lens = (14..700).chain([1513, 1514, 1515, 9013, 9014, 40_001, 65_534, 65_535]);
        let frames: Vec<_> = lens.enumerate().map(|(number, len)| frame(number, len)).collect();
        board.outbox.extend(frames.iter().cloned());
        master.outbox.extend(frames.iter().cloned());
        for _ in 0..20_000 {
            board.rung |= master.turn(now);
            master.rung |= board.turn(now);
            now += Duration::from_millis(1);
            if [&board, &master].iter().all(|end| end.inbox.len() == frames.len()) {
                break;
            }
        }
        for end in [&board, &master] {
            assert!(!end.features.has(virtio::F_RING_PACKED), "packed rings have two writers");
            assert_eq!(end.features.has(net::F_MRG_RXBUF), !self.off.has(net::F_MRG_RXBUF));
            assert_eq!(end.inbox.len(), frames.len());
            for (got, sent) in end.inbox.iter().zip(&frames) {
                // `num_buffers` is the ring's own business.
                assert!((&got[..10], &got[12..]) == (&sent[..10], &sent[12..]), "altered");
            }
        }
        let each = |end: &End, part: usize| {
            let loads = end.loads[part].load(Ordering::Relaxed);
            f64::from(u32::try_from(loads).unwrap())
                / f64::from(u32::try_from(frames.len()).unwrap())
        };
        [each(&master, 0), each(&board, 1)]
    }
}

const UNCACHED: Kinds = [Kind::Uncached; 2];
const COMBINED: Kinds = [Kind::WriteCombined; 2];
/// Own memory cached, the other end's not.
const BOARD: Kinds = [Kind::Cached, Kind::WriteCombined];
const MASTER: Kinds = [Kind::WriteCombined, Kind::Cached];

/// A register, and in which order it and the fences before it were made.
#[cfg(feature = "os")]
#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

#[cfg(feature = "os")]
impl Cells for Log {
    fn len(&self) -> usize {
        16
    }

    fn load(&self, _: usize, _: usize, _: Ordering) -> u64 {
        panic!("a doorbell is never read")
    }

    fn store(&self, offset: usize, size: usize, value: u64, _: Ordering) {
        self.0.lock().unwrap().push(format!("{size} octets at {offset}: {value:#x}"));
    }
}

#[cfg(feature = "os")]
#[test]
fn a_doorbell_is_one_store_behind_a_full_fence() {
    use std::rc::Rc;

    use boardlane::memory::cells::set_fences;
    use boardlane::os::bell::{Bell, Register};

    for kind in [Kind::Uncached, Kind::WriteCombined] {
        let log = Arc::<Log>::default();
        let registers = Arc::new(Mapping::model(log.clone(), kind));
        let bell = Bell::Register(Register::new(registers, 12, 0x3_0001).unwrap());
        let ear = log.clone();
        let hear = move |order| ear.0.lock().unwrap().push(format!("{order:?}"));
        set_fences(Some(Rc::new(hear)));
        bell.ring();
        set_fences(None);
        assert_eq!(*log.0.lock().unwrap(), ["SeqCst", "4 octets at 12: 0x30001"], "{kind:?}");
    }
}

#[test]
fn a_link_makes_whole_aligned_accesses_only() {
    for (board, master) in [
        (UNCACHED, UNCACHED),
        (UNCACHED, COMBINED),
        (COMBINED, UNCACHED),
        (BOARD, MASTER),
        ([Kind::Cached, Kind::Uncached], [Kind::Uncached, Kind::Cached]),
    ] {
        for off in [&[][..], &[net::F_MRG_RXBUF], &[virtio::F_EVENT_IDX, virtio::F_IN_ORDER]] {
            for engine in [None, Some(0), Some(300), Some(usize::MAX)] {
                let engine = engine.map(|cpu_below| EngineUse { cpu_below });
                let [window, driver] = Cell { board, master, off: Features::of(off), engine }.run();
                // Now and then an event; an engine that is a CPU reads the words that a frame ends in.
                let most = if engine.is_some() { 1.0 } else { 0.1 };
                assert!(window < 0.1 && driver < most, "{board:?} {engine:?}: {window} {driver}");
            }
        }
    }
}

#[test]
fn so_does_one_whose_board_reaches_driver_memory_by_its_engine_alone() {
    for window in [Kind::Uncached, Kind::WriteCombined] {
        let engine = Some(EngineUse { cpu_below: 300 });
        let board = [window, Kind::DmaOnly];
        Cell { board, master: UNCACHED, off: Features::NONE, engine }.run();
    }
}
