//! How queues end under an engine's path. No copy is under way: the engine has ended, or has nothing to do,
//! and what it had done has been handled.

use super::EnginePath;
use crate::memory::BusMemory;
use crate::net::frame::Drop;
use crate::net::path::{self, Path, Which};
use crate::virtqueue::Position;

impl EnginePath {
    /// The driver resets this queue.
    pub(super) fn forget_queue(&mut self, which: Which) {
        match which {
            Which::Receiveq => {
                self.receiveq = None;
                (self.held, self.held_len) = (0, 0);
                self.taken.clear();
                while self.out.pop().is_some() {
                    self.drops.push_back((which, Drop::QueueReset));
                }
            }
            Which::Transmitq => {
                self.transmitq = None;
                while self.inward.pop().is_some() {
                    self.drops.push_back((which, Drop::QueueReset));
                }
            }
        }
    }

    /// A successor takes the queues over. Frames that came to their receive chains are used; others on
    /// their way there are lost. What came from the transmitq and did not go on is the successor's to take
    /// again, so it is not lost.
    pub(super) fn halt_queues(&mut self, mem: &BusMemory) -> [Option<Position>; 2] {
        let _ = self.flush(mem);
        let positions =
            [path::halt(self.receiveq.take(), mem), path::halt(self.transmitq.take(), mem)];
        self.forget_queue(Which::Receiveq);
        while self.inward.pop().is_some() {}
        // No later copy goes where these frames went.
        self.ready.clear();
        for lane in [&mut self.out, &mut self.inward] {
            lane.open.pieces.clear();
            lane.open_len = 0;
        }
        if self.pending.take().is_some() {
            self.drops.push_back((Which::Receiveq, Drop::QueueReset));
        }
        positions
    }
}
