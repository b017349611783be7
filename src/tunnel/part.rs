//! The two parts of a window's header: what an end says of itself, and why two ends do not meet.

use std::fmt;
use std::time::Duration;

use super::fifo::FifoError;
use crate::memory::View;
use crate::spec::window as w;

/// Which end of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The PCI master: the virtio driver.
    Driver,
    /// The board: the virtio device.
    Device,
}

impl Role {
    pub(super) fn own_part(self) -> usize {
        match self {
            Self::Driver => w::DRIVER_PART,
            Self::Device => w::DEVICE_PART,
        }
    }

    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Driver => Self::Device,
            Self::Device => Self::Driver,
        }
    }

    /// What people call this end.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "master",
            Self::Device => "board",
        }
    }
}

/// How two ends lay out the window, and so how they find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Our own, with a header and two mailboxes (`spec::window`).
    #[default]
    Boardlane,
    /// virtio-msg's "AMP over PCI", two queues for messages (`spec::amp_pci`).
    AmpPci,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boardlane => "boardlane",
            Self::AmpPci => "amp-pci",
        })
    }
}

/// One entry of the memory table that the driver end writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    /// `spec::window::MEMORY_WINDOW` or `MEMORY_DRIVER`.
    pub kind: u32,
    /// First bus address.
    pub bus_addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What this end says of itself.
#[derive(Clone, Debug)]
pub struct Params {
    /// Which end this is.
    pub role: Role,
    /// The window's bus address.
    pub window_addr: u64,
    /// The window's length in bytes.
    pub window_len: u32,
    /// Our id on the transport.
    pub owner: u32,
    /// Vectors that we listen on; 0: we poll.
    pub vectors: u32,
    /// Bus address of our mailbox, which has [`w::SLOTS`] slots.
    pub mailbox: u64,
    /// Driver: bus address of our mailbox where the device's CPU does not reach the first one.
    pub window_mailbox: u64,
    /// Device: our CPU does not reach driver memory.
    pub dma_only: bool,
    /// Driver: the memory table.
    pub table: Vec<MemoryEntry>,
    /// Driver: the slot number.
    pub slot: u32,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// A heartbeat that stands still for this long means a dead peer.
    pub dead_after: Duration,
}

/// What is known of the other end once a session is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its id on the transport.
    pub owner: u32,
    /// Vectors that it listens on.
    pub vectors: u32,
    /// It can ring nobody.
    pub mute: bool,
    /// Its epoch.
    pub epoch: u32,
    /// The slot number, if the driver end wrote it.
    pub slot: u32,
    /// The device's CPU does not reach driver memory.
    pub dma_only: bool,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Our own claim is not settled yet.
    Claiming,
    /// Another agent or master owns this end of the slot.
    Held(Role, u32),
    /// The device end has not written its header.
    NoMagic,
    /// The header has another layout version.
    Version(u32),
    /// The header says another window length than the transport.
    WindowLen(u64),
    /// The memory table has an entry that the transport cannot reach.
    Table(MemoryEntry),
    /// The other end is not there, or not ready.
    NotReady(Role),
    /// The other end left in an orderly way.
    Shutdown(Role),
    /// The other end started anew.
    Restarted(Role),
    /// The transport said that the other end is gone.
    Gone(Role),
    /// The other end's heartbeat stands still.
    Silent(Role),
    /// The window reads as all ones: the bus or the board is dead.
    AllOnes,
    /// Someone else took our part.
    Stolen(Role, u32),
    /// The other end's mailbox cannot be used.
    Fifo(FifoError),
    /// On a bus without heartbeats: no message has come for so many seconds.
    Mute(Role, u32),
    /// On a bus of messages: there is no device 0.
    NoDevice,
    /// On a bus of messages: the indices that this end alone writes have changed.
    Indices(Role),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claiming => write!(f, "claiming the slot"),
            Self::Held(role, id) => {
                write!(f, "slot is held by another {} (peer {id})", daemon(*role))
            }
            Self::NoMagic => write!(f, "waiting for board: window has no magic"),
            Self::Version(v) => write!(
                f,
                "window has layout version {v}, this program has {}: upgrade the older end",
                w::LAYOUT_VERSION
            ),
            Self::WindowLen(len) => {
                write!(f, "window says it has {len} bytes, the transport disagrees")
            }
            Self::Table(e) => write!(
                f,
                "master's memory at {:#x} with length {:#x} cannot be reached",
                e.bus_addr, e.len
            ),
            Self::NotReady(role) => write!(f, "waiting for {}", role.name()),
            Self::Shutdown(role) => write!(f, "{} stopped", role.name()),
            Self::Restarted(role) => write!(f, "{} restarted", role.name()),
            Self::Gone(role) => write!(f, "{} is gone", role.name()),
            Self::Silent(role) => {
                write!(f, "{} is silent: its heartbeat stands still", role.name())
            }
            Self::AllOnes => {
                write!(f, "window reads as all ones: board is in reset or off the bus")
            }
            Self::Stolen(role, id) => {
                write!(f, "slot was taken by another {} (peer {id})", daemon(*role))
            }
            Self::Fifo(e) => write!(f, "{e}"),
            Self::Mute(role, seconds) => {
                write!(f, "{} is silent: no message for {seconds} s", role.name())
            }
            Self::NoDevice => write!(f, "waiting for board: its bus has no device 0"),
            Self::Indices(role) => write!(
                f,
                "this end's indices of the message FIFO have changed: a reset, or another {}",
                daemon(*role)
            ),
        }
    }
}

fn daemon(role: Role) -> &'static str {
    match role {
        Role::Driver => "master",
        Role::Device => "agent",
    }
}

/// Two fields that share an 8-byte word, the first in its lower half. Release and acquire are for
/// ends that write or read it in halves.
pub(super) fn write_pair(part: View<'_>, at: usize, low: u32, high: u32) {
    part.store_release_le64(at, u64::from(low) | u64::from(high) << 32);
}

#[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
pub(super) fn read_pair(part: View<'_>, at: usize) -> (u32, u32) {
    let word = part.load_acquire_le64(at);
    (word as u32, (word >> 32) as u32)
}
