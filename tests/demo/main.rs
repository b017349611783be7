//! The demo's life around its daemons: what it builds, reports and takes away again. The daemons are
//! stand-ins (see `fake`), so that they can be made to fail; this program plays them, and the demo.
//!
//! It needs root, TUN and the program `ip`. Without them the cases are ignored, with the reason; where
//! `CI=true` says that they must run, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and the stand-ins talk to their log"
)]

mod fake;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use boardlane::daemon::demo::{self as library, Error, Options, Place, run};
use boardlane::os::netns::Namespace;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("backplane" | "master" | "agent") => {
            fake::run(&arguments);
            ExitCode::SUCCESS
        }
        Some("demo") => demo(&arguments),
        _ => run_cases(),
    }
}

/// `demo NAME [--boards=N] [--json] [--keep]`: as `boardlane demo`, in a place of its own.
fn demo(arguments: &[String]) -> ExitCode {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let name = &arguments[1];
    let options = Options {
        boards: arguments
            .iter()
            .find_map(|word| word.strip_prefix("--boards=")?.parse().ok())
            .unwrap_or(1),
        seconds: 1,
        json: has("--json"),
        keep: has("--keep"),
        place: Place { prefix: format!("{name}-"), directory: directory(name) },
        ..Options::default()
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

fn directory(name: &str) -> PathBuf {
    PathBuf::from("/run").join(name)
}

/// Where one case's demo is built; dropping it removes what a failed case left.
struct Site {
    name: String,
}

impl Site {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("bl-demo-test-{}-{count}", std::process::id()) }
    }

    fn directory(&self) -> PathBuf {
        directory(&self.name)
    }

    fn command(&self, fault: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("demo").arg(&self.name).args(flags).env("FAULT", fault);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, fault: &str, flags: &[&str]) -> Output {
        self.command(fault, flags).output().unwrap()
    }

    /// Starts a demo that stays, and waits until it says so.
    fn keep(&self, flags: &[&str]) -> Kept {
        let mut child = self.command("", flags).arg("--keep").spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("Ctrl-C ends") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the demo ended: {:?}", child.wait());
        }
        Kept { child, out }
    }

    /// What there is of the demo: namespaces, files, processes.
    fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        let namespaces = fs::read_dir("/run/netns").unwrap().flatten();
        let mine = namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(mine.filter(|name| name.starts_with(&self.name)));
        found.extend(self.directory().exists().then(|| self.directory().display().to_string()));
        found.extend(self.processes().into_iter().map(|(_, line)| line));
        found
    }

    /// The daemons: those whose command line names the directory.
    fn processes(&self) -> Vec<(Pid, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&format!("{}/", self.directory().display())) {
                found.push((Pid::from_raw(pid).unwrap(), line));
            }
        }
        found
    }

    fn assert_clean(&self) {
        assert_eq!(self.remains(), Vec::<String>::new());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in self.remains().iter().filter(|name| !name.starts_with('/')) {
            let _ = Namespace::remove(name);
        }
        let _ = fs::remove_dir_all(self.directory());
    }
}

/// A demo that stays until it is told to end.
struct Kept {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Kept {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end: the exit code, and what was said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut words = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        self.out.read_to_string(&mut String::new()).unwrap();
        (self.child.wait().unwrap().code(), words)
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn missing() -> Option<String> {
    if let Err(error) = Command::new("ip").arg("-V").output() {
        return Some(format!("the program ip: {error}"));
    }
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces with names that others see: run it as root".to_owned());
    }
    let tun = fs::File::options().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = tun {
        return Some(Error::NoTun(error).to_string());
    }
    let probe = Site::new();
    let made = Namespace::create(&format!("{}-probe", probe.name));
    made.err().map(|error| error.to_string())
}

type Case = fn(&Site);

fn run_cases() -> ExitCode {
    let cases: [(&str, Case); 12] = [
        ("with_json_the_object_is_all_there_is_on_stdout", json),
        ("people_see_what_was_built_and_measured", people),
        ("any_of_the_signals_ends_a_kept_demo_and_nothing_is_left", signals),
        ("a_signal_while_measuring_ends_the_demo_and_nothing_is_left", interrupted),
        ("a_process_that_dies_while_kept_is_told_and_not_restarted", death_while_kept),
        ("a_second_demo_is_refused", second_demo),
        ("what_a_killed_demo_left_is_removed_by_the_next", killed_demo),
        ("what_a_killed_demo_left_is_cleaned", cleaned_demo),
        ("a_daemon_that_ends_early_ends_the_demo_with_its_last_words", death_at_start),
        ("links_that_stay_down_are_named_with_the_reason", stay_down),
        ("loss_is_reported_and_fails_the_demo", loss),
        ("a_namespace_of_somebody_else_is_left_alone", foreign_namespace),
    ];
    let missing = missing();
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let trial = |(name, case): (&'static str, Case)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(reason) if strict => Err(Failed::from(format!("cannot run: {reason}"))),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                case(&Site::new());
                Ok(Completion::Completed)
            }
        })
    };
    let trials = cases.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn json(site: &Site) {
    let output = site.run("stubborn", &["--json", "--boards=2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["matrix"], serde_json::json!([vec![0.0; 3], vec![0.0; 3], vec![0.0; 3]]));
    for (board, link) in report["links"].as_array().unwrap().iter().enumerate() {
        assert_eq!(link["board"], board);
        assert_eq!(link["name"], format!("bl{board}"));
        assert_eq!(link["features"], serde_json::json!(["VERSION_1", "MTU"]));
        assert!(link["ping_us"]["avg"].as_f64().unwrap() > 0.0);
        assert!(link["tcp_gbit_s"]["to_board"].as_f64().unwrap() > 0.0);
        assert!(link["tcp_gbit_s"]["from_board"].as_f64().unwrap() > 0.0);
    }
    site.assert_clean();
}

fn people(site: &Site) {
    let output = site.run("", &["--boards=2"]);
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    for part in [
        "agent --config",
        "2 of 2 links up",
        "10.77.1.1/30 fd77:0:0:1::1/64",
        "10.77.0.0/16",
        "via fd77:0:0:1::1",
        "all links: VERSION_1 MTU",
        "board1  0%      0%      0%",
        "Gbit/s",
        "OK: all links carry traffic",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
    site.assert_clean();
}

fn signals(site: &Site) {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let kept = site.keep(&[]);
        assert!(site.remains().len() == 6, "{:?}", site.remains());
        kept.signal(signal);
        assert_eq!(kept.end(), (Some(0), String::new()), "{signal:?}");
        site.assert_clean();
    }
}

fn interrupted(site: &Site) {
    let child = site.command("", &["--json"]).spawn().unwrap();
    eventually("daemons run", || site.processes().len() == 3);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    site.assert_clean();
}

fn death_while_kept(site: &Site) {
    let kept = site.keep(&["--boards=2"]);
    let agents = site.processes();
    let (pid, _) = agents.iter().find(|(_, line)| line.contains("board1")).unwrap();
    kill_process(*pid, Signal::KILL).unwrap();
    eventually("the agent is gone", || site.processes().len() == 3);
    // The demo looks often; that it looked once more cannot be seen from here.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.processes().len(), 3);
    kept.signal(Signal::INT);
    let (_, words) = kept.end();
    assert!(words.contains("agent of board1 (pid "), "{words}");
    assert!(words.contains("signal: 9"), "{words}");
    site.assert_clean();
}

fn second_demo(site: &Site) {
    let kept = site.keep(&[]);
    let output = site.run("", &[]);
    assert_eq!(output.status.code(), Some(1));
    let running = format!("another demo is running (pid {})", kept.child.id());
    assert!(text(&output.stderr).contains(&running), "{}", text(&output.stderr));
    assert_eq!(site.processes().len(), 3, "the first one goes on");
    kept.signal(Signal::INT);
    assert_eq!(kept.end().0, Some(0));
    site.assert_clean();
}

fn killed_demo(site: &Site) {
    let kept = site.keep(&[]);
    kept.signal(Signal::KILL);
    kept.end();
    eventually("its daemons died with it", || site.processes().is_empty());
    assert!(!site.remains().is_empty(), "namespaces and files cannot have gone by themselves");
    let output = site.run("", &["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    site.assert_clean();
}

fn cleaned_demo(site: &Site) {
    let place = Place { prefix: site.name.clone(), directory: site.directory() };
    assert_eq!(library::clean(&place, false), Ok(Vec::new()), "there has been none");
    let kept = site.keep(&[]);
    assert_eq!(library::clean(&place, false), Ok(Vec::new()), "it lives");
    kept.signal(Signal::KILL);
    kept.end();
    eventually("its daemons died with it", || site.processes().is_empty());
    let left = library::clean(&place, true).unwrap();
    assert!(left.len() == 3 && left.iter().any(|l| l.starts_with("network namespace")), "{left:?}");
    assert!(!site.remains().is_empty(), "a dry run removes nothing");
    assert_eq!(library::clean(&place, false), Ok(left));
    site.assert_clean();
}

fn death_at_start(site: &Site) {
    let output = site.run("dies", &["--json", "--boards=2"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let words = text(&output.stderr);
    assert!(words.contains("agent of board1 (pid "), "{words}");
    assert!(words.contains("exit status: 3"), "{words}");
    assert!(words.contains("the window is on fire"), "{words}");
    site.assert_clean();
}

fn stay_down(site: &Site) {
    let output = site.run("waiting", &["--boards=2"]);
    assert_eq!(output.status.code(), Some(1));
    let words = text(&output.stderr);
    assert!(words.contains("2 of 2 links not up after 10 s"), "{words}");
    assert!(words.contains("bl0 (master: waiting: window has no magic)"), "{words}");
    site.assert_clean();
}

fn loss(site: &Site) {
    let output = site.run("lossy", &["--json", "--boards=2"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    // Board 1 has lost its route to board 0, and back.
    assert_eq!(report["matrix"][1][2], 100.0);
    assert_eq!(report["matrix"][2][1], 100.0);
    assert_eq!(report["matrix"][0], serde_json::json!([0.0, 0.0, 0.0]));
    site.assert_clean();
}

fn foreign_namespace(site: &Site) {
    let name = format!("{}-board0", site.name);
    let _foreign = Namespace::create(&name).unwrap();
    let output = site.run("", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("`ip netns del {name}`")));
    assert_eq!(site.remains(), std::slice::from_ref(&name));
    Namespace::remove(&name).unwrap();
    site.assert_clean();
}
