//! A peer's doorbells on the control plane: heard without a thread, rung without blocking.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::poll::ring;

/// A doorbell of ours, in a tokio runtime. It is never read, so each ring is an edge.
#[derive(Debug)]
pub struct Doorbell(AsyncFd<Arc<OwnedFd>>);

impl Doorbell {
    /// Listens for the doorbell. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: an `Arc<OwnedFd>` refers to the same open descriptor for as long as it exists.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
    }

    /// Waits for the next ring since the last one that was heard.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn rung(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// Rings doorbells from a thread that must not block, because it serves all links.
///
/// The other end shares the eventfd: it may fill it and make it block at any moment, also between a
/// look and a write. So rings are written by the runtime's blocking threads, one at a time for each
/// `Ringer`: a peer that blocks one has its own link's ringer held, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Ringer {
    state: Arc<AtomicU8>,
}

/// No ring is under way.
const IDLE: u8 = 0;
/// One is.
const RINGING: u8 = 1;
/// One is, and another was asked for: what it announces may be newer than what the first was for.
const AGAIN: u8 = 2;

impl Ringer {
    /// Has the doorbell rung soon. To be called within a tokio runtime.
    pub fn ring(&self, doorbell: &Arc<OwnedFd>) {
        if self.state.fetch_max(AGAIN, Ordering::AcqRel) != IDLE {
            return;
        }
        let (state, doorbell) = (self.state.clone(), doorbell.clone());
        tokio::task::spawn_blocking(move || {
            loop {
                state.store(RINGING, Ordering::Release);
                ring_full_or_not(&doorbell);
                let done =
                    state.compare_exchange(RINGING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                if done.is_ok() {
                    break;
                }
            }
        });
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

/// Makes a doorbell non-blocking and empties it. This also frees a thread that is blocked in ringing
/// it. Notifications that were in it are lost, but what they announced is found with the next.
pub fn empty(doorbell: &OwnedFd) {
    // What fails here fails because the descriptor is no eventfd, and then nobody is blocked in it.
    let _ = rustix::fs::fcntl_getfl(doorbell)
        .and_then(|flags| rustix::fs::fcntl_setfl(doorbell, flags | OFlags::NONBLOCK));
    let _ = rustix::io::read(doorbell, &mut [0_u8; 8]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[tokio::test]
    async fn every_ring_is_heard_though_the_eventfd_is_never_read() {
        let fd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let (bell, ringer) = (Doorbell::new(fd.clone()).unwrap(), Ringer::default());
        for _ in 0..100 {
            ringer.ring(&fd);
            let heard = tokio::time::timeout(Duration::from_secs(10), bell.rung()).await;
            heard.expect("heard").unwrap();
        }
    }

    fn full() -> Arc<OwnedFd> {
        let full = Arc::new(eventfd(0, EventfdFlags::empty()).unwrap());
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        full
    }

    #[tokio::test]
    async fn a_doorbell_that_was_filled_and_made_to_block_is_heard_again() {
        let fd = full();
        let (bell, ringer) = (Doorbell::new(fd.clone()).unwrap(), Ringer::default());
        let _ = tokio::time::timeout(Duration::from_millis(100), bell.rung()).await;
        ringer.ring(&fd);
        let heard = tokio::time::timeout(Duration::from_secs(10), bell.rung()).await;
        heard.expect("heard").unwrap();
    }

    #[test]
    fn a_thread_that_is_blocked_in_ringing_can_be_freed() {
        let fd = full();
        let blocked = std::thread::spawn({
            let fd = fd.clone();
            move || ring(&*fd)
        });
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        std::thread::sleep(Duration::from_millis(20));
        while !blocked.is_finished() {
            assert!(std::time::Instant::now() < deadline, "still blocked");
            empty(&fd);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
