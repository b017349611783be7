//! Frames that the device sends: lengths, headers, `num_buffers` (virtio 1.4 §5.1.9).

use crate::rings::poke;
use boardlane::net::frame::Drop;
use boardlane::spec::net::{
    F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, F_MRG_RXBUF,
};

use super::{PACKED, SPLIT};
use crate::attack::{Attack, frame};
use crate::case::Verdict::{DropAndCount, Harmless};
use crate::case::{Case, case};

const COUNT: &str = "5.1.9.4.1: num_buffers is the number of buffers that the packet takes";
const ONE: &str = "5.1.9.4.1: without MRG_RXBUF num_buffers is 1";
const WHOLE: &str = "5.1.9.4: a packet stands behind a header of 12 bytes";
const FLAGS: &str = "5.1.9.4.1: flags only as negotiated";
const CSUM: &str = "5.1.9.4.1: NEEDS_CSUM only if GUEST_CSUM was negotiated";
const RANGE: &str = "5.1.9.4.1: csum_start and csum_offset are inside the packet";
const TYPE: &str = "5.1.9.4.1: gso_type only as negotiated";
const SIZE: &str = "5.1.9.4.1: with a gso_type, gso_size is above 0";
const LEN: &str = "5.1.9.4.1: hdr_len is the length of the headers";

/// Flags, type, then hdr_len, gso_size, csum_start and csum_offset.
type Header = (u8, u8, [u16; 4]);

fn give(a: &mut Attack, (flags, gso_type, fields): Header) {
    let mut octets = frame(1, 2000);
    (octets[0], octets[1]) = (flags, gso_type);
    for (to, field) in octets[2..10].chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    a.give_frame(&octets);
}

const TSO: [u16; 4] = [54, 1448, 34, 16];

pub(crate) fn cases() -> Vec<Case> {
    [counts(), lengths(), headers()].into_iter().flatten().collect()
}

fn counts() -> Vec<Case> {
    let bad =
        |name, setup, attack| case(name, COUNT, setup, attack, DropAndCount(Drop::NumBuffers));
    vec![
        bad("num_buffers 0", SPLIT, |a| a.give_part(&frame(1, 100), Some(0), None)),
        bad("num_buffers 12, of 11 that are posted", SPLIT, |a| {
            a.give_part(&frame(1, 100), Some(12), None)
        }),
        bad("num_buffers 65535", SPLIT, |a| a.give_part(&frame(1, 100), Some(0xffff), None)),
        bad("num_buffers 0, packed", PACKED, |a| a.give_part(&frame(1, 100), Some(0), None)),
        bad("num_buffers 65535, packed", PACKED, |a| {
            a.give_part(&frame(1, 100), Some(0xffff), None)
        }),
        case(
            "num_buffers 9 without MRG_RXBUF",
            ONE,
            SPLIT.without(&[F_MRG_RXBUF]),
            |a| {
                a.give_part(&frame(1, 100), Some(9), None);
                a.settle();
                assert_eq!(a.victim.inbox.len(), 1);
            },
            Harmless("it says nothing then"),
        ),
        case(
            "two buffers of 40,000 bytes",
            WHOLE,
            SPLIT,
            |a| {
                a.give_part(&frame(1, 100), Some(2), Some(40_000));
                a.give_part(&[], None, Some(40_000));
            },
            DropAndCount(Drop::TooLong),
        ),
        case(
            "a second buffer of no bytes",
            COUNT,
            SPLIT,
            |a| {
                a.give_part(&frame(1, 100), Some(2), None);
                a.give_part(&[], None, Some(0));
                a.settle();
                assert_eq!(a.victim.inbox.len(), 1);
            },
            Harmless("the packet is whole without it"),
        ),
        case(
            "num_buffers changes before the packet is whole",
            COUNT,
            SPLIT,
            |a| {
                let at = a.rx().read(0).0;
                a.give_part(&frame(1, 100), Some(2), None);
                a.settle();
                poke(a.mem(), at, &[0xff; 12]);
                a.give_part(&[7; 50], None, None);
                a.settle();
                assert_eq!(a.victim.inbox.len(), 1);
            },
            Harmless("the header was read once"),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let short =
        |name, setup, attack| case(name, WHOLE, setup, attack, DropAndCount(Drop::TooShort));
    vec![
        short("a used length of 0", SPLIT, |a| a.give_part(&frame(1, 100), Some(1), Some(0))),
        short("a used length of 11", SPLIT, |a| a.give_part(&frame(1, 100), Some(1), Some(11))),
        short("nothing behind the header", SPLIT, |a| {
            a.give_part(&frame(1, 100), Some(1), Some(12))
        }),
        short("an Ethernet header less one byte", SPLIT, |a| {
            a.give_part(&frame(1, 100), Some(1), Some(25))
        }),
        short("a used length of 0, packed", PACKED, |a| {
            a.give_part(&frame(1, 100), Some(1), Some(0))
        }),
        case(
            "one byte more than any frame",
            WHOLE,
            SPLIT,
            |a| {
                a.give_part(&frame(1, 100), Some(1), Some(65_602));
            },
            DropAndCount(Drop::TooLong),
        ),
    ]
}

fn headers() -> Vec<Case> {
    let bad = |name, breaks, setup, attack, reason| {
        case(name, breaks, setup, attack, DropAndCount(reason))
    };
    let no_csum = SPLIT.without(&[
        F_GUEST_CSUM,
        F_GUEST_TSO4,
        F_GUEST_TSO6,
        F_GUEST_ECN,
        F_GUEST_USO4,
        F_GUEST_USO6,
    ]);
    vec![
        bad("undefined flags", FLAGS, SPLIT, |a| give(a, (0xfc, 0, [0; 4])), Drop::BadFlags),
        bad(
            "a header of all ones",
            FLAGS,
            PACKED,
            |a| give(a, (0xff, 0xff, [0xffff; 4])),
            Drop::BadFlags,
        ),
        bad(
            "a checksum that was not negotiated",
            CSUM,
            no_csum,
            |a| {
                give(a, (1, 0, [0, 0, 34, 16]));
            },
            Drop::CsumNotNegotiated,
        ),
        bad(
            "csum_start beyond the frame",
            RANGE,
            SPLIT,
            |a| give(a, (1, 0, [0, 0, 2001, 0])),
            Drop::CsumRange,
        ),
        bad(
            "csum_start and csum_offset over 65535",
            RANGE,
            SPLIT,
            |a| {
                give(a, (1, 0, [0, 0, 0xffff, 0xffff]));
            },
            Drop::CsumRange,
        ),
        bad(
            "TCPV4 without GUEST_TSO4",
            TYPE,
            SPLIT.without(&[F_GUEST_TSO4]),
            |a| {
                give(a, (1, 1, TSO));
            },
            Drop::GsoNotNegotiated,
        ),
        bad(
            "TCPV6 without GUEST_TSO6",
            TYPE,
            SPLIT.without(&[F_GUEST_TSO6]),
            |a| {
                give(a, (1, 4, TSO));
            },
            Drop::GsoNotNegotiated,
        ),
        bad(
            "UDP_L4 without GUEST_USO4 and 6",
            TYPE,
            SPLIT.without(&[F_GUEST_USO4, F_GUEST_USO6]),
            |a| {
                give(a, (1, 5, TSO));
            },
            Drop::GsoNotNegotiated,
        ),
        bad(
            "ECN without GUEST_ECN",
            TYPE,
            SPLIT.without(&[F_GUEST_ECN]),
            |a| {
                give(a, (1, 0x81, TSO));
            },
            Drop::GsoNotNegotiated,
        ),
        bad("UDP fragmentation", TYPE, SPLIT, |a| give(a, (1, 3, TSO)), Drop::GsoNotNegotiated),
        bad("gso_type 127", TYPE, SPLIT, |a| give(a, (1, 0x7f, TSO)), Drop::GsoNotNegotiated),
        bad("gso_size 0", SIZE, SPLIT, |a| give(a, (1, 1, [54, 0, 34, 16])), Drop::GsoBad),
        bad("segments without a checksum", SIZE, SPLIT, |a| give(a, (0, 1, TSO)), Drop::GsoBad),
        bad(
            "hdr_len beyond the frame",
            LEN,
            SPLIT,
            |a| give(a, (1, 1, [2001, 1448, 34, 16])),
            Drop::GsoBad,
        ),
    ]
}
