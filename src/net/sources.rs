//! Whom a frame from the other end may claim to be from: `allow_mac` and `allow_ip`.
//!
//! A board is one machine of a network, or the router of a few; without this it could speak as any
//! other. What a frame *claims* are the addresses that a receiver would learn from it or answer to:
//!
//! | frame | MAC addresses | IP addresses |
//! |---|---|---|
//! | any | Ethernet source | |
//! | IPv4, IPv6 | | source |
//! | ARP and reverse ARP, request or reply | sender's | sender's |
//! | neighbour discovery | link-layer address options | a target that is advertised, or tried by `::` |
//!
//! What claims nothing passes: an ARP probe (sender 0.0.0.0), 0.0.0.0 to the limited broadcast (DHCP),
//! and from `::` a router solicitation and reports of multicast listeners. Of link-local addresses those
//! are allowed that are listed, or that the standard makes of an allowed MAC address (RFC 4291, appendix A).
//! Without `allow_mac` a hardware address in ARP or neighbour discovery must be the frame's own source.
//!
//! The judgement is strict where it cannot see. With `allow_ip`, only IPv4, IPv6 and both ARPs pass, behind
//! up to two VLAN tags; router advertisements and redirects, which change a receiver's routes, do not.
//! Any header that is needed and not within the first [`PREFIX_FRAME`](super::frame::PREFIX_FRAME) bytes, cut short, or against its
//! standard drops the frame: RFC 7112 and RFC 6980 tell honest senders to put headers first and not to
//! fragment neighbour discovery. Of a fragment beyond the first only the source counts: a packet comes
//! together only with its first, which was judged.
//!
//! A checksum that is to be completed later (NEEDS_CSUM) is a value that the sender chooses, stored where
//! it chooses, after the judgement. So it may lie only behind the headers that were judged, and in ICMPv6
//! only where the checksum is.
//!
//! Not looked into: tunnels (an IP packet within another), what upper layers say (a DHCP server's
//! offers), IPv4's options.
//!
//! The caller gives a private copy of the frame's start, and what it passes on must be that copy.

use std::net::IpAddr;

use zerocopy::FromBytes;

use super::frame::{Drop, PREFIX_LEN};
use crate::spec::ethernet::{
    ARP_ETHERNET, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP, TYPE_SERVICE_VLAN, TYPE_VLAN,
};
use crate::spec::net::{HDR_F_NEEDS_CSUM, Header};

mod ipv6;
#[cfg(test)]
mod tests;

/// VLAN tags that are looked behind.
const MOST_TAGS: usize = 2;
/// Where the Ethernet source and the type stand.
const AT_SOURCE: usize = 6;
const AT_TYPE: usize = 12;

/// Ranges of addresses, apart from each other and in order; the last address belongs to its range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<T>(Vec<(T, T)>);

impl<T: Copy + Ord> Ranges<T> {
    /// These ranges, of which any two are apart or one is within the other, as prefixes are.
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_by_key(|&(first, last)| (first, std::cmp::Reverse(last)));
        ranges.dedup_by(|inner, outer| inner.1 <= outer.1);
        Self(ranges)
    }

    fn has(&self, address: T) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= address);
        after > 0 && address <= self.0[after - 1].1
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ips {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// What the other end may claim; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `None`: any.
    macs: Option<Ranges<[u8; 6]>>,
    ips: Option<Ips>,
}

/// Where a checksum may be stored later, in bytes from the frame's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Nowhere,
    /// There or later.
    From(usize),
    /// Of what begins at `start`, with the offset that its standard has.
    Only {
        start: usize,
        offset: usize,
    },
}

impl Sources {
    /// Frames may name these MAC addresses and these networks of IP addresses, given with their prefix
    /// lengths in bits. An empty list allows all of its kind; with both empty there is nothing to check.
    pub fn new(macs: &[[u8; 6]], ips: &[(IpAddr, u8)]) -> Option<Self> {
        if macs.is_empty() && ips.is_empty() {
            return None;
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for &(address, len) in ips {
            match address {
                IpAddr::V4(address) => {
                    let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                    let first = address.to_bits() & !host;
                    v4.push((first, first | host));
                }
                IpAddr::V6(address) => {
                    let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
                    let first = address.to_bits() & !host;
                    v6.push((first, first | host));
                }
            }
        }
        v6.extend(macs.iter().map(|mac| ipv6::link_local(*mac)).map(|own| (own, own)));
        let macs_too =
            (!macs.is_empty()).then(|| Ranges::new(macs.iter().map(|mac| (*mac, *mac)).collect()));
        let ips_too = (!ips.is_empty()).then(|| Ips { v4: Ranges::new(v4), v6: Ranges::new(v6) });
        Some(Self { macs: macs_too, ips: ips_too })
    }

    /// Judges a frame by its private start: the virtio-net header, then [`PREFIX_FRAME`](super::frame::PREFIX_FRAME) bytes or
    /// as many as it has. What lies behind is not looked at.
    pub fn check(&self, start: &[u8]) -> Result<(), Drop> {
        let start = &start[..start.len().min(PREFIX_LEN)];
        let (header, frame) = Header::read_from_prefix(start).map_err(|_| Drop::Unclear)?;
        let source = octets(frame, AT_SOURCE)?;
        if self.macs.as_ref().is_some_and(|macs| !macs.has(source)) {
            return Err(Drop::ForeignMac);
        }
        let (kind, at) = network_layer(frame)?;
        let packet = frame.get(at..).ok_or(Drop::Unclear)?;
        let checksum = match kind {
            TYPE_IPV4 => self.check_ipv4(packet)?,
            TYPE_IPV6 => self.check_ipv6(packet, source)?,
            TYPE_ARP | TYPE_RARP => self.check_arp(packet, source)?,
            _ if self.ips.is_some() => return Err(Drop::ForeignType),
            _ => Checksum::Nowhere,
        };
        if header.flags & HDR_F_NEEDS_CSUM == 0 {
            return Ok(());
        }
        let begins = usize::from(header.csum_start.get());
        let good = match checksum {
            Checksum::Nowhere => false,
            Checksum::From(first) => begins >= at + first,
            Checksum::Only { start, offset } => {
                begins == at + start && usize::from(header.csum_offset.get()) == offset
            }
        };
        if good { Ok(()) } else { Err(Drop::CsumRange) }
    }

    /// RFC 791 §3.1.
    fn check_ipv4(&self, packet: &[u8]) -> Result<Checksum, Drop> {
        let [first] = octets(packet, 0)?;
        let header_len = usize::from(first & 0xf) * 4;
        let [source, to] = [12, 16].map(|at| octets(packet, at).map(u32::from_be_bytes));
        let (source, to) = (source?, to?);
        if first >> 4 != 4 || header_len < 20 {
            return Err(Drop::Unclear);
        }
        let nobody = source == 0 && to == u32::MAX;
        if self.ips.as_ref().is_some_and(|ips| !ips.v4.has(source) && !nobody) {
            return Err(Drop::ForeignIp);
        }
        Ok(Checksum::From(header_len))
    }

    /// RFC 826, for IPv4 over Ethernet; who asks or answers is told by the same fields.
    fn check_arp(&self, packet: &[u8], source: [u8; 6]) -> Result<Checksum, Drop> {
        let [hardware, protocol] = [0, 2].map(|at| octets(packet, at).map(u16::from_be_bytes));
        let lengths: [u8; 2] = octets(packet, 4)?;
        if (hardware?, protocol?, lengths) != (ARP_ETHERNET, TYPE_IPV4, [6, 4]) {
            return Err(Drop::Unclear);
        }
        let mac = octets(packet, 8)?;
        let ip = u32::from_be_bytes(octets(packet, 14)?);
        if !self.may_name(mac, source) {
            return Err(Drop::ForeignMac);
        }
        if self.ips.as_ref().is_some_and(|ips| !ips.v4.has(ip) && ip != 0) {
            return Err(Drop::ForeignIp);
        }
        Ok(Checksum::Nowhere)
    }

    /// Whether a frame from the Ethernet address `source` may say that its sender has this one.
    fn may_name(&self, mac: [u8; 6], source: [u8; 6]) -> bool {
        self.macs.as_ref().map_or(mac == source, |macs| macs.has(mac))
    }
}

/// The type behind VLAN tags, and where what it names begins.
fn network_layer(frame: &[u8]) -> Result<(u16, usize), Drop> {
    let mut at = AT_TYPE;
    for _ in 0..=MOST_TAGS {
        let kind = u16::from_be_bytes(octets(frame, at)?);
        if !matches!(kind, TYPE_VLAN | TYPE_SERVICE_VLAN) {
            return Ok((kind, at + 2));
        }
        at += 4;
    }
    Err(Drop::Unclear)
}

/// The octets at `at`, if they are there.
fn octets<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], Drop> {
    from.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Drop::Unclear)
}
