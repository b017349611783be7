//! Packed virtqueues (virtio 1.4 §2.8): layout and algorithm that both halves share.
//!
//! Theory of operation. One ring of descriptors that both ends write: the driver goes round it and
//! makes descriptors available, the device goes round behind it and writes used ones over them. Each
//! end counts its laps in one bit, the wrap counter, and writes it into a descriptor's flags; so who
//! waits for a descriptor knows by its flags whether its time has come, and looks at no other. A
//! list of descriptors makes a chain, and takes as much of the ring again when it is used, though
//! only one used descriptor is written for it. Chains may be used in any order, so a chain has a
//! buffer id.
//!
//! A batch is published by the flags of its first descriptor. Whatever else belongs to it is written
//! before, and stands where the other end does not look yet.
//!
//! Barriers, in pairs:
//!
//! * **A** the driver stores the first head's flags of a batch with release, after buffers and all
//!   other descriptors; the device loads them with acquire, before it reads any of these.
//! * **B** the device stores the first used descriptor's flags of a batch with release, after data
//!   and all other used descriptors; the driver loads them with acquire, before it reads any of these
//!   or lets the buffers be written again.
//! * **C** the driver publishes, *full fence*, reads the device's event suppression; the device,
//!   about to sleep, says there what it waits for, *full fence*, looks at the ring. Whichever fence
//!   comes first, one of the two sees the other's store: no notification is lost (§2.8.21).
//! * **D** as C the other way: the device publishes, the driver goes to sleep (§2.8.22).
//!
//! As both ends write one area, and flags are read over and over, the areas must lie in cached
//! memory; that is checked. Buffers may lie elsewhere: where any region is write-combined or
//! uncached, a full fence comes before the flags, as release does not order those.
//!
//! A descriptor is two 8-byte words, of which the second holds length, id and flags, and is always
//! read and written whole. An event suppression structure is one 4-byte word, likewise.

mod device;
mod driver;
#[cfg(test)]
mod tests;

pub(super) use device::DeviceHalf;
pub(super) use driver::DriverHalf;

use super::area::{self, halves, view, word};
use super::{Area, QueueConfig, QueueError};
use crate::memory::{BusMemory, Kind, Span, View, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::packed;

/// The checked areas of one queue, and what both halves know about it.
#[derive(Debug)]
struct Layout {
    size: u16,
    event_idx: bool,
    ring: Span,
    driver_event: Span,
    device_event: Span,
    /// Some memory here is not ordered by a release store alone.
    weak_memory: bool,
}

impl Layout {
    fn new(config: &QueueConfig, mem: &BusMemory) -> Result<Self, QueueError> {
        let size = config.size;
        if size == 0 || size > packed::MAX_SIZE {
            return Err(QueueError::PackedSize { size });
        }
        let cached = |area, addr, len, align| {
            let span = area::resolve(mem, area, addr, len, align)?;
            if mem.kind(span) == Kind::Cached {
                Ok(span)
            } else {
                Err(QueueError::NotCached { area })
            }
        };
        let event = |area, addr| cached(area, addr, packed::EVENT_LEN, packed::EVENT_ALIGN);
        let (len, align) = (packed::desc_len(size), packed::DESC_ALIGN);
        Ok(Self {
            size,
            event_idx: config.event_idx,
            ring: cached(Area::Descriptors, config.desc, len, align)?,
            driver_event: event(Area::Driver, config.driver)?,
            device_event: event(Area::Device, config.device)?,
            weak_memory: area::weak_memory(mem),
        })
    }

    /// Makes the descriptor at `at`, and with it a batch, visible after everything that was stored
    /// before (barriers A and B).
    fn store_first(&self, mem: &BusMemory, at: u16, word: u64) {
        if self.weak_memory {
            fence_full();
        }
        if planted(Bug::NoRelease) {
            return view(mem, self.ring).store_le64(word_at(at), word);
        }
        view(mem, self.ring).store_release_le64(word_at(at), word);
    }
}

/// A place in the ring, and on which lap: the wrap counter (§2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) at: u16,
    pub(super) wrap: bool,
}

impl Cursor {
    /// Where both ends begin.
    pub(super) const START: Self = Self { at: 0, wrap: true };

    /// The place `by` descriptors on, at most a whole lap.
    fn advance(self, by: u16, size: u16) -> Self {
        let at = self.at + by; // below 65536: `at` is below `size`, and `size` at most 32768
        match at.checked_sub(size) {
            None => Self { at, ..self },
            Some(at) => Self { at, wrap: !self.wrap },
        }
    }

    /// The place `by` descriptors back, at most a whole lap.
    fn back(self, by: u16, size: u16) -> Self {
        match self.at.checked_sub(by) {
            Some(at) => Self { at, ..self },
            None => Self { at: self.at + (size - by), wrap: !self.wrap },
        }
    }

    /// How many descriptors it is from `start` to here, within two laps: more the wrap counter does
    /// not tell apart.
    pub(super) fn since(self, start: Self, size: u16) -> u32 {
        let (here, start_at, size) = (u32::from(self.at), u32::from(start.at), u32::from(size));
        let lap = if self.wrap == start.wrap || planted(Bug::EventWrap) { 0 } else { size };
        (here + lap + 2 * size - start_at) % (2 * size)
    }

    /// `AVAIL` and `USED` of a descriptor that is made available here.
    fn available(self) -> u16 {
        if self.wrap { packed::DESC_F_AVAIL } else { packed::DESC_F_USED }
    }

    /// `AVAIL` and `USED` of a descriptor that is used here.
    fn used(self) -> u16 {
        if self.wrap { packed::DESC_F_AVAIL | packed::DESC_F_USED } else { 0 }
    }
}

/// `AVAIL` and `USED` of these flags.
fn lap(flags: u16) -> u16 {
    flags & (packed::DESC_F_AVAIL | packed::DESC_F_USED)
}

/// Offset of the second word of the descriptor at `at`.
fn word_at(at: u16) -> usize {
    usize::from(at) * packed::DESC_LEN as usize + packed::DESC_WORD
}

/// What an end says of the notifications that it wants (§2.8.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    /// All.
    Enabled,
    /// None.
    Disabled,
    /// One, when the descriptor here is made available or used.
    At(Cursor),
}

impl Events {
    fn store(self, event: &View<'_>) {
        event.store_le32(
            0,
            match self {
                Self::Enabled => word(0, packed::EVENT_ENABLE),
                Self::Disabled => word(0, packed::EVENT_DISABLE),
                Self::At(Cursor { at, wrap }) => {
                    word(at | if wrap { packed::EVENT_WRAP } else { 0 }, packed::EVENT_DESC)
                }
            },
        );
    }

    /// Reads what the other end says, once. What makes no sense asks for all.
    fn load(event: &View<'_>, layout: &Layout) -> Self {
        let [desc, flags] = halves(event.load_le32(0));
        let place = Cursor { at: desc & !packed::EVENT_WRAP, wrap: desc & packed::EVENT_WRAP != 0 };
        match flags & packed::EVENT_FLAGS {
            packed::EVENT_DISABLE => Self::Disabled,
            packed::EVENT_DESC if layout.event_idx && place.at < layout.size => Self::At(place),
            _ => Self::Enabled,
        }
    }

    /// Whether they want to hear of the `count` descriptors from `start` on (§2.8.10).
    fn want(self, start: Cursor, count: u16, size: u16) -> bool {
        match self {
            Self::Enabled => true,
            Self::Disabled => false,
            Self::At(place) => place.since(start, size) < count.into(),
        }
    }
}
