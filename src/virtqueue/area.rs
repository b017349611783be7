//! The pieces of memory that a virtqueue lies in, and the words in them.

use super::{Area, QueueError};
use crate::memory::{BusMemory, Kind, MemoryError, Span, View};
use crate::spec::split;

/// Size of a descriptor, of either format.
const DESC_LEN: usize = split::DESC_LEN as usize;

/// Resolves one area, in whole words where the memory takes nothing else.
pub(super) fn resolve(
    mem: &BusMemory,
    area: Area,
    addr: u64,
    len: u32,
    align: u64,
) -> Result<Span, QueueError> {
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

/// Resolves an indirect table. The standard asks for no alignment; memory that takes words only does.
pub(super) fn resolve_table(mem: &BusMemory, addr: u64, len: u32) -> Result<Span, MemoryError> {
    let span = mem.resolve(addr, len)?;
    let align = if mem.kind(span) == Kind::Cached { 1 } else { 8 };
    mem.resolve_mapped(addr, len, align)
}

/// Whether some memory is not ordered by a release store alone.
pub(super) fn weak_memory(mem: &BusMemory) -> bool {
    mem.regions().iter().any(|r| matches!(r.kind(), Kind::WriteCombined | Kind::Uncached))
}

/// The bytes of an area.
pub(super) fn view(mem: &BusMemory, span: Span) -> View<'_> {
    mem.view(span).expect("only spans that resolve_mapped gave for this memory are looked at")
}

/// Has the CPU load the start of a buffer that is to be read or written, if there is one.
pub(super) fn prefetch(mem: &BusMemory, addr: u64, len: u32, to_write: bool) {
    match mem.resolve(addr, len).ok().and_then(|span| mem.view(span)) {
        Some(view) if to_write => view.prefetch_to_write(),
        Some(view) => view.prefetch(),
        None => {}
    }
}

/// Zeroes an area, whose length is even, in its widest whole accesses.
pub(super) fn clear(area: &View<'_>) {
    let words = area.len() & !3;
    for off in (0..words).step_by(4) {
        area.store_le32(off, 0);
    }
    if words < area.len() {
        area.store_le16(words, 0);
    }
}

/// Two 16-bit fields as the word that holds them, the one at the lower address first.
pub(super) fn word(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// The two 16-bit fields of a word, the one at the lower address first.
pub(super) fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// The two words of the descriptor at `index`, each octet read once.
pub(super) fn load_descriptor(table: &View<'_>, index: usize) -> (u64, u64) {
    let at = index * DESC_LEN;
    if table.is_aligned(8) {
        return (table.load_le64(at), table.load_le64(at + 8));
    }
    // An indirect table in cached memory.
    let (mut addr, mut rest) = ([0; 8], [0; 8]);
    table.copy_to(at, &mut addr);
    table.copy_to(at + 8, &mut rest);
    (u64::from_le_bytes(addr), u64::from_le_bytes(rest))
}

/// Writes the descriptor at `index` with relaxed stores.
pub(super) fn store_descriptor(table: &View<'_>, index: usize, addr: u64, rest: u64) {
    let at = index * DESC_LEN;
    table.store_le64(at, addr);
    table.store_le64(at + 8, rest);
}

/// The second word of a descriptor: `len` and the two 16-bit fields after it.
pub(super) fn rest(len: u32, low: u16, high: u16) -> u64 {
    u64::from(len) | u64::from(word(low, high)) << 32
}

/// What the second word of a descriptor holds.
pub(super) fn fields(rest: u64) -> (u32, u16, u16) {
    let [l0, l1, l2, l3, a0, a1, b0, b1] = rest.to_le_bytes();
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    (len, u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1]))
}
