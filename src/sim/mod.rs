//! Links in one process, on a fake clock, over modelled memory, with faults: a run that a seed decides.
//!
//! What is real is the library: links, sessions, tunnels, device models, data paths. What is modelled is
//! around them: memory with store buffers and weak CPUs (`fabric`), doorbells, engines, workers and
//! netdevs, processes and machines. Feature `sim`; no other part of the library is different then, but
//! for the model that stands behind mappings and fences, and the bugs that [`crate::planted`] can plant.
//!
//! What is checked, all the time:
//!
//! * frames come out as a reference FIFO (`flow`) says: in order, none twice, none altered, in their own
//!   session; missing only if counted, or of a session that ended and no more than a ring of them;
//! * a queue that waits for a doorbell is told: what is found without one is a violation, unless the
//!   world lost one;
//! * nothing that a daemon would log as a fault of the ring or of the peer happens, unless the world did
//!   what explains it;
//! * data paths of two sessions are never alive together;
//! * when faults end, all links come up within a bound, and then nothing is lost, nobody is rescued, no
//!   state changes; in that time, over split rings, a worker reads no far memory at all, and a link once
//!   per heartbeat. (A packed ring is shared by its nature; it is for coherent memory only.) Payload
//!   counts as well: here the worker copies it as the kernel would. An engine's reads do not count.
//!
//! Every choice is drawn from the seed, in one thread; so a seed replays, event by event.

mod choice;
mod end;
mod engine;
mod fabric;
mod faults;
mod flow;
mod labour;
mod log;
mod mail;
mod random;
mod rounds;
mod turns;
mod worker;
mod world;

use std::fmt;
use std::time::{Duration, Instant};

use crate::planted::Bug;
pub use log::Fault;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Decides everything.
    pub seed: u64,
    /// Steps at least; a run ends with its round.
    pub steps: u64,
    /// How many links.
    pub links: usize,
    /// What is wrong with the library.
    pub bug: Option<Bug>,
    /// Is given each event as a line.
    pub tell: Option<fn(&str)>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Steps made.
    pub steps: u64,
    /// Time that passed on the fake clock.
    pub time: Duration,
    /// Frames that came out, and their bytes.
    pub frames: u64,
    /// See `frames`.
    pub bytes: u64,
    /// Frames that an end counted as dropped.
    pub dropped: u64,
    /// Frames that went in and did not come out.
    pub lost: u64,
    /// Faults made, as in [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// Lost doorbells that a heartbeat made good.
    pub rescues: u64,
    /// Loads that saw an older value than the latest.
    pub stale_loads: u64,
    /// Steady times in which far reads were counted, what the links read in them, and in how many
    /// heartbeats, all ends together.
    pub rounds: u64,
    /// See `rounds`.
    pub far_reads: u64,
    /// See `rounds`.
    pub heartbeats: u64,
    /// Tells runs apart.
    pub digest: u64,
    /// What must not happen and did, at the last step.
    pub violation: Option<String>,
    /// The last events, a line each.
    pub last: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, time, frames, bytes, dropped, lost, rescues, .. } = self;
        write!(f, "{steps} steps, {:.1} s simulated, {frames} frames of ", time.as_secs_f64())?;
        write!(f, "{} MB, {lost} lost, {dropped} drops counted; ", bytes / 1_000_000)?;
        for (fault, count) in Fault::ALL.iter().zip(self.faults) {
            write!(f, "{fault:?} {count}, ")?;
        }
        write!(
            f,
            "{rescues} rescues, {} stale loads; steady in {} rounds",
            self.stale_loads, self.rounds
        )?;
        write!(f, ", with {} far reads in {} heartbeats", self.far_reads, self.heartbeats)?;
        write!(f, "; digest {:016x}", self.digest)
    }
}

/// Runs until `run.steps` are made and the round is over, or something happens that must not. `began` is
/// any moment: only time that passes counts.
pub fn simulate(run: Run, began: Instant) -> Report {
    rounds::simulate(run, began)
}
