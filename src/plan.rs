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
//! * addresses before routes: a next hop must be reachable through one of them.
//!
//! IPv6 link-local addresses and routes that the kernel makes by itself are nobody's: they are
//! neither wanted, nor undone, nor do they keep a link up.

pub mod prefix;
#[cfg(test)]
mod tests;
mod undo;

use std::fmt;
use std::net::IpAddr;

pub use prefix::{IpPrefix, PrefixError};
pub use undo::undo;

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
    /// Addresses that must be there, others may.
    pub addresses: Vec<IpPrefix>,
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
    /// All addresses without a peer, the kernel's own included.
    pub addresses: Vec<IpPrefix>,
    /// This end of each address with a peer. They are never ours.
    pub peer_addresses: Vec<IpPrefix>,
    /// Unicast routes of the main table through this link that somebody set.
    pub routes: Vec<Route>,
    /// Those that the kernel derived from addresses.
    pub kernel_routes: Vec<Route>,
}

impl Observed {
    fn has_route(&self, route: &Route) -> bool {
        self.routes.iter().chain(&self.kernel_routes).any(|r| r.same_as(route))
    }
}

/// A unicast route of the main table through the link that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The network it leads to, without host bits.
    pub to: IpPrefix,
    /// The next hop; `None` where the network is on the link itself.
    pub via: Option<IpAddr>,
    /// The metric; `None` is the kernel's default: 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
}

impl Route {
    /// A route as people write it: `to` is a network, or `default` where `via` tells the family.
    pub fn parse(to: &str, via: Option<IpAddr>, metric: Option<u32>) -> Result<Self, RouteError> {
        let to = match (to, via) {
            ("default", Some(via)) => IpPrefix::everything(via),
            ("default", None) => return Err(RouteError::DefaultOfNoFamily),
            _ => to.parse().map_err(RouteError::Destination)?,
        };
        to.check_network().map_err(RouteError::Destination)?;
        if to.addr().is_multicast() {
            return Err(RouteError::Multicast { to });
        }
        if let Some(via) = via {
            if via.is_ipv4() == to.is_ipv6() {
                return Err(RouteError::Family { to, via });
            }
            if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
                return Err(RouteError::Via { via });
            }
        }
        Ok(Self { to, via, metric })
    }

    /// The metric that the kernel uses: IPv6 knows no 0.
    pub fn effective_metric(&self) -> u32 {
        match (self.to.is_ipv6(), self.metric.unwrap_or(0)) {
            (true, 0) => 1024,
            (_, metric) => metric,
        }
    }

    /// Whether both would be one and the same to the kernel.
    pub fn same_as(&self, other: &Self) -> bool {
        self.rivals(other) && self.via == other.via
    }

    /// Whether the kernel has room for only one of the two: same network and metric.
    pub fn rivals(&self, other: &Self) -> bool {
        self.to.network() == other.to.network()
            && self.effective_metric() == other.effective_metric()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// Why a route cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The destination is no network.
    Destination(PrefixError),
    /// `default` without a next hop is of no family.
    DefaultOfNoFamily,
    /// A multicast network.
    Multicast {
        /// The destination.
        to: IpPrefix,
    },
    /// Destination and next hop are of different families.
    Family {
        /// The destination.
        to: IpPrefix,
        /// The next hop.
        via: IpAddr,
    },
    /// The next hop is no host.
    Via {
        /// The next hop.
        via: IpAddr,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(e) => write!(f, "{e}"),
            Self::DefaultOfNoFamily => {
                write!(f, "a default route needs `via`, or write 0.0.0.0/0 or ::/0")
            }
            Self::Multicast { to } => write!(f, "{to} is a multicast network: give a unicast one"),
            Self::Family { to, via } => {
                write!(f, "the route to {to} cannot go via {via}: both must be IPv4, or both IPv6")
            }
            Self::Via { via } => write!(f, "{via} cannot be a next hop: give a host's address"),
        }
    }
}

impl std::error::Error for RouteError {}

/// A value before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// The value that was observed.
    pub was: T,
    /// The value to set.
    pub to: T,
}

/// One change of one netdev. Each knows enough to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the Ethernet address.
    SetMac(Change<Mac>),
    /// Set the alias; `None` clears it.
    SetAlias(Change<Option<String>>),
    /// Set the largest GSO packet, in bytes.
    SetGsoMaxSize(Change<u32>),
    /// Set the MTU, in bytes.
    SetMtu(Change<u32>),
    /// Set the admin state.
    SetUp(bool),
    /// Add an address.
    AddAddress(IpPrefix),
    /// Remove an address.
    DelAddress(IpPrefix),
    /// Add a route through the link.
    AddRoute(Route),
    /// Remove a route through the link.
    DelRoute(Route),
}

impl Action {
    /// What is changed, as `ip` names it: `address 10.77.0.1/30`.
    pub fn object(&self) -> String {
        match self {
            Self::SetMac(c) => format!("MAC address {}", show_mac(&c.to)),
            Self::SetAlias(c) => format!("alias \"{}\"", c.to.as_deref().unwrap_or_default()),
            Self::SetGsoMaxSize(c) => format!("gso_max_size {}", c.to),
            Self::SetMtu(c) => format!("MTU {}", c.to),
            Self::SetUp(up) => format!("state {}", if *up { "up" } else { "down" }),
            Self::AddAddress(a) | Self::DelAddress(a) => format!("address {a}"),
            Self::AddRoute(r) | Self::DelRoute(r) => format!("route {r}"),
        }
    }

    /// What is done with the object.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::AddAddress(_) | Self::AddRoute(_) => "add",
            Self::DelAddress(_) | Self::DelRoute(_) => "remove",
            _ => "set",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.object())
    }
}

/// A MAC address as people write it.
fn show_mac(mac: &Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// The actions that make `observed` into `desired`, in order. Empty where nothing is missing.
///
/// Routes are left out while the link is or will be down, since the kernel takes none then: plan
/// again when it is up.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Some(c) = change(desired.mac.as_ref(), &observed.mac) {
        actions.push(Action::SetMac(c));
    }
    if let Some(alias) = &desired.alias {
        let to = Some(alias.clone()).filter(|a| !a.is_empty());
        actions.extend(change(Some(&to), &observed.alias).map(Action::SetAlias));
    }
    if let Some(c) = change(desired.gso_max_size.as_ref(), &observed.gso_max_size) {
        actions.push(Action::SetGsoMaxSize(c));
    }
    if let Some(c) = change(desired.mtu.as_ref(), &observed.mtu) {
        actions.push(Action::SetMtu(c));
    }
    let up = desired.up.unwrap_or(observed.up);
    if up != observed.up {
        actions.push(Action::SetUp(up));
    }
    let goes_down = observed.up && !up;
    for (i, address) in desired.addresses.iter().enumerate() {
        let stays = observed.addresses.contains(address) && !(goes_down && address.is_ipv6());
        if !stays && !desired.addresses[..i].contains(address) {
            actions.push(Action::AddAddress(*address));
        }
    }
    for (i, route) in desired.routes.iter().enumerate() {
        let twice = desired.routes[..i].iter().any(|r| r.same_as(route));
        if up && !twice && !observed.has_route(route) {
            actions.push(Action::AddRoute(*route));
        }
    }
    actions
}

/// The change from `was` to what is wanted, if that is something else.
fn change<T: Clone + PartialEq>(wanted: Option<&T>, was: &T) -> Option<Change<T>> {
    let to = wanted.filter(|to| *to != was)?;
    Some(Change { was: was.clone(), to: to.clone() })
}
