//! Message octets: the codecs, the FIFO, the window's header, and both ends of the tunnel.
//!
//! The first octet chooses what is tried. Both ends of the tunnel are tried at once: they talk to each
//! other, and the script changes octets on the way, puts in messages of its own, and turns the clock.
//! Afterwards an honest session must come up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::features::Features;
use boardlane::net::model::{self, NetDevice, Offer};
use boardlane::spec::{msg, virtio, window};
use boardlane::tunnel::device::{self, DeviceTunnel};
use boardlane::tunnel::driver::{self, DriverConfig, DriverTunnel, QueueSetup};
use boardlane::tunnel::fifo::{Fifo, Mailbox};
use boardlane::tunnel::message::{Body, Dialect, Hello, decode, encode};
use boardlane::tunnel::part::{MemoryEntry, Params, Role};
use boardlane::tunnel::session::{Change, Session};

use super::octets::Octets;

/// Most steps of a script.
const STEPS: usize = 512;
/// Most outputs that one input may lead to: answers and events have a bound of 16 each.
const OUTPUTS: usize = 64;

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut script = Octets(data);
    match script.u8() % 6 {
        0 => codec(Dialect::V1, script.0),
        1 => codec(Dialect::V2, script.0),
        2 => tunnel(Dialect::V1, &mut script),
        3 => tunnel(Dialect::V2, &mut script),
        4 => fifo(&mut script),
        _ => session(&mut script),
    }
}

/// What is decoded has octets that mean the same; the same octets have one verdict.
fn codec(dialect: Dialect, octets: &[u8]) {
    let verdict = decode(dialect, octets);
    assert_eq!(verdict, decode(dialect, octets));
    match verdict {
        Ok(message) => {
            let mut slot = [0; msg::MAX_LEN];
            let len = encode(dialect, &message, &mut slot);
            // Ours may be longer in a later version; the standard's have exactly their size.
            let ours =
                matches!(message.body, Body::Hello(_) | Body::HelloBack(_) | Body::EventLink(_));
            let size = usize::from(u16::from_le_bytes([octets[6], octets[7]]));
            assert!(size == len || ours && size > len, "{size} octets for {message:?}");
            assert_eq!(decode(dialect, &slot[..len]).as_ref(), Ok(&message));
            assert_eq!(decode(dialect, &slot), Ok(message));
        }
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
}

/// Both ends of a tunnel, and what is on its way between them.
struct Tunnel {
    now: Instant,
    dialect: Dialect,
    driver: DriverTunnel,
    board: DeviceTunnel,
    device: NetDevice,
    to_board: VecDeque<Vec<u8>>,
    to_driver: VecDeque<Vec<u8>>,
    /// The driver end has said that its session is over.
    over: bool,
    running: bool,
    /// The link has the device's queues, and is to give some back.
    active: bool,
    to_rest: bool,
}

fn hello(epoch: u32) -> Hello {
    Hello {
        revision: msg::REVISION,
        max_len: msg::MAX_LEN.try_into().expect("264"),
        epoch,
        layout: window::LAYOUT_VERSION,
        version: "fuzz".into(),
        ..Hello::default()
    }
}

fn tunnel(dialect: Dialect, script: &mut Octets<'_>) {
    let mut t = Tunnel::new(dialect);
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        t.step(script);
    }
    t.recovers();
}

impl Tunnel {
    fn new(dialect: Dialect) -> Self {
        let offer = Offer {
            features: Features::OFFER,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            rx_size: 256,
            tx_size: 128,
            pairs: 2,
        };
        let config = DriverConfig {
            dialect,
            hello: hello(0xd1),
            greets: true,
            wanted: Features::OFFER.bits(),
            required: 1 << virtio::F_VERSION_1,
            clean: |bits| Features::from_bits(bits).without(Features::NONE).bits(),
            pairs: 2,
            request_timeout: Duration::from_secs(1),
            attempts: 3,
        };
        let now = Instant::now();
        Self {
            now,
            dialect,
            driver: DriverTunnel::new(now, config),
            board: DeviceTunnel::new(dialect, hello(0xde)),
            device: NetDevice::new(offer),
            to_board: VecDeque::new(),
            to_driver: VecDeque::new(),
            over: false,
            running: false,
            active: false,
            to_rest: false,
        }
    }

    fn step(&mut self, script: &mut Octets<'_>) {
        match script.u8() % 16 {
            // On the way as they are.
            0 | 1 => self.deliver_to_board(|octets| octets),
            2 | 3 => self.deliver_to_driver(|octets| octets),
            4 => {
                let change = change(script);
                self.deliver_to_board(change);
            }
            5 => {
                let change = change(script);
                self.deliver_to_driver(change);
            }
            6 => self.board_takes(&own_message(script)),
            7 => self.driver_takes(&own_message(script)),
            8 => {
                let len = script.u8().into();
                self.board_takes(script.take(len));
            }
            9 => {
                let len = script.u8().into();
                self.driver_takes(script.take(len));
            }
            10 => {
                self.now += Duration::from_millis(script.choose(&[1, 10, 100, 1000, 5000]));
                self.driver.handle_timeout(self.now);
                self.drain_driver();
            }
            11 => match script.u8() % 4 {
                0 => self.quiesce(),
                1 => self.device.queue_quiesced(script.u8().into()),
                2 => self.board.notify_at_rest(&self.device),
                _ => drop(self.device.needs_reset("the script says so")),
            },
            12 => match script.u8() % 6 {
                0 => self.driver.ping(self.now),
                1 => self.driver.notify_available(script.u8().into()),
                2 => self.driver.reset(self.now),
                3 => self.restart(),
                4 => self.board.ping(self.now),
                _ => self.driver.set_queues(self.now, queues(&[(0, 256), (1, 128)])),
            },
            13 => {
                let up = script.u8() & 1 != 0;
                let _ = self.device.set_link(up);
                self.board.notify_config_changed(&self.device);
            }
            14 => self.board.notify_status_changed(&self.device),
            _ => {
                self.to_board.clear();
                self.to_driver.clear();
            }
        }
        self.drain_board();
        self.drain_driver();
    }

    fn restart(&mut self) {
        self.driver.restart(self.now);
        self.over = false;
        self.running = false;
    }

    fn quiesce(&mut self) {
        (self.active, self.to_rest) = (false, false);
        self.device.quiesced();
        self.board.notify_at_rest(&self.device);
    }

    fn deliver_to_board(&mut self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        if let Some(octets) = self.to_board.pop_front() {
            self.board_takes(&change(octets));
        }
    }

    fn deliver_to_driver(&mut self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        if let Some(octets) = self.to_driver.pop_front() {
            self.driver_takes(&change(octets));
        }
    }

    fn board_takes(&mut self, octets: &[u8]) {
        let before = self.board.counters().answered;
        if self.board.ready() {
            self.board.handle_message(self.now, octets, &mut self.device);
        }
        let answered = self.board.counters().answered - before;
        assert!(answered <= 1, "{answered} answers to one message");
        assert_eq!(self.board.counters().lost, 0);
        self.drain_board();
    }

    fn driver_takes(&mut self, octets: &[u8]) {
        self.driver.handle_message(self.now, octets);
        self.drain_driver();
    }

    fn drain_board(&mut self) {
        for n in 0.. {
            assert!(n < OUTPUTS, "events without end");
            let Some(event) = self.board.poll_event() else { break };
            if let device::Event::HelloRefused(why) = event {
                assert!(format!("{why:?}").len() < 1000);
            }
        }
        for n in 0.. {
            assert!(n < OUTPUTS, "the device has events without end");
            match self.device.poll_event() {
                None => break,
                Some(model::Event::Activate { queues, .. }) => {
                    assert!(!self.active, "activated twice");
                    assert!(queues.iter().all(|q| q.size.is_power_of_two() && q.index < 5));
                    self.active = true;
                }
                Some(model::Event::Reset | model::Event::ResetQueue(_)) => {
                    assert!(self.active, "reset without queues");
                    self.to_rest = true;
                }
                Some(_) => {}
            }
        }
        let mut slot = [0; msg::MAX_LEN];
        for n in 0.. {
            assert!(n < OUTPUTS, "messages without end");
            let Some(len) = self.board.poll_message(&mut slot) else { break };
            self.well_formed(&slot[..len]);
            push(&mut self.to_driver, &slot[..len]);
        }
    }

    fn drain_driver(&mut self) {
        for n in 0.. {
            assert!(n < OUTPUTS, "events without end");
            let Some(event) = self.driver.poll_event() else { break };
            assert!(!self.over, "{event:?} after the last event of a session");
            match event {
                driver::Event::QueuesNeeded { queues: there, config, .. } => {
                    assert!(there.len() <= 5 && config.len() <= 1024);
                    let wanted = queues(&there);
                    self.driver.set_queues(self.now, wanted);
                }
                driver::Event::Running { config, .. } => {
                    assert!(config.len() <= 1024);
                    self.running = true;
                }
                driver::Event::Failed(error) => {
                    assert!(error.to_string().len() < 400, "{error}");
                    self.over = true;
                }
                driver::Event::Stopped => self.over = true,
                _ => {}
            }
        }
        assert!(!self.driver.is_running() || self.running, "running, and not said");
        let mut slot = [0; msg::MAX_LEN];
        for n in 0.. {
            assert!(n < OUTPUTS, "messages without end");
            let Some(len) = self.driver.poll_message(&mut slot) else { break };
            self.well_formed(&slot[..len]);
            push(&mut self.to_board, &slot[..len]);
        }
    }

    /// What an end says is a message, whatever it was told.
    fn well_formed(&self, octets: &[u8]) {
        let message = decode(self.dialect, octets);
        assert!(message.is_ok(), "{message:?} from {octets:02x?}");
    }

    /// Whatever went by, two honest ends come together.
    fn recovers(&mut self) {
        self.to_board.clear();
        self.to_driver.clear();
        self.quiesce();
        self.drain_board();
        self.to_driver.clear();
        self.restart();
        for _ in 0..1000 {
            self.now += Duration::from_millis(10);
            self.drain_driver();
            self.deliver_to_board(|octets| octets);
            if self.to_rest {
                self.quiesce();
                self.drain_board();
            }
            self.deliver_to_driver(|octets| octets);
            if self.driver.poll_timeout().is_some_and(|at| at <= self.now) {
                self.driver.handle_timeout(self.now);
            }
            if self.driver.is_running() {
                assert!(self.active);
                return;
            }
        }
        panic!("no session within ten seconds: {:?} {:?}", self.driver, self.board);
    }
}

/// A change of one octet, and perhaps of the length.
fn change(script: &mut Octets<'_>) -> impl FnOnce(Vec<u8>) -> Vec<u8> + use<> {
    let (at, mask, cut) = (script.u8(), script.u8(), script.u8());
    move |mut octets| {
        if let Some(octet) = octets.get_mut(usize::from(at)) {
            *octet ^= mask;
        }
        if cut & 0x80 != 0 {
            octets.truncate((cut & 0x7f).into());
        }
        octets
    }
}

/// A message whose size field is right.
fn own_message(script: &mut Octets<'_>) -> Vec<u8> {
    let len = usize::from(script.u8());
    let mut octets = vec![script.u8(), script.u8(), 0, 0];
    octets.extend(script.u16().to_le_bytes());
    octets.extend([0; 2]);
    octets.extend(script.take(len));
    let size = u16::try_from(octets.len()).expect("below 264");
    octets[6..8].copy_from_slice(&size.to_le_bytes());
    octets
}

fn queues(there: &[(u16, u16)]) -> Vec<QueueSetup> {
    let setup = |&(index, most): &(u16, u16)| {
        let at = 0x1_0000 * (u64::from(index) + 1);
        let size = most.clamp(1, 128);
        QueueSetup { index, size, desc: at, driver: at + 0x1000, device: at + 0x2000 }
    };
    there.iter().map(setup).collect()
}

/// As a mailbox of bounded size.
fn push(mailbox: &mut VecDeque<Vec<u8>>, octets: &[u8]) {
    if mailbox.len() < window::SLOTS as usize {
        mailbox.push_back(octets.to_vec());
    }
}

/// Bytes of window and driver memory in the two trials below; the window comes first.
const WINDOW: u32 = 0x4000;
const DRIVER: u32 = 0x4000;

fn memory(kind: Kind) -> BusMemory {
    let region = |addr, len: u32, side| {
        let bytes = Arc::new(Mapping::anonymous(len as usize, kind));
        Region::mapped(addr, len.into(), side, bytes, 0)
    };
    let window = region(0, WINDOW, Side::Near);
    let driver = region(WINDOW.into(), DRIVER, Side::Far);
    BusMemory::new(vec![window, driver]).expect("two regions side by side")
}

/// What an end wrote to its memory, by four octets.
fn poke(mem: &BusMemory, addr: u64, value: u32) {
    let span = mem.resolve(addr & !3, 4).expect("inside the memory");
    mem.view(span).expect("mapped").store_le32(0, value);
}

fn kind(script: &mut Octets<'_>) -> Kind {
    script.choose(&[Kind::Cached, Kind::WriteCombined, Kind::Uncached])
}

/// One end of both FIFOs, whose mailboxes stand where the script says, while counts change.
fn fifo(script: &mut Octets<'_>) {
    let mem = memory(kind(script));
    let place = |script: &mut Octets<'_>| match script.u8() {
        0 => (0x1000, 4),
        1 => (0x4000, 8),
        _ => (script.u64(), script.u32()),
    };
    let (own, peer) = (place(script), place(script));
    let (Ok(near), Ok(far)) = (Mailbox::at(&mem, own.0, own.1), Mailbox::at(&mem, peer.0, peer.1))
    else {
        return;
    };
    let mut fifo = Fifo::start(&mem, near, far);
    let mut slot = [0; window::SLOT_LEN];
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        match script.u8() % 5 {
            0 => poke(&mem, own.0 + window::MAILBOX_HEAD as u64, script.u32()),
            1 => poke(&mem, own.0 + window::MAILBOX_TAIL as u64, script.u32()),
            2 => poke(&mem, u64::from(script.u16() % 0x7ff0), script.u32()),
            3 => {
                let mut taken = 0;
                let end = loop {
                    match fifo.receive(&mem, &mut slot) {
                        Ok(true) => taken += 1,
                        end => break end,
                    }
                    assert!(taken <= own.1, "more than the slots");
                };
                // Where the mailboxes overlap, taking changes the counts.
                if own.0.abs_diff(peer.0) > 0x3000 {
                    assert_eq!(fifo.receive(&mem, &mut slot), end);
                }
            }
            _ => {
                let len = usize::from(script.u8());
                let room = fifo.has_room(&mem);
                assert_eq!(fifo.send(&mem, &slot[..len]), room);
            }
        }
    }
}

/// One end of a window whose other end writes what the script says.
fn session(script: &mut Octets<'_>) {
    let mem = memory(kind(script));
    let role = script.choose(&[Role::Device, Role::Driver]);
    let mut now = Instant::now();
    let mut end = Session::new(now, &mem, params(role, 1)).expect("our own layout");
    let mut epoch = 1;
    end.start(now, epoch, 0x1234_5678_9abc_def0);
    let mut alive = true;
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        match script.u8() % 8 {
            // A field of the header, most often one of the other end's part.
            0 | 1 => poke(&mem, u64::from(script.u8()) * 4 % 0x140, script.u32()),
            2 => {
                let part = if role == Role::Driver { 0x40 } else { 0x80 };
                poke(&mem, part + u64::from(script.u8() % 12) * 4, script.u8().into());
            }
            3 => poke(&mem, u64::from(script.u16() % 0x7ff0), script.u32()),
            4 => alive = !alive,
            5 => drop(end.handle_peer_gone(&mem, script.u8().into())),
            6 => {
                let _ = end.shutdown(&mem);
                end.release(&mem);
                epoch += 1;
                end.start(now, epoch, epoch.into());
            }
            _ => now += Duration::from_millis(script.choose(&[1, 25, 60, 300, 1100])),
        }
        for turn in 0.. {
            assert!(turn < 32, "changes without end");
            match end.handle_look(now, &mem, &|_| alive) {
                None => break,
                Some(Change::Waiting(why)) => assert!(why.to_string().len() < 400),
                Some(Change::Ring(_)) => {}
                Some(Change::Up(_, mut fifo)) => {
                    let mut slot = [0; window::SLOT_LEN];
                    let _ = fifo.receive(&mem, &mut slot);
                    let _ = fifo.send(&mem, &slot);
                }
                Some(Change::Down(why)) => {
                    assert!(why.to_string().len() < 400);
                    epoch += 1;
                    end.start(now, epoch, epoch.into());
                }
            }
        }
    }
    drop(end);
    meets(&mem, now);
}

fn params(role: Role, owner: u32) -> Params {
    let entry = |kind, bus_addr, len: u32| MemoryEntry { kind, bus_addr, len: len.into() };
    Params {
        role,
        window_addr: 0,
        window_len: WINDOW,
        owner,
        vectors: 4,
        mailbox: if role == Role::Device { window::HEADER_LEN } else { WINDOW }.into(),
        window_mailbox: 0x2800,
        dma_only: false,
        table: if role == Role::Device {
            Vec::new()
        } else {
            vec![
                entry(window::MEMORY_WINDOW, 0, WINDOW),
                entry(window::MEMORY_DRIVER, WINDOW.into(), DRIVER),
            ]
        },
        slot: 7,
        heartbeat: Duration::from_millis(250),
        dead_after: Duration::from_secs(1),
    }
}

/// Whatever stands in the window, two new ends come together in it.
fn meets(mem: &BusMemory, mut now: Instant) {
    let [mut board, mut master] = [(Role::Device, 21), (Role::Driver, 22)].map(|(role, owner)| {
        let mut end = Session::new(now, mem, params(role, owner)).expect("our own layout");
        end.start(now, owner + 0x100, owner.into());
        end
    });
    let mut epoch = 0x1000;
    let mut up = [false; 2];
    for _ in 0..2000 {
        for (end, up) in [&mut board, &mut master].into_iter().zip(&mut up) {
            match end.handle_look(now, mem, &|owner| [21, 22].contains(&owner)) {
                Some(Change::Up(..)) => *up = true,
                Some(Change::Down(_)) => {
                    *up = false;
                    epoch += 1;
                    end.start(now, epoch, epoch.into());
                }
                _ => {}
            }
        }
        if up == [true; 2] {
            return;
        }
        now += Duration::from_millis(5);
    }
    panic!("no session within ten seconds: {board:?} {master:?}");
}
