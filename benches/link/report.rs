//! What came of it: a table for people, and JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chart::chart;
use crate::figures::{Comparison, Figure, Target};
use crate::{Outcome, Result};

/// Width of a figure's name, and of a column of numbers.
const NAME: usize = 28;
const COLUMN: usize = 12;

/// Where and when it was measured.
pub(crate) struct Machine {
    date: String,
    cpu: String,
    cpus: usize,
    kernel: String,
    rustc: String,
    /// TCP's congestion control.
    congestion: String,
    /// How many threads wanted to run in the last minute: what else this machine has to do.
    load: String,
}

impl Machine {
    pub(crate) fn look(congestion: Option<&str>) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo");
        let model =
            model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let own = read("/proc/sys/net/ipv4/tcp_congestion_control");
        Ok(Self {
            congestion: congestion.unwrap_or(own.trim()).to_owned(),
            date: first_line("date", &["-u", "+%Y-%m-%d %H:%M"]),
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: first_line("rustc", &["--version"]),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

/// A figure's values: of each subject, by round.
pub(crate) struct Row<'a> {
    pub(crate) figure: &'a Figure,
    pub(crate) subjects: Vec<&'static str>,
    pub(crate) columns: Vec<Vec<f64>>,
}

/// Where values lie.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of the values that are there; NaN if there are none.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut values: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        let [least, most] =
            [values.first(), values.last()].map(|value| value.copied().unwrap_or(f64::NAN));
        Self { median, least, most }
    }

    pub(crate) fn holds(&self, value: f64) -> bool {
        (self.least..=self.most).contains(&value)
    }
}

/// A comparison's values, by round.
pub(crate) struct Compared<'a> {
    pub(crate) comparison: &'a Comparison,
    values: Vec<f64>,
}

impl Compared<'_> {
    pub(crate) fn spread(&self) -> Spread {
        Spread::of(&self.values)
    }

    /// What is compared: `link/bridge`, or `link`.
    pub(crate) fn name(&self) -> String {
        let Comparison { of, to, .. } = self.comparison;
        to.map_or((*of).to_owned(), |to| format!("{of}/{to}"))
    }

    fn line(&self) -> String {
        let Spread { median, least, most } = self.spread();
        let spread = format!("({least:.2} to {most:.2})");
        let mut line = format!("{:<22}{median:>7.2} {spread:<18}", self.name());
        if let Some(target) = self.comparison.target {
            // Writing to a string does not fail.
            let _ = write!(line, "{target}: {}", verdict(target, median));
        }
        line.trim_end().to_owned()
    }
}

fn verdict(target: Target, value: f64) -> String {
    target.missed_by(value).map_or("met".to_owned(), |by| format!("missed by {by:.2}"))
}

impl Row<'_> {
    fn column(&self, subject: &str) -> &[f64] {
        let index = self.subjects.iter().position(|name| *name == subject);
        index.map_or(&[], |index| &self.columns[index])
    }

    pub(crate) fn comparisons(&self) -> impl Iterator<Item = Compared<'_>> {
        self.figure.comparisons.iter().map(|comparison| {
            let of = self.column(comparison.of).iter();
            let values: Vec<f64> = match comparison.to {
                Some(to) => of.zip(self.column(to)).map(|(of, to)| of / to).collect(),
                None => of.copied().collect(),
            };
            Compared { comparison, values }
        })
    }

    fn json(&self) -> Value {
        let of_subjects = |value: &dyn Fn(&Vec<f64>) -> Value| -> Value {
            let names = self.subjects.iter().map(|name| (*name).to_owned());
            names.zip(self.columns.iter().map(value)).collect::<serde_json::Map<_, _>>().into()
        };
        let comparisons: Vec<Value> = self
            .comparisons()
            .map(|compared| {
                let target = compared.comparison.target;
                let Spread { median, least, most } = compared.spread();
                json!({
                    "name": compared.name(), "median": median, "least": least, "most": most,
                    "target": target.map(|target| target.to_string()),
                    "met": target.map(|target| target.missed_by(median).is_none()),
                })
            })
            .collect();
        json!({
            "figure": self.figure.name,
            "medians": of_subjects(&|column| json!(Spread::of(column).median)),
            "rounds": of_subjects(&|column| json!(column)),
            "comparisons": comparisons,
        })
    }
}

impl Outcome {
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let subjects: Vec<_> = self.group.subjects.iter().map(|plan| plan.name).collect();
        let measurements = self.group.measurements.iter().enumerate();
        measurements.flat_map(move |(work, measurement)| {
            let subjects = subjects.clone();
            measurement.figures.iter().enumerate().map(move |(place, figure)| {
                let column = |subject: usize| {
                    self.rounds.iter().map(|round| round[work][subject][place]).collect()
                };
                let columns = (0..subjects.len()).map(column).collect();
                Row { figure, subjects: subjects.clone(), columns }
            })
        })
    }
}

/// All of it.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) duration: Duration,
}

impl Report {
    /// Shows medians by subject, and beneath them the paired comparisons.
    pub(crate) fn print(&self) {
        let Machine { rustc, load, congestion, .. } = &self.machine;
        println!("{}, {rustc}, TCP by {congestion}, load before {load}", self.title());
        println!(
            "{} s a measurement; comparisons are medians of the rounds' own, with the least and the most",
            self.duration.as_secs()
        );
        for outcome in &self.outcomes {
            let (group, rounds) = (outcome.group, outcome.rounds.len());
            println!("\n{}: {}; {rounds} rounds", group.name, group.title);
            print!("{:<NAME$}", "");
            for plan in group.subjects {
                print!("{:>COLUMN$}", plan.name);
            }
            println!();
            for row in outcome.rows() {
                print!("{:<NAME$}", row.figure.name);
                for column in &row.columns {
                    match Spread::of(column).median {
                        value if value.is_nan() => print!("{:>COLUMN$}", "-"),
                        value => print!("{value:>COLUMN$.2}"),
                    }
                }
                println!();
                for compared in row.comparisons() {
                    println!("    {}", compared.line());
                }
            }
        }
    }

    /// Writes JSON and chart into this directory.
    pub(crate) fn write(&self, target: &Path) -> Result<()> {
        let file = target.join("link-bench.json");
        fs::write(&file, format!("{:#}\n", self.json()))?;
        println!("\nwritten to {}", file.display());
        if let Some(chart) = chart(self) {
            let file = target.join("link-bench.svg");
            fs::write(&file, chart)?;
            println!("drawn in {}", file.display());
        }
        Ok(())
    }

    /// Where and when, in few words.
    pub(crate) fn title(&self) -> String {
        let Machine { date, cpu, cpus, kernel, .. } = &self.machine;
        format!("{date}, {cpus} CPUs ({cpu}), Linux {kernel}")
    }

    fn json(&self) -> Value {
        let Machine { date, cpu, cpus, kernel, rustc, congestion, load } = &self.machine;
        let groups: Vec<Value> = self.outcomes.iter().map(|outcome| {
            let figures: Vec<Value> = outcome.rows().map(|row| row.json()).collect();
            json!({ "group": outcome.group.name, "rounds": outcome.rounds.len(), "figures": figures })
        }).collect();
        json!({
            "date": date, "cpu": cpu, "cpus": cpus, "kernel": kernel, "rustc": rustc, "congestion": congestion,
            "load_before": load, "seconds": self.duration.as_secs(), "groups": groups,
        })
    }
}

/// The first line that a program prints; nothing if it cannot be had.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
