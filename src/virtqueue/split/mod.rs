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

pub use device::{Chain, DeviceQueue};
pub use driver::DriverQueue;

use super::{Area, QueueConfig, QueueError};
use crate::memory::{BusMemory, Kind, MemoryError, Span, View, fence_full};
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
            desc: area(mem, Area::Descriptors, config.desc, table, split::DESC_ALIGN)?,
            avail: area(mem, Area::Driver, config.driver, split::avail_len(size), avail_align)?,
            used: area(mem, Area::Device, config.device, split::used_len(size), split::USED_ALIGN)?,
            weak_memory: mem
                .regions()
                .iter()
                .any(|r| matches!(r.kind(), Kind::WriteCombined | Kind::Uncached)),
        })
    }

    /// The place in a ring of the entry that an index counts.
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Makes `idx` visible after everything that was stored before (barriers A and B).
    fn store_head(&self, ring: &View<'_>, flags: u16, idx: u16) {
        // A store to uncached memory brings its own fence.
        if self.weak_memory && ring.kind() == Kind::Cached {
            fence_full();
        }
        ring.store_release_le32(0, word(flags, idx));
    }
}

/// Resolves one area, in whole words where the memory takes nothing else.
fn area(mem: &BusMemory, area: Area, addr: u64, len: u32, align: u64) -> Result<Span, QueueError> {
    let bad = |error| QueueError::Area { area, error };
    let span = mem.resolve(addr, len).map_err(bad)?;
    let words_only = mem.kind(span) != Kind::Cached;
    let (len, align) =
        if words_only { (len.next_multiple_of(4), align.max(4)) } else { (len, align) };
    if addr % align != 0 {
        return Err(bad(MemoryError::Misaligned { addr, align }));
    }
    // No access is wider than 8 bytes, and no mapping need be better aligned than that.
    mem.resolve_mapped(addr, len, align.min(8)).map_err(bad)
}

fn view(mem: &BusMemory, span: Span) -> View<'_> {
    mem.view(span).expect("only spans that resolve_mapped gave for this memory are looked at")
}

/// The index of a ring, with acquire (barriers A and B).
fn load_idx(ring: &View<'_>) -> u16 {
    if ring.is_aligned(4) {
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

/// Two 16-bit fields as the word that holds them, the one at the lower address first.
fn word(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// The two 16-bit fields of a word, the one at the lower address first.
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// Whether going from index `old` to `new` writes the entry with index `event`, modulo 65536
/// (§2.7.7.2, §2.7.10.1).
fn need_event(event: u16, new: u16, old: u16) -> bool {
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
        let at = index * split::DESC_LEN as usize;
        let (addr, rest) = if table.is_aligned(8) {
            (table.load_le64(at), table.load_le64(at + 8).to_le_bytes())
        } else {
            // An indirect table: the standard does not say that it must be aligned.
            let (mut addr, mut rest) = ([0; 8], [0; 8]);
            table.copy_to(at, &mut addr);
            table.copy_to(at + 8, &mut rest);
            (u64::from_le_bytes(addr), rest)
        };
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest;
        Self {
            addr,
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    fn write(&self, table: &View<'_>, index: usize) {
        let at = index * split::DESC_LEN as usize;
        table.store_le64(at, self.addr);
        let rest = u64::from(self.len) | u64::from(word(self.flags, self.next)) << 32;
        table.store_le64(at + 8, rest);
    }
}
