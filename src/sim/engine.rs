//! A DMA engine: takes a bounded number of transfers, copies them in any order and piece by piece, tells
//! of each some time after it is over, and fails when it is to.

use std::collections::VecDeque;
use std::sync::Arc;

use super::random::Random;
use crate::dma::{Completion, Piece, Place, Transfer};
use crate::memory::BusMemory;

/// A transfer that is under way.
#[derive(Debug)]
struct Flight {
    transfer: Transfer,
    /// Pieces that have been copied.
    copied: usize,
    good: bool,
}

/// The engine of one data path.
#[derive(Debug)]
pub(super) struct Engine {
    mem: Arc<BusMemory>,
    local: Arc<BusMemory>,
    depth: usize,
    flights: Vec<Flight>,
    done: VecDeque<Completion>,
}

fn copy(mem: &BusMemory, local: &BusMemory, piece: &Piece) {
    let view = |place| match place {
        Place::Bus(span) => mem.view(span),
        Place::Local(span) => local.view(span),
    };
    let (from, to) = (view(piece.from), view(piece.to));
    from.expect("an engine reaches all").copy_into(&to.expect("an engine reaches all"));
}

impl Engine {
    pub(super) fn new(mem: Arc<BusMemory>, local: Arc<BusMemory>, depth: usize) -> Self {
        Self { mem, local, depth, flights: Vec::new(), done: VecDeque::new() }
    }

    /// Takes a transfer, or gives it back: there is no room.
    pub(super) fn submit(&mut self, transfer: Transfer) -> Result<(), Transfer> {
        if self.flights.len() + self.done.len() >= self.depth {
            return Err(transfer);
        }
        self.flights.push(Flight { transfer, copied: 0, good: true });
        Ok(())
    }

    /// Transfers that were taken and not told of.
    pub(super) fn under_way(&self) -> usize {
        self.flights.len() + self.done.len()
    }

    /// Whether it has something to copy.
    pub(super) fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Goes on with any of its transfers; one in `errors` fails. `true`: one is over.
    pub(super) fn work(&mut self, random: &mut Random, errors: Option<u64>) -> bool {
        if self.flights.is_empty() {
            return false;
        }
        let at = random.index(self.flights.len());
        let flight = &mut self.flights[at];
        for _ in 0..=random.below(4) {
            let Some(piece) = flight.transfer.pieces.get(flight.copied) else { break };
            if errors.is_some_and(|errors| random.one_in(errors)) {
                flight.good = false;
                flight.copied = flight.transfer.pieces.len();
                break;
            }
            copy(&self.mem, &self.local, piece);
            flight.copied += 1;
        }
        if flight.copied < flight.transfer.pieces.len() {
            return false;
        }
        let Flight { transfer, good, .. } = self.flights.swap_remove(at);
        self.done.push_back(Completion { transfer, good });
        true
    }

    pub(super) fn poll(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}
