//! A front-end that is driven by hand, with our own driver's data paths behind it.

use std::collections::BTreeMap;

use super::*;
use crate::dma::{Completion, Place};
use crate::memory::{Kind, Mapping, Region, Side};
use crate::net::driver_path::DriverPath;
use crate::net::path::Inward;
use crate::net::placement::{Queues, Reach, place_all};
use crate::spec::net::{HEADER_LEN as NET_HEADER, ctrl};
use crate::spec::vhost_user::{F_PROTOCOL_FEATURES, protocol};
use crate::tunnel::vhost_user::back_end::PROTOCOL_FEATURES;
use crate::tunnel::vhost_user::{Inflight, MemoryRegion, VringAddr};
use crate::virtqueue::{Buffer, DriverQueue};

mod commands;
mod habits;
mod set_up;
mod stops;
mod traffic;

/// Where its memory is on the bus, and for itself; of two pieces the second is elsewhere for itself.
const BUS: u64 = 0x4000_0000;
const USER: u64 = 0x7f00_0000_0000;
const SECOND_USER: u64 = 0x7e00_0000_0000;
const LEN: u64 = 4 << 20;
const MIDDLE: u64 = BUS + LEN / 4;

/// A descriptor: a number, and the memory behind it if it is memory's.
#[derive(Clone, Debug)]
struct Fd(u32, Option<Arc<Mapping>>);

impl Descriptor for Fd {
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String> {
        let memory = self.1.as_ref().ok_or("it is no memory")?;
        let fits = offset == 0 && len <= memory.len() as u64;
        fits.then(|| memory.clone()).ok_or_else(|| "the file is shorter".to_owned())
    }

    fn is_channel(&self) -> bool {
        true
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
    /// Memory in one piece, or in two.
    regions: Vec<(MemoryRegion, Fd)>,
    features: Features,
    protocol: Option<u64>,
    mem: BusMemory,
    placed: Queues,
    drivers: Vec<DriverPath>,
    control: Option<DriverQueue>,
    running: BTreeMap<u16, StartPair<Fd>>,
    /// Pairs that were told to stop and have not left.
    told: Vec<u16>,
    /// What the link asked for, other than pairs.
    replies: Vec<(Vec<u8>, Option<Fd>)>,
    rung: Vec<u32>,
    watched: Option<u32>,
    offloads: Vec<Offloads>,
    dropped: Vec<Which>,
    state: Option<(State, String)>,
    carrier: bool,
    closed: Option<String>,
    stopped: bool,
}

fn params(pairs: u16) -> Params {
    Params { features_off: Features::NONE, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, pairs, engine: None }
}

/// All that is offered.
fn offered() -> Features {
    let never = [virtio::F_ACCESS_PLATFORM, virtio::F_ORDER_PLATFORM, virtio::F_RING_RESET];
    Features::OFFER.without(Features::of(&never))
}

fn off(bits: &[u8]) -> Features {
    offered().without(Features::of(&[net::F_MQ])).without(Features::of(bits))
}

/// What a front-end accepts that keeps the control queue to itself.
fn split() -> Features {
    off(&[net::F_CTRL_VQ, virtio::F_RING_PACKED])
}

fn packed() -> Features {
    off(&[net::F_CTRL_VQ])
}

/// What one accepts that lets the control queue pass by, with several pairs.
fn passing() -> [Features; 2] {
    let packed = offered();
    [packed.without(Features::of(&[virtio::F_RING_PACKED])), packed]
}

impl FrontEnd {
    fn new(features: Features) -> Self {
        Self::with(params(1), features, 1)
    }

    fn with(params: Params, features: Features, pieces: usize) -> Self {
        let piece = |bus_addr, user_addr, len| {
            let memory = Arc::new(Mapping::anonymous(len as usize, Kind::Cached));
            (MemoryRegion { bus_addr, len, user_addr, offset: 0 }, Fd(1, Some(memory)))
        };
        let regions = match pieces {
            1 => vec![piece(BUS, USER, LEN)],
            _ => vec![piece(BUS, USER, LEN / 4), piece(MIDDLE, SECOND_USER, LEN - LEN / 4)],
        };
        let map = |(region, fd): &(MemoryRegion, Fd)| {
            let memory = fd.1.clone().unwrap();
            Region::mapped(region.bus_addr, region.len, Side::Near, memory, 0)
        };
        let mem = BusMemory::new(regions.iter().map(map).collect()).unwrap();
        let control = features.has(net::F_CTRL_VQ).then_some(16);
        let sizes = vec![[64, 64]; params.pairs.into()];
        let ranges = (BUS..MIDDLE, MIDDLE..BUS + LEN);
        let placed = place_all(ranges.0, ranges.1, &sizes, control, features, Reach::Both).unwrap();
        let mut front_end = Self {
            link: BackEndLink::new(params),
            regions,
            features,
            protocol: Some(PROTOCOL_FEATURES),
            mem,
            placed,
            drivers: Vec::new(),
            control: None,
            running: BTreeMap::new(),
            told: Vec::new(),
            replies: Vec::new(),
            rung: Vec::new(),
            watched: None,
            offloads: Vec::new(),
            dropped: Vec::new(),
            state: None,
            carrier: false,
            closed: None,
            stopped: false,
        };
        front_end.boot();
        front_end.drain();
        front_end
    }

    /// The driver starts anew: its rings are cleared.
    fn boot(&mut self) {
        let Self { mem, features, .. } = self;
        let driver = |p: &crate::net::placement::Placement| {
            DriverPath::new(mem, *features, &p.receiveq, &p.transmitq, &p.buffers).unwrap()
        };
        self.drivers = self.placed.pairs.iter().map(driver).collect();
        self.control =
            self.placed.control.as_ref().map(|placed| placed.queue.activate_driver(mem).unwrap());
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
                Event::StartPair(start) => {
                    let before = self.running.insert(start.pair, start);
                    assert!(before.is_none() && !self.link.is_busy());
                }
                // The worker takes its time: the test calls `leave`.
                Event::StopPair(pair) => {
                    assert!(self.running.contains_key(&pair) && !self.told.contains(&pair));
                    self.told.push(pair);
                }
                Event::Stop => {
                    self.running.clear();
                    self.told.clear();
                    self.stopped = true;
                    self.link.handle_stopped();
                }
                Event::Carrier(up) => self.carrier = up,
                Event::Ring(fd) => self.rung.push(fd.0),
                Event::Send(octets, fd) => self.replies.push((octets, fd)),
                Event::Close(why) => self.closed = Some(why),
                Event::Watch(kick) => self.watched = kick.map(|fd| fd.0),
                Event::Offloads(offloads) => self.offloads.push(offloads),
                Event::Dropped(_, which, _) => self.dropped.push(which),
                Event::Start(_) | Event::Tell(..) => {}
            }
        }
    }

    /// The workers that were told to have left.
    fn leave(&mut self) {
        for pair in std::mem::take(&mut self.told) {
            self.leave_one(pair);
        }
    }

    fn leave_one(&mut self, pair: u16) {
        let mut start = self.running.remove(&pair).unwrap();
        self.told.retain(|told| *told != pair);
        work(&mut start);
        self.link.handle_pair_stopped(pair, Some(start.path));
        self.drain();
    }

    fn introduce(&mut self) {
        if let Some(protocol) = self.protocol {
            self.send(&Request::SetProtocolFeatures(protocol), vec![]);
        }
        self.send(&Request::SetOwner, vec![]);
        let bits = self.bits();
        self.send(&Request::SetFeatures(bits), vec![]);
    }

    fn bits(&self) -> u64 {
        let own = if self.protocol.is_some() { 1 << F_PROTOCOL_FEATURES } else { 0 };
        self.features.bits() as u64 | own
    }

    fn share_memory(&mut self) {
        let (regions, fds) = self.regions.iter().cloned().unzip();
        self.send(&Request::SetMemTable(regions), fds);
    }

    /// The front-end's own address of what is here on the bus.
    fn user(&self, addr: u64) -> u64 {
        let of =
            |region: &MemoryRegion| addr.checked_sub(region.bus_addr).filter(|o| *o < region.len);
        let mut found = self.regions.iter().filter_map(|(r, _)| Some(r.user_addr + of(r)?));
        found.next().unwrap()
    }

    /// All rings, the control queue's last.
    fn rings(&self) -> Vec<crate::virtqueue::QueueConfig> {
        let pairs = self.placed.pairs.iter().flat_map(|p| [p.receiveq, p.transmitq]);
        pairs.chain(self.placed.control.as_ref().map(|control| control.queue)).collect()
    }

    fn start_ring(&mut self, index: u32, base: u32) {
        let queue = self.rings()[index as usize];
        let addr = VringAddr {
            desc: self.user(queue.desc),
            driver: self.user(queue.driver),
            device: self.user(queue.device),
        };
        self.send(&Request::SetVringNum { index, num: queue.size.into() }, vec![]);
        self.send(&Request::SetVringBase { index, base }, vec![]);
        self.send(&Request::SetVringAddr { index, flags: 0, addr }, vec![]);
        self.send(&Request::SetVringErr { index, fd: true }, vec![Fd(30 + index, None)]);
        self.send(&Request::SetVringCall { index, fd: true }, vec![Fd(20 + index, None)]);
        self.send(&Request::SetVringKick { index, fd: true }, vec![Fd(10 + index, None)]);
    }

    fn enable(&mut self, index: u32, on: bool) {
        self.send(&Request::SetVringEnable { index, enable: on.into() }, vec![]);
    }

    /// The first pair's.
    fn start_rings(&mut self, bases: [u32; 2]) {
        for (index, base) in (0..).zip(bases) {
            self.start_ring(index, base);
            self.enable(index, true);
        }
        self.send(&Request::SetStatus(15), vec![]);
    }

    fn set_up(features: Features) -> Self {
        Self::set_up_with(params(1), features, 1)
    }

    /// All that there is runs.
    fn set_up_with(params: Params, features: Features, pieces: usize) -> Self {
        let mut front_end = Self::with(params, features, pieces);
        front_end.introduce();
        front_end.share_memory();
        front_end.start_all();
        assert_eq!(front_end.state, Some((State::Up, String::new())));
        front_end
    }

    fn start_all(&mut self) {
        for index in 0..self.rings().len() as u32 {
            self.start_ring(index, self.first_base());
            if self.protocol.is_some() {
                self.enable(index, true);
            }
        }
        if self.protocol.is_some_and(|bits| bits & protocol::STATUS != 0) {
            self.send(&Request::SetStatus(15), vec![]);
        }
        self.leave();
    }

    fn first_base(&self) -> u32 {
        if self.features.has(virtio::F_RING_PACKED) { 0x8000 } else { 0 }
    }

    /// A frame of this many bytes, which are all the same, from the driver; what the device makes of it.
    fn transmit(&mut self, pair: u16, byte: u8, len: usize) -> Option<Vec<u8>> {
        self.offer(pair, byte, len);
        self.take(pair)
    }

    /// A frame from the driver.
    fn offer(&mut self, pair: u16, byte: u8, len: usize) {
        let driver = &mut self.drivers[usize::from(pair)];
        let mut frame = vec![0; NET_HEADER];
        frame.resize(NET_HEADER + len, byte);
        assert!(driver.room(&self.mem).unwrap().fill(&self.mem, &frame), "no room");
        assert_eq!(driver.sent(&self.mem, frame.len()).unwrap(), None);
        let _ = driver.flush(&self.mem);
    }

    /// What the device finds next.
    fn take(&mut self, pair: u16) -> Option<Vec<u8>> {
        let start = self.running.get_mut(&pair)?;
        let table = start.path.local();
        for _ in 0..2 {
            let StartPair { path, mem, .. } = &mut *start;
            if let Inward::Frame { prefix, tail, .. } = path.receive(mem).unwrap() {
                let frame = whole(table.as_deref().unwrap_or(mem), prefix, tail);
                path.received(mem).unwrap();
                let _ = path.release(mem);
                return Some(frame);
            }
            // An engine fetches it.
            work(start);
        }
        None
    }

    /// A frame from the device's netdev; what the driver gets.
    fn receive(&mut self, pair: u16, byte: u8, len: usize) -> Option<Vec<u8>> {
        self.receive_to(pair, [byte; 6], byte, len)
    }

    /// The same, to this address.
    fn receive_to(&mut self, pair: u16, to: [u8; 6], byte: u8, len: usize) -> Option<Vec<u8>> {
        let start = self.running.get_mut(&pair)?;
        let mut frame = vec![0; NET_HEADER];
        frame.extend(to);
        frame.resize(NET_HEADER + len, byte);
        {
            let StartPair { path, mem, .. } = &mut *start;
            let table = path.local();
            let room = path.room(mem).unwrap();
            assert!(room.fill(table.as_deref().unwrap_or(mem), &frame));
            let _ = path.sent(mem, frame.len()).unwrap();
        }
        work(start);
        let driver = &mut self.drivers[usize::from(pair)];
        let Inward::Frame { prefix, tail, .. } = driver.receive(&self.mem).unwrap() else {
            return None;
        };
        let frame = whole(&self.mem, prefix, tail);
        driver.received(&self.mem).unwrap();
        let _ = driver.release(&self.mem);
        Some(frame)
    }

    fn exchange(&mut self, rounds: std::ops::Range<u8>) {
        self.exchange_on(0, rounds);
    }

    fn exchange_on(&mut self, pair: u16, rounds: std::ops::Range<u8>) {
        for byte in rounds {
            let len = 60 + 13 * usize::from(byte);
            assert_eq!(self.transmit(pair, byte, len), Some(vec![byte; len]), "frame {byte} out");
            assert_eq!(self.receive(pair, byte, len), Some(vec![byte; len]), "frame {byte} in");
        }
    }

    /// A command of the driver's; what the device says, if it does.
    fn command(&mut self, code: ctrl::Code, data: &[u8]) -> Option<u8> {
        self.ask_command(code, data);
        self.answer()
    }

    fn ask_command(&mut self, (class, command): ctrl::Code, data: &[u8]) {
        let placed = self.placed.control.as_ref().unwrap();
        let octets = [&[class, command], data].concat();
        let view = |addr, len| self.mem.view(self.mem.resolve(addr, len).unwrap()).unwrap();
        let command = Buffer { addr: placed.command, len: octets.len() as u32 };
        view(command.addr, command.len).copy_from(0, &octets);
        view(placed.answer, 1).copy_from(0, &[0xff]);
        let answer = Buffer { addr: placed.answer, len: 1 };
        let control = self.control.as_mut().unwrap();
        control.add(&self.mem, &[command], &[answer], 0).unwrap();
        let _ = control.publish(&self.mem);
        self.link.handle_kick();
        self.drain();
    }

    fn answer(&mut self) -> Option<u8> {
        let used = self.control.as_mut().unwrap().pop_used(&self.mem).unwrap()?;
        assert_eq!((used.token, used.len), (0, 1));
        let at = self.placed.control.as_ref().unwrap().answer;
        let mut octet = [0];
        self.mem.view(self.mem.resolve(at, 1).unwrap()).unwrap().copy_to(0, &mut octet);
        Some(octet[0])
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

/// A frame without its header.
fn whole(mem: &BusMemory, prefix: &[u8], tail: &[crate::memory::Span]) -> Vec<u8> {
    let mut frame = prefix.to_vec();
    for span in tail {
        let at = frame.len();
        frame.resize(at + span.len(), 0);
        mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
    }
    frame[NET_HEADER..].to_vec()
}

/// All is published, and an engine does all that it was given.
fn work(start: &mut StartPair<Fd>) {
    let StartPair { path, mem, .. } = start;
    loop {
        let _ = (path.flush(mem), path.release(mem));
        let Some(transfer) = path.poll_transfer() else { return };
        let local = path.local().unwrap();
        for piece in &transfer.pieces {
            let view = |place| match place {
                Place::Bus(span) => mem.view(span).unwrap(),
                Place::Local(span) => local.view(span).unwrap(),
            };
            view(piece.from).copy_into(&view(piece.to));
        }
        path.handle_completion(Completion { transfer, good: true }).unwrap();
    }
}
