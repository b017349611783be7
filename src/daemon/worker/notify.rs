//! Notifications to the other end: at once, or as late as its driver has asked for.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{OUT, QueueStats, Turn};
use crate::net::settings::Coalesce;
use crate::os::bell::Bell;

impl Turn {
    /// Sends the notifications that are due at this time.
    pub(super) fn ring_what_is_due(&mut self, at: Instant) {
        for (owed, peer) in self.owed.iter_mut().zip(&self.job.peers) {
            if owed.is_due(at) {
                ring_peer(&self.job.stats, peer.as_ref());
                owed.settle();
            }
        }
    }

    /// So many frames were published one way; `ring`: the other end wants to be told.
    pub(super) fn published(&mut self, way: usize, frames: usize, ring: bool) {
        if !ring && self.owed[way].poll_timeout().is_none() {
            return;
        }
        let asked = self.settings.as_mut().map_or(Coalesce::default(), |settings| {
            settings.refresh();
            let current = &settings.current;
            if way == OUT { current.receive } else { current.transmit }
        });
        let owed = &mut self.owed[way];
        if asked.max_usecs == 0 && ring || owed.handle(Instant::now(), frames, ring, asked) {
            ring_peer(&self.job.stats, self.job.peers[way].as_ref());
            owed.settle();
        }
    }
}

fn ring_peer(stats: &QueueStats, peer: Option<&Bell>) {
    let Some(peer) = peer else { return };
    stats.notifications_sent.fetch_add(1, Ordering::Relaxed);
    peer.ring();
}
