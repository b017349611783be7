//! What came of it, for people and as JSON.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::generator::{Generator, OCTETS, Sample};

/// What is measured in one way.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    port: &'static str,
    packed: bool,
    pub(crate) batch: usize,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(generator: &Generator, batch: usize) -> Self {
        let Generator { port, packed, .. } = *generator;
        Self { port, packed, batch, samples: Vec::new() }
    }

    fn layout(&self) -> &'static str {
        if self.packed { "packed" } else { "split" }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}, {}, {}", self.port, self.layout(), self.batch)
    }
}

/// Prints the table, and writes the file.
pub(crate) fn report(rows: &[Row], duration: Duration, load: &str) {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap();
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (kernel, rounds, millis) = (kernel.trim(), rows[0].samples.len(), duration.as_millis());
    println!("{date}, Linux {kernel}, load before {load}; a processor for either end");
    println!("medians of {rounds} rounds, {millis} ms each; frames of {OCTETS} octets\n");
    println!(
        "{:<10}{:<8}{:>7}{:>11}  {:<16}{:>10}  notifications per 1000 frames",
        "port", "rings", "batch", "million/s", "(least to most)", "ns/frame"
    );
    let mut values = Vec::new();
    for row in rows {
        let Row { port, batch, samples, .. } = row;
        let layout = row.layout();
        let mut rates: Vec<f64> = samples.iter().map(|sample| sample.rate / 1e6).collect();
        let in_order = rates.clone();
        rates.sort_by(f64::total_cmp);
        let rate = median(rates.clone());
        let spread = format!("({:.2} to {:.2})", rates[0], rates[rates.len() - 1]);
        let [to, from] =
            [0, 1].map(|way| median(samples.iter().map(|s| s.notifications[way]).collect()));
        println!(
            "{port:<10}{layout:<8}{batch:>7}{rate:>11.2}  {spread:<16}{:>10.1}  {to:.2} to the agent, {from:.2} from it",
            1e3 / rate
        );
        values.push(json!({
            "port": port, "rings": layout, "batch": batch, "million_s": rate, "rounds": in_order,
            "notifications_per_1000": { "to_agent": to, "from_agent": from },
        }));
    }
    let report = json!({
        "date": date, "cpus": cpus, "kernel": kernel, "load_before": load, "millis": duration.as_millis(),
        "octets": OCTETS, "rows": values,
    });
    let target = Path::new(env!("CARGO_BIN_EXE_boardlane")).ancestors().nth(2).unwrap();
    let file = target.join("rings-bench.json");
    std::fs::write(&file, format!("{report:#}\n")).unwrap();
    println!("\nwritten to {}", file.display());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
