//! Reading what a netdev is: link, addresses, routes, counters.
//!
//! These are several dumps, and the kernel's state may change between them; a plan made from them
//! may then hold an action that turns out to be done already, which applying it takes for success.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoBridgePort, InfoKind, InfoPortData, InfoVrf,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::LinkUnspec;

use super::{At, Failure, Netlink, NetlinkError};
use crate::plan::route::LOCAL_TABLE;
use crate::plan::{
    Address, Desired, IpPrefix, MAIN_TABLE, Master, MasterKind, Observed, Route, Scope,
};

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
    /// What a link is, `None` if there is none.
    pub async fn observe(&self, at: impl Into<At<'_>>) -> Result<Option<Observed>, NetlinkError> {
        let at = at.into();
        let Some(link) = self.link(at).await? else { return Ok(None) };
        let mut observed = observe_link(&link);
        match self.observe_around(&link, &mut observed).await {
            // A dump filtered by a link fails where the link is gone.
            Err(e) if e.is(&[libc::ENODEV]) => Ok(None),
            Err(e) => Err(NetlinkError::failed(format!("addresses and routes of {}", at.name), e)),
            Ok(()) => Ok(Some(observed)),
        }
    }

    /// What the link is that is to become `desired`, and what there is of what that asks for.
    pub async fn observe_for(
        &self,
        at: At<'_>,
        desired: &Desired,
    ) -> Result<Option<Observed>, NetlinkError> {
        let Some(mut observed) = self.observe(at).await? else { return Ok(None) };
        if let Some(master) = &desired.master {
            observed.wanted_master = self.link(&master.name).await?.map(|link| kind(&link));
        }
        Ok(Some(observed))
    }

    /// What `ip -s link` counts of a link, `None` if there is none.
    pub async fn stats(&self, at: impl Into<At<'_>>) -> Result<Option<LinkStats>, NetlinkError> {
        let Some(link) = self.link(at).await? else { return Ok(None) };
        Ok(link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Stats64(s) => Some(stats(s)),
            _ => None,
        }))
    }

    async fn observe_around(
        &self,
        link: &LinkMessage,
        observed: &mut Observed,
    ) -> Result<(), Failure> {
        let master = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Controller(index) if *index != 0 => Some(*index),
            _ => None,
        });
        if let Some(index) = master {
            let master = self.get_link(LinkUnspec::new_with_index(index).build()).await?;
            let kind = kind(&master);
            observed.master = name(master).map(|name| Master { name, kind });
        }
        for message in self.addresses(observed.index).await? {
            observed.addresses.extend(observe_address(&message));
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.routes(family, Some(observed.index), None).await? {
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

    /// The unicast routes through one link or all, of one table or all but the local one.
    pub(super) async fn routes(
        &self,
        family: AddressFamily,
        through: Option<u32>,
        table: Option<u32>,
    ) -> Result<Vec<RouteMessage>, Failure> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        if self.socket.is_strict() {
            message.attributes.extend(table.map(RouteAttribute::Table));
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
        let is_of = |r: &RouteMessage| {
            let found = table_of(r);
            found != LOCAL_TABLE && table.is_none_or(|table| table == found) && is_unicast(r)
        };
        Ok(routes.filter(is_of).collect())
    }
}

fn observe_link(link: &LinkMessage) -> Observed {
    let mut observed = Observed {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        gso_max_size: GSO_LEGACY_MAX_SIZE,
        table: MAIN_TABLE,
        ..Observed::default()
    };
    observe_attributes(link, &mut observed);
    observed
}

fn observe_attributes(link: &LinkMessage, observed: &mut Observed) {
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
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|i| observe_port(i, observed)),
            LinkAttribute::AfSpecUnspec(families) => {
                families.iter().for_each(|family| observe_forwarding(family, observed));
            }
            _ => {}
        }
    }
}

/// What it is as a part of its master.
fn observe_port(info: &LinkInfo, observed: &mut Observed) {
    match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            observed.isolated = port.iter().any(|p| matches!(p, InfoBridgePort::Isolated(true)));
        }
        LinkInfo::PortData(InfoPortData::VrfPort(port)) => {
            let table = port.iter().find_map(|p| match p {
                InfoVrf::TableId(table) => Some(*table),
                _ => None,
            });
            observed.table = table.unwrap_or(observed.table);
        }
        _ => {}
    }
}

fn observe_forwarding(family: &AfSpecUnspec, observed: &mut Observed) {
    match family {
        AfSpecUnspec::Inet(settings) => {
            let on = |s: &AfSpecInet| matches!(s, AfSpecInet::DevConf(c) if c.forwarding != 0);
            observed.forward4 = settings.iter().any(on);
        }
        AfSpecUnspec::Inet6(settings) => {
            let on =
                |s: &AfSpecInet6| matches!(s, AfSpecInet6::DevConf(c) if c.force_forwarding != 0);
            observed.forward6 = settings.iter().any(on);
        }
        _ => {}
    }
}

/// What a link is to those in it.
fn kind(link: &LinkMessage) -> MasterKind {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let kind = infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Bridge) => Some(MasterKind::Bridge),
        LinkInfo::Kind(InfoKind::Vrf) => Some(MasterKind::Vrf),
        _ => None,
    });
    kind.unwrap_or(MasterKind::Other)
}

/// The link's name.
pub(super) fn name(link: LinkMessage) -> Option<String> {
    link.attributes.into_iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

/// IFA_LOCAL is this end; where it is missing (IPv6 without a peer), IFA_ADDRESS is. Where they
/// differ, the other one is the peer.
pub(super) fn observe_address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            _ => {}
        }
    }
    let peer = address.filter(|address| local.is_some_and(|local| local != *address));
    let prefix = IpPrefix::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Address { prefix, peer, scope: Scope(message.header.scope.into()) })
}

fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(t) => Some(*t),
        _ => None,
    });
    table.unwrap_or(message.header.table.into())
}

fn is_unicast(message: &RouteMessage) -> bool {
    let header = &message.header;
    header.kind == RouteType::Unicast
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
    let mut to = like;
    let mut route = Route::new(IpPrefix::everything(like), None, None);
    route.table = Some(table_of(message));
    route.onlink = message.header.flags.contains(RouteFlags::Onlink);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = ip(a)?,
            RouteAttribute::Gateway(a) => route.via = Some(ip(a)?),
            RouteAttribute::Via(RouteVia::Inet6(a)) => route.via = Some(IpAddr::V6(*a)),
            RouteAttribute::Priority(m) => route.metric = Some(*m),
            RouteAttribute::PrefSource(a) => route.source = Some(ip(a)?),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    route.to = IpPrefix::new(to, message.header.destination_prefix_length).ok()?;
    Some(route)
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
