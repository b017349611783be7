//! Virtqueues: the driver half and the device half.
//!
//! A [`QueueConfig`] says where a queue's areas lie; activating it makes a running half: a
//! [`DriverQueue`], which makes buffers available, or a [`DeviceQueue`], which uses them. The queue
//! holds no memory: every call takes the [`BusMemory`] that its addresses mean something in, which
//! must be the one it was activated with. The areas may lie in different regions of it, so that what
//! an end's CPU reads can lie near it.
//!
//! What the other end wrote is read once, checked, and then used. Whoever breaks a rule breaks the
//! queue: it says which rule, keeps saying so, and does nothing more until it is activated anew.
//!
//! There are two formats, split and packed, behind the same calls; [`QueueConfig::packed`] says which.
//!
//! A device half may start and stop in the middle of rings that are in use: see [`Position`], and for
//! what is to survive a crash [`Journal`].
//!
//! Both halves are written for batches: fill the ring, publish once, ring the other end if it asked
//! for that. Before going to sleep, `arm`, which asks for a notification *and* looks again.
//!
//! ```
//! use std::sync::Arc;
//! use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
//! use boardlane::virtqueue::{Buffer, Chain, QueueConfig, QueueError};
//!
//! # fn main() -> Result<(), QueueError> {
//! let bytes = Arc::new(Mapping::anonymous(0x4000, Kind::Cached));
//! let mem = BusMemory::new(vec![Region::mapped(0x10_0000, 0x4000, Side::Near, bytes, 0)])
//!     .expect("one region overlaps nothing");
//! let config = QueueConfig {
//!     size: 8,
//!     desc: 0x10_0000,
//!     driver: 0x10_0080,
//!     device: 0x10_00a0,
//!     packed: false,
//!     in_order: false,
//!     event_idx: true,
//!     indirect: false,
//! };
//! let mut driver = config.activate_driver(&mem)?; // first: it clears the rings
//! let mut device = config.activate_device(&mem)?;
//!
//! // The driver fills a buffer and makes it available, with another one for the answer.
//! let (question, answer) = (Buffer { addr: 0x10_1000, len: 5 }, Buffer { addr: 0x10_2000, len: 64 });
//! let bytes_of = |b: Buffer| mem.view(mem.resolve(b.addr, b.len).unwrap()).unwrap();
//! bytes_of(question).copy_from(0, b"hello");
//! driver.add(&mem, &[question], &[answer], 7).expect("the ring is empty");
//! let mut ring_the_device = driver.publish(&mem);
//!
//! // The device: use what is there; sleep only if arming finds nothing more.
//! let mut chain = Chain::default();
//! while ring_the_device {
//!     device.disarm(&mem);
//!     while device.pop(&mem, &mut chain)? {
//!         let mut text = [0; 5];
//!         mem.view(chain.readable[0]).unwrap().copy_to(0, &mut text);
//!         mem.view(chain.writable[0]).unwrap().copy_from(0, &text);
//!         device.push(&mem, chain.head, 5);
//!     }
//!     ring_the_device = device.arm(&mem)?; // true: more came in the meantime
//! }
//! let ring_the_driver = device.publish(&mem);
//! assert!(ring_the_driver);
//!
//! // The driver gets its own number back, and how much was written.
//! while let Some(used) = driver.pop_used(&mem)? {
//!     assert_eq!((used.token, used.len), (7, 5));
//!     let mut text = [0; 5];
//!     bytes_of(answer).copy_to(0, &mut text);
//!     assert_eq!(&text, b"hello");
//! }
//! assert!(!driver.arm(&mem)?); // nothing left: it may sleep
//! # Ok(())
//! # }
//! ```

mod area;
mod chain;
mod device;
mod driver;
mod error;
mod journal;
mod packed;
mod position;
mod split;
mod tables;
#[cfg(test)]
mod tests;

pub use chain::Chain;
pub use device::DeviceQueue;
pub use driver::DriverQueue;
pub use error::{Area, Full, QueueError};
pub use journal::Journal;
pub use position::{At, Position, Start};

use crate::memory::BusMemory;

/// Where a queue lies and what was negotiated for it. Nothing runs yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Number of descriptors: 1 to 32768, for a split queue a power of two.
    pub size: u16,
    /// Bus address of the descriptor area (split: the table, packed: the ring), a multiple of 16.
    pub desc: u64,
    /// Bus address of the driver area (split: the available ring, packed: the driver's event
    /// suppression), a multiple of 4; of 2 for the device half of a split queue in cached memory.
    pub driver: u64,
    /// Bus address of the device area (split: the used ring, packed: the device's event
    /// suppression), a multiple of 4.
    pub device: u64,
    /// `RING_PACKED` was negotiated: all three areas lie in cached memory.
    pub packed: bool,
    /// `IN_ORDER` was negotiated: the device uses chains in the order in which it got them.
    pub in_order: bool,
    /// `EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// `INDIRECT_DESC` was negotiated.
    pub indirect: bool,
}

impl QueueConfig {
    /// Starts the driver half, with empty rings: clears both of them, so this comes before the
    /// device is told of the queue.
    pub fn activate_driver(&self, mem: &BusMemory) -> Result<DriverQueue, QueueError> {
        DriverQueue::new(self, mem)
    }

    /// Starts the device half on rings that a driver has cleared.
    pub fn activate_device(&self, mem: &BusMemory) -> Result<DeviceQueue, QueueError> {
        DeviceQueue::new(self, mem)
    }

    /// Starts the device half on rings that are in use, or may be.
    ///
    /// The first [`publish`](DeviceQueue::publish), even of nothing, says that the driver is to be told: a
    /// notification may have been lost with the half before. Likewise chains may wait of which no
    /// notification comes any more, so look at the ring before sleeping.
    pub fn activate_device_at(
        &self,
        mem: &BusMemory,
        start: Start,
    ) -> Result<DeviceQueue, QueueError> {
        DeviceQueue::new_at(self, mem, start)
    }
}

/// One buffer of a chain, by bus address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bus address of its first byte.
    pub addr: u64,
    /// Length in bytes, at least 1.
    pub len: u32,
}

/// A chain that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The number that the chain was added with.
    pub token: u16,
    /// How many bytes the device says it wrote, from the first writable buffer on; at most as many
    /// as the chain had writable bytes.
    pub len: u32,
}
