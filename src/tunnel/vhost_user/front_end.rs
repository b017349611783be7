//! The front-end: virtio's initialisation as vhost-user requests (virtio 1.4 §3.1.1; QEMU, "Vhost-user
//! Protocol").
//!
//! A value without I/O, for one connection. Inputs are `handle_message`, `handle_backend_request`,
//! `handle_timeout` and `set_queues`. After any, send what `poll_message` and `poll_backend_reply` give, then
//! drain `poll_event`, then wait until `poll_timeout`.
//!
//! | step | requests, in parentheses what depends on the back-end | goes on when |
//! |---|---|---|
//! | learning | `GET_FEATURES` (`GET_`, `SET_PROTOCOL_FEATURES`) (`GET_QUEUE_NUM`) `SET_OWNER` (`SET_BACKEND_REQ_FD`) (`GET_CONFIG`) | all is answered |
//! | features | (ACKNOWLEDGE, DRIVER) `SET_FEATURES` (FEATURES_OK, `GET_STATUS`) | FEATURES_OK stands, where there is a status |
//! | queues | none | the owner gave memory and rings |
//! | rings | `SET_MEM_TABLE`; of each ring NUM, BASE, ADDR, CALL, KICK; then (ENABLE); (DRIVER_OK) | the last request is answered: `GET_STATUS`, else `GET_FEATURES` |
//! | running | (`GET_CONFIG`, when the back-end says that it has changed); then, and each 10 s, `GET_STATUS`, else `GET_FEATURES` | the connection ends, or an answer is missing |
//!
//! One request at most waits for its reply, and nothing is sent meanwhile. With `REPLY_ACK` every request
//! has one, so that the first that fails is known by name.
//!
//! Not used: what is in flight when a back-end goes is lost, as frames may be, and its rings begin anew; so
//! there is no `INFLIGHT_SHMFD`. A new connection is a new device; so there is no `RESET_DEVICE`.
//!
//! Invariants: what is held is bounded by the number of rings. After [`Event::Failed`] nothing follows.

mod error;
mod replies;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use error::FrontEndError;

use super::{Header, MemoryRegion, Request, VringAddr, encode};
use crate::spec::vhost_user::{
    BACKEND_CONFIG_CHANGE, F_PROTOCOL_FEATURES, HEADER_LEN, VRING_INDEX_MASK, flags, protocol,
};
use crate::spec::virtio::status;

/// Protocol features that are used here.
const OURS: u64 = protocol::MQ
    | protocol::REPLY_ACK
    | protocol::BACKEND_REQ
    | protocol::CONFIG
    | protocol::STATUS;
/// Config space is read again no sooner after it was read, however often it is said to have changed.
const CONFIG_PERIOD: Duration = Duration::from_millis(100);
/// How often the device is looked at while it runs: back-ends log each request.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Pairs that can be named: an index has eight bits.
const MOST_PAIRS: u16 = 128;
/// The base of a packed ring that begins: both indices 0, both wrap counters 1.
const PACKED_BASE: u32 = 0x8000_8000;

/// What a front-end is to reach.
#[derive(Clone, Copy, Debug)]
pub struct FrontEndConfig {
    /// Feature bits that we are ready to accept; `VERSION_1` is needed.
    pub wanted: u64,
    /// Those of them that are nothing without config space.
    pub by_config: u64,
    /// Takes out bits whose dependencies are not met (virtio 1.4 §2.2, §5.1.3.1).
    pub clean: fn(u64) -> u64,
    /// How much of config space is read, in bytes.
    pub config_len: u16,
    /// Most queue pairs that are set up, at least 1.
    pub pairs: u16,
    /// How long a reply is waited for.
    pub reply_timeout: Duration,
}

/// Where a ring's areas are, in the region's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its size.
    pub size: u16,
    /// Its areas.
    pub addr: VringAddr,
    /// It is a packed one.
    pub packed: bool,
}

/// A descriptor that goes with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// The file of the memory region.
    Memory,
    /// What we ring for this ring. It has been rung once: that starts the ring.
    Kick(u16),
    /// What the back-end rings for it.
    Call(u16),
    /// The socket of the back-end's own requests.
    BackendRequests,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its octets.
    pub octets: Vec<u8>,
    /// What goes with it.
    pub fd: Option<Descriptor>,
}

/// What the owner learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Features are settled; answer with [`FrontEnd::set_queues`].
    QueuesNeeded {
        /// Most queue pairs.
        pairs: u16,
        /// The features in use, without vhost-user's own.
        features: u64,
        /// The start of config space; empty if it cannot be read.
        config: Vec<u8>,
    },
    /// The back-end has taken all: the rings are live.
    Running,
    /// Config space has changed.
    ConfigChanged {
        /// Its start.
        config: Vec<u8>,
    },
    /// The connection is of no more use.
    Failed(FrontEndError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Learning,
    Features,
    Queues,
    Rings,
    Running,
    Failed,
}

/// A request whose reply is waited for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    request: u32,
    /// It would have no reply, had it not asked for one.
    ack: bool,
    until: Instant,
}

/// The front-end's end of a connection; see the module's head for how to drive it.
#[derive(Debug)]
pub struct FrontEnd {
    config: FrontEndConfig,
    step: Step,
    outbox: VecDeque<Request>,
    awaited: Option<Awaited>,
    offered: u64,
    protocol: u64,
    pairs: u16,
    features: u64,
    /// The start of config space, once it was read.
    space: Vec<u8>,
    /// The back-end has said that it has changed since.
    stale: bool,
    /// When it may be read again.
    next_reading: Instant,
    /// When the device is looked at again.
    next_look: Instant,
    backend_reply: Option<Vec<u8>>,
    events: VecDeque<Event>,
}

impl FrontEnd {
    /// Begins a connection.
    pub fn new(now: Instant, config: FrontEndConfig) -> Self {
        Self {
            config,
            step: Step::Learning,
            outbox: VecDeque::from([Request::GetFeatures]),
            awaited: None,
            offered: 0,
            protocol: 0,
            pairs: 1,
            features: 0,
            space: Vec::new(),
            stale: false,
            next_reading: now,
            next_look: now,
            backend_reply: None,
            events: VecDeque::new(),
        }
    }

    /// A message came, with so many descriptors, which are to be closed.
    pub fn handle_message(
        &mut self,
        now: Instant,
        header: [u8; HEADER_LEN],
        payload: &[u8],
        fds: usize,
    ) {
        if self.step == Step::Failed {
            return;
        }
        if let Err(error) = self.take_reply(now, header, payload, fds) {
            self.fail(error);
        }
    }

    /// The back-end has sent a request of its own, with so many descriptors, which are to be closed.
    pub fn handle_backend_request(&mut self, header: [u8; HEADER_LEN], payload: &[u8], fds: usize) {
        if self.step == Step::Failed {
            return;
        }
        let header = match Header::parse(header, false) {
            Ok(header) => header,
            Err(fault) => return self.fail(fault.into()),
        };
        // Others belong to what was not offered.
        let done = header.request == BACKEND_CONFIG_CHANGE && payload.is_empty() && fds == 0;
        self.stale |= done && self.has(protocol::CONFIG);
        if header.needs_reply() {
            let octets = encode(header.request, flags::REPLY, &u64::from(!done).to_le_bytes());
            self.backend_reply = Some(octets);
        }
    }

    /// The time of [`FrontEnd::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(awaited) = self.awaited.filter(|awaited| awaited.until <= now) {
            let after = self.config.reply_timeout;
            self.fail(FrontEndError::Timeout { request: awaited.request, after });
        }
    }

    /// Gives the memory, in which the back-end is to find addresses and rings: two of each pair, as
    /// [`Event::QueuesNeeded`] allows.
    pub fn set_queues(&mut self, region: MemoryRegion, rings: &[Ring]) {
        if self.step != Step::Queues {
            return;
        }
        self.step = Step::Rings;
        self.outbox.push_back(Request::SetMemTable(vec![region]));
        let rings = || (0..).zip(rings.iter().take(usize::from(2 * self.pairs)));
        for (index, ring) in rings() {
            let base = if ring.packed { PACKED_BASE } else { 0 };
            self.outbox.extend([
                Request::SetVringNum { index, num: ring.size.into() },
                Request::SetVringBase { index, base },
                Request::SetVringAddr { index, flags: 0, addr: ring.addr },
                Request::SetVringCall { index, fd: true },
                Request::SetVringKick { index, fd: true },
            ]);
        }
        // Without protocol features a ring is enabled from its start.
        if self.offered >> F_PROTOCOL_FEATURES & 1 == 1 {
            let enable = rings().map(|(index, _)| Request::SetVringEnable { index, enable: 1 });
            self.outbox.extend(enable);
        }
        if self.has(protocol::STATUS) {
            let driver_ok = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
            self.outbox.push_back(Request::SetStatus((driver_ok | status::DRIVER_OK).into()));
        }
        // What has no reply by itself was done once what comes after it is answered.
        self.outbox.push_back(self.look());
    }

    /// The next message to send.
    pub fn poll_message(&mut self, now: Instant) -> Option<Message> {
        if self.awaited.is_some() {
            return None;
        }
        if self.step == Step::Running && self.outbox.is_empty() {
            self.ask_again(now);
        }
        let request = self.outbox.pop_front()?;
        let number = request.number();
        // Whether there are such replies is what this one settles.
        let early = matches!(request, Request::SetProtocolFeatures(_));
        let ack = self.has(protocol::REPLY_ACK) && !request.has_reply() && !early;
        if ack || request.has_reply() {
            let until = now + self.config.reply_timeout;
            self.awaited = Some(Awaited { request: number, ack, until });
        }
        Some(Message { octets: request.encode(ack), fd: descriptor(&request) })
    }

    /// What is to be sent on the socket of the back-end's requests. Only the reply to the last one is kept.
    pub fn poll_backend_reply(&mut self) -> Option<Vec<u8>> {
        self.backend_reply.take()
    }

    /// The next thing to learn.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`FrontEnd::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if let Some(awaited) = self.awaited {
            return Some(awaited.until);
        }
        let reading = Some(self.next_reading).filter(|_| self.stale);
        (self.step == Step::Running)
            .then(|| reading.map_or(self.next_look, |at| at.min(self.next_look)))
    }

    fn has(&self, protocol: u64) -> bool {
        self.protocol & protocol != 0
    }

    /// Asks for what may have changed since.
    fn ask_again(&mut self, now: Instant) {
        if self.stale && now >= self.next_reading {
            self.stale = false;
            self.next_reading = now + CONFIG_PERIOD;
            self.outbox.push_back(self.get_config());
            // A device that needs a reset says so by this, too (virtio 1.4 §2.1.2).
            self.next_look = now;
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_PERIOD;
            self.outbox.push_back(self.look());
        }
    }

    /// What shows whether the device runs, or at least that somebody is there.
    fn look(&self) -> Request {
        if self.has(protocol::STATUS) { Request::GetStatus } else { Request::GetFeatures }
    }

    fn get_config(&self) -> Request {
        let data = vec![0; self.config.config_len.into()];
        Request::GetConfig { offset: 0, flags: 0, data }
    }

    fn fail(&mut self, error: FrontEndError) {
        self.step = Step::Failed;
        self.outbox.clear();
        self.awaited = None;
        self.stale = false;
        self.events.push_back(Event::Failed(error));
    }
}

/// What goes with a request.
fn descriptor(request: &Request) -> Option<Descriptor> {
    let ring = |index: u32| u16::try_from(u64::from(index) & VRING_INDEX_MASK).unwrap_or(0);
    match request {
        Request::SetMemTable(_) => Some(Descriptor::Memory),
        Request::SetVringKick { index, .. } => Some(Descriptor::Kick(ring(*index))),
        Request::SetVringCall { index, .. } => Some(Descriptor::Call(ring(*index))),
        Request::SetBackendReqFd => Some(Descriptor::BackendRequests),
        _ => None,
    }
}
