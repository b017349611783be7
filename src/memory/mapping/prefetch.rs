//! Hints of what is to be read or written soon. Nothing is yet.

use super::View;

impl View<'_> {
    /// Has the CPU load the first lines of cached memory, of at most 128 bytes, where it can be told to.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(all(target_arch = "x86_64", not(feature = "sim")))]
        self.each_line(|line| {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: it gives no value and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
        });
    }

    /// The same for memory that is to be written: other CPUs lose these lines.
    #[inline]
    pub fn prefetch_to_write(&self) {
        #[cfg(all(target_arch = "x86_64", not(feature = "sim")))]
        self.each_line(|line| {
            // SAFETY: it gives no value and never faults; a CPU that does not know it does nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(readonly, nostack, preserves_flags));
            }
        });
    }

    /// The first and the last of the first 128 bytes, of cached memory.
    #[cfg(all(target_arch = "x86_64", not(feature = "sim")))]
    #[inline]
    fn each_line(&self, load: impl Fn(*mut u8)) {
        if self.cached() && self.len > 0 {
            [0, (self.len - 1).min(127)]
                .into_iter()
                .for_each(|at| load(self.base.as_ptr().wrapping_add(at)));
        }
    }
}
