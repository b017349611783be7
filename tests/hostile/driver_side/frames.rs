//! virtio-net headers and frames that the driver sends (virtio 1.4 §5.1.9).
//!
//! A device has to ignore flags that it does not recognise (§5.1.9.2.2). Ours hands frames on to a kernel
//! that may recognise them, and that nobody asked: it drops such frames.

use boardlane::net::frame::Drop;
use boardlane::spec::net::{F_CSUM, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO};

use super::{PACKED, SPLIT};
use crate::attack::{Attack, DATA, frame};
use crate::case::Verdict::{DropAndCount, Harmless};
use crate::case::{Case, case};
use crate::rings::poke;

const FLAGS: &str = "5.1.9.2.1: the driver MUST NOT set flags beyond NEEDS_CSUM";
const CSUM: &str = "5.1.9.2.1: NEEDS_CSUM only if CSUM was negotiated";
const RANGE: &str = "5.1.9.2.1: csum_start and csum_offset are inside the packet";
const TYPE: &str = "5.1.9.2.1: gso_type only as negotiated";
const SIZE: &str = "5.1.9.2.1: with a gso_type, gso_size is above 0";
const WITH_CSUM: &str = "5.1.9.2.1: with a gso_type, NEEDS_CSUM is set";
const LEN: &str = "5.1.9.2.1: hdr_len is the length of the headers";
const WHOLE: &str = "5.1.9.2: a packet stands behind a header of 12 bytes";

/// Flags, type, then hdr_len, gso_size, csum_start, csum_offset and num_buffers.
type Header = (u8, u8, [u16; 5]);

/// Sends a frame of 2,000 bytes with this header.
fn send(a: &mut Attack, (flags, gso_type, fields): Header) {
    let mut sent = frame(1, 2000);
    (sent[0], sent[1]) = (flags, gso_type);
    for (to, field) in sent[2..12].chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    poke(a.mem(), DATA, &sent);
    a.tx().send(&[(DATA, 2012, 0)]);
}

fn passes(a: &mut Attack, header: Header) {
    send(a, header);
    a.settle();
    assert_eq!(a.victim.inbox.len(), 1, "it passes");
}

/// Sends the first `len` bytes of a plain frame.
fn send_short(a: &mut Attack, len: u32) {
    poke(a.mem(), DATA, &frame(1, 200));
    a.tx().send(&[(DATA, len, 0)]);
}

/// A packet of TCP over IPv4 that is to be segmented, as a good driver would say.
const TSO: [u16; 5] = [54, 1448, 34, 16, 0];

pub(crate) fn cases() -> Vec<Case> {
    [flags(), checksums(), segments(), lengths(), tolerated()].into_iter().flatten().collect()
}

fn flags() -> Vec<Case> {
    let bad = |name, attack| case(name, FLAGS, SPLIT, attack, DropAndCount(Drop::BadFlags));
    vec![
        bad("flag RSC_INFO", |a| send(a, (4, 0, [0; 5]))),
        bad("flag UDP_TUNNEL_CSUM", |a| send(a, (8, 0, [0; 5]))),
        bad("an undefined flag", |a| send(a, (0x80, 0, [0; 5]))),
        bad("all flags", |a| send(a, (0xff, 0xff, [0xffff; 5]))),
        case("all flags, packed", FLAGS, PACKED, |a| send(a, (0xff, 0xff, [0xffff; 5])), {
            DropAndCount(Drop::BadFlags)
        }),
    ]
}

fn checksums() -> Vec<Case> {
    let range = |name, attack| case(name, RANGE, SPLIT, attack, DropAndCount(Drop::CsumRange));
    vec![
        case(
            "a checksum that was not negotiated",
            CSUM,
            SPLIT.without(&[F_CSUM, F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN, F_HOST_USO]),
            |a| send(a, (1, 0, [0, 0, 34, 16, 0])),
            DropAndCount(Drop::CsumNotNegotiated),
        ),
        range("csum_start beyond the frame", |a| send(a, (1, 0, [0, 0, 2001, 0, 0]))),
        range("csum_start 65535", |a| send(a, (1, 0, [0, 0, 0xffff, 0, 0]))),
        range("csum_offset 65535", |a| send(a, (1, 0, [0, 0, 34, 0xffff, 0]))),
        range("csum_start and csum_offset over 65535", |a| {
            send(a, (1, 0, [0, 0, 0xffff, 0xffff, 0]))
        }),
        range("csum_start in the Ethernet header", |a| send(a, (1, 0, [0, 0, 13, 16, 0]))),
        range("csum_start 0", |a| send(a, (1, 0, [0, 0, 0, 0, 0]))),
        range("the checksum behind what is checked", |a| send(a, (1, 0, [0, 0, 250, 5, 0]))),
        range("the checksum at the last byte", |a| {
            let mut sent = frame(1, 60);
            (sent[0], sent[6], sent[8]) = (1, 43, 16);
            poke(a.mem(), DATA, &sent);
            a.tx().send(&[(DATA, 72, 0)]);
        }),
    ]
}

fn segments() -> Vec<Case> {
    let gso = Drop::GsoNotNegotiated;
    let kind = |name, attack| case(name, TYPE, SPLIT, attack, DropAndCount(gso));
    let bad = |name, breaks, attack| case(name, breaks, SPLIT, attack, DropAndCount(Drop::GsoBad));
    vec![
        bad("gso_size 65535, which is Linux's for none", SIZE, |a| {
            send(a, (1, 1, [54, 0xffff, 34, 16, 0]));
        }),
        bad("hdr_len beyond the frame, without a type", LEN, |a| {
            send(a, (0, 0, [0xffff, 0, 0, 0, 0]));
        }),
        case(
            "TCPV4 without HOST_TSO4",
            TYPE,
            SPLIT.without(&[F_HOST_TSO4]),
            |a| {
                send(a, (1, 1, TSO));
            },
            DropAndCount(gso),
        ),
        case(
            "TCPV6 without HOST_TSO6",
            TYPE,
            SPLIT.without(&[F_HOST_TSO6]),
            |a| {
                send(a, (1, 4, TSO));
            },
            DropAndCount(gso),
        ),
        case(
            "UDP_L4 without HOST_USO",
            TYPE,
            SPLIT.without(&[F_HOST_USO]),
            |a| {
                send(a, (1, 5, TSO));
            },
            DropAndCount(gso),
        ),
        case(
            "ECN without HOST_ECN",
            TYPE,
            SPLIT.without(&[F_HOST_ECN]),
            |a| {
                send(a, (1, 0x81, TSO));
            },
            DropAndCount(gso),
        ),
        case(
            "TCPV4 without HOST_TSO4, packed",
            TYPE,
            PACKED.without(&[F_HOST_TSO4]),
            |a| {
                send(a, (1, 1, TSO));
            },
            DropAndCount(gso),
        ),
        kind("UDP fragmentation", |a| send(a, (1, 3, TSO))),
        kind("gso_type 2", |a| send(a, (1, 2, TSO))),
        kind("gso_type 127", |a| send(a, (1, 0x7f, TSO))),
        kind("ECN alone", |a| send(a, (1, 0x80, TSO))),
        kind("ECN of UDP", |a| send(a, (1, 0x85, TSO))),
        kind("a UDP tunnel", |a| send(a, (1, 0x21, TSO))),
        bad("gso_size 0", SIZE, |a| send(a, (1, 1, [54, 0, 34, 16, 0]))),
        bad("gso_size 0 of UDP", SIZE, |a| send(a, (1, 5, [42, 0, 34, 6, 0]))),
        bad("segments without a checksum", WITH_CSUM, |a| send(a, (0, 1, TSO))),
        bad("hdr_len beyond the frame", LEN, |a| send(a, (1, 1, [2001, 1448, 34, 16, 0]))),
        bad("hdr_len 65535", LEN, |a| send(a, (1, 1, [0xffff, 1448, 34, 16, 0]))),
        case(
            "hdr_len 65535, packed",
            LEN,
            PACKED,
            |a| send(a, (1, 1, [0xffff, 1448, 34, 16, 0])),
            DropAndCount(Drop::GsoBad),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let short = |name, attack| case(name, WHOLE, SPLIT, attack, DropAndCount(Drop::TooShort));
    vec![
        short("a frame of one byte", |a| send_short(a, 1)),
        short("half a header", |a| send_short(a, 6)),
        short("a header less one byte", |a| send_short(a, 11)),
        short("nothing behind the header", |a| send_short(a, 12)),
        short("an Ethernet header less one byte", |a| send_short(a, 25)),
    ]
}

fn tolerated() -> Vec<Case> {
    let harmless = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Harmless(why));
    vec![
        harmless(
            "num_buffers that is not 0",
            "5.1.9.2.1: the driver MUST set num_buffers to 0",
            |a| {
                passes(a, (0, 0, [0, 0, 0, 0, 0xffff]));
            },
            "it says nothing on this way",
        ),
        harmless(
            "DATA_VALID",
            "5.1.9.2.1: the driver MUST NOT set DATA_VALID",
            |a| {
                passes(a, (2, 0, [0; 5]));
            },
            "nobody on this way relies on it",
        ),
        harmless(
            "hdr_len 0 of segments",
            LEN,
            |a| {
                passes(a, (1, 1, [0, 1448, 34, 16, 0]));
            },
            "5.1.9.2.2: the device MUST NOT rely on it",
        ),
        harmless(
            "gso_size without a type",
            "5.1.9.2.1: gso_size goes with a gso_type",
            |a| {
                passes(a, (0, 0, [0, 0xffff, 0, 0, 0]));
            },
            "without a type it says nothing",
        ),
        harmless(
            "csum_start without NEEDS_CSUM",
            RANGE,
            |a| {
                passes(a, (0, 0, [0, 0, 0xffff, 0xffff, 0]));
            },
            "without the flag it says nothing",
        ),
        harmless(
            "gso_size beyond the frame",
            SIZE,
            |a| {
                passes(a, (1, 1, [54, 0xfffe, 34, 16, 0]));
            },
            "it is one segment",
        ),
    ]
}
