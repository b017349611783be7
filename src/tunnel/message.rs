//! virtio-msg messages: their meaning ([`Message`]); [`encode`] and [`decode`] give it octets.
//!
//! A message's meaning is the same in each [`Dialect`] of virtio-msg; only its octets differ. So the two
//! sides of the tunnel work with these types, and a dialect is a codec behind them.

use std::fmt;
use std::ops::Deref;

use crate::spec::msg;

pub use super::codec::{decode, encode};
pub use super::octets::DecodeError;

/// The drafts of virtio-msg that are spoken. No message tells which: a driver finds out by the size of the
/// response to `GET_DEVICE_INFO`, a device must be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// "v1": RFC3 of November 2025 and PATCH v1 of January 2026.
    V1,
    /// "v2": PATCH v2 of May 2026.
    #[default]
    V2,
}

impl Dialect {
    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V1 => Self::V2,
            Self::V2 => Self::V1,
        }
    }

    /// Size in bytes of the longest message that carries nothing of variable length: the response to
    /// `GET_VQUEUE` in v1, to `GET_DEVICE_INFO` in v2.
    #[must_use]
    pub fn longest_fixed(self) -> u32 {
        match self {
            Self::V1 => 48,
            Self::V2 => 52,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// The most config space bytes a `GET_CONFIG` or `SET_CONFIG` carries.
pub const MAX_DATA: usize = msg::MAX_LEN - 20;
/// The most config space bytes an `EVENT_CONFIG` carries.
pub const MAX_EVENT_DATA: usize = msg::MAX_LEN - 24;
/// The most feature blocks one message carries (virtio defines bits up to 127; more read as zero).
pub const MAX_BLOCKS: usize = (msg::MAX_LEN - 16) / 4;
/// The most device numbers whose presence one message tells.
pub const MAX_DEVICES: usize = (msg::MAX_LEN - 14) * 8;
/// Room for the program version in HELLO, in bytes.
pub const MAX_VERSION: usize = 32;

/// One message, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The device number; 0 in bus messages.
    pub dev_num: u16,
    /// Chosen by the requester, copied into the response; 0 in events.
    pub token: u16,
    /// What it says.
    pub body: Body,
}

/// Feature bits as blocks of 32: block `i` holds bits `32 i` to `32 i + 31`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Index of the first block.
    pub index: u32,
    /// The blocks, at most [`MAX_BLOCKS`].
    pub blocks: Vec<u32>,
}

/// A queue's configuration as messages carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VqueueState {
    /// The queue's index.
    pub index: u32,
    /// Greatest size it can have; 0 if it does not exist.
    pub max_size: u32,
    /// The size it has.
    pub size: u32,
    /// `spec::msg::VQ_ENABLED` or 0. In v1, which has no flags, it is enabled once an area has an address.
    pub flags: u32,
    /// Bus address of the descriptor area.
    pub desc: u64,
    /// Bus address of the driver area (the available ring).
    pub driver: u64,
    /// Bus address of the device area (the used ring).
    pub device: u64,
}

/// What an end is, in HELLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// virtio-msg revision.
    pub revision: u32,
    /// Greatest message in bytes that this end takes.
    pub max_len: u32,
    /// virtio-msg's transport features.
    pub transport_features: u64,
    /// The sender's epoch.
    pub epoch: u32,
    /// The window layout's version.
    pub layout: u32,
    /// Driver end: the MAC address meant for the device's netdev; zero if none.
    pub mac: [u8; 6],
    /// The sender's program version.
    pub version: Version,
}

/// What an end's netdev is set to, in `EVENT_LINK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetdevState {
    /// The MTU that this end would have by itself, in bytes: not one that it took from the other.
    pub mtu: u16,
    /// Admin state.
    pub up: bool,
    /// The Ethernet address.
    pub mac: [u8; 6],
}

/// A program's version as HELLO carries it: plain text of at most [`MAX_VERSION`] bytes. It is made so,
/// whatever it is made from: it is sent whole, and it can stand in a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// The text up to its first zero byte or [`MAX_VERSION`] bytes; what is not plain becomes `?`.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let plain = |c: &u8| if c.is_ascii_graphic() || *c == b' ' { char::from(*c) } else { '?' };
        Self(bytes.iter().take_while(|c| **c != 0).take(MAX_VERSION).map(plain).collect())
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
        Self::from_bytes(&bytes)
    }
}

impl Deref for Version {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Every message of the transport and of the bus, as meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the standard's, in its words")]
pub enum Body {
    GetDeviceInfo,
    DeviceInfo {
        device_id: u32,
        vendor_id: u32,
        /// Nil if there is none; always in v1.
        uuid: [u8; 16],
        num_feature_blocks: u32,
        config_size: u32,
        max_virtqueues: u32,
        admin_vq_start: u32,
        admin_vq_count: u32,
    },
    GetDeviceFeatures {
        index: u32,
        count: u32,
    },
    DeviceFeatures(Blocks),
    SetDriverFeatures(Blocks),
    DriverFeaturesSet,
    GetConfig {
        offset: u32,
        length: u32,
    },
    Config {
        generation: u32,
        offset: u32,
        data: Vec<u8>,
    },
    SetConfig {
        generation: u32,
        offset: u32,
        data: Vec<u8>,
    },
    /// `data` is empty and the length on the wire 0 if the device refused.
    ConfigSet {
        generation: u32,
        offset: u32,
        data: Vec<u8>,
    },
    GetDeviceStatus,
    DeviceStatus {
        status: u32,
    },
    SetDeviceStatus {
        status: u32,
    },
    DeviceStatusSet {
        status: u32,
    },
    GetVqueue {
        index: u32,
    },
    Vqueue(VqueueState),
    SetVqueue {
        index: u32,
        /// In v1 always `spec::msg::VQ_ENABLE`: all values count, and the queue is live after it.
        flags: u32,
        size: u32,
        /// Must be 0; a device does nothing otherwise, and answers. In v1 it does not count.
        reserved: u32,
        desc: u64,
        driver: u64,
        device: u64,
    },
    VqueueSet,
    ResetVqueue {
        index: u32,
    },
    VqueueReset,
    GetShm {
        id: u32,
    },
    Shm {
        id: u32,
        length: u64,
        address: u64,
    },
    /// With no `data` there is nothing to take over: what changed is to be read.
    EventConfig {
        status: u32,
        generation: u32,
        offset: u32,
        data: Vec<u8>,
    },
    EventAvail {
        index: u32,
        next: u32,
    },
    EventUsed {
        index: u32,
    },
    /// In v1 offset and count are multiples of 8, here and in the response.
    GetDevices {
        offset: u16,
        count: u16,
    },
    Devices {
        offset: u16,
        next_offset: u16,
        count: u16,
        bitmap: Vec<u8>,
    },
    Ping {
        data: u32,
    },
    Pong {
        data: u32,
    },
    EventDevice {
        number: u16,
        state: u16,
    },
    Hello(Hello),
    HelloBack(Hello),
    EventLink(NetdevState),
}
