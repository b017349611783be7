//! The client of the control socket: what `boardlane status`, `probe`, `capture` and `reload` ask by.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::daemon::config::{METRICS_END, RUN_DIR};
use crate::daemon::probe::window::LinkProbe;
use crate::daemon::reload::Report;
use crate::daemon::status::{Status, visible};

/// A daemon has so long to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A daemon has so long to do what its config says anew: links that end may have transfers under way.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A longer answer is no daemon's, in bytes.
const ANSWER_MAX: usize = 16 << 20;

/// Why a daemon's answer is not there.
#[derive(Debug)]
pub enum ClientError {
    /// No socket at the path.
    Missing,
    /// A socket with nobody behind it.
    Dead,
    /// Not allowed to connect.
    Forbidden,
    /// Nothing came in this time.
    Silent(Duration),
    /// The connection ended before the answer did.
    Cut,
    /// The daemon did not understand.
    Refused(String),
    /// The config is wrong, and why: lines for people.
    Config(String),
    /// The answer is not what this version expects.
    Garbled(serde_json::Error),
    /// The answer does not end.
    TooLong,
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such socket: is the daemon running?"),
            Self::Dead => f.write_str("its daemon is gone: start it again, or remove the file"),
            Self::Forbidden => f.write_str(
                "permission denied: run as root or the daemon's user, or have control_mode and \
                 control_owner in its config let you",
            ),
            Self::Silent(limit) => {
                write!(f, "the daemon did not answer within {} s", limit.as_secs())
            }
            Self::Cut => f.write_str("the daemon closed the connection"),
            Self::Refused(error) | Self::Config(error) => {
                write!(f, "the daemon said: {}", error.escape_debug())
            }
            Self::Garbled(error) => {
                let why = visible(&error.to_string());
                write!(f, "the answer is not understood, is the daemon of another version? {why}")
            }
            Self::TooLong => f.write_str("the answer does not end: is this a boardlane daemon?"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::ConnectionRefused => Self::Dead,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Cut,
            _ => Self::Io(error),
        }
    }
}

/// Asks the daemon at `path` for its status: its JSON as it came, and what it means.
///
/// # Errors
/// There is no answer within [`ANSWER_TIMEOUT`], or none that is understood.
pub fn ask_status(path: &Path) -> Result<(String, Status), ClientError> {
    let text = ask(path, r#"{"request":"status"}"#, ANSWER_TIMEOUT)?;
    understand(&text).map(|status| (text, status))
}

/// Asks the daemon at `path` what its link of this name says of window and queues.
///
/// # Errors
/// There is no answer within [`ANSWER_TIMEOUT`], or no such link.
pub fn ask_probe(path: &Path, link: &str) -> Result<LinkProbe, ClientError> {
    let request = serde_json::json!({ "request": "probe", "link": link }).to_string();
    understand(&ask(path, &request, ANSWER_TIMEOUT)?)
}

/// Has the daemon at `path` read its config again; what it did.
///
/// # Errors
/// There is no answer within [`RELOAD_TIMEOUT`], or nothing was changed.
pub fn ask_reload(path: &Path) -> Result<Report, ClientError> {
    understand(&ask(path, r#"{"request":"reload"}"#, RELOAD_TIMEOUT)?)
}

/// What an answer means.
pub(in crate::daemon) fn understand<T: DeserializeOwned>(text: &str) -> Result<T, ClientError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        config: bool,
    }
    serde_json::from_str(text).map_err(|garbled| match serde_json::from_str(text) {
        Ok(Refusal { error, config: true }) => ClientError::Config(error),
        Ok(Refusal { error, config: false }) => ClientError::Refused(error),
        Err(_) => ClientError::Garbled(garbled),
    })
}

/// What it means that a call on a socket with a time limit failed.
fn timed(error: io::Error, limit: Duration) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(limit),
        _ => error.into(),
    }
}

/// Sends the line `request`: the connection by which the answer comes.
pub(in crate::daemon) fn send(
    path: &Path,
    request: &str,
    limit: Duration,
) -> Result<UnixStream, ClientError> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Holds for connecting too, which waits while the daemon's backlog is full.
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?).map_err(|e| timed(e, limit))?;
    let mut stream = UnixStream::from(OwnedFd::from(socket));
    stream.write_all(format!("{request}\n").as_bytes()).map_err(|e| timed(e, limit))?;
    Ok(stream)
}

/// Sends the line `request` and waits for one line, which is given without its end.
pub(super) fn ask(path: &Path, request: &str, limit: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + limit;
    let mut stream = send(path, request, limit)?;
    let mut answer = Vec::new();
    let mut octets = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Silent(limit));
        }
        stream.set_read_timeout(Some(left))?;
        let n = match stream.read(&mut octets) {
            Ok(0) => return Err(ClientError::Cut),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(timed(error, limit)),
        };
        let end = octets[..n].iter().position(|&octet| octet == b'\n');
        answer.extend_from_slice(&octets[..end.unwrap_or(n)]);
        if end.is_some() {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
        if answer.len() > ANSWER_MAX {
            return Err(ClientError::TooLong);
        }
    }
}

/// The control sockets in `directory`, or why there is none.
pub(super) fn daemons(directory: &Path) -> Result<Vec<PathBuf>, String> {
    match sockets(directory) {
        Ok(paths) if paths.is_empty() => {
            Err(format!("no daemon runs: no control socket in {}", directory.display()))
        }
        Ok(paths) => Ok(paths),
        Err(error) => Err(format!("{}: {error}", directory.display())),
    }
}

/// The sockets of those who are asked: `control`, or all in [`RUN_DIR`].
///
/// # Errors
/// There is no daemon.
pub fn asked(control: Option<PathBuf>) -> Result<Vec<PathBuf>, String> {
    control.map_or_else(|| daemons(Path::new(RUN_DIR)), |path| Ok(vec![path]))
}

/// The control sockets in `directory`, sorted; none if it is missing.
pub(in crate::daemon) fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_socket && !is_slot(&name) && !name.ends_with(METRICS_END) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a socket is a backplane's slot, where a connection would take a peer's place.
pub(in crate::daemon) fn is_slot(name: &str) -> bool {
    let number = name.strip_prefix("slot").and_then(|name| name.strip_suffix(".sock"));
    number.is_some_and(|number| number.bytes().all(|octet| octet.is_ascii_digit()))
}

/// A daemon's answer, as it came and as it is meant.
type Answer = Result<(String, Status), ClientError>;

/// Asks all daemons at once.
pub(in crate::daemon) fn ask_all(paths: &[PathBuf]) -> Vec<(&PathBuf, Answer)> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            paths.iter().map(|path| (path, scope.spawn(|| ask_status(path)))).collect();
        let answer = |(path, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| {
            (path, thread.join().unwrap_or(Err(ClientError::Cut)))
        };
        asked.into_iter().map(answer).collect()
    })
}
