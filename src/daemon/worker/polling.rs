//! Looking without being rung, for an end that has no doorbell.
//!
//! While frames come, a look follows the last by [`SHORTEST`]; then the pauses grow, each by a sixteenth, up
//! to [`LONGEST`], which is reached after some 30 ms of silence. So an answer that is on its way waits
//! for a twentieth of a millisecond, a frame out of the blue for two at most, and an idle link costs 500 looks
//! a second.

use std::time::Duration;

use super::stats::add;
use super::{Fault, Turn};

/// The pause after a look that found something.
const SHORTEST: Duration = Duration::from_micros(50);
/// The pause after long silence.
const LONGEST: Duration = Duration::from_millis(2);

/// When to look next.
#[derive(Debug)]
pub(super) struct Polling {
    pause: Duration,
}

impl Polling {
    pub(super) fn new() -> Self {
        Self { pause: SHORTEST }
    }

    /// There was something to do.
    pub(super) fn found(&mut self) {
        self.pause = SHORTEST;
    }

    /// There is nothing to do: how long to sleep.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause + pause / 16).min(LONGEST);
        pause
    }
}

impl Turn {
    /// Sleeps for a pause, or until something else than a doorbell wants attention, with notifications as
    /// they are: there is nobody to send one. `false`, and no sleep: this end has doorbells.
    pub(super) fn doze(&mut self) -> Result<bool, Fault> {
        let Some(polling) = &mut self.polling else { return Ok(false) };
        let pause = polling.pause();
        self.poll.wait_briefly(&mut self.events, pause).map_err(Fault::Poll)?;
        add(&self.job.stats.wakeups, 1);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_in_silence_and_are_short_again_once_something_came() {
        let mut polling = Polling::new();
        let mut total = Duration::ZERO;
        let looks = std::iter::from_fn(|| Some(polling.pause())).take_while(|pause| {
            total += *pause;
            *pause < LONGEST
        });
        assert_eq!(looks.count(), 61);
        assert!((20..50).contains(&total.as_millis()), "{total:?}");
        assert_eq!(polling.pause(), LONGEST);
        polling.found();
        assert_eq!(polling.pause(), SHORTEST);
    }
}
