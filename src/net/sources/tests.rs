//! Frames made by hand, and frames made of what they claim, of which the verdict is known beforehand.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::net::frame::PREFIX_FRAME;
use crate::spec::net::HEADER_LEN;

mod claims;

/// The other end's own addresses, and another's.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const OWN_V4: [u8; 4] = [10, 77, 0, 2];
const OTHER_V4: [u8; 4] = [10, 77, 1, 2];
const OWN_V6: &str = "fd77::2";
const OTHER_V6: &str = "fd77:0:0:1::2";
/// What the standard makes of [`OWN`] and [`OTHER`].
const OWN_LOCAL: &str = "fe80::ff:fe00:2";
const OTHER_LOCAL: &str = "fe80::ff:fe00:3";

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn networks(texts: &[&str]) -> Vec<(IpAddr, u8)> {
    texts
        .iter()
        .map(|text| {
            let (address, len) = text.split_once('/').unwrap();
            (address.parse().unwrap(), len.parse().unwrap())
        })
        .collect()
}

fn both() -> Sources {
    let ips = networks(&["10.77.0.2/32", "10.80.0.0/24", "fd77::2/128", "fd80::/64"]);
    Sources::new(&[OWN, [2, 0, 0, 0, 0, 7]], &ips).unwrap()
}

/// A frame behind an empty virtio-net header.
fn frame(from: [u8; 6], types: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(from);
    for (i, kind) in types.iter().enumerate() {
        frame.extend(kind.to_be_bytes());
        if i + 1 < types.len() {
            frame.extend([0, 5]);
        }
    }
    frame.extend(payload);
    frame
}

fn ipv4(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend([0; 8]);
    packet
}

fn arp(op: u8, mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, op];
    packet.extend(mac);
    packet.extend(ip);
    packet.extend([0; 6]);
    packet.extend([10, 77, 0, 1]);
    packet
}

fn ipv6(from: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(v6(from));
    packet.extend(v6("ff02::1"));
    packet.extend(payload);
    packet
}

/// A message of neighbour discovery, its option behind it.
fn discovery(kind: u8, target: &str, option: Option<(u8, [u8; 6])>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    match kind {
        133 => {}
        134 => message.extend([0; 8]),
        137 => message.extend([v6(target), v6(target)].concat()),
        _ => message.extend(v6(target)),
    }
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    message
}

/// Rows of what is sent and what becomes of it.
fn assert_verdicts(sources: &Sources, rows: &[(&str, Vec<u8>, Result<(), Drop>)]) {
    for (what, frame, verdict) in rows {
        assert_eq!(sources.check(frame), *verdict, "{what}: {frame:02x?}");
    }
}

const MAC: Result<(), Drop> = Err(Drop::ForeignMac);
const IP: Result<(), Drop> = Err(Drop::ForeignIp);
const TYPE: Result<(), Drop> = Err(Drop::ForeignType);
const UNCLEAR: Result<(), Drop> = Err(Drop::Unclear);
const GOOD: Result<(), Drop> = Ok(());

#[test]
fn without_lists_there_is_nothing_to_check() {
    assert_eq!(Sources::new(&[], &[]), None);
}

#[test]
fn the_ethernet_source_is_one_that_is_listed() {
    let packet = ipv4(OWN_V4, [10, 77, 0, 1]);
    let rows = [
        ("own", frame(OWN, &[0x800], &packet), GOOD),
        ("another", frame(OTHER, &[0x800], &packet), MAC),
        ("broadcast", frame([0xff; 6], &[0x800], &packet), MAC),
        ("multicast", frame([3, 0, 0, 0, 0, 2], &[0x800], &packet), MAC),
        ("none", frame([0; 6], &[0x800], &packet), MAC),
        ("cut within it", frame(OWN, &[], &[])[..HEADER_LEN + 11].to_vec(), UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
    let macs_only = Sources::new(&[OWN], &[]).unwrap();
    let rows = [
        ("any address", frame(OWN, &[0x800], &ipv4(OTHER_V4, [10, 77, 0, 1])), GOOD),
        ("any type", frame(OWN, &[0x88cc], &[]), GOOD),
        ("a length", frame(OWN, &[3], &[0x42, 0x42, 3]), GOOD),
        ("another", frame(OTHER, &[0x88cc], &[]), MAC),
    ];
    assert_verdicts(&macs_only, &rows);
}

#[test]
fn an_ipv4_source_is_one_that_is_listed() {
    let sent = |from, to| frame(OWN, &[0x800], &ipv4(from, to));
    let gate = [10, 77, 0, 1];
    let mut options = ipv4(OWN_V4, gate);
    options[0] = 0x4f;
    options.extend([1; 40]);
    let mut short = ipv4(OWN_V4, gate);
    short[0] = 0x44;
    let mut fragment = ipv4(OTHER_V4, gate);
    fragment[6..8].copy_from_slice(&[0x00, 0xb9]);
    let rows = [
        ("own", sent(OWN_V4, gate), GOOD),
        ("first of a network", sent([10, 80, 0, 0], gate), GOOD),
        ("last of a network", sent([10, 80, 0, 255], gate), GOOD),
        ("before a network", sent([10, 79, 255, 255], gate), IP),
        ("behind a network", sent([10, 80, 1, 0], gate), IP),
        ("another's", sent(OTHER_V4, gate), IP),
        ("another's, in a later fragment", frame(OWN, &[0x800], &fragment), IP),
        ("broadcast", sent([255; 4], gate), IP),
        ("loopback", sent([127, 0, 0, 1], gate), IP),
        ("DHCP's", sent([0; 4], [255; 4]), GOOD),
        ("none, to a host", sent([0; 4], gate), IP),
        ("with options", frame(OWN, &[0x800], &options), GOOD),
        ("header too short", frame(OWN, &[0x800], &short), UNCLEAR),
        ("IPv6 as IPv4", frame(OWN, &[0x800], &ipv6(OWN_V6, 17, &[])), UNCLEAR),
        ("IPv4 as IPv6", frame(OWN, &[0x86dd], &ipv4(OWN_V4, gate).repeat(2)), UNCLEAR),
        ("cut", frame(OWN, &[0x800], &ipv4(OWN_V4, gate)[..19]), UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
}

#[test]
fn tags_do_not_hide_what_is_behind_them() {
    let bad = ipv4(OTHER_V4, [10, 77, 0, 1]);
    let good = ipv4(OWN_V4, [10, 77, 0, 1]);
    let lie = arp(2, OTHER, OWN_V4);
    let rows = [
        ("one tag", frame(OWN, &[0x8100, 0x800], &bad), IP),
        ("two tags", frame(OWN, &[0x88a8, 0x8100, 0x800], &bad), IP),
        ("two of a kind", frame(OWN, &[0x8100, 0x8100, 0x806], &lie), MAC),
        ("one tag, good", frame(OWN, &[0x8100, 0x800], &good), GOOD),
        ("two tags, good", frame(OWN, &[0x88a8, 0x8100, 0x800], &good), GOOD),
        ("three tags", frame(OWN, &[0x8100, 0x8100, 0x8100, 0x800], &good), UNCLEAR),
        ("a tag and no more", frame(OWN, &[0x8100], &[0, 5]), UNCLEAR),
        ("half a tag", frame(OWN, &[0x8100], &[0]), UNCLEAR),
        ("an old kind of tag", frame(OWN, &[0x9100, 0x800], &good), TYPE),
    ];
    assert_verdicts(&both(), &rows);
    let macs_only = Sources::new(&[OWN], &[]).unwrap();
    let three = frame(OWN, &[0x8100, 0x8100, 0x8100, 0x806], &lie);
    assert_eq!(macs_only.check(&three), UNCLEAR);
}

#[test]
fn with_ip_addresses_listed_other_kinds_of_frames_do_not_pass() {
    // 802.2 length, SNAP with IPv4 in it, LLDP, PPPoE, MPLS, EAPOL, pause, MACsec, IPv4's neighbours.
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &ipv4(OTHER_V4, [10, 77, 0, 1])[..]].concat();
    assert_eq!(both().check(&frame(OWN, &[36], &snap)), TYPE);
    for kind in [
        3, 0x5ff, 0x88cc, 0x8864, 0x8847, 0x888e, 0x8808, 0x88e5, 0x801, 0x7ff, 0x86dc, 0x86de, 0,
        0xffff,
    ] {
        let sent = frame(OWN, &[kind], &ipv4(OWN_V4, [10, 77, 0, 1]));
        assert_eq!(both().check(&sent), TYPE, "{kind:#x}");
    }
}

#[test]
fn an_arp_sender_is_who_it_may_be() {
    let sent = |op, mac, ip| frame(OWN, &[0x806], &arp(op, mac, ip));
    let altered = |at: usize, to: u8| {
        let mut packet = arp(1, OWN, OWN_V4);
        packet[at] = to;
        frame(OWN, &[0x806], &packet)
    };
    let rows = [
        ("request", sent(1, OWN, OWN_V4), GOOD),
        ("reply", sent(2, OWN, OWN_V4), GOOD),
        ("reply for another", sent(2, OWN, OTHER_V4), IP),
        ("request as another", sent(1, OWN, OTHER_V4), IP),
        ("another's hardware", sent(2, OTHER, OWN_V4), MAC),
        ("its second hardware", sent(2, [2, 0, 0, 0, 0, 7], OWN_V4), GOOD),
        ("probe", sent(1, OWN, [0; 4]), GOOD),
        ("reverse", frame(OWN, &[0x8035], &arp(3, OWN, [0; 4])), GOOD),
        ("reverse, as another", frame(OWN, &[0x8035], &arp(3, OTHER, [0; 4])), MAC),
        ("unknown operation", sent(9, OWN, OTHER_V4), IP),
        ("other hardware", altered(1, 6), UNCLEAR),
        ("other protocol", altered(2, 9), UNCLEAR),
        ("longer hardware address", altered(4, 8), UNCLEAR),
        ("longer address", altered(5, 16), UNCLEAR),
        ("cut", frame(OWN, &[0x806], &arp(1, OWN, OWN_V4)[..17]), UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
    let ips_only = Sources::new(&[], &networks(&["10.77.0.2/32"])).unwrap();
    let rows = [
        ("as the frame says", frame(OTHER, &[0x806], &arp(2, OTHER, OWN_V4)), GOOD),
        ("not as the frame says", frame(OTHER, &[0x806], &arp(2, OWN, OWN_V4)), MAC),
    ];
    assert_verdicts(&ips_only, &rows);
}

#[test]
fn an_ipv6_source_is_one_that_is_listed_or_made_of_a_listed_mac() {
    let sent = |from| frame(OWN, &[0x86dd], &ipv6(from, 17, &[0; 8]));
    let mut cut = frame(OWN, &[0x86dd], &ipv6(OWN_V6, 17, &[]));
    let version = {
        let mut packet = ipv6(OWN_V6, 17, &[0; 8]);
        packet[0] = 0x40;
        frame(OWN, &[0x86dd], &packet)
    };
    cut.truncate(cut.len() - 1);
    let rows = [
        ("own", sent(OWN_V6), GOOD),
        ("of a network", sent("fd80::ffff:ffff:ffff:ffff"), GOOD),
        ("behind a network", sent("fd80:0:0:1::"), IP),
        ("another's", sent(OTHER_V6), IP),
        ("own link-local", sent(OWN_LOCAL), GOOD),
        ("another's link-local", sent(OTHER_LOCAL), IP),
        ("IPv4 in it", sent("::ffff:10.77.0.2"), IP),
        ("unspecified", sent("::"), IP),
        ("multicast", sent("ff02::1"), IP),
        ("cut", cut, UNCLEAR),
        ("another version", version, UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
    let listed = Sources::new(&[], &networks(&["fe80::/10"])).unwrap();
    assert_eq!(listed.check(&sent(OTHER_LOCAL)), GOOD);
    let not_listed = Sources::new(&[], &networks(&["fd77::2/128"])).unwrap();
    assert_eq!(not_listed.check(&sent(OWN_LOCAL)), IP);
}

#[test]
fn neighbour_discovery_speaks_for_nobody_else() {
    let sent = |from, message: &[u8]| frame(OWN, &[0x86dd], &ipv6(from, 58, message));
    let (slla, tlla) = (|mac| Some((1, mac)), |mac| Some((2, mac)));
    let rows = [
        ("asks", sent(OWN_V6, &discovery(135, OTHER_V6, slla(OWN))), GOOD),
        ("asks with another's MAC", sent(OWN_V6, &discovery(135, OTHER_V6, slla(OTHER))), MAC),
        ("answers", sent(OWN_V6, &discovery(136, OWN_V6, tlla(OWN))), GOOD),
        ("answers for another", sent(OWN_V6, &discovery(136, OTHER_V6, tlla(OWN))), IP),
        ("answers with another's MAC", sent(OWN_V6, &discovery(136, OWN_V6, tlla(OTHER))), MAC),
        ("answers with the other option", sent(OWN_V6, &discovery(136, OWN_V6, slla(OTHER))), MAC),
        ("answers for its link-local", sent(OWN_LOCAL, &discovery(136, OWN_LOCAL, None)), GOOD),
        ("tries its address", sent("::", &discovery(135, OWN_V6, None)), GOOD),
        ("tries its link-local", sent("::", &discovery(135, OWN_LOCAL, None)), GOOD),
        ("tries another's", sent("::", &discovery(135, OTHER_V6, None)), IP),
        ("answers as nobody", sent("::", &discovery(136, OWN_V6, None)), IP),
        ("looks for routers", sent(OWN_LOCAL, &discovery(133, "::", slla(OWN))), GOOD),
        ("looks for them as nobody", sent("::", &discovery(133, "::", None)), GOOD),
        ("looks for them as another", sent(OWN_LOCAL, &discovery(133, "::", slla(OTHER))), MAC),
        ("is a router", sent(OWN_LOCAL, &discovery(134, "::", None)), TYPE),
        ("redirects", sent(OWN_LOCAL, &discovery(137, OWN_V6, None)), TYPE),
        ("reports a group as nobody", sent("::", &[143, 0, 0, 0, 0, 0, 0, 0]), GOOD),
        ("pings as nobody", sent("::", &[128, 0, 0, 0, 0, 0, 0, 0]), IP),
        ("pings", sent(OWN_V6, &[128, 0, 0, 0, 0, 0, 0, 0]), GOOD),
        ("says nothing", sent(OWN_V6, &[]), UNCLEAR),
        ("is cut in the target", sent(OWN_V6, &discovery(136, OWN_V6, None)[..23]), UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
}

#[test]
fn options_of_neighbour_discovery_cannot_be_hidden() {
    let answer = |options: &[u8]| {
        let mut message = discovery(136, OWN_V6, None);
        message.extend(options);
        frame(OWN, &[0x86dd], &ipv6(OWN_V6, 58, &message))
    };
    let lie = [2, 1, 2, 0, 0, 0, 0, 3];
    let behind = |first: &[u8]| answer(&[first, &lie].concat());
    let mut longer = answer(&lie);
    // The packet says that it ends before the option; the frame goes on.
    let at = HEADER_LEN + 14 + 4;
    longer[at..at + 2].copy_from_slice(&24_u16.to_be_bytes());
    let mut shorter = answer(&[]);
    shorter[at..at + 2].copy_from_slice(&32_u16.to_be_bytes());
    let mut no_length = answer(&lie);
    no_length[at..at + 2].copy_from_slice(&[0, 0]);
    let rows = [
        ("behind another option", behind(&[14, 1, 0, 0, 0, 0, 0, 0]), MAC),
        ("behind a good one", behind(&[2, 1, 2, 0, 0, 0, 0, 2]), MAC),
        ("behind one of no length", behind(&[14, 0, 0, 0, 0, 0, 0, 0]), UNCLEAR),
        ("of two lengths", answer(&[2, 2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), UNCLEAR),
        ("longer than the message", answer(&[2, 2, 2, 0, 0, 0, 0, 2]), UNCLEAR),
        ("cut in its head", answer(&[2]), UNCLEAR),
        ("cut in its address", answer(&[2, 1, 2, 0, 0]), UNCLEAR),
        ("behind the packet's end", longer, GOOD),
        ("in a packet longer than its frame", shorter, UNCLEAR),
        ("in a packet of no length", no_length, UNCLEAR),
        ("beyond what is checked", behind(&[&[14, 30][..], &[0; 238]].concat()), UNCLEAR),
    ];
    assert_verdicts(&both(), &rows);
}

#[test]
fn extension_headers_do_not_hide_neighbour_discovery() {
    let sent = |next, payload: &[u8]| frame(OWN, &[0x86dd], &ipv6(OWN_V6, next, payload));
    let lie = discovery(136, OTHER_V6, None);
    let with = |headers: &[&[u8]]| [headers.concat(), lie.clone()].concat();
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next, offset: u16, more: u8| {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        [next, 0, high, low, 0, 0, 0, 9]
    };
    let long = [&[58, 31][..], &[0; 254]].concat();
    let half = [fragment(60, 0, 1), options(58)].concat();
    let rows = [
        ("hop-by-hop", sent(0, &with(&[&options(58)])), IP),
        ("destination", sent(60, &with(&[&options(58)])), IP),
        ("routing", sent(43, &with(&[&options(58)])), IP),
        ("authentication", sent(51, &with(&[&[58, 1, 0, 0], &[0; 8]])), IP),
        ("three of them", sent(0, &with(&[&options(60), &options(43), &options(58)])), IP),
        ("a long one", sent(60, &with(&[&long])), UNCLEAR),
        ("a first fragment", sent(44, &with(&[&fragment(58, 0, 1)])), UNCLEAR),
        ("the only fragment", sent(44, &with(&[&fragment(58, 0, 0)])), UNCLEAR),
        ("headers on their own", sent(44, &half), UNCLEAR),
        ("a later fragment", sent(44, &with(&[&fragment(58, 185, 0)])), GOOD),
        ("a first fragment of UDP", sent(44, &[&fragment(17, 0, 1)[..], &[0; 8]].concat()), GOOD),
        ("a cut header", sent(0, &[58]), UNCLEAR),
        ("encrypted", sent(50, &lie), GOOD),
        ("nothing behind", sent(59, &[]), GOOD),
    ];
    assert_verdicts(&both(), &rows);
    let nobody = frame(OWN, &[0x86dd], &ipv6("::", 44, &fragment(58, 185, 0)));
    assert_eq!(both().check(&nobody), IP);
    let report = [&options(58)[..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
    let report = frame(OWN, &[0x86dd], &ipv6("::", 0, &report));
    assert_eq!(both().check(&report), GOOD, "as hosts send it");
}

#[test]
fn a_checksum_cannot_be_completed_in_what_was_judged() {
    let with_sum = |mut sent: Vec<u8>, start: u16, offset: u16| {
        let header = Header {
            flags: HDR_F_NEEDS_CSUM,
            csum_start: start.into(),
            csum_offset: offset.into(),
            ..Header::read_from_bytes(&[0; HEADER_LEN]).unwrap()
        };
        sent[..HEADER_LEN].copy_from_slice(header.as_bytes());
        sent
    };
    let v4 = frame(OWN, &[0x800], &ipv4(OWN_V4, [10, 77, 0, 1]));
    let tagged = frame(OWN, &[0x8100, 0x800], &ipv4(OWN_V4, [10, 77, 0, 1]));
    let v6 = frame(OWN, &[0x86dd], &ipv6(OWN_V6, 17, &[0; 8]));
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let behind = frame(OWN, &[0x86dd], &ipv6(OWN_V6, 60, &[options, [0; 8]].concat()));
    let ping = frame(OWN, &[0x86dd], &ipv6(OWN_V6, 58, &[128, 0, 0, 0, 0, 0, 0, 0]));
    let request = frame(OWN, &[0x806], &arp(1, OWN, OWN_V4));
    let sum = Err(Drop::CsumRange);
    let rows = [
        ("UDP over IPv4", with_sum(v4.clone(), 34, 6), GOOD),
        ("the IPv4 source", with_sum(v4.clone(), 14, 12), sum),
        ("an IPv4 header's end", with_sum(v4, 33, 0), sum),
        ("behind a tag", with_sum(tagged.clone(), 38, 6), GOOD),
        ("before the packet's end behind a tag", with_sum(tagged, 34, 6), sum),
        ("UDP over IPv6", with_sum(v6.clone(), 54, 6), GOOD),
        ("the IPv6 source", with_sum(v6, 14, 8), sum),
        ("an extension header", with_sum(behind.clone(), 54, 0), sum),
        ("UDP behind it", with_sum(behind, 62, 6), GOOD),
        ("ICMPv6", with_sum(ping.clone(), 54, 2), GOOD),
        ("an ICMPv6 type", with_sum(ping, 54, 0), sum),
        ("an ARP sender", with_sum(request, 14, 14), sum),
    ];
    assert_verdicts(&both(), &rows);
    let macs_only = Sources::new(&[OWN], &[]).unwrap();
    let becomes_arp = with_sum(frame(OWN, &[0x8100, 0x1234], &arp(2, OTHER, OTHER_V4)), 14, 2);
    assert_eq!(macs_only.check(&becomes_arp), sum);
}

#[test]
fn a_verdict_does_not_depend_on_what_lies_behind_the_prefix() {
    let mut sent = frame(OWN, &[0x800], &ipv4(OWN_V4, [10, 77, 0, 1]));
    sent.resize(HEADER_LEN + PREFIX_FRAME, 0);
    assert_eq!(both().check(&sent), GOOD);
    sent.resize(9000, 0xff);
    assert_eq!(both().check(&sent), GOOD);
    let long = [&[58, 31][..], &[0; 254], &discovery(136, OWN_V6, None)[..]].concat();
    let whole = frame(OWN, &[0x86dd], &ipv6(OWN_V6, 60, &long));
    assert_eq!(both().check(&whole), UNCLEAR, "though all of it was copied");
}

#[test]
fn nested_and_repeated_networks_are_one() {
    let ips = networks(&["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "9.0.0.0/32", "0.0.0.0/32"]);
    let sources = Sources::new(&[], &ips).unwrap();
    let v4 = &sources.ips.as_ref().unwrap().v4;
    assert_eq!(v4.0.len(), 3);
    assert!(v4.has(0x0aff_ffff) && v4.has(0x0a01_0000) && v4.has(0x0900_0000) && v4.has(0));
    assert!(!v4.has(0x0b00_0000) && !v4.has(0x0900_0001) && !v4.has(1));
    let all = Sources::new(&[], &networks(&["0.0.0.0/0", "::/0"])).unwrap();
    assert_eq!(all.check(&frame(OTHER, &[0x800], &ipv4(OTHER_V4, [255; 4]))), GOOD);
    assert_eq!(all.check(&frame(OTHER, &[0x86dd], &ipv6("::", 17, &[0; 8]))), GOOD);
}

proptest! {
    #[test]
    fn no_octets_make_the_judgement_panic(
        octets in prop::collection::vec(any::<u8>(), 0..400),
        kind in prop::sample::select(vec![0x800_u16, 0x806, 0x86dd, 0x8100, 0x88a8]),
        next in prop::sample::select(vec![0_u8, 43, 44, 51, 58, 60]),
    ) {
        let mut octets = octets;
        let _ = both().check(&octets);
        // As the kinds that are looked into, which chance does not make.
        for (at, value) in [(18..24, &OWN[..]), (24..26, &kind.to_be_bytes()), (26..27, &[0x60]), (32..33, &[next]), (34..50, &v6(OWN_V6))] {
            if let Some(field) = octets.get_mut(at) {
                field.copy_from_slice(value);
            }
        }
        let _ = both().check(&octets);
        let _ = Sources::new(&[OWN], &[]).unwrap().check(&octets);
    }
}
