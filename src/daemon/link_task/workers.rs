//! The workers of a link, one for each queue pair that is used, and the netdev that they serve.
//!
//! It is what links over every transport have in common. It knows neither the link nor the transport: a
//! method that has something to tell the link returns it, and what happens here comes out of
//! [`Workers::input`]. In a session:
//!
//! 1. [`start`](Workers::start), before any worker, and the link is told the netdev's state;
//! 2. [`start_pair`](Workers::start_pair), and [`stop_pair`](Workers::stop_pair), whose data path comes
//!    back as [`Input::Left`];
//! 3. [`stop_all`](Workers::stop_all), before the rings and their memory are touched otherwise.
//!
//! After each turn of the link, [`close_queues`](Workers::close_queues).

mod kernel;
mod netdev_state;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{LinkTask, view};
use crate::daemon::Role;
use crate::daemon::capture::KERNEL_MOVES;
use crate::daemon::config::{self, EngineConfig};
use crate::daemon::netdev::Netdev;
use crate::daemon::worker::{Job, KernelJob, Port, Worker, drop_stale};
use crate::link::{PeerLink, Start, State};
use crate::memory::BusMemory;
use crate::net::echo::Echo;
use crate::net::frame::Offloads;
use crate::net::path::Path;
use crate::net::settings::Settings;
use crate::os::announce::Announcement;
use crate::os::bell::Bell;
use crate::os::dma::EngineModel;
use crate::os::tap::Tap;
use crate::spec::net::F_GUEST_ANNOUNCE;
pub(super) use netdev_state::Healed;

/// What happens to a running link, whatever its transport.
pub(super) enum Input {
    /// There is an order, which [`Workers::obey`] carries out.
    Order,
    /// Somebody changed something in the netdev's namespace, which is for [`Workers::heal_netdev`].
    Netdev,
    /// A worker cannot go on: why, and whether the netdev is lost.
    Broken(String, bool),
    /// The worker of this pair has left; the data path, if it is good.
    Left(u16, Option<Box<dyn Path>>),
    /// Nothing that matters.
    Nothing,
}

/// A queue pair, and what its worker is to have of the transport.
pub(super) struct Pair {
    /// Its number.
    pub(super) number: u16,
    pub(super) path: Box<dyn Path>,
    /// What this end's CPU reaches, and what its engine does, in the same table.
    pub(super) mem: Arc<BusMemory>,
    pub(super) engine_mem: Arc<BusMemory>,
    /// Ours and the other end's, as in [`Job`].
    pub(super) doorbells: Vec<Arc<OwnedFd>>,
    pub(super) peers: [Option<Bell>; 2],
    /// What the driver sets at run time; a device's.
    pub(super) settings: Option<Arc<Settings>>,
}

/// A worker that was told to give its data path back, in a session: the pair, and the path if it is good.
type Left = (u64, u16, Option<Box<dyn Path>>);

/// A worker cannot go on.
#[derive(Debug)]
struct Report {
    generation: u64,
    reason: String,
    lost: bool,
}

impl Report {
    fn input(self, generation: u64) -> Input {
        if self.generation == generation {
            Input::Broken(self.reason, self.lost)
        } else {
            Input::Nothing
        }
    }
}

/// The workers of a link.
pub(super) struct Workers<'a> {
    task: &'a LinkTask,
    /// None where the port needs none.
    netdev: Option<&'a mut Netdev>,
    /// Those that work, by queue pair.
    workers: BTreeMap<u16, Worker>,
    /// Those that have been told to give their data path back; what they give comes by a channel.
    leaving: BTreeMap<u16, JoinHandle<()>>,
    left: mpsc::UnboundedSender<Left>,
    left_rx: mpsc::UnboundedReceiver<Left>,
    /// The TAP queues of pairs beyond the first.
    queues: BTreeMap<u16, Arc<Tap>>,
    /// What was negotiated for frames to the other end.
    offloads: Offloads,
    /// Pairs in whose TAP queues frames may wait that were made for other offloads. Our own thread
    /// judges them one by one.
    stale: BTreeSet<u16>,
    /// While the kernel moves all frames, the netdev's counters are followed.
    counting: Option<oneshot::Sender<()>>,
    /// When the netdev's address was last announced in this session, and by what, if it could be.
    announced: Option<(Instant, Option<Announcement>)>,
    /// Number of the session, so that a report of an earlier one's worker is not taken for its own.
    generation: u64,
    broken: mpsc::UnboundedSender<Report>,
    broken_rx: mpsc::UnboundedReceiver<Report>,
}

impl<'a> Workers<'a> {
    pub(super) fn new(task: &'a LinkTask, netdev: Option<&'a mut Netdev>) -> Self {
        let (broken, broken_rx) = mpsc::unbounded_channel();
        let (left, left_rx) = mpsc::unbounded_channel();
        Self {
            task,
            netdev,
            workers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            left,
            left_rx,
            queues: BTreeMap::new(),
            offloads: Offloads::default(),
            stale: BTreeSet::new(),
            counting: None,
            announced: None,
            generation: 0,
            broken,
            broken_rx,
        }
    }

    /// Waits for whatever comes first. Nothing is lost if it is dropped early.
    pub(super) async fn input(&mut self) -> Input {
        let generation = self.generation;
        tokio::select! {
            () = self.task.ordered() => Input::Order,
            () = changed(self.netdev.as_deref_mut()) => Input::Netdev,
            Some(left) = self.left_rx.recv() => match self.broken_rx.try_recv() {
                // Why a worker has no path to give back comes before that it has none.
                Ok(report) => {
                    let _ = self.left.send(left);
                    report.input(generation)
                }
                Err(_) => self.has_left(left),
            },
            Some(report) = self.broken_rx.recv() => report.input(generation),
        }
    }

    /// A worker has left; one of an earlier session has nothing to give.
    fn has_left(&mut self, (generation, pair, path): Left) -> Input {
        if generation == self.generation && self.leaving.remove(&pair).is_some() {
            Input::Left(pair, path)
        } else {
            Input::Nothing
        }
    }

    /// The link's state, and why.
    pub(super) fn state(&self, state: State, reason: String) {
        let is_new = self.task.view.borrow_mut().enter(state, reason.clone());
        if is_new.contains(&true) {
            let colon = if reason.is_empty() { "" } else { ": " };
            self.task.log.info(format_args!("{}{colon}{reason}", view::name(state)));
        }
    }

    /// A session begins, in which workers will do with these features; `peer`: what the other end's
    /// netdev is set to, if that is known.
    pub(super) async fn start(
        &mut self,
        start: &Start,
        peer: Option<PeerLink>,
    ) -> Result<(), String> {
        self.offloads = match self.task.role {
            Role::Master => Offloads::to_device(start.features),
            Role::Agent => Offloads::to_driver(start.features),
        };
        self.set_offloads(self.offloads).map_err(|e| e.to_string())?;
        self.stale.clear();
        self.agree_on_mtu(start, peer).await;
        {
            let mut view = self.task.view.borrow_mut();
            if let Some(netdev) = &self.netdev {
                drop_stale(netdev.tap(), &view.stats(0)).map_err(|e| e.to_string())?;
            }
            view.features = start.features;
        }
        // The board's address may have moved to another port of the master's network; the master is
        // asked to announce its own.
        if self.task.role == Role::Agent && start.features.has(F_GUEST_ANNOUNCE) {
            self.announce().await;
        }
        self.generation += 1;
        Ok(())
    }

    /// Gives a pair to a worker of its own.
    pub(super) async fn start_pair(&mut self, mut pair: Pair) -> Result<(), String> {
        let port = self.port(pair.number).await?;
        let vhost = self.by_kernel(&mut pair, &port).await;
        let Pair { number, path, mem, engine_mem, doorbells, peers, settings } = pair;
        let heartbeat = Duration::from_millis(self.task.config.heartbeat_ms.into());
        let broken = self.broken.clone();
        // The receiver outlives every worker, and a stopping daemon does not want to know.
        let generation = self.generation;
        let report = move |reason, lost| drop(broken.send(Report { generation, reason, lost }));
        let name = &self.task.config.name;
        let failed = |e| format!("starting the worker: {e}");
        if let Some(vhost) = vhost {
            self.task.captures.end(KERNEL_MOVES);
            let job = KernelJob { path, mem, vhost, doorbells, heartbeat };
            let worker = Worker::beside_kernel(name, job, report).map_err(failed)?;
            self.workers.insert(number, worker);
            return Ok(());
        }
        let mut view = self.task.view.borrow_mut();
        view.engine = path.local().is_some();
        let job = Job {
            path,
            mem,
            engine_mem,
            port,
            doorbells,
            peers,
            stats: view.stats(number),
            engine: model(&self.task.config.engine),
            heartbeat,
            busy_poll: Duration::from_micros(self.task.config.busy_poll_us.into()),
            settings,
            limits: self.task.limits.clone(),
            eye: self.task.captures.eye(number),
            cpu: self.task.cpu(number),
        };
        self.workers.insert(number, Worker::start(name, job, report).map_err(failed)?);
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

    /// Has a worker give its data path back, which comes as [`Input::Left`]; `false`: there is no such
    /// worker. With a slow engine this takes time, and meanwhile the other end is to see heartbeats.
    #[must_use]
    pub(super) fn stop_pair(&mut self, pair: u16) -> bool {
        let Some(worker) = self.workers.remove(&pair) else { return false };
        let (generation, left) = (self.generation, self.left.clone());
        // The receiver outlives every worker.
        let leave = move || drop(left.send((generation, pair, worker.stop())));
        self.leaving.insert(pair, spawn_blocking(leave));
        true
    }

    /// Whether there is a worker still.
    pub(super) fn is_at_work(&self) -> bool {
        !self.workers.is_empty() || !self.leaving.is_empty()
    }

    /// Has all workers look at their rings: a notification came that is not theirs alone.
    pub(super) fn wake(&self) {
        self.workers.values().for_each(Worker::wake);
    }

    /// The same, but for those that hear all of their doorbells by themselves.
    pub(super) fn wake_threads(&self) {
        self.workers.values().filter(|worker| !worker.is_in_kernel()).for_each(Worker::wake);
    }

    /// The session ends, and with it the workers, on a thread that may wait for them.
    pub(super) async fn stop_all(&mut self) {
        // The next session may bring another address.
        self.announced = None;
        for (_, leaving) in std::mem::take(&mut self.leaving) {
            // Its panic has been printed.
            let _ = leaving.await;
        }
        let workers = std::mem::take(&mut self.workers);
        // A panic of that thread has been printed.
        let _ = spawn_blocking(move || drop(workers)).await;
        self.counting = None;
        self.close_queues();
        self.task.view.borrow_mut().link_down();
    }

    /// The link leaves its connection.
    pub(super) async fn leave(mut self) {
        self.stop_all().await;
        if let Some(netdev) = self.netdev {
            // A netdev that is lost has none.
            let _ = netdev.tap().set_carrier(false);
        }
    }
}

/// Waits until somebody changes the netdev, for ever if there is none.
async fn changed(netdev: Option<&mut Netdev>) {
    match netdev {
        Some(netdev) => netdev.changed().await,
        None => std::future::pending().await,
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
