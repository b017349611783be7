//! A crate of 64 boards on one machine: how long all take to come up, what they cost when idle, how long a
//! reload takes that changes one link, and what it does to TCP on another.
//!
//!     cargo bench --bench boards [-- --boards N --rounds N --seconds N]
//!
//! The master has one entry for all slots; each board is a namespace with an agent of its own, and reaches
//! its neighbour by way of the master. A round is an iperf3 of some seconds from the master to board 0 with a
//! reload in its middle that changes the MTU of another board's link, and the same without one, in turn; what
//! is compared is how many segments are sent again. It takes root, TUN and `iperf3`, and a minute and a half.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

#[path = "boards/machines.rs"]
mod machines;
#[path = "link/usage.rs"]
#[allow(dead_code, reason = "the link's bench has more of it")]
mod usage;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use machines::Crate;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The link that a reload changes.
const CHANGED: &str = "[[link]]\nslot = 1\nmtu = 1400\n";
/// Reloads that are timed, and how far apart.
const RELOADS: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boards bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let [boards, rounds, seconds] = parse(std::env::args().skip(1))?;
    let boards = u8::try_from(boards).ok().filter(|boards| (2..=64).contains(boards));
    let boards = boards.ok_or("--boards is 2 to 64")?;
    let program = Path::new(env!("CARGO_BIN_EXE_boardlane"));
    let mut all = Crate::new(program, boards)?;
    println!("{boards} boards, each with an agent; a master with one entry; a backplane");
    println!("from nothing to all links up        {:>9.2} s", all.start()?.as_secs_f64());
    println!("each has reached master, neighbour  {:>9.2} s", all.ping_all()?.as_secs_f64());
    reloads(&all)?;
    streams(&mut all, rounds, seconds)?;
    idle(&all, 3, Duration::from_secs(5))?;
    let restarts = (0..3).map(|_| all.restart_master()).collect::<Result<Vec<_>>>()?;
    let restarts: Vec<f64> = restarts.iter().map(Duration::as_secs_f64).collect();
    println!("master stopped, started, all up     {:>9.2} s", median(restarts));
    Ok(())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<[u64; 3]> {
    let [mut boards, mut rounds, mut seconds] = [64, 9, 2];
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse().ok());
            value.filter(|n| *n > 0).ok_or(format!("{word} needs a number from 1 on"))
        };
        match word.as_str() {
            "--boards" => boards = number()?,
            "--rounds" => rounds = number()?,
            "--seconds" => seconds = number()?,
            // What cargo says to every bench.
            "--bench" => {}
            _ => {
                return Err(
                    format!("{word}? usage: [--boards N] [--rounds N] [--seconds N]").into()
                );
            }
        }
    }
    Ok([boards, rounds, seconds])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Changes one link, or changes it back.
fn change(all: &Crate, changed: bool) -> Result<f64> {
    all.configure_master(if changed { CHANGED } else { "" })?;
    let (took, done) = all.reload()?;
    if done.changed != ["bl1"] || !done.restarted.is_empty() {
        return Err(format!("this reload was to change bl1: {done}").into());
    }
    Ok(took.as_secs_f64() * 1e3)
}

/// How long reloads take of a config that is the same, and of one that changes one link; and what the master
/// uses from then on until things are quiet again.
fn reloads(all: &Crate) -> Result<()> {
    let mut kinds = [("nothing", Vec::new(), Vec::new()), ("one link", Vec::new(), Vec::new())];
    for round in 0..RELOADS {
        for (changes, (_, times, used)) in kinds.iter_mut().enumerate() {
            let [before, _] = all.usage()?;
            times.push(match changes {
                0 => all.reload()?.0.as_secs_f64() * 1e3,
                _ => change(all, round % 2 == 0)?,
            });
            thread::sleep(PAUSE);
            let [after, _] = all.usage()?;
            used.push(after.since(&before)[0] / 1e6);
        }
    }
    for (what, times, used) in kinds {
        let worst = times.iter().copied().fold(0.0, f64::max);
        let (typical, used) = (median(times), median(used));
        println!(
            "reload that changes {what:<9}       {typical:>9.1} ms, at most {worst:.1}; CPU of the master in {} ms {used:.1} ms",
            PAUSE.as_millis()
        );
    }
    Ok(())
}

/// Segments sent again and Gbit/s, with reloads and without.
fn streams(all: &mut Crate, rounds: u64, seconds: u64) -> Result<()> {
    all.serve(1, &["iperf3", "-s", "-B", "10.77.0.2"])?;
    thread::sleep(PAUSE);
    let mut pairs = Vec::new();
    for round in 0..rounds {
        let mut pair = [[0.0; 2]; 2];
        // The one that is first in a round is second in the next.
        for turn in 0..2 {
            let with = usize::from((round % 2 == 0) == (turn == 0));
            let reload = (with == 1).then_some(round % 2 == 0);
            pair[with] = stream(all, seconds, reload)?;
        }
        pairs.push(pair);
    }
    for (with, what) in ["without a reload", "with a reload"].into_iter().enumerate() {
        let sent_again: Vec<String> = pairs.iter().map(|pair| pair[with][0].to_string()).collect();
        let rates: Vec<f64> = pairs.iter().map(|pair| pair[with][1]).collect();
        let total: f64 = pairs.iter().map(|pair| pair[with][0]).sum();
        println!(
            "iperf3 {what:<17}            {:>9.2} Gbit/s, {total} segments sent again: {}",
            median(rates),
            sent_again.join(" ")
        );
    }
    Ok(())
}

/// One iperf3, and in its middle a reload that changes another link, or changes it back.
fn stream(all: &Crate, seconds: u64, reload: Option<bool>) -> Result<[f64; 2]> {
    let duration = seconds.to_string();
    let client = all.run(0, &["iperf3", "-c", "10.77.0.2", "-J", "-t", &duration])?;
    thread::sleep(Duration::from_millis(500 * seconds));
    if let Some(changed) = reload {
        change(all, changed)?;
    }
    let output = client.wait_with_output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let sent = &report["end"]["sum_sent"];
    match (sent["retransmits"].as_f64(), sent["bits_per_second"].as_f64()) {
        (Some(again), Some(rate)) => Ok([again, rate / 1e9]),
        _ => Err(format!("iperf3: {}", report["error"]).into()),
    }
}

/// What all take while nothing is to be done.
fn idle(all: &Crate, windows: u32, window: Duration) -> Result<()> {
    let mut cpu = [Vec::new(), Vec::new()];
    for _ in 0..windows {
        let (before, began) = (all.usage()?, Instant::now());
        thread::sleep(window);
        let (after, seconds) = (all.usage()?, began.elapsed().as_secs_f64());
        for (which, percents) in cpu.iter_mut().enumerate() {
            percents.push(after[which].since(&before[which])[0] / seconds / 1e7);
        }
    }
    let usage = all.usage()?;
    for ((what, percents), usage) in ["the master", "all"].into_iter().zip(cpu).zip(&usage) {
        println!(
            "idle, {what:<10}                    {:>9.2} % of a CPU, RssAnon {:.1} MiB",
            median(percents),
            usage.anonymous_kib / 1024.0
        );
    }
    Ok(())
}
