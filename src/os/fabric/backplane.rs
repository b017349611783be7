//! The backplane: slots for boards and masters to meet in, as `boardlane backplane` serves them.
//!
//! A directory holds the sockets `slot0.sock`, `slot1.sock`, … and the file `.lock`, which its server
//! keeps locked. The lock tells a live server from a dead one's leftovers: sockets are replaced only
//! under the lock, and only if nobody listens on them. Both are removed when the server stops.
//!
//! A slot's memory lives as long as the server or a client holds it: clients go on without a server,
//! and a new server makes new memory.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::slot::SlotServer;
use super::{MAX_CLIENTS, MAX_SLOT_LEN, MAX_VECTORS, MIN_SLOT_LEN, is_slot_len, memfd};
use crate::os::access::{self, Access};
use crate::os::limits::raise_file_limit;
use crate::os::lock::{LockError, LockFile};

/// Most slots of a backplane.
pub const MAX_SLOTS: u16 = 256;

/// What a backplane serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackplaneConfig {
    /// The directory of the sockets; made if it is missing.
    pub dir: PathBuf,
    /// How many slots there are, 1 to [`MAX_SLOTS`].
    pub slots: u16,
    /// Length in bytes of each slot's memory: a power of two, [`MIN_SLOT_LEN`] to [`MAX_SLOT_LEN`].
    pub slot_len: u64,
    /// Doorbell vectors of each client, 1 to [`MAX_VECTORS`].
    pub vectors: u16,
    /// Who may connect to a slot.
    pub access: Access,
}

impl BackplaneConfig {
    /// Whether all values are in their ranges.
    pub fn check(&self) -> Result<(), BackplaneError> {
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            return Err(BackplaneError::Slots(self.slots));
        }
        if !(1..=MAX_VECTORS).contains(&self.vectors) {
            return Err(BackplaneError::Vectors(self.vectors));
        }
        if !is_slot_len(self.slot_len) {
            return Err(BackplaneError::SlotLen(self.slot_len));
        }
        Ok(())
    }

    /// The socket of a slot.
    pub fn socket(&self, slot: u16) -> PathBuf {
        self.dir.join(format!("slot{slot}.sock"))
    }

    /// Most descriptors that serving it takes.
    fn descriptors(&self) -> u64 {
        let per_client = 1 + u64::from(self.vectors);
        u64::from(self.slots) * (2 + MAX_CLIENTS as u64 * per_client) + 32
    }
}

/// Why a backplane cannot be served.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackplaneError {
    /// A number of slots out of range.
    Slots(u16),
    /// A number of vectors out of range.
    Vectors(u16),
    /// A length of a slot's memory, in bytes, that is no power of two or out of range.
    SlotLen(u64),
    /// Another backplane serves the directory.
    Running {
        /// The directory.
        dir: PathBuf,
        /// What the other one wrote about itself: its process id.
        pid: String,
    },
    /// Another program listens on a slot's socket.
    InUse(PathBuf),
    /// What is in a socket's place is not a socket, and is left alone.
    NotASocket(PathBuf),
    /// The operating system refused something.
    Os {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

impl BackplaneError {
    /// Whether the configuration is at fault, rather than the state of the system.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Slots(_) | Self::Vectors(_) | Self::SlotLen(_))
    }
}

impl fmt::Display for BackplaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots(n) => write!(f, "{n} slots; a backplane has 1 to {MAX_SLOTS}"),
            Self::Vectors(n) => write!(f, "{n} vectors; a client has 1 to {MAX_VECTORS}"),
            Self::SlotLen(len) => write!(
                f,
                "a window of {len} bytes; it must be a power of two from {MIN_SLOT_LEN} (1M) to \
                 {MAX_SLOT_LEN} (4G)"
            ),
            Self::Running { dir, pid } => write!(
                f,
                "another backplane (process {pid}) serves {}; stop it, or use another directory",
                dir.display()
            ),
            Self::InUse(path) => write!(
                f,
                "another program listens on {}; stop it, or use another directory",
                path.display()
            ),
            Self::NotASocket(path) => write!(
                f,
                "{} is in the way and is not a socket; move it, or use another directory",
                path.display()
            ),
            Self::Os { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for BackplaneError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// An error of the operating system in doing something with a file.
fn os<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> BackplaneError {
    let path = path.to_owned();
    move |error| BackplaneError::Os { doing, path, error: error.into() }
}

/// Serves a backplane until `shutdown` is ready. Runs on any tokio runtime with I/O and time.
pub async fn run(
    config: &BackplaneConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BackplaneError> {
    Backplane::open(config)?.serve(shutdown).await;
    Ok(())
}

/// A backplane whose sockets are there: clients can connect, and are served by [`Self::serve`].
#[derive(Debug)]
pub struct Backplane {
    pub(super) slots: Vec<SlotServer>,
    files: Files,
}

impl Backplane {
    /// Makes the sockets and the slots' memory. Also raises this process's limit of open files to
    /// what it may: each client costs a descriptor per vector and one more, and the limit bounds the
    /// descriptors that are under way to clients, too.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn open(config: &BackplaneConfig) -> Result<Self, BackplaneError> {
        config.check()?;
        make_room_for(config.descriptors());
        fs::create_dir_all(&config.dir).map_err(os("make the directory", &config.dir))?;
        let mut files = Files::lock(&config.dir)?;
        let mut slots = Vec::new();
        for number in 0..config.slots {
            let path = config.socket(number);
            remove_stale(&path)?;
            let listener = access::listen(&path, &config.access).map_err(os("listen on", &path))?;
            files.sockets.push(path.clone());
            let listener = UnixListener::from_std(listener).map_err(os("listen on", &path))?;
            let memory = memfd::create(&format!("boardlane-slot{number}"), config.slot_len)
                .map_err(os("make the memory of", &path))?;
            slots.push(SlotServer::new(number, listener, memory, config.vectors));
        }
        info!(dir = %config.dir.display(), slots = config.slots, bytes = config.slot_len,
            vectors = config.vectors, "backplane is ready");
        Ok(Self { slots, files })
    }

    /// Serves until `shutdown` is ready; then removes the sockets and closes all connections.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { slots, files } = self;
        let mut tasks = JoinSet::new();
        for slot in slots {
            tasks.spawn(slot.serve());
        }
        shutdown.await;
        drop(files);
        tasks.shutdown().await;
        info!("backplane has stopped");
    }
}

/// The sockets and the lock, removed on drop: the lock is the last.
#[derive(Debug)]
struct Files {
    sockets: Vec<PathBuf>,
    _lock: LockFile,
}

impl Files {
    /// Takes the directory's lock, or says who has it.
    fn lock(dir: &Path) -> Result<Self, BackplaneError> {
        let path = dir.join(".lock");
        let lock = LockFile::take(&path).map_err(|error| match error {
            LockError::Held { pid } => BackplaneError::Running { dir: dir.to_owned(), pid },
            LockError::Os { doing, error } => BackplaneError::Os { doing, path, error },
        })?;
        Ok(Self { sockets: Vec::new(), _lock: lock })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.sockets {
            if let Err(error) = fs::remove_file(path) {
                warn!(path = %path.display(), %error, "cannot remove the file");
            }
        }
    }
}

/// Whether a file of this name is a slot's socket.
pub fn is_slot_socket(name: &str) -> bool {
    let number = name.strip_prefix("slot").and_then(|rest| rest.strip_suffix(".sock"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|octet| octet.is_ascii_digit()))
}

/// Removes the sockets and the lock in `dir` that a backplane left; with `dry_run`, only looks. Says
/// which.
///
/// # Errors
/// [`BackplaneError::Running`] if one serves the directory; or what cannot be removed.
pub fn remove_dead(dir: &Path, dry_run: bool) -> Result<Vec<PathBuf>, BackplaneError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(os("read", dir))?,
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut found: Vec<_> =
        names.filter(|name| is_slot_socket(name)).map(|n| dir.join(n)).collect();
    found.sort();
    let lock = dir.join(".lock");
    let lock_is_left = LockFile::is_left(&lock);
    if found.is_empty() && !lock_is_left {
        return Ok(found);
    }
    let _files = if dry_run { None } else { Some(Files::lock(dir)?) };
    // One that somebody else listens on is not ours, whatever its name.
    found.retain(|path| is_stale(path).unwrap_or(false));
    if !dry_run {
        found.iter().try_for_each(|path| remove_stale(path))?;
    }
    if lock_is_left {
        found.push(lock);
    }
    Ok(found)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), BackplaneError> {
    match is_stale(path)? {
        true => fs::remove_file(path).map_err(os("remove the stale", path)),
        false => Ok(()),
    }
}

/// Whether nobody listens on a socket; false if there is none.
fn is_stale(path: &Path) -> Result<bool, BackplaneError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(os("look at", path)(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BackplaneError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(os("connect to", path))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(os("connect to", path))?;
    match connect(&probe, &address) {
        // The lock is ours, so one that has been given to somebody else is a dead backplane's.
        Err(Errno::CONNREFUSED | Errno::ACCESS) => Ok(true),
        // Connected, or too many wait for it, or of another type: somebody has it.
        _ => Err(BackplaneError::InUse(path.to_owned())),
    }
}

/// Raises the soft limit of open files to the hard one, and says so if that is too little.
fn make_room_for(needed: u64) {
    if let Some(now) = raise_file_limit().filter(|now| *now < needed) {
        warn!(limit = now, needed, "the limit of open files is too low for all clients at a time");
    }
}
