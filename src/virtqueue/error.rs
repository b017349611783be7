//! What a ring's other end did wrong.

use std::fmt;

use super::Position;
use crate::memory::MemoryError;

/// One of the pieces of memory that make up a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The descriptor area: a table or a ring.
    Descriptors,
    /// The driver area: the available ring, or the driver's event suppression.
    Driver,
    /// The device area: the used ring, or the device's event suppression.
    Device,
    /// The driver's memory for indirect tables.
    IndirectTables,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptor area",
            Self::Driver => "driver area",
            Self::Device => "device area",
            Self::IndirectTables => "memory for indirect tables",
        })
    }
}

/// Why a queue could not be activated, or which rule its other end broke.
///
/// A queue that has met such an error stays broken: it returns the same error until the device is
/// reset and the queue activated anew. A chain's `head` is where its first descriptor stands; the
/// `id` in a used entry is the head in a split queue, and the buffer id in a packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The size is not a power of two from 1 to 32768.
    Size {
        /// The size that was configured.
        size: u16,
    },
    /// The size of a packed queue is not from 1 to 32768.
    PackedSize {
        /// The size that was configured.
        size: u16,
    },
    /// An area of a packed queue, which both ends write, is in memory that is not cached.
    NotCached {
        /// Which area.
        area: Area,
    },
    /// An area is not in memory that the CPU can reach, or is misaligned.
    Area {
        /// Which area.
        area: Area,
        /// What is wrong with its address.
        error: MemoryError,
    },
    /// A half cannot start there: no such place, or further from what is used than the queue is long.
    Position {
        /// Where it should start.
        position: Position,
        /// The queue's size.
        size: u16,
    },
    /// A position of the other format.
    PositionFormat {
        /// Where the half should start.
        position: Position,
    },
    /// A vring base that is no index of a split queue.
    SplitBase {
        /// The base.
        base: u32,
    },
    /// A half that uses chains in order cannot start there: others were taken before, and not used.
    OutInOrder {
        /// Where it should start.
        position: Position,
    },
    /// A packed queue is to be recovered, and there is no journal.
    NoJournal,
    /// A journal does not lie in its memory, is misaligned, or is not in cached memory.
    JournalArea {
        /// Where it should begin.
        offset: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// A journal for a queue of another size or format.
    JournalOfOther {
        /// The size that it is for.
        size: u16,
        /// Whether it is for a packed queue.
        packed: bool,
    },
    /// A journal has another layout, or is for a queue of another size.
    JournalLayout {
        /// Its `version`.
        version: u16,
        /// Its `desc_num`.
        size: u16,
        /// Its `features`.
        features: u64,
    },
    /// A journal names a place that the queue does not have, or a wrap counter that is none.
    JournalPlace {
        /// Its `used_idx`.
        used: u16,
        /// Its `old_used_idx`.
        old_used: u16,
        /// The queue's size.
        size: u16,
    },
    /// The available index moved further than there are descriptors, or backwards.
    AvailJump {
        /// By how much it moved, modulo 65536.
        by: u16,
        /// How far it could have moved.
        most: u16,
    },
    /// An available ring entry names no descriptor.
    Head {
        /// The entry.
        head: u16,
    },
    /// An available ring entry names a chain that the device still holds.
    HeadTwice {
        /// The entry.
        head: u16,
    },
    /// `next` of a descriptor points outside its table.
    Next {
        /// The chain's head.
        head: u16,
        /// The value of `next`.
        next: u16,
    },
    /// A list goes on with a descriptor that was not made available.
    NotAvailable {
        /// The chain's head.
        head: u16,
        /// Where the descriptor stands.
        at: u16,
    },
    /// A chain has the buffer id of one that the device still holds.
    IdTwice {
        /// The chain's head.
        head: u16,
        /// Its buffer id.
        id: u16,
    },
    /// A chain loops, or has more descriptors than the queue.
    ChainTooLong {
        /// The chain's head.
        head: u16,
    },
    /// A chain's buffers hold 4 GiB or more.
    ChainTooLarge {
        /// The chain's head.
        head: u16,
    },
    /// A device-readable buffer comes after a device-writable one.
    ReadableAfterWritable {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor has length 0.
    ZeroLength {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor's buffer does not lie in memory.
    Buffer {
        /// The chain's head.
        head: u16,
        /// What is wrong with the buffer's address.
        error: MemoryError,
    },
    /// An indirect descriptor, though `INDIRECT_DESC` was not negotiated.
    IndirectNotNegotiated {
        /// The chain's head.
        head: u16,
    },
    /// An indirect descriptor in an indirect table.
    IndirectNested {
        /// The chain's head.
        head: u16,
    },
    /// A descriptor with both `INDIRECT` and `NEXT`, or, in a packed queue, at the end of a list.
    IndirectWithNext {
        /// The chain's head.
        head: u16,
    },
    /// An indirect table's length is 0 or not a multiple of 16.
    IndirectLength {
        /// The chain's head.
        head: u16,
        /// The length in bytes.
        len: u32,
    },
    /// An indirect table does not lie in memory that the CPU can reach.
    IndirectTable {
        /// The chain's head.
        head: u16,
        /// What is wrong with the table's address.
        error: MemoryError,
    },
    /// The used index moved further than chains were in flight, or backwards.
    UsedJump {
        /// By how much it moved, modulo 65536.
        by: u16,
        /// How far it could have moved.
        most: u16,
    },
    /// A used ring entry names a chain that the device does not hold.
    UsedId {
        /// The entry's id.
        id: u32,
    },
    /// A used ring entry stands for more chains, in order, than the used index has moved by.
    UsedOrder {
        /// The entry's id.
        id: u32,
        /// How many chains it stands for.
        chains: u16,
        /// By how much the used index moved.
        most: u16,
    },
    /// A used ring entry claims more bytes than the chain has writable ones.
    UsedLength {
        /// The entry's id.
        id: u32,
        /// The entry's length, in bytes.
        len: u32,
        /// Writable bytes in the chain.
        most: u32,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Size { size } => {
                write!(f, "queue size {size} is not a power of two from 1 to 32768")
            }
            Self::PackedSize { size } => write!(f, "queue size {size} is not from 1 to 32768"),
            Self::NotCached { area } => {
                write!(f, "{area}: not in cached memory; turn RING_PACKED off")
            }
            Self::Area { area, error } => write!(f, "{area}: {error}"),
            Self::Position { .. }
            | Self::PositionFormat { .. }
            | Self::SplitBase { .. }
            | Self::OutInOrder { .. }
            | Self::NoJournal
            | Self::JournalArea { .. }
            | Self::JournalOfOther { .. }
            | Self::JournalLayout { .. }
            | Self::JournalPlace { .. } => self.write_start(f),
            Self::AvailJump { by, most } => {
                write!(f, "available index moved by {by}, where at most {most} fit")
            }
            Self::Head { head } => write!(f, "available ring names descriptor {head}: no such"),
            Self::HeadTwice { head } => {
                write!(f, "available ring names chain {head}, which the device still holds")
            }
            Self::Next { head, next } => {
                write!(f, "chain {head}: next is {next}, outside the table")
            }
            Self::NotAvailable { head, at } => {
                write!(f, "chain {head} goes on with descriptor {at}, which is not available")
            }
            Self::IdTwice { head, id } => {
                write!(f, "chain {head} has buffer id {id}, as one that the device still holds")
            }
            Self::ChainTooLong { head } => {
                write!(f, "chain {head} loops or has more descriptors than the queue")
            }
            Self::ChainTooLarge { head } => write!(f, "chain {head} holds 4 GiB or more"),
            Self::ReadableAfterWritable { head } => {
                write!(f, "chain {head}: a readable buffer after a writable one")
            }
            Self::ZeroLength { head } => write!(f, "chain {head}: a descriptor of length 0"),
            Self::Buffer { head, error } => write!(f, "chain {head}: buffer: {error}"),
            Self::IndirectNotNegotiated { head } => {
                write!(f, "chain {head}: an indirect descriptor, but that was not negotiated")
            }
            Self::IndirectNested { head } => {
                write!(f, "chain {head}: an indirect descriptor in an indirect table")
            }
            Self::IndirectWithNext { head } => {
                write!(f, "chain {head}: an indirect descriptor in a list of others")
            }
            Self::IndirectLength { head, len } => {
                write!(f, "chain {head}: indirect table of {len} bytes, not a multiple of 16")
            }
            Self::IndirectTable { head, error } => {
                write!(f, "chain {head}: indirect table: {error}")
            }
            Self::UsedJump { by, most } => {
                write!(f, "used index moved by {by}, where at most {most} were in flight")
            }
            Self::UsedId { id } => {
                write!(f, "a used entry names chain {id}, which the device does not hold")
            }
            Self::UsedOrder { id, chains, most } => {
                write!(f, "a used entry names chain {id}, {chains} on, but only {most} are used")
            }
            Self::UsedLength { id, len, most } => {
                write!(f, "a used entry: {len} bytes written to chain {id}, which takes {most}")
            }
        }
    }
}

impl QueueError {
    /// Why a half could not start where it should.
    fn write_start(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Position { position, size } => {
                write!(f, "a queue of size {size} cannot start at {position}")
            }
            Self::PositionFormat { position } => {
                write!(f, "start at {position}: that is a place in a queue of the other format")
            }
            Self::SplitBase { base } => {
                write!(f, "vring base {base:#x} is no index of a split queue")
            }
            Self::OutInOrder { position } => {
                write!(f, "start at {position}: chains before were taken and are not used")
            }
            Self::NoJournal => f.write_str("a packed queue is recovered by its journal only"),
            Self::JournalArea { offset, len } => {
                write!(f, "journal: no {len} bytes of cached memory at {offset}")
            }
            Self::JournalOfOther { size, packed } => {
                let format = if packed { "packed" } else { "split" };
                write!(f, "journal: it is for a {format} queue of size {size}")
            }
            Self::JournalLayout { version, size, features } => write!(
                f,
                "journal: version {version}, {size} descriptors, features {features:#x}: not this queue's"
            ),
            Self::JournalPlace { used, old_used, size } => {
                write!(f, "journal: used index {used}, before {old_used}: not in a queue of {size}")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for QueueError {}

/// A chain does not fit into the free descriptors; nothing was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room in the queue until the device has used a chain")
    }
}

impl std::error::Error for Full {}
