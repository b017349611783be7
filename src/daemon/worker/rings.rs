//! Doorbells that announce nothing, without end.
//!
//! Each one wakes the worker for a breath. A peer that rings for nothing so often would have a CPU busy
//! with that, which other links need. So after [`MOST`] in a row the doorbell is not listened to for a
//! while; the port still is, and so is the end. Only frames that were not announced otherwise wait, for
//! [`PAUSE`] at most, and they are the peer's own. A pair that shares its vector with a busier one hears
//! that one's rings, and comes to the same.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::TAG_DOORBELL;
use crate::os::poll::Poll;

/// Rings in a row for nothing.
const MOST: u32 = 64;
/// How long none is heard.
const PAUSE: Duration = Duration::from_millis(2);

/// The rings of a worker's doorbell.
#[derive(Debug, Default)]
pub(super) struct Rings {
    for_nothing: u32,
    deaf_until: Option<Instant>,
}

impl Rings {
    /// There was something to do, or no ring for a whole heartbeat.
    pub(super) fn have_ended(&mut self) {
        self.for_nothing = 0;
    }

    /// When the doorbell is to be listened to again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deaf_until
    }

    /// Before a wait: listens again when it is time.
    pub(super) fn before_wait(
        &mut self,
        now: Instant,
        poll: &Poll,
        doorbell: &OwnedFd,
    ) -> std::io::Result<()> {
        if self.deaf_until.take_if(|until| now >= *until).is_some() {
            poll.add_doorbell(doorbell, TAG_DOORBELL)?;
            // Nobody has read it, so it counts as rung once; one more for nothing, and it goes on.
            self.for_nothing = self.for_nothing.min(MOST - 2);
        }
        Ok(())
    }

    /// It rang; perhaps for nothing.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        poll: &Poll,
        doorbell: &OwnedFd,
    ) -> std::io::Result<()> {
        self.for_nothing += 1;
        if self.for_nothing >= MOST && self.deaf_until.is_none() {
            poll.remove(doorbell)?;
            self.deaf_until = Some(now + PAUSE);
        }
        Ok(())
    }
}
