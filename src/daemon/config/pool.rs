//! Addresses by slots: `pool = { v4 = "10.77.0.0/16", prefix = 30, v6 = "fd77::/48" }`.
//!
//! The link in slot N has the pool's network N, counted from 0, of each family: the master its first
//! host, the board its second. So two files that say the same fit each other. A link with addresses of
//! its own, even none, takes none of the pool's.
//!
//! Where a link has addresses of the pool, `"peer"` is the other end's, and `"pool"` the whole pool, in its
//! routes and in `allow_ip`; what both families have gives two entries.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::ip;
use super::reader::{self, Place, Reader};
use super::{IpPrefix, Role, slot_of_socket};

/// The other end's address, in a link's lists.
const PEER: &str = "peer";
/// All addresses of the pool, there.
const POOL: &str = "pool";
/// Prefix length of a link's IPv4 network, if the pool does not say.
const PREFIX_V4: u8 = 30;
/// Prefix length of a link's IPv6 network (RFC 4291 §2.5.4).
const PREFIX_V6: u8 = 64;

/// What a file says of it.
pub(super) struct Pool {
    is_there: bool,
    /// There is a problem with it, which has been noted.
    is_wrong: bool,
    families: Vec<Family>,
    role: Role,
}

/// Of one family of addresses.
struct Family {
    pool: IpPrefix,
    /// Prefix length of each link's network.
    len: u8,
    place: Place,
    /// The greatest slot for which there was no network.
    lacking: Option<u32>,
}

/// The two ends of a link in one family.
struct Ends {
    own: IpPrefix,
    peer: IpAddr,
    pool: IpPrefix,
    place: Place,
}

/// The pool in a file.
pub(super) fn read(reader: &mut Reader<'_>, root: &DeTable<'_>, role: Role) -> Pool {
    let before = reader.problems();
    let families = match root.get("pool").map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Table(table), place)) => read_table(reader, table, place),
        Some((other, place)) => {
            reader.wrong_type("pool", other, place);
            Vec::new()
        }
        None => Vec::new(),
    };
    let is_wrong = reader.problems() > before;
    Pool { is_there: root.contains_key("pool"), is_wrong, families, role }
}

fn read_table(reader: &mut Reader<'_>, table: &DeTable<'_>, place: Place) -> Vec<Family> {
    reader.known_keys(table, reader::POOL);
    if !table.contains_key("v4") && !table.contains_key("v6") {
        reader.problem(place, "this pool has no addresses", r#"add v4 = "10.77.0.0/16""#);
    }
    let prefix = if table.contains_key("v4") {
        reader.number(table, "prefix", 1..=31).and_then(|prefix| u8::try_from(prefix).ok())
    } else {
        if let Some(value) = table.get("prefix") {
            let what = "prefix is of links' networks in v4, which this pool does not have";
            reader.problem(value.span(), what, "take it out");
        }
        None
    };
    let v4 = read_family(reader, table, "v4", prefix.unwrap_or(PREFIX_V4));
    v4.into_iter().chain(read_family(reader, table, "v6", PREFIX_V6)).collect()
}

fn read_family(reader: &mut Reader<'_>, table: &DeTable<'_>, key: &str, len: u8) -> Option<Family> {
    let (text, place) = reader.string(table, key)?;
    let (what, remedy) = match ip::destination(text, None) {
        Ok(pool) if pool.is_ipv6() != (key == "v6") => {
            (format!("{pool} is not of IP{key}"), format!("write it as {}", example(key)))
        }
        Ok(pool) if pool.prefix_len() > len => {
            let what = format!("{pool} has no network of /{len}");
            (what, format!("write a network of /{len}, or a larger one"))
        }
        Ok(pool) => return Some(Family { pool, len, place, lacking: None }),
        Err(wrong) => wrong,
    };
    reader.problem(place, what, remedy);
    None
}

fn example(key: &str) -> &'static str {
    reader::example(reader::POOL, key).unwrap_or_default()
}

impl Family {
    fn networks(&self) -> u128 {
        1 << (self.len - self.pool.prefix_len())
    }

    /// The ends of the link in a slot, if there is a network for it.
    fn ends(&mut self, slot: u32, role: Role) -> Option<Ends> {
        if u128::from(slot) >= self.networks() {
            self.lacking = self.lacking.max(Some(slot));
            return None;
        }
        // A network of two has no address of its own (RFC 3021).
        let first = u32::from(self.len != 31);
        let host = |n: u32| match self.pool.addr() {
            IpAddr::V4(addr) => {
                IpAddr::V4((addr.to_bits() | slot << (32 - self.len) | (first + n)).into())
            }
            IpAddr::V6(addr) => {
                let network = addr.to_bits() | u128::from(slot) << (128 - self.len);
                IpAddr::V6((network | u128::from(first + n)).into())
            }
        };
        let (own, peer) = match role {
            Role::Master => (host(0), host(1)),
            Role::Agent => (host(1), host(0)),
        };
        let own = IpPrefix::new(own, self.len).ok()?;
        Some(Ends { own, peer, pool: self.pool, place: self.place.clone() })
    }
}

impl Pool {
    /// Gives a link's table the addresses of its slot, and to what it says of the pool its meaning.
    pub(super) fn fill(
        &mut self,
        reader: &mut Reader<'_>,
        table: &mut DeTable<'_>,
        slot: Option<u32>,
        place: &Place,
    ) {
        if !self.is_there || table.contains_key("address") || !takes_addresses(table) {
            return;
        }
        let Some(slot) = slot.or_else(|| slot_of_transport(reader, table)) else {
            let what = "this link has no slot's number, by which it would have its addresses";
            reader.problem(place.clone(), what, "add slot = 0, or address = []");
            return;
        };
        let ends: Vec<_> =
            self.families.iter_mut().filter_map(|family| family.ends(slot, self.role)).collect();
        let is_whole = !self.is_wrong && ends.len() == self.families.len();
        for key in ["route", "allow_ip"] {
            if let Some(DeValue::Array(items)) = table.get_mut(key).map(Spanned::get_mut) {
                let all = std::mem::replace(items, DeArray::new()).into_iter();
                *items = all.flat_map(|item| meant(item, &ends, is_whole)).collect();
            }
        }
        let addresses = ends.iter().map(|end| Spanned::new(end.place.clone(), string(end.own)));
        let addresses = DeValue::Array(addresses.collect());
        let key = Spanned::new(place.clone(), "address".into());
        table.insert(key, Spanned::new(place.clone(), addresses));
    }

    /// Notes families that had too few networks.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for family in self.families {
            let Some(slot) = family.lacking else { continue };
            let (pool, len, networks) = (family.pool, family.len, family.networks());
            let what = format!(
                "{pool} has {networks} networks of /{len}, and slot {slot} needs {}",
                u64::from(slot) + 1
            );
            let bits = u32::BITS - slot.leading_zeros();
            let remedy = match u32::from(len).checked_sub(bits) {
                Some(len) => format!("write a network of /{len}, or a larger one"),
                None => "give the link a smaller slot".into(),
            };
            reader.problem(family.place, what, remedy);
        }
    }
}

/// Whether a link can have addresses, and a slot's number to have them by.
fn takes_addresses(table: &DeTable<'_>) -> bool {
    let text = |key| table.get(key).and_then(|value| value.get_ref().as_str());
    let is_pattern = text("transport").is_some_and(|it| it.starts_with("pci:") && it.contains('*'));
    !is_pattern && text("port").is_none_or(|port| port == "tap")
}

/// The slot's number by its socket's name, such as `slot7.sock`, if no other link has that.
fn slot_of_transport(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<u32> {
    let value = table.get("transport")?;
    let path = value.get_ref().as_str()?.strip_prefix("shm:")?;
    let slot = slot_of_socket(Path::new(path))?;
    reader.once("slot", slot, &value.span(), "add another slot = 0");
    Some(slot)
}

/// What an entry of a list stands for: one of each family that it means, or itself.
fn meant<'i>(
    item: Spanned<DeValue<'i>>,
    ends: &[Ends],
    is_whole: bool,
) -> Vec<Spanned<DeValue<'i>>> {
    let place = item.span();
    let items: Vec<_> = match item.get_ref() {
        DeValue::String(text) if text == PEER => ends.iter().map(|end| string(end.peer)).collect(),
        DeValue::String(text) if text == POOL => ends.iter().map(|end| string(end.pool)).collect(),
        DeValue::Table(route) => {
            let text = |key| route.get(key).and_then(|value| value.get_ref().as_str());
            let (to_pool, via_peer) = (text("to") == Some(POOL), text("via") == Some(PEER));
            if !to_pool && !via_peer {
                return vec![item];
            }
            let network = text("to").filter(|to| !to_pool && *to != "default");
            let fits =
                |end: &&Ends| network.is_none_or(|to| to.contains(':') == end.pool.is_ipv6());
            let of_family = |end: &Ends| {
                let mut route = route.clone();
                for (key, is_word, word) in
                    [("to", to_pool, string(end.pool)), ("via", via_peer, string(end.peer))]
                {
                    if let Some(value) = route.get_mut(key).filter(|_| is_word) {
                        *value.get_mut() = word;
                    }
                }
                DeValue::Table(route)
            };
            ends.iter().filter(fits).map(of_family).collect()
        }
        _ => return vec![item],
    };
    // What the pool has no address for is told where that is read, but not if the pool is to blame.
    if items.is_empty() && is_whole {
        return vec![item];
    }
    items.into_iter().map(|value| Spanned::new(place.clone(), value)).collect()
}

fn string(value: impl Display) -> DeValue<'static> {
    DeValue::String(value.to_string().into())
}
