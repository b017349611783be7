//! What a config says of netdevs beside addresses, as `ip` and packets see it: bridges, tables, peers,
//! forwarding, and what is only reported.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::reload::reload;
use crate::world::{World, check, wait};

/// The boards' addresses in the bridge's network.
const IN_BRIDGE: &str = "address = [\"10.99.0.";

fn port_keys(machine: &str, slot: u8) -> String {
    match machine {
        "master" => "bridge = \"br0\"\nisolated = true\naddress = []".to_owned(),
        _ => format!("{IN_BRIDGE}{}/24\"]", 10 + slot),
    }
}

fn wait_reason(world: &World, machine: &str, name: &str, reason: Option<&str>) {
    wait(&format!("{machine}: {name}: {reason:?}"), || {
        let link = world.link_status(machine, name)?;
        check(link.reason.as_deref() == reason, &link)
    });
}

/// The bridge that a netdev is a port of, and whether it is isolated.
fn port(world: &World, name: &str) -> (Option<String>, bool) {
    let link = &world.ip("master", &format!("-d link show dev {name}"))[0];
    let isolated = link["linkinfo"]["info_slave_data"]["isolated"] == true;
    (link["master"].as_str().map(str::to_owned), isolated)
}

fn wait_port(world: &World, name: &str, bridge: Option<&str>, isolated: bool) {
    wait(&format!("{name} is a port of {bridge:?}"), || {
        let port = port(world, name);
        check((port.0.as_deref(), port.1) == (bridge, isolated), &port)
    });
}

fn add_bridge(world: &World, name: &str) {
    world.ip("master", &format!("link add {name} type bridge"));
    world.ip("master", &format!("addr add 10.99.0.1/24 dev {name}"));
    world.ip("master", &format!("link set {name} up"));
}

fn is_unreachable(world: &World, machine: &str, to: &str) {
    let output = world.run(machine, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "-q", to]);
    assert!(!output.status.success(), "{machine} reaches {to}: {output:?}");
}

pub(crate) fn a_bridge_that_comes_late_gets_its_ports_and_gets_them_back() {
    let world = World::running(2, port_keys);
    let names = ["bl0", "bl1"];
    let missing = "bridge br0 does not exist yet";
    names.iter().for_each(|name| wait_reason(&world, "master", name, Some(missing)));
    add_bridge(&world, "br0");
    for name in names {
        wait_port(&world, name, Some("br0"), true);
        wait_reason(&world, "master", name, None);
    }
    world.wait_ping("the bridge is reached", "board0", "10.99.0.1");
    world.wait_ping("the bridge is reached", "board1", "10.99.0.1");
    is_unreachable(&world, "board0", "10.99.0.11");
    // Somebody takes a port out, or elsewhere, or lets it meet the others.
    world.ip("master", "link add br1 type bridge");
    for breakage in ["nomaster", "master br1", "type bridge_slave isolated off"] {
        world.ip("master", &format!("link set bl0 {breakage}"));
        wait_port(&world, "bl0", Some("br0"), true);
    }
    // The bridge goes, and comes again; one that is none is said to be so.
    world.ip("master", "link del br0");
    wait_reason(&world, "master", "bl0", Some(missing));
    world.ip("master", "link add br0 type veth peer name far0");
    wait_reason(&world, "master", "bl0", Some("br0 is no bridge"));
    world.ip("master", "link del br0");
    add_bridge(&world, "br0");
    names.iter().for_each(|name| wait_port(&world, name, Some("br0"), true));
    world.wait_ping("the bridge is reached again", "board0", "10.99.0.1");
    let epoch = world.link_status("master", "bl0").unwrap().epoch;
    let links = |keys: [&str; 2]| {
        [0_u8, 1].map(|i| world.link(&format!("bl{i}"), i, 1, keys[usize::from(i)])).concat()
    };
    // What the config does not name any more goes back.
    let meeting = "bridge = \"br0\"\nisolated = false\naddress = []";
    let silent = "bridge = \"br0\"\naddress = []";
    assert_eq!(reload(&world, "master", &links([meeting, silent])), "changed bl0 bl1; 0 unchanged");
    names.iter().for_each(|name| wait_port(&world, name, Some("br0"), false));
    world.wait_ping("the boards meet", "board0", "10.99.0.11");
    // Without a word in the config it is the operator's.
    world.ip("master", "link set bl1 type bridge_slave isolated on");
    let own = ["address = [\"10.98.0.1/30\"]", "address = []"];
    reload(&world, "master", &links(own));
    wait_port(&world, "bl0", None, false);
    wait_port(&world, "bl1", None, false);
    world.ip("master", "link set bl1 master br1");
    reload(&world, "master", &links(["address = []", "address = []\nmtu = 1400"]));
    assert_eq!(port(&world, "bl1").0.as_deref(), Some("br1"), "the operator's");
    assert_eq!(world.link_status("master", "bl0").unwrap().epoch, epoch, "it has not begun anew");
}

/// Addresses as `ip` writes them, without the kernel's own.
fn addresses(world: &World, machine: &str) -> Vec<String> {
    let infos = world.netdev(machine, "bl0").unwrap()["addr_info"].clone();
    let infos = infos.as_array().unwrap().iter();
    let infos = infos.filter(|info| info["protocol"] != "kernel_ll");
    let text = |info: &Value| {
        let peer = info["address"].as_str().map(|peer| format!(" {peer}")).unwrap_or_default();
        format!("{}/{}{peer} {}", info["local"].as_str().unwrap(), info["prefixlen"], info["scope"])
    };
    let mut texts: Vec<_> = infos.map(text).filter(|text| !text.starts_with("fe80")).collect();
    texts.sort();
    texts
}

/// Where routes of a table lead to.
fn routes(world: &World, machine: &str, table: &str) -> Vec<String> {
    let all = world.ip(machine, &format!("route show table {table}"));
    // `ip` leaves out that of its own routes.
    let ours = all.iter().filter(|route| route["protocol"] != "kernel");
    ours.map(|route| route["dst"].as_str().unwrap().to_owned()).collect()
}

fn has(what: &str, expected: &[&str], mut seen: impl FnMut() -> Vec<String>) {
    wait(what, || {
        let seen = seen();
        check(seen == expected, &seen)
    });
}

/// The master's link in [`peers_and_tables_are_healed_and_taken_back_also_after_a_crash`].
const TABLED: &str = r#"
address = [
    { address = "10.77.0.1", peer = "10.77.0.2/32" },
    { address = "fd77::1/128", peer = "fd77::2" },
    { address = "10.66.0.1/24", scope = "link" },
]
route = [
    { to = "10.80.0.0/24", via = "10.77.0.2", table = 100, source = "10.77.0.1" },
    { to = "10.81.0.0/24", via = "10.90.0.2", onlink = true },
    { to = "10.82.0.0/24", via = "fe80::2" },
]"#;

pub(crate) fn peers_and_tables_are_healed_and_taken_back_also_after_a_crash() {
    let keys = |machine: &str, _: u8| match machine {
        "master" => TABLED.to_owned(),
        _ => r#"address = [
            { address = "10.77.0.2/32", peer = "10.77.0.1" },
            { address = "fd77::2/128", peer = "fd77::1" },
            "10.80.0.1/24",
        ]"#
        .to_owned(),
    };
    let mut world = World::running(1, keys);
    world.wait_ping("the peer", "master", "10.77.0.2");
    world.wait_ping("the peer", "board0", "fd77::1");
    let ours = [
        "10.66.0.1/24 \"link\"",
        "10.77.0.1/32 10.77.0.2 \"global\"",
        "fd77::1/128 fd77::2 \"global\"",
    ];
    has("the master's addresses", &ours, || addresses(&world, "master"));
    // By its own table only.
    world.ip("master", "rule add to 10.80.0.0/24 lookup 100");
    world.wait_ping("what is behind the board", "master", "10.80.0.1");
    // The operator's own, of which one differs from ours in nothing but its peer.
    world.ip("master", "addr add 10.77.0.1 peer 10.77.0.9/32 dev bl0");
    world.ip("master", "addr add 192.0.2.1/24 dev bl0");
    world.ip("master", "route add 10.83.0.0/24 dev bl0 table 100");
    world.ip("master", "route add 10.80.0.0/24 dev bl0 table 101");
    for breakage in [
        "addr del 10.77.0.1 peer 10.77.0.2/32 dev bl0",
        "addr del fd77::1 peer fd77::2/128 dev bl0",
        "addr del 10.66.0.1/24 dev bl0",
        "route del 10.80.0.0/24 table 100",
        "route del 10.81.0.0/24",
        "route del 10.82.0.0/24",
    ] {
        world.ip("master", breakage);
        thread::sleep(Duration::from_millis(20));
        let all = [
            ours[0],
            "10.77.0.1/32 10.77.0.2 \"global\"",
            "10.77.0.1/32 10.77.0.9 \"global\"",
            "192.0.2.1/24 \"global\"",
            ours[2],
        ];
        has(breakage, &all, || addresses(&world, "master"));
        has(breakage, &["10.80.0.0/24", "10.83.0.0/24"], || routes(&world, "master", "100"));
        has(breakage, &["10.81.0.0/24", "10.82.0.0/24"], || routes(&world, "master", "main"));
    }
    // A start with another config takes back what the killed one has set, and no more.
    world.kill("master");
    world.configure("master", &world.link("bl0", 0, 1, "address = [\"10.66.0.1/24\"]"));
    world.start("master");
    world.wait_up(0);
    let left =
        ["10.66.0.1/24 \"global\"", "10.77.0.1/32 10.77.0.9 \"global\"", "192.0.2.1/24 \"global\""];
    has("another config's addresses", &left, || addresses(&world, "master"));
    assert_eq!(routes(&world, "master", "100"), ["10.83.0.0/24"]);
    assert_eq!(routes(&world, "master", "101"), ["10.80.0.0/24"]);
    assert_eq!(routes(&world, "master", "main"), [] as [&str; 0]);
}

/// A sysctl of a machine.
fn sysctl(world: &World, machine: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    world.run_well(machine, &["cat", &path]).trim().to_owned()
}

pub(crate) fn packets_are_forwarded_between_boards_where_that_is_asked_for() {
    let keys = |machine: &str, slot: u8| match machine {
        "master" => "forward = true".to_owned(),
        _ => format!(
            "route = [{{ to = \"10.77.0.0/16\", via = \"10.77.{slot}.1\" }}, \
             {{ to = \"fd77::/48\", via = \"fd77:0:0:{slot}::1\" }}]"
        ),
    };
    let world = World::new(2, keys);
    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let set = format!("echo 0 >/proc/sys/net/{family}");
        world.run_well("master", &["sh", "-c", &set]);
    }
    let mut world = world;
    for daemon in ["backplane", "master", "board0", "board1"] {
        world.start(daemon);
    }
    (0..2).for_each(|slot| world.wait_up(slot));
    world.wait_ping("the other board", "board0", "10.77.1.2");
    let by_netdev =
        world.run("master", &["test", "-e", "/proc/sys/net/ipv6/conf/bl0/force_forwarding"]);
    if by_netdev.status.success() {
        world.wait_ping("the other board by IPv6", "board0", "fd77:0:0:1::2");
        world.run_well(
            "master",
            &["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/bl0/force_forwarding"],
        );
        world.wait_ping("the other board by IPv6 again", "board0", "fd77:0:0:1::2");
    } else {
        let link = world.link_status("master", "bl0").unwrap();
        assert!(link.reason.unwrap().contains("net.ipv6.conf.all.forwarding=1"));
    }
    assert_eq!(sysctl(&world, "master", "ipv6/conf/all/forwarding"), "0");
    world.run_well("master", &["sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/bl1/forwarding"]);
    world.wait_ping("the other board again", "board1", "10.77.0.2");
    let links = |keys: &str| [0_u8, 1].map(|i| world.link(&format!("bl{i}"), i, 1, keys)).concat();
    reload(&world, "master", &links(""));
    for name in ["bl0", "bl1"] {
        assert_eq!(sysctl(&world, "master", &format!("ipv4/conf/{name}/forwarding")), "0");
        if by_netdev.status.success() {
            let name = format!("ipv6/conf/{name}/force_forwarding");
            assert_eq!(sysctl(&world, "master", &name), "0");
        }
    }
    is_unreachable(&world, "board0", "10.77.1.2");
}

pub(crate) fn what_is_not_to_be_reconciled_is_reported() {
    let keys = |machine: &str, _: u8| match machine {
        "master" => "reconcile = false\nmtu = 1400".to_owned(),
        _ => String::new(),
    };
    let world = World::running(1, keys);
    world.wait_ping("what was set up", "master", "10.77.0.2");
    assert_eq!(world.netdev("master", "bl0").unwrap()["mtu"], 1400);
    world.ip("master", "addr del 10.77.0.1/30 dev bl0");
    let one = "differs: address 10.77.0.1/30 is missing";
    wait_reason(&world, "master", "bl0", Some(one));
    world.ip("master", "link set bl0 mtu 1300");
    let two = "differs: MTU is 1300, not 1400, address 10.77.0.1/30 is missing";
    wait_reason(&world, "master", "bl0", Some(two));
    world.ip("master", "addr add 192.0.2.1/24 dev bl0");
    thread::sleep(Duration::from_millis(500));
    wait_reason(&world, "master", "bl0", Some(two));
    let told = world.log("master").matches(one).count();
    assert_eq!(told, 1, "once for a change of what differs: {}", world.log("master"));
    // A reload sets it up.
    let links = world.link("bl0", 0, 1, "reconcile = false\nmtu = 1400");
    assert_eq!(reload(&world, "master", &links), "1 unchanged");
    wait_reason(&world, "master", "bl0", None);
    world.wait_ping("what a reload has set up", "master", "10.77.0.2");
    world.ip("master", "link set bl0 mtu 1300");
    wait_reason(&world, "master", "bl0", Some("differs: MTU is 1300, not 1400"));
    let links = world.link("bl0", 0, 1, "mtu = 1400");
    assert_eq!(reload(&world, "master", &links), "changed bl0; 0 unchanged");
    wait_reason(&world, "master", "bl0", None);
    world.ip("master", "addr del 10.77.0.1/30 dev bl0");
    world.wait_ping("what is healed from now on", "master", "10.77.0.2");
}
