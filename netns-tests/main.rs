//! Real daemons in network namespaces: what an operator sees, as claims.
//!
//! Each case is a process of its own (see [`case`]).
//!
//! It needs root, /dev/net/tun and iproute2's `ip`; some cases need another tool. Without them they
//! are ignored, with the reason; where `CI=true` says that they must run, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it saw"
)]

mod board;
mod case;
mod cases;
mod checker;
mod packets;
mod pcapng;
mod probe;
mod relay;
mod stock;
mod traffic;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};

use case::there;
use cases::{cycles, matrix};

/// A case that has not ended by then hangs; one of many frames has more time.
const CASE_LIMIT: Duration = Duration::from_secs(120);
const FRAME_LIMIT_US: u64 = 100;
/// So has one of many cycles.
const CYCLE_LIMIT: Duration = Duration::from_secs(10);
/// Cases that run at once: more would share the processors too thinly.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(case::ARGUMENT) {
        let name = words.next().unwrap_or_default();
        match cases::ALL.iter().find(|case| case.name == name) {
            Some(case) => (case.run)(),
            None => matrix::run(&name),
        }
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.map_or(AT_ONCE, |n| n.clamp(1, AT_ONCE)));
    let missing = if arguments.list { None } else { case::missing() };
    let seed = matrix::seed();
    let cells = matrix::chosen(arguments.filter.as_deref(), seed);
    if !arguments.list {
        eprintln!("cells of the matrix by {}={seed}", matrix::SEED);
    }
    let cases = cases::ALL.iter().map(|case| (case.name.to_owned(), case.needs));
    let trials = cases.chain(cells.into_iter().map(|name| (name, &[][..]))).map(|(name, needs)| {
        let is_device = |need: &&&str| need.starts_with('/');
        let mut devices = needs.iter().filter(is_device);
        if let Some(device) = devices.find(|device| !Path::new(device).exists()) {
            // Another machine has it: nothing is wrong with this one.
            let reason = format!("there is no {device}; a guest of tests/peers has it");
            return Trial::ignorable_test(name, || Ok(Completion::ignored_with(reason)));
        }
        let mut tools = needs.iter().filter(|need| !is_device(need));
        let tool = tools.find(|tool| !there(tool));
        let reason = missing.clone().or(tool.map(|tool| format!("there is no program {tool}")));
        case::trial(name, reason, move |name| {
            let limit = CASE_LIMIT + Duration::from_micros(FRAME_LIMIT_US * matrix::frames());
            let limit = limit + CYCLE_LIMIT * cycles::count();
            case::run(name, limit, (matrix::SEED, &seed.to_string()))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
