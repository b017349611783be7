//! A 64-bit atomic in halves, for CPUs that have none (32-bit PowerPC).
//!
//! Each half is one access; between them the other end may look, or write. The half at the higher
//! address is stored last and loaded first where the order says release and acquire. So who finds
//! there what was stored finds the other half stored too, and whoever goes by the lower half alone
//! needs no order. That is enough for what shares an 8-byte word:
//!
//! * a packed descriptor's flags and id stand above its length, which stays as it is while the flags
//!   say that the descriptor is the reader's;
//! * in a window, a heartbeat stands above its epoch, of which either means something alone, and an
//!   echo above its state: for a moment a state may stand there with the echo of the one before,
//!   which is 0 before `RUN`;
//! * of addresses, lengths and nonces a mixture is refused like any other wrong one, and those that
//!   count are published by another word.

use std::sync::atomic::{AtomicU32, Ordering, fence};

/// The two halves, in the order in which they lie in memory. It has the methods of the standard
/// library's type that are used here.
#[derive(Debug)]
#[repr(C, align(8))]
pub(super) struct AtomicU64([AtomicU32; 2]);

impl AtomicU64 {
    /// `Relaxed` or `Acquire`.
    pub(super) fn load(&self, order: Ordering) -> u64 {
        let last = self.0[1].load(order).to_ne_bytes();
        let first = self.0[0].load(order).to_ne_bytes();
        let [a, b, c, d] = first;
        let [e, f, g, h] = last;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// `Relaxed` or `Release`.
    pub(super) fn store(&self, value: u64, order: Ordering) {
        let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
        self.0[0].store(u32::from_ne_bytes([a, b, c, d]), order);
        if order != Ordering::Relaxed {
            // A release store alone does not order memory that is not cached.
            fence(Ordering::SeqCst);
        }
        self.0[1].store(u32::from_ne_bytes([e, f, g, h]), order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zero() -> AtomicU64 {
        AtomicU64([const { AtomicU32::new(0) }; 2])
    }

    #[test]
    fn halves_lie_in_memory_as_the_whole_would() {
        let word = zero();
        for order in [Ordering::Relaxed, Ordering::Release] {
            word.store(0x0807_0605_0403_0201u64.to_le(), order);
            let halves = [0, 1].map(|i| word.0[i].load(Ordering::Relaxed).to_ne_bytes());
            assert_eq!(halves, [[1, 2, 3, 4], [5, 6, 7, 8]]);
            assert_eq!(u64::from_le(word.load(Ordering::Acquire)), 0x0807_0605_0403_0201);
        }
        assert_eq!((size_of::<AtomicU64>(), align_of::<AtomicU64>()), (8, 8));
    }

    #[test]
    fn who_finds_the_upper_half_stored_finds_the_lower_half_stored() {
        const LAST: u32 = 200_000;
        let word = zero();
        std::thread::scope(|s| {
            s.spawn(|| {
                for n in 1..=LAST {
                    word.store((u64::from(n) << 32 | u64::from(n)).to_le(), Ordering::Release);
                }
            });
            let mut upper = 0;
            while upper < LAST {
                let whole = u64::from_le(word.load(Ordering::Acquire));
                upper = (whole >> 32) as u32;
                let lower = whole as u32;
                assert!(lower >= upper, "{lower} is older than {upper}");
            }
        });
    }
}
