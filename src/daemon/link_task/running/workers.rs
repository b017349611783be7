//! The workers of a link: one for each queue pair that is used, with a queue of the TAP.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::{Left, Report, Running};
use crate::daemon::config::{self, EngineConfig};
use crate::daemon::worker::{Job, Port, Worker, drop_stale};
use crate::link::{StartPair, pair_vector};
use crate::net::echo::Echo;
use crate::os::announce;
use crate::os::dma::EngineModel;

impl Running<'_> {
    /// Announces the netdev's address, unless that is going on: nor does one that fails at once make
    /// room for the next, as each costs a log line, and the other end can ask for as many as it likes.
    pub(super) async fn announce(&mut self) {
        let now = Instant::now();
        let going_on = self.announced.as_ref().is_some_and(|(at, _)| now < *at + announce::TIME);
        let Some(netdev) = self.netdev.as_ref().filter(|netdev| !going_on && netdev.is_up()) else {
            return;
        };
        let announcement = netdev.announce().await;
        if let Err(e) = &announcement {
            self.task.log.warn(format_args!("announcing the address: {e}"));
        }
        self.announced = Some((now, announcement.ok()));
    }

    pub(super) async fn start_pair(&mut self, start: StartPair) -> Result<(), String> {
        let StartPair { pair, path, doorbell, settings } = start;
        let peer = doorbell.and_then(|(owner, vector)| {
            let peer = self.peers.get(&u16::try_from(owner).ok()?)?;
            peer.vectors.get(usize::from(vector)).or(peer.vectors.first()).cloned()
        });
        let own = u32::try_from(self.slot.doorbells.len()).unwrap_or(u32::MAX);
        let vector = pair_vector(pair, own).map_or(0, usize::from);
        let port = self.port(pair).await?;
        let doorbell = self.slot.doorbells.get(vector).ok_or("the slot has no doorbell")?.clone();
        let mut view = self.task.view.borrow_mut();
        view.engine = path.local().is_some();
        let job = Job {
            path,
            mem: self.mem.clone(),
            engine_mem: self.engine_mem.clone(),
            port,
            doorbells: vec![doorbell],
            peers: [peer.clone(), peer],
            stats: view.stats(pair),
            engine: model(&self.task.config.engine),
            heartbeat: Duration::from_millis(self.task.config.heartbeat_ms.into()),
            settings,
            limits: self.task.limits.clone(),
        };
        let broken = self.broken.clone();
        // The receiver outlives every worker, and a stopping daemon does not want to know.
        let generation = self.generation;
        let report = move |reason, lost| drop(broken.send(Report { generation, reason, lost }));
        let worker = Worker::start(&self.task.config.name, job, report);
        self.workers.insert(pair, worker.map_err(|e| format!("starting the worker: {e}"))?);
        Ok(())
    }

    /// What a pair's frames go to and come from.
    async fn port(&mut self, pair: u16) -> Result<Port, String> {
        let Some(netdev) = &self.netdev else {
            return Ok(match self.task.config.port {
                config::Port::Echo => Port::Echo(Echo::new(self.offloads)),
                config::Port::Discard | config::Port::Tap => Port::Discard,
            });
        };
        let tap = match self.queues.entry(pair) {
            _ if pair == 0 => netdev.tap().clone(),
            Entry::Occupied(tap) => tap.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(netdev.another_queue().await?)).clone(),
        };
        Ok(Port::Tap(tap))
    }

    /// Closes the TAP's queues that have no worker any more; the kernel then uses the others.
    pub(super) fn close_queues(&mut self) {
        let (workers, leaving) = (&self.workers, &self.leaving);
        let mut view = self.task.view.borrow_mut();
        self.queues.retain(|pair, tap| {
            let used = workers.contains_key(pair) || leaving.contains_key(pair);
            if !used {
                // A netdev that is lost has none.
                let _ = drop_stale(tap, &view.stats(*pair));
            }
            used
        });
    }

    /// Has a worker give its data path back. With a slow engine this takes time, and meanwhile the other
    /// end is to see heartbeats.
    pub(super) fn stop_pair(&mut self, pair: u16) {
        let Some(worker) = self.workers.remove(&pair) else {
            return self.link.handle_pair_stopped(Instant::now(), pair, None);
        };
        let (generation, left) = (self.generation, self.left.clone());
        // The receiver outlives every worker.
        let leave = move || drop(left.send((generation, pair, worker.stop())));
        self.leaving.insert(pair, spawn_blocking(leave));
    }

    /// A worker has left; one of an earlier session has nothing to give.
    pub(super) fn pair_stopped(&mut self, (generation, pair, path): Left) {
        if generation == self.generation && self.leaving.remove(&pair).is_some() {
            self.link.handle_pair_stopped(Instant::now(), pair, path);
        }
    }

    /// Whether there is a worker still.
    pub(super) fn is_at_work(&self) -> bool {
        !self.workers.is_empty() || !self.leaving.is_empty()
    }

    /// Stops the workers, on a thread that may wait for them.
    pub(in crate::daemon::link_task) async fn stop_workers(&mut self) {
        for (_, leaving) in std::mem::take(&mut self.leaving) {
            // Its panic has been printed.
            let _ = leaving.await;
        }
        let workers = std::mem::take(&mut self.workers);
        // A panic of that thread has been printed.
        let _ = spawn_blocking(move || drop(workers)).await;
        self.close_queues();
    }
}

fn model(engine: &EngineConfig) -> EngineModel {
    EngineModel {
        depth: engine.depth,
        latency: Duration::from_micros(engine.latency_us.into()),
        bandwidth: u64::from(engine.bandwidth_mb_s) * 1_000_000,
        error_ppm: engine.error_ppm,
    }
}
