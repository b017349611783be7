//! Frames in and out of a TAP, from and to memory that a peer may share.
//!
//! System calls get addresses, never references: the bytes behind an [`IoSpan`] may change
//! while the kernel copies them. A system call on memory that has gone away fails (EFAULT); it
//! raises no signal.
//!
//! One call moves one frame: the 12-byte header, then the Ethernet frame. What a read has no room
//! for is cut, silently: give it room for the largest frame the offloads permit. Writes are whole or
//! not at all.

use std::ffi::c_long;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::Tap;
use crate::memory::View;

/// Most spans of one frame (Linux: UIO_MAXIOV).
pub const MAX_SPANS: usize = 1024;

/// Bytes that the kernel may read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoSpan<'a> {
    iov: libc::iovec,
    _memory: PhantomData<&'a [u8]>,
}

/// Bytes that the kernel may write.
#[repr(transparent)]
pub struct IoSpanMut<'a> {
    iov: libc::iovec,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a span is an address and a length, usable for as long as 'a; what it points to is either
// a slice, which threads may share, or a View, whose bytes any thread may access.
unsafe impl Send for IoSpan<'_> {}
// SAFETY: as above.
unsafe impl Sync for IoSpan<'_> {}
// SAFETY: as above; an exclusive slice moves with its span.
unsafe impl Send for IoSpanMut<'_> {}
// SAFETY: a shared IoSpanMut gives no access.
unsafe impl Sync for IoSpanMut<'_> {}

impl<'a> IoSpan<'a> {
    /// Private bytes.
    pub fn private(bytes: &'a [u8]) -> Self {
        let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        Self { iov, _memory: PhantomData }
    }

    /// Shared bytes; `None` where a system call must not copy from this memory itself.
    pub fn shared(view: View<'a>) -> Option<Self> {
        let (base, len) = view.io_parts()?;
        let iov = libc::iovec { iov_base: base.cast(), iov_len: len };
        Some(Self { iov, _memory: PhantomData })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> IoSpanMut<'a> {
    /// Private bytes.
    pub fn private(bytes: &'a mut [u8]) -> Self {
        let iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        Self { iov, _memory: PhantomData }
    }

    /// Shared bytes; `None` where a system call must not copy to this memory itself.
    pub fn shared(view: View<'a>) -> Option<Self> {
        let (base, len) = view.io_parts()?;
        let iov = libc::iovec { iov_base: base.cast(), iov_len: len };
        Some(Self { iov, _memory: PhantomData })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for IoSpan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoSpan({} bytes)", self.len())
    }
}

impl fmt::Debug for IoSpanMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoSpanMut({} bytes)", self.len())
    }
}

/// What became of one frame that was given to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Write {
    /// The kernel has it.
    Sent,
    /// No room now: keep the frame, wait until the TAP is writable ([`crate::os::poll`] says how).
    WouldBlock,
    /// The kernel refuses this one frame (a wrong header, too short, too long): count it, go on.
    BadFrame,
    /// The kernel has no memory for it: count it, go on.
    NoMemory,
    /// The netdev is down: the frame is lost. The TAP becomes writable when it goes up.
    Down,
}

/// Why no frame can be moved any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostTap {
    /// Somebody deleted the netdev.
    Deleted,
    /// The memory behind a span has gone away: the TAP itself is as good as before. Only memory that
    /// another process gave can go.
    BadMemory,
    /// A failure that a TAP is not known for.
    Os(Errno),
}

impl fmt::Display for LostTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => write!(f, "the netdev has been deleted"),
            Self::BadMemory => write!(f, "memory of the other end is gone"),
            Self::Os(errno) => write!(f, "reading or writing the TAP: {errno}"),
        }
    }
}

impl std::error::Error for LostTap {}

impl LostTap {
    fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::BADFD | Errno::NODEV => Self::Deleted,
            Errno::FAULT => Self::BadMemory,
            errno => Self::Os(errno),
        }
    }
}

impl Tap {
    /// Reads one frame, its virtio-net header first, into the spans in order (the first
    /// [`MAX_SPANS`] of them). Gives its length, header included; `None` if none waits.
    ///
    /// The spans must have room for the 12-byte header at least (else EINVAL); a frame longer than all of them is cut, and
    /// the length given is then theirs.
    pub fn read_into(&self, spans: &mut [IoSpanMut<'_>]) -> Result<Option<usize>, LostTap> {
        let fd = c_long::from(self.fd.as_raw_fd());
        // A list of one takes the kernel 65 to 130 ns longer: 8 to 13 % of a call.
        let done = if let [IoSpanMut { iov, .. }] = spans {
            // SAFETY: the span is writable while borrowed, which is until after the call.
            retry(|| unsafe { libc::syscall(libc::SYS_read, fd, iov.iov_base, iov.iov_len) })
        } else {
            let count = spans.len().min(MAX_SPANS);
            let spans = spans.as_mut_ptr().cast::<libc::iovec>();
            // SAFETY: as above, for each; IoSpanMut is an iovec by its representation.
            retry(|| unsafe { libc::syscall(libc::SYS_readv, fd, spans, count) })
        };
        match done {
            // Without any room the kernel does not even look, and would say 0 for ever.
            Ok(0) => Err(LostTap::Os(Errno::INVAL)),
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(LostTap::from_errno(errno)),
        }
    }

    /// Writes one frame, its virtio-net header first, from the spans in order; more than
    /// [`MAX_SPANS`] make a bad frame.
    pub fn write_from(&self, spans: &[IoSpan<'_>]) -> Result<Write, LostTap> {
        if spans.len() > MAX_SPANS {
            return Ok(Write::BadFrame);
        }
        let fd = c_long::from(self.fd.as_raw_fd());
        let done = if let [IoSpan { iov, .. }] = spans {
            // SAFETY: the span is readable while borrowed, which is until after the call.
            retry(|| unsafe { libc::syscall(libc::SYS_write, fd, iov.iov_base, iov.iov_len) })
        } else {
            let count = spans.len();
            let spans = spans.as_ptr().cast::<libc::iovec>();
            // SAFETY: as above, for each; IoSpan is an iovec by its representation.
            retry(|| unsafe { libc::syscall(libc::SYS_writev, fd, spans, count) })
        };
        match done {
            // Without any byte the kernel does not even look.
            Ok(0) => Ok(Write::BadFrame),
            Ok(_) => Ok(Write::Sent),
            Err(Errno::AGAIN) => Ok(Write::WouldBlock),
            Err(Errno::INVAL | Errno::MSGSIZE) => Ok(Write::BadFrame),
            Err(Errno::NOMEM | Errno::NOBUFS) => Ok(Write::NoMemory),
            Err(Errno::IO) => Ok(Write::Down),
            Err(errno) => Err(LostTap::from_errno(errno)),
        }
    }
}

/// Makes a call by its number, whose arguments are as wide as registers, again if a signal came first, and gives its length or its errno.
fn retry(mut call: impl FnMut() -> c_long) -> Result<usize, Errno> {
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO) {
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Kind, Mapping};

    #[test]
    fn memory_that_takes_words_only_makes_no_span() {
        for kind in [Kind::Cached, Kind::WriteCombined, Kind::Uncached] {
            let mapping = Mapping::anonymous(64, kind);
            let cached = kind == Kind::Cached;
            assert_eq!(IoSpan::shared(mapping.view(8, 16)).map(|s| s.len()), cached.then_some(16));
            assert_eq!(IoSpanMut::shared(mapping.view(8, 16)).is_some(), cached);
        }
    }

    #[test]
    fn spans_have_the_layout_of_an_iovec() {
        assert_eq!(size_of::<IoSpan<'_>>(), size_of::<libc::iovec>());
        assert_eq!(size_of::<IoSpanMut<'_>>(), size_of::<libc::iovec>());
    }
}
