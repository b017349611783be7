//! Which addresses, networks and next hops a link can have.

use std::net::IpAddr;

use super::problem::quoted;
use crate::plan::{Address, IpPrefix, PrefixError};

/// What is wrong, and what would be right.
pub(super) type Wrong = (String, String);

/// An address that a netdev can have.
pub(super) fn address(text: &str) -> Result<IpPrefix, Wrong> {
    let prefix = prefix(text, r#""10.77.0.1/30" or "fd77::1/64""#)?;
    let addr = prefix.addr();
    let special = match addr {
        IpAddr::V4(v4) if matches!(v4.octets()[0], 0 | 240..) => Some("is not a host's address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("is not a host's address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address in IPv6's form")
        }
        _ if addr.is_multicast() => Some("is a multicast address"),
        _ if addr.is_loopback() => Some("is a loopback address"),
        _ => None,
    };
    if let Some(special) = special {
        let remedy = r#"write a host's, as "10.77.0.1/30" or "fd77::1/64""#;
        return Err((format!("{addr} {special}"), remedy.into()));
    }
    if prefix.prefix_len() == 0 {
        return Err(("a prefix length of 0 takes in every address".into(), with_length(addr)));
    }
    if let Some(special) = not_a_host(&prefix, addr) {
        let what = format!("{addr} is the {special} in {}", prefix.network());
        return Err((what, "write a host's address within it".into()));
    }
    Ok(prefix)
}

/// What `addr` is in its network, if it is no host's. A network of two has hosts only (RFC 3021,
/// RFC 6164).
fn not_a_host(network: &IpPrefix, addr: IpAddr) -> Option<&'static str> {
    let (host_bits, all_ones) = match addr {
        IpAddr::V4(v4) => {
            let host_bits = 32 - u32::from(network.prefix_len());
            (host_bits, v4.to_bits().trailing_ones() >= host_bits)
        }
        // IPv6 has no broadcast.
        IpAddr::V6(_) => (128 - u32::from(network.prefix_len()), false),
    };
    match host_bits {
        0 | 1 => None,
        _ if addr == network.network().addr() => Some("network's own address"),
        _ if all_ones => Some("broadcast address"),
        _ => None,
    }
}

fn prefix(text: &str, like: &str) -> Result<IpPrefix, Wrong> {
    text.parse().map_err(|error| match error {
        PrefixError::NoLength { addr } => {
            (format!("{addr} has no prefix length"), with_length(addr))
        }
        PrefixError::Length { given, addr } => {
            let max = if addr.is_ipv4() { 32 } else { 128 };
            (format!("{} is not a prefix length", quoted(&given)), format!("write 0 to {max}"))
        }
        PrefixError::Address { given } => {
            let what = format!("{} is not an address with a prefix length", quoted(&given));
            (what, unless_of_pool(text, format!("write it as {like}")))
        }
        other => (other.to_string(), format!("write it as {like}")),
    })
}

/// The remedy for a word that is no address, where only the pool could make it one.
fn unless_of_pool(text: &str, remedy: String) -> String {
    match text {
        "peer" | "pool" => "this word is for links with addresses of a pool of that family".into(),
        _ => remedy,
    }
}

fn with_length(addr: IpAddr) -> String {
    let len = if addr.is_ipv4() { 30 } else { 64 };
    format!("write, for example, \"{addr}/{len}\"")
}

/// A network that a route can lead to.
pub(super) fn destination(text: &str, via: Option<IpAddr>) -> Result<IpPrefix, Wrong> {
    if text == "default" {
        let what = "\"default\" without a next hop does not say of which family";
        let remedy = r#"add via, or write "0.0.0.0/0" or "::/0""#;
        return via.map(IpPrefix::everything).ok_or_else(|| (what.into(), remedy.into()));
    }
    let to = prefix(text, r#""10.80.0.0/24" or "fd80::/64""#)?;
    if to != to.network() {
        let what = format!("{to} has bits behind its prefix");
        return Err((what, format!("write \"{}\"", to.network())));
    }
    if to.addr().is_multicast() || (to.addr().is_loopback() && to.prefix_len() >= 8) {
        return Err((format!("no route leads to {to}"), "write a network of hosts".into()));
    }
    Ok(to)
}

/// An address that the other end may have, or a network of them.
pub(super) fn source(text: &str) -> Result<IpPrefix, Wrong> {
    let like = r#""10.77.0.2", "10.80.0.0/24" or "fd77::2""#;
    let alone = text.parse::<IpAddr>().ok();
    let network = match alone {
        Some(addr) if addr.is_ipv4() => prefix(&format!("{addr}/32"), like)?,
        Some(addr) => prefix(&format!("{addr}/128"), like)?,
        None => prefix(text, like)?,
    };
    if network != network.network() {
        let what = format!("{network} has bits behind its prefix");
        return Err((what, format!("write \"{}\"", network.network())));
    }
    let addr = network.addr();
    let all = network.prefix_len() == 0;
    let mapped = matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if addr.is_multicast() || addr.is_loopback() || addr.is_unspecified() && !all || mapped {
        return Err((format!("{text} is no host's address"), format!("write one as {like}")));
    }
    Ok(network)
}

/// The other end of an address: its length is the one that counts, and `own` has a host's then.
pub(super) fn peer(text: &str, own: IpPrefix) -> Result<(IpPrefix, IpAddr), Wrong> {
    let (addr, len) = match text.parse::<IpAddr>() {
        Ok(addr) => (addr, own.prefix_len()),
        Err(_) => address(text).map(|peer| (peer.addr(), peer.prefix_len()))?,
    };
    if addr.is_ipv6() != own.is_ipv6() {
        let family = if own.is_ipv6() { "IPv6" } else { "IPv4" };
        let what = format!("the peer of an {family} address is not of {family}");
        return Err((what, format!("write an {family} address")));
    }
    let peer = address(&format!("{addr}/{len}"))?;
    if addr == own.addr() {
        return Err((format!("{addr} is this end's own address"), "write the other end's".into()));
    }
    let host = if own.is_ipv6() { 128 } else { 32 };
    if own.prefix_len() != host && own.prefix_len() != len {
        let what = format!("{own} and {peer} have different lengths, and the peer's counts");
        return Err((what, format!("write {}/{host} for this end", own.addr())));
    }
    Ok((peer.with_addr(own.addr()), addr))
}

/// This machine's address in what it sends by a route to `to`: one of its `addresses`.
pub(super) fn preferred(
    text: &str,
    to: IpPrefix,
    addresses: Option<&[Address]>,
) -> Result<IpAddr, Wrong> {
    let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
    let Ok(source) = text.parse::<IpAddr>() else {
        let what = format!("{} is not an IP address", quoted(text));
        return Err((what, "write one of this link's, without a length".into()));
    };
    if source.is_ipv6() != to.is_ipv6() {
        let what = format!("the source of an {family} route is not of {family}");
        return Err((what, format!("write an {family} address")));
    }
    let Some(addresses) = addresses else { return Ok(source) };
    if addresses.iter().any(|a| a.addr() == source) {
        return Ok(source);
    }
    let own: Vec<String> = addresses
        .iter()
        .filter(|a| a.is_ipv6() == to.is_ipv6())
        .map(|a| a.addr().to_string())
        .collect();
    let remedy = match own.is_empty() {
        true => format!("give the link {source} as an address, or take source out"),
        false => format!("write {}", own.join(" or ")),
    };
    Err((format!("{source} is no address of this link"), remedy))
}

/// A next hop that a link with `addresses` reaches directly.
pub(super) fn next_hop(
    text: &str,
    to: IpPrefix,
    addresses: Option<&[Address]>,
    onlink: bool,
) -> Result<IpAddr, Wrong> {
    let Ok(via) = text.parse::<IpAddr>() else {
        let what = format!("{} is not an IP address", quoted(text));
        return Err((what, unless_of_pool(text, r#"write the next hop's, as "10.77.0.2""#.into())));
    };
    if via.is_ipv4() && to.is_ipv6() {
        let what = "the next hop of an IPv6 route is not of IPv6";
        return Err((what.into(), "write an IPv6 address".into()));
    }
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
        return Err((format!("{via} is no next hop"), "write a host's address".into()));
    }
    // With an address that is not right there is no telling what is connected.
    let Some(addresses) = addresses else { return Ok(via) };
    if addresses.iter().any(|address| address.addr() == via) {
        return Err((format!("{via} is this end's own address"), "write the other end's".into()));
    }
    let network = addresses.iter().map(Address::network).find(|network| network.contains(via));
    if let Some(network) = network {
        return match not_a_host(&network, via) {
            Some(special) => {
                let what = format!("{via} is the {special} in {network}");
                Err((what, "write a host's address within it".into()))
            }
            None => Ok(via),
        };
    }
    let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if link_local || onlink {
        return Ok(via);
    }
    let near: Vec<String> = addresses
        .iter()
        .filter(|address| address.is_ipv6() == via.is_ipv6())
        .map(|address| address.network().to_string())
        .collect();
    let remedy = if near.is_empty() {
        format!("give the link an address in the network of {via}")
    } else {
        format!("write an address within {}", near.join(" or "))
    };
    Err((format!("{via} is not on this link"), remedy))
}
