//! A crate of 64 boards: one entry at the master, one text for all boards, and addresses by a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::daemon::traffic::Ping;
use serde_json::Value;

use super::reload::reload;
use crate::world::{PATIENCE, PROGRAM, World, check, wait, wait_for};

const BOARDS: u8 = 64;
/// Until all links are up: processes of 65 daemons share what processors there are.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The words that both ends' configs have in common.
const POOL: &str = r#"pool = { v4 = "10.77.0.0/16", prefix = 30, v6 = "fd77::/48" }"#;

fn board(slot: u8) -> String {
    format!("board{slot}")
}

/// The master's links.
fn pattern(world: &World, slots: &str, more: &str) -> String {
    let socket = world.slot(0).display().to_string().replace("slot0.sock", "slot{slot}.sock");
    format!(
        "{POOL}\n[defaults]\nheartbeat_ms = 500\n[[link]]\nslots = \"{slots}\"\n\
         name = \"bl{{slot}}\"\ntransport = \"shm:{socket}\"\n{more}"
    )
}

/// A board's link: the same text for all, but for the number.
fn template(world: &World, slot: u8) -> String {
    let route = r#"route = [{ to = "pool", via = "peer" }]"#;
    let links = pattern(world, "", route).replace("bl{slot}", "bl0");
    links.replace("slots = \"\"", &format!("slot = {slot}"))
}

/// A crate with all daemons started.
fn started() -> World {
    let mut world = World::new(0, |_, _| String::new());
    world.run_well(
        "master",
        &[
            "sh",
            "-c",
            "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done",
        ],
    );
    world.configure("master", &pattern(&world, "0-63", ""));
    for slot in 0..BOARDS {
        world.add_machine(&board(slot));
        world.configure(&board(slot), &template(&world, slot));
    }
    let slots = world.slot(0).parent().unwrap().display().to_string();
    let words = [PROGRAM, "backplane", "--slots", "64", "--window", "4M", "--dir", &slots];
    world.start_words("backplane", "backplane", &words);
    world.start("master");
    (0..BOARDS).for_each(|slot| world.start(&board(slot)));
    world
}

/// Waits until each link is up at both ends.
fn wait_all_up(world: &World) {
    let is_up = |machine: &str| {
        let links = world.status(machine)?.links;
        let other = links.iter().find(|link| link.state != LinkState::Up || !link.carrier);
        check(other.is_none(), other.map(|link| (&link.name, link.state, &link.reason)))
    };
    wait_for(START_LIMIT, "all links up at the master", || is_up("master"));
    for slot in 0..BOARDS {
        wait_for(START_LIMIT, &format!("board {slot} up"), || is_up(&board(slot)));
    }
}

/// Each board reaches the master, and by way of it its neighbour.
fn ping_all(world: &World) {
    let plan = Ping { count: 1, timeout: Duration::from_millis(200), ..Ping::default() };
    let start = Instant::now();
    for slot in 0..BOARDS {
        let next = (slot + 1) % BOARDS;
        for to in [
            format!("10.77.0.{}", 4 * slot + 1),
            format!("fd77:0:0:{slot:x}::1"),
            format!("10.77.0.{}", 4 * next + 2),
            format!("fd77:0:0:{next:x}::2"),
        ] {
            // IPv6 addresses are in doubt for a second or two.
            while world.ping(&board(slot), &to, plan).received == 0 {
                assert!(start.elapsed() < 2 * PATIENCE, "{} gets no answer of {to}", board(slot));
            }
        }
    }
    eprintln!("all boards have reached master and neighbour after {:?}", start.elapsed());
}

/// What stays of a link at the master that is left alone: epochs, netdev, and counters that never fall.
type Marks = BTreeMap<String, (Option<u32>, Option<u32>, Value)>;

fn marks(world: &World) -> Marks {
    let netdevs = world.ip("master", "link show");
    let index = |name: &str| {
        let netdev = netdevs.iter().find(|netdev| netdev["ifname"] == name);
        netdev.map_or(Value::Null, |netdev| netdev["ifindex"].clone())
    };
    let links = world.status("master").unwrap().links.into_iter();
    links
        .map(|link| (link.name.clone(), (link.epoch, link.peer_epoch, index(&link.name))))
        .collect()
}

/// Has the master read its config again, with these slots and further lines; what was done, and which
/// of its netdevs the kernel has told anything of meanwhile.
fn watched(world: &mut World, slots: &str, more: &str) -> (String, BTreeSet<String>) {
    let words = ["ip", "-o", "monitor", "link", "address", "route"];
    world.start_words("monitor", "master", &words);
    let log = world.log_path("monitor");
    // It listens once it tells of this.
    wait("the monitor listens", || {
        world.ip("master", "addr add 192.0.2.1/32 dev lo");
        world.ip("master", "addr del 192.0.2.1/32 dev lo");
        check(world.log("monitor").contains("192.0.2.1"), "nothing")
    });
    std::fs::write(&log, "").unwrap();
    let start = Instant::now();
    let done = reload(world, "master", &pattern(world, slots, more));
    eprintln!("reload after {:?}", start.elapsed());
    // What comes late would come within a heartbeat's look or two.
    thread::sleep(Duration::from_secs(1));
    let told = world.log("monitor");
    world.kill("monitor");
    let words = told.split([' ', ':', '\n', '\0']);
    let names =
        words.filter(|word| word.strip_prefix("bl").is_some_and(|n| n.parse::<u8>().is_ok()));
    (done, names.map(str::to_owned).collect())
}

pub(crate) fn sixty_four_boards_by_one_entry_reach_each_other_and_a_reload_touches_one() {
    let start = Instant::now();
    let mut world = started();
    eprintln!("daemons started after {:?}", start.elapsed());
    wait_all_up(&world);
    eprintln!("all up after {:?}", start.elapsed());
    ping_all(&world);
    let before = marks(&world);
    assert_eq!(before.len(), usize::from(BOARDS));
    let unchanged = |world: &World, except: &str| {
        let mut now = marks(world);
        let mut was = before.clone();
        now.remove(except);
        was.remove(except);
        assert_eq!(now, was, "another than {except} was touched");
    };
    let own = |keys: &str| format!("[[link]]\nslot = 5\n{keys}\n");
    let only = |name: &str| BTreeSet::from([name.to_owned()]);

    let (done, told) = watched(&mut world, "0-63", "");
    assert_eq!((&done[..], told), ("64 unchanged", BTreeSet::new()));
    let (done, told) = watched(&mut world, "0-63", &own("mtu = 1400"));
    assert_eq!((&done[..], told), ("changed bl5; 63 unchanged", only("bl5")));
    assert_eq!(marks(&world), before, "it went on as it was, too");
    let more = own("address = [\"10.77.0.21/30\", \"10.78.0.1/24\"]");
    let (done, told) = watched(&mut world, "0-63", &more);
    assert_eq!((&done[..], told), ("changed bl5; 63 unchanged", only("bl5")));
    assert_eq!(marks(&world), before);
    let (done, told) = watched(&mut world, "0-63", &own("features_off = [\"MRG_RXBUF\"]"));
    assert_eq!((&done[..], told), ("restarted bl5; 63 unchanged", only("bl5")));
    unchanged(&world, "bl5");
    let (done, told) = watched(&mut world, "0-4,6-63", "");
    assert_eq!((&done[..], told), ("removed bl5; 63 unchanged", only("bl5")));
    unchanged(&world, "bl5");
    let (done, _) = watched(&mut world, "0-63", "");
    assert_eq!(done, "added bl5; 63 unchanged");
    unchanged(&world, "bl5");
    wait_all_up(&world);
    ping_all(&world);
}
