//! Daemons of a user without any privilege: root's are `nobody`'s. Also the benches' ([`Site`]).

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::ask_status;
use boardlane::daemon::status::{LinkState, LinkStatus};
use boardlane::os::child;
use rustix::process::geteuid;

const NOBODY: u32 = 65534;
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) => assert!(start.elapsed() < PATIENCE, "{what}: not in time, but {seen}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A user's directory with a copy of the program, and the daemons that run there.
pub(crate) struct Site {
    pub(crate) directory: PathBuf,
    pub(crate) daemons: Vec<(&'static str, Child)>,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("boardlane-ports-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_boardlane"), directory.join("boardlane")).unwrap();
        let run = directory.join("run");
        fs::create_dir(&run).unwrap();
        if geteuid().is_root() {
            for directory in [&directory, &run] {
                chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Self { directory, daemons: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn start(&mut self, daemon: &'static str, keys: &str) {
        let mut command = Command::new(self.path("boardlane"));
        let slots = self.path("slots");
        if daemon == "backplane" {
            command.args([daemon, "--slots", "1", "--dir", &slots]);
        } else {
            let config = self.path(&format!("{daemon}.toml"));
            let control = self.path(&format!("run/{daemon}.sock"));
            let text = format!(
                "control = \"{control}\"\n[[link]]\nname = \"bl0\"\n\
                 transport = \"shm:{slots}/slot0.sock\"\n{keys}\n"
            );
            fs::write(&config, text).unwrap();
            command.args([daemon, "--config", &config]);
        }
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("BOARDLANE_LOG", "warn");
        let process = child::spawn(&mut command, None).unwrap();
        self.daemons.push((daemon, process));
    }

    pub(crate) fn kill(&mut self, daemon: &str) {
        let at = self.daemons.iter().position(|(name, _)| *name == daemon).unwrap();
        let (_, mut process) = self.daemons.remove(at);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn link(&self, daemon: &str) -> Result<LinkStatus, String> {
        let socket = self.directory.join(format!("run/{daemon}.sock"));
        let (_, mut status) = ask_status(&socket).map_err(|e| e.to_string())?;
        Ok(status.links.remove(0))
    }

    pub(crate) fn wait_up(&self, daemon: &str) -> LinkStatus {
        wait(&format!("the {daemon}'s link is up"), || {
            let link = self.link(daemon)?;
            let up = link.state == LinkState::Up && link.carrier;
            if up { Ok(link) } else { Err(format!("{link:?}")) }
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The backplane last: who loses it first tells so.
        for (_, process) in self.daemons.iter_mut().rev() {
            // It may have ended by itself, which the test has seen.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
