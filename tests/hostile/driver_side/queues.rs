//! Features, status, and the set-up of queues (virtio 1.4 §2.1, §2.2, §2.6, §3.1).

use crate::rings::{Ring, WRITE, poke};
use boardlane::link::State;
use boardlane::net::features::Features;
use boardlane::spec::{msg, net, virtio};
use boardlane::tunnel::message::{Blocks, Body};
use boardlane::virtqueue::QueueConfig;

use super::{MET, SPLIT};
use crate::attack::{Attack, DATA, MS, Setup, Stage, frame};
use crate::case::Verdict::{Harmless, NeedsReset, Quarantine, Refused, Stopped};
use crate::case::{Case, case};
use crate::ground::SLOT;

const SUBSET: &str = "2.2.1: the driver MUST NOT accept a feature that the device did not offer";
const NEEDS: &str = "2.2.1: the driver MUST NOT accept a feature without the one it requires";
const MODERN: &str = "6.1: a driver MUST accept VERSION_1 if it is offered";
const AFTER: &str = "3.1.1: the driver MUST NOT accept new features after FEATURES_OK";
const ORDER: &str = "3.1.1: the driver MUST follow this sequence to initialize a device";
const CLEAR: &str = "2.1.1: the driver MUST NOT clear a status bit";
const BITS: &str = "2.1: the status has these bits; NEEDS_RESET is the device's";
const QSIZE: &str = "2.7: Queue Size is a power of 2, at most 32768, and not above the device's";
const ALIGN: &str = "2.7.1: areas are aligned to 16, 2 and 4 bytes";
const ENABLED: &str = "virtio-msg SET_VQUEUE: an enabled queue changes by RESET_VQUEUE only";
const MSG_FLAGS: &str = "virtio-msg SET_VQUEUE: reserved bits MUST be 0";
const PLACE: &str = "2.7.1: areas are memory that the device may reach";

/// The ends have met, and features are accepted; no queue is set up.
const READY: Setup = SPLIT.stage(Stage::Ready);

pub(crate) fn cases() -> Vec<Case> {
    [features(), status(), set_up(), places(), resets()].into_iter().flatten().collect()
}

/// Whether these features are refused.
fn accept(a: &mut Attack, features: Features) {
    a.set_status(0);
    a.set_status(3);
    a.set_features(features);
    let status = a.set_status(11);
    a.refuse(status == 3);
}

fn features() -> Vec<Case> {
    let refused = |name, breaks, attack| case(name, breaks, MET, attack, Refused);
    vec![
        refused("a feature that was not offered", SUBSET, |a| {
            let ufo = Features::of(&[10]);
            accept(a, SPLIT.features.union(ufo));
        }),
        refused("all features", SUBSET, |a| accept(a, Features::from_bits(u128::MAX))),
        refused("NOTIFICATION_DATA", SUBSET, |a| {
            accept(a, SPLIT.features.union(Features::of(&[virtio::F_NOTIFICATION_DATA])));
        }),
        refused("a feature beyond bit 127", SUBSET, |a| {
            a.set_status(3);
            a.ask(Body::SetDriverFeatures(Blocks { index: 4, blocks: vec![1] }));
            a.set_features(SPLIT.features);
            let status = a.set_status(11);
            a.refuse(status == 3);
        }),
        refused("a feature in the last block that can be named", SUBSET, |a| {
            a.set_status(3);
            a.ask(Body::SetDriverFeatures(Blocks { index: u32::MAX, blocks: vec![1, 1] }));
            a.set_features(SPLIT.features);
            let status = a.set_status(11);
            a.refuse(status == 3);
        }),
        refused("no features at all", MODERN, |a| accept(a, Features::NONE)),
        refused("all but VERSION_1", MODERN, |a| {
            accept(a, SPLIT.without(&[virtio::F_VERSION_1]).features);
        }),
        refused("HOST_TSO4 without CSUM", NEEDS, |a| {
            accept(a, SPLIT.without(&[net::F_CSUM]).features)
        }),
        refused("GUEST_TSO4 without GUEST_CSUM", NEEDS, |a| {
            accept(a, SPLIT.without(&[net::F_GUEST_CSUM]).features);
        }),
        refused("CTRL_RX without CTRL_VQ", NEEDS, |a| {
            accept(a, SPLIT.without(&[net::F_CTRL_VQ]).features)
        }),
        case(
            "features change after FEATURES_OK",
            AFTER,
            READY,
            |a| {
                a.set_features(Features::NONE);
                a.set_features(Features::from_bits(u128::MAX));
                let status = a.status();
                a.refuse(status == 11);
            },
            Refused,
        ),
        case(
            "features change while the queues run",
            AFTER,
            SPLIT,
            |a| {
                a.set_features(Features::NONE);
                let status = a.status();
                a.refuse(status == 15);
            },
            Refused,
        ),
    ]
}

fn status() -> Vec<Case> {
    let refused = |name, breaks, setup, attack| case(name, breaks, setup, attack, Refused);
    vec![
        refused("FEATURES_OK before DRIVER", ORDER, MET, |a| {
            a.set_features(SPLIT.features);
            let status = a.set_status(8);
            a.refuse(status == 0);
        }),
        refused("DRIVER_OK without FEATURES_OK", ORDER, MET, |a| {
            a.set_features(SPLIT.features);
            let status = a.set_status(7);
            a.refuse(status == 3 && a.victim.paths.is_empty());
        }),
        refused("DRIVER_OK first of all", ORDER, MET, |a| {
            let status = a.set_status(4);
            a.refuse(status == 0 && a.victim.paths.is_empty());
        }),
        case(
            "DRIVER_OK without a queue",
            ORDER,
            READY,
            |a| {
                a.send(Body::SetDeviceStatus { status: 15 });
            },
            Quarantine("DRIVER_OK without queue 0"),
        ),
        case(
            "DRIVER_OK without the transmitq",
            ORDER,
            READY,
            |a| {
                let body = Attack::enable(&a.rings[0].clone(), 0);
                a.ask(body);
                a.send(Body::SetDeviceStatus { status: 15 });
            },
            Quarantine("DRIVER_OK without queue 1"),
        ),
        refused("a status bit is taken back", CLEAR, SPLIT, |a| {
            let status = a.set_status(3);
            a.refuse(status == 15);
        }),
        refused("the driver sets NEEDS_RESET", BITS, SPLIT, |a| {
            let status = a.set_status(64 | 15);
            a.refuse(status == 15);
        }),
        refused("undefined status bits", BITS, SPLIT, |a| {
            let status = a.set_status(0x30 | 15);
            a.refuse(status == 15);
        }),
        refused("status bits beyond the first octet", BITS, SPLIT, |a| {
            let status = a.set_status(0xffff_ff00);
            a.refuse(status == 15);
        }),
        case(
            "FAILED, and on",
            "2.1.1: a driver that sets FAILED MUST reset",
            SPLIT,
            |a| {
                assert_eq!(a.set_status(128 | 15), 128 | 15);
            },
            Harmless("it says something of the driver"),
        ),
    ]
}

/// Whether a queue is not enabled by this.
fn set(a: &mut Attack, change: impl Fn(&mut Body)) {
    let mut body = Attack::enable(&a.rings[0].clone(), 0);
    change(&mut body);
    assert_eq!(a.ask(body), Some(Body::VqueueSet));
    let refused = !a.is_enabled(0);
    a.refuse(refused);
}

macro_rules! set_vqueue {
    ($a:ident, $($field:ident: $value:expr),+) => {
        set($a, |body| {
            if let Body::SetVqueue { $($field,)+ .. } = body {
                $(*$field = $value;)+
            }
        })
    };
}

fn set_up() -> Vec<Case> {
    let refused = |name, breaks, attack| case(name, breaks, READY, attack, Refused);
    vec![
        refused("queue size 0", QSIZE, |a| set_vqueue!(a, size: 0)),
        refused("queue size 3", QSIZE, |a| set_vqueue!(a, size: 3)),
        refused("queue size above the device's", QSIZE, |a| set_vqueue!(a, size: 512)),
        refused("queue size 65536", QSIZE, |a| set_vqueue!(a, size: 65536)),
        refused("queue size 2^31", QSIZE, |a| set_vqueue!(a, size: 1 << 31)),
        refused("a descriptor area at a multiple of 8", ALIGN, |a| set_vqueue!(a, desc: 0x4008)),
        refused("a driver area at an odd address", ALIGN, |a| set_vqueue!(a, driver: 0x4801)),
        refused("a device area at a multiple of 2", ALIGN, |a| set_vqueue!(a, device: 0x5002)),
        refused("a descriptor area at 0", PLACE, |a| set_vqueue!(a, desc: 0)),
        refused("all areas at 0", PLACE, |a| set_vqueue!(a, desc: 0, driver: 0, device: 0)),
        refused("a descriptor area over the end of the address space", PLACE, |a| {
            set_vqueue!(a, desc: u64::MAX - 15);
        }),
        refused("a device area over the end of the address space", PLACE, |a| {
            set_vqueue!(a, device: u64::MAX - 3);
        }),
        refused("state 3", MSG_FLAGS, |a| set_vqueue!(a, flags: 3)),
        refused(
            "reserved flags",
            MSG_FLAGS,
            |a| set_vqueue!(a, flags: 0xffff_ff00 | msg::VQ_ENABLE),
        ),
        refused("a reserved word that is not 0", MSG_FLAGS, |a| set_vqueue!(a, reserved: 1)),
        refused("enabled with nothing set", "virtio-msg SET_VQUEUE: values come first", |a| {
            let ignore = msg::VQ_IGNORE_SIZE
                | msg::VQ_IGNORE_DESC
                | msg::VQ_IGNORE_DRIVER
                | msg::VQ_IGNORE_DEVICE;
            set_vqueue!(a, flags: ignore | msg::VQ_ENABLE);
        }),
        refused(
            "a queue that there is not",
            "virtio-msg: the index is below max_virtqueues",
            |a| {
                for index in [3, 0xffff, 0x1_0000, u32::MAX] {
                    let body = Attack::enable(&a.rings[0].clone(), index);
                    a.ask(body);
                    let enabled = a.is_enabled(index);
                    a.refuse(!enabled);
                }
            },
        ),
        case(
            "a queue before FEATURES_OK",
            ORDER,
            MET,
            |a| {
                a.negotiate();
                let ring = a.rings[0].clone();
                a.set_status(0);
                a.set_status(3);
                a.ask(Attack::enable(&ring, 0));
                let enabled = a.is_enabled(0);
                a.refuse(!enabled);
            },
            Refused,
        ),
        case(
            "an enabled queue moves",
            ENABLED,
            SPLIT,
            |a| {
                let ring = a.rings[1].clone();
                let mut moved = Attack::enable(&ring, 0);
                a.ask(moved.clone());
                if let Body::SetVqueue { size, .. } = &mut moved {
                    *size = 32;
                }
                a.ask(moved);
                let is = a.ask(Body::GetVqueue { index: 0 });
                let desc = a.rings[0].config.desc;
                a.refuse(matches!(is, Some(Body::Vqueue(q)) if q.desc == desc && q.size == 64));
            },
            Refused,
        ),
        case(
            "an enabled queue is disabled by SET_VQUEUE",
            ENABLED,
            SPLIT,
            |a| {
                let ring = a.rings[1].clone();
                let mut off = Attack::enable(&ring, 1);
                if let Body::SetVqueue { flags, .. } = &mut off {
                    *flags = msg::VQ_KEEP_DISABLED;
                }
                a.ask(off);
                let enabled = a.is_enabled(1);
                a.refuse(enabled);
            },
            Refused,
        ),
    ]
}

/// Areas where a device finds out only when it looks.
fn places() -> Vec<Case> {
    fn run_with(a: &mut Attack, at: [u64; 3]) {
        let ring = a.rings[0].clone();
        let config = QueueConfig { desc: at[0], driver: at[1], device: at[2], ..ring.config };
        let (moved, other) = (Ring::of(&a.memory.attacker, config), a.rings[1].clone());
        a.ask(Attack::enable(&moved, 0));
        a.ask(Attack::enable(&other, 1));
        a.send(Body::SetDeviceStatus { status: 15 });
    }
    let away =
        |name, attack| case(name, PLACE, READY, attack, Quarantine("lies in no memory region"));
    vec![
        away("a descriptor area beyond the slot", |a| run_with(a, [SLOT, 0x4800, 0x5000])),
        away("a descriptor area over the end of the slot", |a| {
            run_with(a, [SLOT - 16, 0x4800, 0x5000])
        }),
        away("a driver area beyond the slot", |a| run_with(a, [0x4000, 1 << 40, 0x5000])),
        away("a device area over the end of the slot", |a| run_with(a, [0x4000, 0x4800, SLOT - 4])),
        away("a device area over the edge of two regions", |a| {
            run_with(a, [0x4000, 0x4800, SLOT / 4 - 8])
        }),
        case(
            "all areas are one",
            PLACE,
            READY,
            |a| {
                run_with(a, [0x4000, 0x4000, 0x4000]);
                a.settle();
                poke(a.mem(), 0x4002, &[0xff, 0xff]);
            },
            NeedsReset("available index moved by"),
        ),
        case(
            "the device area is the device's mailbox",
            PLACE,
            READY,
            |a| {
                run_with(a, [0x4000, 0x4800, 0x1000]);
                a.settle();
                a.pass(MS);
                a.set_status(0);
                a.set_status(3);
            },
            Harmless("until something is used the device writes its event only"),
        ),
    ]
}

fn resets() -> Vec<Case> {
    const RESET: &str = "2.6.1: a queue is reset only if RING_RESET was negotiated";
    vec![
        case(
            "a queue is reset without RING_RESET",
            RESET,
            SPLIT.without(&[virtio::F_RING_RESET]),
            |a| {
                assert_eq!(a.ask(Body::ResetVqueue { index: 0 }), Some(Body::VqueueReset));
            },
            Stopped("the driver reset queue 0"),
        ),
        case(
            "a queue that there is not is reset",
            RESET,
            SPLIT,
            |a| {
                for index in [3, 0xffff, u32::MAX] {
                    assert_eq!(a.ask(Body::ResetVqueue { index }), Some(Body::VqueueReset));
                }
            },
            Harmless("it is at rest"),
        ),
        case(
            "reset in the middle of frames",
            "2.4: the driver resets the device at any time",
            SPLIT,
            |a| {
                for n in 0..8 {
                    a.rx().send(&[(DATA, 70_000, WRITE)]);
                    a.tx().send(&[(DATA, 2000, 0)]);
                    a.victim.outbox.push_back(frame(n, 9000));
                }
                a.send(Body::SetDeviceStatus { status: 0 });
                a.hear();
                assert!(a.victim.paths.is_empty());
                a.victim.outbox.clear();
                a.victim.inbox.clear();
                a.run();
                a.victim.drops.clear();
            },
            Harmless("a reset may come at any time"),
        ),
        case(
            "status 0 forty times in a row",
            "2.4: a reset may be asked for again",
            MET,
            |a| {
                for _ in 0..40 {
                    assert_eq!(a.set_status(0), 0);
                }
            },
            Harmless("there is nothing to reset"),
        ),
        case(
            "set up and reset without end",
            "2.1.1: a driver that cannot go on sets FAILED",
            MET,
            |a| {
                for _ in 0..40 {
                    if a.fifo.is_some() && a.victim.last().0 != State::Quarantined {
                        a.run();
                        a.send(Body::SetDeviceStatus { status: 0 });
                    }
                    a.settle();
                }
            },
            Quarantine("sets the device up again and again"),
        ),
    ]
}
