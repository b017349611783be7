//! The front-end against a scripted back-end on a fake clock.

use proptest::prelude::*;

use super::*;
use crate::spec::vhost_user::request;
use crate::spec::virtio::F_VERSION_1;
use crate::tunnel::vhost_user::{Inflight, Reply};

const VERSION_1: u64 = 1 << F_VERSION_1;
const MAC: u64 = 1 << 5;
const MTU: u64 = 1 << 3;
const PROTOCOL: u64 = 1 << F_PROTOCOL_FEATURES;
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const REGION: MemoryRegion =
    MemoryRegion { bus_addr: 1 << 32, len: 1 << 20, user_addr: 1 << 32, offset: 0 };

fn config() -> FrontEndConfig {
    FrontEndConfig {
        wanted: VERSION_1 | MAC | MTU,
        by_config: MAC | MTU,
        // MTU is nothing without MAC, here.
        clean: |bits| if bits & MAC == 0 { bits & !MTU } else { bits },
        config_len: 12,
        pairs: 2,
        reply_timeout: TIMEOUT,
    }
}

fn ring(index: u64, packed: bool) -> Ring {
    let at = REGION.bus_addr + index * 0x1000;
    let addr = VringAddr { desc: at, driver: at + 0x400, device: at + 0x800 };
    Ring { size: 64, addr, packed }
}

/// What the scripted back-end is like, and what it did.
struct Bench {
    now: Instant,
    front: FrontEnd,
    features: u64,
    protocol: u64,
    queue_num: u64,
    space: Vec<u8>,
    /// What its status reads as, ORed to what was set, and what never gets set.
    status: u64,
    status_bad: u64,
    status_not: u64,
    /// The request that it refuses, and the one that it never answers.
    refuses: u32,
    silent_at: u32,
    /// What it answers instead to a request, and with how many descriptors.
    instead: Option<(u32, Vec<u8>, usize)>,
    requests: Vec<(Request, Option<Descriptor>)>,
    events: Vec<Event>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            front: FrontEnd::new(now, config()),
            features: VERSION_1 | MAC | MTU | PROTOCOL | 1 << 40,
            protocol: u64::MAX,
            queue_num: 8,
            space: (0..12).collect(),
            status: 0,
            status_bad: 0,
            status_not: 0,
            refuses: 0,
            silent_at: 0,
            instead: None,
            requests: Vec::new(),
            events: Vec::new(),
        }
    }

    fn of(protocol: u64) -> Self {
        Self { protocol, ..Self::new() }
    }

    /// The reply to a request; `acked`: it asks for one.
    fn answer(&mut self, request: &Request, acked: bool) -> Option<Vec<u8>> {
        let number = request.number();
        let reply = match request {
            _ if number == self.silent_at => return None,
            Request::GetFeatures => Reply::Number(self.features),
            Request::GetProtocolFeatures => Reply::Number(self.protocol),
            Request::GetQueueNum => Reply::Number(self.queue_num),
            Request::GetStatus => Reply::Number(self.status & !self.status_not | self.status_bad),
            Request::GetConfig { offset, flags, .. } => {
                Reply::Config { offset: *offset, flags: *flags, data: self.space.clone() }
            }
            _ if acked => Reply::Number(u64::from(number == self.refuses)),
            _ => return None,
        };
        if let Request::SetStatus(status) = request {
            self.status = *status;
        }
        Some(reply.encode(number))
    }

    fn deliver(&mut self, octets: &[u8], fds: usize) {
        let (header, payload) = octets.split_first_chunk().unwrap();
        self.front.handle_message(self.now, *header, payload, fds);
    }

    /// Runs until nothing more is to be sent.
    fn settle(&mut self) {
        loop {
            while let Some(event) = self.front.poll_event() {
                self.events.push(event);
            }
            let Some(message) = self.front.poll_message(self.now) else { return };
            let (header, payload) = message.octets.split_first_chunk().unwrap();
            let header = Header::parse(*header, false).unwrap();
            let fds = usize::from(message.fd.is_some());
            let request = Request::decode(header.request, payload, fds).unwrap();
            let acked = header.needs_reply();
            let early = matches!(
                request,
                Request::GetFeatures
                    | Request::GetProtocolFeatures
                    | Request::SetProtocolFeatures(_)
            );
            assert!(!acked || !early && self.protocol & protocol::REPLY_ACK != 0, "{request:?}");
            let reply = self.answer(&request, acked);
            self.requests.push((request, message.fd));
            match self.instead.clone().filter(|(at, _, _)| *at == header.request) {
                Some((_, octets, fds)) => self.deliver(&octets, fds),
                None => reply.iter().for_each(|octets| self.deliver(octets, 0)),
            }
        }
    }

    fn run(mut self, packed: bool) -> Self {
        self.settle();
        if matches!(self.events.last(), Some(Event::QueuesNeeded { .. })) {
            let rings: Vec<_> = (0..4).map(|index| ring(index, packed)).collect();
            self.front.set_queues(REGION, &rings);
            self.settle();
        }
        self
    }

    fn names(&self) -> Vec<String> {
        let name = |request: &Request| match request {
            Request::SetStatus(status) => format!("STATUS={status}"),
            Request::SetVringEnable { index, enable } => format!("ENABLE {index}={enable}"),
            other => crate::tunnel::vhost_user::name(other.number()),
        };
        self.requests.iter().map(|(request, _)| name(request)).collect()
    }

    fn failure(&self) -> String {
        match self.events.last() {
            Some(Event::Failed(error)) => error.to_string(),
            other => panic!("no failure: {other:?} after {:?}", self.names()),
        }
    }
}

const RING: [&str; 5] =
    ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_KICK"];

#[test]
fn a_back_end_with_everything_is_set_up_in_order() {
    let bench = Bench::new().run(false);
    let mut names = vec![
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_OWNER",
        "SET_BACKEND_REQ_FD",
        "GET_CONFIG",
        "STATUS=1",
        "STATUS=3",
        "SET_FEATURES",
        "STATUS=11",
        "GET_STATUS",
        "SET_MEM_TABLE",
    ];
    names.extend([RING; 4].as_flattened());
    names.extend(["ENABLE 0=1", "ENABLE 1=1", "ENABLE 2=1", "ENABLE 3=1"]);
    names.extend(["STATUS=15", "GET_STATUS"]);
    assert_eq!(bench.names(), names);
    let features = VERSION_1 | MAC | MTU;
    let config = (0..12).collect();
    let needed = Event::QueuesNeeded { pairs: 2, features, config };
    assert_eq!(bench.events, [needed, Event::Running]);
    let request = |name: &str| {
        let at = bench.names().iter().position(|n| n == name).unwrap();
        bench.requests[at].clone()
    };
    assert_eq!(request("SET_FEATURES").0, Request::SetFeatures(features | PROTOCOL));
    assert_eq!(request("SET_PROTOCOL_FEATURES").0, Request::SetProtocolFeatures(OURS));
    let table = (Request::SetMemTable(vec![REGION]), Some(Descriptor::Memory));
    assert_eq!(request("SET_MEM_TABLE"), table);
    assert_eq!(request("SET_BACKEND_REQ_FD").1, Some(Descriptor::BackendRequests));
    assert_eq!(bench.front.poll_timeout(), Some(bench.now + LOOK_PERIOD));
}

#[test]
fn the_plainest_back_end_is_set_up_with_one_pair_and_asked_at_last_whether_it_is_there() {
    let bench = Bench { features: VERSION_1 | MAC, ..Bench::new() }.run(false);
    let mut names = vec!["GET_FEATURES", "SET_OWNER", "SET_FEATURES", "SET_MEM_TABLE"];
    names.extend([RING; 2].as_flattened());
    names.push("GET_FEATURES");
    assert_eq!(bench.names(), names);
    let needed = Event::QueuesNeeded { pairs: 1, features: VERSION_1, config: vec![] };
    assert_eq!(bench.events, [needed, Event::Running]);
}

#[test]
fn a_ring_is_told_with_its_own_addresses_and_descriptors_and_a_packed_one_begins_at_its_wrap() {
    for (packed, base) in [(false, 0), (true, 0x8000_8000)] {
        let bench = Bench::of(protocol::MQ).run(packed);
        for index in 0..4 {
            let of_ring = |request: &Request| match request {
                Request::SetVringNum { index: i, .. }
                | Request::SetVringBase { index: i, .. }
                | Request::SetVringAddr { index: i, .. }
                | Request::SetVringCall { index: i, .. }
                | Request::SetVringKick { index: i, .. } => *i == index,
                _ => false,
            };
            let told: Vec<_> =
                bench.requests.iter().filter(|(request, _)| of_ring(request)).cloned().collect();
            let addr = ring(index.into(), packed).addr;
            let number = u16::try_from(index).unwrap();
            let expected = [
                (Request::SetVringNum { index, num: 64 }, None),
                (Request::SetVringBase { index, base }, None),
                (Request::SetVringAddr { index, flags: 0, addr }, None),
                (Request::SetVringCall { index, fd: true }, Some(Descriptor::Call(number))),
                (Request::SetVringKick { index, fd: true }, Some(Descriptor::Kick(number))),
            ];
            assert_eq!(told, expected);
        }
    }
}

#[test]
fn without_config_space_what_needs_it_is_not_used() {
    let without = protocol::MQ | protocol::REPLY_ACK | protocol::BACKEND_REQ;
    // It may have none, and it may say so only when it is asked.
    for bench in [Bench::of(without), Bench { space: vec![], ..Bench::new() }] {
        let bench = bench.run(false);
        let needed = Event::QueuesNeeded { pairs: 2, features: VERSION_1, config: vec![] };
        assert_eq!(bench.events, [needed, Event::Running]);
    }
    let bench = Bench::of(without).run(false);
    let used = protocol::MQ | protocol::REPLY_ACK;
    assert_eq!(bench.requests[2].0, Request::SetProtocolFeatures(used));
    // Nor is it read where nothing needs it.
    let bench = Bench { features: VERSION_1 | PROTOCOL, ..Bench::new() }.run(false);
    assert!(!bench.names().iter().any(|n| n == "GET_CONFIG" || n == "SET_BACKEND_REQ_FD"));
}

#[test]
fn as_many_pairs_are_used_as_both_have() {
    for (queue_num, expected) in [(1, 1), (2, 2), (3, 2), (u64::MAX, 2)] {
        let bench = Bench { queue_num, ..Bench::new() }.run(false);
        let Some(Event::QueuesNeeded { pairs, .. }) = bench.events.first() else { panic!() };
        assert_eq!(*pairs, expected);
        let rings = bench.names().iter().filter(|name| *name == "SET_VRING_NUM").count();
        assert_eq!(rings, usize::from(2 * expected));
    }
    assert_eq!(
        Bench { queue_num: 0, ..Bench::new() }.run(false).failure(),
        "the back-end says that it has no queues"
    );
}

#[test]
fn a_back_end_that_cannot_be_used_is_told_why() {
    let failure = |bench: Bench| bench.run(false).failure();
    assert_eq!(
        failure(Bench { features: !VERSION_1, ..Bench::new() }),
        "the back-end does not offer VERSION_1; a device of virtio 1.0 or later is needed"
    );
    assert_eq!(
        failure(Bench { status_not: 8, ..Bench::new() }),
        "the back-end does not take the features 0x100000028"
    );
    for (status_bad, status_not, reads) in [(0x40, 0, "0x4f"), (0x80, 0, "0x8f"), (0, 4, "0xb")] {
        assert_eq!(
            failure(Bench { status_bad, status_not, ..Bench::new() }),
            format!("the back-end's device does not run: its status is {reads}")
        );
    }
}

#[test]
fn each_request_that_is_refused_is_named_and_ends_it() {
    for request in [
        request::SET_OWNER,
        request::SET_BACKEND_REQ_FD,
        request::SET_STATUS,
        request::SET_FEATURES,
        request::SET_MEM_TABLE,
        request::SET_VRING_NUM,
        request::SET_VRING_BASE,
        request::SET_VRING_ADDR,
        request::SET_VRING_CALL,
        request::SET_VRING_KICK,
        request::SET_VRING_ENABLE,
    ] {
        let mut bench = Bench { refuses: request, ..Bench::new() }.run(false);
        let name = crate::tunnel::vhost_user::name(request);
        assert_eq!(bench.failure(), format!("the back-end refuses {name}, with 1"));
        assert_eq!(bench.requests.last().unwrap().0.number(), request);
        // And then it is silent.
        bench.deliver(&Reply::Number(0).encode(request), 0);
        bench.front.handle_backend_request([2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], &[], 0);
        bench.front.handle_timeout(bench.now + TIMEOUT);
        bench.front.set_queues(REGION, &[ring(0, false); 2]);
        assert_eq!(bench.front.poll_timeout(), None);
        assert_eq!(bench.front.poll_backend_reply(), None);
        let events = bench.events.len();
        bench.settle();
        assert_eq!(bench.events.len(), events);
        assert_eq!(bench.requests.last().unwrap().0.number(), request);
    }
}

#[test]
fn a_request_that_is_not_answered_in_time_is_named() {
    for silent_at in [
        request::GET_FEATURES,
        request::GET_PROTOCOL_FEATURES,
        request::GET_QUEUE_NUM,
        request::SET_OWNER,
        request::GET_CONFIG,
        request::GET_STATUS,
        request::SET_VRING_KICK,
    ] {
        let mut bench = Bench { silent_at, ..Bench::new() }.run(false);
        assert_eq!(bench.front.poll_timeout(), Some(bench.now + TIMEOUT));
        bench.front.handle_timeout(bench.now + TIMEOUT - Duration::from_nanos(1));
        assert_eq!(bench.front.poll_event(), None);
        bench.front.handle_timeout(bench.now + TIMEOUT);
        bench.settle();
        let name = crate::tunnel::vhost_user::name(silent_at);
        assert_eq!(bench.failure(), format!("the back-end has not answered {name} in 5 s"));
    }
}

#[test]
fn a_reply_that_is_not_due_is_wrong_in_any_way_or_has_descriptors_ends_it() {
    let number = |request| Reply::Number(1).encode(request);
    let config = |offset, len| {
        Reply::Config { offset, flags: 0, data: vec![0; len] }.encode(request::GET_CONFIG)
    };
    let mut lies = config(0, 12);
    lies[HEADER_LEN + 4] = 200;
    for (at, octets, fds, failure) in [
        (
            request::GET_QUEUE_NUM,
            number(request::GET_FEATURES),
            0,
            "the back-end answers GET_FEATURES instead of GET_QUEUE_NUM",
        ),
        (
            request::GET_QUEUE_NUM,
            number(request::GET_QUEUE_NUM),
            1,
            "the back-end's message: GET_QUEUE_NUM came with 1 descriptors and takes 0",
        ),
        (
            request::GET_FEATURES,
            encode(request::GET_FEATURES, flags::REPLY, &[0; 4]),
            0,
            "the back-end's message: GET_FEATURES has a payload of 4 bytes, which it cannot have",
        ),
        (
            request::SET_OWNER,
            encode(request::SET_OWNER, flags::REPLY, &[0; 9]),
            0,
            "the back-end's message: SET_OWNER has a payload of 9 bytes, which it cannot have",
        ),
        (
            request::GET_FEATURES,
            encode(request::GET_FEATURES, 0, &[0; 8]),
            0,
            "the back-end's message: GET_FEATURES has flags 0x1",
        ),
        (
            request::GET_CONFIG,
            config(0, 11),
            0,
            "the back-end gives 11 bytes of config space, asked for 12",
        ),
        (
            request::GET_CONFIG,
            config(4, 12),
            0,
            "the back-end gives config space from 4, asked for from 0",
        ),
        (
            request::GET_CONFIG,
            lies,
            0,
            "the back-end's message: GET_CONFIG has a payload of 24 bytes, which it cannot have",
        ),
        (
            request::GET_STATUS,
            Reply::Inflight(Inflight::default()).encode(request::GET_INFLIGHT_FD),
            1,
            "the back-end answers GET_INFLIGHT_FD instead of GET_STATUS",
        ),
    ] {
        let bench = Bench { instead: Some((at, octets, fds)), ..Bench::new() }.run(false);
        assert_eq!(bench.failure(), failure);
    }
    let mut bench = Bench::new().run(false);
    bench.deliver(&number(request::GET_STATUS), 0);
    bench.settle();
    assert_eq!(bench.failure(), "the back-end answers GET_STATUS, which was not asked");
}

/// The octets of a back-end's request, that asks for a reply.
fn backend_request(number: u32) -> [u8; HEADER_LEN] {
    encode(number, flags::NEED_REPLY, &[]).try_into().unwrap()
}

#[test]
fn config_space_is_read_again_when_it_changes_but_not_without_end() {
    let mut bench = Bench::new().run(false);
    let read = |bench: &Bench| bench.names().iter().filter(|n| *n == "GET_CONFIG").count();
    bench.now += CONFIG_PERIOD;
    for round in 0..10_u8 {
        bench.space[6] = round + 100;
        bench.front.handle_backend_request(backend_request(BACKEND_CONFIG_CHANGE), &[], 0);
        let done = Reply::Number(0).encode(BACKEND_CONFIG_CHANGE);
        assert_eq!(bench.front.poll_backend_reply(), Some(done));
        bench.settle();
    }
    assert_eq!(read(&bench), 2);
    assert_eq!(bench.front.poll_timeout(), Some(bench.now + CONFIG_PERIOD));
    bench.now += CONFIG_PERIOD;
    bench.settle();
    assert_eq!(read(&bench), 3);
    let seen: Vec<_> = bench.events[2..]
        .iter()
        .map(|event| match event {
            Event::ConfigChanged { config } => config[6],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [100, 109]);
    // The same again is no change.
    bench.now += CONFIG_PERIOD;
    bench.front.handle_backend_request(backend_request(BACKEND_CONFIG_CHANGE), &[], 0);
    bench.settle();
    assert_eq!((read(&bench), bench.events.len()), (4, 4));
    assert!(bench.front.poll_timeout().unwrap() > bench.now + SECOND);
}

#[test]
fn a_device_that_breaks_or_a_back_end_that_hangs_is_found_out() {
    for (protocol, asks) in [(u64::MAX, "GET_STATUS"), (0, "GET_FEATURES")] {
        let mut bench = Bench::of(protocol).run(false);
        let before = bench.requests.len();
        bench.now += LOOK_PERIOD;
        bench.settle();
        assert_eq!(bench.names()[before..], [asks]);
        assert_eq!(bench.front.poll_timeout(), Some(bench.now + LOOK_PERIOD));
        (bench.silent_at, bench.now) = (bench.requests[before].0.number(), bench.now + LOOK_PERIOD);
        bench.settle();
        bench.now = bench.front.poll_timeout().unwrap();
        bench.front.handle_timeout(bench.now);
        bench.settle();
        assert_eq!(bench.failure(), format!("the back-end has not answered {asks} in 5 s"));
    }
    let mut bench = Bench::new().run(false);
    (bench.status_bad, bench.now) = (0x40, bench.now + LOOK_PERIOD);
    bench.settle();
    assert_eq!(bench.failure(), "the back-end's device does not run: its status is 0x4f");
}

#[test]
fn what_else_a_back_end_asks_for_is_declined_and_nonsense_ends_it() {
    let mut bench = Bench::new().run(false);
    for (number, payload, fds) in [(1, &[0; 8][..], 0), (3, &[], 1), (99, &[], 0), (2, &[0], 0)] {
        bench.front.handle_backend_request(backend_request(number), payload, fds);
        let declined = Reply::Number(1).encode(number);
        assert_eq!(bench.front.poll_backend_reply(), Some(declined));
    }
    bench.settle();
    assert_eq!(bench.events.len(), 2);
    bench.front.handle_backend_request([0; HEADER_LEN], &[], 0);
    bench.settle();
    assert_eq!(bench.failure(), "the back-end's message: request 0 has flags 0x0");
}

proptest! {
    #[test]
    fn whatever_a_back_end_answers_nothing_grows_and_the_end_is_one_event(
        replies in proptest::collection::vec(
            (0_u32..45, 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40), 0_usize..3, any::<bool>()),
            0..40,
        ),
    ) {
        let mut bench = Bench::new();
        let mut last = None;
        for (number, flags, payload, fds, fits) in replies {
            if let Some(message) = bench.front.poll_message(bench.now) {
                last = message.octets.first().copied().map(u32::from);
            }
            let payload = if fits { payload.iter().copied().chain([0xff; 8]).take(8).collect() } else { payload };
            let number = last.filter(|_| fits).unwrap_or(number);
            let octets = encode(number, if fits { flags::REPLY } else { flags }, &payload);
            bench.deliver(&octets, if fits { 0 } else { fds });
            while let Some(event) = bench.front.poll_event() {
                bench.events.push(event);
            }
            prop_assert!(bench.front.outbox.len() <= 8);
        }
        let failed = |event: &&Event| matches!(event, Event::Failed(_));
        let failures = bench.events.iter().filter(failed).count();
        prop_assert!(failures <= 1);
        prop_assert!(failures == 0 || matches!(bench.events.last(), Some(Event::Failed(_))));
    }
}
