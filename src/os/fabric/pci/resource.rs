//! A function by the files of its BARs in sysfs, where there is no VFIO for it: memory can be mapped,
//! interrupts cannot be had. A register that rings the other end can be written.
//!
//! Nothing in the kernel keeps two processes from mapping one BAR: a lock (flock(2)) on the function's
//! config file does, between those that ask for it, for as long as somebody has that file open. It is asked
//! for by VFIO, too, which else would take away what is mapped here. A function that a driver has is left
//! to it.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::address::Address;
use super::error::PciError;
use super::kinds::BoardKind;
use super::sysfs::{Function, Tree};
use crate::os::fabric::mapped::page_size;

/// What is open of a function.
#[derive(Debug)]
pub(super) struct Files {
    /// Its config space, locked.
    pub(super) config: OwnedFd,
    /// The BAR of its memory.
    pub(super) memory: OwnedFd,
    /// That is write-combined.
    pub(super) combined: bool,
    /// The BAR of its registers, if it has any.
    pub(super) registers: Option<OwnedFd>,
}

/// Opens a function that has been enabled and that no driver has.
///
/// # Errors
/// A driver or another process has it; it may not be mapped.
pub(super) fn open(
    tree: &Tree,
    function: &Function,
    kind: &BoardKind,
    config: OwnedFd,
) -> Result<Files, PciError> {
    let file = |bar: usize| tree.file(function.address, &format!("resource{bar}"));
    let combined = tree.file(function.address, &format!("resource{}_wc", kind.memory));
    let is_combined = combined.exists();
    let path = if is_combined { combined } else { file(kind.memory) };
    let memory = open_file(&path)?;
    try_mapping(tree, &path, memory.as_fd())?;
    let registers = kind.register_bar().map(|(bar, _)| open_file(&file(bar))).transpose()?;
    Ok(Files { config, memory, combined: is_combined, registers })
}

/// Opens a function's config space, to read, and locks it for as long as it is open.
///
/// # Errors
/// Another process has the lock; the system refuses.
pub(super) fn lock(tree: &Tree, address: Address) -> Result<OwnedFd, PciError> {
    let path = tree.file(address, "config");
    let config = File::open(&path).map_err(|error| open_error(path.clone(), error))?;
    match flock(&config, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(config.into()),
        Err(Errno::WOULDBLOCK) => Err(PciError::Held { path }),
        Err(errno) => Err(PciError::Os { path, error: errno.into() }),
    }
}

fn open_file(path: &Path) -> Result<OwnedFd, PciError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(Into::into).map_err(|error| open_error(path.to_owned(), error))
}

fn open_error(path: PathBuf, error: std::io::Error) -> PciError {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => PciError::Permission { path },
        _ => PciError::Os { path, error },
    }
}

/// Maps a page and lets it go: whoever maps it later may not be able to look why that fails.
fn try_mapping(tree: &Tree, path: &Path, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), PciError> {
    let (len, prot) = (page_size(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody touches.
    let mapped = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, fd, 0) };
    let at = mapped.map_err(|errno| mapping_error(tree, path.to_owned(), errno))?;
    // SAFETY: this is what was just mapped.
    let _ = unsafe { munmap(at, len) };
    Ok(())
}

/// Tells a kernel that is locked down from one that refuses otherwise.
pub(super) fn mapping_error(tree: &Tree, path: PathBuf, errno: Errno) -> PciError {
    // The level that holds stands in brackets. Where nobody has mounted that, nothing else refuses so.
    let state = std::fs::read_to_string(tree.sys.join("kernel/security/lockdown"));
    let locked = state.map_or(true, |state| !state.contains("[none]"));
    match errno {
        Errno::PERM if locked => PciError::Lockdown { path },
        Errno::PERM | Errno::ACCESS => PciError::Permission { path },
        errno => PciError::Os { path, error: errno.into() },
    }
}
