//! The window's header and its FIFOs: epochs, states, mailboxes, counts (the window's own layout).

use std::time::Duration;

use boardlane::spec::window as w;

use super::{MET, SPLIT};
use crate::attack::{ATTACKER, Attack, DEVICE_MAILBOX, DRIVER_MAILBOX, MS, Setup, Stage};
use crate::case::Verdict::{Any, Down, Harmless, NoSession, Quarantine};
use crate::case::{Case, case};
use crate::ground::{SLOT, WINDOW};
use crate::rings::poke;

const EPOCH: &str =
    "the window's header: an epoch is drawn anew with each session, never 0 or all ones";
const BEAT: &str = "the window's header: the heartbeat counts on";
const STATE: &str = "the window's header: INIT, READY, RUN with the echo of the peer's epoch";
const MAILBOX: &str =
    "the window's header: a mailbox lies in memory, aligned, 2^n slots up to 1024";
const TABLE: &str = "the window's memory table: entries are memory that the device reaches";
const COUNTS: &str = "the window's FIFO: counts go up by one for each message";
const OWN: &str = "the window's header: each part has one writer";

const ALONE: Setup = SPLIT.stage(Stage::Alone);
const PART: u64 = w::DRIVER_PART as u64;

pub(crate) fn cases() -> Vec<Case> {
    [epochs(), parts(), mailboxes(), tables(), counts()].into_iter().flatten().collect()
}

fn part(a: &Attack, at: usize, octets: &[u8]) {
    poke(a.mem(), PART + at as u64, octets);
}

fn epochs() -> Vec<Case> {
    fn pulse(a: &mut Attack, epoch: u32) {
        for _ in 0..6 {
            part(a, w::PART_PULSE, &epoch.to_le_bytes());
            a.now += 50 * MS;
            a.victim.turn(a.now);
        }
    }
    vec![
        case("a forged epoch", EPOCH, SPLIT, |a| pulse(a, 0x7777), Down("master restarted")),
        case("epoch 0", EPOCH, SPLIT, |a| pulse(a, 0), Down("master stopped")),
        case(
            "a forged epoch before any message",
            EPOCH,
            MET,
            |a| pulse(a, 0x7777),
            Down("master restarted"),
        ),
        case(
            "epoch and heartbeat of all ones",
            EPOCH,
            SPLIT,
            |a| {
                for _ in 0..6 {
                    part(a, w::PART_PULSE, &[0xff; 8]);
                    a.now += 50 * MS;
                    a.victim.turn(a.now);
                }
            },
            Down("reads as all ones"),
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
            Down("master is silent"),
        ),
        case(
            "a heartbeat that jumps and goes back",
            BEAT,
            SPLIT,
            |a| {
                for beat in [9, u32::MAX, 0, 1 << 31, 5] {
                    part(a, w::PART_PULSE + 4, &beat.to_le_bytes());
                    a.pass(60 * MS);
                }
            },
            Harmless("any change is a sign of life"),
        ),
        case(
            "a stale epoch is echoed",
            EPOCH,
            ALONE,
            |a| {
                a.meet(|a| part(a, w::PART_STATE, &[2, 0, 0, 0, 9, 9, 9, 9]));
            },
            NoSession("waiting for master"),
        ),
        case(
            "an epoch that changes at each look",
            EPOCH,
            ALONE,
            |a| {
                for epoch in 1..4000_u32 {
                    part(a, w::PART_PULSE, &epoch.to_le_bytes());
                    part(a, w::PART_STATE, &[1, 0, 0, 0, 0, 0, 0, 0]);
                    a.now += MS;
                    a.victim.turn(a.now);
                }
                assert!(a.victim.said.len() < 200, "{} lines", a.victim.said.len());
                part(a, w::PART_PULSE, &[0; 16]);
                a.pass_long(Duration::from_secs(2));
                a.victim.said.clear();
            },
            NoSession(""),
        ),
    ]
}

fn parts() -> Vec<Case> {
    let harmless = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Harmless(why));
    vec![
        harmless(
            "a state that there is not",
            STATE,
            |a| {
                part(a, w::PART_STATE, &[0xff; 4]);
                a.pass_long(Duration::from_secs(1));
            },
            "while the ends are up the epoch counts",
        ),
        harmless(
            "an echo of another epoch while up",
            STATE,
            |a| {
                part(a, w::PART_STATE + 4, &[1, 2, 3, 4]);
                a.pass_long(Duration::from_secs(1));
            },
            "while the ends are up the epoch counts",
        ),
        harmless(
            "another owner, vectors and nonce while up",
            OWN,
            |a| {
                part(a, w::PART_OWNER, &[0xff; 8]);
                part(a, w::PART_SLOTS, &[0xff; 8]);
                a.pass_long(Duration::from_secs(1));
            },
            "they were read once",
        ),
        harmless(
            "the device's own part is overwritten",
            OWN,
            |a| {
                poke(a.mem(), w::DEVICE_PART as u64 + 8, &[0xff; 56]);
                a.pass_long(Duration::from_secs(1));
            },
            "the device keeps its books elsewhere",
        ),
        harmless(
            "the window's first line is overwritten",
            OWN,
            |a| {
                poke(a.mem(), 0, &[0xee; 64]);
                a.pass_long(Duration::from_secs(1));
            },
            "it is for the driver, and written anew for the next session",
        ),
        case(
            "the device's place is taken before a session",
            OWN,
            ALONE,
            |a| {
                poke(a.mem(), (w::DEVICE_PART + w::PART_NONCE) as u64, &[9; 8]);
                poke(a.mem(), (w::DEVICE_PART + w::PART_OWNER) as u64, &[7, 0, 0, 0]);
                for _ in 0..6 {
                    a.now += 60 * MS;
                    a.victim.turn(a.now);
                }
            },
            Down("slot was taken by another agent (peer 7)"),
        ),
        case(
            "the owner is the device itself",
            OWN,
            ALONE,
            |a| a.meet(|a| part(a, w::PART_OWNER, &[1, 0, 0, 0])),
            NoSession("waiting for master"),
        ),
        case(
            "4,294,967,295 vectors",
            OWN,
            ALONE,
            |a| {
                a.meet(|a| part(a, w::PART_VECTORS, &[0xff; 4]));
                assert!(a.fifo.is_some());
            },
            Harmless("the vector is one of the first 32,768"),
        ),
        case(
            "no session after RUN",
            STATE,
            ALONE,
            |a| {
                a.epoch += 1;
                part(a, w::PART_PULSE, &a.epoch.to_le_bytes());
                part(a, w::PART_OWNER, &ATTACKER.to_le_bytes());
                part(a, w::PART_NONCE, &[5; 8]);
                part(a, w::PART_MAILBOX, &DRIVER_MAILBOX.to_le_bytes());
                part(a, w::PART_SLOTS, &[16, 0, 0, 0]);
                part(a, w::PART_STATE, &[1, 0, 0, 0, 0, 0, 0, 0]);
                for _ in 0..40 {
                    a.now += 50 * MS;
                    a.victim.turn(a.now);
                }
            },
            Down("waiting for master"),
        ),
    ]
}

/// The mailbox that the driver says it has.
fn says(a: &mut Attack, addr: u64, slots: u32) {
    a.meet(|a| {
        part(a, w::PART_MAILBOX, &addr.to_le_bytes());
        part(a, w::PART_SLOTS, &slots.to_le_bytes());
    });
}

fn mailboxes() -> Vec<Case> {
    let bad = |name, attack, why| case(name, MAILBOX, ALONE, attack, NoSession(why));
    vec![
        bad(
            "a mailbox at a multiple of 4",
            |a| says(a, DRIVER_MAILBOX + 4, 16),
            "not a multiple of 8",
        ),
        bad("a mailbox beyond the slot", |a| says(a, SLOT, 16), "lies in no memory region"),
        bad(
            "a mailbox over the end of the slot",
            |a| says(a, SLOT - 4000, 16),
            "lies in no memory region",
        ),
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
        bad("a mailbox of no slots", |a| says(a, DRIVER_MAILBOX, 0), "mailbox of 0 slots"),
        bad("a mailbox of 3 slots", |a| says(a, DRIVER_MAILBOX, 3), "mailbox of 3 slots"),
        bad("a mailbox of 2,048 slots", |a| says(a, DRIVER_MAILBOX, 2048), "mailbox of 2048 slots"),
        bad(
            "a mailbox of 2^31 slots",
            |a| says(a, DRIVER_MAILBOX, 1 << 31),
            "mailbox of 2147483648 slots",
        ),
        case(
            "the device's own mailbox",
            MAILBOX,
            ALONE,
            |a| {
                says(a, DEVICE_MAILBOX, 16);
                a.pass_long(Duration::from_secs(2));
                assert!(a.victim.said.len() < 20, "{:?}", a.victim.said);
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
            },
            Down("master"),
        ),
    ]
}

fn tables() -> Vec<Case> {
    fn entry(a: &mut Attack, addr: u64, len: u64, kind: u32) {
        a.meet(|a| {
            let at = (w::MEMORY_TABLE + w::MEMORY_ENTRY_LEN) as u64;
            poke(a.mem(), at, &[addr.to_le_bytes(), len.to_le_bytes()].concat());
            poke(a.mem(), at + 16, &kind.to_le_bytes());
        });
    }
    let bad = |name, attack| case(name, TABLE, ALONE, attack, NoSession("cannot be reached"));
    vec![
        bad("memory beyond the slot", |a| entry(a, SLOT, 4096, w::MEMORY_DRIVER)),
        bad("memory over the end of the slot", |a| entry(a, SLOT - 4096, 4097, w::MEMORY_DRIVER)),
        bad("memory over the end of the address space", |a| {
            entry(a, u64::MAX, 2, w::MEMORY_DRIVER)
        }),
        bad("memory of 4 GiB", |a| entry(a, WINDOW, 1 << 32, w::MEMORY_DRIVER)),
        bad("memory of 2^64 bytes less one", |a| entry(a, 0, u64::MAX, w::MEMORY_WINDOW)),
        bad("memory of a kind that there is not", |a| entry(a, SLOT, 1, 77)),
    ]
}

fn counts() -> Vec<Case> {
    fn head(a: &mut Attack, count: u32) {
        poke(a.mem(), DEVICE_MAILBOX, &count.to_le_bytes());
        a.settle();
    }
    fn tail(a: &mut Attack, count: u32) {
        poke(a.mem(), DEVICE_MAILBOX + w::MAILBOX_TAIL as u64, &count.to_le_bytes());
        a.send_octets(&[0, 7, 0, 0, 9, 0, 8, 0]);
        a.settle();
    }
    let bad = |name, attack, why| case(name, COUNTS, SPLIT, attack, Quarantine(why));
    vec![
        bad(
            "head jumps over the slots",
            |a| {
                let now = a.word(DEVICE_MAILBOX);
                head(a, now + 17);
            },
            "message FIFO: head",
        ),
        bad(
            "head goes back",
            |a| {
                let now = a.word(DEVICE_MAILBOX);
                head(a, now - 1);
            },
            "message FIFO: head",
        ),
        bad("head of all ones", |a| head(a, u32::MAX), "message FIFO: head"),
        bad(
            "tail goes on without a message",
            |a| {
                let now = a.word(DEVICE_MAILBOX + 64);
                tail(a, now + 1);
            },
            "message FIFO: tail",
        ),
        bad(
            "tail goes half the way round",
            |a| {
                let now = a.word(DEVICE_MAILBOX + 64);
                tail(a, now.wrapping_add(1 << 31));
            },
            "message FIFO: tail",
        ),
        case(
            "tail goes back a little",
            COUNTS,
            SPLIT,
            |a| {
                let now = a.word(DEVICE_MAILBOX + 64);
                tail(a, now - 2);
            },
            Harmless("there is so much less room"),
        ),
        bad(
            "tail goes far back",
            |a| {
                let now = a.word(DEVICE_MAILBOX + 64);
                tail(a, now.wrapping_sub(17));
            },
            "message FIFO: tail",
        ),
        bad(
            "head goes on and no message was written",
            |a| {
                poke(a.mem(), DEVICE_MAILBOX + 128, &[0; 264 * 16]);
                let now = a.word(DEVICE_MAILBOX);
                head(a, now + 3);
            },
            "not a message",
        ),
        case(
            "old messages come again",
            COUNTS,
            SPLIT,
            |a| {
                let now = a.word(DEVICE_MAILBOX);
                head(a, now + 16);
                a.pass_long(Duration::from_secs(1));
            },
            Any,
        ),
        case("head goes back before any message", COUNTS, MET, |a| head(a, u32::MAX), {
            Quarantine("message FIFO: head")
        }),
    ]
}
