//! The device half: takes available chains, and gives them back used.
//!
//! Each descriptor is copied out of the ring once, to `shadow`, when its chain is found; from then on
//! nobody looks at the one in the ring, over which a used descriptor may soon be written. What a
//! chain says is resolved to spans when it is popped.
//!
//! In order (§2.8.8), it still writes a used descriptor for each chain: drivers must take that, and
//! it says how many bytes were written to each.
//!
//! Invariants: from `batch` to `seen` lie the `out` descriptors, at most `size`, of chains that were
//! found and are not published as used; `next_used` and `next_avail` are among them, in this order. `waiting` chains are found and not popped.
//! The popped ones are held by this end: each is in `held`, and its id is in `ids`. A held
//! chain's name is a number of our own: its id is the driver's choice, and where it stood another one
//! may have been put since, once as many descriptors of younger chains were used.

use super::{Cursor, Events, Layout, lap, word_at};
use crate::memory::{BusMemory, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::packed;
use crate::virtqueue::area::{self, fields, halves, rest, view, word};
use crate::virtqueue::{At, Chain, Journal, Position, QueueConfig, QueueError, Start};

/// Chains that are looked at ahead of the one that is popped.
const AHEAD: u16 = 7;

/// An available descriptor, as it was when its chain was found.
#[derive(Clone, Copy, Debug, Default)]
struct Descriptor {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

/// What is known of a chain from `pop` until it is used.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: u16,
    /// Where its head stood.
    at: u16,
    /// How many descriptors of the ring it takes.
    descriptors: u16,
    /// Bytes that may be written.
    writable: u32,
}

/// The chains that are held, by name: all of them but `writable` in a word, which is 0 for none. What was
/// stored a moment ago is loaded at once only as it was stored; loaded as something wider, it waits for
/// all stores before, and so for the driver's lines.
#[derive(Debug)]
struct HeldChains {
    words: Vec<u64>,
    writable: Vec<u32>,
}

impl HeldChains {
    fn new(size: u16) -> Self {
        Self { words: vec![0; size.into()], writable: vec![0; size.into()] }
    }

    fn put(&mut self, name: u16, held: Held) {
        let Held { id, at, descriptors, writable } = held;
        self.words[usize::from(name)] = rest(word(id, at), descriptors, 0);
        self.writable[usize::from(name)] = writable;
    }

    /// In registers, for the same reason.
    #[inline(always)]
    fn take(&mut self, name: u16) -> Option<Held> {
        let (places, descriptors, _) = fields(std::mem::take(&mut self.words[usize::from(name)]));
        let [id, at] = halves(places);
        let writable = self.writable[usize::from(name)];
        (descriptors > 0).then_some(Held { id, at, descriptors, writable })
    }
}

/// A set of buffer ids. The standard does not say that they are below the queue's size.
#[derive(Debug)]
struct Ids(Box<[u64]>);

impl Ids {
    fn new() -> Self {
        Self(vec![0; 65536 / 64].into())
    }

    fn has(&self, id: u16) -> bool {
        self.0[usize::from(id / 64)] >> (id % 64) & 1 == 1
    }

    fn flip(&mut self, id: u16) {
        self.0[usize::from(id / 64)] ^= 1 << (id % 64);
    }
}

/// The device half of a running queue; its calls are those of
/// [`DeviceQueue`](crate::virtqueue::DeviceQueue).
#[derive(Debug)]
pub(crate) struct DeviceHalf {
    layout: Layout,
    indirect: bool,
    in_order: bool,
    shadow: Vec<Descriptor>,
    /// Chains that were popped and not pushed, by name.
    held: HeldChains,
    free_names: Vec<u16>,
    ids: Ids,
    /// The name of the chain that ended before this place when it was popped, for `unpop`.
    before: Vec<u16>,
    /// Where the next chain is to be found.
    seen: Cursor,
    out: u16,
    /// Descriptors that somebody took before this half started, and did not use. They are among `out`.
    lost: u16,
    /// The head of the next chain to be popped.
    next_avail: Cursor,
    waiting: u16,
    /// Where the next used descriptor goes.
    next_used: Cursor,
    /// Where the unpublished ones begin, and how many descriptors they stand for.
    batch: Cursor,
    batch_len: u16,
    /// The used descriptors of the batch, from `batch` on: where each goes, and its second word. The first
    /// publishes them. They are stored together, as each takes a line from the driver.
    used: Vec<(u16, u64)>,
    /// What the driver was told of notifications.
    events: Events,
    /// The driver may not have been told of what the half before this one published.
    untold: bool,
    journal: Option<Journal>,
    fault: Option<QueueError>,
}

impl DeviceHalf {
    pub(crate) fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        let layout = Layout::new(config, mem)?;
        // Only this end writes it, so what a driver may have left there does not count.
        Events::Enabled.store(&view(mem, layout.device_event));
        Ok(Self::over(layout, config, Cursor::START, Cursor::START))
    }

    pub(crate) fn new_at(
        config: &QueueConfig,
        mem: &BusMemory,
        start: Start,
    ) -> Result<Self, QueueError> {
        let layout = Layout::new(config, mem)?;
        let Start { at, journal } = start;
        if let Some(journal) = &journal {
            journal.suits(config.size, true)?;
        }
        let is_used = |place: Cursor| {
            let word = view(mem, layout.ring).load_acquire_le64(word_at(place.at));
            let (_, _, flags) = fields(word);
            flags & packed::DESC_F_USED == place.used() & packed::DESC_F_USED
        };
        let (position, recovered) = match at {
            At::Position(position) => (position, false),
            At::Base(base) => (Position::of_packed_base(base), false),
            At::Crash { base } => {
                let journal = journal.as_ref().ok_or(QueueError::NoJournal)?;
                match journal.recover(config.size, is_used)? {
                    Some(place) => (Position::packed(place, place), true),
                    None => (Position::of_packed_base(base), false),
                }
            }
        };
        let Position::Packed { avail, avail_wrap, used, used_wrap } = position else {
            return Err(QueueError::PositionFormat { position });
        };
        let in_order = config.in_order || journal.is_some();
        let lost = position.out(config.size, in_order)?;
        let used = Cursor { at: used, wrap: used_wrap };
        Events::Enabled.store(&view(mem, layout.device_event));
        if let Some(journal) = journal.as_ref().filter(|_| !recovered) {
            journal.start_packed(used);
        }
        let avail = Cursor { at: avail, wrap: avail_wrap };
        let queue = Self::over(layout, config, avail, used);
        Ok(Self { in_order, out: lost, lost, untold: true, journal, ..queue })
    }

    /// A half at these places, which has asked for notifications.
    fn over(layout: Layout, config: &QueueConfig, avail: Cursor, used: Cursor) -> Self {
        Self {
            indirect: config.indirect,
            in_order: config.in_order,
            shadow: vec![Descriptor::default(); config.size.into()],
            held: HeldChains::new(config.size),
            free_names: (0..config.size).rev().collect(),
            ids: Ids::new(),
            before: vec![0; config.size.into()],
            seen: avail,
            out: 0,
            lost: 0,
            next_avail: avail,
            waiting: 0,
            next_used: used,
            batch: used,
            batch_len: 0,
            used: Vec::with_capacity(config.size.into()),
            events: Events::Enabled,
            untold: false,
            journal: None,
            fault: None,
            layout,
        }
    }

    pub(crate) fn position(&self) -> Position {
        let used = if self.journal.is_some() { self.next_used } else { self.batch };
        Position::packed(used.advance(self.lost, self.layout.size), used)
    }

    pub(crate) fn size(&self) -> u16 {
        self.layout.size
    }

    pub(crate) fn out(&self) -> u16 {
        self.out
    }

    pub(crate) fn avail_ready(&mut self, mem: &BusMemory) -> Result<u16, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        while self.fetch(mem)? {}
        Ok(self.waiting)
    }

    /// Copies the descriptors of the next available chain; false if there is none.
    fn fetch(&mut self, mem: &BusMemory) -> Result<bool, QueueError> {
        let most = self.layout.size - self.out;
        if most == 0 {
            return Ok(false); // all of the ring is with this end
        }
        let ring = view(mem, self.layout.ring);
        let head = self.seen.at;
        let mut at = self.seen;
        // Barrier A: pairs with the store of the first flags in DriverHalf::publish.
        let mut word = ring.load_acquire_le64(word_at(head));
        let mut count = 0;
        loop {
            let (len, id, flags) = fields(word);
            if lap(flags) != at.available() {
                if count == 0 {
                    return Ok(false);
                }
                return self.fail(QueueError::NotAvailable { head, at: at.at });
            }
            let addr = ring.load_le64(word_at(at.at) - packed::DESC_WORD);
            self.shadow[usize::from(at.at)] = Descriptor { addr, len, id, flags };
            at = at.advance(1, self.layout.size);
            count += 1;
            if flags & packed::DESC_F_NEXT == 0 {
                break;
            }
            if count == most {
                return self.fail(QueueError::ChainTooLong { head });
            }
            word = ring.load_le64(word_at(at.at));
        }
        self.seen = at;
        self.out += count;
        self.waiting += 1;
        Ok(true)
    }

    /// Copies the descriptors of the next chains that are there and have one each, as far as they go on
    /// without a gap, and has the CPU load their buffers: loads that wait for another CPU's
    /// lines then do so together.
    fn look_ahead(&mut self, mem: &BusMemory) {
        const FURTHER: u16 = packed::DESC_F_NEXT | packed::DESC_F_INDIRECT;
        let ring = view(mem, self.layout.ring);
        for _ in 0..AHEAD.min(self.layout.size - self.out) {
            let at = self.seen;
            // Barrier A, as in `fetch`.
            let (len, id, flags) = fields(ring.load_acquire_le64(word_at(at.at)));
            if lap(flags) != at.available() || flags & FURTHER != 0 {
                break;
            }
            let addr = ring.load_le64(word_at(at.at) - packed::DESC_WORD);
            self.shadow[usize::from(at.at)] = Descriptor { addr, len, id, flags };
            area::prefetch(mem, addr, len, flags & packed::DESC_F_WRITE != 0);
            self.seen = at.advance(1, self.layout.size);
            self.out += 1;
            self.waiting += 1;
        }
    }

    pub(crate) fn pop(&mut self, mem: &BusMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.waiting == 0 {
            if !self.fetch(mem)? {
                return Ok(false);
            }
            self.look_ahead(mem);
        }
        let head = self.next_avail.at;
        chain.clear(head);
        match self.walk(mem, chain) {
            Err(fault) => {
                chain.clear(head);
                self.fail(fault)
            }
            Ok(held) => {
                let name = self.free_names.pop().expect("a chain has a descriptor of its own");
                chain.head = name;
                self.ids.flip(held.id);
                self.held.put(name, held);
                self.waiting -= 1;
                self.next_avail = self.next_avail.advance(held.descriptors, self.layout.size);
                self.before[usize::from(self.next_avail.at)] = name;
                Ok(true)
            }
        }
    }

    /// Collects the buffers of the chain that starts at `next_avail`, which was fetched.
    fn walk(&self, mem: &BusMemory, chain: &mut Chain) -> Result<Held, QueueError> {
        let head = chain.head;
        let mut at = self.next_avail;
        let mut descriptors = 0;
        loop {
            let d = self.shadow[usize::from(at.at)];
            descriptors += 1;
            if d.flags & packed::DESC_F_INDIRECT != 0 {
                if descriptors > 1 || d.flags & packed::DESC_F_NEXT != 0 {
                    return Err(QueueError::IndirectWithNext { head });
                }
                self.enter(mem, chain, &d)?;
            } else {
                chain.take(mem, d.addr, d.len, d.flags & packed::DESC_F_WRITE != 0)?;
            }
            if d.flags & packed::DESC_F_NEXT == 0 {
                if self.ids.has(d.id) {
                    return Err(QueueError::IdTwice { head, id: d.id });
                }
                let writable = chain.writable_len();
                return Ok(Held { id: d.id, at: head, descriptors, writable });
            }
            at = at.advance(1, self.layout.size);
        }
    }

    /// Collects the buffers of the indirect table that `d` refers to: all of it, one after the other
    /// (§2.8.7).
    fn enter(&self, mem: &BusMemory, chain: &mut Chain, d: &Descriptor) -> Result<(), QueueError> {
        let head = chain.head;
        if !self.indirect {
            return Err(QueueError::IndirectNotNegotiated { head });
        }
        if d.len == 0 || d.len % packed::DESC_LEN != 0 {
            return Err(QueueError::IndirectLength { head, len: d.len });
        }
        let entries = d.len / packed::DESC_LEN;
        if entries > self.layout.size.into() {
            return Err(QueueError::ChainTooLong { head });
        }
        let bad = |error| QueueError::IndirectTable { head, error };
        let span = area::resolve_table(mem, d.addr, d.len).map_err(bad)?;
        let table = view(mem, span);
        for i in 0..entries as usize {
            let (addr, word) = area::load_descriptor(&table, i);
            let (len, _, flags) = fields(word);
            chain.take(mem, addr, len, flags & packed::DESC_F_WRITE != 0)?;
        }
        Ok(())
    }

    pub(crate) fn unpop(&mut self, count: u16) {
        for _ in 0..count {
            let held = self.give_back(self.before[usize::from(self.next_avail.at)]);
            let held = held.expect("only what was popped last and not pushed is given back");
            self.next_avail = self.next_avail.back(held.descriptors, self.layout.size);
            self.waiting += 1;
        }
    }

    /// The chain of this name is held no more.
    #[inline(always)]
    fn give_back(&mut self, name: u16) -> Option<Held> {
        let held = self.held.take(name)?;
        self.free_names.push(name);
        self.ids.flip(held.id);
        Some(held)
    }

    pub(crate) fn push(&mut self, mem: &BusMemory, head: u16, len: u32) {
        let held = self.give_back(head);
        let held = held.unwrap_or_else(|| panic!("chain {head} is not held"));
        assert!(len <= held.writable, "{len} bytes to chain {head}, of {}", held.writable);
        if self.journal.is_some() && self.fault.is_some() {
            return; // what is pushed with a journal is published
        }
        let at = self.next_used;
        assert!(!self.in_order || held.at == at.at, "chain {head} is not the oldest: not in order");
        let written = if len > 0 { packed::DESC_F_WRITE } else { 0 };
        let word = rest(len, held.id, written | at.used());
        let next = at.advance(held.descriptors, self.layout.size);
        if let Some(journal) = &self.journal {
            // A chain that a used descriptor is written over cannot be taken again, so it must be known
            // as used from then on.
            journal.will_publish(at, next);
            self.layout.store_first(mem, at.at, word);
            journal.has_published(at, next);
        } else {
            self.used.push((at.at, word));
        }
        self.batch_len += held.descriptors;
        self.next_used = next;
    }

    pub(crate) fn publish(&mut self, mem: &BusMemory) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let untold = std::mem::take(&mut self.untold);
        if self.batch_len == 0 {
            return untold;
        }
        if let Some((&(at, first), others)) = self.used.split_first() {
            let ring = view(mem, self.layout.ring);
            for &(at, word) in others {
                ring.store_le64(word_at(at), word);
            }
            // Barrier B: pairs with the load of the flags in DriverHalf::look.
            self.layout.store_first(mem, at, first);
            self.used.clear();
        }
        // Barrier D: pairs with the fence in DriverHalf::arm.
        if !planted(Bug::DevicePublishFence) {
            fence_full();
        }
        let events = Events::load(&view(mem, self.layout.driver_event), &self.layout);
        let wanted = events.want(self.batch, self.batch_len, self.layout.size);
        self.out -= self.batch_len;
        self.batch = self.next_used;
        self.batch_len = 0;
        untold | wanted
    }

    pub(crate) fn arm_beyond(&mut self, mem: &BusMemory, enough: u16) -> Result<bool, QueueError> {
        if self.avail_ready(mem)? > enough {
            return Ok(true);
        }
        let wanted = if self.layout.event_idx {
            // So many more chains must come, of one descriptor each at least.
            let missing = (enough - self.waiting).min(self.layout.size);
            Events::At(self.seen.advance(missing, self.layout.size))
        } else {
            Events::Enabled
        };
        self.say(mem, wanted);
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
        if self.fault.is_none() {
            self.say(mem, Events::Disabled);
        }
    }

    fn say(&mut self, mem: &BusMemory, events: Events) {
        if self.events != events {
            self.events = events;
            events.store(&view(mem, self.layout.device_event));
        }
    }

    fn fail<T>(&mut self, fault: QueueError) -> Result<T, QueueError> {
        self.fault = Some(fault);
        Err(fault)
    }
}
