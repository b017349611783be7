//! The control socket: a Unix socket on which a daemon answers.
//!
//! A request is one line of JSON, `{"request":"status"}`, at most 4 KiB; the answer is one line of
//! JSON, `{"error": ..}` for a request that is not understood. A connection may carry several
//! requests, one after the other. Whoever is slow to ask or to read is cut off, and only so many are
//! served at once, so no client holds up the daemon or another client for long.
//!
//! The file belongs to the daemon that listens on it: only its owner may connect (mode 0600 from the
//! first moment on), a file that a dead daemon left is replaced, and a lock on the directory, held
//! while that is looked at, lets only one of two starting daemons win.

pub mod client;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::fs::{FlockOperation, Mode};
use serde::Deserialize;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::status::Status;
use crate::os::log::Log;

/// Longest request, in bytes.
pub const REQUEST_MAX: usize = 4096;
/// At most so many clients are served at once; others wait.
const CLIENTS_MAX: usize = 16;
/// A client has so long for its request, and so long to take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug)]
pub enum ControlError {
    /// Another daemon listens on the path.
    Held(PathBuf),
    /// Something that is no socket stands at the path.
    NotASocket(PathBuf),
    /// The directory stays locked by somebody else.
    Locked(PathBuf),
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
            Self::Locked(path) => {
                write!(f, "the directory of {} stays locked by another process", path.display())
            }
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
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    file: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`, whose directory is made where it is missing. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Another daemon holds the path, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |error| ControlError::Io { path: path.into(), error };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        let _lock = lock(path, parent)?;
        remove_stale(path)?;
        let listener = listen(path).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, path: path.into(), file })
    }

    /// Answers clients until the future is dropped.
    pub async fn serve(&self, status: impl Fn() -> Status) {
        self.serve_within(CLIENT_TIMEOUT, status).await;
    }

    async fn serve_within(&self, limit: Duration, status: impl Fn() -> Status) {
        let (log, mut clients) = (Log::new("control socket"), FuturesUnordered::new());
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => clients.push(talk(stream, limit, &status)),
                    Err(error) => {
                        log.warn(format_args!("a client was not accepted: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(()) = clients.next(), if !clients.is_empty() => {}
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Nobody is left to tell; the next daemon replaces the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Locks the directory `parent` for as long as the result lives.
fn lock(path: &Path, parent: &Path) -> Result<std::fs::File, ControlError> {
    let failed = |error| ControlError::Io { path: path.into(), error };
    let directory = std::fs::File::open(parent).map_err(failed)?;
    // Whoever may read the directory may lock it: no waiting without end.
    for _ in 0..100 {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(ControlError::Locked(path.into()))
}

/// Removes the file of a dead daemon.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |error| ControlError::Io { path: path.into(), error };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.into()));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        // A full backlog means that somebody listens, too.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(ControlError::Held(path.into())),
    }
}

fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file takes the socket's mode (unix(7)), so it is never open to others.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(16)?;
    Ok(OwnedFd::from(socket).into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// What a client may ask.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Status {},
}

/// Serves one client until it goes, is slow, or is not understood.
async fn talk(mut stream: UnixStream, limit: Duration, status: impl Fn() -> Status) {
    let mut buffer = Vec::with_capacity(REQUEST_MAX);
    while let Ok(Ok(Some(line))) = timeout(limit, read_line(&mut stream, &mut buffer)).await {
        let (text, understood) = match line {
            Line::Whole(line) => answer(&line, &status),
            Line::TooLong => (error(&format!("a request has at most {REQUEST_MAX} bytes")), false),
        };
        let sent = timeout(limit, stream.write_all(text.as_bytes())).await;
        if !understood || !matches!(sent, Ok(Ok(()))) {
            return;
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

/// The answer to `line`, and whether the line was understood.
fn answer(line: &[u8], status: impl Fn() -> Status) -> (String, bool) {
    match serde_json::from_slice(line) {
        Ok(Request::Status {}) => match serde_json::to_string(&status()) {
            Ok(text) => (text + "\n", true),
            Err(failure) => (error(&failure.to_string()), false),
        },
        Err(failure) => (error(&format!("request not understood: {failure}")), false),
    }
}

fn error(text: &str) -> String {
    format!("{}\n", serde_json::json!({ "error": text }))
}

#[cfg(test)]
mod tests;
