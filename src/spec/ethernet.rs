//! Numbers of what Ethernet frames carry: types, IPv6 headers, neighbour discovery.

/// Ethernet type of IPv4 (RFC 894).
pub const TYPE_IPV4: u16 = 0x0800;
/// Ethernet type of ARP (RFC 826).
pub const TYPE_ARP: u16 = 0x0806;
/// Ethernet type of reverse ARP (RFC 903), which has ARP's fields.
pub const TYPE_RARP: u16 = 0x8035;
/// Ethernet type of IPv6 (RFC 2464).
pub const TYPE_IPV6: u16 = 0x86dd;
/// Ethernet type of a customer's VLAN tag, which a priority tag is too (IEEE 802.1Q).
pub const TYPE_VLAN: u16 = 0x8100;
/// Ethernet type of a service's VLAN tag (IEEE 802.1ad).
pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// ARP's number for Ethernet, in `ar$hrd` (RFC 826).
pub const ARP_ETHERNET: u16 = 1;

/// IPv6 header: hop-by-hop options (RFC 8200 §4.3).
pub const NEXT_HOP_BY_HOP: u8 = 0;
/// IPv6 header: routing (RFC 8200 §4.4).
pub const NEXT_ROUTING: u8 = 43;
/// IPv6 header: fragment (RFC 8200 §4.5).
pub const NEXT_FRAGMENT: u8 = 44;
/// IPv6 header: authentication (RFC 4302 §2).
pub const NEXT_AUTHENTICATION: u8 = 51;
/// IPv6 header: ICMPv6 (RFC 4443 §2.1).
pub const NEXT_ICMPV6: u8 = 58;
/// IPv6 header: destination options (RFC 8200 §4.6).
pub const NEXT_DESTINATION: u8 = 60;

/// ICMPv6: multicast listener report (RFC 2710 §3.1).
pub const MLD_REPORT: u8 = 131;
/// ICMPv6: multicast listener done (RFC 2710 §3.1).
pub const MLD_DONE: u8 = 132;
/// ICMPv6: multicast listener report, version 2 (RFC 3810 §5.2).
pub const MLD2_REPORT: u8 = 143;
/// ICMPv6: router solicitation (RFC 4861 §4.1).
pub const ND_ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6: router advertisement (RFC 4861 §4.2).
pub const ND_ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6: neighbour solicitation (RFC 4861 §4.3).
pub const ND_NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6: neighbour advertisement (RFC 4861 §4.4).
pub const ND_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6: redirect (RFC 4861 §4.5).
pub const ND_REDIRECT: u8 = 137;
/// Option of neighbour discovery: the sender's link-layer address (RFC 4861 §4.6.1).
pub const ND_SOURCE_ADDRESS: u8 = 1;
/// Option of neighbour discovery: the target's link-layer address (RFC 4861 §4.6.1).
pub const ND_TARGET_ADDRESS: u8 = 2;
