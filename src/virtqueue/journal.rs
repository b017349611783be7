//! What a device half keeps where it survives a crash: vhost-user's inflight region of one queue.
//!
//! Theory of operation. The layout is that of `QueueRegionSplit` and `QueueRegionPacked` (vhost-user,
//! "Inflight I/O tracking", version 1). This device half uses chains in the order in which it got them,
//! so whatever was in flight at a crash is what stands in the ring from the used position on, and no entry
//! for single descriptors is needed: `desc` stays zero, of which a reader makes that nothing is in flight.
//!
//! The used ring of a split queue says itself where that is; the journal repeats it for other readers.
//!
//! A packed ring does not say it, and a used descriptor is written over an available one, which then
//! cannot be taken again. So a half with a journal publishes each used descriptor by itself, at once, and
//! each goes in three steps: the journal says where the next one will go (`used_idx`) and where this one
//! goes (`old_used_idx`); the descriptor is stored; the journal says that both are the same. Recovery
//! looks at the descriptor at `old_used_idx` if they are not: `USED` tells by the lap whether it was stored.
//! The driver cannot have come round to it a second time, as it waits there for this end.
//!
//! Places are one word and wrap counters another. Where the counter changes it is stored first, in both
//! steps. Between the two words, before the descriptor: the old place on both laps, a distance of a whole
//! ring, told by the descriptor as always. After it: from the old place back to the new one on the same
//! lap, which no step has, so the new place is it; if the two are one place there is nothing to tell.
//!
//! A process may end between any two stores, but none is lost or overtakes another: release keeps the
//! compiler's order, and what a CPU has stored will be seen. (A CPU without 64-bit atomics stores a
//! descriptor's length before its flags. If it ends just there, the chain's length is gone with it, and the
//! successor's queue may break.)
//!
//! Whoever keeps the memory may have written anything there: it is read once, and checked.

use std::sync::Arc;

use super::QueueError;
use super::area::{halves, word};
use super::packed::Cursor;
use crate::memory::{Kind, Mapping, View};

/// Of each queue's region.
const ALIGN: usize = 64;
/// Offset of `version` le16 and `desc_num` le16; before it stands `features` le64.
const HEAD: usize = 8;
/// The layout's version. As long as 0 stands there, nothing else does.
const VERSION: u16 = 1;
/// Split: offset of `last_batch_head` le16 and `used_idx` le16.
const SPLIT_USED: usize = 12;
/// Packed: offset of `free_head` le16 and `old_free_head` le16.
const PACKED_FREE: usize = 12;
/// Packed: offset of `used_idx` le16 and `old_used_idx` le16.
const PACKED_PLACES: usize = 16;
/// Packed: offset of `used_wrap_counter` and `old_used_wrap_counter`, a byte each, then 7 unused ones.
const PACKED_WRAPS: usize = 20;
/// Of all fields before `desc`, and of an entry of that.
const SPLIT_LENS: [usize; 2] = [16, 16];
const PACKED_LENS: [usize; 2] = [32, 32];

/// The memory of one queue's journal.
#[derive(Clone, Debug)]
pub struct Journal {
    mapping: Arc<Mapping>,
    offset: usize,
    size: u16,
    packed: bool,
}

impl Journal {
    /// Length in bytes for a queue of `queue_size` descriptors; journals stand one after the other.
    pub const fn len(queue_size: u16, packed: bool) -> usize {
        let [head, entry] = if packed { PACKED_LENS } else { SPLIT_LENS };
        (head + entry * queue_size as usize).next_multiple_of(ALIGN)
    }

    /// The journal at `offset` of `mapping`, for a queue of at most `queue_size` descriptors. It must be
    /// zeroed before its first use.
    pub fn new(
        mapping: Arc<Mapping>,
        offset: usize,
        queue_size: u16,
        packed: bool,
    ) -> Result<Self, QueueError> {
        let len = Self::len(queue_size, packed);
        let fits = offset.checked_add(len).is_some_and(|end| end <= mapping.len());
        if !fits || offset % 8 != 0 || mapping.kind() != Kind::Cached {
            return Err(QueueError::JournalArea { offset, len });
        }
        Ok(Self { mapping, offset, size: queue_size, packed })
    }

    fn view(&self) -> View<'_> {
        self.mapping.view(self.offset, Self::len(self.size, self.packed))
    }

    /// Whether nothing stands in it yet: no half has started with it.
    pub fn is_fresh(&self) -> bool {
        let [version, _] = halves(self.view().load_le32(HEAD));
        version == 0
    }

    /// The queue has come to rest, and whoever starts it next says where: nothing stands in here.
    pub fn forget(&self) {
        self.view().store_release_le32(HEAD, 0);
    }

    /// Whether it is one for such a queue.
    pub(super) fn suits(&self, size: u16, packed: bool) -> Result<(), QueueError> {
        if self.packed == packed && size <= self.size {
            return Ok(());
        }
        Err(QueueError::JournalOfOther { size: self.size, packed: self.packed })
    }

    /// Whether something stands in it, in the layout that is known here.
    fn written(&self) -> Result<bool, QueueError> {
        let view = self.view();
        let [version, size] = halves(view.load_acquire_le32(HEAD));
        let features = view.load_le64(0);
        match version {
            0 => Ok(false),
            VERSION if size == self.size && features == 0 => Ok(true),
            _ => Err(QueueError::JournalLayout { version, size, features }),
        }
    }

    /// Writes all of it anew.
    fn write(&self, used: impl Fn(&View<'_>)) {
        let view = self.view();
        view.store_le32(HEAD, 0);
        view.store_le64(0, 0);
        used(&view);
        view.store_release_le32(HEAD, word(VERSION, self.size));
    }

    /// A split queue that is recovered: what stands here is not needed, and must be what it would be.
    pub(super) fn check_split(&self) -> Result<(), QueueError> {
        self.written().map(drop)
    }

    /// A split queue starts, at this used index.
    pub(super) fn start_split(&self, used: u16) {
        self.write(|view| view.store_le32(SPLIT_USED, word(0, used)));
    }

    /// A split queue has published this used index.
    pub(super) fn published_split(&self, used: u16) {
        self.view().store_release_le32(SPLIT_USED, word(0, used));
    }

    /// A packed queue starts, at this place.
    pub(super) fn start_packed(&self, used: Cursor) {
        self.write(|view| {
            view.store_le32(PACKED_FREE, 0);
            view.store_le32(PACKED_PLACES, word(used.at, used.at));
            view.store_le32(PACKED_WRAPS, wraps(used, used));
        });
    }

    /// A packed queue will publish the used descriptor at `from`, and after it comes `to`.
    pub(super) fn will_publish(&self, from: Cursor, to: Cursor) {
        let view = self.view();
        if from.wrap != to.wrap {
            view.store_release_le32(PACKED_WRAPS, wraps(to, from));
        }
        view.store_release_le32(PACKED_PLACES, word(to.at, from.at));
    }

    /// It has.
    pub(super) fn has_published(&self, from: Cursor, to: Cursor) {
        let view = self.view();
        if from.wrap != to.wrap {
            view.store_release_le32(PACKED_WRAPS, wraps(to, to));
        }
        view.store_release_le32(PACKED_PLACES, word(to.at, to.at));
    }

    /// Where a packed queue of `size` goes on; `None` if nothing stands here. `is_used` says whether the
    /// descriptor at a place was used on that lap. Afterwards both places here are the same.
    pub(super) fn recover(
        &self,
        size: u16,
        is_used: impl FnOnce(Cursor) -> bool,
    ) -> Result<Option<Cursor>, QueueError> {
        if !self.written()? {
            return Ok(None);
        }
        let view = self.view();
        let places @ [new, old] = halves(view.load_acquire_le32(PACKED_PLACES));
        let wraps @ [new_wrap, old_wrap, ..] = view.load_le32(PACKED_WRAPS).to_le_bytes();
        if places.iter().any(|at| *at >= size) || wraps[..2].iter().any(|wrap| *wrap > 1) {
            let [used, old_used] = places;
            return Err(QueueError::JournalPlace { used, old_used, size });
        }
        let new = Cursor { at: new, wrap: new_wrap == 1 };
        let old = Cursor { at: old, wrap: old_wrap == 1 };
        if new.since(old, size) > size.into() || is_used(old) {
            self.has_published(old, new);
            return Ok(Some(new));
        }
        // Places first: the old one on both laps is told by the descriptor.
        view.store_release_le32(PACKED_PLACES, word(old.at, old.at));
        view.store_release_le32(PACKED_WRAPS, self::wraps(old, old));
        Ok(Some(old))
    }
}

/// The word of the two wrap counters.
fn wraps(used: Cursor, old_used: Cursor) -> u32 {
    u32::from(used.wrap) | u32::from(old_used.wrap) << 8
}
