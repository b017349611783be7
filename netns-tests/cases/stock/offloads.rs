//! CTRL_GUEST_OFFLOADS under a TCP stream from the board: what the driver does not take does not come.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::net::features::Features;
use boardlane::os::netns::Namespace;
use boardlane::spec::net::{self, HDR_F_NEEDS_CSUM, Header, ctrl};

use super::filters::{ledger, nothing_is_unaccounted};
use super::{board, drive, dropped, neighbour, pair};
use crate::cases::vhost_net::OFFERED;
use crate::stock::rings::{Came, LINUX};
use crate::stock::tcp::{Sink, octet};
use crate::stock::{Driver, PACKED, SPLIT};
use crate::world::{PATIENCE, World, check, wait};

/// Every offload that a driver may turn on.
const ALL: &[u8] = &[
    net::F_GUEST_CSUM,
    net::F_GUEST_TSO4,
    net::F_GUEST_TSO6,
    net::F_GUEST_ECN,
    net::F_GUEST_USO4,
    net::F_GUEST_USO6,
];

/// What a stretch of the stream came with.
#[derive(Debug, Default)]
struct Seen {
    segmented: u32,
    unfinished: u32,
}

impl Seen {
    fn count(&mut self, header: &Header) {
        self.segmented += u32::from(header.gso_type != net::GSO_NONE);
        self.unfinished += u32::from(header.flags & HDR_F_NEEDS_CSUM != 0);
    }
}

/// Receives until `enough`, which is asked with what was seen and how long the stream was.
fn pump(driver: &mut Driver, sink: &mut Sink, enough: impl Fn(&Seen, u64) -> bool) -> Seen {
    let (receiver, sender) = &mut driver.pairs[0];
    let (mut seen, from, start) = (Seen::default(), sink.at, Instant::now());
    while !enough(&seen, sink.at - from) {
        assert!(start.elapsed() < PATIENCE, "{seen:?}, {} bytes", sink.at - from);
        let Some(Came { header, data }) = receiver.take() else {
            thread::sleep(Duration::from_micros(20));
            continue;
        };
        seen.count(&header);
        if let Some(answer) = sink.handle(&data) {
            sender.send(Header::default(), &answer);
        }
    }
    seen
}

fn set(driver: &mut Driver, offloads: &[u8]) {
    // A kernel before 6.2 has no USO, and a board does not offer it there.
    let offloads = Features::of(offloads).intersection(driver.stock.features);
    let bits = offloads.bits().to_le_bytes();
    let control = driver.control.as_mut().unwrap();
    assert!(control.command(ctrl::GUEST_OFFLOADS_SET, &[&bits[..8]]), "{offloads}");
}

/// `ethtool -k` of the board's netdev agrees.
fn shown(world: &World, offload: &str, state: &str) {
    wait(&format!("{offload} is {state}"), || {
        let text = world.run_well("board0", &["ethtool", "-k", "bl0"]);
        let line = text.lines().find(|line| line.trim().starts_with(offload)).unwrap();
        check(line.contains(&format!(": {state}")), line)
    });
}

fn offloads(keys: &'static str, features: Features) {
    let world = board(keys);
    wait("the netdev is there", || check(world.netdev("board0", "bl0").is_some(), "it is not"));
    let at_first = ledger(&world);
    let mut driver = drive(&world, features, 1, LINUX);
    neighbour(&world, &mut driver);
    let mut sink = Sink::new(Ipv4Addr::new(10, 77, 0, 1), 5001);
    let stop = AtomicBool::new(false);
    let namespace = Namespace::open(&world.namespace("board0")).unwrap();
    thread::scope(|scope| {
        let source = scope.spawn(|| namespace.run(|| stream(&stop)).unwrap());
        for round in 0..20 {
            pump(&mut driver, &mut sink, |seen, _| seen.segmented > 20 && seen.unfinished > 20);
            set(&mut driver, &[]);
            // What had come before the answer is there now.
            let before = driver.pairs[0].0.take_all();
            answer(&mut driver, &mut sink, &before);
            let seen = pump(&mut driver, &mut sink, |_, len| len > 200_000);
            assert_eq!((seen.segmented, seen.unfinished), (0, 0), "in round {round}");
            if round == 0 {
                shown(&world, "tx-checksum-ip-generic", "off");
                shown(&world, "tx-tcp-segmentation", "off");
            }
            set(&mut driver, &[net::F_GUEST_CSUM]);
            let seen = pump(&mut driver, &mut sink, |seen, _| seen.unfinished > 20);
            assert_eq!(seen.segmented, 0, "in round {round}");
            set(&mut driver, ALL);
        }
        shown(&world, "tx-tcp-segmentation", "on");
        stop.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while !sink.finished {
            assert!(start.elapsed() < PATIENCE, "the stream does not end");
            let came = driver.pairs[0].0.take_all();
            answer(&mut driver, &mut sink, &came);
        }
        assert_eq!(source.join().unwrap(), sink.at, "all that was sent came");
    });
    let drops = pair(&world, 0).tx.drops;
    eprintln!(
        "{} bytes; dropped under way: {} with segmentation, {} with a checksum",
        sink.at,
        dropped(&drops, "gso_not_negotiated"),
        dropped(&drops, "csum_not_negotiated")
    );
    let empty = driver.pairs[0].0.empty;
    nothing_is_unaccounted(&world, &mut driver, at_first);
    assert_eq!(empty, 0);
}

fn answer(driver: &mut Driver, sink: &mut Sink, came: &[Came]) {
    for Came { data, .. } in came {
        if let Some(answer) = sink.handle(data) {
            driver.pairs[0].1.send(Header::default(), &answer);
        }
    }
}

/// Writes the stream until it is to stop; how long it was.
fn stream(stop: &AtomicBool) -> u64 {
    let to = SocketAddr::from(([10, 77, 0, 1], 5001));
    let mut socket = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let octets: Vec<u8> = (at..at + 16_384).map(octet).collect();
        socket.write_all(&octets).unwrap();
        at += 16_384;
    }
    at
}

pub(crate) fn no_offload_comes_that_the_driver_has_turned_off() {
    offloads("", SPLIT);
}

pub(crate) fn no_offload_comes_by_engine_that_the_driver_has_turned_off() {
    offloads("dma = \"engine\"\nengine = { latency_us = 1000, cpu_below = 0 }", PACKED);
}

pub(crate) fn no_offload_comes_by_vhost_net_that_the_driver_has_turned_off() {
    offloads("pump = \"vhost-net\"", OFFERED);
}
