//! What a netdev is to be: addresses with peer and scope, routes with all keys, VLANs, masters.

use super::refusals::assert_complaints;
use super::*;
use crate::plan::{Master, MasterKind};

/// Every key of a netdev that is no bridge's port.
const ROUTED: &str = r#"
address = [
    "10.77.0.1/30",
    { address = "10.78.0.1", peer = "10.78.0.2/32", scope = "link" },
    { address = "fd77::1/128", peer = "fd77::2" },
    { address = "10.79.0.1/24", scope = 100 },
]
route = [
    { to = "10.80.0.0/24", via = "10.77.0.2", table = 100, source = "10.78.0.1", metric = 5 },
    { to = "10.81.0.0/24", via = "fe80::2", dev = "bl0" },
    { to = "fd80::/64", via = "fd99::1", onlink = true },
    { to = "10.82.0.0/24", via = "10.90.0.2", dev = "bl0.200" },
]
vlan = [100, { id = 200, address = ["10.90.0.1/30"], route = [{ to = "10.83.0.0/24", via = "10.90.0.2" }] }]
vrf = "blue"
forward = true
reconcile = false
"#;

fn link(lines: &str) -> LinkConfig {
    parse(&format!("{HEAD}{lines}")).unwrap().links.remove(0)
}

#[test]
fn a_netdev_is_what_its_keys_say() {
    let link = link(ROUTED);
    let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        [
            "10.77.0.1/30",
            "10.78.0.1/32 peer 10.78.0.2 scope link",
            "fd77::1/128 peer fd77::2",
            "10.79.0.1/24 scope 100",
        ]
    );
    let routes = |routes: &[Route]| routes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        routes(&link.routes),
        [
            "10.80.0.0/24 via 10.77.0.2 metric 5 table 100 src 10.78.0.1",
            "10.81.0.0/24 via fe80::2",
            "fd80::/64 via fd99::1 onlink",
        ]
    );
    let NetdevKeys { master, isolated, forward, reconcile, vlans } = link.netdev;
    assert_eq!(master, Some(Master { name: "blue".into(), kind: MasterKind::Vrf }));
    assert_eq!((isolated, forward, reconcile), (None, Some(true), false));
    assert_eq!(vlans.iter().map(|vlan| vlan.id).collect::<Vec<_>>(), [100, 200]);
    assert_eq!(vlans[1].addresses[0].to_string(), "10.90.0.1/30");
    let by_200 = ["10.82.0.0/24 via 10.90.0.2", "10.83.0.0/24 via 10.90.0.2"];
    assert_eq!(routes(&vlans[1].routes), by_200);
}

#[test]
fn a_port_has_a_bridge_and_vlans_have_addresses_beside_it() {
    let lines = "bridge = \"br0\"\nisolated = false\naddress = []\nforward = false\n\
                 vlan = [{ id = 4094, address = [\"10.90.0.1/30\"] }]\n\
                 route = [{ to = \"10.80.0.0/24\", via = \"10.90.0.2\", dev = \"bl0.4094\" }]";
    let keys = link(lines).netdev;
    assert_eq!(keys.master, Some(Master { name: "br0".into(), kind: MasterKind::Bridge }));
    assert_eq!((keys.isolated, keys.vlans[0].routes.len()), (Some(false), 1));
}

#[test]
fn what_expand_writes_of_a_netdev_reads_back() {
    for lines in [ROUTED, "bridge = \"br0\"\nisolated = true", "forward = false"] {
        let config = parse(&format!("{HEAD}{lines}")).unwrap();
        let expanded = config.expand(&[]);
        assert_eq!(parse(&expanded).expect(&expanded), config);
    }
}

#[test]
fn one_address_may_have_many_peers_and_stand_in_each_vrf() {
    let two = |one: &str, other: &str| {
        let head = HEAD.replace("bl0", "bl1").replace("/a", "/b");
        parse(&format!("{HEAD}{one}\n{head}{other}"))
    };
    let peer = |peer| format!("address = [{{ address = \"10.0.0.1/32\", peer = \"{peer}\" }}]");
    assert!(two(&peer("10.0.0.2"), &peer("10.0.0.3")).is_ok());
    assert!(two(&peer("10.0.0.2"), &peer("10.0.0.2")).is_err());
    let lines = "address = [\"10.0.0.1/30\"]\nroute = [{ to = \"10.80.0.0/24\", via = \"10.0.0.2\" }]\nvrf = ";
    let within = |vrf| format!("{lines}\"{vrf}\"");
    assert!(two(&within("red"), &within("blue")).is_ok());
    assert_eq!(two(&within("red"), &within("red")).unwrap_err().count(), 2);
}

#[test]
fn wrong_peers_and_scopes_are_refused_with_the_right_one() {
    let scopes = "write \"global\", \"site\", \"link\", \"host\", or 0 to 254";
    let rows = [
        ("peer = \"10.77.0.2\"", "12: this entry has no address", "add address = \"10.77.0.1/30\""),
        (
            "address = \"10.77.0.1/32\", peer = \"fd77::2\"",
            "47: the peer of an IPv4 address is not of IPv4",
            "write an IPv4 address",
        ),
        (
            "address = \"10.77.0.1/32\", peer = \"10.77.0.1\"",
            "47: 10.77.0.1 is this end's own address",
            "write the other end's",
        ),
        (
            "address = \"10.77.0.1/24\", peer = \"10.77.1.2/30\"",
            "47: 10.77.0.1/24 and 10.77.1.2/30 have different lengths, and the peer's counts",
            "write 10.77.0.1/32 for this end",
        ),
        (
            "address = \"10.77.0.1/32\", peer = \"224.0.0.1\"",
            "47: 224.0.0.1 is a multicast address",
            "write a host's, as \"10.77.0.1/30\" or \"fd77::1/64\"",
        ),
        ("address = \"10.77.0.1/32\", scope = \"nowhere\"", "48: \"nowhere\" is no scope", scopes),
        ("address = \"10.77.0.1/32\", scope = 255", "48: \"255\" is no scope", scopes),
        ("address = \"10.77.0.1/32\", scope = -1", "48: \"-1\" is no scope", scopes),
        (
            "address = \"10.77.0.1/32\", scope = true",
            "48: scope is true or false",
            "write it as scope = \"link\"",
        ),
        (
            "address = \"fd77::1/64\", scope = \"link\"",
            "46: the kernel derives an IPv6 address's scope: fd77::1 is global",
            "take scope out",
        ),
        (
            "address = \"10.77.0.1/32\", pear = \"10.77.0.2\"",
            "40: unknown key \"pear\"",
            "did you mean peer?",
        ),
    ];
    for (keys, what, remedy) in rows {
        let line = format!("address = [{{ {keys} }}]");
        assert_complaints(&[(&line, &format!("4:{what}"), remedy)]);
    }
}

#[test]
fn wrong_tables_devices_and_sources_are_refused_with_the_right_one() {
    let rows = [
        ("table = 0", "5:41: table 0 is out of range", "write 1 to 4294967295"),
        ("table = 4294967296", "5:41: table 4294967296 is out of range", "write 1 to 4294967295"),
        (
            "table = 255",
            "5:41: table 255 is the kernel's, for this machine's own addresses",
            "write another number; 254 is the main table",
        ),
        (
            "dev = \"bl1\"",
            "5:39: \"bl1\" is no netdev of this link",
            "write \"bl0\" or \"bl0.100\", or take dev out",
        ),
        ("dev = 100", "5:39: dev is a whole number", "write it as dev = \"bl0.100\""),
        ("source = \"10.77.0.9\"", "5:42: 10.77.0.9 is no address of this link", "write 10.77.0.1"),
        (
            "source = \"fd77::1\"",
            "5:42: the source of an IPv4 route is not of IPv4",
            "write an IPv4 address",
        ),
        (
            "source = \"10.77.0.1/30\"",
            "5:42: \"10.77.0.1/30\" is not an IP address",
            "write one of this link's, without a length",
        ),
        ("onlink = true", "5:10: onlink speaks of a next hop, and there is none", "add via"),
    ];
    for (keys, what, remedy) in rows {
        let route = format!("route = [{{ to = \"10.80.0.0/24\", {keys} }}]");
        let lines = format!("address = [\"10.77.0.1/30\"]\n{route}\nvlan = [100]");
        assert_complaints(&[(&lines, what, remedy)]);
    }
    assert_complaints(&[(
        "route = [{ to = \"fd80::/64\", via = \"fd77::2\", source = \"fd77::1\", onlink = true }]",
        "4:56: fd77::1 is no address of this link",
        "give the link fd77::1 as an address, or take source out",
    )]);
}

#[test]
fn wrong_masters_and_vlans_are_refused_with_the_right_one() {
    let bridge = "write the name of one, of at most 15 bytes";
    assert_complaints(&[
        (
            "isolated = true",
            "4:12: isolated speaks of a bridge's port, and this link is none",
            "add bridge = \"br0\", or take this line out",
        ),
        ("bridge = \"\"", "4:10: \"\" can be no bridge's name", bridge),
        ("bridge = \"a/b\"", "4:10: \"a/b\" can be no bridge's name", bridge),
        ("vrf = \"bl0\"", "4:7: \"bl0\" can be no vrf's name", bridge),
        (
            "vrf = \"a-name-that-is-too-long\"",
            "4:7: \"a-name-that-is-too-long\" can be no vrf's name",
            bridge,
        ),
        ("bridge = 5", "4:10: bridge is a whole number", "write it as bridge = \"br0\""),
        (
            "bridge = \"br0\"\nvrf = \"blue\"",
            "5:7: a netdev is a port of a bridge, or in a VRF, not both",
            "take one out, and put the bridge itself into the VRF",
        ),
        (
            "bridge = \"br0\"\naddress = [\"10.77.0.1/30\"]",
            "5:11: a port of br0 takes no packets itself, so it has no address",
            "give it to the bridge: ip address add ADDRESS dev br0",
        ),
        (
            "bridge = \"br0\"\nforward = true",
            "5:11: a port of br0 takes no packets itself, so it has no forward",
            "set it for the bridge: net.ipv4.conf.br0.forwarding",
        ),
        (
            "bridge = \"br0\"\nroute = [{ to = \"10.80.0.0/24\" }]",
            "5:10: a bridge's port takes no packets itself, so no route leads by it",
            "set the route for the bridge, or for a VLAN of the link",
        ),
        ("vlan = [0]", "4:9: vlan 0 is out of range", "write 1 to 4094"),
        ("vlan = [{ id = 4095 }]", "4:16: id 4095 is out of range", "write 1 to 4094"),
        ("vlan = [{ address = [] }]", "4:9: this VLAN has no id", "add id = 100"),
        (
            "vlan = [5, { id = 5 }]",
            "4:12: name \"bl0.5\" stands on line 4 already",
            "give each VLAN its own id",
        ),
        (
            "vlan = [{ id = 5, address = [\"fd77::1/64\"] }]\nmtu = 1279",
            "5:7: mtu 1279 is too small for IPv6, which fd77::1/64 needs",
            "write 1280 or more, or take out what is of IPv6",
        ),
        (
            "address = [\"10.77.0.1/30\"]\nvlan = [{ id = 5, address = [\"10.77.0.1/24\"] }]",
            "5:30: address \"10.77.0.1\" stands on line 4 already",
            "give each link its own address",
        ),
        ("forward = 1", "4:11: forward is a whole number", "write it as forward = true"),
        ("reconcile = \"no\"", "4:13: reconcile is a string", "write it as reconcile = false"),
    ]);
    let name = HEAD.replace("bl0", "fourteen-bytes");
    let said = complaint(&format!("{name}vlan = [10]"));
    assert!(said.contains("the VLAN's netdev fourteen-bytes.10 has 17 bytes"), "{said}");
}
