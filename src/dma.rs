//! Copies as values: what a DMA engine is asked to do, and what it says when it has done it.
//!
//! The core emits a [`Transfer`] and takes back a [`Completion`] with the same token and the same
//! (reused) list of pieces. An engine may work on many transfers at once and complete them in any
//! order; the core keeps the order of frames itself.
//!
//! Publication. An engine and a CPU are different sources of writes: what an engine wrote is only
//! told to the other end after its completion has come, and a completion must mean that the bytes
//! are visible to the other end.

use crate::memory::Span;

/// Memory of one end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory that both ends may reach, by the link's table.
    Bus(Span),
    /// The core's own buffers, by the table that stands with the engine.
    Local(Span),
}

/// One contiguous copy; both places have the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the bytes come from.
    pub from: Place,
    /// Where they go.
    pub to: Place,
}

impl Piece {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self.from {
            Place::Bus(span) | Place::Local(span) => span.len(),
        }
    }

    /// Whether there is nothing to copy.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an engine is asked to do, as one: all pieces, in any order.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Given back with the completion.
    pub token: u32,
    /// The copies.
    pub pieces: Vec<Piece>,
}

impl Transfer {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Whether there is nothing to copy.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// What an engine says when a transfer is over.
#[derive(Debug)]
pub struct Completion {
    /// The transfer, whose list is used again.
    pub transfer: Transfer,
    /// `false`: an error; which bytes were copied is not known.
    pub good: bool,
}
