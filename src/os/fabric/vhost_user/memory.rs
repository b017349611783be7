//! Memory that the other end of a vhost-user connection gives, and memory for it.
//!
//! A region is a file and a place in it. Files are of memory, which is there at once when it is touched:
//! memfds, and what lies in tmpfs or hugetlbfs. Another file system could keep whoever touches a page
//! waiting, for as long as somebody likes.
//!
//! The file's length is looked at once, when it is mapped. It may be shrunk later, and a page may be had
//! no more for other reasons; so each mapping is [registered](crate::os::bus_error), and all mappings of a
//! connection have one [`Loss`], which tells.

#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, fcntl_get_seals, fstat, fstatfs};
use rustix::io::Errno;

use crate::memory::{Kind, Mapping};
use crate::os::bus_error::{RegisterError, Registered, register};
use crate::os::fabric::mapped::{Mapped, page_size};
use crate::os::fabric::memfd;

/// Most regions of a connection at a time. A memory table has 8 at most; a front-end that adds regions one
/// by one asks how many there may be.
pub const MAX_REGIONS: usize = 64;
/// Most bytes of a connection's memory that are mapped at a time: 1 TiB.
pub const MAX_MAPPED: u64 = 1 << 40;

/// TMPFS_MAGIC and HUGETLBFS_MAGIC (linux/magic.h). The former is a memfd's, too.
const TMPFS: u32 = 0x0102_1994;
const HUGETLBFS: u32 = 0x9584_58f6;

/// What all mappings of one connection have in common: whether any of their memory was lost, and how much
/// there is. Clones are the same one. It may be asked at any time; what was lost stays so.
#[derive(Clone, Debug, Default)]
pub struct Loss {
    lost: Arc<AtomicBool>,
    mapped: Arc<Mutex<Extent>>,
}

/// What a connection has mapped.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    regions: usize,
    bytes: u64,
}

impl Loss {
    /// For a new connection, which has no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether memory of the connection was gone when it was touched: in its place are zeros that nobody
    /// else sees. The connection is of no more use.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn share(&self, bytes: usize) -> Result<Share, RegionError> {
        let bytes = bytes as u64;
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if mapped.regions >= MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        let all = mapped.bytes.checked_add(bytes).filter(|all| *all <= MAX_MAPPED);
        mapped.bytes = all.ok_or(RegionError::TooMuch { len: bytes, mapped: mapped.bytes })?;
        mapped.regions += 1;
        Ok(Share { mapped: self.mapped.clone(), bytes })
    }
}

/// A region's part of what its connection may have.
#[derive(Debug)]
struct Share {
    mapped: Arc<Mutex<Extent>>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.regions -= 1;
        mapped.bytes -= self.bytes;
    }
}

/// Why a region cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionError {
    /// It has no byte.
    Empty,
    /// No file is so long that it ends there.
    Overflow {
        /// Where in its file it begins, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// It does not begin at a multiple of 8 bytes.
    Misaligned(u64),
    /// Its file is shorter than where it ends.
    TooShort {
        /// The file's length in bytes.
        file: u64,
        /// Where the region begins, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// What came is no file of memory.
    NotMemory,
    /// The connection has [`MAX_REGIONS`] already.
    TooMany,
    /// With it the connection would have more than [`MAX_MAPPED`] bytes.
    TooMuch {
        /// How many bytes it takes.
        len: u64,
        /// How many there are already.
        mapped: u64,
    },
    /// It is longer than this program can address.
    AddressSpace(u64),
    /// Its loss could not be survived.
    Unregistered(RegisterError),
    /// A system call failed on it.
    Os(Errno),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "a region without a byte"),
            Self::Overflow { offset, len } => {
                write!(f, "a region of {len} bytes at {offset} ends where no file does")
            }
            Self::Misaligned(offset) => {
                write!(f, "a region begins at byte {offset} of its file, not at a multiple of 8")
            }
            Self::TooShort { file, offset, len } => {
                write!(f, "a region of {len} bytes at {offset} of a file that has {file} bytes")
            }
            Self::NotMemory => write!(
                f,
                "a region's file is neither a memfd nor in tmpfs or hugetlbfs (QEMU: use \
                 memory-backend-memfd with share=on)"
            ),
            Self::TooMany => write!(f, "more than {MAX_REGIONS} regions"),
            Self::TooMuch { len, mapped } => write!(
                f,
                "a region of {len} bytes, with {mapped} mapped already: more than {MAX_MAPPED}"
            ),
            Self::AddressSpace(len) => {
                write!(f, "a region of {len} bytes does not fit into this program's address space")
            }
            Self::Unregistered(error) => write!(f, "{error}"),
            Self::Os(errno) => write!(f, "mapping a region failed: {errno}"),
        }
    }
}

impl std::error::Error for RegionError {}

impl From<Errno> for RegionError {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

/// What keeps a peer's region mapped; dropped in this order.
#[derive(Debug)]
struct Kept {
    _registered: Registered,
    _mapped: Mapped,
    _share: Share,
}

/// Maps the `len` bytes at `offset` of a file that the other end gave. The file may be closed then.
///
/// # Errors
/// It is no region; there is no room for it.
pub fn map(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: u64,
    loss: &Loss,
) -> Result<Arc<Mapping>, RegionError> {
    if len == 0 {
        return Err(RegionError::Empty);
    }
    let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or(RegionError::Overflow { offset, len })?;
    if offset % 8 != 0 {
        return Err(RegionError::Misaligned(offset));
    }
    let page = page_of(fd)?;
    let file = u64::try_from(fstat(fd)?.st_size).unwrap_or(0);
    if end > file {
        return Err(RegionError::TooShort { file, offset, len });
    }
    // From the page that it begins in to the end of the one that it ends in.
    let before = offset % page as u64;
    let none = RegionError::AddressSpace(len);
    let whole = usize::try_from(len + before).ok();
    let whole = whole.and_then(|whole| whole.checked_next_multiple_of(page)).ok_or(none)?;
    let share = loss.share(whole)?;
    let mapped = Mapped::new(fd, offset - before, whole, page).map_err(|errno| match errno {
        Errno::OVERFLOW | Errno::NOMEM => none,
        errno => RegionError::Os(errno),
    })?;
    // SAFETY: these are the whole pages that `mapped` has just mapped and nobody has touched yet; the
    // Mapping is how they are accessed. They are unmapped after what is returned here is dropped.
    let registered = unsafe { register(mapped.base, whole, page, &loss.lost) };
    let registered = registered.map_err(RegionError::Unregistered)?;
    // Both are within the range that was just mapped, whose length is a usize.
    let [before, len] = [before, len].map(|n| usize::try_from(n).unwrap_or(0));
    // SAFETY: `before` lies in the first page.
    let base = unsafe { mapped.base.add(before) };
    let kept = Kept { _registered: registered, _mapped: mapped, _share: share };
    // SAFETY: `kept` holds `base..base + len` mapped, readable and writable, and a page of it that is
    // lost is replaced. Pages begin at multiples of 8, and so does the region in its page.
    Ok(Arc::new(unsafe { Mapping::from_raw(base, len, Kind::Cached, Box::new(kept)) }))
}

/// The size in bytes of the pages of a file of memory.
fn page_of(fd: BorrowedFd<'_>) -> Result<usize, RegionError> {
    // Only files of memory have seals. Another one's file system, which might take its time, is not asked.
    fcntl_get_seals(fd).map_err(|_| RegionError::NotMemory)?;
    if FileType::from_raw_mode(fstat(fd)?.st_mode) != FileType::RegularFile {
        return Err(RegionError::NotMemory);
    }
    let fs = fstatfs(fd)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they have 32 bits")]
    match fs.f_type as u32 {
        TMPFS => Ok(page_size()),
        HUGETLBFS => usize::try_from(fs.f_bsize)
            .ok()
            .filter(|size| size.is_power_of_two())
            .ok_or(RegionError::NotMemory),
        _ => Err(RegionError::NotMemory),
    }
}

/// Makes memory of `len` zero bytes, 1 to [`MAX_MAPPED`], to give to the other end: a file whose length
/// nobody can change, and this end's mapping of it.
///
/// # Errors
/// There is no room for it.
pub fn create(len: u64) -> Result<(OwnedFd, Arc<Mapping>), RegionError> {
    let none = RegionError::AddressSpace(len);
    if len == 0 {
        return Err(RegionError::Empty);
    }
    let bytes = usize::try_from(len).ok().filter(|_| len <= MAX_MAPPED).ok_or(none)?;
    let fd = memfd::create("boardlane-vhost-user", len)?;
    let mapped = Mapped::new(fd.as_fd(), 0, bytes, page_size()).map_err(|errno| match errno {
        Errno::OVERFLOW | Errno::NOMEM => none,
        errno => RegionError::Os(errno),
    })?;
    let base: NonNull<u8> = mapped.base;
    // SAFETY: `mapped` holds `base..base + bytes` mapped, readable and writable, from the beginning of a
    // page; the file cannot shrink. Nothing else here uses it.
    let mapping = unsafe { Mapping::from_raw(base, bytes, Kind::Cached, Box::new(mapped)) };
    Ok((fd, Arc::new(mapping)))
}

#[cfg(test)]
mod tests;
