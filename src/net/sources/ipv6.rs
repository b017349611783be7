//! What an IPv6 packet claims: its source, and by neighbour discovery (RFC 4861) addresses of both kinds.

use super::{Checksum, Drop, Sources, octets};
use crate::spec::ethernet::{
    MLD_DONE, MLD_REPORT, MLD2_REPORT, ND_NEIGHBOUR_ADVERTISEMENT, ND_NEIGHBOUR_SOLICITATION,
    ND_REDIRECT, ND_ROUTER_ADVERTISEMENT, ND_ROUTER_SOLICITATION, ND_SOURCE_ADDRESS,
    ND_TARGET_ADDRESS, NEXT_AUTHENTICATION, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP,
    NEXT_ICMPV6, NEXT_ROUTING,
};

const HEADER_LEN: usize = 40;
/// Where ICMPv6 has its checksum (RFC 4443 §2.1).
const CHECKSUM: usize = 2;
/// Where a neighbour's solicitation or advertisement has its target.
const TARGET: usize = 8;

/// ICMPv6 messages that a host sends before it has an address. Of these a solicitation of a neighbour
/// names one, the target.
const NAMELESS: [u8; 5] =
    [MLD_REPORT, MLD_DONE, MLD2_REPORT, ND_ROUTER_SOLICITATION, ND_NEIGHBOUR_SOLICITATION];

/// The link-local address that is made of a MAC address (RFC 4291, appendix A).
pub(super) fn link_local(mac: [u8; 6]) -> u128 {
    let [a, b, c, d, e, f] = mac;
    let id = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    0xfe80 << 112 | u128::from(id)
}

/// What is behind the extension headers.
struct Upper {
    at: usize,
    /// It is the start of an ICMPv6 message.
    icmp: bool,
    /// There was a fragment header.
    fragment: bool,
}

/// Walks the extension headers (RFC 8200 §4), each of which has eight octets at least.
fn upper(packet: &[u8]) -> Result<Upper, Drop> {
    let [mut next] = octets(packet, 6)?;
    let mut at = HEADER_LEN;
    let mut fragment = false;
    loop {
        let len = match next {
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTHENTICATION => {
                let [_, len] = octets(packet, at)?;
                let len = usize::from(len);
                if next == NEXT_AUTHENTICATION { (len + 2) * 4 } else { (len + 1) * 8 }
            }
            NEXT_FRAGMENT => {
                let [_, _, high, low] = octets(packet, at)?;
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return Ok(Upper { at: at + 8, icmp: false, fragment: true });
                }
                fragment = true;
                8
            }
            _ => return Ok(Upper { at, icmp: next == NEXT_ICMPV6, fragment }),
        };
        [next] = octets(packet, at)?;
        at += len;
    }
}

impl Sources {
    /// Judges a packet from the Ethernet address `mac`.
    pub(super) fn check_ipv6(&self, packet: &[u8], mac: [u8; 6]) -> Result<Checksum, Drop> {
        let [first] = octets(packet, 0)?;
        let source = u128::from_be_bytes(octets(packet, 8)?);
        if first >> 4 != 6 || packet.len() < HEADER_LEN {
            return Err(Drop::Unclear);
        }
        let known = self.may_be(source);
        if !known && source != 0 {
            return Err(Drop::ForeignIp);
        }
        let Upper { at, icmp, fragment } = upper(packet)?;
        let kind = if icmp { Some(octets::<1>(packet, at)?[0]) } else { None };
        if !known && !kind.is_some_and(|kind| NAMELESS.contains(&kind)) {
            return Err(Drop::ForeignIp);
        }
        let Some(kind) = kind else { return Ok(Checksum::From(at)) };
        if (ND_ROUTER_SOLICITATION..=ND_REDIRECT).contains(&kind) {
            if fragment {
                return Err(Drop::Unclear);
            }
            self.check_discovery(message(packet, at)?, kind, source, mac)?;
        }
        Ok(Checksum::Only { start: at, offset: CHECKSUM })
    }

    /// Judges a message of neighbour discovery.
    fn check_discovery(
        &self,
        message: &[u8],
        kind: u8,
        source: u128,
        mac: [u8; 6],
    ) -> Result<(), Drop> {
        let mut at = match kind {
            ND_ROUTER_SOLICITATION => 8,
            ND_ROUTER_ADVERTISEMENT => 16,
            ND_REDIRECT => 40,
            _ => 24,
        };
        if message.len() < at {
            return Err(Drop::Unclear);
        }
        if self.ips.is_some() && matches!(kind, ND_ROUTER_ADVERTISEMENT | ND_REDIRECT) {
            return Err(Drop::ForeignType);
        }
        let claims =
            kind == ND_NEIGHBOUR_ADVERTISEMENT || kind == ND_NEIGHBOUR_SOLICITATION && source == 0;
        if claims && !self.may_be(u128::from_be_bytes(octets(message, TARGET)?)) {
            return Err(Drop::ForeignIp);
        }
        // §4.6: options of a length in units of 8 octets, none of length 0.
        while at < message.len() {
            let [option, len] = octets(message, at)?;
            let len = usize::from(len) * 8;
            if len == 0 || at + len > message.len() {
                return Err(Drop::Unclear);
            }
            if matches!(option, ND_SOURCE_ADDRESS | ND_TARGET_ADDRESS) {
                if len != 8 {
                    return Err(Drop::Unclear);
                }
                if !self.may_name(octets(message, at + 2)?, mac) {
                    return Err(Drop::ForeignMac);
                }
            }
            at += len;
        }
        Ok(())
    }

    fn may_be(&self, source: u128) -> bool {
        self.ips.as_ref().is_none_or(|ips| ips.v6.has(source))
    }
}

/// The ICMPv6 message at `at`, as long as the packet says; a jumbogram's would be longer than a frame.
fn message(packet: &[u8], at: usize) -> Result<&[u8], Drop> {
    let payload = usize::from(u16::from_be_bytes(octets(packet, 4)?));
    let end = HEADER_LEN + payload;
    packet.get(at..end).ok_or(Drop::Unclear)
}
