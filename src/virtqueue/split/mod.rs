//! Split virtqueues (virtio 1.4 §2.7): layout and algorithm that both halves share.
//!
//! Theory of operation. Three areas: the descriptor table and the available ring, which only the
//! driver writes, and the used ring, which only the device writes. Each ring has an index that
//! counts entries modulo 65536 and never goes back; what lies before it belongs to the reader. So
//! whatever must be seen before an entry is seen must be visible before the index is.
//!
//! Barriers, in pairs:
//!
//! * **A** the driver stores the available index with release, after buffers, descriptors and ring
//!   entries; the device loads it with acquire, before it reads any of these.
//! * **B** the device stores the used index with release, after data and used entries; the driver
//!   loads it with acquire, before it reads any of these or lets the buffers be written again.
//! * **C** the driver stores the available index, *full fence*, reads whether the device wants to
//!   hear of it; the device, about to sleep, says that it does, *full fence*, loads the available
//!   index. Whichever fence comes first, one of the two sees the other's store: no notification is
//!   lost (§2.7.13.4.1).
//! * **D** as C the other way: the device publishes used entries, the driver goes to sleep (§2.7.14).
//!
//! Release orders stores to cached memory only. Where any region of the table is write-combined or
//! uncached, a full fence comes before the index as well, whatever kind the ring's own memory is of.
//!
//! Access sizes. Memory that is not cached takes 4- and 8-byte accesses only, so a descriptor is two
//! 8-byte words, `flags` and `idx` are one 4-byte word, and two entries of the available ring are
//! one word, rewritten from the driver's private copy: each such word has a single writer. An event
//! field at the end of a ring of two or more entries is half a word, and what follows may be
//! somebody else's: on cached memory it is a 16-bit access, on other memory the area is resolved
//! with the two bytes after it.

mod device;
mod driver;
#[cfg(test)]
mod tests;

pub(super) use device::DeviceHalf;
pub(super) use driver::DriverHalf;

use super::area::{self, fields, halves, rest, word};
use super::{Area, QueueConfig, QueueError};
use crate::memory::{BusMemory, Kind, Span, View, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::split;

/// The checked areas of one queue, and what both halves know about it.
#[derive(Debug)]
struct Layout {
    size: u16,
    event_idx: bool,
    desc: Span,
    avail: Span,
    used: Span,
    /// Some memory here is not ordered by a release store alone.
    weak_memory: bool,
}

impl Layout {
    fn new(config: &QueueConfig, mem: &BusMemory, avail_align: u64) -> Result<Self, QueueError> {
        let size = config.size;
        if !size.is_power_of_two() || size > split::MAX_SIZE {
            return Err(QueueError::Size { size });
        }
        let table = split::desc_len(size);
        Ok(Self {
            size,
            event_idx: config.event_idx,
            desc: area::resolve(mem, Area::Descriptors, config.desc, table, split::DESC_ALIGN)?,
            avail: area::resolve(
                mem,
                Area::Driver,
                config.driver,
                split::avail_len(size),
                avail_align,
            )?,
            used: area::resolve(
                mem,
                Area::Device,
                config.device,
                split::used_len(size),
                split::USED_ALIGN,
            )?,
            weak_memory: area::weak_memory(mem),
        })
    }

    /// The place in a ring of the entry that an index counts.
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Makes `idx` visible after everything that was stored before (barriers A and B).
    fn store_head(&self, ring: &View<'_>, flags: u16, idx: u16) {
        if planted(Bug::NoRelease) {
            return ring.store_le32(0, word(flags, idx));
        }
        // A store to uncached memory brings its own fence.
        if self.weak_memory && ring.kind() == Kind::Cached {
            fence_full();
        }
        ring.store_release_le32(0, word(flags, idx));
    }
}

/// The index of a ring, with acquire (barriers A and B).
fn load_idx(ring: &View<'_>) -> u16 {
    if planted(Bug::NoAcquire) {
        ring.load_le16(split::RING_IDX)
    } else if ring.is_aligned(4) {
        halves(ring.load_acquire_le32(0))[1]
    } else {
        ring.load_acquire_le16(split::RING_IDX)
    }
}

/// One 16-bit field, by the word around it if that is inside the area.
fn load_half(area: &View<'_>, off: usize) -> u16 {
    let word = off & !3;
    if area.is_aligned(4) && word + 4 <= area.len() {
        halves(area.load_le32(word))[off / 2 % 2]
    } else {
        area.load_le16(off)
    }
}

/// Whether going from index `old` to `new` writes the entry with index `event`, modulo 65536
/// (§2.7.7.2, §2.7.10.1).
fn need_event(event: u16, new: u16, old: u16) -> bool {
    if planted(Bug::EventWrap) {
        return (old..new).contains(&event) && old / 256 == new / 256;
    }
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// One descriptor (§2.7.5), of the main table or of an indirect one.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Reads each octet of it once.
    fn read(table: &View<'_>, index: usize) -> Self {
        let (addr, rest) = area::load_descriptor(table, index);
        let (len, flags, next) = fields(rest);
        Self { addr, len, flags, next }
    }

    fn write(&self, table: &View<'_>, index: usize) {
        area::store_descriptor(table, index, self.addr, rest(self.len, self.flags, self.next));
    }
}
