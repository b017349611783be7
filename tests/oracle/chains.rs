//! A driver that writes chains, some of them well-formed and some not, into a split queue's areas.
//!
//! It keeps honest books of which descriptors are free, so that a chain without a fault is one that a
//! real driver could have made; a fault is a change of what it then writes. Whether the outcome breaks a
//! rule is not for it to say.

use std::ops::Range;

use super::Random;
use super::image::Image;
use super::rules::{Desc, INDIRECT, NEXT, Queue, WRITE};

/// What may go wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Loop,
    NextBeyond,
    Direction,
    Empty,
    Outside,
    OverTheEdge,
    Huge,
    IndirectAndNext,
    IndirectInTable,
    TableLength,
    TableOutside,
    TooLong,
    Head,
    HeadHeld,
    Octets,
    Bits,
}

const FAULTS: [Fault; 16] = [
    Fault::Loop,
    Fault::NextBeyond,
    Fault::Direction,
    Fault::Empty,
    Fault::Outside,
    Fault::OverTheEdge,
    Fault::Huge,
    Fault::IndirectAndNext,
    Fault::IndirectInTable,
    Fault::TableLength,
    Fault::TableOutside,
    Fault::TooLong,
    Fault::Head,
    Fault::HeadHeld,
    Fault::Octets,
    Fault::Bits,
];

/// A table of descriptors while it is made: where each one stands, in the order of the chain.
struct Table {
    at: u64,
    entries: u16,
    places: Vec<u16>,
    descs: Vec<Desc>,
}

impl Table {
    /// Links these buffers, which stand at `places`.
    fn new(at: u64, entries: u16, places: Vec<u16>, mut descs: Vec<Desc>) -> Self {
        for i in 1..descs.len() {
            descs[i - 1].flags |= NEXT;
            descs[i - 1].next = places[i];
        }
        Self { at, entries, places, descs }
    }

    fn write(&self, image: &Image) {
        for (place, desc) in self.places.iter().zip(&self.descs) {
            image.write(self.at + 16 * u64::from(*place), &desc.octets());
        }
    }
}

/// The driver's books of one queue.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) queue: Queue,
    pub(super) avail: u64,
    /// Where indirect tables lie, `table_len` bytes for each descriptor.
    tables: u64,
    tables_end: u64,
    table_len: u32,
    free: Vec<u16>,
    /// The descriptors of each chain that is out, by head.
    out: Vec<Option<Vec<u16>>>,
    /// Its own available index.
    pub(super) idx: u16,
}

impl Driver {
    /// Tables lie in `tables`, `table_len` bytes for each descriptor, and a good deal more.
    pub(super) fn new(queue: Queue, avail: u64, tables: Range<u64>, table_len: u32) -> Self {
        Self {
            queue,
            avail,
            tables: tables.start,
            tables_end: tables.end,
            table_len,
            free: (0..queue.size).collect(),
            out: vec![None; queue.size.into()],
            idx: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The chain of this head has been used. It may be one that the driver does not know of: where the
    /// index ran ahead, an old entry of the ring may name descriptors that make a chain still.
    pub(super) fn done(&mut self, head: u16) {
        self.free.extend(self.out[usize::from(head)].take().unwrap_or_default());
    }

    /// Writes a chain and its entry in the available ring. `faulty`: with something wrong.
    pub(super) fn add(&mut self, image: &Image, random: &mut Random, faulty: bool) {
        let fault = faulty.then(|| random.of(&FAULTS));
        let size = usize::from(self.queue.size);
        let wants_table = matches!(
            fault,
            Some(
                Fault::IndirectAndNext
                    | Fault::IndirectInTable
                    | Fault::TableLength
                    | Fault::TableOutside
                    | Fault::TooLong
            )
        );
        let indirect = wants_table || self.queue.indirect && random.one_in(3);
        let few = if random.one_in(20) { size } else { 5 };
        let direct = (usize::from(!indirect) + random.below(few))
            .min(self.free.len() - usize::from(indirect));
        let in_table = if !indirect {
            0
        } else if fault == Some(Fault::TooLong) {
            size - direct + 1 + random.below(3)
        } else {
            (1 + random.below(few)).min(size - direct)
        };
        let buffers = buffers(image, random, direct + in_table);
        let places: Vec<_> = (0..direct + usize::from(indirect))
            .map(|_| self.free.swap_remove(random.below(self.free.len())))
            .collect();
        let head = places[0];
        self.out[usize::from(head)] = Some(places.clone());
        let mut main = buffers[..direct].to_vec();
        let mut table = None;
        if indirect {
            let made = self.table(random, head, buffers[direct..].to_vec());
            let flags = INDIRECT | random.of(&[0, 0, 0, WRITE]);
            // Now and then a table that is far longer than what is used of it.
            let long = made.at + (16 << 16) <= self.tables_end && random.one_in(100);
            let len = if long { 16 << 16 } else { 16 * u32::from(made.entries) };
            main.push(Desc { addr: made.at, len, flags, next: random.index(9) });
            table = Some(made);
        }
        let mut main = Table::new(self.queue.desc, self.queue.size, places, main);
        let mut entry = head;
        if let Some(fault) = fault {
            self.spoil(image, random, fault, &mut main, &mut table, &mut entry);
        }
        if let Some(table) = &table {
            table.write(image);
        }
        main.write(image);
        let slot = u64::from(self.idx % self.queue.size);
        image.write_half(self.avail + 4 + 2 * slot, entry);
        self.idx = self.idx.wrapping_add(1);
    }

    /// An indirect table: its first entry stands first, others anywhere, not all of them in use.
    fn table(&self, random: &mut Random, head: u16, buffers: Vec<Desc>) -> Table {
        let len = u16::try_from(buffers.len()).unwrap();
        let entries = len + random.index(4);
        let mut rest: Vec<u16> = (1..entries).collect();
        let places = (0..len)
            .map(|i| if i == 0 { 0 } else { rest.swap_remove(random.below(rest.len())) })
            .collect();
        // The standard asks for no alignment of tables.
        let odd = random.of(&[0, 0, 8, 1, 3]);
        let at = self.tables + u64::from(self.table_len) * u64::from(head) + odd;
        assert!(16 * u32::from(entries) + 8 <= self.table_len, "room for {entries}");
        Table::new(at, entries, places, buffers)
    }

    fn spoil(
        &mut self,
        image: &Image,
        random: &mut Random,
        fault: Fault,
        main: &mut Table,
        table: &mut Option<Table>,
        entry: &mut u16,
    ) {
        let size = u32::from(self.queue.size);
        match fault {
            Fault::Head => *entry = random.of(&[self.queue.size, u16::MAX, self.queue.size + 1]),
            Fault::HeadHeld => {
                let others: Vec<u16> = (0..self.queue.size)
                    .filter(|at| self.out[usize::from(*at)].is_some())
                    .collect();
                *entry = random.of(&others);
            }
            Fault::IndirectAndNext => {
                let last = main.descs.last_mut().unwrap();
                last.flags |= NEXT;
                last.next = random.index(size);
            }
            Fault::TableLength => {
                let last = main.descs.last_mut().unwrap();
                last.len = random.of(&[0, 1, 8, 15, 17, last.len - 1, last.len + 1, last.len + 8]);
            }
            Fault::TableOutside => {
                let last = main.descs.last_mut().unwrap();
                last.addr = outside(image, random, last.len);
            }
            Fault::TooLong => {}
            fault => {
                let inner = table.as_mut().filter(|_| random.one_in(2));
                spoil_table(image, random, fault, inner.unwrap_or(main));
            }
        }
    }
}

/// Does this to some descriptor of the table.
fn spoil_table(image: &Image, random: &mut Random, fault: Fault, table: &mut Table) {
    let entries = u32::from(table.entries);
    let chosen = random.below(table.descs.len());
    let last = table.descs.len() - 1;
    let one = &mut table.descs[chosen];
    match fault {
        Fault::Loop => {
            table.descs[last].flags |= NEXT;
            table.descs[last].next = random.of(&table.places);
        }
        Fault::NextBeyond => {
            one.flags |= NEXT;
            one.next =
                random.of(&[table.entries, table.entries.saturating_add(1), 0x8000, u16::MAX]);
        }
        Fault::Direction => one.flags ^= WRITE,
        Fault::Empty => one.len = 0,
        Fault::Outside => one.addr = outside(image, random, one.len),
        Fault::OverTheEdge => {
            let (from, len) = random.of(&image.regions);
            let back = random.of(&[0, 1, 16, 0x100]);
            one.addr = from + u64::from(len) - back;
            one.len = u32::try_from(back).unwrap() + 1 + random.len(3);
        }
        Fault::Huge => {
            one.len = random.of(&[u32::MAX, u32::MAX - 1, 1 << 31, 1 << 24, u32::MAX - 8])
        }
        Fault::IndirectInTable => one.flags |= INDIRECT,
        Fault::Octets => {
            for desc in &mut table.descs {
                let (at, len) = random.of(&image.regions);
                *desc = Desc {
                    addr: random.of(&[
                        at,
                        at + 0x40,
                        at.wrapping_sub(1),
                        0,
                        u64::MAX,
                        at + u64::from(len),
                    ]),
                    len: random.of(&[0, 1, 16, 24, 64, len, u32::MAX]),
                    flags: random.index(8),
                    next: random.index(entries + 1),
                };
            }
        }
        Fault::Bits => {
            let mut octets = one.octets();
            for _ in 0..1 + random.below(3) {
                octets[random.below(16)] ^= 1 << random.below(8);
            }
            *one = Desc {
                addr: u64::from_le_bytes(octets[..8].try_into().unwrap()),
                len: u32::from_le_bytes(octets[8..12].try_into().unwrap()),
                flags: u16::from_le_bytes(octets[12..14].try_into().unwrap()),
                next: u16::from_le_bytes(octets[14..].try_into().unwrap()),
            };
        }
        other => unreachable!("{other:?} is no fault of a table"),
    }
}

/// An address at which no `len` bytes are memory, or so it is meant.
fn outside(image: &Image, random: &mut Random, len: u32) -> u64 {
    let (from, size) = random.of(&image.regions);
    let end = from + u64::from(size);
    random.of(&[
        0,
        from.wrapping_sub(1),
        from.wrapping_sub(u64::from(len)),
        end,
        end.wrapping_sub(u64::from(len / 2)),
        0x7fff_ffff_ffff_fff0,
        u64::MAX,
        u64::MAX - u64::from(len) + 1,
    ])
}

/// Buffers in memory, the readable ones first: anywhere, and often up to the edge of a region.
fn buffers(image: &Image, random: &mut Random, count: usize) -> Vec<Desc> {
    let readable = random.below(count + 1);
    let mut one = |i: usize| {
        let (from, size) = random.of(&image.regions);
        let anywhere = random.len(size);
        let skip = random.of(&[0, 1, size - 1, size / 2, anywhere]);
        let most = size - skip;
        let any = 1 + random.len(most);
        let len = random.of(&[1, most, most, any, 12.min(most)]);
        let flags = if i < readable { 0 } else { WRITE };
        // Bits without a meaning, and a `next` that is not followed.
        let noise = random.of(&[0, 0, 0, 0, 0, 0, 8, 0xfff8]);
        Desc { addr: from + u64::from(skip), len, flags: flags | noise, next: random.index(9) }
    };
    (0..count).map(&mut one).collect()
}
