//! Why a back-end refuses a request.

use std::fmt;

use super::message::{Inflight, MemoryRegion, name};
use crate::memory::MemoryError;
use crate::spec::vhost_user::{MAX_REGIONS, protocol};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of each says it")]
pub enum Refusal {
    NotOffered { request: u32, bits: u64 },
    NotNegotiated { request: u32, feature: u64 },
    NoSuchRing { request: u32, index: u32 },
    Value { request: u32, value: u64 },
    NoDoorbell(u32),
    NoChannel,
    Regions,
    Region { region: MemoryRegion, why: String },
    NoSuchRegion(MemoryRegion),
    Table(MemoryError),
    Inflight(Inflight),
    InflightMemory(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered { request, bits } => {
                write!(f, "{} has bits {bits:#x}, which were not offered", name(*request))
            }
            Self::NotNegotiated { request, feature } => {
                let known = protocol::NAMES.iter().find(|(bit, _)| bit == feature);
                let feature = known.map_or("?", |(_, name)| name);
                write!(f, "{} without protocol feature {feature}", name(*request))
            }
            Self::NoSuchRing { request, index } => {
                write!(f, "{} of ring {index}, which is not there", name(*request))
            }
            Self::Value { request, value } => {
                write!(f, "{} has the value {value:#x}", name(*request))
            }
            Self::NoDoorbell(request) => {
                write!(f, "{} came with a descriptor that is no eventfd", name(*request))
            }
            Self::NoChannel => {
                f.write_str("SET_BACKEND_REQ_FD came with what is no connected Unix socket")
            }
            Self::Regions => write!(f, "more than {MAX_REGIONS} memory regions"),
            Self::Region { region: MemoryRegion { bus_addr, len, .. }, why } => {
                write!(f, "memory region at {bus_addr:#x} with length {len:#x}: {why}")
            }
            Self::NoSuchRegion(MemoryRegion { bus_addr, len, .. }) => {
                write!(f, "there is no memory region at {bus_addr:#x} with length {len:#x}")
            }
            Self::Table(error) => write!(f, "{error}"),
            Self::Inflight(Inflight { len, queues, queue_size, .. }) => {
                write!(f, "{len} bytes cannot track {queues} queues of size {queue_size}")
            }
            Self::InflightMemory(why) => write!(f, "memory for what is in flight: {why}"),
        }
    }
}

impl std::error::Error for Refusal {}
