//! A master and a board exchange windows, each on a machine of its own endianness.
//!
//! A history of one link is played step by step: the ends meet, talk, and use split and packed rings,
//! with chains and then with frames. What each step changed in memory is a tape, and both kinds of
//! machine have left theirs in `tests/fixtures`. They must be the same; and an end that runs here must
//! get along with the other one off the tape of the other endianness.
//!
//! `BOARDLANE_WRITE_FIXTURES=1 cargo test --no-default-features --test exchange` writes this machine's
//! tape anew, with `.ci/big-endian` in place of cargo a big-endian one's.

#![allow(clippy::unwrap_used, reason = "a test")]

mod frames;
mod rings;
mod tape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::device_path::DevicePath;
use boardlane::net::driver_path::DriverPath;
use boardlane::spec::{msg, window};
use boardlane::tunnel::fifo::Fifo;
use boardlane::tunnel::message::{Blocks, Body, Dialect, Hello, Message, decode, encode};
use boardlane::tunnel::part::{MemoryEntry, Params, Peer, Role};
use boardlane::tunnel::session::{Change, Session};
use boardlane::virtqueue::{DeviceQueue, DriverQueue};
use tape::{Step, Tape};

/// Bus addresses whose octets all differ.
const WINDOW: u64 = 0x0102_0304_0500_0000;
const DRIVER_MEMORY: u64 = 0x1112_1314_1500_0000;
/// Length of each.
const LEN: u32 = 0x4_0000;

const NATIVE: &str = if cfg!(target_endian = "big") { "be" } else { "le" };
const OTHER: &str = if cfg!(target_endian = "big") { "le" } else { "be" };

/// One end, if it runs here.
struct End<Q, P> {
    session: Session,
    link: Option<(Peer, Fifo)>,
    queue: Option<Q>,
    path: Option<P>,
}

type Master = End<DriverQueue, DriverPath>;
type Board = End<DeviceQueue, DevicePath>;

impl<Q, P> End<Q, P> {
    fn new(role: Role, stage: &Stage) -> Self {
        let entry = |kind, bus_addr| MemoryEntry { kind, bus_addr, len: LEN.into() };
        let (mailbox, table) = match role {
            Role::Device => (WINDOW + u64::from(window::HEADER_LEN), vec![]),
            Role::Driver => (
                DRIVER_MEMORY,
                vec![
                    entry(window::MEMORY_WINDOW, WINDOW),
                    entry(window::MEMORY_DRIVER, DRIVER_MEMORY),
                ],
            ),
        };
        let params = Params {
            role,
            window_addr: WINDOW,
            window_len: LEN,
            owner: owner(role),
            vectors: 0x2122,
            mailbox,
            window_mailbox: 0x4000,
            dma_only: false,
            table,
            slot: 0x0031_3233,
            heartbeat: Duration::from_millis(25),
            dead_after: Duration::from_millis(100),
        };
        let mut session = Session::new(stage.now, &stage.mem, params).unwrap();
        session.start(stage.now, epoch(role), 0x5152_5354_5556_5700 + u64::from(owner(role)));
        Self { session, link: None, queue: None, path: None }
    }

    fn look(&mut self, mem: &BusMemory, now: Instant) {
        let alive = |id| [Role::Driver, Role::Device].map(owner).contains(&id);
        match self.session.handle_look(now, mem, &alive) {
            Some(Change::Up(peer, fifo)) => self.link = Some((peer, fifo)),
            Some(Change::Down(reason)) => panic!("{reason}"),
            Some(Change::Waiting(_) | Change::Ring(_)) | None => {}
        }
    }

    fn fifo(&mut self) -> &mut Fifo {
        &mut self.link.as_mut().expect("the ends have met").1
    }

    fn say(&mut self, mem: &BusMemory, dialect: Dialect, message: &Message) {
        let mut octets = [0; msg::MAX_LEN];
        let len = encode(dialect, message, &mut octets);
        assert!(self.fifo().send(mem, &octets[..len]).unwrap());
    }

    fn hear(&mut self, mem: &BusMemory, dialect: Dialect, expected: &Message) {
        let mut slot = [0; window::SLOT_LEN];
        assert!(self.fifo().receive(mem, &mut slot).unwrap());
        assert_eq!(decode(dialect, &slot).as_ref(), Ok(expected));
    }
}

fn owner(role: Role) -> u32 {
    if role == Role::Driver { 0x4344 } else { 0x4748 }
}

fn epoch(role: Role) -> u32 {
    if role == Role::Driver { 0x6162_6364 } else { 0x6566_6768 }
}

/// Where a history is played.
struct Stage {
    bytes: Arc<Mapping>,
    mem: BusMemory,
    now: Instant,
    /// What memory held after the last step.
    before: Vec<u8>,
    made: Tape,
    given: Tape,
}

impl Stage {
    fn new(given: Tape) -> Self {
        let len = usize::try_from(LEN).unwrap();
        let bytes = Arc::new(Mapping::anonymous(2 * len, Kind::Cached));
        let region = |addr, side, at| Region::mapped(addr, LEN.into(), side, bytes.clone(), at);
        let regions = vec![region(WINDOW, Side::Near, 0), region(DRIVER_MEMORY, Side::Far, len)];
        let mem = BusMemory::new(regions).unwrap();
        let made = Tape::default();
        Self { bytes, mem, now: Instant::now(), before: vec![0; 2 * len], made, given }
    }

    /// One step: of an end that runs here, or off the tape.
    fn step<E>(
        &mut self,
        end: &mut Option<E>,
        what: &str,
        act: impl FnOnce(&mut E, &BusMemory, Instant),
    ) {
        match end {
            Some(end) => act(end, &self.mem, self.now),
            None => {
                let step = &self.given.0[self.made.0.len()];
                assert_eq!(step.what, what, "the tape is of another history");
                step.replay(&self.bytes);
            }
        }
        self.made.0.push(Step::since(what, &mut self.before, &self.bytes));
    }
}

/// The whole history, with these ends here and the rest off the tape.
fn play(given: Tape, master_here: bool, board_here: bool) -> Tape {
    let mut stage = Stage::new(given);
    let mut master = master_here.then(|| Master::new(Role::Driver, &stage));
    let mut board = board_here.then(|| Board::new(Role::Device, &stage));
    meet(&mut stage, &mut master, &mut board);
    for dialect in [Dialect::V1, Dialect::V2] {
        talk(&mut stage, &mut master, &mut board, dialect);
    }
    for packed in [false, true] {
        rings::play(&mut stage, &mut master, &mut board, packed);
        frames::play(&mut stage, &mut master, &mut board, packed);
    }
    stage.made
}

fn meet(stage: &mut Stage, master: &mut Option<Master>, board: &mut Option<Board>) {
    for _ in 0..10 {
        stage.step(board, "board looks", Board::look);
        stage.step(master, "master looks", Master::look);
        stage.now += Duration::from_millis(10);
    }
    let peer = |role| Peer {
        owner: owner(role),
        vectors: 0x2122,
        mute: false,
        epoch: epoch(role),
        slot: 0x0031_3233,
        dma_only: false,
    };
    if let Some(end) = master {
        assert_eq!(end.link.as_ref().map(|l| &l.0), Some(&peer(Role::Device)));
    }
    if let Some(end) = board {
        assert_eq!(end.link.as_ref().map(|l| &l.0), Some(&peer(Role::Driver)));
    }
}

/// Each request with its response: between them every width of field.
fn messages() -> Vec<(Body, Body)> {
    let hello = Hello {
        revision: 0x0102_0304,
        max_len: 264,
        transport_features: 0x1112_1314_1516_1718,
        epoch: epoch(Role::Driver),
        layout: window::LAYOUT_VERSION,
        mac: [2, 0, 0, 0, 0, 7],
        version: "tape".into(),
    };
    let blocks = Blocks { index: 1, blocks: vec![0x2122_2324, 0x2526_2728] };
    let set_vqueue = Body::SetVqueue {
        index: 1,
        flags: msg::VQ_ENABLE,
        size: 0x0100,
        reserved: 0,
        desc: WINDOW + 0x3132,
        driver: WINDOW + 0x3334,
        device: DRIVER_MEMORY + 0x3536,
    };
    let devices =
        Body::Devices { offset: 0x0108, next_offset: 0x0118, count: 16, bitmap: vec![1, 128] };
    vec![
        (Body::Hello(hello.clone()), Body::HelloBack(hello)),
        (Body::GetDeviceFeatures { index: 1, count: 2 }, Body::DeviceFeatures(blocks)),
        (set_vqueue, Body::VqueueSet),
        (Body::GetDevices { offset: 0x0108, count: 16 }, devices),
        (Body::Ping { data: 0x4142_4344 }, Body::Pong { data: 0x4142_4344 }),
    ]
}

fn talk(
    stage: &mut Stage,
    master: &mut Option<Master>,
    board: &mut Option<Board>,
    dialect: Dialect,
) {
    for (request, response) in messages() {
        let of_bus = !matches!(request, Body::GetDeviceFeatures { .. } | Body::SetVqueue { .. });
        let message = |body| Message { dev_num: u16::from(!of_bus), token: 0x5152, body };
        let (request, response) = (message(request), message(response));
        stage.step(master, "master asks", |end, mem, _| end.say(mem, dialect, &request));
        stage.step(board, "board answers", |end, mem, _| {
            end.hear(mem, dialect, &request);
            end.say(mem, dialect, &response);
        });
        stage.step(master, "master hears", |end, mem, _| end.hear(mem, dialect, &response));
    }
}

#[test]
fn either_endianness_writes_the_same_octets() {
    let made = play(Tape::default(), true, true);
    if std::env::var_os("BOARDLANE_WRITE_FIXTURES").is_some() {
        std::fs::write(tape::path(NATIVE), made.to_text()).unwrap();
    }
    for endianness in [NATIVE, OTHER] {
        made.assert_is(&Tape::load(endianness), endianness);
    }
}

#[test]
fn a_board_gets_along_with_a_master_of_the_other_endianness() {
    play(Tape::load(OTHER), false, true).assert_is(&Tape::load(OTHER), OTHER);
}

#[test]
fn a_master_gets_along_with_a_board_of_the_other_endianness() {
    play(Tape::load(OTHER), true, false).assert_is(&Tape::load(OTHER), OTHER);
}
