//! Runs links in one process, on a fake clock, over modelled memory, with faults; a seed decides all.
//!
//!     cargo run --release --features sim --example simulate -- --seed 1 --steps 1000000
//!
//! `--seeds FROM..TO` runs one seed after the other, `--links N` has so many links instead of two,
//! `--bug NAME` plants a bug of `boardlane::planted`, `--verbose` prints each event. It ends with 1 at the first violation, having told it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;
use std::time::Instant;

use boardlane::planted::Bug;
use boardlane::sim::{Run, simulate};

const USAGE: &str = "usage: simulate [--seed N | --seeds FROM..TO] [--steps M] [--links L] [--bug NAME] [--verbose]";

struct Options {
    seeds: std::ops::Range<u64>,
    steps: u64,
    links: usize,
    verbose: bool,
    bug: Option<Bug>,
}

fn options() -> Option<Options> {
    let mut options = Options { seeds: 1..2, steps: 100_000, links: 2, verbose: false, bug: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next()?.parse::<u64>().ok();
        match arg.as_str() {
            "--seed" => {
                let seed = number()?;
                options.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let range = args.next()?;
                let (from, to) = range.split_once("..")?;
                options.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            "--steps" => options.steps = number()?,
            "--links" => options.links = usize::try_from(number()?).ok().filter(|l| *l > 0)?,
            "--bug" => {
                let name = args.next()?;
                let named = |bug: &Bug| format!("{bug:?}") == name;
                options.bug = Some(Bug::ALL.into_iter().find(named)?);
            }
            "--verbose" => options.verbose = true,
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(Options { seeds, steps, links, verbose, bug }) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    for seed in seeds {
        let began = Instant::now();
        let tell: Option<fn(&str)> = if verbose { Some(|line| println!("{line}")) } else { None };
        let report = simulate(Run { seed, steps, links, bug, tell }, began);
        println!("seed {seed}: {report}; {:.1} s", began.elapsed().as_secs_f64());
        if let Some(violation) = &report.violation {
            report.last.iter().for_each(|line| println!("{line}"));
            println!("seed {seed}, step {}: {violation}", report.steps);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
