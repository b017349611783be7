//! What is measured, of what, and what is wanted of it.

use crate::figures::{Comparison, Figure, Group, Measurement, at_least, at_most, limit, ratio};
use crate::subject::{Joint, Plan};
use crate::work::Work;

const OWN_MTU: u16 = 1500;
/// The largest MTU of a TAP.
const MTU_MAX: u16 = 65521;

const VETH: Plan = Plan { name: "veth", joint: Joint::Veth, mtu: OWN_MTU };
const BRIDGE: Plan = Plan { name: "bridge", joint: Joint::Bridge, mtu: OWN_MTU };
const LINK: Plan = link("link", "", "", OWN_MTU);
const SPLIT: Plan = link("split", "features_off = [\"RING_PACKED\"]\n", "", OWN_MTU);
const ENGINE: Plan = link("engine", "", "dma = \"engine\"\n", OWN_MTU);
const LINK_9000: Plan = link("link9000", "", "", 9000);
const LINK_65521: Plan = link("link65521", "", "", MTU_MAX);
const BRIDGE_65521: Plan = Plan { name: "bridge65521", joint: Joint::Bridge, mtu: MTU_MAX };
const MANY: Plan =
    Plan { name: "64 links", joint: Joint::Link { links: 64, both: "", agent: "" }, mtu: OWN_MTU };

const fn link(name: &'static str, both: &'static str, agent: &'static str, mtu: u16) -> Plan {
    Plan { name, joint: Joint::Link { links: 1, both, agent }, mtu }
}

/// The ends of a link: where something goes to.
const MASTER: usize = 0;
const BOARD: usize = 1;

const ONE_STREAM: &[Comparison] = &[
    at_least("link", "bridge", 1.0),
    at_least("link", "veth", 0.75),
    at_least("engine", "link", 0.8),
    ratio("split", "link"),
];
const FOUR_STREAMS: &[Comparison] = &[at_least("link", "bridge", 0.95), ratio("link", "veth")];
const LARGE_MTU: &[Comparison] = &[
    at_least("link65521", "link", 1.2),
    ratio("link9000", "link"),
    ratio("bridge65521", "bridge"),
    ratio("link65521", "bridge65521"),
];
const DATAGRAMS: &[Comparison] =
    &[at_least("link", "bridge", 1.0), ratio("link", "veth"), ratio("split", "link")];
const COST: &[Comparison] =
    &[ratio("link", "bridge"), ratio("link", "veth"), ratio("split", "link")];
const BOTH_WAYS: &[Comparison] = &[ratio("link", "bridge"), ratio("link", "veth")];

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "tcp",
        title: "TCP payload: one stream each way, both ways at once, four streams each way",
        subjects: &[VETH, BRIDGE, LINK, ENGINE, SPLIT],
        measurements: &[
            Measurement {
                work: Work::Tcp { to: &[BOARD], streams: 1 },
                figures: &[Figure { name: "to the board, Gbit/s", comparisons: ONE_STREAM }],
            },
            Measurement {
                work: Work::Tcp { to: &[MASTER], streams: 1 },
                figures: &[Figure { name: "to the master, Gbit/s", comparisons: ONE_STREAM }],
            },
            Measurement {
                work: Work::Tcp { to: &[MASTER, BOARD], streams: 1 },
                figures: &[Figure { name: "both ways, Gbit/s", comparisons: BOTH_WAYS }],
            },
            Measurement {
                work: Work::Tcp { to: &[BOARD], streams: 4 },
                figures: &[Figure { name: "four to the board, Gbit/s", comparisons: FOUR_STREAMS }],
            },
            Measurement {
                work: Work::Tcp { to: &[MASTER], streams: 4 },
                figures: &[Figure {
                    name: "four to the master, Gbit/s",
                    comparisons: FOUR_STREAMS,
                }],
            },
        ],
    },
    Group {
        name: "mtu",
        title: "one TCP stream each way with larger MTUs",
        subjects: &[BRIDGE, BRIDGE_65521, LINK, LINK_65521, LINK_9000],
        measurements: &[
            Measurement {
                work: Work::Tcp { to: &[BOARD], streams: 1 },
                figures: &[Figure { name: "to the board, Gbit/s", comparisons: LARGE_MTU }],
            },
            Measurement {
                work: Work::Tcp { to: &[MASTER], streams: 1 },
                figures: &[Figure { name: "to the master, Gbit/s", comparisons: LARGE_MTU }],
            },
        ],
    },
    Group {
        name: "rtt",
        title: "round trips: echoes, and TCP messages of one byte, each sent once the last one is back",
        subjects: &[VETH, BRIDGE, LINK, SPLIT],
        measurements: &[
            Measurement {
                work: Work::Echoes,
                figures: &[
                    Figure {
                        name: "echo, mean, us",
                        comparisons: &[at_most("link", "bridge", 0.6), ratio("link", "veth")],
                    },
                    Figure { name: "echo, p50, us", comparisons: &[ratio("link", "bridge")] },
                    Figure { name: "echo, p99, us", comparisons: &[ratio("link", "bridge")] },
                ],
            },
            Measurement {
                work: Work::Messages,
                figures: &[
                    Figure {
                        name: "TCP message, p50, us",
                        comparisons: &[at_most("link", "veth", 0.7), ratio("link", "bridge")],
                    },
                    Figure {
                        name: "TCP message, p99, us",
                        comparisons: &[at_most("link", "bridge", 1.5), ratio("link", "veth")],
                    },
                ],
            },
        ],
    },
    Group {
        name: "frames",
        title: "Ethernet frames to the board, from a packet socket that never stops",
        subjects: &[VETH, BRIDGE, LINK, SPLIT],
        measurements: &[
            Measurement {
                work: Work::Frames { len: 64 },
                figures: &[
                    Figure {
                        name: "64 bytes, thousand/s",
                        comparisons: &[at_least("link", "bridge", 1.1), ratio("split", "link")],
                    },
                    Figure { name: "64 bytes sent, thousand/s", comparisons: &[] },
                ],
            },
            Measurement {
                work: Work::Frames { len: 1500 },
                figures: &[
                    Figure {
                        name: "1500 bytes, thousand/s",
                        comparisons: &[at_least("link", "bridge", 1.3), ratio("split", "link")],
                    },
                    Figure { name: "1500 bytes sent, thousand/s", comparisons: &[] },
                ],
            },
        ],
    },
    Group {
        name: "udp-gso",
        title: "UDP with segmentation offload: payload that arrives",
        subjects: &[VETH, BRIDGE, LINK, SPLIT],
        measurements: &[
            Measurement {
                work: Work::Datagrams { to: BOARD },
                figures: &[Figure { name: "to the board, Gbit/s", comparisons: DATAGRAMS }],
            },
            Measurement {
                work: Work::Datagrams { to: MASTER },
                figures: &[Figure { name: "to the master, Gbit/s", comparisons: DATAGRAMS }],
            },
        ],
    },
    Group {
        name: "cpu",
        title: "the whole machine's processor time a Gbit of TCP; notifications for 1,000 frames",
        subjects: &[VETH, BRIDGE, LINK, SPLIT],
        measurements: &[
            Measurement {
                work: Work::TcpCost { to: BOARD },
                figures: &[
                    Figure { name: "to the board, ms/Gbit", comparisons: COST },
                    Figure { name: "to the board, notified", comparisons: &[] },
                ],
            },
            Measurement {
                work: Work::TcpCost { to: MASTER },
                figures: &[
                    Figure { name: "to the master, ms/Gbit", comparisons: COST },
                    Figure { name: "to the master, notified", comparisons: &[] },
                ],
            },
            Measurement {
                work: Work::FrameCost { len: 64 },
                figures: &[Figure { name: "64 bytes, notified", comparisons: &[] }],
            },
        ],
    },
    Group {
        name: "idle",
        title: "links without traffic: master, agent and backplane, with all their children",
        subjects: &[LINK, MANY],
        measurements: &[Measurement {
            work: Work::Idle,
            figures: &[
                Figure { name: "CPU, % of one", comparisons: &[limit("link", 0.5)] },
                // Boards are machines of their own: the agent's part is not the master's to bear.
                Figure { name: "the master's, %", comparisons: &[limit("64 links", 2.0)] },
                Figure { name: "CPU for a link, %", comparisons: &[] },
                Figure { name: "sleeps a second", comparisons: &[] },
                Figure { name: "sleeps a second for a link", comparisons: &[] },
                Figure {
                    name: "RssAnon, MiB",
                    comparisons: &[limit("link", 64.0), limit("64 links", 64.0)],
                },
                Figure { name: "the master's, MiB", comparisons: &[] },
                Figure {
                    name: "shared for a link, MiB",
                    comparisons: &[limit("link", 2.5), limit("64 links", 2.5)],
                },
            ],
        }],
    },
];
