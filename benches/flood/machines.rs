//! One master with three links, two of them to boards of their own; the third slot is left to a board
//! by hand.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{Ping, ping};
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// The slots.
pub(crate) const MEASURED: usize = 0;
pub(crate) const BUSY: usize = 1;
pub(crate) const FLOODS: usize = 2;

/// How long links may take until they carry an echo.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a process has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Dropping it removes all of it.
pub(crate) struct Machines {
    /// The master's, then the boards' by slot, by name.
    names: Vec<String>,
    namespaces: Vec<Namespace>,
    processes: Vec<Child>,
    directory: PathBuf,
}

fn address(slot: usize, host: u8) -> IpAddr {
    [10, 79, u8::try_from(slot).unwrap_or(u8::MAX), host].into()
}

impl Machines {
    pub(crate) fn start(program: &Path) -> Result<Self, Failure> {
        let id = format!("bl-flood-{}", std::process::id());
        let directory = std::env::temp_dir().join(&id);
        fs::create_dir(&directory)?;
        let (names, namespaces, processes) = Default::default();
        let mut machines = Self { names, namespaces, processes, directory };
        for machine in ["master", "measured", "busy"] {
            let name = format!("{id}-{machine}");
            machines.namespaces.push(Namespace::create(&name)?);
            machines.names.push(name);
        }
        let slots = machines.directory.join("slots").to_string_lossy().into_owned();
        machines.spawn(program, &["backplane", "--dir", &slots, "--slots", "3"], None)?;
        let link = |name: &str, slot: usize, host| {
            let (path, address) = (machines.slot(slot), address(slot, host));
            format!(
                "[[link]]\nname = \"{name}\"\ntransport = \"shm:{}\"\naddress = [\"{address}/30\"]\n",
                path.display()
            )
        };
        let master: String = (0..3).map(|slot| link(&format!("t{slot}"), slot, 1)).collect();
        let configs =
            [("master", master), ("agent", link("t0", 0, 2)), ("agent", link("t0", 1, 2))];
        for (machine, (role, links)) in configs.into_iter().enumerate() {
            let control = machines.directory.join(format!("{machine}.sock"));
            let file = machines.directory.join(format!("{machine}.toml"));
            fs::write(&file, format!("control = {control:?}\n{links}"))?;
            let file = file.to_string_lossy().into_owned();
            machines.spawn(program, &[role, "--config", &file], Some(machine))?;
        }
        Ok(machines)
    }

    pub(crate) fn slot(&self, slot: usize) -> PathBuf {
        self.directory.join(format!("slots/slot{slot}.sock"))
    }

    /// Both ends of a link, the master's first: namespace and address.
    pub(crate) fn ends(&self, slot: usize) -> [(&Namespace, IpAddr); 2] {
        [(&self.namespaces[0], address(slot, 1)), (&self.namespaces[1 + slot], address(slot, 2))]
    }

    /// Waits until echoes come back from both boards, and `flooder` is up.
    pub(crate) fn settle(&self, flooder: &dyn Fn() -> bool) -> Result<(), Failure> {
        let (began, stop) = (Instant::now(), AtomicBool::new(false));
        let plan = Ping { count: 1, timeout: Duration::from_millis(300), ..Ping::default() };
        let mut settled = 0;
        while settled < 3 {
            let answers = match settled {
                FLOODS => flooder(),
                slot => {
                    let [(master, _), (_, board)] = self.ends(slot);
                    master.run(|| ping(board, &plan, &stop))??.received > 0
                }
            };
            settled += usize::from(answers);
            if began.elapsed() > SETTLE {
                return Err(format!("link {settled} is not up within 10 s{}", self.logs()).into());
            }
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        program: &Path,
        words: &[&str],
        machine: Option<usize>,
    ) -> Result<(), Failure> {
        let log = File::create(self.directory.join(format!("{}.log", self.processes.len())))?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let netns = machine.map(|machine| self.namespaces[machine].as_fd().try_clone_to_owned());
        self.processes.push(child::spawn(&mut command, netns.transpose()?)?);
        let (socket, began) = (self.slot(2), Instant::now());
        while !socket.exists() && began.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What the processes said, for an error.
    fn logs(&self) -> String {
        let log = |n| fs::read_to_string(self.directory.join(format!("{n}.log"))).ok();
        (0..self.processes.len()).filter_map(log).map(|text| format!("\n{text}")).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
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
