//! Makes the frames of one way: each is a function of the seed, the way, its flow and its number.
//!
//! Flows differ in addresses and ports, and so do the two ways: a TAP with several queues sends a flow
//! by the queue from which the *other* direction of that flow came, wherever that is.

use super::checksum::{fold, pseudo, sum};
use super::frame::{
    ETHERNET_LEN, Frame, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, Identity, NEEDS_CSUM, TCP, UDP,
    VLAN, Vnet, put,
};
use super::kinds::{Kind, Left, Net, To, kind_of};

/// Most segments of a frame: as many of UDP the kernel makes (linux/udp.h: UDP_MAX_SEGMENTS).
pub(crate) const MOST_SEGMENTS: usize = 128;
/// Shortest frame: 64 bytes with the frame check sequence, which no netdev shows.
const SHORTEST: usize = 60;
/// Greatest frame that may be left to segment (virtio 1.4 §5.1.6.3.1).
const GREATEST: usize = 65_589;
/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// What begins each payload: magic, way, flow, number.
const MARK: usize = 10;
const MAGIC: [u8; 4] = *b"blck";
/// Lengths at which something is known to change: at the shortest frame, at a checked prefix, a page,
/// an MTU, a jumbo frame.
const BORDERS: [usize; 7] = [60, 64, 256, 1514, 4096, 9014, 16384];
/// Sizes of segments: of usual MTUs, and some that are none.
const SEGMENTS: [usize; 8] = [1448, 1440, 1428, 1220, 536, 8948, 100, 4000];

/// Numbers that look random, a function of the first (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn of(parts: &[u64]) -> Self {
        Self(parts.iter().fold(0, |state, part| Self(state ^ part).roll()))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap()
    }

    fn octets<const N: usize>(&mut self) -> [u8; N] {
        let roll = self.roll().to_be_bytes();
        std::array::from_fn(|i| roll[i])
    }
}

/// One way's frames.
pub(crate) struct Maker {
    seed: u64,
    way: u8,
    mtu: usize,
    /// Octets of which each payload is a part.
    pad: Vec<u8>,
}

/// Where the parts of a frame under construction begin.
struct Layout {
    net: usize,
    transport: usize,
    payload: usize,
}

impl Maker {
    pub(crate) fn new(seed: u64, way: u8, mtu: u16) -> Self {
        let mut dice = Dice::of(&[seed, way.into()]);
        let pad = (0..2 * GREATEST / 8).flat_map(|_| dice.octets::<8>()).collect();
        Self { seed, way, mtu: mtu.into(), pad }
    }

    /// The frame of this identity.
    pub(crate) fn make(&self, id: Identity) -> Frame {
        let mut dice = Dice::of(&[self.seed, self.way.into(), id.flow.into(), id.number.into()]);
        let kind = kind_of(id.flow);
        let mut bytes = Vec::with_capacity(2048);
        let layout = self.headers(kind, id, &mut dice, &mut bytes);
        let least = MARK.max(SHORTEST.saturating_sub(layout.payload));
        let (payload, gso_size) = match kind.left {
            Left::Nothing | Left::Checksum => {
                let tag = if kind.tags == [VLAN] { 4 } else { 0 };
                let most = ETHERNET_LEN + tag + self.mtu;
                (length(&mut dice, layout.payload + least, most) - layout.payload, 0)
            }
            Left::Segmentation | Left::SegmentationEcn => {
                let greatest = GREATEST.min(layout.net + greatest_packet(kind.net));
                let (len, size) = segments(&mut dice, greatest - layout.payload, self.mtu, least);
                // Linux takes TCP's options for payload where it looks whether there is anything to
                // segment; then, for options alone, it refuses to.
                let options = kind.transport == Some(TCP)
                    && layout.payload - layout.transport > TCP_LEN
                    && len <= size.into();
                (if options { usize::from(size) + 1 } else { len }, size)
            }
        };
        self.fill(id, payload, &mut dice, &mut bytes);
        finish(kind, &layout, gso_size, &mut dice, bytes)
    }

    /// Headers whose lengths and checksums are not there yet.
    fn headers(&self, kind: &Kind, id: Identity, dice: &mut Dice, bytes: &mut Vec<u8>) -> Layout {
        let (way, flow) = (self.way, id.flow);
        let destination = match (kind.to, kind.net) {
            (To::Station, _) => [0x0e, 0xff, 0, 0, way, flow],
            (To::Group, Net::V4) => [0x01, 0, 0x5e, 1, way, flow],
            (To::Group, _) => [0x33, 0x33, 0, 0, way, flow],
            (To::Everyone, _) => [0xff; 6],
        };
        bytes.extend(destination);
        bytes.extend(id.source());
        for tag in kind.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend(dice.octets::<2>());
        }
        bytes.extend(kind.net.ethertype().to_be_bytes());
        let net = bytes.len();
        match kind.net {
            Net::V4 => ipv4(kind, way, flow, dice, bytes),
            Net::V6 | Net::V6Extended => ipv6(kind, way, flow, dice, bytes),
            Net::Other(_) => {}
        }
        let transport = bytes.len();
        match kind.transport {
            Some(TCP) => tcp(kind.left, flow, dice, bytes),
            Some(_) => {
                bytes.extend([0x13, flow, 0x14, flow, 0, 0, 0, 0]);
            }
            None => {}
        }
        Layout { net, transport, payload: bytes.len() }
    }

    fn fill(&self, id: Identity, len: usize, dice: &mut Dice, bytes: &mut Vec<u8>) {
        bytes.extend(MAGIC);
        bytes.extend([self.way, id.flow]);
        bytes.extend(id.number.to_be_bytes());
        let at = dice.below(self.pad.len() - len);
        bytes.extend_from_slice(&self.pad[at..at + len - MARK]);
    }
}

/// Bytes of the greatest packet, its header included.
fn greatest_packet(net: Net) -> usize {
    if net == Net::V4 { 65_535 } else { 40 + 65_535 }
}

/// The length of a frame: many short ones, some at borders, few long ones.
fn length(dice: &mut Dice, least: usize, most: usize) -> usize {
    let len = match dice.below(16) {
        0..8 => 60 + dice.below(140),
        8..13 => 200 + dice.below(1314),
        13 | 14 => BORDERS[dice.below(BORDERS.len())] + dice.below(9) - 4,
        _ => match dice.below(8) {
            0 => most - dice.below(3),
            1 => dice.below(most),
            _ => dice.below(9014),
        },
    };
    len.clamp(least, most)
}

/// Length of the payload and size of its segments: a multiple, or one more, or one less.
fn segments(dice: &mut Dice, most: usize, mtu: usize, least: usize) -> (usize, u16) {
    // Room for IPv6 with extension headers and TCP with options.
    let size = SEGMENTS[dice.below(SEGMENTS.len())].min(mtu - 40 - 24 - 32);
    let fit = (most / size).min(MOST_SEGMENTS - 1);
    let n = match dice.below(32) {
        0 => return (most.min(MOST_SEGMENTS * size), u16::try_from(size).unwrap()),
        1..8 => 4 + dice.below(9),
        _ => 1 + dice.below(3),
    };
    let len = n.min(fit) * size + dice.below(3) - 1;
    (len.clamp(least, most), u16::try_from(size).unwrap())
}

fn ipv4(kind: &Kind, way: u8, flow: u8, dice: &mut Dice, bytes: &mut Vec<u8>) {
    let options = dice.below(4) == 0 && kind.to == To::Station;
    let fragment = kind.transport.is_none();
    let [id0, id1, frag0, frag1] = dice.octets();
    // More fragments, at any place; or don't fragment.
    let place = if fragment { [0x20 | frag0 & 0x1f, frag1] } else { [0x40, 0] };
    let protocol = kind.transport.unwrap_or(UDP);
    let tos = if kind.left == Left::SegmentationEcn { 2 } else { 0 };
    bytes.extend([if options { 0x46 } else { 0x45 }, tos, 0, 0, id0, id1]);
    bytes.extend(place);
    bytes.extend([64, protocol, 0, 0, 10, 78, way, flow]);
    bytes.extend(match kind.to {
        To::Station => [10, 78, 128 + way, flow],
        To::Group => [239, 1, way, flow],
        To::Everyone => [255; 4],
    });
    if options {
        // No operation, and the end of the list.
        bytes.extend([1, 1, 1, 0]);
    }
}

fn ipv6(kind: &Kind, way: u8, flow: u8, dice: &mut Dice, bytes: &mut Vec<u8>) {
    const HOP_BY_HOP: u8 = 0;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let extended = kind.net == Net::V6Extended;
    let next = match kind.transport {
        Some(_) if extended => HOP_BY_HOP,
        Some(transport) => transport,
        None => FRAGMENT,
    };
    bytes.extend([0x60, 0, 0, 0, 0, 0, next, 64]);
    bytes.extend([0xfd, 0x78, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, way, flow]);
    let first = if kind.to == To::Group { [0xff, 0x0e] } else { [0xfd, 0x78] };
    bytes.extend(first);
    let way = if kind.to == To::Group { way } else { 128 + way };
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, way, flow]);
    if extended {
        // One option each, which pads.
        bytes.extend([DESTINATION, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend([kind.transport.unwrap_or(UDP), 1, 1, 12]);
        bytes.extend([0; 12]);
    } else if kind.transport.is_none() {
        let [a, b, id @ ..] = dice.octets::<6>();
        bytes.extend([UDP, 0, a, b & 0xf8 | 1]);
        bytes.extend(id);
    }
}

fn tcp(left: Left, flow: u8, dice: &mut Dice, bytes: &mut Vec<u8>) {
    const CWR_ECE_ACK: u8 = 0x80 | 0x40 | 0x10;
    const FIN_PSH_ACK: u8 = 0x01 | 0x08 | 0x10;
    let flags = if left == Left::SegmentationEcn { CWR_ECE_ACK } else { FIN_PSH_ACK };
    let options = dice.below(2) == 0;
    let [seq @ .., _, _] = dice.octets::<6>();
    let [ack @ .., w0, w1] = dice.octets::<6>();
    bytes.extend([0x11, flow, 0x12, flow]);
    bytes.extend(seq);
    bytes.extend(ack);
    bytes.extend([if options { 0x80 } else { 0x50 }, flags, w0, w1, 0, 0, 0, 0]);
    if options {
        // Two of no operation, then timestamps.
        bytes.extend([1, 1, 8, 10]);
        bytes.extend(dice.octets::<8>());
    }
}

/// Lengths, checksums as far as they are not left over, and what is left over.
fn finish(
    kind: &Kind,
    layout: &Layout,
    gso_size: u16,
    dice: &mut Dice,
    mut bytes: Vec<u8>,
) -> Frame {
    let &Layout { net, transport, payload } = layout;
    let len = bytes.len();
    let mut vnet = Vnet { hdr_len: u16::try_from(payload.min(len)).unwrap(), ..Vnet::default() };
    let addresses = match kind.net {
        Net::V4 => {
            put(&mut bytes, net + 2, u16::try_from(len - net).unwrap());
            let check = !fold(sum(&bytes[net..net + usize::from(bytes[net] & 0xf) * 4]));
            put(&mut bytes, net + 10, check);
            net + 12..net + 20
        }
        Net::V6 | Net::V6Extended => {
            put(&mut bytes, net + 4, u16::try_from(len - net - 40).unwrap());
            net + 8..net + 40
        }
        Net::Other(_) => return Frame { vnet, bytes },
    };
    let Some(protocol) = kind.transport else { return Frame { vnet, bytes } };
    let offset = if protocol == TCP { 16 } else { 6 };
    if protocol == UDP {
        put(&mut bytes, transport + 4, u16::try_from(len - transport).unwrap());
    }
    let pseudo = pseudo(&bytes[addresses], protocol, len - transport);
    if kind.left == Left::Nothing {
        let check = !fold(pseudo + sum(&bytes[transport..]));
        // UDP over IPv4 may go without a checksum.
        let none = protocol == UDP && kind.net == Net::V4 && dice.below(8) == 0;
        let check = if none {
            0
        } else if check == 0 {
            0xffff
        } else {
            check
        };
        put(&mut bytes, transport + offset, check);
        return Frame { vnet, bytes };
    }
    put(&mut bytes, transport + offset, fold(pseudo));
    vnet.flags = NEEDS_CSUM;
    vnet.csum_start = u16::try_from(transport).unwrap();
    vnet.csum_offset = u16::try_from(offset).unwrap();
    if gso_size > 0 {
        vnet.gso_size = gso_size;
        vnet.gso_type = match (protocol, kind.net) {
            (TCP, Net::V4) => GSO_TCPV4,
            (TCP, _) => GSO_TCPV6,
            _ => GSO_UDP,
        };
        if kind.left == Left::SegmentationEcn {
            vnet.gso_type |= GSO_ECN;
        }
    }
    Frame { vnet, bytes }
}
