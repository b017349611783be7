//! Doing what a plan says.
//!
//! "There already" counts as success only for the very same object: the kernel gives EEXIST also
//! for an IPv6 address with another prefix length and for a route that leads elsewhere.
//!
//! Removing the first IPv4 address of a subnet removes the others in it, unless the link promotes
//! them; so it is made to do so for that moment.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

use super::observe::{name, observe_address, observe_route, out_link};
use super::{At, Failure, Netlink, NetlinkError};
use crate::plan::{Action, Address, MAIN_TABLE, Master, Route};

/// `IFLA_IFALIAS` of `linux/if_link.h`. An alias of no bytes clears it; the typed attribute adds a
/// zero byte.
const IFLA_IFALIAS: u16 = 20;
/// `IFLA_INET_CONF` of `linux/if_link.h`.
const IFLA_INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_FORWARDING` and `IPV4_DEVCONF_PROMOTE_SECONDARIES` of `linux/ip.h`.
const FORWARDING: u16 = 1;
const PROMOTE_SECONDARIES: u16 = 20;

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was changed, in order: ours to undo. Without what was there already.
    pub done: Vec<Action>,
    /// What could not be done, and why.
    pub failed: Vec<NetlinkError>,
}

impl Netlink {
    /// Does the actions to a link, as many as can be done.
    pub async fn apply(&self, at: impl Into<At<'_>>, actions: &[Action]) -> Applied {
        let at = at.into();
        let mut applied = Applied::default();
        if actions.is_empty() {
            return applied;
        }
        let index = match self.need_index(at).await {
            Ok(index) => index,
            Err(e) => {
                // With the link, its addresses and routes are gone too.
                applied.failed.push(e);
                return applied;
            }
        };
        for action in actions {
            match self.act(at.name, index, action).await {
                Ok(true) => applied.done.push(action.clone()),
                Ok(false) => {}
                Err(e) => applied.failed.push(e),
            }
        }
        applied
    }

    /// Does one action; false if there was nothing to do.
    async fn act(&self, name: &str, index: u32, action: &Action) -> Result<bool, NetlinkError> {
        let link = || LinkUnspec::new_with_index(index);
        let what = || format!("{} on {name}", action.object());
        let set = match action {
            Action::AddAddress(a) => return self.add_address(index, a, what()).await,
            Action::AddRoute(r) => return self.add_route(index, r, what()).await,
            Action::DelAddress(a) => {
                return self.del_address(index, a).await.map_err(NetlinkError::on(what));
            }
            Action::DelRoute(r) => {
                let message = RouteNetlinkMessage::DelRoute(route_message(index, r));
                return self.remove(message).await.map_err(NetlinkError::on(what));
            }
            Action::SetMac(c) => link().address(c.to.to_vec()),
            Action::SetAlias(c) => link().append_extra_attribute(LinkAttribute::Other(
                DefaultNla::new(IFLA_IFALIAS, c.to.clone().unwrap_or_default().into_bytes()),
            )),
            Action::SetGsoMaxSize(c) => {
                link().append_extra_attribute(LinkAttribute::GsoMaxSize(c.to))
            }
            Action::SetMtu(c) => link().mtu(c.to),
            Action::SetMaster(c) => {
                let master = self.master_index(c.to.as_ref()).await?;
                link().controller(master)
            }
            Action::SetIsolated(c) => {
                let isolated = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(c.to)]);
                let port =
                    vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(isolated)];
                let set = link().append_extra_attribute(LinkAttribute::LinkInfo(port));
                let message = RouteNetlinkMessage::NewLink(set.build());
                let done = self.socket.request(message, NLM_F_ACK).await;
                return done.map(|_| true).map_err(NetlinkError::on(what));
            }
            Action::SetForward4(c) => {
                let set = inet_setting(index, FORWARDING, c.to);
                return self.set_link(set).await.map(|()| true).map_err(NetlinkError::on(what));
            }
            Action::SetForward6(_) => return Err(NetlinkError::NotHere { what: what() }),
            Action::SetUp(true) => link().up(),
            Action::SetUp(false) => link().down(),
        };
        self.set_link(set.build()).await.map_err(NetlinkError::on(what))?;
        Ok(true)
    }

    async fn add_address(
        &self,
        index: u32,
        address: &Address,
        what: String,
    ) -> Result<bool, NetlinkError> {
        let mut message = address_message(index, address);
        if address.is_ipv6() {
            // A point-to-point link has nobody to ask; the address serves at once.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match self.create(RouteNetlinkMessage::NewAddress(message)).await {
            Ok(()) => return Ok(true),
            Err(e) if e.is(&[libc::EEXIST]) => {}
            Err(e) => return Err(NetlinkError::failed(what, e)),
        }
        let there = match self.addresses(index).await {
            Ok(there) => there,
            Err(e) => return Err(NetlinkError::failed(what, e)),
        };
        let there: Vec<_> = there.iter().filter_map(observe_address).collect();
        // One address may stand there several times, with other peers.
        match there.iter().find(|a| a.addr() == address.addr()) {
            _ if there.contains(address) => Ok(false),
            Some(a) => Err(NetlinkError::Conflict { what, with: format!("address {a}") }),
            // Removed in between; the next plan has it again.
            None => Ok(false),
        }
    }

    async fn add_route(
        &self,
        index: u32,
        route: &Route,
        what: String,
    ) -> Result<bool, NetlinkError> {
        let message = route_message(index, route);
        let family = message.header.address_family;
        match self.create(RouteNetlinkMessage::NewRoute(message)).await {
            Ok(()) => return Ok(true),
            Err(e) if e.is(&[libc::EEXIST]) => {}
            Err(e) => return Err(NetlinkError::failed(what, e)),
        }
        let route = &route.in_table(MAIN_TABLE);
        let there = match self.routes(family, None, route.table).await {
            Ok(there) => there,
            Err(e) => return Err(NetlinkError::failed(what, e)),
        };
        let mut rivals = there.iter().filter_map(|m| Some((observe_route(m)?, out_link(m))));
        match rivals.find(|(r, _)| r.rivals(route)) {
            Some((r, through)) if r.same_as(route) && through == Some(index) => Ok(false),
            Some((r, through)) => {
                let dev = match through {
                    Some(index) => self.link_name(index).await,
                    None => None,
                };
                let dev = dev.map_or_else(String::new, |name| format!(" dev {name}"));
                Err(NetlinkError::Conflict { what, with: format!("route {r}{dev}") })
            }
            None => Ok(false),
        }
    }

    async fn del_address(&self, index: u32, address: &Address) -> Result<bool, Failure> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        if address.is_ipv6() {
            return self.remove(message).await;
        }
        match self.promotes_secondaries(index).await {
            Ok(true) => return self.remove(message).await,
            Ok(false) => {
                self.set_link(inet_setting(index, PROMOTE_SECONDARIES, true)).await?;
            }
            Err(e) if e.is(&[libc::ENODEV]) => return Ok(false),
            Err(e) => return Err(e),
        }
        let removed = self.remove(message).await;
        self.set_link(inet_setting(index, PROMOTE_SECONDARIES, false)).await?;
        removed
    }

    /// Whether a subnet's next IPv4 address takes the place of a removed first one.
    async fn promotes_secondaries(&self, index: u32) -> Result<bool, Failure> {
        let link = self.get_link(LinkUnspec::new_with_index(index).build()).await?;
        let families = link.attributes.into_iter().flat_map(|a| match a {
            LinkAttribute::AfSpecUnspec(families) => families,
            _ => Vec::new(),
        });
        let mut settings = families.flat_map(|f| match f {
            AfSpecUnspec::Inet(settings) => settings,
            _ => Vec::new(),
        });
        Ok(settings.any(|s| matches!(s, AfSpecInet::DevConf(c) if c.promote_secondaries != 0)))
    }

    /// The link's name, for messages.
    async fn link_name(&self, index: u32) -> Option<String> {
        let link = self.get_link(LinkUnspec::new_with_index(index).build()).await.ok()?;
        name(link)
    }

    /// The index of a bridge or VRF; 0 for none.
    async fn master_index(&self, master: Option<&Master>) -> Result<u32, NetlinkError> {
        match master {
            None => Ok(0),
            Some(master) => self.need_index(&master.name).await,
        }
    }

    async fn create(&self, message: RouteNetlinkMessage) -> Result<(), Failure> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.socket.request(message, flags).await.map(drop)
    }

    /// Removes an address or a route; false if it was not there.
    async fn remove(&self, message: RouteNetlinkMessage) -> Result<bool, Failure> {
        match self.socket.request(message, NLM_F_ACK).await {
            Ok(_) => Ok(true),
            Err(e) if e.is(&[libc::EADDRNOTAVAIL, libc::ESRCH, libc::ENODEV]) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// `ip link set` for a switch of `net.ipv4.conf.LINK`, by its number in `linux/ip.h`.
fn inet_setting(index: u32, number: u16, on: bool) -> LinkMessage {
    // struct nlattr {len, type} and a u32, in the host's order (linux/netlink.h).
    let mut setting = Vec::new();
    setting.extend(8_u16.to_ne_bytes());
    setting.extend(number.to_ne_bytes());
    setting.extend(u32::from(on).to_ne_bytes());
    let settings = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, setting));
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![
            settings,
        ])]))
        .build()
}

/// IFA_LOCAL is this end, IFA_ADDRESS the peer, or this end again.
fn address_message(index: u32, address: &Address) -> AddressMessage {
    let (local, len) = (address.addr(), address.prefix.prefix_len());
    let mut message = AddressMessage::default();
    message.header.family = family_of(local);
    message.header.prefix_len = len;
    message.header.scope = address.scope.0.into();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(local),
        AddressAttribute::Address(address.peer.unwrap_or(local)),
    ];
    if let (IpAddr::V4(local), None, ..31) = (local, address.peer, len) {
        let host_bits = u32::MAX.checked_shr(len.into()).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(local.to_bits() | host_bits);
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn family_of(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// The route's message for adding, and for removing this one only: it names the protocol too.
fn route_message(index: u32, route: &Route) -> RouteMessage {
    let to = route.to.network();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(to.addr()),
        destination_prefix_length: to.prefix_len(),
        // The attribute has room for all of its number.
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::Static,
        scope: match route.via {
            None if !to.is_ipv6() => RouteScope::Link,
            _ => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        flags: if route.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table.unwrap_or(MAIN_TABLE)));
    if to.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::from(to.addr())));
    }
    attributes.push(RouteAttribute::Oif(index));
    attributes.extend(route.via.map(|via| match via {
        IpAddr::V6(via) if !to.is_ipv6() => RouteAttribute::Via(RouteVia::Inet6(via)),
        via => RouteAttribute::Gateway(RouteAddress::from(via)),
    }));
    attributes.extend(route.source.map(|a| RouteAttribute::PrefSource(RouteAddress::from(a))));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}
