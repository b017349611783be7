//! Ring to ring, with no kernel between: what a frame costs both ends' rings and data paths.
//!
//!     cargo bench --bench rings [-- --rounds N --millis N --only TEXT]
//!
//! A generator, which is the library's driver half, sends frames of 64 octets to an agent's `discard` or
//! `echo` port by a slot of a backplane, with rings of either layout, so many frames at a time; it writes
//! all octets of each frame. Measured is what the agent counts, or what comes back, which is looked at.
//! The generator has a processor of its own, and the agents, of which one is at work, the other one. In
//! each round all are measured in turn. It prints a table, and writes `rings-bench.json` into the target
//! directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]
#![allow(clippy::unwrap_used, dead_code, reason = "the ends are a test's, too")]

#[path = "rings/generator.rs"]
mod generator;
#[path = "../tests/ports/master.rs"]
mod master;
#[path = "rings/report.rs"]
mod report;
#[path = "../tests/ports/site.rs"]
mod site;

use std::process::ExitCode;
use std::time::Duration;

use generator::{Generator, PORTS, measure};
use report::{Row, report};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Frames from one publishing to the next.
const BATCHES: [usize; 3] = [1, 8, 32];
/// The processors.
const AGENTS: usize = 0;
const GENERATOR: usize = 1;

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(bench) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rings bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    rounds: usize,
    duration: Duration,
    /// What to measure: rows whose names, as `discard, packed, 32`, have this in them.
    only: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan { rounds: 9, duration: Duration::from_secs(1), only: None };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse::<u16>().ok());
            value.filter(|n| *n > 0).ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--rounds" => plan.rounds = number()?.into(),
            "--millis" => plan.duration = Duration::from_millis(number()?.into()),
            "--only" => plan.only = words.next(),
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(format!("{word}? usage: [--rounds N] [--millis N] [--only TEXT]")),
        }
    }
    Ok(plan)
}

/// This thread, and what it starts from now on, run there.
fn run_on(processor: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).map_err(|e| format!("processor {processor}: {e}"))
}

fn bench(plan: Plan) -> Result<(), String> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    run_on(AGENTS)?;
    let kinds = PORTS.into_iter().flat_map(|port| [(port, false), (port, true)]);
    let mut generators: Vec<_> =
        kinds.map(|(port, packed)| Generator::start(port, packed)).collect();
    run_on(GENERATOR)?;
    let mut rows: Vec<Vec<Row>> = Vec::new();
    for generator in &generators {
        rows.push(BATCHES.map(|batch| Row::new(generator, batch)).into());
    }
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        for (at, rows) in rows.iter_mut().enumerate() {
            for row in rows {
                if plan.only.as_ref().is_none_or(|only| row.name().contains(only.as_str())) {
                    row.samples.push(measure(&mut generators, at, row.batch, plan.duration));
                }
            }
        }
    }
    let mut rows = rows.concat();
    rows.retain(|row| !row.samples.is_empty());
    if rows.is_empty() {
        return Err("there is no such row".to_owned());
    }
    report(&rows, plan.duration, load.trim());
    Ok(())
}
