//! Two ends of a bus, whose messages these tests carry, answer and forge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fifo::Fifo;
use super::session::{DEVICE_PATIENCE, Params, SECOND, Session};
use crate::memory::{BusMemory, Kind, Mapping, Region, Side};
use crate::spec::{amp_pci as a, msg};
use crate::tunnel::message::{self, Body, Dialect, Message};
use crate::tunnel::part::{Reason, Role};
use crate::tunnel::session::Change;

const MS: Duration = Duration::from_millis(1);

/// One end.
struct End {
    role: Role,
    session: Session,
    fifo: Option<Fifo>,
    waits: Option<Reason>,
    over: Option<Reason>,
    rings: u32,
    /// It takes messages, and answers the bus's.
    answers: bool,
    heard: Vec<Body>,
}

struct Bus {
    bytes: Arc<Mapping>,
    mem: BusMemory,
    now: Instant,
    /// The transport says that nobody else is there.
    alone: bool,
}

impl Bus {
    fn new() -> Self {
        let bytes = Arc::new(Mapping::anonymous(a::FIFO_LEN as usize, Kind::Cached));
        let region = Region::mapped(0, a::FIFO_LEN.into(), Side::Near, bytes.clone(), 0);
        let mem = BusMemory::new(vec![region]).unwrap();
        Self { bytes, mem, now: Instant::now(), alone: false }
    }

    fn end(&self, role: Role) -> End {
        let params =
            Params { role, window_addr: 0, slot: 3, heartbeat: Duration::from_millis(250) };
        let mut session = Session::new(self.now, &self.mem, params).unwrap();
        session.start(self.now, 7);
        let (waits, over, heard) = (None, None, Vec::new());
        End { role, session, fifo: None, waits, over, rings: 0, answers: true, heard }
    }

    /// Lets the ends turn for so long.
    fn run<const N: usize>(&mut self, mut ends: [&mut End; N], time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += MS;
            for end in &mut ends {
                end.turn(self);
            }
        }
    }
}

impl End {
    fn turn(&mut self, bus: &Bus) {
        let mem = &bus.mem;
        if self.answers {
            self.listen(mem);
        } else {
            self.session.hold();
        }
        for _ in 0..4 {
            let fifo = self.fifo.as_ref();
            match self.session.handle_look(bus.now, mem, bus.alone, fifo) {
                None => break,
                Some(Change::Waiting(reason)) => self.waits = Some(reason),
                Some(Change::Ring(_)) => self.rings += 1,
                Some(Change::Up(_, fifo)) => self.fifo = Some(fifo),
                Some(Change::Down(reason)) => {
                    (self.over, self.fifo) = (Some(reason), None);
                }
            }
        }
        let mut out = [0; msg::MAX_LEN];
        while let (Some(fifo), Some(len)) = (&mut self.fifo, self.session.poll_message(&mut out)) {
            // What is wrong with the FIFO the session finds out by itself.
            let _ = fifo.send(mem, &out[..len]);
        }
    }

    fn listen(&mut self, mem: &BusMemory) {
        let mut slot = [0; a::SLOT_LEN];
        while self.fifo.is_some_and(|fifo| fifo.has_message(mem)) {
            assert!(self.fifo.as_mut().unwrap().receive(mem, &mut slot).unwrap());
            let taken = self.session.take(&slot);
            let Message { body, token, .. } = message::decode(Dialect::V1, &slot).unwrap();
            assert_eq!(token, 0);
            self.heard.push(body.clone());
            match body {
                _ if taken => {}
                Body::Ping { data } => self.say(mem, Body::Pong { data }),
                Body::GetDevices { offset, count } => {
                    let bitmap = vec![1; usize::from(count / 8)];
                    self.say(mem, Body::Devices { offset, next_offset: 0, count, bitmap });
                }
                _ => {}
            }
        }
    }

    fn say(&mut self, mem: &BusMemory, body: Body) {
        let mut out = [0; msg::MAX_LEN];
        let len = message::encode(Dialect::V1, &Message { dev_num: 0, token: 0, body }, &mut out);
        assert!(self.fifo.as_mut().unwrap().send(mem, &out[..len]).unwrap());
    }

    fn is_up(&self) -> bool {
        assert!(self.fifo.is_none() || self.over.is_none());
        self.fifo.is_some()
    }

    fn start(&mut self, bus: &Bus) {
        (self.over, self.waits) = (None, None);
        self.session.start(bus.now, 8);
    }
}

fn met() -> (Bus, End, End) {
    let mut bus = Bus::new();
    let (mut driver, mut device) = (bus.end(Role::Driver), bus.end(Role::Device));
    bus.run([&mut driver, &mut device], 200 * MS);
    assert!(driver.is_up() && device.is_up());
    (bus, driver, device)
}

#[test]
fn whoever_comes_first_waits_and_says_for_whom() {
    for first in [Role::Driver, Role::Device] {
        let mut bus = Bus::new();
        let mut end = bus.end(first);
        bus.run([&mut end], 10 * SECOND);
        assert!(!end.is_up());
        assert_eq!(end.waits, Some(Reason::NotReady(first.other())));
        assert_eq!(end.rings, 1, "what waits still is not asked again");
        let mut other = bus.end(first.other());
        bus.run([&mut end, &mut other], 200 * MS);
        assert!(end.is_up() && other.is_up());
    }
}

#[test]
fn a_session_is_kept_alive_by_a_ping_each_second() {
    let (mut bus, mut driver, mut device) = met();
    device.heard.clear();
    bus.run([&mut driver, &mut device], 60 * SECOND);
    assert!(driver.is_up() && device.is_up());
    let pings = device.heard.iter().filter(|body| **body == Body::Ping { data: 1 }).count();
    assert!((59..=61).contains(&pings) && device.heard.len() == pings, "{:?}", device.heard);
    assert!(!driver.heard.iter().any(|body| matches!(body, Body::Ping { .. })));
}

#[test]
fn a_device_that_says_nothing_for_a_second_is_stale() {
    let (mut bus, mut driver, _) = met();
    let since = bus.now;
    while driver.is_up() {
        assert!(bus.now < since + 2 * SECOND);
        bus.run([&mut driver], MS);
    }
    assert_eq!(driver.over, Some(Reason::Mute(Role::Device, 1)));
}

#[test]
fn a_device_whose_tunnel_waits_says_that_it_lives_and_so_does_a_driver_that_does_not_ping() {
    let (mut bus, mut driver, mut device) = met();
    device.answers = false;
    bus.run([&mut driver, &mut device], 20 * SECOND);
    assert!(driver.is_up() && device.is_up());
    let (mut bus, mut driver, mut device) = met();
    for _ in 0..20 {
        bus.run([&mut device], SECOND);
        driver.listen(&bus.mem);
        assert!(device.is_up(), "the driver has answered a PING");
    }
}

#[test]
fn a_driver_that_says_nothing_at_all_is_gone_after_five_seconds() {
    let (mut bus, mut driver, mut device) = met();
    bus.run([&mut device], (DEVICE_PATIENCE - 1) * SECOND);
    assert!(device.is_up());
    bus.run([&mut device], 2 * SECOND);
    assert_eq!(device.over, Some(Reason::Mute(Role::Driver, DEVICE_PATIENCE)));
    // The device begins anew, and the driver hears of that.
    device.start(&bus);
    bus.run([&mut driver, &mut device], 200 * MS);
    assert_eq!(driver.over, Some(Reason::Shutdown(Role::Device)));
    driver.start(&bus);
    bus.run([&mut driver, &mut device], 200 * MS);
    assert!(driver.is_up() && device.is_up());
}

#[test]
fn an_end_that_slept_does_not_take_the_other_one_for_silent() {
    let (mut bus, mut driver, mut device) = met();
    bus.run([&mut driver, &mut device], 1500 * MS);
    for _ in 0..3 {
        bus.run([&mut device], 3 * SECOND);
        bus.run([&mut driver, &mut device], 1500 * MS);
        assert!(driver.is_up() && device.is_up(), "{:?} {:?}", driver.over, device.over);
    }
}

#[test]
fn a_device_that_begins_anew_is_noticed_at_once_and_one_that_leaves_too() {
    let (mut bus, mut driver, _) = met();
    let mut device = bus.end(Role::Device);
    bus.run([&mut driver, &mut device], 10 * MS);
    assert_eq!(driver.over, Some(Reason::Shutdown(Role::Device)));
    driver.start(&bus);
    bus.run([&mut driver, &mut device], 200 * MS);
    assert!(driver.is_up() && device.is_up());
    assert!(device.session.shutdown(&bus.mem, device.fifo.as_mut()));
    bus.run([&mut driver], 10 * MS);
    assert_eq!(driver.over, Some(Reason::Shutdown(Role::Device)));
    assert!(driver.session.poll_timeout().is_none());
}

#[test]
fn a_driver_that_leaves_resets_the_device() {
    let (mut bus, mut driver, mut device) = met();
    device.heard.clear();
    assert!(driver.session.shutdown(&bus.mem, driver.fifo.as_mut()));
    bus.run([&mut device], 10 * MS);
    assert!(device.heard.contains(&Body::SetDeviceStatus { status: 0 }));
}

#[test]
fn what_was_said_to_an_earlier_driver_is_not_heard_by_the_next() {
    let (mut bus, _, mut device) = met();
    for data in 0..20 {
        device.say(&bus.mem, Body::Ping { data });
    }
    let mut driver = bus.end(Role::Driver);
    bus.run([&mut driver, &mut device], 200 * MS);
    assert!(driver.is_up());
    let old = |body: &Body| matches!(body, Body::Ping { data } if *data != 1);
    assert!(!driver.heard.iter().any(old), "{:?}", driver.heard);
}

#[test]
fn only_the_answer_that_linux_takes_is_taken_and_the_device_must_be_there() {
    let answer = |offset, count, first| {
        let mut bitmap = vec![0; usize::from(count) / 8];
        bitmap[0] = first;
        Body::Devices { offset, next_offset: 0, count, bitmap }
    };
    for (body, waits) in [
        (answer(8, 32, 1), Reason::NotReady(Role::Device)),
        (answer(0, 24, 1), Reason::NotReady(Role::Device)),
        (answer(0, 40, 1), Reason::NotReady(Role::Device)),
        (answer(0, 32, 0xfe), Reason::NoDevice),
    ] {
        let mut bus = Bus::new();
        let mut driver = bus.end(Role::Driver);
        let device = super::fifo::Area::at(&bus.mem, 0, Role::Device).unwrap();
        let mut board = bus.end(Role::Device);
        board.fifo = device.resume(&bus.mem);
        bus.run([&mut driver], 60 * MS);
        board.say(&bus.mem, body);
        bus.run([&mut driver], 60 * MS);
        assert!(!driver.is_up());
        assert_eq!(driver.waits, Some(waits));
        board.say(&bus.mem, answer(0, 32, 0xff));
        bus.run([&mut driver], 60 * MS);
        assert!(driver.is_up());
    }
}

#[test]
fn indices_of_another_s_making_end_a_session_and_the_next_one_comes() {
    for (queue, at) in [
        (a::TO_DEVICE, a::AT_HEAD),
        (a::TO_DEVICE, a::AT_TAIL),
        (a::TO_DRIVER, a::AT_HEAD),
        (a::TO_DRIVER, a::AT_TAIL),
    ] {
        let (mut bus, mut driver, mut device) = met();
        bus.bytes.view(queue as usize, a::QUEUE_LEN as usize).store_le32(at, u32::MAX);
        (driver.answers, device.answers) = (false, false);
        bus.run([&mut driver, &mut device], 1100 * MS);
        let drivers = (queue == a::TO_DEVICE) == (at == a::AT_HEAD);
        let (owner, other) =
            if drivers { (&mut driver, &mut device) } else { (&mut device, &mut driver) };
        assert_eq!(owner.over, Some(Reason::Indices(owner.role)));
        owner.start(&bus);
        other.start(&bus);
        other.fifo = None;
        (driver.answers, device.answers) = (true, true);
        bus.run([&mut driver, &mut device], 1200 * MS);
        assert!(driver.is_up() && device.is_up(), "{queue:#x} {at:#x}");
    }
}

#[test]
fn a_dead_bus_is_one_for_the_driver() {
    let (mut bus, mut driver, _) = met();
    let ones = vec![0xff; a::FIFO_LEN as usize];
    bus.bytes.view(0, ones.len()).copy_from(0, &ones);
    driver.answers = false;
    assert_eq!(driver.session.is_over(&bus.mem, driver.fifo.as_ref()), Some(Reason::AllOnes));
    bus.run([&mut driver], 1100 * MS);
    assert_eq!(driver.over, Some(Reason::AllOnes));
    driver.start(&bus);
    bus.run([&mut driver], 100 * MS);
    assert_eq!(driver.waits, Some(Reason::AllOnes));
    let mut device = bus.end(Role::Device);
    (driver.answers, device.answers) = (true, true);
    bus.run([&mut driver, &mut device], 1200 * MS);
    assert!(driver.is_up() && device.is_up());
}

#[test]
fn a_transport_that_says_who_is_there_is_believed() {
    let (mut bus, mut driver, mut device) = met();
    for end in [&mut driver, &mut device] {
        assert!(end.session.handle_peer_gone(false).is_none());
        let Some(Change::Down(reason)) = end.session.handle_peer_gone(true) else {
            panic!("the session goes on")
        };
        assert_eq!(reason, Reason::Gone(end.role.other()));
        end.fifo = None;
    }
    // What a dead driver has left is nobody's word.
    let mut first = bus.end(Role::Driver);
    bus.run([&mut first], 60 * MS);
    bus.alone = true;
    device.start(&bus);
    bus.run([&mut device], SECOND);
    assert!(!device.is_up());
    bus.alone = false;
    bus.run([&mut first, &mut device], 100 * MS);
    assert!(first.is_up() && device.is_up());
}

#[test]
fn a_queue_that_the_other_end_has_filled_with_nonsense_costs_one_look_each() {
    let mut bus = Bus::new();
    let mut driver = bus.end(Role::Driver);
    bus.run([&mut driver], 60 * MS);
    let queue = bus.bytes.view(a::TO_DRIVER as usize, a::QUEUE_LEN as usize);
    for round in 0..200u32 {
        let octets: Vec<u8> =
            (0..a::QUEUE_LEN).map(|i| (i.wrapping_mul(31) ^ (round * 7)) as u8).collect();
        queue.copy_from(a::AT_SLOTS, &octets[a::AT_SLOTS..]);
        queue.store_le32(a::AT_HEAD, (round * 13) % 70);
        driver.session.handle_look(bus.now, &bus.mem, false, None);
        bus.now += MS;
    }
    assert!(!driver.is_up());
}
