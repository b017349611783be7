//! One case as a process of its own, which this program starts itself anew for with `--case NAME`.
//!
//! Whatever a case makes bears the id of that process in its name ([`crate::world`] says how), so
//! cases, other runs and a demo do not meet, and all of it can be removed when the case has crashed or
//! hangs.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::os::child;
use boardlane::os::netns::Namespace;
use boardlane::os::tap::Tap;
use libtest_mimic::{Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Traces, sweep};

/// The argument before the name of the case that this process is.
pub(crate) const ARGUMENT: &str = "--case";

/// How long processes may outlive the case that they belong to.
const GRACE: Duration = Duration::from_secs(1);

/// A case that is ignored for a reason, or fails for it where `CI=true` says that it must run; without
/// one it is run.
pub(crate) fn trial(
    name: String,
    reason: Option<String>,
    run: impl FnOnce(&str) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    Trial::ignorable_test(name.clone(), move || match reason {
        Some(reason) if strict => Err(format!("cannot run here: {reason}").into()),
        Some(reason) => {
            eprintln!("{name}: ignored: {reason}");
            Ok(Completion::ignored_with(reason))
        }
        None => run(&name).map(|()| Completion::Completed),
    })
}

/// What keeps every case from running here.
pub(crate) fn missing() -> Option<String> {
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

/// Whether there is a program of this name, and behind a blank, the module of Python.
pub(crate) fn there(tool: &str) -> bool {
    if let Some(module) = tool.strip_prefix("python3 ") {
        let ran = python(&format!("import {module}")).stderr(Stdio::null()).status();
        return ran.is_ok_and(|status| status.success());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Python with a script, which finds the modules of Debian's packages whosever Python it is.
pub(crate) fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).env("PYTHONPATH", "/usr/lib/python3/dist-packages");
    command
}

/// Runs a case in a process, with this variable in its environment, shows what it says, and removes
/// what it leaves.
pub(crate) fn run(name: &str, limit: Duration, variable: (&str, &str)) -> Result<(), Failed> {
    let started = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, name]).env(variable.0, variable.1);
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
    // A daemon's broker ends once it sees that the daemon has.
    let ended = Instant::now();
    while !traces.processes().is_empty() && ended.elapsed() < GRACE {
        thread::sleep(Duration::from_millis(5));
    }
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
