//! The driver half: makes chains of buffers available and takes used ones back.
//!
//! It reads the used ring only. What it wrote itself it keeps a private copy of, because the
//! descriptor table and the available ring may be far, and because memory that the peer can write is
//! no place to keep one's books.
//!
//! In order (§2.7.9), descriptors are taken and given back as the ring goes round, so the private
//! copy of the available ring tells which chain is used next, and an entry for a chain further on
//! stands for all before it.
//!
//! Invariants: every descriptor is either free, on the list that starts at `free_head`, or belongs
//! to one chain in `chains`, which is indexed by the chain's head. `next_used`, `seen`, `published`
//! and `added` never overtake each other in this order, and `added - next_used` chains are out, so
//! at most `size`: an entry of the available ring is never written before it has been consumed.

use super::{Descriptor, Layout, load_half, load_idx, need_event};
use crate::memory::{BusMemory, View, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::split;
use crate::virtqueue::area::{clear, view, word};
use crate::virtqueue::chain::writable_len;
use crate::virtqueue::tables::Tables;
use crate::virtqueue::{Buffer, Full, QueueConfig, QueueError, Used};

/// What is known of a chain from `add` until it comes back.
#[derive(Clone, Copy, Debug)]
struct Posted {
    token: u16,
    /// Its available index.
    index: u16,
    /// Its last descriptor in the main table.
    last: u16,
    /// How many descriptors of the main table it takes.
    descriptors: u16,
    /// Bytes that the device may write.
    writable: u32,
    /// Whether the device knows of it.
    published: bool,
}

/// The driver half of a running queue; its calls are those of
/// [`DriverQueue`](crate::virtqueue::DriverQueue).
#[derive(Debug)]
pub(crate) struct DriverHalf {
    layout: Layout,
    indirect: bool,
    in_order: bool,
    tables: Option<Tables>,
    /// The descriptor after each one, in its chain or in the list of free ones.
    next: Vec<u16>,
    free_head: u16,
    free: u16,
    /// Chains in use, by head.
    chains: Vec<Option<Posted>>,
    /// What the available ring holds: the entries, then `used_event`, then what makes a whole word.
    ring: Vec<u16>,
    /// Available index of the next chain to be added.
    added: u16,
    /// The available index as the device sees it.
    published: u16,
    /// Used index as last loaded.
    seen: u16,
    /// Used index of the next entry to be taken.
    next_used: u16,
    /// In order: the entry that is being taken for several chains, by its id and length.
    batch: Option<(u16, u32)>,
    /// `flags` of the available ring.
    flags: u16,
    /// Whether the device was asked to notify, and has not yet had reason to.
    armed: bool,
    fault: Option<QueueError>,
}

impl DriverHalf {
    pub(crate) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        // Ring entries are written two at a time, so our own available ring begins at a word.
        let layout = Layout::new(config, mem, 4)?;
        clear(&view(mem, layout.avail));
        clear(&view(mem, layout.used));
        let size = config.size;
        Ok(Self {
            indirect: config.indirect,
            in_order: config.in_order,
            tables: None,
            // In order, the descriptors are a ring (§2.7.5.2); else the list of free ones ends.
            next: (1..size).chain([if config.in_order { 0 } else { size }]).collect(),
            free_head: 0,
            free: size,
            chains: vec![None; size.into()],
            ring: vec![0; (usize::from(size) + 1).next_multiple_of(2)],
            added: 0,
            published: 0,
            seen: 0,
            next_used: 0,
            batch: None,
            flags: 0,
            armed: true, // cleared rings ask for notifications
            fault: None,
            layout,
        })
    }

    pub(crate) fn set_indirect_tables(
        &mut self,
        mem: &BusMemory,
        base: u64,
        entries: u16,
    ) -> Result<(), QueueError> {
        assert!(self.free == self.layout.size, "indirect tables are set before the first chain");
        if !self.indirect {
            return Ok(());
        }
        self.tables = Some(Tables::new(mem, base, self.layout.size, entries)?);
        Ok(())
    }

    pub(crate) fn size(&self) -> u16 {
        self.layout.size
    }

    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    pub(crate) fn add(
        &mut self,
        mem: &BusMemory,
        readable: &[Buffer],
        writable: &[Buffer],
        token: u16,
    ) -> Result<(), Full> {
        let count = u16::try_from(readable.len() + writable.len()).map_err(|_| Full)?;
        let bytes = writable_len(readable, writable);
        let tables = self.tables.filter(|tables| tables.take(count));
        let descriptors = if tables.is_some() { 1 } else { count };
        if descriptors > self.free || self.fault.is_some() {
            return Err(Full);
        }
        // The device has read the index; that it comes back is not waited for when it is stored.
        view(mem, self.layout.avail.take(4)).prefetch_to_write();
        let buffers = || {
            let readable = readable.iter().map(|b| (b, 0));
            readable.chain(writable.iter().map(|b| (b, split::DESC_F_WRITE)))
        };
        let head = self.free_head;
        let last = match tables {
            Some(tables) => self.write_indirect(mem, tables, count, buffers()),
            None => self.write_direct(mem, count, buffers()),
        };
        self.free_head = self.next[usize::from(last)];
        self.free -= descriptors;
        self.chains[usize::from(head)] = Some(Posted {
            token,
            index: self.added,
            last,
            descriptors,
            writable: bytes,
            published: false,
        });
        let slot = self.layout.slot(self.added);
        self.ring[slot] = head;
        self.added = self.added.wrapping_add(1);
        Ok(())
    }

    /// Writes `count` buffers to the first free descriptors; returns the last of them.
    fn write_direct<'b>(
        &self,
        mem: &BusMemory,
        count: u16,
        buffers: impl Iterator<Item = (&'b Buffer, u16)>,
    ) -> u16 {
        let table = view(mem, self.layout.desc);
        let mut at = self.free_head;
        for (i, (buffer, flags)) in (1..=count).zip(buffers) {
            let next = self.next[usize::from(at)];
            let Buffer { addr, len } = *buffer;
            if i == count {
                Descriptor { addr, len, flags, next: 0 }.write(&table, at.into());
                break;
            }
            let flags = flags | split::DESC_F_NEXT;
            Descriptor { addr, len, flags, next }.write(&table, at.into());
            at = next;
        }
        at
    }

    /// Writes `count` buffers to the indirect table of the first free descriptor; returns that.
    fn write_indirect<'b>(
        &self,
        mem: &BusMemory,
        tables: Tables,
        count: u16,
        buffers: impl Iterator<Item = (&'b Buffer, u16)>,
    ) -> u16 {
        let head = self.free_head;
        let (addr, table) = tables.get(mem, head);
        for (i, (buffer, flags)) in (1..=count).zip(buffers) {
            let Buffer { addr, len } = *buffer;
            let (flags, next) =
                if i < count { (flags | split::DESC_F_NEXT, i) } else { (flags, 0) };
            Descriptor { addr, len, flags, next }.write(&table, usize::from(i) - 1);
        }
        let len = split::DESC_LEN * u32::from(count);
        Descriptor { addr, len, flags: split::DESC_F_INDIRECT, next: 0 }
            .write(&view(mem, self.layout.desc), head.into());
        head
    }

    pub(crate) fn publish(&mut self, mem: &BusMemory) -> bool {
        let old = self.published;
        if old == self.added || self.fault.is_some() {
            return false;
        }
        let avail = view(mem, self.layout.avail);
        let mut index = old;
        if planted(Bug::IndexBeforeEntries) {
            self.layout.store_head(&avail, self.flags, self.added);
        }
        while index != self.added {
            let slot = self.layout.slot(index);
            if let Some(chain) = &mut self.chains[usize::from(self.ring[slot])] {
                chain.published = true;
            }
            index = index.wrapping_add(1);
            if slot % 2 == 1 || index == self.added {
                self.store_entry(&avail, slot);
            }
        }
        self.published = self.added;
        // Barrier A: pairs with the load of the index in DeviceHalf::look.
        self.layout.store_head(&avail, self.flags, self.published);
        // Barrier C: pairs with the fence in DeviceHalf::arm_beyond.
        if !planted(Bug::DriverPublishFence) {
            fence_full();
        }
        let used = view(mem, self.layout.used);
        if self.layout.event_idx {
            let event = load_half(&used, split::avail_event(self.layout.size));
            need_event(event, self.published, old)
        } else {
            load_half(&used, 0) & split::USED_F_NO_NOTIFY == 0
        }
    }

    /// Writes an entry of the available ring (or `used_event`, which stands behind the last one)
    /// with its neighbour, where the two are a word of the area.
    fn store_entry(&self, avail: &View<'_>, slot: usize) {
        let pair = slot & !1;
        let off = split::RING_ENTRIES + 2 * pair;
        if off + 4 <= avail.len() {
            avail.store_le32(off, word(self.ring[pair], self.ring[pair + 1]));
        } else {
            avail.store_le16(off, self.ring[pair]);
        }
    }

    pub(crate) fn used_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // Barrier B: pairs with the store of the index in DeviceHalf::publish.
        let idx = load_idx(&view(mem, self.layout.used));
        let by = idx.wrapping_sub(self.seen);
        let most = self.published.wrapping_sub(self.seen);
        if by > most {
            return self.fail(QueueError::UsedJump { by, most });
        }
        self.seen = idx;
        Ok(idx.wrapping_sub(self.next_used))
    }

    pub(crate) fn pop_used(&mut self, mem: &BusMemory) -> Result<Option<Used>, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.next_used == self.seen && self.used_ready(mem)? == 0 {
            return Ok(None);
        }
        let (last, last_len) = match self.batch.take() {
            Some(entry) => entry,
            None => self.read_entry(mem)?,
        };
        let head = if self.in_order { self.ring[self.layout.slot(self.next_used)] } else { last };
        let chain = self.chains[usize::from(head)].take().expect("the chains in the ring are out");
        let len = if head == last {
            last_len
        } else {
            // Without an entry of its own it has been used completely (§2.7.9).
            self.batch = Some((last, last_len));
            chain.writable
        };
        if !self.in_order {
            self.next[usize::from(chain.last)] = self.free_head;
            self.free_head = head;
        }
        self.free += chain.descriptors;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { token: chain.token, len }))
    }

    /// The used entry that comes next, checked: a chain that the device holds, and a length.
    fn read_entry(&mut self, mem: &BusMemory) -> Result<(u16, u32), QueueError> {
        let used = view(mem, self.layout.used);
        let at = split::RING_ENTRIES + split::USED_ENTRY_LEN * self.layout.slot(self.next_used);
        let (id, len) = (used.load_le32(at), used.load_le32(at + 4));

        let head = u16::try_from(id).ok().filter(|head| *head < self.layout.size);
        let chain = head.and_then(|head| Some((head, self.chains[usize::from(head)]?)));
        let Some((head, chain)) = chain.filter(|(_, chain)| chain.published) else {
            return self.fail(QueueError::UsedId { id });
        };
        if len > chain.writable {
            return self.fail(QueueError::UsedLength { id, len, most: chain.writable });
        }
        let older = chain.index.wrapping_sub(self.next_used);
        let most = self.seen.wrapping_sub(self.next_used);
        if self.in_order && older >= most {
            return self.fail(QueueError::UsedOrder { id, chains: older + 1, most });
        }
        Ok((head, len))
    }

    pub(crate) fn arm(&mut self, mem: &BusMemory) -> Result<bool, QueueError> {
        if self.used_ready(mem)? > 0 {
            return Ok(true);
        }
        let avail = view(mem, self.layout.avail);
        if self.layout.event_idx {
            self.store_event(&avail, self.next_used);
        } else if self.flags != 0 {
            self.flags = 0;
            self.layout.store_head(&avail, self.flags, self.published);
        }
        self.armed = true;
        // Barrier D: pairs with the fence in DeviceHalf::publish.
        if !planted(Bug::DriverArmFence) {
            fence_full();
        }
        Ok(self.used_ready(mem)? > 0)
    }

    pub(crate) fn disarm(&mut self, mem: &BusMemory) {
        if !self.armed || self.fault.is_some() {
            return;
        }
        self.armed = false;
        let avail = view(mem, self.layout.avail);
        if !self.layout.event_idx {
            self.flags = split::AVAIL_F_NO_INTERRUPT;
            self.layout.store_head(&avail, self.flags, self.published);
        } else if self.ring[usize::from(self.layout.size)] == self.seen {
            // The entry asked for has not been written yet: ask for one long past instead.
            self.store_event(&avail, self.seen.wrapping_sub(1));
        }
    }

    fn store_event(&mut self, avail: &View<'_>, event: u16) {
        let slot = usize::from(self.layout.size);
        if self.ring[slot] != event {
            self.ring[slot] = event;
            self.store_entry(avail, slot);
        }
    }

    fn fail<T>(&mut self, fault: QueueError) -> Result<T, QueueError> {
        self.fault = Some(fault);
        Err(fault)
    }
}
