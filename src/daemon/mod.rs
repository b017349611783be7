//! The daemons: what turns the parts below into `boardlane agent`, `master` and `backplane`.
//!
//! [`config`] says what is wanted, [`control`] tells what is, in the words of [`status`].

pub mod config;
pub mod control;
pub mod status;

use std::fmt;

use config::Config;

/// Which end of its links a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The PCI master: the virtio driver.
    Master,
    /// A board: the virtio device.
    Agent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Agent => "agent",
        })
    }
}

/// Runs an agent or a master until it is told to stop.
///
/// # Errors
/// What ended it, in one line.
pub fn run(role: Role, _config: Config) -> Result<(), String> {
    Err(format!("the {role} is not in this build"))
}
