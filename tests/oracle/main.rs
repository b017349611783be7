//! Rings and device against other people's: the crates of rust-vmm (`virtio-queue`, a device half; `vhost`, a
//! vhost-user front-end) and `virtio-drivers` (a driver). They know nothing of this crate, so what both sides agree on is not one
//! author's misreading of the standard.
//!
//! * `device_half`: random chains, well-formed and not, through our device half and virtio-queue's;
//! * `virtio_driver`: virtio-drivers' network driver against our device model and device path;
//! * `virtio_device`: our driver half and driver path against a device made with virtio-queue;
//! * `vhost_front_end`: vhost's front-end against our back-end.

#![cfg(all(target_endian = "little", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

mod chains;
mod device_half;
mod image;
mod netdev;
mod rules;
#[cfg(feature = "os")]
mod vhost_front_end;
mod virtio_device;
mod virtio_driver;

/// Small, repeatable, good enough to mix things up (xorshift64*).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Below `n`, which is at most 65536.
    fn index(&mut self, n: u32) -> u16 {
        u16::try_from(self.below(usize::try_from(n).unwrap())).unwrap()
    }

    fn len(&mut self, n: u32) -> u32 {
        u32::try_from(self.below(usize::try_from(n).unwrap())).unwrap()
    }
}
