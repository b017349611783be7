//! Bridges, VRFs, peers, tables and forwarding.

use std::process::Command;

use boardlane::os::netlink::Netlink;
use boardlane::plan::{Action, Desired, Master, MasterKind, Observed, Route, leftovers, plan};

use super::{
    address, enter_fresh_namespace, ip, ip_addresses, ip_json, make, observe, observe_for,
    take_back, tap, without_kernels_own,
};

fn master(name: &str, kind: MasterKind) -> Option<Master> {
    Some(Master { name: name.to_owned(), kind })
}

fn port() -> Desired {
    Desired {
        master: master("br0", MasterKind::Bridge),
        isolated: Some(true),
        up: Some(true),
        ..Desired::default()
    }
}

fn routes(texts: &[&str]) -> Vec<Route> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What `ip` says the port is.
fn is_port_of(bridge: &str) -> (bool, bool) {
    let link = &ip_json("-d link show dev bl0")[0];
    let isolated = &link["linkinfo"]["info_slave_data"]["isolated"];
    (link["master"] == bridge, isolated == true)
}

async fn nothing_is_left(netlink: &Netlink, desired: &Desired) {
    assert_eq!(plan(desired, &observe_for(netlink, desired).await), []);
}

pub(super) async fn bridges() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    for bridge in ["br0", "br1"] {
        ip(&format!("link add {bridge} type bridge"));
    }
    let done = make(&netlink, &port()).await;
    assert_eq!(done.len(), 3, "{done:?}");
    nothing_is_left(&netlink, &port()).await;
    assert_eq!(is_port_of("br0"), (true, true));
    for breakage in ["nomaster", "master br1", "type bridge_slave isolated off"] {
        ip(&format!("link set bl0 {breakage}"));
        make(&netlink, &port()).await;
        assert_eq!(is_port_of("br0"), (true, true), "{breakage}");
    }
    let free = Desired { isolated: None, ..port() };
    let left = leftovers(&done, &free, &observe_for(&netlink, &free).await);
    assert!(netlink.apply("bl0", &left).await.failed.is_empty());
    assert_eq!(is_port_of("br0"), (true, false));
    nothing_is_left(&netlink, &free).await;
    take_back(&netlink, &done).await;
    assert_eq!(ip_json("link show dev bl0")[0].get("master"), None);
    // Another's is left alone.
    ip("link set bl0 master br1");
    take_back(&netlink, &done).await;
    assert_eq!(is_port_of("br1"), (true, false));
    nothing_is_left(&netlink, &Desired::default()).await;
}

pub(super) async fn late_bridge() {
    let _taps = [tap("bl0"), tap("br0")];
    let netlink = Netlink::new().unwrap();
    make(&netlink, &port()).await;
    let waits = |observed: Observed| boardlane::plan::waits_for(&port(), &observed).unwrap();
    assert_eq!(waits(observe_for(&netlink, &port()).await), "br0 is no bridge");
    ip("link del br0");
    assert_eq!(waits(observe_for(&netlink, &port()).await), "bridge br0 does not exist yet");
    nothing_is_left(&netlink, &port()).await;
    for _ in 0..2 {
        ip("link add br0 type bridge");
        make(&netlink, &port()).await;
        assert_eq!(is_port_of("br0"), (true, true));
        ip("link del br0");
        nothing_is_left(&netlink, &port()).await;
    }
    // It goes between the look and the deed.
    ip("link add br0 type bridge");
    let actions = plan(&port(), &observe_for(&netlink, &port()).await);
    ip("link del br0");
    let applied = netlink.apply("bl0", &actions).await;
    assert_eq!(applied.failed[0].to_string(), "there is no link br0");
    assert_eq!(applied.done, []);
}

pub(super) async fn peers() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    ip("addr add 10.77.0.1 peer 10.77.0.9/32 dev bl0");
    let before = observe(&netlink).await;
    let desired = Desired {
        up: Some(true),
        addresses: [
            "10.77.0.1/32 peer 10.77.0.2",
            "10.77.1.1/24 peer 10.77.2.0 scope link",
            "10.77.3.1/24 scope 100",
            "10.77.4.1/32 scope host",
            "fd77::1/128 peer fd77::2",
            "fd77:1::1/64",
        ]
        .map(address)
        .into(),
        ..Desired::default()
    };
    let done = make(&netlink, &desired).await;
    nothing_is_left(&netlink, &desired).await;
    let shown = ip_json("addr show dev bl0");
    let shown = shown[0]["addr_info"].as_array().unwrap();
    let of = |local: &str, len: u8| {
        let mut found = shown.iter().filter(|a| a["local"] == local && a["prefixlen"] == len);
        found.next_back().unwrap().clone()
    };
    assert_eq!(
        (&of("10.77.0.1", 32)["address"], &of("10.77.0.1", 32)["scope"]),
        (&"10.77.0.2".into(), &"global".into())
    );
    assert_eq!(
        (&of("10.77.1.1", 24)["address"], &of("10.77.1.1", 24)["scope"]),
        (&"10.77.2.0".into(), &"link".into())
    );
    assert_eq!(of("10.77.3.1", 24)["scope"], "100");
    assert_eq!(of("10.77.4.1", 32)["scope"], "host");
    assert_eq!(of("fd77::1", 128)["address"], "fd77::2");
    for breakage in [
        "addr del 10.77.0.1 peer 10.77.0.2/32 dev bl0",
        "addr del 10.77.1.1 peer 10.77.2.0/24 dev bl0",
        "addr del 10.77.3.1/24 dev bl0",
        "addr del fd77::1 peer fd77::2/128 dev bl0",
    ] {
        ip(breakage);
        assert_eq!(make(&netlink, &desired).await.len(), 1, "{breakage}");
    }
    // One in another's place stays there.
    ip("addr del 10.77.3.1/24 dev bl0");
    ip("addr add 10.77.3.1/24 dev bl0");
    let actions = plan(&desired, &observe(&netlink).await);
    let applied = netlink.apply("bl0", &actions).await;
    let failed = applied.failed[0].to_string();
    assert!(failed.contains("10.77.3.1/24 scope 100"), "{failed}");
    assert!(failed.contains("address 10.77.3.1/24 is there already"), "{failed}");
    take_back(&netlink, &done).await;
    assert_eq!(ip_addresses("bl0"), ["10.77.0.1/32", "10.77.3.1/24"]);
    ip("addr del 10.77.3.1/24 dev bl0");
    assert_eq!(without_kernels_own(observe(&netlink).await), without_kernels_own(before));
}

pub(super) async fn tables() {
    let _taps = [tap("bl0"), tap("lan0")];
    let netlink = Netlink::new().unwrap();
    let desired = Desired {
        up: Some(true),
        addresses: ["10.77.0.1/24", "10.77.0.3/24", "fd77::1/64"].map(address).into(),
        routes: routes(&[
            "10.80.0.0/24 via 10.77.0.2 table 100",
            "10.80.0.0/24 via 10.77.0.2 table 70000",
            "10.80.0.0/24 via 10.77.0.4",
            "10.81.0.0/24 via 10.77.0.2 src 10.77.0.3",
            "fd80::/64 via fd77::2 metric 5 table 100 src fd77::1",
            "fd81::/64 table 4294967295",
        ]),
        ..Desired::default()
    };
    // Others' routes, in our tables and in their own.
    ip("link set lan0 up");
    ip("addr add 192.168.1.1/24 dev lan0");
    ip("route add 10.82.0.0/24 dev lan0 table 100");
    ip("link set bl0 up");
    // With its last IPv4 address a netdev loses all routes.
    ip("addr add 192.168.2.1/24 dev bl0");
    ip("route add 10.83.0.0/24 dev bl0 table 100");
    ip("route add 10.83.0.0/24 dev bl0 table 101");
    let before = observe(&netlink).await;
    let done = make(&netlink, &desired).await;
    nothing_is_left(&netlink, &desired).await;
    let shown = |words: &str| {
        let routes = ip_json(&format!("{words} dev bl0"));
        routes.iter().map(|r| r["dst"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown("route show table 100"), ["10.80.0.0/24", "10.83.0.0/24"]);
    assert_eq!(shown("-6 route show table 100"), ["fd80::/64"]);
    assert_eq!(shown("route show table 70000"), ["10.80.0.0/24"]);
    assert_eq!(shown("-6 route show table 4294967295"), ["fd81::/64"]);
    let of_source = &ip_json("route show 10.81.0.0/24")[0];
    assert_eq!(of_source["prefsrc"], "10.77.0.3");
    for breakage in [
        "route del 10.80.0.0/24 table 100",
        "route flush table 70000",
        "-6 route del fd80::/64 table 100",
    ] {
        ip(breakage);
        assert_eq!(make(&netlink, &desired).await.len(), 1, "{breakage}");
    }
    // A source in another's place.
    ip("route replace 10.81.0.0/24 via 10.77.0.2 src 10.77.0.1");
    let applied = netlink.apply("bl0", &plan(&desired, &observe(&netlink).await)).await;
    let failed = applied.failed[0].to_string();
    assert!(failed.contains("route 10.81.0.0/24 via 10.77.0.2 src 10.77.0.1 dev bl0"), "{failed}");
    ip("route del 10.81.0.0/24");
    // Another's in the way, in that table only.
    ip("route del 10.80.0.0/24 table 100");
    ip("route add 10.80.0.0/24 dev lan0 table 100");
    let applied = netlink.apply("bl0", &plan(&desired, &observe(&netlink).await)).await;
    let failed = applied.failed[0].to_string();
    assert!(failed.contains("route 10.80.0.0/24 table 100 dev lan0 is there already"), "{failed}");
    take_back(&netlink, &done).await;
    let mut now = observe(&netlink).await;
    now.routes.retain(|r| r.to != "10.81.0.0/24".parse().unwrap());
    assert_eq!(without_kernels_own(now), without_kernels_own(before));
    assert_eq!(ip_json("route show table 100 dev lan0").len(), 2);
}

pub(super) async fn onlink() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let desired = Desired {
        up: Some(true),
        addresses: ["10.77.0.1/32", "fd77::1/128"].map(address).into(),
        routes: routes(&[
            "10.80.0.0/24 via 10.99.0.2 onlink",
            "10.81.0.0/24 via fe80::2",
            "10.82.0.0/24 via fd99::2 onlink",
            "fd80::/64 via fd99::2 onlink",
        ]),
        ..Desired::default()
    };
    let done = make(&netlink, &desired).await;
    nothing_is_left(&netlink, &desired).await;
    let shown = ip_json("route show dev bl0");
    let via = shown.iter().find(|r| r["dst"] == "10.81.0.0/24").unwrap();
    assert_eq!((&via["via"]["family"], &via["via"]["host"]), (&"inet6".into(), &"fe80::2".into()));
    take_back(&netlink, &done).await;
    assert_eq!(observe(&netlink).await.routes, []);
}

pub(super) async fn forwarding() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let desired = Desired { forward4: Some(true), ..Desired::default() };
    let sysctl = || {
        let file = "/proc/sys/net/ipv4/conf/bl0/forwarding";
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let before = sysctl();
    assert_eq!(before, "0", "a namespace of its own");
    let done = make(&netlink, &desired).await;
    assert_eq!(sysctl(), "1");
    nothing_is_left(&netlink, &desired).await;
    take_back(&netlink, &done).await;
    assert_eq!(sysctl(), "0");
    let applied = netlink
        .apply("bl0", &plan(&Desired { forward6: Some(true), ..desired }, &observe(&netlink).await))
        .await;
    assert_eq!(applied.failed.len(), 1, "a sysctl only");
    assert_eq!(applied.done, done);
}

/// Whether this kernel has VRFs.
pub(super) fn has_vrfs() -> bool {
    std::thread::spawn(|| {
        enter_fresh_namespace().is_ok()
            && Command::new("ip")
                .args(["link", "add", "blue", "type", "vrf", "table", "10"])
                .output()
                .is_ok_and(|output| output.status.success())
    })
    .join()
    .unwrap_or(false)
}

pub(super) async fn vrfs() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let desired = Desired { master: master("blue", MasterKind::Vrf), ..super::wanted() };
    let mut done = make(&netlink, &desired).await;
    ip("link add blue type vrf table 10");
    ip("link set blue up");
    for _ in 0..2 {
        done.extend(make(&netlink, &desired).await);
    }
    nothing_is_left(&netlink, &desired).await;
    let now = observe(&netlink).await;
    assert_eq!(now.table, 10);
    assert!(now.routes.iter().all(|r| r.table == Some(10)), "{:?}", now.routes);
    assert!(ip_json("route show dev bl0").is_empty());
    ip("link set bl0 nomaster");
    for _ in 0..2 {
        make(&netlink, &desired).await;
    }
    nothing_is_left(&netlink, &desired).await;
    let adds = |a: &&Action| matches!(a, Action::AddRoute(_));
    assert!(done.iter().filter(adds).count() > desired.routes.len());
    take_back(&netlink, &done).await;
    assert_eq!(ip_json("link show dev bl0")[0].get("master"), None);
}
