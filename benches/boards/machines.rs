//! A crate: a backplane, a master with one entry for all slots, and in each slot a board with an agent,
//! each machine a namespace.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::{ask_reload, ask_status};
use boardlane::daemon::reload::Report;
use boardlane::daemon::status::LinkState;
use boardlane::daemon::traffic::{Ping, ping};
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::usage::Usage;

/// How long all links may take.
const SETTLE: Duration = Duration::from_secs(60);
/// How often is looked whether they are up.
const LOOK: Duration = Duration::from_millis(5);
/// How long a process has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Dropping it removes all of it.
pub(crate) struct Crate {
    program: PathBuf,
    boards: u8,
    /// The master's, then the boards'.
    names: Vec<String>,
    namespaces: Vec<Namespace>,
    backplane: Option<Child>,
    /// The master, then the agents.
    daemons: Vec<Option<Child>>,
    others: Vec<Child>,
    directory: PathBuf,
}

impl Crate {
    /// With its namespaces and files; nothing runs yet.
    pub(crate) fn new(program: &Path, boards: u8) -> Result<Self> {
        let id = format!("bl-boards-{}", std::process::id());
        let directory = std::env::temp_dir().join(&id);
        // Daemons read no config again that lies beside their control socket.
        fs::create_dir_all(directory.join("control"))?;
        let (names, namespaces, daemons, others) = Default::default();
        let program = program.to_owned();
        let mut it = Self {
            program,
            boards,
            names,
            namespaces,
            backplane: None,
            daemons,
            others,
            directory,
        };
        for machine in 0..=boards {
            let name = format!("{id}-{machine}");
            it.namespaces.push(Namespace::create(&name)?);
            it.names.push(name);
            it.daemons.push(None);
            if machine > 0 {
                let slot = format!("slot = {}", machine - 1);
                it.configure(
                    machine.into(),
                    &slot,
                    "bl0",
                    "route = [{ to = \"pool\", via = \"peer\" }]",
                )?;
            }
        }
        for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            it.namespaces[0].run(|| fs::write(format!("/proc/sys/net/{file}"), "1"))??;
        }
        it.configure_master("")?;
        Ok(it)
    }

    /// Writes the master's config, with these lines at its end.
    pub(crate) fn configure_master(&self, more: &str) -> Result<()> {
        self.configure(0, &format!("slots = \"0-{}\"", self.boards - 1), "bl{slot}", more)
    }

    fn configure(&self, machine: usize, slots: &str, name: &str, more: &str) -> Result<()> {
        let socket = self.directory.join("slots/slot{slot}.sock");
        let text = format!(
            "control = {:?}\npool = {{ v4 = \"10.77.0.0/16\", v6 = \"fd77::/48\" }}\n[[link]]\n{slots}\n\
             name = {name:?}\ntransport = \"shm:{}\"\n{more}\n",
            self.control(machine),
            socket.display()
        );
        Ok(fs::write(self.directory.join(format!("{machine}.toml")), text)?)
    }

    fn control(&self, machine: usize) -> PathBuf {
        self.directory.join(format!("control/{machine}.sock"))
    }

    /// Starts the backplane, the master and all agents; how long it takes until all links are up.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let (slots, boards) = (self.directory.join("slots").display().to_string(), self.boards);
        let words = ["backplane", "--dir", &slots, "--slots", &boards.to_string()];
        self.backplane = Some(self.spawn(&words.map(str::to_owned), None, "backplane")?);
        (0..=boards).try_for_each(|machine| self.start_daemon(machine.into()))?;
        self.wait_up()?;
        Ok(began.elapsed())
    }

    /// Stops the master and starts it again; how long the latter takes until all links are up.
    pub(crate) fn restart_master(&mut self) -> Result<Duration> {
        if let Some(master) = self.daemons[0].take() {
            end(master);
        }
        let began = Instant::now();
        self.start_daemon(0)?;
        self.wait_up()?;
        Ok(began.elapsed())
    }

    fn start_daemon(&mut self, machine: usize) -> Result<()> {
        let role = if machine == 0 { "master" } else { "agent" };
        let file = self.directory.join(format!("{machine}.toml")).display().to_string();
        let words = [role.to_owned(), "--config".to_owned(), file];
        let daemon = self.spawn(&words, Some(machine), &machine.to_string())?;
        self.daemons[machine] = Some(daemon);
        Ok(())
    }

    fn spawn(&self, words: &[String], machine: Option<usize>, log: &str) -> Result<Child> {
        let log = File::create(self.directory.join(format!("{log}.log")))?;
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let netns = machine.map(|machine| self.namespaces[machine].as_fd().try_clone_to_owned());
        Ok(child::spawn(&mut command, netns.transpose()?)?)
    }

    /// Runs another program on a machine.
    pub(crate) fn run(&self, machine: usize, words: &[&str]) -> Result<Child> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let netns = self.namespaces[machine].as_fd().try_clone_to_owned()?;
        Ok(child::spawn(&mut command, Some(netns))?)
    }

    /// As [`Self::run`], for one that runs until the end.
    pub(crate) fn serve(&mut self, machine: usize, words: &[&str]) -> Result<()> {
        let child = self.run(machine, words)?;
        self.others.push(child);
        Ok(())
    }

    fn wait_up(&self) -> Result<()> {
        let began = Instant::now();
        // Whoever came first is asked once more only if he was not up.
        let mut machine = 0;
        while machine <= usize::from(self.boards) {
            let is_up = ask_status(&self.control(machine)).is_ok_and(|(_, status)| {
                let up = |link: &boardlane::daemon::status::LinkStatus| {
                    link.state == LinkState::Up && link.carrier
                };
                !status.links.is_empty() && status.links.iter().all(up)
            });
            if is_up {
                machine += 1;
            } else if began.elapsed() > SETTLE {
                let log = self.directory.join(format!("{machine}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("machine {machine} is not up in time:\n{log}").into());
            } else {
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Has each board reach the master, and its neighbour by way of it; how long that takes.
    pub(crate) fn ping_all(&self) -> Result<Duration> {
        let (began, stop) = (Instant::now(), AtomicBool::new(false));
        let plan = Ping { count: 1, timeout: Duration::from_millis(200), ..Ping::default() };
        for slot in 0..self.boards {
            let next = (slot + 1) % self.boards;
            for to in [[10, 77, 0, 4 * slot + 1], [10, 77, 0, 4 * next + 2]].map(IpAddr::from) {
                let board = &self.namespaces[1 + usize::from(slot)];
                while board.run(|| ping(to, &plan, &stop))??.received == 0 {
                    if began.elapsed() > SETTLE {
                        return Err(format!("board {slot} has no answer of {to}").into());
                    }
                }
            }
        }
        Ok(began.elapsed())
    }

    /// Has the master read its config again; how long that takes, and what was done.
    pub(crate) fn reload(&self) -> Result<(Duration, Report)> {
        let began = Instant::now();
        let done = ask_reload(&self.control(0))?;
        Ok((began.elapsed(), done))
    }

    /// What the master has used, and what all have.
    pub(crate) fn usage(&self) -> Result<[Usage; 2]> {
        let pids: Vec<u32> = self.daemons.iter().flatten().map(Child::id).collect();
        let master = Usage::of_family(pids[0])?;
        let all = self.backplane.iter().map(Child::id).chain(pids[1..].iter().copied());
        let all = all.into_iter().try_fold(master.clone(), Usage::and_family)?;
        Ok([master, all])
    }
}

fn end(mut process: Child) {
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        // Not reaped yet, so the pid is still this process's.
        let _ = kill_process(pid, Signal::TERM);
    }
    let began = Instant::now();
    while matches!(process.try_wait(), Ok(None)) && began.elapsed() < GRACE {
        thread::sleep(Duration::from_millis(2));
    }
    // Both fail only if it has ended, which is what is wanted.
    let _ = process.kill();
    let _ = process.wait();
}

impl Drop for Crate {
    fn drop(&mut self) {
        let daemons = std::mem::take(&mut self.daemons).into_iter().flatten();
        self.others.drain(..).chain(daemons).chain(self.backplane.take()).for_each(end);
        self.namespaces.clear();
        for name in &self.names {
            if let Err(error) = Namespace::remove(name) {
                eprintln!("{error}");
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
