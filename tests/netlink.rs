//! Plans applied to real netdevs. Each case runs on a thread of its own in a fresh network
//! namespace, which ends with it; `ip` plays the operator and is the independent witness.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "netlink/keys.rs"]
mod keys;

use std::fs::File;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use boardlane::os::netlink::{Netlink, Watch, watch_socket};
use boardlane::plan::{Action, Address, Change, Desired, MAIN_TABLE, Observed, Route, plan, undo};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;
use tun_tap::{Iface, Mode};

/// The test of a claim.
type Case = fn() -> Pin<Box<dyn Future<Output = ()>>>;

fn main() {
    let cases: Vec<(&str, Case)> = vec![
        ("what_is_wanted_is_applied_and_then_nothing_is_left_to_do", || Box::pin(applied_once())),
        ("undo_leaves_what_was", || Box::pin(undo_leaves_what_was())),
        ("an_operators_own_addresses_survive_undo", || Box::pin(operators_addresses_survive())),
        ("a_failure_names_its_object_and_the_rest_is_done", || Box::pin(failures_are_reported())),
        ("what_is_in_the_way_is_a_conflict_and_stays", || Box::pin(conflicts_stay())),
        ("a_link_without_carrier_takes_addresses_and_routes", || Box::pin(no_carrier())),
        ("routes_of_a_link_that_went_down_are_planned_again", || Box::pin(down_and_up())),
        ("an_alias_can_be_cleared", || Box::pin(alias_is_cleared())),
        ("a_socket_stays_in_its_namespace_and_links_move_there", || Box::pin(namespaces())),
        ("a_socket_without_its_runtime_says_so", || Box::pin(closed())),
        ("what_is_not_there_is_removed_already", || Box::pin(removing_nothing())),
        ("frames_are_counted", || Box::pin(frames_are_counted())),
        ("many_addresses_and_routes_are_all_seen", || Box::pin(many())),
        ("only_what_matters_to_a_netdev_is_heard_of_where_that_is_asked_for", || {
            Box::pin(only_what_matters_is_heard())
        }),
        ("a_port_comes_into_its_bridge_isolated_and_comes_back", || Box::pin(keys::bridges())),
        ("a_bridge_that_is_not_there_is_waited_for", || Box::pin(keys::late_bridge())),
        ("addresses_with_peer_and_scope_are_their_own", || Box::pin(keys::peers())),
        ("routes_are_in_their_tables", || Box::pin(keys::tables())),
        ("next_hops_that_no_address_reaches", || Box::pin(keys::onlink())),
        ("forwarding_is_set_and_given_back", || Box::pin(keys::forwarding())),
        ("a_link_in_a_vrf_has_its_routes_there", || Box::pin(keys::vrfs())),
    ];
    let missing = what_is_missing();
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let trials = cases.into_iter().map(|(name, case)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(reason) if strict => Err(format!("cannot run here: {reason}").into()),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None if name.contains("_vrf_") && !keys::has_vrfs() => {
                // They are run in a guest: netns-tests/guests/cases/netdevs.rs.
                Ok(Completion::ignored_with("this kernel makes no VRF"))
            }
            None => isolated(case).map(|()| Completion::Completed),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// Why no case can run here, if so.
fn what_is_missing() -> Option<String> {
    if let Err(e) = Command::new("ip").arg("-V").output() {
        return Some(format!("the program ip: {e}"));
    }
    std::thread::spawn(|| {
        enter_fresh_namespace().map_err(|e| format!("a network namespace: {e}"))?;
        Iface::without_packet_info("probe", Mode::Tap).map_err(|e| format!("a TAP: {e}"))
    })
    .join()
    .map_or(Some("a thread".to_owned()), |probe| probe.err())
}

#[allow(deprecated, reason = "unsafe is only the flag that unshares file descriptors")]
fn enter_fresh_namespace() -> std::io::Result<()> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
    Ok(())
}

/// Runs a case on a fresh thread in a fresh namespace, with a runtime.
fn isolated(case: Case) -> Result<(), Failed> {
    let thread = std::thread::spawn(move || {
        enter_fresh_namespace().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case());
    });
    thread.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "panicked".to_owned())
            .into()
    })
}

fn tap(name: &str) -> Iface {
    Iface::without_packet_info(name, Mode::Tap).unwrap()
}

/// `ip ARGS`, which must succeed.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The objects that `ip -j ARGS` prints.
fn ip_json(args: &str) -> Vec<Value> {
    let output = Command::new("ip").arg("-j").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.trim_ascii().is_empty() {
        return Vec::new();
    }
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The addresses of a link as `ip` sees them, without link-local ones, sorted.
fn ip_addresses(link: &str) -> Vec<String> {
    let links = ip_json(&format!("addr show dev {link}"));
    let infos = links[0]["addr_info"].as_array().unwrap();
    let mut found: Vec<_> = infos
        .iter()
        .filter(|a| a["scope"] != "link")
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    found.sort();
    found
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn route(to: &str, via: Option<&str>, metric: Option<u32>) -> Route {
    Route::parse(to, via.map(|v| v.parse().unwrap()), metric).unwrap()
}

fn wanted() -> Desired {
    Desired {
        name: "bl0".to_owned(),
        alias: Some("boardlane slot 0".to_owned()),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(9000),
        up: Some(true),
        gso_max_size: Some(32768),
        addresses: vec![address("10.77.0.1/24"), address("fd77::1/64")],
        routes: vec![
            route("10.80.0.0/24", Some("10.77.0.2"), Some(100)),
            route("fd80::/64", Some("fd77::2"), None),
            route("10.81.0.0/24", None, None),
            route("default", Some("fd77::2"), Some(50)),
            route("default", Some("10.77.0.2"), None),
        ],
        ..Desired::default()
    }
}

async fn observe(netlink: &Netlink) -> Observed {
    netlink.observe("bl0").await.unwrap().expect("there is a link bl0")
}

/// The same, and what there is of what it is to be.
async fn observe_for(netlink: &Netlink, desired: &Desired) -> Observed {
    let desired = Desired { name: "bl0".to_owned(), ..desired.clone() };
    netlink.observe_for("bl0".into(), &desired).await.unwrap().expect("there is a link bl0")
}

/// Makes the link what is wanted, all of it, and gives what was done.
async fn make(netlink: &Netlink, desired: &Desired) -> Vec<Action> {
    let actions = plan(desired, &observe_for(netlink, desired).await);
    let applied = netlink.apply("bl0", &actions).await;
    let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
    assert_eq!(failed, [] as [&str; 0]);
    assert_eq!(applied.done, actions);
    applied.done
}

async fn take_back(netlink: &Netlink, done: &[Action]) {
    let actions = undo(done, &observe(netlink).await);
    let applied = netlink.apply("bl0", &actions).await;
    let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
    assert_eq!(failed, [] as [&str; 0]);
}

async fn applied_once() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let done = make(&netlink, &wanted()).await;
    assert_eq!(plan(&wanted(), &observe(&netlink).await), []);

    assert_eq!(ip_addresses("bl0"), ["10.77.0.1/24", "fd77::1/64"]);
    let link = &ip_json("-d link show dev bl0")[0];
    assert_eq!(link["address"], "02:00:00:00:00:01");
    assert_eq!(link["ifalias"], "boardlane slot 0");
    assert_eq!(link["mtu"], 9000);
    assert_eq!(link["gso_max_size"], 32768);
    let v6 = ip_json("-6 addr show dev bl0");
    let ours = v6[0]["addr_info"].as_array().unwrap().iter().find(|a| a["local"] == "fd77::1");
    assert_eq!(ours.unwrap()["nodad"], true);
    let routes = ip_json("route show dev bl0");
    let to = |routes: &[Value], dst| routes.iter().find(|r| r["dst"] == dst).cloned().unwrap();
    let via = to(&routes, "10.80.0.0/24");
    assert_eq!((&via["gateway"], &via["metric"]), (&"10.77.0.2".into(), &100.into()));
    assert_eq!(via["protocol"], "static");
    assert_eq!(to(&routes, "10.81.0.0/24")["scope"], "link");
    assert_eq!(to(&routes, "default")["gateway"], "10.77.0.2");
    let routes = ip_json("-6 route show dev bl0");
    assert_eq!(to(&routes, "default")["metric"], 50);
    assert_eq!(to(&routes, "fd80::/64")["metric"], 1024);

    // Done once more, the additions find themselves done and are nobody's to undo.
    let again = netlink.apply("bl0", &done).await;
    assert!(again.failed.is_empty(), "{:?}", again.failed);
    let adds = |a: &&Action| matches!(a, Action::AddAddress(_) | Action::AddRoute(_));
    assert_eq!(again.done.iter().filter(adds).count(), 0);
}

/// Without what the kernel makes by itself.
fn without_kernels_own(mut observed: Observed) -> Observed {
    observed.addresses.retain(|a| !a.is_ipv6_link_local());
    observed.kernel_routes.clear();
    observed
}

async fn undo_leaves_what_was() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    ip("addr add 192.0.2.1/24 dev bl0");
    let before = observe(&netlink).await;
    let done = make(&netlink, &wanted()).await;
    take_back(&netlink, &done).await;
    assert_eq!(without_kernels_own(observe(&netlink).await), without_kernels_own(before));
    assert_eq!(ip_addresses("bl0"), ["192.0.2.1/24"]);
    take_back(&netlink, &done).await;
}

async fn operators_addresses_survive() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let done = make(&netlink, &wanted()).await;
    // In our subnet, so a secondary address to the kernel.
    ip("addr add 10.77.0.9/24 dev bl0");
    ip("addr add 2001:db8::1/64 dev bl0 nodad");
    ip("addr add 192.0.2.1 peer 192.0.2.2/32 dev bl0");
    ip("route add 198.51.100.0/24 via 10.77.0.3 dev bl0");
    take_back(&netlink, &done).await;
    assert_eq!(ip_addresses("bl0"), ["10.77.0.9/24", "192.0.2.1/32", "2001:db8::1/64"]);
    let now = observe(&netlink).await;
    let theirs = route("198.51.100.0/24", Some("10.77.0.3"), None).in_table(MAIN_TABLE);
    assert_eq!(now.routes, [theirs]);
    assert!(now.addresses.contains(&address("192.0.2.1/32 peer 192.0.2.2")));
    assert!(now.up, "going down would delete the operator's IPv6 address and route");
}

async fn failures_are_reported() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let mut desired = wanted();
    desired.mtu = Some(100_000);
    desired.routes.insert(0, route("10.90.0.0/24", Some("172.16.0.1"), None));
    let actions = plan(&desired, &observe(&netlink).await);
    let applied = netlink.apply("bl0", &actions).await;
    let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].starts_with("MTU 100000 on bl0: "), "{failed:?}");
    assert!(failed[1].starts_with("route 10.90.0.0/24 via 172.16.0.1 on bl0: "), "{failed:?}");
    assert!(failed[1].contains("Nexthop has invalid gateway"), "the kernel's words: {failed:?}");
    assert_eq!(applied.done.len(), actions.len() - 2);
    assert_eq!(ip_addresses("bl0"), ["10.77.0.1/24", "fd77::1/64"]);
    let gone = netlink.apply("bl9", &[Action::SetUp(true)]).await;
    assert_eq!(gone.failed[0].to_string(), "there is no link bl9");
    assert_eq!(netlink.observe("bl9").await.unwrap(), None);
}

async fn conflicts_stay() {
    let _taps = [tap("bl0"), tap("lan0")];
    let netlink = Netlink::new().unwrap();
    ip("link set lan0 up");
    ip("addr add 192.168.1.1/24 dev lan0");
    ip("route add 10.80.0.0/24 via 192.168.1.2 metric 100");
    ip("addr add fd77::1/48 dev bl0");
    let actions = plan(&wanted(), &observe(&netlink).await);
    let applied = netlink.apply("bl0", &actions).await;
    let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        failed,
        [
            "address fd77::1/64 on bl0: address fd77::1/48 is there already; \
             remove it, or choose another",
            "route 10.80.0.0/24 via 10.77.0.2 metric 100 on bl0: \
             route 10.80.0.0/24 via 192.168.1.2 metric 100 dev lan0 is there already; \
             remove it, or choose another",
        ]
    );
    take_back(&netlink, &applied.done).await;
    assert_eq!(ip_addresses("bl0"), ["fd77::1/48"]);
    assert_eq!(ip_json("route show 10.80.0.0/24").len(), 1);
}

async fn no_carrier() {
    let netlink = Netlink::new().unwrap();
    ip("link add bl0 type veth peer name far0");
    make(&netlink, &wanted()).await;
    let link = &ip_json("link show dev bl0")[0];
    assert!(link["flags"].as_array().unwrap().contains(&"NO-CARRIER".into()), "{link}");
    assert_eq!(plan(&wanted(), &observe(&netlink).await), []);
    let v6 = ip_json("-6 addr show dev bl0 tentative");
    assert!(v6.iter().all(|l| l["addr_info"].as_array().is_none_or(Vec::is_empty)), "{v6:?}");
}

async fn down_and_up() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let mut done = make(&netlink, &wanted()).await;
    let before = observe(&netlink).await;
    ip("link set bl0 down");
    let follows = Desired { up: None, ..wanted() };
    done.extend(make(&netlink, &follows).await);
    assert_eq!(observe(&netlink).await.routes, []);
    ip("link set bl0 up");
    done.extend(make(&netlink, &follows).await);
    let after = observe(&netlink).await;
    assert_eq!(without_kernels_own(after), without_kernels_own(before));
    take_back(&netlink, &done).await;
    assert_eq!(ip_addresses("bl0"), [] as [&str; 0]);
}

async fn alias_is_cleared() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    ip("link set bl0 alias old");
    let desired = Desired { alias: Some(String::new()), ..Desired::default() };
    let done = make(&netlink, &desired).await;
    assert_eq!(ip_json("link show bl0")[0].get("ifalias"), None);
    assert_eq!(plan(&desired, &observe(&netlink).await), []);
    take_back(&netlink, &done).await;
    assert_eq!(ip_json("link show bl0")[0]["ifalias"], "old");
}

async fn namespaces() {
    let _tap = tap("bl0");
    let here = Netlink::new().unwrap();
    let other = std::thread::spawn(|| {
        enter_fresh_namespace().unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let other = other.join().unwrap();
    let there = Netlink::in_namespace(other.as_fd()).unwrap();
    assert!(here.link_index("bl0").await.unwrap().is_some());
    assert_eq!(there.link_index("bl0").await.unwrap(), None);
    here.move_to_namespace("bl0", other.as_fd()).await.unwrap();
    assert_eq!(here.link_index("bl0").await.unwrap(), None);
    make(&there, &wanted()).await;
    there.set_loopback_up().await.unwrap();
    assert!(there.observe("lo").await.unwrap().unwrap().up);
    assert!(!here.observe("lo").await.unwrap().unwrap().up);
    // This thread has not moved.
    assert_eq!(ip_json("link show").len(), 1);
    let no_namespace = File::open("/dev/null").unwrap();
    let error = Netlink::in_namespace(no_namespace.as_fd()).unwrap_err();
    assert!(error.to_string().contains("network namespace"), "{error}");
}

async fn closed() {
    let _tap = tap("bl0");
    let netns = File::open("/proc/thread-self/ns/net").unwrap();
    let made = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Netlink::in_namespace(netns.as_fd()).unwrap() })
    });
    let netlink = made.join().unwrap();
    let error = netlink.link_index("bl0").await.unwrap_err();
    assert!(error.to_string().contains("socket is closed"), "{error}");
    let outside = std::thread::spawn(|| Netlink::new().map(drop));
    assert!(outside.join().unwrap().is_err(), "outside of a runtime");
}

async fn removing_nothing() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let gone = [
        Action::DelRoute(route("10.80.0.0/24", None, None)),
        Action::DelRoute(route("fd80::/64", None, None)),
        Action::DelAddress(address("10.77.0.1/24")),
        Action::DelAddress(address("fd77::1/64")),
    ];
    let applied = netlink.apply("bl0", &gone).await;
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!(applied.done, []);
    netlink.delete_link("bl0").await.unwrap();
    netlink.delete_link("bl0").await.unwrap();
    assert_eq!(netlink.link_index("bl0").await.unwrap(), None);
    assert_eq!(netlink.stats("bl0").await.unwrap(), None);
}

async fn frames_are_counted() {
    let tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let up = Action::SetUp(true);
    assert!(netlink.apply("bl0", &[up]).await.failed.is_empty());
    let before = netlink.stats("bl0").await.unwrap().unwrap();
    for _ in 0..3 {
        tap.send(&[0x02; 60]).unwrap();
    }
    let after = netlink.stats("bl0").await.unwrap().unwrap();
    assert_eq!(after.rx_packets - before.rx_packets, 3);
    let of_ip = &ip_json("-s link show bl0")[0]["stats64"]["rx"];
    assert_eq!(of_ip["packets"], after.rx_packets);
    assert_eq!(of_ip["bytes"], after.rx_bytes);
}

async fn many() {
    let _tap = tap("bl0");
    let netlink = Netlink::new().unwrap();
    let mut desired = Desired { up: Some(true), ..Desired::default() };
    for n in 0..=255_u8 {
        desired.addresses.push(address(&format!("10.77.{n}.1/24")));
        desired.addresses.push(address(&format!("fd77:{n:x}::1/64")));
        desired.routes.push(route(&format!("10.80.{n}.0/24"), Some("10.77.0.2"), None));
        desired.routes.push(route(&format!("fd80:{n:x}::/64"), Some("fd77::2"), None));
    }
    make(&netlink, &desired).await;
    assert_eq!(plan(&desired, &observe(&netlink).await), []);
    let change = Action::SetMtu(Change { was: 1500, to: 1400 });
    assert_eq!(netlink.apply("bl0", std::slice::from_ref(&change)).await.done, [change]);
}

async fn only_what_matters_is_heard() {
    let (_bl0, _bl1) = (tap("bl0"), tap("bl1"));
    for words in ["link set bl0 up", "link set bl1 up", "addr add 10.1.0.1/24 dev bl1"] {
        ip(words);
    }
    let netlink = Netlink::new().unwrap();
    let index = netlink.link_index("bl0").await.unwrap().unwrap();
    let mut watch = Watch::over(watch_socket().unwrap()).unwrap();
    // Up and link-local addresses come late.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let others = [
        "link set bl1 mtu 1400",
        "addr add 10.2.0.1/24 dev bl1",
        "-6 addr add fd02::1/64 dev bl1 nodad",
        "route add 10.3.0.0/24 via 10.1.0.2",
        "route del 10.3.0.0/24",
        "-6 route add fd03::/64 dev bl1",
        "link add br0 type bridge",
    ];
    let own = [
        "link set bl0 mtu 1400",
        "link set bl0 alias own",
        "addr add 10.4.0.1/24 dev bl0",
        "addr del 10.4.0.1/24 dev bl0",
        "-6 addr add fd04::1/64 dev bl0 nodad",
        "-6 route add fd05::/64 dev bl0",
        "route add 10.5.0.0/24 dev bl0",
        // Which takes its place, and nobody is told that it went.
        "route replace 10.5.0.0/24 dev bl1",
        "-6 route replace fd05::/64 dev bl1",
        "route add 10.6.0.0/24 dev bl0",
        "route del 10.6.0.0/24",
        "link set bl0 name bl2",
    ];
    for (kept, heard) in [(&[][..], true), (&[index, 99], false)] {
        assert!(!watch.keep_to(kept).unwrap(), "it hears of less");
        while is_told(&mut watch).await {}
        for words in others {
            ip(words);
            assert_eq!(is_told(&mut watch).await, heard, "{words}");
        }
        ip("link del br0");
        ip("addr flush dev bl1");
        ip("addr add 10.1.0.1/24 dev bl1");
        ip("link set bl1 mtu 1500");
        ip("-6 route flush dev bl1");
    }
    while is_told(&mut watch).await {}
    for words in own {
        ip(words);
        assert!(is_told(&mut watch).await, "{words}");
        while is_told(&mut watch).await {}
    }
    assert!(watch.keep_to(&[]).unwrap(), "it hears of more");
    ip("link set bl1 mtu 1300");
    assert!(is_told(&mut watch).await);
}

/// Whether there is a notice, or will be soon.
async fn is_told(watch: &mut Watch) -> bool {
    tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_ok()
}
