//! A device end that does what the test says, and the wire to it.

use std::time::{Duration, Instant};

use super::super::{DriverConfig, DriverTunnel, Event, Hello, QueueSetup};
use crate::spec::{msg, net, virtio, window};
use crate::tunnel::message::{Blocks, Body, Dialect, Message, VqueueState, decode, encode};

pub(super) const BOTH: [Dialect; 2] = [Dialect::V1, Dialect::V2];
pub(super) const VERSION_1: u128 = 1 << virtio::F_VERSION_1;
pub(super) const MAC: u128 = 1 << net::F_MAC;

pub(super) fn hello(epoch: u32) -> Hello {
    Hello {
        revision: msg::REVISION,
        max_len: msg::MAX_LEN as u32,
        epoch,
        layout: window::LAYOUT_VERSION,
        version: "1.0".into(),
        ..Hello::default()
    }
}

/// What the status shows while a reset goes on.
const RESETTING: u32 = 0x1000;

/// The device: a field for each thing that a test bends.
pub(super) struct Board {
    pub(super) dialect: Dialect,
    pub(super) hello: Hello,
    pub(super) device_id: u32,
    pub(super) offered: Vec<u32>,
    pub(super) accepted: Vec<u32>,
    pub(super) status: u32,
    /// Status bits that it never takes.
    pub(super) refused: u32,
    /// Looks at the status that a reset takes.
    pub(super) reset_looks: u32,
    pub(super) resetting: u32,
    pub(super) config: Vec<u8>,
    pub(super) generation: u32,
    /// Readings of the config space before which it changes.
    pub(super) changes: u32,
    pub(super) queues: Vec<VqueueState>,
    /// `flags` of its queues after a reset.
    pub(super) flags_after_reset: u32,
    /// `size` of its queues after a reset.
    pub(super) default_size: u32,
    /// Whether it takes SET_VQUEUE.
    pub(super) takes_queues: bool,
    pub(super) max_virtqueues: u32,
}

impl Board {
    /// One that speaks v2.
    pub(super) fn new() -> Self {
        Self::of(Dialect::V2)
    }

    pub(super) fn of(dialect: Dialect) -> Self {
        let queue = |index| VqueueState { index, max_size: 256, ..VqueueState::default() };
        Self {
            dialect,
            hello: hello(0xB0A4_D001),
            device_id: virtio::DEVICE_ID_NET,
            offered: vec![1 << net::F_MAC, 1, 0, 0],
            accepted: Vec::new(),
            status: 0,
            refused: 0,
            reset_looks: 0,
            resetting: 0,
            config: (0..12).collect(),
            generation: 1,
            changes: 0,
            queues: vec![queue(0), queue(1)],
            flags_after_reset: 0,
            default_size: 0,
            takes_queues: true,
            max_virtqueues: 2,
        }
    }

    pub(super) fn answer(&mut self, request: &Message) -> Option<Message> {
        let body = self.answer_body(&request.body)?;
        Some(Message { body, ..*request })
    }

    fn answer_body(&mut self, request: &Body) -> Option<Body> {
        Some(match request {
            Body::Hello(_) => Body::HelloBack(self.hello.clone()),
            Body::Ping { data } => Body::Pong { data: *data },
            Body::GetDeviceInfo => Body::DeviceInfo {
                device_id: self.device_id,
                vendor_id: 0,
                uuid: [0; 16],
                num_feature_blocks: self.offered.len() as u32,
                config_size: self.config.len() as u32,
                max_virtqueues: self.max_virtqueues,
                admin_vq_start: 0,
                admin_vq_count: 0,
            },
            Body::GetDeviceFeatures { index, count } => {
                let blocks = self.offered.iter().skip(*index as usize).take(*count as usize);
                Body::DeviceFeatures(Blocks { index: *index, blocks: blocks.copied().collect() })
            }
            Body::SetDriverFeatures(blocks) => {
                self.accepted.clone_from(&blocks.blocks);
                Body::DriverFeaturesSet
            }
            Body::GetConfig { offset, length } => self.config_piece(*offset, *length)?,
            Body::GetDeviceStatus => {
                if self.resetting > 0 {
                    self.resetting -= 1;
                    self.status = if self.resetting == 0 { 0 } else { RESETTING };
                }
                Body::DeviceStatus { status: self.status }
            }
            Body::SetDeviceStatus { status } => self.set_status(*status),
            Body::GetVqueue { index } => {
                let none = VqueueState { index: *index, ..VqueueState::default() };
                Body::Vqueue(self.queues.get(*index as usize).copied().unwrap_or(none))
            }
            Body::SetVqueue { index, size, desc, driver, device, .. } => {
                if let Some(q) = self.queues.get_mut(*index as usize).filter(|_| self.takes_queues)
                {
                    (q.size, q.flags) = (*size, msg::VQ_ENABLED);
                    (q.desc, q.driver, q.device) = (*desc, *driver, *device);
                }
                Body::VqueueSet
            }
            _ => return None,
        })
    }

    fn config_piece(&mut self, offset: u32, length: u32) -> Option<Body> {
        if offset > 0 && self.changes > 0 {
            self.changes -= 1;
            self.generation += 1;
            self.config[0] ^= 0xFF;
        }
        let at = offset as usize;
        let data = self.config.get(at..at + length as usize)?.to_vec();
        Some(Body::Config { generation: self.generation, offset, data })
    }

    fn set_status(&mut self, status: u32) -> Body {
        self.status = status & !self.refused;
        if status == 0 {
            self.resetting = self.reset_looks;
            self.status = if self.reset_looks > 0 { RESETTING } else { 0 };
            for q in &mut self.queues {
                let (index, max_size, flags) = (q.index, q.max_size, self.flags_after_reset);
                // In v1 the address says that it is enabled.
                let desc = u64::from(flags) << 12;
                let size = self.default_size;
                *q = VqueueState { index, max_size, size, flags, desc, ..VqueueState::default() };
            }
        }
        Body::DeviceStatusSet { status: self.status }
    }
}

/// What the wire does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Deliver,
    LoseRequest,
    LoseAnswer,
    Twice,
}

/// A driver, a board, and a clock that jumps to the next timeout.
pub(super) struct Bench {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) driver: DriverTunnel,
    pub(super) board: Board,
    /// What the board was asked, in order.
    pub(super) requests: Vec<Message>,
    pub(super) events: Vec<Event>,
}

impl Bench {
    /// With a driver that is told what the board speaks.
    pub(super) fn new(board: Board) -> Self {
        let config = DriverConfig { dialect: board.dialect, ..config() };
        Self::with(board, config)
    }

    pub(super) fn with(board: Board, config: DriverConfig) -> Self {
        let now = Instant::now();
        let driver = DriverTunnel::new(now, config);
        Self { now, start: now, driver, board, requests: Vec::new(), events: Vec::new() }
    }

    pub(super) fn poll(&mut self) -> Option<Message> {
        let mut octets = [0; msg::MAX_LEN];
        let len = self.driver.poll_message(&mut octets)?;
        Some(decode(self.driver.config.dialect, &octets[..len]).unwrap())
    }

    pub(super) fn deliver(&mut self, message: &Message) {
        let mut octets = [0; msg::MAX_LEN];
        let len = encode(self.board.dialect, message, &mut octets);
        self.driver.handle_message(self.now, &octets[..len]);
        self.drain_events();
    }

    pub(super) fn deliver_body(&mut self, body: Body) {
        self.deliver(&Message { dev_num: 0, token: 0, body });
    }

    /// Takes events, and gives queues when they are asked for.
    pub(super) fn drain_events(&mut self) {
        while let Some(event) = self.driver.poll_event() {
            if matches!(event, Event::QueuesNeeded { .. }) {
                self.driver.set_queues(self.now, vec![queue(0), queue(1)]);
            }
            self.events.push(event);
        }
    }

    /// Lets the next message, or else the next timeout, happen; false if there is neither.
    pub(super) fn step(&mut self) -> bool {
        self.step_with(&mut |_, _| Fate::Deliver)
    }

    fn step_with(&mut self, fate: &mut impl FnMut(usize, &Message) -> Fate) -> bool {
        self.drain_events();
        if let Some(request) = self.poll() {
            let fate = fate(self.requests.len(), &request);
            self.requests.push(request.clone());
            if fate == Fate::LoseRequest {
                return true;
            }
            let times = if fate == Fate::Twice { 2 } else { 1 };
            for _ in 0..times {
                let answer = self.board.answer(&request);
                if let Some(answer) = answer.filter(|_| fate != Fate::LoseAnswer) {
                    self.deliver(&answer);
                }
            }
            return true;
        }
        let Some(at) = self.driver.poll_timeout() else { return false };
        self.now = self.now.max(at);
        self.driver.handle_timeout(self.now);
        self.drain_events();
        true
    }

    /// Goes on until nothing happens any more; the wire is perfect.
    pub(super) fn settle(&mut self) {
        self.settle_with(|_, _| Fate::Deliver);
    }

    /// Likewise, with a fate for each request by its number and content.
    pub(super) fn settle_with(&mut self, mut fate: impl FnMut(usize, &Message) -> Fate) {
        for _ in 0..1000 {
            if !self.step_with(&mut fate) {
                return;
            }
        }
        panic!("no end after 1000 steps; requests: {:?}", self.names());
    }

    pub(super) fn passed(&self) -> Duration {
        self.now - self.start
    }

    /// The requests, in a short form.
    pub(super) fn names(&self) -> Vec<String> {
        let short = |m: &Message| match &m.body {
            Body::SetDeviceStatus { status } => format!("status={status}"),
            Body::GetVqueue { index } => format!("look {index}"),
            Body::SetVqueue { index, .. } => format!("set {index}"),
            Body::EventAvail { index, .. } => format!("available {index}"),
            body => super::super::exchange::name(body).to_string(),
        };
        self.requests.iter().map(short).collect()
    }

    pub(super) fn failure(&self) -> String {
        match self.events.last() {
            Some(Event::Failed(error)) => error.to_string(),
            other => panic!("not failed: {other:?}"),
        }
    }
}

pub(super) fn queue(index: u16) -> QueueSetup {
    let at = 0x1_0000 * u64::from(index + 1);
    QueueSetup { index, size: 128, desc: at, driver: at + 0x1000, device: 0xF000_0000_0000 + at }
}

pub(super) fn config() -> DriverConfig {
    DriverConfig {
        dialect: Dialect::V2,
        hello: hello(0x1234_FFFE),
        greets: true,
        wanted: VERSION_1 | MAC,
        required: VERSION_1,
        clean: |bits| bits,
        pairs: 1,
        request_timeout: Duration::from_secs(1),
        attempts: 3,
    }
}

/// A bench whose session runs.
pub(super) fn running() -> Bench {
    let mut bench = Bench::new(Board::new());
    bench.settle();
    assert!(bench.driver.is_running(), "{:?}", bench.events);
    bench.events.clear();
    bench.requests.clear();
    bench
}
