//! Reads and checks the keys that say what a link's netdev is to be: addresses, routes, VLANs, and
//! what it is a part of.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use super::ip;
use super::problem::quoted;
use super::reader::{self, Place, Reader};
use super::{LinkConfig, MTU_MIN_IPV6, Route};
use crate::os::tap::NAME_MAX;
use crate::plan::address::scope_of;
use crate::plan::route::LOCAL_TABLE;
use crate::plan::{Address, Master, MasterKind, Scope};

/// Ids of VLANs (IEEE 802.1Q): 0 and 4095 mean something else.
const VLAN_IDS: RangeInclusive<u32> = 1..=4094;

/// What a link's netdev is to be beside its addresses and routes. `None` follows the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetdevKeys {
    /// The bridge or VRF that it is a part of.
    pub master: Option<Master>,
    /// Whether the bridge keeps it from other isolated ports.
    pub isolated: Option<bool>,
    /// Whether what comes by it is forwarded.
    pub forward: Option<bool>,
    /// Whether what somebody else changes is set again, and not only reported.
    pub reconcile: bool,
    /// Its sub-interfaces, each with another id.
    pub vlans: Vec<VlanConfig>,
}

impl Default for NetdevKeys {
    fn default() -> Self {
        Self { master: None, isolated: None, forward: None, reconcile: true, vlans: Vec::new() }
    }
}

/// A VLAN of a link: a sub-interface with the netdev's name, a dot and the id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanConfig {
    /// The VLAN's id, 1 to 4094 (IEEE 802.1Q).
    pub id: u16,
    /// The sub-interface's addresses.
    pub addresses: Vec<Address>,
    /// Routes through the sub-interface.
    pub routes: Vec<Route>,
}

impl LinkConfig {
    /// Whether it gives the netdev, or a VLAN, anything of IPv6.
    pub fn has_ipv6(&self) -> bool {
        let vlans = &self.netdev.vlans;
        let mut addresses = vlans.iter().flat_map(|vlan| &vlan.addresses).chain(&self.addresses);
        let mut routes = vlans.iter().flat_map(|vlan| &vlan.routes).chain(&self.routes);
        addresses.any(Address::is_ipv6) || routes.any(|route| route.to.is_ipv6())
    }
}

impl VlanConfig {
    /// The name of the sub-interface of `link`.
    pub fn netdev(&self, link: &str) -> String {
        format!("{link}.{}", self.id)
    }
}

/// What is read of a link.
#[derive(Default)]
pub(super) struct Read {
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    pub(super) keys: NetdevKeys,
}

/// What addresses and routes of a netdev are judged by.
struct Scene<'a> {
    /// The link's name, if it is right.
    name: Option<&'a str>,
    /// Namespace and VRF, within which addresses and routes are unique.
    home: String,
    /// The netdev itself has no addresses and routes.
    is_port: bool,
    /// Its addresses and each VLAN's; `None` where one is not right.
    own: Option<Vec<Address>>,
    vlans: Vec<(u16, Option<Vec<Address>>)>,
}

/// Reads the keys; `netns` is the namespace.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    name: Option<&str>,
    netns: &str,
    mtu: Option<u16>,
) -> Read {
    let master = read_master(reader, table, name);
    let isolated = reader.boolean(table, "isolated");
    let forward = reader.boolean(table, "forward");
    let reconcile = reader.boolean(table, "reconcile").unwrap_or(true);
    check_port(reader, table, master.as_ref());
    let vrf = master.as_ref().filter(|master| master.kind == MasterKind::Vrf);
    let home = match vrf {
        Some(vrf) => format!("{netns} {}", vrf.name),
        None => netns.to_owned(),
    };
    let own = read_addresses(reader, table, &home);
    let is_port = master.as_ref().is_some_and(|master| master.kind == MasterKind::Bridge);
    let mut scene = Scene { name, home, is_port, own, vlans: Vec::new() };
    let entries = read_vlans(reader, table, &mut scene);
    let mut vlans: Vec<_> = scene
        .vlans
        .iter()
        .map(|(id, addresses)| VlanConfig {
            id: *id,
            addresses: addresses.clone().unwrap_or_default(),
            routes: Vec::new(),
        })
        .collect();
    let mut routes = Vec::new();
    for (dev, route) in read_routes(reader, table, None, &scene) {
        match vlans.iter_mut().find(|vlan| Some(vlan.id) == dev) {
            Some(vlan) => vlan.routes.push(route),
            None => routes.push(route),
        }
    }
    for (id, table) in entries {
        let more = read_routes(reader, table, Some(id), &scene);
        if let Some(vlan) = vlans.iter_mut().find(|vlan| vlan.id == id) {
            vlan.routes.extend(more.into_iter().map(|(_, route)| route));
        }
    }
    let addresses = scene.own.unwrap_or_default();
    let keys = NetdevKeys { master, isolated, forward, reconcile, vlans };
    let read = Read { addresses, routes, keys };
    check_mtu(reader, table, mtu, &read);
    read
}

fn read_master(reader: &mut Reader<'_>, table: &DeTable<'_>, own: Option<&str>) -> Option<Master> {
    let mut one = |key, kind| {
        let (name, place) = reader.string(table, key)?;
        let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%' | '*');
        let good = (1..=NAME_MAX).contains(&name.len()) && !name.contains(bad);
        if !good || matches!(name, "." | ".." | "all" | "default" | "lo") || own == Some(name) {
            let what = format!("{} can be no {key}'s name", quoted(name));
            reader.problem(place, what, "write the name of one, of at most 15 bytes");
            return None;
        }
        Some(Master { name: name.to_owned(), kind })
    };
    let bridge = one("bridge", MasterKind::Bridge);
    let vrf = one("vrf", MasterKind::Vrf);
    if let (Some(_), Some(value)) = (&bridge, table.get("vrf")) {
        let what = "a netdev is a port of a bridge, or in a VRF, not both";
        reader.problem(value.span(), what, "take one out, and put the bridge itself into the VRF");
    }
    bridge.or(vrf)
}

/// Refuses what a bridge's port cannot have, and what only one can.
fn check_port(reader: &mut Reader<'_>, table: &DeTable<'_>, master: Option<&Master>) {
    if let (Some(value), false) = (table.get("isolated"), table.contains_key("bridge")) {
        let what = "isolated speaks of a bridge's port, and this link is none";
        reader.problem(value.span(), what, r#"add bridge = "br0", or take this line out"#);
    }
    let Some(bridge) = master.filter(|master| master.kind == MasterKind::Bridge) else { return };
    for (key, remedy) in [
        ("address", format!("give it to the bridge: ip address add ADDRESS dev {}", bridge.name)),
        ("forward", format!("set it for the bridge: net.ipv4.conf.{}.forwarding", bridge.name)),
    ] {
        let Some(value) = table.get(key) else { continue };
        let is_nothing = match value.get_ref() {
            DeValue::Array(items) => items.is_empty(),
            other => other.as_bool() == Some(false),
        };
        if !is_nothing {
            let what =
                format!("a port of {} takes no packets itself, so it has no {key}", bridge.name);
            reader.problem(value.span(), what, remedy);
        }
    }
}

/// The addresses of a netdev; `None` if one of them is not right.
fn read_addresses(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    home: &str,
) -> Option<Vec<Address>> {
    let mut addresses = Vec::new();
    let Some(value) = table.get("address") else { return Some(addresses) };
    let DeValue::Array(items) = value.get_ref() else {
        reader.wrong_type("address", value.get_ref(), value.span());
        return None;
    };
    let mut all = true;
    for item in items {
        let address = match item.get_ref() {
            DeValue::String(text) => ip::address(text).map(Address::from).map_err(|wrong| {
                reader.wrong::<()>(item.span(), wrong);
            }),
            DeValue::Table(table) => read_address(reader, table, item.span()).ok_or(()),
            other => {
                reader.wrong_entry("address", other, item.span());
                Err(())
            }
        };
        let Ok(address) = address else {
            all = false;
            continue;
        };
        // One end may have many others.
        let peer = address.peer.map(|peer| format!(" peer {peer}")).unwrap_or_default();
        let value = format!("{}{peer}\n{home}", address.addr());
        reader.once("address", value, &item.span(), "give each link its own address");
        addresses.push(address);
    }
    all.then_some(addresses)
}

/// An address with what is beside it.
fn read_address(reader: &mut Reader<'_>, table: &DeTable<'_>, place: Place) -> Option<Address> {
    reader.known_keys(table, reader::ADDRESS);
    let peer = reader.string(table, "peer");
    let scope = read_scope(reader, table);
    let Some((text, place)) = reader.string(table, "address") else {
        if !table.contains_key("address") {
            let remedy = r#"add address = "10.77.0.1/30""#;
            reader.problem(place, "this entry has no address", remedy);
        }
        return None;
    };
    // The peer's length counts.
    let alone = text.parse::<IpAddr>().ok().filter(|_| peer.is_some());
    let text = match alone {
        Some(alone) => &format!("{alone}/{}", if alone.is_ipv6() { 128 } else { 32 }),
        None => text,
    };
    let mut address = match ip::address(text) {
        Ok(prefix) => Address::from(prefix),
        Err(wrong) => return reader.wrong(place, wrong),
    };
    if let Some((text, place)) = peer {
        match ip::peer(text, address.prefix) {
            Ok((prefix, peer)) => (address.prefix, address.peer) = (prefix, Some(peer)),
            Err(wrong) => return reader.wrong(place, wrong),
        }
    }
    if let (Some((scope, place)), own) = (scope?, scope_of(address.addr())) {
        if address.is_ipv6() && scope != own {
            let what =
                format!("the kernel derives an IPv6 address's scope: {} is {own}", address.addr());
            reader.problem(place, what, "take scope out");
            return None;
        }
        address.scope = scope;
    }
    Some(address)
}

/// The scope, if there is one; `None` if it is not right.
fn read_scope(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Option<(Scope, Place)>> {
    let Some(value) = table.get("scope") else { return Some(None) };
    let text = match value.get_ref() {
        DeValue::Integer(number) => number.to_string(),
        DeValue::String(text) => text.to_string(),
        other => {
            reader.wrong_type("scope", other, value.span());
            return None;
        }
    };
    let Ok(scope) = text.parse() else {
        let what = format!("{} is no scope", quoted(&text));
        let remedy = r#"write "global", "site", "link", "host", or 0 to 254"#;
        reader.problem(value.span(), what, remedy);
        return None;
    };
    Some(Some((scope, value.span())))
}

/// The VLANs' ids and addresses, into the scene; gives those with keys of their own.
fn read_vlans<'v>(
    reader: &mut Reader<'_>,
    table: &'v DeTable<'_>,
    scene: &mut Scene<'_>,
) -> Vec<(u16, &'v DeTable<'v>)> {
    let mut entries = Vec::new();
    let Some(value) = table.get("vlan") else { return entries };
    let DeValue::Array(items) = value.get_ref() else {
        reader.wrong_type("vlan", value.get_ref(), value.span());
        return entries;
    };
    for item in items {
        let place = item.span();
        let (id, keys) = match item.get_ref() {
            DeValue::Integer(id) => (reader.in_range("vlan", id, place.clone(), VLAN_IDS), None),
            DeValue::Table(keys) => {
                reader.known_keys(keys, reader::VLAN);
                if !keys.contains_key("id") {
                    reader.problem(place.clone(), "this VLAN has no id", "add id = 100");
                }
                (reader.number(keys, "id", VLAN_IDS), Some(keys))
            }
            other => {
                reader.wrong_entry("vlan", other, place);
                continue;
            }
        };
        let addresses =
            keys.map_or(Some(Vec::new()), |keys| read_addresses(reader, keys, &scene.home));
        let Some(id) = id.and_then(|id| u16::try_from(id).ok()) else { continue };
        if let Some(name) = scene.name {
            let name = format!("{name}.{id}");
            if name.len() > NAME_MAX {
                let what = format!("the VLAN's netdev {name} has {} bytes", name.len());
                reader.problem(
                    place,
                    what,
                    "a netdev's name has at most 15: give the link a shorter one",
                );
            } else {
                reader.once("name", name, &place, "give each VLAN its own id");
            }
        }
        scene.vlans.push((id, addresses));
        entries.extend(keys.map(|keys| (id, keys)));
    }
    entries
}

/// Routes by the netdev, or by the VLAN that they stand in; each with the VLAN that it leads by.
fn read_routes(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    vlan: Option<u16>,
    scene: &Scene<'_>,
) -> Vec<(Option<u16>, Route)> {
    let mut routes = Vec::new();
    let Some(value) = table.get("route") else { return routes };
    let DeValue::Array(items) = value.get_ref() else {
        reader.wrong_type("route", value.get_ref(), value.span());
        return routes;
    };
    for item in items {
        match item.get_ref() {
            DeValue::Table(table) => {
                routes.extend(read_route(reader, table, item.span(), vlan, scene));
            }
            other => reader.wrong_entry("route", other, item.span()),
        }
    }
    routes
}

fn read_route(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    place: Place,
    vlan: Option<u16>,
    scene: &Scene<'_>,
) -> Option<(Option<u16>, Route)> {
    reader.known_keys(table, reader::ROUTE);
    let metric = reader.number(table, "metric", 0..=u32::MAX);
    let number = read_table(reader, table);
    let onlink = reader.boolean(table, "onlink").unwrap_or(false);
    let via = reader.string(table, "via");
    let source = reader.string(table, "source");
    let Some((text, to_place)) = reader.string(table, "to") else {
        if !table.contains_key("to") {
            reader.problem(place, "this route has no destination", r#"add to = "10.80.0.0/24""#);
        }
        return None;
    };
    let hop = via.as_ref().and_then(|(text, _)| text.parse().ok());
    let to = match ip::destination(text, hop) {
        Ok(to) => to,
        Err(wrong) => return reader.wrong(to_place, wrong),
    };
    let mut route = Route { table: number?, onlink, ..Route::new(to, None, metric) };
    let home = match route.table {
        Some(table) => format!("{} table {table}", scene.home),
        None => scene.home.clone(),
    };
    let key = format!("{to}\n{home} {}", route.effective_metric());
    reader.once("route to", key, &to_place, "take one out, or give them different metrics");
    let dev = read_dev(reader, table, vlan, scene)?;
    if scene.is_port && dev.is_none() {
        let what = "a bridge's port takes no packets itself, so no route leads by it";
        reader.problem(place, what, "set the route for the bridge, or for a VLAN of the link");
        return None;
    }
    if let Some((text, place)) = via {
        match ip::next_hop(text, to, scene.addresses(dev), onlink) {
            Ok(via) => route.via = Some(via),
            Err(wrong) => return reader.wrong(place, wrong),
        }
    } else if onlink {
        reader.problem(place, "onlink speaks of a next hop, and there is none", "add via");
        return None;
    }
    if let Some((text, place)) = source {
        match ip::preferred(text, to, scene.all_addresses().as_deref()) {
            Ok(source) => route.source = Some(source),
            Err(wrong) => return reader.wrong(place, wrong),
        }
    }
    Some((dev, route))
}

/// The number of a route's table, if there is one; `None` if it is not right.
fn read_table(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Option<u32>> {
    let Some(value) = table.get("table") else { return Some(None) };
    let number = reader.number(table, "table", 1..=u32::MAX)?;
    if number == LOCAL_TABLE {
        let what = "table 255 is the kernel's, for this machine's own addresses";
        reader.problem(value.span(), what, "write another number; 254 is the main table");
        return None;
    }
    Some(Some(number))
}

/// The VLAN that a route leads by; `None` if it is not right.
fn read_dev(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    vlan: Option<u16>,
    scene: &Scene<'_>,
) -> Option<Option<u16>> {
    let Some((dev, place)) = reader.string(table, "dev") else {
        return (!table.contains_key("dev")).then_some(vlan);
    };
    let Some(name) = scene.name else { return Some(vlan) };
    let of_vlan = |id: u16| format!("{name}.{id}");
    let all: Vec<String> = match vlan {
        Some(id) => vec![of_vlan(id)],
        None => std::iter::once(name.to_owned())
            .chain(scene.vlans.iter().map(|v| of_vlan(v.0)))
            .collect(),
    };
    if !all.iter().any(|known| known == dev) {
        let what = format!("{} is no netdev of this link", quoted(dev));
        let remedy = format!("write \"{}\", or take dev out", all.join("\" or \""));
        reader.problem(place, what, remedy);
        return None;
    }
    Some(scene.vlans.iter().map(|v| v.0).find(|id| of_vlan(*id) == dev))
}

impl Scene<'_> {
    /// The addresses of a VLAN or of the netdev itself, if all are right.
    fn addresses(&self, vlan: Option<u16>) -> Option<&[Address]> {
        match vlan {
            None => self.own.as_deref(),
            Some(id) => self.vlans.iter().find(|v| v.0 == id)?.1.as_deref(),
        }
    }

    /// The addresses of the netdev and all of its VLANs, if all are right.
    fn all_addresses(&self) -> Option<Vec<Address>> {
        let all = std::iter::once(&self.own).chain(self.vlans.iter().map(|v| &v.1));
        let all: Option<Vec<_>> = all.map(Option::as_deref).collect();
        all.map(|lists| lists.concat())
    }
}

fn check_mtu(reader: &mut Reader<'_>, table: &DeTable<'_>, mtu: Option<u16>, read: &Read) {
    let (Some(mtu), Some(value)) = (mtu.filter(|&mtu| mtu < MTU_MIN_IPV6), table.get("mtu")) else {
        return;
    };
    let vlans = &read.keys.vlans;
    let addresses = vlans.iter().flat_map(|vlan| &vlan.addresses).chain(&read.addresses);
    let routes = vlans.iter().flat_map(|vlan| &vlan.routes).chain(&read.routes);
    let mut prefixes = addresses.map(|a| a.prefix).chain(routes.map(|route| route.to));
    if let Some(prefix) = prefixes.find(|prefix| prefix.is_ipv6()) {
        let what = format!("mtu {mtu} is too small for IPv6, which {prefix} needs");
        let remedy = format!("write {MTU_MIN_IPV6} or more, or take out what is of IPv6");
        reader.problem(value.span(), what, remedy);
    }
}
