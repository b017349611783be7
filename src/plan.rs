//! The netlink plan of one netdev: which actions turn what is there into what is wanted.
//!
//! [`plan`] compares a [`Desired`] with an [`Observed`] and gives the [`Action`]s that are missing,
//! in an order in which the kernel takes them; where all of them succeed, the next plan is empty.
//! What a `Desired` does not name (`None`, an address or route that is not listed) follows the
//! operator. [`undo`] gives what takes the done actions back, and leaves alone what somebody
//! changed since.
//!
//! The order, and why:
//! * MAC address before up: the kernel derives the IPv6 link-local address when the link goes up;
//! * MTU before addresses: an MTU below 1280 deletes them (RFC 8200 §5 asks for 1280);
//! * up or down before addresses: down deletes IPv6 addresses and all routes;
//! * bridge and VRF before up: a port forwards nothing before it is isolated, and a netdev that comes
//!   into a VRF, or leaves it, is set down by the kernel and up again;
//! * addresses before routes: a next hop must be reachable through one of them.
//!
//! IPv6 link-local addresses and routes that the kernel makes by itself are nobody's: they are
//! neither wanted, nor undone, nor do they keep a link up.

pub mod action;
pub mod address;
pub mod prefix;
pub mod route;
#[cfg(test)]
mod tests;
mod undo;

pub use action::{Action, Change};
pub use address::{Address, Scope};
pub use prefix::{IpPrefix, PrefixError};
pub use route::{MAIN_TABLE, Route, RouteError};
pub use undo::{leftovers, undo};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The smallest MTU with which the kernel runs IPv6 on a link, in bytes (RFC 8200 §5).
pub const IPV6_MIN_MTU: u32 = 1280;

/// What one netdev shall be. `None` means: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The netdev's name. A plan does not rename; the name finds the link.
    pub name: String,
    /// The interface alias, as `ip link` shows it.
    pub alias: Option<String>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The MTU in bytes, without the Ethernet header.
    pub mtu: Option<u32>,
    /// Admin state.
    pub up: Option<bool>,
    /// The largest GSO packet that the stack may hand to the link, in bytes.
    pub gso_max_size: Option<u32>,
    /// The bridge that it is to be a port of, or the VRF that it is to be in. It is somebody else's,
    /// and waited for.
    pub master: Option<Master>,
    /// Whether the bridge keeps it from other isolated ports.
    pub isolated: Option<bool>,
    /// Whether what comes by it is forwarded, by IPv4.
    pub forward4: Option<bool>,
    /// The same by IPv6.
    pub forward6: Option<bool>,
    /// Addresses that must be there, others may.
    pub addresses: Vec<Address>,
    /// Routes through this link that must be there, others may.
    pub routes: Vec<Route>,
}

/// What one netdev is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The kernel's index of the link; it changes when the link is made anew.
    pub index: u32,
    /// The interface alias.
    pub alias: Option<String>,
    /// The Ethernet address; all zero where the link has none.
    pub mac: Mac,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Admin state (`IFF_UP`), not the carrier.
    pub up: bool,
    /// The largest GSO packet in bytes.
    pub gso_max_size: u32,
    /// What it is a port of, or in.
    pub master: Option<Master>,
    /// What the link is that the wanted master's name stands for, if there is one.
    pub wanted_master: Option<MasterKind>,
    /// Whether its bridge keeps it from other isolated ports.
    pub isolated: bool,
    /// Whether what comes by it is forwarded, by IPv4.
    pub forward4: bool,
    /// The same by IPv6, which the kernel has a switch for since Linux 6.17.
    pub forward6: bool,
    /// The table of its own routes: main, or that of its VRF.
    pub table: u32,
    /// All addresses, the kernel's own included.
    pub addresses: Vec<Address>,
    /// Unicast routes through this link that somebody set, with their tables.
    pub routes: Vec<Route>,
    /// Those that the kernel derived from addresses.
    pub kernel_routes: Vec<Route>,
}

/// What a netdev is a port of, or in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: MasterKind,
}

/// What a link is to those in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterKind {
    /// It passes frames from port to port.
    Bridge,
    /// It is a routing domain of its own (`Documentation/networking/vrf.rst`).
    Vrf,
    /// Something else.
    Other,
}

impl MasterKind {
    /// As config and `ip` name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vrf => "VRF",
            Self::Other => "master",
        }
    }
}

impl Observed {
    fn has_route(&self, route: &Route) -> bool {
        self.routes.iter().chain(&self.kernel_routes).any(|r| r.same_as(route))
    }
}

/// The actions that make `observed` into `desired`, in order. Empty where nothing is missing.
///
/// Routes are left out while the link is or will be down, since the kernel takes none then, and
/// where the VRF changes, since they are of its table then: plan again when it is done.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(Change::between(desired.mac.as_ref(), &observed.mac).map(Action::SetMac));
    if let Some(alias) = &desired.alias {
        let to = Some(alias.clone()).filter(|a| !a.is_empty());
        actions.extend(Change::between(Some(&to), &observed.alias).map(Action::SetAlias));
    }
    let gso = Change::between(desired.gso_max_size.as_ref(), &observed.gso_max_size);
    actions.extend(gso.map(Action::SetGsoMaxSize));
    actions.extend(Change::between(desired.mtu.as_ref(), &observed.mtu).map(Action::SetMtu));
    let moves = plan_master(desired, observed, &mut actions);
    let forward4 = Change::between(desired.forward4.as_ref(), &observed.forward4);
    actions.extend(forward4.map(Action::SetForward4));
    let forward6 = Change::between(desired.forward6.as_ref(), &observed.forward6);
    actions.extend(forward6.map(Action::SetForward6));
    let up = desired.up.unwrap_or(observed.up);
    if up != observed.up {
        actions.push(Action::SetUp(up));
    }
    let goes_down = observed.up && (!up || moves);
    for (i, address) in desired.addresses.iter().enumerate() {
        let stays = observed.addresses.contains(address) && !(goes_down && address.is_ipv6());
        if !stays && !desired.addresses[..i].contains(address) {
            actions.push(Action::AddAddress(*address));
        }
    }
    let routes: Vec<_> = desired.routes.iter().map(|r| r.in_table(observed.table)).collect();
    for (i, route) in routes.iter().enumerate() {
        let twice = routes[..i].iter().any(|r| r.same_as(route));
        if up && !moves && !twice && !observed.has_route(route) {
            actions.push(Action::AddRoute(*route));
        }
    }
    actions
}

/// What is missing of bridge or VRF; says whether the netdev leaves a VRF or comes into one. The
/// kernel then sets it down and up again.
fn plan_master(desired: &Desired, observed: &Observed, actions: &mut Vec<Action>) -> bool {
    let wanted = desired.master.as_ref();
    // Another one of this name is not what is wanted; none at all is waited for.
    let there = wanted.filter(|wanted| observed.wanted_master == Some(wanted.kind)).cloned();
    let change = there.and_then(|to| Change::between(Some(&Some(to)), &observed.master));
    let is = |master: &Option<Master>, kind| master.as_ref().is_some_and(|m| m.kind == kind);
    let stays = change.is_none();
    let master = change.as_ref().map_or(&observed.master, |change| &change.to);
    let of_vrf = |master| is(master, MasterKind::Vrf);
    let moves = !stays && (of_vrf(master) || of_vrf(&observed.master));
    let isolated =
        desired.isolated.filter(|_| is(master, MasterKind::Bridge) && wanted == master.as_ref());
    // A port is new without it.
    let isolated = Change::between(isolated.as_ref(), &(observed.isolated && stays));
    actions.extend(change.map(Action::SetMaster));
    actions.extend(isolated.map(Action::SetIsolated));
    moves
}

/// Why the wanted master cannot be had yet, if so.
pub fn waits_for(desired: &Desired, observed: &Observed) -> Option<String> {
    let Master { name, kind } = desired.master.as_ref()?;
    match observed.wanted_master {
        None => Some(format!("{} {name} does not exist yet", kind.name())),
        Some(found) if found != *kind => Some(format!("{name} is no {}", kind.name())),
        Some(_) => None,
    }
}
