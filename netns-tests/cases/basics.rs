//! A link that works: what the kernel shows of it, and what it carries.

use std::time::Duration;

use boardlane::daemon::status::{LinkState, QueueStatus};
use boardlane::daemon::traffic::Ping;
use serde_json::{Value, json};

use crate::world::{PROGRAM, World, check, wait};

/// The addresses of a netdev that have global scope, as `address/length`.
fn addresses(netdev: &Value) -> Vec<String> {
    let infos = netdev["addr_info"].as_array().unwrap().iter();
    infos
        .filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect()
}

pub(crate) fn a_link_comes_up_and_carries_v4_and_v6_both_ways() {
    let route = r#"route = [{ to = "10.80.0.0/24", via = "10.77.0.1", metric = 100 },
        { to = "fd80::/64", via = "fd77::1" }]"#;
    let mut world = World::running(1, |machine, _| match machine {
        "master" => "mac = \"02:bb:00:00:00:01\"\nmtu = 1400".to_owned(),
        _ => format!("mac = \"02:bb:00:00:00:02\"\nmtu = 1400\n{route}"),
    });
    for (machine, host) in [("master", 1), ("board0", 2)] {
        let netdev = world.netdev(machine, "bl0").unwrap();
        let v4 = format!("10.77.0.{host}/30");
        assert_eq!(addresses(&netdev), [v4, format!("fd77::{host}/64")], "{netdev}");
        assert_eq!(netdev["mtu"], 1400);
        assert_eq!(netdev["address"], format!("02:bb:00:00:00:0{host}"));
        assert_eq!(world.ip(machine, "link show dev bl0")[0]["ifalias"], "boardlane");
        assert_eq!(netdev["operstate"], "UP");
    }
    let routes = world.ip("board0", "route show 10.80.0.0/24");
    assert_eq!(routes.len(), 1, "{routes:?}");
    let expected = json!({"dst": "10.80.0.0/24", "gateway": "10.77.0.1", "dev": "bl0",
        "metric": 100});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&routes[0][key], value, "{key}");
    }
    let routes = world.ip("board0", "-6 route show fd80::/64");
    assert_eq!((&routes[0]["gateway"], &routes[0]["dev"]), (&json!("fd77::1"), &json!("bl0")));

    for (from, to, host) in [("master", "board0", 2), ("board0", "master", 1)] {
        for address in [format!("10.77.0.{host}"), format!("fd77::{host}")] {
            world.ping_well(from, &address);
            world.transfer(from, to, &address, 4 << 20);
        }
    }

    let control = world.directory("master").join("control.sock");
    let words = [PROGRAM, "status", "--json", "--control", control.to_str().unwrap()];
    let status: Value = serde_json::from_str(&world.run_well("master", &words)).unwrap();
    assert_eq!((&status["role"], &status["pid"]), (&json!("master"), &json!(world.pid("master"))));
    let link = &status["links"][0];
    let shown = ["name", "state", "reason", "carrier", "mac", "mtu", "slot"].map(|key| &link[key]);
    let mac = json!("02:bb:00:00:00:01");
    let (bl0, up, null) = (json!("bl0"), json!("up"), json!(null));
    assert_eq!(shown, [&bl0, &up, &null, &json!(true), &mac, &json!(1400), &json!(0)]);

    for daemon in ["board0", "master", "backplane"] {
        assert!(world.stop(daemon).success(), "{daemon}: {}", world.log(daemon));
    }
    for machine in ["master", "board0"] {
        let netdevs = world.ip(machine, "link show");
        let names: Vec<_> = netdevs.iter().map(|netdev| &netdev["ifname"]).collect();
        assert_eq!(names, ["lo"], "nothing is left on {machine}");
        assert!(!world.directory(machine).join("control.sock").exists());
        let routes = world.ip(machine, "route show");
        assert!(routes.is_empty(), "{routes:?}");
    }
    assert!(!world.slot(0).exists());
}

/// The usual IPv4 address alone.
fn only_v4(machine: &str) -> String {
    let host = if machine == "master" { 1 } else { 2 };
    format!("address = [\"10.77.0.{host}/30\"]\nfeatures_off = [\"GUEST_ANNOUNCE\"]")
}

/// Frames and bytes that a netdev received and sent.
type Counts = [u64; 4];

/// What the kernel counted, and what the daemon did.
fn counts(world: &World, machine: &str) -> Result<[Counts; 2], String> {
    let stats = &world.ip(machine, "link show dev bl0")[0]["stats64"];
    let count = |way: &str, what: &str| stats[way][what].as_u64().unwrap();
    let kernel = [("rx", "packets"), ("rx", "bytes"), ("tx", "packets"), ("tx", "bytes")]
        .map(|(way, what)| count(way, what));
    let link = world.link_status(machine, "bl0")?;
    let QueueStatus { rx, tx, .. } = &link.queues[0];
    assert!(rx.drops.is_empty() && tx.drops.is_empty(), "{rx:?} {tx:?}");
    Ok([kernel, [rx.frames, rx.bytes, tx.frames, tx.bytes]])
}

/// What was counted at the master and at the board, once kernel and daemon agree.
fn agreed(world: &World, what: &str) -> [Counts; 2] {
    ["master", "board0"].map(|machine| {
        wait(&format!("kernel and daemon of {machine} agree {what}"), || {
            let [kernel, daemon] = counts(world, machine)?;
            check(kernel == daemon, (kernel, daemon)).map(|()| kernel)
        })
    })
}

pub(crate) fn counters_of_status_equal_those_of_the_kernel() {
    let mut world = World::new(1, |machine, _| only_v4(machine));
    // Nothing but the traffic below is to cross the link.
    for machine in ["master", "board0"] {
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        world.run_well(machine, &["sh", "-c", quiet]);
    }
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    world.wait_up(0);
    for (machine, other, host) in [("master", "board0", 2), ("board0", "master", 1)] {
        let mac = world.netdev(other, "bl0").unwrap()["address"].as_str().unwrap().to_owned();
        world.ip(
            machine,
            &format!("neigh replace 10.77.0.{host} lladdr {mac} dev bl0 nud permanent"),
        );
    }

    let before = agreed(&world, "before");
    for payload in [8, 56, 1472] {
        let plan = Ping { count: 20, payload, timeout: Duration::from_secs(10), ..Ping::default() };
        assert_eq!(world.ping("master", "10.77.0.2", plan).received, 20);
    }
    let after = agreed(&world, "after pings");
    // Ethernet, IP and ICMP headers.
    let bytes = [8, 56, 1472].map(|payload| 20 * (14 + 20 + 8 + payload)).iter().sum();
    for (before, after) in before.iter().zip(after) {
        let more: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        assert_eq!(more, [60, bytes, 60, bytes]);
    }

    world.transfer("master", "board0", "10.77.0.2", 20 << 20);
    world.transfer("board0", "master", "10.77.0.1", 20 << 20);
    let [master, board] = agreed(&world, "after TCP");
    assert_eq!(
        [master[0], master[1]],
        [board[2], board[3]],
        "what one end sent the other received"
    );
    assert_eq!([board[0], board[1]], [master[2], master[3]]);
    assert!(master[1] > after[0][1] + (20 << 20) && master[3] > after[0][3] + (20 << 20));
}

/// Ping's payload that makes an IP packet of `mtu` bytes, and its option for the family.
fn payload(mtu: u32, address: &str) -> (String, &'static str) {
    if address.contains(':') {
        ((mtu - 40 - 8).to_string(), "-6")
    } else {
        ((mtu - 20 - 8).to_string(), "-4")
    }
}

/// Whether packets of `mtu` bytes that must not be fragmented are answered.
fn unfragmented(world: &World, mtu: u32, address: &str) -> bool {
    let (size, family) = payload(mtu, address);
    // After a first answer ping would wait for two round trips only, whatever the limit.
    let words = ["ping", family, "-M", "do", "-s", &size, "-c", "1", "-W", "10", address];
    (0..3).all(|_| world.run("master", &words).status.success())
}

fn carries(mtu: u32) {
    let world = World::running(1, |_, _| format!("mtu = {mtu}"));
    for address in ["10.77.0.2", "fd77::2"] {
        assert!(unfragmented(&world, mtu, address), "{address}");
        assert!(!unfragmented(&world, mtu + 1, address), "{address}: a byte too much");
        world.transfer("master", "board0", address, 4 << 20);
    }
    for address in ["10.77.0.1", "fd77::1"] {
        world.transfer("board0", "master", address, 4 << 20);
    }
}

pub(crate) fn an_mtu_of_68_carries_v4() {
    let world = World::running(1, |machine, _| format!("mtu = 68\n{}", only_v4(machine)));
    assert!(unfragmented(&world, 68, "10.77.0.2"));
    world.transfer("master", "board0", "10.77.0.2", 64 << 10);
}

pub(crate) fn an_mtu_of_9000_carries_frames_of_that_size() {
    carries(9000);
}

pub(crate) fn an_mtu_of_65000_carries_frames_of_that_size() {
    carries(65_000);
}

pub(crate) fn the_smaller_mtu_wins_at_the_master() {
    let world = World::running(1, |machine, _| match machine {
        "master" => "mtu = 9000".to_owned(),
        _ => "mtu = 2000".to_owned(),
    });
    for machine in ["master", "board0"] {
        assert_eq!(world.netdev(machine, "bl0").unwrap()["mtu"], 2000, "{machine}");
        assert_eq!(world.link_status(machine, "bl0").unwrap().mtu, Some(2000), "{machine}");
    }
    assert!(unfragmented(&world, 2000, "10.77.0.2"));
    assert_eq!(world.link_status("master", "bl0").unwrap().state, LinkState::Up);
}
