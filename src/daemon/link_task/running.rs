//! A link while it is attached to a slot: what it waits for, and what it does then.

mod netdev_state;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{LOOK, LinkTask, RETRY, view};
use crate::daemon::config::{Dma, MTU_MAX};
use crate::daemon::identity::random;
use crate::daemon::netdev::{Look, Netdev};
use crate::daemon::worker::{Worker, drop_stale};
use crate::daemon::{Role, VERSION};
use crate::link::{Event, Link, LinkParams, Start, State};
use crate::memory::{BusMemory, Region, Side};
use crate::net::engine_path::EngineUse;
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::net::path::Path;
use crate::os::announce::Announcement;
use crate::os::doorbell::{Doorbell, Ringer};
use crate::os::fabric::regions;
use crate::os::fabric::shm::{Peer, PeerEvent, ShmLink, Slot};
use crate::os::pace::Pace;
use crate::os::tap::Tap;
use crate::spec::net::F_GUEST_ANNOUNCE;
use crate::tunnel::part::Role as End;

mod workers;

/// A peer that sends without end gives a link work in each turn: so many turns follow at once, and then
/// one in a while, as all links share the thread.
const MOST_TURNS: u32 = 64;
const TURN_INTERVAL: Duration = Duration::from_millis(4);

/// Why a connected link came to its end.
pub(super) enum Ended {
    /// The daemon stops.
    Stopping,
    /// The netdev is gone.
    NetdevLost,
    /// The slot is to be left for another connection, if there is one already.
    Moved(Option<Box<ShmLink>>),
}

/// What a running link waits for.
enum Input {
    Order,
    Doorbell,
    Peer(Result<PeerEvent, String>),
    /// A connection in place of the lost one.
    Found(Box<ShmLink>),
    Due,
    /// Somebody changed something in the netdev's namespace.
    Netdev,
    /// The worker cannot go on: why, and whether the netdev is lost.
    Broken(String, bool),
    /// A worker has left.
    Left(Left),
    Nothing,
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

/// A link on a connection.
pub(super) struct Running<'a> {
    task: &'a LinkTask,
    /// None where the port needs none.
    pub(super) netdev: Option<&'a mut Netdev>,
    link: Link,
    /// What this end's CPU reaches, and what its engine does, in the same table.
    mem: Arc<BusMemory>,
    engine_mem: Arc<BusMemory>,
    slot: Slot,
    /// The backplane, as long as it is there, and who is on it.
    shm: Option<ShmLink>,
    peers: BTreeMap<u16, Peer>,
    doorbell: Doorbell,
    ringer: Ringer,
    /// How soon work goes on that the last turn has left, and when.
    pace: Pace,
    next_turn: Instant,
    /// The workers, by queue pair, and the TAP queues of pairs beyond the first.
    workers: BTreeMap<u16, Worker>,
    /// Those that have been told to give their data path back; what they give comes by a channel.
    leaving: BTreeMap<u16, JoinHandle<()>>,
    left: mpsc::UnboundedSender<Left>,
    left_rx: mpsc::UnboundedReceiver<Left>,
    queues: BTreeMap<u16, Arc<Tap>>,
    /// What was negotiated for frames to the other end.
    offloads: Offloads,
    /// When the netdev's address was last announced in this session, and by what, if it could be.
    announced: Option<(Instant, Option<Announcement>)>,
    /// Number of the session, so that a report of an earlier one's worker is not taken for its own.
    generation: u64,
    broken: mpsc::UnboundedSender<Report>,
    broken_rx: mpsc::UnboundedReceiver<Report>,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        task: &'a LinkTask,
        shm: ShmLink,
        netdev: Option<&'a mut Netdev>,
    ) -> Result<Self, String> {
        let slot = shm.slot().clone();
        let (window, driver) = regions(slot.len);
        let role = match task.role {
            Role::Master => End::Driver,
            Role::Agent => End::Device,
        };
        let (window_side, driver_side) = match role {
            End::Device => (Side::Near, Side::Far),
            End::Driver => (Side::Far, Side::Near),
        };
        let region = |range: &std::ops::Range<u64>, side| {
            let offset = usize::try_from(range.start).map_err(|e| e.to_string())?;
            let len = range.end - range.start;
            Ok::<_, String>(Region::mapped(range.start, len, side, slot.memory.clone(), offset))
        };
        let table = vec![region(&window, window_side)?, region(&driver, driver_side)?];
        // The master's memory is passive: it never copies.
        let engine = task.role == Role::Agent && task.config.dma == Dma::Engine;
        let mut own = table.clone();
        if engine && task.config.engine.dma_only {
            own[1].backing = None;
        }
        let memory = |table| BusMemory::new(table).map(Arc::new).map_err(|e| e.to_string());
        let (mem, engine_mem) = (memory(own)?, memory(table)?);
        let unfit = netdev.as_ref().map_or(Features::NONE, |netdev| netdev.unfit());
        let params = LinkParams {
            role,
            dialect: task.config.dialect,
            window,
            driver_memory: driver,
            slot: task.slot,
            owner: slot.id.into(),
            vectors: u32::try_from(slot.doorbells.len()).unwrap_or(1),
            heartbeat: Duration::from_millis(task.config.heartbeat_ms.into()),
            features_off: task.features_off.union(unfit),
            mac: task.other_mac,
            pairs: task.config.queues,
            mtu: task.config.mtu.unwrap_or(MTU_MAX),
            engine: engine
                .then_some(EngineUse { cpu_below: task.config.engine.cpu_below as usize }),
            version: VERSION.to_owned(),
            seed: random(),
        };
        let link = Link::new(Instant::now(), mem.clone(), params).map_err(|e| e.to_string())?;
        let first = slot.doorbells.first().ok_or("the slot has no doorbell")?.clone();
        let doorbell = Doorbell::new(first).map_err(|e| format!("watching the doorbell: {e}"))?;
        let (broken, broken_rx) = mpsc::unbounded_channel();
        let (left, left_rx) = mpsc::unbounded_channel();
        let peers = shm.peers().clone();
        let mut running = Self {
            task,
            netdev,
            link,
            mem,
            engine_mem,
            slot,
            shm: Some(shm),
            peers,
            doorbell,
            ringer: Ringer::new().map_err(|e| format!("starting a thread: {e}"))?,
            pace: Pace::new(Instant::now(), MOST_TURNS, TURN_INTERVAL),
            next_turn: Instant::now(),
            workers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            left,
            left_rx,
            queues: BTreeMap::new(),
            offloads: Offloads::default(),
            announced: None,
            generation: 0,
            broken,
            broken_rx,
        };
        running.tell_peers();
        if let Some(netdev) = &running.netdev {
            running.link.handle_netdev(Instant::now(), netdev.state());
        }
        Ok(running)
    }

    fn tell_peers(&mut self) {
        let alive: BTreeSet<u32> = self.peers.keys().map(|id| u32::from(*id)).collect();
        self.link.handle_peers(Instant::now(), alive);
    }

    pub(super) async fn run(&mut self) -> Ended {
        // The connection that replaces a lost one, once it is there.
        let mut found: Option<Box<ShmLink>> = None;
        let task = self.task;
        let mut search = pin!(search(task));
        loop {
            if let Some(ended) = self.drain().await {
                return ended;
            }
            if self.shm.is_none() && self.may_move(found.as_deref()) {
                self.link.shutdown(Instant::now());
                self.drain().await;
                return Ended::Moved(found);
            }
            let now = Instant::now;
            match self.input(&mut found, search.as_mut()).await {
                Input::Order => {
                    if self.obey().await {
                        self.link.shutdown(now());
                        self.drain().await;
                        return Ended::Stopping;
                    }
                }
                Input::Doorbell => {
                    self.link.handle_doorbell(now());
                    // With one vector there is one doorbell for everything.
                    if self.slot.doorbells.len() == 1 {
                        self.workers.values().for_each(Worker::wake);
                    }
                }
                Input::Peer(event) => self.peer_event(event),
                Input::Found(shm) => {
                    found = Some(shm);
                    search.set(self::search(task));
                }
                Input::Due => {
                    self.link.handle_timeout(now());
                    if self.link.has_more() {
                        self.next_turn = self.pace.count(now()).unwrap_or_else(now);
                    }
                }
                Input::Netdev => {
                    if self.heal_netdev().await == Look::Gone {
                        task.log.warn("the netdev has been deleted");
                        self.link.shutdown(now());
                        self.drain().await;
                        return Ended::NetdevLost;
                    }
                }
                Input::Broken(reason, false) => self.link.handle_broken(now(), &reason),
                Input::Broken(reason, true) => {
                    task.log.warn(&reason);
                    self.link.shutdown(now());
                    self.drain().await;
                    return Ended::NetdevLost;
                }
                Input::Left(left) => self.pair_stopped(left),
                Input::Nothing => {}
            }
        }
    }

    /// Waits for whatever comes first. What `search` has done so far is kept for the next time: it
    /// takes longer than the heartbeats between which this waits.
    async fn input(
        &mut self,
        found: &mut Option<Box<ShmLink>>,
        search: Pin<&mut impl Future<Output = Box<ShmLink>>>,
    ) -> Input {
        let more = self.link.has_more().then_some(self.next_turn);
        let due = self.link.poll_timeout().into_iter().chain(more).min();
        let due = due.unwrap_or_else(|| Instant::now() + RETRY);
        let lost = self.shm.is_none() && found.is_none();
        let generation = self.generation;
        tokio::select! {
            () = self.task.ordered() => Input::Order,
            rung = self.doorbell.rung() => match rung {
                Ok(()) => Input::Doorbell,
                Err(e) => Input::Broken(format!("doorbell: {e}"), true),
            },
            event = next_event(&mut self.shm) => Input::Peer(event),
            shm = search, if lost => Input::Found(shm),
            () = watch_found(found) => Input::Nothing,
            () = changed(self.netdev.as_deref_mut()) => Input::Netdev,
            () = tokio::time::sleep_until(due.into()) => Input::Due,
            Some(left) = self.left_rx.recv() => match self.broken_rx.try_recv() {
                // Why a worker has no path to give back comes before that it has none.
                Ok(report) => {
                    let _ = self.left.send(left);
                    report.input(generation)
                }
                Err(_) => Input::Left(left),
            },
            Some(report) = self.broken_rx.recv() => report.input(generation),
        }
    }

    /// Without its backplane a link goes on; it moves when it has nothing to lose, or when the other
    /// end is on the new one.
    fn may_move(&self, found: Option<&ShmLink>) -> bool {
        found.is_some_and(|shm| !self.is_at_work() || !shm.peers().is_empty())
    }

    fn peer_event(&mut self, event: Result<PeerEvent, String>) {
        match event {
            Ok(PeerEvent::Joined(_)) => {
                self.read_peers();
                self.tell_peers();
            }
            Ok(PeerEvent::Left(id)) => {
                self.read_peers();
                self.link.handle_peer_gone(Instant::now(), id.into());
            }
            Err(e) => {
                self.task.log.warn(format_args!("{e}; the link goes on without it"));
                self.shm = None;
            }
        }
    }

    fn read_peers(&mut self) {
        if let Some(shm) = &self.shm {
            self.peers = shm.peers().clone();
        }
    }

    /// Does all that the link asks for.
    async fn drain(&mut self) -> Option<Ended> {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => self.state(state, reason),
                Event::Ring { owner, vector } => self.ring(owner, vector),
                Event::Peer(hello) => {
                    self.task.view.borrow_mut().peer_version = Some(hello.version.to_string());
                    self.take_mac(hello.mac).await;
                }
                Event::PeerLink(peer) => self.take_peer_link(peer).await,
                Event::Carrier(up) => self.carrier(up),
                Event::Start(start) => {
                    if let Err(e) = self.start(start).await {
                        self.task.log.warn(&e);
                        return Some(Ended::NetdevLost);
                    }
                }
                Event::StartPair(start) => {
                    if let Err(e) = self.start_pair(start).await {
                        self.task.log.warn(&e);
                        return Some(Ended::NetdevLost);
                    }
                }
                Event::StopPair(pair) => self.stop_pair(pair),
                Event::Offloads(offloads) => {
                    if let Err(e) = self.set_offloads(offloads) {
                        self.task.log.warn(format_args!("offloads: {e}"));
                    }
                }
                Event::Announce => self.announce().await,
                Event::Stop => {
                    // The next session may bring another address.
                    self.announced = None;
                    self.stop_workers().await;
                    self.task.view.borrow_mut().link_down();
                    self.link.handle_stopped(Instant::now());
                }
                Event::Wake => self.workers.values().for_each(Worker::wake),
            }
        }
        self.close_queues();
        let (epoch, peer_epoch) = self.link.epochs();
        let mut view = self.task.view.borrow_mut();
        view.epoch = Some(epoch).filter(|e| *e != 0);
        view.peer_epoch = peer_epoch;
        view.slot = self.link.slot().or(view.slot);
        None
    }

    fn state(&self, state: State, reason: String) {
        let mut view = self.task.view.borrow_mut();
        if (view.state, &view.reason) != (state, &reason) {
            let colon = if reason.is_empty() { "" } else { ": " };
            self.task.log.info(format_args!("{}{colon}{reason}", view::name(state)));
        }
        view.state = state;
        view.reason = reason;
    }

    fn ring(&self, owner: u32, vector: u16) {
        let peer = u16::try_from(owner).ok().and_then(|id| self.peers.get(&id));
        if let Some(doorbell) = peer.and_then(|p| p.vectors.get(usize::from(vector))) {
            self.ringer.ring(doorbell);
        }
    }

    fn carrier(&self, up: bool) {
        let up = up && self.is_at_work();
        if let Some(Err(e)) = self.netdev.as_ref().map(|netdev| netdev.tap().set_carrier(up)) {
            self.task.log.warn(format_args!("carrier: {e}"));
        }
        self.task.view.borrow_mut().carrier = up;
    }

    async fn start(&mut self, start: Start) -> Result<(), String> {
        self.offloads = match self.task.role {
            Role::Master => Offloads::to_device(start.features),
            Role::Agent => Offloads::to_driver(start.features),
        };
        self.set_offloads(self.offloads).map_err(|e| e.to_string())?;
        self.agree_on_mtu(&start).await;
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
}

/// Looks for a backplane until there is one.
async fn search(task: &LinkTask) -> Box<ShmLink> {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        match task.connect().await {
            Ok(shm) => return Box::new(shm),
            Err(refusal) => pause = refusal.pause,
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

async fn next_event(shm: &mut Option<ShmLink>) -> Result<PeerEvent, String> {
    match shm {
        Some(shm) => shm.next().await.map_err(|e| e.to_string()),
        None => std::future::pending().await,
    }
}

/// Keeps a connection that waits to be moved to up to date, and drops it when it fails.
async fn watch_found(found: &mut Option<Box<ShmLink>>) {
    match found {
        Some(shm) => {
            if shm.next().await.is_err() {
                *found = None;
            }
        }
        None => std::future::pending().await,
    }
}
