//! The kinds of frames, a flow or two of each.

use super::frame::{ETHERNET_LEN, IPV4, IPV6, SERVICE_VLAN, TCP, UDP, VLAN};

/// Flows of one way: so many of each kind.
const FLOWS_OF_A_KIND: usize = 2;
/// Bytes of the extension headers of [`Net::V6Extended`].
pub(crate) const EXTENSIONS_LEN: usize = 8 + 16;

/// What stands behind the Ethernet header and its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    V4,
    V6,
    /// With hop-by-hop and destination options.
    V6Extended,
    /// With this ethertype, or (below 1536) length.
    Other(u16),
}

impl Net {
    pub(crate) fn ethertype(self) -> u16 {
        match self {
            Self::V4 => IPV4,
            Self::V6 | Self::V6Extended => IPV6,
            Self::Other(ethertype) => ethertype,
        }
    }
}

/// What is left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Checksum,
    Segmentation,
    /// Of a TCP frame that tells of a smaller congestion window.
    SegmentationEcn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Station,
    Group,
    Everyone,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Ethertypes of the tags, the outer one first.
    pub(crate) tags: &'static [u16],
    pub(crate) net: Net,
    /// TCP, UDP; else what follows is no transport header, but a fragment or anything.
    pub(crate) transport: Option<u8>,
    pub(crate) left: Left,
    pub(crate) to: To,
}

impl Kind {
    /// Whether it asks for segmentation of UDP, which Linux before 6.2 does not know.
    pub(crate) fn is_uso(&self) -> bool {
        self.transport == Some(UDP) && self.left == Left::Segmentation
    }

    /// Whether Linux spreads a flow of this kind over a TAP's queues, so that its order does not hold:
    /// in a tagged frame from a packet socket it takes the IP header for the tag when it looks for the
    /// flow, and so IPv4's length for what tells the flow.
    pub(crate) fn is_spread(&self) -> bool {
        self.net == Net::V4 && !self.tags.is_empty()
    }

    /// Where a finished frame of this kind has its TCP checksum.
    pub(crate) fn tcp_checksum(&self, frame: &[u8]) -> Option<usize> {
        let net = ETHERNET_LEN + 4 * self.tags.len();
        let len = match self.net {
            Net::V4 => usize::from(frame.get(net)? & 0xf) * 4,
            Net::V6 => 40,
            Net::V6Extended => 40 + EXTENSIONS_LEN,
            Net::Other(_) => return None,
        };
        (self.transport == Some(TCP)).then_some(net + len + 16)
    }
}

const ONE: &[u16] = &[VLAN];
const TWO: &[u16] = &[SERVICE_VLAN, VLAN];

const fn kind(name: &'static str, net: Net, transport: u8, left: Left) -> Kind {
    let transport = if transport == 0 { None } else { Some(transport) };
    Kind { name, tags: &[], net, transport, left, to: To::Station }
}

const fn tagged(name: &'static str, tags: &'static [u16], net: Net, of: (u8, Left)) -> Kind {
    Kind { tags, ..kind(name, net, of.0, of.1) }
}

const fn to(name: &'static str, to: To, net: Net, left: Left) -> Kind {
    Kind { to, ..kind(name, net, UDP, left) }
}

use Left::{Checksum, Nothing, Segmentation, SegmentationEcn};
use Net::{Other, V4, V6, V6Extended};

/// Every kind.
pub(crate) const KINDS: &[Kind] = &[
    kind("TSO4", V4, TCP, Segmentation),
    kind("TSO6", V6, TCP, Segmentation),
    kind("TSO4 with CWR", V4, TCP, SegmentationEcn),
    kind("TSO6 with CWR", V6, TCP, SegmentationEcn),
    kind("USO4", V4, UDP, Segmentation),
    kind("USO6", V6, UDP, Segmentation),
    kind("TCP/IPv4, partial checksum", V4, TCP, Checksum),
    kind("TCP/IPv6, partial checksum", V6, TCP, Checksum),
    kind("UDP/IPv4, partial checksum", V4, UDP, Checksum),
    kind("UDP/IPv6, partial checksum", V6, UDP, Checksum),
    kind("TCP/IPv4", V4, TCP, Nothing),
    kind("TCP/IPv6", V6, TCP, Nothing),
    kind("UDP/IPv4", V4, UDP, Nothing),
    kind("UDP/IPv6", V6, UDP, Nothing),
    kind("IPv4 fragment", V4, 0, Nothing),
    kind("IPv6 fragment", V6, 0, Nothing),
    kind("UDP/IPv6 with extension headers", V6Extended, UDP, Nothing),
    kind("TCP/IPv6 with extension headers, partial checksum", V6Extended, TCP, Checksum),
    kind("TSO6 with extension headers", V6Extended, TCP, Segmentation),
    tagged("VLAN, UDP/IPv4", ONE, V4, (UDP, Nothing)),
    tagged("VLAN, TCP/IPv6, partial checksum", ONE, V6, (TCP, Checksum)),
    tagged("VLAN, TSO4", ONE, V4, (TCP, Segmentation)),
    tagged("VLAN, unknown ethertype", ONE, Other(0x88b6), (0, Nothing)),
    tagged("QinQ, UDP/IPv6", TWO, V6, (UDP, Nothing)),
    tagged("QinQ, UDP/IPv4, partial checksum", TWO, V4, (UDP, Checksum)),
    tagged("QinQ, TSO6", TWO, V6, (TCP, Segmentation)),
    to("IPv4 multicast", To::Group, V4, Checksum),
    to("IPv6 multicast", To::Group, V6, Nothing),
    to("broadcast", To::Everyone, V4, Nothing),
    kind("unknown ethertype", Other(0x88b5), 0, Nothing),
    // A length that is right for no frame: bridges and netdevs do not look at it.
    kind("length instead of an ethertype", Other(0x0040), 0, Nothing),
];

/// How many flows a way has.
pub(crate) const FLOWS: usize = KINDS.len() * FLOWS_OF_A_KIND;

/// The kind of a flow's frames.
pub(crate) fn kind_of(flow: u8) -> &'static Kind {
    &KINDS[usize::from(flow) % KINDS.len()]
}
