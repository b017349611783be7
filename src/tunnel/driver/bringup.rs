//! The steps of a session: what each answer means, and what comes next (virtio 1.4 §3.1.1).

use std::time::{Duration, Instant};

use zerocopy::FromBytes;

use crate::spec::net::{self, Config};
use crate::spec::{msg, split, virtio};
use crate::tunnel::message::{Blocks, Body, MAX_DATA, VqueueState};

use super::config_space::{MAX_CONFIG, Progress, Reading};
use super::{DriverError, DriverTunnel, Event, Hello};

/// Time between two looks at the status of a device that is resetting.
const RESET_POLL: Duration = Duration::from_millis(10);
/// How long a reset may take.
const RESET_LIMIT: Duration = Duration::from_secs(3);
/// Bytes of a `GET_CONFIG` response before the data.
const CONFIG_HEADER: u32 = 20;
/// Blocks of feature bits that we look at; virtio defines no bit above 127.
const FEATURE_BLOCKS: u32 = 4;

const ACKNOWLEDGE: u32 = virtio::status::ACKNOWLEDGE as u32;
const DRIVER: u32 = ACKNOWLEDGE | virtio::status::DRIVER as u32;
const FEATURES_OK: u32 = DRIVER | virtio::status::FEATURES_OK as u32;
const DRIVER_OK: u32 = FEATURES_OK | virtio::status::DRIVER_OK as u32;

/// What the session waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// The other end's HELLO.
    #[default]
    Hello,
    /// What the device is.
    Identify,
    /// The answer to a reset, or to a look at the status after one.
    Reset { until: Instant, last: bool },
    /// The time of the next look at the status.
    ResetPause { until: Instant, last: bool, next: Instant },
    /// The device to take a status.
    Status(u32),
    /// The offered features.
    Offer,
    /// The device to have noted what we accept.
    Accept,
    /// A piece of the config space.
    Config,
    /// What the `i`th queue can be.
    Look(usize),
    /// [`DriverTunnel::set_queues`].
    QueuesWanted,
    /// The device to have noted the configuration of the `i`th queue.
    SetQueue(usize),
    /// The device's word on the configuration of the `i`th queue.
    ConfirmQueue(usize),
    /// Nothing: requests are made as needed.
    Running,
    /// Nothing, for good.
    Done,
}

impl DriverTunnel {
    /// Goes on after the answer to `request`, of whose kind it is.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        request: &Body,
        answer: Body,
    ) -> Result<(), DriverError> {
        match (self.session.step, answer) {
            (_, Body::HelloBack(theirs)) => self.hello(now, theirs),
            (
                _,
                Body::DeviceInfo {
                    device_id, num_feature_blocks, config_size, max_virtqueues, ..
                },
            ) => self.identified(now, device_id, num_feature_blocks, config_size, max_virtqueues),
            (
                Step::Reset { until, last },
                Body::DeviceStatusSet { status } | Body::DeviceStatus { status },
            ) => self.reset_answered(now, status, until, last),
            (Step::Status(wanted), Body::DeviceStatusSet { status }) => {
                self.status_taken(now, wanted, status)
            }
            (_, Body::DeviceFeatures(blocks)) => self.offer(now, &blocks),
            (_, Body::DriverFeaturesSet) => self.begin_status(now, FEATURES_OK),
            (_, Body::Config { generation, offset, data }) => {
                self.config_piece(now, generation, offset, &data)
            }
            (Step::Look(i), Body::Vqueue(queue)) => self.looked(now, i, &queue),
            (Step::SetQueue(i), Body::VqueueSet) => self.confirm_queue(now, i),
            (Step::ConfirmQueue(i), Body::Vqueue(queue)) => self.queue_confirmed(now, i, &queue),
            (_, Body::Pong { data }) => self.ping_answered(now, *request == Body::Ping { data }),
            (Step::Running, Body::DeviceStatus { status }) => self.status_seen(status),
            _ => Ok(()),
        }
    }

    fn request(&mut self, now: Instant, step: Step, body: Body) -> Result<(), DriverError> {
        self.session.step = step;
        self.exchange.begin(now, body);
        Ok(())
    }

    fn hello(&mut self, now: Instant, theirs: Hello) -> Result<(), DriverError> {
        let ours = &self.config.hello;
        if theirs.layout != ours.layout {
            return Err(DriverError::Layout {
                ours: Box::new(ours.clone()),
                theirs: Box::new(theirs),
            });
        }
        if theirs.revision != ours.revision {
            return Err(DriverError::Revision {
                ours: Box::new(ours.clone()),
                theirs: Box::new(theirs),
            });
        }
        let least = self.config.dialect.longest_fixed();
        if theirs.max_len < least {
            return Err(DriverError::ShortMessages(theirs.max_len));
        }
        let max_len = theirs.max_len.min(ours.max_len.max(least));
        self.session.peer_epoch = Some(theirs.epoch);
        self.session.events.push_back(Event::Hello(theirs));
        self.identify(now, max_len);
        Ok(())
    }

    /// Begins to ask what the device is, of an end that takes messages of so many bytes.
    pub(super) fn identify(&mut self, now: Instant, max_len: u32) {
        self.session.max_len = max_len.max(self.config.dialect.longest_fixed());
        self.session.step = Step::Identify;
        self.exchange.begin(now, Body::GetDeviceInfo);
    }

    fn identified(
        &mut self,
        now: Instant,
        device_id: u32,
        blocks: u32,
        config_size: u32,
        queues: u32,
    ) -> Result<(), DriverError> {
        if device_id != virtio::DEVICE_ID_NET {
            return Err(DriverError::NotNet(device_id));
        }
        if blocks <= u32::from(virtio::F_VERSION_1) / 32 {
            return Err(DriverError::FeatureBlocks(blocks));
        }
        self.session.max_virtqueues = queues;
        self.session.feature_blocks = blocks.min(FEATURE_BLOCKS);
        self.session.config_len = config_size.min(MAX_CONFIG);
        self.begin_reset(now, false);
        Ok(())
    }

    /// Sets the status to 0; `last` says that the session ends with it.
    pub(super) fn begin_reset(&mut self, now: Instant, last: bool) {
        self.session.status = 0;
        self.session.step = Step::Reset { until: now + RESET_LIMIT, last };
        self.exchange.begin(now, Body::SetDeviceStatus { status: 0 });
    }

    fn reset_answered(
        &mut self,
        now: Instant,
        status: u32,
        until: Instant,
        last: bool,
    ) -> Result<(), DriverError> {
        match status {
            0 if last => {
                self.finish(Event::Stopped);
                Ok(())
            }
            0 => self.begin_status(now, ACKNOWLEDGE),
            _ if now >= until => Err(DriverError::ResetStuck(status)),
            _ => {
                self.session.step = Step::ResetPause { until, last, next: now + RESET_POLL };
                Ok(())
            }
        }
    }

    /// Looks at the status of a device that is resetting, if it is time.
    pub(super) fn poll_reset(&mut self, now: Instant) {
        if let Step::ResetPause { until, last, next } = self.session.step {
            if now >= next {
                self.session.step = Step::Reset { until, last };
                self.exchange.begin(now, Body::GetDeviceStatus);
            }
        }
    }

    fn begin_status(&mut self, now: Instant, status: u32) -> Result<(), DriverError> {
        // From here on the device may have noticed us, and is told if we give it up.
        self.session.status |= ACKNOWLEDGE;
        self.request(now, Step::Status(status), Body::SetDeviceStatus { status })
    }

    fn status_taken(&mut self, now: Instant, wanted: u32, status: u32) -> Result<(), DriverError> {
        let features = self.session.features;
        check_status(wanted, status).map_err(|error| match error {
            DriverError::Status { .. } if wanted == FEATURES_OK => {
                DriverError::FeaturesRefused { features, status }
            }
            error => error,
        })?;
        self.session.status = wanted;
        match wanted {
            ACKNOWLEDGE => self.begin_status(now, DRIVER),
            DRIVER => {
                let count = self.session.feature_blocks;
                self.request(now, Step::Offer, Body::GetDeviceFeatures { index: 0, count })
            }
            FEATURES_OK if self.session.config_len == 0 => {
                self.session.config = Some(Vec::new());
                self.look_at_all(now)
            }
            FEATURES_OK => {
                self.session.step = Step::Config;
                self.read_config(now);
                Ok(())
            }
            _ => {
                self.session.step = Step::Running;
                let config = self.session.config.clone().unwrap_or_default();
                self.session.events.push_back(Event::Running { features, config });
                Ok(())
            }
        }
    }

    fn ping_answered(&mut self, now: Instant, same_data: bool) -> Result<(), DriverError> {
        if !same_data {
            let why = "other data than in the request";
            return Err(DriverError::BadAnswer { to: "PING", why });
        }
        self.request(now, Step::Running, Body::GetDeviceStatus)
    }

    /// What a running device says of its status; it is to be DRIVER_OK as long as we have not reset it.
    fn status_seen(&mut self, status: u32) -> Result<(), DriverError> {
        if status == 0 && !self.config.greets {
            return Err(DriverError::Forgotten);
        }
        self.session.config_stale = true;
        check_status(DRIVER_OK, status)
    }

    fn offer(&mut self, now: Instant, offer: &Blocks) -> Result<(), DriverError> {
        let count = usize::try_from(self.session.feature_blocks).unwrap_or(usize::MAX);
        if offer.index != 0 || offer.blocks.len() != count {
            let why = "other blocks than asked for";
            return Err(DriverError::BadAnswer { to: "GET_DEVICE_FEATURES", why });
        }
        let offered =
            offer.blocks.iter().rev().fold(0, |bits, &block| bits << 32 | u128::from(block));
        // Available buffer notifications carry no data here.
        let usable = offered & self.config.wanted & !(1 << virtio::F_NOTIFICATION_DATA);
        let features = (self.config.clean)(usable) & usable;
        let missing = (self.config.required | 1 << virtio::F_VERSION_1) & !features;
        if missing != 0 {
            return Err(DriverError::FeaturesMissing { missing, offered });
        }
        self.session.features = features;
        let words = features.to_le_bytes();
        let blocks = words
            .chunks_exact(4)
            .take(count)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();
        self.request(now, Step::Accept, Body::SetDriverFeatures(Blocks { index: 0, blocks }))
    }

    /// Begins to read the config space.
    pub(super) fn read_config(&mut self, now: Instant) {
        let s = &mut self.session;
        let room = u32::try_from(MAX_DATA).unwrap_or(u32::MAX);
        let reading = Reading::new(s.config_len, room.min(s.max_len - CONFIG_HEADER));
        self.exchange.begin(now, reading.request());
        s.config_stale = false;
        s.reading = Some(reading);
    }

    fn config_piece(
        &mut self,
        now: Instant,
        generation: u32,
        offset: u32,
        data: &[u8],
    ) -> Result<(), DriverError> {
        let Some(reading) = &mut self.session.reading else { return Ok(()) };
        match reading.take(generation, offset, data)? {
            Progress::More => {
                self.exchange.begin(now, reading.request());
                Ok(())
            }
            Progress::Whole(config) => {
                self.session.reading = None;
                let changed = self.session.config.as_ref() != Some(&config);
                self.session.config = Some(config);
                if self.session.step == Step::Config {
                    return self.look_at_all(now);
                }
                if changed {
                    self.tell_config();
                }
                Ok(())
            }
        }
    }

    /// Begins to ask what each queue can be. How many pairs there are, and so where the control queue
    /// stands, is told by the config space (virtio 1.4 §5.1.2).
    fn look_at_all(&mut self, now: Instant) -> Result<(), DriverError> {
        let s = &mut self.session;
        let has = |bit: u8| s.features >> bit & 1 == 1;
        let mut octets = [0; size_of::<Config>()];
        for (to, from) in octets.iter_mut().zip(s.config.iter().flatten()) {
            *to = *from;
        }
        let config = Config::read_from_bytes(&octets).unwrap_or_default();
        let there = if has(net::F_MQ) { config.max_virtqueue_pairs.get() } else { 1 };
        if !(1..=net::MAX_PAIRS).contains(&there) {
            return Err(DriverError::Pairs(there));
        }
        let control = has(net::F_CTRL_VQ).then_some(net::controlq(there));
        s.wanted = (0..net::controlq(there.min(self.config.pairs))).chain(control).collect();
        let wanted = s.wanted.last().map_or(0, |last| last.saturating_add(1));
        if s.max_virtqueues < u32::from(wanted) {
            return Err(DriverError::TooFewQueues { device: s.max_virtqueues, wanted });
        }
        self.look(now, 0)
    }

    /// Asks what the `i`th queue can be, or for the queues once all are known.
    fn look(&mut self, now: Instant, i: usize) -> Result<(), DriverError> {
        let s = &mut self.session;
        if let Some(index) = s.wanted.get(i) {
            let body = Body::GetVqueue { index: u32::from(*index) };
            return self.request(now, Step::Look(i), body);
        }
        s.step = Step::QueuesWanted;
        s.events.push_back(Event::QueuesNeeded {
            queues: s.queues.clone(),
            features: s.features,
            config: s.config.clone().unwrap_or_default(),
        });
        Ok(())
    }

    fn looked(&mut self, now: Instant, i: usize, queue: &VqueueState) -> Result<(), DriverError> {
        let Some(&index) = self.session.wanted.get(i) else { return Ok(()) };
        if queue.index != u32::from(index) {
            return Err(DriverError::BadAnswer { to: "GET_VQUEUE", why: "another queue" });
        }
        if queue.flags & msg::VQ_ENABLED != 0 {
            return Err(DriverError::QueueBusy(index));
        }
        // A size is a power of two in the split ring, and up to 32768 in any.
        let most = u16::try_from(queue.max_size).unwrap_or(split::MAX_SIZE).min(split::MAX_SIZE);
        let Some(exponent) = most.checked_ilog2() else { return Err(DriverError::NoQueue(index)) };
        self.session.queues.push((index, 1 << exponent));
        self.look(now, i + 1)
    }

    /// Configures the `i`th queue, or finishes once all are configured.
    pub(super) fn set_queue(&mut self, now: Instant, i: usize) -> Result<(), DriverError> {
        let Some(queue) = self.session.setups.get(i) else {
            return self.begin_status(now, DRIVER_OK);
        };
        let body = Body::SetVqueue {
            index: queue.index.into(),
            flags: msg::VQ_ENABLE,
            size: queue.size.into(),
            reserved: 0,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
        };
        self.request(now, Step::SetQueue(i), body)
    }

    fn confirm_queue(&mut self, now: Instant, i: usize) -> Result<(), DriverError> {
        let Some(queue) = self.session.setups.get(i) else { return Ok(()) };
        let body = Body::GetVqueue { index: queue.index.into() };
        self.request(now, Step::ConfirmQueue(i), body)
    }

    fn queue_confirmed(
        &mut self,
        now: Instant,
        i: usize,
        is: &VqueueState,
    ) -> Result<(), DriverError> {
        let Some(queue) = self.session.setups.get(i) else { return Ok(()) };
        let confirmed = VqueueState {
            index: queue.index.into(),
            max_size: is.max_size,
            size: queue.size.into(),
            flags: msg::VQ_ENABLED,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
        };
        if *is != confirmed {
            return Err(DriverError::QueueRefused(queue.index));
        }
        self.set_queue(now, i + 1)
    }
}

/// Whether a device that has taken the status `wanted` answers so.
fn check_status(wanted: u32, status: u32) -> Result<(), DriverError> {
    if status & u32::from(virtio::status::DEVICE_NEEDS_RESET) != 0 {
        return Err(DriverError::NeedsReset);
    }
    if status & wanted != wanted {
        return Err(DriverError::Status { wanted, status });
    }
    Ok(())
}
