//! An agent as a vhost-user back-end, next to DPDK's and QEMU's with the same drivers.
//!
//!     cargo bench --bench peers [-- --rounds N --seconds N]
//!
//! testpmd is the driver, with rings of either layout and frames of 64 and 1500 octets: it sends what
//! it can to an agent's `discard` port and to another testpmd that receives; and to an `echo` port and
//! to a testpmd that forwards what it receives, where what comes back is counted. Then a guest has two
//! netdevs, one whose device is an agent with a TAP, and one that QEMU plays itself before another TAP,
//! without vhost: TCP, each way. In each round both of a pair are measured in turn; a comparison is the
//! median of the rounds' own ratios. A driver has a processor of its own, and the device the other one.
//!
//! It needs root, and what `.ci/peers install` gets; prints a table, and writes `peers-bench.json` into
//! the target directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]
#![allow(clippy::unwrap_used, dead_code, reason = "the peers are a test's, too")]

#[path = "../netns-tests/case.rs"]
mod case;
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

use report::{Row, report};
use subjects::{Guests, Pairs, Purpose};

const FRAMES: [u16; 2] = [64, 1500];

fn main() -> ExitCode {
    let plan = parse(std::env::args().skip(1));
    let missing = || case::missing().map_or_else(place::missing, Err);
    match plan.and_then(|plan| missing().map(|()| plan)) {
        Ok((rounds, duration)) => {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            report(&measure(rounds, duration), duration, load.trim());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<(usize, Duration), String> {
    let (mut rounds, mut duration) = (9, Duration::from_secs(1));
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse::<u16>().ok());
            value.filter(|n| *n > 0).ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--rounds" => rounds = number()?.into(),
            "--seconds" => duration = Duration::from_secs(number()?.into()),
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(format!("{word}? usage: [--rounds N] [--seconds N]")),
        }
    }
    Ok((rounds, duration))
}

fn measure(rounds: usize, duration: Duration) -> Vec<Row> {
    let mut rows = Vec::new();
    for purpose in [Purpose::Discard, Purpose::Echo] {
        for (packed, frame) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (packed, frame) = (packed == 1, FRAMES[frame]);
            let mut pairs = Pairs::start(purpose, packed, frame);
            let layout = if packed { "packed" } else { "split" };
            let what = format!("{}, {layout}, {frame} octets", purpose.name());
            let rounds = (0..rounds).map(|_| pairs.measure(duration)).collect();
            rows.push(Row { what, unit: "million/s", other: "DPDK", rounds });
            pairs.end();
        }
    }
    let mut guests = Guests::start();
    let rounds: Vec<_> = (0..rounds).map(|_| guests.measure(duration)).collect();
    for (way, name) in ["TCP from the guest", "TCP to the guest"].into_iter().enumerate() {
        let rounds = rounds.iter().map(|ways| ways[way]).collect();
        rows.push(Row { what: name.to_owned(), unit: "Gbit/s", other: "QEMU", rounds });
    }
    guests.end();
    rows
}
