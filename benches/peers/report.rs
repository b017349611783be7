//! What came of it, for people and as JSON.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::guest::{self, Qemu};
use crate::testpmd;
use crate::world::PROGRAM;

/// One comparison.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) other: &'static str,
    /// The agent's figure, then the other's.
    pub(crate) rounds: Vec<[f64; 2]>,
}

/// Prints the table, and writes the file.
pub(crate) fn report(rows: &[Row], duration: Duration, load: &str) {
    let date = output("date", &["-u", "+%Y-%m-%d"]);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, |n| n.get());
    let (kernel, rounds) = (kernel.trim(), rows[0].rounds.len());
    let (qemu, dpdk) = (guest::version_of(Qemu::Later), testpmd::version());
    println!("{date}, {cpus} CPUs, Linux {kernel}, load before {load}; {dpdk}, {qemu}");
    println!("medians of {rounds} rounds, {} s each\n", duration.as_secs());
    println!(
        "{:<32}{:>10}{:>10}{:>8}  {:<16}unit",
        "", "boardlane", "other", "ratio", "(least to most)"
    );
    let mut values = Vec::new();
    for Row { what, unit, other, rounds } in rows {
        let column = |which: usize| rounds.iter().map(move |pair| pair[which]);
        let mut ratios: Vec<f64> = rounds.iter().map(|[ours, other]| ours / other).collect();
        ratios.sort_by(f64::total_cmp);
        let (ours, others) = (median(column(0)), median(column(1)));
        let ratio = median(ratios.iter().copied());
        let spread = format!("({:.2} to {:.2})", ratios[0], ratios[ratios.len() - 1]);
        println!("{what:<32}{ours:>10.3}{others:>10.3}{ratio:>8.3}  {spread:<16}{unit}, {other}");
        values.push(json!({
            "what": what, "unit": unit, "other": other, "boardlane": column(0).collect::<Vec<_>>(),
            "others": column(1).collect::<Vec<_>>(), "ratio": ratio, "ratios": ratios,
        }));
    }
    let report = json!({
        "date": date, "cpus": cpus, "kernel": kernel, "load_before": load, "dpdk": dpdk,
        "qemu": qemu, "seconds": duration.as_secs(), "rows": values,
    });
    let target = Path::new(PROGRAM).ancestors().nth(2).unwrap();
    let file = target.join("peers-bench.json");
    std::fs::write(&file, format!("{report:#}\n")).unwrap();
    println!("\nwritten to {}", file.display());
}

fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
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
