//! Each file of the fuzz targets' corpora, through the function that its target gives to libFuzzer.
//!
//! `fuzz/README.md` tells of the targets and of how files come into `fuzz/corpus`. A target that needs
//! what is not here is tried without it: `net_header` without a TAP to ask, which is an error where
//! `CI=true` says that it must be there.

#![allow(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used, reason = "a test")]
#![allow(unreachable_pub, reason = "the targets are a crate of their own as well")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};

/// What a target does with a file.
type Run = fn(&[u8]);

const TARGETS: &[(&str, Run)] = &[
    ("config", targets::config::run),
    ("control", targets::control::run),
    ("device_ring", targets::device_ring::run),
    ("driver_ring", targets::driver_ring::run),
    ("ivshmem_client", targets::ivshmem_client::run),
    ("ivshmem_server", targets::ivshmem_server::run),
    ("messages", targets::messages::run),
    ("net_header", targets::net_header::run),
    ("vhost_user", targets::vhost_user::run),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // Some count the process's descriptors.
    arguments.test_threads = Some(1);
    let mut trials: Vec<_> = TARGETS
        .iter()
        .map(|&(name, run)| Trial::test(format!("corpus_of_{name}"), move || replay(name, run)))
        .collect();
    trials.push(Trial::test("each_target_is_tried_and_has_a_corpus", each_target_is_here));
    libtest_mimic::run(&arguments, trials).exit();
}

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn replay(target: &str, run: Run) -> Result<(), Failed> {
    let missing = if target == "net_header" { targets::net_header::missing() } else { None };
    match missing {
        Some(why) if std::env::var_os("CI").is_some_and(|v| v == "true") => {
            return Err(format!("no TAP is asked: {why}").into());
        }
        Some(why) => println!("ignored: the TAP's verdict: {why}"),
        None => {}
    }
    let dir = fuzz().join("corpus").join(target);
    let files = names(&dir);
    if files.is_empty() {
        return Err(format!("{} is empty", dir.display()).into());
    }
    let began = Instant::now();
    for file in &files {
        let octets = std::fs::read(dir.join(file)).unwrap();
        if std::panic::catch_unwind(|| run(&octets)).is_err() {
            return Err(format!("{target}/{file}: see above").into());
        }
    }
    println!("{target}: {} files in {:.1} s", files.len(), began.elapsed().as_secs_f32());
    Ok(())
}

/// Otherwise a new target could be forgotten here.
fn each_target_is_here() -> Result<(), Failed> {
    let here: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let made: Vec<_> = names(&fuzz().join("fuzz_targets"))
        .into_iter()
        .map(|file| file.trim_end_matches(".rs").to_owned())
        .collect();
    if made == here && names(&fuzz().join("corpus")) == here {
        Ok(())
    } else {
        Err(format!("fuzz_targets and corpus should both have {here:?}").into())
    }
}
