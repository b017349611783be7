use super::*;
use crate::tunnel::message::VqueueState;
use crate::tunnel::model::{DeviceInfo, QueueOperation, QueueState, QueueUpdate};

/// A device that remembers what it was asked.
#[derive(Debug, Default)]
struct Fake {
    status: u8,
    reset_takes_long: bool,
    generation: u32,
    config: Vec<u8>,
    writable: bool,
    writes: u32,
    offered: Vec<u32>,
    accepted: Vec<(u32, u32)>,
    queues: Vec<(u32, QueueUpdate)>,
    /// Queues that do not rest.
    in_use: Vec<u32>,
    queues_reset: Vec<u32>,
}

impl Device for Fake {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: 1,
            vendor_id: 2,
            num_feature_blocks: self.offered.len() as u32,
            config_size: self.config.len() as u32,
            max_virtqueues: 2,
        }
    }
    fn features(&self, block: u32) -> u32 {
        self.offered.get(block as usize).copied().unwrap_or(0)
    }
    fn set_driver_features(&mut self, block: u32, bits: u32) {
        self.accepted.push((block, bits));
    }
    fn generation(&self) -> u32 {
        self.generation
    }
    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let bytes = self.config.iter().skip(offset as usize).copied();
        out.iter_mut().zip(bytes.chain(std::iter::repeat(0))).for_each(|(to, from)| *to = from);
    }
    fn write_config(&mut self, _: u32, _: &[u8]) -> bool {
        self.writes += u32::from(self.writable);
        self.writable
    }
    fn status(&self) -> u8 {
        self.status
    }
    fn set_status(&mut self, status: u32) {
        if status != 0 || !self.reset_takes_long {
            self.status = status as u8;
        }
    }
    fn queue(&self, index: u32) -> QueueState {
        let max_size = if index < 2 { 256 } else { 0 };
        let enabled = self.in_use.contains(&index);
        QueueState { max_size, enabled, ..QueueState::default() }
    }
    fn set_queue(&mut self, index: u32, update: &QueueUpdate) -> Result<(), QueueError> {
        self.queues.push((index, *update));
        Ok(())
    }
    fn reset_queue(&mut self, index: u32) {
        self.queues_reset.push(index);
    }
}

mod hostile;
mod rest;
mod v1;

const BOTH: [Dialect; 2] = [Dialect::V1, Dialect::V2];

fn ours() -> Hello {
    Hello {
        revision: 1,
        max_len: 264,
        epoch: 7,
        layout: 1,
        version: "0.1.0".into(),
        ..Hello::default()
    }
}

/// A tunnel with its device; each call is one exchange.
struct End {
    tunnel: DeviceTunnel,
    device: Fake,
    now: Instant,
}

impl End {
    /// One that speaks v2.
    fn new() -> Self {
        Self::of(Dialect::V2)
    }

    fn of(dialect: Dialect) -> Self {
        let config = (1..=12).collect();
        let device = Fake { config, offered: vec![0xA, 0xB], ..Fake::default() };
        Self { tunnel: DeviceTunnel::new(dialect, ours()), device, now: Instant::now() }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = [0; msg::MAX_LEN];
        message::encode(self.tunnel.dialect, message, &mut bytes);
        self.tunnel.handle_message(self.now, &bytes, &mut self.device);
    }

    fn receive(&mut self) -> Option<Message> {
        let mut out = [0; msg::MAX_LEN];
        let len = self.tunnel.poll_message(&mut out)?;
        Some(message::decode(self.tunnel.dialect, &out[..len]).unwrap())
    }

    /// The one answer to a request.
    fn ask(&mut self, body: Body) -> Body {
        self.send(&Message { dev_num: 0, token: 0x55AA, body });
        let answer = self.receive().expect("an answer");
        assert_eq!((answer.dev_num, answer.token), (0, 0x55AA));
        assert_eq!(self.receive(), None, "one answer");
        answer.body
    }

    /// What gets no answer.
    fn tell(&mut self, body: Body) {
        self.send(&Message { dev_num: 0, token: 0, body });
        assert_eq!(self.receive(), None);
    }
}

#[test]
fn every_request_is_answered_once_with_its_token() {
    for dialect in BOTH {
        every_request_is_answered(End::of(dialect));
    }
}

fn every_request_is_answered(mut end: End) {
    let info = Body::DeviceInfo {
        device_id: 1,
        vendor_id: 2,
        uuid: [0; 16],
        num_feature_blocks: 2,
        config_size: 12,
        max_virtqueues: 2,
        admin_vq_start: 0,
        admin_vq_count: 0,
    };
    assert_eq!(end.ask(Body::GetDeviceInfo), info);
    assert_eq!(end.ask(Body::GetDeviceStatus), Body::DeviceStatus { status: 0 });
    assert_eq!(end.ask(Body::SetDeviceStatus { status: 3 }), Body::DeviceStatusSet { status: 3 });
    assert_eq!(
        end.ask(Body::GetVqueue { index: 1 }),
        Body::Vqueue(VqueueState { index: 1, max_size: 256, ..VqueueState::default() })
    );
    assert_eq!(
        end.ask(Body::GetVqueue { index: 9 }),
        Body::Vqueue(VqueueState { index: 9, ..VqueueState::default() }),
        "a queue that is not there is all zero"
    );
    assert_eq!(end.ask(Body::ResetVqueue { index: 0 }), Body::VqueueReset);
    assert_eq!(end.ask(Body::GetShm { id: 3 }), Body::Shm { id: 3, length: 0, address: 0 });
    assert_eq!(end.tunnel.counters().answered, 7);
}

#[test]
fn features_may_be_asked_for_in_any_number_of_blocks() {
    let mut end = End::new();
    let mut blocks = |index, count| match end.ask(Body::GetDeviceFeatures { index, count }) {
        Body::DeviceFeatures(got) if got.index == index => got.blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocks(0, 1), [0xA]);
    assert_eq!(blocks(0, 4), [0xA, 0xB, 0, 0], "zero beyond what exists");
    assert_eq!(blocks(1, 1), [0xB]);
    assert_eq!(blocks(0, 62).len(), 62);
    assert_eq!(blocks(u32::MAX, 2), [0, 0]);
    assert_eq!(blocks(0, 0), Vec::<u32>::new());
    let set = Body::SetDriverFeatures(Blocks { index: 1, blocks: vec![0xB, 0xC] });
    assert_eq!(end.ask(set), Body::DriverFeaturesSet);
    assert_eq!(end.device.accepted, [(1, 0xB), (2, 0xC)]);
}

#[test]
fn config_space_is_read_in_pieces_and_is_zero_beyond_its_end() {
    let mut end = End::new();
    end.device.generation = 5;
    assert_eq!(
        end.ask(Body::GetConfig { offset: 10, length: 4 }),
        Body::Config { generation: 5, offset: 10, data: vec![11, 12, 0, 0] }
    );
    assert_eq!(
        end.ask(Body::GetConfig { offset: u32::MAX, length: 1 }),
        Body::Config { generation: 5, offset: u32::MAX, data: vec![0] }
    );
}

#[test]
fn a_config_write_is_never_refused_for_its_generation() {
    let mut end = End::new();
    end.device.generation = 5;
    let write = |generation| Body::SetConfig { generation, offset: 0, data: vec![9] };
    let refused = Body::ConfigSet { generation: 5, offset: 0, data: vec![] };
    assert_eq!(end.ask(write(0)), refused, "a refusal has length 0");
    end.device.writable = true;
    for generation in [0, 4, 5] {
        let done = Body::ConfigSet { generation: 5, offset: 0, data: vec![9] };
        assert_eq!(end.ask(write(generation)), done);
    }
}

#[test]
fn the_bus_has_exactly_device_0() {
    let mut end = End::new();
    let devices = |count, bitmap| Body::Devices { offset: 0, next_offset: 0, count, bitmap };
    assert_eq!(end.ask(Body::GetDevices { offset: 0, count: 9 }), devices(9, vec![1, 0]));
    assert_eq!(end.ask(Body::GetDevices { offset: 0, count: 0 }), devices(0, vec![]));
    assert_eq!(
        end.ask(Body::GetDevices { offset: 8, count: 8 }),
        Body::Devices { offset: 8, next_offset: 0, count: 8, bitmap: vec![0] }
    );
    let Body::Devices { count, .. } = end.ask(Body::GetDevices { offset: 0, count: u16::MAX })
    else {
        panic!("not devices")
    };
    assert_eq!(count, 2000, "as many as one message tells");
    end.send(&Message { dev_num: 1, token: 1, body: Body::GetDeviceInfo });
    assert_eq!(end.receive(), None);
    assert_eq!(end.tunnel.counters().other_device, 1);
}

#[test]
fn a_ping_is_echoed_and_ours_tells_how_long_it_took() {
    let mut end = End::new();
    assert_eq!(end.ask(Body::Ping { data: 0xDEAD_BEEF }), Body::Pong { data: 0xDEAD_BEEF });
    end.tunnel.ping(end.now);
    let Some(Message { body: Body::Ping { data }, .. }) = end.receive() else { panic!("no ping") };
    end.now += Duration::from_millis(3);
    end.tell(Body::Pong { data: data + 1 });
    assert_eq!(end.tunnel.poll_event(), None);
    end.tell(Body::Pong { data });
    assert_eq!(end.tunnel.poll_event(), Some(Event::Pong { after: Duration::from_millis(3) }));
    end.tell(Body::Pong { data });
    assert_eq!(end.tunnel.poll_event(), None, "one answer is one event");
    assert_eq!(end.tunnel.counters().unexpected, 2);
}

#[test]
fn a_driver_end_that_fits_is_reported_with_its_mac() {
    let mut end = End::new();
    let theirs = Hello { epoch: 9, mac: [2, 0, 0, 0, 0, 1], version: "0.2.0".into(), ..ours() };
    assert_eq!(end.ask(Body::Hello(theirs.clone())), Body::HelloBack(ours()));
    assert_eq!(end.tunnel.poll_event(), Some(Event::PeerHello(theirs)));
}

#[test]
fn another_layout_is_refused_by_naming_both_versions() {
    let mut end = End::new();
    let mut refusal = |theirs: Hello| {
        assert_eq!(end.ask(Body::Hello(theirs)), Body::HelloBack(ours()), "so that it sees why");
        match end.tunnel.poll_event() {
            Some(Event::HelloRefused(refused)) => refused.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refusal(Hello { layout: 2, version: "0.9.0".into(), ..ours() }),
        "window layout 2 at the other end (version 0.9.0), 1 here (version 0.1.0): \
         run versions that have the same"
    );
    assert!(refusal(Hello { revision: 3, ..ours() }).starts_with("virtio-msg revision 3 at"));
    assert!(refusal(Hello { max_len: 71, ..ours() }).starts_with("greatest message 71 at"));
    end.tell(Body::GetDeviceInfo);
    end.tell(Body::EventAvail { index: 0, next: 0 });
    assert_eq!(end.tunnel.counters().refused, 2);
    assert_eq!(end.ask(Body::Ping { data: 1 }), Body::Pong { data: 1 }, "the bus lives");
    end.ask(Body::Hello(ours()));
    assert_eq!(end.ask(Body::GetDeviceStatus), Body::DeviceStatus { status: 0 });
}

#[test]
fn no_message_is_longer_than_the_driver_end_takes() {
    let mut end = End::new();
    end.ask(Body::Hello(Hello { max_len: 80, ..ours() }));
    end.tell(Body::GetConfig { offset: 0, length: 61 });
    assert_eq!(end.tunnel.counters().unanswerable, 1);
    let Body::Config { data, .. } = end.ask(Body::GetConfig { offset: 0, length: 60 }) else {
        panic!("no config")
    };
    assert_eq!(data.len(), 60);
    let Body::Devices { count, .. } = end.ask(Body::GetDevices { offset: 0, count: 999 }) else {
        panic!("no devices")
    };
    assert_eq!(count, 528);
    end.device.status = status::DRIVER;
    end.device.config = vec![1; 57];
    end.tunnel.notify_config_changed(&end.device);
    let Some(Message { body: Body::EventConfig { data, .. }, .. }) = end.receive() else {
        panic!("no event")
    };
    assert_eq!(data, Vec::<u8>::new(), "what does not fit is left out");
}

#[test]
fn notifications_name_a_queue_that_exists() {
    let mut end = End::new();
    end.tell(Body::EventAvail { index: 1, next: 0 });
    assert_eq!(end.tunnel.poll_event(), Some(Event::QueueNotified(1)));
    end.tell(Body::EventAvail { index: 2, next: 0 });
    end.tell(Body::EventAvail { index: 0x1_0000, next: 0 });
    assert_eq!(end.tunnel.poll_event(), None);
    let counters = end.tunnel.counters();
    assert_eq!((counters.notified, counters.unexpected), (1, 2));
}

#[test]
fn what_only_a_device_sends_is_discarded() {
    let mut end = End::new();
    let status = 0;
    for body in [
        Body::EventUsed { index: 0 },
        Body::EventConfig { status, generation: 0, offset: 0, data: vec![] },
        Body::DeviceStatus { status },
        Body::VqueueSet,
        Body::HelloBack(ours()),
        Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED },
    ] {
        end.tell(body);
    }
    assert_eq!(end.tunnel.counters().unexpected, 6);
    assert_eq!(end.tunnel.poll_event(), None);
}

#[test]
fn malformed_octets_are_counted_and_reported() {
    let mut end = End::new();
    end.tunnel.handle_message(
        end.now,
        &[0, msg::SET_DEVICE_STATUS, 0, 0, 1, 0, 8, 0],
        &mut end.device,
    );
    assert_eq!(end.receive(), None);
    assert_eq!(end.tunnel.counters().malformed, 1);
    let error = DecodeError::WrongSize { message: "SET_DEVICE_STATUS", size: 8, needed: 12 };
    assert_eq!(end.tunnel.poll_event(), Some(Event::Malformed(error)));
}

#[test]
fn a_driver_end_that_takes_no_answers_is_heard_no_further() {
    let mut end = End::new();
    let mut sent = 0;
    while end.tunnel.ready() {
        end.send(&Message { dev_num: 0, token: sent, body: Body::GetDeviceStatus });
        sent += 1;
    }
    assert_eq!(usize::from(sent), MAX_ANSWERS);
    end.send(&Message { dev_num: 0, token: 99, body: Body::GetDeviceStatus });
    assert_eq!(end.tunnel.counters().lost, 1, "who does not ask loses the message");
    for token in 0..sent {
        assert_eq!(end.receive().unwrap().token, token, "answers keep the order of the requests");
    }
    assert_eq!(end.receive(), None);
    assert!(end.tunnel.ready());
}

#[test]
fn events_that_nobody_takes_stop_the_tunnel_too() {
    let mut end = End::new();
    for _ in 0..MAX_EVENTS {
        assert!(end.tunnel.ready());
        end.tell(Body::EventAvail { index: 0, next: 0 });
    }
    assert!(!end.tunnel.ready());
    end.tunnel.poll_event();
    assert!(end.tunnel.ready());
}

#[test]
fn a_changed_config_goes_along_with_its_notice_and_the_newest_counts() {
    let mut end = End::new();
    end.device.status = status::ACKNOWLEDGE;
    end.tunnel.notify_config_changed(&end.device);
    assert_eq!(end.receive(), None, "a driver that has not come reads it anyway");
    end.device.status = 15;
    end.tunnel.notify_config_changed(&end.device);
    end.device.config[0] = 0xFF;
    end.device.generation = 6;
    end.tunnel.notify_config_changed(&end.device);
    end.device.status = 15 | status::DEVICE_NEEDS_RESET;
    end.tunnel.notify_status_changed(&end.device);
    let mut out = [0; msg::MAX_LEN];
    assert_eq!(end.tunnel.poll_message(&mut out), Some(24 + 12), "exactly header, fields, data");
    assert_eq!(out[8..25], [79, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0xFF]);
    assert_eq!(end.receive(), None, "one notice for all");
}

#[test]
fn a_notice_goes_before_used_buffers() {
    let mut end = End::new();
    end.device.status = 15 | status::DEVICE_NEEDS_RESET;
    end.tunnel.used.push_back(1);
    end.tunnel.notify_status_changed(&end.device);
    let event = end.receive().map(|m| m.body);
    assert!(matches!(event, Some(Body::EventConfig { status: 79, .. })), "{event:?}");
    assert_eq!(end.receive().map(|m| m.body), Some(Body::EventUsed { index: 1 }));
}

#[test]
fn a_notice_of_the_status_alone_has_no_range() {
    let mut end = End::new();
    end.device.status = 15 | status::DEVICE_NEEDS_RESET;
    end.tunnel.notify_status_changed(&end.device);
    let event = Body::EventConfig { status: 79, generation: 0, offset: 0, data: vec![] };
    assert_eq!(end.receive().map(|m| m.body), Some(event));
    end.tunnel.notify_status_changed(&end.device);
    assert_eq!(
        end.ask(Body::SetDeviceStatus { status: 0 }),
        Body::DeviceStatusSet { status: 0 },
        "no notice from before the reset follows"
    );
}

#[test]
fn a_reset_that_takes_long_is_answered_at_once_and_polled() {
    let mut end = End::new();
    end.device.reset_takes_long = true;
    end.device.status = 15;
    let set = Body::SetDeviceStatus { status: 0 };
    assert_eq!(end.ask(set), Body::DeviceStatusSet { status: 15 });
    assert_eq!(end.ask(Body::GetDeviceStatus), Body::DeviceStatus { status: 15 });
    end.device.status = 0;
    assert_eq!(end.ask(Body::GetDeviceStatus), Body::DeviceStatus { status: 0 });
}

#[test]
fn the_flags_of_set_vqueue_say_which_values_count() {
    let mut end = End::new();
    let mut set = |flags, reserved| {
        let body =
            Body::SetVqueue { index: 1, flags, size: 64, reserved, desc: 1, driver: 2, device: 3 };
        assert_eq!(end.ask(body), Body::VqueueSet, "the answer is always the same");
        (end.device.queues.pop(), end.tunnel.poll_event())
    };
    let all = QueueUpdate {
        operation: QueueOperation::Enable,
        size: Some(64),
        desc: Some(1),
        driver: Some(2),
        device: Some(3),
    };
    assert_eq!(set(1, 0), (Some((1, all)), None));
    let none = QueueUpdate {
        operation: QueueOperation::Keep,
        size: None,
        desc: None,
        driver: None,
        device: None,
    };
    assert_eq!(set(0b11_1110, 0), (Some((1, none)), None));
    let one = QueueUpdate { operation: QueueOperation::KeepDisabled, driver: Some(2), ..none };
    assert_eq!(set(0b10_1100, 0), (Some((1, one)), None));
    for (flags, reserved) in [(3, 0), (1 << 6, 0), (1, 1)] {
        let error = QueueError::Reserved { flags, reserved };
        assert_eq!(set(flags, reserved), (None, Some(Event::QueueRefused { index: 1, error })));
    }
    assert_eq!(end.tunnel.counters().queues_refused, 3);
}
