//! A board that poses as another, or sends more than it may: what of it comes out at the master.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use boardlane::daemon::status::QueueStatus;
use boardlane::memory::View;
use boardlane::net::frame::Drop;
use boardlane::os::fabric::regions;

use super::hostile::Intruder;
use crate::checker::frame::{Frame, IPV4, IPV6, NEEDS_CSUM, UDP, VLAN, Vnet};
use crate::checker::socket::{Receiver, Sender};
use crate::world::{World, check, wait};

pub(crate) const BOARD: [u8; 6] = [2, 0, 0, 0, 0x77, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0x77, 3];
/// Where all of the cases' frames go; nobody has it.
const TO: [u8; 6] = [2, 0, 0, 0, 0xee, 0xee];
pub(crate) const OWN_V4: [u8; 4] = [10, 77, 0, 2];
const OTHER_V4: [u8; 4] = [10, 77, 1, 2];
/// `fd77::2`, and that of the next board.
const OWN_V6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const OTHER_V6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
const ARP: u16 = 0x0806;
const LLDP: u16 = 0x88cc;

/// The keys of a master that knows its board, and of the board.
fn keys(machine: &str, slot: u8) -> String {
    if machine == "master" {
        let ips = format!("\"10.77.{slot}.2\", \"fd77:0:0:{slot}::2\"");
        format!("allow_mac = [\"02:00:00:00:77:02\"]\nallow_ip = [{ips}]")
    } else {
        "mac = \"02:00:00:00:77:02\"".to_owned()
    }
}

/// A world of one link whose kernels say nothing of their own.
pub(crate) fn quiet_world() -> World {
    let keys = |machine: &str, slot| format!("address = []\n{}", keys(machine, slot));
    let mut world = World::new(1, keys);
    for machine in ["master", "board0"] {
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        world.run_well(machine, &["sh", "-c", quiet]);
    }
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    world.wait_up(0);
    world
}

pub(crate) fn frame(from: [u8; 6], types: &[u16], packet: &[u8]) -> Frame {
    let mut bytes = [TO, from].concat();
    for (i, kind) in types.iter().enumerate() {
        bytes.extend(kind.to_be_bytes());
        if i + 1 < types.len() {
            bytes.extend([0, 5]);
        }
    }
    bytes.extend(packet);
    Frame { vnet: Vnet::default(), bytes }
}

pub(crate) fn ipv4(from: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, UDP, 0, 0];
    packet.extend([from, [192, 0, 2, 1]].concat());
    packet.resize(48, 0x5a);
    packet
}

fn ipv6(from: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(payload.len()).unwrap(), next, 255];
    packet.extend([from, OWN_V6].concat());
    packet.extend(payload);
    packet
}

fn arp(op: u8, mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, op];
    packet.extend(mac);
    packet.extend(ip);
    packet.extend([0, 0, 0, 0, 0, 0, 10, 77, 0, 1]);
    packet
}

/// A neighbour's solicitation (135) or advertisement (136) with a link-layer address.
fn neighbour(kind: u8, target: [u8; 16], mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target);
    message.extend([kind - 134, 1]);
    message.extend(mac);
    message
}

/// What a board sends, and why it does not come out, if it does not.
fn rows() -> Vec<(Frame, Option<Drop>)> {
    use Drop::{CsumRange, ForeignIp, ForeignMac, ForeignType, Unclear};
    let ns = |from, target, mac| ipv6(from, 58, &neighbour(135, target, mac));
    let na = |target, mac| ipv6(OWN_V6, 58, &neighbour(136, target, mac));
    let own = |types: &[u16], packet: &[u8]| frame(BOARD, types, packet);
    let options = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &neighbour(136, OTHER_V6, BOARD)].concat();
    let fragment = [&[58, 0, 0, 1, 0, 0, 0, 9][..], &neighbour(136, OWN_V6, BOARD)].concat();
    // The checksum would be stored over the last half of the source when somebody completes it.
    let mut rewritten = own(&[IPV4], &ipv4(OWN_V4));
    rewritten.vnet = Vnet { flags: NEEDS_CSUM, csum_start: 28, csum_offset: 0, ..Vnet::default() };
    let mut offloaded = own(&[IPV4], &ipv4(OWN_V4));
    offloaded.vnet = Vnet { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Vnet::default() };
    vec![
        (own(&[IPV4], &ipv4(OWN_V4)), None),
        (offloaded, None),
        (rewritten, Some(CsumRange)),
        (frame(OTHER, &[IPV4], &ipv4(OWN_V4)), Some(ForeignMac)),
        (own(&[IPV4], &ipv4(OTHER_V4)), Some(ForeignIp)),
        (own(&[VLAN, IPV4], &ipv4(OTHER_V4)), Some(ForeignIp)),
        (own(&[VLAN, IPV4], &ipv4(OWN_V4)), None),
        (own(&[VLAN, VLAN, VLAN, IPV4], &ipv4(OWN_V4)), Some(Unclear)),
        (own(&[IPV6], &ipv6(OWN_V6, UDP, &[0; 16])), None),
        (own(&[IPV6], &ipv6(OTHER_V6, UDP, &[0; 16])), Some(ForeignIp)),
        (own(&[ARP], &arp(1, BOARD, OWN_V4)), None),
        (own(&[ARP], &arp(2, BOARD, OTHER_V4)), Some(ForeignIp)),
        (own(&[ARP], &arp(2, OTHER, OWN_V4)), Some(ForeignMac)),
        (own(&[ARP], &arp(1, BOARD, [0; 4])), None),
        (own(&[ARP], &arp(1, BOARD, OWN_V4)[..16]), Some(Unclear)),
        (own(&[IPV6], &ns(OWN_V6, OTHER_V6, BOARD)), None),
        (own(&[IPV6], &ns(OWN_V6, OTHER_V6, OTHER)), Some(ForeignMac)),
        (own(&[IPV6], &na(OWN_V6, BOARD)), None),
        (own(&[IPV6], &na(OTHER_V6, BOARD)), Some(ForeignIp)),
        (own(&[IPV6], &na(OWN_V6, OTHER)), Some(ForeignMac)),
        (own(&[IPV6], &ipv6(OWN_V6, 60, &options)), Some(ForeignIp)),
        (own(&[IPV6], &ipv6(OWN_V6, 44, &fragment)), Some(Unclear)),
        (own(&[LLDP], &[0; 50]), Some(ForeignType)),
        // Nothing is sent behind it.
        (own(&[IPV4], &[&ipv4(OWN_V4)[..], b"last"].concat()), None),
    ]
}

fn queue(world: &World) -> QueueStatus {
    world.link_status("master", "bl0").unwrap().queues.remove(0)
}

pub(crate) fn spoofed_frames_do_not_come_out_and_are_counted_by_reason() {
    const TIMES: u64 = 25;
    let world = quiet_world();
    let sender = world.inside("board0", || Sender::on("bl0").unwrap());
    let mut receiver = world.inside("master", || Receiver::on("bl0").unwrap());
    let rows = rows();
    let (mut expected, mut good) = (BTreeMap::new(), Vec::new());
    for _ in 0..TIMES {
        for (frame, why) in &rows {
            sender.send(std::slice::from_ref(frame)).unwrap();
            match why {
                Some(why) => *expected.entry(why.name().to_owned()).or_insert(0) += 1,
                None => good.push(frame.bytes.clone()),
            }
        }
    }
    let mut came = Vec::new();
    wait("the last frame came", || {
        receiver
            .receive(|_, bytes| {
                // The board also announces itself.
                if bytes[..6] == TO {
                    came.push(bytes.to_vec());
                }
            })
            .unwrap();
        let last = came.iter().filter(|bytes| bytes.ends_with(b"last")).count();
        check(last == usize::try_from(TIMES).unwrap(), (last, came.len()))
    });
    assert!(came == good, "{} frames came, not those {}", came.len(), good.len());
    let drops = queue(&world).rx.drops;
    eprintln!("{} good frames came out; counted: {drops:?}", came.len());
    assert_eq!(drops, expected);
}

pub(crate) fn honest_boards_notice_nothing_of_their_masters_lists() {
    let mut world = World::new(2, keys);
    for daemon in ["backplane", "master", "board0", "board1"] {
        world.start(daemon);
    }
    for slot in 0..2 {
        world.wait_up(slot);
        for to in [format!("10.77.{slot}.2"), format!("fd77:0:0:{slot}::2")] {
            world.ping_well("master", &to);
        }
        for to in [format!("10.77.{slot}.1"), format!("fd77:0:0:{slot}::1")] {
            world.ping_well(&format!("board{slot}"), &to);
        }
    }
    world.transfer("board0", "master", "10.77.0.1", 4 << 20);
    world.transfer("master", "board0", "fd77::2", 4 << 20);
    // By then duplicate addresses have been looked for, routers asked for, groups reported.
    std::thread::sleep(Duration::from_secs(2));
    for name in ["bl0", "bl1"] {
        let rx = world.link_status("master", name).unwrap().queues.remove(0).rx;
        eprintln!("{name}: {rx:?}");
        assert!(rx.drops.is_empty(), "{name}: {rx:?}");
    }
}

/// Where frames from [`BOARD`] to [`TO`] begin in the memory that master and board share, as bytes from
/// its start.
fn frames_in(memory: View<'_>) -> Vec<usize> {
    let mut octets = vec![0; memory.len()];
    memory.copy_to(0, &mut octets);
    let head = [TO, BOARD].concat();
    // Frames lie behind a virtio-net header of 12 bytes in buffers that are aligned.
    let at = (12..octets.len() - head.len()).step_by(4);
    at.filter(|at| octets[*at..].starts_with(&head)).collect()
}

pub(crate) fn a_source_that_the_board_changes_while_it_is_received_never_comes_out() {
    const TRIES: u64 = 100_000;
    let world = quiet_world();
    let sender = world.inside("board0", || Sender::on("bl0").unwrap());
    let mut receiver = world.inside("master", || Receiver::on("bl0").unwrap());
    let intruder = Intruder::in_slot(&world.slot(0));
    let slot = intruder.shm.slot();
    let (_, driver) = regions(slot.len);
    let start = usize::try_from(driver.start).unwrap();
    let len = usize::try_from(driver.end).unwrap() - start;
    let memory = || slot.memory.view(start, len);
    let batch = vec![frame(BOARD, &[IPV4], &[ipv4(OWN_V4), vec![0; 300]].concat()); 32];
    let (mut came, mut spoofed) = (0_u64, 0_u64);
    let mut take = |receiver: &mut Receiver| {
        let count = |_: &Vnet, bytes: &[u8]| {
            let honest = bytes[6..12] == BOARD && bytes[26..30] == OWN_V4;
            came += u64::from(bytes[..6] == TO);
            spoofed += u64::from(bytes[..6] == TO && !honest);
        };
        receiver.receive(count).unwrap()
    };
    // So many that each of the master's buffers has had one, and is known.
    let buffers = wait("the board has written to all of the master's buffers", || {
        sender.send(&batch).unwrap();
        take(&mut receiver);
        let found = frames_in(memory());
        check(found.len() >= 64, found.len()).map(|()| found)
    });
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let rounds = std::thread::scope(|scope| {
        let attack = scope.spawn(|| {
            let fields = [(10, [BOARD[4], BOARD[5]]), (28, [OWN_V4[2], OWN_V4[3]])];
            let (memory, mut rounds) = (memory(), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                for own in [false, true] {
                    for (at, (field, octets)) in
                        buffers.iter().flat_map(|at| fields.map(|field| (at, field)))
                    {
                        let octets = if own { octets } else { [9, 9] };
                        memory.store_le16(at + field, u16::from_le_bytes(octets));
                    }
                }
                rounds += 1;
            }
            rounds
        });
        let tries =
            |rx: &boardlane::daemon::status::Traffic| rx.frames + rx.drops.values().sum::<u64>();
        // Bounded by the case's own limit of time.
        while tries(&queue(&world).rx) < TRIES && begun.elapsed() < Duration::from_secs(60) {
            for _ in 0..20 {
                // What the board's own queue has no room for is not sent.
                let _ = sender.send(&batch);
                while take(&mut receiver) > 0 {}
            }
        }
        stop.store(true, Ordering::Relaxed);
        attack.join().unwrap()
    });
    let rx = queue(&world).rx;
    while take(&mut receiver) > 0 {}
    eprintln!(
        "{} let through, {:?} in {:.1} s and {rounds} rounds of {} buffers",
        rx.frames,
        rx.drops,
        begun.elapsed().as_secs_f64(),
        buffers.len()
    );
    assert_eq!(spoofed, 0, "of {came} frames that came out");
    let refused: u64 = [Drop::ForeignMac, Drop::ForeignIp]
        .map(|why| rx.drops.get(why.name()).copied().unwrap_or(0))
        .iter()
        .sum();
    assert!(rx.frames + refused >= TRIES, "{rx:?}");
    assert!(rx.frames > 0 && refused > 0, "the attack was not seen: {rx:?}");
}

pub(crate) fn a_flood_is_held_to_the_rate_and_a_second_board_has_its_share() {
    const RATE: u64 = 5000;
    let keys = |machine: &str, slot| match (machine, slot) {
        ("master", 0) => format!("rate = {{ bits = \"100M\", frames = {RATE} }}"),
        _ => String::new(),
    };
    let world = World::running(2, keys);
    let stop = AtomicBool::new(false);
    let frames = |name: &str| {
        let queue = world.link_status("master", name).unwrap().queues.remove(0);
        (queue.rx.frames, queue.throttled, queue.rescues, queue.rx.drops)
    };
    let (before, since) = (frames("bl0"), Instant::now());
    std::thread::scope(|scope| {
        let sender = world.inside("board0", || Sender::on("bl0").unwrap());
        let batch = vec![frame(BOARD, &[IPV4], &ipv4(OWN_V4)); 32];
        let stop = &stop;
        let flood = scope.spawn(move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                sent += 32 * u64::from(sender.send(&batch).is_ok());
            }
            sent
        });
        for _ in 0..20 {
            world.ping_well("master", "10.77.1.2");
        }
        world.transfer("board1", "master", "10.77.1.1", 20 << 20);
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap();
        let (after, time) = (frames("bl0"), since.elapsed());
        let taken = after.0 - before.0;
        let (throttled, rescues) = (after.1 - before.1, after.2 - before.2);
        eprintln!(
            "{sent} frames were sent in {time:.1?}, {taken} were taken, throttled {throttled} times"
        );
        let most = u64::try_from(time.as_millis()).unwrap() * RATE / 1000 + RATE / 100 + 1;
        assert!(taken <= most, "{taken} are more than {most}");
        assert!(sent > 2 * taken, "it was no flood");
        assert!(throttled > 0);
        assert_eq!((rescues, after.3.len()), (0, 0), "{after:?}");
    });
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_tcp_stream_is_held_to_the_rate_without_a_drop() {
    const BITS: f64 = 50e6;
    const LEN: usize = 8 << 20;
    let keys = |machine: &str, _| match machine {
        "master" => "rate = \"50M\"".to_owned(),
        _ => String::new(),
    };
    let world = World::running(1, keys);
    let since = Instant::now();
    world.transfer("board0", "master", "10.77.0.1", LEN);
    let time = since.elapsed().as_secs_f64();
    let queue = queue(&world);
    eprintln!("{LEN} bytes in {time:.2} s, throttled {} times, {:?}", queue.throttled, queue.rx);
    // A burst of 10 ms and one largest frame may come at once.
    let bits = queue.rx.bytes as f64 * 8.0 - BITS / 100.0 - 65_573.0 * 8.0;
    assert!(bits / time <= BITS, "{} bits/s", bits / time);
    assert!(queue.throttled > 0 && queue.rx.drops.is_empty(), "{queue:?}");
    world.transfer("master", "board0", "10.77.0.2", LEN);
}
