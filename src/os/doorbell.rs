//! A peer's doorbells on the control plane: heard without a thread, rung without blocking.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::interrupt::{interrupt, join};
use super::pace::Pace;
use super::poll::ring;

/// How many rings are heard at once, and how often one is after that. Each that is heard costs the
/// thread that serves all links a look, and a peer can ring a million times a second.
const BURST: u32 = 256;
const INTERVAL: Duration = Duration::from_millis(4);
/// Doorbells that wait to be rung, at most.
const MOST_WANTED: usize = 16;
/// How long ringing may take before it is interrupted.
const PATIENCE: Duration = Duration::from_millis(20);

/// A doorbell of ours, in a tokio runtime. It is never read, so each ring is an edge.
///
/// Of rings without end it hears one in a while: meanwhile it is not watched at all, and so they wake
/// nobody. Nothing is lost, as it is ready still when it is watched again.
#[derive(Debug)]
pub struct Doorbell {
    fd: Arc<OwnedFd>,
    watched: Option<AsyncFd<Arc<OwnedFd>>>,
    pace: Pace,
    deaf_until: Instant,
    /// It is watched again, and so it will be ready at once, rung or not.
    ready_unrung: bool,
}

impl Doorbell {
    /// Listens for the doorbell. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        let (now, watched) = (Instant::now(), Some(watch(&fd)?));
        Ok(Self {
            fd,
            watched,
            pace: Pace::new(now, BURST, INTERVAL),
            deaf_until: now,
            ready_unrung: false,
        })
    }

    /// Waits for the next ring since the last one that was heard. Nothing is lost if it is dropped.
    ///
    /// # Errors
    /// The runtime is shutting down, or the descriptor cannot be watched any more.
    pub async fn rung(&mut self) -> io::Result<()> {
        let watched = match &self.watched {
            Some(watched) => watched,
            None => {
                tokio::time::sleep_until(self.deaf_until.into()).await;
                self.ready_unrung = true;
                self.watched.insert(watch(&self.fd)?)
            }
        };
        watched.readable().await?.clear_ready();
        // The look after a time of deafness was paid for before it, or it would be followed by another.
        if std::mem::take(&mut self.ready_unrung) {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(next) = self.pace.count(now) {
            self.watched = None;
            self.deaf_until = self.pace.count(now).unwrap_or(next);
        }
        Ok(())
    }
}

fn watch(fd: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `Arc<OwnedFd>` refers to the same open descriptor for as long as it exists.
    Ok(unsafe { AsyncFd::register_with_interest(fd.clone(), Interest::READABLE) }?)
}

/// Rings doorbells for a thread that must not block, because it serves all links.
///
/// The other end shares the eventfd: it may fill it and make it block at any moment, also between a
/// look and a write. So rings are written by a thread of the `Ringer`'s own. A peer that blocks it holds
/// up its own link's rings, until the next one: that interrupts it.
#[derive(Debug)]
pub struct Ringer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// What is to be rung, each once; the other clients of a slot, so these are few.
    wanted: VecDeque<Arc<OwnedFd>>,
    /// Since when one is being rung.
    since: Option<Instant>,
    end: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        loop {
            match work.wanted.pop_front() {
                None if work.end => return,
                None => work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
                Some(doorbell) => {
                    work.since = Some(Instant::now());
                    drop(work);
                    ring_full_or_not(&doorbell);
                    work = self.lock();
                    work.since = None;
                }
            }
        }
    }
}

impl Ringer {
    /// Starts the thread.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("bl-ringer".to_owned());
        Ok(Self { thread: Some(thread.spawn(move || of_thread.run())?), shared })
    }

    /// Has the doorbell rung soon.
    pub fn ring(&self, doorbell: &Arc<OwnedFd>) {
        let mut work = self.shared.lock();
        if !work.wanted.iter().any(|waiting| Arc::ptr_eq(waiting, doorbell)) {
            if work.wanted.len() == MOST_WANTED {
                // It has waited for so long that its client is gone.
                work.wanted.pop_front();
            }
            work.wanted.push_back(doorbell.clone());
        }
        let stuck = work.since.is_some_and(|since| since.elapsed() > PATIENCE);
        if let Some(thread) = self.thread.as_ref().filter(|_| stuck) {
            interrupt(thread);
        }
        self.shared.changed.notify_one();
    }
}

/// What is to be rung still is rung.
impl Drop for Ringer {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.changed.notify_one();
        self.thread.take().map(|thread| join(thread, PATIENCE));
    }
}

/// Rings, and first empties a doorbell that somebody has filled: nobody reads doorbells, so by
/// itself none fills in centuries, and a full one is deaf.
pub fn ring_full_or_not(doorbell: &OwnedFd) {
    let mut ready = [PollFd::new(doorbell, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ready, Some(&at_once)) == Ok(0) {
        empty(doorbell);
    }
    // A failure is a doorbell that is gone, and its owner with it.
    let _ = ring(doorbell);
}

/// Makes a doorbell non-blocking and empties it. Notifications that were in it are lost, but what they
/// announced is found with the next.
pub fn empty(doorbell: &OwnedFd) {
    // What fails here fails because the descriptor is no eventfd, and then nobody is blocked in it.
    let _ = rustix::fs::fcntl_getfl(doorbell)
        .and_then(|flags| rustix::fs::fcntl_setfl(doorbell, flags | OFlags::NONBLOCK));
    let _ = rustix::io::read(doorbell, &mut [0_u8; 8]);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[tokio::test]
    async fn every_ring_is_heard_though_the_eventfd_is_never_read() {
        let fd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let (mut bell, ringer) = (Doorbell::new(fd.clone()).unwrap(), Ringer::new().unwrap());
        // Beyond the burst, too.
        for _ in 0..2 * BURST {
            ringer.ring(&fd);
            let heard = tokio::time::timeout(Duration::from_secs(10), bell.rung()).await;
            heard.expect("heard").unwrap();
        }
    }

    #[tokio::test]
    async fn rings_without_end_are_heard_once_in_a_while() {
        let fd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mut bell = Doorbell::new(fd.clone()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut rung = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    rung += u64::from(ring(&*fd).unwrap());
                }
                rung
            }
        });
        let since = Instant::now();
        let mut heard = 0_u32;
        while since.elapsed() < 100 * INTERVAL {
            bell.rung().await.unwrap();
            heard += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let rung = flood.join().unwrap();
        let most = f64::from(BURST + 1) + since.elapsed().div_duration_f64(INTERVAL);
        assert!(f64::from(heard) <= most, "{heard} of {rung} rings heard, {most} are enough");
        assert!(rung > 10 * u64::from(heard), "{rung} rings are no flood");
        // And when they have ended, the last is heard, then there is silence, and one that follows is heard.
        let soon = || Duration::from_secs(10);
        ring(&*bell.fd).unwrap();
        tokio::time::timeout(soon(), bell.rung()).await.expect("the last of them").unwrap();
        let (since, mut unrung) = (Instant::now(), 0);
        while since.elapsed() < 50 * INTERVAL {
            unrung += u32::from(tokio::time::timeout(20 * INTERVAL, bell.rung()).await.is_ok());
        }
        assert!(unrung <= 2, "{unrung} times heard though nobody rang");
        ring(&*bell.fd).unwrap();
        tokio::time::timeout(soon(), bell.rung()).await.expect("the one after them").unwrap();
    }

    fn full() -> Arc<OwnedFd> {
        let full = Arc::new(eventfd(0, EventfdFlags::empty()).unwrap());
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        full
    }

    #[tokio::test]
    async fn a_doorbell_that_was_filled_and_made_to_block_is_heard_again() {
        let fd = full();
        let (mut bell, ringer) = (Doorbell::new(fd.clone()).unwrap(), Ringer::new().unwrap());
        let _ = tokio::time::timeout(Duration::from_millis(100), bell.rung()).await;
        ringer.ring(&fd);
        let heard = tokio::time::timeout(Duration::from_secs(10), bell.rung()).await;
        heard.expect("heard").unwrap();
    }

    /// Keeps a doorbell full, so that whoever is blocked in ringing it finds no room, and makes it
    /// block again whenever somebody has changed that.
    fn hold(fd: Arc<OwnedFd>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).unwrap();
                for step in [u64::MAX - 1, 1 << 62, 1 << 32, 1] {
                    let _ = rustix::io::write(&fd, &step.to_ne_bytes());
                }
                rustix::fs::fcntl_setfl(&fd, OFlags::empty()).unwrap();
                std::thread::yield_now();
            }
            rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).unwrap();
            let _ = rustix::io::read(&fd, &mut [0; 8]);
        })
    }

    #[test]
    fn a_peer_that_holds_the_ringing_thread_holds_up_neither_the_next_ring_nor_its_end() {
        let (held, good) = (full(), Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()));
        let stop = Arc::new(AtomicBool::new(false));
        let peer = hold(held.clone(), stop.clone());
        let ringer = Ringer::new().unwrap();
        let (since, mut count) = (Instant::now(), 0);
        while count < 20 {
            assert!(since.elapsed() < Duration::from_secs(10), "{count} rings came through");
            ringer.ring(&held);
            std::thread::sleep(Duration::from_millis(2));
            ringer.ring(&good);
            std::thread::sleep(Duration::from_millis(2));
            count += u64::from(rustix::io::read(&good, &mut [0; 8]).is_ok());
        }
        ringer.ring(&held);
        drop(ringer);
        stop.store(true, Ordering::Relaxed);
        peer.join().unwrap();
    }
}
