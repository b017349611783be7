//! A worker whose frames the kernel moves: its thread keeps an eye on that.
//!
//! The kernel hears our doorbells and rings the other end's by itself, so mostly the thread sleeps. It
//! wakes to kick the kernel:
//!
//! * once a heartbeat, for a doorbell that was lost, which vhost-net would wait for without end, and for
//!   what it has given up until the next kick, as when it was short of memory. That costs a look at
//!   two indices;
//! * on a notification that came in another way than by these doorbells.
//!
//! A kick is a ring of our own doorbell, which the other end shares and so may have filled or made
//! blocking; that holds up nobody but this thread, and its end interrupts it.

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::{GO_ON, TAG_STOP, Worker};
use crate::memory::BusMemory;
use crate::net::path::{Path, Which};
use crate::os::confine;
use crate::os::doorbell::ring_full_or_not;
use crate::os::poll::{Events, Poll, Waker};
use crate::os::vhost_net::VhostNet;

const TAG_ERROR: u64 = 4;

/// A queue pair that the kernel serves.
#[derive(Debug)]
pub struct KernelJob {
    /// The rings, which are lent.
    pub path: Box<dyn Path>,
    /// The memory they are in.
    pub mem: Arc<BusMemory>,
    /// To whom.
    pub vhost: VhostNet,
    /// What it is kicked by.
    pub doorbells: Vec<Arc<OwnedFd>>,
    /// Between kicks that nothing calls for.
    pub heartbeat: Duration,
}

/// What the thread does not need.
#[derive(Debug)]
pub(super) struct Served {
    vhost: VhostNet,
    mem: Arc<BusMemory>,
}

impl Served {
    /// The data path as the kernel leaves it, if it is good.
    pub(super) fn stop(self, mut path: Box<dyn Path>) -> Option<Box<dyn Path>> {
        let stopped = self.vhost.stop().map_err(|e| e.to_string()).and_then(|next| {
            for (which, next) in Which::BOTH.into_iter().zip(next) {
                let Some(next) = next else { continue };
                path.take_back(&self.mem, which, next).map_err(|e| e.to_string())?;
            }
            Ok(())
        });
        match stopped {
            Ok(()) => Some(path),
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        }
    }
}

impl Worker {
    /// Starts a thread beside the kernel, which serves the queues already; `broken` is called on it when
    /// the kernel says that it cannot go on. It does so on, till this worker is stopped or dropped.
    ///
    /// # Errors
    /// The thread cannot be started; nothing is served any more.
    pub fn beside_kernel(
        name: &str,
        job: KernelJob,
        broken: impl FnOnce(String, bool) + Send + 'static,
    ) -> std::io::Result<Self> {
        let KernelJob { path, mem, vhost, doorbells, heartbeat } = job;
        let poll = Poll::new()?;
        let waker = Waker::new(&poll, TAG_STOP)?;
        poll.add_doorbell(vhost.error(), TAG_ERROR)?;
        let stop = Arc::new(AtomicU8::new(GO_ON));
        let watch = Watch { poll, doorbells, heartbeat, stop: stop.clone() };
        // The kernel keeps 15 bytes of a thread's name.
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect());
        let thread = thread.spawn(move || {
            confine::worker();
            let why = match std::panic::catch_unwind(AssertUnwindSafe(|| watch.run())) {
                Ok(Ok(true)) => return Some(path),
                Ok(Ok(false)) => "the kernel has found a ring broken".to_owned(),
                Ok(Err(e)) => format!("waiting for work: {e}"),
                Err(_) => "the worker panicked".to_owned(),
            };
            broken(why, false);
            None
        })?;
        Ok(Self { thread: Some(thread), stop, waker, served: Some(Served { vhost, mem }) })
    }

    /// Whether doorbells are heard without [`wake`](Self::wake), by the kernel.
    pub fn is_in_kernel(&self) -> bool {
        self.served.is_some()
    }
}

struct Watch {
    poll: Poll,
    doorbells: Vec<Arc<OwnedFd>>,
    heartbeat: Duration,
    stop: Arc<AtomicU8>,
}

impl Watch {
    /// Until it is told to end (`true`), or there is an error.
    fn run(&self) -> std::io::Result<bool> {
        let mut events = Events::with_capacity(2);
        // What was made available before the kernel listened has been announced already.
        let mut next_kick = Instant::now();
        while self.stop.load(Ordering::Relaxed) == GO_ON {
            let now = Instant::now();
            if now >= next_kick {
                next_kick = now + self.heartbeat;
                self.doorbells.iter().for_each(|doorbell| ring_full_or_not(doorbell));
            }
            self.poll.wait(&mut events, Some(next_kick.saturating_duration_since(now)))?;
            for ready in events.iter() {
                match ready.tag {
                    TAG_ERROR => return Ok(false),
                    _ => next_kick = now,
                }
            }
        }
        Ok(true)
    }
}
