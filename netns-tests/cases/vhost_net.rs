//! Boards whose frames the kernel's vhost-net is to move. Where a machine's kernel has none, one case
//! shows what comes of that, and the others run in a guest that has it (`tests/peers`).

use std::net::TcpStream;
use std::time::Duration;

use boardlane::daemon::status::{LinkState, LinkStatus};
use boardlane::daemon::traffic::Ping;
use boardlane::net::features::Features;
use boardlane::spec::net::{self, Header};
use boardlane::spec::{split, virtio};

use super::stock::{board, carries, drive, neighbour};
use crate::stock::frames::{BROADCAST, numbered};
use crate::stock::rings::LINUX;
use crate::stock::{Driver, SPLIT};
use crate::traffic::exchange;
use crate::world::{PROGRAM, World, check, wait};

/// What a case needs that is not for machines without it.
pub(crate) const VHOST_NET: &str = "/dev/vhost-net";
/// What a stock driver takes of the offer of a board whose frames the kernel moves.
pub(crate) const OFFERED: Features =
    SPLIT.minus(Features::of(&[net::F_CTRL_RX, net::F_CTRL_VLAN, net::F_NOTF_COAL]));
const KEY: &str = "pump = \"vhost-net\"\nheartbeat_ms = 1000";
/// At the master: guests are emulated, and may stand still for a while.
const OTHER_KEY: &str = "heartbeat_ms = 1000";

/// Boards with the key and more; `keys` are both ends'.
fn running(boards: u8, keys: &'static str) -> World {
    let world = World::running(boards, |machine, _| match machine {
        "master" => format!("{OTHER_KEY}\n{keys}"),
        _ => format!("{KEY}\n{keys}"),
    });
    for slot in 0..boards {
        in_kernel(&world, slot);
    }
    world
}

/// The link as the board's daemon sees it, whose frames the kernel moves.
pub(crate) fn in_kernel(world: &World, slot: u8) -> LinkStatus {
    let link = world.link_status(&format!("board{slot}"), "bl0").unwrap();
    assert_eq!((&*link.pump.mode, &link.pump.reason), ("vhost-net", &None));
    link
}

pub(crate) fn a_board_whose_kernel_has_no_vhost_net_says_so_and_moves_frames_itself() {
    let mut world = World::new(1, |machine, _| match machine {
        "master" => String::new(),
        _ => KEY.to_owned(),
    });
    world.start("backplane");
    world.start("master");
    // Where there is one, it is another device now.
    let hide = format!("[ ! -e {0} ] || mount --bind /dev/null {0}; exec \"$@\"", VHOST_NET);
    world.start_as("board0", &["unshare", "--mount", "sh", "-c", &hide, "sh"]);
    world.wait_up(0);
    let link = world.link_status("board0", "bl0").unwrap();
    let reason = link.pump.reason.expect("a reason");
    assert!(link.pump.mode == "builtin" && reason.contains("vhost-net: "), "{reason}");
    assert!(link.features.iter().any(|name| name == "RING_PACKED"), "{:?}", link.features);
    let complaint = "frames are moved by this program, not by the kernel";
    let complaints = || world.log("board0").matches(complaint).count();
    assert_eq!(complaints(), 1, "{}", world.log("board0"));
    world.transfer("board0", "master", "10.77.0.1", 4 << 20);
    world.kill("master");
    world.start("master");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
    let complaints = world.log("board0").matches(complaint).count();
    assert_eq!(complaints, 1, "{}", world.log("board0"));
    let master = world.link_status("master", "bl0").unwrap().pump;
    assert_eq!((&*master.mode, master.reason), ("builtin", None));
}

/// Everything that a link is to carry, both ways.
fn carries_all(world: &World, slot: u8) {
    let board = format!("board{slot}");
    for (from, to, host) in [("master", &*board, 2), (&*board, "master", 1)] {
        for address in [format!("10.77.{slot}.{host}"), format!("fd77:0:0:{slot}::{host}")] {
            world.transfer(from, to, &address, 1 << 20);
        }
    }
}

pub(crate) fn the_kernel_carries_v4_and_v6_both_ways_and_its_frames_are_counted() {
    let world = running(1, "");
    let link = in_kernel(&world, 0);
    for (name, on) in [("EVENT_IDX", true), ("MRG_RXBUF", true), ("RING_PACKED", false)] {
        assert_eq!(link.features.iter().any(|has| has == name), on, "{:?}", link.features);
    }
    carries_all(&world, 0);
    let control = world.directory("board0").join("control.sock").display().to_string();
    let capture = [PROGRAM, "capture", "--link", "bl0", "--control", &control];
    let refused = world.run("board0", &capture);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("with tcpdump"), "{said}");
    wait("netdev and daemon have counted the same", || {
        let stats = &world.netdev("board0", "bl0").unwrap()["stats64"];
        let queue = &world.link_status("board0", "bl0")?.queues[0];
        let daemon = [queue.rx.frames, queue.rx.bytes, queue.tx.frames, queue.tx.bytes];
        let kernel = [("rx", "packets"), ("rx", "bytes"), ("tx", "packets"), ("tx", "bytes")]
            .map(|(way, what)| stats[way][what].as_u64().unwrap());
        // The netdev may have counted something before the link was up.
        let close = daemon.iter().zip(&kernel).all(|(d, k)| d <= k && k - d < 10_000);
        check(close && daemon[1] > 2 << 20 && daemon[3] > 2 << 20, (daemon, kernel))
    });
}

pub(crate) fn each_feature_may_be_missing() {
    const OFF: &[(&str, &str)] = &[
        ("board0", "MRG_RXBUF"),
        ("master", "EVENT_IDX"),
        ("board0", "INDIRECT_DESC"),
        ("master", "CTRL_VQ"),
        ("board0", "GUEST_CSUM"),
        ("master", "CSUM"),
    ];
    for (side, off) in OFF {
        let world = World::running(1, |machine, _| {
            let off = format!("features_off = [\"{off}\"]");
            let off = if machine == *side { &*off } else { "" };
            let key = if machine == "master" { OTHER_KEY } else { KEY };
            format!("{key}\n{off}")
        });
        let link = in_kernel(&world, 0);
        assert!(!link.features.iter().any(|has| has == off), "{:?}", link.features);
        eprintln!("without {off}, as {side} has it:");
        carries_all(&world, 0);
    }
}

pub(crate) fn two_queue_pairs_are_served_at_once() {
    let world = running(1, "queues = 2");
    let netdev = world.ip("board0", "-d link show dev bl0").remove(0);
    assert_eq!(netdev["linkinfo"]["info_data"]["numqueues"], 2, "{netdev}");
    let ends: Vec<_> = (0..6).map(|_| world.connection("master", "board0", "10.77.0.2")).collect();
    std::thread::scope(|scope| {
        let both = |[client, server]: &[TcpStream; 2]| {
            exchange(client, server, 1 << 19, "to the board");
            exchange(server, client, 1 << 19, "to the master");
        };
        ends.iter().for_each(|pair| drop(scope.spawn(move || both(pair))));
    });
    in_kernel(&world, 0);
}

pub(crate) fn ends_that_are_killed_and_stopped_are_back() {
    let mut world = running(1, "");
    let [client, server] = world.connection("master", "board0", "10.77.0.2");
    for daemon in ["board0", "master", "board0", "backplane", "master"] {
        world.kill(daemon);
        world.start(daemon);
        world.wait_ping(&format!("traffic after {daemon} was killed"), "master", "10.77.0.2");
        world.wait_up(0);
        in_kernel(&world, 0);
        exchange(&client, &server, 1 << 18, &format!("after {daemon} was killed"));
        exchange(&server, &client, 1 << 18, &format!("after {daemon} was killed"));
    }
    drop((client, server));
    for daemon in ["board0", "master"] {
        assert!(world.stop(daemon).success(), "{}", world.log(daemon));
        world.start(daemon);
        world.wait_up(0);
        carries_all(&world, 0);
    }
    assert!(!world.log("board0").contains("panicked"), "{}", world.log("board0"));
}

pub(crate) fn a_netdev_that_is_set_down_and_up_is_back() {
    let world = running(1, "");
    for machine in ["board0", "master"] {
        let (from, to) =
            if machine == "master" { ("master", "10.77.0.2") } else { ("board0", "10.77.0.1") };
        world.ping_well(from, to);
        world.ip(machine, "link set bl0 down");
        let lost = Ping { count: 3, timeout: Duration::from_millis(100), ..Ping::default() };
        let other =
            if machine == "master" { ("board0", "10.77.0.1") } else { ("master", "10.77.0.2") };
        wait("no carrier at the other end", || {
            check(!world.has_carrier(other.0, "bl0"), "it has one")
        });
        assert_eq!(world.ping(other.0, other.1, lost).received, 0);
        world.ip(machine, "link set bl0 up");
        world.wait_up(0);
        world.wait_ping("traffic is back", from, to);
        carries_all(&world, 0);
    }
}

pub(crate) fn an_mtu_of_9000_carries_frames_of_that_size() {
    let world = running(1, "mtu = 9000");
    let plan = Ping { count: 5, payload: 8900, ..Ping::default() };
    assert_eq!(world.ping("master", "10.77.0.2", plan).received, 5);
    assert_eq!(world.ping("board0", "10.77.0.1", plan).received, 5);
}

fn garble(driver: &mut Driver) {
    let frame = numbered(BROADCAST, &[], 1, 100);
    assert!(driver.pairs[0].1.try_send(Header::default(), &frame));
    let config = &driver.pairs[0].1.config;
    let mem = &driver.stock.mem;
    let avail = mem.view(mem.resolve(config.driver, split::avail_len(config.size)).unwrap());
    let avail = avail.unwrap();
    // More chains than there are descriptors.
    avail.store_le16(2, avail.load_le16(2).wrapping_add(20_000));
}

pub(crate) fn a_ring_that_the_kernel_finds_broken_stops_the_link_until_it_is_reset() {
    let world = board(KEY);
    let mut driver = drive(&world, OFFERED, 1, LINUX);
    neighbour(&world, &mut driver);
    in_kernel(&world, 0);
    carries(&world, &mut driver);
    garble(&mut driver);
    let why = "the kernel has found a ring broken";
    world.wait_state("board0", "bl0", LinkState::Down, why);
    assert!(driver.stock.status() & virtio::status::DEVICE_NEEDS_RESET != 0);
    drop(driver);
    let mut next = drive(&world, OFFERED, 1, LINUX);
    carries(&world, &mut next);
    in_kernel(&world, 0);
}
