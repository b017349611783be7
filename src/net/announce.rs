//! Frames by which a network learns where an address is now (virtio 1.4 §5.1.6.5.4).
//!
//! One tells bridges of the MAC address, whatever stands above it: a reverse ARP request (RFC 903).
//! Then, for neighbours that know the IP addresses: an ARP announcement for each IPv4 address (RFC 5227
//! §2.3), an unsolicited neighbour advertisement for each IPv6 address (RFC 4861 §7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Shortest frame on a wire, without its check sequence (IEEE 802.3).
const SHORTEST: usize = 60;

/// The frames for a netdev with this MAC address and these IP addresses.
pub fn frames(mac: [u8; 6], addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let unknown = Ipv4Addr::UNSPECIFIED;
    let reverse = arp(mac, 0x8035, 3, unknown, mac);
    let each = addresses.iter().map(|address| match address {
        IpAddr::V4(v4) => arp(mac, 0x0806, 1, *v4, [0; 6]),
        IpAddr::V6(v6) => advertisement(mac, *v6),
    });
    std::iter::once(reverse).chain(each).collect()
}

/// An ARP message to everybody with sender and target alike (RFC 826).
fn arp(mac: [u8; 6], ether_type: u16, operation: u16, ip: Ipv4Addr, target: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ether_type);
    // Ethernet and IPv4 addresses, of 6 and 4 bytes.
    frame.extend([0, 1, 0x08, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(target);
    frame.extend(ip.octets());
    frame.resize(SHORTEST, 0);
    frame
}

/// A neighbour advertisement that nobody asked for, to all nodes.
fn advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![136, 0, 0, 0];
    // Override: what was known before is wrong.
    body.extend(0x2000_0000_u32.to_be_bytes());
    body.extend(ip.octets());
    // Target link-layer address, one unit of 8 bytes.
    body.extend([2, 1]);
    body.extend(mac);
    let len = u16::try_from(body.len()).unwrap_or(0);
    let sum = checksum(ip, all_nodes, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    // ICMPv6, and a hop limit that no router has touched.
    frame.extend([58, 255]);
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(body);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], ether_type: u16) -> Vec<u8> {
    [&to[..], &from[..], &ether_type.to_be_bytes()].concat()
}

/// The ICMPv6 checksum (RFC 8200 §8.1) of a message of even length with a zero checksum field.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>()
    };
    let len = u32::try_from(body.len()).unwrap_or(0);
    let mut sum = words(&from.octets()) + words(&to.octets()) + len + 58 + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_netdev_without_ip_addresses_is_announced_to_bridges() {
        let frames = frames(MAC, &[]);
        assert_eq!(frames.len(), 1);
        let head = [
            255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3, 2,
            0, 0, 0, 0, 7, 0, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0,
        ];
        assert_eq!(frames[0][..42], head);
        assert_eq!(frames[0].len(), 60);
    }

    #[test]
    fn an_ipv4_address_is_announced_by_arp() {
        let frames = frames(MAC, &[Ipv4Addr::new(10, 77, 0, 1).into()]);
        let body = [
            0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 77, 0, 1, 0, 0, 0, 0, 0, 0,
            10, 77, 0, 1,
        ];
        assert_eq!(frames[1][12..42], body);
    }

    #[test]
    fn an_ipv6_address_is_announced_by_an_advertisement_with_a_good_checksum() {
        let ip = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
        let frames = frames(MAC, &[ip.into()]);
        let frame = &frames[1];
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
        assert_eq!(frame[18..22], [0, 32, 58, 255]);
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!(frame[54..62], [136, 0, frame[56], frame[57], 0x20, 0, 0, 0]);
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 7]);
        // Over the finished message the sum comes out as all ones, its complement as 0.
        assert_eq!(checksum(ip, to, &frame[54..]), 0);
    }
}
