//! Reading what a netdev is: link, addresses, routes, counters.
//!
//! These are several dumps, and the kernel's state may change between them; a plan made from them
//! may then hold an action that turns out to be done already, which applying it takes for success.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Stats64};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Failure, Netlink, NetlinkError};
use crate::plan::{IpPrefix, Observed, Route};

/// A kernel that does not tell has the limit of before it could be set: `GSO_LEGACY_MAX_SIZE`.
const GSO_LEGACY_MAX_SIZE: u32 = 65536;

/// What `ip -s link` counts of a link since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames that the kernel received from the link.
    pub rx_packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub rx_bytes: u64,
    /// Frames that were bad.
    pub rx_errors: u64,
    /// Frames dropped on receive.
    pub rx_dropped: u64,
    /// Frames that the kernel sent to the link.
    pub tx_packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub tx_bytes: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames dropped on sending.
    pub tx_dropped: u64,
}

impl Netlink {
    /// What the link `name` is, `None` if there is none.
    pub async fn observe(&self, name: &str) -> Result<Option<Observed>, NetlinkError> {
        let Some(link) = self.link(name).await? else { return Ok(None) };
        let mut observed = observe_link(&link);
        match self.observe_ip(&mut observed).await {
            // A dump filtered by a link fails where the link is gone.
            Err(e) if e.is(&[libc::ENODEV]) => Ok(None),
            Err(e) => Err(NetlinkError::failed(format!("addresses and routes of {name}"), e)),
            Ok(()) => Ok(Some(observed)),
        }
    }

    /// What `ip -s link` counts of the link `name`, `None` if there is none.
    pub async fn stats(&self, name: &str) -> Result<Option<LinkStats>, NetlinkError> {
        let Some(link) = self.link(name).await? else { return Ok(None) };
        Ok(link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Stats64(s) => Some(stats(s)),
            _ => None,
        }))
    }

    async fn observe_ip(&self, observed: &mut Observed) -> Result<(), Failure> {
        for message in self.addresses(observed.index).await? {
            if let Some((address, has_peer)) = observe_address(&message) {
                let list =
                    if has_peer { &mut observed.peer_addresses } else { &mut observed.addresses };
                list.push(address);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.routes(family, Some(observed.index)).await? {
                if out_link(&message) != Some(observed.index) {
                    continue;
                }
                if let Some(route) = observe_route(&message) {
                    let list = if message.header.protocol == RouteProtocol::Kernel {
                        &mut observed.kernel_routes
                    } else {
                        &mut observed.routes
                    };
                    list.push(route);
                }
            }
        }
        Ok(())
    }

    /// The addresses of one link.
    pub(super) async fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>, Failure> {
        let mut message = AddressMessage::default();
        if self.socket.is_strict() {
            message.header.index = index;
        }
        let answer = self.socket.dump(RouteNetlinkMessage::GetAddress(message)).await?;
        let addresses = answer.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewAddress(a) if a.header.index == index => Some(a),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// The unicast routes of the main table, through one link or all.
    pub(super) async fn routes(
        &self,
        family: AddressFamily,
        through: Option<u32>,
    ) -> Result<Vec<RouteMessage>, Failure> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        if self.socket.is_strict() {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.extend(through.map(RouteAttribute::Oif));
        }
        let answer = match self.socket.dump(RouteNetlinkMessage::GetRoute(message)).await {
            // A kernel without this family has no routes of it; a table nobody used is not there.
            Err(e) if e.is(&[libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT]) => Vec::new(),
            answer => answer?,
        };
        let routes = answer.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewRoute(r) if r.header.address_family == family => Some(r),
            _ => None,
        });
        Ok(routes.filter(is_unicast_of_main_table).collect())
    }
}

fn observe_link(link: &LinkMessage) -> Observed {
    let mut observed = Observed {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        gso_max_size: GSO_LEGACY_MAX_SIZE,
        ..Observed::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) if !alias.is_empty() => {
                observed.alias = Some(alias.clone());
            }
            LinkAttribute::Address(mac) => {
                observed.mac = mac.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => observed.mtu = *mtu,
            LinkAttribute::GsoMaxSize(size) => observed.gso_max_size = *size,
            _ => {}
        }
    }
    observed
}

/// This end's address, and whether it has a peer. IFA_LOCAL is this end; where it is missing (IPv6
/// without a peer), IFA_ADDRESS is.
pub(super) fn observe_address(message: &AddressMessage) -> Option<(IpPrefix, bool)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            _ => {}
        }
    }
    let has_peer = local.is_some() && address.is_some() && local != address;
    let prefix = IpPrefix::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((prefix, has_peer))
}

fn is_unicast_of_main_table(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(t) => Some(*t),
        _ => None,
    });
    table.unwrap_or(header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned)
}

/// The link that a route leads through; `None` for a route with several next hops.
pub(super) fn out_link(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The route, `None` where it says more than a [`Route`] can.
pub(super) fn observe_route(message: &RouteMessage) -> Option<Route> {
    let like = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut to, mut via, mut metric) = (like, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = ip(a)?,
            RouteAttribute::Gateway(a) => via = Some(ip(a)?),
            RouteAttribute::Priority(m) => metric = Some(*m),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    let to = IpPrefix::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { to, via, metric })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn stats(s: &Stats64) -> LinkStats {
    LinkStats {
        rx_packets: s.rx_packets,
        rx_bytes: s.rx_bytes,
        rx_errors: s.rx_errors,
        rx_dropped: s.rx_dropped,
        tx_packets: s.tx_packets,
        tx_bytes: s.tx_bytes,
        tx_errors: s.tx_errors,
        tx_dropped: s.tx_dropped,
    }
}
