//! The vhost-user protocol's numbers (QEMU, "Vhost-user Protocol").
//!
//! A *front-end* has the driver's memory and talks; a *back-end* is the device and answers. A message
//! is a header of three 32-bit words (request, flags, size of the payload), the payload, and
//! descriptors (SCM_RIGHTS) that come with its first byte. Numbers are in the machine's byte order,
//! as both ends are on one machine; here that is little-endian.

/// Length in bytes of a message's header.
pub const HEADER_LEN: usize = 12;
/// The longest payload that is taken: no message of ours is longer, and none that we know.
pub const MAX_PAYLOAD: usize = 4096;
/// Most memory regions that a front-end may share: QEMU's limit for a back-end that says nothing is 8.
pub const MAX_REGIONS: usize = 32;
/// Length in bytes of the greatest config space.
pub const MAX_CONFIG: usize = 256;

/// Bits of a header's flags.
pub mod flags {
    /// Where the version is.
    pub const VERSION_MASK: u32 = 0b11;
    /// The one version there is.
    pub const VERSION: u32 = 1;
    /// The message is a reply.
    pub const REPLY: u32 = 1 << 2;
    /// The front-end asks for a reply to a request that has none by itself (`REPLY_ACK`).
    pub const NEED_REPLY: u32 = 1 << 3;
}

/// Feature bit: the back-end has protocol features. It is vhost-user's own and no driver sees it.
pub const F_PROTOCOL_FEATURES: u8 = 30;

/// Bits of the protocol features.
pub mod protocol {
    /// More than one queue pair.
    pub const MQ: u64 = 1 << 0;
    /// Any request is answered, if its flags ask for it.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back-end may send requests, by a socket of their own.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// Config space goes by messages.
    pub const CONFIG: u64 = 1 << 9;
    /// What is in flight is tracked in memory that outlives the back-end.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// The device can be reset as a whole.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory regions come and go one by one.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// The device status goes by messages.
    pub const STATUS: u64 = 1 << 16;

    /// Every bit that is known here, by its name.
    pub const NAMES: &[(u64, &str)] = &[
        (MQ, "MQ"),
        (REPLY_ACK, "REPLY_ACK"),
        (BACKEND_REQ, "BACKEND_REQ"),
        (CONFIG, "CONFIG"),
        (INFLIGHT_SHMFD, "INFLIGHT_SHMFD"),
        (RESET_DEVICE, "RESET_DEVICE"),
        (CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"),
        (STATUS, "STATUS"),
    ];
}

/// A front-end's requests.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;

    /// Every request that is known here, by its name.
    pub const NAMES: &[(u32, &str)] = &[
        (GET_FEATURES, "GET_FEATURES"),
        (SET_FEATURES, "SET_FEATURES"),
        (SET_OWNER, "SET_OWNER"),
        (RESET_OWNER, "RESET_OWNER"),
        (SET_MEM_TABLE, "SET_MEM_TABLE"),
        (SET_VRING_NUM, "SET_VRING_NUM"),
        (SET_VRING_ADDR, "SET_VRING_ADDR"),
        (SET_VRING_BASE, "SET_VRING_BASE"),
        (GET_VRING_BASE, "GET_VRING_BASE"),
        (SET_VRING_KICK, "SET_VRING_KICK"),
        (SET_VRING_CALL, "SET_VRING_CALL"),
        (SET_VRING_ERR, "SET_VRING_ERR"),
        (GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES"),
        (SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES"),
        (GET_QUEUE_NUM, "GET_QUEUE_NUM"),
        (SET_VRING_ENABLE, "SET_VRING_ENABLE"),
        (SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD"),
        (GET_CONFIG, "GET_CONFIG"),
        (SET_CONFIG, "SET_CONFIG"),
        (GET_INFLIGHT_FD, "GET_INFLIGHT_FD"),
        (SET_INFLIGHT_FD, "SET_INFLIGHT_FD"),
        (RESET_DEVICE, "RESET_DEVICE"),
        (GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS"),
        (ADD_MEM_REG, "ADD_MEM_REG"),
        (REM_MEM_REG, "REM_MEM_REG"),
        (SET_STATUS, "SET_STATUS"),
        (GET_STATUS, "GET_STATUS"),
    ];
}

/// A back-end's request: config space has changed.
pub const BACKEND_CONFIG_CHANGE: u32 = 2;

/// In the payload of `SET_VRING_KICK`, `_CALL` and `_ERR`: where the ring's index is.
pub const VRING_INDEX_MASK: u64 = 0xff;
/// There too: no descriptor comes with it.
pub const VRING_NO_FD: u64 = 1 << 8;
