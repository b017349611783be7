//! Values that change once the device has read them, or while it does. Model memory changes an octet at
//! its first read, so whatever is read twice shows; elsewhere a thread flips it.

use std::sync::atomic::{AtomicBool, Ordering};

use boardlane::net::frame::{Offloads, check};
use boardlane::spec::{net, window as w};
use boardlane::tunnel::message::Body;

use super::{MET, PACKED, SPLIT};
use crate::attack::{Attack, DATA, DEVICE_MAILBOX, MS, NOWHERE, Setup, Stage, TABLE, frame};
use crate::case::Verdict::{Any, Harmless};
use crate::case::{Case, case};
use crate::rings::{INDIRECT, SIZE, WRITE, peek, poke, write_desc};

const CHAIN: &str = "2.7.13: what was made available is the device's until it is used";
const PACKED_CHAIN: &str = "2.8.16: what was made available is the device's until it is used";
const SLOT_RULE: &str = "the window's FIFO: a slot is its reader's until tail counts it";
const PART_RULE: &str = "the window's header: what READY covers does not change";

const ALONE: Setup = SPLIT.stage(Stage::Alone);
const PART: u64 = w::DRIVER_PART as u64;

pub(crate) fn cases() -> Vec<Case> {
    [chains(), frames(), messages(), races()].into_iter().flatten().collect()
}

/// Of a frame at [`DATA`] whose chain is about to be sent, these octets change; it comes out as it was.
fn comes_out(a: &mut Attack, len: usize, change: impl FnOnce(&mut Attack)) {
    let sent = frame(5, len);
    poke(a.mem(), DATA, &sent);
    change(a);
    a.settle();
    assert_eq!(a.victim.inbox, [sent]);
}

fn chains() -> Vec<Case> {
    let once = |name, breaks, setup, attack| {
        case(name, breaks, setup, attack, Harmless("each octet is read once"))
    };
    vec![
        once("a descriptor's address", CHAIN, SPLIT, |a| {
            comes_out(a, 100, |a| {
                a.tx().write(0, DATA, 112, [0, 0]);
                a.memory.change_once_read(a.rings[1].config.desc, &(1_u64 << 50).to_le_bytes());
                a.tx().offer(0);
            })
        }),
        once("a descriptor's length, flags and next", CHAIN, SPLIT, |a| {
            comes_out(a, 100, |a| {
                a.tx().write(0, DATA, 112, [0, 0]);
                a.memory.change_once_read(a.rings[1].config.desc + 8, &[0xff; 8]);
                a.tx().offer(0);
            })
        }),
        once("an entry of the available ring", CHAIN, SPLIT, |a| {
            comes_out(a, 100, |a| {
                a.tx().write(7, DATA, 112, [0, 0]);
                a.memory.change_once_read(a.rings[1].config.driver + 4, &[0xff; 2]);
                a.tx().offer(7);
            })
        }),
        once("a descriptor of an indirect table", CHAIN, SPLIT, |a| {
            comes_out(a, 100, |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 112, [0, 0]);
                a.tx().write(0, TABLE, 16, [INDIRECT, 0]);
                a.memory.change_once_read(TABLE, &[0xff; 16]);
                a.tx().offer(0);
            })
        }),
        once("the descriptor of an indirect table", CHAIN, SPLIT, |a| {
            comes_out(a, 100, |a| {
                write_desc(a.mem(), TABLE, 0, DATA, 112, [0, 0]);
                a.tx().write(0, TABLE, 16, [INDIRECT, 0]);
                a.memory.change_once_read(a.rings[1].config.desc, &[0xff; 16]);
                a.tx().offer(0);
            })
        }),
        once("a packed descriptor", PACKED_CHAIN, PACKED, |a| {
            comes_out(a, 100, |a| {
                a.memory.change_once_read(a.rings[1].config.desc, &[0xff; 16]);
                a.tx().send(&[(DATA, 112, 0)]);
            })
        }),
        once("the second of two packed descriptors", PACKED_CHAIN, PACKED, |a| {
            comes_out(a, 100, |a| {
                a.memory.change_once_read(a.rings[1].config.desc + 16, &[0xff; 16]);
                a.tx().send(&[(DATA, 50, 0), (DATA + 50, 62, 0)]);
            })
        }),
        once("a receive buffer's descriptor", CHAIN, SPLIT, |a| {
            a.rx().write(0, DATA, 2000, [WRITE, 0]);
            a.memory.change_once_read(a.rings[0].config.desc, &NOWHERE.to_le_bytes());
            a.memory.change_once_read(a.rings[0].config.desc + 8, &[0xff; 8]);
            a.rx().offer(0);
            a.settle();
            a.victim.outbox.push_back(frame(3, 200));
            a.settle();
            assert_eq!(peek::<30>(a.mem(), DATA + 12), frame(3, 200)[12..42]);
        }),
    ]
}

fn frames() -> Vec<Case> {
    let once = |name, setup, attack| {
        case(name, CHAIN, setup, attack, Harmless("what was checked is what goes on"))
    };
    vec![
        once("a frame's header", SPLIT, |a| {
            comes_out(a, 100, |a| {
                a.memory.change_once_read(DATA, &[0xff; 12]);
                a.tx().send(&[(DATA, 112, 0)]);
            })
        }),
        once("a frame's header, packed", PACKED, |a| {
            comes_out(a, 100, |a| {
                a.memory.change_once_read(DATA, &[0xff; 12]);
                a.tx().send(&[(DATA, 112, 0)]);
            })
        }),
        once("a header in pieces of a byte", SPLIT, |a| {
            comes_out(a, 100, |a| {
                a.memory.change_once_read(DATA, &[0xff; 20]);
                let mut pieces: Vec<_> = (0..12).map(|i| (DATA + i, 1, 0)).collect();
                pieces.push((DATA + 12, 100, 0));
                a.tx().send(&pieces);
            })
        }),
        once("all that is checked of a frame", SPLIT, |a| {
            comes_out(a, 256, |a| {
                a.memory.change_once_read(DATA, &[0xff; 268]);
                a.tx().send(&[(DATA, 268, 0)]);
            })
        }),
        once("all of a large frame", SPLIT, |a| {
            comes_out(a, 60_000, |a| {
                a.memory.change_once_read(DATA, &vec![0xff; 60_012]);
                a.tx().send(&[(DATA, 60_012, 0)]);
            })
        }),
        case(
            "a command",
            CHAIN,
            SPLIT,
            |a| {
                a.memory.change_once_read(DATA, &[9, 9, 9]);
                assert_eq!(a.command(&[0, 0, 1]), Some(net::ctrl::OK));
            },
            Harmless("it is copied before it is looked at"),
        ),
    ]
}

fn messages() -> Vec<Case> {
    /// The slot of the next message, and so on.
    fn fickle_slot(a: &mut Attack) {
        let slot = u64::from(a.word(DEVICE_MAILBOX)) % u64::from(w::SLOTS);
        let at = DEVICE_MAILBOX + w::MAILBOX_SLOTS as u64 + slot * w::SLOT_LEN as u64;
        a.memory.change_once_read(at, &[0xff; w::SLOT_LEN]);
    }
    vec![
        case(
            "a message",
            SLOT_RULE,
            SPLIT,
            |a| {
                fickle_slot(a);
                let Some(Body::Vqueue(queue)) = a.ask(Body::GetVqueue { index: 1 }) else {
                    panic!("no answer")
                };
                assert_eq!((queue.index, queue.size), (1, SIZE.into()));
            },
            Harmless("its slot is copied out first"),
        ),
        case(
            "SET_VQUEUE while it is read",
            SLOT_RULE,
            MET,
            |a| {
                a.negotiate();
                let ring = a.rings[0].clone();
                fickle_slot(a);
                a.ask(Attack::enable(&ring, 0));
                let Some(Body::Vqueue(queue)) = a.ask(Body::GetVqueue { index: 0 }) else {
                    panic!("no answer")
                };
                assert_eq!((queue.desc, queue.size), (ring.config.desc, SIZE.into()));
            },
            Harmless("its slot is copied out first"),
        ),
        case(
            "where the mailbox is",
            PART_RULE,
            ALONE,
            |a| {
                let at = PART + w::PART_MAILBOX as u64;
                a.meet(|a| {
                    if a.fifo.is_none() && peek(a.mem(), at) != [0; 8] {
                        a.memory.change_once_read(at, &[0xff; 12]);
                    }
                });
                assert!(a.fifo.is_some(), "{:?}", a.victim.said);
            },
            Harmless("address and slots are read once"),
        ),
        case(
            "the memory table",
            PART_RULE,
            ALONE,
            |a| {
                let at = (w::MEMORY_TABLE + w::MEMORY_ENTRY_LEN) as u64;
                a.meet(|a| {
                    if a.fifo.is_none() && peek(a.mem(), PART) != [0; 4] {
                        poke(
                            a.mem(),
                            at,
                            &[0x5_0000_u64.to_le_bytes(), 0x1000_u64.to_le_bytes()].concat(),
                        );
                        poke(a.mem(), at + 16, &w::MEMORY_DRIVER.to_le_bytes());
                        a.memory.change_once_read(at, &[0xff; 20]);
                    }
                });
                assert!(a.fifo.is_some(), "{:?}", a.victim.said);
            },
            Harmless("each entry is read once"),
        ),
    ]
}

/// While another thread writes `octets[0]` and `octets[1]` at `at` in turn, sends frames as long as the
/// device takes them; all that come out are as negotiated.
fn race(a: &mut Attack, at: u64, octets: [&[u8]; 2]) {
    let (mem, stop) = (a.memory.attacker.clone(), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                octets.iter().for_each(|octets| poke(&mem, at, octets));
            }
        });
        for _ in 0..2000 {
            a.tx().send(&[(DATA, 112, 0)]);
            a.pass(MS);
            if a.victim.paths.is_empty() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let offloads = Offloads::to_device(a.victim.features);
    for frame in &a.victim.inbox {
        assert_eq!(check(frame, frame.len(), offloads), Ok(()), "{:02x?}", &frame[..12]);
    }
}

fn races() -> Vec<Case> {
    let raced = |name, breaks, setup, attack| case(name, breaks, setup, attack, Any);
    vec![
        raced("a header flips between good and bad", CHAIN, SPLIT, |a| {
            poke(a.mem(), DATA, &frame(1, 100));
            race(a, DATA, [&[0; 8], &[0xff; 8]]);
            assert!(!a.victim.paths.is_empty(), "{:?}", a.victim.said);
        }),
        raced("an offload flips between asked for and not", CHAIN, SPLIT, |a| {
            poke(a.mem(), DATA, &frame(1, 100));
            race(a, DATA, [&[1, 1, 54, 0, 100, 0, 34, 0], &[1, 3, 0xff, 0xff, 0, 0, 0xff, 0xff]]);
            assert!(!a.victim.paths.is_empty(), "{:?}", a.victim.said);
        }),
        raced("descriptors flip", CHAIN, SPLIT, |a| {
            let at = a.tx().config.desc + 16 * 8;
            let good = [DATA.to_le_bytes(), 112_u64.to_le_bytes()].concat();
            race(a, at, [&good, &[0xff; 16]]);
        }),
        raced("the available index flips", CHAIN, SPLIT, |a| {
            let at = a.tx().config.driver;
            race(a, at, [&[0, 0, 5, 0], &[0, 0, 0xff, 0xff]]);
        }),
        raced("packed descriptors flip", PACKED_CHAIN, PACKED, |a| {
            let at = a.tx().config.desc + 16 * 8;
            race(a, at, [&[0; 16], &[0xff; 16]]);
        }),
        raced("the mailbox's counts flip", SLOT_RULE, SPLIT, |a| {
            let count = a.word(DEVICE_MAILBOX).to_le_bytes();
            race(a, DEVICE_MAILBOX, [&count, &[0xff; 4]]);
        }),
    ]
}
