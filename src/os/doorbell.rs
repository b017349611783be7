//! A peer's doorbells on the control plane: heard without a thread, rung without blocking.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// Rings, except where the other end has filled its doorbell: it may have made it block, and the
/// caller's thread serves all links. What is left out is found at the other end's next heartbeat.
pub fn ring_gently(doorbell: &OwnedFd) {
    let mut ready = [PollFd::new(doorbell, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ready, Some(&at_once)).is_ok_and(|n| n == 1) {
        // A failure is a doorbell that is gone, and its owner with it.
        let _ = ring(doorbell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[tokio::test]
    async fn every_ring_is_heard_though_the_eventfd_is_never_read() {
        let fd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let bell = Doorbell::new(fd.clone()).unwrap();
        for _ in 0..100 {
            ring_gently(&fd);
            tokio::time::timeout(std::time::Duration::from_secs(10), bell.rung())
                .await
                .expect("heard")
                .unwrap();
        }
    }

    #[test]
    fn a_full_doorbell_that_blocks_does_not_hold_us_up() {
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring_gently(&fd);
    }
}
