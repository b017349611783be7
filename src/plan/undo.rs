//! Taking back what was done to a netdev, and nothing else.
//!
//! A value goes back to what it was before us only while it is still what we set it to: what the
//! operator set since is the operator's. Addresses and routes that we did not add stay, and what
//! would delete them on the way (down, or an MTU below IPv6's minimum) is left undone. Leaving a VRF
//! deletes IPv6 addresses and routes, as the kernel has it for whoever does it.

use super::{Action, Change, Desired, IPV6_MIN_MTU, Mac, MasterKind, Observed};

/// The actions that take `done` back, in reverse order of a plan. `done` may hold several passes,
/// oldest first: the values of before the first one come back.
pub fn undo(done: &[Action], now: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut routes = now.routes.clone();
    let mut addresses = now.addresses.clone();
    for action in done.iter().rev() {
        if let Action::AddRoute(route) = action {
            let (before, route) = (routes.len(), route.in_table(now.table));
            routes.retain(|r| !r.same_as(&route));
            if routes.len() < before {
                actions.push(Action::DelRoute(route));
            }
        }
    }
    for action in done.iter().rev() {
        if let Action::AddAddress(address) = action {
            let before = addresses.len();
            addresses.retain(|a| a != address);
            if addresses.len() < before {
                actions.push(Action::DelAddress(*address));
            }
        }
    }
    let others_ipv6 = addresses.iter().any(|a| a.is_ipv6() && !a.is_ipv6_link_local());
    if let Some(was_up) = up_before(done, now) {
        let others_need_it = others_ipv6 || !routes.is_empty();
        if was_up || !others_need_it {
            actions.push(Action::SetUp(was_up));
        }
    }
    actions.extend(undo_forwarding_and_master(done, now));
    if let Some(c) =
        back(done, &now.mtu, |a| if let Action::SetMtu(c) = a { Some(c) } else { None })
    {
        if c.to >= IPV6_MIN_MTU || !others_ipv6 {
            actions.push(Action::SetMtu(c));
        }
    }
    actions.extend(undo_values(done, now));
    actions
}

/// As [`undo`], of what is no longer `desired`.
pub fn leftovers(done: &[Action], desired: &Desired, now: &Observed) -> Vec<Action> {
    let left: Vec<_> = done.iter().filter(|a| !desired.names(a, now.table)).cloned().collect();
    undo(&left, now)
}

impl Desired {
    /// Whether it speaks of what an action has set. `table` is the netdev's own.
    pub fn names(&self, action: &Action, table: u32) -> bool {
        match action {
            Action::SetMac(_) => self.mac.is_some(),
            Action::SetAlias(_) => self.alias.is_some(),
            Action::SetGsoMaxSize(_) => self.gso_max_size.is_some(),
            Action::SetMtu(_) => self.mtu.is_some(),
            // One that waits for another bridge is not left in this one meanwhile.
            Action::SetMaster(c) => self.master.is_some() && self.master == c.to,
            Action::SetIsolated(_) => self.isolated.is_some(),
            Action::SetForward4(_) => self.forward4.is_some(),
            Action::SetForward6(_) => self.forward6.is_some(),
            Action::SetUp(_) => self.up.is_some(),
            Action::AddAddress(a) | Action::DelAddress(a) => self.addresses.contains(a),
            Action::AddRoute(r) | Action::DelRoute(r) => {
                self.routes.iter().any(|wanted| wanted.in_table(table).same_as(&r.in_table(table)))
            }
        }
    }
}

/// A port that is released has no isolation to give back.
fn undo_forwarding_and_master(done: &[Action], now: &Observed) -> Vec<Action> {
    let forward6 = back(done, &now.forward6, |a| match a {
        Action::SetForward6(c) => Some(c),
        _ => None,
    });
    let forward4 = back(done, &now.forward4, |a| match a {
        Action::SetForward4(c) => Some(c),
        _ => None,
    });
    let master = back(done, &now.master, |a| match a {
        Action::SetMaster(c) => Some(c),
        _ => None,
    });
    let in_bridge = now.master.as_ref().is_some_and(|m| m.kind == MasterKind::Bridge);
    let isolated = back(done, &now.isolated, |a| match a {
        Action::SetIsolated(c) => Some(c),
        _ => None,
    });
    let isolated = isolated.filter(|_| in_bridge && master.is_none());
    forward6
        .map(Action::SetForward6)
        .into_iter()
        .chain(forward4.map(Action::SetForward4))
        .chain(isolated.map(Action::SetIsolated))
        .chain(master.map(Action::SetMaster))
        .collect()
}

/// The values that nothing else depends on.
fn undo_values(done: &[Action], now: &Observed) -> Vec<Action> {
    let gso = back(done, &now.gso_max_size, |a| match a {
        Action::SetGsoMaxSize(c) => Some(c),
        _ => None,
    });
    let alias = back(done, &now.alias, |a| match a {
        Action::SetAlias(c) => Some(c),
        _ => None,
    });
    let mac = back(done, &now.mac, |a| match a {
        Action::SetMac(c) => Some(c),
        _ => None,
    });
    gso.map(Action::SetGsoMaxSize)
        .into_iter()
        .chain(alias.map(Action::SetAlias))
        .chain(mac.filter(|c| c.to != Mac::default()).map(Action::SetMac))
        .collect()
}

/// The change back to the value of before all of `done`, if what was set last still stands.
fn back<T: Clone + PartialEq>(
    done: &[Action],
    now: &T,
    pick: impl Fn(&Action) -> Option<&Change<T>>,
) -> Option<Change<T>> {
    let mut changes = done.iter().filter_map(pick);
    let first = changes.next()?;
    let last = changes.next_back().unwrap_or(first);
    let moved = last.to == *now && first.was != *now;
    moved.then(|| Change { was: now.clone(), to: first.was.clone() })
}

/// The admin state of before all of `done`, if it differs and what was set last still stands.
fn up_before(done: &[Action], now: &Observed) -> Option<bool> {
    let mut states = done.iter().filter_map(|a| match a {
        Action::SetUp(up) => Some(*up),
        _ => None,
    });
    let first = states.next()?;
    let last = states.next_back().unwrap_or(first);
    // An action that sets up was planned because the link was down, and the other way round.
    (last == now.up && first == now.up).then_some(!first)
}
