//! Messages that are none, that nobody asked for, or that ask for too much (virtio-msg).

use boardlane::link::State;
use boardlane::spec::msg;
use boardlane::tunnel::message::{Body, Dialect, Hello, Message, NetdevState};

use super::{MET, SPLIT};
use crate::attack::{Attack, MS, Setup, Stage};
use crate::case::Verdict::{Harmless, Quarantine, Refused};
use crate::case::{Case, case};

const MSG_SIZE: &str =
    "virtio-msg: msg_size is the message's whole size, at least 8 and at most the bus's";
const EXACT: &str = "virtio-msg: each message has the size that its fields take";
const TYPES: &str = "virtio-msg: a receiver discards what it does not know";
const ROLE: &str = "virtio-msg: a driver sends requests and EVENT_AVAIL";
const DEV_NUM: &str = "virtio-msg: bus messages MUST carry dev_num 0";
const NUMBERS: &str = "virtio-msg: dev_num is one of GET_DEVICES";
const RANGE: &str = "virtio-msg: offset and length lie in config space";
const READ_ONLY: &str = "5.1.4: config space is read-only for the driver";
const FIT: &str = "the window's HELLO: layout, revision and sizes are those of both ends";

/// In the other dialect.
const V1: Setup = Setup { dialect: Dialect::V1, ..MET };

pub(crate) fn cases() -> Vec<Case> {
    [octets(), strangers(), requests(), hellos(), floods()].into_iter().flatten().collect()
}

/// The header of a message, and zeros behind it.
fn header(kind: u8, id: u8, dev_num: u16, size: u16) -> [u8; 264] {
    let mut octets = [0; 264];
    octets[..2].copy_from_slice(&[kind, id]);
    octets[2..4].copy_from_slice(&dev_num.to_le_bytes());
    octets[6..8].copy_from_slice(&size.to_le_bytes());
    octets
}

fn octets() -> Vec<Case> {
    const NONE: &str = "not a message";
    let bad = |name, breaks, attack| case(name, breaks, SPLIT, attack, Quarantine(NONE));
    fn put(a: &mut Attack, kind: u8, id: u8, dev_num: u16, size: u16) {
        assert!(a.send_octets(&header(kind, id, dev_num, size)));
    }
    vec![
        bad("a message of size 0", MSG_SIZE, |a| put(a, 0, msg::GET_DEVICE_INFO, 0, 0)),
        bad("a message of size 7", MSG_SIZE, |a| put(a, 0, msg::GET_DEVICE_INFO, 0, 7)),
        bad("a message of size 265", MSG_SIZE, |a| put(a, 0, msg::GET_DEVICE_INFO, 0, 265)),
        bad("a message of size 65535", MSG_SIZE, |a| put(a, 0, msg::SET_VQUEUE, 0, 0xffff)),
        bad("a slot of zeros", MSG_SIZE, |a| assert!(a.send_octets(&[0; 264]))),
        bad("a slot of ones", MSG_SIZE, |a| assert!(a.send_octets(&[0xff; 264]))),
        bad("GET_DEVICE_INFO with a byte more", EXACT, |a| put(a, 0, msg::GET_DEVICE_INFO, 0, 9)),
        bad("SET_DEVICE_STATUS without a status", EXACT, |a| {
            put(a, 0, msg::SET_DEVICE_STATUS, 0, 8)
        }),
        bad("SET_VQUEUE less its last address", EXACT, |a| put(a, 0, msg::SET_VQUEUE, 0, 40)),
        bad("SET_DRIVER_FEATURES of more blocks than it has", EXACT, |a| {
            let mut octets = header(0, msg::SET_DRIVER_FEATURES, 0, 20);
            octets[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        bad("GET_CONFIG of 4 GiB", RANGE, |a| {
            let mut octets = header(0, msg::GET_CONFIG, 0, 16);
            octets[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        bad("GET_DEVICE_FEATURES of 4,294,967,295 blocks", EXACT, |a| {
            let mut octets = header(0, msg::GET_DEVICE_FEATURES, 0, 16);
            octets[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        bad("SET_CONFIG of more bytes than it has", EXACT, |a| {
            let mut octets = header(0, msg::SET_CONFIG, 0, 24);
            octets[16..20].copy_from_slice(&200_u32.to_le_bytes());
            assert!(a.send_octets(&octets));
        }),
        bad("PING for device 7", DEV_NUM, |a| put(a, msg::TYPE_BUS, msg::BUS_PING, 7, 12)),
        bad("HELLO cut short", EXACT, |a| put(a, msg::TYPE_BUS, msg::BUS_HELLO, 0, 40)),
    ]
}

fn strangers() -> Vec<Case> {
    let ignored = |name, breaks, attack, why| case(name, breaks, SPLIT, attack, Harmless(why));
    fn tell(a: &mut Attack, dev_num: u16, body: Body) {
        assert!(a.send_message(&Message { dev_num, token: 77, body }));
        a.settle();
    }
    fn unanswered(a: &mut Attack) {
        a.hear();
        assert!(a.heard.iter().all(|m| m.token != 77), "{:?}", a.heard);
    }
    vec![
        ignored(
            "an unknown request",
            TYPES,
            |a| {
                assert!(a.send_octets(&header(0, 0x3f, 0, 8)));
            },
            "it is counted and discarded",
        ),
        ignored(
            "an unknown message of the bus",
            TYPES,
            |a| {
                assert!(a.send_octets(&header(msg::TYPE_BUS, 0x3f, 0, 8)));
            },
            "it is counted and discarded",
        ),
        ignored(
            "reserved bits of the type",
            "virtio-msg: bits 2 to 7 of type are sent as 0",
            |a| {
                assert!(a.send_octets(&header(0xfc, msg::GET_DEVICE_STATUS, 0, 8)));
            },
            "they are ignored",
        ),
        ignored(
            "device 1",
            NUMBERS,
            |a| {
                tell(a, 1, Body::SetDeviceStatus { status: 0 });
                unanswered(a);
            },
            "there is none, so nothing is done",
        ),
        ignored(
            "device 65535",
            NUMBERS,
            |a| {
                tell(a, 0xffff, Body::ResetVqueue { index: 0 });
                unanswered(a);
            },
            "there is none, so nothing is done",
        ),
        ignored(
            "an answer that nobody asked for",
            ROLE,
            |a| {
                tell(a, 0, Body::DeviceStatusSet { status: 0 });
                unanswered(a);
            },
            "it is counted and discarded",
        ),
        ignored(
            "a PING's answer that nobody asked for",
            ROLE,
            |a| {
                tell(a, 0, Body::Pong { data: 9 });
                unanswered(a);
            },
            "it is counted and discarded",
        ),
        ignored(
            "a device's event",
            ROLE,
            |a| {
                tell(a, 0, Body::EventUsed { index: 0 });
                tell(
                    a,
                    0,
                    Body::EventConfig { status: 64, generation: 9, offset: 0, data: vec![9; 17] },
                );
                tell(a, 0, Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED });
                unanswered(a);
            },
            "it is counted and discarded",
        ),
        ignored(
            "EVENT_AVAIL of a queue that there is not",
            ROLE,
            |a| {
                for index in [3, 0xffff, 0x1_0000, u32::MAX] {
                    tell(a, 0, Body::EventAvail { index, next: 0 });
                }
            },
            "it is counted and discarded",
        ),
        ignored(
            "EVENT_AVAIL with a place",
            "virtio-msg: next_offset is 0 without NOTIFICATION_DATA",
            |a| {
                tell(a, 0, Body::EventAvail { index: 1, next: u32::MAX });
            },
            "the device looks at the ring",
        ),
        ignored(
            "EVENT_LINK that makes no sense",
            "the window's EVENT_LINK: MTU 68 to 65521, a unicast address",
            |a| {
                tell(a, 0, Body::EventLink(NetdevState { mtu: 0, up: true, mac: [0xff; 6] }));
                tell(a, 0, Body::EventLink(NetdevState { mtu: 0xffff, up: true, mac: [0; 6] }));
            },
            "values that make no sense are not taken",
        ),
    ]
}

fn requests() -> Vec<Case> {
    let harmless =
        |name, breaks, attack| case(name, breaks, SPLIT, attack, Harmless("it reads as zero"));
    fn written(a: &mut Attack, generation: u32, offset: u32, data: Vec<u8>) {
        let answer = a.ask(Body::SetConfig { generation, offset, data });
        a.refuse(matches!(answer, Some(Body::ConfigSet { data, .. }) if data.is_empty()));
    }
    vec![
        harmless("GET_CONFIG beyond the end", RANGE, |a| {
            for offset in [17, 1000, u32::MAX - 3, u32::MAX] {
                let Some(Body::Config { data, .. }) =
                    a.ask(Body::GetConfig { offset, length: 244 })
                else {
                    panic!("no answer")
                };
                assert!(data.len() == 244 && data.iter().all(|octet| *octet == 0));
            }
        }),
        harmless(
            "GET_DEVICE_FEATURES beyond the end",
            "virtio-msg: blocks below num_feature_blocks",
            |a| {
                for index in [4, 1 << 20, u32::MAX] {
                    let Some(Body::DeviceFeatures(blocks)) =
                        a.ask(Body::GetDeviceFeatures { index, count: 62 })
                    else {
                        panic!("no answer")
                    };
                    assert!(blocks.blocks.iter().all(|block| *block == 0));
                }
            },
        ),
        harmless(
            "GET_VQUEUE of a queue that there is not",
            "virtio-msg: index below max_virtqueues",
            |a| {
                for index in [3, 0xffff, 0x1_0000, u32::MAX] {
                    let Some(Body::Vqueue(queue)) = a.ask(Body::GetVqueue { index }) else {
                        panic!("no answer")
                    };
                    assert_eq!((queue.max_size, queue.flags, queue.desc), (0, 0, 0));
                }
            },
        ),
        harmless(
            "GET_SHM of what there is not",
            "virtio-msg: shmid is one that the device has",
            |a| {
                assert_eq!(
                    a.ask(Body::GetShm { id: 9 }),
                    Some(Body::Shm { id: 9, length: 0, address: 0 })
                );
            },
        ),
        case("SET_CONFIG", READ_ONLY, SPLIT, |a| written(a, 0, 0, vec![9; 17]), Refused),
        case(
            "SET_CONFIG beyond the end",
            RANGE,
            SPLIT,
            |a| {
                written(a, 0, 17, vec![9; 200]);
                written(a, 0, u32::MAX, vec![9; 244]);
            },
            Refused,
        ),
        case(
            "SET_CONFIG with another generation, v1",
            "virtio-msg (v1): a stale generation is refused",
            V1,
            |a| {
                written(a, 0xdead_beef, 0, vec![9; 6]);
            },
            Refused,
        ),
        case(
            "GET_DEVICES of 65,535 devices",
            "virtio-msg: count is what the answer can hold",
            SPLIT,
            |a| {
                let answer = a.ask(Body::GetDevices { offset: 0xffff, count: 0xffff });
                a.refuse(matches!(answer, Some(Body::Devices { next_offset: 0, bitmap, .. })
                if bitmap.iter().all(|octet| *octet == 0)));
            },
            Refused,
        ),
    ]
}

fn hellos() -> Vec<Case> {
    let bad = |name, attack, why| case(name, FIT, MET, attack, Quarantine(why));
    fn greet(a: &mut Attack, change: impl Fn(&mut Hello)) {
        let mut hello = a.hello();
        change(&mut hello);
        a.send(Body::Hello(hello));
    }
    vec![
        bad(
            "HELLO of another layout",
            |a| greet(a, |h| h.layout = 2),
            "window layout 2 at the other end",
        ),
        bad(
            "HELLO of another revision",
            |a| greet(a, |h| h.revision = 9),
            "revision 9 at the other end",
        ),
        bad(
            "HELLO with messages of 8 bytes",
            |a| greet(a, |h| h.max_len = 8),
            "greatest message 8",
        ),
        bad(
            "HELLO with messages of no bytes",
            |a| greet(a, |h| h.max_len = 0),
            "greatest message 0",
        ),
        case("HELLO with messages of 4 GiB", FIT, MET, |a| greet(a, |h| h.max_len = u32::MAX), {
            Harmless("the smaller size counts")
        }),
        case(
            "HELLO with transport features of all kinds",
            FIT,
            MET,
            |a| {
                greet(a, |h| h.transport_features = u64::MAX);
            },
            Harmless("both ends' intersection counts, and ours is empty"),
        ),
        case(
            "HELLO in the middle, of another epoch",
            FIT,
            SPLIT,
            |a| {
                greet(a, |h| h.epoch = 9);
            },
            Harmless("the header says whose session it is"),
        ),
    ]
}

fn floods() -> Vec<Case> {
    fn flood(a: &mut Attack, body: &Body) {
        for token in 0..2000 {
            let _ = a.send_message(&Message { dev_num: 0, token, body: body.clone() });
            a.pass(MS / 10);
            while a.take_octets().is_some() {}
        }
        assert!(a.victim.said.len() < 8, "{:?}", a.victim.said);
    }
    let harmless = |name, attack| {
        let breaks = "virtio-msg: a driver has few requests outstanding";
        case(name, breaks, SPLIT, attack, Harmless("each is answered, in turns with a bound"))
    };
    vec![
        harmless("PING without end", |a| flood(a, &Body::Ping { data: 1 })),
        harmless("EVENT_AVAIL without end", |a| flood(a, &Body::EventAvail { index: 1, next: 0 })),
        harmless("GET_DEVICE_STATUS without end", |a| flood(a, &Body::GetDeviceStatus)),
        harmless("EVENT_LINK without end", |a| {
            flood(a, &Body::EventLink(NetdevState { mtu: 1500, up: true, mac: [2; 6] }));
        }),
        case(
            "answers that nobody takes",
            "the window's FIFO: an end takes what is in its inbox",
            MET.stage(Stage::Running),
            |a| {
                for token in 0..400 {
                    let body = Body::GetDeviceInfo;
                    let _ = a.send_message(&Message { dev_num: 0, token, body });
                    a.pass(MS);
                }
                assert_eq!(a.victim.last().0, State::Waiting, "nothing was said");
                while a.take_octets().is_some() {
                    a.pass(MS);
                }
            },
            Harmless("requests wait then"),
        ),
    ]
}
