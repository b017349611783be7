//! Why a session of the driver end came to its end, in words for people.

use std::fmt;
use std::time::Duration;

use super::{Dialect, Hello};

/// Why the session failed. After each of them the device wants a new session from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// The ends lay out the window differently.
    Layout {
        /// What we said.
        ours: Box<Hello>,
        /// What the other end said.
        theirs: Box<Hello>,
    },
    /// The ends speak different revisions of virtio-msg.
    Revision {
        /// What we said.
        ours: Box<Hello>,
        /// What the other end said.
        theirs: Box<Hello>,
    },
    /// The device speaks another dialect of virtio-msg.
    Dialect {
        /// The one that we were told.
        ours: Dialect,
        /// The one that it answered in.
        theirs: Dialect,
    },
    /// The other end takes no message as long as virtio-msg needs.
    ShortMessages(u32),
    /// The device is of another type.
    NotNet(u32),
    /// The device has too few blocks of feature bits for `VIRTIO_F_VERSION_1`.
    FeatureBlocks(u32),
    /// The device has fewer queues than the driver sets up.
    TooFewQueues {
        /// Queues that it has.
        device: u32,
        /// Queues that the driver sets up.
        wanted: u16,
    },
    /// The device says so many queue pairs, with MQ.
    Pairs(u16),
    /// The status did not become 0 after a reset.
    ResetStuck(u32),
    /// The device did not take a status.
    Status {
        /// What the driver wrote.
        wanted: u32,
        /// What the device answered.
        status: u32,
    },
    /// Features that the driver needs are not offered, or not acceptable without others.
    FeaturesMissing {
        /// Needed bits that cannot be had.
        missing: u128,
        /// Offered bits.
        offered: u128,
    },
    /// The device left FEATURES_OK clear.
    FeaturesRefused {
        /// What the driver accepted.
        features: u128,
        /// What the device answered.
        status: u32,
    },
    /// The config space changed during each try to read it.
    ConfigUnstable,
    /// There is no such queue.
    NoQueue(u16),
    /// The queue is enabled right after a reset.
    QueueBusy(u16),
    /// The device did not take the queue's configuration.
    QueueRefused(u16),
    /// An answer that does not fit its request.
    BadAnswer {
        /// The request.
        to: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The device met an error and asks for a reset.
    NeedsReset,
    /// The other end says that the device is gone.
    Removed,
    /// The running device has status 0: where no epoch tells, it has begun anew.
    Forgotten,
    /// The other end said HELLO with another epoch than before.
    Restarted {
        /// Its epoch when the session began.
        was: u32,
        /// Its epoch now.
        is: u32,
    },
    /// No attempt of a request was answered in time.
    Unanswered {
        /// The request.
        what: &'static str,
        /// Attempts made.
        attempts: u8,
        /// How long each was waited for.
        timeout: Duration,
    },
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { ours, theirs } => write!(
                f,
                "window layout {} at the other end (version {:?}), {} here (version {:?}): \
                 update the older end",
                theirs.layout, theirs.version, ours.layout, ours.version
            ),
            Self::Revision { ours, theirs } => write!(
                f,
                "virtio-msg revision {} at the other end (version {:?}), {} here (version {:?}): \
                 update the older end",
                theirs.revision, theirs.version, ours.revision, ours.version
            ),
            Self::Dialect { ours, theirs } => write!(
                f,
                "the board speaks virtio-msg dialect {theirs}, this link is configured for {ours}: \
                 set dialect = \"{theirs}\""
            ),
            Self::ShortMessages(len) => {
                write!(f, "the other end takes messages up to {len} bytes only")
            }
            Self::NotNet(id) => write!(f, "the device has id {id}; a network device has 1"),
            Self::FeatureBlocks(n) => {
                write!(f, "device has {n} feature blocks, so no VERSION_1 (bit 32): legacy device")
            }
            Self::TooFewQueues { device, wanted } => {
                write!(f, "device has {device} queues, {wanted} needed")
            }
            Self::Pairs(n) => write!(f, "device has {n} queue pairs, 1 to 32767 make sense"),
            Self::ResetStuck(status) => {
                write!(f, "device does not finish its reset: status still {status:#x}")
            }
            Self::Status { wanted, status } => {
                write!(f, "device did not take status {wanted:#x}: its status is {status:#x}")
            }
            Self::FeaturesMissing { missing, offered } => write!(
                f,
                "device does not offer needed features: bits {} (offered: {})",
                Bits(*missing),
                Bits(*offered)
            ),
            Self::FeaturesRefused { features, status } => write!(
                f,
                "device refused features: bits {} (FEATURES_OK clear, status {status:#x})",
                Bits(*features)
            ),
            Self::ConfigUnstable => write!(f, "config space changed during each try to read it"),
            Self::NoQueue(index) => write!(f, "device has no queue {index}"),
            Self::QueueBusy(index) => write!(f, "queue {index} is enabled right after a reset"),
            Self::QueueRefused(index) => {
                write!(f, "device did not take the configuration of queue {index}")
            }
            Self::BadAnswer { to, why } => write!(f, "bad answer to {to}: {why}"),
            Self::NeedsReset => write!(f, "device needs a reset"),
            Self::Removed => write!(f, "device was removed"),
            Self::Forgotten => write!(f, "device has begun anew"),
            Self::Restarted { was, is } => {
                write!(f, "the other end started anew: epoch {is:#010x} after {was:#010x}")
            }
            Self::Unanswered { what, attempts, timeout } => {
                write!(f, "{what} not answered in {attempts} attempts of {timeout:?}")
            }
        }
    }
}

impl std::error::Error for DriverError {}

/// Feature bits as a list of their numbers.
struct Bits(u128);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for bit in (0..128).filter(|bit| self.0 >> bit & 1 == 1) {
            write!(f, "{separator}{bit}")?;
            separator = " ";
        }
        if separator.is_empty() { write!(f, "none") } else { Ok(()) }
    }
}
