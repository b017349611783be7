//! What the device sends without being asked, and what it leaves unanswered; octets that are no message (virtio-msg).

use boardlane::spec::msg;
use boardlane::tunnel::message::{Body, Hello, Message, NetdevState};

use super::{MET, SPLIT};
use crate::attack::{Attack, MS, Stage};
use crate::case::Verdict::{Harmless, Quarantine};
use crate::case::{Case, case};

const MSG_SIZE: &str =
    "virtio-msg: msg_size is the message's whole size, at least 8 and at most the bus's";
const EXACT: &str = "virtio-msg: each message has the size that its fields take";
const ROLE: &str = "virtio-msg: a device answers requests and sends EVENT_CONFIG and EVENT_USED";
const TOKEN: &str = "virtio-msg: an answer has its request's token";
const ONE: &str = "virtio-msg: each request gets exactly one answer";
const EVENT: &str = "virtio-msg: an event tells of something that happened";

pub(crate) fn cases() -> Vec<Case> {
    [octets(), events(), manners(), floods()].into_iter().flatten().collect()
}

fn tell(a: &mut Attack, body: Body) {
    assert!(a.send_message(&Message { dev_num: 0, token: 0, body }));
    a.serve(20, &mut |_| {});
}

fn octets() -> Vec<Case> {
    let bad = |name, breaks, attack| case(name, breaks, SPLIT, attack, Quarantine("not a message"));
    fn put(a: &mut Attack, kind: u8, id: u8, size: u16) {
        let mut octets = [0; 264];
        octets[..2].copy_from_slice(&[kind, id]);
        octets[6..8].copy_from_slice(&size.to_le_bytes());
        assert!(a.send_octets(&octets));
    }
    vec![
        bad("an event of size 0", MSG_SIZE, |a| put(a, 0, msg::EVENT_USED, 0)),
        bad("an event of size 65535", MSG_SIZE, |a| put(a, 0, msg::EVENT_USED, 0xffff)),
        bad("a slot of zeros", MSG_SIZE, |a| assert!(a.send_octets(&[0; 264]))),
        bad("a slot of ones", MSG_SIZE, |a| assert!(a.send_octets(&[0xff; 264]))),
        bad("EVENT_USED with a byte more", EXACT, |a| put(a, 0, msg::EVENT_USED, 13)),
        bad("EVENT_CONFIG of more bytes than it has", EXACT, |a| {
            let mut octets = [0; 264];
            octets[..8].copy_from_slice(&[0, msg::EVENT_CONFIG, 0, 0, 0, 0, 28, 0]);
            octets[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        bad("an answer of 4,294,967,295 bytes of config space", EXACT, |a| {
            let mut octets = [0; 264];
            octets[..8].copy_from_slice(&[1, msg::GET_CONFIG, 0, 0, 0, 0, 24, 0]);
            octets[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        case(
            "an unknown event",
            "virtio-msg: a receiver discards what it does not know",
            SPLIT,
            |a| {
                put(a, 0, 0x7f, 8);
            },
            Harmless("it is counted and discarded"),
        ),
    ]
}

fn events() -> Vec<Case> {
    let harmless = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Harmless(why));
    let bad = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Quarantine(why));
    vec![
        bad(
            "EVENT_CONFIG with NEEDS_RESET",
            "2.1.2: NEEDS_RESET: the driver has to reset",
            |a| {
                tell(a, Body::EventConfig { status: 79, generation: 0, offset: 0, data: vec![] });
            },
            "needs a reset",
        ),
        bad(
            "EVENT_CONFIG with a status of all ones",
            "2.1: the status has one octet",
            |a| {
                tell(
                    a,
                    Body::EventConfig { status: u32::MAX, generation: 0, offset: 0, data: vec![] },
                );
            },
            "needs a reset",
        ),
        bad(
            "the device is removed",
            "virtio-msg: EVENT_DEVICE REMOVED ends a device",
            |a| {
                tell(a, Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED });
            },
            "device was removed",
        ),
        bad(
            "HELLO of another epoch",
            EVENT,
            |a| {
                let hello = Hello { epoch: 99, ..a.hello() };
                tell(a, Body::Hello(hello));
            },
            "the other end started anew",
        ),
        harmless(
            "EVENT_CONFIG with data far beyond config space",
            EVENT,
            |a| {
                tell(
                    a,
                    Body::EventConfig {
                        status: 15,
                        generation: 9,
                        offset: u32::MAX,
                        data: vec![0xff; 240],
                    },
                );
            },
            "the driver reads config space itself",
        ),
        harmless(
            "EVENT_USED of queues that there are not",
            EVENT,
            |a| {
                for index in [2, 77, 0xffff, 0x1_0000, u32::MAX] {
                    tell(a, Body::EventUsed { index });
                }
            },
            "it is counted and discarded",
        ),
        harmless(
            "EVENT_USED of what was not used",
            EVENT,
            |a| tell(a, Body::EventUsed { index: 0 }),
            "the driver looks at the ring",
        ),
        harmless(
            "another device is removed",
            EVENT,
            |a| {
                tell(a, Body::EventDevice { number: 1, state: msg::DEVICE_REMOVED });
                tell(a, Body::EventDevice { number: 0xffff, state: 0x8123 });
            },
            "the driver has none of them",
        ),
        harmless(
            "a driver's requests",
            ROLE,
            |a| {
                tell(a, Body::SetDeviceStatus { status: 0 });
                tell(a, Body::ResetVqueue { index: 0 });
                tell(a, Body::EventAvail { index: 0, next: 0 });
            },
            "a driver has no device to be asked for",
        ),
        harmless(
            "answers that nobody asked for",
            ROLE,
            |a| {
                for body in [
                    Body::VqueueReset,
                    Body::DeviceStatusSet { status: 0 },
                    Body::Config { generation: 1, offset: 0, data: vec![9; 200] },
                    Body::Pong { data: 7 },
                ] {
                    tell(a, body);
                }
            },
            "they belong to no request",
        ),
        harmless(
            "EVENT_LINK that makes no sense",
            EVENT,
            |a| {
                tell(a, Body::EventLink(NetdevState { mtu: 0, up: true, mac: [1; 6] }));
            },
            "values that make no sense are not taken",
        ),
        case(
            "a device's events before HELLO",
            ROLE,
            MET,
            |a| {
                for body in [
                    Body::EventConfig { status: 79, generation: 0, offset: 0, data: vec![] },
                    Body::EventUsed { index: 0 },
                    Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED },
                ] {
                    assert!(a.send_message(&Message { dev_num: 0, token: 0, body }));
                    a.pass(MS);
                }
            },
            Harmless("there is no device yet"),
        ),
    ]
}

fn manners() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, MET, attack, Quarantine(why));
    fn long(a: &mut Attack, alter: &mut dyn FnMut(&mut Message)) {
        (0..12).for_each(|_| a.serve(400, alter));
    }
    vec![
        bad(
            "no answer at all",
            ONE,
            |a| {
                for _ in 0..4000 {
                    a.pass(MS);
                    while a.take_octets().is_some() {}
                }
            },
            "HELLO not answered",
        ),
        bad(
            "answers with another token",
            TOKEN,
            |a| {
                long(a, &mut |m| m.token = m.token.wrapping_add(1));
            },
            "HELLO not answered",
        ),
        bad(
            "answers of another device",
            "virtio-msg: an answer has its request's dev_num",
            |a| {
                long(a, &mut |m| {
                    if !matches!(m.body, Body::HelloBack(_)) {
                        m.dev_num = 3;
                    }
                });
            },
            "GET_DEVICE_INFO not answered",
        ),
        bad(
            "every answer is the device's status",
            ONE,
            |a| {
                long(a, &mut |m| {
                    if !matches!(m.body, Body::HelloBack(_)) {
                        m.body = Body::DeviceStatus { status: 15 };
                    }
                });
            },
            "GET_DEVICE_INFO not answered",
        ),
        case(
            "every answer comes twice",
            ONE,
            SPLIT.stage(Stage::Met),
            |a| {
                let mut again = Vec::new();
                for _ in 0..200 {
                    a.serve(1, &mut |m| again.push(m.clone()));
                    for message in again.drain(..) {
                        a.send_message(&message);
                    }
                }
            },
            Harmless("the second belongs to no request"),
        ),
    ]
}

fn floods() -> Vec<Case> {
    fn flood(a: &mut Attack, body: &Body) {
        for token in 0..2000 {
            let _ = a.send_message(&Message { dev_num: 0, token, body: body.clone() });
            if token % 8 == 0 {
                a.serve(1, &mut |_| {});
            }
        }
        assert!(a.victim.said.len() < 8, "{:?}", a.victim.said);
    }
    let harmless = |name, attack| {
        case(name, EVENT, SPLIT, attack, Harmless("the latest counts, in turns with a bound"))
    };
    vec![
        harmless("EVENT_CONFIG without end", |a| {
            flood(a, &Body::EventConfig { status: 15, generation: 1, offset: 0, data: vec![] });
        }),
        harmless("EVENT_USED without end", |a| flood(a, &Body::EventUsed { index: 0 })),
        harmless("PING without end", |a| flood(a, &Body::Ping { data: 1 })),
    ]
}
