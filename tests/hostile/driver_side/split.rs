//! Available rings and descriptor tables of split queues (virtio 1.4 §2.7).

use boardlane::spec::virtio::{F_EVENT_IDX, F_INDIRECT_DESC};

use super::SPLIT;
use crate::attack::{Attack, DATA, NOWHERE, TABLE, frame};
use crate::case::Verdict::{Harmless, NeedsReset};
use crate::case::{Case, case};
use crate::rings::{INDIRECT, NEXT, SIZE, WRITE, poke, write_desc};

const BACK: &str = "2.7.6.1: the driver MUST NOT decrement the available idx";
const ROOM: &str = "2.7.13: an available entry stands for a chain of the queue's descriptors";
const HEAD: &str = "2.7.6: each entry refers to the head of a descriptor chain";
const TABLE_RULE: &str =
    "2.7.5: next is the next descriptor of the table, whose entries number Queue Size";
const LONG: &str = "2.7.5.3.1: the driver MUST NOT create a chain longer than the Queue Size";
const INDIRECT_RULE: &str = "2.7.5.3.1: not INDIRECT unless negotiated";
const ONCE: &str = "2.7.5.3.1: not INDIRECT within an indirect descriptor";
const NOT_BOTH: &str = "2.7.5.3.1: not both INDIRECT and NEXT";
const LENGTH: &str = "2.7.5.3: an indirect table is an array of 16-byte descriptors";
const AWAY: &str = "2.7.6: the index moves by";

pub(crate) fn cases() -> Vec<Case> {
    [indices(), heads(), indirect(), areas()].into_iter().flatten().collect()
}

fn indices() -> Vec<Case> {
    const MOVED: &str = "available index moved by";
    let jump = |name, breaks, attack| case(name, breaks, SPLIT, attack, NeedsReset(MOVED));
    vec![
        jump("avail idx jumps over the ring", ROOM, |a| a.tx().set_avail(SIZE + 1)),
        jump("avail idx jumps half the way round", ROOM, |a| a.tx().set_avail(0x8000)),
        jump("avail idx goes back at the start", BACK, |a| a.tx().set_avail(0xffff)),
        jump("avail idx goes back later", BACK, |a| {
            a.frames_pass();
            a.tx().set_avail(0);
        }),
        jump("avail idx of the receiveq jumps", ROOM, |a| a.rx().set_avail(SIZE + 1)),
        jump("avail idx of the receiveq goes back", BACK, |a| {
            a.rx().send(&[(DATA, 2000, WRITE)]);
            a.settle();
            a.rx().set_avail(0);
        }),
        jump("more chains than descriptors are out", ROOM, |a| {
            a.rx().send(&[(DATA, 2000, WRITE)]);
            a.settle();
            a.rx().set_avail(SIZE + 1);
        }),
        jump("avail idx of the controlq jumps", ROOM, |a| {
            a.ctrl().set_avail(SIZE + 1);
        }),
        case("avail idx moves and no entry was written", AWAY, SPLIT, |a| a.rx().set_avail(3), {
            NeedsReset("a descriptor of length 0")
        }),
        case(
            "the receiveq's entries name one chain thrice",
            AWAY,
            SPLIT,
            |a| {
                a.rx().write(0, DATA, 2000, [WRITE, 0]);
                a.rx().set_avail(3);
            },
            NeedsReset("which the device still holds"),
        ),
    ]
}

fn heads() -> Vec<Case> {
    const OUTSIDE: &str = "outside the table";
    const LOOPS: &str = "loops or has more descriptors";
    let broken = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, NeedsReset(why));
    vec![
        broken("head is the queue's size", HEAD, |a| a.tx().offer(SIZE), "no such"),
        broken("head is 65535", HEAD, |a| a.tx().offer(0xffff), "no such"),
        broken("head of the receiveq is beyond", HEAD, |a| a.rx().offer(SIZE), "no such"),
        broken(
            "next is the queue's size",
            TABLE_RULE,
            |a| {
                a.tx().write(0, DATA, 100, [NEXT, SIZE]);
                a.tx().offer(0);
            },
            OUTSIDE,
        ),
        broken(
            "next is 65535",
            TABLE_RULE,
            |a| {
                a.tx().write(0, DATA, 100, [NEXT, 0xffff]);
                a.tx().offer(0);
            },
            OUTSIDE,
        ),
        broken(
            "a descriptor is its own next",
            LONG,
            |a| {
                a.tx().write(5, DATA, 100, [NEXT, 5]);
                a.tx().offer(5);
            },
            LOOPS,
        ),
        broken(
            "two descriptors are each other's next",
            LONG,
            |a| {
                a.rx().write(0, DATA, 100, [NEXT | WRITE, 1]);
                a.rx().write(1, DATA, 100, [NEXT | WRITE, 0]);
                a.rx().offer(0);
            },
            LOOPS,
        ),
        broken(
            "all descriptors are a ring",
            LONG,
            |a| {
                for at in 0..SIZE {
                    a.tx().write(at, DATA, 100, [NEXT, (at + 1) % SIZE]);
                }
                a.tx().offer(0);
            },
            LOOPS,
        ),
        broken(
            "a chain is given twice",
            "2.7.13.1: a chain takes free descriptors",
            |a| {
                a.rx().write(0, DATA, 2000, [WRITE, 0]);
                a.rx().offer(0);
                a.rx().offer(0);
            },
            "which the device still holds",
        ),
    ]
}

fn indirect() -> Vec<Case> {
    const BAD_LENGTH: &str = "not a multiple of 16";
    let broken = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, NeedsReset(why));
    fn table(a: &mut Attack, addr: u64, len: u32, flags: u16) {
        a.tx().write(0, addr, len, [INDIRECT | flags, 0]);
        a.tx().offer(0);
    }
    vec![
        case(
            "indirect, which was not negotiated",
            INDIRECT_RULE,
            SPLIT.without(&[F_INDIRECT_DESC]),
            |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 100, [0, 0]);
                table(a, TABLE, 16, 0);
            },
            NeedsReset("not negotiated"),
        ),
        broken("indirect and next", NOT_BOTH, |a| table(a, TABLE, 16, NEXT), "in a list of others"),
        broken(
            "an indirect table in an indirect table",
            ONCE,
            |a| {
                write_desc(a.mem(), TABLE, 0, TABLE + 0x100, 16, [INDIRECT, 0]);
                table(a, TABLE, 16, 0);
            },
            "in an indirect table",
        ),
        broken(
            "an indirect table at the end of an indirect table",
            ONCE,
            |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 100, [NEXT, 1]);
                write_desc(a.mem(), TABLE, 1, TABLE + 0x100, 16, [INDIRECT, 0]);
                table(a, TABLE, 32, 0);
            },
            "in an indirect table",
        ),
        broken("an indirect table of no bytes", LENGTH, |a| table(a, TABLE, 0, 0), BAD_LENGTH),
        broken(
            "an indirect table of half a descriptor",
            LENGTH,
            |a| table(a, TABLE, 8, 0),
            BAD_LENGTH,
        ),
        broken("an indirect table of 17 bytes", LENGTH, |a| table(a, TABLE, 17, 0), BAD_LENGTH),
        broken(
            "an indirect table of 4 GiB",
            LENGTH,
            |a| table(a, TABLE, 0xffff_fff0, 0),
            "lies in no memory",
        ),
        broken(
            "an indirect table outside of memory",
            LENGTH,
            |a| table(a, 1 << 40, 16, 0),
            "lies in no memory",
        ),
        broken(
            "an indirect table over the end of the address space",
            LENGTH,
            |a| {
                table(a, u64::MAX - 15, 32, 0);
            },
            "lies in no memory",
        ),
        broken(
            "an indirect table over the end of the window",
            LENGTH,
            |a| {
                table(a, crate::ground::WINDOW - 16, 32, 0);
            },
            "lies in no memory",
        ),
        broken(
            "next beyond the indirect table",
            TABLE_RULE,
            |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 100, [NEXT, 1]);
                table(a, TABLE, 16, 0);
            },
            "outside the table",
        ),
        broken(
            "an indirect table that loops",
            LONG,
            |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 100, [NEXT, 1]);
                write_desc(a.mem(), TABLE, 1, DATA, 100, [NEXT, 0]);
                table(a, TABLE, 32, 0);
            },
            "loops or has more descriptors",
        ),
        broken(
            "an indirect table longer than the queue",
            LONG,
            |a| {
                for at in 0..=SIZE {
                    let flags = if at < SIZE { NEXT } else { 0 };
                    write_desc(a.mem(), TABLE, at, DATA, 10, [flags, at + 1]);
                }
                table(a, TABLE, 16 * (u32::from(SIZE) + 1), 0);
            },
            "loops or has more descriptors",
        ),
    ]
}

/// What a driver has no business to write, and what a device need not look at.
fn areas() -> Vec<Case> {
    let harmless =
        |name, breaks, setup, attack, why| case(name, breaks, setup, attack, Harmless(why));
    vec![
        harmless(
            "avail flags set with EVENT_IDX",
            "2.7.7.1: with EVENT_IDX the driver MUST set flags to 0",
            SPLIT,
            |a| {
                let at = a.tx().config.driver;
                poke(a.mem(), at, &[0xff, 0xff]);
            },
            "flags mean nothing then",
        ),
        harmless(
            "avail flags beyond bit 0",
            "2.7.6: flags is 0 or 1",
            SPLIT.without(&[F_EVENT_IDX]),
            |a| {
                let at = a.tx().config.driver;
                poke(a.mem(), at, &[0xfe, 0xff]);
            },
            "other bits mean nothing",
        ),
        harmless(
            "used_event far away",
            "2.7.7.1: used_event is an index at which to be notified",
            SPLIT,
            |a| {
                let at = a.tx().config.driver + 4 + 2 * u64::from(SIZE);
                poke(a.mem(), at, &[0xad, 0xde]);
            },
            "it costs the driver its notifications",
        ),
        harmless(
            "the driver writes the used ring",
            "2.7.8: the used ring is only written to by the device",
            SPLIT,
            |a| {
                a.frames_pass();
                let at = a.tx().config.device;
                let index = a.tx().used_by_device();
                poke(a.mem(), at, &[0xff; 6 + 8 * SIZE as usize]);
                poke(a.mem(), at + 2, &index.to_le_bytes());
            },
            "the device does not read it",
        ),
        harmless(
            "an undefined descriptor flag",
            "2.7.5: flags are NEXT, WRITE and INDIRECT",
            SPLIT,
            |a| {
                let frame = frame(1, 100);
                poke(a.mem(), DATA, &frame);
                a.tx().write(9, DATA, 112, [0xfff8, 7]);
                a.tx().offer(9);
                a.settle();
                assert_eq!(a.victim.inbox, [frame]);
            },
            "it is no part of any rule for the device",
        ),
        harmless(
            "WRITE on the descriptor of an indirect table",
            "2.7.5.3.2: the device MUST ignore WRITE there",
            SPLIT,
            |a| {
                let frame = frame(1, 100);
                poke(a.mem(), DATA, &frame);
                write_desc(a.mem(), TABLE, 0, DATA, 112, [0, 0]);
                a.tx().write(9, TABLE, 16, [INDIRECT | WRITE, 0]);
                a.tx().offer(9);
                a.settle();
                assert_eq!(a.victim.inbox, [frame]);
            },
            "the table's own descriptors say what is written",
        ),
        harmless(
            "a descriptor changes while the device has it",
            "2.7.13: a chain is the device's until it is used",
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 2000, WRITE)]);
                a.settle();
                for at in 0..SIZE {
                    a.rx().write(at, NOWHERE, u32::MAX, [0xffff, 0xffff]);
                }
                a.victim.outbox.push_back(frame(2, 100));
                a.settle();
                assert_eq!(a.rx().used_by_device(), 1);
            },
            "it was read once and is not looked at again",
        ),
    ]
}
