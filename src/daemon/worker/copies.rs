//! What an engine copies for a worker.

use std::sync::atomic::Ordering;

use super::stats::set;
use super::{Fault, Job, OUT, Turn};
use crate::daemon::capture::ring::{RX, TX};
use crate::net::path::Which;

impl Turn {
    /// Gives the engine what there is to copy, as much as it takes: how many transfers.
    pub(super) fn submit(&mut self) -> usize {
        let Some(engine) = &mut self.engine else { return 0 };
        let Job { path, stats, .. } = &mut self.job;
        let mut begun = 0;
        while let Some(transfer) = self.refused.take().or_else(|| path.poll_transfer()) {
            let len = transfer.len() as u64;
            if let Err(transfer) = engine.submit(transfer) {
                self.refused = Some(transfer);
                break;
            }
            stats.transfers.fetch_add(1, Ordering::Relaxed);
            stats.transfer_bytes.fetch_add(len, Ordering::Relaxed);
            stats.most_under_way.fetch_max(engine.under_way() as u64, Ordering::Relaxed);
            begun += 1;
        }
        set(&stats.under_way, engine.under_way());
        begun
    }

    /// Gives the engine what there is to copy, and takes back what it has done: how many.
    pub(super) fn copies(&mut self) -> Result<usize, Fault> {
        self.submit();
        let Some(engine) = &mut self.engine else { return Ok(0) };
        let Job { path, stats, mem, eye, .. } = &mut self.job;
        if engine.is_dead() {
            return Err(Fault::Engine);
        }
        let mut done = 0;
        while let Some(completion) = engine.poll() {
            path.handle_completion(completion)?;
            done += 1;
        }
        set(&stats.under_way, engine.under_way());
        while let Some((queue, reason)) = path.poll_drop() {
            // A device's: frames go out by the driver's receiveq.
            let (way, stats) = match queue {
                Which::Receiveq => (TX, &stats.tx),
                Which::Transmitq => (RX, &stats.rx),
            };
            stats.dropped(reason);
            eye.reject(way, &[], 0, reason);
        }
        if done > 0 {
            // What has landed is told before more is read.
            let ring = path.flush(mem);
            self.published(OUT, 0, ring);
        }
        Ok(done)
    }
}
