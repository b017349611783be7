//! What can go wrong with netlink, for people.

use std::fmt;
use std::io;

use super::socket::Failure;

/// Why something about a netdev could not be read or done.
#[derive(Debug)]
pub enum NetlinkError {
    /// No netlink socket could be made.
    Socket(io::Error),
    /// No netlink socket could be made in another namespace.
    Namespace(io::Error),
    /// The socket does not serve any more; a new [`Netlink`](super::Netlink) is needed.
    Closed {
        /// What was asked for: `address 10.77.0.1/30 on bl0`.
        what: String,
    },
    /// The kernel's tables changed faster than they could be read.
    Unstable {
        /// What was asked for.
        what: String,
    },
    /// There is no such link.
    NoLink {
        /// Its name.
        name: String,
    },
    /// The kernel refused.
    Refused {
        /// What was asked for.
        what: String,
        /// The errno.
        error: io::Error,
        /// The kernel's own explanation, where it gave one.
        text: Option<String>,
    },
    /// It is nothing that netlink does.
    NotHere {
        /// What was asked for.
        what: String,
    },
    /// Something else is there in its place.
    Conflict {
        /// What was asked for.
        what: String,
        /// What is there.
        with: String,
    },
}

impl NetlinkError {
    /// A failed request for `what`.
    pub(super) fn failed(what: String, failure: Failure) -> Self {
        match failure {
            Failure::Closed => Self::Closed { what },
            Failure::Unstable => Self::Unstable { what },
            Failure::Refused { errno, text } => {
                Self::Refused { what, error: io::Error::from_raw_os_error(errno), text }
            }
        }
    }

    /// As [`failed`](Self::failed), for `map_err`.
    pub(super) fn on(what: impl FnOnce() -> String) -> impl FnOnce(Failure) -> Self {
        |failure| Self::failed(what(), failure)
    }

    /// The errno, where the kernel gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Socket(error) | Self::Namespace(error) | Self::Refused { error, .. } => {
                error.raw_os_error()
            }
            _ => None,
        }
    }
}

/// What a person can do about an errno of rtnetlink.
fn remedy(what: &str, errno: Option<i32>) -> Option<&'static str> {
    Some(match errno? {
        libc::EPERM => "CAP_NET_ADMIN is needed in the namespace of the link",
        libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT
            if what.starts_with("address ") && what.contains(':') =>
        {
            "IPv6 may be off here: see sysctl net.ipv6.conf"
        }
        libc::ENETUNREACH | libc::EHOSTUNREACH => "an address on the link must reach the next hop",
        libc::ENETDOWN => "the link must be up for routes",
        _ => return None,
    })
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(e) => write!(f, "cannot make a netlink socket: {e}"),
            Self::Namespace(e) => {
                write!(f, "cannot make a netlink socket in the network namespace: {e}")
            }
            Self::Closed { what } => write!(f, "{what}: the netlink socket is closed"),
            Self::Unstable { what } => {
                write!(f, "{what}: the kernel's tables changed each time they were read; try again")
            }
            Self::NotHere { what } => write!(f, "{what}: netlink does not set it"),
            Self::NoLink { name } => write!(f, "there is no link {name}"),
            Self::Refused { what, error, text } => {
                write!(f, "{what}: {error}")?;
                if let Some(text) = text {
                    write!(f, ": {text}")?;
                }
                if let Some(remedy) = remedy(what, error.raw_os_error()) {
                    write!(f, " ({remedy})")?;
                }
                Ok(())
            }
            Self::Conflict { what, with } => {
                write!(f, "{what}: {with} is there already; remove it, or choose another")
            }
        }
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(e) | Self::Namespace(e) | Self::Refused { error: e, .. } => Some(e),
            _ => None,
        }
    }
}
