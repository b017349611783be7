//! What a worker moves frames to and from: a netdev, or something that needs no kernel.

use std::sync::Arc;

use super::{BATCH, Fault, IN, Job, OUT, PUBLISH_BYTES, PUBLISH_FRAMES, Turn};
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

impl Turn {
    /// A batch from the ring to the port: how many frames, and whether it ended for want of room.
    pub(super) fn take_in(&mut self) -> Result<(usize, bool), Fault> {
        match self.job.port {
            Port::Tap(_) | Port::Discard => Ok((self.inward()?, false)),
            Port::Echo(_) => self.echo(),
        }
    }

    /// A batch from the ring back into it: how many frames, and whether it ended for want of room.
    fn echo(&mut self) -> Result<(usize, bool), Fault> {
        let (mut frames, mut unpublished, mut bytes, mut blocked) = (0, 0, 0, false);
        while frames < BATCH {
            let Job { path, mem, port, stats, .. } = &mut self.job;
            let Port::Echo(echo) = port else { break };
            match echo.step(path.as_mut(), mem, &self.frames)? {
                Step::Empty => break,
                Step::NoRoom => {
                    blocked = true;
                    break;
                }
                Step::Dropped(reason) => stats.rx.dropped(reason),
                Step::NotSent { len, reason } => {
                    stats.rx.frame(len);
                    stats.tx.dropped(reason);
                }
                Step::Sent { len } => {
                    stats.rx.frame(len);
                    stats.tx.frame(len);
                    (unpublished, bytes) = (unpublished + 1, bytes + len);
                }
            }
            frames += 1;
            if unpublished >= PUBLISH_FRAMES || bytes >= PUBLISH_BYTES {
                let ring = path.flush(mem);
                self.published(OUT, unpublished, ring);
                (unpublished, bytes) = (0, 0);
            }
        }
        let ring = self.job.path.flush(&self.job.mem);
        self.published(OUT, unpublished, ring);
        let ring = self.job.path.release(&self.job.mem);
        self.published(IN, frames, ring);
        Ok((frames, blocked))
    }

    /// Asks to be notified of what there is to wait for. `true`: there is something already.
    pub(super) fn arm(&mut self, blocked: bool) -> Result<bool, Fault> {
        let Job { path, mem, port, .. } = &mut self.job;
        Ok(match port {
            // Frames that wait cannot go on before there is room.
            Port::Echo(_) if blocked => path.arm_for_room(mem)?,
            _ => path.arm(mem, blocked)?,
        })
    }
}
