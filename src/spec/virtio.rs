//! Virtio's device-independent numbers (virtio 1.4 §2.1, §2.2, §6).

/// Device status bits (virtio 1.4 §2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// The driver has finished feature negotiation, and the device agrees.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error that it cannot recover from without a reset.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver has given the device up.
    pub const FAILED: u8 = 128;
}

/// The device id of a network device (virtio 1.4 §5).
pub const DEVICE_ID_NET: u32 = 1;

/// Descriptors may point to tables of descriptors (§2.7.5.3).
pub const F_INDIRECT_DESC: u8 = 28;
/// `used_event` and `avail_event` are in use (§2.7.7, §2.7.10).
pub const F_EVENT_IDX: u8 = 29;
/// The device follows virtio 1.0 or later; must be negotiated here.
pub const F_VERSION_1: u8 = 32;
/// The device's view of memory is the platform's, not the CPU's.
pub const F_ACCESS_PLATFORM: u8 = 33;
/// Packed virtqueues (§2.8).
pub const F_RING_PACKED: u8 = 34;
/// Buffers are used in the order in which they were made available.
pub const F_IN_ORDER: u8 = 35;
/// Memory ordering is the platform's, not that of a software device.
pub const F_ORDER_PLATFORM: u8 = 36;
/// Available buffer notifications carry data; needs a bus that carries it.
pub const F_NOTIFICATION_DATA: u8 = 38;
/// One queue can be reset (§2.6.1).
pub const F_RING_RESET: u8 = 40;
