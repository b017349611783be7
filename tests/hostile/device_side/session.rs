//! The window's header and its FIFOs, as the device's end writes them (the window's own layout).

use std::time::Duration;

use boardlane::spec::window as w;

use super::{MET, SPLIT};
use crate::attack::{Attack, DRIVER_MAILBOX, MS, Setup, Stage};
use crate::case::Verdict::{Any, Down, Harmless, NoSession, Quarantine};
use crate::case::{Case, case};
use crate::ground::{SLOT, WINDOW};
use crate::rings::poke;

const FIRST: &str = "the window's header: magic, layout version and length are those of the window";
const EPOCH: &str =
    "the window's header: an epoch is drawn anew with each session, never 0 or all ones";
const BEAT: &str = "the window's header: the heartbeat counts on";
const MAILBOX: &str =
    "the window's header: a mailbox lies in memory, aligned, 2^n slots up to 1024";
const COUNTS: &str = "the window's FIFO: counts go up by one for each message";
const OWN: &str = "the window's header: each part has one writer";

const ALONE: Setup = SPLIT.stage(Stage::Alone);
const PART: u64 = w::DEVICE_PART as u64;

pub(crate) fn cases() -> Vec<Case> {
    [header(), epochs(), mailboxes(), counts()].into_iter().flatten().collect()
}

fn part(a: &Attack, at: usize, octets: &[u8]) {
    poke(a.mem(), PART + at as u64, octets);
}

fn header() -> Vec<Case> {
    let bad = |name, attack, why| case(name, FIRST, ALONE, attack, NoSession(why));
    vec![
        bad("another magic", |a| a.meet(|a| poke(a.mem(), 0, b"QEMUVIRT")), "window has no magic"),
        bad(
            "another layout version",
            |a| a.meet(|a| poke(a.mem(), 8, &[2, 0, 0, 0])),
            "layout version 2",
        ),
        bad(
            "a window of 4 GiB",
            |a| {
                a.meet(|a| poke(a.mem(), w::AT_WINDOW_LEN as u64, &(1_u64 << 32).to_le_bytes()));
            },
            "window says it has 4294967296 bytes",
        ),
        bad(
            "a window of no bytes",
            |a| {
                a.meet(|a| poke(a.mem(), w::AT_WINDOW_LEN as u64, &[0; 8]));
            },
            "window says it has 0 bytes",
        ),
        bad(
            "a header of all ones",
            |a| a.meet(|a| poke(a.mem(), 0, &[0xff; 64])),
            "reads as all ones",
        ),
        case(
            "flags that there are not",
            FIRST,
            ALONE,
            |a| {
                a.meet(|a| poke(a.mem(), w::AT_FLAGS as u64, &[0xfe, 0xff, 0xff, 0xff]));
            },
            Harmless("a later version may have them"),
        ),
        case(
            "the first line is overwritten while up",
            FIRST,
            SPLIT,
            |a| {
                poke(a.mem(), 0, &[0xff; 64]);
                a.serve(500, &mut |_| {});
            },
            Harmless("it was read once"),
        ),
        case(
            "DMA_ONLY comes and goes before the ends meet",
            FIRST,
            ALONE,
            |a| {
                for n in 0..40 {
                    poke(a.mem(), w::AT_FLAGS as u64, &[n % 2, 0, 0, 0]);
                    a.now += 50 * MS;
                    a.victim.turn(a.now);
                }
            },
            Harmless("the last one counts"),
        ),
    ]
}

fn epochs() -> Vec<Case> {
    fn pulse(a: &mut Attack, octets: &[u8]) {
        for _ in 0..6 {
            part(a, w::PART_PULSE, octets);
            a.now += 50 * MS;
            a.victim.turn(a.now);
        }
    }
    vec![
        case("a forged epoch", EPOCH, SPLIT, |a| pulse(a, &[7, 7, 7, 7]), Down("board restarted")),
        case("epoch 0", EPOCH, SPLIT, |a| pulse(a, &[0; 4]), Down("board stopped")),
        case(
            "a forged epoch before any message",
            EPOCH,
            MET,
            |a| pulse(a, &[7, 7, 7, 7]),
            Down("board restarted"),
        ),
        case(
            "epoch and heartbeat of all ones",
            EPOCH,
            SPLIT,
            |a| pulse(a, &[0xff; 8]),
            Down("all ones"),
        ),
        case(
            "a heartbeat that stands still",
            BEAT,
            SPLIT,
            |a| {
                for _ in 0..40 {
                    a.now += 50 * MS;
                    a.victim.turn(a.now);
                }
            },
            Down("board is silent"),
        ),
        case(
            "a stale epoch is echoed",
            EPOCH,
            ALONE,
            |a| {
                a.meet(|a| part(a, w::PART_STATE, &[2, 0, 0, 0, 9, 9, 9, 9]));
            },
            NoSession("waiting for board"),
        ),
        case(
            "the driver's part is overwritten",
            OWN,
            SPLIT,
            |a| {
                poke(a.mem(), w::DRIVER_PART as u64 + 8, &[0xff; 56]);
                a.serve(500, &mut |_| {});
            },
            Harmless("the driver keeps its books elsewhere"),
        ),
    ]
}

fn mailboxes() -> Vec<Case> {
    fn says(a: &mut Attack, addr: u64, slots: u32) {
        a.meet(|a| {
            part(a, w::PART_MAILBOX, &addr.to_le_bytes());
            part(a, w::PART_SLOTS, &slots.to_le_bytes());
        });
    }
    let bad = |name, attack, why| case(name, MAILBOX, ALONE, attack, NoSession(why));
    vec![
        bad("a mailbox at an odd address", |a| says(a, 0x1001, 16), "not a multiple of 8"),
        bad("a mailbox beyond the slot", |a| says(a, SLOT, 16), "lies in no memory region"),
        bad(
            "a mailbox over the end of the address space",
            |a| says(a, u64::MAX - 7, 16),
            "lies in no memory",
        ),
        bad(
            "a mailbox over the edge of two regions",
            |a| says(a, WINDOW - 64, 16),
            "lies in no memory",
        ),
        bad("a mailbox of no slots", |a| says(a, 0x1000, 0), "mailbox of 0 slots"),
        bad("a mailbox of 2,048 slots", |a| says(a, 0x1000, 2048), "mailbox of 2048 slots"),
        case(
            "the driver's own mailbox",
            MAILBOX,
            ALONE,
            |a| {
                says(a, DRIVER_MAILBOX, 16);
                a.pass_long(Duration::from_secs(5));
                assert!(a.victim.said.len() < 40, "{:?}", a.victim.said);
            },
            Any,
        ),
        case(
            "a mailbox over the window's header",
            MAILBOX,
            ALONE,
            |a| {
                says(a, 0, 1);
                a.pass_long(Duration::from_secs(2));
                assert!(a.victim.said.len() < 40, "{:?}", a.victim.said);
            },
            Any,
        ),
    ]
}

fn counts() -> Vec<Case> {
    fn add(a: &mut Attack, at: u64, by: u32) {
        let now = a.word(at);
        poke(a.mem(), at, &now.wrapping_add(by).to_le_bytes());
        a.pass_long(Duration::from_secs(2));
    }
    let tail = DRIVER_MAILBOX + w::MAILBOX_TAIL as u64;
    assert_eq!(tail, DRIVER_MAILBOX + 64);
    let bad = |name, attack, why| case(name, COUNTS, SPLIT, attack, Quarantine(why));
    vec![
        bad("head jumps over the slots", |a| add(a, DRIVER_MAILBOX, 17), "message FIFO: head"),
        bad("head goes back", |a| add(a, DRIVER_MAILBOX, u32::MAX), "message FIFO: head"),
        bad(
            "head goes half the way round",
            |a| add(a, DRIVER_MAILBOX, 1 << 31),
            "message FIFO: head",
        ),
        bad(
            "tail goes on without a message",
            |a| add(a, DRIVER_MAILBOX + 64, 3),
            "message FIFO: tail",
        ),
        bad(
            "tail goes far back",
            |a| add(a, DRIVER_MAILBOX + 64, 0_u32.wrapping_sub(17)),
            "message FIFO: tail",
        ),
        bad(
            "head goes on and no message was written",
            |a| {
                poke(a.mem(), DRIVER_MAILBOX + 128, &[0; 264 * 16]);
                add(a, DRIVER_MAILBOX, 3);
            },
            "not a message",
        ),
    ]
}
