//! The world: links, their ends, what is on its way between them, and the clock.
//!
//! A step is one thing that one thread does, or one parcel that arrives, or some stores that drain; which
//! of those that are possible is drawn. The clock goes on a little with each step, and where nothing is
//! possible it goes on to what is next.
//!
//! A run goes in rounds: a *storm* in which faults happen, then they stop and the links must *come up*
//! within a bound, then a *steady* time with traffic, in which nothing may go wrong at all.

use std::time::{Duration, Instant};

use super::choice::{Choice, ROLES};
use super::end::End;
use super::engine::Engine;
use super::fabric::{self, Fabric, Installed};
use super::flow::Flow;
use super::log::{Log, What};
use super::mail::{GOOD, Parcel, Wire};
use super::random::Random;
use crate::tunnel::part::Role;

const US: Duration = Duration::from_micros(1);
pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Traffic without faults.
pub(super) const CALM: (u64, Duration) = (30, Duration::from_millis(100));

/// One link: a slot, and who is on it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) choice: Choice,
    pub(super) ends: [Option<End>; 2],
    /// When a process comes back that is not there.
    pub(super) back: [Option<Instant>; 2],
    /// This machine was reset, and is until its process comes back.
    pub(super) in_reset: [bool; 2],
    /// The board was reset since the master's session began.
    pub(super) spoilt: bool,
    /// By the role that sends, and by pair.
    pub(super) flows: [[Flow; 2]; 2],
    pub(super) wire: Wire,
    /// One piece of so many fails in the engine.
    pub(super) errors: Option<u64>,
    /// Until then a peer may seem to break rules: what was done to it looks so.
    pub(super) excused_until: Instant,
    /// The board and the master move to new memory once both have stopped.
    pub(super) moving: bool,
}

/// Something that can happen now.
#[derive(Clone, Copy, Debug)]
enum Act {
    Parcel(usize),
    Link(usize, usize),
    Worker(usize, usize, usize),
    Engine(usize, usize, usize),
    Stopped(usize, usize),
    Back(usize, usize),
    Traffic(usize, usize),
    Drain(usize),
}

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) began: Instant,
    pub(super) now: Instant,
    pub(super) steps: u64,
    pub(super) slots: Vec<Slot>,
    pub(super) parcels: Vec<Parcel>,
    pub(super) log: Log,
    pub(super) violation: Option<String>,
    /// Both links' masters are one process.
    pub(super) one_master: bool,
    pub(super) rescues: u64,
    /// Frames of a burst at most, and the pause between bursts, at most.
    pub(super) traffic: (u64, Duration),
    /// The faults are over.
    pub(super) calm: bool,
    pub(super) next_id: u32,
    acts: Vec<Act>,
    _fabric: Installed,
}

impl World {
    pub(super) fn new(seed: u64, links: usize, began: Instant) -> Self {
        let mut random = Random::new(seed);
        let choices: Vec<_> = (0..links).map(|_| Choice::new(&mut random)).collect();
        let memory: Vec<_> = choices.iter().map(|c| (c.lens, c.weak)).collect();
        let depth = [4, 16, 48, 200][random.index(4)];
        let fabric = Installed::new(Fabric::new(&memory, depth, random.next()));
        let slots = (0..).zip(choices).map(|(at, choice): (u64, _)| Slot {
            choice,
            ends: [None, None],
            back: [Some(began), Some(began)],
            in_reset: [false; 2],
            spoilt: false,
            flows: ROLES.map(|role| {
                [0, 1]
                    .map(|pair| Flow::new(seed ^ at << 40 ^ pair << 41 ^ (role as u64) << 42, role))
            }),
            wire: GOOD,
            errors: None,
            excused_until: began,
            moving: false,
        });
        Self {
            slots: slots.collect(),
            one_master: random.one_in(2),
            traffic: ([1, 2, 8, 100][random.index(4)], US * [30, 150, 400, 1500][random.index(4)]),
            calm: false,
            random,
            began,
            now: began,
            steps: 0,
            parcels: Vec::new(),
            log: Log::default(),
            violation: None,
            rescues: 0,
            next_id: 1,
            acts: Vec::new(),
            _fabric: fabric,
        }
    }

    pub(super) fn note(&mut self, link: usize, role: Option<Role>, what: What) {
        self.log.add(self.steps, self.now - self.began, link, role, what);
    }

    /// What must not happen has happened.
    pub(super) fn fail(&mut self, link: usize, what: impl Into<String>) {
        let what = format!("link {link}: {}", what.into());
        self.violation.get_or_insert(what);
    }

    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.random.below(most + 1))
    }

    /// One thing happens, or the clock goes on, `until` at the latest.
    pub(super) fn step(&mut self, until: Instant) {
        self.steps += 1;
        self.now += Duration::from_nanos(self.random.below(3000));
        self.possible();
        if self.acts.is_empty() {
            fabric::with(Fabric::settle);
            self.now = self.next().map_or(until, |next| next.min(until)).max(self.now);
            return;
        }
        let act = self.acts[self.random.index(self.acts.len())];
        match act {
            Act::Parcel(at) => {
                let parcel = self.parcels.swap_remove(at);
                self.deliver(parcel);
            }
            Act::Link(link, end) => {
                let now = self.now;
                self.input(link, end, |link| link.handle_timeout(now));
            }
            Act::Worker(link, end, pair) => self.work(link, end, pair),
            Act::Engine(link, end, pair) => self.copy(link, end, pair),
            Act::Stopped(link, end) => self.workers_stopped(link, end),
            Act::Back(link, end) => self.attach(link, end),
            Act::Traffic(link, end) => self.offer(link, end),
            Act::Drain(link) => fabric::with(|fabric| fabric.maybe_drain(link)),
        }
    }

    /// Lists what is possible now.
    fn possible(&mut self) {
        let now = self.now;
        self.acts.clear();
        for (at, parcel) in self.parcels.iter().enumerate() {
            let to = self.slots[parcel.link].ends.iter().flatten().find(|end| end.id == parcel.to);
            let frozen = to.is_some_and(|end| end.frozen_until.is_some_and(|until| until > now));
            if parcel.due <= now && !frozen {
                self.acts.push(Act::Parcel(at));
            }
        }
        for (l, slot) in self.slots.iter().enumerate() {
            let before = self.acts.len();
            for e in 0..2 {
                let Some(end) = &slot.ends[e] else {
                    if slot.back[e].is_some_and(|at| at <= now) {
                        self.acts.push(Act::Back(l, e));
                    }
                    continue;
                };
                if end.frozen_until.is_some_and(|until| until > now) {
                    continue;
                }
                if end.link.has_more() || end.link.poll_timeout().is_some_and(|at| at <= now) {
                    self.acts.push(Act::Link(l, e));
                }
                if end.stops_at.is_some_and(|at| at <= now) {
                    self.acts.push(Act::Stopped(l, e));
                }
                if end.carrier && end.next_traffic <= now {
                    self.acts.push(Act::Traffic(l, e));
                }
                for (p, worker) in (0..).zip(&end.workers) {
                    let Some(worker) = worker else { continue };
                    if worker.is_ready(now) {
                        self.acts.push(Act::Worker(l, e, p));
                    }
                    if worker.engine.as_ref().is_some_and(Engine::is_busy) {
                        self.acts.push(Act::Engine(l, e, p));
                    }
                }
            }
            if self.acts.len() > before {
                self.acts.push(Act::Drain(l));
            }
        }
    }

    /// When something is possible, with nothing possible now.
    fn next(&self) -> Option<Instant> {
        let parcels = self.parcels.iter().map(|parcel| {
            let to = self.slots[parcel.link].ends.iter().flatten().find(|end| end.id == parcel.to);
            let frozen = to.and_then(|end| end.frozen_until).unwrap_or(parcel.due);
            parcel.due.max(frozen)
        });
        let ends =
            self.slots.iter().flat_map(|slot| slot.ends.iter().flatten()).filter_map(|end| {
                let workers = end.workers.iter().flatten().filter_map(|w| w.poll_timeout());
                let traffic = end.carrier.then_some(end.next_traffic);
                let own = [end.link.poll_timeout(), end.stops_at, traffic];
                let next = workers.chain(own.into_iter().flatten()).min()?;
                Some(end.frozen_until.map_or(next, |frozen| next.max(frozen)))
            });
        let back = self.slots.iter().flat_map(|slot| slot.back.iter().flatten().copied());
        parcels.chain(ends).chain(back).min()
    }
}
