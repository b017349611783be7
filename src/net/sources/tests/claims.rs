//! Frames made of what they claim. Their maker knows nothing of how they are judged: it keeps a list of
//! claims beside the octets, and the verdict is that of the list.

use super::*;

/// What a frame says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Mac([u8; 6]),
    V4([u8; 4]),
    V6([u8; 16]),
    /// It is of a kind that does not pass.
    Kind,
    /// Nobody can see what it says.
    Hidden,
}

/// A frame, and what it claims.
#[derive(Clone, Debug)]
struct Sent {
    octets: Vec<u8>,
    claims: Vec<Claim>,
}

const MACS: [[u8; 6]; 4] = [OWN, [2, 0, 0, 0, 0, 7], OTHER, [0xff; 6]];
const V4S: [[u8; 4]; 5] = [OWN_V4, [10, 80, 0, 9], OTHER_V4, [10, 80, 1, 9], [255; 4]];
const V6S: [&str; 7] =
    [OWN_V6, "fd80::9", OWN_LOCAL, OTHER_V6, "fd80:1::9", OTHER_LOCAL, "::ffff:10.77.0.2"];

/// The lists of [`both`], written out anew.
fn is_allowed(claim: Claim) -> bool {
    match claim {
        Claim::Mac(mac) => [OWN, [2, 0, 0, 0, 0, 7]].contains(&mac),
        Claim::V4(ip) => ip == OWN_V4 || ip[..3] == [10, 80, 0],
        Claim::V6(ip) => {
            let listed = [OWN_V6, OWN_LOCAL, "fe80::ff:fe00:7"].map(v6);
            listed.contains(&ip) || ip[..8] == v6("fd80::")[..8]
        }
        Claim::Kind | Claim::Hidden => false,
    }
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![4 => Just(OWN), 1 => prop::sample::select(&MACS[..])]
}

fn v4() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![3 => Just(OWN_V4), 2 => prop::sample::select(&V4S[..])]
}

fn address() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![3 => Just(OWN_V6), 2 => prop::sample::select(&V6S[..])].prop_map(v6)
}

/// Something behind which nothing is looked.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 8..120)
}

/// A type and what it names, with the claims of that.
type Packet = (u16, Vec<u8>, Vec<Claim>);

fn an_ipv4_packet() -> impl Strategy<Value = Packet> {
    (v4(), 5..=15_u8, payload(), any::<[u8; 8]>()).prop_map(|(from, words, rest, any)| {
        let mut packet = vec![0x40 | words, any[0], any[1], any[2], 0, 0, any[3], any[4], any[5]];
        packet.extend([17, any[6], any[7]]);
        packet.extend(from);
        packet.extend([10, 77, 0, 1]);
        packet.resize(usize::from(words) * 4, 1);
        packet.extend(rest);
        (0x800, packet, vec![Claim::V4(from)])
    })
}

fn an_arp_packet() -> impl Strategy<Value = Packet> {
    let kind = prop::sample::select(vec![0x806_u16, 0x8035]);
    (kind, mac(), prop::option::weighted(0.9, v4()), any::<u8>(), any::<[u8; 10]>()).prop_map(
        |(kind, mac, ip, op, target)| {
            let mut packet = arp(op, mac, ip.unwrap_or_default());
            packet[18..28].copy_from_slice(&target);
            let claims = [Some(Claim::Mac(mac)), ip.map(Claim::V4)].into_iter().flatten();
            (kind, packet, claims.collect())
        },
    )
}

/// What an IPv6 packet has above its extension headers.
#[derive(Clone, Debug)]
struct Upper {
    next: u8,
    octets: Vec<u8>,
    claims: Vec<Claim>,
    /// A host that has no address may send it; it then claims the address that it tries.
    nameless: bool,
    tries: Option<[u8; 16]>,
    discovery: bool,
}

impl Upper {
    fn plain(next: u8, octets: Vec<u8>, nameless: bool) -> Self {
        Self { next, octets, claims: vec![], nameless, tries: None, discovery: false }
    }
}

/// Options of neighbour discovery, those with link-layer addresses among others.
fn options() -> impl Strategy<Value = (Vec<u8>, Vec<Claim>)> {
    let option = (prop::sample::select(vec![1_u8, 2, 3, 5, 14, 31]), mac(), 1..=3_u8);
    prop::collection::vec(option, 0..4).prop_map(|options| {
        let (mut octets, mut claims) = (Vec::new(), Vec::new());
        for (kind, mac, words) in options {
            let words = if kind < 3 { 1 } else { words };
            octets.extend([kind, words]);
            octets.extend(mac);
            octets.resize(octets.len() + 8 * usize::from(words - 1), 0xaa);
            claims.extend((kind < 3).then_some(Claim::Mac(mac)));
        }
        (octets, claims)
    })
}

fn a_discovery() -> impl Strategy<Value = Upper> {
    (133..=137_u8, address(), options()).prop_map(|(kind, target, (options, mut claims))| {
        let mut octets = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
        match kind {
            133 => {}
            134 => octets.extend([0; 8]),
            137 => octets.extend([target, target].concat()),
            _ => octets.extend(target),
        }
        octets.extend(options);
        claims.extend(matches!(kind, 134 | 137).then_some(Claim::Kind));
        claims.extend((kind == 136).then_some(Claim::V6(target)));
        let tries = (kind == 135).then_some(target);
        let nameless = matches!(kind, 133 | 135);
        Upper { next: 58, octets, claims, nameless, tries, discovery: true }
    })
}

fn an_upper_layer() -> impl Strategy<Value = Upper> {
    let icmp = |kind: u8, rest: &[u8]| [&[kind, 0, 0, 0][..], rest].concat();
    let report = (prop::sample::select(vec![131_u8, 132, 143]), payload())
        .prop_map(move |(kind, rest)| Upper::plain(58, icmp(kind, &rest), true));
    let ping = payload().prop_map(move |rest| Upper::plain(58, icmp(128, &rest), false));
    let other = (prop::sample::select(vec![6_u8, 17, 50, 59, 4, 41, 132, 135, 253]), payload())
        .prop_map(|(next, rest)| Upper::plain(next, rest, false));
    prop_oneof![6 => a_discovery(), 1 => report, 1 => ping, 2 => other]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fragment {
    Whole,
    First,
    Later,
}

/// Extension headers, each by its number and how many words it has beyond its first, then perhaps a
/// fragment header.
fn extensions() -> impl Strategy<Value = (Vec<(u8, u8)>, Fragment)> {
    let one = (prop::sample::select(vec![0_u8, 43, 60, 51]), 0..3_u8);
    let some = prop_oneof![Just(vec![]), prop::collection::vec(one, 1..4)];
    use Fragment::{First, Later, Whole};
    (some, prop_oneof![8 => Just(Whole), 1 => Just(First), 1 => Just(Later)])
}

fn an_ipv6_packet() -> impl Strategy<Value = Packet> {
    (address(), prop::bool::weighted(0.2), an_upper_layer(), extensions()).prop_map(
        |(from, nobody, upper, (extensions, fragment))| {
            let from = if nobody { [0; 16] } else { from };
            let Upper { mut next, octets: mut payload, mut claims, nameless, tries, discovery } =
                upper;
            claims.extend(tries.filter(|_| nobody).map(Claim::V6));
            if fragment != Fragment::Whole {
                let at = if fragment == Fragment::Later { 8 } else { 1 };
                payload = [&[next, 0, 0, at, 0, 0, 0, 7][..], &payload].concat();
                next = 44;
            }
            match fragment {
                Fragment::Later => claims.clear(),
                Fragment::First if discovery => claims.push(Claim::Hidden),
                Fragment::First | Fragment::Whole => {}
            }
            if !nobody || !nameless || fragment == Fragment::Later {
                claims.push(Claim::V6(from));
            }
            for (kind, more) in extensions.into_iter().rev() {
                let mut header = vec![0; 8 + 8 * usize::from(more)];
                // The authentication header counts words of four octets, from its third on.
                (header[0], header[1]) = (next, if kind == 51 { 2 * more } else { more });
                payload = [header, payload].concat();
                next = kind;
            }
            let mut packet = vec![0x6a, 1, 2, 3];
            packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend([next, 255]);
            packet.extend(from);
            packet.extend(v6("fd77::1"));
            packet.extend(payload);
            (0x86dd, packet, claims)
        },
    )
}

fn a_frame() -> impl Strategy<Value = Sent> {
    let other = (prop::sample::select(vec![0x88cc_u16, 0x888e, 3, 0x9100, 0x8864]), payload())
        .prop_map(|(kind, packet)| (kind, packet, vec![Claim::Kind]));
    let packet = prop_oneof![
        2 => an_ipv4_packet(),
        2 => an_arp_packet(),
        6 => an_ipv6_packet(),
        1 => other,
    ];
    let tag = prop::sample::select(vec![0x8100_u16, 0x88a8]);
    let tags = prop_oneof![4 => Just(vec![]), 2 => prop::collection::vec(tag, 1..4)];
    (mac(), tags, packet).prop_map(|(from, mut types, (kind, packet, mut claims))| {
        claims.push(Claim::Mac(from));
        claims.extend((types.len() > 2).then_some(Claim::Hidden));
        types.push(kind);
        Sent { octets: frame(from, &types, &packet), claims }
    })
}

/// What becomes of a frame for the sake of one claim that is not allowed.
fn reason(claim: Claim) -> Drop {
    match claim {
        Claim::Mac(_) => Drop::ForeignMac,
        Claim::V4(_) | Claim::V6(_) => Drop::ForeignIp,
        Claim::Kind => Drop::ForeignType,
        Claim::Hidden => Drop::Unclear,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_frame_passes_if_all_that_it_claims_is_allowed_and_only_then(sent in a_frame()) {
        let bad: Vec<Claim> = sent.claims.iter().copied().filter(|claim| !is_allowed(*claim)).collect();
        match both().check(&sent.octets) {
            Ok(()) => prop_assert!(bad.is_empty(), "{bad:?}"),
            Err(why) => prop_assert!(bad.iter().any(|claim| reason(*claim) == why), "{why:?}, {bad:?}"),
        }
    }
}
