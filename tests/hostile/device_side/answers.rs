//! What the device says of itself while it is set up: HELLO, info, features, status, config space, queues.

use boardlane::spec::{msg, net};
use boardlane::tunnel::message::{Body, Message};

use super::MET;
use crate::attack::{Attack, Setup};
use crate::case::Verdict::{Harmless, Quarantine};
use crate::case::{Case, case};

const FIT: &str = "the window's HELLO: layout, revision and sizes are those of both ends";
const INFO: &str = "virtio-msg GET_DEVICE_INFO: what the device is";
const OFFER: &str = "6.2: the device MUST offer VERSION_1";
const BLOCKS: &str =
    "virtio-msg GET_DEVICE_FEATURES: the answer has the blocks that were asked for";
const STATUS: &str = "2.1.2: the device takes the status that the driver writes";
const RESET: &str = "2.4.1: the device MUST set the status to 0 after a reset";
const FEATURES_OK: &str = "2.2.2: the device SHOULD accept any valid subset of what it offers";
const CONFIG: &str = "virtio-msg GET_CONFIG: the answer has the range that was asked for";
const GENERATION: &str = "2.5: the generation changes whenever two reads can differ";
const PAIRS: &str = "5.1.4.1: max_virtqueue_pairs MUST be 1 to 0x8000";
const QUEUE: &str = "virtio-msg GET_VQUEUE: the queue that was asked for, as it is";

/// Several pairs.
const PAIRED: Setup = Setup { pairs: 2, ..super::with(MET, &[net::F_CTRL_VQ, net::F_MQ]) };

/// Answers everything, each answer changed so.
fn lie(a: &mut Attack, mut change: impl FnMut(&mut Body)) {
    a.serve(400, &mut |message: &mut Message| change(&mut message.body));
}

macro_rules! lie {
    ($a:ident, $pattern:pat $(if $when:expr)? => $change:expr) => {
        lie($a, |body| match body {
            $pattern $(if $when)? => $change,
            _ => {}
        })
    };
}

pub(crate) fn cases() -> Vec<Case> {
    [identity(), features(), status(), config(), queues()].into_iter().flatten().collect()
}

fn identity() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, MET, attack, Quarantine(why));
    let works = |name, attack, why| case(name, INFO, MET, attack, Harmless(why));
    vec![
        bad(
            "HELLO of another layout",
            FIT,
            |a| lie!(a, Body::HelloBack(h) => h.layout = 9),
            "layout 9",
        ),
        bad(
            "HELLO of another revision",
            FIT,
            |a| lie!(a, Body::HelloBack(h) => h.revision = 0),
            "revision 0",
        ),
        bad(
            "HELLO with messages of 8 bytes",
            FIT,
            |a| lie!(a, Body::HelloBack(h) => h.max_len = 8),
            "8 bytes",
        ),
        bad(
            "a block device",
            INFO,
            |a| {
                lie!(a, Body::DeviceInfo { device_id, .. } => *device_id = 2);
            },
            "device has id 2",
        ),
        bad(
            "one block of features",
            INFO,
            |a| {
                lie!(a, Body::DeviceInfo { num_feature_blocks, .. } => *num_feature_blocks = 1);
            },
            "no VERSION_1",
        ),
        bad(
            "no queues",
            INFO,
            |a| {
                lie!(a, Body::DeviceInfo { max_virtqueues, .. } => *max_virtqueues = 0);
            },
            "device has 0 queues",
        ),
        bad(
            "one queue",
            INFO,
            |a| {
                lie!(a, Body::DeviceInfo { max_virtqueues, .. } => *max_virtqueues = 1);
            },
            "device has 1 queues",
        ),
        works(
            "4,294,967,295 queues",
            |a| {
                lie!(a, Body::DeviceInfo { max_virtqueues, .. } => *max_virtqueues = u32::MAX);
            },
            "the driver asks for its own",
        ),
        works(
            "no config space",
            |a| {
                lie!(a, Body::DeviceInfo { config_size, .. } => *config_size = 0);
            },
            "what is not there reads as zero",
        ),
        works(
            "a config space of 4 GiB",
            |a| {
                lie!(a, Body::DeviceInfo { config_size, .. } => *config_size = u32::MAX);
            },
            "the driver reads the first kilobyte",
        ),
        works(
            "an admin queue",
            |a| {
                lie!(a, Body::DeviceInfo { admin_vq_start, admin_vq_count, .. } => {
                    (*admin_vq_start, *admin_vq_count) = (0, u32::MAX);
                });
            },
            "the driver uses none",
        ),
        bad(
            "4,294,967,295 blocks of features, of which two come",
            BLOCKS,
            |a| {
                lie(a, |body| match body {
                    Body::DeviceInfo { num_feature_blocks, .. } => *num_feature_blocks = u32::MAX,
                    Body::DeviceFeatures(blocks) => blocks.blocks.truncate(2),
                    _ => {}
                });
            },
            "other blocks than asked for",
        ),
    ]
}

fn features() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, MET, attack, Quarantine(why));
    vec![
        bad(
            "no features",
            OFFER,
            |a| lie!(a, Body::DeviceFeatures(b) => b.blocks.fill(0)),
            "does not offer",
        ),
        bad(
            "all but VERSION_1",
            OFFER,
            |a| {
                lie!(a, Body::DeviceFeatures(b) => b.blocks[1] &= !1);
            },
            "does not offer",
        ),
        bad(
            "other blocks than were asked for",
            BLOCKS,
            |a| {
                lie!(a, Body::DeviceFeatures(b) => b.index = 7);
            },
            "other blocks than asked for",
        ),
        bad(
            "more blocks than were asked for",
            BLOCKS,
            |a| {
                lie!(a, Body::DeviceFeatures(b) => b.blocks.resize(60, u32::MAX));
            },
            "other blocks than asked for",
        ),
        bad(
            "all features, that the device does not know",
            FEATURES_OK,
            |a| {
                lie!(a, Body::DeviceFeatures(b) => b.blocks.fill(u32::MAX));
            },
            "refused features",
        ),
        bad(
            "FEATURES_OK stays clear",
            FEATURES_OK,
            |a| {
                lie!(a, Body::DeviceStatusSet { status } if *status == 11 => *status = 3);
            },
            "refused features",
        ),
    ]
}

fn status() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, MET, attack, Quarantine(why));
    vec![
        bad(
            "a reset that is never done",
            RESET,
            |a| {
                for _ in 0..12 {
                    lie(a, |body| match body {
                        Body::DeviceStatusSet { status } | Body::DeviceStatus { status } => {
                            *status = 15
                        }
                        _ => {}
                    });
                }
            },
            "does not finish its reset",
        ),
        bad(
            "NEEDS_RESET after each reset",
            RESET,
            |a| {
                for _ in 0..12 {
                    lie(a, |body| match body {
                        Body::DeviceStatusSet { status } | Body::DeviceStatus { status } => {
                            *status |= 64
                        }
                        _ => {}
                    });
                }
            },
            "does not finish its reset",
        ),
        bad(
            "ACKNOWLEDGE is not taken",
            STATUS,
            |a| {
                lie!(a, Body::DeviceStatusSet { status } => *status = 0);
            },
            "did not take status 0x1",
        ),
        bad(
            "DRIVER_OK is not taken",
            STATUS,
            |a| {
                lie!(a, Body::DeviceStatusSet { status } if *status == 15 => *status = 11);
            },
            "did not take status 0xf",
        ),
        bad(
            "NEEDS_RESET with DRIVER_OK",
            STATUS,
            |a| {
                lie!(a, Body::DeviceStatusSet { status } if *status == 15 => *status = 79);
            },
            "needs a reset",
        ),
        bad(
            "a status of all ones",
            STATUS,
            |a| {
                lie!(a, Body::DeviceStatusSet { status } if *status != 0 => *status = u32::MAX);
            },
            "needs a reset",
        ),
    ]
}

fn config() -> Vec<Case> {
    let bad = |name, breaks, attack, why| case(name, breaks, MET, attack, Quarantine(why));
    vec![
        bad(
            "config space from another offset",
            CONFIG,
            |a| {
                lie!(a, Body::Config { offset, .. } => *offset = 4);
            },
            "another offset or length",
        ),
        bad(
            "less config space than was asked for",
            CONFIG,
            |a| {
                lie!(a, Body::Config { data, .. } => data.truncate(3));
            },
            "another offset or length",
        ),
        bad(
            "more config space than was asked for",
            CONFIG,
            |a| {
                lie!(a, Body::Config { data, .. } => data.resize(244, 0xff));
            },
            "another offset or length",
        ),
        bad(
            "a generation that changes with each answer",
            GENERATION,
            |a| {
                let mut n = 0;
                lie(a, |body| match body {
                    Body::DeviceInfo { config_size, .. } => *config_size = 1024,
                    Body::Config { generation, .. } => {
                        n += 1;
                        *generation = n;
                    }
                    _ => {}
                });
            },
            "changed during each try",
        ),
        case(
            "a generation that changes and the contents do not",
            GENERATION,
            MET,
            |a| {
                let mut n = 0;
                lie(a, |body| {
                    if let Body::Config { generation, .. } = body {
                        n += 1;
                        *generation = n;
                    }
                });
            },
            Harmless("one piece is of one generation"),
        ),
        case(
            "a config space of all ones",
            "5.1.4.1: mtu is 68 or more, the MAC a unicast address",
            MET,
            |a| {
                lie!(a, Body::Config { data, .. } => data.fill(0xff));
                assert!(a.victim.carrier);
            },
            Harmless("values that make no sense are not taken"),
        ),
        case(
            "a config space of zeros",
            "5.1.4.1: status has LINK_UP while the link is up",
            MET,
            |a| {
                lie!(a, Body::Config { data, .. } => data.fill(0));
                assert!(!a.victim.carrier);
            },
            Harmless("there is no carrier"),
        ),
        case(
            "no pairs",
            PAIRS,
            PAIRED,
            |a| {
                lie!(a, Body::Config { data, .. } => data[8..10].fill(0));
            },
            Quarantine("device has 0 queue pairs"),
        ),
        case(
            "32,769 pairs",
            PAIRS,
            PAIRED,
            |a| {
                lie!(a, Body::Config { data, .. } => data[8..10].copy_from_slice(&[1, 0x80]));
            },
            Quarantine("device has 32769 queue pairs"),
        ),
        case(
            "32,767 pairs, of five queues",
            PAIRS,
            PAIRED,
            |a| {
                lie!(a, Body::Config { data, .. } => data[8..10].copy_from_slice(&[0xff, 0x7f]));
            },
            Quarantine("queues, 65535 needed"),
        ),
    ]
}

fn queues() -> Vec<Case> {
    let bad = |name, attack, why| case(name, QUEUE, MET, attack, Quarantine(why));
    vec![
        bad(
            "a queue of no entries",
            |a| lie!(a, Body::Vqueue(q) => q.max_size = 0),
            "device has no queue 0",
        ),
        bad(
            "another queue than was asked for",
            |a| lie!(a, Body::Vqueue(q) => q.index = 9),
            "another queue",
        ),
        bad(
            "a queue that is enabled after a reset",
            |a| {
                lie!(a, Body::Vqueue(q) => q.flags = msg::VQ_ENABLED);
            },
            "enabled right after a reset",
        ),
        bad(
            "a queue that is not enabled",
            |a| {
                lie!(a, Body::Vqueue(q) => q.flags = 0);
            },
            "did not take the configuration of queue 0",
        ),
        bad(
            "a queue at another address",
            |a| {
                lie!(a, Body::Vqueue(q) if q.desc != 0 => q.desc += 0x1000);
            },
            "did not take the configuration of queue 0",
        ),
        bad(
            "a queue of another size",
            |a| {
                lie!(a, Body::Vqueue(q) if q.size != 0 => q.size = 2);
            },
            "did not take the configuration of queue 0",
        ),
        case(
            "queues of 3 entries at most",
            QUEUE,
            MET,
            |a| {
                lie!(a, Body::Vqueue(q) if q.size == 0 => q.max_size = 3);
            },
            Harmless("the driver takes two"),
        ),
        case(
            "queues of 4,294,967,295 entries at most",
            QUEUE,
            MET,
            |a| {
                lie!(a, Body::Vqueue(q) if q.size == 0 => q.max_size = 64 | u32::MAX << 16);
            },
            Quarantine("did not take the configuration of queue 0"),
        ),
    ]
}
