//! Access to memory that another machine or process may change at any moment.
//!
//! Theory of operation. A [`Mapping`] owns a range of bytes; a [`View`] is a checked part of it. All
//! values are little-endian in memory and native in the program. Scalars are relaxed atomics unless
//! the name says acquire or release; bulk copies are relaxed atomics of 8 bytes where alignment
//! allows and of single bytes at the edges. So nothing the other end does while we look is undefined
//! behaviour: at worst a copy is a mixture of old and new, and what is checked is the copy.
//!
//! On memory that is not [`Kind::Cached`] every access is an aligned 4- or 8-byte one. A narrower
//! load takes the word around it; a narrower store rewrites the word around it, which is right only
//! because each word of shared structures has one writer. The rings avoid it on their hot words.
//!
//! A CPU without 64-bit atomics makes two accesses of 4 bytes where this says 8; `halves` has their
//! order, and why that is enough.
//!
//! Invariants: `base..base+len` stays mapped while the Mapping lives (`keep` owns it), and `base` is
//! aligned to 8 bytes.

#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
#[cfg(not(feature = "sim"))]
use std::sync::atomic::fence;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::Kind;
#[cfg(feature = "sim")]
use super::cells::{Cells, Word, fence};
#[cfg(not(target_has_atomic = "64"))]
use super::halves::AtomicU64;
use crate::planted::{Bug, planted};

mod look;
mod prefetch;
mod whole;

pub use look::{Look, ReadOnly};

/// A range of memory shared with a peer, and how it may be accessed.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    kind: Kind,
    /// What holds the bytes of model memory; `base` is then nothing but an address.
    #[cfg(feature = "sim")]
    cells: Option<std::sync::Arc<dyn Cells>>,
    _keep: Box<dyn Any + Send + Sync>,
}

#[cfg(not(feature = "sim"))]
type Word<'m, A> = &'m A;

/// Where model memory would be: its views are aligned as in a page, and nothing lies there.
#[cfg(feature = "sim")]
const MODEL_BASE: usize = 4096;

// SAFETY: the bytes are only reached through atomic accesses, which any thread may make; `_keep` is
// Send and Sync itself and only holds the memory.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len).field("kind", &self.kind).finish()
    }
}

/// A page of anonymous memory.
#[repr(C, align(4096))]
struct Page([AtomicU32; 1024]);

impl Page {
    fn zero() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }
}

impl Mapping {
    /// Zeroed memory of this process, in whole pages: for tests, examples and buffers.
    pub fn anonymous(len: usize, kind: Kind) -> Self {
        let pages: Box<[Page]> =
            (0..len.div_ceil(size_of::<Page>())).map(|_| Page::zero()).collect();
        let base = NonNull::from(&*pages).cast::<u8>();
        // SAFETY: the pages live on the heap, do not move with their box, are aligned to 8 bytes and
        // only accessed through atomics from now on.
        unsafe { Self::from_raw(base, len, kind, Box::new(pages)) }
    }

    /// Takes over a mapping that somebody made.
    ///
    /// # Safety
    /// `base..base + len` must be readable and writable for as long as `keep` lives, and must not be
    /// accessed except through atomics or by other processes.
    ///
    /// # Panics
    /// If `base` is not aligned to 8 bytes, or `len` not a multiple of 8 where the kind takes words
    /// only: how a transport maps is our own doing.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: usize,
        kind: Kind,
        keep: Box<dyn Any + Send + Sync>,
    ) -> Self {
        assert!(base.as_ptr().addr() % 8 == 0, "mappings are aligned to 8 bytes");
        assert!(kind == Kind::Cached || len % 8 == 0, "word-only memory ends at a word");
        Self {
            base,
            len,
            kind,
            #[cfg(feature = "sim")]
            cells: None,
            _keep: keep,
        }
    }

    /// Memory of a model: each access is a call. System calls cannot reach it.
    #[cfg(feature = "sim")]
    pub fn model(cells: std::sync::Arc<dyn Cells>, kind: Kind) -> Self {
        let base = NonNull::new(std::ptr::without_provenance_mut(MODEL_BASE));
        let (base, len) = (base.expect("not null"), cells.len());
        assert!(len % 8 == 0, "model memory ends at a word");
        Self { base, len, kind, cells: Some(cells), _keep: Box::new(()) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How it may be accessed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Panics
    /// If they are not all inside: callers pass what [`super::BusMemory`] has checked.
    pub fn view(&self, offset: usize, len: usize) -> View<'_> {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "view {offset}+{len} of a mapping of {}",
            self.len
        );
        #[cfg(feature = "sim")]
        if self.cells.is_some() {
            let base = self.base.map_addr(|base| base.saturating_add(offset));
            return View { base, len, kind: self.kind, mapping: self };
        }
        // SAFETY: offset is inside the mapping, or one past its end.
        let base = unsafe { self.base.add(offset) };
        View { base, len, kind: self.kind, mapping: self }
    }
}

/// A full fence between all accesses before it and all after it, stores and loads alike.
///
/// On WC and UC mappings of real buses this also orders: x86 makes it a locked instruction or
/// MFENCE, PowerPC a `sync`. Two others have a fence for their own CPUs only, so a wider one follows.
#[inline]
pub fn fence_full() {
    fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier, for the outer shareable domain, which has bus masters in it.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a fence, for device memory too.
    unsafe {
        std::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags));
    }
}

/// A checked part of a [`Mapping`]. Offsets are in bytes from its start and must lie inside it: they
/// come from our own layout arithmetic, so being wrong is a bug and panics.
#[derive(Clone, Copy, Debug)]
pub struct View<'m> {
    base: NonNull<u8>,
    len: usize,
    kind: Kind,
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "it is held on to"))]
    mapping: &'m Mapping,
}

/// The atomic at an offset, checked for range and alignment.
macro_rules! atomic {
    ($self:ident, $off:expr, $atomic:ty) => {{
        let (off, size) = ($off, size_of::<$atomic>());
        assert!(off <= $self.len && size <= $self.len - off, "{off}+{size} in {}", $self.len);
        assert!(($self.base.as_ptr().addr() + off) % size == 0, "misaligned access");
        word!($self, off, $atomic)
    }};
}

/// The atomic at an offset that has been checked.
#[cfg(not(feature = "sim"))]
macro_rules! word {
    ($self:ident, $off:expr, $atomic:ty) => {
        // SAFETY: in range, aligned, valid while the mapping is borrowed, and only ever accessed
        // atomically; the reference to the atomic does not outlive the caller's statement.
        unsafe { &*$self.base.as_ptr().wrapping_add($off).cast::<$atomic>() }
    };
}

/// The same, in whichever memory.
#[cfg(feature = "sim")]
macro_rules! word {
    ($self:ident, $off:expr, $atomic:ty) => {
        match &$self.mapping.cells {
            Some(cells) => {
                let at = ($self.base.as_ptr().addr() - MODEL_BASE).wrapping_add($off);
                Word::Model(cells.as_ref(), at)
            }
            None => {
                // SAFETY: as without models.
                Word::Real(unsafe { &*$self.base.as_ptr().wrapping_add($off).cast::<$atomic>() })
            }
        }
    };
}

// Below the macros, which it uses.
mod narrow;

impl View<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How it may be accessed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its first byte lies at a multiple of `align` in this process.
    pub fn is_aligned(&self, align: u64) -> bool {
        self.base.as_ptr().addr() as u64 % align == 0
    }

    /// Address and length for a system call's I/O vector; `None` where a system call must not
    /// copy to or from this memory itself.
    pub fn io_parts(&self) -> Option<(*mut u8, usize)> {
        #[cfg(feature = "sim")]
        if self.mapping.cells.is_some() {
            return None;
        }
        (self.kind == Kind::Cached).then_some((self.base.as_ptr(), self.len))
    }

    fn cached(&self) -> bool {
        self.kind == Kind::Cached
    }

    /// A relaxed load of 16 bits.
    #[inline]
    pub fn load_le16(&self, off: usize) -> u16 {
        if !self.cached() {
            return self.narrow_load(off);
        }
        u16::from_le(atomic!(self, off, AtomicU16).load(Ordering::Relaxed))
    }

    /// A 16-bit load that no later access overtakes.
    #[inline]
    pub fn load_acquire_le16(&self, off: usize) -> u16 {
        let v = self.load_le16(off);
        fence(Ordering::Acquire);
        v
    }

    /// A relaxed store of 16 bits.
    #[inline]
    pub fn store_le16(&self, off: usize, value: u16) {
        if !self.cached() {
            return self.narrow_store(off, value);
        }
        atomic!(self, off, AtomicU16).store(value.to_le(), Ordering::Relaxed);
    }

    /// A relaxed load of 32 bits.
    #[inline]
    pub fn load_le32(&self, off: usize) -> u32 {
        u32::from_le(atomic!(self, off, AtomicU32).load(Ordering::Relaxed))
    }

    /// A 32-bit load that no later access overtakes.
    #[inline]
    pub fn load_acquire_le32(&self, off: usize) -> u32 {
        u32::from_le(atomic!(self, off, AtomicU32).load(Ordering::Acquire))
    }

    /// A relaxed store of 32 bits.
    #[inline]
    pub fn store_le32(&self, off: usize, value: u32) {
        atomic!(self, off, AtomicU32).store(value.to_le(), Ordering::Relaxed);
    }

    /// A 32-bit store that becomes visible after every access before it.
    ///
    /// Memory that is not cached gets a full fence: write-combining buffers drain in any order, and
    /// a release store alone does not order them.
    #[inline]
    pub fn store_release_le32(&self, off: usize, value: u32) {
        if !self.cached() && !planted(Bug::PayloadFence) {
            fence_full();
        }
        atomic!(self, off, AtomicU32).store(value.to_le(), Ordering::Release);
    }

    /// A relaxed load of 64 bits, in one access where the CPU has one.
    #[inline]
    pub fn load_le64(&self, off: usize) -> u64 {
        u64::from_le(atomic!(self, off, AtomicU64).load(Ordering::Relaxed))
    }

    /// A 64-bit load that no later access overtakes.
    #[inline]
    pub fn load_acquire_le64(&self, off: usize) -> u64 {
        u64::from_le(atomic!(self, off, AtomicU64).load(Ordering::Acquire))
    }

    /// A relaxed store of 64 bits, in one access where the CPU has one.
    #[inline]
    pub fn store_le64(&self, off: usize, value: u64) {
        atomic!(self, off, AtomicU64).store(value.to_le(), Ordering::Relaxed);
    }

    /// A 64-bit store that becomes visible after every access before it, with a full fence where the
    /// memory is not cached, as [`store_release_le32`](Self::store_release_le32).
    #[inline]
    pub fn store_release_le64(&self, off: usize, value: u64) {
        if !self.cached() && !planted(Bug::PayloadFence) {
            fence_full();
        }
        atomic!(self, off, AtomicU64).store(value.to_le(), Ordering::Release);
    }

    /// Copies the bytes at `off` out, into private memory.
    pub fn copy_to(&self, off: usize, out: &mut [u8]) {
        self.check(off, out.len());
        let mut at = off;
        let mut out = out;
        while !out.is_empty() {
            let (now, later) = out.split_at_mut(self.step(at, out.len()));
            if now.len() >= 8 {
                // Aligned from here on, and in range as a whole.
                for (i, to) in now.chunks_exact_mut(8).enumerate() {
                    let word = word!(self, at + 8 * i, AtomicU64).load(Ordering::Relaxed);
                    to.copy_from_slice(&word.to_ne_bytes());
                }
            } else {
                self.load_edge(at, now);
            }
            at += now.len();
            out = later;
        }
    }

    /// Copies private bytes in, to `off`.
    pub fn copy_from(&self, off: usize, data: &[u8]) {
        self.check(off, data.len());
        let mut at = off;
        let mut data = data;
        while !data.is_empty() {
            let (now, later) = data.split_at(self.step(at, data.len()));
            if now.len() >= 8 {
                for (i, from) in now.chunks_exact(8).enumerate() {
                    let word = u64::from_ne_bytes(from.try_into().expect("8 of them"));
                    word!(self, at + 8 * i, AtomicU64).store(word, Ordering::Relaxed);
                }
            } else {
                self.store_edge(at, now);
            }
            at += now.len();
            data = later;
        }
    }

    /// As [`copy_from`](Self::copy_from), where what stands behind `data` in this view means nothing.
    /// Memory that takes words only would be read for the word in which `data` ends: that word is written
    /// whole, with zeros, where the view has all of it. Reads of far memory wait for a round trip.
    pub fn copy_from_over(&self, off: usize, data: &[u8]) {
        let end = off + data.len();
        let edge = (self.base.as_ptr().addr() + end) % 8;
        let whole = data.len().checked_sub(edge).filter(|_| edge > 0 && end + 8 - edge <= self.len);
        match whole {
            Some(whole) if !self.cached() => {
                let (words, last) = data.split_at(whole);
                self.copy_from(off, words);
                let mut word = [0; 8];
                word[..edge].copy_from_slice(last);
                self.store_le64(off + whole, u64::from_le_bytes(word));
            }
            _ => self.copy_from(off, data),
        }
    }

    fn check(&self, off: usize, len: usize) {
        assert!(
            off <= self.len && len <= self.len - off,
            "copy of {off}+{len} in a view of {}",
            self.len
        );
    }

    /// How many of the `left` bytes at `at` the next accesses take: all whole words where aligned to 8,
    /// else those up to there.
    fn step(&self, at: usize, left: usize) -> usize {
        match (self.base.as_ptr().addr() + at) % 8 {
            0 if left >= 8 => left & !7,
            past => (8 - past).min(left),
        }
    }
}

#[cfg(test)]
mod tests;
