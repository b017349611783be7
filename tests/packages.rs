//! What packages say of the program is so: its version, and in `packaging/debian/copyright`, which every
//! package has, each crate that it is built from, whose it is, and its licence.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const FILE: &str = "packaging/debian/copyright";

/// Machines of which some have crates that others do without.
const TARGETS: [&str; 6] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "armv7-unknown-linux-gnueabihf",
    "powerpc-unknown-linux-gnu",
    "riscv64gc-unknown-linux-gnu",
    "s390x-unknown-linux-gnu",
];

fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap());
    let output = cargo
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "cargo {arguments:?}: {err}");
    out
}

/// The crates that the program is built from, but for itself: what cargo knows of them, by NAME-VERSION.
fn crates() -> BTreeMap<String, Value> {
    let mut tree = vec!["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    TARGETS.iter().for_each(|target| tree.extend(["--target", target]));
    let tree = cargo(&tree);
    let built: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name}-{}", rest.split(' ').next().unwrap()))
        .collect();
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1"])).unwrap();
    let named = |package: &Value| {
        format!("{}-{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    let others = packages.filter(|package| !package["source"].is_null());
    others
        .map(|package| (named(package), package.clone()))
        .filter(|(name, _)| built.contains(name))
        .collect()
}

/// Who says that it is theirs: in the crate's licences, else as its authors.
fn holders(package: &Value) -> Vec<String> {
    let directory = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
    let mut holders = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().to_uppercase();
        let of_licence = ["LICEN", "COPY", "NOTICE"].iter().any(|start| name.starts_with(start));
        if !of_licence || !path.is_file() {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let Some(holder) = line.trim().strip_prefix("Copyright ") else { continue };
            let holder = holder.trim_start_matches("(c) ").trim_start_matches("© ");
            // Neither a sentence about copyright, nor the form that Apache's licence is to be filled into.
            if holder.starts_with(|c: char| c.is_ascii_digit() || c.is_uppercase()) {
                holders.push(holder.trim_end_matches(". All rights reserved.").to_owned());
            }
        }
    }
    if holders.is_empty() {
        let authors = package["authors"].as_array().unwrap().iter();
        holders.extend(authors.map(|author| author.as_str().unwrap().to_owned()));
    }
    if holders.is_empty() {
        holders.push(format!("the developers of {}", package["repository"].as_str().unwrap()));
    }
    holders.sort();
    holders.dedup();
    holders
}

/// SPDX's expression in the words of Debian's copyright format.
fn licence(package: &Value) -> String {
    let mut text = package["license"].as_str().unwrap().to_owned();
    for (spdx, debian) in [
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 with LLVM exception"),
        ("MIT", "Expat"),
        ("/", " or "),
        (" OR ", " or "),
        (") AND ", ", and "),
        (" AND ", " and "),
        ("(", ""),
        (")", ""),
    ] {
        text = text.replace(spdx, debian);
    }
    text
}

#[test]
fn the_copyright_file_names_every_crate_that_the_program_is_built_from() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let file = std::fs::read_to_string(&path).unwrap();
    let by_hand = file.trim_end().split("\n\n").filter(|part| !part.starts_with("Files: vendor/"));
    let (texts, mut parts): (Vec<_>, Vec<_>) =
        by_hand.map(str::to_owned).partition(|part| part.starts_with("License: "));
    for (name, package) in crates() {
        let licence = licence(&package);
        for one in licence.split(" or ").flat_map(|part| part.split(", and ")) {
            let there = |text: &String| text.lines().next() == Some(&format!("License: {one}"));
            assert!(texts.iter().any(there), "{name}: add the text of {one} to {FILE}");
        }
        let mut part = format!("Files: vendor/{name}/*\nCopyright:");
        holders(&package).iter().for_each(|holder| writeln!(part, " {holder}").unwrap());
        parts.push(part + "License: " + &licence);
    }
    let expected = [parts, texts].concat().join("\n\n") + "\n";
    if std::env::var_os("WRITE_COPYRIGHT").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert_eq!(file, expected, "run WRITE_COPYRIGHT=1 cargo test --test packages");
}

#[test]
fn every_package_has_the_version_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("packaging/debian/changelog", format!("boardlane ({version}-1) unstable; urgency=medium")),
        ("packaging/boardlane.spec", format!("Version:        {version}")),
        ("packaging/arch/PKGBUILD", format!("pkgver={version}")),
        (
            "packaging/man/boardlane.7",
            format!(".TH BOARDLANE 7 2026-11-27 \"boardlane {version}\" boardlane"),
        ),
        (
            "packaging/man/boardlane.toml.5",
            format!(".TH BOARDLANE.TOML 5 2026-11-27 \"boardlane {version}\" boardlane"),
        ),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().any(|there| there == line), "{file} has no line {line}");
    }
}
