//! What `boardlane status` says: the daemons' answers as JSON, or as a table with rates.
//!
//! A daemon keeps no rates: that would be a reason to wake up. So they are what its counters have moved
//! between two answers, by the daemon's own clock. Who asks once waits a moment and asks again.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::client::{ask_all, daemons};
use crate::daemon::config::RUN_DIR;
use crate::daemon::status::Status;
use crate::daemon::status::table::table;

/// Between the two answers of a single look.
const MOMENT: Duration = Duration::from_millis(250);
/// The same where the kernel moves frames: its counters are looked at once a second.
const KERNEL_MOMENT: Duration = Duration::from_secs(1);

/// What `boardlane status` is asked to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusOptions {
    /// One daemon's socket; otherwise all in [`RUN_DIR`].
    pub control: Option<PathBuf>,
    /// JSON instead of a table.
    pub json: bool,
}

/// What `boardlane status` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// For standard output.
    pub shown: String,
    /// One line each for standard error; none means that all daemons answered.
    pub failures: Vec<String>,
}

/// Asks the daemons, and again, and knows what they said before.
#[derive(Debug)]
pub struct Reporter {
    options: StatusOptions,
    directory: PathBuf,
    before: Vec<Status>,
}

impl Reporter {
    /// One that has not asked yet.
    pub fn new(options: StatusOptions) -> Self {
        Self::of(options, Path::new(RUN_DIR))
    }

    /// As [`new`](Self::new), with another directory of all sockets.
    pub(super) fn of(options: StatusOptions, directory: &Path) -> Self {
        Self { options, directory: directory.into(), before: Vec::new() }
    }

    /// Asks all daemons at once. Rates are since the last look; the first one asks twice.
    pub fn look(&mut self) -> StatusReport {
        let paths = match &self.options.control {
            Some(path) => Ok(vec![path.clone()]),
            None => daemons(&self.directory),
        };
        let mut report = StatusReport::default();
        let paths = paths.unwrap_or_else(|failure| {
            report.failures.push(failure);
            Vec::new()
        });
        if self.options.json {
            let (texts, _) = answers(&paths, &mut report.failures);
            report.shown = match self.options.control {
                None => format!("[{}]\n", texts.join(",")),
                Some(_) => texts.into_iter().map(|text| text + "\n").collect(),
            };
            return report;
        }
        let (_, mut daemons) = answers(&paths, &mut report.failures);
        if self.before.is_empty() && !daemons.is_empty() {
            let by_kernel = daemons.iter().flat_map(|daemon| &daemon.links);
            let by_kernel = by_kernel.into_iter().any(|link| link.pump.mode == "vhost-net");
            sleep(if by_kernel { KERNEL_MOMENT } else { MOMENT });
            self.before = daemons;
            report.failures.clear();
            (_, daemons) = answers(&paths, &mut report.failures);
        }
        report.shown = table(&daemons, &self.before);
        self.before = daemons;
        report
    }
}

/// What those daemons say that answer; why the others do not, a line each.
fn answers(paths: &[PathBuf], failures: &mut Vec<String>) -> (Vec<String>, Vec<Status>) {
    let mut answers = (Vec::new(), Vec::new());
    for (path, answer) in ask_all(paths) {
        match answer {
            Ok((text, status)) => {
                answers.0.push(text);
                answers.1.push(status);
            }
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
    answers
}
