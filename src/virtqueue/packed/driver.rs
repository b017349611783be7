//! The driver half: makes chains of buffers available and takes used ones back.
//!
//! It reads of the ring only the word in which the next used descriptor is to appear; what it wrote
//! itself it keeps a private copy of, because the device writes over it, and because memory that the
//! peer can write is no place to keep one's books.
//!
//! In order (§2.8.8), a used descriptor for a chain further on stands for all before it. Ids are
//! given out as they come back, so then they go round too: the next to be used is known.
//!
//! Invariants: every id is either in `free_ids` or names a chain in `chains`. The chains that are
//! out take `size - free` descriptors, those from `next_used` to `next_avail`, whether they still
//! stand there or the device has written over them.

use std::collections::VecDeque;

use super::{Cursor, Events, Layout, lap, word_at};
use crate::memory::{BusMemory, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::packed;
use crate::virtqueue::area::{clear, fields, rest, store_descriptor, view};
use crate::virtqueue::chain::writable_len;
use crate::virtqueue::tables::Tables;
use crate::virtqueue::{Buffer, Full, QueueConfig, QueueError, Used};

/// What is known of a chain from `add` until it comes back.
#[derive(Clone, Copy, Debug)]
struct Posted {
    token: u16,
    /// How many descriptors of the ring it takes.
    descriptors: u16,
    /// Bytes that the device may write.
    writable: u32,
    /// How many chains were added before it.
    number: u64,
}

/// The driver half of a running queue; its calls are those of
/// [`DriverQueue`](crate::virtqueue::DriverQueue).
#[derive(Debug)]
pub(crate) struct DriverHalf {
    layout: Layout,
    indirect: bool,
    in_order: bool,
    tables: Option<Tables>,
    /// Chains in use, by id.
    chains: Vec<Option<Posted>>,
    free_ids: VecDeque<u16>,
    /// Free descriptors.
    free: u16,
    /// How many chains were ever added, and how many of them the device knows of.
    added: u64,
    published: u64,
    /// How many chains ever came back.
    taken: u64,
    /// Where the next descriptor is made available.
    next_avail: Cursor,
    /// Where the unpublished descriptors begin, and how many they are.
    batch: Cursor,
    batch_len: u16,
    /// The second word of the descriptor at `batch`, which publishes it.
    first: u64,
    /// Where the next used descriptor is to appear.
    next_used: Cursor,
    /// In order: the id of the chain that is used next.
    oldest: u16,
    /// In order: the used descriptor that is being taken for several chains, by its id and length.
    used_batch: Option<(u16, u32)>,
    /// What the device was told of notifications.
    events: Events,
    fault: Option<QueueError>,
}

impl DriverHalf {
    pub(crate) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        let layout = Layout::new(config, mem)?;
        clear(&view(mem, layout.ring));
        clear(&view(mem, layout.driver_event));
        clear(&view(mem, layout.device_event));
        let size = config.size;
        Ok(Self {
            indirect: config.indirect,
            in_order: config.in_order,
            tables: None,
            chains: vec![None; size.into()],
            free_ids: (0..size).collect(),
            free: size,
            added: 0,
            published: 0,
            taken: 0,
            next_avail: Cursor::START,
            batch: Cursor::START,
            batch_len: 0,
            first: 0,
            next_used: Cursor::START,
            oldest: 0,
            used_batch: None,
            events: Events::Enabled, // as the cleared areas say
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
        let buffers = {
            let readable = readable.iter().map(|b| (b, 0));
            readable.chain(writable.iter().map(|b| (b, packed::DESC_F_WRITE)))
        };
        let id = self.free_ids.pop_front().expect("there are as many ids as descriptors");
        match tables {
            Some(tables) => self.write_indirect(mem, tables, id, count, buffers),
            None => self.write_list(mem, id, count, buffers),
        }
        let number = self.added;
        self.chains[usize::from(id)] = Some(Posted { token, descriptors, writable: bytes, number });
        self.added += 1;
        self.free -= descriptors;
        Ok(())
    }

    /// Writes `count` buffers to the next descriptors, the first of them last.
    fn write_list<'b>(
        &mut self,
        mem: &BusMemory,
        id: u16,
        count: u16,
        buffers: impl Iterator<Item = (&'b Buffer, u16)>,
    ) {
        let mut head = None;
        let mut at = self.next_avail;
        for (i, (buffer, flags)) in (1..=count).zip(buffers) {
            let next = if i < count { packed::DESC_F_NEXT } else { 0 };
            let word = rest(buffer.len, id, flags | next | at.available());
            match head {
                None => head = Some((buffer.addr, word)),
                Some(_) => {
                    store_descriptor(&view(mem, self.layout.ring), at.at.into(), buffer.addr, word);
                }
            }
            at = at.advance(1, self.layout.size);
        }
        let (addr, word) = head.expect("a chain has a buffer");
        self.write_head(mem, addr, word, count);
    }

    /// Writes `count` buffers to the indirect table of `id`, and the descriptor that refers to it.
    fn write_indirect<'b>(
        &mut self,
        mem: &BusMemory,
        tables: Tables,
        id: u16,
        count: u16,
        buffers: impl Iterator<Item = (&'b Buffer, u16)>,
    ) {
        let (addr, table) = tables.get(mem, id);
        for (i, (buffer, flags)) in buffers.enumerate() {
            store_descriptor(&table, i, buffer.addr, rest(buffer.len, 0, flags));
        }
        let len = packed::DESC_LEN * u32::from(count);
        let flags = packed::DESC_F_INDIRECT | self.next_avail.available();
        self.write_head(mem, addr, rest(len, id, flags), 1);
    }

    /// Writes the first of a chain's `count` descriptors; the first of a batch waits for `publish`.
    fn write_head(&mut self, mem: &BusMemory, addr: u64, word: u64, count: u16) {
        let ring = view(mem, self.layout.ring);
        let at = self.next_avail.at;
        ring.store_le64(word_at(at) - packed::DESC_WORD, addr);
        if self.batch_len == 0 {
            self.first = word;
        } else {
            // A device that looks further than it must finds no list that is not whole (§2.8.17).
            self.layout.store_first(mem, at, word);
        }
        self.batch_len += count;
        self.next_avail = self.next_avail.advance(count, self.layout.size);
    }

    pub(crate) fn publish(&mut self, mem: &BusMemory) -> bool {
        if self.batch_len == 0 || self.fault.is_some() {
            return false;
        }
        // Barrier A: pairs with the load of a head's flags in DeviceHalf::fetch.
        self.layout.store_first(mem, self.batch.at, self.first);
        // Barrier C: pairs with the fence in DeviceHalf::arm_beyond.
        if !planted(Bug::DriverPublishFence) {
            fence_full();
        }
        let events = Events::load(&view(mem, self.layout.device_event), &self.layout);
        let wanted = events.want(self.batch, self.batch_len, self.layout.size);
        self.published = self.added;
        self.batch = self.next_avail;
        self.batch_len = 0;
        wanted
    }

    /// The second word of the next used descriptor, if it is there.
    fn look(&self, mem: &BusMemory) -> Result<Option<u64>, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.taken == self.published {
            return Ok(None); // the device has nothing that it could use
        }
        // Barrier B: pairs with the store of the first flags in DeviceHalf::publish.
        let word = view(mem, self.layout.ring).load_acquire_le64(word_at(self.next_used.at));
        let (_, _, flags) = fields(word);
        Ok((lap(flags) == self.next_used.used()).then_some(word))
    }

    pub(crate) fn used_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        let there = self.used_batch.is_some() || self.look(mem)?.is_some();
        Ok(there.into())
    }

    pub(crate) fn pop_used(&mut self, mem: &BusMemory) -> Result<Option<Used>, QueueError> {
        let (last, last_len) = match self.used_batch.take() {
            Some(entry) => entry,
            None => match self.look(mem)? {
                Some(word) => self.check_used(word)?,
                None => return Ok(None),
            },
        };
        let id = if self.in_order { self.oldest } else { last };
        let chain = self.chains[usize::from(id)].take().expect("the oldest chain is out");
        let len = if id == last {
            last_len
        } else {
            // Without a descriptor of its own it has been used completely (§2.8.8).
            self.used_batch = Some((last, last_len));
            chain.writable
        };
        self.oldest = if id + 1 == self.layout.size { 0 } else { id + 1 };
        self.free_ids.push_back(id);
        self.free += chain.descriptors;
        self.taken += 1;
        self.next_used = self.next_used.advance(chain.descriptors, self.layout.size);
        Ok(Some(Used { token: chain.token, len }))
    }

    /// The id and length of a used descriptor, checked: a chain that the device holds, and no more
    /// than it can write there.
    fn check_used(&mut self, word: u64) -> Result<(u16, u32), QueueError> {
        let (len, id, flags) = fields(word);
        let chain = self.chains.get(usize::from(id)).copied().flatten();
        let Some(chain) = chain.filter(|chain| chain.number < self.published) else {
            return self.fail(QueueError::UsedId { id: id.into() });
        };
        if len <= chain.writable {
            // With or without WRITE: there are devices that write bytes and do not set it.
            return Ok((id, len));
        }
        if flags & packed::DESC_F_WRITE == 0 {
            return Ok((id, 0)); // nothing was written, and the length is reserved (§2.8.4)
        }
        self.fail(QueueError::UsedLength { id: id.into(), len, most: chain.writable })
    }

    pub(crate) fn arm(&mut self, mem: &BusMemory) -> Result<bool, QueueError> {
        if self.used_ready(mem)? > 0 {
            return Ok(true);
        }
        let wanted =
            if self.layout.event_idx { Events::At(self.next_used) } else { Events::Enabled };
        self.say(mem, wanted);
        // Barrier D: pairs with the fence in DeviceHalf::publish.
        if !planted(Bug::DriverArmFence) {
            fence_full();
        }
        Ok(self.used_ready(mem)? > 0)
    }

    pub(crate) fn disarm(&mut self, mem: &BusMemory) {
        if self.fault.is_none() {
            self.say(mem, Events::Disabled);
        }
    }

    fn say(&mut self, mem: &BusMemory, events: Events) {
        if self.events != events {
            self.events = events;
            events.store(&view(mem, self.layout.driver_event));
        }
    }

    fn fail<T>(&mut self, fault: QueueError) -> Result<T, QueueError> {
        self.fault = Some(fault);
        Err(fault)
    }
}
