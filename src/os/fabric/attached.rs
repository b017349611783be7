//! What an end has of its transport, whichever that is.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::regions;
use crate::memory::{Mapping, Region, Side};

/// A part of the bus's memory, as it is mapped here.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its bus address.
    pub bus_addr: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where its bytes are, and where in that it begins.
    pub mapping: Arc<Mapping>,
    /// In bytes.
    pub offset: usize,
}

impl Part {
    /// Its bus addresses.
    pub fn bus(&self) -> Range<u64> {
        self.bus_addr..self.bus_addr + self.len
    }

    /// As a region of a table, which lies on this side.
    pub fn region(&self, side: Side) -> Region {
        Region::mapped(self.bus_addr, self.len, side, self.mapping.clone(), self.offset)
    }
}

/// An end of a transport.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The window.
    pub window: Part,
    /// Driver memory.
    pub driver_memory: Part,
    /// This end's id on the transport, by which the other end rings it.
    pub id: u32,
    /// This end's doorbells, one per vector: the first for messages, the others for queue pairs. Eventfds
    /// that are waited for and never read. None: this end polls, and has nobody ring it.
    pub doorbells: Vec<Arc<OwnedFd>>,
    /// Whether this end can ring the other one.
    pub rings: bool,
}

impl Attached {
    /// An end that can ring, and has both parts in one piece of memory, as a slot has: bus addresses are offsets in it.
    /// `None` if it is too large for this machine's addresses.
    pub fn in_one_piece(
        memory: &Arc<Mapping>,
        len: u64,
        id: u32,
        doorbells: Vec<Arc<OwnedFd>>,
    ) -> Option<Self> {
        let (window, driver) = regions(len);
        let part = |range: Range<u64>| {
            let offset = usize::try_from(range.start).ok()?;
            let len = range.end - range.start;
            Some(Part { bus_addr: range.start, len, mapping: memory.clone(), offset })
        };
        let (window, driver_memory) = (part(window)?, part(driver)?);
        Some(Self { window, driver_memory, id, doorbells, rings: true })
    }
}
