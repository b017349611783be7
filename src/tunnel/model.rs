//! What a virtio device is to whoever configures it (virtio 1.4 §2): the one interface between a device
//! and the transports that drive it.
//!
//! It has virtio's words and no transport's: no messages, no sockets, no tokens.

use std::fmt;

/// A device as its driver configures it. No call blocks, and none fails except as virtio lets it:
/// a driver that asks for what it must not have finds that nothing changed.
pub trait Device {
    /// What the device is; the same at all times.
    fn info(&self) -> DeviceInfo;
    /// Offered feature bits `32 block` to `32 block + 31`; zero where there are none.
    fn features(&self, block: u32) -> u32;
    /// Sets the driver's choice of feature bits `32 block` to `32 block + 31`.
    fn set_driver_features(&mut self, block: u32, bits: u32);
    /// Changes whenever two reads of config space could differ.
    fn generation(&self) -> u32;
    /// Reads config space at `offset`; bytes beyond its end are zero.
    fn read_config(&self, offset: u32, out: &mut [u8]);
    /// Writes config space, all of `data` or, if the device refuses, nothing.
    fn write_config(&mut self, offset: u32, data: &[u8]) -> bool;
    /// The device status (`spec::virtio::status`); 0 only when a reset is complete.
    fn status(&self) -> u8;
    /// Sets bits of the device status; 0 starts a reset. The device may leave bits clear.
    fn set_status(&mut self, status: u32);
    /// A queue's configuration; all zero if there is no such queue.
    fn queue(&self, index: u32) -> QueueState;
    /// Changes a queue's configuration, all that is asked or nothing.
    fn set_queue(&mut self, index: u32, update: &QueueUpdate) -> Result<(), QueueError>;
    /// Resets one queue. It is at rest once [`Device::queue`] shows it disabled; till then the device may
    /// still use its rings.
    fn reset_queue(&mut self, index: u32);
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its type (virtio 1.4 §5).
    pub device_id: u32,
    /// Whose device it is, a number of our own choice.
    pub vendor_id: u32,
    /// How many blocks of 32 feature bits cover all that it offers.
    pub num_feature_blocks: u32,
    /// Size of its config space, in bytes.
    pub config_size: u32,
    /// How many queues it has, at most 65536.
    pub max_virtqueues: u32,
}

/// A queue's configuration as its driver reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Greatest size it can have; 0 if it does not exist.
    pub max_size: u16,
    /// The size it has; 0 before it is set up.
    pub size: u16,
    /// The driver has set it up.
    pub enabled: bool,
    /// Bus address of the descriptor area.
    pub desc: u64,
    /// Bus address of the driver area.
    pub driver: u64,
    /// Bus address of the device area.
    pub device: u64,
}

/// What becomes of a queue's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOperation {
    /// It is disabled and stays so.
    KeepDisabled,
    /// It is enabled.
    Enable,
    /// It stays as it is.
    Keep,
}

/// A change of a queue's configuration; `None` leaves a value as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUpdate {
    /// What becomes of its state, after the values have been set.
    pub operation: QueueOperation,
    /// Its size.
    pub size: Option<u32>,
    /// Bus address of its descriptor area.
    pub desc: Option<u64>,
    /// Bus address of its driver area.
    pub driver: Option<u64>,
    /// Bus address of its device area.
    pub device: Option<u64>,
}

/// Why a queue's configuration was left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// Reserved bits of the request are set.
    Reserved {
        /// The request's flags.
        flags: u32,
        /// The request's reserved word.
        reserved: u32,
    },
    /// There is no such queue.
    NoSuchQueue {
        /// How many there are.
        queues: u32,
    },
    /// The device is being reset.
    InReset,
    /// The queue is being reset.
    QueueInReset,
    /// Features come first.
    BeforeFeaturesOk,
    /// The device runs with the queues that it was given.
    AfterDriverOk,
    /// An enabled queue keeps its values, and is not disabled this way.
    Enabled,
    /// The size is no power of two within what the queue can have.
    Size {
        /// The size asked for.
        size: u32,
        /// The greatest that it can have.
        max_size: u16,
    },
    /// An area's address is zero, not aligned, or runs over the end of the address space.
    Address {
        /// Which area.
        area: &'static str,
        /// Its address.
        addr: u64,
        /// The alignment that it needs.
        align: u64,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Reserved { flags, reserved } => {
                write!(f, "reserved bits are set: flags {flags:#x}, reserved word {reserved:#x}")
            }
            Self::NoSuchQueue { queues } => write!(f, "there are {queues} queues, from 0"),
            Self::InReset => write!(f, "the device is still being reset"),
            Self::QueueInReset => write!(f, "the queue is still being reset"),
            Self::BeforeFeaturesOk => write!(f, "queues are set up after FEATURES_OK"),
            Self::AfterDriverOk => write!(f, "queues are set up before DRIVER_OK"),
            Self::Enabled => write!(f, "an enabled queue changes only by a reset"),
            Self::Size { size, max_size } => {
                write!(f, "size {size} is not a power of two from 1 to {max_size}")
            }
            Self::Address { area, addr: 0, .. } => write!(f, "the {area} area has no address"),
            Self::Address { area, addr, align } => write!(
                f,
                "the {area} area at {addr:#x} is not aligned to {align} or ends beyond 2^64"
            ),
        }
    }
}

impl std::error::Error for QueueError {}
