//! A link beside a board that floods the master that both share, next to the same link beside one that
//! is merely busy.
//!
//!     cargo bench --bench flood [-- --rounds N --seconds N]
//!
//! One master has three links: to a board that is busy (a TCP stream to the master, at full speed), to
//! one that floods, and to the one that is measured. Only one of the first two is at work at a time. For
//! each kind of flood, in each round, throughput both ways and echo round trips of the third link are
//! taken beside the busy board and beside the flood, in turn; a comparison is the median of the
//! rounds' own ratios. It needs root, TUN and the program `ip`, prints a table, and writes
//! `flood-bench.json` into the target directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]
#![allow(clippy::unwrap_used, reason = "the board by hand is a test's, too")]

#[path = "../netns-tests/board.rs"]
#[allow(dead_code, reason = "a test's, too")]
mod board;
#[path = "flood/machines.rs"]
mod machines;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use board::{Flood, Flooder};
use boardlane::daemon::traffic::{Ping, TcpTest, ping, tcp_throughput};
use machines::{BUSY, FLOODS, MEASURED, Machines};
use serde_json::json;

/// Echoes of one measurement.
const ECHOES: u16 = 1000;
/// What is measured, and what the ratio to the busy neighbour's is to be.
const FIGURES: [(&str, &str); 3] = [
    ("TCP to the master, Gbit/s", "at least 0.7"),
    ("TCP to the board, Gbit/s", "at least 0.7"),
    ("echo round trip, us", "at most 1.5"),
];
const KINDS: [Flood; 4] = [Flood::Frames, Flood::Messages, Flood::Doorbells, Flood::All];

type Sample = [f64; FIGURES.len()];
type Failure = Box<dyn Error + Send + Sync>;

/// What came of one kind of flood.
struct Outcome {
    kind: Flood,
    /// Beside the busy board, then beside the flood.
    rounds: Vec<[Sample; 2]>,
    /// Frames, messages and rings a second.
    rates: [f64; 3],
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<(), Failure> {
    let (rounds, duration) = parse(std::env::args().skip(1))?;
    let program = Path::new(env!("CARGO_BIN_EXE_boardlane"));
    let target = program.ancestors().nth(2).ok_or("the program has no target directory")?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let machines = Machines::start(program)?;
    let flooder = Flooder::in_slot(&machines.slot(FLOODS));
    machines.settle(&|| flooder.is_up())?;
    let mut outcomes = Vec::new();
    for kind in KINDS {
        let (mut pairs, mut rates) = (Vec::new(), [0.0; 3]);
        for round in 1..=rounds {
            eprintln!("{kind:?}, round {round} of {rounds}");
            let busy = beside_busy(&machines, || measure(&machines, duration))?;
            let (before, since) = (flooder.done(), Instant::now());
            flooder.set(kind);
            thread::sleep(Duration::from_millis(200));
            let flooded = measure(&machines, duration);
            flooder.set(Flood::Nothing);
            let seconds = since.elapsed().as_secs_f64();
            for ((rate, after), before) in rates.iter_mut().zip(flooder.done()).zip(before) {
                *rate += (after - before) as f64 / seconds / rounds as f64;
            }
            if !flooder.is_up() {
                return Err("the flooding board's link is down, so it floods no more".into());
            }
            pairs.push([busy, flooded?]);
        }
        outcomes.push(Outcome { kind, rounds: pairs, rates });
    }
    drop(flooder);
    report(&outcomes, duration, load.trim(), &target.join("flood-bench.json"))
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<(usize, Duration), String> {
    let (mut rounds, mut duration) = (9, Duration::from_secs(2));
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

/// The figures of the link that is measured, as things are.
fn measure(machines: &Machines, duration: Duration) -> Result<Sample, Failure> {
    let stop = AtomicBool::new(false);
    let ends = machines.ends(MEASURED);
    let tcp = |to: usize| {
        let [(server, address), (client, _)] = [ends[to], ends[1 - to]];
        let test = TcpTest { duration, streams: 1, congestion: None };
        tcp_throughput(server, client, address, &test, &stop, &mut |_| {})
    };
    let (to_master, to_board) = (tcp(0)?.gbit_s(), tcp(1)?.gbit_s());
    let plan = Ping { count: ECHOES, interval: Duration::ZERO, ..Ping::default() };
    let echoes = ends[0].0.run(|| ping(ends[1].1, &plan, &stop))??;
    let round_trip = echoes.average().map_or(f64::NAN, |mean| mean.as_secs_f64() * 1e6);
    Ok([to_master, to_board, round_trip])
}

/// Does something while the busy board is busy.
fn beside_busy<T>(
    machines: &Machines,
    act: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let [(master, address), (board, _)] = machines.ends(BUSY);
    thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let test = TcpTest { duration: Duration::from_secs(600), streams: 1, congestion: None };
            tcp_throughput(master, board, address, &test, &stop, &mut |_| {}).err()
        });
        thread::sleep(Duration::from_millis(200));
        let done = act();
        let early = stream.is_finished();
        stop.store(true, Ordering::Relaxed);
        let error = stream.join().ok().flatten();
        if early { Err(format!("the busy board's stream ended: {error:?}").into()) } else { done }
    })
}

fn report(
    outcomes: &[Outcome],
    duration: Duration,
    load: &str,
    file: &Path,
) -> Result<(), Failure> {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism()?;
    let (rounds, seconds) = (outcomes[0].rounds.len(), duration.as_secs());
    println!("{date}, {cpus} CPUs, Linux {}, load before {load}", kernel.trim());
    println!("medians of {rounds} rounds, {seconds} s a stream, {ECHOES} echoes\n");
    println!(
        "{:<11}{:<28}{:>9}{:>9}{:>8}  {:<16}wanted",
        "flood of", "", "busy", "flooded", "ratio", "(least to most)"
    );
    let mut rows = Vec::new();
    for Outcome { kind, rounds: pairs, rates } in outcomes {
        let name = format!("{kind:?}").to_lowercase();
        for (figure, (what, wanted)) in FIGURES.iter().enumerate() {
            let column = |which: usize| pairs.iter().map(move |pair| pair[which][figure]);
            let mut ratios: Vec<f64> =
                column(1).zip(column(0)).map(|(flooded, busy)| flooded / busy).collect();
            ratios.sort_by(f64::total_cmp);
            let [busy, flooded] = [0, 1].map(|which| median(column(which)));
            let ratio = median(ratios.iter().copied());
            let spread = format!("({:.2} to {:.2})", ratios[0], ratios[ratios.len() - 1]);
            println!(
                "{name:<11}{what:<28}{busy:>9.2}{flooded:>9.2}{ratio:>8.2}  {spread:<16}{wanted}"
            );
            rows.push(json!({
                "flood": name, "figure": what, "busy": column(0).collect::<Vec<_>>(),
                "flooded": column(1).collect::<Vec<_>>(), "ratio": ratio, "ratios": ratios,
            }));
        }
        let [frames, messages, rings] = rates;
        println!("{:<11}{frames:.0} frames, {messages:.0} messages, {rings:.0} rings a second", "");
    }
    let report = json!({
        "date": date, "cpus": cpus.get(), "kernel": kernel.trim(), "load_before": load,
        "seconds": seconds, "echoes": ECHOES, "rows": rows,
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
