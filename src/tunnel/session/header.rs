//! What the other end says of the window and of memory, and whether that will do.

use super::Session;
use crate::memory::{BusMemory, fence_full};
use crate::spec::window as w;
use crate::tunnel::part::{MemoryEntry, Reason, Role};

impl Session {
    /// Driver: whether the device says that its CPU does not reach driver memory.
    pub(super) fn asks_for_window(&self, mem: &BusMemory) -> bool {
        // The flags mean something once the magic is there: they are read after it.
        self.params.role == Role::Driver
            && self.bad_header(mem).is_none()
            && self.window_view(mem).load_le32(w::AT_FLAGS) & w::FLAG_DMA_ONLY != 0
    }

    pub(super) fn bad_header(&self, mem: &BusMemory) -> Option<Reason> {
        let window = self.window_view(mem);
        let magic = window.load_le64(w::AT_MAGIC);
        fence_full();
        let (version, len) = (window.load_le32(w::AT_VERSION), window.load_le64(w::AT_WINDOW_LEN));
        match () {
            () if magic == u64::MAX => Some(Reason::AllOnes),
            () if magic != w::MAGIC => Some(Reason::NoMagic),
            () if version != w::LAYOUT_VERSION => Some(Reason::Version(version)),
            () if len != u64::from(self.params.window_len) => Some(Reason::WindowLen(len)),
            () => None,
        }
    }

    /// Device end: an entry of the memory table that this end cannot reach.
    pub(super) fn bad_table_entry(&self, mem: &BusMemory) -> Option<MemoryEntry> {
        if self.params.role == Role::Driver {
            return None;
        }
        let window = self.window_view(mem);
        (0..w::MEMORY_ENTRIES)
            .map(|i| w::MEMORY_TABLE + i * w::MEMORY_ENTRY_LEN)
            .map(|at| MemoryEntry {
                bus_addr: window.load_le64(at),
                len: window.load_le64(at + 8),
                kind: window.load_le32(at + 16),
            })
            .find(|e| {
                let reachable =
                    u32::try_from(e.len).is_ok_and(|l| mem.resolve(e.bus_addr, l).is_ok());
                e.kind != w::MEMORY_NONE && !reachable
            })
    }
}
