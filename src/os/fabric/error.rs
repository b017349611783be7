//! What can go wrong between a slot's client and its backplane, seen from the client.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{MAX_CLIENTS, MAX_SLOT_LEN, MAX_VECTORS, MIN_SLOT_LEN};

/// Why a slot cannot be had, or was lost.
#[derive(Debug)]
#[non_exhaustive]
pub enum FabricError {
    /// There is nothing at this path yet.
    NoSocket {
        /// The slot's socket.
        path: PathBuf,
    },
    /// A socket is there, but no process serves it.
    NobodyListens {
        /// The slot's socket.
        path: PathBuf,
    },
    /// This user may not connect to it.
    NoPermission {
        /// The slot's socket.
        path: PathBuf,
    },
    /// What is there is no stream socket.
    NotASocket {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path cannot be a socket's address.
    BadPath {
        /// The path that was given.
        path: PathBuf,
    },
    /// Too many others are waiting for the server to take them.
    Busy {
        /// The slot's socket.
        path: PathBuf,
    },
    /// The server closed the connection before it had set it up.
    Refused {
        /// The slot's socket.
        path: PathBuf,
    },
    /// The server did not set up the connection in time.
    Silent {
        /// The slot's socket.
        path: PathBuf,
    },
    /// The server does not keep to the protocol.
    Protocol {
        /// The slot's socket.
        path: PathBuf,
        /// What it did.
        fault: Fault,
    },
    /// The slot's memory cannot be used.
    Memory {
        /// The slot's socket.
        path: PathBuf,
        /// What is wrong with it.
        fault: MemoryFault,
    },
    /// The server closed the connection. Memory and doorbells still work.
    Closed {
        /// The slot's socket.
        path: PathBuf,
    },
    /// Another error of the operating system.
    Os {
        /// The slot's socket.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

impl FabricError {
    /// Whether there is no server: to find that out costs nobody anything.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoSocket { .. } | Self::NobodyListens { .. })
    }

    /// Whether trying again later may help without a change to this end's configuration.
    pub fn can_heal(&self) -> bool {
        !matches!(
            self,
            Self::BadPath { .. } | Self::Memory { fault: MemoryFault::AddressSpace(_), .. }
        )
    }
}

impl fmt::Display for FabricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket { path } => {
                write!(f, "no backplane yet: {} does not exist; start one there", path.display())
            }
            Self::NobodyListens { path } => write!(
                f,
                "no backplane: nobody listens on {}, its server has died; start it again",
                path.display()
            ),
            Self::NoPermission { path } => write!(
                f,
                "no permission to connect to {}; give this user write access to the socket and \
                 search access to its directories",
                path.display()
            ),
            Self::NotASocket { path } => write!(
                f,
                "{} is not a stream socket; give the path of a backplane's slot",
                path.display()
            ),
            Self::BadPath { path } => write!(
                f,
                "{} cannot be a socket's address: 1 to 107 bytes, none of them zero; use a shorter path",
                path.display()
            ),
            Self::Busy { path } => {
                write!(f, "the backplane at {} has too many waiting to connect", path.display())
            }
            Self::Refused { path } => write!(
                f,
                "the server at {} closed the connection at once; a slot takes {MAX_CLIENTS} clients",
                path.display()
            ),
            Self::Silent { path } => write!(
                f,
                "the server at {} does not answer as a backplane does; is it another program's socket?",
                path.display()
            ),
            Self::Protocol { path, fault: fault @ Fault::Version(_) } => write!(
                f,
                "{} is not a backplane's slot: {fault}; give the path of a slot",
                path.display()
            ),
            Self::Protocol { path, fault } => {
                write!(f, "the server at {} breaks the ivshmem protocol: {fault}", path.display())
            }
            Self::Memory { path, fault } => {
                write!(f, "cannot use the memory of {}: {fault}", path.display())
            }
            Self::Closed { path } => {
                write!(f, "the backplane at {} closed the connection", path.display())
            }
            Self::Os { path, error } => write!(f, "connection to {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for FabricError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What a server did against the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The first number is not the version that this end knows.
    Version(i64),
    /// A number that means nothing where it came.
    Number(i64),
    /// This number came without the descriptor that belongs to it.
    NoDescriptor(i64),
    /// This number came with a descriptor, but none belongs to it.
    UnexpectedDescriptor(i64),
    /// More than one descriptor came with one number.
    ManyDescriptors,
    /// Descriptors got lost: more than one was sent, or this process may open no more.
    LostDescriptors,
    /// A doorbell that is not an eventfd.
    NotADoorbell(u16),
    /// The departure of a client that had not joined.
    UnknownPeer(u16),
    /// The departure of this client, which is here.
    OwnDeparture,
    /// More clients than a slot may have.
    TooManyPeers,
    /// More vectors for this client than a client may have.
    TooManyVectors(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Version(n) => write!(f, "the first number is {n}, not protocol version 0"),
            Self::Number(n) => write!(f, "the number {n} is out of place"),
            Self::NoDescriptor(n) => write!(f, "the number {n} came without a descriptor"),
            Self::UnexpectedDescriptor(n) => write!(f, "the number {n} came with a descriptor"),
            Self::ManyDescriptors => write!(f, "more than one descriptor in a message"),
            Self::LostDescriptors => write!(
                f,
                "descriptors got lost; too many were sent, or this process has too many open \
                 (raise its limit of open files)"
            ),
            Self::NotADoorbell(id) => write!(f, "a doorbell of client {id} is not an eventfd"),
            Self::UnknownPeer(id) => write!(f, "client {id} left, but never joined"),
            Self::OwnDeparture => write!(f, "it says that this client has left"),
            Self::TooManyPeers => write!(f, "more than {MAX_CLIENTS} clients"),
            Self::TooManyVectors(id) => {
                write!(f, "client {id} has more than {MAX_VECTORS} vectors")
            }
        }
    }
}

/// What is wrong with a slot's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryFault {
    /// Whoever holds it can shrink it, which would kill every process that has it mapped.
    NotSealed,
    /// Its length in bytes is no slot's.
    Length(u64),
    /// It is larger than this program can address.
    AddressSpace(u64),
    /// A system call failed on it.
    Os(rustix::io::Errno),
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotSealed => write!(
                f,
                "it is not sealed against shrinking, so another client could crash this program; \
                 use boardlane's backplane"
            ),
            Self::Length(len) => write!(
                f,
                "its length of {len} bytes is not a power of two from {MIN_SLOT_LEN} to {MAX_SLOT_LEN}"
            ),
            Self::AddressSpace(len) => write!(
                f,
                "its {len} bytes do not fit into this program's address space; use a smaller window"
            ),
            Self::Os(error) => write!(f, "mapping it failed: {error}"),
        }
    }
}
