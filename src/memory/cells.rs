//! Model memory: what a simulation or a model checker puts behind a [`Mapping`](super::Mapping) in the
//! place of bytes, and behind the fences. Feature `sim`.
//!
//! Every access to shared memory and every fence that orders them goes through
//! [`mapping`](super::mapping); with a model behind it each of them is a call here, with the order that
//! the program asked for. Without the feature none of this is compiled, nor is there a branch for it.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{self, AtomicU8, AtomicU16, AtomicU32, Ordering};

#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;

#[cfg(not(target_has_atomic = "64"))]
use super::halves::AtomicU64;

/// Memory as a model has it.
///
/// `size` is 1, 2, 4 or 8, `offset` a multiple of it, both together inside; values are those that
/// little-endian octets mean. Memory that is not cached sees sizes of 4 and 8 only.
pub trait Cells: fmt::Debug + Send + Sync {
    /// Length in bytes, a multiple of 8.
    fn len(&self) -> usize;
    /// Whether it holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// `order` is `Relaxed` or `Acquire`.
    fn load(&self, offset: usize, size: usize, order: Ordering) -> u64;
    /// `order` is `Relaxed` or `Release`.
    fn store(&self, offset: usize, size: usize, value: u64, order: Ordering);
}

/// Hears of each fence of its thread: `Acquire` or `SeqCst`.
pub type Fences = Rc<dyn Fn(Ordering)>;

thread_local! {
    static FENCES: RefCell<Option<Fences>> = const { RefCell::new(None) };
}

/// Puts a model behind this thread's fences, beside the real ones; returns the one before.
pub fn set_fences(model: Option<Fences>) -> Option<Fences> {
    FENCES.replace(model)
}

/// A fence, of the CPU and of the model.
#[inline]
pub(super) fn fence(order: Ordering) {
    atomic::fence(order);
    // A model may itself want a fence that is the CPU's alone, so it is not held on to.
    let model = FENCES.with_borrow(Clone::clone);
    if let Some(model) = model {
        model(order);
    }
}

/// One word of a mapping, of whichever memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word<'m, A> {
    Real(&'m A),
    Model(&'m dyn Cells, usize),
}

/// The calls of the standard library's type that are used here. Values are in memory's octet order.
macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word<'_, $atomic> {
            #[allow(clippy::cast_possible_truncation, reason = "a model gives so many octets")]
            pub(super) fn load(&self, order: Ordering) -> $value {
                match self {
                    Self::Real(word) => word.load(order),
                    Self::Model(cells, at) => {
                        (cells.load(*at, size_of::<$value>(), order) as $value).to_le()
                    }
                }
            }

            pub(super) fn store(&self, value: $value, order: Ordering) {
                match self {
                    Self::Real(word) => word.store(value, order),
                    Self::Model(cells, at) => {
                        let value = u64::from(<$value>::from_le(value));
                        cells.store(*at, size_of::<$value>(), value, order);
                    }
                }
            }
        }
    };
}

word!(AtomicU8, u8);
word!(AtomicU16, u16);
word!(AtomicU32, u32);
word!(AtomicU64, u64);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::memory::{Kind, Mapping, fence_full};

    /// Bytes, and whether all accesses were of 4 or 8 of them.
    #[derive(Debug)]
    struct Bytes(Mutex<(Vec<u8>, bool)>);

    impl Cells for Bytes {
        fn len(&self) -> usize {
            self.0.lock().unwrap().0.len()
        }

        fn load(&self, offset: usize, size: usize, _: Ordering) -> u64 {
            let (bytes, wide) = &mut *self.0.lock().unwrap();
            *wide &= size >= 4;
            let mut word = [0; 8];
            word[..size].copy_from_slice(&bytes[offset..offset + size]);
            u64::from_le_bytes(word)
        }

        fn store(&self, offset: usize, size: usize, value: u64, _: Ordering) {
            let (bytes, wide) = &mut *self.0.lock().unwrap();
            *wide &= size >= 4;
            bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    #[test]
    fn model_memory_holds_the_octets_that_real_memory_would() {
        for kind in [Kind::Cached, Kind::WriteCombined, Kind::Uncached] {
            let cells = Arc::new(Bytes(Mutex::new((vec![0; 64], true))));
            let model = Mapping::model(cells.clone(), kind);
            let real = Mapping::anonymous(64, kind);
            let mut images = [[0; 64]; 2];
            for (m, image) in [&model, &real].into_iter().zip(&mut images) {
                let v = m.view(8, 48);
                assert!(v.is_aligned(8) && !v.is_aligned(16));
                v.store_le16(2, 0x0102);
                v.store_le32(4, 0x0304_0506);
                v.store_release_le32(8, 0x0708_090a);
                v.store_le64(16, 0x0b0c_0d0e_0f10_1112);
                v.store_release_le64(24, 0x1314_1516_1718_191a);
                v.copy_from(33, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
                assert_eq!(v.load_acquire_le16(2), 0x0102);
                assert_eq!(v.load_acquire_le32(4), 0x0304_0506);
                assert_eq!(v.load_acquire_le64(24), 0x1314_1516_1718_191a);
                m.view(0, 64).copy_to(0, image);
            }
            assert_eq!(images[0], images[1], "{kind:?}");
            assert!(kind == Kind::Cached || cells.0.lock().unwrap().1, "{kind:?}");
            assert!(model.view(0, 8).io_parts().is_none());
        }
    }

    #[test]
    fn a_model_hears_of_the_fences_of_its_thread() {
        let heard = Rc::new(Cell::new(0));
        let ear = heard.clone();
        assert!(set_fences(Some(Rc::new(move |_| ear.set(ear.get() + 1)))).is_none());
        fence_full();
        let m = Mapping::anonymous(8, Kind::Uncached);
        m.view(0, 8).store_release_le32(0, 1);
        std::thread::scope(|s| {
            s.spawn(fence_full);
        });
        assert!(set_fences(None).is_some());
        fence_full();
        assert_eq!(heard.get(), 2);
    }
}
