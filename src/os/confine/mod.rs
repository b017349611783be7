//! What a process gives up for good, once it has what it needs.
//!
//! Theory of operation. A daemon holds frames and messages of machines that may be hostile, so what is
//! taken over through them is to be worth little. Three walls stand around it, each of which the
//! kernel keeps up by itself, and each of which can be left out by name for debugging:
//!
//! * capabilities ([`Part`] says which are kept), with a bounding set that is empty and without a way
//!   to new ones (`no_new_privs`): what a program has that is started here is no more than that;
//! * a seccomp filter: a list of the system calls that a part makes, by number and, where it matters,
//!   by argument. Another call gives ENOSYS: it is not done, and a C library that tries something
//!   newer first goes on with what older kernels have. It does not kill, because lists are made by
//!   looking: a call that a later C library makes in a corner must not end every link of a machine,
//!   and killing would keep nobody out who is not kept out by the refusal;
//! * Landlock: of the file system, the directory of the process's own sockets and notes is left.
//!
//! The kernel keeps these per thread, and a new thread has its maker's: so they are taken on while
//! there is one thread. A thread that moves frames then takes a narrower list and no capability at all
//! ([`worker`]). What a kernel does not have is told, and the rest is taken on without it.

#![allow(unsafe_code)]

mod capabilities;
mod landlock;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")),
    path = "seccomp/none.rs"
)]
mod seccomp;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::thread::{CapabilitySet, set_no_new_privs};

/// What is done to confine; each can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walls {
    /// Capabilities are dropped.
    pub caps: bool,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Files are out of reach.
    pub landlock: bool,
}

impl Walls {
    /// All of them.
    pub const ALL: Self = Self { caps: true, seccomp: true, landlock: true };
    /// None.
    pub const NONE: Self = Self { caps: false, seccomp: false, landlock: false };
}

/// Who is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An agent or a master: rtnetlink requests need CAP_NET_ADMIN. A TAP's own requests need none.
    Control,
    /// The backplane: it needs no capability.
    Backplane,
    /// The broker of an agent or master: what opens TAPs, enters network namespaces (also of a process
    /// that is another user's), connects to sockets, makes them and gives them away, and reads configs
    /// wherever they are. Landlock is
    /// not for it: a process under it may not look at one that is not, as entering that one's network
    /// namespace asks for.
    Broker,
    /// A thread that moves frames: it needs no capability.
    Worker,
}

impl Part {
    fn capabilities(self) -> CapabilitySet {
        match self {
            Self::Control => CapabilitySet::NET_ADMIN,
            Self::Backplane | Self::Worker => CapabilitySet::empty(),
            Self::Broker => {
                CapabilitySet::NET_ADMIN
                    | CapabilitySet::NET_RAW
                    | CapabilitySet::SYS_ADMIN
                    | CapabilitySet::SYS_PTRACE
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::CHOWN
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// What holds now.
    pub holds: Vec<String>,
    /// What could not be had, and why.
    pub lacks: Vec<String>,
}

impl Confined {
    fn take(&mut self, wall: &str, outcome: io::Result<Option<String>>) {
        match outcome {
            Ok(None) => self.holds.push(wall.to_owned()),
            Ok(Some(lack)) => {
                self.holds.push(wall.to_owned());
                self.lacks.push(lack);
            }
            Err(e) => self.lacks.push(format!("{wall}: {e}")),
        }
    }

    /// Writes to the log what there is to say.
    pub fn log(&self) {
        match self.holds.as_slice() {
            [] => tracing::warn!("not confined"),
            holds => tracing::info!("confined by {}", holds.join(", ")),
        }
        for lack in &self.lacks {
            tracing::warn!("confined without {lack}");
        }
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holds {:?}, lacks {:?}", self.holds, self.lacks)
    }
}

const CAPS: u8 = 1;
const SECCOMP: u8 = 2;
/// What workers of this process take on.
static WORKERS: AtomicU8 = AtomicU8::new(0);

/// Confines the calling thread, and with it all that it starts, for good. `dir` is what is left of the
/// file system: files and sockets in it can be made, written and removed.
pub fn process(part: Part, dir: Option<&Path>, walls: Walls) -> Confined {
    let mut confined = Confined::default();
    if walls == Walls::NONE {
        return confined;
    }
    // Without it neither of the others may be had by who is not root.
    if let Err(e) = set_no_new_privs(true) {
        confined.lacks.push(format!("no_new_privs: {e}"));
    }
    if let Some(dir) = dir.filter(|_| walls.landlock) {
        confined.take("Landlock", landlock::leave(dir));
    }
    if walls.caps {
        confined.take("capabilities", capabilities::keep(part.capabilities()));
    }
    if walls.seccomp {
        confined.take("seccomp", seccomp::filter(part).map(|()| None));
    }
    confined
}

/// The version of Landlock's interface, if this kernel has one that is switched on.
pub fn landlock_version() -> Option<u32> {
    landlock::version()
}

/// From now on workers of this process take these on.
pub fn workers(walls: Walls) {
    let bits = u8::from(walls.caps) * CAPS + u8::from(walls.seccomp) * SECCOMP;
    WORKERS.store(bits, Ordering::Relaxed);
}

/// Confines the calling thread as one that moves frames, if this process confines those.
pub fn worker() {
    let bits = WORKERS.load(Ordering::Relaxed);
    let mut confined = Confined::default();
    if bits != 0 {
        // Inherited, except where the process itself is not confined.
        let _ = set_no_new_privs(true);
    }
    if bits & CAPS != 0 {
        confined.take("capabilities", capabilities::keep_of_thread(Part::Worker.capabilities()));
    }
    if bits & SECCOMP != 0 {
        confined.take("seccomp", seccomp::filter(Part::Worker).map(|()| None));
    }
    for lack in confined.lacks {
        tracing::debug!("a worker is confined without {lack}");
    }
}

#[cfg(test)]
mod tests;
