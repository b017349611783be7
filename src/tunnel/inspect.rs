//! What a window says to somebody who only looks at it: he is no end, writes nothing, and may come at any
//! moment of a session, or when there is none.
//!
//! Whatever stands there, nothing here fails: each value is read once and taken for what it is, and what
//! would lead outside of memory is not followed. Values that are read one after the other need not
//! belong together, as the ends go on meanwhile; a second look tells.

use super::part::MemoryEntry;
use crate::memory::Look;
use crate::spec::window as w;

/// What the first line of a window comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A header of the layout that this program knows.
    Good,
    /// No agent has written here.
    Empty,
    /// The bus or the board does not answer: all ones.
    Dead,
    /// A header of another layout version.
    Version(u32),
    /// Something that is no window of ours, and begins with this word.
    Other(u64),
}

/// A window's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first word; `spec::window::MAGIC` once an agent has written here.
    pub magic: u64,
    /// The layout version, as it says.
    pub version: u32,
    /// The header's length in bytes, as it says.
    pub header_len: u32,
    /// The window's length in bytes, as it says.
    pub window_len: u64,
    /// Its flags, such as `spec::window::FLAG_DMA_ONLY`.
    pub flags: u32,
    /// What the ends say; `None` where the content tells that they say nothing of this layout.
    pub ends: Option<Ends>,
}

/// What both ends say of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The board's part.
    pub device: Part,
    /// The master's part.
    pub driver: Part,
    /// The slot's number, as the master says.
    pub slot: u32,
    /// The memory table, but for entries that are not used.
    pub memory: Vec<MemoryEntry>,
}

/// One end's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `spec::window::STATE_INIT` and so on.
    pub state: u32,
    /// Its epoch.
    pub epoch: u32,
    /// The epoch of the other end that it runs with, where it does.
    pub echo: u32,
    /// Its heartbeats so far, modulo 2^32.
    pub heartbeat: u32,
    /// Its id on the transport.
    pub owner: u32,
    /// Whether there is a nonce: somebody has the part, or had it when he died.
    pub held: bool,
    /// Vectors that it listens on; 0: it polls.
    pub vectors: u32,
    /// Bus address of its mailbox.
    pub mailbox: u64,
    /// Slots of its mailbox.
    pub slots: u32,
    /// Its flags, such as `spec::window::PART_MUTE`.
    pub flags: u32,
    /// The counts in its mailbox, if that is memory that can be looked at.
    pub counts: Option<Counts>,
}

/// The counts that stand in a mailbox, modulo 2^32. The other end writes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Messages ever put into it.
    pub head: u32,
    /// Messages that the other end has ever taken of those that the mailbox's owner sent.
    pub tail: u32,
}

/// The messages one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Messages ever put in, modulo 2^32.
    pub put: u32,
    /// Messages ever taken out, modulo 2^32.
    pub taken: u32,
    /// How many there is room for.
    pub slots: u32,
}

impl Fill {
    /// How many messages wait; `None` if the counts do not fit each other.
    pub fn waiting(&self) -> Option<u32> {
        Some(self.put.wrapping_sub(self.taken)).filter(|waiting| *waiting <= self.slots)
    }
}

impl Content {
    fn of(magic: u64, version: u32) -> Self {
        match magic {
            w::MAGIC if version == w::LAYOUT_VERSION => Self::Good,
            w::MAGIC => Self::Version(version),
            0 => Self::Empty,
            u64::MAX => Self::Dead,
            other => Self::Other(other),
        }
    }
}

impl Header {
    /// What the first line comes to.
    pub fn content(&self) -> Content {
        Content::of(self.magic, self.version)
    }

    /// Looks at a window, which begins with `window`; `None` if that is too short for a header. `reach`
    /// gives as much memory at a bus address, if it is there.
    pub fn read<'m>(
        window: Look<'m>,
        reach: &dyn Fn(u64, u32) -> Option<Look<'m>>,
    ) -> Option<Self> {
        if window.len() < w::HEADER_LEN as usize || !window.is_aligned(8) {
            return None;
        }
        // The magic is written last, so it is read first.
        let (magic, version) = (window.load_le64(w::AT_MAGIC), window.load_le32(w::AT_VERSION));
        let has_ends = matches!(Content::of(magic, version), Content::Good | Content::Empty);
        let part = |at| Part::read(window, at, reach);
        let ends = has_ends.then(|| Ends {
            device: part(w::DEVICE_PART),
            driver: part(w::DRIVER_PART),
            slot: window.load_le32(w::DRIVER_PART + w::PART_SLOT_NUMBER),
            memory: table(window),
        });
        Some(Self {
            magic,
            version,
            header_len: window.load_le32(w::AT_HEADER_LEN),
            window_len: window.load_le64(w::AT_WINDOW_LEN),
            flags: window.load_le32(w::AT_FLAGS),
            ends,
        })
    }
}

impl Ends {
    /// Whether both ends run with each other.
    pub fn are_up(&self) -> bool {
        let runs = |one: &Part, other: &Part| one.state == w::STATE_RUN && one.echo == other.epoch;
        let ends = [&self.device, &self.driver];
        ends.iter().all(|end| end.held && end.epoch != 0)
            && runs(ends[0], ends[1])
            && runs(ends[1], ends[0])
    }

    /// The messages to the board and those to the master. There are none where the ends do not run with each other:
    /// what stands in a mailbox then is of another time.
    pub fn fills(&self) -> [Option<Fill>; 2] {
        let fill = |to: &Part, from: &Part| {
            let put = to.counts.filter(|_| self.are_up())?.head;
            Some(Fill { put, taken: from.counts?.tail, slots: to.slots })
        };
        [fill(&self.device, &self.driver), fill(&self.driver, &self.device)]
    }
}

impl Part {
    fn read<'m>(window: Look<'m>, at: usize, reach: &dyn Fn(u64, u32) -> Option<Look<'m>>) -> Self {
        let pair = |offset| halves(window.load_le64(at + offset));
        let ((epoch, heartbeat), (state, echo)) = (pair(w::PART_PULSE), pair(w::PART_STATE));
        let mailbox = window.load_le64(at + w::PART_MAILBOX);
        let slots = window.load_le32(at + w::PART_SLOTS);
        Self {
            state,
            epoch,
            echo,
            heartbeat,
            owner: window.load_le32(at + w::PART_OWNER),
            held: window.load_le64(at + w::PART_NONCE) != 0,
            vectors: window.load_le32(at + w::PART_VECTORS),
            mailbox,
            slots,
            flags: window.load_le32(at + w::PART_FLAGS),
            counts: Counts::read(mailbox, slots, reach),
        }
    }
}

impl Counts {
    /// The counts of the mailbox at a bus address that an end wrote.
    fn read<'m>(
        addr: u64,
        slots: u32,
        reach: &dyn Fn(u64, u32) -> Option<Look<'m>>,
    ) -> Option<Self> {
        if !slots.is_power_of_two() || slots > w::MAX_SLOTS {
            return None;
        }
        let len = w::mailbox_len(slots);
        let mailbox = reach(addr, len).filter(|look| look.is_aligned(8))?;
        (mailbox.len() == len as usize).then(|| Self {
            head: mailbox.load_le32(w::MAILBOX_HEAD),
            tail: mailbox.load_le32(w::MAILBOX_TAIL),
        })
    }
}

fn table(window: Look<'_>) -> Vec<MemoryEntry> {
    let entry = |at| MemoryEntry {
        bus_addr: window.load_le64(at),
        len: window.load_le64(at + 8),
        kind: window.load_le32(at + 16),
    };
    let entries = (0..w::MEMORY_ENTRIES).map(|i| entry(w::MEMORY_TABLE + i * w::MEMORY_ENTRY_LEN));
    entries.filter(|entry| entry.kind != w::MEMORY_NONE).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
mod tests;
