//! Claims about bridges, VRFs, tables, peers, forwarding, and what differs.

use super::*;

fn bridge(name: &str) -> Option<Master> {
    Some(Master { name: name.to_owned(), kind: MasterKind::Bridge })
}

fn vrf() -> Option<Master> {
    Some(Master { name: "blue".to_owned(), kind: MasterKind::Vrf })
}

/// A port of a bridge that is there.
fn port() -> Desired {
    Desired { master: bridge("br0"), isolated: Some(true), up: Some(true), ..Desired::default() }
}

fn with(kind: MasterKind) -> Observed {
    Observed { wanted_master: Some(kind), ..fresh() }
}

fn texts(actions: &[Action]) -> Vec<String> {
    actions.iter().map(ToString::to_string).collect()
}

#[test]
fn a_port_is_isolated_before_it_is_up() {
    let mut link = with(MasterKind::Bridge);
    let actions = follow(&mut link, &port());
    assert_eq!(texts(&actions), ["set master br0", "set isolated on", "set state up"]);
    assert_eq!(plan(&port(), &link), []);
}

#[test]
fn a_master_that_is_not_there_is_waited_for_and_all_else_is_set() {
    let mut link = fresh();
    let actions = follow(&mut link, &port());
    assert_eq!(texts(&actions), ["set state up"]);
    assert_eq!(waits_for(&port(), &link).as_deref(), Some("bridge br0 does not exist yet"));
    link.wanted_master = Some(MasterKind::Other);
    assert_eq!(plan(&port(), &link), []);
    assert_eq!(waits_for(&port(), &link).as_deref(), Some("br0 is no bridge"));
    link.wanted_master = Some(MasterKind::Bridge);
    assert_eq!(texts(&follow(&mut link, &port())), ["set master br0", "set isolated on"]);
    assert_eq!(waits_for(&port(), &link), None);
}

#[test]
fn a_port_that_was_taken_out_or_elsewhere_comes_back() {
    let mut link = with(MasterKind::Bridge);
    follow(&mut link, &port());
    (link.master, link.isolated) = (None, false);
    assert_eq!(texts(&follow(&mut link, &port())), ["set master br0", "set isolated on"]);
    (link.master, link.isolated) = (bridge("br1"), true);
    assert_eq!(texts(&follow(&mut link, &port())), ["set master br0", "set isolated on"]);
    // A bridge that was made anew under its name has another kind at first.
    link.master = Some(Master { name: "br0".to_owned(), kind: MasterKind::Other });
    assert_eq!(texts(&follow(&mut link, &port())), ["set master br0", "set isolated on"]);
}

#[test]
fn isolation_and_a_master_that_no_config_names_are_the_operators() {
    let mut link = with(MasterKind::Bridge);
    let desired = Desired { isolated: None, ..port() };
    follow(&mut link, &desired);
    link.isolated = true;
    assert_eq!(plan(&desired, &link), []);
    let nothing = Desired::default();
    assert_eq!(plan(&nothing, &link), []);
    assert_eq!(undo(&[], &link), []);
}

#[test]
fn a_master_is_given_back_only_while_it_is_ours() {
    let mut link = with(MasterKind::Bridge);
    let done = follow(&mut link, &port());
    assert_eq!(
        texts(&leftovers(&done, &Desired::default(), &link)),
        ["set state down", "set master none"]
    );
    let not_isolated = Desired { isolated: None, ..port() };
    assert_eq!(texts(&leftovers(&done, &not_isolated, &link)), ["set isolated off"]);
    let elsewhere = Desired { master: bridge("br1"), ..port() };
    assert_eq!(texts(&leftovers(&done, &elsewhere, &link)), ["set master none"]);
    link.master = bridge("br7");
    assert_eq!(texts(&leftovers(&done, &elsewhere, &link)), [] as [&str; 0]);
    // What was another's before goes back there.
    let mut link = Observed { master: bridge("br9"), up: true, ..with(MasterKind::Bridge) };
    let done = follow(&mut link, &port());
    assert_eq!(texts(&undo(&done, &link)), ["set master br9"]);
}

#[test]
fn a_link_that_comes_into_a_vrf_gets_its_routes_there() {
    let desired = Desired { master: vrf(), ..wanted() };
    let mut link = fresh();
    follow(&mut link, &desired);
    follow(&mut link, &desired);
    assert!(link.routes.iter().all(|r| r.table == Some(MAIN_TABLE)));
    // It comes late, and the kernel sets the link down on the way.
    link.wanted_master = Some(MasterKind::Vrf);
    let actions = follow(&mut link, &desired);
    assert_eq!(texts(&actions), ["set master blue", "add address fd77::1/64"]);
    follow(&mut link, &desired);
    assert_eq!(plan(&desired, &link), []);
    assert_eq!(link.routes.len(), 3);
    assert!(link.routes.iter().all(|r| r.table == Some(VRF_TABLE)));
    // And out again.
    let done = [&actions[..], &[Action::AddRoute(link.routes[0])]].concat();
    let out = leftovers(&done, &wanted(), &link);
    assert_eq!(texts(&out), ["set master none"]);
    run(&mut link, &out);
    follow(&mut link, &wanted());
    follow(&mut link, &wanted());
    assert_eq!(plan(&wanted(), &link), []);
    assert!(link.routes.iter().all(|r| r.table == Some(MAIN_TABLE)));
}

#[test]
fn a_fresh_link_is_in_its_vrf_before_it_is_up() {
    let desired = Desired { master: vrf(), ..wanted() };
    let mut link = with(MasterKind::Vrf);
    let first = follow(&mut link, &desired);
    let at = |what: &str| texts(&first).iter().position(|t| t == what).unwrap();
    assert!(at("set master blue") < at("set state up"));
    let second = follow(&mut link, &desired);
    assert!(second.iter().all(|a| matches!(a, Action::AddRoute(_))), "{second:?}");
    assert_eq!(plan(&desired, &link), []);
}

#[test]
fn a_route_has_its_table_and_source() {
    let mut link = Observed { up: true, ..fresh() };
    let text = "10.80.0.0/24 via 10.77.0.2 table 100 src 10.77.0.1 onlink";
    let wanted: Route = text.parse().unwrap();
    assert_eq!(wanted.to_string(), text);
    let desired = Desired {
        addresses: vec![address("10.77.0.1/30")],
        routes: vec![wanted],
        ..Desired::default()
    };
    for other in [
        "10.80.0.0/24 via 10.77.0.2 src 10.77.0.1",
        "10.80.0.0/24 via 10.77.0.2 table 101 src 10.77.0.1",
    ] {
        link.routes.push(other.parse::<Route>().unwrap().in_table(MAIN_TABLE));
    }
    follow(&mut link, &desired);
    assert_eq!(plan(&desired, &link), []);
    link.routes[2].onlink = false;
    assert_eq!(plan(&desired, &link), [], "the kernel asks for it only when it is made");
    link.routes[2].source = None;
    assert_eq!(plan(&desired, &link), [Action::AddRoute(wanted)]);
    link.routes[2].source = wanted.source;
    assert_eq!(undo(&[Action::AddRoute(wanted)], &link), [Action::DelRoute(wanted)]);
}

#[test]
fn an_address_with_another_peer_or_scope_is_another_one() {
    let ours = address("10.77.0.1/32 peer 10.77.0.2 scope link");
    let desired = Desired { addresses: vec![ours], ..Desired::default() };
    let others =
        ["10.77.0.1/32", "10.77.0.1/32 peer 10.77.0.3 scope link", "10.77.0.1/32 peer 10.77.0.2"];
    for other in others {
        let mut link = Observed { addresses: vec![address(other)], ..fresh() };
        let done = follow(&mut link, &desired);
        assert_eq!(done, [Action::AddAddress(ours)]);
        take_back(&mut link, &done);
        assert_eq!(link.addresses, [address(other)]);
    }
}

#[test]
fn forwarding_goes_back_unless_somebody_else_has_set_it() {
    let desired = Desired { forward4: Some(true), forward6: Some(true), ..Desired::default() };
    let mut link = fresh();
    let done = follow(&mut link, &desired);
    assert_eq!(texts(&done), ["set IPv4 forwarding on", "set IPv6 forwarding on"]);
    link.forward4 = false;
    assert_eq!(texts(&undo(&done, &link)), ["set IPv6 forwarding off"]);
    assert_eq!(texts(&follow(&mut link, &desired)), ["set IPv4 forwarding on"]);
    take_back(&mut link, &done);
    assert_eq!(link, fresh());
}

#[test]
fn what_differs_is_told_as_what_there_is() {
    let mut link = Observed { mtu: 1400, alias: Some("a".to_owned()), ..with(MasterKind::Bridge) };
    let desired = Desired { master: bridge("br0"), forward4: Some(true), ..wanted() };
    link.up = false;
    let told: Vec<_> = plan(&desired, &link).iter().map(Action::difference).collect();
    assert_eq!(
        told,
        [
            "MAC address is 02:00:00:00:00:09, not 02:00:00:00:00:01",
            "alias is \"a\", not \"boardlane\"",
            "gso_max_size is 65536, not 32768",
            "MTU is 1400, not 9000",
            "master is none, not br0",
            "IPv4 forwarding is off, not on",
            "state is down, not up",
            "address 10.77.0.1/30 is missing",
            "address fd77::1/64 is missing",
            "route 10.80.0.0/24 via 10.77.0.2 metric 100 is missing",
            "route fd80::/64 via fd77::2 is missing",
            "route 10.81.0.0/24 is missing",
        ]
    );
}
