//! The control socket: a Unix socket on which a daemon answers.
//!
//! A request is one line of JSON, `{"request":"status"}`, `{"request":"probe","link":NAME}` or
//! `{"request":"reload"}`, at most 4 KiB; the answer is one line of JSON, `{"error": ..}` for a request
//! that is not understood or not followed. A connection may carry several requests, one after the other.
//! `{"request":"capture","link":NAME,"snaplen":N,"drops":BOOL}` is the last one of its connection: with the
//! answer comes the descriptor of the memory that frames are put into, and the capture goes on until
//! either end closes the connection, before which a line `{"error": ..}` may say why.
//! Whoever is slow to ask or to read is cut off, and only so many are served at once, so no client holds
//! up the daemon or another client for long.
//!
//! Owner and mode of the file are the config's before anybody can connect, and say who may ask. What
//! changes something, or shows frames, is done for root, the daemon's user and the file's owner only: who is in the
//! file's group may look, and has places of his own, so that he keeps nobody else out. A lock file beside
//! it lets only one of two daemons win, and tells that the socket which a dead one left may be replaced.

pub mod client;
pub mod report;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinError;
use tokio::time::timeout;

use super::capture::{Begun, Session, Wanted};
use super::probe::window::LinkProbe;
use super::reload::{ReloadError, Report};
use super::status::Status;
use crate::os::access::Access;
use crate::os::broker;
use crate::os::log::Log;
use crate::os::socket_file::{SocketError, SocketFile};

/// Longest request, in bytes.
pub const REQUEST_MAX: usize = 4096;
/// At most so many clients are served at once, of those who may change something and of those who may
/// not: of the former others wait, of the latter others are turned away.
const CLIENTS_MAX: usize = 16;
/// A client has so long for its request, and so long to take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

const MAY_NOT_CHANGE: &str =
    "only root, the user of the daemon and the owner of its socket may change something";
const MAY_NOT_CAPTURE: &str =
    "only root, the user of the daemon and the owner of its socket may see frames";

/// Why there is no control socket.
#[derive(Debug)]
pub enum ControlError {
    /// Another daemon listens on the path.
    Held(PathBuf),
    /// Something that is no socket stands at the path.
    NotASocket(PathBuf),
    /// The system refused.
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(path) => write!(
                f,
                "another daemon holds {}: stop it, or set another `control` in the config",
                path.display()
            ),
            Self::NotASocket(path) => write!(
                f,
                "{} is not a socket: move it away, or set another `control` in the config",
                path.display()
            ),
            Self::Io { path, error } => {
                write!(f, "control socket {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for ControlError {}

/// A control socket that is listened on; dropping it removes the file.
#[derive(Debug)]
pub struct ControlSocket {
    _file: SocketFile,
    listener: UnixListener,
    /// To whom it was given.
    owner: Option<u32>,
}

impl ControlSocket {
    /// Listens at `path`, whose directory is made where it is missing, for those to whom `access` lets.
    /// To be called within a tokio runtime.
    ///
    /// # Errors
    /// Another daemon holds the path, or the system refuses.
    pub fn bind(path: &Path, access: &Access) -> Result<Self, ControlError> {
        let failed = |error| ControlError::Io { path: path.into(), error };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        let (file, listener) = SocketFile::bind(path, access).map_err(|error| match error {
            SocketError::Held => ControlError::Held(path.into()),
            SocketError::NotASocket => ControlError::NotASocket(path.into()),
            SocketError::Io { path, error } => ControlError::Io { path, error },
        })?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { _file: file, listener, owner: access.owner.uid })
    }

    /// Answers clients until the future is dropped: with what `status` says, with what `probe` says of a
    /// link, and, for those who may, with a `capture` and with what came of a `reload`. One that has begun
    /// goes on without its client.
    pub async fn serve<R: Future<Output = Reload>>(
        &self,
        status: impl Fn() -> Status,
        probe: impl Fn(&str) -> Option<LinkProbe>,
        capture: impl Fn(&Wanted) -> Capture,
        reload: impl Fn() -> R,
    ) {
        self.serve_within(CLIENT_TIMEOUT, status, probe, capture, reload).await;
    }

    async fn serve_within<R: Future<Output = Reload>>(
        &self,
        limit: Duration,
        status: impl Fn() -> Status,
        probe: impl Fn(&str) -> Option<LinkProbe>,
        capture: impl Fn(&Wanted) -> Capture,
        reload: impl Fn() -> R,
    ) {
        let (log, mut clients) = (Log::new("control socket"), FuturesUnordered::new());
        // How many are served: those who may only look, and those who may change something.
        let mut served = [0; 2];
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if served[1] < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let may_change = self.may_change(&stream);
                        let served = &mut served[usize::from(may_change)];
                        // Those who may only look cannot keep the others waiting.
                        if *served < CLIENTS_MAX {
                            *served += 1;
                            let says = (&status, &probe, &capture, &reload);
                            let talk = talk(stream, limit, may_change, says);
                            clients.push(talk.map(move |()| may_change));
                        }
                    }
                    Err(error) => {
                        log.warn(format_args!("a client was not accepted: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(may_change) = clients.next(), if !clients.is_empty() => {
                    served[usize::from(may_change)] -= 1;
                }
            }
        }
    }

    /// Whether the client at the other end may change something: the kernel tells who connected
    /// (SO_PEERCRED in unix(7)).
    fn may_change(&self, stream: &UnixStream) -> bool {
        let trusted = [Some(0), Some(geteuid().as_raw()), self.owner];
        stream.peer_cred().is_ok_and(|peer| trusted.contains(&Some(peer.uid())))
    }
}

/// What comes of the wish to capture.
type Capture = Result<(Session, Begun), String>;

/// What comes of the task that reloads.
type Reload = Result<Result<Report, ReloadError>, JoinError>;

/// What a client may ask.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Status {},
    Probe { link: String },
    Capture(Wanted),
    Reload {},
}

/// Serves one client until it goes, is slow, or is not understood.
async fn talk<R: Future<Output = Reload>>(
    mut stream: UnixStream,
    limit: Duration,
    may_change: bool,
    (status, probe, capture, reload): (
        impl Fn() -> Status,
        impl Fn(&str) -> Option<LinkProbe>,
        impl Fn(&Wanted) -> Capture,
        impl Fn() -> R,
    ),
) {
    let mut buffer = Vec::with_capacity(REQUEST_MAX);
    while let Ok(Ok(Some(line))) = timeout(limit, read_line(&mut stream, &mut buffer)).await {
        let answer = match line {
            Line::Whole(line) => match serde_json::from_slice(&line) {
                Ok(Request::Status {}) => Ok(json(&status())),
                Ok(Request::Probe { link }) => Ok(match probe(&link) {
                    Some(said) => json(&said),
                    None => error("there is no such link"),
                }),
                Ok(Request::Capture(_)) if !may_change => Ok(error(MAY_NOT_CAPTURE)),
                Ok(Request::Capture(wanted)) => match capture(&wanted) {
                    Ok((session, begun)) => return show(stream, limit, session, &begun).await,
                    Err(why) => Ok(error(&why)),
                },
                Ok(Request::Reload {}) if !may_change => Ok(error(MAY_NOT_CHANGE)),
                Ok(Request::Reload {}) => Ok(reloaded(reload().await)),
                Err(failure) => Err(format!("request not understood: {failure}")),
            },
            Line::TooLong => Err(format!("a request has at most {REQUEST_MAX} bytes")),
        };
        let text = answer.as_ref().map_or_else(|what| error(what), Clone::clone) + "\n";
        let sent = timeout(limit, stream.write_all(text.as_bytes())).await;
        if answer.is_err() || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Lets a client have its capture until it goes, or is told why it ends.
async fn show(mut stream: UnixStream, limit: Duration, mut session: Session, begun: &Begun) {
    let line = json(begun) + "\n";
    let send = || broker::send(&stream, line.as_bytes(), &[session.file.as_fd()]);
    let sent = stream.async_io(Interest::WRITABLE, send);
    if !matches!(timeout(limit, sent).await, Ok(Ok(()))) {
        return;
    }
    let mut octet = [0];
    tokio::select! {
        // It has nothing more to say.
        _ = stream.read(&mut octet) => {}
        why = session.ended() => {
            let line = error(why) + "\n";
            // Who does not take it sees that the connection is closed.
            let _ = timeout(limit, stream.write_all(line.as_bytes())).await;
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// The next line; what was read beyond it stays in `buffer`. `None` at the end of the stream.
async fn read_line(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> io::Result<Option<Line>> {
    loop {
        if let Some(end) = buffer.iter().position(|&octet| octet == b'\n') {
            let rest = buffer.split_off(end + 1);
            return Ok(Some(Line::Whole(std::mem::replace(buffer, rest))));
        }
        if buffer.len() >= REQUEST_MAX {
            return Ok(Some(Line::TooLong));
        }
        let mut octets = [0; 512];
        let room = octets.len().min(REQUEST_MAX - buffer.len());
        match stream.read(&mut octets[..room]).await? {
            0 => return Ok(None),
            n => buffer.extend_from_slice(&octets[..n]),
        }
    }
}

/// What came of a reload, or why nothing did; `config` says that the file is the reason.
fn reloaded(reload: Reload) -> String {
    match reload.unwrap_or(Err(ReloadError::Ended)) {
        Ok(report) => json(&report),
        Err(e) => json!({ "error": e.to_string(), "config": e.is_config() }).to_string(),
    }
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_else(|failure| error(&failure.to_string()))
}

fn error(text: &str) -> String {
    json!({ "error": text }).to_string()
}

#[cfg(test)]
mod tests;
