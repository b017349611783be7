//! Tables of what is refused: the line, what is said about it, and the remedy.

use super::{HEAD, complaint};

/// Each row: lines of a link from line 4 on; the place and what is wrong; the remedy.
pub(super) fn assert_complaints(rows: &[(&str, &str, &str)]) {
    for (lines, what, remedy) in rows {
        let text = format!("{HEAD}{lines}\n");
        let said = complaint(&text);
        let said: Vec<&str> = said.lines().collect();
        assert_eq!(said.len(), 3, "one problem only: {said:#?}");
        assert_eq!(said[0], format!("f.toml:{what}"), "{lines}");
        let (_, after_caret) = said[2].rsplit_once("^ ").expect(said[2]);
        assert_eq!(after_caret, *remedy, "{lines}");
        let number: usize = what.split(':').next().unwrap().parse().unwrap();
        assert_eq!(said[1], format!("  {number} | {}", text.lines().nth(number - 1).unwrap()));
    }
}

#[test]
fn wrong_values_are_refused_with_the_right_one() {
    assert_complaints(&[
        ("mtu = 67", "4:7: mtu 67 is out of range", "write 68 to 65521"),
        ("mtu = 65522", "4:7: mtu 65522 is out of range", "write 68 to 65521"),
        ("mtu = -1", "4:7: mtu -1 is out of range", "write 68 to 65521"),
        ("mtu = \"big\"", "4:7: mtu is a string", "write it as mtu = 1500"),
        ("mtu = 1500.5", "4:7: mtu is a number with a fraction", "write it as mtu = 1500"),
        (
            "mtu = 1279\naddress = [\"fd77::1/64\"]",
            "4:7: mtu 1279 is too small for IPv6, which fd77::1/64 needs",
            "write 1280 or more, or take out what is of IPv6",
        ),
        (
            "route = [{ to = \"fd80::/64\" }]\nmtu = 1000",
            "5:7: mtu 1000 is too small for IPv6, which fd80::/64 needs",
            "write 1280 or more, or take out what is of IPv6",
        ),
        ("slot = 2147483648", "4:8: slot 2147483648 is out of range", "write 0 to 2147483647"),
        ("keep = \"yes\"", "4:8: keep is a string", "write it as keep = true"),
        ("heartbeat_ms = 0", "4:16: heartbeat_ms 0 is out of range", "write 10 to 10000"),
        ("busy_poll_us = 1001", "4:16: busy_poll_us 1001 is out of range", "write 0 to 1000"),
        ("netns = \"a/b\"", "4:9: this names no network namespace", NETNS),
        ("netns = \"\"", "4:9: this names no network namespace", NETNS),
        ("netns = 0", "4:9: netns 0 is out of range", "write 1 to 2147483647"),
        (
            "mac = \"02:00:00:00:00\"",
            "4:7: \"02:00:00:00:00\" is not a MAC address",
            "write it as \"02:00:00:00:00:01\"",
        ),
        (
            "mac = \"33:00:00:00:00:01\"",
            "4:7: 33:00:00:00:00:01 is a group address, not a netdev's",
            "write an even first octet, as 32",
        ),
        (
            "mac = \"00:00:00:00:00:00\"",
            "4:7: a MAC address is not zero",
            "write it as \"02:00:00:00:00:01\"",
        ),
        (
            "features_off = [\"VERSION_1\"]",
            "4:17: VERSION_1 is required",
            "take it out of the list",
        ),
        (
            "features_off = [\"CSUM\", \"mrg_rxbuf\"]",
            "4:25: there is no feature \"mrg_rxbuf\"",
            "did you mean \"MRG_RXBUF\"?",
        ),
        (
            "features_off = [5]",
            "4:17: an entry of features_off is a whole number",
            "write it as features_off = [\"MRG_RXBUF\"]",
        ),
    ]);
}

const NETNS: &str = "write a name as \"board0\", a full path, or a process id";
const ADDRESS: &str = "write it as \"10.77.0.1/30\" or \"fd77::1/64\"";
const HOST: &str = "write a host's, as \"10.77.0.1/30\" or \"fd77::1/64\"";
const WITHIN: &str = "write a host's address within it";

#[test]
fn wrong_addresses_are_refused_with_the_right_one() {
    let rows = [
        ("10.77.0.1", "10.77.0.1 has no prefix length", "write, for example, \"10.77.0.1/30\""),
        ("fd77::1", "fd77::1 has no prefix length", "write, for example, \"fd77::1/64\""),
        ("10.77.0.1/33", "\"33\" is not a prefix length", "write 0 to 32"),
        ("10.77.0.1/+3", "\"+3\" is not a prefix length", "write 0 to 32"),
        ("fd77::1/129", "\"129\" is not a prefix length", "write 0 to 128"),
        ("10.77.0/30", "\"10.77.0/30\" is not an address with a prefix length", ADDRESS),
        ("010.77.0.1/30", "\"010.77.0.1/30\" is not an address with a prefix length", ADDRESS),
        (
            "10.77.0.1/0",
            "a prefix length of 0 takes in every address",
            "write, for example, \"10.77.0.1/30\"",
        ),
        ("10.77.0.0/30", "10.77.0.0 is the network's own address in 10.77.0.0/30", WITHIN),
        ("10.77.0.3/30", "10.77.0.3 is the broadcast address in 10.77.0.0/30", WITHIN),
        ("fd77::/64", "fd77:: is the network's own address in fd77::/64", WITHIN),
        ("0.0.0.0/8", "0.0.0.0 is not a host's address", HOST),
        ("255.255.255.255/32", "255.255.255.255 is not a host's address", HOST),
        ("224.0.0.1/24", "224.0.0.1 is a multicast address", HOST),
        ("ff02::1/64", "ff02::1 is a multicast address", HOST),
        ("127.0.0.2/8", "127.0.0.2 is a loopback address", HOST),
        ("::1/128", "::1 is a loopback address", HOST),
        ("::ffff:10.0.0.1/128", "::ffff:10.0.0.1 is an IPv4 address in IPv6's form", HOST),
    ];
    for (address, what, remedy) in rows {
        let line = format!("address = [\"{address}\"]");
        assert_complaints(&[(&line, &format!("4:12: {what}"), remedy)]);
    }
    let list = "write it as address = [\"10.77.0.1/30\", \"fd77::1/64\"]";
    assert_complaints(&[
        ("address = \"10.77.0.1/30\"", "4:11: address is a string", list),
        ("address = [true]", "4:12: an entry of address is true or false", list),
        (
            "address = [\"10.77.0.1/30\", \"10.77.0.1/24\"]",
            "4:28: address \"10.77.0.1\" stands on line 4 already",
            "give each link its own address",
        ),
    ]);
}

#[test]
fn wrong_routes_are_refused_with_the_right_one() {
    let near = "write an address within 10.77.0.0/30";
    let rows = [
        (
            "to = \"10.80.0.1/24\"",
            "18: 10.80.0.1/24 has bits behind its prefix",
            "write \"10.80.0.0/24\"",
        ),
        (
            "to = \"10.80.0.0\"",
            "18: 10.80.0.0 has no prefix length",
            "write, for example, \"10.80.0.0/30\"",
        ),
        ("to = \"ff00::/8\"", "18: no route leads to ff00::/8", "write a network of hosts"),
        (
            "to = \"default\"",
            "18: \"default\" without a next hop does not say of which family",
            "add via, or write \"0.0.0.0/0\" or \"::/0\"",
        ),
        ("via = \"10.77.0.2\"", "11: this route has no destination", "add to = \"10.80.0.0/24\""),
        ("to = 5", "18: to is a whole number", "write it as to = \"10.80.0.0/24\""),
        (
            "to = \"10.80.0.0/24\", via = \"x\"",
            "40: \"x\" is not an IP address",
            "write the next hop's, as \"10.77.0.2\"",
        ),
        ("to = \"10.80.0.0/24\", via = \"10.77.0.5\"", "40: 10.77.0.5 is not on this link", near),
        (
            "to = \"10.80.0.0/24\", via = \"10.77.0.1\"",
            "40: 10.77.0.1 is this end's own address",
            "write the other end's",
        ),
        (
            "to = \"10.80.0.0/24\", via = \"10.77.0.3\"",
            "40: 10.77.0.3 is the broadcast address in 10.77.0.0/30",
            WITHIN,
        ),
        (
            "to = \"fd80::/64\", via = \"10.77.0.2\"",
            "37: the next hop of an IPv6 route is not of IPv6",
            "write an IPv6 address",
        ),
        (
            "to = \"fd80::/64\", via = \"fd77::2\"",
            "37: fd77::2 is not on this link",
            "give the link an address in the network of fd77::2",
        ),
        ("to = \"10.80.0.0/24\", metrc = 5", "34: unknown key \"metrc\"", "did you mean metric?"),
        (
            "to = \"10.80.0.0/24\", metric = -5",
            "43: metric -5 is out of range",
            "write 0 to 4294967295",
        ),
    ];
    for (route, what, remedy) in rows {
        let lines = format!("address = [\"10.77.0.1/30\"]\nroute = [ {{ {route} }}]");
        assert_complaints(&[(&lines, &format!("5:{what}"), remedy)]);
    }
    assert_complaints(&[(
        "route = [{ to = \"fd80::/64\" }, { to = \"fd80::/64\", metric = 1024 }]",
        "4:39: route to \"fd80::/64\" stands on line 4 already",
        "take one out, or give them different metrics",
    )]);
}

#[test]
fn what_no_version_does_is_refused_with_what_one_does() {
    assert_complaints(&[
        ("queues = 17", "4:10: queues 17 is out of range", "write 1 to 16"),
        ("queues = 0", "4:10: queues 0 is out of range", "write 1 to 16"),
        ("cpu = -1", "4:7: cpu -1 is out of range", "write 0 to 1023"),
        ("cpu = [0, 1024]", "4:11: cpu 1024 is out of range", "write 0 to 1023"),
        ("cpu = []", "4:7: cpu has 0 entries", "write 1 to 16, one for a queue pair"),
        ("cpu = \"0-3\"", "4:7: cpu is a string", "write it as cpu = [2, 3]"),
        ("cpu = [0, \"1\"]", "4:11: an entry of cpu is a string", "write it as cpu = [2, 3]"),
        (
            "dma = \"drect\"",
            "4:7: dma has no \"drect\"",
            "write \"auto\" or \"direct\" or \"engine\"",
        ),
        ("port = \"tun\"", "4:8: port has no \"tun\"", "write \"tap\" or \"discard\" or \"echo\""),
        ("dialect = \"v3\"", "4:11: dialect has no \"v3\"", "write \"v2\" or \"v1\""),
        ("layout = \"amp\"", "4:10: layout has no \"amp\"", "write \"boardlane\" or \"amp-pci\""),
    ]);
}

#[test]
fn a_key_of_a_netdev_is_refused_beside_a_port_that_makes_none() {
    let remedy = "take this line out, or write port = \"tap\"";
    for (key, value) in [
        ("address", "[\"10.77.0.1/30\"]"),
        ("address", "[]"),
        ("route", "[{ to = \"10.80.0.0/24\" }]"),
        ("mac", "\"02:00:00:00:00:01\""),
        ("mtu", "1500"),
        ("netns", "\"board0\""),
        ("bridge", "\"br0\""),
        ("vrf", "\"blue\""),
        ("vlan", "[100]"),
        ("forward", "true"),
        ("reconcile", "false"),
        ("keep", "false"),
    ] {
        for port in ["discard", "echo"] {
            let what = format!("{key} speaks of a netdev, and port \"{port}\" makes none");
            let first = format!("{key} = {value}\nport = \"{port}\"");
            let last = format!("port = \"{port}\"\n{key} = {value}");
            assert_complaints(&[
                (&first, &format!("4:1: {what}"), remedy),
                (&last, &format!("5:1: {what}"), remedy),
            ]);
        }
    }
}

#[test]
fn an_engine_out_of_its_range_or_without_its_mode_is_refused() {
    let needs = "write dma = \"engine\", or take this line out";
    let what = "4:10: engine speaks of an engine that this link does not use";
    assert_complaints(&[
        ("engine = { depth = 8 }", what, needs),
        ("engine = {}\ndma = \"direct\"", what, needs),
    ]);
    for (keys, what, remedy) in [
        (
            "= 5",
            "5:10: engine is a whole number",
            "write it as engine = { depth = 32, latency_us = 0 }",
        ),
        ("= { depth = 0 }", "5:20: depth 0 is out of range", "write 1 to 1024"),
        ("= { depth = 1025 }", "5:20: depth 1025 is out of range", "write 1 to 1024"),
        ("= { depth = true }", "5:20: depth is true or false", "write it as depth = 32"),
        (
            "= { latency_us = 1000001 }",
            "5:25: latency_us 1000001 is out of range",
            "write 0 to 1000000",
        ),
        ("= { error_ppm = -1 }", "5:24: error_ppm -1 is out of range", "write 0 to 1000000"),
        ("= { cpu_below = 65537 }", "5:24: cpu_below 65537 is out of range", "write 0 to 65536"),
        (
            "= { bandwidth_mb_s = 1000001 }",
            "5:29: bandwidth_mb_s 1000001 is out of range",
            "write 0 to 1000000",
        ),
        ("= { latency = 5 }", "5:12: unknown key \"latency\"", "did you mean latency_us?"),
        ("= { detph = 5 }", "5:12: unknown key \"detph\"", "did you mean depth?"),
    ] {
        assert_complaints(&[(&format!("dma = \"engine\"\nengine {keys}"), what, remedy)]);
    }
}

#[test]
fn an_unknown_key_brings_the_nearest_known_one_to_mind() {
    for (key, meant) in [
        ("addr", "address"),
        ("addresses", "address"),
        ("routes", "route"),
        ("MTU", "mtu"),
        ("feature_off", "features_off"),
        ("heartbeat", "heartbeat_ms"),
        ("nmae", "name"),
        ("queue", "queues"),
        ("netsn", "netns"),
    ] {
        let what = format!("4:1: unknown key \"{key}\"");
        assert_complaints(&[(&format!("{key} = 1"), &what, &format!("did you mean {meant}?"))]);
    }
    assert_complaints(&[
        (
            "control = \"/a\"",
            "4:1: unknown key \"control\"",
            "control belongs to the daemon: put it above the first [[link]]",
        ),
        ("[lnik]", "4:2: unknown key \"lnik\"", "did you mean link?"),
        (
            "control_mode = \"0660\"",
            "4:1: unknown key \"control_mode\"",
            "control_mode belongs to the daemon: put it above the first [[link]]",
        ),
        (
            "[zzz]",
            "4:2: unknown key \"zzz\"",
            "known here: control, control_mode, control_owner, metrics, pool, defaults, link",
        ),
    ]);
    let said = complaint(&format!("mtu = 1500\n{HEAD}"));
    assert!(said.starts_with("f.toml:1:1: unknown key \"mtu\"\n"), "{said}");
    assert!(said.ends_with("^ mtu belongs to a link: put it below a line [[link]]"), "{said}");
    // A key that is misspelt is not missing, too.
    let said = complaint(&HEAD.replace("transport", "transprt"));
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_control_socket_for_nobody_is_refused() {
    let digits = "write three octal digits, as \"0660\"";
    let owner = "write \"USER:GROUP\", \"USER\" or \":GROUP\", by name or number";
    for (line, what, remedy) in [
        ("control_mode = \"0680\"", "16: \"0680\" is not a socket's mode", digits),
        ("control_mode = \"rw-rw----\"", "16: \"rw-rw----\" is not a socket's mode", digits),
        ("control_mode = \"1777\"", "16: \"1777\" is not a socket's mode", digits),
        (
            "control_mode = 660",
            "16: control_mode is a whole number",
            "write it as control_mode = \"0660\"",
        ),
        ("control_owner = \"no-such\"", "17: there is no user \"no-such\" in /etc/passwd", owner),
        ("control_owner = \":no-such\"", "17: there is no group \"no-such\" in /etc/group", owner),
        ("control_owner = \"root:\"", "17: this names no owner", owner),
        (
            "control_owner = 0",
            "17: control_owner is a whole number",
            "write it as control_owner = \"root:netdev\"",
        ),
    ] {
        let said = complaint(&format!("{line}\n{HEAD}"));
        assert!(said.starts_with(&format!("f.toml:1:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
        assert_eq!(said.lines().count(), 3, "{said}");
    }
}

#[test]
fn a_name_that_no_netdev_can_have_is_refused() {
    let example = "write 1 to 15 bytes, as \"bl0\"";
    let other = "write another name, as \"bl0\"";
    let letters = "use letters, digits, - and _";
    for (name, what, remedy) in [
        ("", "the name is empty", example),
        (
            "sixteen-bytes-xx",
            "the name \"sixteen-bytes-xx\" has 16 bytes",
            "a netdev's name has at most 15",
        ),
        ("a/b", "'/' cannot stand in a netdev's name", letters),
        ("a b", "' ' cannot stand in a netdev's name", letters),
        ("bl%d", "'%' cannot stand in a netdev's name", letters),
        ("blé", "'é' cannot stand in a netdev's name", letters),
        (".", "no link can be named \".\"", other),
        ("all", "no link can be named \"all\"", other),
        ("lo", "no link can be named \"lo\"", other),
    ] {
        let said = complaint(&HEAD.replace("bl0", name));
        assert!(said.starts_with(&format!("f.toml:2:8: {what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
    }
}

#[test]
fn a_transport_that_leads_nowhere_is_refused() {
    let long = format!("shm:/{}", "a".repeat(107));
    for (transport, what, remedy) in [
        (
            "/run/slot0.sock",
            "there is no transport \"/run/slot0.sock\"",
            "write \"shm:/run/slot0.sock\"",
        ),
        ("shm:", "this is not the path of a socket", "write a file's path"),
        (&long, "this path has 108 bytes", "a socket's has at most 107"),
    ] {
        let said = complaint(&HEAD.replace("shm:/a", transport));
        assert!(said.starts_with(&format!("f.toml:3:13: {what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    for (lines, what, remedy) in [
        ("netns = b0", "4:9: string values must be quoted", "expected literal string"),
        ("address = [\"1\"", "4:15: unclosed array", "expected `]`"),
        ("name = \"b\"", "4:1: duplicate key", "take one out"),
    ] {
        assert_complaints(&[(lines, what, remedy)]);
    }
    // Each is told once, however deep.
    assert_eq!(complaint("a = [[[[").lines().count(), 3);
}

#[test]
fn wrong_limits_are_refused_with_the_right_ones() {
    let source = "write one as \"10.77.0.2\", \"10.80.0.0/24\" or \"fd77::2\"";
    let like = "write it as \"10.77.0.2\", \"10.80.0.0/24\" or \"fd77::2\"";
    for (entry, what, remedy) in [
        ("10.80.0.1/24", "10.80.0.1/24 has bits behind its prefix", "write \"10.80.0.0/24\""),
        ("224.0.0.1", "224.0.0.1 is no host's address", source),
        ("ff02::/16", "ff02::/16 is no host's address", source),
        ("127.0.0.1", "127.0.0.1 is no host's address", source),
        ("0.0.0.0", "0.0.0.0 is no host's address", source),
        ("::", ":: is no host's address", source),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1 is no host's address", source),
        ("10.77.0.2/33", "\"33\" is not a prefix length", "write 0 to 32"),
        ("board0", "\"board0\" is not an address with a prefix length", like),
    ] {
        let line = format!("allow_ip = [\"{entry}\"]");
        assert_complaints(&[(&line, &format!("4:13: {what}"), remedy)]);
    }
    let bits = "write bits per second with K, M or G behind them, as \"200M\"";
    let range = "write \"1M\" to \"1000G\"";
    let nothing = "list what is allowed, or take this line out";
    assert_complaints(&[
        ("allow_ip = []", "4:12: allow_ip allows nothing", nothing),
        ("allow_mac = []", "4:13: allow_mac allows nothing", nothing),
        (
            "allow_mac = \"02:00:00:00:00:01\"",
            "4:13: allow_mac is a string",
            "write it as allow_mac = [\"02:00:00:00:00:01\"]",
        ),
        (
            "allow_ip = [\"10.77.0.2\", 7]",
            "4:26: an entry of allow_ip is a whole number",
            "write it as allow_ip = [\"10.77.0.2\", \"10.80.0.0/24\"]",
        ),
        (
            "allow_mac = [\"ff:ff:ff:ff:ff:ff\"]",
            "4:14: ff:ff:ff:ff:ff:ff is a group address, not a netdev's",
            "write an even first octet, as fe",
        ),
        ("rate = 200", "4:8: rate is a whole number", "write it as rate = \"200M\""),
        ("rate = \"fast\"", "4:8: \"fast\" is not a rate", bits),
        ("rate = \"200m\"", "4:8: \"200m\" is not a rate", bits),
        ("rate = \"+2M\"", "4:8: \"+2M\" is not a rate", bits),
        ("rate = \"M\"", "4:8: \"M\" is not a rate", bits),
        ("rate = \"\"", "4:8: \"\" is not a rate", bits),
        ("rate = \"999K\"", "4:8: rate 999K is out of range", range),
        ("rate = \"1001G\"", "4:8: rate 1001G is out of range", range),
        (
            "rate = \"18446744073709551615G\"",
            "4:8: rate 18446744073709551615G is out of range",
            range,
        ),
        (
            "rate = {}",
            "4:8: rate sets no limit",
            "write bits, frames or both, or take this line out",
        ),
        ("rate = { frames = 99 }", "4:19: frames 99 is out of range", "write 100 to 1000000000"),
        ("rate = { bit = \"1G\" }", "4:10: unknown key \"bit\"", "did you mean bits?"),
    ]);
    let many = format!("allow_ip = [{}]", "\"10.77.0.2\", ".repeat(1025));
    let said = complaint(&format!("{HEAD}{many}\n"));
    assert!(said.starts_with("f.toml:4:12: allow_ip has 1025 entries"), "{said}");
    assert!(said.ends_with("write 1024 at most"), "{said}");
}
