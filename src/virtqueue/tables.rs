//! The driver's memory for indirect tables.

use super::{Area, QueueError, area};
use crate::memory::{BusMemory, Span, View};
use crate::spec::split::{DESC_ALIGN, DESC_LEN};

/// As many tables as the queue has descriptors, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    base: u64,
    span: Span,
    entries: u16,
    /// Most entries that are used of each: no chain is longer than the queue.
    most: u16,
}

impl Tables {
    /// Tables of `entries` for a queue of `size`, from bus address `base` on.
    pub(super) fn new(
        mem: &BusMemory,
        base: u64,
        size: u16,
        entries: u16,
    ) -> Result<Self, QueueError> {
        let table = u64::from(DESC_LEN) * u64::from(entries);
        // More than 4 GiB of tables lie in no region that can be resolved.
        let len = u32::try_from(table * u64::from(size)).unwrap_or(u32::MAX);
        let span = area::resolve(mem, Area::IndirectTables, base, len, DESC_ALIGN)?;
        Ok(Self { base, span, entries, most: entries.min(size) })
    }

    /// Whether a chain of `count` buffers goes into a table: one buffer is better off without, and
    /// too many do not fit.
    pub(super) fn take(&self, count: u16) -> bool {
        (2..=self.most).contains(&count)
    }

    /// Bus address and bytes of a table.
    pub(super) fn get<'m>(&self, mem: &'m BusMemory, index: u16) -> (u64, View<'m>) {
        let len = DESC_LEN as usize * usize::from(self.entries);
        let offset = len * usize::from(index);
        (self.base + offset as u64, area::view(mem, self.span.skip(offset).take(len)))
    }
}
