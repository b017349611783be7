//! One queue of the device: what the driver has made of it, and whether the link has it
//! (virtio 1.4 §2.6, §2.6.1).
//!
//! | the queue is | `enabled` | `running` | `resetting` | left by |
//! |---|---|---|---|---|
//! | at rest | no | no | no | the driver enables it |
//! | enabled | yes | no | no | the link takes it; a reset |
//! | running | yes | yes | no | a reset; the link stops by itself |
//! | being reset | yes | yes | yes | the link gives it back |

use super::{Event, QueueSetup};
use crate::spec::split;
use crate::tunnel::model::{QueueError, QueueOperation, QueueState, QueueUpdate};

/// A queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) state: QueueState,
    running: bool,
    resetting: bool,
    /// The link has not been told of the reset yet.
    untold: bool,
}

impl Queue {
    /// One at rest, whose greatest size is `max_size`.
    pub(super) fn new(max_size: u16) -> Self {
        let state = QueueState { max_size, ..QueueState::default() };
        Self { state, running: false, resetting: false, untold: false }
    }

    /// Gives it to the link if it is enabled; it runs from now on.
    pub(super) fn hand_over(&mut self, index: u16) -> Option<QueueSetup> {
        self.running = self.state.enabled;
        self.setup(index)
    }

    /// What the driver has made of it, if it has enabled it.
    pub(super) fn setup(&self, index: u16) -> Option<QueueSetup> {
        let QueueState { size, enabled, desc, driver, device, .. } = self.state;
        enabled.then_some(QueueSetup { index, size, desc, driver, device })
    }

    /// What the link is to do with this queue while others run.
    pub(super) fn poll_event(&mut self, index: u16) -> Option<Event> {
        if std::mem::take(&mut self.untold) {
            return Some(Event::ResetQueue(index));
        }
        if self.running { None } else { self.hand_over(index).map(Event::EnableQueue) }
    }

    /// The link does not touch it any more.
    pub(super) fn quiesced(&mut self) {
        self.running = false;
        if self.resetting {
            *self = Self::new(self.state.max_size);
        }
    }

    /// It is not to be used any more, and at rest as soon as it is not used.
    pub(super) fn reset(&mut self) {
        if !self.running {
            *self = Self::new(self.state.max_size);
        } else if !self.resetting {
            (self.resetting, self.untold) = (true, true);
        }
    }

    /// Whether `update` asks an enabled queue for what it is already: a driver that missed the answer
    /// repeats its request.
    pub(super) fn is_already(&self, update: &QueueUpdate) -> Result<bool, QueueError> {
        let q = &self.state;
        if self.resetting {
            return Err(QueueError::QueueInReset);
        }
        Ok(q.enabled
            && update.operation != QueueOperation::KeepDisabled
            && update.size.is_none_or(|size| size == u32::from(q.size))
            && update.desc.is_none_or(|addr| addr == q.desc)
            && update.driver.is_none_or(|addr| addr == q.driver)
            && update.device.is_none_or(|addr| addr == q.device))
    }

    /// Makes of it what `update` asks for, if that is something it can be.
    pub(super) fn set(&mut self, update: &QueueUpdate) -> Result<(), QueueError> {
        let queue = &self.state;
        if queue.enabled {
            return Err(QueueError::Enabled);
        }
        let size = update.size.unwrap_or(u32::from(queue.size));
        let new = QueueState {
            max_size: queue.max_size,
            size: u16::try_from(size).unwrap_or(u16::MAX),
            enabled: update.operation == QueueOperation::Enable,
            desc: update.desc.unwrap_or(queue.desc),
            driver: update.driver.unwrap_or(queue.driver),
            device: update.device.unwrap_or(queue.device),
        };
        let size_counts = update.size.is_some() || new.enabled;
        if size_counts && (!size.is_power_of_two() || size > u32::from(queue.max_size)) {
            return Err(QueueError::Size { size, max_size: queue.max_size });
        }
        // The driver may give the size last: until then an area has no length.
        for (area, addr, align, len, given) in [
            ("descriptor", new.desc, split::DESC_ALIGN, split::desc_len(new.size), update.desc),
            ("driver", new.driver, split::AVAIL_ALIGN, split::avail_len(new.size), update.driver),
            ("device", new.device, split::USED_ALIGN, split::used_len(new.size), update.device),
        ] {
            let fits = addr % align == 0 && addr.checked_add(u64::from(len)).is_some();
            if (given.is_some() || new.enabled) && (addr == 0 || !fits) {
                return Err(QueueError::Address { area, addr, align });
            }
        }
        self.state = new;
        Ok(())
    }
}
