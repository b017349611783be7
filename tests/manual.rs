//! The manual pages that are written by hand: boardlane.toml(5) has every key of a config, boardlane(7)
//! every state, reason and drop.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::path::Path;
use std::process::Command;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// What a page explains: its bold lines that a text follows (`.TP`), as they are shown.
fn explained(page: &str) -> Vec<String> {
    let page = read(&format!("packaging/man/{page}"));
    let titles = page.split("\n.TP\n").skip(1).filter_map(|text| text.lines().next());
    let shown = titles.map(|title| {
        let title = title.trim_start_matches(".BR ").trim_start_matches(".B ");
        [("\\(aq", "'"), ("\\(dq", "\""), ("\\~", " "), ("\\-", "-"), ("\\&", "")]
            .iter()
            .fold(title.to_owned(), |title, (roff, shown)| title.replace(roff, shown))
    });
    shown.collect()
}

#[test]
fn every_key_of_a_config_is_explained() {
    let explained = explained("boardlane.toml.5");
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config/agent.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(["check", "--expand", config])
        .output()
        .unwrap();
    let expanded = String::from_utf8(output.stdout).unwrap();
    let keys = expanded.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    let keys: Vec<_> = keys.map(|(key, _)| key).collect();
    assert!(keys.len() > 20, "{expanded}");
    for key in keys {
        let start = format!("{key} ");
        assert!(explained.iter().any(|title| title.starts_with(&start)), "the key {key}");
    }
}

#[test]
fn every_state_reason_and_drop_is_explained() {
    let explained = explained("boardlane.7");
    for drop in boardlane::net::frame::Drop::ALL {
        let named = |title: &String| title.split(", ").any(|name| name == drop.name());
        assert!(explained.iter().any(named), "the drop {}", drop.name());
    }
    let readme = read("README.md");
    let mut rows = 0;
    for head in ["| state | meaning |", "| reason | what to do |"] {
        for table in readme.split(head).skip(1) {
            for row in table.lines().skip(2).take_while(|line| line.starts_with("| ")) {
                let said = row[2..].split(" | ").next().unwrap().replace('`', "");
                assert!(explained.contains(&said), "\"{said}\"");
                rows += 1;
            }
        }
    }
    assert!(rows > 10, "the README's tables of states and reasons are elsewhere");
}
