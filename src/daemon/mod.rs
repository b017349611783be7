//! The daemons: what turns the parts below into `boardlane agent`, `master` and `backplane`.
//!
//! A daemon confines itself once it runs; its [`broker`] then opens things for it. [`config`] says what is
//! wanted, [`functions`] what is there of it, [`reload`] what another config changes, [`control`] tells what
//! is, in the words of [`status`].
//! [`demo`] shows it all on one machine, with [`traffic`] of its own. [`clean`] removes what any of it left
//! that was killed. [`probe`] says what stands in a window, [`capture`] shows what passes, [`doctor`] says what
//! a machine lacks, [`service`] to systemd that all is well.

pub mod broker;
pub mod capture;
pub mod clean;
mod columns;
pub mod config;
pub mod control;
pub mod counts;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "doctor")]
pub mod doctor;
#[cfg_attr(not(feature = "pci"), path = "functions/none.rs")]
pub mod functions;
pub mod identity;
mod interrupt;
pub mod link_task;
#[cfg_attr(not(feature = "metrics"), path = "metrics/none.rs")]
pub mod metrics;
pub mod namespaces;
pub mod netdev;
pub mod probe;
pub mod reload;
pub mod service;
pub mod status;
pub mod supervisor;
#[cfg(feature = "demo")]
pub mod traffic;
pub mod worker;

use std::fmt;

use crate::os::confine::Walls;
pub use supervisor::{Failure, run};

/// The program's version, as the other end and `status` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How a daemon is confined: all of it, unless names say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confine {
    /// What the kernel keeps up.
    pub walls: Walls,
    /// Whether what a confined daemon cannot do is done by a process of its own. Otherwise the daemon
    /// does it, and none of the walls can stand around it, but around its workers only.
    pub broker: bool,
}

impl Confine {
    /// What can be left out, by name.
    pub const NAMES: [&str; 4] = ["caps", "seccomp", "landlock", "broker"];

    /// All but what is named.
    pub fn without(off: &[String]) -> Self {
        let on = |name: &str| !off.iter().any(|off| off == name);
        let walls = Walls { caps: on("caps"), seccomp: on("seccomp"), landlock: on("landlock") };
        Self { walls, broker: on("broker") }
    }

    /// The names of what is left out.
    pub fn off(self) -> Vec<&'static str> {
        let Walls { caps, seccomp, landlock } = self.walls;
        let on = [caps, seccomp, landlock, self.broker];
        Self::NAMES.into_iter().zip(on).filter(|(_, on)| !on).map(|(name, _)| name).collect()
    }
}

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
