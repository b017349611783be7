//! The attacker: an end by hand, over its own mapping of the slot. It keeps the rules as long as a case
//! wants to get somewhere, and then none.

use std::ops::Range;
use std::time::{Duration, Instant};

use boardlane::link::State;
use boardlane::memory::BusMemory;
use boardlane::net::features::Features;
use boardlane::spec::{msg, net, virtio, window};
use boardlane::tunnel::fifo::Fifo;
use boardlane::tunnel::message::{self, Blocks, Body, Dialect, Hello, Message};
use boardlane::tunnel::part::{MemoryEntry, Params, Role};
use boardlane::tunnel::session::{Change, Session};

use crate::device::Device;
use crate::ground::{Ground, Memory, SLOT, WINDOW};
use crate::rings::{Ring, SIZE, WRITE, peek, poke};
use crate::victim::{End, HEARTBEAT, Means};

pub(crate) const MS: Duration = Duration::from_millis(1);
/// Ids on the transport.
pub(crate) const VICTIM: u32 = 1;
pub(crate) const ATTACKER: u32 = 66;

/// A driver's memory for frames, and for indirect tables.
pub(crate) const DATA: u64 = 0x5_0000;
pub(crate) const DATA_END: u64 = 0xd_0000;
pub(crate) const TABLE: u64 = 0x1_0000;
/// Where nobody has any business, in both parts of the slot.
pub(crate) const NOWHERE: u64 = 0x3_0000;
/// The device's inbox; its first word is the count of messages put in.
pub(crate) const DEVICE_MAILBOX: u64 = window::HEADER_LEN as u64;
/// The driver's, and where it goes if the device reaches the window only.
pub(crate) const DRIVER_MAILBOX: u64 = WINDOW;
pub(crate) const WINDOW_MAILBOX: u64 = 0x2100;

/// How far the attacker keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has done nothing yet.
    Alone,
    /// The ends have met.
    Met,
    /// Driver: features are accepted, and no queue is set up.
    Ready,
    /// All queues run.
    Running,
}

/// How a case begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) stage: Stage,
    /// What the attacker accepts, or offers.
    pub(crate) features: Features,
    pub(crate) pairs: u16,
    pub(crate) dialect: Dialect,
    /// Of the victim an engine alone reaches driver memory.
    pub(crate) window_only: bool,
}

impl Setup {
    pub(crate) const fn stage(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    pub(crate) const fn without(self, bits: &[u8]) -> Self {
        Self { features: self.features.minus(Features::of(bits)), ..self }
    }

    pub(crate) fn packed(&self) -> bool {
        self.features.has(virtio::F_RING_PACKED)
    }
}

/// An attack under way.
pub(crate) struct Attack {
    pub(crate) memory: Memory,
    pub(crate) now: Instant,
    pub(crate) victim: End,
    pub(crate) role: Role,
    pub(crate) setup: Setup,
    pub(crate) session: Session,
    pub(crate) fifo: Option<Fifo>,
    pub(crate) epoch: u32,
    /// What the victim has sent and nobody has taken.
    pub(crate) heard: Vec<Message>,
    /// Whether what was asked for in vain was refused, once something was.
    pub(crate) refused: Option<bool>,
    pub(crate) device: Device,
    /// The queues, by index; the control queue is the last.
    pub(crate) rings: Vec<Ring>,
    token: u16,
}

impl Attack {
    pub(crate) fn new(role: Role, ground: Ground, engine: bool, setup: Setup) -> Self {
        let (now, memory) = (Instant::now(), Memory::new(ground, setup.window_only));
        poke(&memory.attacker, 0, &[0; window::HEADER_LEN as usize]);
        let engine = engine || setup.window_only;
        let means = Means { engine, pairs: setup.pairs, dialect: setup.dialect };
        let mut victim = End::new(now, role.other(), VICTIM, &memory.victim, means);
        victim.engine_mem = memory.engine.clone();
        let session = Session::new(now, &memory.attacker, params(role)).unwrap();
        let mut attack = Self {
            memory,
            now,
            victim,
            role,
            setup,
            session,
            fifo: None,
            epoch: 0x1234_5600,
            heard: Vec::new(),
            refused: None,
            device: Device::new(setup),
            rings: Vec::new(),
            token: 0,
        };
        attack.victim.meets(now, &[ATTACKER]);
        attack.pass(30 * MS);
        if setup.stage != Stage::Alone {
            attack.meet(|_| {});
            assert!(attack.fifo.is_some(), "{:?}", attack.victim.said);
        }
        match setup.stage {
            Stage::Alone | Stage::Met => {}
            Stage::Ready => attack.negotiate(),
            Stage::Running => attack.run(),
        }
        attack.confine();
        attack
    }

    pub(crate) fn mem(&self) -> &BusMemory {
        &self.memory.attacker
    }

    /// A victim at the device's end has to keep to what it was given.
    fn confine(&self) {
        if self.role == Role::Driver {
            let mailbox = u64::from(window::mailbox_len(window::SLOTS));
            let spans: [Range<u64>; 6] = [
                0..DEVICE_MAILBOX + mailbox,
                WINDOW_MAILBOX..WINDOW_MAILBOX + mailbox,
                DRIVER_MAILBOX..DRIVER_MAILBOX + mailbox,
                0x4000..0x1_0000,
                TABLE..2 * TABLE,
                DATA..DATA_END,
            ];
            self.memory.confine(&spans);
        }
    }

    /// From now on everything is the victim's, as with a peer that means well.
    pub(crate) fn unconfine(&self) {
        self.memory.confine(&[]);
    }

    /// Time goes on, at both ends.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.look();
        self.victim.turn(self.now);
    }

    /// Time goes on in heartbeats.
    pub(crate) fn pass_long(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.pass(HEARTBEAT / 5);
        }
    }

    fn look(&mut self) {
        match self.session.handle_look(self.now, &self.memory.attacker, &|id| id == VICTIM) {
            Some(Change::Up(_, fifo)) => self.fifo = Some(fifo),
            Some(Change::Down(_)) => self.fifo = None,
            _ => {}
        }
    }

    /// Begins a session, and goes on until it is there or half a second is over. `meddle` is called
    /// before the victim looks.
    pub(crate) fn meet(&mut self, meddle: impl Fn(&mut Self)) {
        self.epoch += 1;
        self.session.start(self.now, self.epoch, 5);
        for _ in 0..100 {
            self.now += 5 * MS;
            self.look();
            meddle(self);
            self.victim.turn(self.now);
            if self.fifo.is_some() && self.victim.last().0 == State::Negotiating {
                break;
            }
        }
    }

    // Messages.

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            revision: msg::REVISION,
            max_len: 264,
            epoch: self.epoch,
            layout: window::LAYOUT_VERSION,
            version: "by hand".into(),
            ..Hello::default()
        }
    }

    /// Puts octets into the victim's inbox.
    pub(crate) fn send_octets(&mut self, octets: &[u8]) -> bool {
        let Some(fifo) = &mut self.fifo else { return false };
        fifo.send(&self.memory.attacker, octets).unwrap_or(false)
    }

    pub(crate) fn send_message(&mut self, message: &Message) -> bool {
        let mut out = [0; msg::MAX_LEN];
        let len = message::encode(self.setup.dialect, message, &mut out);
        self.send_octets(&out[..len])
    }

    pub(crate) fn send(&mut self, body: Body) {
        self.token += 1;
        let message = Message { dev_num: 0, token: self.token, body };
        assert!(self.send_message(&message), "the victim's inbox is full");
        self.pass(MS);
    }

    /// The octets of the victim's next message.
    pub(crate) fn take_octets(&mut self) -> Option<[u8; window::SLOT_LEN]> {
        let mut slot = [0; window::SLOT_LEN];
        let fifo = self.fifo.as_mut()?;
        fifo.receive(&self.memory.attacker, &mut slot).ok()?.then_some(slot)
    }

    pub(crate) fn hear(&mut self) {
        while let Some(octets) = self.take_octets() {
            self.heard.push(message::decode(self.setup.dialect, &octets).unwrap());
        }
    }

    /// The answer to a request, if one comes.
    pub(crate) fn ask(&mut self, body: Body) -> Option<Body> {
        self.send(body);
        for _ in 0..10 {
            self.hear();
            if let Some(at) = self.heard.iter().position(|m| m.token == self.token) {
                return Some(self.heard.remove(at).body);
            }
            self.pass(MS);
        }
        None
    }

    /// The device's status.
    pub(crate) fn status(&mut self) -> u8 {
        match self.ask(Body::GetDeviceStatus) {
            Some(Body::DeviceStatus { status }) => u8::try_from(status).unwrap(),
            other => panic!("{other:?}, {:?}", self.victim.said),
        }
    }

    /// Writes the device's status; what it is then.
    pub(crate) fn set_status(&mut self, status: u32) -> u32 {
        match self.ask(Body::SetDeviceStatus { status }) {
            Some(Body::DeviceStatusSet { status }) => status,
            other => panic!("{other:?}, {:?}", self.victim.said),
        }
    }

    /// Resets the device, and waits until it is done.
    pub(crate) fn reset(&mut self) {
        let mut status = self.set_status(0);
        for _ in 0..10 {
            if status == 0 {
                return;
            }
            status = self.status().into();
        }
        panic!("the reset is never done: {status:#x}");
    }

    pub(crate) fn set_features(&mut self, features: Features) {
        let blocks = (0..4).map(|block| features.block(block)).collect();
        self.ask(Body::SetDriverFeatures(Blocks { index: 0, blocks }));
    }

    /// Whether a queue is enabled.
    pub(crate) fn is_enabled(&mut self, index: u32) -> bool {
        match self.ask(Body::GetVqueue { index }) {
            Some(Body::Vqueue(queue)) => queue.flags & msg::VQ_ENABLED != 0,
            other => panic!("{other:?}, {:?}", self.victim.said),
        }
    }

    /// The request that enables a queue.
    pub(crate) fn enable(ring: &Ring, index: u32) -> Body {
        Body::SetVqueue {
            index,
            flags: msg::VQ_ENABLE,
            size: ring.config.size.into(),
            reserved: 0,
            desc: ring.config.desc,
            driver: ring.config.driver,
            device: ring.config.device,
        }
    }

    // The whole way.

    /// Sets everything up by the rules.
    pub(crate) fn run(&mut self) {
        match self.role {
            Role::Driver => {
                self.negotiate();
                for (index, ring) in (0..).zip(self.rings.clone()) {
                    self.ask(Self::enable(&ring, index));
                    assert!(self.is_enabled(index), "queue {index}");
                }
                assert_eq!(self.set_status(15), 15);
            }
            Role::Device => {
                self.serve(200, &mut |_| {});
                self.find_rings();
            }
        }
        let said = &self.victim.said;
        assert!(self.victim.paths.contains_key(&0), "{said:?}");
        assert_eq!(self.victim.last().0, State::Up, "{said:?}");
    }

    /// Driver: up to FEATURES_OK, with queues that nobody knows of yet.
    pub(crate) fn negotiate(&mut self) {
        let hello = Body::Hello(self.hello());
        self.ask(hello);
        self.reset();
        assert_eq!(self.set_status(3), 3);
        self.set_features(self.setup.features);
        assert_eq!(self.set_status(11), 11, "{:?}", self.victim.said);
        let (mem, packed) = (&self.memory.attacker, self.setup.packed());
        let pairs = if self.setup.features.has(net::F_MQ) { self.setup.pairs } else { 1 };
        let control = u64::from(self.setup.features.has(net::F_CTRL_VQ));
        let at = (0..2 * u64::from(pairs) + control).map(|i| 0x4000 + 0x1800 * i);
        self.rings = at.map(|at| Ring::at(mem, at, packed)).collect();
    }

    /// Device: where the driver has put its queues.
    pub(crate) fn find_rings(&mut self) {
        let queues = self.device.queues(self.setup.features);
        self.rings = queues.map(|config| Ring::of(&self.memory.attacker, config)).collect();
    }

    pub(crate) fn rx(&mut self) -> &mut Ring {
        &mut self.rings[0]
    }

    pub(crate) fn tx(&mut self) -> &mut Ring {
        &mut self.rings[1]
    }

    pub(crate) fn ctrl(&mut self) -> &mut Ring {
        self.rings.last_mut().unwrap()
    }

    /// Whether the victim has done its part.
    pub(crate) fn settle(&mut self) {
        for _ in 0..8 {
            self.pass(MS);
        }
    }

    /// That frames pass both ways still, in this session. `None`: they do not; else how they fail.
    pub(crate) fn frames_pass(&mut self) {
        let (before, frame) = (self.victim.inbox.len(), frame(7, 300));
        match self.role {
            Role::Driver => {
                let mem = self.memory.attacker.clone();
                poke(&mem, DATA_END - 0x1000, &frame);
                self.tx().send(&[(DATA_END - 0x1000, 312, 0)]);
                self.rx().send(&[(DATA_END - 0x2000, 0x1000, WRITE)]);
                let used = self.rx().used_by_device();
                self.victim.outbox.push_back(frame.clone());
                self.settle();
                assert_ne!(self.rx().used_by_device(), used, "the device sends none");
            }
            Role::Device => self.exchange(&frame),
        }
        let came = &self.victim.inbox[before..];
        let same = |got: &Vec<u8>| got[..10] == frame[..10] && got[12..] == frame[12..];
        assert!(came.len() == 1 && same(&came[0]), "{} frames came out", came.len());
    }

    /// Driver: whether a command is carried out; `None` without an answer.
    pub(crate) fn command(&mut self, octets: &[u8]) -> Option<u8> {
        let mem = self.memory.attacker.clone();
        poke(&mem, DATA, octets);
        poke(&mem, DATA + 0x4000, &[0xee]);
        let len = u32::try_from(octets.len()).unwrap();
        self.ctrl().send(&[(DATA, len, 0), (DATA + 0x4000, 1, WRITE)]);
        self.settle();
        let [answer] = peek(&mem, DATA + 0x4000);
        (answer != 0xee).then_some(answer)
    }

    /// Says whether a wrong request was refused.
    pub(crate) fn refuse(&mut self, refused: bool) {
        self.refused = Some(self.refused.unwrap_or(true) && refused);
    }
}

/// What the end by hand says of itself.
fn params(role: Role) -> Params {
    let entry = |kind, r: Range<u64>| MemoryEntry { kind, bus_addr: r.start, len: r.end - r.start };
    let (mailbox, table) = match role {
        Role::Device => (DEVICE_MAILBOX, vec![]),
        Role::Driver => (DRIVER_MAILBOX, vec![entry(window::MEMORY_DRIVER, WINDOW..SLOT)]),
    };
    Params {
        role,
        window_addr: 0,
        window_len: u32::try_from(WINDOW).unwrap(),
        owner: ATTACKER,
        vectors: 2,
        mailbox,
        window_mailbox: WINDOW_MAILBOX,
        dma_only: false,
        table,
        slot: 0,
        heartbeat: HEARTBEAT,
        dead_after: 4 * HEARTBEAT,
    }
}

/// A frame of `len` bytes behind an empty header, whose bytes tell its number.
pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0; net::HEADER_LEN + len];
    for (i, byte) in frame[net::HEADER_LEN..].iter_mut().enumerate() {
        *byte = (number.wrapping_mul(37) + i + i / 251) as u8;
    }
    frame
}

const _: () = assert!(SIZE as u64 * 16 <= 0x800);
