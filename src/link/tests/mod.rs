//! Links on a fake clock, over one memory: doorbells come late, twice or never, ends crash, stop,
//! freeze and come back. What a daemon and its workers do is played here, with its checks:
//!
//! * Start and Stop alternate, and no end has two data paths alive;
//! * a new epoch is drawn only while no worker has a data path;
//! * a data path begins only when every data path of earlier sessions is gone, at either end;
//! * frames come out in order, unaltered, never twice, and rings stay sound;
//! * the clock goes on: no link wants to be called again and again at the same moment.

mod amp;
mod hostile;
mod netdevs;
mod pairs;
mod stories;
mod storm;
mod traffic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::memory::{Kind, Mapping, Region, Side};
use crate::net::path::Path;
use crate::spec::net;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(250);

/// Small, repeatable, good enough to mix things up (xorshift64*).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.below(most.as_millis() as u64 + 1))
    }
}

/// What is in use between two ends of one queue pair.
const ONE_PAIR: Features = Features::ACCEPT.minus(Features::of(&[net::F_MQ]));

/// What happens to doorbells and notices on their way.
#[derive(Clone, Copy, Debug)]
struct Wire {
    /// Of a hundred doorbells, how many are lost, and how many come twice.
    lost: u64,
    doubled: u64,
    /// Longest way of a doorbell, and of a notice that a peer is gone.
    ring: Duration,
    gone: Duration,
    /// Longest time that a worker takes to stop, and the only end that is slow, if not all are.
    stop: Duration,
    slow: Option<u32>,
}

const GOOD: Wire =
    Wire { lost: 0, doubled: 0, ring: MS, gone: MS, stop: Duration::ZERO, slow: None };

/// What a link said of itself, and when.
type Said = (Duration, State, String);

/// What is on its way to the end with this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parcel {
    Ring,
    Peers,
    Gone(u32),
    WorkerStopped,
}

/// A slot of `len` bytes, its first quarter the window.
fn slot(len: u64) -> Arc<BusMemory> {
    slot_of(len, [Kind::Cached; 2])
}

/// The same, of these kinds.
fn slot_of(len: u64, kinds: [Kind; 2]) -> Arc<BusMemory> {
    let region = |at, len, side, kind| {
        let bytes = Arc::new(Mapping::anonymous(len as usize, kind));
        Region::mapped(at, len, side, bytes, 0)
    };
    let window = region(0, len / 4, Side::Near, kinds[0]);
    let driver = region(len / 4, len - len / 4, Side::Far, kinds[1]);
    Arc::new(BusMemory::new(vec![window, driver]).unwrap())
}

fn params(role: Role, owner: u32, len: u64, features_off: Features) -> LinkParams {
    LinkParams {
        role,
        dialect: Dialect::default(),
        layout: Layout::default(),
        window: 0..len / 4,
        driver_memory: len / 4..len,
        slot: 3,
        owner,
        vectors: 2,
        heartbeat: HEARTBEAT,
        features_off,
        mac: [2, 0, 0, 0, 0, 7],
        mtu: 1500,
        pairs: 1,
        version: format!("{role:?}"),
        engine: None,
        seed: u64::from(owner) * 0x9e37_79b9,
    }
}

/// A data path that a worker has.
#[derive(Debug)]
struct Worker {
    path: Box<dyn Path>,
    /// Our epoch and the peer's when it was started.
    session: (u32, Option<u32>),
    features: Features,
    /// It was told to stop, and has not yet.
    stopping: bool,
    /// It has found a ring broken and does nothing more.
    broken: bool,
}

/// One end: a link, and what a daemon has of it.
#[derive(Debug)]
struct End {
    role: Role,
    link: Link,
    worker: Option<Worker>,
    state: State,
    reason: String,
    carrier: bool,
    negotiated: Features,
    announced: u64,
    peer: Option<Hello>,
    epoch: u32,
    frozen_until: Option<Instant>,
    turns: u64,
    events: u64,
    outbox: VecDeque<Vec<u8>>,
    /// What it was told of the other end's netdev, and when.
    told: Vec<(Duration, PeerLink)>,
    /// The states that it went through, with the time.
    log: Vec<Said>,
}

/// A memory, the ends on it, and the clock.
struct World {
    mem: Arc<BusMemory>,
    len: u64,
    dialect: Dialect,
    layout: Layout,
    began: Instant,
    now: Instant,
    ends: BTreeMap<u32, End>,
    wire: Wire,
    parcels: Vec<(Instant, u32, Parcel)>,
    random: Random,
    next_id: u32,
    /// Numbers of the last frame sent and the last one that came out, by the role that sends.
    sent: [u64; 2],
    came: [u64; 2],
    frames: [u64; 2],
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with_slot(seed, 1 << 20)
    }

    fn with_slot(seed: u64, len: u64) -> Self {
        let now = Instant::now();
        Self {
            mem: slot(len),
            len,
            dialect: Dialect::default(),
            layout: Layout::default(),
            began: now,
            now,
            ends: BTreeMap::new(),
            wire: GOOD,
            parcels: Vec::new(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            next_id: 1,
            sent: [0; 2],
            came: [0; 2],
            frames: [0; 2],
        }
    }

    /// A new process on the slot; its id.
    fn attach(&mut self, role: Role, features_off: Features) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let (dialect, layout) = (self.dialect, self.layout);
        let params = LinkParams { dialect, layout, ..params(role, id, self.len, features_off) };
        let link = Link::new(self.now, self.mem.clone(), params).unwrap();
        let end = End {
            role,
            link,
            worker: None,
            state: State::Waiting,
            reason: String::new(),
            carrier: false,
            negotiated: Features::NONE,
            announced: 0,
            peer: None,
            epoch: 0,
            frozen_until: None,
            turns: 0,
            events: 0,
            outbox: VecDeque::new(),
            told: Vec::new(),
            log: Vec::new(),
        };
        self.ends.insert(id, end);
        for id in self.ends.keys() {
            self.parcels.push((self.now, *id, Parcel::Peers));
        }
        id
    }

    /// A board and a master; their ids.
    fn both(&mut self) -> [u32; 2] {
        [Role::Device, Role::Driver].map(|role| self.attach(role, Features::NONE))
    }

    /// The process is gone, without a word.
    fn crash(&mut self, id: u32) {
        self.ends.remove(&id);
        self.parcels.retain(|(_, to, _)| *to != id);
        for other in self.ends.keys() {
            let at = self.now + self.random.up_to(self.wire.gone);
            self.parcels.push((at, *other, Parcel::Gone(id)));
        }
    }

    /// The process stops in an orderly way.
    fn stop(&mut self, id: u32) {
        let now = self.now;
        self.input(id, |link| link.shutdown(now));
        let at = self.now + 5 * SECOND;
        while self.ends[&id].worker.is_some() {
            assert!(self.now <= at, "the worker stops");
            self.step(at + MS);
        }
        assert_eq!(self.end(id).link.poll_timeout(), None, "a stopped link wants nothing more");
        self.crash(id);
    }

    /// The worker finds a ring broken.
    fn break_worker(&mut self, id: u32) {
        let now = self.now;
        let end = self.end(id);
        if let Some(worker) = end.worker.as_mut().filter(|w| !w.stopping && !w.broken) {
            worker.broken = true;
            self.input(id, |link| link.handle_broken(now, "a test broke the ring"));
        }
    }

    fn end(&mut self, id: u32) -> &mut End {
        self.ends.get_mut(&id).unwrap()
    }

    /// Gives an end an input, and does what it then wants.
    fn input(&mut self, id: u32, input: impl FnOnce(&mut Link)) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.turns += 1;
        input(&mut end.link);
        while let Some(event) = self.ends.get_mut(&id).and_then(|end| end.link.poll_event()) {
            self.event(id, event);
        }
        let end = self.end(id);
        let epoch = end.link.epochs().0;
        if epoch != end.epoch {
            end.epoch = epoch;
            assert!(end.worker.is_none(), "a new epoch while a worker runs: {end:?}");
        }
    }

    fn event(&mut self, id: u32, event: Event) {
        let now = self.now;
        let since = now - self.began;
        let end = self.end(id);
        end.events += 1;
        match event {
            Event::State(state, reason) => {
                end.log.push((since, state, reason.clone()));
                (end.state, end.reason) = (state, reason);
            }
            Event::Ring { owner, vector } => {
                assert!(vector < 2, "a vector that the peer listens on");
                self.ring(owner);
            }
            Event::Start(start) => end.negotiated = start.features,
            Event::StartPair(start) => self.start(id, start),
            Event::StopPair(pair) => panic!("nobody asked to stop pair {pair}"),
            Event::Stop => {
                let worker = end.worker.as_mut().expect("there is a worker to be stopped");
                assert!(!worker.stopping, "it was told already");
                worker.stopping = true;
                let takes = match self.wire.slow {
                    Some(slow) if slow == id => self.wire.stop,
                    Some(_) => Duration::ZERO,
                    None => self.random.up_to(self.wire.stop),
                };
                if takes.is_zero() {
                    self.worker_stopped(id);
                } else {
                    self.parcels.push((now + takes, id, Parcel::WorkerStopped));
                }
            }
            Event::Wake => assert!(end.worker.is_some() || end.state != State::Up),
            Event::Peer(hello) => end.peer = Some(hello),
            Event::PeerLink(peer) => end.told.push((since, peer)),
            Event::Carrier(up) => end.carrier = up,
            Event::Announce => end.announced += 1,
            Event::Offloads(offloads) => panic!("nobody asked for {offloads:?}"),
        }
    }

    fn start(&mut self, id: u32, start: StartPair) {
        let epochs = self.ends[&id].link.epochs();
        for (other_id, other) in &self.ends {
            let Some(worker) = &other.worker else { continue };
            // A session that was over before its worker could be started has lost its peer's epoch.
            let same = |a: Option<u32>, b| a.is_none_or(|a| a == b);
            let same_session = same(epochs.1, worker.session.0) && same(worker.session.1, epochs.0);
            assert!(same_session, "{id} starts while {other_id} still runs an earlier session");
        }
        let worker = Worker {
            path: start.path,
            session: epochs,
            features: self.ends[&id].negotiated,
            stopping: false,
            broken: false,
        };
        self.end(id).worker = Some(worker);
    }

    fn worker_stopped(&mut self, id: u32) {
        let now = self.now;
        let worker = self.end(id).worker.take();
        assert!(worker.is_some_and(|w| w.stopping));
        self.input(id, |link| link.handle_stopped(now));
    }

    fn ring(&mut self, owner: u32) {
        if self.random.below(100) < self.wire.lost {
            return;
        }
        let copies = 1 + u64::from(self.random.below(100) < self.wire.doubled);
        for _ in 0..copies {
            let at = self.now + self.random.up_to(self.wire.ring);
            self.parcels.push((at, owner, Parcel::Ring));
        }
    }

    fn deliver(&mut self, to: u32, parcel: Parcel) {
        let now = self.now;
        let alive: BTreeSet<u32> = self.ends.keys().copied().filter(|id| *id != to).collect();
        match parcel {
            Parcel::Ring => self.input(to, |link| link.handle_doorbell(now)),
            Parcel::Peers => self.input(to, |link| link.handle_peers(now, alive)),
            Parcel::Gone(id) => self.input(to, |link| link.handle_peer_gone(now, id)),
            Parcel::WorkerStopped => self.worker_stopped(to),
        }
    }

    /// All that is to be done now, then the clock goes on to what is next, `until` at the latest.
    fn step(&mut self, until: Instant) {
        for round in 0.. {
            assert!(round < 500, "the clock stands still: {:?}", self.ends);
            if !self.moment() {
                break;
            }
        }
        self.breathe();
        let timeouts = self.ends.values().filter_map(|end| {
            let at = end.link.poll_timeout()?;
            Some(end.frozen_until.map_or(at, |frozen| at.max(frozen)))
        });
        let parcels = self.parcels.iter().map(|(at, ..)| *at);
        self.now = timeouts.chain(parcels).chain([until]).min().unwrap().max(self.now);
    }

    /// Delivers what is due and calls who wants to be called; `false` if there was nothing.
    fn moment(&mut self) -> bool {
        let now = self.now;
        let mut due = Vec::new();
        let frozen: BTreeMap<u32, Instant> =
            self.ends.iter().filter_map(|(id, end)| Some((*id, end.frozen_until?))).collect();
        self.parcels.retain_mut(|(at, to, parcel)| {
            match frozen.get(to) {
                Some(until) if *until > now => *at = (*at).max(*until),
                _ => {}
            }
            if *at <= now {
                due.push((*to, *parcel));
            }
            *at > now
        });
        for (to, parcel) in &due {
            self.deliver(*to, *parcel);
        }
        let mut called = false;
        for id in self.ends.keys().copied().collect::<Vec<_>>() {
            let end = self.end(id);
            if end.frozen_until.is_some_and(|until| until > now) {
                continue;
            }
            end.frozen_until = None;
            if end.link.has_more() || end.link.poll_timeout().is_some_and(|at| at <= now) {
                called = true;
                self.input(id, |link| link.handle_timeout(now));
            }
        }
        called || !due.is_empty()
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step(until);
        }
    }

    /// Runs until both ends are up in one session; how long it took.
    fn until_up(&mut self, most: Duration) -> Duration {
        let since = self.now;
        while !self.is_up() {
            assert!(self.now < since + most, "not up after {most:?}: {:#?}", self.logs());
            self.step(since + most);
        }
        self.now - since
    }

    fn is_up(&self) -> bool {
        let mut sessions = Vec::new();
        for end in self.ends.values() {
            let good = end.worker.as_ref().filter(|w| !w.stopping && !w.broken);
            let Some(worker) = good.filter(|_| end.state == State::Up && end.carrier) else {
                continue;
            };
            // Where there are no epochs, a worker that was not told to stop is of this session.
            let peer = if self.layout == Layout::AmpPci { Some(0) } else { worker.session.1 };
            sessions.push((worker.session.0, peer.unwrap()));
        }
        matches!(sessions[..], [(a, b), (c, d)] if (a, b) == (d, c))
    }

    fn logs(&self) -> Vec<(u32, &[Said])> {
        self.ends
            .iter()
            .map(|(id, end)| (*id, &end.log[end.log.len().saturating_sub(30)..]))
            .collect()
    }
}
