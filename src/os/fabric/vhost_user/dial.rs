//! Connecting to whoever listens for the other end of a vhost-user connection.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::os::fabric::connect;

/// Why there is no connection.
#[derive(Debug)]
pub struct DialError {
    /// The socket.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl DialError {
    /// Whether nobody is there: to find that out costs nobody anything.
    pub fn is_absence(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.error.kind() {
            ErrorKind::NotFound => write!(f, "no vhost-user peer yet: {path} does not exist"),
            ErrorKind::ConnectionRefused => {
                write!(f, "no vhost-user peer: nobody listens on {path}")
            }
            ErrorKind::WouldBlock => write!(f, "others wait for the vhost-user peer at {path}"),
            ErrorKind::PermissionDenied => write!(
                f,
                "no permission to connect to {path}; give this user write access to the socket and \
                 search access to its directories"
            ),
            _ => write!(f, "cannot connect to {path}: {}", self.error),
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Connects to the socket at `path`, without waiting: a peer that is busy is an error.
///
/// # Errors
/// It is not there, or takes nobody now.
pub fn dial(path: &Path) -> Result<OwnedFd, DialError> {
    connect(path).map_err(|error| DialError { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, SockAddr, Socket, Type};

    #[test]
    fn who_is_absent_is_told_from_who_is_busy() {
        let path = std::env::temp_dir().join(format!("bl-dial-{}.sock", std::process::id()));
        let said = |absent| {
            let error = dial(&path).unwrap_err();
            assert_eq!(error.is_absence(), absent, "{error}");
            error.to_string()
        };
        assert!(said(true).ends_with("does not exist"));
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(1).unwrap();
        let mut connected = Vec::new();
        let busy = loop {
            match dial(&path) {
                Ok(socket) => connected.push(socket),
                Err(error) => break error,
            }
            assert!(connected.len() < 100, "its backlog has no end");
        };
        assert!(!busy.is_absence() && !connected.is_empty(), "{busy}");
        assert!(busy.to_string().starts_with("others wait"), "{busy}");
        drop(listener);
        assert!(said(true).contains("nobody listens"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(said(true).contains("nobody listens"));
        std::fs::remove_file(&path).unwrap();
    }
}
