//! The driver half, of either format.

use super::{Buffer, Full, QueueConfig, QueueError, Used, packed, split};
use crate::memory::BusMemory;

/// The driver half of a running queue.
#[derive(Debug)]
pub struct DriverQueue(Half);

#[derive(Debug)]
enum Half {
    Split(split::DriverHalf),
    Packed(packed::DriverHalf),
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

impl DriverQueue {
    pub(super) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        Ok(Self(if config.packed {
            Half::Packed(packed::DriverHalf::new(config, mem)?)
        } else {
            Half::Split(split::DriverHalf::new(config, mem)?)
        }))
    }

    /// Gives the queue memory for indirect tables: for each of its descriptors a table of
    /// `entries`, one after the other from bus address `base`, a multiple of 16. From then on a
    /// chain of 2 to `entries` buffers takes one descriptor. Without `INDIRECT_DESC` this changes
    /// nothing.
    ///
    /// # Panics
    /// If chains are out: the caller sets a queue up before it uses it.
    pub fn set_indirect_tables(
        &mut self,
        mem: &BusMemory,
        base: u64,
        entries: u16,
    ) -> Result<(), QueueError> {
        half!(&mut self.0, half => half.set_indirect_tables(mem, base, entries))
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        half!(&self.0, half => half.size())
    }

    /// Number of free descriptors: so many more chains fit, if each takes one.
    pub fn free(&self) -> u16 {
        half!(&self.0, half => half.free())
    }

    /// Number of descriptors that are with the device, or used and not taken back yet.
    pub fn out(&self) -> u16 {
        self.size() - self.free()
    }

    /// Adds a chain of `readable` buffers, which the device may read, then `writable` ones, which it
    /// may write. The device sees it at the next [`publish`](Self::publish); `token` comes back with
    /// it from [`pop_used`](Self::pop_used). A chain of more buffers than the queue's size never
    /// fits, and nothing fits in a broken queue.
    ///
    /// # Panics
    /// If there is no buffer, or an empty one, or 4 GiB in all: buffers are the caller's own.
    pub fn add(
        &mut self,
        mem: &BusMemory,
        readable: &[Buffer],
        writable: &[Buffer],
        token: u16,
    ) -> Result<(), Full> {
        half!(&mut self.0, half => half.add(mem, readable, writable, token))
    }

    /// Makes visible what was added, all at once. True: send the device an available buffer
    /// notification.
    #[must_use = "the device may be asleep"]
    pub fn publish(&mut self, mem: &BusMemory) -> bool {
        half!(&mut self.0, half => half.publish(mem))
    }

    /// How many used chains wait, so far as the ring shows it: a packed ring shows one at a time.
    /// This is what notices new ones.
    pub fn used_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        half!(&mut self.0, half => half.used_ready(mem))
    }

    /// Takes back the chain that the device used next, if there is one.
    pub fn pop_used(&mut self, mem: &BusMemory) -> Result<Option<Used>, QueueError> {
        half!(&mut self.0, half => half.pop_used(mem))
    }

    /// Asks to be notified of the next used chain, then looks again. True: chains are there already,
    /// so do not sleep, a notification may not come.
    #[must_use = "sleeping while chains wait may last for ever"]
    pub fn arm(&mut self, mem: &BusMemory) -> Result<bool, QueueError> {
        half!(&mut self.0, half => half.arm(mem))
    }

    /// Says that notifications are not needed. Some may still come.
    pub fn disarm(&mut self, mem: &BusMemory) {
        half!(&mut self.0, half => half.disarm(mem));
    }
}
