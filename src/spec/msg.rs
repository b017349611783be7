//! virtio-msg's numbers (RFC3 of November 2025 to PATCH v2 of May 2026): message types, ids, sizes.
//!
//! Offsets of fields stand with the codec in [`crate::tunnel::message`], one table per message.

/// Size of the common header: type u8, id u8, `dev_num` le16, token le16, `msg_size` le16.
pub const HEADER_LEN: usize = 8;
/// Greatest message of our own bus binding, in bytes.
pub const MAX_LEN: usize = 264;
/// The revision of virtio-msg that both dialects call themselves.
pub const REVISION: u32 = 1;

/// Feature bits of a device in dialect v1, as its drivers want it: neither more nor less.
pub const V1_FEATURE_BITS: u32 = 64;

/// Type bit: this is a response.
pub const TYPE_RESPONSE: u8 = 1;
/// Type bit: a message of the bus, not of the transport.
pub const TYPE_BUS: u8 = 2;

/// Get what the device is.
pub const GET_DEVICE_INFO: u8 = 0x02;
/// Get blocks of 32 offered feature bits.
pub const GET_DEVICE_FEATURES: u8 = 0x03;
/// Set blocks of 32 accepted feature bits.
pub const SET_DRIVER_FEATURES: u8 = 0x04;
/// Read config space.
pub const GET_CONFIG: u8 = 0x05;
/// Write config space.
pub const SET_CONFIG: u8 = 0x06;
/// Read the device status.
pub const GET_DEVICE_STATUS: u8 = 0x07;
/// Write the device status.
pub const SET_DEVICE_STATUS: u8 = 0x08;
/// Read a queue's configuration.
pub const GET_VQUEUE: u8 = 0x09;
/// Write a queue's configuration.
pub const SET_VQUEUE: u8 = 0x0A;
/// Reset one queue.
pub const RESET_VQUEUE: u8 = 0x0B;
/// Read a shared memory region's place.
pub const GET_SHM: u8 = 0x0C;
/// The config space or the status changed.
pub const EVENT_CONFIG: u8 = 0x40;
/// Available buffer notification.
pub const EVENT_AVAIL: u8 = 0x41;
/// Used buffer notification.
pub const EVENT_USED: u8 = 0x42;

/// Bus: which devices are there.
pub const BUS_GET_DEVICES: u8 = 0x02;
/// Bus: is the other end alive.
pub const BUS_PING: u8 = 0x03;
/// Bus: a device came or went.
pub const BUS_EVENT_DEVICE: u8 = 0x40;
/// Bus, private: both ends say what they are.
pub const BUS_HELLO: u8 = 0x80;
/// Bus, private: what the sender's netdev is set to.
pub const BUS_EVENT_LINK: u8 = 0x81;

/// `EVENT_LINK` state: the netdev is set up (`IFF_UP`).
pub const LINK_ADMIN_UP: u16 = 1;

/// `EVENT_DEVICE` state: the device is there (v1 calls it READY).
pub const DEVICE_ADDED: u16 = 1;
/// `EVENT_DEVICE` state: the device is gone.
pub const DEVICE_REMOVED: u16 = 2;

/// `SET_VQUEUE` flags: what to do with the queue's state.
pub const VQ_STATE_MASK: u32 = 3;
/// `SET_VQUEUE` state: keep it disabled.
pub const VQ_KEEP_DISABLED: u32 = 0;
/// `SET_VQUEUE` state: enable it.
pub const VQ_ENABLE: u32 = 1;
/// `SET_VQUEUE` state: keep it as it is.
pub const VQ_KEEP: u32 = 2;
/// `SET_VQUEUE` flag: the size field does not count.
pub const VQ_IGNORE_SIZE: u32 = 1 << 2;
/// `SET_VQUEUE` flag: the descriptor area's address does not count.
pub const VQ_IGNORE_DESC: u32 = 1 << 3;
/// `SET_VQUEUE` flag: the driver area's address does not count.
pub const VQ_IGNORE_DRIVER: u32 = 1 << 4;
/// `SET_VQUEUE` flag: the device area's address does not count.
pub const VQ_IGNORE_DEVICE: u32 = 1 << 5;
/// `GET_VQUEUE` flag: the queue is enabled.
pub const VQ_ENABLED: u32 = 1;
