//! Transports: how an end reaches the window, the other end's doorbell and its own.
//!
//! The *backplane* stands for the PCI bus on one machine: a process with a socket and a piece of
//! shared memory per slot, which speaks the protocol of QEMU's ivshmem-server ([`crate::spec::ivshmem`]).
//! So a slot's client may be a board's agent, a master, or a QEMU guest whose ivshmem-doorbell device
//! shows the memory as a PCI BAR. [`shm`] is the client: the transport `shm:PATH`.
//! [`pci`] is the transport `pci:ADDRESS`: the window is a BAR of a board's function.
//! [`vhost_user`] is the transport `vhost-user:PATH`, in which both ends are each other's only peer.
//!
//! Server and client check the same things, each on its side of the socket: the memory's seals and
//! size (`memfd`), the form of a message (`wire`), how many clients and vectors there may be.

mod attached;
pub mod backplane;
mod error;
#[cfg(any(feature = "pci", feature = "uio"))]
mod looked;
mod mapped;
pub(crate) mod memfd;
#[cfg(feature = "pci")]
pub mod pci;
pub mod shm;
mod slot;
#[cfg(test)]
mod tests;
#[cfg(feature = "uio")]
pub mod uio;
pub mod vhost_user;
mod wire;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat, readlink};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use socket2::{Domain, SockAddr, Socket, Type};

pub use attached::{Attached, Part};
pub use error::{FabricError, Fault, MemoryFault};
#[cfg(any(feature = "pci", feature = "uio"))]
pub use looked::Looked;

/// The least length in bytes of a slot's memory.
pub const MIN_SLOT_LEN: u64 = 1 << 20;
/// The greatest length in bytes of a slot's memory.
pub const MAX_SLOT_LEN: u64 = 1 << 32;
/// Most clients that a slot has at a time.
pub const MAX_CLIENTS: usize = 16;
/// Most doorbell vectors that a client has: one for messages, the others for queue pairs.
pub const MAX_VECTORS: u16 = 32;

/// The window and the driver memory in a slot's memory of `len` bytes, as bus addresses, which on
/// this transport are offsets in it: the first quarter, and the rest.
pub fn regions(len: u64) -> (Range<u64>, Range<u64>) {
    (0..len / 4, len / 4..len)
}

/// Connects to a stream socket, without waiting. What is given does not block.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Whether a descriptor that came from another process is an eventfd. Files, pipes and sockets might take
/// what was meant to ring; an epoll descriptor can keep whoever polls it waiting.
///
/// The kernel is asked for its name, which asks no file system and no path can look like; without `/proc`
/// all that is known is that it has no file type, as an eventfd.
pub fn is_doorbell(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    match readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()) {
        Ok(name) => name.as_bytes() == b"anon_inode:[eventfd]",
        Err(_) => fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Unknown),
    }
}

/// Whether a descriptor is a Unix stream socket: one of another kind may keep whoever sends waiting, though
/// he asks not to be.
pub fn is_channel(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    socket_domain(fd) == Ok(AddressFamily::UNIX) && socket_type(fd) == Ok(SocketType::STREAM)
}

/// Whether a slot's memory may have this length: a BAR is a power of two.
fn is_slot_len(len: u64) -> bool {
    len.is_power_of_two() && (MIN_SLOT_LEN..=MAX_SLOT_LEN).contains(&len)
}
