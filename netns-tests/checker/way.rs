//! One way of a link: sends through the netdev of one end, and judges what comes out of the other's.
//!
//! One thread does both, so the receiver bounds the sender without more ado: never are more finished
//! frames under way than the queue of a TAP holds, and so none has to be dropped there. It counts
//! finished ones, as the kernel may have to segment before it queues.

use std::io;
use std::time::{Duration, Instant};

use super::frame::{Frame, Identity};
use super::kinds::{FLOWS, kind_of};
use super::ledger::Ledger;
use super::maker::{Dice, MOST_SEGMENTS, Maker};
use super::socket::{BATCH, Receiver, Sender};

/// Most finished frames under way at once. A TAP's queue holds 500; some are the kernel's own.
const WINDOW: usize = 480;
/// Without a frame for so long, what is under way is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the last frame one may still come, that ought not to.
const AFTERWARDS: Duration = Duration::from_millis(50);
/// As many faults are enough.
const ENOUGH: u64 = 1000;

/// A way before it has begun.
pub(crate) struct Way {
    pub(crate) maker: Maker,
    pub(crate) ledger: Ledger,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) dice: Dice,
    /// Whether the kernel takes frames that leave the segmentation of UDP over.
    pub(crate) uso: bool,
    pub(crate) numbers: [u32; FLOWS],
    /// Frames of others that came.
    pub(crate) foreign: u64,
}

impl Way {
    /// Sends so many frames, until all have come or nothing comes any more.
    pub(crate) fn run(&mut self, frames: u64) -> io::Result<()> {
        let (mut sent, mut last) = (0, Instant::now());
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            while sent < frames
                && batch.len() < BATCH
                && self.ledger.in_flight() + MOST_SEGMENTS <= WINDOW
            {
                batch.push(self.next());
                sent += 1;
            }
            self.sender.send(&batch)?;
            let moved = batch.len() + self.receive()?;
            batch.clear();
            let under_way = sent < frames || self.ledger.in_flight() > 0;
            if !under_way || self.ledger.faults.count() > ENOUGH {
                break;
            }
            if moved > 0 {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                break;
            } else {
                self.receiver.wait(Duration::from_millis(100))?;
            }
        }
        let end = Instant::now() + AFTERWARDS;
        while Instant::now() < end {
            self.receiver.wait(AFTERWARDS)?;
            self.receive()?;
        }
        self.ledger.close();
        Ok(())
    }

    /// Makes and notes the next frame, of any flow.
    fn next(&mut self) -> Frame {
        let flow = loop {
            let flow = u8::try_from(self.dice.below(FLOWS)).unwrap();
            if self.uso || !kind_of(flow).is_uso() {
                break flow;
            }
        };
        let number = self.numbers[usize::from(flow)];
        self.numbers[usize::from(flow)] += 1;
        let id = Identity { flow, number };
        let frame = self.maker.make(id);
        self.ledger.sent(id, frame.clone());
        frame
    }

    fn receive(&mut self) -> io::Result<usize> {
        let Self { maker, ledger, receiver, foreign, .. } = self;
        receiver.receive(|vnet, bytes| {
            *foreign += u64::from(!ledger.receive(maker, vnet, bytes));
        })
    }
}
