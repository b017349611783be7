//! No step of the data path allocates, once the first frames have gone through.

#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::dma::{Completion, Place};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::device_path::DevicePath;
use boardlane::net::driver_path::DriverPath;
use boardlane::net::echo::{Echo, Step};
use boardlane::net::engine_path::{EnginePath, EngineUse};
use boardlane::net::features::Features;
use boardlane::net::frame::{Drop as FrameDrop, Offloads};
use boardlane::net::path::{Inward, Path};
use boardlane::net::placement::place;
use boardlane::net::rate::Rate;
use boardlane::net::sources::Sources;
use boardlane::spec::{net, virtio};
use boardlane::virtqueue::{Buffer, DriverQueue, QueueConfig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting touches a
// thread-local number that is not allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `f` allocates on this thread.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

const SLOT: u64 = 16 << 20;
const WINDOW: u64 = SLOT / 4;
/// Of frames, header included.
const LENGTHS: [usize; 5] = [26, 72, 1526, 9026, 65_589];

fn memory(kind: Kind) -> BusMemory {
    let region = |at, len: u64, side| {
        let bytes = usize::try_from(len).expect("small");
        Region::mapped(at, len, side, Arc::new(Mapping::anonymous(bytes, kind)), 0)
    };
    BusMemory::new(vec![region(0, WINDOW, Side::Near), region(WINDOW, SLOT - WINDOW, Side::Far)])
        .expect("two regions side by side")
}

/// Sends a frame of `len` bytes, header included, if there is room.
fn send(path: &mut dyn Path, mem: &BusMemory, len: usize) -> bool {
    if !path.room(mem).expect("a sound ring").fill(mem, &[0; 12]) {
        return false;
    }
    assert_eq!(path.sent(mem, len).expect("a sound ring"), None);
    true
}

/// The same with a path whose buffers are `local`.
fn send_local(path: &mut dyn Path, mem: &BusMemory, local: &BusMemory, len: usize) -> bool {
    path.room(mem).expect("a sound ring").fill(local, &[0; 12])
        && path.sent(mem, len).expect("a sound ring").is_none()
}

/// Takes everything in; how many frames.
fn receive(path: &mut dyn Path, mem: &BusMemory) -> usize {
    for frames in 0.. {
        match path.receive(mem).expect("a sound ring") {
            Inward::Empty => return frames,
            Inward::Dropped(reason) => panic!("{}", reason.name()),
            Inward::Frame { .. } => {}
        }
        path.received(mem).expect("a sound ring");
    }
    unreachable!()
}

/// A batch each way, as a worker does it, with everything that it calls in between.
fn breath<'a>(from: &'a mut dyn Path, to: &'a mut dyn Path, mem: &BusMemory) {
    let sent = LENGTHS.iter().filter(|len| send(from, mem, **len)).count();
    from.flush(mem);
    assert_eq!(receive(to, mem), sent);
    to.release(mem);
    for path in [from, to] {
        let _ = path.arm(mem, true).expect("a sound ring");
        path.disarm(mem);
        path.tick();
    }
}

/// What is turned off for each kind of rings that memory of this kind can have.
fn rings(kind: Kind) -> impl Iterator<Item = Features> {
    let packed = Features::of(&[virtio::F_RING_PACKED]);
    let split = packed.union(Features::of(&[virtio::F_IN_ORDER]));
    [Features::NONE, packed, split].into_iter().skip(usize::from(kind != Kind::Cached))
}

#[test]
fn our_two_paths_do_not_allocate() {
    for kind in [Kind::Cached, Kind::Uncached] {
        for off in [Features::NONE, Features::of(&[net::F_MRG_RXBUF, virtio::F_EVENT_IDX])]
            .into_iter()
            .flat_map(|off| rings(kind).map(move |without| off.union(without)))
        {
            let mem = memory(kind);
            let features = Features::OFFER.without(off);
            let p = place(0x3000..WINDOW, WINDOW + 0x3000..SLOT, [64, 64], features)
                .expect("there is memory enough");
            let mut driver = DriverPath::new(&mem, features, &p.receiveq, &p.transmitq, &p.buffers)
                .expect("our own placement");
            let mut device =
                DevicePath::new(&mem, features, &p.receiveq, &p.transmitq).expect("sound queues");
            let mut run = |breaths| {
                for _ in 0..breaths {
                    breath(&mut driver, &mut device, &mem);
                    breath(&mut device, &mut driver, &mem);
                }
            };
            run(2);
            assert_eq!(allocations(|| run(300)), 0, "{kind:?} {features}");
        }
    }
}

#[test]
fn an_echo_does_not_allocate() {
    for off in rings(Kind::Cached) {
        let mem = memory(Kind::Cached);
        let features = Features::OFFER.without(off);
        let p = place(0x3000..WINDOW, WINDOW + 0x3000..SLOT, [64, 64], features)
            .expect("there is memory enough");
        let mut driver = DriverPath::new(&mem, features, &p.receiveq, &p.transmitq, &p.buffers)
            .expect("our own placement");
        let mut device =
            DevicePath::new(&mem, features, &p.receiveq, &p.transmitq).expect("sound queues");
        let mut echo = Echo::new(Offloads::to_driver(features));
        let mut run = |breaths| {
            for _ in 0..breaths {
                let sent = LENGTHS.iter().filter(|len| send(&mut driver, &mem, **len)).count();
                driver.flush(&mem);
                for _ in 0..sent {
                    let step = echo.step(&mut device, &mem, &mem).expect("a sound ring");
                    assert!(matches!(step, Step::Sent { .. }), "{step:?}");
                }
                assert_eq!(echo.step(&mut device, &mem, &mem), Ok(Step::Empty));
                device.flush(&mem);
                device.release(&mem);
                let _ = device.arm_for_room(&mem).expect("a sound ring");
                device.disarm(&mem);
                assert_eq!(receive(&mut driver, &mem), sent);
                driver.release(&mem);
            }
        };
        run(2);
        assert_eq!(allocations(|| run(300)), 0, "{features}");
    }
}

/// An engine that does at once what it is asked for.
fn copies(path: &mut EnginePath, mem: &BusMemory, local: &BusMemory) {
    while let Some(transfer) = path.poll_transfer() {
        for piece in &transfer.pieces {
            let view = |place| match place {
                Place::Bus(span) => mem.view(span).expect("mapped"),
                Place::Local(span) => local.view(span).expect("mapped"),
            };
            view(piece.from).copy_into(&view(piece.to));
        }
        path.handle_completion(Completion { transfer, good: true }).expect("it has asked for it");
    }
    assert_eq!(path.poll_drop(), None);
}

#[test]
fn an_engine_s_path_does_not_allocate() {
    for (off, cpu_below) in rings(Kind::Cached).flat_map(|off| [0, 256].map(|below| (off, below))) {
        let mem = memory(Kind::Cached);
        let features = Features::OFFER.without(off);
        let p = place(0x3000..WINDOW, WINDOW + 0x3000..SLOT, [64, 64], features)
            .expect("there is memory enough");
        let mut driver = DriverPath::new(&mem, features, &p.receiveq, &p.transmitq, &p.buffers)
            .expect("our own placement");
        let by = EngineUse { cpu_below };
        let mut device =
            EnginePath::new(&mem, features, &p.receiveq, &p.transmitq, by).expect("sound queues");
        let local = device.local().expect("an engine's path has local memory");
        let mut run = |breaths| {
            for _ in 0..breaths {
                let sent = LENGTHS.iter().filter(|len| send(&mut driver, &mem, **len)).count();
                driver.flush(&mem);
                let mut taken = 0;
                while taken < sent {
                    taken += receive(&mut device, &mem);
                    copies(&mut device, &mem, &local);
                }
                device.release(&mem);
                let sent =
                    LENGTHS.iter().filter(|len| send_local(&mut device, &mem, &local, **len));
                let sent = sent.count();
                device.flush(&mem);
                copies(&mut device, &mem, &local);
                device.flush(&mem);
                assert_eq!(receive(&mut driver, &mem), sent);
                driver.release(&mem);
                let _ = device.arm(&mem, true).expect("a sound ring");
                device.disarm(&mem);
                device.tick();
            }
        };
        run(20);
        assert_eq!(allocations(|| run(300)), 0, "{features}, by the CPU below {cpu_below}");
    }
}

#[test]
fn what_the_other_end_may_send_is_judged_and_counted_without_an_allocation() {
    let (mac, start) = ([2, 0, 0, 0, 0, 2], Instant::now());
    let networks: Vec<_> = (0..64).map(|n| (Ipv4Addr::new(10, n, 0, 0).into(), 16)).collect();
    let sources = Sources::new(&[mac], &networks).expect("there are lists");
    let rate = Rate::new(start, Some(1_000_000_000), Some(100_000));
    let mut frame = [&[0; 12][..], &[2, 0, 0, 0, 0, 1], &mac, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 63, 0, 9, 10, 0, 0, 1]);
    frame.extend([0; 8]);
    let mut run = |breaths: u32| {
        for n in 0..breaths {
            let batch = rate.batch(start + n * Duration::from_millis(1));
            while batch.is_spent().is_none() {
                assert_eq!(sources.check(&frame), Ok(()));
                batch.take(frame.len());
            }
            frame[41] ^= 0xff;
        }
    };
    run(2);
    assert_eq!(allocations(|| run(300)), 0);
    frame[12 + 6] = 4;
    assert_eq!(sources.check(&frame), Err(FrameDrop::ForeignMac));
}

#[cfg(feature = "cli")]
mod captured {
    use std::fmt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use boardlane::daemon::capture::ring::RX;
    use boardlane::daemon::capture::{Captures, Eye, Seen, Session, Wanted};
    use boardlane::daemon::worker::{Job, Limits, Port, QueueStats, Worker};
    use boardlane::net::path::{PathError, Room};
    use boardlane::os::dma::EngineModel;

    use super::*;

    /// Captures of a link with one queue pair; nobody reads them.
    fn captures(snaplens: &[u32]) -> (Arc<Captures>, Vec<Session>) {
        let captures = Arc::<Captures>::default();
        let begin = |drops, snaplen| {
            let wanted = Wanted { link: "bl0".to_owned(), snaplen, drops };
            captures.begin(&wanted, 1).expect("there is memory")
        };
        let sessions =
            snaplens.iter().flat_map(|len| [false, true].map(|drops| begin(drops, *len)));
        let sessions = sessions.collect();
        (captures, sessions)
    }

    #[test]
    fn what_is_captured_is_copied_without_an_allocation_and_so_is_what_finds_no_room() {
        let (captures, _sessions) = captures(&[64, 262_144]);
        let mem = memory(Kind::Cached);
        let rest =
            [mem.resolve(0, 4096).expect("mapped"), mem.resolve(8192, 65_536).expect("mapped")];
        let mut eye = captures.eye(0);
        assert!(eye.look());
        let mut run = |times| {
            for _ in 0..times {
                for (len, start) in LENGTHS.into_iter().zip([&[0; 12][..], &[0; 26], &[], &[], &[]])
                {
                    assert!(eye.look());
                    eye.see(RX, Seen { start, rest: &rest, mem: &mem, len });
                    eye.settle((len == LENGTHS[1]).then_some(FrameDrop::ForeignMac));
                }
                eye.reject(RX, &[], 0, FrameDrop::Stale);
            }
        };
        assert_eq!(allocations(|| run(1000)), 0);
    }

    /// There is always a frame more, and room for it, until all have come. It knows its worker's thread.
    struct Flood {
        frame: Vec<u8>,
        buffer: Vec<u8>,
        received: u64,
        /// After the first frames.
        before: u64,
        /// Frames, and how often the thread has allocated since.
        said: Arc<[AtomicU64; 2]>,
    }

    impl fmt::Debug for Flood {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Flood")
        }
    }

    const FRAMES: u64 = 100_000;

    impl Path for Flood {
        fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
            Ok(Room::Private(&mut self.buffer))
        }
        fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
            Ok(None)
        }
        fn flush(&mut self, _: &BusMemory) -> bool {
            false
        }
        fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
            let allocations = ALLOCATIONS.get();
            match self.received {
                FRAMES => return Ok(Inward::Empty),
                ..1000 => self.before = allocations,
                _ => {
                    self.said[1].store(allocations - self.before, Ordering::Relaxed);
                    self.said[0].store(self.received, Ordering::Relaxed);
                }
            }
            Ok(match self.received % 3 {
                0 => Inward::Dropped(FrameDrop::BadFlags),
                _ => Inward::Frame { prefix: &self.frame, tail: &[], len: 60 },
            })
        }
        fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
            self.received += 1;
            Ok(())
        }
        fn release(&mut self, _: &BusMemory) -> bool {
            false
        }
        fn arm(&mut self, _: &BusMemory, _: bool) -> Result<bool, PathError> {
            Ok(false)
        }
        fn arm_for_room(&mut self, _: &BusMemory) -> Result<bool, PathError> {
            Ok(false)
        }
        fn disarm(&mut self, _: &BusMemory) {}
    }

    fn worker(port: Port, eye: Eye) {
        let said = Arc::new([const { AtomicU64::new(0) }; 2]);
        let (frame, buffer) = (vec![0; 72], vec![0; 2048]);
        let path = Flood { frame, buffer, received: 0, before: 0, said: said.clone() };
        let mem = Arc::new(BusMemory::default());
        let job = Job {
            path: Box::new(path),
            mem: mem.clone(),
            engine_mem: mem,
            port,
            doorbells: Vec::new(),
            peers: [None, None],
            stats: Arc::<QueueStats>::default(),
            heartbeat: Duration::from_millis(250),
            busy_poll: Duration::ZERO,
            engine: EngineModel::default(),
            settings: None,
            limits: Limits::default(),
            eye,
            cpu: None,
        };
        let worker = Worker::start("bl-worker", job, |why, _| panic!("{why}")).expect("a thread");
        let since = Instant::now();
        while said[0].load(Ordering::Relaxed) < FRAMES - 1 {
            assert!(since.elapsed() < Duration::from_secs(10), "frames are slow");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(worker.stop().is_some());
        assert_eq!(said[1].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_worker_does_not_allocate_whether_it_is_captured_or_not() {
        for port in [|| Port::Discard, || Port::Echo(Echo::new(Offloads::default()))] {
            worker(port(), Eye::default());
            let (captures, _sessions) = captures(&[64, 262_144]);
            worker(port(), captures.eye(0));
        }
    }
}

/// A driver that posts small buffers and sends in several pieces.
struct Stock {
    rx: DriverQueue,
    tx: DriverQueue,
}

impl Stock {
    const BUFFERS: u64 = WINDOW + 0x1_0000;

    fn post(&mut self, mem: &BusMemory, token: u16) {
        let addr = Self::BUFFERS + u64::from(token) * 1536;
        let _ = self.rx.add(mem, &[], &[Buffer { addr, len: 1526 }], token);
    }

    fn turn(&mut self, mem: &BusMemory) {
        while let Some(used) = self.rx.pop_used(mem).expect("a sound device") {
            self.post(mem, used.token);
        }
        while self.tx.pop_used(mem).expect("a sound device").is_some() {}
        let addr = WINDOW + 0x20_0000;
        let pieces = [12, 40, 4096, 900].map(|len| Buffer { addr: addr + u64::from(len), len });
        self.tx.add(mem, &pieces, &[], 0).expect("all came back");
        let _ = (self.rx.publish(mem), self.tx.publish(mem));
    }
}

#[test]
fn the_device_s_path_does_not_allocate_for_a_driver_with_small_buffers() {
    for (kind, off) in [Kind::Cached, Kind::Uncached]
        .into_iter()
        .flat_map(|kind| rings(kind).map(move |off| (kind, off)))
    {
        let mem = memory(kind);
        let features = Features::OFFER.without(off);
        let queue = |desc| QueueConfig {
            size: 256,
            desc,
            driver: desc + 0x2000,
            device: desc + 0x3000,
            packed: features.has(virtio::F_RING_PACKED),
            in_order: features.has(virtio::F_IN_ORDER),
            event_idx: true,
            indirect: true,
        };
        let (receiveq, transmitq) = (queue(0x4000), queue(0x1_4000));
        let mut stock = Stock {
            rx: receiveq.activate_driver(&mem).expect("mapped"),
            tx: transmitq.activate_driver(&mem).expect("mapped"),
        };
        let mut device = DevicePath::new(&mem, features, &receiveq, &transmitq).expect("mapped");
        (0..256).for_each(|token| stock.post(&mem, token));
        let mut run = |breaths| {
            for _ in 0..breaths {
                stock.turn(&mem);
                assert_eq!(receive(&mut device, &mem), 1);
                device.release(&mem);
                while send(&mut device, &mem, 9026) && send(&mut device, &mem, 65_589) {
                    device.tick();
                }
                device.flush(&mem);
                let _ = device.arm(&mem, true).expect("a sound driver");
                device.disarm(&mem);
                while device.tick().is_some() {}
            }
        };
        run(20);
        assert_eq!(allocations(|| run(300)), 0, "{kind:?}");
    }
}
