//! An end of a link as a daemon and its worker have it, in one thread: the one that is attacked, and
//! the well-behaved one that comes after the attacker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::dma::{Completion, Place, Transfer};
use boardlane::link::{Event, Link, LinkParams, State};
use boardlane::memory::{BusMemory, Span};
use boardlane::net::engine_path::EngineUse;
use boardlane::net::features::Features;
use boardlane::net::frame::Drop;
use boardlane::net::path::{Inward, Path, PathError};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};

use crate::ground::{SLOT, WINDOW};

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// Frames that are moved in a turn at most, as by a worker.
const BATCH: usize = 64;
/// Inputs and events of a case at most: more are a loop without an end.
const MOST_TURNS: u64 = 200_000;

/// What the ends of a case are made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// Payload goes by an engine, at the device's end.
    pub(crate) engine: bool,
    pub(crate) pairs: u16,
    pub(crate) dialect: Dialect,
}

/// One end.
pub(crate) struct End {
    pub(crate) link: Link,
    pub(crate) mem: Arc<BusMemory>,
    /// What its engine reaches.
    pub(crate) engine_mem: Arc<BusMemory>,
    pub(crate) paths: BTreeMap<u16, Box<dyn Path>>,
    /// What it said of itself.
    pub(crate) said: Vec<(State, String)>,
    pub(crate) carrier: bool,
    pub(crate) drops: Vec<Drop>,
    pub(crate) inbox: Vec<Vec<u8>>,
    pub(crate) outbox: VecDeque<Vec<u8>>,
    pub(crate) features: Features,
    turns: u64,
}

impl End {
    pub(crate) fn new(
        now: Instant,
        role: Role,
        owner: u32,
        mem: &Arc<BusMemory>,
        means: Means,
    ) -> Self {
        let params = LinkParams {
            role,
            dialect: means.dialect,
            layout: Layout::Boardlane,
            window: 0..WINDOW,
            driver_memory: WINDOW..SLOT,
            slot: 3,
            owner,
            vectors: 2,
            heartbeat: HEARTBEAT,
            features_off: Features::NONE,
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 1500,
            pairs: means.pairs,
            version: format!("{role:?}"),
            engine: (means.engine && role == Role::Device).then_some(EngineUse { cpu_below: 0 }),
            seed: u64::from(owner) * 0x9e37_79b9,
        };
        Self {
            link: Link::new(now, mem.clone(), params).unwrap(),
            mem: mem.clone(),
            engine_mem: mem.clone(),
            paths: BTreeMap::new(),
            said: Vec::new(),
            carrier: false,
            drops: Vec::new(),
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            features: Features::NONE,
            turns: 0,
        }
    }

    pub(crate) fn meets(&mut self, now: Instant, others: &[u32]) {
        let others = BTreeSet::from_iter(others.iter().copied());
        self.input(now, |link| link.handle_peers(now, others));
    }

    /// Gives it an input, and does what it then wants.
    pub(crate) fn input(&mut self, now: Instant, input: impl FnOnce(&mut Link)) {
        self.count();
        input(&mut self.link);
        while let Some(event) = self.link.poll_event() {
            self.count();
            match event {
                Event::State(state, why) => self.said.push((state, why)),
                Event::Start(start) => self.features = start.features,
                Event::StartPair(start) => {
                    let had = self.paths.insert(start.pair, start.path);
                    assert!(had.is_none(), "pair {} has two data paths", start.pair);
                }
                Event::StopPair(pair) => {
                    let path = self.paths.remove(&pair);
                    assert!(path.is_some(), "pair {pair} has no worker to be stopped");
                    self.link.handle_pair_stopped(now, pair, path);
                }
                Event::Stop => {
                    self.paths.clear();
                    self.link.handle_stopped(now);
                }
                Event::Carrier(up) => self.carrier = up,
                Event::Ring { .. }
                | Event::Wake
                | Event::Offloads(_)
                | Event::Announce
                | Event::Peer(_)
                | Event::PeerLink(_) => {}
            }
        }
    }

    fn count(&mut self) {
        self.turns += 1;
        assert!(self.turns < MOST_TURNS, "no end to it: {:?}", self.last());
    }

    pub(crate) fn last(&self) -> (State, &str) {
        self.said.last().map_or((State::Waiting, ""), |(state, why)| (*state, why))
    }

    /// What is due now: timers, messages, and a turn of each worker.
    pub(crate) fn turn(&mut self, now: Instant) {
        if self.link.has_more() || self.link.poll_timeout().is_some_and(|at| at <= now) {
            self.input(now, |link| link.handle_timeout(now));
        }
        self.input(now, |link| link.handle_doorbell(now));
        for pair in self.paths.keys().copied().collect::<Vec<_>>() {
            let Some(mut path) = self.paths.remove(&pair) else { continue };
            let done = self.breathe(path.as_mut());
            self.paths.insert(pair, path);
            if let Err(fault) = done {
                let why = fault.to_string();
                self.input(now, |link| link.handle_broken(now, &why));
            }
        }
    }

    fn breathe(&mut self, path: &mut dyn Path) -> Result<(), PathError> {
        let local = path.local();
        let table = local.as_ref().unwrap_or(&self.mem).clone();
        path.disarm(&self.mem);
        let mut blocked = false;
        for _ in 0..BATCH {
            let room = path.room(&self.mem)?;
            let Some(frame) = self.outbox.front() else { break };
            if !room.fill(&table, frame) {
                blocked = true;
                break;
            }
            self.drops.extend(path.sent(&self.mem, frame.len())?);
            self.outbox.pop_front();
        }
        let _ = path.flush(&self.mem);
        for _ in 0..BATCH {
            match path.receive(&self.mem)? {
                Inward::Empty => {
                    if !self.copies(path)? {
                        break;
                    }
                    continue;
                }
                Inward::Dropped(reason) => self.drops.push(reason),
                Inward::Frame { prefix, tail, len } => {
                    let frame = whole(&table, prefix, tail);
                    assert_eq!(frame.len(), 12 + len);
                    self.inbox.push(frame);
                }
            }
            path.received(&self.mem)?;
        }
        let _ = path.release(&self.mem);
        while self.copies(path)? {}
        let _ = path.flush(&self.mem) | path.release(&self.mem);
        path.arm(&self.mem, blocked)?;
        Ok(())
    }

    /// What the engine has to do; whether there was anything.
    fn copies(&mut self, path: &mut dyn Path) -> Result<bool, PathError> {
        let Some(local) = path.local() else { return Ok(false) };
        let mut any = false;
        while let Some(transfer) = path.poll_transfer() {
            any = true;
            path.handle_completion(carry_out(&self.engine_mem, &local, transfer))?;
        }
        while let Some((_, reason)) = path.poll_drop() {
            self.drops.push(reason);
        }
        Ok(any)
    }
}

/// The bytes of a frame, wherever they are.
fn whole(table: &BusMemory, prefix: &[u8], tail: &[Span]) -> Vec<u8> {
    let mut frame = prefix.to_vec();
    for span in tail {
        let at = frame.len();
        frame.resize(at + span.len(), 0);
        table.view(*span).unwrap().copy_to(0, &mut frame[at..]);
    }
    frame
}

fn carry_out(mem: &BusMemory, local: &BusMemory, transfer: Transfer) -> Completion {
    let view = |place| match place {
        Place::Bus(span) => mem.view(span).unwrap(),
        Place::Local(span) => local.view(span).unwrap(),
    };
    for piece in &transfer.pieces {
        view(piece.from).copy_into(&view(piece.to));
    }
    Completion { transfer, good: true }
}
