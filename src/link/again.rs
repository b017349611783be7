//! When a link is tried again, and with which epoch.

use std::time::{Duration, Instant};

use super::messages::Broken;
use super::{Link, State};
use crate::planted::{Bug, planted};
use crate::tunnel::part::Reason;

/// First and greatest delay before a peer that broke a rule is met again.
pub(super) const QUARANTINE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Offences that a session which is over anyway explains. The other end says itself that it is.
const MOST_EXCUSED: u32 = 3;

/// Sessions begin no faster than this, in the long run, and so many at once.
pub(super) const SESSION_PERIOD: Duration = Duration::from_millis(250);
pub(super) const SESSIONS_AT_ONCE: u32 = 16;

/// Tries of a driver in a row that may come to nothing, in a session.
const MOST_FUTILE: u32 = 16;

impl Link {
    /// The other end broke a rule: leave, and come back with growing delay. What is found in the memory of a
    /// machine that was reset is no offence, and what an end leaves behind that starts anew is excused, but
    /// not again and again: it could call each offence that.
    pub(super) fn offend(&mut self, now: Instant, reason: String) {
        let long_up = self.up_since.is_some_and(|since| now - since >= QUARANTINE[1]);
        match self.session.is_over(&self.mem, self.fifo.as_ref()) {
            Some(dead @ Reason::AllOnes) => {
                return self.leave(now, State::Down, dead.to_string());
            }
            Some(over) if long_up || self.offences < MOST_EXCUSED => {
                self.leave(now, State::Down, over.to_string());
                self.offences = self.offences.saturating_add(1);
                return;
            }
            _ => self.leave(now, State::Quarantined, reason),
        }
        self.session.distrust();
        let delay = QUARANTINE[0].saturating_mul(1 << self.offences.min(6)).min(QUARANTINE[1]);
        self.offences = self.offences.saturating_add(1);
        self.restart_at = Some(now + delay).filter(|_| !planted(Bug::QuarantineForEver));
    }

    /// Device: whether the driver may try again. A try whose features are refused, or that runs for less
    /// than a second, costs this end work and lines in its log; there are a few in a row.
    pub(super) fn may_try_again(&self) -> Result<(), Broken> {
        if self.futile > MOST_FUTILE {
            return Err(Broken("the driver sets the device up again and again".to_owned()));
        }
        Ok(())
    }

    /// How long to wait before the next session: not at all, unless there have been too many lately.
    /// Whoever brings that about must not keep this end busy, nor its log. Yet a daemon that is killed
    /// again and again has its link back at once each time.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.sessions_paid.saturating_duration_since(now + SESSION_PERIOD * SESSIONS_AT_ONCE)
    }

    /// A session begins.
    pub(super) fn count_session(&mut self, now: Instant) {
        self.sessions_paid = self.sessions_paid.max(now) + SESSION_PERIOD;
    }

    /// A random epoch and nonce, neither of them zero or all ones (SplitMix64, Steele et al. 2014).
    pub(super) fn draw(&mut self) -> (u32, u64) {
        let mut next = || {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let epoch = u32::try_from(next() >> 33).expect("31 bits") | 1;
        (epoch, (next() >> 1) | 1)
    }
}
