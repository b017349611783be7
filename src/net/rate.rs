//! How much the other end may send: `rate`, a bucket of octets and one of frames.
//!
//! The buckets are shared by the workers of a link and cost a frame one addition each. A bucket is a
//! moment: that at which it would be full again. What is taken moves the moment on by the time that this
//! much takes at the rate; as long as it lies less than [`BURST`] ahead of now there is more to take.
//! So after a pause [`BURST`]'s worth may come at once, and one frame beyond, and over a longer time
//! the rate is kept exactly, however many workers take at once.
//!
//! Octets count as on an Ethernet cable of that speed: a frame has [`GAP`] more than its own, and 60 at
//! least. A segmentation offload packet counts as the one frame that crosses the link. What was
//! dropped unread counts as the shortest frame: that is what it costs.
//!
//! Nothing is dropped for the rate. What is over it stays in the ring, which then has no room, so the
//! other end's kernel holds it back, as with any slow link: TCP adapts, and this end has no work with it,
//! while a flood that were read to be dropped would cost nearly as much as one that is let through. A
//! worker that may take no more looks again when half of [`BURST`] has come back, so that it wakes
//! a few hundred times a second at most, and asks for no doorbells meanwhile.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::atomic::AtomicU64;

/// What may come at once after a pause, as time at the rate.
pub const BURST: Duration = Duration::from_millis(10);
/// Octets of a frame on a cable beyond header and payload: preamble, check sequence, gap between frames
/// (IEEE 802.3 §3.1, §4.4.2).
pub const GAP: u64 = 24;
/// Octets of the shortest frame on a cable, without its check sequence.
pub const SHORTEST: u64 = 60;
/// Least and greatest `bits`.
pub const BITS: std::ops::RangeInclusive<u64> = 1_000_000..=1_000_000_000_000;
/// Least and greatest `frames`.
pub const FRAMES: std::ops::RangeInclusive<u64> = 100..=1_000_000_000;

/// Moments are counted in these: 64 a nanosecond last for nine years.
const TICKS_PER_SECOND: u64 = 64_000_000_000;

/// Ticks of a time.
fn ticks(time: Duration) -> u64 {
    let ticks = time.as_nanos().saturating_mul(u128::from(TICKS_PER_SECOND / 1_000_000_000));
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Bucket {
    /// The moment at which it is full again.
    full_at: AtomicU64,
    per_second: u64,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self { full_at: AtomicU64::new(0), per_second }
    }

    fn take(&self, amount: u64) {
        let time = (amount * TICKS_PER_SECOND).div_ceil(self.per_second);
        self.full_at.fetch_add(time, Ordering::Relaxed);
    }

    /// By how many ticks more than `ahead` the moment lies ahead of `now`.
    fn beyond(&self, now: u64, ahead: Duration) -> Option<u64> {
        let full_at = self.full_at.load(Ordering::Relaxed);
        full_at.checked_sub(now + ticks(ahead)).filter(|beyond| *beyond > 0)
    }
}

/// What the other end may send, for all workers of a link.
#[derive(Debug)]
pub struct Rate {
    since: Instant,
    octets: Option<Bucket>,
    frames: Option<Bucket>,
}

impl Rate {
    /// At most so many bits and frames a second, within [`BITS`] and [`FRAMES`]; `None` is no limit.
    /// `now` is before all that the workers say.
    pub fn new(now: Instant, bits: Option<u64>, frames: Option<u64>) -> Self {
        let octets = bits.map(|bits| Bucket::new(bits / 8));
        Self { since: now, octets, frames: frames.map(Bucket::new) }
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.octets.iter().chain(&self.frames)
    }

    /// Frames that are taken at this time.
    pub fn batch(&self, now: Instant) -> Batch<'_> {
        let now = ticks(now.saturating_duration_since(self.since));
        for bucket in self.buckets() {
            // What was not taken before is lost: a bucket is not more than full.
            bucket.full_at.fetch_max(now, Ordering::Relaxed);
        }
        Batch { rate: self, now }
    }
}

/// Frames that a worker takes at one time; the clock is not looked at for each.
#[derive(Debug)]
pub struct Batch<'r> {
    rate: &'r Rate,
    now: u64,
}

impl Batch<'_> {
    /// Whether no more may be taken, and then when to look again.
    pub fn is_spent(&self) -> Option<Instant> {
        let spent = self.rate.buckets().any(|bucket| bucket.beyond(self.now, BURST).is_some());
        if !spent {
            return None;
        }
        let wait =
            self.rate.buckets().filter_map(|bucket| bucket.beyond(self.now, BURST / 2)).max();
        let due = self.now + wait.unwrap_or(0);
        let nanos = due.div_ceil(TICKS_PER_SECOND / 1_000_000_000);
        Some(self.rate.since + Duration::from_nanos(nanos))
    }

    /// A frame of `len` octets, without virtio-net header, was taken; 0: it was dropped unread.
    pub fn take(&self, len: usize) {
        if let Some(octets) = &self.rate.octets {
            octets.take((len as u64).max(SHORTEST) + GAP);
        }
        if let Some(frames) = &self.rate.frames {
            frames.take(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes frames of `len` octets for `time`, looking again when told to: how many.
    fn flood(rate: &Rate, start: Instant, time: Duration, len: usize) -> u64 {
        let (mut now, mut taken) = (start, 0);
        while now < start + time {
            let batch = rate.batch(now);
            for _ in 0..64 {
                if let Some(due) = batch.is_spent() {
                    assert!(due > now, "time goes on");
                    now = due;
                    break;
                }
                batch.take(len);
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_flood_gets_the_rate_and_one_burst() {
        let start = Instant::now();
        for (bits, len) in [(1_000_000, 60), (200_000_000, 1514), (1_000_000_000, 65_549)] {
            let rate = Rate::new(start, Some(bits), None);
            let seconds = 10;
            let taken = flood(&rate, start, Duration::from_secs(seconds), len);
            let got = taken * (len as u64 + GAP) * 8;
            let (least, most) = (bits * seconds, bits * seconds + bits / 50 + 2 * 8 * 65_573);
            assert!((least..=most).contains(&got), "{bits}: {got} not in {least}..={most}");
        }
    }

    #[test]
    fn frames_have_a_bucket_of_their_own_and_the_scarcer_one_counts() {
        let start = Instant::now();
        let rate = Rate::new(start, Some(1_000_000_000), Some(1000));
        let taken = flood(&rate, start, Duration::from_secs(10), 60);
        assert!((10_000..=10_020).contains(&taken), "{taken}");
        let rate = Rate::new(start, Some(1_000_000), Some(1_000_000_000));
        let taken = flood(&rate, start, Duration::from_secs(10), 1226);
        assert!((1000..=1004).contains(&taken), "{taken}");
    }

    #[test]
    fn a_pause_saves_up_one_burst_and_no_more() {
        let start = Instant::now();
        let rate = Rate::new(start, None, Some(1000));
        let later = start + Duration::from_secs(3600);
        let batch = rate.batch(later);
        let mut at_once = 0;
        while batch.is_spent().is_none() {
            batch.take(60);
            at_once += 1;
        }
        assert_eq!(at_once, 11, "ten are the burst, and one goes beyond");
        let due = batch.is_spent().unwrap();
        assert_eq!(due, later + Duration::from_millis(6));
        assert_eq!(rate.batch(due).is_spent(), None);
    }

    #[test]
    fn workers_that_take_at_once_share_one_rate() {
        let start = Instant::now();
        let rate = Rate::new(start, Some(8_000_000), None);
        let taken: u64 = std::thread::scope(|scope| {
            let worker = || flood(&rate, start, Duration::from_secs(10), 976);
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        // Each has a clock of its own here, and may be as far behind the others as it likes.
        assert!((9_900..=10_100).contains(&taken), "{taken} of 10000");
    }

    #[test]
    fn the_greatest_rate_and_frame_do_not_overflow() {
        let start = Instant::now();
        let rate = Rate::new(start, Some(*BITS.end()), Some(*FRAMES.end()));
        let years = start + Duration::from_secs(8 * 365 * 86_400);
        let batch = rate.batch(years);
        for _ in 0..1000 {
            batch.take(super::super::frame::LARGEST);
        }
        assert_eq!(rate.batch(years).is_spent(), None);
    }
}
