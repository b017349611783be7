//! A connection to whoever is given its other end.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::connection::Connection;

/// A connection, and its other end to be given away; within a tokio runtime with I/O.
///
/// # Errors
/// This process has too many descriptors open, or the socket cannot be watched.
pub fn pair() -> io::Result<(Connection, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((Connection::over(ours)?, theirs))
}
