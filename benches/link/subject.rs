//! What is measured: two namespaces, each with a netdev `t0`, and what joins the two.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::ask_status;
use boardlane::daemon::status::{LinkState, Status};
use boardlane::daemon::traffic::{Ping, ping};
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How long a pair of netdevs may take until they carry an echo.
const SETTLE: Duration = Duration::from_secs(10);
/// Says that netdevs to come are without IPv6.
const IPV6_OFF: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
/// How long a process has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// What is built.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) joint: Joint,
    pub(crate) mtu: u16,
}

impl Plan {
    pub(crate) fn links(&self) -> f64 {
        match self.joint {
            Joint::Link { links, .. } => links.into(),
            Joint::Veth | Joint::Bridge => 1.0,
        }
    }
}

/// What joins the two namespaces.
pub(crate) enum Joint {
    /// A veth pair: what the kernel does without user space.
    Veth,
    /// The example `tap_bridge`: two TAPs, and the least work that joins them.
    Bridge,
    /// So many boardlane links of one master and one agent: a backplane, master and agent, each a process.
    /// With lines for the configs of both, and of the agent alone.
    Link { links: u8, both: &'static str, agent: &'static str },
}

/// The programs that join.
pub(crate) struct Programs {
    pub(crate) boardlane: PathBuf,
    pub(crate) bridge: PathBuf,
    /// TCP's congestion control, if not the machine's own.
    pub(crate) congestion: Option<String>,
}

/// Two machines' worth of namespaces, joined in one way. Dropping it removes all of it.
pub(crate) struct Subject {
    pub(crate) plan: &'static Plan,
    /// The master's, then the board's.
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) congestion: Option<String>,
    /// The namespaces' names.
    names: Vec<String>,
    processes: Vec<Child>,
    directory: PathBuf,
}

/// The addresses of both ends of a link.
fn addresses(link: u8) -> [IpAddr; 2] {
    [[10, 79, link, 1].into(), [10, 79, link, 2].into()]
}

impl Subject {
    /// The netdev of both ends, if there are no more links than one.
    pub(crate) const NETDEV: &'static str = "t0";

    /// Builds what the plan says, and waits until it carries an echo.
    pub(crate) fn build(
        plan: &'static Plan,
        programs: &Programs,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let id = format!("bl-bench-{}-{}", std::process::id(), plan.name.replace(' ', "-"));
        let directory = std::env::temp_dir().join(&id);
        fs::create_dir(&directory)?;
        let (namespaces, names, processes) = Default::default();
        let addresses = addresses(0);
        let congestion = programs.congestion.clone();
        let mut subject =
            Self { plan, namespaces, addresses, congestion, names, processes, directory };
        for end in ["master", "board"] {
            let name = format!("{id}-{end}");
            subject.namespaces.push(Namespace::create(&name)?);
            subject.names.push(name);
        }
        for namespace in &subject.namespaces {
            // A netdev's kernel would solicit and report by itself for a minute, in the midst of what is
            // measured. A kernel without IPv6 has no such file.
            let _ = namespace.run(|| fs::write(IPV6_OFF, "1"))?;
        }
        match plan.joint {
            Joint::Veth => subject.veth()?,
            Joint::Bridge => subject.bridge(&programs.bridge)?,
            Joint::Link { links, both, agent } => {
                subject.links(&programs.boardlane, links, [both, &format!("{both}{agent}")])?;
            }
        }
        subject.settle(stop)?;
        Ok(subject)
    }

    fn veth(&self) -> Result<()> {
        let [master, board] = [&self.names[0], &self.names[1]];
        ip(&["-n", master, "link", "add", "t0", "type", "veth", "peer", "t0", "netns", board])?;
        self.address_with_ip()
    }

    fn bridge(&mut self, program: &Path) -> Result<()> {
        let [master, board] = [&self.names[0], &self.names[1]];
        let words = ["--netns-a", master, "--netns-b", board, "t0", "t0"].map(str::to_owned);
        self.start(program, &words, None)?;
        let began = Instant::now();
        while let Err(error) = self.address_with_ip() {
            if began.elapsed() > SETTLE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Starts backplane, master and agent; `keys` are of the latter two.
    fn links(&mut self, program: &Path, links: u8, keys: [&str; 2]) -> Result<()> {
        let slots = self.directory.join("slots").to_string_lossy().into_owned();
        let words = ["backplane", "--dir", &slots, "--slots", &links.to_string()];
        self.start(program, &words.map(str::to_owned), None)?;
        for (end, role) in ["master", "agent"].into_iter().enumerate() {
            let directory = self.directory.join(role);
            fs::create_dir(&directory)?;
            let file = directory.join(format!("{role}.toml"));
            let mut text = format!("control = {:?}\n", self.control(end));
            for link in 0..links {
                text += &format!(
                    "[[link]]\nname = \"t{link}\"\ntransport = \"shm:{slots}/slot{link}.sock\"\n\
                     address = [\"{}/30\"]\nmtu = {}\n{}",
                    addresses(link)[end],
                    self.plan.mtu,
                    keys[end],
                );
            }
            fs::write(&file, text)?;
            let words = [role, "--config", &file.to_string_lossy()].map(str::to_owned);
            self.start(program, &words, Some(end))?;
        }
        Ok(())
    }

    /// The control socket of a link's end.
    fn control(&self, end: usize) -> PathBuf {
        self.directory.join(["master", "agent"][end]).join("control.sock")
    }

    /// What the daemon at an end says of itself, if there is one.
    pub(crate) fn status(&self, end: usize) -> Result<Option<Status>> {
        match self.plan.joint {
            Joint::Link { .. } => Ok(Some(ask_status(&self.control(end))?.1)),
            Joint::Veth | Joint::Bridge => Ok(None),
        }
    }

    /// The processes of a link: backplane, master, agent.
    pub(crate) fn pids(&self) -> Result<[u32; 3]> {
        let pids: Vec<u32> = self.processes.iter().map(Child::id).collect();
        pids.try_into().map_err(|_| format!("{} is no link", self.plan.name).into())
    }

    /// Frames that an end's netdev has received.
    pub(crate) fn received_frames(&self, end: usize) -> Result<u64> {
        let text =
            self.namespaces[end].run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let counters = text.lines().find_map(|line| {
            let (name, counters) = line.split_once(':')?;
            (name.trim() == Self::NETDEV).then_some(counters)
        });
        let frames = counters.and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        frames.ok_or_else(|| format!("{}: no counters of t0", self.plan.name).into())
    }

    /// Waits until echoes come back, and all links are up.
    fn settle(&self, stop: &AtomicBool) -> Result<()> {
        let began = Instant::now();
        let plan = Ping { count: 1, timeout: Duration::from_millis(300), ..Ping::default() };
        let answers = || -> Result<bool> {
            let echoes = self.namespaces[0].run(|| ping(self.addresses[1], &plan, stop))??;
            let all_up =
                |status: Status| status.links.iter().all(|link| link.state == LinkState::Up);
            Ok(echoes.received > 0 && self.status(0)?.is_none_or(all_up))
        };
        while !answers()? {
            if began.elapsed() > SETTLE {
                let name = self.plan.name;
                return Err(format!("{name}: not up within 10 s{}", self.logs()).into());
            }
        }
        Ok(())
    }

    fn address_with_ip(&self) -> Result<()> {
        for (name, address) in self.names.iter().zip(self.addresses) {
            ip(&["-n", name, "addr", "replace", &format!("{address}/30"), "dev", "t0"])?;
            ip(&["-n", name, "link", "set", "t0", "up", "mtu", &self.plan.mtu.to_string()])?;
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
