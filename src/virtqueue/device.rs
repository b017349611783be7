//! The device half, of either format.

use super::{Chain, Position, QueueConfig, QueueError, Start, packed, split};
use crate::memory::BusMemory;

/// The device half of a running queue.
#[derive(Debug)]
pub struct DeviceQueue(Half);

#[derive(Debug)]
enum Half {
    Split(split::DeviceHalf),
    Packed(packed::DeviceHalf),
}

/// The same call to whichever half runs.
macro_rules! half {
    ($queue:expr, $half:ident => $call:expr) => {
        match $queue {
            Half::Split($half) => $call,
            Half::Packed($half) => $call,
        }
    };
}

impl DeviceQueue {
    pub(super) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        Ok(Self(if config.packed {
            Half::Packed(packed::DeviceHalf::new(config, mem)?)
        } else {
            Half::Split(split::DeviceHalf::new(config, mem)?)
        }))
    }

    pub(super) fn new_at(
        config: &QueueConfig,
        mem: &BusMemory,
        start: Start,
    ) -> Result<Self, QueueError> {
        Ok(Self(if config.packed {
            Half::Packed(packed::DeviceHalf::new_at(config, mem, start)?)
        } else {
            Half::Split(split::DeviceHalf::new_at(config, mem, start)?)
        }))
    }

    /// Where this half stands, so far as the driver has seen: what is held, or pushed and not published,
    /// counts as not taken. When all chains were used in the order in which they were popped, and those
    /// that are held still are given back ([`unpop`](Self::unpop)), a half that starts here goes on with
    /// them. Of a broken queue it is where it broke.
    pub fn position(&self) -> Position {
        half!(&self.0, half => half.position())
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        half!(&self.0, half => half.size())
    }

    /// Number of descriptors that the driver has made available and that are not used yet, as far as this
    /// half has looked: a split queue counts chains, a packed one sees a few of them ahead.
    pub fn out(&self) -> u16 {
        half!(&self.0, half => half.out())
    }

    /// How many chains wait. Looks at the ring, so this is what notices new ones.
    pub fn avail_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        half!(&mut self.0, half => half.avail_ready(mem))
    }

    /// Takes the next available chain; false if there is none.
    pub fn pop(&mut self, mem: &BusMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        half!(&mut self.0, half => half.pop(mem, chain))
    }

    /// Gives back the last `count` chains that were popped, as if they had not been: they will be
    /// popped again, in the same order.
    ///
    /// # Panics
    /// If one of them was pushed: a chain is given back or used, not both.
    pub fn unpop(&mut self, count: u16) {
        half!(&mut self.0, half => half.unpop(count));
    }

    /// Uses the chain `head`, to which `len` bytes were written. The driver sees it at the next
    /// [`publish`](Self::publish); in a packed queue with a journal at once.
    ///
    /// # Panics
    /// If the chain is not held, or has fewer writable bytes: both are known from [`pop`](Self::pop).
    /// With `IN_ORDER` or a journal, if an older chain is held still.
    pub fn push(&mut self, mem: &BusMemory, head: u16, len: u32) {
        half!(&mut self.0, half => half.push(mem, head, len));
    }

    /// Makes visible what was pushed, all at once. True: send the driver a used buffer notification.
    #[must_use = "the driver may be asleep"]
    pub fn publish(&mut self, mem: &BusMemory) -> bool {
        half!(&mut self.0, half => half.publish(mem))
    }

    /// Asks to be notified of the next available chain, then looks again. True: chains are there
    /// already, so do not sleep, a notification may not come.
    #[must_use = "sleeping while chains wait may last for ever"]
    pub fn arm(&mut self, mem: &BusMemory) -> Result<bool, QueueError> {
        self.arm_beyond(mem, 0)
    }

    /// As [`arm`](Self::arm), when `enough` chains wait and are not enough: asks to be notified of
    /// the one after them, or earlier. True: there are more than these.
    #[must_use = "sleeping while chains wait may last for ever"]
    pub fn arm_beyond(&mut self, mem: &BusMemory, enough: u16) -> Result<bool, QueueError> {
        half!(&mut self.0, half => half.arm_beyond(mem, enough))
    }

    /// Says that notifications are not needed. Some may still come.
    pub fn disarm(&mut self, mem: &BusMemory) {
        half!(&mut self.0, half => half.disarm(mem));
    }
}
