//! When a netdev is looked at, and when somebody else keeps undoing what is set here.
//!
//! The first change after a quiet time is looked at at once, as it may be a thing that broke; while
//! changes go on there is one look in [`BURST`]. What is set again and again, each time soon after somebody
//! has undone it, is set with growing pauses: of two programs that want opposite things neither wins, and
//! neither is to take the processor.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between looks while changes go on.
const BURST: Duration = Duration::from_millis(100);
/// How often one thing is set again without growing pauses.
const FREE: u32 = 8;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// What stays this long as it was set is not contended for any more.
const REST: Duration = Duration::from_secs(2);
/// Between looks at what cannot be set, should nobody tell that it can be.
const RETRY: Duration = Duration::from_secs(5);

/// The looks at one netdev.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the next look is due.
    due: Option<Instant>,
    last: Option<Instant>,
    /// From the last look to the next one.
    pause: Duration,
    /// What was set again of late, by its name.
    contests: BTreeMap<String, Contest>,
}

#[derive(Debug)]
struct Contest {
    times: u32,
    last: Instant,
}

impl Contest {
    /// From this time on to the next.
    fn pause(&self) -> Duration {
        let doublings = self.times.saturating_sub(FREE).min(16);
        LONGEST.min(BURST * (1 << doublings))
    }

    fn ends(&self) -> Instant {
        self.last + self.pause() + REST
    }

    fn is_open(&self) -> bool {
        self.times > FREE + 2
    }
}

impl Pace {
    /// When there is to be a look, if one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a change may bring the next look forward.
    pub(super) fn listens(&self, now: Instant) -> bool {
        let soonest = self.last.map_or(now, |last| now.max(last + self.pause));
        self.due.is_none_or(|due| due > soonest)
    }

    /// Something has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| now.max(last + self.pause));
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    /// There was a look, by which these things were set again; or something could not be set.
    pub(super) fn looked(&mut self, now: Instant, set: &[String], failed: bool) {
        self.contests.retain(|_, contest| now <= contest.ends());
        let failure = failed.then(String::new);
        (self.last, self.due, self.pause) = (Some(now), None, BURST);
        for thing in set.iter().chain(&failure) {
            let contest =
                self.contests.entry(thing.clone()).or_insert(Contest { times: 0, last: now });
            *contest = Contest { times: contest.times + 1, last: now };
            self.pause = self.pause.max(contest.pause());
        }
        self.due = if !set.is_empty() {
            // What is done may not be all, and what it has brought is to be seen.
            Some(now + self.pause)
        } else if failed {
            Some(now + RETRY)
        } else {
            let open = self.contests.values().filter(|contest| contest.is_open());
            open.map(|contest| contest.ends() + Duration::from_millis(1)).max()
        };
    }

    /// What somebody else keeps undoing.
    pub(super) fn contended(&self) -> Option<&str> {
        let open = |(name, contest): &(&String, &Contest)| !name.is_empty() && contest.is_open();
        Some(self.contests.iter().find(open)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: &str = "MTU 1500";

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_change_is_looked_at_at_once_and_others_once_in_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(start);
        assert_eq!(pace.due(), Some(start));
        pace.looked(start, &[], false);
        assert_eq!(pace.due(), None);
        for at in [1, 30, 99] {
            pace.changed(start + ms(at));
            assert_eq!(pace.due(), Some(start + BURST));
        }
        pace.looked(start + BURST, &[], false);
        pace.changed(start + ms(5000));
        assert_eq!(pace.due(), Some(start + ms(5000)));
    }

    #[test]
    fn what_was_set_is_looked_at_again_and_what_failed_is_tried_again() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.looked(start, &[MTU.into()], false);
        assert_eq!(pace.due(), Some(start + BURST));
        pace.looked(start, &[], true);
        assert_eq!(pace.due(), Some(start + RETRY));
        pace.changed(start + ms(10));
        assert_eq!(pace.due(), Some(start + BURST));
    }

    /// Somebody undoes it at once, each time, until `until`; how often it was set, and the longest pause.
    fn war(pace: &mut Pace, mut now: Instant, until: Instant) -> (u32, Duration, Instant) {
        let (mut times, mut longest) = (0, Duration::ZERO);
        while now < until {
            pace.looked(now, &[MTU.into()], false);
            times += 1;
            pace.changed(now + ms(1));
            let next = pace.due().unwrap();
            longest = longest.max(next - now);
            now = next;
        }
        (times, longest, now)
    }

    #[test]
    fn who_keeps_undoing_a_thing_makes_pauses_grow_and_is_told_of_until_he_ends() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let (times, longest, now) = war(&mut pace, start, start + ms(60_000));
        assert!((20..30).contains(&times) && longest == LONGEST, "{times} {longest:?}");
        assert_eq!(pace.contended(), Some(MTU));
        // Nobody undoes it any more: one more look, and it is over.
        pace.looked(now, &[], false);
        let over = pace.due().expect("a look when it is over");
        pace.looked(over, &[], false);
        assert_eq!((pace.contended(), pace.due()), (None, None));
        pace.changed(over + ms(200));
        assert_eq!(pace.due(), Some(over + ms(200)));
    }

    #[test]
    fn a_thing_that_is_broken_now_and_then_is_never_contended_for() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for at in (0..100).map(|n| start + ms(3000) * n) {
            pace.changed(at);
            assert_eq!(pace.due(), Some(at));
            pace.looked(at, &[MTU.into()], false);
            pace.looked(at + BURST, &[], false);
            assert_eq!((pace.contended(), pace.due()), (None, None));
        }
    }
}
