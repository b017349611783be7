//! A worker on a TAP of this kernel, with a data path that is played.
//!
//! It needs what `tests/tap.rs` needs; without that its cases are ignored, with the reason; where
//! `CI=true` says that they must run, they fail.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

#[path = "worker/bounce.rs"]
mod bounce;
#[path = "tap/kernel.rs"]
#[allow(
    dead_code,
    unsafe_code,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "another test's, too"
)]
mod kernel;

use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use boardlane::daemon::capture::Eye;
use boardlane::daemon::worker::{IN, Job, Limits, OUT, Port, QueueStats, Worker};
use boardlane::memory::{BusMemory, Region, Side, Span};
use boardlane::net::echo::Echo;
use boardlane::net::features::Features;
use boardlane::net::frame::{Drop as FrameDrop, Offloads};
use boardlane::net::path::{Inward, Path, PathError, Room};
use boardlane::net::rate::Rate;
use boardlane::net::settings::{Coalesce, Current, Settings};
use boardlane::net::sources::Sources;
use boardlane::os::dma::EngineModel;
use boardlane::os::fabric::vhost_user::memory::{Loss, map};
use boardlane::os::netns::Namespace;
use boardlane::os::poll::ring;
use boardlane::os::tap::Tap;
use bounce::frames_bounce_where_system_calls_do_not_copy;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, ftruncate, memfd_create};

/// Nothing comes and nothing goes, but one used buffer, of which the driver wants to be told.
#[derive(Debug)]
struct OneUsed {
    breaths: Arc<AtomicU64>,
    /// The way of its queue, until it was told.
    untold: Option<usize>,
}

impl Path for OneUsed {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        self.breaths.fetch_add(1, Ordering::Relaxed);
        Ok(Room::Nowhere)
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        self.untold.take_if(|way| *way == OUT).is_some()
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        Ok(Inward::Empty)
    }
    fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
        Ok(())
    }
    fn release(&mut self, _: &BusMemory) -> bool {
        self.untold.take_if(|way| *way == IN).is_some()
    }
    fn arm(&mut self, _: &BusMemory, _: bool) -> Result<bool, PathError> {
        Ok(false)
    }
    fn arm_for_room(&mut self, _: &BusMemory) -> Result<bool, PathError> {
        Ok(false)
    }
    fn disarm(&mut self, _: &BusMemory) {}
}

fn bell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap())
}

struct Bench {
    worker: Worker,
    doorbells: [Arc<OwnedFd>; 2],
    peers: [Arc<OwnedFd>; 2],
    settings: Arc<Settings>,
    stats: Arc<QueueStats>,
    breaths: Arc<AtomicU64>,
}

impl Bench {
    /// A worker whose driver wants notifications after so many µs, and the one of the queue by which
    /// frames go out.
    fn new(max_usecs: u32) -> Self {
        Self::of(OUT, max_usecs)
    }

    /// The same with the queue of this way.
    fn of(way: usize, max_usecs: u32) -> Self {
        let bells = || [(); 2].map(|()| bell());
        let settings = Settings::new(Current::at_first(Features::NONE, [2, 0, 0, 0, 0, 7]));
        settings.change(|current| {
            current.receive = Coalesce { max_packets: 0, max_usecs };
            current.transmit = current.receive;
        });
        let (stats, breaths) = (Arc::<QueueStats>::default(), Arc::<AtomicU64>::default());
        let mem = Arc::new(BusMemory::new(vec![]).unwrap());
        let (doorbells, peers) = (bells(), bells());
        let job = Job {
            path: Box::new(OneUsed { breaths: breaths.clone(), untold: Some(way) }),
            mem: mem.clone(),
            engine_mem: mem,
            port: Port::Tap(Arc::new(Tap::create("bl-worker", false).unwrap())),
            doorbells: doorbells.to_vec(),
            peers: peers.clone().map(|peer| Some(peer.into())),
            stats: stats.clone(),
            heartbeat: Duration::from_millis(20),
            busy_poll: Duration::from_micros(50),
            engine: EngineModel::default(),
            settings: Some(settings.clone()),
            limits: Limits::default(),
            eye: Eye::default(),
            cpu: None,
        };
        let worker = Worker::start("bl-worker", job, |why, _| eprintln!("{why}")).unwrap();
        let bench = Self { worker, doorbells, peers, settings, stats, breaths };
        bench.eventually("it has slept", |bench| bench.breaths.load(Ordering::Relaxed) > 2);
        bench
    }

    fn sent(&self) -> u64 {
        self.stats.notifications_sent.load(Ordering::Relaxed)
    }

    fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(since.elapsed() < Duration::from_secs(10), "never came true: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

const HOURS: u32 = u32::MAX;

fn a_notification_that_waits_is_sent_before_the_data_path_changes_hands() {
    let Bench { worker, stats, .. } = Bench::new(HOURS);
    assert_eq!(stats.notifications_sent.load(Ordering::Relaxed), 0, "there are hours left");
    assert!(worker.stop().is_some());
    assert_eq!(stats.notifications_sent.load(Ordering::Relaxed), 1);
}

fn a_notification_that_waits_is_sent_when_the_driver_asks_for_less_delay() {
    let bench = Bench::new(HOURS);
    assert_eq!(bench.sent(), 0, "there are hours left");
    bench.settings.change(|current| current.receive = Coalesce::default());
    bench.eventually("it was sent", |bench| bench.sent() == 1);
}

fn a_notification_is_sent_when_its_time_has_come() {
    let bench = Bench::new(1000);
    bench.eventually("it was sent", |bench| bench.sent() == 1);
}

fn a_notification_goes_to_the_doorbell_of_its_queue() {
    for (way, other) in [(OUT, IN), (IN, OUT)] {
        // At once, and when its time has come.
        for max_usecs in [0, 1000] {
            let bench = Bench::of(way, max_usecs);
            bench.eventually("it was sent", |bench| bench.sent() == 1);
            let rung = |way: usize| rustix::io::read(&bench.peers[way], &mut [0; 8]).is_ok();
            bench.eventually("it came", |_| rung(way));
            assert!(!rung(other), "way {way} after {max_usecs} µs");
        }
    }
}

fn rings_for_nothing_without_end_are_heard_once_in_a_while() {
    let bench = Bench::new(0);
    let heard = || bench.stats.notifications_received.load(Ordering::Relaxed);
    let (before, since, mut rung) = (heard(), Instant::now(), 0_u64);
    while since.elapsed() < Duration::from_millis(300) {
        for doorbell in &bench.doorbells {
            rung += u64::from(ring(&**doorbell).unwrap());
        }
    }
    let during = heard() - before;
    let most = 64 + 2 * (u64::try_from(since.elapsed().as_millis()).unwrap() / 2 + 1);
    eprintln!("{during} of {rung} rings heard");
    assert!(during <= most, "{during} of {rung} rings heard, {most} are enough");
    // Then each ring is heard.
    for doorbell in bench.doorbells.iter().cycle().take(10) {
        let before = heard();
        ring(&**doorbell).unwrap();
        bench.eventually("it is heard", |_| heard() > before);
    }
}

fn a_peer_that_holds_the_worker_in_ringing_does_not_keep_it_from_ending() {
    let stop = Arc::new(AtomicBool::new(false));
    let bench = Bench::new(HOURS);
    let peer = std::thread::spawn({
        let (peer, stop) = (bench.peers[OUT].clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                fcntl_setfl(&peer, OFlags::NONBLOCK).unwrap();
                for step in [u64::MAX - 1, 1 << 62, 1 << 32, 1] {
                    let _ = rustix::io::write(&peer, &step.to_ne_bytes());
                }
                fcntl_setfl(&peer, OFlags::empty()).unwrap();
                std::thread::yield_now();
            }
        }
    });
    std::thread::sleep(Duration::from_millis(20));
    let since = Instant::now();
    // It rings what waits, and so meets the full doorbell.
    drop(bench.worker.stop());
    eprintln!("it has ended after {:?}", since.elapsed());
    stop.store(true, Ordering::Relaxed);
    peer.join().unwrap();
}

/// There is always a frame more: one from the address that is allowed, then one from another, then one
/// that makes no sense.
#[derive(Debug)]
struct Flood {
    frames: [Vec<u8>; 2],
    received: u64,
    /// Times that the worker asked for doorbells.
    armed: Arc<AtomicU64>,
}

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Path for Flood {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        Ok(Room::Nowhere)
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        Ok(match self.frames.get(usize::try_from(self.received % 3).unwrap()) {
            Some(frame) => Inward::Frame { prefix: frame, tail: &[], len: 60 },
            None => Inward::Dropped(FrameDrop::BadFlags),
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
        self.armed.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        self.arm(mem, true)
    }
    fn disarm(&mut self, _: &BusMemory) {}
}

fn a_flood_is_held_to_the_rate_and_what_is_over_it_stays_in_the_ring() {
    const RATE: u64 = 1000;
    let (armed, stats) = (Arc::<AtomicU64>::default(), Arc::<QueueStats>::default());
    let mem = Arc::new(BusMemory::new(vec![]).unwrap());
    let frame = |last: u8| {
        let mut frame = vec![0; 12 + 60];
        frame[18..24].copy_from_slice(&[2, 0, 0, 0, 0, last]);
        frame
    };
    let path = Flood { frames: [frame(2), frame(3)], received: 0, armed: armed.clone() };
    let start = Instant::now();
    let doorbell = bell();
    let job = Job {
        path: Box::new(path),
        mem: mem.clone(),
        engine_mem: mem,
        port: Port::Discard,
        doorbells: vec![doorbell.clone()],
        peers: [None, None],
        stats: stats.clone(),
        heartbeat: Duration::from_millis(250),
        busy_poll: Duration::from_micros(50),
        engine: EngineModel::default(),
        settings: None,
        limits: Limits {
            sources: Sources::new(&[OWN], &[]).map(Arc::new),
            rate: Some(Arc::new(Rate::new(start, None, Some(RATE)))),
        },
        eye: Eye::default(),
        cpu: None,
    };
    let worker = Worker::start("bl-worker", job, |why, _| eprintln!("{why}")).unwrap();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let drops = |reason| count(&stats.rx.drops[reason as usize]);
    let taken =
        || count(&stats.rx.frames) + drops(FrameDrop::ForeignMac) + drops(FrameDrop::BadFlags);
    let since = Instant::now();
    while taken() < RATE {
        assert!(since.elapsed() < Duration::from_secs(10), "only {} frames came", taken());
        // Doorbells that nobody asked for.
        rustix::io::write(&*doorbell, &1_u64.to_ne_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(worker.stop().is_some());
    let (taken, time) = (taken(), start.elapsed());
    let due = time.as_secs_f64() * RATE as f64 + 11.0;
    eprintln!("{taken} frames in {time:?}, throttled {} times", count(&stats.throttled));
    assert!(taken as f64 <= due, "{taken} frames in {time:?} are more than {due:.0}");
    let each = [count(&stats.rx.frames), drops(FrameDrop::ForeignMac), drops(FrameDrop::BadFlags)];
    assert!(each.iter().all(|n| (taken / 3..=taken / 3 + 1).contains(n)), "{each:?} of {taken}");
    assert!(count(&stats.throttled) > 0);
    assert_eq!(count(&armed), 0, "there was always a frame more, or none was wanted");
    assert_eq!(count(&stats.rescues), 0, "what is left on purpose is nothing lost");
}

/// There is always a frame more to send back, and room for it. Some of what was sent is finished later, as
/// with an engine.
#[derive(Debug)]
struct Later {
    frame: Vec<u8>,
    buffer: Vec<u8>,
    /// What is finished waits to be published.
    finished: Arc<AtomicBool>,
    /// It was published before another frame was taken.
    at_once: Arc<AtomicBool>,
}

impl Path for Later {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        Ok(Room::Private(&mut self.buffer))
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        let finished = self.finished.swap(false, Ordering::Relaxed);
        self.at_once.fetch_or(finished, Ordering::Relaxed);
        finished
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        self.finished.store(false, Ordering::Relaxed);
        Ok(Inward::Frame { prefix: &self.frame, tail: &[], len: 60 })
    }
    fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
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

fn an_echo_that_rests_publishes_what_is_finished_meanwhile() {
    let (finished, at_once) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (doorbell, stats) = (bell(), Arc::<QueueStats>::default());
    let mem = Arc::new(BusMemory::new(vec![]).unwrap());
    let path = Later {
        frame: vec![0; 12 + 60],
        buffer: vec![0; 2048],
        finished: finished.clone(),
        at_once: at_once.clone(),
    };
    let job = Job {
        path: Box::new(path),
        mem: mem.clone(),
        engine_mem: mem,
        port: Port::Echo(Echo::new(Offloads::default())),
        doorbells: vec![doorbell.clone()],
        peers: [Some(bell().into()), None],
        stats: stats.clone(),
        heartbeat: Duration::from_millis(250),
        busy_poll: Duration::from_micros(50),
        engine: EngineModel::default(),
        settings: None,
        // One a second.
        limits: Limits {
            sources: None,
            rate: Some(Arc::new(Rate::new(Instant::now(), None, Some(1)))),
        },
        eye: Eye::default(),
        cpu: None,
    };
    let worker = Worker::start("bl-worker", job, |why, _| eprintln!("{why}")).unwrap();
    let since = Instant::now();
    while !at_once.load(Ordering::Relaxed) {
        assert!(since.elapsed() < Duration::from_secs(10), "it waited for the rest to end");
        std::thread::sleep(Duration::from_millis(50));
        if stats.throttled.load(Ordering::Relaxed) > 0 {
            finished.store(true, Ordering::Relaxed);
            ring(&*doorbell).unwrap();
        }
    }
    eprintln!("published after {:?}", since.elapsed());
    assert!(worker.stop().is_some());
    assert!(stats.notifications_sent.load(Ordering::Relaxed) > 0, "the driver is told");
}

/// A frame comes now and then, of which no doorbell tells.
#[derive(Debug)]
struct Unrung {
    frame: Vec<u8>,
    come: Arc<AtomicU64>,
    taken: u64,
    /// How often notifications were asked for.
    armed: Arc<AtomicU64>,
}

impl Path for Unrung {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        Ok(Room::Nowhere)
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        if self.taken == self.come.load(Ordering::Relaxed) {
            return Ok(Inward::Empty);
        }
        Ok(Inward::Frame { prefix: &self.frame, tail: &[], len: 60 })
    }
    fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
        self.taken += 1;
        Ok(())
    }
    fn release(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn arm(&mut self, _: &BusMemory, _: bool) -> Result<bool, PathError> {
        self.armed.fetch_add(1, Ordering::Relaxed);
        Ok(false)
    }
    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        self.arm(mem, true)
    }
    fn disarm(&mut self, _: &BusMemory) {}
}

fn without_a_doorbell_frames_are_looked_for() {
    let [come, armed] = [(); 2].map(|()| Arc::<AtomicU64>::default());
    let stats = Arc::<QueueStats>::default();
    let mem = Arc::new(BusMemory::new(vec![]).unwrap());
    let frame = vec![0; 12 + 60];
    let path = Unrung { frame, come: come.clone(), taken: 0, armed: armed.clone() };
    let job = Job {
        path: Box::new(path),
        mem: mem.clone(),
        engine_mem: mem,
        port: Port::Discard,
        doorbells: Vec::new(),
        peers: [None, None],
        stats: stats.clone(),
        // Longer than the test takes.
        heartbeat: Duration::from_secs(60),
        busy_poll: Duration::from_micros(50),
        engine: EngineModel::default(),
        settings: None,
        limits: Limits::default(),
        eye: Eye::default(),
        cpu: None,
    };
    let worker = Worker::start("bl-worker", job, |why, _| eprintln!("{why}")).unwrap();
    let mut slowest = Duration::ZERO;
    for frame in 1..=20 {
        // The pauses between looks grow.
        std::thread::sleep(Duration::from_millis(frame * 5));
        let since = Instant::now();
        come.store(frame, Ordering::Relaxed);
        while stats.rx.frames.load(Ordering::Relaxed) < frame {
            assert!(since.elapsed() < Duration::from_secs(10), "frame {frame} is not seen");
            std::thread::yield_now();
        }
        slowest = slowest.max(since.elapsed());
    }
    eprintln!("seen after {slowest:?} at the latest");
    assert!(worker.stop().is_some());
    assert_eq!(armed.load(Ordering::Relaxed), 0, "nobody could notify it");
    assert_eq!(stats.rescues.load(Ordering::Relaxed), 0, "no doorbell was lost");
}

/// There is always a frame more, whose rest lies in memory that another gave.
#[derive(Debug)]
struct Given {
    prefix: Vec<u8>,
    tail: Span,
}

impl Path for Given {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        Ok(Room::Nowhere)
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<FrameDrop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        Ok(Inward::Frame {
            prefix: &self.prefix,
            tail: std::slice::from_ref(&self.tail),
            len: 1060,
        })
    }
    fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
        Ok(())
    }
    fn release(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn arm(&mut self, _: &BusMemory, _: bool) -> Result<bool, PathError> {
        Ok(true)
    }
    fn arm_for_room(&mut self, _: &BusMemory) -> Result<bool, PathError> {
        Ok(true)
    }
    fn disarm(&mut self, _: &BusMemory) {}
}

fn memory_that_the_other_end_takes_away_ends_the_worker_and_not_the_netdev() {
    let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 8192).unwrap();
    let region = map(file.as_fd(), 0, 8192, &Loss::new()).unwrap();
    let region = Region::mapped(0, 8192, Side::Far, region, 0);
    let mem = Arc::new(BusMemory::new(vec![region]).unwrap());
    let tap = Arc::new(Tap::create("bl-worker", false).unwrap());
    let stats = Arc::<QueueStats>::default();
    let job = Job {
        path: Box::new(Given { prefix: vec![0; 12 + 60], tail: mem.resolve(4096, 1000).unwrap() }),
        mem: mem.clone(),
        engine_mem: mem,
        port: Port::Tap(tap.clone()),
        doorbells: vec![Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap())],
        peers: [None, None],
        stats: stats.clone(),
        heartbeat: Duration::from_millis(250),
        busy_poll: Duration::from_micros(50),
        engine: EngineModel::default(),
        settings: None,
        limits: Limits::default(),
        eye: Eye::default(),
        cpu: None,
    };
    let (tell, told) = std::sync::mpsc::channel();
    let broken = move |why, netdev_lost| tell.send((why, netdev_lost)).unwrap();
    let worker = Worker::start("bl-worker", job, broken).unwrap();
    let since = Instant::now();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    // The netdev is down, so frames that the kernel has taken are dropped.
    while count(&stats.rx.drops[FrameDrop::NetdevDown as usize]) == 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "no frame came");
        std::thread::sleep(Duration::from_millis(1));
    }
    ftruncate(&file, 4096).unwrap();
    let (why, netdev_lost) = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((why.as_str(), netdev_lost), ("memory of the other end is gone", false));
    assert!(worker.stop().is_none(), "its data path is no good any more");
    assert_eq!(tap.current_name().unwrap(), "bl-worker");
}

/// A namespace for one case, which goes with it.
struct Scratch {
    name: String,
    namespace: Namespace,
}

impl Scratch {
    /// One in which a TAP can be made.
    fn new(name: String) -> Result<Self, String> {
        let namespace = Namespace::create(&name).map_err(|e| e.to_string())?;
        let scratch = Self { name, namespace };
        let probe = || Tap::create("probe", false).map(drop);
        let made = scratch.namespace.run(probe).map_err(|e| e.to_string())?;
        made.map_err(|e| e.to_string()).map(|()| scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = Namespace::remove(&self.name) {
            eprintln!("{error}");
        }
    }
}

fn case(number: usize, name: &str, run: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        match Scratch::new(format!("bl-worker-test-{}-{number}", process::id())) {
            Ok(scratch) => {
                scratch.namespace.run(run)?;
                Ok(Completion::Completed)
            }
            Err(e) if std::env::var_os("CI").is_some_and(|v| v == "true") => {
                Err(Failed::from(format!("cannot run: {e}")))
            }
            Err(e) => Ok(Completion::ignored_with(e)),
        }
    })
}

macro_rules! case {
    ($number:literal, $name:ident) => {
        case($number, stringify!($name), $name)
    };
}

fn main() {
    let cases = vec![
        case!(0, a_notification_that_waits_is_sent_before_the_data_path_changes_hands),
        case!(1, a_notification_that_waits_is_sent_when_the_driver_asks_for_less_delay),
        case!(2, a_notification_is_sent_when_its_time_has_come),
        case!(3, rings_for_nothing_without_end_are_heard_once_in_a_while),
        case!(4, a_peer_that_holds_the_worker_in_ringing_does_not_keep_it_from_ending),
        case!(5, a_flood_is_held_to_the_rate_and_what_is_over_it_stays_in_the_ring),
        case!(6, an_echo_that_rests_publishes_what_is_finished_meanwhile),
        case!(7, a_notification_goes_to_the_doorbell_of_its_queue),
        case!(8, memory_that_the_other_end_takes_away_ends_the_worker_and_not_the_netdev),
        case!(9, without_a_doorbell_frames_are_looked_for),
        case!(10, frames_bounce_where_system_calls_do_not_copy),
    ];
    libtest_mimic::run(&Arguments::from_args(), cases).exit();
}
