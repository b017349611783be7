//! The thread that moves one queue pair's frames between a netdev and the rings.
//!
//! A breath takes a bounded batch each way, publishes, and rings the other end if it asked for that.
//! With nothing left on either side it arms notifications, looks once more, and sleeps. When the other
//! end has no room, the netdev is not read: its own queue then holds the frames, and nothing is lost.
//!
//! Both descriptors are waited for edge-triggered: a TAP that is left unread because the ring is full
//! is tried again when the ring's doorbell rings, so no edge is missed. A wait ends after a heartbeat
//! at the latest, and work that is found then is a doorbell that was lost: a *rescue*, counted.

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::dma::Transfer;
use crate::memory::{BusMemory, Span};
use crate::net::frame::Drop as FrameDrop;
use crate::net::path::{Inward, MOST_SPANS, Path, PathError, Room};
use crate::os::dma::{Engine, EngineModel};
use crate::os::doorbell::{empty, ring_full_or_not};
use crate::os::poll::{Events, Interest, Poll, Trigger, Waker};
use crate::os::tap::{IoSpan, IoSpanMut, LostTap, Tap, Write};
use crate::spec::net::HEADER_LEN;

/// Frames a direction may move before the other has its turn.
const BATCH: usize = 64;
/// Frames and bytes after which a batch is published, so that the other end can begin.
const PUBLISH_FRAMES: usize = 16;
const PUBLISH_BYTES: usize = 128 << 10;
/// Spans of nearly every frame.
const FEW_SPANS: usize = 4;

const TAG_STOP: u64 = 0;
const TAG_TAP: u64 = 1;
const TAG_DOORBELL: u64 = 2;
const TAG_ENGINE: u64 = 3;

/// Counters of one direction; written by one worker, read by anyone.
#[derive(Debug, Default)]
pub struct DirectionStats {
    /// Frames.
    pub frames: AtomicU64,
    /// Bytes from the Ethernet header on.
    pub bytes: AtomicU64,
    /// Frames dropped, by `net::frame::Drop as usize`.
    pub drops: [AtomicU64; FrameDrop::ALL.len()],
}

impl DirectionStats {
    fn frame(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn dropped(&self, reason: FrameDrop) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counters of a queue pair. `rx` is what the netdev received.
#[derive(Debug, Default)]
pub struct QueueStats {
    /// Ring to netdev.
    pub rx: DirectionStats,
    /// Netdev to ring.
    pub tx: DirectionStats,
    /// Doorbells rung.
    pub notifications_sent: AtomicU64,
    /// Doorbells heard.
    pub notifications_received: AtomicU64,
    /// Work found at a heartbeat without a doorbell.
    pub rescues: AtomicU64,
    /// Transfers given to the engine, and their bytes.
    pub transfers: AtomicU64,
    /// As above.
    pub transfer_bytes: AtomicU64,
}

/// What a worker works on.
#[derive(Debug)]
pub struct Job {
    /// The rings.
    pub path: Box<dyn Path>,
    /// The memory they are in.
    pub mem: Arc<BusMemory>,
    /// The netdev.
    pub tap: Arc<Tap>,
    /// Our doorbell for this pair.
    pub doorbell: Arc<OwnedFd>,
    /// The other end's; `None` if it polls.
    pub peer: Option<Arc<OwnedFd>>,
    /// Where to count.
    pub stats: Arc<QueueStats>,
    /// Longest sleep.
    pub heartbeat: Duration,
    /// What the engine is like, for a path that needs one.
    pub engine: EngineModel,
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    peer: Option<Arc<OwnedFd>>,
}

impl Worker {
    /// Starts a thread on the job; `broken` is called on it if it cannot go on: why, and whether the
    /// netdev is lost.
    pub fn start(
        name: &str,
        job: Job,
        broken: impl FnOnce(String, bool) + Send + 'static,
    ) -> std::io::Result<Self> {
        drop_stale(&job.tap, &job.stats)?;
        let poll = Poll::new()?;
        let waker = Waker::new(&poll, TAG_STOP)?;
        poll.add(&*job.tap, TAG_TAP, Interest::Read, Trigger::Edge)?;
        poll.add_doorbell(&*job.doorbell, TAG_DOORBELL)?;
        let peer = job.peer.clone();
        let frames = job.path.local().unwrap_or_else(|| job.mem.clone());
        let engine = match job.path.local() {
            Some(local) => Some(Engine::start(job.engine, job.mem.clone(), local)?),
            None => None,
        };
        if let Some(engine) = &engine {
            poll.add_doorbell(engine, TAG_ENGINE)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        // The kernel keeps 15 bytes of a thread's name.
        let thread =
            std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
                let events = Events::with_capacity(4);
                let mut turn =
                    Turn { job, frames, engine, refused: None, poll, stop: flag, events };
                // A bug must not leave a link that looks alive; the panic itself has been printed.
                let end = std::panic::catch_unwind(AssertUnwindSafe(|| turn.run()));
                // Nothing may be copied any more once anybody hears of the end.
                drop(turn);
                match end {
                    Ok(Ok(())) => {}
                    Ok(Err(fault)) => {
                        let lost = matches!(fault, Fault::Tap(LostTap::Deleted | LostTap::Os(_)));
                        broken(fault.to_string(), lost);
                    }
                    Err(_) => broken("the worker panicked".to_owned(), false),
                }
            })?;
        Ok(Self { thread: Some(thread), stop, waker, peer })
    }

    /// Ends its sleep: an in-band notification came.
    pub fn wake(&self) {
        // A failure would mean a closed descriptor, which it holds open itself.
        let _ = self.waker.wake();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        let Some(thread) = self.thread.take() else { return };
        let since = Instant::now();
        while !thread.is_finished() {
            // The other end may have filled its doorbell, and the worker then hangs in ringing it.
            if since.elapsed() > Duration::from_millis(20) {
                self.peer.iter().for_each(|peer| empty(peer));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        // Its panics have been reported.
        let _ = thread.join();
    }
}

/// Why a worker cannot go on.
enum Fault {
    Path(PathError),
    Tap(LostTap),
    Poll(std::io::Error),
    Engine,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(e) => write!(f, "{e}"),
            Self::Tap(e) => write!(f, "{e}"),
            Self::Poll(e) => write!(f, "waiting for work: {e}"),
            Self::Engine => f.write_str("the DMA engine's thread has ended"),
        }
    }
}

impl From<PathError> for Fault {
    fn from(e: PathError) -> Self {
        Self::Path(e)
    }
}

impl From<LostTap> for Fault {
    fn from(e: LostTap) -> Self {
        Self::Tap(e)
    }
}

struct Turn {
    job: Job,
    /// The table of the frames' spans.
    frames: Arc<BusMemory>,
    /// Its end waits for its copies, so a worker that has ended writes no more.
    engine: Option<Engine>,
    /// A transfer for which the engine had no room.
    refused: Option<Transfer>,
    poll: Poll,
    stop: Arc<AtomicBool>,
    events: Events,
}

impl Turn {
    fn run(&mut self) -> Result<(), Fault> {
        let mut next_tick = Instant::now() + self.job.heartbeat;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + self.job.heartbeat;
                while let Some(reason) = self.job.path.tick() {
                    self.job.stats.tx.dropped(reason);
                }
            }
            let (sent, blocked) = self.outward()?;
            let received = self.inward()?;
            let copied = self.copies()?;
            if sent + received + copied > 0 {
                continue;
            }
            let Job { path, mem, .. } = &mut self.job;
            let silent = !path.arm(mem, blocked)? && self.sleep()?;
            self.job.path.disarm(&self.job.mem);
            // With an engine, work that a lost doorbell announced becomes a transfer first.
            if silent && self.inward()? + self.submit() > 0 {
                self.job.stats.rescues.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sleeps until something happens, at most for a heartbeat; `true` if nothing did.
    fn sleep(&mut self) -> Result<bool, Fault> {
        self.poll.wait(&mut self.events, Some(self.job.heartbeat)).map_err(Fault::Poll)?;
        let rung = self.events.iter().any(|ready| ready.tag == TAG_DOORBELL);
        self.job.stats.notifications_received.fetch_add(rung.into(), Ordering::Relaxed);
        Ok(self.events.iter().next().is_none())
    }

    /// Gives the engine what there is to copy, as much as it takes: how many transfers.
    fn submit(&mut self) -> usize {
        let Some(engine) = &mut self.engine else { return 0 };
        let Job { path, stats, .. } = &mut self.job;
        let mut begun = 0;
        while let Some(transfer) = self.refused.take().or_else(|| path.poll_transfer()) {
            let len = transfer.len() as u64;
            if let Err(transfer) = engine.submit(transfer) {
                self.refused = Some(transfer);
                break;
            }
            stats.transfers.fetch_add(1, Ordering::Relaxed);
            stats.transfer_bytes.fetch_add(len, Ordering::Relaxed);
            begun += 1;
        }
        begun
    }

    /// Gives the engine what there is to copy, and takes back what it has done: how many.
    fn copies(&mut self) -> Result<usize, Fault> {
        self.submit();
        let Some(engine) = &mut self.engine else { return Ok(0) };
        let Job { path, stats, .. } = &mut self.job;
        if engine.is_dead() {
            return Err(Fault::Engine);
        }
        let mut done = 0;
        while let Some(completion) = engine.poll() {
            path.handle_completion(completion)?;
            done += 1;
        }
        while let Some(reason) = path.poll_drop() {
            stats.tx.dropped(reason);
        }
        Ok(done)
    }

    /// A batch from the netdev to the ring: how many frames, and whether it ended for want of room.
    fn outward(&mut self) -> Result<(usize, bool), Fault> {
        let Job { path, mem, tap, stats, peer, .. } = &mut self.job;
        let (mut frames, mut unpublished, mut bytes, mut blocked) = (0, 0, 0, false);
        while frames < BATCH {
            let read = match path.room(mem)? {
                Room::Nowhere => {
                    blocked = true;
                    break;
                }
                Room::Private(buffer) => tap.read_into(&mut [IoSpanMut::private(buffer)])?,
                Room::Shared(spans) => read_shared(tap, &self.frames, spans)?,
            };
            let Some(len) = read else { break };
            match path.sent(mem, len)? {
                None => stats.tx.frame(len.saturating_sub(HEADER_LEN)),
                Some(reason) => stats.tx.dropped(reason),
            }
            (frames, unpublished, bytes) = (frames + 1, unpublished + 1, bytes + len);
            if unpublished >= PUBLISH_FRAMES || bytes >= PUBLISH_BYTES {
                if path.flush(mem) {
                    ring_peer(stats, peer.as_ref());
                }
                (unpublished, bytes) = (0, 0);
            }
        }
        if path.flush(mem) {
            ring_peer(stats, peer.as_ref());
        }
        Ok((frames, blocked))
    }

    /// A batch from the ring to the netdev: how many frames.
    fn inward(&mut self) -> Result<usize, Fault> {
        let Job { path, mem, tap, stats, peer, .. } = &mut self.job;
        let mut frames = 0;
        while frames < BATCH {
            match path.receive(mem)? {
                Inward::Empty => break,
                Inward::Dropped(reason) => stats.rx.dropped(reason),
                Inward::Frame { prefix, tail, len } => {
                    match write(tap, &self.frames, prefix, tail)? {
                        Write::Sent => stats.rx.frame(len),
                        Write::BadFrame => stats.rx.dropped(FrameDrop::Refused),
                        Write::Down => stats.rx.dropped(FrameDrop::NetdevDown),
                        // A TAP's send buffer has no bound by default, so this is want of memory.
                        Write::NoMemory | Write::WouldBlock => {
                            stats.rx.dropped(FrameDrop::NoMemory)
                        }
                    }
                }
            }
            path.received(mem)?;
            frames += 1;
        }
        if path.release(mem) {
            ring_peer(stats, peer.as_ref());
        }
        Ok(frames)
    }
}

fn ring_peer(stats: &QueueStats, peer: Option<&Arc<OwnedFd>>) {
    let Some(peer) = peer else { return };
    stats.notifications_sent.fetch_add(1, Ordering::Relaxed);
    ring_full_or_not(peer);
}

/// Frames that waited in the netdev's queue since before the link came up may carry offloads that
/// are off now, and are late in any case. The netdev has no carrier yet, so no new ones come.
fn drop_stale(tap: &Tap, stats: &QueueStats) -> std::io::Result<()> {
    let mut scratch = [0; 2048];
    // The queue has a bound of its own; this one is for a kernel that refills it meanwhile.
    for _ in 0..4096 {
        let mut spans = [IoSpanMut::private(&mut scratch)];
        if tap.read_into(&mut spans).map_err(std::io::Error::other)?.is_none() {
            break;
        }
        stats.tx.dropped(FrameDrop::Stale);
    }
    Ok(())
}

fn read_shared(tap: &Tap, mem: &BusMemory, spans: &[Span]) -> Result<Option<usize>, LostTap> {
    let shared = |span: &Span| mem.view(*span).and_then(IoSpanMut::shared);
    if let [span] = spans {
        return match shared(span) {
            Some(span) => tap.read_into(&mut [span]),
            None => Ok(None),
        };
    }
    // What is left over has no length, and takes nothing.
    let mut list: [_; MOST_SPANS] = std::array::from_fn(|_| IoSpanMut::private(&mut []));
    for (to, from) in list.iter_mut().zip(spans.iter().filter_map(shared)) {
        *to = from;
    }
    tap.read_into(&mut list[..spans.len().min(MOST_SPANS)])
}

/// Writes a frame: the private prefix, then the shared tail. Only a tail in more pieces than any
/// driver has a reason for takes an allocation.
fn write<'m>(
    tap: &Tap,
    mem: &'m BusMemory,
    prefix: &'m [u8],
    tail: &[Span],
) -> Result<Write, LostTap> {
    match tail.len() {
        0..FEW_SPANS => write_list(tap, mem, &mut [IoSpan::private(prefix); FEW_SPANS], tail),
        FEW_SPANS..MOST_SPANS => {
            write_list(tap, mem, &mut [IoSpan::private(prefix); MOST_SPANS], tail)
        }
        n => write_list(tap, mem, &mut vec![IoSpan::private(prefix); n + 1], tail),
    }
}

/// Puts the tail behind the first entry of `list`, which has room for it, and writes both.
fn write_list<'m>(
    tap: &Tap,
    mem: &'m BusMemory,
    list: &mut [IoSpan<'m>],
    tail: &[Span],
) -> Result<Write, LostTap> {
    for (to, from) in list[1..].iter_mut().zip(tail) {
        let Some(span) = mem.view(*from).and_then(IoSpan::shared) else {
            return Ok(Write::BadFrame);
        };
        *to = span;
    }
    tap.write_from(&list[..=tail.len()])
}
