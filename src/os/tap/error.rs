//! What can go wrong with a TAP as a whole; single frames are [`super::Write`]'s matter.

use std::fmt;

use rustix::io::Errno;

/// Why a TAP could not be made, adopted or set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapError {
    /// The name cannot be a netdev's.
    BadName {
        /// The name asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no /dev/net/tun, or no driver behind it.
    NoTun {
        /// What open(2) said.
        errno: Errno,
    },
    /// /dev/net/tun may not be opened.
    Closed {
        /// What open(2) said.
        errno: Errno,
    },
    /// The kernel does not let us make or attach to the TAP.
    Permission {
        /// The TAP's name.
        name: String,
    },
    /// The name to be created is taken.
    NameInUse {
        /// The name asked for.
        name: String,
        /// What bears it.
        by: String,
    },
    /// There is no netdev to adopt.
    Missing {
        /// The name asked for.
        name: String,
    },
    /// The netdev to adopt is not one of ours.
    Foreign {
        /// The name asked for.
        name: String,
        /// What bears it.
        found: String,
        /// What was looked for.
        wanted: String,
    },
    /// Another process makes, adopts or has a netdev of this name.
    Owned {
        /// The TAP's name.
        name: String,
        /// That process, 0 if it is out of sight.
        pid: i32,
    },
    /// The TAP to adopt is held open by another process.
    Busy {
        /// The TAP's name.
        name: String,
        /// How many queues others hold.
        queues: u32,
    },
    /// The kernel kept other flags than those asked for.
    Flags {
        /// The TAP's name.
        name: String,
        /// The flags that TUNGETIFF gave.
        kept: u16,
        /// The flags that TUNSETIFF asked for.
        wanted: u16,
    },
    /// This kernel cannot do it.
    Unsupported {
        /// What it cannot do.
        what: &'static str,
    },
    /// Another failure of a system call.
    Os {
        /// The TAP's name.
        name: String,
        /// The request that failed.
        doing: &'static str,
        /// What it said.
        errno: Errno,
    },
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { name, why } => write!(f, "{name:?} cannot name a netdev: {why}"),
            Self::NoTun { errno } => write!(
                f,
                "/dev/net/tun: {errno}; load the driver with `modprobe tun`, or give the \
                 container this device"
            ),
            Self::Closed { errno } => write!(
                f,
                "/dev/net/tun: {errno}; run as root, or let this user (and this container) \
                 read and write the device"
            ),
            Self::Permission { name } => write!(
                f,
                "TAP {name}: not permitted; it needs CAP_NET_ADMIN in this network namespace"
            ),
            Self::NameInUse { name, by } => {
                write!(f, "TAP {name}: the name is taken by {by}; choose another or remove that")
            }
            Self::Missing { name } => {
                write!(f, "TAP {name}: there is no such netdev in this network namespace")
            }
            Self::Foreign { name, found, wanted } => {
                write!(f, "TAP {name}: found {found}, wanted {wanted}; remove it or rename it")
            }
            Self::Owned { name, pid } => {
                write!(f, "TAP {name}: process {pid} has it; stop that first")
            }
            Self::Busy { name, queues } => write!(
                f,
                "TAP {name}: another process holds it ({queues} queues attached); stop that first"
            ),
            Self::Flags { name, kept, wanted } => write!(
                f,
                "TAP {name}: the kernel kept flags {kept:#06x} of {wanted:#06x}; it lacks virtio-net \
                 headers or multi-queue TAPs"
            ),
            Self::Unsupported { what } => write!(f, "this kernel does not have {what}"),
            Self::Os { name, doing, errno } => write!(f, "TAP {name}: {doing}: {errno}"),
        }
    }
}

impl std::error::Error for TapError {}
