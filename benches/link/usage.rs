//! What the kernel says that was used: by the whole machine, and by processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Result;

/// Milliseconds of one tick of /proc/stat (USER_HZ is 100).
const TICK_MS: f64 = 10.0;

/// The processors' time up to a moment.
pub(crate) struct Processors {
    at: Instant,
    number: usize,
    /// Idle, waiting for I/O, or taken by the hypervisor, in ticks.
    idle: f64,
}

impl Processors {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let number = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        let [_, _, _, idle, iowait, _, _, steal, ..] = ticks[..] else {
            return Err("/proc/stat has no times of all CPUs".into());
        };
        Ok(Self { at: Instant::now(), number, idle: idle + iowait + steal })
    }

    /// Milliseconds that processors have been busy since. Idle time is the kernel's own account, while a
    /// busy one's is sampled, and misses what is shorter than a tick.
    pub(crate) fn busy_ms(&self, before: &Self) -> f64 {
        let elapsed_ms = (self.at - before.at).as_secs_f64() * 1e3;
        (elapsed_ms * self.number as f64 - (self.idle - before.idle) * TICK_MS).max(0.0)
    }
}

/// What a process and its children have come to.
#[derive(Clone, Default)]
pub(crate) struct Usage {
    /// Nanoseconds of each thread, and how often it has slept.
    threads: BTreeMap<PathBuf, [f64; 2]>,
    /// Memory of its own, in KiB.
    pub(crate) anonymous_kib: f64,
    /// Its share of the shared memory that is mapped and there, in KiB: the shares of all who map it make
    /// the whole.
    pub(crate) shared_kib: f64,
}

impl Usage {
    pub(crate) fn of_family(pid: u32) -> Result<Self> {
        Self::default().and_family(pid)
    }

    pub(crate) fn and_family(mut self, pid: u32) -> Result<Self> {
        for pid in family(pid)? {
            self.add(&Path::new("/proc").join(pid.to_string()))?;
        }
        Ok(self)
    }

    /// Nanoseconds and sleeps since `before`, of the threads that lived all the time.
    pub(crate) fn since(&self, before: &Self) -> [f64; 2] {
        let spent = |which: usize| {
            let both = |(thread, now): (&PathBuf, &[f64; 2])| {
                Some(now[which] - before.threads.get(thread)?[which])
            };
            self.threads.iter().filter_map(both).sum()
        };
        [spent(0), spent(1)]
    }

    fn add(&mut self, process: &Path) -> Result<()> {
        for task in fs::read_dir(process.join("task"))? {
            let task = task?.path();
            // It may have ended since.
            let Ok(times) = fs::read_to_string(task.join("schedstat")) else { continue };
            let Ok(sleeps) = field(&task.join("status"), "voluntary_ctxt_switches:") else {
                continue;
            };
            let nanoseconds = times.split(' ').next().unwrap_or_default().parse()?;
            self.threads.insert(task, [nanoseconds, sleeps]);
        }
        self.anonymous_kib += field(&process.join("status"), "RssAnon:")?;
        self.shared_kib += field(&process.join("smaps_rollup"), "Pss_Shmem:")?;
        Ok(())
    }
}

/// The number behind a name in a file of lines.
fn field(file: &Path, name: &str) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{}: no {name}", file.display()).into())
}

/// A process, and those that it or its children have started.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, which may hold anything, ends with the last parenthesis; state and parent follow.
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parents.extend(parent.map(|parent: u32| (pid, parent)));
    }
    let mut family = vec![pid];
    let mut known = 0;
    while let Some(parent) = family.get(known).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        known += 1;
    }
    Ok(family)
}
