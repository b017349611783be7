//! What is measured: two namespaces, each with a netdev `t0`, and what joins the two.

use std::error::Error;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{Echoes, Ping, TcpTest, ping, tcp_throughput};
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

/// How long a pair of netdevs may take until they carry an echo.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a process has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Two machines' worth of namespaces, joined in one way. Dropping it removes all of it.
pub(crate) struct Subject {
    /// What joins them.
    pub(crate) name: &'static str,
    /// The namespaces, by name: the master's, then the board's.
    names: Vec<String>,
    namespaces: Vec<Namespace>,
    processes: Vec<Child>,
    directory: PathBuf,
    addresses: [IpAddr; 2],
}

impl Subject {
    /// The network `10.79.NUMBER.0/30` of this process, with nothing between the namespaces yet.
    fn new(name: &'static str, number: u8) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("bl-bench-{}-{name}", std::process::id()));
        fs::create_dir(&directory)?;
        let mut subject = Self {
            name,
            names: Vec::new(),
            namespaces: Vec::new(),
            processes: Vec::new(),
            directory,
            addresses: [[10, 79, number, 1].into(), [10, 79, number, 2].into()],
        };
        for end in ["master", "board"] {
            let name = format!("bl-bench-{}-{name}-{end}", std::process::id());
            subject.namespaces.push(Namespace::create(&name)?);
            subject.names.push(name);
        }
        Ok(subject)
    }

    /// A veth pair: what the kernel does without user space.
    pub(crate) fn veth() -> Result<Self> {
        let subject = Self::new("veth", 1)?;
        let [master, board] = [&subject.names[0], &subject.names[1]];
        ip(&["-n", master, "link", "add", "t0", "type", "veth", "peer", "t0", "netns", board])?;
        subject.address_with_ip()?;
        Ok(subject)
    }

    /// The example `tap_bridge`: two TAPs, and the least work that joins them.
    pub(crate) fn bridge(program: &Path) -> Result<Self> {
        let mut subject = Self::new("bridge", 2)?;
        let [master, board] = [&subject.names[0], &subject.names[1]];
        let words = ["--netns-a", master, "--netns-b", board, "t0", "t0"].map(str::to_owned);
        subject.start(program, &words, None)?;
        let began = Instant::now();
        while let Err(error) = subject.address_with_ip() {
            if began.elapsed() > SETTLE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(subject)
    }

    /// A boardlane link: backplane, master and agent, each a process.
    pub(crate) fn link(program: &Path) -> Result<Self> {
        let mut subject = Self::new("link", 3)?;
        let slots = subject.directory.join("slots");
        let slots = slots.to_string_lossy();
        let words = ["backplane", "--dir", &slots, "--slots", "1"].map(str::to_owned);
        subject.start(program, &words, None)?;
        for (end, role) in ["master", "agent"].into_iter().enumerate() {
            let directory = subject.directory.join(role);
            fs::create_dir(&directory)?;
            let file = directory.join(format!("{role}.toml"));
            let text = format!(
                "control = {:?}\n[[link]]\nname = \"t0\"\ntransport = \"shm:{slots}/slot0.sock\"\n\
                 address = [\"{}/30\"]\n",
                directory.join("control.sock"),
                subject.addresses[end],
            );
            fs::write(&file, text)?;
            let words = [role, "--config", &file.to_string_lossy()].map(str::to_owned);
            subject.start(program, &words, Some(end))?;
        }
        Ok(subject)
    }

    /// Gigabits of TCP payload a second from one end to the other: 0 is the master, 1 the board.
    pub(crate) fn tcp(&self, to: usize, duration: Duration, stop: &AtomicBool) -> Result<f64> {
        let [server, client] = [&self.namespaces[to], &self.namespaces[1 - to]];
        let test = TcpTest { duration, streams: 1 };
        let arrived = tcp_throughput(server, client, self.addresses[to], &test, stop, &mut |_| {})?;
        Ok(arrived.gbit_s())
    }

    /// Echoes from the master to the board, each sent once the last one is back.
    pub(crate) fn echoes(&self, count: u16, stop: &AtomicBool) -> Result<Echoes> {
        let plan = Ping { count, interval: Duration::ZERO, ..Ping::default() };
        Ok(self.namespaces[0].run(|| ping(self.addresses[1], &plan, stop))??)
    }

    /// Waits until echoes come back.
    pub(crate) fn settle(&self, stop: &AtomicBool) -> Result<()> {
        let began = Instant::now();
        let plan = Ping { count: 1, timeout: Duration::from_millis(300), ..Ping::default() };
        while self.namespaces[0].run(|| ping(self.addresses[1], &plan, stop))??.received == 0 {
            if began.elapsed() > SETTLE {
                return Err(format!("{}: no echo within 10 s{}", self.name, self.logs()).into());
            }
        }
        Ok(())
    }

    fn address_with_ip(&self) -> Result<()> {
        for (name, address) in self.names.iter().zip(self.addresses) {
            ip(&["-n", name, "addr", "replace", &format!("{address}/30"), "dev", "t0"])?;
            ip(&["-n", name, "link", "set", "t0", "up"])?;
        }
        Ok(())
    }

    /// Starts a process that ends with this one, in the namespace of one end or in this one.
    fn start(&mut self, program: &Path, words: &[String], end: Option<usize>) -> Result<()> {
        let log = self.directory.join(format!("{}.log", self.processes.len()));
        let log = File::create(log)?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let netns = end.map(|end| self.namespaces[end].as_fd().try_clone_to_owned());
        let netns: Option<OwnedFd> = netns.transpose()?;
        let process = child::spawn(&mut command, netns)
            .map_err(|error| format!("{}: {error}", program.display()))?;
        self.processes.push(process);
        Ok(())
    }

    /// What the processes said, for an error.
    fn logs(&self) -> String {
        let log = |n| fs::read_to_string(self.directory.join(format!("{n}.log"))).ok();
        (0..self.processes.len()).filter_map(log).map(|text| format!("\n{text}")).collect()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Whoever was started last may need the others to end in order.
        for process in self.processes.iter_mut().rev() {
            let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // Not reaped yet, so the pid is still this process's.
                let _ = kill_process(pid, Signal::TERM);
            }
            let began = Instant::now();
            while matches!(process.try_wait(), Ok(None)) && began.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Both fail only if it has ended, which is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
        self.namespaces.clear();
        for name in &self.names {
            if let Err(error) = Namespace::remove(name) {
                eprintln!("{error}");
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output =
        Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), said.trim()).into())
}
