//! One link against an end that is driven by hand: well behaved where a test needs a certain
//! situation, and else as bad as can be.

mod dead;
mod netdevs;

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::tunnel::arbitrary::{driver_message, nearly_a_message};
use crate::tunnel::device::DeviceTunnel;
use crate::tunnel::driver::{self, DriverTunnel};
use crate::tunnel::fifo::Fifo;
use crate::tunnel::message::{self, Blocks, Body, Hello, Message};
use crate::tunnel::part::{MemoryEntry, Params};
use crate::tunnel::session::Session;

const LEN: u64 = 1 << 20;
const RAW: u32 = 66;

/// The end that is driven by hand: a session and its FIFOs.
struct Raw {
    session: Session,
    fifo: Option<Fifo>,
    epoch: u32,
}

/// The link under test and its other end.
struct Pair {
    mem: Arc<BusMemory>,
    now: Instant,
    link: Link,
    raw: Raw,
    /// Every event of the link, the data path apart.
    events: Vec<Event>,
    path: Option<Box<dyn Path>>,
}

impl Pair {
    fn new(role: Role, features_off: Features) -> Self {
        let (now, mem) = (Instant::now(), slot(LEN));
        let p = params(role.other(), RAW, LEN, Features::NONE);
        let entry =
            |kind, r: &Range<u64>| MemoryEntry { kind, bus_addr: r.start, len: r.end - r.start };
        let (mailbox, table) = match p.role {
            Role::Device => (u64::from(window::HEADER_LEN), vec![]),
            Role::Driver => {
                (p.driver_memory.start, vec![entry(window::MEMORY_DRIVER, &p.driver_memory)])
            }
        };
        let session = Session::new(
            now,
            &mem,
            Params {
                role: p.role,
                window_addr: 0,
                window_len: (LEN / 4) as u32,
                owner: RAW,
                vectors: 2,
                mailbox,
                window_mailbox: 0x4000,
                dma_only: false,
                table,
                slot: 0,
                heartbeat: HEARTBEAT,
                dead_after: 4 * HEARTBEAT,
            },
        );
        let link = Link::new(now, mem.clone(), params(role, 1, LEN, features_off)).unwrap();
        let raw = Raw { session: session.unwrap(), fifo: None, epoch: 10 };
        let mut pair = Self { mem, now, link, raw, events: Vec::new(), path: None };
        pair.link.handle_peers(now, BTreeSet::from([RAW]));
        pair.meet();
        pair
    }

    /// Starts the other end anew and goes on until the two are in a session.
    fn meet(&mut self) {
        self.raw.epoch += 1;
        self.raw.fifo = None;
        self.raw.session.start(self.now, self.raw.epoch, 5);
        while self.raw.fifo.is_none() || !matches!(self.last_state(), State::Negotiating) {
            self.look();
            self.pass(5 * MS);
        }
    }

    fn look(&mut self) {
        let change = self.raw.session.handle_look(self.now, &self.mem, &|_| true);
        match change {
            Some(Change::Up(_, fifo)) => self.raw.fifo = Some(fifo),
            Some(Change::Down(_)) => {
                self.raw.epoch += 1;
                self.raw.fifo = None;
                self.raw.session.start(self.now, self.raw.epoch, 5);
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.input(|link| link.handle_timeout(now));
        self.input(|link| link.handle_doorbell(now));
    }

    fn input(&mut self, input: impl FnOnce(&mut Link)) {
        input(&mut self.link);
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Start(_) => assert!(self.path.is_none()),
                Event::StartPair(start) => self.path = Some(start.path),
                Event::Stop => {
                    assert!(self.path.take().is_some(), "Stop without Start");
                    self.events.push(Event::Stop);
                    self.link.handle_stopped(self.now);
                }
                event => self.events.push(event),
            }
        }
    }

    fn send(&mut self, octets: &[u8]) -> bool {
        self.raw.fifo.as_mut().unwrap().send(&self.mem, octets).unwrap()
    }

    /// The next message of the link.
    fn take(&mut self) -> Option<[u8; window::SLOT_LEN]> {
        let mut slot = [0; window::SLOT_LEN];
        let fifo = self.raw.fifo.as_mut()?;
        fifo.receive(&self.mem, &mut slot).ok()?.then_some(slot)
    }

    fn states(&self) -> impl DoubleEndedIterator<Item = (State, &str)> {
        self.events.iter().filter_map(|event| match event {
            Event::State(state, why) => Some((*state, why.as_str())),
            _ => None,
        })
    }

    fn last_state(&self) -> State {
        self.states().next_back().map_or(State::Waiting, |(state, _)| state)
    }

    fn carrier(&self) -> Option<bool> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Carrier(up) => Some(*up),
            _ => None,
        })
    }
}

fn hello(pair: &Pair) -> Hello {
    Hello {
        revision: msg::REVISION,
        max_len: 264,
        epoch: pair.raw.epoch,
        layout: window::LAYOUT_VERSION,
        version: "raw".into(),
        ..Hello::default()
    }
}

/// A driver by hand, which accepts all that is offered.
fn raw_driver(pair: &Pair) -> DriverTunnel {
    let config = DriverConfig {
        dialect: Dialect::default(),
        hello: hello(pair),
        greets: true,
        wanted: Features::OFFER.bits(),
        required: 0,
        clean: |bits| bits,
        pairs: 1,
        request_timeout: SECOND,
        attempts: 3,
    };
    DriverTunnel::new(pair.now, config)
}

/// A device by hand, as far as it is set up.
struct RawDevice {
    tunnel: DeviceTunnel,
    model: NetDevice,
}

impl RawDevice {
    fn new(pair: &Pair) -> Self {
        let offer = Offer {
            features: Features::OFFER.without(Features::of(&[net::F_MQ])),
            mac: [2; 6],
            mtu: 1500,
            rx_size: QUEUE_SIZE,
            tx_size: QUEUE_SIZE,
            pairs: 1,
        };
        let mut model = NetDevice::new(offer);
        model.set_link(true);
        Self { tunnel: DeviceTunnel::new(Dialect::default(), hello(pair)), model }
    }

    fn turn(&mut self, pair: &mut Pair) {
        let mut out = [0; msg::MAX_LEN];
        for _ in 0..100 {
            while let Some(octets) = pair.take() {
                self.tunnel.handle_message(pair.now, &octets, &mut self.model);
                while self.tunnel.poll_event().is_some() || self.model.poll_event().is_some() {}
            }
            while let Some(len) = self.tunnel.poll_message(&mut out) {
                assert!(pair.send(&out[..len]));
            }
            pair.pass(MS);
        }
    }
}

#[test]
fn the_carrier_follows_the_device_s_link_status_where_that_was_negotiated() {
    for negotiated in [true, false] {
        let off = if negotiated { Features::NONE } else { Features::of(&[net::F_STATUS]) };
        let mut pair = Pair::new(Role::Driver, off);
        let mut device = RawDevice::new(&pair);
        device.turn(&mut pair);
        assert_eq!((pair.last_state(), pair.carrier()), (State::Up, Some(true)));
        for up in [false, true, false] {
            assert!(device.model.set_link(up));
            device.tunnel.notify_config_changed(&device.model);
            device.turn(&mut pair);
            assert_eq!(pair.carrier(), Some(up || !negotiated), "STATUS {negotiated}, link {up}");
        }
        assert_eq!(pair.last_state(), State::Up);
    }
}

#[test]
fn a_board_says_why_it_refuses_a_driver_s_features() {
    let mut pair = Pair::new(Role::Device, Features::NONE);
    let mut tunnel = raw_driver(&pair);
    let mut out = [0; msg::MAX_LEN];
    for _ in 0..100 {
        while let Some(octets) = pair.take() {
            tunnel.handle_message(pair.now, &octets);
        }
        while let Some(len) = tunnel.poll_message(&mut out) {
            // On its way the accepted set loses VERSION_1, as that of a legacy driver.
            let mut message = message::decode(Dialect::default(), &out[..len]).unwrap();
            if let Body::SetDriverFeatures(Blocks { index: 0, blocks }) = &mut message.body {
                blocks[1] &= !(1 << (virtio::F_VERSION_1 - 32));
            }
            let len = message::encode(Dialect::default(), &message, &mut out);
            assert!(pair.send(&out[..len]));
        }
        pair.pass(MS);
    }
    let why = "FEATURES_OK is refused: the driver does not accept VERSION_1; a driver of virtio 1.0 or later is needed";
    let said: Vec<_> = pair.states().filter(|(_, text)| *text == why).collect();
    assert_eq!(said, [(State::Negotiating, why)]);
    assert!(pair.path.is_none());
    let failed = std::iter::from_fn(|| tunnel.poll_event()).any(
        |event| matches!(event, driver::Event::Failed(e) if e.to_string().contains("refused")),
    );
    assert!(failed, "and the driver is told");
}

#[test]
fn a_driver_may_reset_the_device_and_set_it_up_again_in_one_session() {
    let mut pair = Pair::new(Role::Device, Features::NONE);
    let mut tunnel = raw_driver(&pair);
    let mut out = [0; msg::MAX_LEN];
    for round in 0..3 {
        pair.events.clear();
        let mut stopped = false;
        for step in 0..300 {
            while let Some(octets) = pair.take() {
                tunnel.handle_message(pair.now, &octets);
            }
            tunnel.handle_timeout(pair.now);
            while let Some(event) = tunnel.poll_event() {
                match event {
                    driver::Event::QueuesNeeded { .. } => {
                        let queue = |index: u16| driver::QueueSetup {
                            index,
                            size: 16,
                            desc: 0x1_0000 + 0x1000 * u64::from(index),
                            driver: 0x1_4000 + 0x1000 * u64::from(index),
                            device: 0x1_8000 + 0x1000 * u64::from(index),
                        };
                        tunnel.set_queues(pair.now, vec![queue(0), queue(1)]);
                    }
                    driver::Event::Failed(error) => panic!("round {round}: {error}"),
                    driver::Event::Stopped => stopped = true,
                    _ => {}
                }
            }
            if step == 150 {
                assert_eq!((pair.last_state(), pair.carrier()), (State::Up, Some(true)));
                assert!(pair.path.is_some());
                tunnel.reset(pair.now);
            }
            while let Some(len) = tunnel.poll_message(&mut out) {
                assert!(pair.send(&out[..len]));
            }
            pair.look();
            pair.pass(MS);
        }
        assert!(stopped && pair.path.is_none(), "round {round}");
        assert_eq!(pair.carrier(), Some(false), "nobody carries frames");
        assert_eq!(pair.events.iter().filter(|e| matches!(e, Event::Stop)).count(), 1);
        tunnel.restart(pair.now);
    }
}

#[test]
fn a_driver_that_comes_to_nothing_again_and_again_is_kept_away() {
    let set = |status: u8| Body::SetDeviceStatus { status: status.into() };
    let features = |low| {
        let high = [virtio::F_VERSION_1].iter().fold(0, |bits, bit| bits | 1 << (bit - 32));
        Body::SetDriverFeatures(Blocks { index: 0, blocks: vec![low, high] })
    };
    let queue = |index: u32| Body::SetVqueue {
        index,
        flags: msg::VQ_ENABLE,
        size: 16,
        reserved: 0,
        desc: 0x1_0000 + 0x1000 * u64::from(index),
        driver: 0x1_4000 + 0x1000 * u64::from(index),
        device: 0x1_8000 + 0x1000 * u64::from(index),
    };
    let runs = vec![set(3), features(0), set(11), queue(0), queue(1), set(15), set(0)];
    // What is not offered, now this and now that.
    let refused = [10, 14].map(|bit| vec![set(3), features(1 << bit), set(11), set(0)]);
    for (what, cycle, breaks) in [
        ("resets what runs", runs.clone(), false),
        ("breaks what runs", runs, true),
        ("is refused", refused.concat(), false),
    ] {
        let mut pair = Pair::new(Role::Device, Features::NONE);
        pair.events.clear();
        let mut cycles = 0;
        while pair.raw.fifo.is_some() && pair.last_state() != State::Quarantined {
            cycles += 1;
            assert!(cycles < 50, "{what}: it goes on");
            for body in &cycle {
                let mut out = [0; msg::MAX_LEN];
                let message = Message { dev_num: 0, token: 7, body: body.clone() };
                let len = message::encode(Dialect::default(), &message, &mut out);
                assert!(pair.send(&out[..len]));
                let now = pair.now;
                pair.input(|link| link.handle_doorbell(now));
                if breaks && pair.path.is_some() {
                    pair.input(|link| link.handle_broken(now, "a test broke the ring"));
                }
                while pair.take().is_some() {}
            }
        }
        assert!(pair.states().count() < 60, "{what}: {} lines", pair.states().count());
        let (state, why) = pair.states().last().unwrap();
        assert_eq!(state, State::Quarantined);
        assert_eq!(why, "the driver sets the device up again and again");
    }
}

#[test]
fn an_end_that_says_hello_again_and_again_is_told_of_once() {
    let mut pair = Pair::new(Role::Device, Features::NONE);
    let mut out = [0; msg::MAX_LEN];
    for last in 0..100 {
        let body = Body::Hello(Hello { mac: [2, 0, 0, 0, 0, last], ..hello(&pair) });
        let message = Message { dev_num: 0, token: last.into(), body };
        let len = message::encode(Dialect::default(), &message, &mut out);
        assert!(pair.send(&out[..len]));
        pair.pass(MS);
        pair.look();
        while pair.take().is_some() {}
    }
    let told: Vec<_> = pair.events.iter().filter(|e| matches!(e, Event::Peer(_))).collect();
    assert!(matches!(told[..], [Event::Peer(Hello { mac: [2, 0, 0, 0, 0, 0], .. })]), "{told:?}");
}

#[test]
fn an_end_that_breaks_the_fifo_is_kept_away_for_longer_and_longer() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::new(role, Features::NONE);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            let head = if role == Role::Device { u64::from(window::HEADER_LEN) } else { LEN / 4 };
            let head = pair.mem.resolve(head, 4).unwrap();
            pair.mem.view(head).unwrap().store_le32(window::MAILBOX_HEAD, 0xffff_ffff);
            let (since, epoch) = (pair.now, pair.link.epochs().0);
            pair.pass(Duration::ZERO);
            assert_eq!(pair.last_state(), State::Quarantined);
            let why = pair.states().next_back().unwrap().1;
            assert!(why.starts_with("message FIFO: head is 4294967295"), "{why}");
            while pair.link.epochs().0 == epoch {
                let due = pair.link.poll_timeout().unwrap();
                assert!(due > pair.now, "called again at once");
                pair.now = due;
                let now = pair.now;
                pair.input(|link| link.handle_timeout(now));
            }
            assert_eq!(pair.now - since, expected * SECOND);
            pair.meet();
        }
    }
}

#[test]
fn doorbells_without_end_cost_a_look_each_and_change_nothing() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::new(role, Features::NONE);
        pair.events.clear();
        let now = pair.now;
        for _ in 0..10_000 {
            pair.input(|link| link.handle_doorbell(now));
        }
        assert!(pair.events.len() < 3, "{:?}", pair.events);
        assert!(pair.link.poll_timeout().unwrap() > now);
    }
}

#[test]
fn a_flood_of_messages_does_not_hold_a_turn() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::new(role, Features::NONE);
        while pair.take().is_some() {}
        let (go_on, mem) = (AtomicBool::new(true), pair.mem.clone());
        let mut fifo = pair.raw.fifo.take().unwrap();
        std::thread::scope(|s| {
            let flood = s.spawn(|| {
                // Octets that are no message, and events of either end for the other.
                let rubbish = [[7; 264], [0; 264]];
                let mut event = [0; 264];
                event[..8].copy_from_slice(&[0, msg::EVENT_AVAIL, 0, 0, 0, 0, 16, 0]);
                let mut slot = [0; window::SLOT_LEN];
                while go_on.load(Ordering::Relaxed) {
                    for octets in rubbish.iter().chain([&event]) {
                        let _ = fifo.send(&mem, octets);
                    }
                    while fifo.receive(&mem, &mut slot).unwrap_or(false) {}
                }
            });
            // Until a turn meets its bound; with one CPU none may.
            let (since, now) = (Instant::now(), pair.now);
            while !pair.link.has_more() && since.elapsed() < 2 * SECOND {
                pair.events.clear();
                pair.input(|link| link.handle_doorbell(now));
                assert!(pair.events.len() < 300, "a turn has a bound");
            }
            go_on.store(false, Ordering::Relaxed);
            flood.join().unwrap();
            pair.input(|link| link.handle_timeout(now));
            assert!(pair.states().next().is_none(), "rubbish is counted, not punished");
        });
    }
}

#[test]
fn messages_of_any_kind_in_any_order_never_panic_and_never_stop_the_clock() {
    let well_formed = driver_message().prop_map(|m| {
        let mut out = [0; msg::MAX_LEN];
        let len = message::encode(Dialect::default(), &m, &mut out);
        out[..len].to_vec()
    });
    let octets = prop_oneof![4 => well_formed, 1 => nearly_a_message()];
    let octets = prop::collection::vec(octets, 1..60);
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() };
    proptest!(config, |(messages in octets, device in any::<bool>())| {
        let role = if device { Role::Device } else { Role::Driver };
        let mut pair = Pair::new(role, Features::NONE);
        for message in &messages {
            if pair.raw.fifo.is_none() {
                pair.meet();
            }
            pair.send(&message[..message.len().min(264)]);
            while pair.take().is_some() {}
            pair.look();
            pair.pass(MS);
            if let Some(path) = &mut pair.path {
                // The rings lie wherever the driver said.
                let _ = (path.room(&pair.mem).is_ok(), path.receive(&pair.mem).is_ok());
                let _ = path.flush(&pair.mem) | path.release(&pair.mem);
            }
            if matches!(pair.last_state(), State::Quarantined) {
                break;
            }
        }
        let due = pair.link.poll_timeout();
        prop_assert!(due.is_some_and(|at| at >= pair.now), "{due:?}");
    });
}
