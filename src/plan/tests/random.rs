//! Claims about any plan.

use proptest::prelude::*;

use super::*;

/// One of a few addresses, so that cases collide.
fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        (1_u8..4).prop_map(|n| address(&format!("10.77.{n}.1/24"))),
        (1_u8..4).prop_map(|n| address(&format!("10.77.{n}.1/24 scope link"))),
        (1_u8..4).prop_map(|n| address(&format!("10.78.0.1/32 peer 10.77.{n}.2"))),
        (1_u8..4).prop_map(|n| address(&format!("fd77:{n}::1/64"))),
    ]
}

fn any_route() -> impl Strategy<Value = Route> {
    let metric = prop_oneof![Just(None), Just(Some(0)), Just(Some(1024))];
    (1_u8..4, any::<bool>(), any::<bool>(), metric).prop_map(|(n, v6, via, metric)| {
        let (to, hop) = if v6 {
            (format!("fd80:{n}::/64"), format!("fd77:{n}::2"))
        } else {
            (format!("10.80.{n}.0/24"), format!("10.77.{n}.2"))
        };
        route(&to, via.then_some(&*hop), metric)
    })
}

/// Routes of which the kernel has room for all, each with a next hop that `addresses` reach.
fn fitting(routes: Vec<Route>, addresses: &[Address]) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for r in routes {
        let reachable = r.via.is_none_or(|via| addresses.iter().any(|a| a.network().contains(via)));
        if reachable && !kept.iter().any(|k| k.rivals(&r)) {
            kept.push(r);
        }
    }
    kept
}

prop_compose! {
    fn any_desired()(
        mtu in prop_oneof![Just(None), Just(Some(1300)), Just(Some(9000))],
        up in any::<Option<bool>>(),
        alias in prop_oneof![Just(None), Just(Some(String::new())), Just(Some("a".to_owned()))],
        gso_max_size in prop_oneof![Just(None), Just(Some(8192))],
        addresses in prop::collection::vec(any_address(), 0..4),
        routes in prop::collection::vec(any_route(), 0..4),
    ) -> Desired {
        let routes = fitting(routes, &addresses);
        Desired { mtu, up, alias, gso_max_size, addresses, routes, ..Desired::default() }
    }
}

prop_compose! {
    fn any_observed()(
        mtu in prop_oneof![Just(1300_u32), Just(1500)],
        up in any::<bool>(),
        alias in prop_oneof![Just(None), Just(Some("b".to_owned()))],
        mut addresses in prop::collection::vec(any_address(), 0..3),
    ) -> Observed {
        addresses.sort();
        addresses.dedup();
        Observed { mtu, up, alias, addresses, ..fresh() }
    }
}

proptest! {
    #[test]
    fn after_a_plan_nothing_is_left_to_do(desired in any_desired(), before in any_observed()) {
        let mut link = before.clone();
        let done = plan(&desired, &before);
        for action in &done {
            prop_assert_eq!(model(&mut link, action), Ok(()));
        }
        prop_assert_eq!(plan(&desired, &link), []);
        for address in &before.addresses {
            let deleted_by_down = address.is_ipv6() && desired.up == Some(false) && before.up;
            prop_assert!(link.addresses.contains(address) || deleted_by_down);
        }
    }

    #[test]
    fn undo_takes_away_ours_and_only_ours(
        desired in any_desired(),
        before in any_observed(),
        others in any_address(),
    ) {
        let mut link = before.clone();
        let done = plan(&desired, &before);
        for action in &done {
            prop_assert_eq!(model(&mut link, action), Ok(()));
        }
        let added = !link.addresses.contains(&others);
        if added {
            link.addresses.push(others);
        }
        for action in undo(&done, &link.clone()) {
            prop_assert_eq!(model(&mut link, &action), Ok(()));
        }
        prop_assert_eq!(link.mtu, before.mtu);
        prop_assert_eq!(&link.alias, &before.alias);
        prop_assert!(!added || link.addresses.contains(&others));
        let ours = |a: &Address| done.contains(&Action::AddAddress(*a));
        prop_assert!(link.addresses.iter().all(|a| *a == others || !ours(a)));
        prop_assert_eq!(&link.routes, &[] as &[Route]);
    }
}
