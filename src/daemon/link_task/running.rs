//! A link while it is attached to a window: what it waits for, and what it does then.
//! What it has in common with links over other transports is in [`Workers`].

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attachment::{Attachment, Change};
use super::in_band::InBand;
use super::probed::Probed;
use super::workers::{self, Healed, Pair, Workers};
use super::{LOOK, LinkTask, RETRY, end_of};
use crate::daemon::config::{Dma, MTU_MAX};
use crate::daemon::identity::random;
use crate::daemon::netdev::Netdev;
use crate::daemon::{Role, VERSION};
use crate::link::{Event, Link, LinkParams, StartPair, pair_vector};
use crate::memory::{BusMemory, Side};
use crate::net::engine_path::EngineUse;
use crate::net::features::Features;
use crate::os::bell::Bell;
use crate::os::doorbell::{Doorbell, Ringer};
use crate::os::pace::Pace;
use crate::spec::net::F_MAC;
use crate::tunnel::part::{Layout, Role as End};

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
    /// What it is attached to is to be left for another connection, if there is one already.
    Moved(Option<Box<Attachment>>),
    /// What it is attached to is gone, or has to be let go of: why.
    Gone(String),
}

/// What a running link waits for.
enum Input {
    /// Something about its workers or its netdev.
    Workers(workers::Input),
    Doorbell,
    /// The doorbell cannot be waited for.
    Deaf(std::io::Error),
    Transport(Change),
    /// A worker rings for this queue.
    Notify(u16),
    /// A connection in place of the lost one.
    Found(Box<Attachment>),
    Due,
    Nothing,
}

/// A link on a connection.
pub(super) struct Running<'a> {
    task: &'a LinkTask,
    pub(super) workers: Workers<'a>,
    link: Link,
    /// What this end's CPU reaches, and what its engine does, in the same table.
    mem: Arc<BusMemory>,
    engine_mem: Arc<BusMemory>,
    transport: Attachment,
    /// None: this end polls.
    doorbell: Option<Doorbell>,
    ringer: Ringer,
    /// Bells of workers, where notifications are messages.
    in_band: InBand,
    /// How soon work goes on that the last turn has left, and when.
    pace: Pace,
    next_turn: Instant,
    /// What it is attached to is gone, and that is why it ends.
    gone: Option<String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        task: &'a LinkTask,
        transport: Attachment,
        netdev: Option<&'a mut Netdev>,
    ) -> Result<Self, String> {
        let attached = transport.attached().clone();
        let role = end_of(task.role);
        let (window_side, driver_side) = match role {
            End::Device => (Side::Near, Side::Far),
            End::Driver => (Side::Far, Side::Near),
        };
        let (window, driver) = (attached.window, attached.driver_memory);
        let table = vec![window.region(window_side), driver.region(driver_side)];
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
            layout: task.config.layout,
            window: window.bus(),
            driver_memory: driver.bus(),
            slot: task.slot,
            owner: attached.id,
            vectors: u32::try_from(attached.doorbells.len()).unwrap_or(1),
            heartbeat: Duration::from_millis(task.config.heartbeat_ms.into()),
            features_off: task.features_off.union(unfit).union(task.unfit_for_vhost(&mem)),
            mac: task.other_mac,
            pairs: task.config.queues,
            mtu: task.config.mtu.unwrap_or(MTU_MAX),
            engine: engine
                .then_some(EngineUse { cpu_below: task.config.engine.cpu_below as usize }),
            version: VERSION.to_owned(),
            seed: random(),
        };
        let probed =
            Probed::new(Arc::downgrade(&mem), transport.attached(), task.config.layout, role);
        task.view.borrow_mut().probed = Some(probed);
        let link = Link::new(Instant::now(), mem.clone(), params);
        let mut link = link.map_err(|e| e.to_string())?;
        link.align(task.origin);
        let doorbell = attached.doorbells.first().cloned().map(Doorbell::new).transpose();
        let doorbell = doorbell.map_err(|e| format!("watching the doorbell: {e}"))?;
        let mut running = Self {
            task,
            workers: Workers::new(task, netdev),
            link,
            mem,
            engine_mem,
            transport,
            doorbell,
            ringer: Ringer::new().map_err(|e| format!("starting a thread: {e}"))?,
            in_band: InBand::new(),
            pace: Pace::new(Instant::now(), MOST_TURNS, TURN_INTERVAL),
            next_turn: Instant::now(),
            gone: None,
        };
        if !running.transport.attached().rings {
            running.link.ring_nobody();
        }
        running.note_present();
        running.tell_how();
        running.tell_peers();
        running.tell_netdev();
        Ok(running)
    }

    /// Says where somebody has to look by himself.
    fn tell_how(&self) {
        let polls = self.transport.polls();
        if let Some(why) = polls {
            self.task.log.info(format_args!("this end polls: {why}"));
        }
        if !self.transport.attached().rings {
            self.task.log.info("the other end has to poll: there is no doorbell to ring it by");
        }
        self.task.view.borrow_mut().polls = polls.map(str::to_owned);
    }

    fn tell_peers(&mut self) {
        match self.transport.present() {
            Some(ids) => self.link.handle_peers(Instant::now(), ids),
            None => self.link.go_by_heartbeats(),
        }
    }

    /// For `probe`.
    fn note_present(&self) {
        if let Some(probed) = &mut self.task.view.borrow_mut().probed {
            probed.present = self.transport.present();
        }
    }

    /// Says what the netdev is set to, if there is one.
    fn tell_netdev(&mut self) {
        if let Some(state) = self.workers.netdev_state() {
            self.link.handle_netdev(Instant::now(), state);
        }
    }

    pub(super) async fn run(&mut self) -> Ended {
        // The connection that replaces a lost one, once it is there.
        let mut found: Option<Box<Attachment>> = None;
        let task = self.task;
        let mut search = pin!(search(task));
        loop {
            if let Some(ended) = self.drain().await {
                return ended;
            }
            if self.transport.is_lost() && self.may_move(found.as_deref()) {
                return self.end(Ended::Moved(found)).await;
            }
            let now = Instant::now;
            match self.input(&mut found, search.as_mut()).await {
                Input::Workers(input) => {
                    if let Some(ended) = self.workers_input(input).await {
                        return self.end(ended).await;
                    }
                }
                Input::Doorbell => {
                    self.link.handle_doorbell(now());
                    // With one vector there is one doorbell for everything.
                    if self.transport.attached().doorbells.len() == 1 {
                        self.workers.wake_threads();
                    }
                }
                Input::Deaf(e) => {
                    task.log.warn(format_args!("doorbell: {e}"));
                    return self.end(Ended::NetdevLost).await;
                }
                Input::Transport(Change::Gone(why)) => {
                    task.log.warn(&why);
                    self.gone = Some(why.clone());
                    return self.end(Ended::Gone(why)).await;
                }
                Input::Transport(change) => self.changed(change),
                Input::Notify(queue) => self.link.handle_notify(now(), queue),
                Input::Found(transport) => {
                    found = Some(transport);
                    search.set(self::search(task));
                }
                Input::Due => {
                    self.link.handle_timeout(now());
                    if self.link.has_more() {
                        self.next_turn = self.pace.count(now()).unwrap_or_else(now);
                    }
                }
                Input::Nothing => {}
            }
        }
    }

    /// Says farewell, and comes to this end.
    async fn end(&mut self, ended: Ended) -> Ended {
        self.link.shutdown(Instant::now());
        self.drain().await;
        ended
    }

    /// Ends the workers, and lets go of what the link is attached to.
    pub(super) async fn leave(self) {
        let Self { workers, .. } = self;
        workers.leave().await;
    }

    /// Something about the workers or the netdev; why the link has to end, if it has to.
    async fn workers_input(&mut self, input: workers::Input) -> Option<Ended> {
        let now = Instant::now;
        match input {
            workers::Input::Order => {
                if self.workers.obey(self.link.peer_link()).await {
                    return Some(Ended::Stopping);
                }
                self.tell_netdev();
            }
            workers::Input::Netdev => match self.workers.heal_netdev(self.link.peer_link()).await {
                Healed::Gone => return Some(Ended::NetdevLost),
                Healed::Here => self.tell_netdev(),
                Healed::Moved => {
                    self.tell_netdev();
                    self.workers.announce_anew().await;
                }
            },
            workers::Input::Broken(reason, false) => self.link.handle_broken(now(), &reason),
            workers::Input::Broken(reason, true) => {
                self.task.log.warn(&reason);
                return Some(Ended::NetdevLost);
            }
            workers::Input::Left(pair, path) => self.link.handle_pair_stopped(now(), pair, path),
            workers::Input::Nothing => {}
        }
        None
    }

    /// Waits for whatever comes first. What `search` has done so far is kept for the next time: it
    /// takes longer than the heartbeats between which this waits.
    async fn input(
        &mut self,
        found: &mut Option<Box<Attachment>>,
        search: Pin<&mut impl Future<Output = Box<Attachment>>>,
    ) -> Input {
        let more = self.link.has_more().then_some(self.next_turn);
        let due = self.link.poll_timeout().into_iter().chain(more).min();
        let due = due.unwrap_or_else(|| Instant::now() + RETRY);
        let lost = self.transport.is_lost() && found.is_none();
        tokio::select! {
            input = self.workers.input() => Input::Workers(input),
            rung = rung(&mut self.doorbell) => match rung {
                Ok(()) => Input::Doorbell,
                Err(e) => Input::Deaf(e),
            },
            change = self.transport.next() => Input::Transport(change),
            queue = self.in_band.rung() => Input::Notify(queue),
            transport = search, if lost => Input::Found(transport),
            () = watch_found(found) => Input::Nothing,
            () = tokio::time::sleep_until(due.into()) => Input::Due,
        }
    }

    /// Without its backplane a link goes on; it moves when it has nothing to lose, or when the other
    /// end is on the new one.
    fn may_move(&self, found: Option<&Attachment>) -> bool {
        let is_met = |found: &Attachment| found.present().is_some_and(|ids| !ids.is_empty());
        found.is_some_and(|found| !self.workers.is_at_work() || is_met(found))
    }

    fn changed(&mut self, change: Change) {
        self.note_present();
        match change {
            Change::Joined => self.tell_peers(),
            Change::Left(id) => self.link.handle_peer_gone(Instant::now(), id),
            Change::Lost(why) | Change::Gone(why) => {
                self.task.log.warn(format_args!("{why}; the link goes on without it"));
            }
        }
    }

    /// Does all that the link asks for.
    async fn drain(&mut self) -> Option<Ended> {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => {
                    self.workers.state(state, self.gone.take().unwrap_or(reason));
                }
                Event::Ring { owner, vector } => self.ring(owner, vector),
                Event::Peer(hello) => {
                    self.task.view.borrow_mut().peer_version = Some(hello.version.to_string());
                    // The master says which one the board has, and not the other way about.
                    if self.task.role == Role::Agent {
                        self.workers.take_mac(hello.mac).await;
                    }
                }
                Event::PeerLink(said) => {
                    self.workers.take_peer_link(said, self.link.peer_link()).await;
                    self.tell_netdev();
                }
                Event::Carrier(up) => self.workers.carrier(up),
                Event::Start(start) => {
                    // A board that says no HELLO has no other way to tell it.
                    let amp = self.task.config.layout == Layout::AmpPci;
                    if amp && self.task.role == Role::Master && start.features.has(F_MAC) {
                        self.workers.take_mac(start.config.mac).await;
                    }
                    if let Err(e) = self.workers.start(&start, self.link.peer_link()).await {
                        self.task.log.warn(&e);
                        return Some(Ended::NetdevLost);
                    }
                    self.tell_netdev();
                }
                Event::StartPair(start) => {
                    if let Err(e) = self.start_pair(start).await {
                        self.task.log.warn(&e);
                        return Some(Ended::NetdevLost);
                    }
                }
                Event::StopPair(pair) => {
                    if !self.workers.stop_pair(pair) {
                        self.link.handle_pair_stopped(Instant::now(), pair, None);
                    }
                }
                Event::Offloads(offloads) => self.workers.change_offloads(offloads),
                Event::Announce => self.workers.announce().await,
                Event::Stop => {
                    self.workers.stop_all().await;
                    self.in_band.clear();
                    self.link.handle_stopped(Instant::now());
                }
                Event::Wake => self.workers.wake(),
            }
        }
        self.workers.close_queues();
        let round_trip = self.link.take_round_trip();
        let (epoch, peer_epoch) = self.link.epochs();
        let mut view = self.task.view.borrow_mut();
        round_trip.into_iter().for_each(|took| view.counts.round_trips.add(took));
        view.epoch = Some(epoch).filter(|e| *e != 0);
        view.peer_epoch = peer_epoch;
        view.slot = self.link.slot().or(view.slot);
        if let Some(probed) = &mut view.probed {
            probed.queues.clear();
            probed.queues.extend(self.link.queues());
        }
        None
    }

    fn ring(&self, owner: u32, vector: u16) {
        match self.transport.bell(owner, vector) {
            Some(Bell::Eventfd(doorbell)) => self.ringer.ring(&doorbell),
            Some(Bell::Register(register)) => register.write(),
            None => {}
        }
    }

    /// Gives a pair to a worker, with the doorbells of this end and of the peer's.
    async fn start_pair(&mut self, start: StartPair) -> Result<(), String> {
        let StartPair { pair, path, doorbell, polls, in_band, settings } = start;
        let peer = doorbell.and_then(|(owner, vector)| self.transport.bell(owner, vector));
        let peers = if in_band {
            let bells = self.in_band.bells(end_of(self.task.role), pair);
            bells.map_err(|e| format!("making a bell: {e}"))?
        } else {
            [peer.clone(), peer]
        };
        let own = &self.transport.attached().doorbells;
        let vector = pair_vector(pair, u32::try_from(own.len()).unwrap_or(u32::MAX));
        let own = vector.filter(|_| !polls).and_then(|vector| own.get(usize::from(vector)));
        let deaf = (polls && vector.is_some()).then_some("the other end cannot ring");
        self.task.view.borrow_mut().polls = deaf.or(self.transport.polls()).map(str::to_owned);
        let pair = Pair {
            number: pair,
            path,
            mem: self.mem.clone(),
            engine_mem: self.engine_mem.clone(),
            doorbells: own.cloned().into_iter().collect(),
            peers,
            settings,
        };
        self.workers.start_pair(pair).await
    }
}

/// Looks for a backplane until there is one.
async fn search(task: &LinkTask) -> Box<Attachment> {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        match task.connect().await {
            Ok(transport) => return Box::new(transport),
            Err(refusal) => pause = refusal.pause,
        }
    }
}

async fn rung(doorbell: &mut Option<Doorbell>) -> std::io::Result<()> {
    match doorbell {
        Some(doorbell) => doorbell.rung().await,
        None => std::future::pending().await,
    }
}

/// Keeps a connection that waits to be moved to up to date, and drops it when it fails.
async fn watch_found(found: &mut Option<Box<Attachment>>) {
    match found {
        Some(transport) => {
            if matches!(transport.next().await, Change::Lost(_)) {
                *found = None;
            }
        }
        None => std::future::pending().await,
    }
}
