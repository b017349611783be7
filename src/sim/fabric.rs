//! The memory of one link as two machines see it: store buffers, loads that see what is old, a bus.
//!
//! Theory of operation. Every area has one *global* state, which changes a word at a time. A thread's
//! store goes to that thread's buffer, and from there, some time later, to the global state: it
//! *drains*. A load finds its own thread's pending stores on top of the global state.
//!
//! What may be reordered, by the kind of memory and the kind of CPU:
//!
//! * **A strong CPU** (x86): stores to cached and uncached memory drain in program order, loads see the
//!   latest global state. So only a load may overtake a store before it.
//! * **A weak CPU** (PowerPC): stores to cached memory drain in any order, those to uncached memory in
//!   order among themselves. A load from memory that is not uncached may see what its word held some
//!   changes ago: as if it had been made before loads that stand before it.
//! * **Write-combined memory**, on either: stores drain in any order.
//! * Stores to one 8-byte word drain in order, always; and whoever has seen a word's newer value does
//!   not see an older one of it again.
//!
//! What orders: a release store drains after every earlier store *to cached memory*. An acquire load, or
//! an acquire fence after a load, lets its thread see all that had drained when the loaded value did. A
//! full fence drains the thread's buffer, write-combined stores too, and lets it see all that has
//! drained at all.
//!
//! The bus, for memory that is not cached: posted writes stay behind each other as above; a read does
//! not overtake this thread's posted writes, so it drains those before. A machine in reset answers
//! reads with all ones and loses writes; its own accesses it does not make then.
//!
//! A doorbell is a write that is posted behind everything, so whoever rings drains first
//! ([`Fabric::flush`]), and so does a thread that hands its data path to another.
//!
//! A buffer holds a bounded number of stores. Loads and the world's steps make some of them drain; when
//! nothing is left to do but to wait, all have.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::random::Random;
use crate::memory::cells::{self, Cells};
use crate::memory::{Kind, Mapping};

/// The areas of a link.
pub(super) const WINDOW: usize = 0;
pub(super) const DRIVER_MEMORY: usize = 1;
/// Threads of each end: one for the link, one for each pair, and the engine, which has no buffer.
pub(super) const THREADS: usize = 4;
const ENGINE: usize = THREADS - 1;
/// Places that tell most words apart.
const FILTER: usize = 1024;
/// Changes at such a place that a weak CPU may not have seen yet.
const HISTORY: usize = 6;

/// Which thread of which end of which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) link: usize,
    pub(super) end: usize,
    pub(super) thread: usize,
}

/// A store that has not drained.
#[derive(Clone, Copy, Debug)]
struct Store {
    area: u8,
    word: u32,
    mask: u64,
    value: u64,
    kind: Kind,
    release: bool,
}

/// A change of the global state, for those that may not see it yet.
#[derive(Clone, Copy, Debug)]
struct Change {
    number: u64,
    area: u8,
    word: u32,
    old: u64,
}

/// A CPU's part of it.
#[derive(Debug)]
struct Thread {
    weak: bool,
    buffer: Vec<Store>,
    /// How many stores are pending, by word, as far as the filter tells words apart.
    pending: [u8; FILTER],
    /// All changes up to this one are seen.
    floor: u64,
    /// The newest change that a load has seen.
    seen: u64,
    /// The newest change seen, by word, as far as the filter tells words apart.
    seen_of: [u64; FILTER],
    far_reads: u64,
}

/// The last changes at a place, oldest first, and the newest of those that everybody has seen.
#[derive(Clone, Debug, Default)]
struct History {
    changes: VecDeque<Change>,
    seen: u64,
}

/// The memory of one link.
#[derive(Debug)]
struct Bus {
    areas: [Vec<u64>; 2],
    /// This area's machine is in reset.
    dead: [bool; 2],
    threads: [[Thread; THREADS]; 2],
    history: Vec<History>,
    changes: u64,
}

/// All links' memory, and who is at work.
#[derive(Debug)]
pub(super) struct Fabric {
    buses: Vec<Bus>,
    now: At,
    random: Random,
    /// Stores that a buffer holds at most.
    depth: usize,
    /// Loads until some thread's stores drain, at most, and now.
    lazy: u64,
    patience: u64,
    /// Once in so many turns a weak CPU sees at once all that has changed.
    slow: u64,
    /// Loads that saw what was old.
    pub(super) stale: u64,
}

thread_local! {
    static FABRIC: RefCell<Option<Fabric>> = const { RefCell::new(None) };
}

/// Works with this thread's fabric, which must be there.
pub(super) fn with<T>(f: impl FnOnce(&mut Fabric) -> T) -> T {
    FABRIC.with_borrow_mut(|fabric| f(fabric.as_mut().expect("a simulation runs")))
}

/// While it lives, this thread has a fabric, and its fences are the fabric's.
#[derive(Debug)]
pub(super) struct Installed(());

impl Installed {
    pub(super) fn new(fabric: Fabric) -> Self {
        FABRIC.replace(Some(fabric));
        cells::set_fences(Some(Rc::new(|order| with(|fabric| fabric.fence(order)))));
        Self(())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        cells::set_fences(None);
        FABRIC.replace(None);
    }
}

/// One end's view of an area.
#[derive(Debug)]
struct Area {
    link: usize,
    area: usize,
    len: usize,
    kind: Kind,
    far: bool,
    /// It is the engine that looks.
    engine: bool,
}

/// An area as an end maps it.
pub(super) fn mapping(
    link: usize,
    area: usize,
    len: usize,
    kind: Kind,
    far: bool,
    engine: bool,
) -> Mapping {
    Mapping::model(std::sync::Arc::new(Area { link, area, len, kind, far, engine }), kind)
}

impl Cells for Area {
    fn len(&self) -> usize {
        self.len
    }

    fn load(&self, offset: usize, size: usize, order: Ordering) -> u64 {
        with(|fabric| fabric.load(self, offset, size, order))
    }

    fn store(&self, offset: usize, size: usize, value: u64, order: Ordering) {
        with(|fabric| fabric.store(self, offset, size, value, order));
    }
}

fn place(area: u8, word: u32) -> usize {
    (word as usize ^ word as usize >> 9 ^ usize::from(area) << 8) % FILTER
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "areas are smaller than 4 GiB, and there are two"
)]
fn word_of(area: usize, offset: usize) -> (u8, u32) {
    (area as u8, (offset / 8) as u32)
}

fn mask(size: usize) -> u64 {
    if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

impl Thread {
    fn new(weak: bool) -> Self {
        Self {
            weak,
            buffer: Vec::new(),
            pending: [0; FILTER],
            floor: 0,
            seen: 0,
            seen_of: [0; FILTER],
            far_reads: 0,
        }
    }

    /// Whether `a`, which was stored before `b`, drains before it.
    fn keeps(&self, a: &Store, b: &Store) -> bool {
        if (a.area, a.word) == (b.area, b.word) || b.release && a.kind == Kind::Cached {
            return true;
        }
        match (a.kind, b.kind) {
            (Kind::Uncached, Kind::Uncached) => true,
            // On x86 an uncached store empties the write-combining buffers.
            (_, Kind::Uncached) | (Kind::Cached | Kind::Uncached, Kind::Cached) => !self.weak,
            _ => false,
        }
    }

    /// The place of a store that may drain now.
    fn next(&self, random: &mut Random) -> usize {
        let (all, mut chosen) = (&self.buffer, random.index(self.buffer.len()));
        while let Some(first) = all[..chosen].iter().position(|a| self.keeps(a, &all[chosen])) {
            chosen = first;
        }
        chosen
    }
}

impl Bus {
    fn new(lens: [usize; 2], weak: [bool; 2]) -> Self {
        Self {
            areas: lens.map(|len| vec![0; len / 8]),
            dead: [false; 2],
            threads: weak.map(|weak| std::array::from_fn(|_| Thread::new(weak))),
            history: vec![History::default(); FILTER],
            changes: 0,
        }
    }

    /// Changes the global state.
    fn apply(&mut self, end: usize, thread: usize, s: &Store) {
        let at = place(s.area, s.word);
        self.changes += 1;
        let word = &mut self.areas[usize::from(s.area)][s.word as usize];
        let old = *word;
        *word = old & !s.mask | s.value;
        let number = self.changes;
        self.threads[end][thread].seen_of[at] = number;
        let history = &mut self.history[at];
        history.changes.push_back(Change { number, area: s.area, word: s.word, old });
        if history.changes.len() > HISTORY {
            history.seen = history.changes.pop_front().map_or(0, |gone| gone.number);
        }
    }

    fn drain_one(&mut self, end: usize, thread: usize, random: &mut Random) {
        let t = &mut self.threads[end][thread];
        let s = t.buffer.remove(t.next(random));
        t.pending[place(s.area, s.word)] -= 1;
        self.apply(end, thread, &s);
    }

    fn drain(&mut self, end: usize, thread: usize) {
        let mut buffer = std::mem::take(&mut self.threads[end][thread].buffer);
        for s in buffer.drain(..) {
            self.threads[end][thread].pending[place(s.area, s.word)] -= 1;
            self.apply(end, thread, &s);
        }
        self.threads[end][thread].buffer = buffer;
    }

    /// What a word holds for a thread that need not have seen all changes; which change made it so.
    fn old(&self, at: At, area: u8, word: u32, random: &mut Random) -> Option<(u64, u64)> {
        let place = place(area, word);
        let t = &self.threads[at.end][at.thread];
        let least = t.floor.max(t.seen_of[place]);
        let History { changes, seen } = &self.history[place];
        let mut made_by = *seen;
        let mut chosen = None;
        for c in changes.iter().filter(|c| (c.area, c.word) == (area, word)) {
            // Each change that need not be seen may be the first that is not.
            if c.number > least && random.one_in(2) {
                chosen = Some((c.old, made_by));
                break;
            }
            made_by = c.number;
        }
        chosen
    }

    /// The change that made a word what it is now, or a later one that everybody has seen.
    fn made_by(&self, area: u8, word: u32) -> u64 {
        let History { changes, seen } = &self.history[place(area, word)];
        let same = |c: &&Change| (c.area, c.word) == (area, word);
        changes.iter().rev().find(same).map_or(*seen, |c| c.number)
    }
}

impl Fabric {
    /// Memory of so many links: for each the lengths of its areas, and whether the device's and the
    /// driver's CPUs are weak.
    pub(super) fn new(links: &[([usize; 2], [bool; 2])], depth: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            lazy: [50, 400, 4000][random.index(3)],
            slow: [2, 6, 20][random.index(3)],
            buses: links.iter().map(|(lens, weak)| Bus::new(*lens, *weak)).collect(),
            now: At { link: 0, end: 0, thread: 0 },
            random,
            depth,
            patience: 0,
            stale: 0,
        }
    }

    /// This thread is at work from now on.
    pub(super) fn enter(&mut self, at: At) {
        self.now = at;
        let bus = &mut self.buses[at.link];
        let t = &mut bus.threads[at.end][at.thread];
        // Time has passed, maybe enough for everything to be seen.
        if !t.weak || self.random.one_in(self.slow) {
            t.floor = bus.changes;
        }
    }

    /// All that this thread has stored is seen, and it sees all.
    pub(super) fn flush(&mut self, at: At) {
        let bus = &mut self.buses[at.link];
        bus.drain(at.end, at.thread);
        bus.threads[at.end][at.thread].floor = bus.changes;
    }

    /// All stores have drained.
    pub(super) fn settle(&mut self) {
        for bus in &mut self.buses {
            for end in 0..2 {
                for thread in 0..THREADS {
                    if !bus.threads[end][thread].buffer.is_empty() {
                        bus.drain(end, thread);
                    }
                }
            }
        }
    }

    /// A machine loses what its CPUs had not got rid of.
    pub(super) fn lose(&mut self, link: usize, end: usize) {
        for t in &mut self.buses[link].threads[end] {
            t.buffer.clear();
            t.pending = [0; FILTER];
        }
    }

    /// Whether this area's machine is in reset.
    pub(super) fn set_dead(&mut self, link: usize, area: usize, dead: bool) {
        self.buses[link].dead[area] = dead;
    }

    /// Memory after a reset, or new memory.
    pub(super) fn wipe(&mut self, link: usize, area: usize, with: u64) {
        let bus = &mut self.buses[link];
        bus.areas[area].fill(with);
        bus.changes += 1;
        let all = History { changes: VecDeque::new(), seen: bus.changes };
        bus.history.fill(all);
    }

    /// Loads of an end's thread from memory of the other end's machine.
    pub(super) fn far_reads(&self, at: At) -> u64 {
        self.buses[at.link].threads[at.end][at.thread].far_reads
    }

    /// Some stores of some thread of a link drain, if the thread is not a slow one.
    pub(super) fn maybe_drain(&mut self, link: usize) {
        if self.random.one_in(1 + self.lazy / 64) {
            self.drain_some(link);
        }
    }

    /// Some stores of some thread of a link drain.
    fn drain_some(&mut self, link: usize) {
        let (end, thread) = (self.random.index(2), self.random.index(THREADS - 1));
        let bus = &mut self.buses[link];
        let pending = bus.threads[end][thread].buffer.len();
        if pending > 0 {
            for _ in 0..=self.random.index(pending) {
                bus.drain_one(end, thread, &mut self.random);
            }
        }
    }

    fn fence(&mut self, order: Ordering) {
        let at = self.now;
        if order == Ordering::SeqCst {
            self.flush(at);
        } else {
            let t = &mut self.buses[at.link].threads[at.end][at.thread];
            t.floor = t.floor.max(t.seen);
        }
    }

    fn load(&mut self, area: &Area, offset: usize, size: usize, order: Ordering) -> u64 {
        let at = self.now;
        if self.patience == 0 {
            self.patience = self.random.below(self.lazy);
            self.drain_some(area.link);
        } else {
            self.patience -= 1;
        }
        let (number, word) = word_of(area.area, offset);
        let bus = &mut self.buses[area.link];
        if !area.engine {
            if area.far {
                bus.threads[at.end][at.thread].far_reads += 1;
            }
            if area.kind != Kind::Cached && area.far {
                bus.drain(at.end, at.thread);
            }
        }
        if area.far && bus.dead[area.area] {
            return mask(size);
        }
        let place = place(number, word);
        let mut value = bus.areas[area.area][word as usize];
        let t = &bus.threads[at.end][at.thread];
        if t.weak && !area.engine && area.kind != Kind::Uncached {
            let made_by = match bus.old(at, number, word, &mut self.random) {
                Some((old, made_by)) => {
                    self.stale += 1;
                    value = old;
                    made_by
                }
                None => bus.made_by(number, word),
            };
            let t = &mut bus.threads[at.end][at.thread];
            t.seen = t.seen.max(made_by);
            t.seen_of[place] = t.seen_of[place].max(made_by);
            if order == Ordering::Acquire {
                t.floor = t.floor.max(made_by);
            }
        }
        let t = &bus.threads[at.end][at.thread];
        if t.pending[place] > 0 && !area.engine {
            for s in t.buffer.iter().filter(|s| (s.area, s.word) == (number, word)) {
                value = value & !s.mask | s.value;
            }
        }
        value >> (8 * (offset % 8)) & mask(size)
    }

    fn store(&mut self, area: &Area, offset: usize, size: usize, value: u64, order: Ordering) {
        let at = self.now;
        let bus = &mut self.buses[area.link];
        if area.far && bus.dead[area.area] {
            return;
        }
        let shift = 8 * (offset % 8);
        let (number, word) = word_of(area.area, offset);
        let s = Store {
            area: number,
            word,
            mask: mask(size) << shift,
            value: value << shift,
            kind: area.kind,
            release: order == Ordering::Release,
        };
        if area.engine {
            return bus.apply(at.end, ENGINE, &s);
        }
        let t = &mut bus.threads[at.end][at.thread];
        t.buffer.push(s);
        t.pending[place(number, word)] += 1;
        if t.buffer.len() > self.depth {
            bus.drain_one(at.end, at.thread, &mut self.random);
        }
    }
}
