//! Lines in the log about one subject (a link, a slot), and of each level no more than people can read.
//!
//! A peer can bring about a line whenever it likes: it comes and goes, breaks a rule, changes its mind.
//! So each subject has a budget of its own for each level, of [`MOST`] lines in an [`INTERVAL`]: no flood
//! fills the disk, and none hides what there is to say of another subject. What is over is counted, and
//! told at the interval's end, with the last of the lines: it says how things are now.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

use crate::atomic::AtomicU64;

/// Lines of one level about one subject in an interval, at most; and one more, which says how many there
/// would have been.
pub const MOST: u32 = 100;
/// How long an interval is.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Characters of the last line that are kept, at most.
const LAST_LEN: usize = 300;

/// Lines that were left out, of all subjects.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many lines this process has left out so far.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Where to say something about a subject. Clones share its budget.
#[derive(Clone, Debug)]
pub struct Log(Arc<Subject>);

#[derive(Debug)]
struct Subject {
    name: String,
    info: Mutex<Budget>,
    warn: Mutex<Budget>,
}

/// What is left of an interval.
#[derive(Debug, Default)]
struct Budget {
    ends: Option<Instant>,
    said: u32,
    left_out: u32,
    last: String,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Say,
    /// It is the first that is left out, until then.
    Begin(Instant),
    LeaveOut,
}

impl Budget {
    fn judge(&mut self, now: Instant, line: &dyn Display) -> Verdict {
        let ends = *self.ends.get_or_insert(now + INTERVAL);
        if self.said < MOST {
            self.said += 1;
            return Verdict::Say;
        }
        self.left_out = self.left_out.saturating_add(1);
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        self.last = line.to_string().chars().take(LAST_LEN).collect();
        if self.left_out == 1 { Verdict::Begin(ends) } else { Verdict::LeaveOut }
    }

    /// If the interval is over, another one begins with the next line: what there is to say of the last.
    fn end(&mut self, now: Instant) -> Option<String> {
        self.ends.take_if(|ends| now >= *ends)?;
        self.said = 0;
        let left_out = std::mem::take(&mut self.left_out);
        let last = std::mem::take(&mut self.last);
        (left_out > 0).then(|| format!("{left_out} more lines were left out, the last: {last}"))
    }
}

impl Log {
    /// For lines about this subject; each begins with its name.
    pub fn new(name: impl Into<String>) -> Self {
        let (info, warn) = Default::default();
        Self(Arc::new(Subject { name: name.into(), info, warn }))
    }

    /// Says what operators may want to know.
    pub fn info(&self, line: impl Display) {
        self.line(Level::INFO, &line);
    }

    /// Says what they should see to.
    pub fn warn(&self, line: impl Display) {
        self.line(Level::WARN, &line);
    }

    fn line(&self, level: Level, line: &dyn Display) {
        self.end(level, Instant::now());
        match self.budget(level, |budget| budget.judge(Instant::now(), line)) {
            Verdict::Say => self.0.say(level, line),
            Verdict::LeaveOut => {}
            Verdict::Begin(ends) => {
                // Without a runtime the next line tells.
                let Ok(runtime) = Handle::try_current() else { return };
                let log = self.clone();
                runtime.spawn(async move {
                    sleep_until(ends).await;
                    log.end(level, Instant::now());
                });
            }
        }
    }

    fn end(&self, level: Level, now: Instant) {
        if let Some(line) = self.budget(level, |budget| budget.end(now)) {
            self.0.say(level, &line);
        }
    }

    fn budget<T>(&self, level: Level, act: impl FnOnce(&mut Budget) -> T) -> T {
        let budget = if level == Level::WARN { &self.0.warn } else { &self.0.info };
        act(&mut budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether standard error is the journal's stream, as this process was told when it was started
/// ($JOURNAL_STREAM in systemd.exec(5)), and not something that it has been led to since.
pub fn to_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let is = rustix::fs::fstat(std::io::stderr());
    is.is_ok_and(|file| told == format!("{}:{}", file.st_dev, file.st_ino))
}

impl Subject {
    fn say(&self, level: Level, line: &dyn Display) {
        let name = &self.name;
        if level == Level::WARN {
            tracing::warn!("{name}: {line}");
        } else {
            tracing::info!("{name}: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_interval_s_end_tells_how_many_and_the_last() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        for n in 0..MOST {
            assert_eq!(budget.judge(start, &n), Verdict::Say);
        }
        assert_eq!(budget.judge(start, &"first"), Verdict::Begin(start + INTERVAL));
        for n in 0..1_000_000 - 1 {
            assert_eq!(budget.judge(start, &n), Verdict::LeaveOut);
        }
        assert_eq!(budget.end(start + INTERVAL / 2), None);
        assert_eq!(
            budget.end(start + INTERVAL).unwrap(),
            "1000000 more lines were left out, the last: 999998"
        );
        assert_eq!(budget.end(start + INTERVAL), None);
        assert_eq!(budget.judge(start + INTERVAL, &"calm"), Verdict::Say);
    }

    #[test]
    fn what_is_kept_of_a_line_has_a_bound() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        let long = "\u{e4}".repeat(1 << 20);
        for _ in 0..=MOST {
            let _ = budget.judge(now, &long);
        }
        assert_eq!(budget.last.chars().count(), LAST_LEN);
    }

    #[test]
    fn subjects_and_levels_have_budgets_of_their_own() {
        let [flood, calm] = ["flood", "calm"].map(Log::new);
        (0..2 * MOST).for_each(|n| flood.info(n));
        let said = |log: &Log, level| log.budget(level, |budget| (budget.said, budget.left_out));
        assert_eq!(said(&flood, Level::INFO), (MOST, MOST));
        flood.warn("a warning");
        calm.info("a line");
        assert_eq!(said(&flood, Level::WARN), (1, 0));
        assert_eq!(said(&calm, Level::INFO), (1, 0));
    }
}
