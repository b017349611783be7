//! What lies where the device's CPU does not reach: in driver memory, which an engine alone copies.

use boardlane::net::frame::Drop;
use boardlane::spec::{net, window as w};
use boardlane::tunnel::message::Body;

use super::WINDOW_ONLY;
use crate::attack::{Attack, DATA, DRIVER_MAILBOX, Stage, TABLE, frame};
use crate::case::Verdict::{DropAndCount, Harmless, NeedsReset, NoSession, Quarantine, Refused};
use crate::case::{Case, case};
use crate::rings::{INDIRECT, Ring, WRITE, peek, poke, write_desc};

const REACH: &str =
    "the window's header: with DMA_ONLY the driver puts into the window what is not a frame";
const ENGINE: &str = "can be reached by a DMA engine only";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a queue in driver memory",
            REACH,
            WINDOW_ONLY.stage(Stage::Ready),
            |a| {
                let mem = a.memory.attacker.clone();
                a.ask(Attack::enable(&Ring::at(&mem, DATA, false), 0));
                let other = a.rings[1].clone();
                a.ask(Attack::enable(&other, 1));
                a.send(Body::SetDeviceStatus { status: 15 });
            },
            Quarantine(ENGINE),
        ),
        case(
            "a used ring in driver memory",
            REACH,
            WINDOW_ONLY.stage(Stage::Ready),
            |a| {
                let mut config = a.rings[0].config;
                config.device = DATA;
                a.ask(Attack::enable(&Ring::of(&a.memory.attacker.clone(), config), 0));
                let other = a.rings[1].clone();
                a.ask(Attack::enable(&other, 1));
                a.send(Body::SetDeviceStatus { status: 15 });
            },
            Quarantine(ENGINE),
        ),
        case(
            "an indirect table in driver memory",
            REACH,
            WINDOW_ONLY,
            |a| {
                write_desc(a.mem(), DATA + 0x1000, 0, DATA, 112, [0, 0]);
                a.tx().write(0, DATA + 0x1000, 16, [INDIRECT, 0]);
                a.tx().offer(0);
            },
            NeedsReset(ENGINE),
        ),
        case(
            "a command in driver memory",
            REACH,
            WINDOW_ONLY,
            |a| {
                poke(a.mem(), DATA, &[0, 0, 1]);
                poke(a.mem(), TABLE, &[0xee]);
                a.ctrl().send(&[(DATA, 3, 0), (TABLE, 1, WRITE)]);
                a.settle();
                let answer: [u8; 1] = peek(a.mem(), TABLE);
                a.refuse(answer == [net::ctrl::ERR]);
            },
            Refused,
        ),
        case(
            "an answer in driver memory",
            REACH,
            WINDOW_ONLY,
            |a| {
                poke(a.mem(), TABLE, &[0, 0, 1]);
                a.ctrl().send(&[(TABLE, 3, 0), (DATA, 1, WRITE)]);
                a.settle();
                assert_eq!(a.ctrl().used_by_device(), 1);
            },
            Harmless("the device cannot write it"),
        ),
        case(
            "a mailbox in driver memory",
            REACH,
            WINDOW_ONLY.stage(Stage::Alone),
            |a| {
                a.meet(|a| {
                    let at = (w::DRIVER_PART + w::PART_MAILBOX) as u64;
                    poke(a.mem(), at, &DRIVER_MAILBOX.to_le_bytes());
                });
            },
            NoSession(ENGINE),
        ),
        case(
            "a frame of both memories, in pieces",
            REACH,
            WINDOW_ONLY,
            |a| {
                let sent = frame(1, 300);
                poke(a.mem(), TABLE, &sent[..7]);
                poke(a.mem(), DATA, &sent[7..]);
                a.tx().send(&[(TABLE, 7, 0), (DATA, 305, 0)]);
                a.settle();
                assert_eq!(a.victim.inbox, [sent]);
            },
            Harmless("the engine copies all of it"),
        ),
        case(
            "a header of all ones in driver memory",
            REACH,
            WINDOW_ONLY,
            |a| {
                poke(a.mem(), DATA, &[0xff; 100]);
                a.tx().send(&[(DATA, 100, 0)]);
            },
            DropAndCount(Drop::BadFlags),
        ),
    ]
}
