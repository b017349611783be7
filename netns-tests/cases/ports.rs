//! Ends without a netdev: one that sends everything back, and one that takes everything.

use std::collections::BTreeMap;

use boardlane::daemon::status::{LinkState, LinkStatus, QueueStatus};

use crate::packets::{Packets, VNET_LEN};
use crate::traffic::Random;
use crate::world::{World, check, wait};

const IPV4: u16 = 0x0800;
/// Frames under way at once: fewer than any queue on the way holds.
const WINDOW: usize = 32;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

/// The end with a netdev, to which nothing comes of itself, and the keys of both.
const QUIET: &str = "address = []\nfeatures_off = [\"GUEST_ANNOUNCE\"]\nmtu = 1500\n";

/// A world of one link. Its kernels send nothing of their own.
fn world(master: &'static str, board: &'static str) -> World {
    let mut world =
        World::new(
            1,
            |machine, _| {
                if machine == "master" { master.to_owned() } else { board.to_owned() }
            },
        );
    for machine in ["master", "board0"] {
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        world.run_well(machine, &["sh", "-c", quiet]);
    }
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    wait_up(&world);
    world
}

/// Waits until both ends say that the link is up, with all of its queue pairs, and the netdev is.
fn wait_up(world: &World) -> [LinkStatus; 2] {
    wait("the link is up at both ends", || {
        let ends = ["master", "board0"].map(|machine| world.link_status(machine, "bl0"));
        let [Ok(master), Ok(board)] = ends else { return Err(format!("{ends:?}")) };
        for (machine, end) in [("master", &master), ("board0", &board)] {
            check(end.state == LinkState::Up && end.carrier, end)?;
            check(end.mac.is_none() || world.is_operational(machine, "bl0"), "not operational")?;
        }
        Ok([master, board])
    })
}

/// A UDP datagram of one flow in a frame of `len` bytes, with an empty virtio-net header.
fn datagram(random: &mut Random, flow: u16, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..VNET_LEN + len).map(|_| random.octet()).collect();
    frame[..VNET_LEN].fill(0);
    let ethernet = [2, 0, 0, 0, 0xee, 0xee, 2, 0, 0, 0, 0xdd, 0xdd, 0x08, 0];
    frame[VNET_LEN..][..14].copy_from_slice(&ethernet);
    let [high, low] = u16::try_from(len - 14).unwrap().to_be_bytes();
    let ip = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    frame[VNET_LEN + 14..][..20].copy_from_slice(&ip);
    frame[VNET_LEN + 34..][..2].copy_from_slice(&flow.to_be_bytes());
    frame
}

/// As above, of TCP, with an unfinished checksum, and above an MTU unsegmented.
fn offloaded(random: &mut Random, len: usize) -> Vec<u8> {
    let mut frame = datagram(random, 1, len);
    let gso = if len > 1514 { (GSO_TCPV4, 1448) } else { (0, 0) };
    frame[..2].copy_from_slice(&[NEEDS_CSUM, gso.0]);
    for (at, value) in [(2, 54), (4, gso.1), (6, 34), (8, 16_u16)] {
        frame[at..][..2].copy_from_slice(&value.to_le_bytes());
    }
    frame[VNET_LEN + 14 + 9] = 6;
    // Data offset 5 and ACK alone, or the kernel would find other headers.
    frame[VNET_LEN + 34 + 12..][..2].copy_from_slice(&[0x50, 0x10]);
    frame
}

/// What of a received header must be as sent; the rest are hints.
fn meaning(frame: &[u8]) -> (u8, [&[u8]; 2]) {
    let offload = if frame[0] & NEEDS_CSUM == 0 { &[][..] } else { &frame[4..VNET_LEN] };
    (frame[0] & NEEDS_CSUM | frame[1] << 4, [offload, &frame[VNET_LEN..]])
}

/// Sends the frames from a machine; those of each flow must come back in their order, unaltered.
fn come_back(world: &World, machine: &str, frames: &[Vec<u8>]) {
    let socket = Packets::on(world, machine, "bl0", IPV4);
    for some in frames.chunks(WINDOW) {
        some.iter().for_each(|frame| socket.send(frame));
        let flow = |frame: &[u8]| [frame[VNET_LEN + 34], frame[VNET_LEN + 35]];
        let mut flows: BTreeMap<_, Vec<&Vec<u8>>> = BTreeMap::new();
        some.iter().rev().for_each(|frame| flows.entry(flow(frame)).or_default().push(frame));
        for _ in some {
            let came = socket.receive();
            let sent = flows.get_mut(&flow(&came)).and_then(Vec::pop).expect("one that was sent");
            let len = sent.len() - VNET_LEN;
            assert!(meaning(&came) == meaning(sent), "{len} bytes {sent:02x?} came as {came:02x?}");
        }
    }
    eprintln!("{} frames came back to {machine} unaltered", frames.len());
}

/// Frames of every length that an MTU of 1500 has, and of every offload that is negotiated.
fn every_frame() -> Vec<Vec<u8>> {
    let mut random = Random(17);
    let plain: Vec<_> = (60..=1514).map(|len| datagram(&mut random, 1, len)).collect();
    let lengths = (0..200).map(|i| if i % 2 == 0 { 100 + 7 * i } else { 1600 + 319 * i });
    plain.into_iter().chain(lengths.map(|len| offloaded(&mut random, len))).collect()
}

/// Frames, bytes and drops of a pair, each way.
fn counts(queue: &QueueStatus) -> [(u64, u64, &BTreeMap<String, u64>); 2] {
    [&queue.rx, &queue.tx].map(|way| (way.frames, way.bytes, &way.drops))
}

/// Bytes of the frames without headers.
fn bytes(frames: &[Vec<u8>]) -> u64 {
    frames.iter().map(|frame| u64::try_from(frame.len() - VNET_LEN).unwrap()).sum()
}

fn echoes(world: &World, sender: &str, echo: &str) {
    let frames = every_frame();
    come_back(world, sender, &frames);
    let sent = (u64::try_from(frames.len()).unwrap(), bytes(&frames), &BTreeMap::new());
    let end = world.link_status(echo, "bl0").unwrap();
    assert_eq!(counts(&end.queues[0]), [sent, sent]);
}

pub(crate) fn frames_come_back_from_a_board_that_echoes_unaltered_and_in_order() {
    let world = world(QUIET, "port = \"echo\"");
    echoes(&world, "master", "board0");
}

pub(crate) fn frames_come_back_from_a_board_that_echoes_by_engine() {
    let engine = "port = \"echo\"\ndma = \"engine\"\nengine = { latency_us = 200, cpu_below = 0 }";
    let world = world(QUIET, engine);
    echoes(&world, "master", "board0");
    let dma = world.link_status("board0", "bl0").unwrap().dma;
    assert!(dma.mode == "engine" && dma.transfers > 0, "{dma:?}");
}

pub(crate) fn frames_come_back_from_a_master_that_echoes() {
    let world = world("port = \"echo\"", QUIET);
    echoes(&world, "board0", "master");
}

pub(crate) fn each_of_two_queue_pairs_echoes_by_itself() {
    let world = world(
        "address = []\nfeatures_off = [\"GUEST_ANNOUNCE\"]\nqueues = 2",
        "port = \"echo\"\nqueues = 2",
    );
    wait("two pairs are used", || {
        let board = world.link_status("board0", "bl0")?;
        check(board.queues.len() == 2, board.queues.len())
    });
    let mut random = Random(23);
    let frames: Vec<_> = (0..2000).map(|i| datagram(&mut random, i % 64, 700)).collect();
    come_back(&world, "master", &frames);
    let board = world.link_status("board0", "bl0").unwrap();
    let each: Vec<_> = board.queues.iter().map(counts).collect();
    assert!(each.iter().all(|[rx, tx]| rx == tx && rx.0 > 0), "{each:?}");
    assert_eq!(each.iter().map(|[rx, _]| rx.0).sum::<u64>(), 2000);
}

pub(crate) fn an_end_that_discards_counts_each_frame_and_sends_none() {
    let worlds = [
        (QUIET, "port = \"discard\"", "master", "board0"),
        (QUIET, "port = \"discard\"\ndma = \"engine\"", "master", "board0"),
        ("port = \"discard\"", QUIET, "board0", "master"),
    ];
    for (master, board, sender, sink) in worlds {
        let world = world(master, board);
        let frames = every_frame();
        let socket = Packets::on(&world, sender, "bl0", IPV4);
        let mut sent = (0, 0);
        for some in frames.chunks(10 * WINDOW) {
            some.iter().for_each(|frame| socket.send(frame));
            sent.0 += u64::try_from(some.len()).unwrap();
            sent.1 += bytes(some);
            let none = BTreeMap::new();
            wait(&format!("{sink} has counted {} frames", sent.0), || {
                let end = world.link_status(sink, "bl0")?;
                let seen = counts(&end.queues[0]);
                check(seen == [(sent.0, sent.1, &none), (0, 0, &none)], seen)
            });
        }
    }
}

pub(crate) fn an_end_without_a_netdev_makes_none_and_says_so_in_status() {
    let mut world = world(QUIET, "port = \"echo\"");
    let [_, board] = wait_up(&world);
    assert_eq!((board.mac, board.mtu, board.reason), (None, None, None));
    let netdevs = world.ip("board0", "link show");
    assert_eq!(netdevs.len(), 1, "lo alone: {netdevs:?}");

    // The other end's netdev still tells what it is set to.
    world.ip("master", "link set bl0 down");
    let told = "the master's netdev is set down";
    let board = world.wait_state("board0", "bl0", LinkState::Up, told);
    assert!(!board.carrier);
    world.ip("master", "link set bl0 up");
    assert_eq!(wait_up(&world)[1].reason, None);

    assert!(world.stop("board0").success(), "{}", world.log("board0"));
    wait("carrier gone", || check(!world.has_carrier("master", "bl0"), "it is there"));
    let log = world.log("board0");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(matches!(warnings[..], [line] if line.ends_with(told)), "{warnings:?}");
}

pub(crate) fn an_echo_that_is_killed_echoes_again_after_its_restart() {
    let mut world = world(QUIET, "port = \"echo\"");
    let frames = every_frame();
    for daemon in ["board0", "master", "board0"] {
        come_back(&world, "master", &frames[..200]);
        world.kill(daemon);
        if daemon == "board0" {
            wait("carrier gone", || check(!world.has_carrier("master", "bl0"), "it is there"));
        }
        world.start(daemon);
        wait_up(&world);
    }
    come_back(&world, "master", &frames);
}

pub(crate) fn a_frame_whose_offload_may_not_go_back_is_counted() {
    // What the board may not send; a lack of GUEST_CSUM takes the others with it.
    let world = world(
        "address = []\nmtu = 1500\nfeatures_off = [\"GUEST_ANNOUNCE\", \"GUEST_CSUM\"]",
        "port = \"echo\"",
    );
    let mut random = Random(5);
    let socket = Packets::on(&world, "master", "bl0", IPV4);
    for len in [100, 9000, 1514] {
        socket.send(&offloaded(&mut random, len));
    }
    come_back(&world, "master", &[datagram(&mut random, 1, 100)]);
    let board = world.link_status("board0", "bl0").unwrap();
    let [rx, tx] = counts(&board.queues[0]);
    assert_eq!((rx.0, rx.2.len(), tx.0), (4, 0, 1), "{rx:?} {tx:?}");
    assert_eq!(*tx.2, BTreeMap::from([("csum_not_negotiated".to_owned(), 3)]));
}
