//! Used rings, and used descriptors of packed queues (virtio 1.4 §2.7, §2.8).

use boardlane::spec::virtio::{F_EVENT_IDX, F_IN_ORDER};

use super::{CONTROL, PACKED, SPLIT, with};
use crate::attack::{Attack, Setup, frame};
use crate::case::Verdict::{Harmless, Quarantine};
use crate::case::{Case, case};
use crate::rings::{AVAIL, USED, WRITE, poke};

const COUNT: &str = "2.7.8: the used idx counts the chains that the device has used";
const ID: &str = "2.7.8: id is the head of a chain that the driver made available";
const LEN: &str = "2.7.8.2: len is the bytes written, so at most what the chain takes";
const ONCE: &str = "2.7.8: a chain is used once";
const ORDER: &str = "2.7.9: with IN_ORDER buffers are used in the order in which they came";
const DRIVERS: &str = "2.7.5: the descriptor table is the driver's to write";
const PACKED_ID: &str = "2.8.4: a used descriptor has the id of a buffer that was made available";
const PACKED_LEN: &str = "2.8.4: len is the bytes written, so at most what the buffer takes";
const LAP: &str = "2.8.1: used is AVAIL and USED as the device's wrap counter";
const ANSWER: &str = "5.1.9.5: ack is VIRTIO_NET_OK or VIRTIO_NET_ERR";

const IN_ORDER: Setup = with(SPLIT, &[F_IN_ORDER]);
const PACKED_IN_ORDER: Setup = with(PACKED, &[F_IN_ORDER]);

pub(crate) fn cases() -> Vec<Case> {
    [split(), suppression(), packed(), in_order(), control()].into_iter().flatten().collect()
}

/// Has the driver send a frame, whose chain is then the device's; its name.
fn sent(a: &mut Attack) -> u32 {
    a.victim.outbox.push_back(frame(1, 100));
    a.settle();
    a.tx().next().expect("the driver sends").0.into()
}

fn split() -> Vec<Case> {
    const MOVED: &str = "used index moved by";
    const NOT_HELD: &str = "which the device does not hold";
    const TAKES: &str = "which takes";
    let bad = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Quarantine(why));
    vec![
        bad("rx: used idx over what was posted", COUNT, |a| a.rx().set_used(200), MOVED),
        bad(
            "rx: used idx goes back",
            COUNT,
            |a| {
                a.give_frame(&frame(1, 60));
                a.settle();
                a.rx().set_used(0);
            },
            MOVED,
        ),
        bad("rx: used idx 65535 at the start", COUNT, |a| a.rx().set_used(0xffff), MOVED),
        bad("rx: used idx half the way round", COUNT, |a| a.rx().set_used(0x8000), MOVED),
        bad(
            "tx: used idx before anything was sent",
            COUNT,
            |a| {
                a.tx().set_used(1);
                a.victim.outbox.push_back(frame(1, 60));
            },
            MOVED,
        ),
        bad("rx: an id beyond the queue", ID, |a| a.rx().give(256, 100), NOT_HELD),
        bad("rx: an id of 65536", ID, |a| a.rx().give(0x1_0000, 100), NOT_HELD),
        bad("rx: an id of all ones", ID, |a| a.rx().give(u32::MAX, 100), NOT_HELD),
        bad("rx: an id that was never posted", ID, |a| a.rx().give(60, 100), NOT_HELD),
        bad(
            "rx: an id twice",
            ONCE,
            |a| {
                let at = a.rx().used;
                a.rx().give(0, 100);
                a.rx().give(0, 100);
                assert_eq!(at, 0);
            },
            NOT_HELD,
        ),
        bad(
            "tx: an id twice",
            ONCE,
            |a| {
                let id = sent(a);
                let other = sent(a);
                assert_ne!(id, other);
                a.tx().give(id, 0);
                a.tx().give(id, 0);
                a.victim.outbox.push_back(frame(1, 60));
            },
            NOT_HELD,
        ),
        bad(
            "tx: an id that was not sent",
            ID,
            |a| {
                let id = sent(a);
                a.tx().give(id + 1, 0);
                a.victim.outbox.push_back(frame(1, 60));
            },
            NOT_HELD,
        ),
        bad("rx: used idx moves and no entry was written", COUNT, |a| a.rx().set_used(2), NOT_HELD),
        bad("rx: a length over the buffer's", LEN, |a| a.rx().give(0, 65_665), TAKES),
        bad("rx: a length of 4 GiB less one", LEN, |a| a.rx().give(0, u32::MAX), TAKES),
        bad(
            "tx: bytes written to what is read",
            LEN,
            |a| {
                let id = sent(a);
                a.tx().give(id, 1);
                a.victim.outbox.push_back(frame(1, 60));
            },
            TAKES,
        ),
        case(
            "rx: buffers are used in any order",
            ID,
            SPLIT,
            |a| {
                let names: Vec<u32> = (0..3).map(|_| a.rx().next().unwrap().0.into()).collect();
                let config = a.rx().config;
                for name in names.iter().rev() {
                    let (addr, _, _) = a.rx().read(*name as u16);
                    let mut octets = frame(*name as usize, 100);
                    octets[10] = 1;
                    poke(a.mem(), addr, &octets);
                    a.rx().give(*name, 112);
                }
                a.settle();
                assert_eq!((a.victim.inbox.len(), config.in_order), (3, false));
            },
            Harmless("without IN_ORDER it may"),
        ),
        case(
            "the device writes the descriptor table",
            DRIVERS,
            SPLIT,
            |a| {
                let at = a.rx().config.desc;
                let (first, rest) = ([0xee; 16], a.rx().read(1));
                poke(a.mem(), at + 16 * 5, &first);
                assert_ne!(rest.0, 0);
                a.exchange(&frame(7, 80));
            },
            Harmless("the driver does not read it"),
        ),
        case(
            "the device writes the available ring",
            "2.7.6: it is the driver's to write",
            SPLIT,
            |a| {
                a.exchange(&frame(7, 80));
                let at = a.tx().config.driver + 4;
                poke(a.mem(), at + 60, &[0xff; 40]);
            },
            Harmless("the driver does not read it"),
        ),
    ]
}

fn suppression() -> Vec<Case> {
    let harmless =
        |name, breaks, setup, attack, why| case(name, breaks, setup, attack, Harmless(why));
    const EVENT: &str = "2.7.10: avail_event is an index at which to be notified";
    vec![
        harmless(
            "used flags set with EVENT_IDX",
            "2.7.10: flags are 0 with EVENT_IDX",
            SPLIT,
            |a| {
                for queue in 0..2 {
                    let at = a.rings[queue].config.device;
                    poke(a.mem(), at, &[0xff, 0xff]);
                }
            },
            "they mean nothing then",
        ),
        harmless(
            "used flags beyond bit 0",
            "2.7.8: flags is 0 or 1",
            SPLIT.without(&[F_EVENT_IDX]),
            |a| {
                for queue in 0..2 {
                    let at = a.rings[queue].config.device;
                    poke(a.mem(), at, &[0xfe, 0xff]);
                }
            },
            "they mean nothing",
        ),
        harmless(
            "avail_event far away",
            EVENT,
            SPLIT,
            |a| {
                for queue in 0..2 {
                    let config = a.rings[queue].config;
                    poke(a.mem(), config.device + 4 + 8 * u64::from(config.size), &[0xad, 0xde]);
                }
            },
            "it costs the device its notifications",
        ),
        harmless(
            "event flags 3, packed",
            "2.8.14: flags are 0, 1 or 2",
            PACKED,
            |a| {
                for queue in 0..2 {
                    let at = a.rings[queue].config.device;
                    poke(a.mem(), at, &[0xff, 0xff, 3, 0]);
                }
            },
            "what makes no sense asks for all",
        ),
        harmless(
            "event place beyond the ring, packed",
            "2.8.14: desc is a place in the ring",
            PACKED,
            |a| {
                for queue in 0..2 {
                    let at = a.rings[queue].config.device;
                    poke(a.mem(), at, &[0xff, 0x7f, 2, 0]);
                }
            },
            "what makes no sense asks for all",
        ),
    ]
}

fn packed() -> Vec<Case> {
    const NOT_HELD: &str = "which the device does not hold";
    let bad = |name, breaks, attack, why| case(name, breaks, PACKED, attack, Quarantine(why));
    let harmless = |name, breaks, attack, why| case(name, breaks, PACKED, attack, Harmless(why));
    vec![
        bad("an id that was never posted, packed", PACKED_ID, |a| a.rx().give(63, 100), NOT_HELD),
        bad("an id beyond the queue, packed", PACKED_ID, |a| a.rx().give(64, 100), NOT_HELD),
        bad("an id of 65535, packed", PACKED_ID, |a| a.rx().give(0xffff, 100), NOT_HELD),
        bad(
            "an id twice, packed",
            PACKED_ID,
            |a| {
                a.rx().give(0, 100);
                a.rx().give(0, 100);
            },
            NOT_HELD,
        ),
        bad(
            "tx: an id that was not sent, packed",
            PACKED_ID,
            |a| {
                let id = sent(a);
                a.tx().give(id + 1, 0);
                a.victim.outbox.push_back(frame(1, 60));
            },
            NOT_HELD,
        ),
        bad(
            "the whole ring is all ones",
            PACKED_ID,
            |a| {
                let config = a.rx().config;
                poke(a.mem(), config.desc, &vec![0xff; 16 * usize::from(config.size)]);
            },
            NOT_HELD,
        ),
        bad(
            "a length over the buffer's, packed",
            PACKED_LEN,
            |a| a.rx().give(0, 65_665),
            "which takes",
        ),
        bad(
            "a length of 4 GiB less one, packed",
            PACKED_LEN,
            |a| a.rx().give(0, u32::MAX),
            "which takes",
        ),
        harmless(
            "used with the wrong wrap counter",
            LAP,
            |a| {
                let was = a.rx().read(0);
                a.rx().write(0, was.0, 100, [0, WRITE]);
                a.settle();
                a.rx().write(0, was.0, was.1, was.2);
            },
            "it is not used",
        ),
        harmless(
            "AVAIL without USED",
            LAP,
            |a| {
                let was = a.rx().read(0);
                a.rx().write(0, was.0, 100, [0, WRITE | AVAIL]);
                a.settle();
                a.rx().write(0, was.0, was.1, was.2);
            },
            "it is available still",
        ),
        harmless(
            "USED without AVAIL",
            LAP,
            |a| {
                let was = a.rx().read(0);
                a.rx().write(0, was.0, 100, [0, WRITE | USED]);
                a.settle();
                a.rx().write(0, was.0, was.1, was.2);
            },
            "it is not used",
        ),
        harmless(
            "a place further on is used first",
            LAP,
            |a| {
                let was = a.rx().read(3);
                a.rx().write(3, was.0, 100, [3, WRITE | AVAIL | USED]);
                a.settle();
                a.rx().write(3, was.0, was.1, was.2);
            },
            "the driver looks at the next one only",
        ),
        harmless(
            "WRITE left out, and a length beyond the buffer",
            PACKED_LEN,
            |a| {
                let id = sent(a);
                a.tx().write(0, 0, 500, [id as u16, AVAIL | USED]);
                a.tx().used += 1;
            },
            "2.8.4: without WRITE the length is reserved",
        ),
    ]
}

fn in_order() -> Vec<Case> {
    vec![
        case(
            "an entry for more chains than idx moved by, IN_ORDER",
            ORDER,
            IN_ORDER,
            |a| {
                a.rx().give(5, 100);
            },
            Quarantine("only 1 are used"),
        ),
        case(
            "a chain that was used already, IN_ORDER",
            ORDER,
            IN_ORDER,
            |a| {
                a.rx().give(0, 100);
                a.rx().give(0, 100);
            },
            Quarantine("which the device does not hold"),
        ),
        case(
            "an id that was never posted, packed and IN_ORDER",
            ORDER,
            PACKED_IN_ORDER,
            |a| {
                a.rx().give(62, 100);
            },
            Quarantine("which the device does not hold"),
        ),
        case(
            "an id twice, packed and IN_ORDER",
            ORDER,
            PACKED_IN_ORDER,
            |a| {
                a.rx().give(0, 100);
                a.rx().give(0, 100);
            },
            Quarantine("which the device does not hold"),
        ),
    ]
}

fn control() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, CONTROL, attack, Quarantine(why));
    vec![
        bad("a command is answered by 2", ANSWER, |a| a.answer_command(2), "was answered by 2"),
        bad(
            "a command is used and not answered",
            ANSWER,
            |a| a.answer_command(0xff),
            "was answered by 255",
        ),
        bad(
            "a command is never used",
            "5.1.9.5: the device answers each command",
            |a| {
                for _ in 0..80 {
                    a.serve(50, &mut |_| {});
                }
            },
            "was not answered",
        ),
        bad(
            "an id of the controlq that was not sent",
            ID,
            |a| a.ctrl().give(7, 1),
            "which the device does not hold",
        ),
        bad(
            "the controlq's used idx jumps",
            COUNT,
            |a| a.ctrl().set_used(9),
            "used index moved by",
        ),
        bad("an answer of more bytes than there are", LEN, |a| a.ctrl().give(0, 2), "which takes"),
        case("the device refuses a command", ANSWER, CONTROL, |a| a.answer_command(1), {
            Harmless("ERR is an answer")
        }),
    ]
}
