//! A boardlane link next to a veth pair and to a plain bridge between two TAPs.
//!
//!     cargo bench --bench link [-- --rounds N --seconds N]
//!
//! All three are built in namespaces of their own and stay for the whole run. In each round each is
//! measured in turn, so that what else the machine does falls on all of them; a figure is the median
//! of the rounds, and a comparison the median of the rounds' own ratios. It needs root, TUN and the
//! program `ip`, prints a table, and writes `link-bench.json` into the target directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

#[path = "link/subject.rs"]
mod subject;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use subject::Subject;
use tokio::signal::unix::{SignalKind, signal};

/// Echoes of one measurement.
const ECHOES: u16 = 3000;
/// What is measured of each subject.
const FIGURES: [&str; 3] =
    ["TCP to the board, Gbit/s", "TCP to the master, Gbit/s", "echo round trip, us"];

/// The figures of one subject in one round, in the order of [`FIGURES`].
type Sample = [f64; FIGURES.len()];

struct Options {
    rounds: usize,
    duration: Duration,
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

fn bench() -> Result<(), Box<dyn Error>> {
    let options = parse(std::env::args().skip(1))?;
    let stop = watch_signals()?;
    let program = Path::new(env!("CARGO_BIN_EXE_boardlane"));
    let target = program.ancestors().nth(2).ok_or("the program has no target directory")?;
    let bridge = build_bridge(target)?;
    let load = load_average();
    say("building three pairs of namespaces");
    let subjects = [Subject::veth()?, Subject::bridge(&bridge)?, Subject::link(program)?];
    for subject in &subjects {
        subject.settle(&stop)?;
    }
    let mut rounds: Vec<[Sample; 3]> = Vec::new();
    let mut lost = 0;
    for round in 1..=options.rounds {
        let mut samples = [Sample::default(); 3];
        for (subject, sample) in subjects.iter().zip(&mut samples) {
            let progress =
                |what| say(&format!("round {round}/{}, {}: {what}", options.rounds, subject.name));
            progress("TCP to the board");
            sample[0] = subject.tcp(1, options.duration, &stop)?;
            progress("TCP to the master");
            sample[1] = subject.tcp(0, options.duration, &stop)?;
            progress("echoes");
            let echoes = subject.echoes(ECHOES, &stop)?;
            lost += echoes.sent - echoes.received;
            sample[2] = echoes.average().map_or(f64::NAN, |mean| mean.as_secs_f64() * 1e6);
        }
        rounds.push(samples);
    }
    say("cleaning up");
    let names = subjects.each_ref().map(|subject| subject.name);
    drop(subjects);
    say("");
    report(&names, &rounds, &options, lost, &load, &target.join("link-bench.json"))
}

/// How many threads wanted to run in the last minute: what else this machine has to do.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { rounds: 3, duration: Duration::from_secs(3) };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse::<u16>().ok());
            value.filter(|n| *n > 0).ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--rounds" => options.rounds = number()?.into(),
            "--seconds" => options.duration = Duration::from_secs(number()?.into()),
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(format!("{word}? usage: [--rounds N] [--seconds N]")),
        }
    }
    Ok(options)
}

/// A flag that Ctrl-C and SIGTERM set; every measurement looks at it.
fn watch_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// Builds the example that this bench compares with, beside the program that it measures.
fn build_bridge(target: &Path) -> Result<PathBuf, Box<dyn Error>> {
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

fn report(
    names: &[&str; 3],
    rounds: &[[Sample; 3]],
    options: &Options,
    lost: u32,
    load: &str,
    file: &Path,
) -> Result<(), Box<dyn Error>> {
    let date = first_line("date", &["-u", "+%Y-%m-%d"]);
    let rustc = first_line("rustc", &["--version"]);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism()?;
    let seconds = options.duration.as_secs();
    println!("{date}, {cpus} CPUs, Linux {}, {rustc}, load before {load}", kernel.trim());
    println!("medians of {} rounds, {seconds} s a stream, {ECHOES} echoes\n", rounds.len());
    print!("{:<26}", "");
    let ratios = [format!("{}/{}", names[2], names[1]), format!("{}/{}", names[2], names[0])];
    for heading in names.iter().copied().chain(ratios.iter().map(String::as_str)) {
        print!("{heading:>13}");
    }
    println!();
    let mut rows = Vec::new();
    for (figure, what) in FIGURES.iter().enumerate() {
        let values = |subject: usize| rounds.iter().map(move |round| round[subject][figure]);
        let ratio = |to: usize| median(values(2).zip(values(to)).map(|(ours, other)| ours / other));
        let medians = [0, 1, 2].map(|subject| median(values(subject)));
        let ratios = [ratio(1), ratio(0)];
        print!("{what:<26}");
        for value in medians.iter().chain(&ratios) {
            print!("{value:>13.2}");
        }
        println!();
        let columns: Vec<Vec<f64>> = [0, 1, 2].map(|subject| values(subject).collect()).into();
        rows.push(json!({
            "figure": what, "rounds": columns, "medians": medians, "paired_ratios": ratios,
        }));
    }
    if lost > 0 {
        println!("{lost} echoes were lost");
    }
    let report = json!({
        "date": date, "cpus": cpus.get(), "kernel": kernel.trim(), "rustc": rustc, "load_before": load,
        "seconds": seconds, "echoes": ECHOES, "echoes_lost": lost, "subjects": names,
        "ratios": ratios, "rows": rows,
    });
    std::fs::write(file, format!("{report:#}\n"))?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// The first line that a program prints; nothing if it cannot be had.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
