//! What a worker moves frames to and from: a netdev, or something that needs no kernel.

use std::sync::Arc;
use std::time::Instant;

use super::stats::{add, set};
use super::{BATCH, Fault, Job, OUT, PUBLISH_BYTES, PUBLISH_FRAMES, Turn};
use super::{Eye, RX, Seen, TX};
use crate::memory::BusMemory;
use crate::net::echo::{Echo, Step};
use crate::os::tap::Tap;

/// Where frames from the ring go, and where those for it come from.
#[derive(Debug)]
pub enum Port {
    /// A netdev, both.
    Tap(Arc<Tap>),
    /// Frames from the ring are counted, and are gone. None come.
    Discard,
    /// Back into the ring.
    Echo(Echo),
}

/// Shows what a step of an echo has done: a frame comes, and goes.
#[cold]
fn show(eye: &mut Eye, echo: &Echo, step: Step) {
    let (len, dropped) = match step {
        Step::Empty | Step::NoRoom => return,
        Step::Dropped(reason) => return eye.reject(RX, &[], 0, reason),
        Step::Sent { len } => (len, None),
        Step::NotSent { len, reason } => (len, Some(reason)),
    };
    let (start, mem) = (echo.frame(len), &BusMemory::default());
    for (way, dropped) in [(RX, None), (TX, dropped)] {
        eye.see(way, Seen { start, rest: &[], mem, len: start.len() });
        eye.settle(dropped);
    }
}

impl Turn {
    /// A batch from the ring to the port at this time: how many frames, and whether it ended for want of
    /// room.
    pub(super) fn take_in(&mut self, now: Instant) -> Result<(usize, bool), Fault> {
        if self.rest.is_some_and(|until| now < until) {
            if let Port::Echo(_) = self.job.port {
                // What an engine has copied meanwhile is not held up by what may not be taken yet.
                let ring = self.job.path.flush(&self.job.mem);
                self.published(OUT, 0, ring);
            }
            return Ok((0, false));
        }
        self.rest = None;
        match self.job.port {
            Port::Tap(_) | Port::Discard if self.job.eye.is_open() => {
                Ok((self.inward::<true>(now)?, false))
            }
            Port::Tap(_) | Port::Discard => Ok((self.inward::<false>(now)?, false)),
            Port::Echo(_) => self.echo(now),
        }
    }

    /// A batch from the ring back into it: how many frames, and whether it ended for want of room.
    fn echo(&mut self, now: Instant) -> Result<(usize, bool), Fault> {
        let (mut frames, mut unreleased, mut unpublished, mut bytes, mut blocked) =
            (0, 0, 0, 0, false);
        let limits = self.job.limits.clone();
        let batch = limits.batch(now);
        while frames < BATCH {
            let Job { path, mem, port, stats, eye, .. } = &mut self.job;
            let Port::Echo(echo) = port else { break };
            self.rest = batch.is_spent(stats);
            if self.rest.is_some() {
                break;
            }
            let step = echo.step(path.as_mut(), mem, &self.frames)?;
            if eye.is_open() {
                show(eye, echo, step);
            }
            match step {
                Step::Empty => break,
                Step::NoRoom => {
                    blocked = true;
                    break;
                }
                Step::Dropped(reason) => {
                    batch.take(0);
                    stats.rx.dropped(reason);
                }
                Step::NotSent { len, reason } => {
                    batch.take(len);
                    stats.rx.frame(len);
                    stats.tx.dropped(reason);
                }
                Step::Sent { len } => {
                    batch.take(len);
                    (unpublished, bytes) = (unpublished + 1, bytes + len);
                }
            }
            (frames, unreleased) = (frames + 1, unreleased + 1);
            if unpublished >= PUBLISH_FRAMES || bytes >= PUBLISH_BYTES {
                // First what they came in: they may be back at once, and find no room.
                self.release(unreleased);
                self.publish_echoes(unpublished, bytes);
                (unreleased, unpublished, bytes) = (0, 0, 0);
            }
        }
        self.release(unreleased);
        self.publish_echoes(unpublished, bytes);
        Ok((frames, blocked))
    }

    /// Publishes so many frames that were sent back, of so many bytes, and counts them: together, as to
    /// count costs some bus cycles.
    fn publish_echoes(&mut self, frames: usize, bytes: usize) {
        let Job { path, mem, stats, .. } = &mut self.job;
        stats.rx.frames(frames, bytes);
        stats.tx.frames(frames, bytes);
        let ring = path.flush(mem);
        self.published(OUT, frames, ring);
    }

    /// Says how full the queues are: before a sleep, and once a heartbeat, so that a breath costs nothing.
    pub(super) fn tell_filled(&self) {
        for (gauge, filled) in self.job.stats.filled.iter().zip(self.job.path.filled()) {
            set(gauge, filled.out.into());
        }
    }

    /// Counts what the path and an echo have copied.
    pub(super) fn count_copied(&mut self) {
        let mut copied = self.job.path.take_copied();
        if let Port::Echo(echo) = &mut self.job.port {
            copied += echo.take_copied();
        }
        add(&self.job.stats.copied, copied);
    }

    /// Asks to be notified of what there is to wait for. `true`: there is something already.
    pub(super) fn arm(&mut self, blocked: bool) -> Result<bool, Fault> {
        let Job { path, mem, port, .. } = &mut self.job;
        // Frames that wait are not wanted now, or an echo of them cannot go on before there is room.
        let waits = self.rest.is_some() || blocked && matches!(port, Port::Echo(_));
        Ok(match (waits, blocked) {
            (true, true) => path.arm_for_room(mem)?,
            (true, false) => false,
            (false, _) => path.arm(mem, blocked)?,
        })
    }
}
