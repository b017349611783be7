//! A master's end of a link whose other end is a vhost-user back-end, without I/O: connection,
//! initialisation, and the data paths of the queue pairs.
//!
//! Rings and buffers lie in one memory of our own, which the back-end is given; the addresses that stand
//! in descriptors are numbers of our choice, and tell nothing of this process. Each connection has new
//! memory, so what an earlier back-end still writes is seen by nobody.
//!
//! Inputs are `handle_connected`, `handle_refused`, `handle_message`, `handle_backend_request`, `handle_lost`,
//! `handle_timeout`, and from workers `handle_stopped` and `handle_broken`. After each, drain
//! [`FrontEndLink::poll_event`] and wait until [`FrontEndLink::poll_timeout`].
//!
//! | state | what goes on | left when |
//! |---|---|---|
//! | waiting | a connection is looked for | there is one |
//! | negotiating | requests: features, memory, rings | the back-end has taken DRIVER_OK, or all rings |
//! | up | workers have the data paths | anything breaks |
//! | down | the workers stop; the connection is closed | there is a new one |
//! | quarantined | the same, but with growing delay: the back-end broke a rule, or hung up before it was up | the delay is over |
//!
//! Invariants: `Connect` is asked for only while no worker has a data path and the last connection is
//! closed. `Start` and `Stop` alternate, and with `Stop` the carrier goes. A back-end that dies closes the
//! connection; one that hangs is found out within 15 s, by a request that it does not answer.
//!
//! There is no control queue: where a guest has one, its VMM serves it and the back-end never sees it, so
//! back-ends offer it that know nothing of it. What needs it is not used; several pairs are, as
//! `SET_VRING_ENABLE` chooses them here.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::again::{QUARANTINE, SESSION_PERIOD, SESSIONS_AT_ONCE};
use super::setup::config_of;
use super::{QUEUE_SIZE, Start, State, Work};
use crate::memory::{BusMemory, Mapping, Region, Side};
use crate::net::driver_path::DriverPath;
use crate::net::features::Features;
use crate::net::path::Path;
use crate::net::placement::{Reach, place_all};
use crate::spec::{net, vhost_user, virtio};
use crate::tunnel::vhost_user::front_end::{self, FrontEnd, FrontEndConfig, Message, Ring};
use crate::tunnel::vhost_user::{MemoryRegion, VringAddr};
use crate::virtqueue::QueueConfig;

/// The bus address of our memory.
const BASE: u64 = 1 << 32;
/// Memory of a pair, of which a quarter holds what the device reads only.
const PAIR_MEMORY: u64 = 8 << 20;
/// How much of config space is read: MAC address, status, pairs and MTU.
const CONFIG_LEN: u16 = 12;
/// How long a back-end has for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What makes this end of the link.
#[derive(Clone, Copy, Debug)]
pub struct FrontEndParams {
    /// Features that are not accepted; VERSION_1 stays.
    pub features_off: Features,
    /// Most queue pairs.
    pub pairs: u16,
}

impl FrontEndParams {
    /// How much memory a connection needs, in bytes.
    pub fn memory_len(&self) -> u64 {
        u64::from(self.pairs) * PAIR_MEMORY
    }

    /// What is accepted. There is neither control queue nor IOMMU, no ring is reset alone, and config
    /// space is read up to the MTU.
    fn accepted(&self) -> Features {
        let never =
            [net::F_CTRL_VQ, virtio::F_ACCESS_PLATFORM, virtio::F_RING_RESET, net::F_SPEED_DUPLEX];
        let off = self.features_off.minus(Features::of(&[virtio::F_VERSION_1]));
        Features::ACCEPT.without(off.union(Features::of(&never)))
    }
}

/// What the owner of the link must do or learn.
#[derive(Debug)]
pub enum Event {
    /// The state, and why.
    State(State, String),
    /// Look for a connection, and make memory of [`FrontEndParams::memory_len`] for it; then call
    /// [`handle_connected`](FrontEndLink::handle_connected) or [`handle_refused`](FrontEndLink::handle_refused).
    Connect,
    /// Close the connection, and with it the socket of the back-end's requests.
    Disconnect,
    /// Send this to the back-end.
    Send(Message),
    /// Send this as the answer to the back-end's last request.
    Answer(Vec<u8>),
    /// The device runs: the netdev is to do with these features. Data paths follow.
    Start(Start),
    /// Give this data path to a worker.
    StartPair(StartPair),
    /// Stop all workers, then call [`handle_stopped`](FrontEndLink::handle_stopped).
    Stop,
    /// Whether the netdev is to have a carrier.
    Carrier(bool),
}

/// A pair's data path. Its receiveq is ring `2 pair`, its transmitq the next one.
#[derive(Debug)]
pub struct StartPair {
    /// Number of the pair.
    pub pair: u16,
    /// The data path.
    pub path: Box<dyn Path>,
    /// The memory it is in.
    pub mem: Arc<BusMemory>,
}

/// A connection, and what is set up by it.
#[derive(Debug)]
struct Session {
    front: FrontEnd,
    mem: Arc<BusMemory>,
    features: Features,
    config: net::Config,
    /// What workers do not have yet.
    paths: Vec<DriverPath>,
}

/// A master's end of a link to a back-end.
#[derive(Debug)]
pub struct FrontEndLink {
    params: FrontEndParams,
    session: Option<Session>,
    work: Work,
    /// When to look for a connection; `None` while there is one, or one is looked for.
    connect_at: Option<Instant>,
    /// Rules broken since the link was last up for long.
    offences: u32,
    /// Until when the connections that there were have had their time.
    sessions_paid: Instant,
    up_since: Option<Instant>,
    stopped: bool,
    events: VecDeque<Event>,
}

impl FrontEndLink {
    /// A link that looks for its first connection at once.
    pub fn new(now: Instant, params: FrontEndParams) -> Self {
        let mut link = Self {
            params,
            session: None,
            work: Work::Idle,
            connect_at: Some(now),
            offences: 0,
            sessions_paid: now,
            up_since: None,
            stopped: false,
            events: VecDeque::new(),
        };
        link.turn(now);
        link
    }

    /// There is a connection, and this memory for it, all of it zero.
    pub fn handle_connected(&mut self, now: Instant, memory: Arc<Mapping>) {
        if self.stopped || self.session.is_some() {
            return;
        }
        let len = self.params.memory_len();
        let mem = BusMemory::new(vec![Region::mapped(BASE, len, Side::Near, memory, 0)]);
        let mem = match mem {
            Ok(mem) => Arc::new(mem),
            Err(e) => return self.handle_refused(now, e.to_string(), QUARANTINE[1]),
        };
        self.sessions_paid = self.sessions_paid.max(now) + SESSION_PERIOD;
        let by_config = [net::F_MAC, net::F_MTU, net::F_STATUS];
        let config = FrontEndConfig {
            wanted: bits(self.params.accepted()),
            by_config: bits(Features::of(&by_config)),
            clean: |offered| bits(Features::from_bits(offered.into()).without(Features::NONE)),
            config_len: CONFIG_LEN,
            pairs: self.params.pairs,
            reply_timeout: REPLY_TIMEOUT,
        };
        self.session = Some(Session {
            front: FrontEnd::new(now, config),
            mem,
            features: Features::NONE,
            config: net::Config::default(),
            paths: Vec::new(),
        });
        self.say(State::Negotiating, String::new());
        self.turn(now);
    }

    /// There is no connection now; look again after a while.
    pub fn handle_refused(&mut self, now: Instant, why: String, pause: Duration) {
        if !self.stopped {
            self.say(State::Waiting, why);
            self.connect_at = Some(now + pause);
        }
    }

    /// A message came, with so many descriptors, which are to be closed.
    pub fn handle_message(
        &mut self,
        now: Instant,
        header: [u8; vhost_user::HEADER_LEN],
        payload: &[u8],
        fds: usize,
    ) {
        if let Some(session) = &mut self.session {
            session.front.handle_message(now, header, payload, fds);
        }
        self.turn(now);
    }

    /// One came by the socket of the back-end's requests.
    pub fn handle_backend_request(
        &mut self,
        now: Instant,
        header: [u8; vhost_user::HEADER_LEN],
        payload: &[u8],
        fds: usize,
    ) {
        if let Some(session) = &mut self.session {
            session.front.handle_backend_request(header, payload, fds);
        }
        self.turn(now);
    }

    /// The connection is closed or of no use, for this reason.
    pub fn handle_lost(&mut self, now: Instant, reason: &str) {
        match self.work {
            _ if self.session.is_none() => {}
            Work::Running => self.leave(now, State::Down, reason.to_owned()),
            Work::Idle | Work::Stopping => self.offend(now, reason.to_owned()),
        }
        self.turn(now);
    }

    /// A worker found a ring broken, or cannot go on.
    pub fn handle_broken(&mut self, now: Instant, reason: &str) {
        if self.work == Work::Running {
            self.offend(now, reason.to_owned());
        }
        self.turn(now);
    }

    /// All workers have stopped.
    pub fn handle_stopped(&mut self, now: Instant) {
        self.work = Work::Idle;
        self.turn(now);
    }

    /// The time of [`FrontEndLink::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.front.handle_timeout(now);
        }
        self.turn(now);
    }

    /// Stops for good.
    pub fn shutdown(&mut self, now: Instant) {
        self.stopped = true;
        self.leave(now, State::Down, "stopping".to_owned());
        self.connect_at = None;
    }

    /// The next thing to do or to learn.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`FrontEndLink::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connect = self.connect_at.filter(|_| self.work == Work::Idle);
        let front = self.session.as_ref().and_then(|session| session.front.poll_timeout());
        connect.into_iter().chain(front).min()
    }

    fn turn(&mut self, now: Instant) {
        if self.work == Work::Idle && self.connect_at.take_if(|at| *at <= now).is_some() {
            self.events.push_back(Event::Connect);
        }
        while let Some(session) = &mut self.session {
            if let Some(event) = session.front.poll_event() {
                self.front_event(now, event);
            } else if let Some(answer) = session.front.poll_backend_reply() {
                self.events.push_back(Event::Answer(answer));
            } else if let Some(message) = session.front.poll_message(now) {
                self.events.push_back(Event::Send(message));
            } else {
                break;
            }
        }
    }

    fn front_event(&mut self, now: Instant, event: front_end::Event) {
        match event {
            front_end::Event::QueuesNeeded { pairs, features, config } => {
                let features = Features::from_bits(features.into());
                if let Err(e) = self.set_up_queues(pairs, features, &config) {
                    self.offend(now, e);
                }
            }
            front_end::Event::Running => self.start(now),
            front_end::Event::ConfigChanged { config } => {
                if let Some(session) = &mut self.session {
                    session.config = config_of(&config);
                    self.tell_carrier();
                }
            }
            front_end::Event::Failed(e) => self.offend(now, e.to_string()),
        }
    }

    /// Makes the data paths, and only then tells the back-end of the rings.
    fn set_up_queues(
        &mut self,
        pairs: u16,
        features: Features,
        config: &[u8],
    ) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.features = features;
        session.config = config_of(config);
        let len = self.params.memory_len();
        let sizes = vec![[QUEUE_SIZE; 2]; usize::from(pairs)];
        let (near_device, near_driver) = (BASE..BASE + len / 4, BASE + len / 4..BASE + len);
        let placed = place_all(near_device, near_driver, &sizes, None, features, Reach::Both)
            .ok_or("there is too little memory for queues and buffers")?;
        let mut rings = Vec::new();
        for p in &placed.pairs {
            let path =
                DriverPath::new(&session.mem, features, &p.receiveq, &p.transmitq, &p.buffers)
                    .map_err(|e| e.to_string())?;
            session.paths.push(path);
            rings.extend([&p.receiveq, &p.transmitq].map(ring_of));
        }
        let region = MemoryRegion { bus_addr: BASE, len, user_addr: BASE, offset: 0 };
        session.front.set_queues(region, &rings);
        Ok(())
    }

    fn start(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        self.work = Work::Running;
        self.up_since = Some(now);
        let Session { features, config, mem, .. } = session;
        self.events.push_back(Event::Start(Start { features: *features, config: *config }));
        for (pair, path) in (0..).zip(session.paths.drain(..)) {
            let start = StartPair { pair, path: Box::new(path), mem: mem.clone() };
            self.events.push_back(Event::StartPair(start));
        }
        self.tell_carrier();
    }

    fn tell_carrier(&mut self) {
        let Some(session) = self.session.as_ref().filter(|_| self.work == Work::Running) else {
            return;
        };
        let says = session.features.has(net::F_STATUS);
        let up = !says || session.config.status.get() & net::S_LINK_UP != 0;
        let why = if up { "" } else { "the back-end says that its link is down" };
        self.say(State::Up, why.to_owned());
        self.events.push_back(Event::Carrier(up));
    }

    /// The back-end broke a rule: leave, and come back with growing delay.
    fn offend(&mut self, now: Instant, reason: String) {
        self.leave(now, State::Quarantined, reason);
        let delay = QUARANTINE[0].saturating_mul(1 << self.offences.min(6)).min(QUARANTINE[1]);
        self.offences = self.offences.saturating_add(1);
        self.connect_at = Some(now + delay);
    }

    /// Leaves the connection: the workers stop, and then there is another.
    fn leave(&mut self, now: Instant, state: State, reason: String) {
        self.session = None;
        let pause =
            self.sessions_paid.saturating_duration_since(now + SESSION_PERIOD * SESSIONS_AT_ONCE);
        self.connect_at = Some(now + pause);
        self.say(state, reason);
        if self.work == Work::Running {
            self.work = Work::Stopping;
            let up = self.up_since.take().map_or(Duration::ZERO, |since| now - since);
            if up >= QUARANTINE[1] {
                self.offences = 0;
            }
            self.events.push_back(Event::Carrier(false));
            self.events.push_back(Event::Stop);
        }
        self.events.push_back(Event::Disconnect);
    }

    fn say(&mut self, state: State, reason: String) {
        self.events.push_back(Event::State(state, reason));
    }
}

/// As far as vhost-user has bits.
fn bits(features: Features) -> u64 {
    u64::from(features.block(1)) << 32 | u64::from(features.block(0))
}

fn ring_of(queue: &QueueConfig) -> Ring {
    let QueueConfig { size, desc, driver, device, packed, .. } = *queue;
    Ring { size, addr: VringAddr { desc, driver, device }, packed }
}
