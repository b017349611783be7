//! The device side of the tunnel, as a value without I/O.
//!
//! Theory of operation. The link gives [`DeviceTunnel::handle_message`] every message that the driver
//! end has put into our mailbox, in order, as long as [`DeviceTunnel::ready`]; while it is not, the
//! message stays where it is, and the driver end feels it. After each it drains
//! [`DeviceTunnel::poll_event`] and [`DeviceTunnel::poll_message`]. The device itself is whatever
//! implements [`Device`]; it knows no messages, and the tunnel knows no device.
//!
//! Invariants:
//!
//! * every well-formed request for our device gets exactly one answer, with its token, in the order of
//!   the requests; what is malformed or not ours is counted and discarded, as the standard wants;
//! * nothing grows: answers and events have a bound, a changed config is one notice that the next
//!   change overwrites, and a PING replaces the one before;
//! * this bus has one device, number 0;
//! * the dialect is configured, never guessed: a driver's requests do not tell it;
//! * config generations in v2 follow the baseline profile: a `SET_CONFIG` is never refused for its
//!   generation. In v1 one whose generation is not the present one is refused.
//!
//! In v2 a reset need not be over when it is answered: the answer, and `GET_DEVICE_STATUS` after it, report
//! the status that the device has, which is 0 only once nothing of the old rings is in use any more. The
//! answer to `RESET_VQUEUE` says that the queue is at rest, so it waits for that, and so does what follows.
//! Drivers of v1 are known to ask once for a reset, and to send `RESET_VQUEUE` and take the rings' memory
//! away whatever was negotiated and answered; there the answer to a reset waits too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::{self, Blocks, Body, DecodeError, Dialect, Hello, MAX_EVENT_DATA, Message};
use super::model::{Device, QueueError};
use crate::spec::msg;
use crate::spec::virtio::status;

mod hello;
mod queue;

pub use hello::HelloRefused;
use queue::{set_vqueue, vqueue};

/// The number of the one device on our bus.
pub const DEVICE_NUMBER: u16 = 0;
/// Most answers that wait for room in the driver end's mailbox.
const MAX_ANSWERS: usize = 16;
/// Most events that wait for the link.
const MAX_EVENTS: usize = 16;

/// What the link learns from the driver end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver end has said what it is, and the two fit.
    PeerHello(Hello),
    /// The driver end has said what it is, and the two do not fit; its requests are discarded.
    HelloRefused(Box<HelloRefused>),
    /// An available buffer notification for this queue.
    QueueNotified(u16),
    /// The driver tried to set a queue up in a way that the device does not take; it was told nothing,
    /// as the standard wants, and finds out by reading the queue back.
    QueueRefused {
        /// The queue's index as the driver gave it.
        index: u32,
        /// What was wrong.
        error: QueueError,
    },
    /// Our PING was answered.
    Pong {
        /// The time between sending and answer.
        after: Duration,
    },
    /// The driver end sent what is no message; it was discarded.
    Malformed(DecodeError),
}

/// What went by, since the tunnel was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were answered.
    pub answered: u64,
    /// Available buffer notifications.
    pub notified: u64,
    /// Octets that are no message.
    pub malformed: u64,
    /// Messages that a driver end has no reason to send: answers to nothing, a device's events.
    pub unexpected: u64,
    /// Requests and events for a device that is not on this bus.
    pub other_device: u64,
    /// Transport messages discarded because the driver end's HELLO was refused.
    pub refused: u64,
    /// Requests whose answer would be longer than the driver end takes.
    pub unanswerable: u64,
    /// Messages given to a tunnel that was not ready, and lost.
    pub lost: u64,
    /// `SET_VQUEUE` requests that changed nothing because they were wrong.
    pub queues_refused: u64,
}

/// A notice of a changed config space or status that has not been sent yet.
#[derive(Debug)]
struct Notice {
    status: u32,
    generation: u32,
    data: Vec<u8>,
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Device,
    Queue(u32),
}

impl Rest {
    /// The answer, if nothing of it is in use any more.
    fn answer(self, device: &impl Device) -> Option<Body> {
        match self {
            Self::Device => (device.status() == 0).then_some(Body::DeviceStatusSet { status: 0 }),
            Self::Queue(index) => (!device.queue(index).enabled).then_some(Body::VqueueReset),
        }
    }
}

/// A PING that has not been answered yet.
#[derive(Clone, Copy, Debug)]
struct Ping {
    data: u32,
    at: Instant,
    sent: bool,
}

/// The device side of the tunnel.
#[derive(Debug)]
pub struct DeviceTunnel {
    dialect: Dialect,
    ours: Hello,
    /// The driver end's HELLO was refused.
    refused: bool,
    /// Greatest message in bytes that the driver end takes.
    limit: usize,
    /// The token of a request whose answer waits. Nothing else is taken till then, so that the order stays.
    waiting: Option<(u16, Rest)>,
    answers: VecDeque<Message>,
    events: VecDeque<Event>,
    /// Queues that have used buffers, which the driver is to be told; each once.
    used: VecDeque<u16>,
    notice: Option<Notice>,
    ping: Option<Ping>,
    pings: u32,
    counters: Counters,
}

impl DeviceTunnel {
    /// A tunnel at rest for drivers that speak `dialect`. `ours` is what the driver end is told when it
    /// says HELLO; until then it takes no longer messages than we do.
    pub fn new(dialect: Dialect, ours: Hello) -> Self {
        Self {
            dialect,
            refused: false,
            limit: hello::limit(dialect, &ours),
            ours,
            waiting: None,
            answers: VecDeque::with_capacity(MAX_ANSWERS),
            events: VecDeque::with_capacity(MAX_EVENTS),
            used: VecDeque::new(),
            notice: None,
            ping: None,
            pings: 0,
            counters: Counters::default(),
        }
    }

    /// Whether there is room for another message's answer and event, and no answer waits for the device.
    pub fn ready(&self) -> bool {
        self.waiting.is_none() && self.answers.len() < MAX_ANSWERS && self.events.len() < MAX_EVENTS
    }

    /// What went by so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes one message, as it lies in its slot. Call it only while [`DeviceTunnel::ready`].
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8], device: &mut impl Device) {
        if !self.ready() {
            self.counters.lost += 1;
            return;
        }
        let Message { dev_num, token, body } = match message::decode(self.dialect, bytes) {
            Ok(message) => message,
            Err(error) => {
                self.counters.malformed += 1;
                self.events.push_back(Event::Malformed(error));
                return;
            }
        };
        if dev_num != DEVICE_NUMBER {
            self.counters.other_device += 1;
            return;
        }
        let body = match self.handle_bus(now, body) {
            Handled::Answer(body) => Some(body),
            Handled::Done => None,
            Handled::Transport(_) if self.refused => {
                self.counters.refused += 1;
                None
            }
            Handled::Transport(body) => self.handle_transport(token, body, device),
        };
        if let Some(body) = body {
            self.answer(Message { dev_num, token, body });
        }
    }

    /// Tells the driver that config space has changed; its newest contents go along if they fit.
    pub fn notify_config_changed(&mut self, device: &impl Device) {
        let len = usize::try_from(device.info().config_size).unwrap_or(usize::MAX);
        let room = MAX_EVENT_DATA.min(self.limit.saturating_sub(msg::MAX_LEN - MAX_EVENT_DATA));
        let mut data = vec![0; if len <= room { len } else { 0 }];
        device.read_config(0, &mut data);
        self.notify(device, data);
    }

    /// Tells the driver that the device has changed its status by itself.
    pub fn notify_status_changed(&mut self, device: &impl Device) {
        let data = self.notice.take().map(|notice| notice.data).unwrap_or_default();
        self.notify(device, data);
    }

    /// Tells the driver that a queue has used buffers, on a bus whose notifications are messages.
    pub fn notify_used(&mut self, queue: u16, device: &impl Device) {
        let runs = device.status() & status::DRIVER_OK != 0;
        let there = u32::from(queue) < device.info().max_virtqueues;
        if runs && there && !self.used.contains(&queue) {
            self.used.push_back(queue);
        }
    }

    /// The device has stopped using rings: answers what has waited for that. To be called after each time.
    pub fn notify_at_rest(&mut self, device: &impl Device) {
        let Some((token, rest)) = self.waiting else { return };
        if let Some(body) = rest.answer(device) {
            self.waiting = None;
            if matches!(rest, Rest::Device) {
                self.notice = None;
            }
            self.answer(Message { dev_num: DEVICE_NUMBER, token, body });
        }
    }

    /// Asks the driver end whether it is alive; [`Event::Pong`] is the answer.
    pub fn ping(&mut self, now: Instant) {
        self.pings = self.pings.wrapping_add(1);
        self.ping = Some(Ping { data: self.pings, at: now, sent: false });
    }

    /// The next message for the driver end: its octets in `out`, its length.
    pub fn poll_message(&mut self, out: &mut [u8; msg::MAX_LEN]) -> Option<usize> {
        let message = if let Some(answer) = self.answers.pop_front() {
            answer
        } else if let Some(ping) = self.ping.as_mut().filter(|ping| !ping.sent) {
            ping.sent = true;
            let [low, high, ..] = ping.data.to_le_bytes();
            let token = u16::from_le_bytes([low, high]);
            Message { dev_num: 0, token, body: Body::Ping { data: ping.data } }
        } else if let Some(Notice { status, generation, data }) = self.notice.take() {
            // Before used buffers: of those there may be more as long as there is room for a message.
            let body = Body::EventConfig { status, generation, offset: 0, data };
            Message { dev_num: DEVICE_NUMBER, token: 0, body }
        } else {
            let body = Body::EventUsed { index: self.used.pop_front()?.into() };
            Message { dev_num: DEVICE_NUMBER, token: 0, body }
        };
        Some(message::encode(self.dialect, &message, out))
    }

    /// The next event for the link.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A driver that has not come so far reads everything anyway, so it gets no notice.
    fn notify(&mut self, device: &impl Device, data: Vec<u8>) {
        let status = device.status();
        if status & status::DRIVER != 0 {
            let generation = device.generation();
            self.notice = Some(Notice { status: u32::from(status), generation, data });
        }
    }

    fn answer(&mut self, answer: Message) {
        if self.limit < msg::MAX_LEN
            && message::encode(self.dialect, &answer, &mut [0; msg::MAX_LEN]) > self.limit
        {
            self.counters.unanswerable += 1;
            return;
        }
        self.counters.answered += 1;
        self.answers.push_back(answer);
    }

    /// Handles what is the bus's, and hands back what is the device's.
    fn handle_bus(&mut self, now: Instant, body: Body) -> Handled {
        match body {
            Body::Hello(theirs) => {
                self.handle_hello(theirs);
                Handled::Answer(Body::HelloBack(self.ours.clone()))
            }
            Body::GetDevices { offset, count } => Handled::Answer(self.devices(offset, count)),
            Body::Ping { data } => Handled::Answer(Body::Pong { data }),
            Body::Pong { data } => {
                match self.ping.take_if(|ping| ping.sent && ping.data == data) {
                    Some(ping) => {
                        let after = now.saturating_duration_since(ping.at);
                        self.events.push_back(Event::Pong { after });
                    }
                    None => self.counters.unexpected += 1,
                }
                Handled::Done
            }
            Body::HelloBack(_)
            | Body::Devices { .. }
            | Body::EventDevice { .. }
            | Body::EventLink(_) => {
                self.counters.unexpected += 1;
                Handled::Done
            }
            body => Handled::Transport(body),
        }
    }

    fn handle_hello(&mut self, theirs: Hello) {
        let checked = hello::check(&self.ours, &theirs);
        self.refused = checked.is_err();
        self.events.push_back(match checked {
            Ok(limit) => {
                self.limit = limit;
                Event::PeerHello(theirs)
            }
            Err(refused) => Event::HelloRefused(Box::new(refused)),
        });
    }

    /// The devices from `offset` on: ours, if it is among them, and an end to the search.
    fn devices(&self, offset: u16, count: u16) -> Body {
        // A multiple of 8, as v1 wants the count to be.
        let most = (self.limit - (msg::MAX_LEN - message::MAX_DEVICES / 8)) * 8;
        let count = count.min(u16::try_from(most).unwrap_or(u16::MAX));
        let mut bitmap = vec![0; usize::from(count).div_ceil(8)];
        if let (DEVICE_NUMBER, Some(first)) = (offset, bitmap.first_mut()) {
            *first = 1;
        }
        Body::Devices { offset, next_offset: 0, count, bitmap }
    }

    /// Has the device do what the driver asks.
    fn handle_transport(
        &mut self,
        token: u16,
        body: Body,
        device: &mut impl Device,
    ) -> Option<Body> {
        Some(match body {
            Body::GetDeviceInfo => self.device_info(device),
            Body::GetDeviceFeatures { index, count } => {
                let blocks = self.feature_blocks(device);
                let block = |i| match index.checked_add(i) {
                    Some(index) if index < blocks => device.features(index),
                    _ => 0,
                };
                Body::DeviceFeatures(Blocks { index, blocks: (0..count).map(block).collect() })
            }
            Body::SetDriverFeatures(Blocks { index, blocks }) => {
                for (index, bits) in (u64::from(index)..).zip(blocks) {
                    device.set_driver_features(u32::try_from(index).unwrap_or(u32::MAX), bits);
                }
                Body::DriverFeaturesSet
            }
            Body::GetConfig { offset, length } => {
                let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
                device.read_config(offset, &mut data);
                Body::Config { generation: device.generation(), offset, data }
            }
            Body::SetConfig { generation, offset, mut data } => {
                let stale = self.dialect == Dialect::V1 && generation != device.generation();
                if !data.is_empty() && (stale || !device.write_config(offset, &data)) {
                    data.clear();
                }
                Body::ConfigSet { generation: device.generation(), offset, data }
            }
            Body::GetDeviceStatus => Body::DeviceStatus { status: u32::from(device.status()) },
            Body::SetDeviceStatus { status } => {
                device.set_status(status);
                if status == 0 {
                    // What there was to tell was for the driver before the reset.
                    self.notice = None;
                    self.used.clear();
                    if self.dialect == Dialect::V1 {
                        return self.wait_for(token, Rest::Device, device);
                    }
                }
                Body::DeviceStatusSet { status: u32::from(device.status()) }
            }
            Body::GetVqueue { index } => vqueue(device, index),
            set @ Body::SetVqueue { index, .. } => {
                if let Err(error) = set_vqueue(device, &set) {
                    self.counters.queues_refused += 1;
                    self.events.push_back(Event::QueueRefused { index, error });
                }
                Body::VqueueSet
            }
            Body::ResetVqueue { index } => {
                device.reset_queue(index);
                return self.wait_for(token, Rest::Queue(index), device);
            }
            Body::GetShm { id } => Body::Shm { id, length: 0, address: 0 },
            Body::EventAvail { index, .. } => {
                match u16::try_from(index) {
                    Ok(queue) if index < device.info().max_virtqueues => {
                        self.counters.notified += 1;
                        self.events.push_back(Event::QueueNotified(queue));
                    }
                    _ => self.counters.unexpected += 1,
                }
                return None;
            }
            _ => {
                self.counters.unexpected += 1;
                return None;
            }
        })
    }

    /// The answer, if the device is so far; otherwise it waits.
    fn wait_for(&mut self, token: u16, rest: Rest, device: &impl Device) -> Option<Body> {
        let answer = rest.answer(device);
        if answer.is_none() {
            self.waiting = Some((token, rest));
        }
        answer
    }

    /// How many blocks of feature bits the driver is told of.
    fn feature_blocks(&self, device: &impl Device) -> u32 {
        match self.dialect {
            Dialect::V1 => msg::V1_FEATURE_BITS / 32,
            Dialect::V2 => device.info().num_feature_blocks,
        }
    }

    fn device_info(&self, device: &impl Device) -> Body {
        let info = device.info();
        Body::DeviceInfo {
            device_id: info.device_id,
            vendor_id: info.vendor_id,
            uuid: [0; 16],
            num_feature_blocks: self.feature_blocks(device),
            config_size: info.config_size,
            max_virtqueues: info.max_virtqueues,
            admin_vq_start: 0,
            admin_vq_count: 0,
        }
    }
}

/// What came of a message at the bus.
enum Handled {
    Answer(Body),
    Done,
    Transport(Body),
}

#[cfg(test)]
mod tests;
