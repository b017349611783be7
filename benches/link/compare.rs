//! How figures have moved since an earlier run, whose JSON is at hand.

use serde_json::Value;

use crate::figures::Figure;
use crate::report::{Report, Row, Spread};

/// Prints a line for each median that both runs have: of comparisons, which speak across machines and
/// loads, and of subjects, which do not.
pub(crate) fn print(report: &Report, earlier: &Value) {
    println!("\nagainst {}", earlier["date"].as_str().unwrap_or("an earlier run"));
    for outcome in &report.outcomes {
        let group = outcome.group.name;
        for row in outcome.rows() {
            let Some(old) = find(earlier, group, row.figure) else { continue };
            println!("{group}: {}", row.figure.name);
            for (name, new, old) in pairs(&row, old) {
                println!("    {name:<22}{}", movement(new, old));
            }
        }
    }
}

fn find<'a>(earlier: &'a Value, group: &str, figure: &Figure) -> Option<&'a Value> {
    let named = |list: &'a Value, key: &str, name: &str| {
        list.as_array()?.iter().find(|entry| entry[key] == name)
    };
    let group = named(&earlier["groups"], "group", group)?;
    named(&group["figures"], "figure", figure.name)
}

/// What both have: comparisons first, then subjects.
fn pairs(row: &Row<'_>, old: &Value) -> Vec<(String, Spread, Spread)> {
    let mut pairs = Vec::new();
    for compared in row.comparisons().filter(|compared| compared.comparison.to.is_some()) {
        let name = compared.name();
        let entries = old["comparisons"].as_array().into_iter().flatten();
        let entry = entries.into_iter().find(|entry| entry["name"] == name.as_str());
        let number = |key: &str| entry.and_then(|entry| entry[key].as_f64());
        if let (Some(median), Some(least), Some(most)) =
            (number("median"), number("least"), number("most"))
        {
            pairs.push((name, compared.spread(), Spread { median, least, most }));
        }
    }
    for (name, column) in row.subjects.iter().zip(&row.columns) {
        let rounds = old["rounds"][name].as_array().into_iter().flatten();
        let rounds: Vec<f64> = rounds.filter_map(Value::as_f64).collect();
        let (new, old) = (Spread::of(column), Spread::of(&rounds));
        if !new.median.is_nan() && !old.median.is_nan() {
            pairs.push(((*name).to_owned(), new, old));
        }
    }
    pairs
}

fn movement(new: Spread, old: Spread) -> String {
    let percent = (new.median / old.median - 1.0) * 100.0;
    let note =
        if old.holds(new.median) || new.holds(old.median) { "  within the spread" } else { "" };
    format!("{:>8.2} -> {:>8.2}  {percent:>+6.1} %{note}", old.median, new.median)
}
