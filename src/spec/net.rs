//! The network device's numbers (virtio 1.4 §5.1).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The device handles packets with partial checksums.
pub const F_CSUM: u8 = 0;
/// The driver handles packets with partial checksums.
pub const F_GUEST_CSUM: u8 = 1;
/// The driver can change at run time which offloads it receives.
pub const F_CTRL_GUEST_OFFLOADS: u8 = 2;
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
/// The control queue sets promiscuous and all-multicast mode.
pub const F_CTRL_RX: u8 = 18;
/// The control queue filters VLANs.
pub const F_CTRL_VLAN: u8 = 19;
/// The driver can announce its address when the device asks for that.
pub const F_GUEST_ANNOUNCE: u8 = 21;
/// There are several queue pairs, chosen by the control queue.
pub const F_MQ: u8 = 22;
/// The control queue sets the MAC address.
pub const F_CTRL_MAC_ADDR: u8 = 23;
/// The control queue sets how notifications are put together.
pub const F_NOTF_COAL: u8 = 53;
/// The driver can receive USO packets over IPv4.
pub const F_GUEST_USO4: u8 = 54;
/// The driver can receive USO packets over IPv6.
pub const F_GUEST_USO6: u8 = 55;
/// The device can receive USO packets.
pub const F_HOST_USO: u8 = 56;
/// The config space has speed and duplex.
pub const F_SPEED_DUPLEX: u8 = 63;

/// `status` bit: the link is up (§5.1.4).
pub const S_LINK_UP: u16 = 1;
/// `status` bit: the driver is to announce its address.
pub const S_ANNOUNCE: u16 = 2;
/// `speed` of which nothing is known.
pub const SPEED_UNKNOWN: u32 = u32::MAX;
/// `duplex`: both ways at once.
pub const DUPLEX_FULL: u8 = 1;

/// The driver's and the device's config space up to `duplex` (§5.1.4), little-endian.
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
    /// In 10⁶ bits per second, or [`SPEED_UNKNOWN`], valid with [`F_SPEED_DUPLEX`].
    pub speed: U32,
    /// Valid with [`F_SPEED_DUPLEX`].
    pub duplex: u8,
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
#[allow(clippy::cast_possible_truncation, reason = "seventeen")]
pub const CONFIG_LEN: u32 = size_of::<Config>() as u32;

/// Index of the first pair's receiveq.
pub const RECEIVEQ: u16 = 0;
/// Index of the first pair's transmitq.
pub const TRANSMITQ: u16 = 1;

/// Most queue pairs that a device can have: one less than the control queue's command can say
/// (§5.1.6.5.6), so that the control queue's index fits into 16 bits.
pub const MAX_PAIRS: u16 = 0x7fff;

/// Index of the control queue where there are so many pairs: it follows them (§5.1.2).
pub const fn controlq(pairs: u16) -> u16 {
    2 * pairs
}

/// The control queue's commands (§5.1.6.5): a class, a command, and what follows.
pub mod ctrl {
    /// A class and a command.
    pub type Code = (u8, u8);

    /// The device has done it.
    pub const OK: u8 = 0;
    /// The device has not.
    pub const ERR: u8 = 1;
    /// u8: receive every frame.
    pub const RX_PROMISC: Code = (0, 0);
    /// u8: receive every multicast frame.
    pub const RX_ALLMULTI: Code = (0, 1);
    /// Two lists of le32 count and addresses: unicast, then multicast.
    pub const MAC_TABLE_SET: Code = (1, 0);
    /// The driver's own address.
    pub const MAC_ADDR_SET: Code = (1, 1);
    /// le16: receive this VLAN.
    pub const VLAN_ADD: Code = (2, 0);
    /// le16: do not receive this VLAN any more.
    pub const VLAN_DEL: Code = (2, 1);
    /// The driver has announced its address.
    pub const ANNOUNCE_ACK: Code = (3, 0);
    /// le16: use so many queue pairs.
    pub const MQ_VQ_PAIRS_SET: Code = (4, 0);
    /// le64: receive these offloads, by their feature bits.
    pub const GUEST_OFFLOADS_SET: Code = (5, 0);
    /// le32 packets, le32 µs: of the transmitqs.
    pub const NOTF_COAL_TX_SET: Code = (6, 0);
    /// le32 packets, le32 µs: of the receiveqs.
    pub const NOTF_COAL_RX_SET: Code = (6, 1);
}

/// A little-endian 32-bit word in a shared structure.
pub type Le32 = U32;
