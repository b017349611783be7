//! How often something may happen that a peer brings about: so many times at once, then one in a while.

use std::time::{Duration, Instant};

/// A bucket of `burst` tokens, to which one comes back each `interval`.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    burst: u32,
    interval: Duration,
    /// When the bucket is full again.
    full: Instant,
}

impl Pace {
    /// A full bucket.
    pub fn new(now: Instant, burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full: now }
    }

    /// It has happened. Gives when it may happen again, unless that is at once.
    pub fn count(&mut self, now: Instant) -> Option<Instant> {
        self.full = self.full.max(now) + self.interval;
        let next = self.full.checked_sub(self.interval * self.burst)?;
        Some(next).filter(|next| *next > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_one_may_come_an_interval() {
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let mut pace = Pace::new(start, 10, 4 * ms);
        for _ in 0..10 {
            assert_eq!(pace.count(start), None);
        }
        let mut now = start;
        for _ in 0..100 {
            let next = pace.count(now).expect("it came too fast");
            assert_eq!(next - now, 4 * ms);
            now = next;
        }
        // Whoever is calm has the burst again.
        now += 40 * ms;
        for _ in 0..10 {
            assert_eq!(pace.count(now), None);
        }
        assert!(pace.count(now).is_some());
    }
}
