//! A front-end's link on a fake clock, against a back-end whose device is this crate's.

mod ours;

use std::collections::BTreeMap;

use super::*;
use crate::memory::Kind;
use crate::net::device_path::DevicePath;
use crate::net::path::Inward;
use crate::spec::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN, protocol};
use crate::spec::virtio::F_RING_PACKED;
use crate::tunnel::vhost_user::front_end::Descriptor;
use crate::tunnel::vhost_user::{Header, Reply, Request, encode};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A back-end with a device for each pair; its memory is the front-end's.
struct BackEnd {
    features: Features,
    protocol: u64,
    pairs: u64,
    space: [u8; 12],
    status: u64,
    accepted: Features,
    rings: BTreeMap<u32, (u32, u32, VringAddr)>,
    enabled: Vec<u32>,
    region: Option<MemoryRegion>,
    /// It answers nothing.
    silent: bool,
}

impl BackEnd {
    fn new(features: Features) -> Self {
        Self {
            features,
            protocol: u64::MAX,
            pairs: 4,
            space: [2, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0xdc, 5],
            status: 0,
            accepted: Features::NONE,
            rings: BTreeMap::new(),
            enabled: Vec::new(),
            region: None,
            silent: false,
        }
    }

    fn everything() -> Self {
        Self::new(Features::from_bits(u64::MAX.into()).minus(Features::of(&[F_RING_PACKED])))
    }

    fn handle(&mut self, message: &Message) -> Option<Vec<u8>> {
        let (header, payload) = message.octets.split_first_chunk().unwrap();
        let header = Header::parse(*header, false).unwrap();
        let fds = usize::from(message.fd.is_some());
        let request = Request::decode(header.request, payload, fds).unwrap();
        let reply = match &request {
            Request::GetFeatures => Reply::Number(bits(self.features) | 1 << F_PROTOCOL_FEATURES),
            Request::GetProtocolFeatures => Reply::Number(self.protocol),
            Request::GetQueueNum => Reply::Number(self.pairs),
            Request::GetStatus => Reply::Number(self.status),
            Request::GetConfig { .. } => {
                Reply::Config { offset: 0, flags: 0, data: self.space.to_vec() }
            }
            _ => Reply::Number(0),
        };
        match request {
            Request::SetFeatures(bits) => self.accepted = Features::from_bits(bits.into()),
            Request::SetStatus(status) => self.status = status,
            Request::SetMemTable(ref regions) => self.region = Some(regions[0]),
            Request::SetVringNum { index, num } => {
                self.rings.insert(index, (num, 0, VringAddr::default()));
            }
            Request::SetVringBase { index, base } => self.rings.get_mut(&index).unwrap().1 = base,
            Request::SetVringAddr { index, addr, .. } => {
                self.rings.get_mut(&index).unwrap().2 = addr;
            }
            Request::SetVringEnable { index, enable: 1 } => self.enabled.push(index),
            Request::SetVringCall { index, .. } => {
                assert_eq!(message.fd, Some(Descriptor::Call(u16::try_from(index).unwrap())));
            }
            _ => {}
        }
        let answers = header.needs_reply() || request.has_reply();
        (answers && !self.silent).then(|| reply.encode(header.request))
    }

    /// The device's end of a pair.
    fn path(&self, mem: &BusMemory, pair: u32) -> DevicePath {
        let features = self.accepted;
        let config = |index| {
            let (size, _, VringAddr { desc, driver, device }) = self.rings[&index];
            QueueConfig {
                size: u16::try_from(size).unwrap(),
                desc,
                driver,
                device,
                packed: features.has(F_RING_PACKED),
                in_order: features.has(virtio::F_IN_ORDER),
                event_idx: features.has(virtio::F_EVENT_IDX),
                indirect: features.has(virtio::F_INDIRECT_DESC),
            }
        };
        DevicePath::new(mem, features, &config(2 * pair), &config(2 * pair + 1)).unwrap()
    }
}

/// The link with what its owner does.
struct Bench {
    now: Instant,
    link: FrontEndLink,
    back: BackEnd,
    /// Somebody listens.
    listens: bool,
    connected: bool,
    /// Stop was asked for and is not done yet; it is at once, unless they are slow.
    stopping: bool,
    slow: bool,
    paths: Vec<StartPair>,
    states: Vec<(State, String)>,
    carrier: Option<bool>,
    start: Option<Start>,
    connects: usize,
}

impl Bench {
    fn of(params: FrontEndParams, back: BackEnd) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            now,
            link: FrontEndLink::new(now, params),
            back,
            listens: true,
            connected: false,
            stopping: false,
            slow: false,
            paths: Vec::new(),
            states: Vec::new(),
            carrier: None,
            start: None,
            connects: 0,
        };
        bench.drain();
        bench
    }

    fn new(back: BackEnd) -> Self {
        Self::of(FrontEndParams { features_off: Features::NONE, pairs: 2 }, back)
    }

    fn drain(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => self.states.push((state, reason)),
                Event::Connect => self.connect(),
                Event::Disconnect => self.connected = false,
                Event::Send(message) => {
                    assert!(self.connected, "a message goes by a connection");
                    if let Some(octets) = self.back.handle(&message) {
                        let (header, payload) = octets.split_first_chunk().unwrap();
                        self.link.handle_message(self.now, *header, payload, 0);
                    }
                }
                Event::Answer(octets) => {
                    assert_eq!(octets, Reply::Number(0).encode(2));
                }
                Event::Start(start) => {
                    assert!(self.start.replace(start).is_none(), "Start and Stop alternate");
                }
                Event::StartPair(pair) => self.paths.push(pair),
                Event::Stop => {
                    assert!(self.start.take().is_some() && self.carrier == Some(false));
                    self.paths.clear();
                    self.stopping = true;
                    if !self.slow {
                        self.stopped();
                    }
                }
                Event::Carrier(up) => self.carrier = Some(up),
            }
        }
    }

    fn connect(&mut self) {
        assert!(!self.connected && !self.stopping && self.start.is_none());
        self.connects += 1;
        self.connected = self.listens;
        if self.listens {
            let len = self.link.params.memory_len() as usize;
            let memory = Arc::new(Mapping::anonymous(len, Kind::Cached));
            self.link.handle_connected(self.now, memory);
        } else {
            self.link.handle_refused(self.now, "nobody listens".to_owned(), 500 * MS);
        }
    }

    fn stopped(&mut self) {
        self.stopping = false;
        self.link.handle_stopped(self.now);
        self.drain();
    }

    /// Lets this much time go by.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while let Some(due) = self.link.poll_timeout().filter(|due| *due <= end) {
            at_once = if due > self.now { 0 } else { at_once + 1 };
            assert!(at_once < 100, "it wants to be called again and again");
            self.now = self.now.max(due);
            self.link.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn lost(&mut self) {
        self.link.handle_lost(self.now, "the back-end hung up");
        self.drain();
    }

    fn is_up(&self) -> bool {
        matches!(self.states.last(), Some((State::Up, _)))
    }

    fn last(&self) -> (State, &str) {
        let (state, reason) = self.states.last().unwrap();
        (*state, reason)
    }
}

fn send(path: &mut dyn Path, mem: &BusMemory, frame: &[u8]) {
    assert!(path.room(mem).unwrap().fill(mem, frame), "there is room");
    assert_eq!(path.sent(mem, frame.len()).unwrap(), None);
    path.flush(mem);
}

fn receive(path: &mut dyn Path, mem: &BusMemory) -> Vec<u8> {
    let Inward::Frame { prefix, tail, .. } = path.receive(mem).unwrap() else {
        panic!("no frame came")
    };
    let mut frame = prefix.to_vec();
    for span in tail {
        let at = frame.len();
        frame.resize(at + span.len(), 0);
        mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
    }
    path.received(mem).unwrap();
    path.release(mem);
    frame
}

fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; 12 + len];
    frame[..12].fill(0);
    frame
}

#[test]
fn frames_go_both_ways_by_all_pairs_over_rings_of_either_kind() {
    for (packed, base) in [(false, 0), (true, 0x8000_8000)] {
        let off = if packed { vec![] } else { vec![F_RING_PACKED] };
        let back = BackEnd::new(Features::OFFER.without(Features::of(&off)));
        let mut bench = Bench::new(back);
        assert!(bench.is_up(), "{:?}", bench.states);
        assert_eq!(bench.carrier, Some(true));
        assert_eq!(bench.back.enabled, [0, 1, 2, 3]);
        assert!(bench.back.rings.values().all(|ring| ring.0 == 256 && ring.1 == base));
        let region = bench.back.region.unwrap();
        assert_eq!((region.len, region.bus_addr == region.user_addr), (16 << 20, true));
        assert_eq!(bench.back.accepted.has(F_RING_PACKED), packed);
        let mem = bench.paths[0].mem.clone();
        for pair in 0..2 {
            let mut device = bench.back.path(&mem, pair);
            let driver = bench.paths[pair as usize].path.as_mut();
            for (len, fill) in [(60, 1), (1514, 2), (9014, 3)] {
                send(driver, &mem, &frame(len, fill));
                assert_eq!(receive(&mut device, &mem)[12..], frame(len, fill)[12..]);
                send(&mut device, &mem, &frame(len, fill));
                assert_eq!(receive(driver, &mem)[12..], frame(len, fill)[12..]);
            }
        }
    }
}

#[test]
fn what_needs_a_control_queue_or_an_iommu_is_not_accepted_though_it_is_offered() {
    let bench = Bench::new(BackEnd::everything());
    let features = bench.start.unwrap().features;
    for refused in [
        "CTRL_VQ",
        "MQ",
        "CTRL_RX",
        "GUEST_ANNOUNCE",
        "ACCESS_PLATFORM",
        "RING_RESET",
        "SPEED_DUPLEX",
    ] {
        assert!(!features.names().any(|name| name == refused), "{refused}");
    }
    let used =
        ["VERSION_1", "MRG_RXBUF", "CSUM", "HOST_TSO4", "GUEST_TSO6", "STATUS", "MAC", "MTU"];
    assert!(features.contains(Features::from_names(used).unwrap()), "{features}");
    assert_eq!(bench.start.unwrap().config.mtu.get(), 1500);
    assert_eq!(bench.paths.len(), 2, "several pairs need no MQ here");
    // What the config turns off stays off, and what cannot be turned off stays.
    let features_off = Features::from_names(["CSUM", "VERSION_1"]).unwrap();
    let params = FrontEndParams { features_off, pairs: 1 };
    let features = Bench::of(params, BackEnd::everything()).start.unwrap().features;
    assert!(features.has(virtio::F_VERSION_1) && !features.has(net::F_CSUM));
    assert!(!features.has(net::F_HOST_TSO4), "it needs CSUM");
}

#[test]
fn the_memory_has_room_for_as_many_pairs_as_it_is_made_for() {
    for pairs in [1, 2, 5, 16] {
        let params = FrontEndParams { features_off: Features::NONE, pairs };
        let len = params.memory_len();
        let (window, driver) = (BASE..BASE + len / 4, BASE + len / 4..BASE + len);
        let sizes = vec![[QUEUE_SIZE; 2]; usize::from(pairs)];
        for features in [Features::NONE, Features::OFFER] {
            let placed =
                place_all(window.clone(), driver.clone(), &sizes, None, features, Reach::Both);
            let placed = placed.unwrap().pairs;
            assert_eq!(placed.len(), usize::from(pairs));
            let buffers = &placed[0].buffers;
            let receive = (buffers.receive.end - buffers.receive.start) / 65_000;
            assert!(receive >= 64, "{receive} receive buffers");
        }
    }
}

#[test]
fn the_carrier_is_what_config_space_says_and_without_status_the_link_is_up() {
    let mut back = BackEnd::everything();
    back.space[6] = 0;
    let mut bench = Bench::new(back);
    assert!(bench.is_up());
    assert_eq!(bench.carrier, Some(false));
    bench.run(SECOND);
    bench.back.space[6] = 1;
    let changed: [u8; HEADER_LEN] = encode(2, 8, &[]).try_into().unwrap();
    bench.link.handle_backend_request(bench.now, changed, &[], 0);
    bench.drain();
    assert_eq!(bench.carrier, Some(true));
    let mut plain = BackEnd::everything();
    plain.protocol = protocol::MQ;
    plain.space[6] = 0;
    let bench = Bench::new(plain);
    assert_eq!(bench.carrier, Some(true));
}

#[test]
fn without_a_back_end_it_is_looked_for_until_there_is_one() {
    let mut bench = Bench::new(BackEnd::everything());
    bench.listens = false;
    bench.lost();
    bench.run(60 * SECOND);
    assert_eq!(bench.last(), (State::Waiting, "nobody listens"));
    assert!((100..130).contains(&bench.connects), "{}", bench.connects);
    bench.listens = true;
    bench.run(SECOND);
    assert!(bench.is_up());
}

#[test]
fn after_a_loss_everything_begins_anew_but_only_when_no_worker_is_left() {
    let mut bench = Bench::new(BackEnd::everything());
    bench.slow = true;
    bench.back = BackEnd::everything();
    bench.lost();
    assert_eq!(bench.last(), (State::Down, "the back-end hung up"));
    bench.run(10 * SECOND);
    assert_eq!(bench.connects, 1);
    bench.stopped();
    assert!(bench.is_up());
    assert_eq!((bench.connects, bench.carrier), (2, Some(true)));
    let mem = bench.paths[0].mem.clone();
    let mut device = bench.back.path(&mem, 0);
    send(bench.paths[0].path.as_mut(), &mem, &frame(100, 7));
    assert_eq!(receive(&mut device, &mem)[12..], frame(100, 7)[12..]);
}

#[test]
fn a_broken_ring_takes_the_link_down_and_the_back_end_is_met_again_with_growing_delay() {
    let mut bench = Bench::new(BackEnd::everything());
    let mut delays = Vec::new();
    for _ in 0..8 {
        bench.link.handle_broken(bench.now, "receiveq: used index");
        bench.drain();
        assert_eq!(bench.last(), (State::Quarantined, "receiveq: used index"));
        assert!(!bench.connected && bench.paths.is_empty());
        delays.push((bench.link.poll_timeout().unwrap() - bench.now).as_secs());
        bench.run(60 * SECOND - MS);
        bench.run(2 * MS);
        assert!(bench.is_up());
        // It has not been up for long when the delay grows.
        bench.now = bench.link.up_since.unwrap() + SECOND;
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    bench.run(60 * SECOND);
    bench.link.handle_broken(bench.now, "receiveq: used index");
    bench.drain();
    assert_eq!(bench.link.poll_timeout(), Some(bench.now + SECOND), "it was good for a minute");
}

#[test]
fn a_back_end_that_cannot_be_used_or_does_not_answer_is_said_to_be_so() {
    let back = BackEnd::new(Features::OFFER.minus(Features::of(&[virtio::F_VERSION_1])));
    let bench = Bench::new(back);
    let why = "the back-end does not offer VERSION_1; a device of virtio 1.0 or later is needed";
    assert_eq!(bench.last(), (State::Quarantined, why));
    let mut bench = Bench::new(BackEnd { silent: true, ..BackEnd::everything() });
    assert_eq!(bench.last().0, State::Negotiating);
    bench.run(5 * SECOND);
    let why = "the back-end has not answered GET_FEATURES in 5 s";
    assert_eq!(bench.last(), (State::Quarantined, why));
    assert!(!bench.connected);
}

#[test]
fn who_hangs_up_again_and_again_does_not_keep_this_end_busy() {
    // Before the link is up, and as soon as it is.
    for (silent, most) in [(true, 7), (false, 17 + 4 * 60)] {
        let mut bench = Bench::new(BackEnd { silent, ..BackEnd::everything() });
        let end = bench.now + 60 * SECOND;
        while bench.now < end {
            if bench.connected {
                bench.back = BackEnd { silent, ..BackEnd::everything() };
                bench.lost();
            } else {
                let next = bench.link.poll_timeout().unwrap();
                bench.run(next - bench.now);
            }
        }
        assert!(bench.connects <= most, "{} in a minute", bench.connects);
    }
}

#[test]
fn a_link_that_is_shut_down_stays_so() {
    let mut bench = Bench::new(BackEnd::everything());
    bench.link.shutdown(bench.now);
    bench.drain();
    assert!(!bench.connected && bench.paths.is_empty());
    assert_eq!(bench.carrier, Some(false));
    bench.run(3600 * SECOND);
    assert_eq!((bench.connects, bench.link.poll_timeout()), (1, None));
    // Nor does a connection that was under way revive it.
    let memory = Arc::new(Mapping::anonymous(24 << 20, Kind::Cached));
    bench.link.handle_connected(bench.now, memory);
    bench.link.handle_refused(bench.now, "nobody listens".to_owned(), SECOND);
    bench.link.handle_lost(bench.now, "lost");
    bench.link.handle_broken(bench.now, "broken");
    assert!(bench.link.poll_event().is_none());
    assert_eq!(bench.link.poll_timeout(), None);
}
