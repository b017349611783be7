//! The daemons: what turns the parts below into `boardlane agent`, `master` and `backplane`.
//!
//! [`config`] says what is wanted, [`reload`] what another config changes, [`control`] tells what is, in
//! the words of [`status`]. [`demo`] shows it all on one machine, with [`traffic`] of its own. [`clean`]
//! removes what any of it left that was killed.

pub mod clean;
pub mod config;
pub mod control;
pub mod demo;
pub mod identity;
pub mod link_task;
pub mod netdev;
pub mod reload;
pub mod status;
pub mod supervisor;
pub mod traffic;
pub mod worker;

use std::fmt;

pub use supervisor::run;

/// The program's version, as the other end and `status` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

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
