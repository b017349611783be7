//! `boardlane clean`: removes what daemons, a backplane or a demo left when they were killed.
//!
//! What is alive is told by what dies with its process: a netdev's owner and the queues attached to it,
//! whoever listens on a socket, the locks of backplane and demo. What is ours is told by the alias of a
//! netdev, the name of a file in a directory of ours, the journal of a demo. All else is not touched.
//!
//! A netdev that a daemon kept when it was stopped is one without a daemon, too, and goes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::config::{Config, LinkConfig, Metrics, Pattern, RUN_DIR, SocketSide, Transport};
use super::control::{ControlError, ControlSocket};
use super::netdev::{self, NOTE_END};
use crate::os::access::Access;
use crate::os::fabric::backplane::{self, BackplaneError};
use crate::os::lock::LockFile;
use crate::os::netns::Namespace;
use crate::os::socket_file::lock_of;
use crate::os::tap::Existing;

/// What a cleaning came to.
#[derive(Debug, Default)]
pub struct Report {
    /// What was removed, or would be, in words such as `netdev bl0`.
    pub removed: Vec<String>,
    /// What could not be removed, or not be looked at, and why.
    pub problems: Vec<String>,
}

/// Removes what the daemons of these configs left; with `machine`, also what is left in this network
/// namespace, in [`RUN_DIR`], and by a demo. With `dry_run`, it only looks. Needs a tokio runtime.
pub fn clean(configs: &[Config], machine: bool, dry_run: bool) -> Report {
    let mut cleaning = Cleaning { dry_run, report: Report::default(), gone: BTreeSet::new() };
    // Netdevs first: as long as one is there, its note is of use.
    cleaning.netdevs(configs, machine);
    cleaning.controls(configs, machine);
    let slot_dirs = configs.iter().flat_map(|config| &config.links).filter_map(slot_dir);
    let slot_dirs = slot_dirs.chain(machine.then(|| RUN_DIR.into()));
    slot_dirs.collect::<BTreeSet<_>>().iter().for_each(|dir| cleaning.slots(dir));
    if machine {
        #[cfg(feature = "demo")]
        match super::demo::clean(&super::demo::Place::default(), dry_run) {
            Ok(removed) => cleaning.report.removed.extend(removed),
            Err(e) => cleaning.report.problems.push(e),
        }
    }
    cleaning.report
}

struct Cleaning {
    dry_run: bool,
    report: Report,
    /// Netdevs that were removed, or would have been.
    gone: BTreeSet<String>,
}

impl Cleaning {
    fn removed(&mut self, what: impl Into<String>) {
        self.report.removed.push(what.into());
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.report.problems.push(what.into());
    }

    fn netdevs(&mut self, configs: &[Config], machine: bool) {
        let mut own = BTreeSet::new();
        if machine {
            match Existing::names() {
                Ok(names) => own.extend(names),
                Err(e) => self.problem(e.to_string()),
            }
        }
        let mut links: Vec<_> = configs.iter().flat_map(|config| config.links.clone()).collect();
        for config in configs {
            match links_of_patterns(config) {
                Ok(found) => links.extend(found),
                Err(e) => self.problem(e.to_string()),
            }
        }
        for link in links {
            match &link.netns {
                None => drop(own.insert(link.name)),
                Some(netns) => match netdev::open_namespace(netns) {
                    Ok(namespace) => self.netdev(&link.name, Some((&namespace, netns.to_string()))),
                    // With a namespace, its netdevs are gone.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => self.problem(e.to_string()),
                },
            }
        }
        own.iter().for_each(|name| self.netdev(name, None));
    }

    fn netdev(&mut self, name: &str, namespace: Option<(&Namespace, String)>) {
        let remove = || netdev::remove_dead(name, self.dry_run);
        let (done, place) = match &namespace {
            None => (Ok(remove()), String::new()),
            Some((namespace, text)) => {
                (namespace.run(remove), format!(" in network namespace {text}"))
            }
        };
        match done {
            Ok(Ok(true)) => {
                self.gone.insert(name.to_owned());
                self.removed(format!("netdev {name}{place}"));
            }
            Ok(Ok(false)) => {}
            Ok(Err(e)) => self.problem(format!("{e}{place}")),
            Err(e) => self.problem(e.to_string()),
        }
    }

    /// Control sockets, and the notes beside them; the sockets of links, which have none.
    fn controls(&mut self, configs: &[Config], machine: bool) {
        let mut all: BTreeSet<PathBuf> = configs.iter().map(|c| c.control.clone()).collect();
        all.extend(configs.iter().flat_map(|config| &config.links).filter_map(listens_at));
        all.extend(configs.iter().filter_map(|config| match &config.metrics {
            Some(Metrics::Unix(path)) => Some(path.clone()),
            _ => None,
        }));
        if machine {
            match names_in(Path::new(RUN_DIR)) {
                Ok(names) => all.extend(names.iter().filter_map(|name| control_in_run_dir(name))),
                Err(e) => self.problem(format!("{RUN_DIR}: {e}")),
            }
        }
        for control in all {
            if let Err(e) = self.control(&control) {
                self.problem(e);
            }
        }
    }

    fn control(&mut self, control: &Path) -> Result<(), String> {
        let failed = |e: io::Error| format!("{}: {e}", control.display());
        let (dir, Some(name)) = (control.parent(), control.file_name()) else { return Ok(()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let is_note = |other: &String| {
            let middle = other.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(NOTE_END));
            middle.is_some_and(|netdev| self.gone.contains(netdev) || !is_there(netdev))
        };
        let dir = dir.unwrap_or(Path::new(""));
        let names = names_in(dir).map_err(failed)?;
        let notes: Vec<_> = names.iter().filter(|name| is_note(name)).collect();
        let socket = is_socket(control);
        let lock = lock_of(control);
        let lock_is_left = LockFile::is_left(&lock);
        let nothing = !socket && notes.is_empty() && !lock_is_left;
        if nothing || socket && !is_dead(control).map_err(failed)? {
            return Ok(());
        }
        if !self.dry_run {
            // Whoever listens is the one daemon of the path. It goes, with the file, when this is done.
            let _held = match ControlSocket::bind(control, &Access::default()) {
                Ok(held) => held,
                Err(ControlError::Held(_)) => return Ok(()),
                Err(e) => return Err(e.to_string()),
            };
            for note in &notes {
                fs::remove_file(dir.join(note)).map_err(failed)?;
            }
        }
        for note in notes {
            self.removed(format!("note {}", dir.join(note).display()));
        }
        if socket {
            self.removed(format!("socket {}", control.display()));
        }
        if lock_is_left {
            self.removed(format!("lock {}", lock.display()));
        }
        Ok(())
    }

    fn slots(&mut self, dir: &Path) {
        match backplane::remove_dead(dir, self.dry_run) {
            Ok(sockets) => {
                sockets.iter().for_each(|s| self.removed(format!("socket {}", s.display())))
            }
            Err(BackplaneError::Running { .. }) => {}
            Err(e) => self.problem(e.to_string()),
        }
    }
}

/// The socket that a link listens on, if it does.
fn listens_at(link: &LinkConfig) -> Option<PathBuf> {
    match &link.transport {
        Transport::VhostUser { path, how: SocketSide::Server, .. } => Some(path.clone()),
        _ => None,
    }
}

/// Links of patterns whose netdevs are there.
fn links_of_patterns(config: &Config) -> io::Result<Vec<LinkConfig>> {
    let mut found = Vec::new();
    for netns in config.patterns.iter().map(Pattern::netns) {
        let names = match netns.map(netdev::open_namespace) {
            None => Existing::names()?,
            Some(Ok(namespace)) => namespace.run(Existing::names)??,
            Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => continue,
            Some(Err(e)) => return Err(e),
        };
        let links = names.iter().filter_map(|name| config.link_named(name));
        found.extend(links.filter(|link| link.netns.as_ref() == netns));
    }
    Ok(found)
}

/// The directory of a link's slot socket.
fn slot_dir(link: &LinkConfig) -> Option<PathBuf> {
    let Transport::Shm(socket) = &link.transport else { return None };
    Some(socket.parent()?.to_owned())
}

/// The control socket that a file in [`RUN_DIR`] is, or is a note of; a slot's socket is none.
fn control_in_run_dir(name: &str) -> Option<PathBuf> {
    const END: &str = ".sock";
    let end = name.find(END)? + END.len();
    let (control, rest) = name.split_at(end);
    let ours = matches!(rest, "" | ".lock") || rest.ends_with(NOTE_END);
    (ours && !backplane::is_slot_socket(control)).then(|| Path::new(RUN_DIR).join(control))
}

/// Whether this network namespace has a netdev of this name that may be ours.
fn is_there(name: &str) -> bool {
    !matches!(Existing::of(name), Ok(None))
}

/// The names of the files in a directory; none if it is not there.
fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Whether nobody listens on a socket.
fn is_dead(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(false),
    }
}
