//! The network device's numbers (virtio 1.4 §5.1).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The device handles packets with partial checksums.
pub const F_CSUM: u8 = 0;
/// The driver handles packets with partial checksums.
pub const F_GUEST_CSUM: u8 = 1;
/// The device says the greatest MTU.
pub const F_MTU: u8 = 3;
/// The device gives its MAC address.
pub const F_MAC: u8 = 5;
/// The driver can receive TSO packets over IPv4.
pub const F_GUEST_TSO4: u8 = 7;
/// The driver can receive TSO packets over IPv6.
pub const F_GUEST_TSO6: u8 = 8;
/// The driver can receive TSO packets with ECN.
pub const F_GUEST_ECN: u8 = 9;
/// The device can receive TSO packets over IPv4.
pub const F_HOST_TSO4: u8 = 11;
/// The device can receive TSO packets over IPv6.
pub const F_HOST_TSO6: u8 = 12;
/// The device can receive TSO packets with ECN.
pub const F_HOST_ECN: u8 = 13;
/// The driver can merge receive buffers.
pub const F_MRG_RXBUF: u8 = 15;
/// The config space has a status field.
pub const F_STATUS: u8 = 16;
/// There is a control queue.
pub const F_CTRL_VQ: u8 = 17;
/// There are several queue pairs, chosen by the control queue.
pub const F_MQ: u8 = 22;

/// `status` bit: the link is up (§5.1.4).
pub const S_LINK_UP: u16 = 1;

/// The driver's and the device's config space up to `mtu` (§5.1.4), little-endian.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// The MAC address, valid with [`F_MAC`].
    pub mac: [u8; 6],
    /// [`S_LINK_UP`] and others, valid with [`F_STATUS`].
    pub status: U16,
    /// Greatest number of queue pairs, valid with [`F_MQ`].
    pub max_virtqueue_pairs: U16,
    /// Greatest MTU, in bytes, valid with [`F_MTU`].
    pub mtu: U16,
}

/// Header flag: the checksum from `csum_start` on is to be finished (§5.1.6).
pub const HDR_F_NEEDS_CSUM: u8 = 1;
/// Header flag: the checksum has been verified.
pub const HDR_F_DATA_VALID: u8 = 2;
/// GSO type: not a GSO packet.
pub const GSO_NONE: u8 = 0;
/// GSO type: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// GSO type: UDP fragmentation; never negotiated here.
pub const GSO_UDP: u8 = 3;
/// GSO type: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// GSO type: UDP segmentation.
pub const GSO_UDP_L4: u8 = 5;
/// GSO type bit: the TCP packet has ECN set.
pub const GSO_ECN: u8 = 0x80;

/// What stands before each packet in a ring, and before each frame of a TAP (§5.1.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Header {
    /// `HDR_F_*`.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Length of the headers before the first payload byte, a hint.
    pub hdr_len: U16,
    /// Payload bytes of each segment.
    pub gso_size: U16,
    /// Where checksumming starts, from the start of the frame.
    pub csum_start: U16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: U16,
    /// In receive buffers: how many buffers the packet takes.
    pub num_buffers: U16,
}

/// Size of [`Header`], in bytes.
pub const HEADER_LEN: usize = size_of::<Header>();

/// Size of the config space that this device has, in bytes.
#[allow(clippy::cast_possible_truncation, reason = "twelve")]
pub const CONFIG_LEN: u32 = size_of::<Config>() as u32;

/// Index of the first pair's receiveq.
pub const RECEIVEQ: u16 = 0;
/// Index of the first pair's transmitq.
pub const TRANSMITQ: u16 = 1;

/// A little-endian 32-bit word in a shared structure.
pub type Le32 = U32;
