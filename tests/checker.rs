//! The frame checker of `netns-tests/` finds what is wrong: each way to be wrong is shown to it, for
//! frames of every kind, in the state in which they were sent and finished.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

#[allow(dead_code, reason = "sockets and threads are for the links of netns-tests")]
#[path = "../netns-tests/checker/mod.rs"]
mod checker;

use std::sync::LazyLock;

use checker::frame::{
    Frame, GSO_NONE, GSO_TCPV4, GSO_UDP, Identity, NEEDS_CSUM, TCP, UDP, Vnet, put, word,
};
use checker::kinds::{FLOWS, KINDS, Kind, Left, Net, kind_of};
use checker::ledger::{Allowed, Faults, Ledger};
use checker::maker::Maker;
use checker::segment::finished;

const ALL: Allowed =
    Allowed { csum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };
/// Frames under way in these tests, of one flow.
const UNDER_WAY: u32 = 4;

fn maker() -> &'static Maker {
    static MAKER: LazyLock<Maker> = LazyLock::new(|| Maker::new(7, 0, 1500));
    &MAKER
}

/// What a ledger says where frames `first..` of a flow were sent, and `arrive` makes of them what came.
fn faults_of(flow: u8, first: u32, arrive: impl FnOnce(Vec<Frame>) -> Vec<Frame>) -> Faults {
    let (maker, mut ledger) = (maker(), Ledger::new(ALL, false));
    let ids = (first..first + UNDER_WAY).map(|number| Identity { flow, number });
    let sent: Vec<_> = ids.clone().map(|id| maker.make(id)).collect();
    ids.zip(&sent).for_each(|(id, frame)| ledger.sent(id, frame.clone()));
    for Frame { vnet, bytes } in arrive(sent) {
        ledger.receive(maker, &vnet, &bytes);
    }
    ledger.close();
    assert_eq!(ledger.in_flight(), 0);
    ledger.faults
}

/// The frame in the state in which a wire would carry it.
fn finish(frame: &Frame) -> Vec<Frame> {
    let pieces = finished(&frame.vnet, &frame.bytes).unwrap();
    pieces.into_iter().map(|bytes| Frame { vnet: Vnet::default(), bytes }).collect()
}

fn finish_all(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().flat_map(finish).collect()
}

fn flows() -> impl Iterator<Item = u8> {
    0..u8::try_from(FLOWS).unwrap()
}

/// A flow of a kind, and the number of a frame of it that `is` as wanted.
fn find(kind: impl Fn(&Kind) -> bool, is: impl Fn(&Frame) -> bool) -> (u8, u32) {
    let flow = flows().find(|flow| kind(kind_of(*flow))).unwrap();
    let of = |number| maker().make(Identity { flow, number });
    (flow, (0..1000).find(|number| is(&of(*number))).unwrap())
}

/// One that is to be segmented into several.
fn find_segmented(kind: impl Fn(&Kind) -> bool) -> (u8, u32) {
    find(kind, |frame| frame.vnet.gso_type != GSO_NONE && finish(frame).len() > 2)
}

fn tso4(kind: &Kind) -> bool {
    kind.net == Net::V4 && kind.transport == Some(TCP) && kind.left == Left::Segmentation
}

#[test]
fn what_comes_as_it_was_sent_is_right_and_so_is_what_comes_finished() {
    for flow in flows() {
        for first in 0..20 {
            assert_eq!(faults_of(flow, first, |sent| sent), Faults::default());
            assert_eq!(faults_of(flow, first, |sent| finish_all(&sent)), Faults::default());
        }
    }
}

#[test]
fn a_byte_that_was_altered_anywhere_is_found() {
    for flow in flows().take(KINDS.len()) {
        for done in [false, true] {
            let given = |sent: &[Frame]| if done { finish_all(sent) } else { sent.to_vec() };
            let mut len = 0;
            faults_of(flow, 0, |sent| {
                len = given(&sent)[0].bytes.len();
                sent
            });
            for at in (0..len.min(160)).chain((160..len).step_by(97)) {
                let faults = faults_of(flow, 0, |sent| {
                    let mut came = given(&sent);
                    came[0].bytes[at] ^= 1 << (at % 8);
                    came
                });
                assert!(faults.count() > 0, "{}: byte {at}", kind_of(flow).name);
            }
        }
    }
}

#[test]
fn an_altered_byte_is_told_with_its_place() {
    let (flow, number) = find(|kind| kind.name == "UDP/IPv4", |frame| frame.bytes.len() > 100);
    let faults = faults_of(flow, number, |mut sent| {
        sent[0].bytes[77] ^= 0x10;
        sent
    });
    assert_eq!((faults.altered, faults.count()), (1, 1));
    assert!(faults.told[0].contains("byte 77 of"), "{:?}", faults.told);
}

#[test]
fn a_lost_frame_is_found_wherever_it_was() {
    for flow in flows() {
        for lost in 0..UNDER_WAY {
            let mut pieces = 0;
            let faults = faults_of(flow, 3, |mut sent| {
                pieces = finish(&sent.remove(usize::try_from(lost).unwrap())).len() as u64;
                sent
            });
            assert_eq!((faults.lost, faults.count()), (pieces, pieces));
            assert!(faults.told[0].contains(&format!("number {}", 3 + lost)), "{:?}", faults.told);
        }
    }
}

#[test]
fn a_lost_segment_is_found_wherever_it_was() {
    let (flow, number) = find_segmented(tso4);
    let mut count = 0;
    faults_of(flow, number, |sent| {
        count = finish_all(&sent).len();
        sent
    });
    for lost in 0..count {
        let faults = faults_of(flow, number, |sent| {
            let mut came = finish_all(&sent);
            came.remove(lost);
            came
        });
        assert_eq!((faults.lost, faults.count()), (1, 1), "{faults:?}");
    }
}

#[test]
fn a_frame_that_comes_twice_is_found() {
    for flow in flows() {
        for done in [false, true] {
            for (of, at) in [(0, 1), (0, 3), (2, 4), (3, 4)] {
                let faults = faults_of(flow, 0, |mut sent| {
                    sent.insert(at, sent[of].clone());
                    if done { finish_all(&sent) } else { sent }
                });
                let name = kind_of(flow).name;
                assert!(faults.repeated > 0, "{name}: {faults:?}");
                assert_eq!(faults.repeated, faults.count(), "{name}: {faults:?}");
            }
        }
    }
}

#[test]
fn frames_that_were_swapped_are_found() {
    for flow in flows() {
        for done in [false, true] {
            let faults = faults_of(flow, 0, |mut sent| {
                sent.swap(1, 2);
                if done { finish_all(&sent) } else { sent }
            });
            assert!(faults.swapped > 0, "{faults:?}");
            assert_eq!(faults.swapped, faults.count(), "{faults:?}");
        }
    }
}

#[test]
fn order_is_not_asked_of_a_flow_that_the_kernel_spreads_over_queues_but_all_else_is() {
    let (flow, number) = find_segmented(|kind| kind.name == "VLAN, TSO4");
    let judge = |queues, arrive: &dyn Fn(&mut Vec<Frame>)| {
        let mut ledger = Ledger::new(ALL, queues);
        let ids = (number..number + UNDER_WAY).map(|number| Identity { flow, number });
        let mut frames: Vec<_> = ids.clone().map(|id| maker().make(id)).collect();
        ids.zip(&frames).for_each(|(id, frame)| ledger.sent(id, frame.clone()));
        arrive(&mut frames);
        frames.iter().for_each(|f| assert!(ledger.receive(maker(), &f.vnet, &f.bytes)));
        ledger.close();
        assert_eq!(ledger.in_flight(), 0);
        ledger.faults
    };
    let swap: &dyn Fn(&mut Vec<Frame>) = &|frames| frames.swap(0, 2);
    assert!(judge(false, swap).swapped > 0);
    assert_eq!(judge(true, swap), Faults::default());
    assert!(judge(true, &|frames| drop(frames.remove(1))).lost > 0);
    assert!(judge(true, &|frames| frames.push(frames[1].clone())).repeated > 0);
    assert!(judge(true, &|frames| frames[1].bytes[80] ^= 1).altered > 0);
}

#[test]
fn segments_that_were_swapped_are_found() {
    let (flow, number) = find_segmented(tso4);
    let faults = faults_of(flow, number, |sent| {
        let mut came = finish_all(&sent);
        came.swap(0, 1);
        came
    });
    assert_eq!((faults.swapped, faults.count()), (1, 1), "{faults:?}");
}

#[test]
fn a_wrong_checksum_is_found() {
    for flow in flows().filter(|flow| kind_of(*flow).left != Left::Nothing) {
        let faults = faults_of(flow, 0, |sent| {
            let at = usize::from(sent[0].vnet.csum_start + sent[0].vnet.csum_offset);
            let mut came = finish_all(&sent);
            let check = word(&came[0].bytes, at);
            put(&mut came[0].bytes, at, check.wrapping_add(1));
            came
        });
        assert_eq!((faults.altered, faults.count()), (1, 1), "{faults:?}");
    }
}

#[test]
fn a_checksum_that_nobody_finished_is_found() {
    for flow in flows().filter(|flow| kind_of(*flow).left == Left::Checksum) {
        let faults = faults_of(flow, 0, |mut sent| {
            sent[0].vnet.flags &= !NEEDS_CSUM;
            sent
        });
        assert_eq!((faults.altered, faults.count()), (1, 1), "{faults:?}");
    }
}

#[test]
fn a_checksum_that_is_to_be_finished_elsewhere_is_found() {
    for flow in flows().filter(|flow| kind_of(*flow).left == Left::Checksum) {
        for wrong in [(2, 0), (0, 2)] {
            let faults = faults_of(flow, 0, |mut sent| {
                sent[0].vnet.csum_start += wrong.0;
                sent[0].vnet.csum_offset += wrong.1;
                sent
            });
            assert_eq!((faults.altered, faults.count()), (1, 1), "{faults:?}");
        }
    }
}

#[test]
fn a_wrong_size_of_segments_is_found() {
    for kind in
        KINDS.iter().filter(|k| matches!(k.left, Left::Segmentation | Left::SegmentationEcn))
    {
        let (flow, number) = find_segmented(|other| other.name == kind.name);
        let faults = faults_of(flow, number, |mut sent| {
            sent[0].vnet.gso_size -= 1;
            sent
        });
        assert!(faults.altered > 0, "{}: {faults:?}", kind.name);
        assert!(faults.told[0].contains("were due"), "{}: {faults:?}", kind.name);
    }
}

#[test]
fn wrong_headers_of_segments_are_found() {
    let ecn = |kind: &Kind| kind.name == "TSO4 with CWR";
    let uso = |kind: &Kind| kind.name == "USO4";
    // The transport header is behind an IPv4 header, without options here.
    let short = |frame: &Frame| frame.bytes[14] == 0x45 && finish(frame).len() > 2;
    let tcp = find(tso4, short);
    let (ecn, udp) = (find(ecn, short), find(uso, short));
    let cases = [
        ("CWR in the second segment", ecn, 1, 34 + 13, 0x80),
        ("no CWR in the first", ecn, 0, 34 + 13, 0x80),
        ("FIN in the first", tcp, 0, 34 + 13, 0x01),
        ("the same identification again", tcp, 1, 14 + 5, 0x01),
        ("another sequence number", tcp, 1, 34 + 7, 0x01),
        ("another UDP length", udp, 1, 34 + 5, 0x01),
    ];
    for (what, (flow, number), segment, at, bit) in cases {
        let faults = faults_of(flow, number, |sent| {
            let mut came = finish_all(&sent);
            came[segment].bytes[at] ^= bit;
            came
        });
        assert_eq!((faults.altered, faults.count()), (1, 1), "{what}: {faults:?}");
    }
}

#[test]
fn what_was_not_negotiated_is_found() {
    let (maker, mut partial) = (maker(), 0);
    for flow in flows() {
        let id = Identity { flow, number: find_any_segmented(flow) };
        let frame = maker.make(id);
        let left_over = frame.vnet.needs_csum();
        for (allowed, wrong) in [(ALL, false), (Allowed::default(), left_over)] {
            let mut ledger = Ledger::new(allowed, false);
            ledger.sent(id, frame.clone());
            ledger.receive(maker, &frame.vnet, &frame.bytes);
            ledger.close();
            assert_eq!(ledger.faults.not_allowed, u64::from(wrong), "{}", kind_of(flow).name);
            partial += u64::from(wrong);
        }
    }
    assert!(partial > 20);
}

/// The number of a frame that is in several segments, if the flow has such.
fn find_any_segmented(flow: u8) -> u32 {
    let of = |number| maker().make(Identity { flow, number });
    (0..100)
        .find(|number| of(*number).vnet.gso_type != GSO_NONE && finish(&of(*number)).len() > 1)
        .unwrap_or(0)
}

#[test]
fn each_offload_is_judged_by_its_own_feature() {
    let without: [(Allowed, &str); 5] = [
        (Allowed { tso4: false, ..ALL }, "TSO4"),
        (Allowed { tso6: false, ..ALL }, "TSO6"),
        (Allowed { ecn: false, ..ALL }, "TSO4 with CWR"),
        (Allowed { uso4: false, ..ALL }, "USO4"),
        (Allowed { uso6: false, ..ALL }, "USO6"),
    ];
    for (allowed, name) in without {
        let (flow, number) = find_segmented(|kind| kind.name == name);
        let id = Identity { flow, number };
        let frame = maker().make(id);
        let mut ledger = Ledger::new(allowed, false);
        ledger.sent(id, frame.clone());
        ledger.receive(maker(), &frame.vnet, &frame.bytes);
        assert_eq!(ledger.faults.not_allowed, 1, "{name}");
    }
}

#[test]
fn frames_of_others_are_told_apart() {
    let mut ledger = Ledger::new(ALL, false);
    let other = [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0];
    assert!(!ledger.receive(maker(), &Vnet::default(), &other));
    assert!(!ledger.receive(maker(), &Vnet::default(), &other[..8]));
    assert_eq!(ledger.faults, Faults::default());
}

/// The checksum of RFC 1071, by the book: 0 if what is summed has a right one in it.
fn by_the_book(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn segments_of_a_small_frame_are_those_that_the_standards_ask_for() {
    let mut bytes = vec![0; 14 + 20 + 20];
    bytes[12] = 8;
    bytes[14..34].copy_from_slice(&[
        0x45, 0, 0, 50, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    let check = by_the_book(&[&bytes[14..34]]);
    put(&mut bytes, 24, check);
    bytes[34..54].copy_from_slice(&[
        0, 80, 0, 81, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 9, 0x50, 0x99, 1, 0, 0, 0, 0, 0,
    ]);
    bytes.extend(*b"abcdefghij");
    put(&mut bytes, 50, !by_the_book(&[&[10, 0, 0, 1, 10, 0, 0, 2, 0, TCP, 0, 30]]));
    let vnet = Vnet {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        gso_size: 4,
        csum_start: 34,
        csum_offset: 16,
        ..Vnet::default()
    };
    let segments = finished(&vnet, &bytes).unwrap();
    let payloads: Vec<_> = segments.iter().map(|segment| &segment[54..]).collect();
    assert_eq!(payloads, [&b"abcd"[..], b"efgh", b"ij"]);
    // Length and identification; sequence number; flags: CWR, ACK, PSH, FIN.
    let seen = segments.iter().map(|s| {
        (word(s, 16), word(s, 18), u32::from_be_bytes(s[38..42].try_into().unwrap()), s[47])
    });
    let due = [(44, 0xffff, 0xffff_fffe, 0x90), (44, 0, 2, 0x10), (42, 1, 6, 0x19)];
    assert_eq!(seen.collect::<Vec<_>>(), due);
    for segment in &segments {
        assert_eq!(by_the_book(&[&segment[14..34]]), 0);
        let len = u8::try_from(segment.len() - 34).unwrap();
        assert_eq!(by_the_book(&[&segment[26..34], &[0, TCP, 0, len], &segment[34..]]), 0);
    }
}

#[test]
fn finished_frames_of_every_kind_have_right_checksums() {
    for (flow, number) in flows().flat_map(|flow| (0..50).map(move |number| (flow, number))) {
        let kind = kind_of(flow);
        let Some(transport) = kind.transport else { continue };
        for Frame { bytes, .. } in finish(&maker().make(Identity { flow, number })) {
            let net = 14 + 4 * kind.tags.len();
            let (addresses, start) = match kind.net {
                Net::V4 => (net + 12..net + 20, net + usize::from(bytes[net] & 0xf) * 4),
                Net::V6 => (net + 8..net + 40, net + 40),
                _ => (net + 8..net + 40, net + 64),
            };
            if transport == UDP && word(&bytes, start + 6) == 0 {
                assert_eq!((kind.net, kind.left), (Net::V4, Left::Nothing), "{}", kind.name);
                continue;
            }
            let len = u16::try_from(bytes.len() - start).unwrap().to_be_bytes();
            let parts = [&bytes[addresses], &[0, transport], &len, &bytes[start..]];
            assert_eq!(by_the_book(&parts), 0, "{} number {number}", kind.name);
        }
    }
}

#[test]
fn frames_reach_the_limits_and_the_borders_of_segments() {
    for mtu in [1500, 65_521] {
        let maker = Maker::new(1, 1, mtu);
        for flow in flows().take(KINDS.len()) {
            let kind = kind_of(flow);
            let frames: Vec<_> =
                (0..2000).map(|number| maker.make(Identity { flow, number })).collect();
            let lens = || frames.iter().map(|frame| frame.bytes.len());
            let (least, most) = (lens().min().unwrap(), lens().max().unwrap());
            let headers = usize::from(frames[0].vnet.hdr_len);
            if frames[0].vnet.gso_type == GSO_NONE {
                let shortest = least == 60 || (least > 60 && least <= headers + 12);
                assert!(shortest, "{}: {least}", kind.name);
                let tag = if kind.tags.len() == 1 { 4 } else { 0 };
                assert_eq!(most, 14 + tag + usize::from(mtu), "{}", kind.name);
                continue;
            }
            let net = 14 + 4 * kind.tags.len();
            let packet = if kind.net == Net::V4 { 65_535 } else { 65_575 };
            assert!(
                most <= 65_589 && most >= (net + packet).min(65_589) - 1,
                "{}: {most}",
                kind.name
            );
            for border in [0, 1, -1] {
                let at_it = |frame: &&Frame| {
                    let payload = frame.bytes.len() - usize::from(frame.vnet.hdr_len);
                    let size = usize::from(frame.vnet.gso_size);
                    let n = (payload + 1) / size;
                    n > 1 && payload.checked_add_signed(-border) == Some(n * size)
                };
                assert!(frames.iter().any(|f| at_it(&f)), "{}: {border}", kind.name);
            }
            let segments = frames.iter().map(|frame| finish(frame).len()).max().unwrap();
            assert!(segments <= 128 && segments > 100, "{}: {segments}", kind.name);
        }
    }
}

#[test]
fn usos_are_frames_of_udp() {
    let (flow, number) = find_segmented(|kind| kind.name == "USO6");
    assert_eq!(maker().make(Identity { flow, number }).vnet.gso_type, GSO_UDP);
}
