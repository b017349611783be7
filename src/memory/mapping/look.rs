//! Memory that is looked at, and never written to.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{Kind, Mapping, View, fence};

/// A range of memory that this process maps to read only: there is no way to store to it.
#[derive(Debug)]
pub struct ReadOnly(Mapping);

impl ReadOnly {
    /// Takes over a mapping that somebody made.
    ///
    /// # Safety
    /// As for [`Mapping::from_raw`], but that the bytes need not be writable.
    ///
    /// # Panics
    /// As that does.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: usize,
        kind: Kind,
        keep: Box<dyn Any + Send + Sync>,
    ) -> Self {
        // SAFETY: what the caller promises, and nothing gets at the mapping but by loads of a `Look`.
        Self(unsafe { Mapping::from_raw(base, len, kind, keep) })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `len` bytes at `offset`, if they are all inside.
    pub fn look(&self, offset: usize, len: usize) -> Option<Look<'_>> {
        let inside = offset <= self.len() && len <= self.len() - offset;
        inside.then(|| Look(self.0.view(offset, len)))
    }
}

/// A [`View`] that has loads only, each of an aligned word. Offsets are in bytes and must lie inside, as
/// for a view.
///
/// Loads are relaxed ones with a fence: only such are sure to be mere loads on a page that cannot be
/// written.
#[derive(Clone, Copy, Debug)]
pub struct Look<'m>(View<'m>);

impl<'m> From<View<'m>> for Look<'m> {
    fn from(view: View<'m>) -> Self {
        Self(view)
    }
}

impl Look<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether its first byte lies at a multiple of `align` in this process.
    pub fn is_aligned(&self, align: u64) -> bool {
        self.0.is_aligned(align)
    }

    /// Where it lies in this process.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        self.0.base.as_ptr().addr()
    }

    /// 32 bits; no later access overtakes the load.
    pub fn load_le32(&self, off: usize) -> u32 {
        let value = self.0.load_le32(off);
        fence(Ordering::Acquire);
        value
    }

    /// 64 bits; no later access overtakes the load. A CPU of 32 bits loads the lower half last, as
    /// ends that write in halves write it first.
    pub fn load_le64(&self, off: usize) -> u64 {
        if cfg!(target_pointer_width = "64") {
            let value = self.0.load_le64(off);
            fence(Ordering::Acquire);
            return value;
        }
        let high = self.load_le32(off + 4);
        u64::from(high) << 32 | u64::from(self.load_le32(off))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_loads_what_a_view_stores_and_stays_inside() {
        let memory = ReadOnly(Mapping::anonymous(64, Kind::Uncached));
        memory.0.view(0, 64).store_le64(8, 0x1122_3344_5566_7788);
        let look = memory.look(8, 16).unwrap();
        assert_eq!((look.len(), look.is_aligned(8)), (16, true));
        assert_eq!(look.load_le64(0), 0x1122_3344_5566_7788);
        assert_eq!([look.load_le32(0), look.load_le32(4)], [0x5566_7788, 0x1122_3344]);
        assert!(memory.look(64, 0).is_some());
        for (offset, len) in [(64, 1), (65, 0), (0, 65), (usize::MAX, 2), (8, usize::MAX)] {
            assert!(memory.look(offset, len).is_none(), "{offset}+{len}");
        }
    }
}
