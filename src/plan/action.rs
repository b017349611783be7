//! One change of one netdev.

use std::fmt;

use super::{Address, Mac, Master, Route};

/// A value before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// The value that was observed.
    pub was: T,
    /// The value to set.
    pub to: T,
}

impl<T: Clone + PartialEq> Change<T> {
    /// The change from `was` to what is wanted, if that is something else.
    pub fn between(wanted: Option<&T>, was: &T) -> Option<Self> {
        let to = wanted.filter(|to| *to != was)?;
        Some(Self { was: was.clone(), to: to.clone() })
    }
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
    /// Make it a port of a bridge, or a part of a VRF; `None` takes it out.
    SetMaster(Change<Option<Master>>),
    /// Whether it exchanges frames with the bridge's other isolated ports.
    SetIsolated(Change<bool>),
    /// Whether what comes by it is forwarded by IPv4.
    SetForward4(Change<bool>),
    /// Whether what comes by it is forwarded by IPv6. It is a sysctl, which netlink does not set.
    SetForward6(Change<bool>),
    /// Set the admin state.
    SetUp(bool),
    /// Add an address.
    AddAddress(Address),
    /// Remove an address.
    DelAddress(Address),
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
            Self::SetMaster(c) => format!("master {}", show_master(c.to.as_ref())),
            Self::SetIsolated(c) => format!("isolated {}", on_off(c.to)),
            Self::SetForward4(c) => format!("IPv4 forwarding {}", on_off(c.to)),
            Self::SetForward6(c) => format!("IPv6 forwarding {}", on_off(c.to)),
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

    /// What there is instead of what the action would make: `MTU is 1400, not 9000`.
    pub fn difference(&self) -> String {
        let is_not = |what: &str, was: &dyn fmt::Display, to: &dyn fmt::Display| {
            format!("{what} is {was}, not {to}")
        };
        match self {
            Self::SetMac(c) => is_not("MAC address", &show_mac(&c.was), &show_mac(&c.to)),
            Self::SetAlias(c) => {
                let [was, to] = [&c.was, &c.to].map(|a| a.as_deref().unwrap_or_default());
                format!("alias is {was:?}, not {to:?}")
            }
            Self::SetGsoMaxSize(c) => is_not("gso_max_size", &c.was, &c.to),
            Self::SetMtu(c) => is_not("MTU", &c.was, &c.to),
            Self::SetMaster(c) => {
                is_not("master", &show_master(c.was.as_ref()), &show_master(c.to.as_ref()))
            }
            Self::SetIsolated(c) => is_not("isolated", &on_off(c.was), &on_off(c.to)),
            Self::SetForward4(c) => is_not("IPv4 forwarding", &on_off(c.was), &on_off(c.to)),
            Self::SetForward6(c) => is_not("IPv6 forwarding", &on_off(c.was), &on_off(c.to)),
            Self::SetUp(up) => {
                let [was, to] = if *up { ["down", "up"] } else { ["up", "down"] };
                is_not("state", &was, &to)
            }
            Self::AddAddress(_) | Self::AddRoute(_) => format!("{} is missing", self.object()),
            Self::DelAddress(_) | Self::DelRoute(_) => format!("{} is there", self.object()),
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

fn show_master(master: Option<&Master>) -> &str {
    master.map_or("none", |master| &master.name)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
