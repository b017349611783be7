//! An agent as a vhost-user back-end, next to DPDK's and QEMU's with the same drivers.
//!
//!     cargo bench --bench peers [-- --rounds N --seconds N --only TEXT]
//!
//! testpmd is the driver, with rings of either layout and frames of 64 and 1500 octets: it sends what
//! it can to an agent's `discard` port and to another testpmd that receives; and to an `echo` port and
//! to a testpmd that forwards what it receives, where what comes back is counted. Then a guest has two
//! netdevs, one whose device is an agent with a TAP, and one that QEMU plays itself before another TAP,
//! without vhost: TCP, each way. At last a guest is the master of a slot that is a function on its PCI bus,
//! by VFIO with interrupts and by sysfs, polling, beside such a netdev of QEMU's: TCP each way, and echoes.
//! In each round all of a group are measured in turn; a comparison is the median of the rounds' own ratios.
//! A driver has a processor of its own, and the device the other one.
//!
//! It needs root, and what `.ci/peers install` gets; prints a table, and writes `peers-bench.json` into
//! the target directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]
#![allow(clippy::unwrap_used, dead_code, reason = "the peers are a test's, too")]

#[path = "../netns-tests/guests/bus.rs"]
mod bus;
#[path = "../netns-tests/case.rs"]
mod case;
#[path = "peers/functions.rs"]
mod functions;
#[path = "../tests/peers/guest.rs"]
mod guest;
#[path = "../tests/peers/image.rs"]
mod image;
#[path = "../tests/peers/lane.rs"]
mod lane;
#[path = "../tests/peers/place.rs"]
mod place;
#[path = "peers/report.rs"]
mod report;
#[path = "peers/subjects.rs"]
mod subjects;
#[path = "../tests/peers/talk.rs"]
mod talk;
#[path = "../tests/peers/testpmd.rs"]
mod testpmd;
#[path = "../netns-tests/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use functions::{Functions, MEASURES, MODES};
use report::{Row, report};
use subjects::{Guests, Pairs, Purpose};

const FRAMES: [u16; 2] = [64, 1500];
const WAYS: [&str; 2] = ["TCP from the guest", "TCP to the guest"];

fn main() -> ExitCode {
    let plan = parse(std::env::args().skip(1));
    let missing = || case::missing().map_or_else(place::missing, Err);
    match plan.and_then(|plan| missing().map(|()| plan)) {
        Ok(plan) => {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let rows = measure(&plan);
            if rows.is_empty() {
                eprintln!("peers bench: there is no such row");
                return ExitCode::FAILURE;
            }
            report(&rows, plan.duration, load.trim());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    rounds: usize,
    duration: Duration,
    /// What to measure, if not all: rows that have this in their names.
    only: Option<String>,
}

impl Plan {
    fn has(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| row.contains(only.as_str()))
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan { rounds: 9, duration: Duration::from_secs(1), only: None };
    while let Some(word) = words.next() {
        let value = match word.as_str() {
            // What cargo says to every bench.
            "--bench" => continue,
            _ => words.next().unwrap_or_default(),
        };
        let number = || {
            let number = value.parse::<u16>().ok().filter(|n| *n > 0);
            number.ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--rounds" => plan.rounds = number()?.into(),
            "--seconds" => plan.duration = Duration::from_secs(number()?.into()),
            "--only" => plan.only = Some(value),
            _ => {
                return Err(format!(
                    "{word} {value}? usage: [--rounds N] [--seconds N] [--only TEXT]"
                ));
            }
        }
    }
    Ok(plan)
}

fn measure(plan: &Plan) -> Vec<Row> {
    let mut rows = Vec::new();
    for purpose in [Purpose::Discard, Purpose::Echo] {
        with_testpmd(plan, purpose, &mut rows);
    }
    if WAYS.iter().any(|way| plan.has(way)) {
        with_guests(plan, &mut rows);
    }
    if names_of_functions().any(|name| plan.has(&name)) {
        with_functions(plan, &mut rows);
    }
    rows
}

fn with_testpmd(plan: &Plan, purpose: Purpose, rows: &mut Vec<Row>) {
    for (packed, frame) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (packed, frame) = (packed == 1, FRAMES[frame]);
        let layout = if packed { "packed" } else { "split" };
        let what = format!("{}, {layout}, {frame} octets", purpose.name());
        if !plan.has(&what) {
            continue;
        }
        let mut pairs = Pairs::start(purpose, packed, frame);
        let rounds = (0..plan.rounds).map(|_| pairs.measure(plan.duration)).collect();
        rows.push(Row { what, unit: "million/s", other: "DPDK", rounds });
        pairs.end();
    }
}

fn with_guests(plan: &Plan, rows: &mut Vec<Row>) {
    let mut guests = Guests::start();
    let rounds: Vec<_> = (0..plan.rounds).map(|_| guests.measure(plan.duration)).collect();
    for (way, name) in WAYS.into_iter().enumerate() {
        let rounds = rounds.iter().map(|ways| ways[way]).collect();
        rows.push(Row { what: name.to_owned(), unit: "Gbit/s", other: "QEMU", rounds });
    }
    guests.end();
}

fn names_of_functions() -> impl Iterator<Item = String> {
    MODES
        .iter()
        .flat_map(|(mode, _)| MEASURES.iter().map(move |(what, _)| format!("{what}, {mode}")))
}

fn with_functions(plan: &Plan, rows: &mut Vec<Row>) {
    let mut functions = Functions::start();
    let rounds: Vec<_> = (0..plan.rounds).map(|_| functions.measure(plan.duration)).collect();
    for (i, name) in names_of_functions().enumerate() {
        let (mode, measure) = (i / MEASURES.len(), i % MEASURES.len());
        let rounds = rounds.iter().map(|all| [all[mode][measure], all[MODES.len()][measure]]);
        let unit = MEASURES[measure].1;
        rows.push(Row { what: name, unit, other: "QEMU", rounds: rounds.collect() });
    }
    functions.end();
}
