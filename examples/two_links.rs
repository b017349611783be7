//! Two ends of one link in one process: no OS, no threads, no clock but the one turned here.
//!
//! The window and driver memory are plain memory, doorbells are flags. The ends find each other,
//! negotiate, and then carry frames both ways, which are compared when they come out. It shows what
//! a transport and a worker do with the library, and in which order.
//!
//! `cargo run --example two_links --no-default-features`

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::link::{Event, Link, LinkParams};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::features::Features;
use boardlane::net::path::{Inward, Path};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};

const SLOT: u64 = 16 << 20;
const WINDOW: u64 = SLOT / 4;

/// One end: what a daemon has of a link.
struct End {
    link: Link,
    mem: Arc<BusMemory>,
    path: Option<Box<dyn Path>>,
    /// Our doorbell rang.
    rung: bool,
    outbox: VecDeque<Vec<u8>>,
    inbox: Vec<Vec<u8>>,
}

impl End {
    fn new(now: Instant, role: Role, slot: &Arc<Mapping>) -> Self {
        let (window, driver) = match role {
            Role::Device => (Side::Near, Side::Far),
            Role::Driver => (Side::Far, Side::Near),
        };
        let regions = vec![
            Region::mapped(0, WINDOW, window, slot.clone(), 0),
            Region::mapped(WINDOW, SLOT - WINDOW, driver, slot.clone(), 4 << 20),
        ];
        let mem = Arc::new(BusMemory::new(regions).expect("two regions side by side"));
        let owner = if role == Role::Driver { 1 } else { 2 };
        let params = LinkParams {
            role,
            dialect: Dialect::V2,
            layout: Layout::Boardlane,
            window: 0..WINDOW,
            driver_memory: WINDOW..SLOT,
            slot: 0,
            owner,
            vectors: 2,
            heartbeat: Duration::from_millis(250),
            features_off: Features::NONE,
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            version: "example".to_owned(),
            engine: None,
            seed: owner.into(),
        };
        let mut link = Link::new(now, mem.clone(), params).expect("a slot of 16 MiB");
        link.handle_peers(now, BTreeSet::from([1, 2]));
        Self { link, mem, path: None, rung: false, outbox: VecDeque::new(), inbox: Vec::new() }
    }

    /// Does what the link wants done; `true` if the other end's doorbell is to be rung.
    fn turn(&mut self, now: Instant, name: &str) -> bool {
        if std::mem::take(&mut self.rung) {
            self.link.handle_doorbell(now);
        }
        if self.link.poll_timeout().is_some_and(|t| t <= now) {
            self.link.handle_timeout(now);
        }
        let mut ring = false;
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Ring { .. } => ring = true,
                Event::State(state, why) => println!("{name}: {state:?} {why}"),
                Event::Peer(hello) => println!("{name}: the other end is {}", hello.version),
                Event::PeerLink(peer) => println!("{name}: the other end's netdev is {peer:?}"),
                Event::Carrier(up) => println!("{name}: carrier {up}"),
                Event::Start(start) => println!("{name}: negotiated {}", start.features),
                Event::StartPair(start) => self.path = Some(start.path),
                Event::StopPair(pair) => {
                    let path = self.path.take();
                    self.link.handle_pair_stopped(now, pair, path);
                }
                Event::Announce => println!("{name}: asked to announce its address"),
                Event::Stop => {
                    self.path = None;
                    self.link.handle_stopped(now);
                }
                Event::Wake | Event::Offloads(_) => {}
            }
        }
        ring | self.breathe()
    }

    /// What a worker does, with vectors of bytes where it has a TAP.
    fn breathe(&mut self) -> bool {
        let Some(path) = &mut self.path else { return false };
        let mem = &self.mem;
        while let Some(frame) = self.outbox.front() {
            if !path.room(mem).expect("rings are sound").fill(mem, frame) {
                break;
            }
            let dropped = path.sent(mem, frame.len()).expect("rings are sound");
            assert_eq!(dropped, None);
            self.outbox.pop_front();
        }
        let mut ring = path.flush(mem);
        loop {
            match path.receive(mem).expect("rings are sound") {
                Inward::Empty => break,
                Inward::Dropped(reason) => panic!("dropped: {}", reason.name()),
                Inward::Frame { prefix, tail, .. } => {
                    let mut frame = prefix.to_vec();
                    for span in tail {
                        let at = frame.len();
                        frame.resize(at + span.len(), 0);
                        mem.view(*span).expect("mapped").copy_to(0, &mut frame[at..]);
                    }
                    self.inbox.push(frame);
                }
            }
            path.received(mem).expect("rings are sound");
        }
        ring |= path.release(mem);
        ring
    }
}

/// A frame of `len` bytes with an empty virtio-net header, whose bytes tell its number.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0; 12 + len];
    for (i, byte) in frame[12..].iter_mut().enumerate() {
        *byte = u8::try_from((number * 31 + i) % 251).expect("below 251");
    }
    frame
}

fn main() {
    let mut now = Instant::now();
    let slot = Arc::new(Mapping::anonymous(16 << 20, Kind::Cached));
    let mut board = End::new(now, Role::Device, &slot);
    let mut master = End::new(now, Role::Driver, &slot);
    let lengths = [60, 1514, 9014, 65_535, 268, 269, 14];
    let frames: Vec<_> = (0..10_000).map(|i| frame(i, lengths[i % lengths.len()])).collect();
    board.outbox.extend(frames.iter().cloned());
    master.outbox.extend(frames.iter().cloned());
    for _ in 0..1_000_000 {
        if master.turn(now, "master") {
            board.rung = true;
        }
        if board.turn(now, "board") {
            master.rung = true;
        }
        now += Duration::from_millis(1);
        if [&board, &master].iter().all(|end| end.inbox.len() == frames.len()) {
            break;
        }
    }
    for (end, name) in [(&board, "board"), (&master, "master")] {
        assert_eq!(end.inbox.len(), frames.len(), "{name}");
        for (i, (got, sent)) in end.inbox.iter().zip(&frames).enumerate() {
            // `num_buffers` is the ring's own business.
            assert_eq!((&got[..10], &got[12..]), (&sent[..10], &sent[12..]), "{name}: frame {i}");
        }
        println!("{name}: {} frames came out as they went in", end.inbox.len());
    }
}
