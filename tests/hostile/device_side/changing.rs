//! Values that change once the driver has read them, or while it does. Model memory changes an octet at
//! its first read, so whatever is read twice shows; elsewhere a thread flips it.

use std::sync::atomic::{AtomicBool, Ordering};

use boardlane::net::frame::{Offloads, check};
use boardlane::spec::window as w;

use super::{CONTROL, PACKED, SPLIT};
use crate::attack::{Attack, DRIVER_MAILBOX, MS, Setup, Stage, frame};
use crate::case::Verdict::{Any, Harmless};
use crate::case::{Case, case};
use crate::rings::{peek, poke};

const USED: &str = "2.7.8: a used entry is the driver's from the moment the index counts it";
const BUFFER: &str = "2.7.13: a used buffer is the driver's";
const SLOT_RULE: &str = "the window's FIFO: a slot is its reader's until tail counts it";
const PART_RULE: &str = "the window's header: what READY covers does not change";

const ALONE: Setup = SPLIT.stage(Stage::Alone);

pub(crate) fn cases() -> Vec<Case> {
    [once(), races()].into_iter().flatten().collect()
}

/// Of the next frame that the driver gets, these octets change once read; it comes out as it was.
fn comes_out(a: &mut Attack, len: usize, change: impl FnOnce(&mut Attack, u64)) {
    let sent = frame(5, len);
    let (addr, _, _) = a.rx().read(0);
    change(a, addr);
    a.give_frame(&sent);
    a.settle();
    let same = |got: &Vec<u8>| got[..10] == sent[..10] && got[12..] == sent[12..];
    assert!(matches!(&a.victim.inbox[..], [got] if same(got)), "{} came", a.victim.inbox.len());
}

fn once() -> Vec<Case> {
    let once = |name, breaks, setup, attack| {
        case(name, breaks, setup, attack, Harmless("each octet is read once"))
    };
    vec![
        once("a used entry's id", USED, SPLIT, |a| {
            comes_out(a, 100, |a, _| {
                a.memory.change_once_read(a.rings[0].config.device + 4, &[7, 0, 0, 0]);
            })
        }),
        once("a used entry's length", USED, SPLIT, |a| {
            comes_out(a, 100, |a, _| {
                a.memory.change_once_read(a.rings[0].config.device + 8, &[0xff; 4]);
            })
        }),
        once("a frame's header", BUFFER, SPLIT, |a| {
            comes_out(a, 100, |a, addr| {
                a.memory.change_once_read(addr, &[0xff; 12]);
            })
        }),
        once("a frame's header, packed", BUFFER, PACKED, |a| {
            comes_out(a, 100, |a, addr| {
                a.memory.change_once_read(addr, &[0xff; 12]);
            })
        }),
        once("num_buffers", BUFFER, SPLIT, |a| {
            comes_out(a, 100, |a, addr| {
                a.memory.change_once_read(addr + 10, &[3, 0]);
            })
        }),
        once("all of a large frame", BUFFER, SPLIT, |a| {
            comes_out(a, 60_000, |a, addr| {
                a.memory.change_once_read(addr, &vec![0xff; 60_012]);
            })
        }),
        once("a command's answer", BUFFER, CONTROL, |a| {
            let ctrl = a.ctrl().clone();
            let [low, high] = peek(a.mem(), ctrl.config.driver + 4);
            let command = u16::from_le_bytes([low, high]);
            let (answer, _, _) = ctrl.read(ctrl.read(command).2[1]);
            a.memory.change_once_read(answer, &[0xff]);
            a.answer_command(0);
        }),
        once("a message", SLOT_RULE, SPLIT, |a| {
            for slot in 0..u64::from(w::SLOTS) {
                let at = DRIVER_MAILBOX + w::MAILBOX_SLOTS as u64 + slot * w::SLOT_LEN as u64;
                a.memory.change_once_read(at, &[0xff; w::SLOT_LEN]);
            }
            a.serve(1500, &mut |_| {});
        }),
        once("where the mailbox is", PART_RULE, ALONE, |a| {
            let at = (w::DEVICE_PART + w::PART_MAILBOX) as u64;
            a.meet(|a| {
                if a.fifo.is_none() && peek(a.mem(), at) != [0; 8] {
                    a.memory.change_once_read(at, &[0xff; 12]);
                }
            });
            assert!(a.fifo.is_some(), "{:?}", a.victim.said);
        }),
    ]
}

/// While another thread writes one and the other in turn, gives the driver frames as long as it takes
/// them; all that come out are as negotiated.
fn race(a: &mut Attack, at: u64, octets: [&[u8]; 2]) {
    let (mem, stop) = (a.memory.attacker.clone(), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                octets.iter().for_each(|octets| poke(&mem, at, octets));
            }
        });
        for n in 0..1000 {
            if a.rx().next().is_some() {
                let id = a.rings[0].used % 11;
                a.rx().give(id.into(), 112);
            }
            a.victim.outbox.push_back(frame(n, 60));
            a.pass(MS);
            if a.victim.paths.is_empty() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let offloads = Offloads::to_driver(a.victim.features);
    for frame in &a.victim.inbox {
        assert_eq!(check(frame, frame.len(), offloads), Ok(()), "{:02x?}", &frame[..12]);
    }
    a.victim.outbox.clear();
}

fn races() -> Vec<Case> {
    let raced = |name, breaks, setup, attack| case(name, breaks, setup, attack, Any);
    vec![
        raced("a header flips between good and bad", BUFFER, SPLIT, |a| {
            let (addr, _, _) = a.rx().read(0);
            race(a, addr, [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0xff; 12]]);
        }),
        raced("the used index flips", USED, SPLIT, |a| {
            let at = a.tx().config.device;
            race(a, at, [&[0, 0, 1, 0], &[0, 0, 0xff, 0xff]]);
        }),
        raced("used entries flip", USED, SPLIT, |a| {
            let at = a.rx().config.device + 4 + 8 * 5;
            race(a, at, [&[5, 0, 0, 0, 112, 0, 0, 0], &[0xff; 8]]);
        }),
        raced("packed used descriptors flip", USED, PACKED, |a| {
            let at = a.rx().config.desc + 16 * 5;
            race(a, at, [&[0; 16], &[0xff; 16]]);
        }),
    ]
}
