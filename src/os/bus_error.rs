//! Memory that a peer may take away, and the signal that this raises.
//!
//! A file of memory that comes from a peer may be shrunk by it at any moment, or its file system may have
//! no page for it. Whoever touches a page that is not there gets SIGBUS, of which a process dies. Ranges
//! that are [registered](register) here do not end it: the handler puts zeros of this process's own in
//! the whole range's place, sets its flag, and the access is made again, on zeros. What lies there from
//! then on is shared with nobody; whoever looks at the flag gives the peer up. System calls on such
//! memory raise no signal, they fail (EFAULT).
//!
//! Any other SIGBUS ends the process, as without this.
//!
//! Invariants. A range is registered before anybody touches it and is unmapped after that has ended. So
//! the entry of a range in which an access faults does not change meanwhile; other entries may, and the
//! handler tells by their turn, which is read before and after. The handler takes no lock and no memory,
//! and makes at most two system calls: one for the whole range and, if the kernel will not promise so much
//! memory (`vm.overcommit_memory` of 2), one for the page, of which a range has so many.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::ptr::{NonNull, null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Most ranges of this process: a hundred peers' or so.
const RANGES_MAX: usize = 4096;

static TABLE: Table<RANGES_MAX> = Table::new();

/// Whether the handler is there.
static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();

/// Why a range cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// There are so many already that no other has a place.
    Full,
    /// The handler cannot be installed.
    Os(Errno),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "{RANGES_MAX} pieces of peers' memory are mapped already"),
            Self::Os(errno) => write!(f, "handling SIGBUS: {errno}"),
        }
    }
}

impl std::error::Error for RegisterError {}

/// A range whose loss is survived. Dropping it ends that.
#[derive(Debug)]
pub struct Registered {
    entry: &'static Entry,
    /// The entry points to it.
    _lost: Arc<AtomicBool>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.entry.free();
    }
}

/// Registers the `len` bytes at `base`: if a page of them is gone when it is touched, all of them become
/// zeros, and `lost` is set. `grain` is the size in bytes of a page of this mapping.
///
/// # Errors
/// There are too many; the handler cannot be installed.
///
/// # Safety
/// `base..base + len` must be whole pages of `grain` bytes, mapped for as long as what is returned lives,
/// and never be accessed except through atomics or by system calls: its bytes may be replaced at any
/// access.
pub unsafe fn register(
    base: NonNull<u8>,
    len: usize,
    grain: usize,
    lost: &Arc<AtomicBool>,
) -> Result<Registered, RegisterError> {
    INSTALLED.get_or_init(install).map_err(RegisterError::Os)?;
    let start = base.as_ptr().addr();
    let range = start..start + len;
    let entry = TABLE.put(range, grain, Arc::as_ptr(lost)).ok_or(RegisterError::Full)?;
    Ok(Registered { entry, _lost: lost.clone() })
}

/// A range as the handler sees it.
#[derive(Debug)]
struct Entry {
    /// Counts; by its remainder ([`PHASES`]) the entry is free, being written, or a range.
    turn: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    grain: AtomicUsize,
    lost: AtomicPtr<AtomicBool>,
}

const PHASES: usize = 4;
const FREE: usize = 0;
const LIVE: usize = 2;

/// What an entry says.
#[derive(Debug)]
struct Found {
    range: Range<usize>,
    grain: usize,
    lost: *const AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        Self {
            turn: AtomicUsize::new(FREE),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            grain: AtomicUsize::new(0),
            lost: AtomicPtr::new(null_mut()),
        }
    }

    /// Takes it for a range, if it is free.
    fn take(&self, range: &Range<usize>, grain: usize, lost: *const AtomicBool) -> bool {
        let turn = self.turn.load(Ordering::Relaxed);
        let writing = turn.wrapping_add(1);
        if turn % PHASES != FREE
            || self
                .turn
                .compare_exchange(turn, writing, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        // Whoever sees one of the values below sees the turn that says that they are being written.
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.grain.store(grain, Ordering::Relaxed);
        self.lost.store(lost.cast_mut(), Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(LIVE), Ordering::Release);
        true
    }

    /// Gives it back. Only its owner does this.
    fn free(&self) {
        self.turn.fetch_add(PHASES - LIVE, Ordering::Release);
    }

    /// The range, if it is one and `address` lies in it.
    fn find(&self, address: usize) -> Option<Found> {
        let turn = self.turn.load(Ordering::Acquire);
        if turn % PHASES != LIVE {
            return None;
        }
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let grain = self.grain.load(Ordering::Relaxed);
        let lost = self.lost.load(Ordering::Relaxed).cast_const();
        fence(Ordering::Acquire);
        let same = self.turn.load(Ordering::Relaxed) == turn;
        (same && range.contains(&address)).then_some(Found { range, grain, lost })
    }
}

struct Table<const N: usize>([Entry; N]);

impl<const N: usize> Table<N> {
    const fn new() -> Self {
        Self([const { Entry::new() }; N])
    }

    fn put(&self, range: Range<usize>, grain: usize, lost: *const AtomicBool) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.take(&range, grain, lost))
    }

    fn find(&self, address: usize) -> Option<Found> {
        self.0.iter().find_map(|entry| entry.find(address))
    }
}

fn install() -> Result<(), Errno> {
    // SAFETY: all bits of the structure may be zero: no handler, no flags, no signal in the mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// The handler. What it does is safe in one: atomics, mmap, sigaction, raise.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: a thread's errno is there as long as it runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; the kernel gives a handler of this kind the signal's information.
    let (before, code, address) = unsafe { (*errno, (*info).si_code, (*info).si_addr().addr()) };
    let is_gone = matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR);
    if !(is_gone && replace(address)) {
        let is_ours = is_gone || code == libc::BUS_ADRALN;
        // SAFETY: no handler of ours runs for the default action. An access that is made again ends the
        // process by it; without one, as when another process sent the signal, it is sent again.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if !is_ours {
                libc::raise(signal);
            }
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Puts zeros in place of the range that `address` lies in; `false` if there is none, or it cannot be done.
fn replace(address: usize) -> bool {
    let Some(Found { range, grain, lost }) = TABLE.find(address) else { return false };
    // SAFETY: whoever registered the range holds the flag for as long as its entry is there, and the
    // access that has faulted was made meanwhile.
    unsafe { &*lost }.store(true, Ordering::Release);
    let page = address - (address - range.start) % grain;
    zeros(range) || zeros(page..page + grain)
}

fn zeros(range: Range<usize>) -> bool {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let start = without_provenance_mut(range.start);
    // SAFETY: the range is registered, or a page of it: its owner has it mapped and bears that its bytes
    // are replaced.
    unsafe { mmap_anonymous(start, range.len(), prot, flags) }.is_ok()
}

#[cfg(test)]
mod tests;
