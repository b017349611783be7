//! One end of one link, without I/O: session, message FIFOs, tunnel, control queue, and the data paths
//! they set up, one for each queue pair.
//!
//! Inputs are `handle_doorbell`, `handle_timeout`, `handle_peers`, `handle_peer_gone`, `handle_netdev`,
//! and from workers `handle_pair_stopped`, `handle_stopped` and `handle_broken`. After each, drain
//! [`Link::poll_event`] and wait until [`Link::poll_timeout`].
//!
//! | state | what goes on | left when |
//! |---|---|---|
//! | waiting | looks for the other end in the window | both ends run with each other's epoch |
//! | negotiating | messages: HELLO, features, queues | the device is activated |
//! | up | workers have the data paths of the pairs in use | anything breaks |
//! | down | the workers stop, then the session starts anew | the other end is met again |
//! | quarantined | the same, but with growing delay: the other end broke a rule | the delay is over |
//!
//! Invariants: a new epoch is drawn, and the slot given up, only while no worker has a data path,
//! because a peer takes either as the promise that nobody touches the old rings. `Start` and `Stop`
//! alternate, and with `Stop` the carrier goes; between them each pair's `StartPair` and `StopPair` do.
//!
//! A doorbell that is lost costs time only: messages are looked for at each heartbeat, and while the
//! ends negotiate as often as the header is before they meet. What ends a session, and how soon, is
//! told in `link/dead.rs`.

mod again;
pub mod back_end;
mod control;
mod dead;
mod ends;
mod event;
pub mod front_end;
mod messages;
mod netdev_state;
mod pairs;
mod queues;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::{BusMemory, Kind};
use crate::net::control::ControlPath;
use crate::net::control_driver::ControlDriver;
use crate::net::engine_path::EngineUse;
use crate::net::features::Features;
use crate::net::model::{NetDevice, Offer};
use crate::planted::{Bug, planted};
use crate::spec::{msg, virtio, window};
use crate::tunnel::device::DeviceTunnel;
use crate::tunnel::driver::{DriverConfig, DriverTunnel};
use crate::tunnel::fifo::FifoError;
use crate::tunnel::message::{Dialect, Hello};
use crate::tunnel::part::{Layout, Peer, Role};
use crate::tunnel::session::Change;
use again::QUARANTINE;
use dead::Untaken;
use ends::{Ends, Pipe};
pub use event::{Event, Start, StartPair};
pub use messages::REFUSED;
use messages::next_keepalive;
use netdev_state::NetdevStates;
pub use netdev_state::PeerLink;
use pairs::Pair;
pub use pairs::pair_vector;
pub use queues::LinkQueue;

/// Greatest size of the device's queues.
const QUEUE_SIZE: u16 = 256;
/// What a link is doing; the module's head has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table at the module's head")]
pub enum State {
    Waiting,
    Negotiating,
    Up,
    Down,
    Quarantined,
}

/// What makes this end of the link.
#[derive(Clone, Debug)]
pub struct LinkParams {
    /// Which end it is.
    pub role: Role,
    /// What both ends speak.
    pub dialect: Dialect,
    /// How they lay out the window.
    pub layout: Layout,
    /// The window's bus addresses.
    pub window: Range<u64>,
    /// Driver memory's bus addresses.
    pub driver_memory: Range<u64>,
    /// Slot number; the driver's counts.
    pub slot: u32,
    /// Our id on the transport.
    pub owner: u32,
    /// Vectors that we listen on.
    pub vectors: u32,
    /// Time between heartbeats; a peer is dead after four.
    pub heartbeat: Duration,
    /// Features that are neither offered nor accepted; VERSION_1 stays, nothing works without it.
    pub features_off: Features,
    /// Device: the MAC address that config space offers to the driver. Driver: the one meant for the
    /// board's netdev.
    pub mac: [u8; 6],
    /// Device: the greatest MTU.
    pub mtu: u16,
    /// Most queue pairs.
    pub pairs: u16,
    /// Device: payload goes by engine, used like this.
    pub engine: Option<EngineUse>,
    /// This program's version.
    pub version: String,
    /// Seed of the epochs and nonces.
    pub seed: u64,
}

/// Who has the data paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// No worker.
    Idle,
    /// Workers, since the event `Start`.
    Running,
    /// Workers still, until they are said to have stopped; the event `Stop` is out.
    Stopping,
}

/// The half of the tunnel that this end runs.
#[derive(Debug)]
enum Core {
    Driver {
        tunnel: Box<DriverTunnel>,
        control: Option<ControlDriver>,
        /// The control queue's index, if there is one.
        control_index: u16,
        next_ping: Instant,
        /// Negotiated, once the device runs.
        features: Features,
    },
    Device {
        tunnel: Box<DeviceTunnel>,
        model: Box<NetDevice>,
        control: Option<ControlPath>,
    },
}

/// One end of one link.
#[derive(Debug)]
pub struct Link {
    params: LinkParams,
    mem: Arc<BusMemory>,
    session: Ends,
    fifo: Option<Pipe>,
    core: Option<Core>,
    /// Whether the other end takes our messages.
    untaken: Untaken,
    peer: Option<Peer>,
    netdevs: NetdevStates,
    /// Who is on the transport; `None`: it does not tell.
    alive: Option<BTreeSet<u32>>,
    work: Work,
    /// The queue pairs of this session.
    pairs: Vec<Pair>,
    /// How many of them are used.
    used_pairs: u16,
    /// When the session starts anew, once no worker runs.
    restart_at: Option<Instant>,
    /// Rules broken since the link was last up for long.
    offences: u32,
    /// Until when the sessions that have begun have had their time.
    sessions_paid: Instant,
    up_since: Option<Instant>,
    /// Tries of this session's driver in a row that came to nothing.
    futile: u32,
    /// Look at the header though it is not time: a doorbell came without a message.
    look: bool,
    /// Messages were left for the next turn.
    more: bool,
    /// When to look for messages though no doorbell rang, while the ends negotiate.
    next_poll: Instant,
    random: u64,
    events: VecDeque<Event>,
}

impl Link {
    /// A link over memory in which the window and driver memory are mapped.
    pub fn new(
        now: Instant,
        mem: Arc<BusMemory>,
        mut params: LinkParams,
    ) -> Result<Self, FifoError> {
        let needed = Features::of(&[virtio::F_VERSION_1]);
        params.features_off = params.features_off.minus(needed);
        Ok(Self {
            session: Ends::new(now, &mem, &params)?,
            mem,
            fifo: None,
            core: None,
            untaken: Untaken::new(params.role),
            peer: None,
            netdevs: NetdevStates::default(),
            alive: Some(BTreeSet::new()),
            work: Work::Idle,
            pairs: Vec::new(),
            used_pairs: 1,
            restart_at: Some(now),
            offences: 0,
            sessions_paid: now,
            up_since: None,
            futile: 0,
            look: true,
            more: false,
            next_poll: now,
            random: params.seed | 1,
            events: VecDeque::new(),
            params,
        })
    }

    /// Links of one program that have this moment and the heartbeat's interval in common share wake-ups.
    pub fn align(&mut self, origin: Instant) {
        self.session.align(origin);
    }

    /// The ids that are on the transport, our own aside.
    pub fn handle_peers(&mut self, now: Instant, alive: BTreeSet<u32>) {
        self.alive = Some(alive);
        self.look = true;
        self.turn(now);
    }

    /// This id left the transport.
    pub fn handle_peer_gone(&mut self, now: Instant, id: u32) {
        let alone = self.alive.as_mut().is_some_and(|alive| {
            alive.remove(&id);
            alive.is_empty()
        });
        if let Some(Change::Down(reason)) = self.session.handle_peer_gone(&self.mem, id, alone) {
            self.leave(now, State::Down, reason.to_string());
        }
        self.look = true;
        self.turn(now);
    }

    /// Our doorbell for messages rang.
    pub fn handle_doorbell(&mut self, now: Instant) {
        self.look |= self.fifo.as_ref().is_none_or(|f| !f.has_message(&self.mem));
        self.turn(now);
    }

    /// The time of [`Link::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.turn(now);
    }

    /// A worker rings for this queue, in a session whose notifications are messages.
    pub fn handle_notify(&mut self, now: Instant, queue: u16) {
        if self.work == Work::Running {
            self.notify(queue);
            self.turn(now);
        }
    }

    /// All workers have stopped.
    pub fn handle_stopped(&mut self, now: Instant) {
        self.work = Work::Idle;
        self.pairs.clear();
        self.rest();
        self.release();
        self.turn(now);
    }

    /// A worker found a ring broken, or lost its netdev. `Event::Stop` follows, unless it is out
    /// already.
    pub fn handle_broken(&mut self, now: Instant, reason: &str) {
        self.broken(now, reason);
        self.turn(now);
    }

    /// Stops for good in an orderly way: the other end is told. `Event::Stop` and `Event::Ring` may
    /// follow. The slot is free for others once no worker runs.
    pub fn shutdown(&mut self, now: Instant) {
        self.leave(now, State::Down, "stopping".to_owned());
        self.restart_at = None;
        self.release();
    }

    /// The next thing to do or to learn.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Link::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let running = self.work == Work::Running;
        let restart = self.restart_at.filter(|_| self.work == Work::Idle);
        let core = match &self.core {
            Some(Core::Driver { tunnel, next_ping, control, .. }) => {
                let answer = control.as_ref().and_then(ControlDriver::poll_timeout);
                let ping = running.then_some(*next_ping);
                tunnel.poll_timeout().into_iter().chain(ping).chain(answer).min()
            }
            _ => None,
        };
        let poll = (self.core.is_some() && (!running || self.polls())).then_some(self.next_poll);
        let session = self.session.poll_timeout();
        let tell = self.netdevs.poll_timeout().filter(|_| self.core.is_some());
        let untaken = self.untaken.poll_timeout().filter(|_| self.fifo.is_some());
        [restart, core, poll, session, tell, untaken].into_iter().flatten().min()
    }

    /// Whether there is work left that no input announces; call [`Link::handle_timeout`] soon.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Our epoch and the peer's, if there is a session; 0 and `None` where the layout has none.
    pub fn epochs(&self) -> (u32, Option<u32>) {
        if !self.session.has_epochs() {
            return (0, None);
        }
        (self.session.epoch(), self.peer.as_ref().map(|p| p.epoch))
    }

    /// The slot's number, as the driver end says it.
    pub fn slot(&self) -> Option<u32> {
        match self.params.role {
            Role::Driver => Some(self.params.slot),
            Role::Device => self.peer.as_ref().map(|p| p.slot),
        }
    }

    fn turn(&mut self, now: Instant) {
        let quiet = self.work == Work::Idle || planted(Bug::RestartWithWorkers);
        if self.restart_at.is_some_and(|t| t <= now) && quiet {
            self.restart_at = None;
            let (epoch, nonce) = self.draw();
            self.count_session(now);
            self.session.start(now, epoch, nonce);
        }
        self.turn_session(now);
        if let Err(e) = self.turn_messages(now).and_then(|()| self.check_taken(now)) {
            self.offend(now, e.to_string());
        }
        if self.session.has_news() {
            self.look = true;
            self.turn_session(now);
        }
        self.turn_control(now);
    }

    fn turn_session(&mut self, now: Instant) {
        let due = self.session.poll_timeout().is_some_and(|t| t <= now);
        if !due && !std::mem::take(&mut self.look) {
            return;
        }
        self.look = false;
        // Each step of the way to a session is one look.
        for _ in 0..4 {
            let (alive, fifo) = (self.alive.as_ref(), self.fifo.as_ref());
            match self.session.handle_look(now, &self.mem, alive, fifo) {
                None => break,
                Some(Change::Waiting(reason)) => self.say(State::Waiting, reason.to_string()),
                Some(Change::Ring(owner)) => self.ring(owner, 0),
                Some(Change::Up(peer, fifo)) => self.meet(now, peer, fifo),
                Some(Change::Down(reason)) => {
                    self.leave(now, State::Down, reason.to_string());
                    break;
                }
            }
        }
    }

    /// A session is up: the tunnel begins.
    fn meet(&mut self, now: Instant, peer: Peer, fifo: Pipe) {
        let hello = Hello {
            revision: msg::REVISION,
            max_len: u32::try_from(ends::max_len(self.params.layout)).expect("small"),
            transport_features: 0,
            epoch: self.session.epoch(),
            layout: window::LAYOUT_VERSION,
            mac: if self.params.role == Role::Driver { self.params.mac } else { [0; 6] },
            version: self.params.version.as_str().into(),
        };
        self.core = Some(match self.params.role {
            Role::Device => {
                let mut model = Box::new(NetDevice::new(Offer {
                    features: self.features(),
                    mac: self.params.mac,
                    mtu: self.params.mtu,
                    rx_size: QUEUE_SIZE,
                    tx_size: QUEUE_SIZE,
                    pairs: self.params.pairs,
                }));
                model.set_link(true);
                Core::Device {
                    tunnel: Box::new(DeviceTunnel::new(self.params.dialect, hello)),
                    model,
                    control: None,
                }
            }
            Role::Driver => Core::Driver {
                tunnel: Box::new(DriverTunnel::new(
                    now,
                    DriverConfig {
                        dialect: self.params.dialect,
                        hello,
                        greets: self.params.layout == Layout::Boardlane,
                        wanted: self.features().bits(),
                        required: 1 << virtio::F_VERSION_1,
                        clean: |bits| Features::from_bits(bits).without(Features::NONE).bits(),
                        pairs: self.params.pairs,
                        request_timeout: Duration::from_secs(1),
                        attempts: 3,
                    },
                )),
                control: None,
                control_index: 0,
                next_ping: next_keepalive(&self.session, self.params.heartbeat, now),
                features: Features::NONE,
            },
        });
        self.ring(peer.owner, 0);
        self.peer = Some(peer);
        self.netdevs.begin();
        self.untaken = Untaken::new(self.params.role);
        self.futile = 0;
        self.fifo = Some(fifo);
        self.say(State::Negotiating, String::new());
    }

    /// Leaves the session: the worker stops, and then it starts anew.
    fn leave(&mut self, now: Instant, state: State, reason: String) {
        if let Some(owner) = self.session.shutdown(&self.mem, self.fifo.as_mut()) {
            self.ring(owner, 0);
        }
        self.core = None;
        self.fifo = None;
        self.peer = None;
        self.restart_at = Some(now + self.pause(now));
        self.say(state, reason);
        self.stop_workers(now);
    }

    /// Takes the data paths back, if workers have them and were not told yet.
    fn stop_workers(&mut self, now: Instant) {
        if self.work != Work::Running {
            return;
        }
        self.work = Work::Stopping;
        let up = self.up_since.take().map_or(Duration::ZERO, |since| now - since);
        if up >= QUARANTINE[1] {
            self.offences = 0;
        }
        self.futile = if up < QUARANTINE[0] { self.futile + 1 } else { 0 };
        self.events.push_back(Event::Carrier(false));
        self.events.push_back(Event::Stop);
    }

    /// After `shutdown`, frees the slot for others, if nobody touches the rings any more.
    fn release(&mut self) {
        if self.core.is_none() && self.restart_at.is_none() && self.work == Work::Idle {
            self.session.release(&self.mem);
        }
    }

    fn say(&mut self, state: State, reason: String) {
        self.events.push_back(Event::State(state, reason));
    }
}

/// Whether some of the memory is an engine's alone.
fn reaches_window_only(mem: &BusMemory) -> bool {
    mem.regions().iter().any(|region| region.kind() == Kind::DmaOnly)
}
