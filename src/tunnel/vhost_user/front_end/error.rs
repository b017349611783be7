//! Why a connection of the front-end's is of no more use.

use std::fmt;
use std::time::Duration;

use super::super::{Fault, name};

/// What the back-end did, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEndError {
    /// A message that cannot be right.
    Fault(Fault),
    /// A reply to this request, of which none was waited for.
    Unasked(u32),
    /// A reply to another request than the one that waits.
    Other {
        /// The request that waits.
        asked: u32,
        /// The one that was answered.
        got: u32,
    },
    /// A request was not answered.
    Timeout {
        /// The request.
        request: u32,
        /// How long its reply was waited for.
        after: Duration,
    },
    /// A request was not carried out.
    Refused {
        /// The request.
        request: u32,
        /// What was answered instead of 0.
        code: u64,
    },
    /// It is a device of virtio 0.9.
    NoVersion1,
    /// It has no queues.
    NoQueues,
    /// It answered with another part of config space than it was asked for, which begins here.
    ConfigOffset(u32),
    /// Or with another length, in bytes.
    ConfigLength {
        /// What was asked for.
        asked: usize,
        /// What came.
        got: usize,
    },
    /// It did not take these features.
    FeaturesNotTaken(u64),
    /// The device status after DRIVER_OK is none of a device that runs.
    Status(u64),
}

impl From<Fault> for FrontEndError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl fmt::Display for FrontEndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fault(fault) => write!(f, "the back-end's message: {fault}"),
            Self::Unasked(request) => {
                write!(f, "the back-end answers {}, which was not asked", name(request))
            }
            Self::Other { asked, got } => {
                write!(f, "the back-end answers {} instead of {}", name(got), name(asked))
            }
            Self::Timeout { request, after } => {
                let after = after.as_secs();
                write!(f, "the back-end has not answered {} in {after} s", name(request))
            }
            Self::Refused { request, code } => {
                write!(f, "the back-end refuses {}, with {code}", name(request))
            }
            Self::NoVersion1 => write!(
                f,
                "the back-end does not offer VERSION_1; a device of virtio 1.0 or later is needed"
            ),
            Self::NoQueues => write!(f, "the back-end says that it has no queues"),
            Self::ConfigOffset(offset) => {
                write!(f, "the back-end gives config space from {offset}, asked for from 0")
            }
            Self::ConfigLength { asked, got } => {
                write!(f, "the back-end gives {got} bytes of config space, asked for {asked}")
            }
            Self::FeaturesNotTaken(features) => {
                write!(f, "the back-end does not take the features {features:#x}")
            }
            Self::Status(status) => {
                write!(f, "the back-end's device does not run: its status is {status:#x}")
            }
        }
    }
}

impl std::error::Error for FrontEndError {}
