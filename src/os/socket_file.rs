//! A Unix socket at a path that one process holds.
//!
//! A lock file beside it lets only one of two processes win, and tells that the socket which a dead one
//! left may be replaced. The lock says that none of ours lives, not that nobody else listens: so whether
//! somebody does is looked at, too.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::access::{self, Access};
use super::lock::{LockError, LockFile};

/// The file of a socket that this process listens on; dropping it removes the file and its lock.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    file: (u64, u64),
    _lock: LockFile,
}

/// Why a path is not to be had.
#[derive(Debug)]
pub enum SocketError {
    /// Another process listens there.
    Held,
    /// Something that is no socket stands there.
    NotASocket,
    /// The system refused.
    Io {
        /// The socket's path, or its lock's.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("another process listens there"),
            Self::NotASocket => f.write_str("what is there is not a socket"),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Held | Self::NotASocket => None,
        }
    }
}

impl SocketFile {
    /// Listens at `path`, in a directory that is there, for those to whom `access` lets. The listener does
    /// not block.
    ///
    /// # Errors
    /// Somebody else holds the path, or the system refuses.
    pub fn bind(path: &Path, access: &Access) -> Result<(Self, UnixListener), SocketError> {
        let failed = |error| SocketError::Io { path: path.into(), error };
        let lock = LockFile::take(&lock_of(path)).map_err(|error| match error {
            LockError::Held { .. } => SocketError::Held,
            LockError::Os { error, .. } => SocketError::Io { path: lock_of(path), error },
        })?;
        remove_stale(path)?;
        let listener = access::listen(path, access).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok((Self { path: path.into(), file, _lock: lock }, listener))
    }

    /// Whether the file is there still, and nobody has put another in its place.
    pub fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            // Nobody is left to tell; the next process replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a dead process.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Io { path: path.into(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NotASocket),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        // One that a dead process gave to somebody else may be closed even to root, with few rights.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied
            ) =>
        {
            fs::remove_file(path).map_err(failed)
        }
        // A full backlog means that somebody listens, too.
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(SocketError::Held),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// The file whose lock tells a live process from what a dead one left.
pub fn lock_of(socket: &Path) -> PathBuf {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("bl-socket-{name}-{}.sock", std::process::id()))
    }

    #[test]
    fn a_path_is_held_by_one_and_free_again_after_it() {
        let path = path("held");
        let bind = || SocketFile::bind(&path, &Access::default());
        let (file, listener) = bind().unwrap();
        assert!(matches!(bind(), Err(SocketError::Held)));
        assert!(file.is_there() && UnixStream::connect(&path).is_ok());
        drop((file, listener));
        assert!(!path.exists() && !lock_of(&path).exists());
        drop(bind().unwrap());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_what_lives_or_is_no_socket_is_not() {
        let path = path("stale");
        let bind = || SocketFile::bind(&path, &Access::default());
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(), Err(SocketError::Held)), "it has no lock, but listens");
        drop(other);
        drop(bind().unwrap());
        fs::write(&path, "").unwrap();
        assert!(matches!(bind(), Err(SocketError::NotASocket)));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_sockets_place_is_not_removed() {
        let path = path("place");
        let (file, _listener) = SocketFile::bind(&path, &Access::default()).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!file.is_there());
        fs::write(&path, "another's").unwrap();
        assert!(!file.is_there());
        drop(file);
        fs::remove_file(&path).expect("it is another's");
    }
}
