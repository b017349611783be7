//! One end of a link: its process, on its machine.

use std::sync::Arc;
use std::time::Instant;

use super::choice::{Choice, index};
use super::engine::Engine;
use super::flow::Session;
use super::random::Random;
use super::worker::Worker;
use crate::link::{Link, StartPair, State};
use crate::memory::BusMemory;
use crate::net::features::Features;
use crate::tunnel::part::Role;

/// A process with a link and its workers.
#[derive(Debug)]
pub(super) struct End {
    pub(super) role: Role,
    pub(super) id: u32,
    pub(super) vectors: u32,
    pub(super) link: Link,
    pub(super) mem: Arc<BusMemory>,
    engine_mem: Arc<BusMemory>,
    engine_depth: usize,
    heartbeat: std::time::Duration,
    pub(super) workers: [Option<Worker>; 2],
    pub(super) state: State,
    pub(super) carrier: bool,
    pub(super) features: Features,
    /// Workers were started, and not told to stop.
    pub(super) running: bool,
    /// When the workers that were told to stop have done so.
    pub(super) stops_at: Option<Instant>,
    pub(super) frozen_until: Option<Instant>,
    /// The process ends once no worker runs.
    pub(super) leaving: bool,
    /// Our epoch, and the peer's as last known with it.
    epochs: (u32, u32),
    pub(super) next_traffic: Instant,
    /// States that it went through.
    pub(super) states: u64,
}

impl End {
    pub(super) fn new(
        now: Instant,
        choice: &Choice,
        at: usize,
        role: Role,
        id: u32,
        random: &mut Random,
    ) -> Self {
        let params = choice.params(random, role, id);
        let mem = choice.memory(at, role, false);
        let heartbeat = params.heartbeat;
        let vectors = params.vectors;
        let mut link = Link::new(now, mem.clone(), params).expect("the slot is large enough");
        if !choice.notices {
            link.go_by_heartbeats();
        }
        Self {
            role,
            id,
            vectors,
            link,
            mem,
            engine_mem: choice.memory(at, role, true),
            engine_depth: choice.depth,
            heartbeat,
            workers: [None, None],
            state: State::Waiting,
            carrier: false,
            features: Features::NONE,
            running: false,
            stops_at: None,
            frozen_until: None,
            leaving: false,
            epochs: (0, 0),
            next_traffic: now,
            states: 0,
        }
    }

    /// Notes our epochs; `true`: ours is a new one.
    pub(super) fn note_epochs(&mut self) -> bool {
        let (own, peer) = self.link.epochs();
        let new = own != self.epochs.0;
        if new {
            self.epochs = (own, 0);
        }
        if let Some(peer) = peer {
            self.epochs.1 = peer;
        }
        new
    }

    /// The session that we are in, or were last.
    pub(super) fn session(&self) -> Session {
        let (own, peer) = self.epochs;
        if index(self.role) == 0 { (own, peer) } else { (peer, own) }
    }

    pub(super) fn start(&mut self, now: Instant, start: StartPair) {
        let StartPair { pair, path, doorbell, .. } = start;
        let mut worker = Worker::new(now, path, self.session(), self.features, self.heartbeat);
        worker.doorbell = doorbell;
        if let Some(local) = worker.path.local() {
            worker.engine = Some(Engine::new(self.engine_mem.clone(), local, self.engine_depth));
        }
        self.workers[usize::from(pair)] = Some(worker);
    }

    pub(super) fn has_worker(&self) -> bool {
        self.workers.iter().any(Option::is_some)
    }

    /// Whether frames go by, or would.
    pub(super) fn is_up(&self) -> bool {
        let sound = self.workers.iter().flatten().all(|w| !w.broken && !w.giving_back);
        self.state == State::Up && self.carrier && self.running && self.has_worker() && sound
    }
}
