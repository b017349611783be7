//! What the standard asks of a driver's split ring (virtio 1.4 §2.7), read off a memory image by a
//! checker that shares no line with either implementation. It goes on after a broken rule where it can,
//! because one chain may break several and each implementation names the first that it meets.

use std::fmt;

use boardlane::virtqueue::QueueError;

use super::image::Image;

/// A rule that a driver has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// §2.7.6.1, §2.7.13: the available index never goes back, and no more chains are out than fit.
    AvailIndex,
    /// §2.7.6: a ring entry refers to the head of a chain, so to a descriptor.
    Head,
    /// §2.7.13.1, step 1: a chain takes free descriptors, not those of one that the device has.
    HeadFree,
    /// §2.7.5, §2.7.5.3: `next` names a descriptor of the table.
    Next,
    /// §2.7.5.3.1: a chain is not longer than the queue's size, so it has no loop.
    Length,
    /// §2.7.5.2: a chain holds at most 2³² bytes. Exactly so many are a chain that neither takes.
    Bytes,
    /// §2.7.4.2: device-writable elements come after device-readable ones.
    WritableLast,
    /// §2.7.13.1 maps a buffer's elements to descriptors; no words on empty ones, which QEMU's devices
    /// refuse, and ours.
    Empty,
    /// §2.7.5: `addr` and `len` are memory: here, of one region.
    Buffer,
    /// §2.7.5.3.1: no INDIRECT unless it was negotiated.
    IndirectNegotiated,
    /// §2.7.5.3.1: no INDIRECT in an indirect table.
    IndirectOnce,
    /// §2.7.5.3.1: not INDIRECT and NEXT at once.
    IndirectLast,
    /// §2.7.5.3: a table is an array of descriptors, 16 bytes each, at least one.
    TableLength,
    /// §2.7.5.3: a table lies in memory.
    Table,
}

impl Rule {
    pub(super) const ALL: [Self; 14] = [
        Self::AvailIndex,
        Self::Head,
        Self::HeadFree,
        Self::Next,
        Self::Length,
        Self::Bytes,
        Self::WritableLast,
        Self::Empty,
        Self::Buffer,
        Self::IndirectNegotiated,
        Self::IndirectOnce,
        Self::IndirectLast,
        Self::TableLength,
        Self::Table,
    ];

    /// The rule that our device half says was broken.
    pub(super) fn of(error: &QueueError) -> Self {
        match error {
            QueueError::AvailJump { .. } => Self::AvailIndex,
            QueueError::Head { .. } => Self::Head,
            QueueError::HeadTwice { .. } => Self::HeadFree,
            QueueError::Next { .. } => Self::Next,
            QueueError::ChainTooLong { .. } => Self::Length,
            QueueError::ChainTooLarge { .. } => Self::Bytes,
            QueueError::ReadableAfterWritable { .. } => Self::WritableLast,
            QueueError::ZeroLength { .. } => Self::Empty,
            QueueError::Buffer { .. } => Self::Buffer,
            QueueError::IndirectNotNegotiated { .. } => Self::IndirectNegotiated,
            QueueError::IndirectNested { .. } => Self::IndirectOnce,
            QueueError::IndirectWithNext { .. } => Self::IndirectLast,
            QueueError::IndirectLength { .. } => Self::TableLength,
            QueueError::IndirectTable { .. } => Self::Table,
            other => panic!("no chain of a split queue makes this error: {other}"),
        }
    }
}

/// Rules that were broken.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Broken(u16);

impl Broken {
    pub(super) fn add(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u16;
    }

    pub(super) fn has(self, rule: Rule) -> bool {
        self.0 >> rule as u16 & 1 == 1
    }

    pub(super) fn none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Rule::ALL.iter().filter(|rule| self.has(**rule))).finish()
    }
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) writable: bool,
}

/// The octets of a descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

impl Desc {
    pub(super) fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.addr.to_le_bytes());
        octets[8..12].copy_from_slice(&self.len.to_le_bytes());
        octets[12..14].copy_from_slice(&self.flags.to_le_bytes());
        octets[14..].copy_from_slice(&self.next.to_le_bytes());
        octets
    }

    pub(super) fn read(image: &Image, at: u64) -> Self {
        let o: [u8; 16] = image.read(at);
        Self {
            addr: u64::from_le_bytes(o[..8].try_into().unwrap()),
            len: u32::from_le_bytes(o[8..12].try_into().unwrap()),
            flags: u16::from_le_bytes(o[12..14].try_into().unwrap()),
            next: u16::from_le_bytes(o[14..].try_into().unwrap()),
        }
    }
}

/// What a queue's driver was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) desc: u64,
    pub(super) indirect: bool,
}

/// Which rules the chain at `head` breaks; its elements, in order, as far as they can be followed.
pub(super) fn judge(image: &Image, queue: Queue, head: u16, elements: &mut Vec<Element>) -> Broken {
    let mut broken = Broken::default();
    elements.clear();
    if head >= queue.size {
        broken.add(Rule::Head);
        return broken;
    }
    let (mut table, mut entries, mut inside) = (queue.desc, u32::from(queue.size), false);
    let mut at = head;
    let mut bytes = 0;
    loop {
        let d = Desc::read(image, table + 16 * u64::from(at));
        if d.flags & INDIRECT != 0 {
            let bad_length = d.len == 0 || d.len % 16 != 0;
            for (bad, rule) in [
                (!queue.indirect, Rule::IndirectNegotiated),
                (inside, Rule::IndirectOnce),
                (d.flags & NEXT != 0, Rule::IndirectLast),
                (bad_length, Rule::TableLength),
                (!image.holds(d.addr, d.len), Rule::Table),
            ] {
                if bad {
                    broken.add(rule);
                }
            }
            if inside || bad_length || !image.holds(d.addr, d.len) {
                return broken;
            }
            (table, entries, inside, at) = (d.addr, d.len / 16, true, 0);
            continue;
        }
        if elements.len() == usize::from(queue.size) {
            broken.add(Rule::Length);
            return broken;
        }
        let writable = d.flags & WRITE != 0;
        bytes += u64::from(d.len);
        for (bad, rule) in [
            (bytes >= 1 << 32, Rule::Bytes),
            (!writable && elements.last().is_some_and(|last| last.writable), Rule::WritableLast),
            (d.len == 0, Rule::Empty),
            (!image.holds(d.addr, d.len), Rule::Buffer),
        ] {
            if bad {
                broken.add(rule);
            }
        }
        elements.push(Element { addr: d.addr, len: d.len, writable });
        if d.flags & NEXT == 0 {
            return broken;
        }
        at = d.next;
        if u32::from(at) >= entries {
            broken.add(Rule::Next);
            return broken;
        }
    }
}
