//! The driver end of the tunnel: virtio's initialisation over messages (virtio 1.4 §3.1.1).
//!
//! A value without I/O. Inputs are `handle_message` and `handle_timeout`, and what the owner asks for
//! (`set_queues`, `notify_available`, `ping`, `reset`, `restart`). After any input, drain `poll_event`,
//! then `poll_message` while the outbox has room, then wait until `poll_timeout`.
//!
//! A session goes through these steps, one request outstanding at a time:
//!
//! | step | requests | goes on when |
//! |---|---|---|
//! | HELLO | HELLO, where the other end knows it | layout and revision are ours |
//! | identify | `GET_DEVICE_INFO` | it is a network device with 64 feature bits or more and enough queues |
//! | reset | status 0, then `GET_DEVICE_STATUS` every 10 ms | the status is 0; up to 3 s |
//! | status | ACKNOWLEDGE, then DRIVER | the device has taken each |
//! | features | `GET_DEVICE_FEATURES`, `SET_DRIVER_FEATURES`, FEATURES_OK | FEATURES_OK stands in the answer |
//! | configuration | `GET_CONFIG`, `GET_VQUEUE` of each queue | all is read, each queue exists and is disabled |
//! | queues | `SET_VQUEUE` and `GET_VQUEUE` of each | the owner gave the queues, the device confirms them |
//! | running | DRIVER_OK; later PING, `GET_DEVICE_STATUS`, `GET_CONFIG` | until a failure, `reset` or `restart` |
//!
//! The dialect is the owner's to know. A device that answers `GET_DEVICE_INFO` in the other one is recognised,
//! before it is touched, and the session fails by saying so.
//!
//! Invariants: what is held is bounded by the number of queues and a few messages, whatever arrives.
//! A message that nothing waits for is counted and changes nothing. After [`Event::Failed`] or
//! [`Event::Stopped`] no event follows; one message may, which sets FAILED, until `restart`.

mod bringup;
mod config_space;
mod error;
mod exchange;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::spec::{msg, virtio};

use super::message::{self, Body, Dialect, Message};
use bringup::Step;
use config_space::Reading;
use exchange::{Exchange, Overdue};

pub use super::message::Hello;
pub use error::DriverError;

/// The device's number: the window holds one device.
const DEVICE: u16 = 0;
/// Answers to the other end's bus requests that wait at most.
const MAX_REPLIES: usize = 4;

/// What a session is to reach.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// What the device speaks.
    pub dialect: Dialect,
    /// What we say about ourselves.
    pub hello: Hello,
    /// The other end knows our private messages, so HELLO comes first. If not, the bus has found the device
    /// by itself, looks after who lives, and `hello` has what the other end is not asked for.
    pub greets: bool,
    /// Feature bits that we are ready to accept.
    pub wanted: u128,
    /// Feature bits without which the session fails; `VIRTIO_F_VERSION_1` always is one.
    pub required: u128,
    /// Takes out bits whose dependencies are not met (virtio 1.4 §2.2, §5.1.3.1).
    pub clean: fn(u128) -> u128,
    /// Most queue pairs that are set up, at least 1; the control queue follows them where there is one.
    pub pairs: u16,
    /// How long each attempt of a request is waited for.
    pub request_timeout: Duration,
    /// Attempts of a request.
    pub attempts: u8,
}

/// Where a queue's areas are, as bus addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    /// The queue's index.
    pub index: u16,
    /// Its size, a power of two not above its greatest size.
    pub size: u16,
    /// Its descriptor area.
    pub desc: u64,
    /// Its driver area: the available ring.
    pub driver: u64,
    /// Its device area: the used ring.
    pub device: u64,
}

/// What the owner learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The other end said what it is; it fits.
    Hello(Hello),
    /// Features are settled; answer with [`DriverTunnel::set_queues`].
    QueuesNeeded {
        /// The queues that can be set up, by index, and the greatest size of each, a power of two: two of
        /// each pair, then the control queue, if it is negotiated.
        queues: Vec<(u16, u16)>,
        /// The features in use.
        features: u128,
        /// The config space, up to 1024 bytes of it; it may be shorter than a type's layout.
        config: Vec<u8>,
    },
    /// The device has taken DRIVER_OK: the queues are live.
    Running {
        /// The features in use.
        features: u128,
        /// The config space.
        config: Vec<u8>,
    },
    /// The config space has changed since it was last told.
    ConfigChanged {
        /// The config space, whole.
        config: Vec<u8>,
    },
    /// A used buffer notification for a queue that is set up.
    UsedNotified(u16),
    /// The session is over. The device may still write to the queues.
    Failed(DriverError),
    /// The device has confirmed [`DriverTunnel::reset`], or had not been touched: the queues are ours.
    Stopped,
}

/// What happened, counted since the value was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// Messages given out.
    pub sent: u64,
    /// Messages taken in, of any kind.
    pub received: u64,
    /// Among them: octets that are no message.
    pub malformed: u64,
    /// Among them: well-formed, but nothing waited for them (late, doubled, wrong token, out of place).
    pub unexpected: u64,
    /// Second and later attempts of requests.
    pub retries: u64,
    /// Answers to bus requests left out because too many waited.
    pub replies_dropped: u64,
}

/// What belongs to one session; a new session begins with a new one.
#[derive(Debug, Default)]
struct Session {
    step: Step,
    /// The other end's epoch, once HELLO is answered.
    peer_epoch: Option<u32>,
    /// Greatest message that both ends take.
    max_len: u32,
    config_len: u32,
    feature_blocks: u32,
    features: u128,
    /// The status that the device has taken from us since its reset.
    status: u32,
    /// How many queues the device has.
    max_virtqueues: u32,
    /// The queues to be set up, by index, and the greatest size of each that has been looked at.
    wanted: Vec<u16>,
    queues: Vec<(u16, u16)>,
    setups: Vec<QueueSetup>,
    /// The config space, once it is read.
    config: Option<Vec<u8>>,
    /// A reading of it that is in progress.
    reading: Option<Reading>,
    /// It has changed since, or during, the last reading.
    config_stale: bool,
    ping_wanted: bool,
    replies: VecDeque<Message>,
    available: VecDeque<u16>,
    /// The FAILED status, to be sent once.
    last_word: Option<Message>,
    events: VecDeque<Event>,
}

/// The driver end; see the module's head for how to drive it.
#[derive(Debug)]
pub struct DriverTunnel {
    config: DriverConfig,
    exchange: Exchange,
    session: Session,
    last_heard: Option<Instant>,
    /// Of the last keepalive that was answered, until it is taken.
    round_trip: Option<Duration>,
    counters: DriverCounters,
}

impl DriverTunnel {
    /// Begins the first session.
    pub fn new(now: Instant, config: DriverConfig) -> Self {
        // Tokens start where the epoch says, so that an earlier program's late answers do not fit.
        let [low, high, ..] = config.hello.epoch.to_le_bytes();
        let token = u16::from_le_bytes([low, high]);
        let exchange = Exchange::new(config.request_timeout, config.attempts, token);
        let (session, counters) = (Session::default(), DriverCounters::default());
        let (last_heard, round_trip) = (None, None);
        let mut tunnel = Self { config, exchange, session, last_heard, round_trip, counters };
        tunnel.restart(now);
        tunnel
    }

    /// Begins a new session from HELLO on, whatever the state; undrained output is lost.
    pub fn restart(&mut self, now: Instant) {
        self.session = Session::default();
        if self.config.greets {
            self.exchange.begin(now, Body::Hello(self.config.hello.clone()));
        } else {
            self.identify(now, self.config.hello.max_len);
        }
    }

    /// Takes one message of the other end, as octets.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) {
        self.counters.received += 1;
        let ours = self.config.dialect;
        match message::decode(ours, bytes) {
            Ok(message) => self.handle(now, message),
            Err(_) if self.is_identified_as(ours.other(), bytes) => {
                self.fail(DriverError::Dialect { ours, theirs: ours.other() });
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// Whether octets that are no message of our dialect answer our `GET_DEVICE_INFO` in `dialect`.
    fn is_identified_as(&mut self, dialect: Dialect, bytes: &[u8]) -> bool {
        message::decode(dialect, bytes).is_ok_and(|answer| {
            matches!(answer.body, Body::DeviceInfo { .. })
                && self.exchange.take_answer(&answer).is_some()
        })
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.exchange.handle_timeout(now) {
            Overdue::No => self.poll_reset(now),
            Overdue::Repeated => self.counters.retries += 1,
            Overdue::GivenUp(error) => self.fail(error),
        }
    }

    /// The next message to send, as the number of octets in `out`.
    pub fn poll_message(&mut self, out: &mut [u8; msg::MAX_LEN]) -> Option<usize> {
        let message = self.next_message()?;
        self.counters.sent += 1;
        Some(message::encode(self.config.dialect, &message, out))
    }

    /// The next thing to tell the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.session.events.pop_front()
    }

    /// When [`DriverTunnel::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.exchange.deadline().or(match self.session.step {
            Step::ResetPause { next, .. } => Some(next),
            _ => None,
        })
    }

    /// Answers [`Event::QueuesNeeded`]; counts for nothing at any other time.
    pub fn set_queues(&mut self, now: Instant, queues: Vec<QueueSetup>) {
        if self.session.step == Step::QueuesWanted {
            self.session.setups = queues;
            if let Err(error) = self.set_queue(now, 0) {
                self.fail(error);
            }
        }
    }

    /// Has an available buffer notification sent; counts for nothing unless running.
    pub fn notify_available(&mut self, index: u16) {
        let s = &mut self.session;
        if s.step == Step::Running
            && s.setups.iter().any(|q| q.index == index)
            && !s.available.contains(&index)
        {
            s.available.push_back(index);
        }
    }

    /// Asks the running device for a sign of life, if the bus does not, then for its status and config
    /// space: what a lost event would have told. [`DriverTunnel::last_heard`] shows the answers, and no answer fails the
    /// session. Before it runs, its requests are their own signs of life.
    pub fn ping(&mut self, now: Instant) {
        self.session.ping_wanted = true;
        self.next_job(now);
    }

    /// When the other end last answered a request.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// How long the answer to a [`ping`](Self::ping) took from when that was ready to be sent, once each.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    /// Resets the device and ends the session: [`Event::Stopped`] once it has confirmed.
    pub fn reset(&mut self, now: Instant) {
        match self.session.step {
            Step::Done => {}
            Step::Hello | Step::Identify => self.finish(Event::Stopped),
            _ => {
                self.session.available.clear();
                self.begin_reset(now, true);
            }
        }
    }

    /// Whether the queues are live.
    pub fn is_running(&self) -> bool {
        self.session.step == Step::Running
    }

    /// The queues that the owner has set up in this session.
    pub fn queues(&self) -> &[QueueSetup] {
        &self.session.setups
    }

    /// What has been counted.
    pub fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn next_message(&mut self) -> Option<Message> {
        let s = &mut self.session;
        if let Some(reply) = s.replies.pop_front() {
            return Some(reply);
        }
        if let Some(request) = self.exchange.poll() {
            return Some(request);
        }
        if let Some(index) = s.available.pop_front() {
            // `next` is 0 because NOTIFICATION_DATA is never accepted.
            let body = Body::EventAvail { index: index.into(), next: 0 };
            return Some(Message { dev_num: DEVICE, token: 0, body });
        }
        s.last_word.take()
    }

    fn handle(&mut self, now: Instant, message: Message) {
        if self.session.step == Step::Done {
            self.counters.unexpected += 1;
            return;
        }
        if let Some((request, began)) = self.exchange.take_answer(&message) {
            self.last_heard = Some(now);
            if self.session.step == Step::Running && self.is_sign_of_life(&request) {
                self.round_trip = Some(now.saturating_duration_since(began));
            }
            match self.answered(now, &request, message.body) {
                Ok(()) => self.next_job(now),
                Err(error) => self.fail(error),
            }
            return;
        }
        let token = message.token;
        match message.body {
            Body::Ping { data } => self.reply(token, Body::Pong { data }),
            Body::Hello(theirs) => self.hello_again(token, &theirs),
            Body::EventUsed { index } => self.used(index),
            Body::EventConfig { status, .. } if message.dev_num == DEVICE => {
                self.config_event(now, status);
            }
            Body::EventDevice { number: DEVICE, state: msg::DEVICE_REMOVED }
                if self.session.step != Step::Hello =>
            {
                self.fail(DriverError::Removed);
            }
            Body::EventDevice { state: msg::DEVICE_ADDED, .. } => {}
            _ => self.counters.unexpected += 1,
        }
    }

    fn reply(&mut self, token: u16, body: Body) {
        if self.session.replies.len() < MAX_REPLIES {
            self.session.replies.push_back(Message { dev_num: 0, token, body });
        } else {
            self.counters.replies_dropped += 1;
        }
    }

    /// The other end says HELLO by itself: it wants to know us, or it has begun anew.
    fn hello_again(&mut self, token: u16, theirs: &Hello) {
        self.reply(token, Body::HelloBack(self.config.hello.clone()));
        match self.session.peer_epoch {
            Some(was) if was != theirs.epoch => {
                // What the new program has heard of us is nothing: there is no device to fail.
                self.session.status = 0;
                self.fail(DriverError::Restarted { was, is: theirs.epoch });
            }
            _ => {}
        }
    }

    fn used(&mut self, index: u32) {
        let running = self.session.step == Step::Running;
        match self.session.setups.iter().find(|q| u32::from(q.index) == index) {
            Some(queue) if running => {
                let event = Event::UsedNotified(queue.index);
                if !self.session.events.contains(&event) {
                    self.session.events.push_back(event);
                }
            }
            _ => self.counters.unexpected += 1,
        }
    }

    fn config_event(&mut self, now: Instant, status: u32) {
        let s = &mut self.session;
        if s.status == 0 {
            // Said before the reset, by a device that has forgotten it since.
            self.counters.unexpected += 1;
            return;
        }
        if status & u32::from(virtio::status::DEVICE_NEEDS_RESET) != 0 {
            self.fail(DriverError::NeedsReset);
            return;
        }
        // Data in the event is not taken over: a reading gives one generation, whatever was lost or
        // overtaken. One in progress may have passed the range already, so another follows it.
        s.config_stale = true;
        self.next_job(now);
    }

    /// Tells a running owner the config space; only the latest counts.
    fn tell_config(&mut self) {
        let s = &mut self.session;
        if let (Step::Running, Some(config)) = (&s.step, &s.config) {
            s.events.retain(|event| !matches!(event, Event::ConfigChanged { .. }));
            s.events.push_back(Event::ConfigChanged { config: config.clone() });
        }
    }

    /// Whether a request is the one that a keepalive begins with.
    fn is_sign_of_life(&self, request: &Body) -> bool {
        match request {
            Body::Ping { .. } => true,
            Body::GetDeviceStatus => !self.config.greets,
            _ => false,
        }
    }

    /// In the running state, starts what waits for its turn.
    fn next_job(&mut self, now: Instant) {
        let s = &mut self.session;
        if s.step != Step::Running || !self.exchange.is_idle() {
            return;
        }
        if std::mem::take(&mut s.config_stale) && s.config_len > 0 {
            self.read_config(now);
        } else if std::mem::take(&mut s.ping_wanted) {
            if self.config.greets {
                let data = u32::from(self.exchange.fresh_token());
                self.exchange.begin(now, Body::Ping { data });
            } else {
                self.exchange.begin(now, Body::GetDeviceStatus);
            }
        }
    }

    fn fail(&mut self, error: DriverError) {
        if self.session.status != 0 {
            let status = self.session.status | u32::from(virtio::status::FAILED);
            let body = Body::SetDeviceStatus { status };
            let token = self.exchange.fresh_token();
            self.session.last_word = Some(Message { dev_num: DEVICE, token, body });
        }
        self.finish(Event::Failed(error));
    }

    fn finish(&mut self, last: Event) {
        self.exchange.cancel();
        self.session.step = Step::Done;
        self.session.available.clear();
        self.session.events.push_back(last);
    }
}
