//! Buffers of chains, of either queue and format: addresses, lengths, directions.

use boardlane::net::frame::Drop;
use boardlane::spec::net::F_MRG_RXBUF;

use super::{PACKED, SPLIT};
use crate::attack::{Attack, DATA, DEVICE_MAILBOX, NOWHERE, frame};
use crate::case::Verdict::{DropAndCount, Harmless, NeedsReset, Quarantine};
use crate::case::{Case, case};
use crate::ground::{SLOT, WINDOW};
use crate::rings::{Piece, SIZE, WRITE, poke};

const MEMORY: &str = "2.7.5: addr and len describe a buffer in memory that the device may reach";
const PACKED_MEMORY: &str =
    "2.8.6: addr and len describe a buffer in memory that the device may reach";
const LAST: &str = "2.7.4.2: the driver MUST place device-writable elements after readable ones";
const BYTES: &str = "2.7.5.2: the driver MUST NOT add a chain longer than 2^32 bytes";
const RECEIVE: &str = "5.1.9.3.1: a receive buffer MUST hold at least the header";
const TRANSMIT: &str = "5.1.9.2: a frame to be sent is header and packet in readable buffers";
const NO_MEMORY: &str = "lies in no memory region";

pub(crate) fn cases() -> Vec<Case> {
    [addresses(), receive(), transmit(), over_itself()].into_iter().flatten().collect()
}

fn addresses() -> Vec<Case> {
    let tx = |name, attack| case(name, MEMORY, SPLIT, attack, NeedsReset(NO_MEMORY));
    let packed = |name, attack| case(name, PACKED_MEMORY, PACKED, attack, NeedsReset(NO_MEMORY));
    vec![
        tx("tx: beyond the slot", |a| a.tx().send(&[(SLOT, 100, 0)])),
        tx("tx: far beyond the slot", |a| a.tx().send(&[(1 << 52, 100, 0)])),
        tx("tx: the last address", |a| a.tx().send(&[(u64::MAX, 1, 0)])),
        tx("tx: over the end of the address space", |a| a.tx().send(&[(u64::MAX - 50, 100, 0)])),
        tx("tx: over the end of the slot", |a| a.tx().send(&[(SLOT - 99, 100, 0)])),
        tx("tx: over the edge of two regions", |a| a.tx().send(&[(WINDOW - 50, 100, 0)])),
        tx("tx: 4 GiB less one", |a| a.tx().send(&[(DATA, u32::MAX, 0)])),
        tx("tx: 2 GiB", |a| a.tx().send(&[(DATA, 1 << 31, 0)])),
        tx("tx: the second buffer is nowhere", |a| a.tx().send(&[(DATA, 100, 0), (SLOT, 100, 0)])),
        tx("rx: beyond the slot", |a| a.rx().send(&[(SLOT, 2000, WRITE)])),
        tx("rx: over the end of the address space", |a| {
            a.rx().send(&[(u64::MAX - 50, 2000, WRITE)])
        }),
        tx("rx: over the end of the slot", |a| a.rx().send(&[(SLOT - 1999, 2000, WRITE)])),
        tx("rx: 4 GiB less one", |a| a.rx().send(&[(DATA, u32::MAX, WRITE)])),
        tx("rx: the fourth buffer is nowhere", |a| {
            let good: Piece = (DATA, 500, WRITE);
            a.rx().send(&[good, good, good, (1 << 40, 500, WRITE)]);
        }),
        packed("tx: beyond the slot, packed", |a| a.tx().send(&[(SLOT, 100, 0)])),
        packed("tx: the last address, packed", |a| a.tx().send(&[(u64::MAX, 1, 0)])),
        packed("tx: 4 GiB less one, packed", |a| a.tx().send(&[(DATA, u32::MAX, 0)])),
        packed("tx: over the edge of two regions, packed", |a| {
            a.tx().send(&[(WINDOW - 50, 100, 0)])
        }),
        packed("rx: over the end of the slot, packed", |a| {
            a.rx().send(&[(SLOT - 1999, 2000, WRITE)])
        }),
        packed("rx: the second buffer is nowhere, packed", |a| {
            a.rx().send(&[(DATA, 500, WRITE), (SLOT, 500, WRITE)]);
        }),
        case(
            "a command beyond the slot",
            MEMORY,
            SPLIT,
            |a| {
                a.ctrl().send(&[(SLOT, 3, 0), (DATA, 1, WRITE)]);
            },
            NeedsReset("controlq: chain"),
        ),
        case(
            "a command's answer beyond the slot",
            MEMORY,
            SPLIT,
            |a| {
                a.ctrl().send(&[(DATA, 3, 0), (SLOT, 1, WRITE)]);
            },
            NeedsReset("controlq: chain"),
        ),
    ]
}

fn receive() -> Vec<Case> {
    const SMALL: &str = "less than a virtio-net header";
    vec![
        case(
            "rx: no bytes for the header",
            RECEIVE,
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 11, WRITE)]);
            },
            NeedsReset(SMALL),
        ),
        case(
            "rx: no bytes for the header, packed",
            RECEIVE,
            PACKED,
            |a| {
                a.rx().send(&[(DATA, 11, WRITE)]);
            },
            NeedsReset(SMALL),
        ),
        case(
            "rx: one byte",
            RECEIVE,
            SPLIT,
            |a| a.rx().send(&[(DATA, 1, WRITE)]),
            NeedsReset(SMALL),
        ),
        case(
            "rx: a buffer that is to be read",
            RECEIVE,
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 2000, 0)]);
            },
            NeedsReset(SMALL),
        ),
        case(
            "rx: a buffer of no bytes",
            MEMORY,
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 0, WRITE)]);
            },
            NeedsReset("length 0"),
        ),
        case(
            "rx: readable after writable",
            LAST,
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 2000, WRITE), (DATA, 100, 0)]);
            },
            NeedsReset("readable buffer after a writable"),
        ),
        case(
            "rx: one buffer, too small for a frame",
            RECEIVE,
            SPLIT.without(&[F_MRG_RXBUF]),
            |a| {
                a.rx().send(&[(DATA, 100, WRITE)]);
                a.victim.outbox.push_back(frame(1, 1000));
                a.victim.outbox.push_back(frame(2, 60));
            },
            DropAndCount(Drop::TooLong),
        ),
        case(
            "rx: the same memory in all buffers",
            "2.7.13.1: a buffer is the device's until used",
            SPLIT,
            |a| {
                (0..12).for_each(|_| a.rx().send(&[(DATA, 2000, WRITE)]));
                (0..12).for_each(|n| a.victim.outbox.push_back(frame(n, 1000)));
                a.settle();
                assert_eq!(a.rx().used_by_device(), 12);
            },
            Harmless("the driver overwrites its own frames"),
        ),
        case(
            "rx: readable buffers before the writable one",
            RECEIVE,
            SPLIT,
            |a| {
                a.rx().send(&[(DATA, 2000, 0), (DATA + 4096, 2000, WRITE)]);
                a.victim.outbox.push_back(frame(1, 1000));
                a.settle();
                assert_eq!(a.rx().used_by_device(), 1);
            },
            Harmless("the device does not read them"),
        ),
    ]
}

fn transmit() -> Vec<Case> {
    fn many(a: &mut Attack, len: u32) {
        let all: Vec<Piece> = (0..SIZE).map(|_| (DATA, len, 0)).collect();
        a.tx().send(&all);
    }
    vec![
        case(
            "tx: only buffers that are to be written",
            TRANSMIT,
            SPLIT,
            |a| {
                a.tx().send(&[(DATA, 2000, WRITE)]);
            },
            DropAndCount(Drop::TooShort),
        ),
        case(
            "tx: only buffers that are to be written, packed",
            TRANSMIT,
            PACKED,
            |a| {
                a.tx().send(&[(DATA, 2000, WRITE)]);
            },
            DropAndCount(Drop::TooShort),
        ),
        case(
            "tx: a buffer to be written after the frame",
            TRANSMIT,
            SPLIT,
            |a| {
                let sent = frame(1, 100);
                poke(a.mem(), DATA, &sent);
                a.tx().send(&[(DATA, 112, 0), (DATA + 4096, 2000, WRITE)]);
                a.settle();
                assert_eq!(a.victim.inbox, [sent]);
            },
            Harmless("the device writes nothing there"),
        ),
        case(
            "tx: readable after writable",
            LAST,
            SPLIT,
            |a| {
                a.tx().send(&[(DATA, 8, WRITE), (DATA, 100, 0)]);
            },
            NeedsReset("readable buffer after a writable"),
        ),
        case(
            "tx: an empty buffer in the middle",
            MEMORY,
            SPLIT,
            |a| {
                a.tx().send(&[(DATA, 100, 0), (DATA, 0, 0), (DATA, 100, 0)]);
            },
            NeedsReset("length 0"),
        ),
        case(
            "tx: a frame of 32 MiB, the same memory again and again",
            BYTES,
            SPLIT,
            |a| {
                many(a, 512 << 10);
            },
            DropAndCount(Drop::TooLong),
        ),
        case(
            "tx: a frame of 32 MiB, packed",
            BYTES,
            PACKED,
            |a| {
                many(a, 512 << 10);
            },
            DropAndCount(Drop::TooLong),
        ),
        case(
            "tx: one byte more than any frame",
            TRANSMIT,
            SPLIT,
            |a| {
                a.tx().send(&[(DATA, 65_602, 0)]);
            },
            DropAndCount(Drop::TooLong),
        ),
        case(
            "tx: a frame of 64 buffers of a byte, with no Ethernet header",
            TRANSMIT,
            SPLIT,
            |a| {
                let all: Vec<Piece> = (0..25).map(|i| (DATA + 8 * i, 1, 0)).collect();
                a.tx().send(&all);
            },
            DropAndCount(Drop::TooShort),
        ),
    ]
}

/// A frame of ones behind an empty header.
fn ones(len: usize) -> Vec<u8> {
    [vec![0; 12], vec![0xff; len - 12]].concat()
}

/// Buffers that are the link's own structures: inside the spans, and nobody else's.
fn over_itself() -> Vec<Case> {
    const OWN: &str = "2.7.4: buffers are memory apart from the queues and the device's own";
    vec![
        case(
            "rx: a frame is received into the device's mailbox",
            OWN,
            SPLIT,
            |a| {
                a.rx().send(&[(DEVICE_MAILBOX - 16, 2000, WRITE)]);
                a.victim.outbox.push_back(ones(1500));
            },
            Quarantine("message FIFO: head"),
        ),
        case(
            "rx: a frame is received into the device's part of the header",
            OWN,
            SPLIT,
            |a| {
                a.rx().send(&[(80, 48, WRITE)]);
                a.victim.outbox.push_back(frame(1, 30));
            },
            Harmless("the device reads nothing there in a session, and beats on"),
        ),
        case(
            "rx: a frame is received into the available ring",
            OWN,
            SPLIT,
            |a| {
                let at = a.rx().config.driver;
                a.rx().send(&[(at - 16, 1000, WRITE)]);
                a.victim.outbox.push_back(ones(900));
            },
            NeedsReset("available index moved by"),
        ),
        case(
            "rx: a frame is received into the descriptor table",
            OWN,
            SPLIT,
            |a| {
                let at = a.tx().config.desc;
                a.rx().send(&[(at, 1012, WRITE)]);
                a.victim.outbox.push_back(ones(1000));
                a.settle();
                a.tx().offer(3);
            },
            NeedsReset("chain 3: an indirect descriptor in a list"),
        ),
        case(
            "tx: a frame that is the header of the window",
            OWN,
            SPLIT,
            |a| {
                a.tx().send(&[(0, 100, 0)]);
            },
            DropAndCount(Drop::BadFlags),
        ),
        case(
            "tx: a frame that nobody ever wrote",
            TRANSMIT,
            SPLIT,
            |a| {
                a.unconfine();
                poke(a.mem(), NOWHERE, &[0; 100]);
                a.tx().send(&[(NOWHERE, 100, 0)]);
                a.settle();
                assert_eq!(a.victim.inbox, [vec![0; 100]]);
            },
            Harmless("it is a frame of zeros"),
        ),
    ]
}
