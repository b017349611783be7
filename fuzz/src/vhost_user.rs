//! The device's end of a link to a vhost-user front-end, against a front-end that sends what it likes, a
//! driver that writes what it likes, and workers that take their time.
//!
//! A connection is closed, or each message has the answers that it should, one at most. A pair has one
//! worker at a time. While a worker has a path, nothing that it lies in changes. Once workers have left,
//! nothing waits, and after the end of a connection nothing runs. Afterwards an honest front-end is served,
//! on the same connection if it is open, and on another one.

mod front_end;

use std::collections::BTreeMap;
use std::sync::Arc;

use boardlane::link::back_end::{BackEndLink, Event, Params, StartPair};
use boardlane::memory::BusMemory;
use boardlane::net::engine_path::EngineUse;
use boardlane::net::features::Features;
use boardlane::net::frame::Offloads;
use boardlane::net::path::PathError;
use boardlane::spec::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN, flags, protocol};
use boardlane::spec::{net, virtio};
use boardlane::tunnel::vhost_user::{Header, Reply, Request};

use super::octets::Octets;
use super::ring_driver::Driver;
use super::ring_memory::{Choice, STEPS, frame_len};
use super::ring_worker::Worker;
use front_end::{Fd, FrontEnd};

/// Most events of one input.
const MOST_EVENTS: usize = 2000;
/// Most turns until all has come to rest: more than there can be commands in a ring.
const MOST_TURNS: usize = 5000;

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut script = Octets(data);
    let mut story = Story::new(&mut script);
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        story.step(&mut script);
    }
    story.rest();
    if story.closed.is_none() {
        story.serves(false);
    }
    story.connect();
    story.serves(true);
}

/// A pair's worker.
struct Running {
    worker: Worker,
    mem: Arc<BusMemory>,
    /// Tells it from those before.
    number: u32,
    /// It is to give its path back.
    told: bool,
}

/// The message under way.
struct Asked {
    /// `None`: nothing that makes sense.
    request: Option<Request>,
    need_reply: bool,
    replies: Vec<(Vec<u8>, Option<Fd>)>,
    /// Pairs that ran when it came, and their workers' numbers.
    before: Vec<(u16, u32)>,
}

struct Story {
    params: Params,
    choice: Choice,
    front_end: FrontEnd,
    driver: Driver,
    link: BackEndLink<Fd>,
    workers: BTreeMap<u16, Running>,
    number: u32,
    /// Of the last `Start`.
    features: Option<Features>,
    accepted: Option<u64>,
    asked: Option<Asked>,
    /// What the last message was answered with.
    answer: Option<(Reply, Option<Fd>)>,
    /// All workers are to stop.
    stopping: bool,
    closed: Option<String>,
}

impl Story {
    fn new(script: &mut Octets<'_>) -> Self {
        let bits = script.u8();
        // Peers' memory is cached.
        let choice = Choice::of(&mut Octets(&[script.u8() & 0x3f]));
        let pairs = 1 + u16::from(bits & 1);
        let off = [(4, net::F_MRG_RXBUF), (8, virtio::F_RING_PACKED), (16, net::F_CTRL_VQ)];
        let off = off.iter().filter(|(bit, _)| bits & bit != 0);
        let features_off =
            off.fold(Features::NONE, |off, (_, feature)| off.union(Features::of(&[*feature])));
        let engine = (bits & 2 != 0).then_some(EngineUse { cpu_below: 128 });
        let params = Params { features_off, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, pairs, engine };
        let front_end = FrontEnd::new(choice, pairs, features_off);
        let mut story = Self {
            link: BackEndLink::new(params.clone()),
            driver: front_end.driver(),
            params,
            choice,
            front_end,
            workers: BTreeMap::new(),
            number: 0,
            features: None,
            accepted: None,
            asked: None,
            answer: None,
            stopping: false,
            closed: None,
        };
        story.drain();
        story
    }

    /// The back-end, or its connection, has died; here is the next one.
    fn connect(&mut self) {
        self.workers.clear();
        self.link = BackEndLink::new(self.params.clone());
        (self.features, self.accepted, self.asked) = (None, None, None);
        (self.stopping, self.closed) = (false, None);
        self.drain();
    }

    fn step(&mut self, script: &mut Octets<'_>) {
        match script.u8() % 16 {
            0..=3 if self.may_ask() => {
                let (request, fds) = self.front_end.request(script);
                self.ask(&request, fds, script.u8() & 1 != 0);
            }
            4 if self.may_ask() => {
                let octets = script.take(HEADER_LEN);
                let mut header = [0; HEADER_LEN];
                header[..octets.len()].copy_from_slice(octets);
                // One in two is as long as it says.
                let said = usize::from(header[8]);
                let len = if script.u8() & 1 == 0 { said } else { script.u8().into() };
                let payload = script.take(len);
                let fds = (0..script.u8() % 4).map(|_| self.front_end.any(script)).collect();
                self.send(header, payload, fds);
            }
            5 if self.may_ask() => self.set_up(script),
            0..=5 => self.leave(script),
            6 | 7 => self.driver.step(usize::from(script.u8()) % self.driver.queues.len(), script),
            8 => {
                let which = usize::from(script.u8()) % self.driver.queues.len();
                self.front_end.command(&mut self.driver, which, script);
            }
            9..=11 => self.work(script),
            12 => self.leave(script),
            13 => {
                self.link.handle_kick();
                self.drain();
            }
            14 => {
                self.link.handle_netdev(script.u8() & 1 != 0);
                self.drain();
            }
            _ => match script.u8() {
                0..=0x3f => self.connect(),
                0x40..=0x7f => self.broken("a worker found it so"),
                which => {
                    let which = usize::from(which) % self.driver.queues.len();
                    self.driver.restart(which);
                }
            },
        }
    }

    /// Whether a message may come now. A connection that is closed is followed by another one.
    fn may_ask(&mut self) -> bool {
        if self.closed.is_some() {
            self.rest();
            self.connect();
        }
        !self.link.is_busy()
    }

    /// A whole set-up, or a part of it.
    fn set_up(&mut self, script: &mut Octets<'_>) {
        let (parts, late) = (script.u8(), script.u8() & 1 != 0);
        let messages = self.front_end.set_up(parts, script);
        for (request, fds) in messages {
            if self.closed.is_some() || (self.link.is_busy() && late) {
                return;
            }
            self.rest_if_busy();
            if self.closed.is_some() {
                return;
            }
            self.ask(&request, fds, parts & 1 != 0);
        }
    }

    fn ask(&mut self, request: &Request, fds: Vec<Fd>, need_reply: bool) {
        let octets = request.encode(need_reply);
        let (header, payload) = octets.split_first_chunk().expect("a header");
        self.send(*header, payload, fds);
    }

    fn send(&mut self, header: [u8; HEADER_LEN], payload: &[u8], fds: Vec<Fd>) {
        let parsed = Header::parse(header, false).ok();
        let request = parsed.and_then(|header| {
            let request = Request::decode(header.request, payload, fds.len()).ok()?;
            Some((request, header.flags & flags::NEED_REPLY != 0))
        });
        let before = self.workers.iter().map(|(pair, running)| (*pair, running.number)).collect();
        let need_reply = request.as_ref().is_some_and(|(_, need_reply)| *need_reply);
        let request = request.map(|(request, _)| request);
        self.answer = None;
        self.asked = Some(Asked { request, need_reply, replies: Vec::new(), before });
        self.link.handle_message(header, payload, fds);
        self.drain();
    }

    fn drain(&mut self) {
        let mut events = 0;
        while let Some(event) = self.link.poll_event() {
            events += 1;
            assert!(events <= MOST_EVENTS, "events without end");
            self.follow(event);
        }
        if !self.link.is_busy() {
            if let Some(asked) = self.asked.take() {
                self.judge(asked);
            }
        }
    }

    fn follow(&mut self, event: Event<Fd>) {
        match event {
            Event::Start(start) => {
                assert!(self.closed.is_none() && self.workers.is_empty());
                self.features = Some(start.features);
            }
            Event::StartPair(StartPair { pair, path, mem, .. }) => {
                assert!(self.closed.is_none() && !self.stopping && !self.link.is_busy());
                let features = self.features.expect("a start comes first");
                let allowed = Offloads::to_device(features);
                let worker = Worker { path, allowed, transfers: Vec::new() };
                self.number += 1;
                let running = Running { worker, mem, number: self.number, told: false };
                let before = self.workers.insert(pair, running);
                assert!(before.is_none(), "pair {pair} runs already");
            }
            Event::StopPair(pair) => {
                let running = self.workers.get_mut(&pair).expect("it runs");
                assert!(!std::mem::replace(&mut running.told, true), "told twice");
            }
            Event::Stop => assert!(!std::mem::replace(&mut self.stopping, true)),
            Event::Send(octets, fd) => {
                let asked = self.asked.as_mut().expect("an answer without a question");
                asked.replies.push((octets, fd));
            }
            Event::Close(why) => {
                assert!(self.closed.is_none() && why.len() < 300, "{why}");
                self.closed = Some(why);
            }
            Event::State(_, why) => assert!(why.len() < 300, "{why}"),
            Event::Tell(channel, octets) => {
                assert!(self.closed.is_none() && octets.len() == HEADER_LEN, "{channel:?}");
            }
            Event::Ring(fd) => assert!(fd.is_bell()),
            Event::Watch(fd) => assert!(fd.is_none_or(|fd| fd.is_bell())),
            Event::Carrier(_) | Event::Offloads(_) | Event::Dropped(..) => {}
        }
    }

    /// A message has been carried out, or has ended the connection.
    fn judge(&mut self, asked: Asked) {
        let Asked { request, need_reply, mut replies, before } = asked;
        assert!(replies.len() <= 1, "two answers");
        if self.closed.is_some() {
            return;
        }
        let request = request.expect("who cannot be understood is not kept");
        let acks = self.link.protocol() & protocol::REPLY_ACK != 0;
        let due = request.has_reply() || (need_reply && acks);
        assert_eq!(replies.len(), usize::from(due), "answers to {request:?}");
        if let Some((octets, fd)) = replies.pop() {
            let (header, payload) = octets.split_first_chunk().expect("a header");
            let header = Header::parse(*header, true).expect("a reply");
            assert_eq!((header.request, header.size as usize), (request.number(), payload.len()));
            let reply = Reply::decode(header.request, payload).expect("a reply to it");
            self.front_end.answered(&request, &reply, fd.as_ref());
            self.answer = Some((reply, fd));
        }
        for (pair, number) in before {
            let left = self.workers.get(&pair).is_none_or(|running| running.number != number);
            assert!(left || !self.touches(&request, pair), "{request:?} under a worker");
        }
        match request {
            Request::SetFeatures(bits) => self.accepted = Some(bits),
            Request::SetStatus(0) | Request::ResetDevice | Request::ResetOwner => {
                self.accepted = None;
                assert!(self.workers.is_empty(), "nothing runs after a reset");
            }
            Request::SetVringEnable { index, enable: 0 } => {
                let has_bit =
                    self.accepted.is_some_and(|bits| bits & 1 << F_PROTOCOL_FEATURES != 0);
                let runs = self.workers.keys().any(|pair| u32::from(*pair) == index / 2);
                assert!(!has_bit || !runs, "ring {index} is off");
            }
            Request::GetVringBase { index } => {
                assert!(self.workers.keys().all(|pair| u32::from(*pair) != index / 2));
            }
            _ => {}
        }
    }

    /// Whether it changes what a pair lies in.
    fn touches(&self, request: &Request, pair: u16) -> bool {
        match *request {
            Request::SetMemTable(_)
            | Request::AddMemReg(_)
            | Request::RemMemReg(_)
            | Request::SetInflightFd(_)
            | Request::GetInflightFd(_)
            | Request::SetProtocolFeatures(_)
            | Request::ResetDevice
            | Request::ResetOwner
            | Request::SetStatus(0) => true,
            Request::SetFeatures(bits) => self.accepted != Some(bits),
            Request::SetVringNum { index, .. }
            | Request::SetVringAddr { index, .. }
            | Request::SetVringBase { index, .. }
            | Request::GetVringBase { index }
            | Request::SetVringKick { index, .. }
            | Request::SetVringCall { index, .. }
            | Request::SetVringErr { index, .. } => index / 2 == u32::from(pair),
            _ => false,
        }
    }

    /// A worker does something.
    fn work(&mut self, script: &mut Octets<'_>) {
        let at = usize::from(script.u8()) % self.workers.len().max(1);
        let Some((_, running)) = self.workers.iter_mut().nth(at) else { return };
        if let Err(fault) = running.step(script) {
            self.broken(&fault.to_string());
        }
    }

    fn broken(&mut self, why: &str) {
        self.link.handle_broken(why);
        self.drain();
    }

    /// A worker that was told to leaves, or all do.
    fn leave(&mut self, script: &mut Octets<'_>) {
        let how = script.u8();
        if self.stopping && how & 0x80 == 0 {
            return self.stop();
        }
        let told: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, running)| running.told)
            .map(|(pair, _)| *pair)
            .collect();
        if let Some(pair) = told.get(usize::from(how & 1)).or(told.first()) {
            self.give_back(*pair, how & 0x70 != 0x70);
        }
    }

    fn give_back(&mut self, pair: u16, can: bool) {
        let Some(mut running) = self.workers.remove(&pair) else { return };
        match running.finish() {
            Ok(()) => {
                let path = can.then_some(running.worker.path);
                self.link.handle_pair_stopped(pair, path);
            }
            Err(_) => self.link.handle_pair_stopped(pair, None),
        }
        self.drain();
    }

    fn stop(&mut self) {
        self.workers.clear();
        self.stopping = false;
        self.link.handle_stopped();
        self.drain();
    }

    fn rest_if_busy(&mut self) {
        if self.link.is_busy() {
            self.rest();
        }
    }

    /// Everybody does what he was told to, until there is nothing more to be done.
    fn rest(&mut self) {
        for _ in 0..MOST_TURNS {
            if self.stopping {
                self.stop();
            } else if let Some((pair, _)) = self.workers.iter().find(|(_, running)| running.told) {
                self.give_back(*pair, true);
            } else if self.link.has_more() {
                self.link.handle_kick();
                self.drain();
            } else {
                assert!(!self.link.is_busy(), "a message waits for nobody");
                assert!(self.closed.is_none() || self.workers.is_empty(), "what is closed runs");
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// An honest front-end with an honest driver.
    fn serves(&mut self, anew: bool) {
        let honest = |story: &mut Self, request: &Request, fds| {
            story.ask(request, fds, true);
            story.rest_if_busy();
            assert_eq!(story.closed, None, "{request:?}");
            story.answer.take()
        };
        if !anew {
            // Before it does anything to what the rings are in, nobody is there any more.
            self.ask(&Request::ResetOwner, vec![], false);
            self.rest();
            assert!(self.workers.is_empty() && self.closed.is_none());
        }
        self.front_end.clear();
        let offered = match honest(self, &Request::GetFeatures, vec![]) {
            Some((Reply::Number(bits), _)) => bits,
            other => panic!("{other:?}"),
        };
        let offered = Features::from_bits(offered.into());
        let features = offered.intersection(self.choice.features()).without(Features::NONE);
        let (before, after) = self.front_end.honest(features, anew);
        for (request, fds) in before {
            honest(self, &request, fds);
        }
        let asked = self.front_end.ask_inflight();
        let Some((Reply::Inflight(inflight), Some(fd))) = honest(self, &asked, vec![]) else {
            panic!("no memory for what is in flight")
        };
        honest(self, &Request::SetInflightFd(inflight), vec![fd]);
        let drivers = self.front_end.drivers(features);
        for (request, fds) in after {
            honest(self, &request, fds);
        }
        assert_eq!(self.workers.keys().collect::<Vec<_>>(), [&0], "{features:?}");
        let running = self.workers.remove(&0).expect("it runs");
        let [receiveq, transmitq] = drivers;
        running.worker.serves(&running.mem, receiveq, transmitq);
    }
}

impl Running {
    fn step(&mut self, script: &mut Octets<'_>) -> Result<(), PathError> {
        let Self { worker, mem, .. } = self;
        match script.u8() % 8 {
            0 | 1 => drop(worker.outward(mem, frame_len(script))?),
            2 | 3 => drop(worker.inward(mem)?),
            4 => {
                let _ = (worker.path.flush(mem), worker.path.release(mem));
            }
            5 => {
                let _ = worker.path.arm(mem, script.u8() & 1 != 0)?;
                worker.path.disarm(mem);
            }
            6 => {
                while worker.path.tick().is_some() {}
                while worker.path.poll_drop().is_some() {}
            }
            _ => {
                worker.transfers.extend(std::iter::from_fn(|| worker.path.poll_transfer()));
                assert!(worker.transfers.len() <= 1024, "copies without end");
                if !worker.transfers.is_empty() {
                    let at = usize::from(script.u8()) % worker.transfers.len();
                    let transfer = worker.transfers.swap_remove(at);
                    worker.complete(mem, transfer, script.u8() != 0)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing is under way afterwards.
    fn finish(&mut self) -> Result<(), PathError> {
        let Self { worker, mem, .. } = self;
        for _ in 0..1024 {
            let _ = (worker.path.flush(mem), worker.path.release(mem));
            worker.transfers.extend(std::iter::from_fn(|| worker.path.poll_transfer()));
            let Some(transfer) = worker.transfers.pop() else { return Ok(()) };
            worker.complete(mem, transfer, true)?;
        }
        panic!("copies without end");
    }
}
