//! Real daemons in network namespaces: what an operator sees, as claims.
//!
//! Each case is a process of its own: this program starts itself again with `--case NAME`. Whatever a
//! case makes bears the id of that process in its name ([`world`] says how), so cases, other runs and
//! a demo do not meet, and this program can remove all of it when the case has crashed or hangs.
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
mod cases;
mod checker;
mod packets;
mod probe;
mod relay;
mod stock;
mod traffic;
mod world;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::os::child;
use boardlane::os::netns::Namespace;
use boardlane::os::tap::Tap;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

use cases::{cycles, matrix};
use world::{Traces, sweep};

/// A case that has not ended by then hangs; one of many frames has more time.
const CASE_LIMIT: Duration = Duration::from_secs(120);
const FRAME_LIMIT_US: u64 = 100;
/// So has one of many cycles.
const CYCLE_LIMIT: Duration = Duration::from_secs(10);
/// Cases that run at once: more would share the processors too thinly.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("--case") {
        let name = words.next().unwrap_or_default();
        match cases::ALL.iter().find(|case| case.name == name) {
            Some(case) => (case.run)(),
            None => matrix::run(&name),
        }
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.map_or(AT_ONCE, |n| n.clamp(1, AT_ONCE)));
    let missing = if arguments.list { None } else { missing() };
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let seed = matrix::seed();
    let cells = matrix::chosen(arguments.filter.as_deref(), seed);
    if !arguments.list {
        eprintln!("cells of the matrix by {}={seed}", matrix::SEED);
    }
    let cases = cases::ALL.iter().map(|case| (case.name.to_owned(), case.needs));
    let trials = cases.chain(cells.into_iter().map(|name| (name, &[][..]))).map(|(name, needs)| {
        let tool = needs.iter().find(|tool| !there(tool));
        let reason = missing.clone().or(tool.map(|tool| format!("there is no program {tool}")));
        Trial::ignorable_test(name.clone(), move || match reason {
            Some(reason) if strict => Err(format!("cannot run here: {reason}").into()),
            Some(reason) => {
                eprintln!("{name}: ignored: {reason}");
                Ok(Completion::ignored_with(reason))
            }
            None => run(&name, seed).map(|()| Completion::Completed),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// What keeps every case from running here.
fn missing() -> Option<String> {
    if !there("ip") {
        return Some("there is no program ip (iproute2)".to_owned());
    }
    let name = format!("blt{}-probe", std::process::id());
    let probe = Namespace::create(&name).map_err(|e| e.to_string()).and_then(|namespace| {
        let tap = namespace.run(|| Tap::create("probe", false)).map_err(|e| e.to_string())?;
        tap.map(drop).map_err(|e| e.to_string())
    });
    let removed = Namespace::remove(&name).map_err(|e| e.to_string());
    probe.err().or_else(|| {
        sweep();
        removed.err()
    })
}

fn there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Runs a case in a process, shows what it says, and removes what it leaves.
fn run(name: &str, seed: u64) -> Result<(), Failed> {
    let started = Instant::now();
    let limit = CASE_LIMIT + Duration::from_micros(FRAME_LIMIT_US * matrix::frames());
    let limit = limit + CYCLE_LIMIT * cycles::count();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--case", name]).env(matrix::SEED, seed.to_string());
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut process = child::spawn(&mut command, None)?;
    let mut said = process.stderr.take().expect("piped");
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until then is as much as there is to show.
        let _ = said.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break Some(status);
        }
        if started.elapsed() >= limit {
            process.kill()?;
            process.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let traces = Traces::of(process.id());
    let mut left = Vec::new();
    for (pid, line) in traces.processes() {
        // Already gone is as good.
        let _ = kill_process(pid, Signal::KILL);
        left.push(format!("process {}: {line}", Pid::as_raw(Some(pid))));
    }
    left.extend(traces.remove());
    let text = reader.join().unwrap_or_default().replace('\n', "\n    ");
    eprintln!("{name} took {:.1} s\n    {}", started.elapsed().as_secs_f64(), text.trim_end());
    match status {
        None => Err(format!("it hangs: not done after {} s", limit.as_secs()).into()),
        Some(status) if !status.success() => Err(format!("it failed ({status}), see above").into()),
        Some(_) if !left.is_empty() => Err(format!("it left {}", left.join(", ")).into()),
        Some(_) => Ok(()),
    }
}
