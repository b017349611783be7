//! The demo of a user who is not root, from outside: it works in a user namespace of its own, or says
//! in one line why not.
//!
//! Run by root, the user is `nobody`, with a /dev/net/tun of its usual mode in a private mount table;
//! otherwise it is who runs this. It needs TUN, user namespaces, `ip`, and util-linux's `unshare`,
//! `nsenter` and `setpriv`. Without them the cases are ignored, with the reason; where `CI=true` says
//! that they must run, they fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

/// Gives the user that follows a /dev/net/tun of the mode `$0`, and becomes that user.
const BECOME_NOBODY: &str = "mount -t tmpfs -o mode=755 tun /dev/net && \
    mknod -m $0 /dev/net/tun c 10 200 && \
    exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // More demos at once would share the processors too thinly.
    arguments.test_threads = Some(arguments.test_threads.map_or(2, |n| n.clamp(1, 2)));
    let directory = std::env::temp_dir().join(format!("boardlane-user-{}", std::process::id()));
    let missing = missing();
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let cases: [(&'static str, Case); 11] = [
        ("without_root_the_demo_is_ok_and_leaves_nothing", ok),
        ("the_commands_of_a_kept_demo_enter_its_machines", enter),
        ("a_killed_demo_leaves_no_process_and_no_namespace", killed),
        ("two_demos_of_one_user_do_not_meet", two),
        ("a_program_that_the_private_run_hides_starts_its_daemons_all_the_same", hidden),
        ("a_limit_of_no_user_namespaces_is_told_with_the_remedy", limit),
        ("a_chroot_is_named_where_it_forbids_user_namespaces", chroot),
        ("a_kernel_or_container_without_tun_is_told", no_tun),
        ("a_read_only_proc_sys_is_told_and_nothing_is_left", read_only_settings),
        ("a_tun_of_roots_own_is_told_with_its_usual_mode", closed_tun),
        ("the_doctor_tries_in_a_user_namespace_and_says_what_it_does_not_see", doctor),
    ];
    let trials = cases.map(|(name, case)| {
        let directory = directory.join(name);
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(reason) if strict => Err(Failed::from(format!("cannot run: {reason}"))),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => Ok(case(&Site::new(directory))),
        })
    });
    let code = libtest_mimic::run(&arguments, trials.into()).exit_code();
    // There is none if all was ignored.
    let _ = fs::remove_dir_all(directory);
    code
}

/// What keeps the cases from running here.
fn missing() -> Option<String> {
    let words = ["sh", "-c", "ip -V && nsenter -V && unshare -Urnm true && : <>/dev/net/tun"];
    match as_user("666", &words).output() {
        Err(error) => Some(format!("the program unshare: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A command of the user, whose /dev/net/tun has that mode if it is for us to say.
fn as_user(tun: &str, words: &[&str]) -> Command {
    let mut command;
    if geteuid().is_root() {
        command = Command::new("unshare");
        command.args(["-m", "sh", "-c", BECOME_NOBODY, tun]).args(words);
    } else {
        command = Command::new(words[0]);
        command.args(&words[1..]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

type Case = fn(&Site) -> Completion;

/// A copy of the program for one case, where the user can run it and its processes can be told.
struct Site {
    program: String,
}

impl Site {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join("boardlane");
        fs::copy(env!("CARGO_BIN_EXE_boardlane"), &program).unwrap();
        Self { program: program.to_str().unwrap().to_owned() }
    }

    fn directory(&self) -> &str {
        Path::new(&self.program).parent().unwrap().to_str().unwrap()
    }

    fn demo(&self, words: &[&str]) -> Command {
        let demo = [&self.program, "demo", "--seconds", "1"];
        as_user("666", &[&demo, words].concat())
    }

    /// What a script says that ends as the demo: the program is its `$0`.
    fn script(&self, unshare: &str, script: &str) -> Output {
        as_user("666", &["unshare", unshare, "sh", "-c", script, &self.program]).output().unwrap()
    }

    /// Starts a demo that stays, and gives the lines that it says.
    fn keep(&self) -> (Kept<'_>, Vec<String>) {
        let mut child = self.demo(&["--keep"]).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let kept = Kept { site: self, child };
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.starts_with("Ctrl-C ends")) {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "the demo ended: {lines:?}");
            lines.push(line);
        }
        (kept, lines)
    }

    /// The processes that run this program.
    fn processes(&self) -> Vec<i32> {
        let pids = numbers("/proc").filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == self.program.as_bytes())
        });
        pids.collect()
    }
}

/// A demo that stays until it is told to end; dropping it ends it, however the case went.
struct Kept<'a> {
    site: &'a Site,
    child: Child,
}

impl Kept<'_> {
    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }

    /// The namespaces that the demo and its daemons live in.
    fn namespaces(&self) -> BTreeSet<PathBuf> {
        self.site.processes().into_iter().flat_map(namespaces_of).collect()
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers(directory: &str) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn namespaces_of(pid: i32) -> impl Iterator<Item = PathBuf> {
    let kinds = ["user", "mnt", "net"].into_iter();
    kinds.filter_map(move |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
}

fn assert_gone(site: &Site, namespaces: &BTreeSet<PathBuf>) {
    let start = Instant::now();
    loop {
        let processes = site.processes();
        let held: Vec<_> =
            numbers("/proc").flat_map(namespaces_of).filter(|ns| namespaces.contains(ns)).collect();
        if processes.is_empty() && held.is_empty() {
            return;
        }
        let left = format!("processes {processes:?}, namespaces {held:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "still there: {left}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The object of a demo that went well, and what it said beside it.
fn report(output: &Output) -> (Value, String) {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words}");
    (serde_json::from_slice(&output.stdout).unwrap(), words)
}

/// Nothing but one line that says why, with these parts.
fn assert_refused(output: &Output, parts: &[&str]) {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(words.lines().count(), 1, "{words}");
    for part in parts {
        assert!(words.contains(part), "no {part:?} in {words}");
    }
}

fn ok(site: &Site) -> Completion {
    let output = site.demo(&["--json"]).output().unwrap();
    let (report, words) = report(&output);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["links"].as_array().unwrap().len(), 2);
    assert!(words.contains("in a user namespace of its own"), "{words}");
    assert_eq!(site.processes(), Vec::<i32>::new());
    Completion::Completed
}

fn enter(site: &Site) -> Completion {
    let (mut kept, lines) = site.keep();
    let ways: Vec<_> = lines.iter().filter_map(|line| line.trim().strip_suffix(" sh")).collect();
    assert_eq!(ways.len(), 3, "{lines:?}");
    let addresses = ["10.77.1.1/30", "10.77.0.2/30", "10.77.1.2/30"];
    for (way, address) in ways.into_iter().zip(addresses) {
        let inside = format!("{way} sh -c 'ip -o address show && ip netns && touch /run/mine'");
        let output = as_user("666", &["sh", "-c", &inside]).output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{inside}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(seen.contains(address), "{inside}: {seen}");
        assert!(seen.contains("bl-board1"), "{inside}: {seen}");
    }
    let namespaces = kept.namespaces();
    assert!(!Path::new("/run/mine").exists(), "/run inside is the demo's own");
    assert_eq!(kept.end(Signal::INT), Some(0));
    assert_gone(site, &namespaces);
    Completion::Completed
}

fn killed(site: &Site) -> Completion {
    let (mut kept, _) = site.keep();
    // The demo, its backplane, a master and two agents with a broker each: each machine has a network
    // of its own.
    let processes = site.processes();
    assert_eq!(processes.len(), 8);
    let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let filtered = processes.iter().filter(|pid| status(**pid).contains("Seccomp:\t2\n"));
    // All but the demo itself. Whoever runs this may have a filter of his own.
    assert!(filtered.count() >= 7);
    let namespaces = kept.namespaces();
    assert_eq!(namespaces.len(), 1 + 1 + 4, "{namespaces:?}");
    assert_eq!(kept.end(Signal::KILL), None);
    assert_gone(site, &namespaces);
    Completion::Completed
}

fn two(site: &Site) -> Completion {
    let (mut kept, _) = site.keep();
    let output = site.demo(&["--json", "--boards", "1"]).output().unwrap();
    assert_eq!(report(&output).0["ok"], true);
    let mut words = String::new();
    assert_eq!(kept.end(Signal::TERM), Some(0));
    kept.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(words, "", "the first one goes on undisturbed");
    Completion::Completed
}

fn hidden(site: &Site) -> Completion {
    // A demo within one's own: there, /run is this user's to fill.
    let script = "mount -t tmpfs run /run && cp \"$0\" /run/boardlane && mount -o remount,bind,ro /run \
        && exec /run/boardlane demo --boards 1 --seconds 1 --json";
    let (report, words) = report(&site.script("-Urnm", script));
    assert_eq!(report["ok"], true, "{report}");
    assert!(words.contains("in a user namespace of its own"), "{words}");
    Completion::Completed
}

fn limit(site: &Site) -> Completion {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" demo --json";
    let output = site.script("-Ur", script);
    let parts = ["cannot make a user namespace", "`sysctl -w user.max_user_namespaces=", "as root"];
    assert_refused(&output, &parts);
    let script = "echo 0 >/proc/sys/user/max_net_namespaces && exec \"$0\" demo";
    let output = site.script("-Ur", script);
    assert_refused(&output, &["cannot make a network", "user.max_net_namespaces"]);
    Completion::Completed
}

fn chroot(site: &Site) -> Completion {
    let root = format!("{}/root", site.directory());
    fs::create_dir(&root).unwrap();
    let script = format!("mount --rbind / {root} && exec chroot {root} \"$0\" demo");
    let output = site.script("-Urm", &script);
    assert_refused(&output, &["cannot make a user namespace", "chroot", "run the demo as root"]);
    Completion::Completed
}

fn no_tun(site: &Site) -> Completion {
    let output = site.script("-Urm", "mount -t tmpfs none /dev/net && exec \"$0\" demo");
    assert_refused(&output, &["/dev/net/tun: No such file", "modprobe tun", "container"]);
    Completion::Completed
}

fn read_only_settings(site: &Site) -> Completion {
    let script = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys \
        && exec \"$0\" demo --json";
    let output = site.script("-Urm", script);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words}");
    let last = words.lines().last().unwrap();
    assert!(last.contains("cannot switch on forwarding: Read-only"), "{words}");
    assert!(last.contains("--security-opt"), "{words}");
    assert_eq!(site.processes(), Vec::<i32>::new());
    Completion::Completed
}

fn closed_tun(site: &Site) -> Completion {
    if !geteuid().is_root() {
        return Completion::ignored_with("only root can make such a device");
    }
    let output = as_user("600", &[&site.program, "demo"]).output().unwrap();
    assert_refused(&output, &["/dev/net/tun: Permission denied", "`chmod 666 /dev/net/tun`"]);
    Completion::Completed
}

fn doctor(site: &Site) -> Completion {
    let look = |tun| as_user(tun, &[&site.program, "doctor"]).output().unwrap();
    let output = look("666");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("ok    tun         TAPs can be made"), "{text}");
    assert!(text.contains("warn  rights      not root: "), "{text}");
    if geteuid().is_root() {
        let text = String::from_utf8(look("600").stdout).unwrap();
        assert!(text.contains("FAIL  tun         /dev/net/tun: "), "{text}");
    }
    Completion::Completed
}
