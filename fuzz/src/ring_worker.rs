//! What a device's worker does with its path, and an engine with its copies.

use boardlane::dma::{Completion, Piece, Place, Transfer};
use boardlane::memory::{BusMemory, Kind};
use boardlane::net::frame::Offloads;
use boardlane::net::path::{Inward, Path, PathError};
use boardlane::virtqueue::{Buffer, DriverQueue};

use super::ring_memory::{DATA, fill, judge, peek, poke};

/// What a worker knows of its path, and the engine's copies that are under way.
pub(super) struct Worker {
    pub(super) path: Box<dyn Path>,
    pub(super) allowed: Offloads,
    pub(super) transfers: Vec<Transfer>,
}

impl Worker {
    /// Sends a frame, if there is room.
    pub(super) fn outward(&mut self, mem: &BusMemory, len: usize) -> Result<bool, PathError> {
        let local = self.path.local();
        let room = self.path.room(mem)?;
        if fill(room, local.as_deref().unwrap_or(mem), len).is_none() {
            return Ok(false);
        }
        Ok(self.path.sent(mem, len)?.is_none())
    }

    /// Takes a frame, if there is one; its length.
    pub(super) fn inward(&mut self, mem: &BusMemory) -> Result<Option<usize>, PathError> {
        let local = self.path.local();
        let frame = match self.path.receive(mem)? {
            Inward::Empty => return Ok(None),
            Inward::Dropped(_) => None,
            Inward::Frame { prefix, tail, len } => {
                judge(local.as_deref().unwrap_or(mem), prefix, tail, len, self.allowed);
                Some(len)
            }
        };
        self.path.received(mem)?;
        Ok(frame)
    }

    pub(super) fn complete(
        &mut self,
        mem: &BusMemory,
        transfer: Transfer,
        good: bool,
    ) -> Result<(), PathError> {
        let local = self.path.local().expect("an engine's");
        if good {
            transfer.pieces.iter().for_each(|piece| copy(mem, &local, piece));
        }
        self.path.handle_completion(Completion { transfer, good })
    }

    /// An honest driver's frame comes out, and it gets one.
    pub(super) fn serves(
        mut self,
        mem: &BusMemory,
        mut receiveq: DriverQueue,
        mut transmitq: DriverQueue,
    ) {
        let buffer = Buffer { addr: DATA, len: 2048 };
        assert_eq!(receiveq.add(mem, &[], &[buffer], 0), Ok(()));
        let _ = receiveq.publish(mem);
        poke(mem, DATA + 0x1000, &[0; 72]);
        assert_eq!(transmitq.add(mem, &[Buffer { addr: DATA + 0x1000, len: 72 }], &[], 0), Ok(()));
        let _ = transmitq.publish(mem);
        let (mut sent, mut taken) = (false, None);
        for _ in 0..8 {
            sent = sent || self.outward(mem, 72).expect("an honest driver");
            taken = taken.or(self.inward(mem).expect("an honest driver"));
            while let Some(transfer) = self.path.poll_transfer() {
                self.complete(mem, transfer, true).expect("a good engine");
            }
            let _ = (self.path.flush(mem), self.path.release(mem));
        }
        assert_eq!((sent, taken), (true, Some(60)));
        let got = receiveq.pop_used(mem).expect("honest").expect("a frame");
        assert_eq!((got.token, got.len), (0, 72));
        let mut buffers = [0; 2];
        peek(mem, DATA + 10, &mut buffers);
        assert_eq!(buffers, [1, 0], "num_buffers");
        assert!(transmitq.pop_used(mem).expect("honest").is_some());
    }
}

/// What an engine does with one piece.
fn copy(mem: &BusMemory, local: &BusMemory, piece: &Piece) {
    let table = |place| match place {
        Place::Bus(span) => (mem, span),
        Place::Local(span) => (local, span),
    };
    let ((from, source), (to, target)) = (table(piece.from), table(piece.to));
    assert_eq!(source.len(), target.len());
    match (from.view(source), to.view(target)) {
        (Some(source), Some(target)) => source.copy_into(&target),
        // Memory that only an engine reaches is not there.
        _ => assert!([from.kind(source), to.kind(target)].contains(&Kind::DmaOnly)),
    }
}
