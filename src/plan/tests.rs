//! Claims about plans, checked on a model of the kernel's rules that the order exists for.

mod masters;
mod random;

use super::*;

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

/// As the kernel has it: in a table.
fn main(routes: &[Route]) -> Vec<Route> {
    routes.iter().map(|r| r.in_table(MAIN_TABLE)).collect()
}

fn route(to: &str, via: Option<&str>, metric: Option<u32>) -> Route {
    Route::parse(to, via.map(|v| v.parse().unwrap()), metric).unwrap()
}

fn fresh() -> Observed {
    Observed {
        index: 2,
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        gso_max_size: 65536,
        table: MAIN_TABLE,
        ..<_>::default()
    }
}

fn wanted() -> Desired {
    Desired {
        name: "bl0".to_owned(),
        alias: Some("boardlane".to_owned()),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(9000),
        up: Some(true),
        gso_max_size: Some(32768),
        addresses: vec![address("10.77.0.1/30"), address("fd77::1/64")],
        routes: vec![
            route("10.80.0.0/24", Some("10.77.0.2"), Some(100)),
            route("fd80::/64", Some("fd77::2"), None),
            route("10.81.0.0/24", None, None),
        ],
        ..Desired::default()
    }
}

/// The table of each VRF.
const VRF_TABLE: u32 = 10;

/// What the kernel does with an action, or why it refuses it.
fn model(link: &mut Observed, action: &Action) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{action}: {why}"));
    match action {
        // A TAP takes it at any time; other kinds of links do not.
        Action::SetMac(_) if link.up => return refuse("the link is up"),
        Action::SetMac(c) => link.mac = c.to,
        Action::SetAlias(c) => link.alias = c.to.clone(),
        Action::SetGsoMaxSize(c) => link.gso_max_size = c.to,
        Action::SetForward4(c) => link.forward4 = c.to,
        Action::SetForward6(c) => link.forward6 = c.to,
        Action::SetMaster(c) => {
            let of_vrf = |m: &Option<Master>| m.as_ref().is_some_and(|m| m.kind == MasterKind::Vrf);
            if link.up && (of_vrf(&link.master) || of_vrf(&c.to)) {
                link.addresses.retain(|a| !a.is_ipv6());
                link.routes.clear();
            }
            link.table = if of_vrf(&c.to) { VRF_TABLE } else { MAIN_TABLE };
            (link.master, link.isolated) = (c.to.clone(), false);
        }
        Action::SetIsolated(_)
            if link.master.as_ref().is_none_or(|m| m.kind != MasterKind::Bridge) =>
        {
            return refuse("is no port of a bridge");
        }
        Action::SetIsolated(c) => link.isolated = c.to,
        Action::SetMtu(c) => {
            link.mtu = c.to;
            if c.to < IPV6_MIN_MTU {
                link.addresses.retain(|a| !a.is_ipv6());
                link.routes.retain(|r| !r.to.is_ipv6());
            }
        }
        Action::SetUp(true) => link.up = true,
        Action::SetUp(false) => {
            link.up = false;
            link.addresses.retain(|a| !a.is_ipv6());
            link.routes.clear();
        }
        Action::AddAddress(a) if link.addresses.contains(a) => return refuse("exists"),
        Action::AddAddress(a) if a.is_ipv6() && link.mtu < IPV6_MIN_MTU => {
            return refuse("no IPv6 with this MTU");
        }
        Action::AddAddress(a) => link.addresses.push(*a),
        Action::DelAddress(a) if !link.addresses.contains(a) => return refuse("not there"),
        Action::DelAddress(a) => link.addresses.retain(|b| b != a),
        Action::AddRoute(_) if !link.up => return refuse("the link is down"),
        Action::AddRoute(r) if r.table.is_none() => return refuse("no table"),
        Action::AddRoute(r) if link.routes.iter().any(|o| o.rivals(r)) => return refuse("exists"),
        Action::AddRoute(r)
            if r.via
                .is_some_and(|via| !link.addresses.iter().any(|a| a.network().contains(via))) =>
        {
            return refuse("next hop unreachable");
        }
        Action::AddRoute(r) => link.routes.push(*r),
        Action::DelRoute(r) if !link.has_route(r) => return refuse("not there"),
        Action::DelRoute(r) => link.routes.retain(|o| !o.same_as(r)),
    }
    link.kernel_routes = link
        .addresses
        .iter()
        .filter(|_| link.up)
        .map(|a| Route::new(a.network(), None, a.is_ipv6().then_some(256)).in_table(link.table))
        .collect();
    Ok(())
}

fn run(link: &mut Observed, actions: &[Action]) {
    for action in actions {
        model(link, action).unwrap();
    }
}

fn follow(link: &mut Observed, desired: &Desired) -> Vec<Action> {
    let actions = plan(desired, link);
    run(link, &actions);
    actions
}

fn take_back(link: &mut Observed, done: &[Action]) {
    let actions = undo(done, link);
    run(link, &actions);
}

#[test]
fn a_fresh_link_is_set_up_in_an_order_that_the_kernel_takes() {
    let mut link = fresh();
    let actions = plan(&wanted(), &link);
    let verbs: Vec<_> = actions.iter().map(ToString::to_string).collect();
    assert_eq!(
        verbs,
        [
            "set MAC address 02:00:00:00:00:01",
            "set alias \"boardlane\"",
            "set gso_max_size 32768",
            "set MTU 9000",
            "set state up",
            "add address 10.77.0.1/30",
            "add address fd77::1/64",
            "add route 10.80.0.0/24 via 10.77.0.2 metric 100",
            "add route fd80::/64 via fd77::2",
            "add route 10.81.0.0/24",
        ]
    );
    run(&mut link, &actions);
    assert_eq!(plan(&wanted(), &link), []);
}

#[test]
fn what_is_not_named_follows_the_operator() {
    let mut link = fresh();
    link.alias = Some("the operator's".to_owned());
    link.up = true;
    link.addresses = vec![address("192.0.2.1/24"), address("fe80::1/64")];
    link.routes = main(&[route("198.51.100.0/24", Some("192.0.2.2"), None)]);
    assert_eq!(plan(&Desired { name: "bl0".to_owned(), ..<_>::default() }, &link), []);
}

#[test]
fn only_the_difference_is_planned() {
    let mut link = fresh();
    follow(&mut link, &wanted());
    link.mtu = 1400;
    link.addresses.retain(|a| *a != address("10.77.0.1/30"));
    let heal = plan(&wanted(), &link);
    assert_eq!(
        heal,
        [
            Action::SetMtu(Change { was: 1400, to: 9000 }),
            Action::AddAddress(address("10.77.0.1/30"))
        ]
    );
}

#[test]
fn a_link_that_is_down_gets_no_routes() {
    let desired = Desired { up: None, ..wanted() };
    assert!(!plan(&desired, &fresh()).iter().any(|a| matches!(a, Action::AddRoute(_))));
}

#[test]
fn going_down_plans_the_ipv6_addresses_that_the_kernel_will_delete() {
    let mut link = fresh();
    follow(&mut link, &wanted());
    let desired = Desired { up: Some(false), ..wanted() };
    follow(&mut link, &desired);
    assert!(link.addresses.contains(&address("fd77::1/64")));
    assert_eq!(plan(&desired, &link), []);
}

#[test]
fn the_default_metric_is_the_kernels() {
    let mut link = fresh();
    link.up = true;
    link.addresses = wanted().addresses;
    link.routes = main(&[
        route("10.80.0.0/24", Some("10.77.0.2"), Some(100)),
        route("fd80::/64", Some("fd77::2"), Some(1024)),
        route("10.81.0.0/24", None, Some(0)),
    ]);
    let routes = |link: &Observed| {
        plan(&wanted(), link).into_iter().filter(|a| matches!(a, Action::AddRoute(_))).count()
    };
    assert_eq!(routes(&link), 0);
    link.routes[0].metric = Some(101);
    assert_eq!(routes(&link), 1);
}

#[test]
fn a_route_that_the_kernel_made_is_as_good_as_ours() {
    let mut link = fresh();
    let connected = route("10.77.0.0/30", None, None);
    let desired = Desired { routes: vec![connected], ..wanted() };
    follow(&mut link, &wanted());
    assert_eq!(plan(&desired, &link), []);
}

#[test]
fn an_empty_alias_clears_it() {
    let mut link = fresh();
    let desired = Desired { alias: Some(String::new()), ..<_>::default() };
    assert_eq!(plan(&desired, &link), []);
    link.alias = Some("old".to_owned());
    follow(&mut link, &desired);
    assert_eq!(link.alias, None);
}

#[test]
fn undo_leaves_what_was() {
    let mut link = fresh();
    let done = follow(&mut link, &wanted());
    // The link is down before its MAC address is set, as the model demands.
    take_back(&mut link, &done);
    assert_eq!(link, fresh());
    assert_eq!(undo(&done, &link), [], "what is undone is not undone again");
}

#[test]
fn undo_after_healing_goes_back_to_the_first_value() {
    let mut link = fresh();
    let mut done = follow(&mut link, &wanted());
    link.mtu = 1400;
    done.extend(follow(&mut link, &wanted()));
    take_back(&mut link, &done);
    assert_eq!(link, fresh());
}

#[test]
fn undo_leaves_what_somebody_changed_since() {
    let mut link = fresh();
    let done = follow(&mut link, &wanted());
    link.mtu = 2000;
    link.alias = Some("the operator's".to_owned());
    link.addresses.retain(|a| a.is_ipv6());
    take_back(&mut link, &done);
    assert_eq!((link.mtu, link.alias.as_deref()), (2000, Some("the operator's")));
}

#[test]
fn undo_keeps_the_link_up_for_others_addresses_and_routes() {
    let set_up = |change: fn(&mut Observed)| {
        let mut link = fresh();
        let done = follow(&mut link, &wanted());
        change(&mut link);
        (undo(&done, &link), link)
    };
    let goes_down = |actions: &[Action]| actions.contains(&Action::SetUp(false));
    let (actions, _) = set_up(|l| l.addresses.push(address("fe80::1/64")));
    assert!(goes_down(&actions), "a link-local address is nobody's");
    let (actions, _) = set_up(|l| l.addresses.push(address("192.0.2.1/24")));
    assert!(goes_down(&actions), "an IPv4 address survives that");
    let (actions, _) = set_up(|l| l.addresses.push(address("2001:db8::1/64")));
    assert!(!goes_down(&actions));
    let (actions, _) = set_up(|l| l.addresses.push(address("2001:db8::1/128 peer 2001:db8::2")));
    assert!(!goes_down(&actions));
    let (actions, _) = set_up(|l| l.routes.extend(main(&[route("198.51.100.0/24", None, None)])));
    assert!(!goes_down(&actions));
}

#[test]
fn undo_does_not_bring_back_an_mtu_that_deletes_others_addresses() {
    let mut link = Observed { mtu: 1000, ..fresh() };
    let done = follow(&mut link, &Desired { mac: None, ..wanted() });
    link.addresses.push(address("2001:db8::1/64"));
    take_back(&mut link, &done);
    assert_eq!(link.mtu, 9000);
    assert!(link.addresses.contains(&address("2001:db8::1/64")));
}

#[test]
fn a_route_that_cannot_be_is_refused_with_what_would_be_right() {
    let error = |to: &str, via: Option<&str>| {
        Route::parse(to, via.map(|v| v.parse().unwrap()), None).unwrap_err().to_string()
    };
    assert!(error("10.80.0.1/24", None).contains("write 10.80.0.0/24"));
    assert!(error("10.80.0.0", None).contains("prefix length"));
    assert!(error("default", None).contains("0.0.0.0/0 or ::/0"));
    assert!(error("fd80::/64", Some("10.77.0.2")).contains("give an IPv6 address"));
    assert!(Route::parse("10.80.0.0/24", "fd77::2".parse().ok(), None).is_ok());
    assert!(error("10.80.0.0/24", Some("0.0.0.0")).contains("next hop"));
    assert!(error("224.0.0.0/4", None).contains("multicast"));
    assert_eq!(route("default", Some("fd77::2"), None).to, prefix("::/0"));
    assert_eq!(route("default", Some("10.77.0.2"), None).to, prefix("0.0.0.0/0"));
}
