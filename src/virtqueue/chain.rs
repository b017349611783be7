//! A chain of buffers as the device half takes it from a ring, and as the driver half is given it.

use super::{Buffer, QueueError};
use crate::memory::{BusMemory, Span};

/// A chain of buffers, checked. Made once and filled again and again.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Its name: what [`DeviceQueue::push`](super::DeviceQueue::push) takes.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Span>,
    /// What the device may write, in order.
    pub writable: Vec<Span>,
    readable_len: u32,
    writable_len: u32,
}

impl Chain {
    /// An empty chain with room for `buffers` of either kind. A longer one takes an allocation the
    /// first time; none has more buffers than its queue has descriptors.
    pub fn with_capacity(buffers: usize) -> Self {
        Self {
            readable: Vec::with_capacity(buffers),
            writable: Vec::with_capacity(buffers),
            ..Self::default()
        }
    }

    /// Readable bytes in all.
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Writable bytes in all.
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// Empties it, for the chain of this name.
    pub(super) fn clear(&mut self, head: u16) {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        (self.readable_len, self.writable_len) = (0, 0);
    }

    /// Appends the buffer of one descriptor.
    pub(super) fn take(
        &mut self,
        mem: &BusMemory,
        addr: u64,
        len: u32,
        writable: bool,
    ) -> Result<(), QueueError> {
        let head = self.head;
        if len == 0 {
            return Err(QueueError::ZeroLength { head });
        }
        if !writable && !self.writable.is_empty() {
            return Err(QueueError::ReadableAfterWritable { head });
        }
        let total = u64::from(self.readable_len) + u64::from(self.writable_len);
        if total + u64::from(len) > u32::MAX.into() {
            return Err(QueueError::ChainTooLarge { head });
        }
        let span = mem.resolve(addr, len).map_err(|error| QueueError::Buffer { head, error })?;
        let (spans, sum) = if writable {
            (&mut self.writable, &mut self.writable_len)
        } else {
            (&mut self.readable, &mut self.readable_len)
        };
        spans.push(span);
        *sum += len;
        Ok(())
    }
}

/// Checks the buffers of a chain that is to be added; returns how many bytes are writable.
///
/// # Panics
/// If there is no buffer, or an empty one, or 4 GiB in all: buffers are the caller's own.
pub(super) fn writable_len(readable: &[Buffer], writable: &[Buffer]) -> u32 {
    let bytes = |buffers: &[Buffer]| {
        buffers.iter().fold(0u64, |sum, b| {
            assert!(b.len > 0, "a buffer holds a byte");
            sum + u64::from(b.len)
        })
    };
    let (readable, writable) = (bytes(readable), bytes(writable));
    assert!(readable + writable > 0, "a chain has a buffer");
    assert!(readable + writable <= u32::MAX.into(), "a chain is below 4 GiB");
    u32::try_from(writable).unwrap_or(u32::MAX)
}
