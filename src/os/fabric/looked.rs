//! Memory of a device that is only looked at.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mapped::{Mapped, page_size};
use crate::memory::{Kind, ReadOnly};
use crate::os::bus_error::{RegisterError, Registered, register};

/// A part of a device's file, mapped to be read only. Should the device vanish it reads as zeros.
#[derive(Debug)]
pub struct Looked {
    /// The bytes, which take loads of words.
    pub memory: ReadOnly,
    lost: Arc<AtomicBool>,
}

/// What keeps it mapped; dropped in this order.
#[derive(Debug)]
struct Kept {
    _registered: Registered,
    _mapped: Mapped,
}

impl Looked {
    /// Maps `len` bytes, whole pages, at `offset` of a device's file.
    ///
    /// # Errors
    /// The kernel does not map it.
    pub(super) fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let (page, lost) = (page_size(), Arc::<AtomicBool>::default());
        let mapped = Mapped::read_only(file, offset, len, page)?;
        // SAFETY: these are the whole pages that `mapped` has just mapped and nobody has touched yet; they
        // are accessed by loads of a `ReadOnly` alone, and unmapped after what is returned here is dropped.
        let registered = unsafe { register(mapped.base, len, page, &lost) };
        let registered = registered.map_err(|error| match error {
            RegisterError::Os(errno) => errno.into(),
            RegisterError::Full => io::Error::other(error),
        })?;
        let base = mapped.base;
        let kept = Kept { _registered: registered, _mapped: mapped };
        // SAFETY: `kept` holds `base..base + len` mapped and readable, from the start of a page on.
        let memory = unsafe { ReadOnly::from_raw(base, len, Kind::Uncached, Box::new(kept)) };
        Ok(Self { memory, lost })
    }

    /// Whether the device was gone when it was looked at.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn a_device_that_vanishes_reads_as_zeros_and_is_known_to_be_lost() {
        let page = page_size();
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 2 * page as u64).unwrap();
        rustix::io::pwrite(&file, &[0x5a; 8], page as u64).unwrap();
        let looked = Looked::map(file.as_fd(), page as u64, page).unwrap();
        let load = || looked.memory.look(0, 8).unwrap().load_le64(0);
        assert_eq!((load(), looked.is_lost()), (0x5a5a_5a5a_5a5a_5a5a, false));
        ftruncate(&file, page as u64).unwrap();
        assert_eq!((load(), looked.is_lost()), (0, true));
    }
}
