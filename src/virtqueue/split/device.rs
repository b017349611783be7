//! The device half: takes available chains, and gives them back used.
//!
//! It reads the descriptor table and the available ring, each word once, and never the used ring,
//! which may be far, but once where it starts in the middle of it. Heads and their descriptors are copied
//! some chains ahead. What a chain says is resolved to spans when it is popped; from then on nobody looks
//! at the descriptors again.
//!
//! In order (§2.7.9), it still writes an entry for each chain: drivers must take that, and it says
//! how many bytes were written to each.
//!
//! Invariants: `pushed`, `next_avail`, `copied` and `seen` never overtake each other in this order, nor
//! `published` `pushed`. The chains from `pushed` to `next_avail` (by count, not by name: they may
//! be completed in any order) are held by this end, but for `lost` ones, which somebody took before it
//! started; each is `Some` in `held`.

use super::{Descriptor, Layout, load_half, load_idx, need_event};
use crate::memory::{BusMemory, View, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::split;
use crate::virtqueue::area::{self, view, word};
use crate::virtqueue::{At, Chain, Journal, Position, QueueConfig, QueueError, Start};

/// Chains that are looked at together.
const AHEAD: u16 = 8;

/// A descriptor table that is being walked: the main one or an indirect one.
struct Table<'m> {
    view: View<'m>,
    entries: u32,
    indirect: bool,
}

/// The device half of a running queue; its calls are those of
/// [`DeviceQueue`](crate::virtqueue::DeviceQueue).
#[derive(Debug)]
pub(crate) struct DeviceHalf {
    layout: Layout,
    indirect: bool,
    in_order: bool,
    /// Writable bytes of the chains that were popped and not pushed, by head.
    held: Vec<Option<u32>>,
    /// Heads by the place in the available ring where they were found, each with its descriptor, if it has
    /// one.
    heads: Vec<(u16, Option<Descriptor>)>,
    /// Available index as last loaded.
    seen: u16,
    /// Available index of the next chain to be popped.
    next_avail: u16,
    /// Available index up to which heads and their descriptors were copied.
    copied: u16,
    /// Chains that somebody took before this half started, and did not use.
    lost: u16,
    /// Used index of the next entry to be written.
    pushed: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// `flags` of the used ring.
    flags: u16,
    /// What `avail_event` holds.
    event: u16,
    /// Whether the driver was asked to notify.
    armed: bool,
    /// The driver may not have been told of what the half before this one published.
    untold: bool,
    journal: Option<Journal>,
    fault: Option<QueueError>,
}

impl DeviceHalf {
    pub(crate) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        let layout = Layout::new(config, mem, split::AVAIL_ALIGN)?;
        let mut queue = Self::over(layout, config, 0, 0);
        if config.event_idx {
            // A driver need only clear `flags`.
            queue.store_event(&view(mem, queue.layout.used), 0);
        }
        Ok(queue)
    }

    pub(crate) fn new_at(
        config: &QueueConfig,
        mem: &BusMemory,
        start: Start,
    ) -> Result<Self, QueueError> {
        let layout = Layout::new(config, mem, split::AVAIL_ALIGN)?;
        let Start { at, journal } = start;
        if let Some(journal) = &journal {
            journal.suits(config.size, false)?;
        }
        let used = view(mem, layout.used);
        let position = match at {
            At::Position(position) => position,
            At::Base(base) => {
                let avail = u16::try_from(base).map_err(|_| QueueError::SplitBase { base })?;
                Position::split(avail, load_idx(&used))
            }
            At::Crash { .. } => {
                journal.as_ref().map_or(Ok(()), Journal::check_split)?;
                let idx = load_idx(&used);
                Position::split(idx, idx)
            }
        };
        let Position::Split { avail, used: pushed } = position else {
            return Err(QueueError::PositionFormat { position });
        };
        let in_order = config.in_order || journal.is_some();
        let lost = position.out(config.size, in_order)?;
        let mut queue = Self::over(layout, config, avail, pushed);
        (queue.lost, queue.in_order, queue.untold) = (lost, in_order, true);
        // The half before may have asked for no notifications.
        queue.layout.store_head(&used, queue.flags, queue.published);
        if config.event_idx {
            queue.store_event(&used, avail);
        }
        if let Some(journal) = &journal {
            journal.start_split(pushed);
        }
        queue.journal = journal;
        Ok(queue)
    }

    /// A half at these indices, which has asked for notifications.
    fn over(layout: Layout, config: &QueueConfig, avail: u16, used: u16) -> Self {
        Self {
            indirect: config.indirect,
            in_order: config.in_order,
            held: vec![None; config.size.into()],
            heads: vec![(0, None); config.size.into()],
            seen: avail,
            next_avail: avail,
            copied: avail,
            lost: 0,
            pushed: used,
            published: used,
            flags: 0,
            event: avail,
            armed: true, // cleared rings ask for notifications
            untold: false,
            journal: None,
            fault: None,
            layout,
        }
    }

    pub(crate) fn position(&self) -> Position {
        Position::split(self.published.wrapping_add(self.lost), self.published)
    }

    pub(crate) fn size(&self) -> u16 {
        self.layout.size
    }

    pub(crate) fn avail_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        self.look(mem)?;
        Ok(self.waiting())
    }

    fn look(&mut self, mem: &BusMemory) -> Result<(), QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // Barrier A: pairs with the store of the index in DriverHalf::publish.
        let idx = load_idx(&view(mem, self.layout.avail));
        let by = idx.wrapping_sub(self.seen);
        // At most `size` chains are out at any time: those seen but not popped, and those held.
        let most = self.layout.size - self.seen.wrapping_sub(self.pushed);
        if by > most {
            return self.fail(QueueError::AvailJump { by, most });
        }
        self.seen = idx;
        Ok(())
    }

    pub(crate) fn out(&self) -> u16 {
        self.seen.wrapping_sub(self.pushed)
    }

    /// Chains seen and not popped.
    fn waiting(&self) -> u16 {
        self.seen.wrapping_sub(self.next_avail)
    }

    pub(crate) fn pop(&mut self, mem: &BusMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.waiting() == 0 && self.avail_ready(mem)? == 0 {
            return Ok(false);
        }
        if self.copied == self.next_avail {
            self.look_ahead(mem);
        }
        let (head, first) = self.heads[self.layout.slot(self.next_avail)];
        chain.clear(head);
        if let Err(fault) = self.walk(mem, chain, first) {
            chain.clear(head);
            return self.fail(fault);
        }
        self.held[usize::from(head)] = Some(chain.writable_len());
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    /// Copies the heads and first descriptors of the next chains that were seen, and has the CPU load their
    /// buffers: loads that wait for another CPU's lines then do so together.
    fn look_ahead(&mut self, mem: &BusMemory) {
        let (avail, table) = (view(mem, self.layout.avail), view(mem, self.layout.desc));
        for _ in 0..AHEAD.min(self.seen.wrapping_sub(self.copied)) {
            let slot = self.layout.slot(self.copied);
            let head = load_half(&avail, split::RING_ENTRIES + 2 * slot);
            let first = (head < self.layout.size).then(|| Descriptor::read(&table, head.into()));
            if let Some(d) = first.filter(|d| d.flags & split::DESC_F_INDIRECT == 0) {
                area::prefetch(mem, d.addr, d.len, d.flags & split::DESC_F_WRITE != 0);
            }
            self.heads[slot] = (head, first);
            self.copied = self.copied.wrapping_add(1);
        }
    }

    /// Collects the buffers of the chain that starts at `chain.head`, by the descriptor `first`.
    fn walk(
        &self,
        mem: &BusMemory,
        chain: &mut Chain,
        first: Option<Descriptor>,
    ) -> Result<(), QueueError> {
        let head = chain.head;
        let mut d = first.ok_or(QueueError::Head { head })?;
        if self.held[usize::from(head)].is_some() {
            return Err(QueueError::HeadTwice { head });
        }
        let mut table = Table {
            view: view(mem, self.layout.desc),
            entries: self.layout.size.into(),
            indirect: false,
        };
        let mut left = self.layout.size;
        loop {
            if d.flags & split::DESC_F_INDIRECT != 0 {
                table = self.enter(mem, head, &table, &d)?;
                d = Descriptor::read(&table.view, 0);
                if d.flags & split::DESC_F_INDIRECT != 0 {
                    return Err(QueueError::IndirectNested { head });
                }
            }
            left = left.checked_sub(1).ok_or(QueueError::ChainTooLong { head })?;
            chain.take(mem, d.addr, d.len, d.flags & split::DESC_F_WRITE != 0)?;
            if d.flags & split::DESC_F_NEXT == 0 {
                return Ok(());
            }
            let next = d.next;
            if u32::from(next) >= table.entries {
                return Err(QueueError::Next { head, next });
            }
            d = Descriptor::read(&table.view, next.into());
        }
    }

    /// The indirect table that `d`, a descriptor of `table`, refers to (§2.7.5.3).
    fn enter<'m>(
        &self,
        mem: &'m BusMemory,
        head: u16,
        table: &Table<'_>,
        d: &Descriptor,
    ) -> Result<Table<'m>, QueueError> {
        if !self.indirect {
            return Err(QueueError::IndirectNotNegotiated { head });
        }
        if table.indirect {
            return Err(QueueError::IndirectNested { head });
        }
        if d.flags & split::DESC_F_NEXT != 0 {
            return Err(QueueError::IndirectWithNext { head });
        }
        if d.len == 0 || d.len % split::DESC_LEN != 0 {
            return Err(QueueError::IndirectLength { head, len: d.len });
        }
        let bad = |error| QueueError::IndirectTable { head, error };
        let span = area::resolve_table(mem, d.addr, d.len).map_err(bad)?;
        Ok(Table { view: view(mem, span), entries: d.len / split::DESC_LEN, indirect: true })
    }

    pub(crate) fn unpop(&mut self, count: u16) {
        for _ in 0..count {
            let index = self.next_avail.wrapping_sub(1);
            let (head, _) = self.heads[self.layout.slot(index)];
            let held = self.held[usize::from(head)].take();
            assert!(held.is_some(), "chain {head} is not held");
            self.next_avail = index;
        }
    }

    pub(crate) fn push(&mut self, mem: &BusMemory, head: u16, len: u32) {
        let held = self.held[usize::from(head)].take();
        assert!(held.is_some_and(|most| len <= most), "{len} bytes to chain {head} of {held:?}");
        let (oldest, _) = self.heads[self.layout.slot(self.pushed)];
        assert!(
            !self.in_order || head == oldest,
            "chain {head} used before {oldest}: not in order"
        );
        let used = view(mem, self.layout.used);
        let at = split::RING_ENTRIES + split::USED_ENTRY_LEN * self.layout.slot(self.pushed);
        used.store_le32(at, head.into());
        used.store_le32(at + 4, len);
        self.pushed = self.pushed.wrapping_add(1);
    }

    pub(crate) fn publish(&mut self, mem: &BusMemory) -> bool {
        let old = self.published;
        if self.fault.is_some() {
            return false;
        }
        let untold = std::mem::take(&mut self.untold);
        if old == self.pushed {
            return untold;
        }
        self.published = self.pushed;
        let avail = view(mem, self.layout.avail);
        let early = planted(Bug::SuppressionReadEarly)
            .then(|| load_half(&avail, split::used_event(self.layout.size)));
        // Barrier B: pairs with the load of the index in DriverHalf::used_ready.
        self.layout.store_head(&view(mem, self.layout.used), self.flags, self.published);
        if let Some(journal) = &self.journal {
            journal.published_split(self.published);
        }
        // Barrier D: pairs with the fence in DriverHalf::arm.
        if !planted(Bug::DevicePublishFence) {
            fence_full();
        }
        if self.layout.event_idx {
            let event = load_half(&avail, split::used_event(self.layout.size));
            let event = early.unwrap_or(event);
            untold | need_event(event, self.published, old)
        } else {
            untold | (load_half(&avail, 0) & split::AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    pub(crate) fn arm_beyond(&mut self, mem: &BusMemory, enough: u16) -> Result<bool, QueueError> {
        if self.avail_ready(mem)? > enough {
            return Ok(true);
        }
        let used = view(mem, self.layout.used);
        if self.layout.event_idx {
            let event = self.next_avail.wrapping_add(enough);
            if event != self.event {
                self.store_event(&used, event);
            }
        } else if self.flags != 0 {
            self.flags = 0;
            self.layout.store_head(&used, self.flags, self.published);
        }
        self.armed = true;
        // Barrier C: pairs with the fence in DriverHalf::publish.
        if !planted(Bug::DeviceArmFence) {
            fence_full();
        }
        if planted(Bug::NoSecondLook) {
            return Ok(false);
        }
        Ok(self.avail_ready(mem)? > enough)
    }

    pub(crate) fn disarm(&mut self, mem: &BusMemory) {
        if !self.armed || self.fault.is_some() {
            return;
        }
        self.armed = false;
        let used = view(mem, self.layout.used);
        if !self.layout.event_idx {
            self.flags = split::USED_F_NO_NOTIFY;
            self.layout.store_head(&used, self.flags, self.published);
        } else if self.event.wrapping_sub(self.seen) <= self.layout.size {
            // The entry asked for has not been written yet: ask for one long past instead.
            self.store_event(&used, self.seen.wrapping_sub(1));
        }
    }

    fn store_event(&mut self, used: &View<'_>, event: u16) {
        self.event = event;
        let off = split::avail_event(self.layout.size);
        if off + 4 <= used.len() {
            used.store_le32(off, word(event, 0));
        } else {
            used.store_le16(off, event);
        }
    }

    fn fail<T>(&mut self, fault: QueueError) -> Result<T, QueueError> {
        self.fault = Some(fault);
        Err(fault)
    }
}
