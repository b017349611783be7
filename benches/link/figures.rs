//! What is measured, of what, and what is wanted of it.

use crate::subject::{Joint, Plan};
use crate::work::Work;

const OWN_MTU: u16 = 1500;

const VETH: Plan = Plan { name: "veth", joint: Joint::Veth, mtu: OWN_MTU };
const BRIDGE: Plan = Plan { name: "bridge", joint: Joint::Bridge, mtu: OWN_MTU };
const LINK: Plan = link("link", "", "", OWN_MTU);
const SPLIT: Plan = link("split", "features_off = [\"RING_PACKED\"]\n", "", OWN_MTU);
const ENGINE: Plan = link("engine", "", "dma = \"engine\"\n", OWN_MTU);

const fn link(name: &'static str, both: &'static str, agent: &'static str, mtu: u16) -> Plan {
    Plan { name, joint: Joint::Link { links: 1, both, agent }, mtu }
}

/// Figures that are measured of the same subjects.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) subjects: &'static [Plan],
    pub(crate) measurements: &'static [Measurement],
}

/// What one piece of work tells of a subject.
pub(crate) struct Measurement {
    pub(crate) work: Work,
    /// In the order of the work's values.
    pub(crate) figures: &'static [Figure],
}

impl Measurement {
    /// Its name, in a few words.
    pub(crate) fn name(&self) -> &'static str {
        let name = self.figures.first().map_or("", |figure| figure.name);
        name.split(',').next().unwrap_or_default()
    }
}

pub(crate) struct Figure {
    /// What it is, and its unit.
    pub(crate) name: &'static str,
    pub(crate) comparisons: &'static [Comparison],
}

/// The ratio of two subjects, or one subject's own figure.
pub(crate) struct Comparison {
    pub(crate) of: &'static str,
    pub(crate) to: Option<&'static str>,
    pub(crate) target: Option<Target>,
}

/// What a comparison's median is wanted to be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// By how much a value misses it; `None` if it is met.
    pub(crate) fn missed_by(self, value: f64) -> Option<f64> {
        let by = match self {
            Self::AtLeast(least) => least - value,
            Self::AtMost(most) => value - most,
        };
        // A value that is not there meets nothing.
        (by.is_nan() || by > 0.0).then_some(by)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

const fn ratio(of: &'static str, to: &'static str) -> Comparison {
    Comparison { of, to: Some(to), target: None }
}

const fn at_least(of: &'static str, to: &'static str, least: f64) -> Comparison {
    Comparison { of, to: Some(to), target: Some(Target::AtLeast(least)) }
}

const fn at_most(of: &'static str, to: &'static str, most: f64) -> Comparison {
    Comparison { of, to: Some(to), target: Some(Target::AtMost(most)) }
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
                    Figure { name: "of those sent, thousand/s", comparisons: &[] },
                ],
            },
            Measurement {
                work: Work::Frames { len: 1500 },
                figures: &[
                    Figure {
                        name: "1500 bytes, thousand/s",
                        comparisons: &[at_least("link", "bridge", 1.3), ratio("split", "link")],
                    },
                    Figure { name: "of those sent, thousand/s", comparisons: &[] },
                ],
            },
        ],
    },
];
