//! A directory of a user without privilege, and the agent that runs there; what it holds of the system.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::ask_status;
use boardlane::daemon::status::LinkStatus;
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
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory with an agent whose links, `bl0` and so on, listen for front-ends and echo.
pub(crate) struct Site {
    directory: PathBuf,
    agent: Option<Child>,
}

impl Site {
    pub(crate) fn new(name: &str, links: usize, keys: &str) -> Self {
        let name = format!("boardlane-vhost-user-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_boardlane"), directory.join("boardlane")).unwrap();
        if geteuid().is_root() {
            chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut site = Self { directory, agent: None };
        let mut text = format!("control = \"{}\"\n", site.path("agent.sock"));
        for link in 0..links {
            let socket = site.path(&format!("bl{link}.sock"));
            text += &format!("[[link]]\nname = \"bl{link}\"\nport = \"echo\"\n{keys}\n");
            text += &format!("transport = \"vhost-user:{socket}\"\n");
        }
        fs::write(site.path("agent.toml"), text).unwrap();
        site.start();
        site
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(self.path("boardlane"));
        command.args(["agent", "--config", &self.path("agent.toml")]);
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("BOARDLANE_LOG", "error");
        self.agent = Some(child::spawn(&mut command, None).unwrap());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Fails if the agent is not the process that was started last.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.agent.as_mut().unwrap().try_wait().unwrap();
        assert_eq!(ended, None, "the agent has ended");
    }

    pub(crate) fn link(&self, link: usize) -> Result<LinkStatus, String> {
        let (_, mut status) =
            ask_status(&self.directory.join("agent.sock")).map_err(|e| e.to_string())?;
        Ok(status.links.swap_remove(link))
    }

    /// Waits until the link's reason says this.
    pub(crate) fn wait_reason(&self, link: usize, part: &str) {
        wait(&format!("the status says {part:?}"), || {
            let reason = self.link(link)?.reason.unwrap_or_default();
            if reason.contains(part) { Ok(()) } else { Err(reason) }
        });
    }

    /// A connection to a link, which may have to wait until somebody listens, and until it is served.
    pub(crate) fn connect(&self, link: usize) -> UnixStream {
        let path = self.directory.join(format!("bl{link}.sock"));
        let socket = wait("a connection", || UnixStream::connect(&path).map_err(|e| e.to_string()));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended by itself, which the test has seen.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The allocator's arenas grow and are given back by parts, each a mapping.
const SPARE_MAPPINGS: usize = 4;
const SPARE_KIB: usize = 512;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) mappings: usize,
    /// Private memory in KiB.
    pub(crate) anonymous: usize,
}

impl Held {
    pub(crate) fn by(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let status = read("status");
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: number("Threads:"),
            mappings: read("maps").lines().count(),
            anonymous: number("RssAnon:"),
        }
    }

    /// Fails if a process holds more now, and still does after a while: a control connection takes its
    /// time to be closed. Private memory may be somewhat more, as the allocator keeps what was freed, by
    /// thread and in pieces: by 5 KiB for each of 100 connections. The buffers of one have 200.
    pub(crate) fn assert_kept(&self, pid: u32) {
        wait(&format!("process {pid}, which held {self:?}, holds no more"), || {
            let after = Self::by(pid);
            let kept = after.descriptors <= self.descriptors
                && after.threads <= self.threads
                && after.mappings <= self.mappings + SPARE_MAPPINGS
                && after.anonymous <= self.anonymous + SPARE_KIB;
            if kept { Ok(()) } else { Err(format!("{after:?}")) }
        });
    }
}
