//! The control queue's commands (virtio 1.4 §5.1.9.5).

use boardlane::net::features::Features;
use boardlane::spec::net;
use boardlane::tunnel::message::Body;

use super::SPLIT;
use crate::attack::{Attack, DATA, MS, Setup, frame};
use crate::case::Verdict::{Harmless, NeedsReset, Refused};
use crate::case::{Case, case};
use crate::rings::{NEXT, WRITE, peek, poke};

const COMMAND: &str = "5.1.9.5: a command has a class, a command of it, and its data";
const ACK: &str = "5.1.9.5: ack is the device's to write, in one byte";
const PAIRS: &str =
    "5.1.9.5.6.1: the driver MUST NOT ask for 0 pairs or more than max_virtqueue_pairs";
const SET_UP: &str = "5.1.9.5.6.1: the driver MUST configure the virtqueues before it enables them";
const FEATURE: &str = "5.1.9.5: a command is used only if its feature was negotiated";
const TABLE: &str = "5.1.9.5.2: entries is the number of addresses that follow";
const ADDRESS: &str = "5.1.9.5.2: the address is a unicast one";
const OFFLOADS: &str = "5.1.9.5.9.2: the driver MUST NOT enable an offload that was not negotiated";
const ON: &str = "5.1.9.5.1: the mode is 0 or 1";
const DIRECTION: &str =
    "2.7.4.2: the driver MUST place device-writable elements after readable ones";

/// Two pairs, of which the driver has set up as many.
const TWO: Setup =
    Setup { features: SPLIT.features.union(Features::of(&[net::F_MQ])), pairs: 2, ..SPLIT };

/// That the device says ERR to a command.
fn refused(a: &mut Attack, octets: &[u8]) {
    let answer = a.command(octets);
    assert!(answer.is_some(), "an answer to {octets:?}");
    a.refuse(answer == Some(net::ctrl::ERR));
}

pub(crate) fn cases() -> Vec<Case> {
    [unknown(), wrong(), pairs(), chains()].into_iter().flatten().collect()
}

fn unknown() -> Vec<Case> {
    let bad = |name, breaks, attack| case(name, breaks, SPLIT, attack, Refused);
    vec![
        bad("class 255", COMMAND, |a| refused(a, &[255, 0, 1])),
        bad("command 255 of class RX", COMMAND, |a| refused(a, &[0, 255, 1])),
        bad("half a command", COMMAND, |a| refused(a, &[0])),
        bad("a command without its data", COMMAND, |a| refused(a, &[0, 0])),
        bad("a command with more data than it has", COMMAND, |a| refused(a, &[0, 0, 1, 1])),
        bad("a command of 9,000 bytes", COMMAND, |a| refused(a, &[0; 9000])),
        bad("RSS_CONFIG", FEATURE, |a| refused(a, &[4, 1, 0, 0, 0, 0])),
        bad("VQ_PAIRS_SET without MQ", FEATURE, |a| refused(a, &[4, 0, 1, 0])),
        bad("a statistics query", FEATURE, |a| refused(a, &[8, 0, 0, 0, 0, 0])),
        case(
            "ALLMULTI without CTRL_RX",
            FEATURE,
            SPLIT.without(&[net::F_CTRL_RX]),
            |a| {
                refused(a, &[0, 1, 1]);
            },
            Refused,
        ),
        case(
            "VLAN without CTRL_VLAN",
            FEATURE,
            SPLIT.without(&[net::F_CTRL_VLAN]),
            |a| {
                refused(a, &[2, 0, 1, 0]);
            },
            Refused,
        ),
    ]
}

fn wrong() -> Vec<Case> {
    let bad = |name, breaks, attack| case(name, breaks, SPLIT, attack, Refused);
    vec![
        bad("promiscuous mode 2", ON, |a| refused(a, &[0, 0, 2])),
        bad("a table of 4,294,967,295 addresses", TABLE, |a| {
            refused(a, &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        }),
        bad("a table of more addresses than follow", TABLE, |a| {
            refused(a, &[1, 0, 2, 0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0]);
        }),
        bad("a table with no list of multicast addresses", TABLE, |a| {
            refused(a, &[1, 0, 0, 0, 0, 0])
        }),
        bad("a table with bytes behind it", TABLE, |a| {
            refused(a, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9])
        }),
        bad("a multicast address as its own", ADDRESS, |a| refused(a, &[1, 1, 1, 0, 0, 0, 0, 1])),
        bad("no address as its own", ADDRESS, |a| refused(a, &[1, 1, 0, 0, 0, 0, 0, 0])),
        bad("half an address as its own", ADDRESS, |a| refused(a, &[1, 1, 2, 0, 0])),
        bad("VLAN 4096", "5.1.9.5.3: a VLAN id has 12 bits", |a| refused(a, &[2, 0, 0, 0x10])),
        bad("an offload that was not negotiated", OFFLOADS, |a| {
            refused(a, &[5, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
        }),
        bad("all offloads", OFFLOADS, |a| {
            refused(a, &[5, 0, 255, 255, 255, 255, 255, 255, 255, 255])
        }),
        bad("coalescing without a time", COMMAND, |a| refused(a, &[6, 0, 1, 0, 0, 0])),
        bad("an announcement with data", COMMAND, |a| refused(a, &[3, 0, 1])),
    ]
}

fn pairs() -> Vec<Case> {
    let bad = |name, breaks, attack| case(name, breaks, TWO, attack, Refused);
    vec![
        bad("no pairs", PAIRS, |a| refused(a, &[4, 0, 0, 0])),
        bad("more pairs than there are", PAIRS, |a| refused(a, &[4, 0, 3, 0])),
        bad("32,769 pairs", PAIRS, |a| refused(a, &[4, 0, 1, 0x80])),
        bad("65,535 pairs", PAIRS, |a| refused(a, &[4, 0, 0xff, 0xff])),
        bad("a pair whose transmitq was never set up", SET_UP, |a| {
            run_without(a, &[3]);
            refused(a, &[4, 0, 2, 0]);
        }),
        bad("a pair whose receiveq was never set up", SET_UP, |a| {
            run_without(a, &[2]);
            refused(a, &[4, 0, 2, 0]);
        }),
        bad("a pair that was never set up", SET_UP, |a| {
            run_without(a, &[2, 3]);
            refused(a, &[4, 0, 2, 0]);
        }),
        case(
            "half a pair is reset",
            SET_UP,
            TWO,
            |a| {
                run_without(a, &[3]);
                let reset = Body::ResetVqueue { index: 2 };
                assert!(a.ask(reset).is_some());
                assert!(!a.is_enabled(2));
            },
            Harmless("nobody uses it"),
        ),
        case(
            "half a pair becomes a whole one while others run",
            SET_UP,
            TWO,
            |a| {
                run_without(a, &[3]);
                let late = Attack::enable(&a.rings[3].clone(), 3);
                a.ask(late);
                let answer = a.command(&[4, 0, 2, 0]);
                assert_eq!(answer, Some(net::ctrl::OK));
                let sent = frame(4, 100);
                poke(a.mem(), DATA, &sent);
                a.rings[3].send(&[(DATA, 112, 0)]);
                a.settle();
                assert_eq!(a.victim.inbox, [sent]);
            },
            Harmless("RING_RESET lets a driver set queues up at any time"),
        ),
    ]
}

/// Sets everything up but these queues.
fn run_without(a: &mut Attack, left_out: &[u32]) {
    a.negotiate();
    for (index, ring) in (0..).zip(a.rings.clone()) {
        if !left_out.contains(&index) {
            a.ask(Attack::enable(&ring, index));
        }
    }
    assert_eq!(a.set_status(15), 15);
    a.settle();
    assert!(a.victim.paths.contains_key(&0), "{:?}", a.victim.said);
    a.victim.said.clear();
}

fn chains() -> Vec<Case> {
    vec![
        case(
            "an answer before the command",
            DIRECTION,
            SPLIT,
            |a| {
                a.ctrl().send(&[(DATA, 1, WRITE), (DATA + 16, 3, 0)]);
            },
            NeedsReset("controlq: chain"),
        ),
        case(
            "no room for an answer",
            ACK,
            SPLIT,
            |a| {
                poke(a.mem(), DATA, &[0, 0, 1]);
                a.ctrl().send(&[(DATA, 3, 0)]);
                a.settle();
                assert_eq!(a.ctrl().used_by_device(), 1);
            },
            Harmless("it is used, with nothing written"),
        ),
        case(
            "room for an answer and no command",
            COMMAND,
            SPLIT,
            |a| {
                poke(a.mem(), DATA, &[0xee]);
                a.ctrl().send(&[(DATA, 1, WRITE)]);
                a.settle();
                let [answer] = peek(a.mem(), DATA);
                a.refuse(answer == net::ctrl::ERR);
            },
            Refused,
        ),
        case(
            "the answer over the command",
            ACK,
            SPLIT,
            |a| {
                poke(a.mem(), DATA, &[0, 0, 1]);
                a.ctrl().send(&[(DATA, 3, 0), (DATA, 3, WRITE)]);
                a.settle();
                let octets: [u8; 3] = peek(a.mem(), DATA);
                assert_eq!(octets, [net::ctrl::OK, 0, 1]);
            },
            Harmless("the command is read before the answer is written"),
        ),
        case(
            "a command that loops",
            "2.7.5.3.1: no chain longer than the Queue Size",
            SPLIT,
            |a| {
                a.ctrl().write(0, DATA, 1, [NEXT, 0]);
                a.ctrl().offer(0);
            },
            NeedsReset("controlq: chain 0 loops"),
        ),
        case(
            "a command in 63 pieces, some of no bytes",
            "2.7.13.1: an element has bytes",
            SPLIT,
            |a| {
                let mut pieces: Vec<_> =
                    (0..62).map(|i| (DATA + i, u32::from(i % 9 > 0), 0)).collect();
                pieces.push((DATA + 99, 1, WRITE));
                a.ctrl().send(&pieces);
            },
            NeedsReset("controlq: chain"),
        ),
        case(
            "commands without end",
            "5.1.9.5: the driver waits for an answer",
            SPLIT,
            |a| {
                poke(a.mem(), DATA, &[0, 0, 1]);
                for _ in 0..200 {
                    a.ctrl().send(&[(DATA, 3, 0), (DATA + 16, 1, WRITE)]);
                    a.pass(MS);
                }
                a.settle();
                assert_eq!(a.ctrl().used_by_device(), 200);
            },
            Harmless("each is answered"),
        ),
    ]
}
