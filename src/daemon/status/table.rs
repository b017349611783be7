//! Daemons and their links as a table that tells at a glance how things are.
//!
//! A row has room beside what is always there for a reason on a screen of 100 columns; [`fit`] cuts what has
//! not. What is wide and seldom looked at, such as the features, is left to the JSON: here stands
//! only what is missing of those without which a link is several times slower.

use std::fmt::Write;
use std::time::Duration;

use super::{
    CpuStatus, LinkState, LinkStatus, MetricsStatus, PumpStatus, QueueStatus, Status, Traffic,
    units, visible,
};

/// Names of links that are not up, of each state at most so many.
const NAMED: usize = 8;

const TITLES: [&str; 12] =
    ["LINK", "STATE", "AGE", "RX/S", "F/S", "TX/S", "F/S", "RX", "TX", "FLAPS", "DROPS", "REASON"];
/// Columns that hold numbers, and so are set to the right.
const NUMBERS: std::ops::Range<usize> = 2..10;

/// The daemons as tables. Rates are those since `before`, where the same daemons said so.
pub fn table(daemons: &[Status], before: &[Status]) -> String {
    let mut text = String::new();
    for (i, daemon) in daemons.iter().enumerate() {
        let blank = if i == 0 { "" } else { "\n" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{blank}{}", summary(daemon));
        if let Some(MetricsStatus { address, error: Some(error) }) = &daemon.metrics {
            let _ = writeln!(text, "metrics {}: {}", visible(address), visible(error));
        }
        let before = before.iter().find(|old| old.pid == daemon.pid);
        let mut rows = vec![TITLES.map(String::from)];
        rows.extend(daemon.links.iter().map(|link| row(link, rates(daemon, before, link))));
        write_rows(&rows, &mut text);
    }
    text
}

/// A daemon in one line, and which of its links are not up.
fn summary(daemon: &Status) -> String {
    let Status { role, pid, version, links, .. } = daemon;
    let mut text = format!("{}, pid {pid}, version {}", visible(role), visible(version));
    if daemon.uptime_ms > 0 {
        let _ = write!(text, ", runs {}", units::age(Duration::from_millis(daemon.uptime_ms)));
    }
    let up = links.iter().filter(|link| link.state == LinkState::Up).count();
    let _ = write!(text, "; {up} of {} up", links.len());
    for state in LinkState::ALL {
        let names = links.iter().filter(|link| link.state == state && state != LinkState::Up);
        let names: Vec<_> = names.map(|link| visible(&link.name)).collect();
        if !names.is_empty() {
            let named = names[..names.len().min(NAMED)].join(", ");
            let _ = write!(text, "; {}: {named}", state.name());
        }
        if names.len() > NAMED {
            let _ = write!(text, " and {} more", names.len() - NAMED);
        }
    }
    text
}

/// Bits and frames a second, as received and as sent, between two answers of a daemon; none where its
/// counters began anew between them.
fn rates(daemon: &Status, before: Option<&Status>, link: &LinkStatus) -> Option<[f64; 4]> {
    let before = before?;
    let seconds = daemon.uptime_ms.checked_sub(before.uptime_ms).filter(|ms| *ms > 0)? as f64 / 1e3;
    let old = before.links.iter().find(|old| old.name == link.name)?;
    let [rx, tx] = [Way::RX, Way::TX].map(|way| {
        let [now, old] = [link, old].map(|link| way.sum(link));
        let bytes = now.bytes.checked_sub(old.bytes)?;
        let frames = now.frames.checked_sub(old.frames)?;
        Some([bytes as f64 * 8.0 / seconds, frames as f64 / seconds])
    });
    let ([rx_bits, rx_frames], [tx_bits, tx_frames]) = (rx?, tx?);
    Some([rx_bits, rx_frames, tx_bits, tx_frames])
}

fn row(link: &LinkStatus, rates: Option<[f64; 4]>) -> [String; 12] {
    let rate = |at: usize, unit: fn(f64) -> String| {
        rates.map_or_else(|| "-".into(), |rates| unit(rates[at]))
    };
    [
        visible(&link.name),
        link.state.name().into(),
        units::age(Duration::from_millis(link.age_ms)),
        rate(0, units::bits),
        rate(1, units::frames),
        rate(2, units::bits),
        rate(3, units::frames),
        units::bytes(Way::RX.sum(link).bytes),
        units::bytes(Way::TX.sum(link).bytes),
        units::count(link.counts.flaps),
        drops(link),
        visible(&remark(link)),
    ]
}

/// One way of a link's frames.
struct Way(fn(&QueueStatus) -> &Traffic);

impl Way {
    const RX: Self = Self(|queue| &queue.rx);
    const TX: Self = Self(|queue| &queue.tx);

    /// That of all queue pairs.
    fn sum(&self, link: &LinkStatus) -> Traffic {
        link.queues.iter().map(self.0).fold(Traffic::default(), |mut sum, way| {
            sum.frames = sum.frames.saturating_add(way.frames);
            sum.bytes = sum.bytes.saturating_add(way.bytes);
            for (reason, n) in &way.drops {
                let all = sum.drops.entry(reason.clone()).or_default();
                *all = all.saturating_add(*n);
            }
            sum
        })
    }
}

/// How many frames were dropped both ways, and for what most of them.
fn drops(link: &LinkStatus) -> String {
    let mut all = Way::RX.sum(link).drops;
    for (reason, n) in Way::TX.sum(link).drops {
        let sum = all.entry(reason).or_default();
        *sum = sum.saturating_add(n);
    }
    let sum = all.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
    match all.iter().max_by_key(|(_, n)| **n) {
        Some((reason, _)) if sum > 0 => format!("{} {}", units::count(sum), visible(reason)),
        _ => "0".into(),
    }
}

/// Why the link is not up; what throughput it lacks; of its pump what is not the default, why it polls, and
/// what CPUs it does not have.
fn remark(link: &LinkStatus) -> String {
    let PumpStatus { mode, reason } = &link.pump;
    let pump = match reason {
        Some(reason) => Some(format!("pump: {mode}, as {reason}")),
        None => (*link.pump.mode != *PumpStatus::default().mode).then(|| format!("pump: {mode}")),
    };
    let cpus = link.queues.iter().filter_map(|queue| {
        let CpuStatus { number, reason } = queue.cpu.as_ref()?;
        Some(format!("CPU {number}: {}", reason.as_ref()?))
    });
    let polls = link.polls.as_ref().map(|why| format!("polls: {why}"));
    let lacks = lacks(link).map(|words| format!("without {words}"));
    let all = link.reason.clone().into_iter().chain(lacks).chain(pump).chain(polls).chain(cpus);
    let all: Vec<String> = all.collect();
    all.join("; ")
}

/// Features without which bulk traffic is several times slower, under one short word each.
const NEEDED: [(&str, &[&str]); 3] = [
    ("csum", &["CSUM", "GUEST_CSUM"]),
    ("tso", &["HOST_TSO4", "HOST_TSO6", "GUEST_TSO4", "GUEST_TSO6"]),
    ("mrg", &["MRG_RXBUF"]),
];

/// What a link that is up has not got of them, be it in part.
pub(in crate::daemon) fn lacks(link: &LinkStatus) -> Option<String> {
    if link.state != LinkState::Up {
        return None;
    }
    let has = |name: &&str| link.features.iter().any(|has| has == name);
    let missing = NEEDED.iter().filter(|(_, names)| !names.iter().all(has));
    let words: Vec<_> = missing.map(|(word, _)| *word).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn write_rows<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let _ = if NUMBERS.contains(&i) {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// What there is room for of a text on a screen of so many columns and rows, with `…` where a line is cut,
/// and how many lines are left out below.
pub fn fit(text: &str, columns: usize, rows: usize) -> String {
    let cut = |line: &str| match line.char_indices().nth(columns) {
        None => line.to_owned(),
        Some(_) => line.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
    let mut cut: Vec<String> = lines[..shown].iter().map(|line| cut(line)).collect();
    if shown < lines.len() {
        cut.push(format!("… {} more lines", lines.len() - shown));
    }
    cut.join("\n")
}

#[cfg(test)]
mod tests;
