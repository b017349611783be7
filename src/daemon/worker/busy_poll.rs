//! Looking again before a sleep.
//!
//! To be woken takes longer than an answer that is on its way, and costs the other end a system call. So
//! a worker that has nothing to do looks again a few times, and yields the processor in between to whoever
//! wants it. Its notifications are disarmed meanwhile.
//!
//! * After much was moved, more is likely to come at once, mostly from a thread that waits for this
//!   processor: [`LOOKS`] looks. More than that takes the processor from bulk traffic, measured.
//! * After a little was moved, with frames both ways and quiet times that have been short of late, somebody
//!   talks to and fro: looks for as long as the link's `busy_poll_us`. What comes one way only, as often as
//!   a peer likes, gets none.
//! * Else, as with a ping a second, it sleeps at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::QueueStats;

use crate::atomic::AtomicU64;

/// Looks after much was moved. In frames of 64 bytes a second, against none: one 1.2, two to thirty 1.35 to
/// 1.45; in TCP, two to eight 1.05, forty 0.9.
const LOOKS: u32 = 4;
/// A quiet time counts as short up to so many times `busy_poll_us`: where it was slept through, the waking
/// has its part in it.
const SHORT: u32 = 4;
/// So many long quiet times in a row end the looks for somebody who talks to and fro.
const PATIENCE: u32 = 3;
/// What somebody who talks to and fro moves at most between two quiet times.
const FEW_FRAMES: u64 = 8;
const FEW_BYTES: u64 = 16 << 10;

/// Whether to look again.
#[derive(Debug)]
pub(super) struct BusyPoll {
    longest: Duration,
    /// When there came to be nothing to do.
    quiet: Option<Instant>,
    /// In this quiet time it is looked until then, or so many times more.
    until: Option<Instant>,
    looks: u32,
    /// How many more long quiet times are put up with.
    patience: u32,
    /// What was moved up to the last quiet time: frames by way, bytes.
    moved: [u64; 3],
    /// Which ways frames went between the last two quiet times.
    ways: [bool; 2],
}

impl BusyPoll {
    /// Looks for so long at most; 0: it always sleeps at once.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            quiet: None,
            until: None,
            looks: 0,
            patience: 0,
            moved: [0; 3],
            ways: [false; 2],
        }
    }

    /// There was something to do.
    pub(super) fn found(&mut self, now: Instant) {
        let Some(since) = self.quiet.take() else { return };
        let short = now.saturating_duration_since(since) <= self.longest * SHORT;
        self.patience = if short { PATIENCE } else { self.patience.saturating_sub(1) };
    }

    /// There is nothing to do: whether to look again, rather than sleep.
    pub(super) fn goes_on(&mut self, now: Instant, stats: &QueueStats) -> bool {
        if self.longest.is_zero() {
            return false;
        }
        if self.quiet.is_none() {
            self.quiet = Some(now);
            let [few, both_ways] = self.look_back(stats);
            let answers = few && both_ways && self.patience > 0;
            self.until = answers.then(|| now + self.longest);
            self.looks = if few { 0 } else { LOOKS };
        }
        if self.until.is_some_and(|until| now < until) {
            return true;
        }
        self.until = None;
        let goes_on = self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        goes_on
    }

    /// Whether few frames were moved since this was last asked, and whether some went each way since the
    /// time before that: what comes one way only, however often, is no answer.
    fn look_back(&mut self, QueueStats { rx, tx, .. }: &QueueStats) -> [bool; 2] {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let bytes = count(&rx.bytes).wrapping_add(count(&tx.bytes));
        let moved = [count(&rx.frames), count(&tx.frames), bytes];
        let before = std::mem::replace(&mut self.moved, moved);
        let [received, sent, bytes] = [0, 1, 2].map(|i| moved[i].wrapping_sub(before[i]));
        let ways = [received > 0, sent > 0];
        let last = std::mem::replace(&mut self.ways, ways);
        let few = received.saturating_add(sent) <= FEW_FRAMES && bytes <= FEW_BYTES;
        [few, (ways[0] || last[0]) && (ways[1] || last[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(50);
    const LOOK: Duration = Duration::from_micros(1);

    fn talk(stats: &QueueStats) {
        stats.rx.frame(64);
        stats.tx.frame(64);
    }

    /// A quiet time in which nothing comes for so long: how long it is looked, a microsecond a look.
    fn quiet(
        poll: &mut BusyPoll,
        now: &mut Instant,
        stats: &QueueStats,
        time: Duration,
    ) -> Duration {
        let (from, end) = (*now, *now + time);
        while *now < end && poll.goes_on(*now, stats) {
            *now += LOOK;
        }
        let looked = *now - from;
        *now = end;
        poll.found(end);
        looked
    }

    #[test]
    fn an_answer_is_looked_for_once_answers_have_come_soon() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(LONGEST), Instant::now(), QueueStats::default());
        let answer = Duration::from_micros(20);
        let looked: Vec<_> = (0..4)
            .map(|_| {
                talk(&stats);
                quiet(&mut poll, &mut now, &stats, answer)
            })
            .collect();
        assert_eq!(looked, [Duration::ZERO, answer, answer, answer]);
    }

    #[test]
    fn what_comes_seldom_is_not_looked_for() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(LONGEST), Instant::now(), QueueStats::default());
        quiet(&mut poll, &mut now, &stats, LONGEST);
        let looked: Vec<_> = (0..5)
            .map(|_| {
                talk(&stats);
                quiet(&mut poll, &mut now, &stats, Duration::from_secs(1))
            })
            .collect();
        assert_eq!(looked[..3], [LONGEST; 3]);
        assert_eq!(looked[3..], [Duration::ZERO; 2]);
    }

    #[test]
    fn an_answer_that_is_looked_for_between_long_times_still_is() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(LONGEST), Instant::now(), QueueStats::default());
        quiet(&mut poll, &mut now, &stats, LONGEST);
        for _ in 0..10 {
            stats.rx.frame(64);
            quiet(&mut poll, &mut now, &stats, Duration::from_millis(5));
            stats.tx.frame(64);
            let answer = Duration::from_micros(30);
            assert_eq!(quiet(&mut poll, &mut now, &stats, answer), answer);
        }
    }

    #[test]
    fn what_comes_one_way_is_not_looked_for() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(LONGEST), Instant::now(), QueueStats::default());
        for _ in 0..5 {
            stats.rx.frame(64);
            let looked = quiet(&mut poll, &mut now, &stats, Duration::from_micros(20));
            assert_eq!(looked, Duration::ZERO);
        }
    }

    #[test]
    fn after_much_it_is_looked_a_few_times() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(LONGEST), Instant::now(), QueueStats::default());
        for (frames, bytes) in [(64, 64 * 64), (1, 65_536)] {
            stats.rx.frames(frames, bytes);
            assert_eq!(quiet(&mut poll, &mut now, &stats, Duration::from_millis(1)), LOOK * LOOKS);
        }
    }

    #[test]
    fn with_no_time_it_sleeps_at_once() {
        let (mut poll, mut now, stats) =
            (BusyPoll::new(Duration::ZERO), Instant::now(), QueueStats::default());
        for _ in 0..5 {
            stats.rx.frames(64, 64 * 64);
            assert_eq!(quiet(&mut poll, &mut now, &stats, LOOK), Duration::ZERO);
        }
    }
}
