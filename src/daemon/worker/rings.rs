//! Doorbells that announce nothing, without end.
//!
//! Each one wakes the worker for a breath. A peer that rings for nothing so often would have a CPU busy
//! with that, which other links need. So after [`MOST`] of them the doorbell is not listened to for a
//! while, nor is another one of the same pair; the port still is, and so is the end. Only frames that
//! were not announced otherwise wait, for [`PAUSE`] at most, and they are the peer's own. A frame pays
//! for [`PER_FRAME`] rings, so that one now and then does not make up for many rings, while whoever
//! rings for each frame is always heard. A pair that shares its vector with a busier one hears that
//! one's rings, and comes to the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TAG_DOORBELL;
use crate::os::poll::Poll;

/// Rings for nothing.
const MOST: u32 = 64;
/// Rings that a frame may cost: one for the frame, one for the room that it leaves.
const PER_FRAME: u32 = 2;
/// How long none is heard.
const PAUSE: Duration = Duration::from_millis(2);

/// The rings of a worker's doorbells, as if they were one.
#[derive(Debug, Default)]
pub(super) struct Rings {
    for_nothing: u32,
    deaf_until: Option<Instant>,
}

impl Rings {
    /// There was something to do: so many frames.
    pub(super) fn paid_by(&mut self, frames: usize) {
        let rings = u32::try_from(frames).unwrap_or(u32::MAX).saturating_mul(PER_FRAME);
        self.for_nothing = self.for_nothing.saturating_sub(rings);
    }

    /// There was no ring for a whole heartbeat.
    pub(super) fn have_ended(&mut self) {
        self.for_nothing = 0;
    }

    /// When the doorbells are to be listened to again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deaf_until
    }

    /// Before a wait: listens again when it is time.
    pub(super) fn before_wait(
        &mut self,
        now: Instant,
        poll: &Poll,
        doorbells: &[Arc<OwnedFd>],
    ) -> std::io::Result<()> {
        if self.deaf_until.take_if(|until| now >= *until).is_some() {
            for doorbell in doorbells {
                poll.add_doorbell(&**doorbell, TAG_DOORBELL)?;
            }
            // Nobody has read them, so they count as rung once; one more for nothing, and it goes on.
            self.for_nothing = self.for_nothing.min(MOST - 2);
        }
        Ok(())
    }

    /// One of them rang; perhaps for nothing.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        poll: &Poll,
        doorbells: &[Arc<OwnedFd>],
    ) -> std::io::Result<()> {
        self.for_nothing += 1;
        if self.for_nothing >= MOST && self.deaf_until.is_none() {
            for doorbell in doorbells {
                poll.remove(&**doorbell)?;
            }
            self.deaf_until = Some(now + PAUSE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// How often a doorbell that rings once in a microsecond is not listened to any more, in so many
    /// rings, of which each one whose number `brings` is true for brings a frame.
    fn pauses(rings: u32, brings: impl Fn(u32) -> bool) -> u32 {
        let poll = Poll::new().unwrap();
        let doorbells = [(); 2].map(|()| Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()));
        for doorbell in &doorbells {
            poll.add_doorbell(&**doorbell, TAG_DOORBELL).unwrap();
        }
        let (start, mut heard, mut pauses) = (Instant::now(), Rings::default(), 0);
        for number in 0..rings {
            let now = start + Duration::from_micros(number.into());
            heard.before_wait(now, &poll, &doorbells).unwrap();
            if heard.poll_timeout().is_none() {
                heard.heard(now, &poll, &doorbells).unwrap();
                pauses += u32::from(heard.poll_timeout().is_some());
            }
            heard.paid_by(usize::from(brings(number)));
        }
        pauses
    }

    #[test]
    fn a_frame_now_and_then_does_not_make_up_for_a_flood_of_rings() {
        for nth in [4, 16, 63, 64] {
            let pauses = pauses(100_000, |number| number % nth == nth - 1);
            assert!(pauses > 10, "a frame each {nth} rings: {pauses} pauses");
        }
    }

    #[test]
    fn whoever_rings_for_each_frame_is_always_heard() {
        assert_eq!(pauses(100_000, |_| true), 0);
        assert_eq!(pauses(100_000, |number| number % PER_FRAME == 0), 0);
    }
}
