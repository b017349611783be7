//! A part of a file in this process's address space.
//!
//! It stands between guard pages, which cannot be accessed: were a check of an address wrong, what runs
//! over either end would stop the process, and not reach what else is mapped there.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Length in bytes of a guard: a page of any size that a kernel of ours has.
pub(super) const GUARD: usize = 64 << 10;

/// A range of our address space, the guards around it included, that is unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapped {
    start: NonNull<u8>,
    whole: usize,
    /// Where the file begins.
    pub(super) base: NonNull<u8>,
}

impl Mapped {
    /// Maps `len` bytes at `offset` of a file, shared, readable and writable, and never executable.
    /// `align` is the size of the file's pages, a power of two, of which `offset` is a multiple; for pages
    /// larger than usual `len` is one, too.
    ///
    /// # Errors
    /// Those of mmap(2); EOVERFLOW if no address space is that large.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        align: usize,
    ) -> rustix::io::Result<Self> {
        Self::with(fd, offset, len, align, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// As [`new`](Self::new), but to be read only.
    pub(super) fn read_only(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        align: usize,
    ) -> rustix::io::Result<Self> {
        Self::with(fd, offset, len, align, ProtFlags::READ)
    }

    fn with(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        align: usize,
        prot: ProtFlags,
    ) -> rustix::io::Result<Self> {
        let spare = if align > GUARD { align } else { 0 };
        let whole = len.checked_add(2 * GUARD + spare).ok_or(Errno::OVERFLOW)?;
        let (nothing, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { mmap_anonymous(null_mut(), whole, nothing, private) }?.cast::<u8>();
        let at = (start.addr() + GUARD).next_multiple_of(align);
        let base = NonNull::new(start.with_addr(at)).ok_or(Errno::FAULT)?;
        let start = NonNull::new(start).ok_or(Errno::FAULT)?;
        // From here on a failure unmaps it.
        let mapped = Self { start, whole, base };
        // Whoever made the file has reserved its memory, or has not.
        let over = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: it replaces a part of the mapping that was just made, and that nobody uses yet.
        unsafe { mmap(base.as_ptr().cast(), len, prot, over, fd, offset) }?;
        // A child process has no business here; that the kernel may not know the advice is no harm.
        // SAFETY: the range is ours and stays mapped in this process.
        let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxDontFork) };
        Ok(mapped)
    }
}

// SAFETY: it only holds the range; access to the bytes is the affair of who lends it out.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever lent it out is being dropped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.whole) };
    }
}

/// The size in bytes of this machine's pages.
pub(super) fn page_size() -> usize {
    // SAFETY: the call takes a number and gives one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}
