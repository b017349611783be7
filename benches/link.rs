//! The data path in figures: a boardlane link next to a veth pair and to a plain bridge between two TAPs.
//!
//!     cargo bench --bench link [-- --only NAME[,NAME] --rounds N --seconds N --compare FILE.json | --list]
//!
//! Figures come in groups, which `--list` names. A group's subjects are built in namespaces of their own
//! and stay until it is done. In each round each measurement takes every subject in turn, every other
//! round backwards, so that what else the machine does falls on all of them; a figure is the median of
//! the rounds, and a comparison the median of the rounds' own ratios. It needs root, TUN and the program
//! `ip`; prints a table, and writes `link-bench.json` and `link-bench.svg` into the target directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

#[path = "link/chart.rs"]
mod chart;
#[path = "link/compare.rs"]
mod compare;
#[path = "link/figures.rs"]
mod figures;
#[path = "link/groups.rs"]
mod groups;
#[path = "link/report.rs"]
mod report;
#[path = "link/subject.rs"]
mod subject;
#[path = "link/usage.rs"]
mod usage;
#[path = "link/work.rs"]
mod work;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use figures::Group;
use groups::GROUPS;
use report::{Machine, Report};
use serde_json::Value;
use subject::{Programs, Subject};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: [--only NAME[,NAME]] [--rounds N] [--seconds N] [--congestion NAME] [--compare FILE.json] [--list]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Options {
    groups: Vec<&'static Group>,
    rounds: usize,
    duration: Duration,
    /// TCP's congestion control; the machine's own if it is not given.
    congestion: Option<String>,
    /// The JSON of an earlier run, to compare with.
    earlier: Option<Value>,
}

/// What a group came to: by round, by measurement, by subject; the values stand as the measurement's
/// figures do.
struct Outcome {
    group: &'static Group,
    rounds: Vec<Vec<Vec<Vec<f64>>>>,
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\rlink bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let Some(options) = parse(std::env::args().skip(1))? else {
        return Ok(());
    };
    let stop = watch_signals()?;
    let program = Path::new(env!("CARGO_BIN_EXE_boardlane"));
    let target = program.ancestors().nth(2).ok_or("the program has no target directory")?;
    let programs = Programs {
        boardlane: program.into(),
        bridge: build_bridge(target)?,
        congestion: options.congestion.clone(),
    };
    let machine = Machine::look(options.congestion.as_deref())?;
    let mut outcomes = Vec::new();
    let mut result = Ok(());
    for group in &options.groups {
        let mut outcome = Outcome { group, rounds: Vec::new() };
        result = measure(&mut outcome, &programs, &options, &stop);
        // What was measured before somebody ended it is worth telling.
        if !outcome.rounds.is_empty() {
            outcomes.push(outcome);
        }
        if result.is_err() {
            break;
        }
    }
    say("");
    if outcomes.is_empty() {
        return result;
    }
    let report = Report { machine, outcomes, duration: options.duration };
    report.print();
    if let Some(earlier) = &options.earlier {
        compare::print(&report, earlier);
    }
    report.write(target)?;
    result
}

/// Builds the subjects of a group, and adds its rounds to the outcome.
fn measure(
    outcome: &mut Outcome,
    programs: &Programs,
    options: &Options,
    stop: &AtomicBool,
) -> Result<()> {
    let Group { name, subjects, measurements, .. } = outcome.group;
    say(&format!("{name}: building {} pairs of namespaces", subjects.len()));
    let subjects: Vec<Subject> =
        subjects.iter().map(|plan| Subject::build(plan, programs, stop)).collect::<Result<_>>()?;
    let settles = measurements.iter().map(|measurement| measurement.work.settles()).max();
    work::pause(settles.unwrap_or_default(), stop);
    for round in 1..=options.rounds {
        let mut samples = Vec::new();
        for (number, measurement) in measurements.iter().enumerate() {
            let mut values = vec![Vec::new(); subjects.len()];
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            if round % 2 == 0 {
                order.reverse();
            }
            for index in order {
                let (subject, total) = (&subjects[index], measurements.len());
                let place = format!("round {round}/{}, {}/{total}", options.rounds, number + 1);
                say(&format!("{name}: {place}: {}, {}", measurement.name(), subject.plan.name));
                values[index] = measurement.work.run(subject, options.duration, stop)?;
            }
            samples.push(values);
        }
        outcome.rounds.push(samples);
    }
    say(&format!("{name}: cleaning up"));
    Ok(())
}

/// What the words ask for; nothing if it is done with that.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options {
        groups: GROUPS.iter().collect(),
        rounds: 9,
        duration: Duration::from_secs(1),
        congestion: None,
        earlier: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
        let number = |text: String| {
            let number = text.parse::<u16>().ok().filter(|n| *n > 0);
            number.ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--rounds" => options.rounds = number(value()?)?.into(),
            "--seconds" => options.duration = Duration::from_secs(number(value()?)?.into()),
            "--congestion" => options.congestion = Some(value()?),
            "--only" => options.groups = chosen(&value()?)?,
            "--compare" => {
                let file = value()?;
                let text = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
                let earlier =
                    serde_json::from_slice(&text).map_err(|error| format!("{file}: {error}"))?;
                options.earlier = Some(earlier);
            }
            "--list" => {
                for Group { name, title, .. } in GROUPS {
                    println!("{name:<10}{title}");
                }
                return Ok(None);
            }
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(format!("{word}? {USAGE}").into()),
        }
    }
    Ok(Some(options))
}

fn chosen(names: &str) -> Result<Vec<&'static Group>> {
    for name in names.split(',') {
        if !GROUPS.iter().any(|group| group.name == name) {
            return Err(format!("{name:?} is no group; --list shows them").into());
        }
    }
    Ok(GROUPS.iter().filter(|group| names.split(',').any(|name| name == group.name)).collect())
}

/// A flag that Ctrl-C, SIGTERM and the end of the terminal set; every measurement looks at it.
fn watch_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = signals.map(signal);
        (interrupt?, terminate?, hangup?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// Builds the example that this bench compares with, beside the program that it measures.
fn build_bridge(target: &Path) -> Result<PathBuf> {
    say("building the example tap_bridge");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--example", "tap_bridge", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !status.success() {
        return Err("the example tap_bridge was not built".into());
    }
    Ok(target.join("release/examples/tap_bridge"))
}

/// Shows where the bench is: one line that the next one replaces, on a terminal.
fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
        // Progress that is not shown harms nobody.
        let _ = std::io::stderr().flush();
    } else if !what.is_empty() {
        eprintln!("{what}");
    }
}
