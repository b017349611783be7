//! Links over virtio-msg's binding "AMP over PCI", against octets that were written by hand.
//!
//! `tests/fixtures/amp-pci.txt` is the whole life of a link. Played are both of our ends, the driver's
//! against the device's part of the file, and the device's against the driver's. What is not ours here is
//! written into memory as the file has it, by the machine of either endianness.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::link::{Event, Link, LinkParams, StartPair};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::features::Features;
use boardlane::spec::{net, virtio};
use boardlane::tunnel::amp::registers;
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};

/// Bus addresses and lengths.
const WINDOW: u64 = 0x1_0000_0000;
const WINDOW_LEN: usize = 0x1_0000;
const DRIVER_MEMORY: u64 = 0x1_2340_0000;
const DRIVER_MEMORY_LEN: usize = 0xc0_0000;
const FEATURES: Features = Features::of(&[
    net::F_MTU,
    net::F_MAC,
    net::F_STATUS,
    virtio::F_EVENT_IDX,
    virtio::F_VERSION_1,
    virtio::F_ACCESS_PLATFORM,
    virtio::F_ORDER_PLATFORM,
]);
const MS: Duration = Duration::from_millis(1);

/// A line of a file.
#[derive(Debug)]
enum Line {
    Register(usize, Vec<u8>),
    Notify(u32, usize),
    Message(Role, usize, Vec<u8>),
    Deed(Role, String),
}

fn lines(file: &str) -> Vec<Line> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split('#').next().unwrap()).filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    let (first, rest) = text.trim().split_once(' ')?;
    let (second, rest) = rest.trim().split_once(' ')?;
    let role = |word| if matches!(word, ">" | "driver") { Role::Driver } else { Role::Device };
    let number = |text: &str| usize::from_str_radix(text.trim(), 16).unwrap();
    Some(match first {
        "register" => Line::Register(number(second), octets(rest)),
        "notify" => Line::Notify(second.parse().unwrap(), number(rest)),
        ">" | "<" => Line::Message(role(first), second.parse().unwrap(), octets(rest)),
        "!" => Line::Deed(role(second), rest.trim().to_owned()),
        _ => panic!("{text}"),
    })
}

fn octets(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// The start of the window, as octets.
struct Area(Arc<Mapping>);

impl Area {
    fn queue(role: Role) -> usize {
        if role == Role::Driver { 0x1000 } else { 0x2000 }
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut octets = [0; N];
        self.0.view(at, N).copy_to(0, &mut octets);
        octets
    }

    fn set(&self, at: usize, octets: &[u8]) {
        self.0.view(at, octets.len()).copy_from(0, octets);
    }

    /// How many messages an end has ever sent.
    fn sent(&self, role: Role) -> usize {
        let [count, zeros @ ..] = self.get::<4>(Self::queue(role));
        assert_eq!(zeros, [0; 3]);
        count.into()
    }

    /// How many of them the other end has taken.
    fn taken(&self, role: Role) -> usize {
        let [count, zeros @ ..] = self.get::<4>(Self::queue(role) + 0x40);
        assert_eq!(zeros, [0; 3]);
        count.into()
    }

    fn slot(role: Role, slot: usize) -> usize {
        Self::queue(role) + 0x80 + 64 * slot
    }
}

/// One of our ends, whose workers do nothing and stop when they are told to.
struct End {
    role: Role,
    link: Link,
    worker: Option<StartPair>,
    rings: usize,
}

impl End {
    fn new(now: Instant, mem: &Arc<BusMemory>, role: Role) -> Self {
        let driver_memory_len = u64::try_from(DRIVER_MEMORY_LEN).unwrap();
        let params = LinkParams {
            role,
            dialect: Dialect::V1,
            layout: Layout::AmpPci,
            window: WINDOW..WINDOW + 0x1_0000,
            driver_memory: DRIVER_MEMORY..DRIVER_MEMORY + driver_memory_len,
            slot: 0,
            owner: 1,
            vectors: 2,
            heartbeat: Duration::from_millis(250),
            features_off: Features::OFFER.minus(FEATURES),
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 1500,
            pairs: 1,
            version: String::new(),
            engine: None,
            seed: seed_of_tokens(),
        };
        let mut link = Link::new(now, mem.clone(), params).unwrap();
        link.handle_peers(now, BTreeSet::from([9]));
        Self { role, link, worker: None, rings: 0 }
    }

    fn turn(&mut self, now: Instant) {
        self.link.handle_doorbell(now);
        self.link.handle_timeout(now);
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Ring { owner: 9, vector: 0 } => self.rings += 1,
                Event::Ring { .. } => panic!("there is one other end: {event:?}"),
                Event::StartPair(start) => {
                    assert!(start.in_band && start.doorbell.is_none());
                    self.worker = Some(start);
                }
                Event::Stop => {
                    self.worker = None;
                    self.link.handle_stopped(now);
                }
                Event::Peer(_) | Event::PeerLink(_) => panic!("nobody said so"),
                _ => {}
            }
        }
    }
}

/// A seed with which a link's first token is 0x1000.
fn seed_of_tokens() -> u64 {
    // The first number that a link draws, as `Link` does it (SplitMix64).
    let first = |seed: u64| {
        let mut z = (seed | 1).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 33) | 1
    };
    (1..).step_by(2).find(|seed| first(*seed) & 0xffff == 0x0fff).unwrap()
}

/// Plays a file with these ends of ours.
fn play(file: &str, ours: &[Role]) {
    let window = Arc::new(Mapping::anonymous(WINDOW_LEN, Kind::Cached));
    let memory = Arc::new(Mapping::anonymous(DRIVER_MEMORY_LEN, Kind::Cached));
    let region = |addr, mapping: &Arc<Mapping>, side| {
        Region::mapped(addr, mapping.len() as u64, side, mapping.clone(), 0)
    };
    let regions =
        vec![region(WINDOW, &window, Side::Near), region(DRIVER_MEMORY, &memory, Side::Far)];
    let mem = Arc::new(BusMemory::new(regions).unwrap());
    let area = Area(window.clone());
    let mut now = Instant::now();
    let mut ends: Vec<End> = ours.iter().map(|role| End::new(now, &mem, *role)).collect();
    let mut told = [0; 2];
    for line in lines(file) {
        match line {
            Line::Message(role, slot, octets) => {
                let count = &mut told[usize::from(role == Role::Driver)];
                assert_eq!(slot, *count, "the file counts wrong at {octets:x?}");
                *count += 1;
                assert!(octets[6..8] == [u8::try_from(octets.len()).unwrap(), 0], "{octets:x?}");
                let mut whole = [0; 64];
                whole[..octets.len()].copy_from_slice(&octets);
                let at = Area::slot(role, slot);
                if ours.contains(&role) {
                    let patience = now + Duration::from_millis(1200);
                    while area.sent(role) <= slot {
                        assert!(now < patience, "{role:?} does not say {octets:x?}");
                        now += MS;
                        ends.iter_mut().for_each(|end| end.turn(now));
                    }
                    assert_eq!(area.get::<64>(at), whole, "{role:?} in slot {slot}");
                    if ours.len() == 1 {
                        area.set(
                            Area::queue(role) + 0x40,
                            &[u8::try_from(slot + 1).unwrap(), 0, 0, 0],
                        );
                    }
                } else {
                    area.set(at, &whole);
                    area.set(Area::queue(role), &[u8::try_from(slot + 1).unwrap(), 0, 0, 0]);
                }
            }
            Line::Deed(role, deed) => {
                now += MS;
                ends.iter_mut().for_each(|end| end.turn(now));
                let Some(end) = ends.iter_mut().find(|end| end.role == role) else { continue };
                match deed.split_once(' ') {
                    Some(("notifies", queue)) => {
                        assert!(end.worker.is_some(), "a worker runs that could ring");
                        let queue = queue.parse().unwrap();
                        end.link.handle_notify(now, queue);
                    }
                    _ if deed == "leaves" => end.link.shutdown(now),
                    _ => panic!("{deed}"),
                }
                end.drain(now);
            }
            Line::Register(..) | Line::Notify(..) => {}
        }
    }
    for _ in 0..50 {
        now += MS;
        ends.iter_mut().for_each(|end| end.turn(now));
    }
    check_rest(&area, &ends, told);
}

/// There is nothing but what the file has.
fn check_rest(area: &Area, ends: &[End], told: [usize; 2]) {
    for (role, told) in [Role::Device, Role::Driver].into_iter().zip(told) {
        assert_eq!(area.sent(role), told, "{role:?}");
        let of = |role| ends.iter().find(|end| end.role == role);
        if let Some(end) = of(role) {
            assert!(end.rings > 0, "{role:?} rings for what it says");
        }
        if of(role.other()).is_some() {
            // But for two messages to a driver that has left.
            assert!(area.taken(role) + 2 >= told, "{role:?} was heard");
        }
        for slot in told..62 {
            assert_eq!(area.get::<64>(Area::slot(role, slot)), [0; 64]);
        }
        let queue = Area::queue(role);
        assert_eq!(area.get::<60>(queue + 0x04), [0; 60]);
        assert_eq!(area.get::<60>(queue + 0x44), [0; 60]);
    }
    assert_eq!(area.get::<0x1000>(0), [0; 0x1000]);
    assert_eq!(area.get::<0xd000>(0x3000), [0; 0xd000]);
}

#[test]
fn our_ends_say_to_each_other_what_the_file_has() {
    play("amp-pci.txt", &[Role::Driver, Role::Device]);
}

#[test]
fn our_driver_gets_along_with_the_device_of_the_file() {
    play("amp-pci.txt", &[Role::Driver]);
}

#[test]
fn our_device_gets_along_with_the_driver_of_the_file() {
    play("amp-pci.txt", &[Role::Device]);
}

#[test]
fn our_device_gets_along_with_a_driver_of_another_make() {
    play("amp-pci-foreign.txt", &[Role::Device]);
}

#[test]
fn registers_are_where_the_file_has_them() {
    let bar = Mapping::anonymous(0x4000, Kind::Uncached);
    let all = bar.view(0, 0x4000);
    all.copy_from(0, &[0xee; 16]);
    registers::show(all);
    registers::check(all).unwrap();
    let mut seen = 0;
    for line in lines("amp-pci.txt") {
        match line {
            Line::Register(at, octets) => {
                let mut there = vec![0; octets.len()];
                all.copy_to(at, &mut there);
                assert_eq!(there, octets, "{at:#x}");
                seen += 1;
            }
            Line::Notify(fifo, at) => {
                assert_eq!(registers::notify(fifo), Some(at));
                seen += 1;
            }
            _ => {}
        }
    }
    assert_eq!(seen, 5);
    assert_eq!(registers::notify(8), None);
    all.store_le32(0, u32::MAX);
    assert!(registers::check(all).unwrap_err().to_string().contains("0xffffffff"));
}
