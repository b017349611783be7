//! Rings of packed queues, and queues that are used in order (virtio 1.4 §2.8, §2.7.9).

use boardlane::net::features::Features;
use boardlane::spec::virtio::{F_EVENT_IDX, F_IN_ORDER, F_INDIRECT_DESC};

use super::{PACKED, SPLIT};
use crate::attack::Setup;
use crate::attack::{Attack, DATA, TABLE, frame};
use crate::case::Verdict::{Harmless, NeedsReset};
use crate::case::{Case, case};
use crate::rings::{AVAIL, INDIRECT, NEXT, SIZE, USED, WRITE, poke, write_desc};

const IN_ORDER: Setup =
    Setup { features: SPLIT.features.union(Features::of(&[F_IN_ORDER])), ..SPLIT };
const PACKED_IN_ORDER: Setup =
    Setup { features: PACKED.features.union(Features::of(&[F_IN_ORDER])), ..PACKED };

const LAP: &str = "2.8.1: available is AVAIL as the driver's wrap counter and USED the inverse";
const LIST: &str = "2.8.17: the driver makes a list available whole, its first descriptor last";
const LONG: &str = "2.8.17: the driver MUST NOT create a list longer than the Queue Size";
const ID: &str = "2.8.6: a buffer's id is one that no other buffer of the device's has";
const INDIRECT_RULE: &str = "2.8.19: not INDIRECT unless negotiated";
const ALONE: &str = "2.8.19: not INDIRECT with NEXT, nor in a list";
const LENGTH: &str = "2.8.7: an indirect table's length is a multiple of 16";
const EVENT: &str = "2.8.14: flags are 0, 1, or 2 with EVENT_IDX, desc a place in the ring";

pub(crate) fn cases() -> Vec<Case> {
    [laps(), lists(), indirect(), events(), in_order()].into_iter().flatten().collect()
}

fn laps() -> Vec<Case> {
    let harmless = |name, breaks, attack, why| case(name, breaks, PACKED, attack, Harmless(why));
    vec![
        harmless(
            "a descriptor of the wrong lap",
            LAP,
            |a| {
                a.tx().write(0, DATA, 100, [0, USED]);
            },
            "it is not available",
        ),
        harmless(
            "a descriptor with AVAIL and USED",
            LAP,
            |a| {
                a.tx().write(0, DATA, 100, [0, AVAIL | USED]);
            },
            "it is a used one",
        ),
        harmless(
            "the whole ring of the wrong lap",
            LAP,
            |a| {
                (0..SIZE).for_each(|at| a.tx().write(at, DATA, 100, [at, USED]));
            },
            "none is available",
        ),
        harmless(
            "a descriptor of the right lap further on",
            LAP,
            |a| {
                a.tx().write(7, DATA, 100, [0, AVAIL]);
                a.settle();
                a.tx().write(7, 0, 0, [0, 0]);
            },
            "the device looks at the next one only",
        ),
        case(
            "the whole ring is all ones",
            LAP,
            PACKED,
            |a| {
                let at = a.tx().config.desc;
                poke(a.mem(), at, &[0xff; 16 * SIZE as usize]);
                a.settle();
                poke(a.mem(), at, &[0; 16 * SIZE as usize]);
            },
            Harmless("all ones are used descriptors"),
        ),
        case(
            "the whole ring is available at once, and twice",
            ID,
            PACKED,
            |a| {
                (0..SIZE).for_each(|at| a.rx().write(at, DATA, 2000, [5, WRITE | AVAIL]));
            },
            NeedsReset("buffer id 5"),
        ),
        case(
            "a used descriptor is made available behind the device's back",
            LAP,
            PACKED,
            |a| {
                a.frames_pass();
                a.frames_pass();
                a.tx().write(0, DATA, 100, [0, AVAIL]);
                a.tx().write(1, DATA, 100, [1, AVAIL]);
            },
            Harmless("it stands behind, and belongs to the next lap"),
        ),
    ]
}

fn lists() -> Vec<Case> {
    let broken = |name, breaks, attack, why| case(name, breaks, PACKED, attack, NeedsReset(why));
    vec![
        broken(
            "a list goes on with what is not available",
            LIST,
            |a| {
                a.tx().write(0, DATA, 100, [0, NEXT | AVAIL]);
            },
            "which is not available",
        ),
        broken(
            "a list goes on with the wrong lap",
            LIST,
            |a| {
                a.tx().write(1, DATA, 100, [0, USED]);
                a.tx().write(0, DATA, 100, [0, NEXT | AVAIL]);
            },
            "which is not available",
        ),
        broken(
            "a list all round the ring and on",
            LONG,
            |a| {
                for at in (0..SIZE).rev() {
                    let lap = AVAIL;
                    a.tx().write(at, DATA, 100, [0, NEXT | lap]);
                }
            },
            "loops or has more descriptors",
        ),
        broken(
            "a buffer id that is out",
            ID,
            |a| {
                a.rx().send(&[(DATA, 2000, WRITE)]);
                a.settle();
                a.rx().write(1, DATA, 2000, [0, WRITE | AVAIL]);
            },
            "buffer id 0",
        ),
        broken(
            "a buffer id that is out, of 65535",
            ID,
            |a| {
                a.rx().write(1, DATA, 2000, [0xffff, WRITE | AVAIL]);
                a.rx().write(0, DATA, 2000, [0xffff, WRITE | AVAIL]);
            },
            "buffer id 65535",
        ),
        case(
            "a buffer id beyond the queue's size",
            ID,
            PACKED,
            |a| {
                let sent = frame(1, 100);
                poke(a.mem(), DATA, &sent);
                a.tx().write(0, DATA, 112, [0xfffe, AVAIL]);
                a.settle();
                assert_eq!(a.victim.inbox, [sent]);
                let (_, _, [id, _]) = a.tx().read(0);
                assert_eq!(id, 0xfffe);
                (a.tx().avail, a.tx().used) = (1, 1);
            },
            Harmless("ids are names, and this one is free"),
        ),
        broken(
            "a descriptor of length zero",
            "2.8.6: an element has bytes",
            |a| {
                a.tx().send(&[(DATA, 0, 0)]);
            },
            "length 0",
        ),
        broken(
            "readable after writable",
            "2.8.17: the driver MUST place device-writable elements last",
            |a| {
                a.tx().send(&[(DATA, 8, WRITE), (DATA, 100, 0)]);
            },
            "readable buffer after a writable",
        ),
    ]
}

fn indirect() -> Vec<Case> {
    let broken = |name, breaks, attack, why| case(name, breaks, PACKED, attack, NeedsReset(why));
    fn table(a: &mut Attack, addr: u64, len: u32, flags: u16) {
        a.tx().write(0, addr, len, [0, INDIRECT | AVAIL | flags]);
    }
    vec![
        case(
            "indirect, which was not negotiated",
            INDIRECT_RULE,
            PACKED.without(&[F_INDIRECT_DESC]),
            |a| {
                table(a, TABLE, 16, 0);
            },
            NeedsReset("not negotiated"),
        ),
        broken(
            "indirect and next",
            ALONE,
            |a| {
                a.tx().write(1, DATA, 100, [0, AVAIL]);
                table(a, TABLE, 16, NEXT);
            },
            "in a list of others",
        ),
        broken(
            "indirect at the end of a list",
            ALONE,
            |a| {
                a.tx().write(1, TABLE, 16, [0, AVAIL | INDIRECT]);
                a.tx().write(0, DATA, 100, [0, AVAIL | NEXT]);
            },
            "in a list of others",
        ),
        broken(
            "an indirect table of no bytes",
            LENGTH,
            |a| table(a, TABLE, 0, 0),
            "multiple of 16",
        ),
        broken(
            "an indirect table of 24 bytes",
            LENGTH,
            |a| table(a, TABLE, 24, 0),
            "multiple of 16",
        ),
        broken(
            "an indirect table of 4 GiB",
            LONG,
            |a| table(a, TABLE, 0xffff_fff0, 0),
            "more descriptors",
        ),
        broken(
            "an indirect table outside of memory",
            LENGTH,
            |a| table(a, 1 << 50, 16, 0),
            "no memory",
        ),
        broken(
            "an indirect table longer than the queue",
            LONG,
            |a| {
                table(a, TABLE, 16 * (u32::from(SIZE) + 1), 0);
            },
            "more descriptors",
        ),
        broken(
            "an indirect table of empty elements",
            "2.8.7: a table's elements are buffers",
            |a| {
                poke(a.mem(), TABLE, &[0; 64]);
                table(a, TABLE, 64, 0);
            },
            "length 0",
        ),
        case(
            "INDIRECT in an indirect table",
            "2.8.7: only WRITE counts in a table",
            PACKED,
            |a| {
                let sent = frame(1, 100);
                poke(a.mem(), DATA, &sent);
                write_desc(a.mem(), TABLE, 0, DATA, 112, [9, INDIRECT | NEXT | AVAIL]);
                table(a, TABLE, 16, 0);
                a.settle();
                assert_eq!(a.victim.inbox, [sent]);
                (a.tx().avail, a.tx().used) = (1, 1);
            },
            Harmless("the device MUST ignore other flags there"),
        ),
    ]
}

fn events() -> Vec<Case> {
    fn event(a: &mut Attack, octets: [u8; 4]) {
        for queue in 0..2 {
            let at = a.rings[queue].config.driver;
            poke(a.mem(), at, &octets);
        }
    }
    let harmless = |name, setup, attack| {
        case(name, EVENT, setup, attack, Harmless("what makes no sense asks for all"))
    };
    vec![
        harmless("event flags 3", PACKED, |a| event(a, [0, 0, 3, 0])),
        harmless("event flags beyond bit 1", PACKED, |a| event(a, [0, 0, 0xfc, 0xff])),
        harmless("event place beyond the ring", PACKED, |a| event(a, [0xff, 0x7f, 2, 0])),
        harmless("event place on the wrong lap", PACKED, |a| event(a, [3, 0, 2, 0])),
        harmless("event place without EVENT_IDX", PACKED.without(&[F_EVENT_IDX]), |a| {
            event(a, [3, 0, 2, 0]);
        }),
        case(
            "the driver writes the device's event structure",
            "2.8.14: it is the device's",
            PACKED,
            |a| {
                let at = a.tx().config.device;
                poke(a.mem(), at, &[0xff; 4]);
            },
            Harmless("the device does not read it"),
        ),
    ]
}

fn in_order() -> Vec<Case> {
    const ORDER: &str = "2.7.5.2: with IN_ORDER the driver uses descriptors as a ring, from 0";
    vec![
        case(
            "descriptors out of order, IN_ORDER",
            ORDER,
            IN_ORDER,
            |a| {
                let sent = frame(1, 100);
                poke(a.mem(), DATA, &sent);
                for head in [9, 3, 40] {
                    a.tx().write(head, DATA, 112, [0, 0]);
                    a.tx().offer(head);
                }
                a.settle();
                assert_eq!(a.victim.inbox.len(), 3);
            },
            Harmless("where chains stand says nothing of their order"),
        ),
        case(
            "a chain twice, IN_ORDER",
            ORDER,
            IN_ORDER,
            |a| {
                a.rx().write(3, DATA, 2000, [WRITE, 0]);
                a.rx().offer(3);
                a.rx().offer(3);
            },
            NeedsReset("which the device still holds"),
        ),
        case(
            "buffer ids in no order, packed and IN_ORDER",
            ORDER,
            PACKED_IN_ORDER,
            |a| {
                for (at, id) in [(3, 9), (2, 50), (1, 2), (0, 63)] {
                    a.rx().write(at, DATA, 500, [id, WRITE | AVAIL]);
                }
                (0..4).for_each(|n| a.victim.outbox.push_back(frame(n, 60)));
                a.settle();
                let ids: Vec<u16> = (0..4).map(|at| a.rx().read(at).2[0]).collect();
                assert_eq!(ids, [63, 2, 50, 9]);
                (a.rx().avail, a.rx().used) = (4, 4);
            },
            Harmless("a name is given back as it came, in ring order"),
        ),
    ]
}
