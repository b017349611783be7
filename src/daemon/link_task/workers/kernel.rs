//! Queue pairs that the kernel's vhost-net serves, and what it counts.
//!
//! It counts nothing itself, but the netdev does: frames and bytes of all pairs together. They are added
//! to the first pair's once in a while, as long as the kernel moves all frames.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

use super::{Pair, Workers};
use crate::atomic::AtomicU64;
use crate::daemon::worker::{Port, QueueStats, drop_stale};
use crate::net::path::{LentQueue, Which};
use crate::os::bell::Bell;
use crate::os::netlink::LinkStats;
use crate::os::tap::Tap;
use crate::os::vhost_net::{Setup, VhostNet};

/// How old the netdev's counters may be.
const COUNT: Duration = Duration::from_secs(1);

impl Workers<'_> {
    /// Has the kernel serve a pair's queues, if it is to. `None`: a thread of ours is to.
    pub(super) async fn by_kernel(&mut self, pair: &mut Pair, port: &Port) -> Option<VhostNet> {
        self.task.vhost.get()?;
        let Port::Tap(tap) = port else { return None };
        match self.begin(pair, tap).await {
            Ok(vhost) => Some(vhost),
            Err(why) => {
                self.task.pump_ourselves(format!("queue pair {}: {why}", pair.number));
                self.counting = None;
                None
            }
        }
    }

    async fn begin(&mut self, pair: &mut Pair, tap: &Arc<Tap>) -> Result<VhostNet, String> {
        if self.stale.remove(&pair.number) {
            let stats = self.task.view.borrow_mut().stats(pair.number);
            drop_stale(tap, &stats).map_err(|e| e.to_string())?;
        }
        let first = pair.doorbells.first().ok_or("it has no doorbell")?;
        let kicks = [first.clone(), pair.doorbells.get(1).unwrap_or(first).clone()];
        let calls = pair.peers.each_ref().map(|peer| peer.as_ref().map(Bell::eventfd));
        if calls.iter().flatten().any(Option::is_none) {
            return Err("the kernel cannot ring the other end's doorbell".to_owned());
        }
        let calls = calls.map(|call| call.flatten().cloned());
        let tap = tap.clone();
        let mem = pair.mem.clone();
        let features = self.task.view.borrow().features;
        let device = self.task.vhost_device().await?;
        let counted = match &self.netdev {
            Some(netdev) if self.counting.is_none() => netdev.counters()().await,
            _ => None,
        };
        let queues = pair.path.lend(&mem).ok_or("its queues cannot be lent")?;
        // It starts a thread of the kernel's, and other links are not to wait for that.
        let table = mem.clone();
        let start = move || {
            let setup = Setup {
                mem: &table,
                features,
                queues,
                kicks: kicks.each_ref().map(|kick| kick.as_fd()),
                calls: calls.each_ref().map(|call| call.as_ref().map(AsFd::as_fd)),
                tap: tap.as_fd(),
            };
            VhostNet::start(device, &setup)
        };
        let started = spawn_blocking(start).await.map_err(|e| e.to_string())?;
        match &started {
            Ok(_) => counted.into_iter().for_each(|before| self.follow(before)),
            Err(_) => {
                for (which, queue) in Which::BOTH.into_iter().zip(queues) {
                    let Some(LentQueue { next, .. }) = queue else { continue };
                    pair.path.take_back(&mem, which, next).map_err(|e| e.to_string())?;
                }
            }
        }
        started.map_err(|e| e.to_string())
    }

    /// From now on what the netdev counts, which is `before` so far, is counted here, too.
    fn follow(&mut self, mut before: LinkStats) {
        let Some(netdev) = &self.netdev else { return };
        let counters = netdev.counters();
        let stats = self.task.view.borrow_mut().stats(0);
        let (stop, mut stopped) = oneshot::channel::<()>();
        // It is a task because a request is to be waited for to its end.
        spawn_local(async move {
            loop {
                let last = timeout(COUNT, &mut stopped).await.is_ok();
                if let Some(now) = counters().await {
                    add(&stats, &before, &now);
                    before = now;
                }
                if last {
                    break;
                }
            }
        });
        self.counting = Some(stop);
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
