//! Counters of 64 bits: the standard library's, and where the CPU has none (32-bit PowerPC) those of
//! portable-atomic, which locks.

#[cfg(not(target_has_atomic = "64"))]
pub use portable_atomic::AtomicU64;
#[cfg(target_has_atomic = "64")]
pub use std::sync::atomic::AtomicU64;
