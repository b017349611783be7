//! Sends frames of every kind through the netdev of each end of a link, both ways at once, and compares
//! what comes out of the other one, octet by octet.
//!
//! Theory of operation. A [`maker`] makes a frame from a seed, its flow and its number in the flow, by the
//! table of [`kinds`]. A packet [`socket`] hands it to the netdev as a stack would, unsegmented and with
//! an unfinished checksum where its kind is such. The kernel finishes what the netdev has no feature
//! for, the link carries it, the other kernel hands it up: in one piece or several, finished or not.
//! So frames are compared after they have been finished on both sides by an oracle of the checker's
//! own, [`segment`]. The [`ledger`] knows what is under way, and tells apart what was lost, repeated,
//! swapped and altered. A [`way`] bounds what is under way, so that no queue on the path overflows: a
//! frame that does not come was lost by the link.

mod checksum;
pub(crate) mod frame;
pub(crate) mod kinds;
pub(crate) mod ledger;
pub(crate) mod maker;
pub(crate) mod segment;
pub(crate) mod socket;
mod way;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use kinds::FLOWS;
use ledger::{Allowed, Came, Faults, Ledger};
use maker::{Dice, Maker};
use socket::{Receiver, Sender};
use way::Way;

/// What is sent, both ways alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Frames each way.
    pub(crate) frames: u64,
    pub(crate) mtu: u16,
    /// Whether the kernel takes frames that leave the segmentation of UDP over (Linux 6.2).
    pub(crate) uso: bool,
    /// Whether the link has several queue pairs.
    pub(crate) queues: bool,
}

/// The packet sockets of one end. They belong to the network namespace in which they are made.
pub(crate) struct End(Sender, Receiver);

impl End {
    pub(crate) fn on(netdev: &str) -> io::Result<Self> {
        Ok(Self(Sender::on(netdev)?, Receiver::on(netdev)?))
    }
}

/// What became of one way's frames.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) frames: u64,
    pub(crate) came: Came,
    pub(crate) faults: Faults,
    /// Frames of others, which were not judged.
    pub(crate) foreign: u64,
    /// Frames that the receiving socket had no room for; with any, nothing can be said of a loss.
    pub(crate) socket_dropped: u32,
    pub(crate) time: Duration,
}

/// Checks both ways between two ends: `allowed[0]` of frames from the first.
pub(crate) fn check(ends: [End; 2], allowed: [Allowed; 2], plan: &Plan) -> io::Result<[Report; 2]> {
    let [End(send_a, receive_a), End(send_b, receive_b)] = ends;
    let way = |number: u8, sender, receiver| Way {
        maker: Maker::new(plan.seed, number, plan.mtu),
        ledger: Ledger::new(allowed[usize::from(number)], plan.queues),
        sender,
        receiver,
        dice: Dice::of(&[plan.seed, 0xf10, number.into()]),
        uso: plan.uso,
        numbers: [0; FLOWS],
        foreign: 0,
    };
    let ways = [way(0, send_a, receive_b), way(1, send_b, receive_a)];
    thread::scope(|scope| {
        let threads = ways.map(|way| scope.spawn(|| run(way, plan.frames)));
        let [there, back] = threads.map(|thread| thread.join().expect("a way's thread"));
        Ok([there?, back?])
    })
}

fn run(mut way: Way, frames: u64) -> io::Result<Report> {
    let start = Instant::now();
    way.run(frames)?;
    let time = start.elapsed();
    let socket_dropped = way.receiver.dropped()?;
    let Way { ledger: Ledger { came, faults, .. }, foreign, .. } = way;
    Ok(Report { frames, came, faults, foreign, socket_dropped, time })
}
