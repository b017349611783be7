//! What a machine says of itself: its files below a root, which may be made up, and what only calls tell.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use rustix::system::uname;
use rustix::thread::{CapabilitySet, capabilities};

use super::wanted::Wanted;
use crate::daemon::clean;
use crate::daemon::config::{Config, RUN_DIR};
use crate::daemon::control::client::{ask_all, sockets};
use crate::daemon::status::Status;
use crate::os::confine::landlock_version;
use crate::os::limits::raise_file_limit;
use crate::os::trial::Trial;
use crate::os::vhost_net;

/// A machine as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Machine {
    /// Where its files are, else `/`.
    pub(super) root: PathBuf,
    /// The kernel's release, such as `6.18.5-amd64`.
    pub(super) release: String,
    /// Whether the user is root.
    pub(super) is_root: bool,
    /// What this process may do.
    pub(super) capabilities: CapabilitySet,
    /// How many files a process may have open, if there is a limit.
    pub(super) files: Option<u64>,
    /// The version of Landlock's interface; none where it is not there.
    pub(super) landlock: Option<u32>,
    /// What came of trying things in a namespace of their own, or why that was not to be.
    pub(super) trial: Result<Trial, String>,
    /// Whether vhost-net can be opened, if a link asks for it.
    pub(super) vhost_net: Option<Result<(), String>>,
    /// What the daemons of this machine say, or why they do not answer.
    pub(super) daemons: Vec<(PathBuf, Result<Status, String>)>,
    /// What `boardlane clean` would remove.
    pub(super) leftovers: Vec<String>,
}

impl Machine {
    /// This one. What takes time has bounds of its own: a daemon answers within two seconds or not.
    pub(super) fn of_this(root: PathBuf, wanted: &Wanted) -> Self {
        let is_root = geteuid().is_root();
        let capabilities = capabilities(None).map_or(CapabilitySet::empty(), |own| own.effective);
        let mut paths = sockets(Path::new(RUN_DIR)).unwrap_or_default();
        paths.extend(wanted.configs.iter().map(|(_, _, config)| config.control.clone()));
        paths.sort();
        paths.dedup();
        paths.retain(|path| path.exists());
        let daemons = ask_all(&paths).into_iter().map(|(path, answer)| {
            (path.clone(), answer.map(|(_, status)| status).map_err(|e| e.to_string()))
        });
        let daemons = daemons.collect();
        let configs: Vec<Config> =
            wanted.configs.iter().map(|(_, _, config)| config.clone()).collect();
        let leftovers = clean::clean(&configs, true, true).removed;
        let vhost_net =
            wanted.vhost_net().then(|| vhost_net::open().map(drop).map_err(|e| e.to_string()));
        Self {
            release: uname().release().to_string_lossy().into_owned(),
            is_root,
            capabilities,
            files: raise_file_limit(),
            landlock: landlock_version(),
            vhost_net,
            daemons,
            leftovers,
            // Last: it may take this process where the rest cannot be seen.
            trial: match capabilities.contains(CapabilitySet::SYS_ADMIN) {
                true => Trial::of_root().map_err(|e| format!("a network namespace: {e}")),
                false => Trial::of_user().map_err(|e| e.to_string()),
            },
            root,
        }
    }

    /// A file's path on this machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What is in a file of /proc or /sys, without the end of its line.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim_end().to_owned())
    }

    /// A setting of the kernel, such as `net.ipv4.ip_forward`.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.read(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// The names of the files in a directory; none if it is not there.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The links of the daemons that answer, each with its daemon.
    pub(super) fn daemons(&self) -> impl Iterator<Item = (&Path, &Status)> {
        self.daemons.iter().filter_map(|(path, answer)| Some((&**path, answer.as_ref().ok()?)))
    }
}
