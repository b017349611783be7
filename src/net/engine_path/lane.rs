//! One direction of an engine's path: frames on their way, their memory, the transfer that is being filled.

use std::collections::VecDeque;

use crate::dma::{Piece, Place, Transfer};
use crate::memory::{BusMemory, Kind, Span, View};
use crate::net::arena::{Arena, SLOT};
use crate::net::frame::Drop;
use crate::planted::{Bug, planted};

/// Bytes after which a transfer is given to the engine.
const MOST_BYTES: usize = 64 << 10;
/// Pieces after which a transfer is given to the engine: an end that cuts its frames into single
/// bytes shall not make lists grow.
const MOST_PIECES: usize = 4096;
/// Frames in flight, each way.
const MOST_FLIGHTS: u16 = 256;
/// Local memory for each direction, in bytes: 16 of the largest frames.
pub(super) const LOCAL: u32 = 16 * SLOT;

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its local memory, of its own length.
    pub(super) local: Span,
    pub(super) token: u16,
    /// The transfer that carries it; `None` once it has landed.
    pub(super) transfer: Option<u32>,
    /// Why it does not go on.
    pub(super) bad: Option<Drop>,
    /// How many chains it took; inward one, with this head.
    pub(super) chains: usize,
    pub(super) head: u16,
}

/// What the CPU copies itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    /// Frames shorter than this.
    pub(super) below: usize,
    /// Also to where it has to read: memory that takes words only is read for those in which a piece begins
    /// and ends, a round trip each where it is far.
    pub(super) may_read: bool,
}

impl Cpu {
    pub(super) fn suits(self, mem: &BusMemory, piece: &Piece) -> bool {
        let Place::Bus(span) = piece.to else { return true };
        let whole =
            |to: View<'_>| to.kind() == Kind::Cached || to.is_aligned(8) && to.len() % 8 == 0;
        self.may_read || mem.view(span).is_some_and(whole)
    }
}

/// One direction: flights, their memory, and the transfer that is being filled.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) base: u64,
    pub(super) arena: Arena,
    pub(super) flights: VecDeque<Flight>,
    pub(super) open: Transfer,
    pub(super) open_len: usize,
}

impl Lane {
    /// A transfer is over: those that wait for it have landed, or are spoilt.
    pub(super) fn completed(&mut self, token: u32, good: bool) {
        for flight in self.flights.iter_mut().filter(|flight| flight.transfer == Some(token)) {
            flight.transfer = None;
            flight.bad = (!good).then_some(Drop::DmaError);
        }
    }

    pub(super) fn new(base: u64, token: u32) -> Self {
        Self {
            base,
            arena: Arena::new(LOCAL, MOST_FLIGHTS),
            flights: VecDeque::with_capacity(MOST_FLIGHTS.into()),
            open: Transfer { token, pieces: Vec::new() },
            open_len: 0,
        }
    }

    /// Local memory for any frame, and its place in the arena.
    pub(super) fn room(&mut self, local: &BusMemory) -> Option<(u32, Span)> {
        let at = self.arena.room()?;
        Some((at, local.resolve(self.base + u64::from(at), SLOT).ok()?))
    }

    pub(super) fn landed(&self) -> bool {
        let landed = |f: &Flight| f.transfer.is_none() || planted(Bug::CopyNotAwaited);
        self.flights.front().is_some_and(landed)
    }

    /// Puts the pieces from `first` on into the open transfer, or has the CPU copy them at once.
    pub(super) fn board(
        &mut self,
        mem: &BusMemory,
        local: &BusMemory,
        first: usize,
        len: usize,
        cpu: Cpu,
    ) -> Option<u32> {
        let pieces = &self.open.pieces[first..];
        let by_cpu = |p: &Piece| cpu.suits(mem, p) && copy(mem, local, p);
        if len == 0 || len < cpu.below && pieces.iter().all(by_cpu) {
            self.open.pieces.truncate(first);
            return None;
        }
        self.open_len += len;
        Some(self.open.token)
    }

    /// Whether the open transfer shall go to the engine.
    pub(super) fn is_full(&self) -> bool {
        self.open_len >= MOST_BYTES || self.open.pieces.len() >= MOST_PIECES
    }

    /// The open transfer, with `next` in its place.
    pub(super) fn close(&mut self, next: Transfer) -> Transfer {
        self.open_len = 0;
        std::mem::replace(&mut self.open, next)
    }

    /// Takes the oldest flight out and its memory back.
    pub(super) fn pop(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.arena.done(flight.token);
        Some(flight)
    }
}

/// Copies one piece by CPU; `false` where it cannot reach the memory.
pub(in crate::net) fn copy(mem: &BusMemory, local: &BusMemory, piece: &Piece) -> bool {
    let view = |place| match place {
        Place::Bus(span) => mem.view(span),
        Place::Local(span) => local.view(span),
    };
    let (Some(from), Some(to)) = (view(piece.from), view(piece.to)) else { return false };
    from.copy_into(&to);
    true
}
