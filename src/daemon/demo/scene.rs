//! What a demo makes in the system, and how it is taken away again: a run directory, network
//! namespaces, processes.
//!
//! Theory of operation. The run directory is also the lock: who holds `flock` on it is the one demo.
//! Before something is made that outlives a killed demo, a line in the directory's journal says so;
//! who gets the lock later removes what the journal of a dead demo names. Processes cannot outlive it
//! (they die with the thread that started them), unless they got away from that: the journal has
//! their pids, and one is killed only if its command line still names the run directory.
//!
//! Invariant: what this scene did not make, it does not remove. [`Scene::dismantle`] does as much as
//! it can and then reports everything; dropping a scene does the same in silence.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::error::Error;
use crate::os::child;
use crate::os::netns::Namespace;

/// How long processes have between SIGTERM and SIGKILL, all together.
const GRACE: Duration = Duration::from_secs(2);
/// How often the lock is tried while another demo is just removing its directory.
const LOCK_TRIES: usize = 50;
/// Lines of a log that an error shows, and the bytes in which they are looked for.
const LOG_TAIL: usize = 5;
const LOG_TAIL_MAX: u64 = 4096;

/// One process of the scene.
#[derive(Debug)]
pub(super) struct Process {
    /// What it is, for people: `agent of board0`.
    pub(super) what: String,
    /// The network namespace it lives in, if not the demo's.
    pub(super) namespace: Option<String>,
    /// Its command line.
    pub(super) command: Vec<String>,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, as far as was noticed.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The last lines of its log, each on a line of its own with `  | ` before it.
    pub(super) fn log_tail(&self) -> String {
        let mut bytes = Vec::new();
        // A log that cannot be read has no last lines.
        let _ = File::open(&self.log).and_then(|mut log| {
            let len = log.metadata()?.len();
            log.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_MAX)))?;
            log.take(LOG_TAIL_MAX).read_to_end(&mut bytes)
        });
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        tail.iter().map(|line| format!("\n  | {line}")).collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.ended.is_none()) {
            // Not reaped yet, so the pid is still this process's; ESRCH cannot be.
            let _ = kill_process(pid, signal);
        }
    }
}

/// All that a demo has made.
#[derive(Debug)]
pub(super) struct Scene {
    directory: PathBuf,
    /// Holds the lock. `None` once dismantled.
    lock: Option<File>,
    namespaces: Vec<(String, Namespace)>,
    processes: Vec<Process>,
}

impl Scene {
    /// Becomes the one demo of `directory`, and removes what a dead one left.
    ///
    /// # Errors
    /// Another demo runs; the directory cannot be made or used; leftovers cannot be removed.
    pub(super) fn claim(directory: &Path) -> Result<Self, Error> {
        let lock = lock(directory)?;
        // Before there is a scene: where this fails, the journal must stay.
        sweep(directory)?;
        let scene = Self {
            lock: Some(lock),
            directory: directory.to_owned(),
            namespaces: Vec::new(),
            processes: Vec::new(),
        };
        scene.note(&format!("demo {}", std::process::id()))?;
        Ok(scene)
    }

    /// Makes a network namespace.
    ///
    /// # Errors
    /// It exists already; the kernel refuses.
    pub(super) fn add_namespace(&mut self, name: &str) -> Result<(), Error> {
        if Namespace::open(name).is_ok() {
            return Err(Error::Occupied(name.to_owned()));
        }
        self.note(&format!("namespace {name}"))?;
        let namespace = Namespace::create(name).map_err(|error| Error::Namespace {
            name: name.to_owned(),
            what: "make it",
            error,
        })?;
        self.namespaces.push((name.to_owned(), namespace));
        Ok(())
    }

    /// The namespace of a name.
    ///
    /// # Errors
    /// It was never made.
    pub(super) fn namespace(&self, name: &str) -> Result<&Namespace, Error> {
        let found = self.namespaces.iter().find(|(known, _)| known == name);
        found.map(|(_, namespace)| namespace).ok_or_else(|| Error::Namespace {
            name: name.to_owned(),
            what: "enter it",
            error: io::ErrorKind::NotFound.into(),
        })
    }

    /// Runs something on a thread inside a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered; what ran failed, `what` saying at which attempt.
    pub(super) fn run_in<T: Send>(
        &self,
        name: &str,
        what: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        let result = self.namespace(name)?.run(work).and_then(|result| result);
        result.map_err(|error| Error::Namespace { name: name.to_owned(), what, error })
    }

    /// Starts a process, in a namespace of the scene if one is named. Its output goes to a log in the
    /// run directory.
    ///
    /// # Errors
    /// The log cannot be made, the namespace cannot be entered, the program does not start.
    pub(super) fn start(
        &mut self,
        what: String,
        namespace: Option<String>,
        program: &Path,
        arguments: &[String],
    ) -> Result<(), Error> {
        let log = self.directory.join(format!("{}.log", what.replace(' ', "-")));
        let file = |path: &Path, error| Error::File(path.to_owned(), error);
        let out = File::create(&log).map_err(|error| file(&log, error))?;
        let err = out.try_clone().map_err(|error| file(&log, error))?;
        let netns = match &namespace {
            Some(name) => self.namespace(name)?.as_fd().try_clone_to_owned().map(Some),
            None => Ok(None),
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(err);
        let child = netns
            .and_then(|netns| child::spawn(&mut command, netns))
            .map_err(|error| Error::Spawn(what.clone(), error))?;
        let pid = child.id();
        let mut words = vec![program.to_string_lossy().into_owned()];
        words.extend_from_slice(arguments);
        self.processes.push(Process { what, namespace, command: words, log, child, ended: None });
        self.note(&format!("process {pid}"))
    }

    /// All processes, in the order they were started.
    pub(super) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The processes that ended since the last call: which and how.
    pub(super) fn newly_ended(&mut self) -> Vec<(String, String)> {
        let mut news = Vec::new();
        for process in self.processes.iter_mut().filter(|process| process.ended.is_none()) {
            if let Ok(Some(status)) = process.child.try_wait() {
                process.ended = Some(status);
                let what = format!("{} (pid {}) ended: {status}", process.what, process.pid());
                news.push((what, process.log_tail()));
            }
        }
        news
    }

    /// Ends the processes, the last started first asked, then removes the namespaces and the run
    /// directory. Returns what could not be done. A second call does nothing.
    pub(super) fn dismantle(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let Some(lock) = self.lock.take() else { return problems };
        for process in self.processes.iter().rev() {
            process.signal(Signal::TERM);
        }
        self.await_ends();
        for process in &self.processes {
            process.signal(Signal::KILL);
        }
        self.await_ends();
        for process in self.processes.iter().filter(|process| !process.has_ended()) {
            problems.push(format!("{} (pid {}) does not die", process.what, process.pid()));
        }
        for (name, namespace) in self.namespaces.drain(..) {
            drop(namespace);
            if let Err(error) = Namespace::remove(&name) {
                problems.push(format!("cannot remove network namespace {name}: {error}"));
            }
        }
        // With leftovers the journal stays, for the next demo to try again.
        if problems.is_empty() {
            if let Err(error) = fs::remove_dir_all(&self.directory) {
                problems.push(format!("cannot remove {}: {error}", self.directory.display()));
            }
        }
        drop(lock);
        problems
    }

    /// Waits until every process has ended, or the grace is over.
    fn await_ends(&mut self) {
        let asked = Instant::now();
        while self.processes.iter().any(|process| !process.has_ended()) && asked.elapsed() < GRACE {
            self.newly_ended();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Adds a line to the journal.
    fn note(&self, line: &str) -> Result<(), Error> {
        let path = journal(&self.directory);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}"))
            .map_err(|error| Error::File(path, error))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.dismantle();
    }
}

fn journal(directory: &Path) -> PathBuf {
    directory.join("journal")
}

/// Takes the lock of a run directory, making it if need be.
fn lock(directory: &Path) -> Result<File, Error> {
    let failed = |error| Error::File(directory.to_owned(), error);
    for _ in 0..LOCK_TRIES {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(directory, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // Just removed by the demo that had it.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed(error.into())),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::Running(owner(directory))),
            Err(error) => return Err(failed(error.into())),
        }
        // Between open and lock the directory may have been removed, and another put in its place.
        let held = file.metadata().map_err(failed)?;
        match fs::symlink_metadata(directory) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(file),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(Error::Running(None))
}

/// The pid of the demo whose journal stands in `directory`.
fn owner(directory: &Path) -> Option<u32> {
    let text = fs::read_to_string(journal(directory)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("demo ")?.parse().ok())
}

/// Removes what a dead demo left in `directory` and elsewhere; with `dry_run`, only looks. Says what;
/// nothing if a demo runs.
///
/// # Errors
/// Why leftovers cannot be removed, in one line.
pub(super) fn clean(directory: &Path, dry_run: bool) -> Result<Vec<String>, String> {
    let lock = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| format!("{}: {error}", directory.display()))?,
    };
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(journal(directory)).unwrap_or_default();
    let namespaces = text.lines().filter_map(|line| line.strip_prefix("namespace "));
    let there = namespaces.map(str::trim).filter(|name| Namespace::open(name).is_ok());
    let mut found: Vec<_> = there.map(|name| format!("network namespace {name}")).collect();
    found.push(format!("directory {}", directory.display()));
    drop(lock);
    if !dry_run {
        match Scene::claim(directory).map(|mut scene| scene.dismantle()) {
            // Somebody was faster.
            Err(Error::Running(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.to_string()),
            Ok(problems) if problems.is_empty() => {}
            Ok(problems) => return Err(problems.join("; ")),
        }
    }
    Ok(found)
}

/// Removes what a dead demo left: the caller holds the lock.
fn sweep(directory: &Path) -> Result<(), Error> {
    let text = fs::read_to_string(journal(directory)).unwrap_or_default();
    let entries = |kind: &'static str| {
        text.lines().filter_map(move |line| line.strip_prefix(kind)).map(str::trim)
    };
    for pid in entries("process ").filter_map(|pid| pid.parse().ok()) {
        end_leftover(pid, directory);
    }
    for name in entries("namespace ") {
        Namespace::remove(name).map_err(|error| Error::Namespace {
            name: name.to_owned(),
            what: "remove what a dead demo left",
            error,
        })?;
    }
    let failed = |error| Error::File(directory.to_owned(), error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let path = entry.path();
        if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .map_err(|error| Error::File(path, error))?;
    }
    Ok(())
}

/// Kills a process of a dead demo, if the pid is still its: the command line names the directory.
fn end_leftover(pid: i32, directory: &Path) {
    let ours = || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*directory.to_string_lossy())
    };
    let start = Instant::now();
    while ours() && start.elapsed() < GRACE {
        if let Some(pid) = Pid::from_raw(pid) {
            // Gone already is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
