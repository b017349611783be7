//! Drivers that ask for what they may not have.

use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::net::features::Features;
use boardlane::spec::net::{self, Header, ctrl};
use boardlane::spec::virtio::status;
use boardlane::tunnel::message::Body;

use super::{alive, board, carries, drive, neighbour};
use crate::cases::flood;
use crate::stock::frames::{BROADCAST, numbered};
use crate::stock::rings::LINUX;
use crate::stock::{SPLIT, Stock};
use crate::world::{check, wait};

pub(crate) fn features_whose_needs_are_not_met_are_refused_by_name() {
    let world = board("queues = 2");
    let mut stock = Stock::in_slot(&world.slot(0));
    let cases: [(&[u8], &str); 7] = [
        (&[net::F_CSUM], "HOST_TSO4 needs CSUM"),
        (&[net::F_GUEST_CSUM], "GUEST_TSO4 needs GUEST_CSUM"),
        (&[net::F_GUEST_USO6], "GUEST_USO4 needs GUEST_USO6"),
        (&[net::F_GUEST_USO4], "GUEST_USO6 needs GUEST_USO4"),
        (&[net::F_GUEST_TSO4, net::F_GUEST_TSO6], "GUEST_ECN needs one of GUEST_TSO4, GUEST_TSO6"),
        (&[net::F_CTRL_VQ], "CTRL_GUEST_OFFLOADS needs CTRL_VQ"),
        (&[], "the driver accepts what is not offered: RSS"),
    ];
    for (left_out, told) in cases {
        let mut features = SPLIT.minus(Features::of(left_out));
        if left_out.is_empty() {
            features = features.union(Features::of(&[60]));
        }
        let status = stock.accept(features);
        assert_eq!(status & status::FEATURES_OK, 0, "{told}");
        let told = format!("FEATURES_OK is refused: {told}");
        world.wait_state("board0", "bl0", LinkState::Negotiating, &told);
        assert!(world.log("board0").contains(&told), "{}", world.log("board0"));
    }
    let only_mq = Features::of(&[net::F_MQ]);
    let all_else = SPLIT.without(Features::of(&[net::F_CTRL_VQ]));
    assert_eq!(stock.accept(all_else.union(only_mq)) & status::FEATURES_OK, 0);
    world.wait_state("board0", "bl0", LinkState::Negotiating, "MQ needs CTRL_VQ");
    let mut driver = stock.drive(SPLIT, 2, LINUX);
    wait("the netdev is operational", || check(world.is_operational("board0", "bl0"), "it is not"));
    carries(&world, &mut driver);
}

pub(crate) fn commands_that_make_no_sense_are_refused() {
    let world = board("");
    let pid = world.pid("board0");
    let mut driver = drive(&world, SPLIT, 1, LINUX);
    let control = driver.control.as_mut().unwrap();
    let long = vec![0; 9 << 10];
    let nonsense: &[(&str, &[&[u8]])] = &[
        ("nothing", &[]),
        ("half a header", &[&[0]]),
        ("an unknown class", &[&[9, 0], &[0]]),
        ("an unknown command", &[&[0, 9], &[0]]),
        ("promiscuous, neither on nor off", &[&[0, 0], &[2]]),
        ("promiscuous without saying so", &[&[0, 0]]),
        ("promiscuous twice", &[&[0, 0], &[1, 1]]),
        ("a table of which half is missing", &[&[1, 0], &[2, 0, 0, 0, 2, 0, 0, 0, 0, 1]]),
        ("a table of 2^32 addresses", &[&[1, 0], &[0xff; 4], &[0; 4]]),
        ("a table with a rest", &[&[1, 0], &[0; 4], &[0; 4], &[7]]),
        ("half an address", &[&[1, 1], &[2, 0, 0]]),
        ("more pairs than there are", &[&[4, 0], &[3, 0]]),
        ("no pair", &[&[4, 0], &[0, 0]]),
        ("offloads beyond those", &[&[5, 0], &[0xff; 8]]),
        ("half of coalescing", &[&[6, 0], &[1, 0, 0, 0]]),
        ("9 KiB", &[&[1, 0], &long]),
        ("9 KiB that begin well", &[&[0, 0], &[1], &long]),
    ];
    for (what, pieces) in nonsense {
        assert_eq!(control.raw(pieces, 1), Some(ctrl::ERR), "{what}");
    }
    // Nobody learns what became of these; one more byte for an answer than is needed stays as it is.
    assert_eq!(control.raw(&[&[0, 0], &[1]], 0), None);
    assert_eq!(control.raw(&[&[0, 0], &[1]], 16), Some(ctrl::OK));
    // Cut in any way it is the same command (§2.7.4.2).
    assert_eq!(control.raw(&[&[0], &[0], &[1]], 1), Some(ctrl::OK));
    assert_eq!(control.raw(&[&[0, 0, 1]], 1), Some(ctrl::OK));
    assert_eq!(alive(&world, pid).state, LinkState::Up);
    carries(&world, &mut driver);
}

pub(crate) fn commands_of_features_not_negotiated_are_refused() {
    let world = board("queues = 2");
    let commands: [(u8, ctrl::Code, &[u8]); 10] = [
        (net::F_CTRL_RX, ctrl::RX_PROMISC, &[0]),
        (net::F_CTRL_RX, ctrl::RX_ALLMULTI, &[1]),
        (net::F_CTRL_RX, ctrl::MAC_TABLE_SET, &[0; 8]),
        (net::F_CTRL_MAC_ADDR, ctrl::MAC_ADDR_SET, &[2, 0, 0, 0, 0, 9]),
        (net::F_CTRL_VLAN, ctrl::VLAN_ADD, &[1, 0]),
        (net::F_GUEST_ANNOUNCE, ctrl::ANNOUNCE_ACK, &[]),
        (net::F_MQ, ctrl::MQ_VQ_PAIRS_SET, &[1, 0]),
        (net::F_CTRL_GUEST_OFFLOADS, ctrl::GUEST_OFFLOADS_SET, &[0; 8]),
        (net::F_NOTF_COAL, ctrl::NOTF_COAL_TX_SET, &[0; 8]),
        (net::F_NOTF_COAL, ctrl::NOTF_COAL_RX_SET, &[0; 8]),
    ];
    let bits: Vec<u8> = commands.iter().map(|(bit, ..)| *bit).collect();
    let mut driver = drive(&world, SPLIT.minus(Features::of(&bits)), 1, LINUX);
    for (_, code, data) in commands {
        assert!(!driver.control.as_mut().unwrap().command(code, &[data]), "{code:?}");
    }
    carries(&world, &mut driver);
    drop(driver);
    let mut driver = drive(&world, SPLIT, 2, LINUX);
    for (_, code, data) in commands {
        assert!(driver.control.as_mut().unwrap().command(code, &[data]), "{code:?}");
    }
}

pub(crate) fn a_broken_control_queue_needs_a_reset_and_harms_no_later_session() {
    let world = board("");
    let pid = world.pid("board0");
    // Descriptors as address, then length, flags (1: there is a next one, 2: to be written) and next.
    let word = |len: u64, flags: u64, next: u64| len | flags << 32 | next << 48;
    let at = 5 << 20;
    let wrecks: [(&str, [[u64; 2]; 2]); 5] = [
        ("a chain that is its own end", [[at, word(2, 1, 0)], [0, 0]]),
        ("a loop of two", [[at, word(2, 1, 1)], [at, word(2, 1, 0)]]),
        ("a next one that there is not", [[at, word(2, 1, 16)], [0, 0]]),
        ("memory that there is not", [[1 << 60, word(2, 1, 1)], [at, word(1, 2, 0)]]),
        (
            "what is to be read behind what is to be written",
            [[at, word(1, 3, 1)], [at, word(2, 0, 0)]],
        ),
    ];
    for (what, descriptors) in wrecks {
        eprintln!("{what}:");
        let mut driver = drive(&world, SPLIT, 1, LINUX);
        driver.control.as_mut().unwrap().wreck(&descriptors);
        world.wait_state("board0", "bl0", LinkState::Down, "controlq: ");
        wait("the device says that it needs a reset", || {
            let status = driver.stock.status();
            check(status & status::DEVICE_NEEDS_RESET != 0, status)
        });
        // The same session, after a reset.
        let mut driver = driver.stock.drive(SPLIT, 1, LINUX);
        wait("operational", || check(world.is_operational("board0", "bl0"), "it is not"));
        carries(&world, &mut driver);
        drop(driver);
        let mut driver = drive(&world, SPLIT, 1, LINUX);
        carries(&world, &mut driver);
        alive(&world, pid);
    }
}

pub(crate) fn a_driver_that_floods_takes_no_memory_and_keeps_no_agent_from_ending() {
    let mut world = board("");
    let mut driver = drive(&world, SPLIT, 1, LINUX);
    neighbour(&world, &mut driver);
    let frame = numbered(BROADCAST, &[], 1, 60);
    let mut before = None;
    let [mut frames, mut messages, mut rings] = [0_u64; 3];
    for time in [1, 10] {
        let (since, used) = (Instant::now(), flood::cpu(&world, "board0"));
        while since.elapsed() < Duration::from_secs(time) {
            for _ in 0..64 {
                frames += u64::from(driver.pairs[0].1.try_send(Header::default(), &frame));
                driver.stock.ring_all();
                rings += 1;
            }
            driver.pairs[0].1.reclaim();
            // It is for a queue that is there, for one that is not, and for nothing that a driver says.
            for body in [
                Body::EventAvail { index: 1, next: 0 },
                Body::EventAvail { index: 9, next: 0 },
                Body::EventUsed { index: 1 },
            ] {
                messages += u64::from(driver.stock.try_send(body));
            }
        }
        let share = (flood::cpu(&world, "board0") - used) as f64 / since.elapsed().as_secs_f64();
        let now = flood::memory(&world, "board0");
        eprintln!(
            "{frames} frames, {messages} messages, {rings} rings; {now} KiB, {share:.0} % CPU"
        );
        assert!(
            now <= before.unwrap_or(now) + flood::TOLERANCE,
            "it grew from {before:?} to {now}"
        );
        before = Some(now);
    }
    assert!(frames > 10_000 && messages > 1000, "no flood");
    let lines = world.log("board0").lines().count();
    assert!(lines < 20, "{lines} lines:\n{}", world.log("board0"));
    carries(&world, &mut driver);
    assert!(world.stop("board0").success());
}
