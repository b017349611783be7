//! The thread that moves one queue pair's frames between a port, mostly a netdev, and the rings.
//!
//! A breath takes a bounded batch each way, publishes, and rings the other end if it asked for that.
//! With nothing left on either side it looks again for a short while, arms notifications, looks
//! once more, and sleeps. When the other
//! end has no room, the netdev is not read: its own queue then holds the frames, and nothing is lost.
//!
//! All descriptors are waited for edge-triggered: a TAP that is left unread because the ring is full
//! is tried again when the ring's doorbell rings, so no edge is missed. A wait ends after a heartbeat
//! at the latest, and work that is found then is a doorbell that was lost: a *rescue*, counted.
//!
//! When the other end has sent what it [may](Limits), its frames stay in the ring: their doorbell is not
//! armed, and the sleep ends when there is more to take.

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::capture::ring::{RX, TX};
use super::capture::{Eye, Seen};
use crate::dma::Transfer;
use crate::memory::BusMemory;
use crate::net::owed::Owed;
use crate::net::path::{Inward, Path, Room};
use crate::net::settings::{Settings, Watch};
use crate::os::bell::Bell;
use crate::os::confine;
use crate::os::dma::{Engine, EngineModel};
use crate::os::interrupt::join;
use crate::os::poll::{Events, Interest, Poll, Trigger, Waker};
use crate::os::tap::LostTap;
use crate::spec::net::HEADER_LEN;

mod busy_poll;
mod copies;
mod cpu;
mod fault;
mod frames;
mod kernel;
mod limits;
mod notify;
mod polling;
mod port;
mod rings;
mod stats;

use busy_poll::BusyPoll;
pub use cpu::Cpu;
use fault::Fault;
pub use frames::drop_stale;
use frames::{read, unwritten, write};
pub use kernel::KernelJob;
use kernel::Served;
pub use limits::Limits;
use polling::Polling;
pub use port::Port;
use rings::Rings;
use stats::add;
pub use stats::{DirectionStats, QueueStats};

/// Frames a direction may move before the other has its turn.
const BATCH: usize = 64;
/// Frames and bytes after which a batch is published, so that the other end can begin.
const PUBLISH_FRAMES: usize = 16;
const PUBLISH_BYTES: usize = 128 << 10;
/// Frames after which the other end has its buffers back: half of our driver's.
const RELEASE_FRAMES: usize = 32;
/// How long what an engine has under way is waited for before a data path changes hands.
const FINISH_TIME: Duration = Duration::from_secs(5);
/// Of the two ways of a pair, the one by the queue that frames go out by.
pub const OUT: usize = 0;
/// The one by the queue that they come by.
pub const IN: usize = 1;

const TAG_STOP: u64 = 0;
const TAG_TAP: u64 = 1;
const TAG_DOORBELL: u64 = 2;
const TAG_ENGINE: u64 = 3;

// What a worker is to do.
const GO_ON: u8 = 0;
const GIVE_BACK: u8 = 1;
const END: u8 = 2;

/// What a worker works on.
#[derive(Debug)]
pub struct Job {
    /// The rings.
    pub path: Box<dyn Path>,
    /// The memory they are in.
    pub mem: Arc<BusMemory>,
    /// The same as an engine reaches it.
    pub engine_mem: Arc<BusMemory>,
    /// Where frames go and come from.
    pub port: Port,
    /// Our doorbells for this pair: one for both queues, or one for each. No descriptor is there twice. None:
    /// the worker polls.
    pub doorbells: Vec<Arc<OwnedFd>>,
    /// The other end's by way ([`OUT`], [`IN`]), perhaps one for both; `None` if it polls.
    pub peers: [Option<Bell>; 2],
    /// Where to count.
    pub stats: Arc<QueueStats>,
    /// Longest sleep.
    pub heartbeat: Duration,
    /// Longest look for an answer before a sleep; 0: it sleeps at once.
    pub busy_poll: Duration,
    /// What the engine is like, for a path that needs one.
    pub engine: EngineModel,
    /// What the driver sets at run time; a device's.
    pub settings: Option<Arc<Settings>>,
    /// What the other end may send.
    pub limits: Limits,
    /// Who looks at the frames.
    pub eye: Eye,
    /// Where its thread runs, if not anywhere.
    pub cpu: Option<Cpu>,
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<Option<Box<dyn Path>>>>,
    stop: Arc<AtomicU8>,
    waker: Waker,
    /// By the kernel.
    served: Option<Served>,
}

impl Worker {
    /// Starts a thread on the job; `broken` is called on it if it cannot go on: why, and whether the
    /// netdev is lost.
    pub fn start(
        name: &str,
        job: Job,
        broken: impl FnOnce(String, bool) + Send + 'static,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(&poll, TAG_STOP)?;
        if let Port::Tap(tap) = &job.port {
            poll.add(&**tap, TAG_TAP, Interest::Read, Trigger::Edge)?;
        }
        for doorbell in &job.doorbells {
            poll.add_doorbell(&**doorbell, TAG_DOORBELL)?;
        }
        let frames = job.path.local().unwrap_or_else(|| job.mem.clone());
        let engine = match job.path.local() {
            Some(local) => Some(Engine::start(job.engine, job.engine_mem.clone(), local)?),
            None => None,
        };
        if let Some(engine) = &engine {
            poll.add_doorbell(engine, TAG_ENGINE)?;
        }
        let stop = Arc::new(AtomicU8::new(GO_ON));
        let flag = stop.clone();
        // The kernel keeps 15 bytes of a thread's name.
        let thread =
            std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
                cpu::bind_to(&job);
                job.stats.at_work(job.path.filled().map(|filled| filled.size));
                confine::worker();
                // A wait tells all that is ready, so that doorbells which rang together are one ring.
                let events = Events::with_capacity(3 + job.doorbells.len());
                let settings = job.settings.as_ref().map(Settings::watch);
                let owed = [Owed::default(), Owed::default()];
                let (refused, rest, rings, stop) = (None, None, Rings::default(), flag);
                let busy_poll = BusyPoll::new(job.busy_poll);
                let polling = job.doorbells.is_empty().then(Polling::new);
                let mut turn = Turn {
                    job,
                    frames,
                    engine,
                    refused,
                    settings,
                    owed,
                    rings,
                    busy_poll,
                    polling,
                    rest,
                    poll,
                    stop,
                    events,
                };
                // A bug must not leave a link that looks alive; the panic itself has been printed.
                let end = std::panic::catch_unwind(AssertUnwindSafe(|| turn.run()));
                // Nothing may be copied any more once anybody hears of the end.
                let Turn { job, engine, .. } = turn;
                drop(engine);
                job.stats.at_rest();
                match end {
                    Ok(Ok(())) => return Some(job.path),
                    Ok(Err(fault)) => {
                        let lost = matches!(fault, Fault::Tap(LostTap::Deleted | LostTap::Os(_)));
                        broken(fault.to_string(), lost);
                    }
                    Err(_) => broken("the worker panicked".to_owned(), false),
                }
                None
            })?;
        Ok(Self { thread: Some(thread), stop, waker, served: None })
    }

    /// Ends its sleep: an in-band notification came.
    pub fn wake(&self) {
        // A failure would mean a closed descriptor, which it holds open itself.
        let _ = self.waker.wake();
    }
}

impl Worker {
    /// Ends the thread, with no copy under way; gives its data path back if that is still good.
    pub fn stop(mut self) -> Option<Box<dyn Path>> {
        let path = self.end(GIVE_BACK)?;
        match self.served.take() {
            Some(served) => served.stop(path),
            None => Some(path),
        }
    }

    fn end(&mut self, how: u8) -> Option<Box<dyn Path>> {
        self.stop.store(how, Ordering::Relaxed);
        self.wake();
        // The other end may hold it in ringing its doorbell.
        join(self.thread.take()?, Duration::from_millis(20)).flatten()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end(END);
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
    settings: Option<Watch>,
    /// Notifications that wait, by way.
    owed: [Owed; 2],
    rings: Rings,
    busy_poll: BusyPoll,
    polling: Option<Polling>,
    /// The other end has sent what it may, until then.
    rest: Option<Instant>,
    poll: Poll,
    stop: Arc<AtomicU8>,
    events: Events,
}

impl Turn {
    fn run(&mut self) -> Result<(), Fault> {
        let mut next_tick = Instant::now() + self.job.heartbeat;
        loop {
            match self.stop.load(Ordering::Relaxed) {
                GO_ON => {}
                GIVE_BACK => return self.finish(),
                _ => return Ok(()),
            }
            let now = Instant::now();
            self.ring_what_is_due(now);
            if now >= next_tick {
                next_tick = now + self.job.heartbeat;
                self.tell_filled();
                while let Some(reason) = self.job.path.tick() {
                    self.job.stats.tx.dropped(reason);
                    self.job.eye.reject(TX, &[], 0, reason);
                }
            }
            // A loop without a capture in it costs nothing where there is none.
            let seen = self.job.eye.look();
            let (sent, no_room) =
                if seen { self.outward::<true>()? } else { self.outward::<false>()? };
            let (received, no_room_back) = self.take_in(now)?;
            let copied = self.copies()?;
            let moved = sent + received + copied;
            self.count_copied();
            if moved > 0 {
                self.rings.paid_by(moved);
                self.busy_poll.found(now);
                self.polling.iter_mut().for_each(Polling::found);
                continue;
            }
            if self.rest.is_none() && self.busy_poll.goes_on(now, &self.job.stats) {
                rustix::thread::sched_yield();
                continue;
            }
            if self.doze()? {
                continue;
            }
            self.tell_filled();
            let silent = !self.arm(no_room || no_room_back)? && self.sleep()?;
            self.job.path.disarm(&self.job.mem);
            // With an engine, work that a lost doorbell announced becomes a transfer first.
            if silent && self.take_in(Instant::now())?.0 + self.submit() > 0 {
                self.job.stats.rescues.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Leaves the data path with nothing under way, so that it can change hands.
    fn finish(&mut self) -> Result<(), Fault> {
        let until = Instant::now() + FINISH_TIME;
        loop {
            let done = self.copies()?;
            let engine = self.engine.as_ref();
            if self.refused.is_none() && engine.is_none_or(|engine| engine.under_way() == 0) {
                break;
            }
            if Instant::now() >= until {
                return Err(Fault::SlowEngine);
            }
            if done == 0 {
                let wait = Some(Duration::from_millis(10));
                self.poll.wait(&mut self.events, wait).map_err(Fault::Poll)?;
            }
        }
        // What has been copied since is the driver's, and it may be told that nothing more will come.
        let ring = self.job.path.flush(&self.job.mem);
        self.published(OUT, 0, ring);
        // Nobody would send what waits later, however late it is due.
        if let Some(last) = self.owed.iter().filter_map(Owed::poll_timeout).max() {
            self.ring_what_is_due(last);
        }
        Ok(())
    }

    /// Sleeps until something happens, at most for a heartbeat; `true` if nothing did.
    fn sleep(&mut self) -> Result<bool, Fault> {
        let now = Instant::now();
        self.rings.before_wait(now, &self.poll, &self.job.doorbells).map_err(Fault::Poll)?;
        let due = self.owed.iter().filter_map(Owed::poll_timeout);
        let due = due.chain(self.rings.poll_timeout()).chain(self.rest).min();
        let until = due.map(|due| due.saturating_duration_since(now));
        let longest = self.job.heartbeat;
        let early = until.filter(|until| *until < longest);
        let timeout = early.unwrap_or(longest);
        self.poll.wait(&mut self.events, Some(timeout)).map_err(Fault::Poll)?;
        add(&self.job.stats.wakeups, 1);
        let rung = self.events.iter().any(|ready| ready.tag == TAG_DOORBELL);
        if rung {
            self.job.stats.notifications_received.fetch_add(1, Ordering::Relaxed);
            self.rings
                .heard(Instant::now(), &self.poll, &self.job.doorbells)
                .map_err(Fault::Poll)?;
        }
        // What is left in the ring on purpose is no work that a doorbell was lost for.
        let waits = early.is_some() || self.rest.is_some();
        let silent = !waits && self.events.iter().next().is_none();
        if silent {
            self.rings.have_ended();
        }
        Ok(silent)
    }

    /// A batch from the netdev to the ring: how many frames, and whether it ended for want of room.
    fn outward<const SEEN: bool>(&mut self) -> Result<(usize, bool), Fault> {
        let (mut frames, mut unpublished, mut bytes, mut blocked) = (0, 0, 0, false);
        while frames < BATCH {
            let Job { path, mem, port, stats, eye, .. } = &mut self.job;
            let Port::Tap(tap) = port else { return Ok((0, false)) };
            let mut room = path.room(mem)?;
            if let Room::Nowhere = room {
                blocked = true;
                break;
            }
            let Some(len) = read(tap, &self.frames, &mut room)? else { break };
            if SEEN {
                eye.see(TX, Seen::in_room(&room, &self.frames, len));
            }
            let dropped = path.sent(mem, len)?;
            match dropped {
                None => stats.tx.frame(len.saturating_sub(HEADER_LEN)),
                Some(reason) => stats.tx.dropped(reason),
            }
            if SEEN {
                eye.settle(dropped);
            }
            (frames, unpublished, bytes) = (frames + 1, unpublished + 1, bytes + len);
            if unpublished >= PUBLISH_FRAMES || bytes >= PUBLISH_BYTES {
                let ring = path.flush(mem);
                self.published(OUT, unpublished, ring);
                (unpublished, bytes) = (0, 0);
            }
        }
        let ring = self.job.path.flush(&self.job.mem);
        self.published(OUT, unpublished, ring);
        Ok((frames, blocked))
    }

    /// A batch from the ring to the netdev, or to nowhere, taken at this time: how many frames.
    fn inward<const SEEN: bool>(&mut self, now: Instant) -> Result<usize, Fault> {
        let limits = self.job.limits.clone();
        let batch = limits.batch(now);
        let (mut frames, mut unreleased) = (0, 0);
        while frames < BATCH {
            let Job { path, mem, port, stats, eye, .. } = &mut self.job;
            self.rest = batch.is_spent(stats);
            if self.rest.is_some() {
                break;
            }
            match path.receive(mem)? {
                Inward::Empty => break,
                Inward::Dropped(reason) => {
                    batch.take(0);
                    stats.rx.dropped(reason);
                    if SEEN {
                        let (start, len) = path.rejected();
                        eye.reject(RX, start, len, reason);
                    }
                }
                Inward::Frame { prefix, tail, len } => {
                    batch.take(len);
                    if SEEN {
                        let (mem, len) = (&*self.frames, len + HEADER_LEN);
                        eye.see(RX, Seen { start: prefix, rest: tail, mem, len });
                    }
                    let written = match (limits.check(prefix), &*port) {
                        (Err(reason), _) => Err(reason),
                        (Ok(()), Port::Tap(tap)) => {
                            unwritten(write(tap, &self.frames, prefix, tail)?)
                        }
                        (Ok(()), Port::Discard | Port::Echo(_)) => Ok(()),
                    };
                    match written {
                        Ok(()) => stats.rx.frame(len),
                        Err(reason) => stats.rx.dropped(reason),
                    }
                    if SEEN {
                        eye.settle(written.err());
                    }
                }
            }
            path.received(mem)?;
            (frames, unreleased) = (frames + 1, unreleased + 1);
            if unreleased >= RELEASE_FRAMES {
                self.release(unreleased);
                unreleased = 0;
            }
        }
        self.release(unreleased);
        Ok(frames)
    }

    /// Gives back the memory of so many frames.
    fn release(&mut self, frames: usize) {
        let ring = self.job.path.release(&self.job.mem);
        self.published(IN, frames, ring);
    }
}
