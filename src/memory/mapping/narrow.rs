//! What is narrower than a word, also in memory that takes words only.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

#[cfg(feature = "sim")]
use super::MODEL_BASE;
use super::{View, Word};

impl View<'_> {
    /// Loads fewer than 8 bytes that share one aligned 8-byte word.
    pub(super) fn load_edge(&self, at: usize, out: &mut [u8]) {
        if out.len() == 4 && (self.base.as_ptr().addr() + at) % 4 == 0 {
            return out.copy_from_slice(&self.load_le32(at).to_le_bytes());
        }
        if self.cached() {
            for (i, b) in out.iter_mut().enumerate() {
                *b = atomic!(self, at + i, AtomicU8).load(Ordering::Relaxed);
            }
            return;
        }
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let (word, byte) = self.word_around(at);
            let (now, later) = out.split_at_mut(out.len().min(4 - byte));
            now.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[byte..][..now.len()]);
            at += now.len();
            out = later;
        }
    }

    /// Stores fewer than 8 bytes that share one aligned 8-byte word.
    pub(super) fn store_edge(&self, at: usize, data: &[u8]) {
        if let (Ok(word), 0) = (data.try_into(), (self.base.as_ptr().addr() + at) % 4) {
            return self.store_le32(at, u32::from_le_bytes(word));
        }
        if self.cached() {
            for (i, b) in data.iter().enumerate() {
                atomic!(self, at + i, AtomicU8).store(*b, Ordering::Relaxed);
            }
            return;
        }
        let (mut at, mut data) = (at, data);
        while !data.is_empty() {
            let (word, byte) = self.word_around(at);
            let (now, later) = data.split_at(data.len().min(4 - byte));
            let mut bytes = [0; 4];
            // A word that is stored whole need not be read.
            if now.len() < 4 {
                bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            bytes[byte..][..now.len()].copy_from_slice(now);
            word.store(u32::from_ne_bytes(bytes), Ordering::Relaxed);
            at += now.len();
            data = later;
        }
    }

    /// The aligned 4-byte word that holds the byte at `off`, and that byte's place in it.
    fn word_around(&self, off: usize) -> (Word<'_, AtomicU32>, usize) {
        self.check(off, 1);
        let byte = (self.base.as_ptr().addr() + off) % 4;
        // In range of the mapping, if not of the view: its base is aligned to 8 bytes, and its length, as
        // it is not cached memory, is a multiple of 8 (`from_raw`).
        (word!(self, off.wrapping_sub(byte), AtomicU32), byte)
    }

    /// One load of the word around it, so that the two bytes belong together.
    pub(super) fn narrow_load(&self, off: usize) -> u16 {
        assert!((self.base.as_ptr().addr() + off) % 2 == 0, "misaligned access");
        self.check(off, 2);
        let (word, byte) = self.word_around(off);
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        u16::from_le_bytes([bytes[byte], bytes[byte + 1]])
    }

    pub(super) fn narrow_store(&self, off: usize, value: u16) {
        assert!((self.base.as_ptr().addr() + off) % 2 == 0, "misaligned access");
        self.check(off, 2);
        let (word, byte) = self.word_around(off);
        let mut bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        bytes[byte..byte + 2].copy_from_slice(&value.to_le_bytes());
        word.store(u32::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}
