//! Queue pairs that the kernel's vhost-net serves, and what it counts.
//!
//! It counts nothing itself, but the netdev does: frames and bytes of all pairs together. They are added
//! to the first pair's once in a while, as long as the kernel moves all frames.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::{Pair, Workers};
use crate::daemon::worker::{Port, QueueStats, drop_stale};
use crate::os::netlink::LinkStats;
use crate::os::tap::Tap;
use crate::os::vhost_net::{Setup, VhostNet};

/// How old the netdev's counters may be.
const COUNT: Duration = Duration::from_secs(1);

/// What the netdev had counted when it was last looked at, and when to look again.
#[derive(Debug)]
pub(super) struct Counted {
    stats: LinkStats,
    next: Instant,
}

impl Workers<'_> {
    /// Has the kernel serve a pair's queues, if it is to. `None`: a thread of ours is to.
    pub(super) async fn by_kernel(&mut self, pair: &Pair, port: &Port) -> Option<VhostNet> {
        self.task.vhost.get()?;
        let Port::Tap(tap) = port else { return None };
        match self.begin(pair, tap).await {
            Ok(vhost) => Some(vhost),
            Err(why) => {
                self.task.pump_ourselves(format!("queue pair {}: {why}", pair.number));
                self.counted = None;
                None
            }
        }
    }

    async fn begin(&mut self, pair: &Pair, tap: &Arc<Tap>) -> Result<VhostNet, String> {
        if self.stale.remove(&pair.number) {
            let stats = self.task.view.borrow_mut().stats(pair.number);
            drop_stale(tap, &stats).map_err(|e| e.to_string())?;
        }
        let queues = pair.path.lend().ok_or("something is under way in its queues")?;
        let first = pair.doorbells.first().ok_or("it has no doorbell")?;
        let kicks = [first.clone(), pair.doorbells.get(1).unwrap_or(first).clone()];
        let (calls, mem, tap) = (pair.peers.clone(), pair.mem.clone(), tap.clone());
        let features = self.task.view.borrow().features;
        let device = self.task.vhost_device().await?;
        if self.counted.is_none() {
            self.counted = self.look().await.map(|stats| Counted { stats, next: Instant::now() });
        }
        // It starts a thread of the kernel's, and other links are not to wait for that.
        let start = move || {
            let setup = Setup {
                mem: &mem,
                features,
                queues,
                kicks: kicks.each_ref().map(|kick| kick.as_fd()),
                calls: calls.each_ref().map(|call| call.as_ref().map(AsFd::as_fd)),
                tap: tap.as_fd(),
            };
            VhostNet::start(device, &setup)
        };
        let started = spawn_blocking(start).await.map_err(|e| e.to_string())?;
        started.map_err(|e| e.to_string())
    }

    /// Waits until the netdev's counters are to be looked at; for ever if they are not.
    pub(super) async fn count_is_due(next: Option<Instant>) {
        match next {
            Some(next) => tokio::time::sleep_until(next.into()).await,
            None => std::future::pending().await,
        }
    }

    /// When that is.
    pub(super) fn next_count(&self) -> Option<Instant> {
        self.counted.as_ref().map(|counted| counted.next)
    }

    /// Counts what the kernel has moved since the last look.
    pub(super) async fn count(&mut self) {
        let Some(counted) = &mut self.counted else { return };
        counted.next = Instant::now() + COUNT;
        let Some(now) = self.look().await else { return };
        let Some(counted) = &mut self.counted else { return };
        let stats = self.task.view.borrow_mut().stats(0);
        add(&stats, &counted.stats, &now);
        counted.stats = now;
    }

    async fn look(&self) -> Option<LinkStats> {
        // A netdev that is lost has none; that is found out by whoever watches it.
        self.netdev.as_ref()?.counters().await.ok().flatten()
    }
}

fn add(stats: &QueueStats, before: &LinkStats, now: &LinkStats) {
    let add = |counter: &AtomicU64, of: fn(&LinkStats) -> u64| {
        counter.fetch_add(of(now).saturating_sub(of(before)), Ordering::Relaxed);
    };
    add(&stats.rx.frames, |link| link.rx_packets);
    add(&stats.rx.bytes, |link| link.rx_bytes);
    add(&stats.tx.frames, |link| link.tx_packets);
    add(&stats.tx.bytes, |link| link.tx_bytes);
}
