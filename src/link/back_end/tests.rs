//! A front-end that is driven by hand, with our own driver's data path behind it.

use std::collections::BTreeMap;

use super::*;
use crate::memory::{Kind, Mapping, Region, Side};
use crate::net::driver_path::DriverPath;
use crate::net::path::Inward;
use crate::net::placement::{Placement, place};
use crate::spec::net::HEADER_LEN as NET_HEADER;
use crate::spec::vhost_user::{F_PROTOCOL_FEATURES, protocol};
use crate::tunnel::vhost_user::back_end::PROTOCOL_FEATURES;
use crate::tunnel::vhost_user::{Inflight, MemoryRegion, VringAddr};

/// Where its memory is on the bus, and for itself.
const BUS: u64 = 0x4000_0000;
const USER: u64 = 0x7f00_0000_0000;
const LEN: u64 = 1 << 20;

/// A descriptor: a number, and the memory behind it if it is memory's.
#[derive(Clone, Debug)]
struct Fd(u32, Option<Arc<Mapping>>);

impl Descriptor for Fd {
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String> {
        let memory = self.1.as_ref().ok_or("it is no memory")?;
        let fits = offset == 0 && len <= memory.len() as u64;
        fits.then(|| memory.clone()).ok_or_else(|| "the file is shorter".to_owned())
    }

    fn is_doorbell(&self) -> bool {
        self.1.is_none()
    }

    fn create(len: u64) -> Result<(Self, Arc<Mapping>), String> {
        let memory = Arc::new(Mapping::anonymous(len as usize, Kind::Cached));
        Ok((Self(0, Some(memory.clone())), memory))
    }
}

struct FrontEnd {
    link: BackEndLink<Fd>,
    file: Fd,
    features: Features,
    mem: BusMemory,
    placed: Placement,
    driver: DriverPath,
    running: BTreeMap<u16, StartPair<Fd>>,
    /// What the link asked for, other than pairs.
    replies: Vec<(Vec<u8>, Option<Fd>)>,
    rung: Vec<u32>,
    state: Option<(State, String)>,
    carrier: bool,
    closed: Option<String>,
    stopped: bool,
}

fn params(pairs: u16) -> Params {
    Params { features_off: Features::NONE, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, pairs, engine: None }
}

fn off(bits: &[u8]) -> Features {
    Features::OFFER
        .without(Features::of(&[virtio::F_ACCESS_PLATFORM, virtio::F_ORDER_PLATFORM, net::F_MQ]))
        .without(Features::of(bits))
}

/// What a front-end accepts that keeps the control queue to itself.
fn split() -> Features {
    off(&[net::F_CTRL_VQ, virtio::F_RING_PACKED])
}

fn packed() -> Features {
    off(&[net::F_CTRL_VQ])
}

impl FrontEnd {
    fn new(features: Features) -> Self {
        let memory = Arc::new(Mapping::anonymous(LEN as usize, Kind::Cached));
        let region = Region::mapped(BUS, LEN, Side::Near, memory.clone(), 0);
        let mem = BusMemory::new(vec![region]).unwrap();
        let middle = BUS + LEN / 4;
        let placed = place(BUS..middle, middle..BUS + LEN, [64, 64], features).unwrap();
        let driver =
            DriverPath::new(&mem, features, &placed.receiveq, &placed.transmitq, &placed.buffers);
        let mut front_end = Self {
            link: BackEndLink::new(params(1)),
            file: Fd(1, Some(memory)),
            features,
            driver: driver.unwrap(),
            mem,
            placed,
            running: BTreeMap::new(),
            replies: Vec::new(),
            rung: Vec::new(),
            state: None,
            carrier: false,
            closed: None,
            stopped: false,
        };
        front_end.drain();
        front_end
    }

    fn send_octets(&mut self, octets: &[u8], fds: Vec<Fd>) {
        let (header, payload) = octets.split_first_chunk().unwrap();
        self.link.handle_message(*header, payload, fds);
        self.drain();
    }

    fn send(&mut self, request: &Request, fds: Vec<Fd>) {
        self.send_octets(&request.encode(false), fds);
        assert_eq!(self.closed, None, "{request:?}");
    }

    fn ask(&mut self, request: &Request) -> Reply {
        self.send(request, vec![]);
        let (octets, _) = self.replies.pop().expect("a reply");
        Reply::decode(request.number(), &octets[HEADER_LEN..]).unwrap()
    }

    fn drain(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => self.state = Some((state, reason)),
                Event::StartPair(start) => drop(self.running.insert(start.pair, start)),
                // The worker takes its time: the test calls `leave`.
                Event::StopPair(pair) => assert!(self.running.contains_key(&pair)),
                Event::Stop => {
                    self.running.clear();
                    self.stopped = true;
                    self.link.handle_stopped();
                }
                Event::Carrier(up) => self.carrier = up,
                Event::Ring(fd) => self.rung.push(fd.0),
                Event::Send(octets, fd) => self.replies.push((octets, fd)),
                Event::Close(why) => self.closed = Some(why),
                Event::Start(_) | Event::Offloads(_) | Event::Watch(_) | Event::Tell(..) => {}
            }
        }
    }

    /// The workers that were told to have left.
    fn leave(&mut self) {
        for (pair, start) in std::mem::take(&mut self.running) {
            let mut path = start.path;
            let _ = (path.flush(&start.mem), path.release(&start.mem));
            self.link.handle_pair_stopped(pair, Some(path));
        }
        self.drain();
    }

    fn introduce(&mut self) {
        self.send(&Request::SetProtocolFeatures(PROTOCOL_FEATURES), vec![]);
        self.send(&Request::SetOwner, vec![]);
        let bits = self.features.bits() as u64 | 1 << F_PROTOCOL_FEATURES;
        self.send(&Request::SetFeatures(bits), vec![]);
    }

    fn share_memory(&mut self) {
        let region = MemoryRegion { bus_addr: BUS, len: LEN, user_addr: USER, offset: 0 };
        let file = self.file.clone();
        self.send(&Request::SetMemTable(vec![region]), vec![file]);
    }

    fn start_rings(&mut self, bases: [u32; 2]) {
        for (index, queue) in (0..).zip([self.placed.receiveq, self.placed.transmitq]) {
            let base = bases[index as usize];
            let user = |addr| addr - BUS + USER;
            let (desc, driver) = (user(queue.desc), user(queue.driver));
            let addr = VringAddr { desc, driver, device: user(queue.device) };
            self.send(&Request::SetVringNum { index, num: queue.size.into() }, vec![]);
            self.send(&Request::SetVringBase { index, base }, vec![]);
            self.send(&Request::SetVringAddr { index, flags: 0, addr }, vec![]);
            self.send(&Request::SetVringErr { index, fd: true }, vec![Fd(30 + index, None)]);
            self.send(&Request::SetVringCall { index, fd: true }, vec![Fd(20 + index, None)]);
            self.send(&Request::SetVringKick { index, fd: true }, vec![Fd(10 + index, None)]);
            self.send(&Request::SetVringEnable { index, enable: 1 }, vec![]);
        }
        self.send(&Request::SetStatus(15), vec![]);
    }

    fn set_up(features: Features) -> Self {
        let mut front_end = Self::new(features);
        front_end.introduce();
        front_end.share_memory();
        let base = front_end.first_base();
        front_end.start_rings([base; 2]);
        assert_eq!(front_end.state, Some((State::Up, String::new())));
        front_end
    }

    fn first_base(&self) -> u32 {
        if self.features.has(virtio::F_RING_PACKED) { 0x8000 } else { 0 }
    }

    /// A frame of this many bytes, which are all the same, from the driver; what the device makes of it.
    fn transmit(&mut self, byte: u8, len: usize) -> Option<Vec<u8>> {
        let mut frame = vec![0; NET_HEADER];
        frame.resize(NET_HEADER + len, byte);
        assert!(self.driver.room(&self.mem).unwrap().fill(&self.mem, &frame), "no room");
        assert_eq!(self.driver.sent(&self.mem, frame.len()).unwrap(), None);
        let _ = self.driver.flush(&self.mem);
        self.take()
    }

    /// What the device finds next.
    fn take(&mut self) -> Option<Vec<u8>> {
        let StartPair { path, mem, .. } = self.running.get_mut(&0)?;
        let Inward::Frame { prefix, tail, .. } = path.receive(mem).unwrap() else { return None };
        let mut frame = prefix.to_vec();
        for span in tail {
            let at = frame.len();
            frame.resize(at + span.len(), 0);
            mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
        }
        path.received(mem).unwrap();
        let _ = path.release(mem);
        Some(frame[NET_HEADER..].to_vec())
    }

    /// A frame from the device's netdev; what the driver gets.
    fn receive(&mut self, byte: u8, len: usize) -> Option<Vec<u8>> {
        let StartPair { path, mem, .. } = self.running.get_mut(&0)?;
        let mut frame = vec![0; NET_HEADER];
        frame.resize(NET_HEADER + len, byte);
        assert!(path.room(mem).unwrap().fill(mem, &frame));
        assert_eq!(path.sent(mem, frame.len()).unwrap(), None);
        let _ = path.flush(mem);
        let Inward::Frame { prefix, tail, .. } = self.driver.receive(&self.mem).unwrap() else {
            return None;
        };
        let mut frame = prefix.to_vec();
        for span in tail {
            let at = frame.len();
            frame.resize(at + span.len(), 0);
            self.mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
        }
        self.driver.received(&self.mem).unwrap();
        let _ = self.driver.release(&self.mem);
        Some(frame[NET_HEADER..].to_vec())
    }

    fn exchange(&mut self, rounds: std::ops::Range<u8>) {
        for byte in rounds {
            let len = 60 + 13 * usize::from(byte);
            assert_eq!(self.transmit(byte, len), Some(vec![byte; len]), "frame {byte} out");
            assert_eq!(self.receive(byte, len), Some(vec![byte; len]), "frame {byte} in");
        }
    }

    fn stop_ring(&mut self, index: u32) -> u32 {
        self.send(&Request::GetVringBase { index }, vec![]);
        self.leave();
        let (octets, _) = self.replies.pop().expect("a reply");
        match Reply::decode(11, &octets[HEADER_LEN..]) {
            Ok(Reply::VringBase { index: of, base }) if of == index => base,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_front_end_sets_the_device_up_and_frames_go_both_ways() {
    for features in [split(), packed(), split().without(Features::of(&[net::F_MRG_RXBUF]))] {
        let mut front_end = FrontEnd::set_up(features);
        assert!(front_end.carrier);
        front_end.exchange(0..200);
    }
}

#[test]
fn a_ring_that_is_stopped_says_where_it_goes_on_once_its_worker_has_left() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::set_up(features);
        front_end.exchange(0..100);
        front_end.send(&Request::GetVringBase { index: 0 }, vec![]);
        assert!(front_end.link.is_busy() && front_end.replies.is_empty());
        front_end.leave();
        assert!(!front_end.link.is_busy());
        let (octets, _) = front_end.replies.pop().unwrap();
        let Ok(Reply::VringBase { base: receive, .. }) = Reply::decode(11, &octets[12..]) else {
            panic!("{octets:?}")
        };
        let transmit = front_end.stop_ring(1);
        assert!(!front_end.carrier && front_end.running.is_empty());
        if !features.has(virtio::F_RING_PACKED) {
            assert_eq!((receive, transmit), (100, 100));
        }
        front_end.start_rings([receive, transmit]);
        front_end.exchange(100..200);
    }
}

#[test]
fn memory_that_is_told_anew_is_used_from_where_the_rings_were() {
    let mut front_end = FrontEnd::set_up(packed());
    front_end.exchange(0..50);
    let region = MemoryRegion { bus_addr: BUS, len: LEN, user_addr: USER, offset: 0 };
    let extra = MemoryRegion { bus_addr: 0, len: 0x1000, user_addr: 0x1000, offset: 0 };
    let memory = Arc::new(Mapping::anonymous(0x1000, Kind::Cached));
    front_end.send(&Request::AddMemReg(extra), vec![Fd(7, Some(memory))]);
    assert!(front_end.link.is_busy());
    front_end.leave();
    assert_eq!(front_end.running[&0].mem.regions().len(), 2);
    front_end.exchange(50..100);
    front_end.send(&Request::RemMemReg(extra), vec![]);
    front_end.leave();
    assert_eq!(front_end.running[&0].mem.regions().len(), 1);
    front_end.exchange(100..150);
    // Without its memory a ring cannot go on.
    front_end.send_octets(&Request::RemMemReg(region).encode(false), vec![]);
    front_end.leave();
    let outside = "ring 0: bus address 0x7f0000000000 with length 1 lies in no memory region";
    assert_eq!(front_end.closed.as_deref(), Some(outside));
}

#[test]
fn a_driver_without_version_1_waits_and_the_next_one_runs() {
    let mut front_end = FrontEnd::new(split());
    front_end.send(&Request::SetProtocolFeatures(PROTOCOL_FEATURES), vec![]);
    front_end.send(&Request::SetFeatures(1 << net::F_MAC | 1 << F_PROTOCOL_FEATURES), vec![]);
    front_end.share_memory();
    front_end.start_rings([0; 2]);
    let (state, why) = front_end.state.clone().unwrap();
    assert_eq!(state, State::Waiting, "{why}");
    assert!(why.contains("VERSION_1"), "{why}");
    let bits = front_end.features.bits() as u64 | 1 << F_PROTOCOL_FEATURES;
    front_end.send(&Request::SetFeatures(bits), vec![]);
    assert_eq!(front_end.state, Some((State::Up, String::new())));
    front_end.exchange(0..10);
}

#[test]
fn a_broken_ring_stops_all_until_the_device_is_reset() {
    let mut front_end = FrontEnd::set_up(split());
    front_end.exchange(0..10);
    front_end.link.handle_broken("transmitq: broken");
    front_end.drain();
    assert!(front_end.stopped && front_end.running.is_empty() && !front_end.carrier);
    assert_eq!(front_end.rung, [30, 31]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(15 | 64));
    front_end.send(&Request::SetStatus(0), vec![]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(0));
    // The guest boots again.
    let mut again = FrontEnd::new(split());
    std::mem::swap(&mut again.link, &mut front_end.link);
    again.introduce();
    again.share_memory();
    again.start_rings([0; 2]);
    again.exchange(0..10);
}

#[test]
fn what_cannot_be_closes_the_connection_with_the_reason() {
    let region = |bus_addr, user_addr, len| MemoryRegion { bus_addr, user_addr, len, offset: 0 };
    let memory = || Fd(9, Some(Arc::new(Mapping::anonymous(0x2000, Kind::Cached))));
    let overlap = vec![region(0, 0x10_0000, 0x2000), region(0x1000, 0x20_0000, 0x2000)];
    let user_overlap = vec![region(0, 0x1000, 0x2000), region(0x8000, 0x2000, 0x2000)];
    let cases: Vec<(Request, Vec<Fd>, &str)> = vec![
        (Request::SetFeatures(1 << 60), vec![], "SET_FEATURES has bits 0x1000000000000000"),
        (Request::SetMemTable(overlap), vec![memory(), memory()], "overlaps another"),
        (Request::SetMemTable(user_overlap), vec![memory(), memory()], "overlaps another"),
        (
            Request::SetMemTable(vec![region(0, 0, 0x3000)]),
            vec![memory()],
            "memory region at 0x0 with length 0x3000: the file is shorter",
        ),
        (
            Request::SetMemTable(vec![region(u64::MAX - 1, 0, 0x1000)]),
            vec![memory()],
            "it is empty, or wraps",
        ),
        (Request::SetVringNum { index: 3, num: 8 }, vec![], "SET_VRING_NUM of ring 3"),
        (Request::SetVringNum { index: 0, num: 3 }, vec![], "SET_VRING_NUM has the value 0x3"),
        (Request::SetVringNum { index: 0, num: 65536 }, vec![], "SET_VRING_NUM has the value"),
        (Request::SetVringKick { index: 0, fd: false }, vec![], "SET_VRING_KICK"),
        (Request::SetVringKick { index: 0, fd: true }, vec![], "came with 0 descriptors"),
        (Request::SetVringCall { index: 0, fd: true }, vec![memory()], "that is no eventfd"),
        (Request::GetStatus, vec![], "GET_STATUS without protocol feature STATUS"),
        (Request::RemMemReg(region(0, 0, 1)), vec![], "REM_MEM_REG without protocol feature"),
        (Request::SetProtocolFeatures(1 << 1), vec![], "which were not offered"),
    ];
    for (request, fds, why) in cases {
        let mut front_end = FrontEnd::new(split());
        front_end.send_octets(&request.encode(false), fds);
        let closed = front_end.closed.clone().unwrap_or_default();
        assert!(closed.contains(why), "{request:?}: {closed:?}");
        assert_eq!(front_end.state, Some((State::Down, closed)));
    }
}

#[test]
fn what_was_in_flight_when_the_back_end_died_is_taken_again() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::new(features);
        front_end.introduce();
        let asked = Inflight { len: 0, offset: 0, queues: 2, queue_size: 64 };
        front_end.send(&Request::GetInflightFd(asked), vec![]);
        let (octets, fd) = front_end.replies.pop().unwrap();
        let Ok(Reply::Inflight(inflight)) = Reply::decode(31, &octets[12..]) else { panic!() };
        front_end.send(&Request::SetInflightFd(inflight), vec![fd.clone().unwrap()]);
        front_end.share_memory();
        let base = front_end.first_base();
        front_end.start_rings([base; 2]);
        front_end.exchange(0..100);
        // It dies with a frame in its hands, and with receive buffers held.
        let StartPair { path, mem, .. } = front_end.running.get_mut(&0).unwrap();
        let mut frame = vec![0; NET_HEADER];
        frame.resize(NET_HEADER + 100, 0xee);
        assert!(front_end.driver.room(&front_end.mem).unwrap().fill(&front_end.mem, &frame));
        assert_eq!(front_end.driver.sent(&front_end.mem, frame.len()).unwrap(), None);
        let _ = front_end.driver.flush(&front_end.mem);
        assert!(matches!(path.receive(mem), Ok(Inward::Frame { .. })));
        front_end.running.clear();
        front_end.link = BackEndLink::new(params(1));
        front_end.introduce();
        front_end.send(&Request::SetInflightFd(inflight), vec![fd.unwrap()]);
        front_end.share_memory();
        // This front-end does not know where the rings are.
        front_end.start_rings([base; 2]);
        assert_eq!(front_end.take(), Some(vec![0xee; 100]), "the frame that was in its hands");
        front_end.exchange(100..200);
    }
}

#[test]
fn protocol_features_are_those_that_work_here() {
    let mut front_end = FrontEnd::new(split());
    assert_eq!(front_end.ask(&Request::GetProtocolFeatures), Reply::Number(PROTOCOL_FEATURES));
    assert_eq!(front_end.ask(&Request::GetQueueNum), Reply::Number(1));
    front_end.introduce();
    assert_eq!(front_end.ask(&Request::GetMaxMemSlots), Reply::Number(32));
    let asked = Request::GetConfig { offset: 0, flags: 0, data: vec![0; 12] };
    let Reply::Config { data, .. } = front_end.ask(&asked) else { panic!() };
    assert_eq!(data, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0xdc, 5]);
    assert_eq!(front_end.link.protocol() & protocol::STATUS, protocol::STATUS);
    // One that asks for a reply gets one.
    front_end.send_octets(&Request::SetOwner.encode(true), vec![]);
    assert_eq!(front_end.replies.pop().map(|(octets, _)| octets[12..].to_vec()), Some(vec![0; 8]));
}
