//! Why a demo did not come to its end.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::os::userns::Refused;

/// Why a demo did not come to its end. The message is one line that says what to do, and the tail of
/// a daemon's log where one explains it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An option's value that this version does not do.
    Usage(String),
    /// Not root, and no user namespace to be root in.
    NoNamespaces(Refused),
    /// `/dev/net/tun` does not open.
    NoTun(io::Error),
    /// Signals cannot be caught.
    Signals(io::Error),
    /// Another demo holds the lock; its pid, where known.
    Running(Option<u32>),
    /// A namespace of a name that the demo needs is there already, and is not a dead demo's.
    Occupied(String),
    /// Doing something to a network namespace failed.
    Namespace {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What came of it.
        error: io::Error,
    },
    /// A file or directory of the demo could not be made, read or removed.
    File(PathBuf, io::Error),
    /// A process could not be started.
    Spawn(String, io::Error),
    /// A process ended too early.
    Ended {
        /// Which one, and how it ended.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// Links did not come up in time.
    Down {
        /// Which ones, and why.
        what: String,
        /// The last lines of a log.
        log: String,
    },
    /// A measurement could not be made.
    Measure(String, io::Error),
    /// Standard output is gone.
    Output(io::Error),
    /// A signal asked for the end.
    Interrupted,
}

impl Error {
    /// 2 for an option, 1 for all that happens at run time.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::NoNamespaces(refused) => write!(
                f,
                "{refused}; or run the demo as root (in a container, with CAP_SYS_ADMIN and \
                 CAP_NET_ADMIN)"
            ),
            Self::NoTun(error) => {
                write!(f, "/dev/net/tun: {error}: ")?;
                f.write_str(match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "as root give it its usual mode, `chmod 666 /dev/net/tun` (in a container, \
                         give that the device), or run the demo as root"
                    }
                    _ => {
                        "the demo needs a kernel with TUN (CONFIG_TUN, `modprobe tun`); give a \
                         container the device"
                    }
                })
            }
            Self::Signals(error) => write!(f, "cannot catch signals: {error}"),
            Self::Running(Some(pid)) => {
                write!(f, "another demo is running (pid {pid}): one at a time")
            }
            Self::Running(None) => f.write_str("another demo is running: one at a time"),
            Self::Occupied(name) => write!(
                f,
                "network namespace {name} exists and is not a demo's: `ip netns del {name}` removes it"
            ),
            Self::Namespace { name, what, error } => {
                write!(f, "network namespace {name}: cannot {what}: {error}")?;
                match error.kind() {
                    // Only /proc/sys is ever written there.
                    io::ErrorKind::ReadOnlyFilesystem => f.write_str(
                        "; a container's /proc/sys can be written with \
                         `--security-opt systempaths=unconfined` (podman: `unmask=ALL`)",
                    ),
                    _ => Ok(()),
                }
            }
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Spawn(what, error) => write!(f, "cannot start {what}: {error}"),
            Self::Ended { what, log } | Self::Down { what, log } => write!(f, "{what}{log}"),
            Self::Measure(what, error) => write!(f, "cannot measure {what}: {error}"),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoNamespaces(refused) => Some(refused),
            Self::NoTun(error)
            | Self::Signals(error)
            | Self::Namespace { error, .. }
            | Self::File(_, error)
            | Self::Spawn(_, error)
            | Self::Measure(_, error)
            | Self::Output(error) => Some(error),
            _ => None,
        }
    }
}
