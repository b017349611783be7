//! Bugs that can be planted, one at a time, so that a test shows that the simulation finds them.
//!
//! Without the feature `sim` nothing is ever planted, and the compiler drops what asks. With it a bug is
//! planted for one thread.

#[cfg(feature = "sim")]
use std::cell::Cell;

/// What may be wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Rings, driver: no fence between publishing and reading what the device wants to hear of.
    DriverPublishFence,
    /// Rings, driver: no fence between asking to be notified and looking again.
    DriverArmFence,
    /// Rings, device: no fence between publishing and reading what the driver wants to hear of.
    DevicePublishFence,
    /// Rings, device: no fence between asking to be notified and looking again.
    DeviceArmFence,
    /// Rings, device: does not look again after it has asked to be notified.
    NoSecondLook,
    /// Split rings, device: reads what the driver wants to hear of before it publishes.
    SuppressionReadEarly,
    /// Split rings, driver: the index is stored before the entries.
    IndexBeforeEntries,
    /// Rings: what publishes a batch is stored without release.
    NoRelease,
    /// Split rings: what publishes a batch is loaded without acquire.
    NoAcquire,
    /// Memory: no fence before what publishes in memory that a release does not order.
    PayloadFence,
    /// Rings: whether an event was reached is judged without regard to wrap-around.
    EventWrap,
    /// Driver: the memory of a frame is used again before the device has used it.
    ReusedEarly,
    /// Device: the used length is one byte short.
    UsedLength,
    /// Engine: all transfers have one token.
    TokenReused,
    /// Engine: frames are given out before their copies are over.
    CopyNotAwaited,
    /// Window: a peer that runs with somebody else's epoch is taken for ours.
    StaleEpoch,
    /// FIFO: a message is counted before it is written.
    HeadBeforeSlot,
    /// Link: a session begins while workers, and their copies, of the one before are under way.
    RestartWithWorkers,
    /// Link: who is quarantined stays so.
    QuarantineForEver,
}

impl Bug {
    /// Every one.
    pub const ALL: [Self; 19] = [
        Self::DriverPublishFence,
        Self::DriverArmFence,
        Self::DevicePublishFence,
        Self::DeviceArmFence,
        Self::NoSecondLook,
        Self::SuppressionReadEarly,
        Self::IndexBeforeEntries,
        Self::NoRelease,
        Self::NoAcquire,
        Self::PayloadFence,
        Self::EventWrap,
        Self::ReusedEarly,
        Self::UsedLength,
        Self::TokenReused,
        Self::CopyNotAwaited,
        Self::StaleEpoch,
        Self::HeadBeforeSlot,
        Self::RestartWithWorkers,
        Self::QuarantineForEver,
    ];
}

#[cfg(feature = "sim")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in what this thread runs from now on, in the place of the one before.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "sim")]
#[inline]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
