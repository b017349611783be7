//! The world of one case: machines, which are network namespaces; daemons on them; what both say.
//!
//! With P the id of the case's process, namespaces are named `bltP-master`, `bltP-board0`, .., and
//! files are in the directory `boardlane-netns-P` of the system's temporary directory. A machine's
//! daemon bears its name; the backplane belongs to none. Daemons die with the thread that started
//! them, so with the case; dropping the world ends them and removes all the rest.
//!
//! Link i is named `bl<i>` on the master and `bl0` on board i, with the addresses `10.77.i.1/30` and
//! `fd77:0:0:i::1/64`, on the board `.2` and `::2`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::ask_status;
use boardlane::daemon::status::{LinkState, LinkStatus, Status};
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_boardlane");
/// Every state that is waited for comes within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Waits until `probe` succeeds, says how long it took, and gives the value. A failure of the probe
/// is what was seen instead.
pub(crate) fn wait<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    wait_for(PATIENCE, what, probe)
}

/// As [`wait`], for what may take up to `patience`.
pub(crate) fn wait_for<T>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => {
                eprintln!("{what} after {:.2} s", start.elapsed().as_secs_f64());
                return value;
            }
            Err(seen) if start.elapsed() >= patience => {
                panic!("{what}: not within {} s, but {seen}", patience.as_secs());
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// `Ok` if it holds, else what was seen instead.
pub(crate) fn check(holds: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{seen:?}")) }
}

/// Where a case's process leaves marks.
pub(crate) struct Traces {
    prefix: String,
    directory: PathBuf,
}

impl Traces {
    /// Those of the case with this process id.
    pub(crate) fn of(pid: u32) -> Self {
        let directory = std::env::temp_dir().join(format!("boardlane-netns-{pid}"));
        Self { prefix: format!("blt{pid}-"), directory }
    }

    /// Processes whose command line names the directory.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let directory = format!("{}/", self.directory.display());
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let line = |pid: i32| {
            let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            Some((Pid::from_raw(pid)?, line))
        };
        pids.filter_map(line).filter(|(_, line)| line.contains(&directory)).collect()
    }

    /// Removes namespaces and files; says what there was.
    pub(crate) fn remove(&self) -> Vec<String> {
        let names = names_of_namespaces();
        let mut left: Vec<_> =
            names.into_iter().filter(|name| name.starts_with(&self.prefix)).collect();
        for name in &left {
            if let Err(error) = Namespace::remove(name) {
                eprintln!("{error}");
            }
        }
        if fs::remove_dir_all(&self.directory).is_ok() {
            left.push(self.directory.display().to_string());
        }
        left
    }
}

fn names_of_namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Removes what earlier runs left that were killed, and so could not.
pub(crate) fn sweep() {
    // A process that nobody has waited for yet has an empty one.
    let dead = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty();
    let pid_in = |name: &String| name.strip_prefix("blt")?.split_once('-')?.0.parse().ok();
    let pids: BTreeSet<u32> = names_of_namespaces().iter().filter_map(pid_in).collect();
    for pid in pids.into_iter().filter(dead) {
        eprintln!("removed what a killed run left: {}", Traces::of(pid).remove().join(", "));
    }
}

/// One case's machines and daemons.
pub(crate) struct World {
    traces: Traces,
    machines: BTreeMap<String, Namespace>,
    daemons: BTreeMap<String, Child>,
}

impl World {
    /// A master and boards, each with its config; `keys` gives further lines for a machine's link.
    /// Nothing runs yet.
    pub(crate) fn new(boards: u8, keys: impl Fn(&str, u8) -> String) -> Self {
        let traces = Traces::of(std::process::id());
        fs::create_dir(&traces.directory).unwrap();
        let mut world = Self { traces, machines: BTreeMap::new(), daemons: BTreeMap::new() };
        let mut links = String::new();
        world.add_machine("master");
        for slot in 0..boards {
            let board = format!("board{slot}");
            world.add_machine(&board);
            links += &world.link(&format!("bl{slot}"), slot, 1, &keys("master", slot));
            let link = world.link("bl0", slot, 2, &keys(&board, slot));
            world.configure(&board, &link);
        }
        world.configure("master", &links);
        world
    }

    /// As [`World::new`], with everything started and every link up at both ends.
    pub(crate) fn running(boards: u8, keys: impl Fn(&str, u8) -> String) -> Self {
        let mut world = Self::new(boards, keys);
        world.start("backplane");
        world.start("master");
        for slot in 0..boards {
            world.start(&format!("board{slot}"));
        }
        for slot in 0..boards {
            world.wait_up(slot);
        }
        world
    }

    /// Makes a network namespace whose loopback is up.
    pub(crate) fn add_machine(&mut self, name: &str) {
        fs::create_dir(self.directory(name)).unwrap();
        self.make_namespace(name);
    }

    /// Makes a machine's namespace again that was [removed](World::remove_namespace).
    pub(crate) fn make_namespace(&mut self, machine: &str) {
        let namespace = Namespace::create(&self.namespace(machine)).unwrap();
        self.machines.insert(machine.to_owned(), namespace);
        self.ip(machine, "link set lo up");
    }

    /// Takes away the name of a machine's namespace, and with it the namespace unless somebody else uses it.
    pub(crate) fn remove_namespace(&mut self, machine: &str) {
        self.machines.remove(machine);
        Namespace::remove(&self.namespace(machine)).unwrap();
    }

    /// The name of a machine's namespace.
    pub(crate) fn namespace(&self, machine: &str) -> String {
        format!("{}{machine}", self.traces.prefix)
    }

    /// A machine's files: control socket, notes.
    pub(crate) fn directory(&self, machine: &str) -> PathBuf {
        self.traces.directory.join(machine)
    }

    /// The socket of a slot.
    pub(crate) fn slot(&self, slot: u8) -> PathBuf {
        self.traces.directory.join(format!("slots/slot{slot}.sock"))
    }

    /// The lines of one link in a config; addresses are the usual ones unless `keys` has others, or a
    /// port that needs none.
    pub(crate) fn link(&self, name: &str, slot: u8, host: u8, keys: &str) -> String {
        let usual = format!("\"10.77.{slot}.{host}/30\", \"fd77:0:0:{slot}::{host}/64\"");
        let usual = format!("address = [{usual}]\n");
        let has_own = ["address =", "port ="].iter().any(|key| keys.contains(key));
        let addresses = if has_own { "" } else { &usual };
        let path = self.slot(slot).display().to_string();
        format!("[[link]]\nname = \"{name}\"\ntransport = \"shm:{path}\"\n{addresses}{keys}\n")
    }

    /// Writes a machine's config.
    pub(crate) fn configure(&self, machine: &str, links: &str) {
        let control = self.directory(machine).join("control.sock");
        let text = format!("control = \"{}\"\n{links}", control.display());
        fs::write(self.config(machine), text).unwrap();
    }

    /// The path of a machine's config.
    pub(crate) fn config(&self, machine: &str) -> PathBuf {
        self.traces.directory.join(format!("{machine}.toml"))
    }

    /// The command line of a daemon.
    pub(crate) fn command(&self, daemon: &str) -> Vec<String> {
        let slots = self.traces.directory.join("slots").display().to_string();
        let role = if daemon == "master" { "master" } else { "agent" };
        let words = match daemon {
            "backplane" => vec![PROGRAM, "backplane", "--slots", "16", "--dir", &slots],
            _ => vec![PROGRAM, role, "--config"],
        };
        let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        if daemon != "backplane" {
            words.push(self.config(daemon).display().to_string());
        }
        words
    }

    /// Starts the daemon of this name.
    pub(crate) fn start(&mut self, daemon: &str) {
        self.start_as(daemon, &[]);
    }

    /// Starts a daemon by way of another program, which execs it.
    pub(crate) fn start_as(&mut self, daemon: &str, by: &[&str]) {
        let words = self.command(daemon);
        let words: Vec<_> = by.iter().copied().chain(words.iter().map(String::as_str)).collect();
        self.start_words(daemon, daemon, &words);
    }

    /// Starts a command on a machine, as the daemon of this name.
    pub(crate) fn start_words(&mut self, daemon: &str, machine: &str, words: &[&str]) {
        self.start_told(daemon, machine, words, Stdio::null());
    }

    /// As [`World::start_words`], for one that reads from `input`; gives its other end, if it is a pipe.
    pub(crate) fn start_told(
        &mut self,
        daemon: &str,
        machine: &str,
        words: &[&str],
        input: Stdio,
    ) -> Option<ChildStdin> {
        let path = self.log_path(daemon);
        let log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(input);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let netns = self.machines.get(machine);
        let netns = netns.map(|netns| netns.as_fd().try_clone_to_owned().unwrap());
        let mut process = child::spawn(&mut command, netns).unwrap();
        let told = process.stdin.take();
        let before = self.daemons.insert(daemon.to_owned(), process);
        assert!(before.is_none(), "{daemon} runs already");
        told
    }

    /// The id of a running daemon's process.
    pub(crate) fn pid(&self, daemon: &str) -> u32 {
        self.daemons[daemon].id()
    }

    /// Stops a daemon in an orderly way.
    pub(crate) fn stop(&mut self, daemon: &str) -> ExitStatus {
        self.end(daemon, Signal::TERM)
    }

    /// Kills a daemon.
    pub(crate) fn kill(&mut self, daemon: &str) {
        self.end(daemon, Signal::KILL);
    }

    fn end(&mut self, daemon: &str, signal: Signal) -> ExitStatus {
        self.signal(daemon, signal);
        self.wait_end(daemon)
    }

    /// Sends a signal to a running daemon.
    pub(crate) fn signal(&self, daemon: &str, signal: Signal) {
        signal_to(&self.daemons[daemon], signal);
    }

    /// Waits until a daemon has ended.
    pub(crate) fn wait_end(&mut self, daemon: &str) -> ExitStatus {
        let mut process = self.daemons.remove(daemon).unwrap();
        wait(&format!("{daemon} ended"), || {
            process.try_wait().unwrap().ok_or_else(|| "it lives".to_owned())
        })
    }

    /// The file of what a daemon has logged.
    pub(crate) fn log_path(&self, daemon: &str) -> PathBuf {
        self.traces.directory.join(format!("{daemon}.log"))
    }

    /// What a daemon has logged.
    pub(crate) fn log(&self, daemon: &str) -> String {
        fs::read_to_string(self.log_path(daemon)).unwrap_or_default()
    }

    /// What a machine's daemon says of itself.
    pub(crate) fn status(&self, machine: &str) -> Result<Status, String> {
        let control = self.directory(machine).join("control.sock");
        ask_status(&control).map(|(_, status)| status).map_err(|e| format!("{machine}: {e}"))
    }

    /// What a machine's daemon says of one link.
    pub(crate) fn link_status(&self, machine: &str, name: &str) -> Result<LinkStatus, String> {
        let links = self.status(machine)?.links;
        links.into_iter().find(|l| l.name == name).ok_or_else(|| format!("no link {name}"))
    }

    /// Waits until a link is in this state for a reason that contains `reason`.
    pub(crate) fn wait_state(
        &self,
        machine: &str,
        name: &str,
        state: LinkState,
        reason: &str,
    ) -> LinkStatus {
        wait(&format!("{machine} says {name} is {} ({reason:?})", state.name()), || {
            let link = self.link_status(machine, name)?;
            let found =
                link.state == state && link.reason.as_deref().unwrap_or_default().contains(reason);
            check(found, &link).map(|()| link)
        })
    }

    /// Waits until a slot's link is up with a carrier at both ends, as daemons and kernel see it.
    pub(crate) fn wait_up(&self, slot: u8) {
        let ends = [("master".to_owned(), format!("bl{slot}")), end_of(slot)];
        wait(&format!("link {slot} up"), || {
            for (machine, name) in &ends {
                let link = self.link_status(machine, name)?;
                check(link.state == LinkState::Up && link.carrier, &link)?;
                check(self.is_operational(machine, name), (machine, "not operational"))?;
            }
            Ok(())
        });
    }

    /// Runs a program on a machine.
    pub(crate) fn run(&self, machine: &str, words: &[&str]) -> Output {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let netns = self.machines[machine].as_fd().try_clone_to_owned().unwrap();
        child::spawn(&mut command, Some(netns)).unwrap().wait_with_output().unwrap()
    }

    /// As [`World::run`]; it must succeed. Gives its output.
    pub(crate) fn run_well(&self, machine: &str, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(machine, words);
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{words:?} on {machine}: {status}\n{out}{err}");
        out.into_owned()
    }

    /// The objects that `ip -j` prints on a machine.
    pub(crate) fn ip(&self, machine: &str, args: &str) -> Vec<Value> {
        let words: Vec<_> = ["ip", "-j", "-s"].into_iter().chain(args.split(' ')).collect();
        let text = self.run_well(machine, &words);
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
    }

    /// A netdev as `ip -j -s addr` shows it, if it is there.
    pub(crate) fn netdev(&self, machine: &str, name: &str) -> Option<Value> {
        self.ip(machine, "addr show").into_iter().find(|netdev| netdev["ifname"] == name)
    }

    /// Whether a netdev is up with a carrier, and the kernel has taken that up: before, it drops what
    /// is sent.
    pub(crate) fn is_operational(&self, machine: &str, name: &str) -> bool {
        self.netdev(machine, name).is_some_and(|netdev| netdev["operstate"] == "UP")
            && self.has_carrier(machine, name)
    }

    /// Whether a netdev is there and has a carrier.
    pub(crate) fn has_carrier(&self, machine: &str, name: &str) -> bool {
        let netdev = self.netdev(machine, name).unwrap_or_default();
        netdev["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == "LOWER_UP"))
    }

    /// Does something inside a machine, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, machine: &str, f: impl FnOnce() -> T + Send) -> T {
        self.machines[machine].run(f).unwrap()
    }
}

fn end_of(slot: u8) -> (String, String) {
    (format!("board{slot}"), "bl0".to_owned())
}

fn signal_to(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap();
    // It has not been waited for, so the id is still its own.
    kill_process(pid, signal).unwrap();
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            for daemon in self.daemons.keys() {
                let log = self.log(daemon);
                let lines: Vec<_> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(20)..];
                eprintln!("-- log of {daemon}\n{}", tail.join("\n"));
            }
        }
        for process in self.daemons.values() {
            signal_to(process, Signal::TERM);
        }
        let start = Instant::now();
        for process in self.daemons.values_mut() {
            while let Ok(None) = process.try_wait() {
                if start.elapsed() > Duration::from_secs(5) {
                    eprintln!("process {} does not stop: killed", process.id());
                    let _ = process.kill();
                    let _ = process.wait();
                } else {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        self.machines.clear();
        self.traces.remove();
    }
}
