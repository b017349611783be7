//! What a daemon says about itself and its links, as JSON; for people it is a [`table`].
//!
//! The JSON is a contract: names and types stay, later versions only add.

pub mod table;
mod units;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counts::{DaemonCounts, LinkCounts};

/// A daemon and its links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// "master" or "agent".
    pub role: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// How long it had been running when it said this, in milliseconds; 0 if it did not say.
    #[serde(default)]
    pub uptime_ms: u64,
    /// The links, in the config's order.
    pub links: Vec<LinkStatus>,
    /// Where metrics are to be had, if the config says.
    #[serde(default)]
    pub metrics: Option<MetricsStatus>,
    /// What has happened to the daemon.
    #[serde(default)]
    pub counts: DaemonCounts,
}

/// The socket at which metrics are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsStatus {
    /// As the config has it.
    pub address: String,
    /// Why nobody listens there; it is tried again.
    pub error: Option<String>,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Something is not there yet: the reason says what.
    Waiting,
    /// Both ends are there and agree on features and queues.
    Negotiating,
    /// Frames flow.
    Up,
    /// The link was up, or could be; the reason says what ended it.
    Down,
    /// The peer broke the rules: the link is tried again later.
    Quarantined,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Waiting, Self::Negotiating, Self::Up, Self::Down, Self::Quarantined];

    /// The state's name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Negotiating => "negotiating",
            Self::Up => "up",
            Self::Down => "down",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One link; what is not known yet is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The netdev's name.
    pub name: String,
    /// The transport, as the config has it; of a PCI function that the link has, its address and mode.
    pub transport: String,
    /// The slot's number.
    pub slot: Option<u32>,
    /// The state.
    pub state: LinkState,
    /// How long it has been in this state, in milliseconds.
    #[serde(default)]
    pub age_ms: u64,
    /// Why the link is not up.
    pub reason: Option<String>,
    /// Whether the netdev has a carrier.
    pub carrier: bool,
    /// This end's epoch.
    pub epoch: Option<u32>,
    /// The other end's epoch.
    pub peer_epoch: Option<u32>,
    /// The other end's program version.
    pub peer_version: Option<String>,
    /// The netdev's MAC address, as `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// The netdev's MTU, in bytes.
    pub mtu: Option<u16>,
    /// Names of the negotiated features.
    pub features: Vec<String>,
    /// The queue pairs.
    pub queues: Vec<QueueStatus>,
    /// Who copies the payload.
    pub dma: DmaStatus,
    /// Who moves frames between rings and netdev.
    #[serde(default)]
    pub pump: PumpStatus,
    /// Why this end looks for the other one's work by itself, where no doorbell tells it.
    #[serde(default)]
    pub polls: Option<String>,
    /// What has happened to it.
    #[serde(default)]
    pub counts: LinkCounts,
}

/// One queue pair, seen from the netdev.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// What the netdev received.
    pub rx: Traffic,
    /// What the netdev sent.
    pub tx: Traffic,
    /// Notifications to the other end.
    pub notifications_sent: u64,
    /// Notifications from the other end.
    pub notifications_received: u64,
    /// Times that work was found without a notification.
    pub rescues: u64,
    /// Times that the other end had sent as much as `rate` allows, and was held back.
    #[serde(default)]
    pub throttled: u64,
    /// Bytes of frames, with their virtio-net headers, that this program's own code copied: not what the
    /// kernel or an engine did. 0 for a link with an engine.
    #[serde(default)]
    pub copied: u64,
    /// Sleeps of its thread that have ended.
    #[serde(default)]
    pub wakeups: u64,
    /// How full its queues are.
    #[serde(default)]
    pub filled: FilledStatus,
    /// Where its thread runs, if the config has it run somewhere.
    #[serde(default)]
    pub cpu: Option<CpuStatus>,
}

/// How full a pair's queues are: the one by which the netdev's frames come, and the one by which they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilledStatus {
    /// For what the netdev receives.
    pub rx: Filled,
    /// For what it sends.
    pub tx: Filled,
}

/// How full a queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// Descriptors that are available to the device and not used, as far as this end has seen.
    pub out: u64,
    /// Descriptors that there are; 0 without a thread of this program.
    pub size: u64,
}

/// The CPU that a thread is to run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStatus {
    /// Its number.
    pub number: u32,
    /// Why the thread is not bound to it.
    pub reason: Option<String>,
}

/// Frames one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Who copies the payload, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaStatus {
    /// "direct" or "engine".
    pub mode: String,
    /// Copies made by an engine.
    pub transfers: u64,
    /// Bytes copied by it.
    pub bytes: u64,
    /// Copies that are under way.
    #[serde(default)]
    pub under_way: u64,
    /// Most copies that one queue pair had under way at once.
    #[serde(default)]
    pub most_under_way: u64,
}

/// Who moves frames between rings and netdev.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PumpStatus {
    /// "builtin" or "vhost-net".
    pub mode: String,
    /// Why it is not the one that the config asks for.
    pub reason: Option<String>,
}

impl Default for PumpStatus {
    fn default() -> Self {
        Self { mode: "builtin".into(), reason: None }
    }
}

/// Keeps what a peer said from writing control sequences to the reader's terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Written by hand from the contract, with every field.
    const FIXTURE: &str = r#"{"role":"master","pid":812,"version":"0.1.0","uptime_ms":90000,
        "links":[{"name":"bl0",
        "transport":"shm:/run/boardlane/slot0.sock","slot":0,"state":"up","age_ms":61000,"reason":null,
        "carrier":true,"epoch":3735928559,"peer_epoch":7,"peer_version":"0.1.0",
        "mac":"02:00:00:00:00:01","mtu":1500,"features":["MRG_RXBUF","CSUM"],
        "queues":[{"rx":{"frames":10,"bytes":1500,"drops":{"ring_full":2}},
        "tx":{"frames":11,"bytes":1600,"drops":{}},"notifications_sent":3,
        "notifications_received":4,"rescues":1,"throttled":5,"copied":268,
        "cpu":{"number":3,"reason":null},"wakeups":6,
        "filled":{"rx":{"out":120,"size":256},"tx":{"out":1,"size":256}}}],
        "dma":{"mode":"direct","transfers":21,"bytes":3100,"under_way":2,"most_under_way":3},
        "pump":{"mode":"vhost-net","reason":null},"polls":null,
        "counts":{"flaps":1,"negotiation_failures":2,"quarantines":3,"heals":4,"heal_failures":5,
        "round_trips":{"within":[0,0,0,0,0,0,0,0,0,0,0,0,0,0],"count":0,"sum_ns":0}}},
        {"name":"bl1","transport":"shm:/run/boardlane/slot1.sock","slot":null,
        "state":"quarantined","age_ms":5,"reason":"descriptor chain loops","carrier":false,"epoch":null,
        "peer_epoch":null,"peer_version":null,"mac":null,"mtu":null,"features":[],"queues":[],
        "dma":{"mode":"direct","transfers":0,"bytes":0,"under_way":0,"most_under_way":0},
        "pump":{"mode":"builtin","reason":"/dev/vhost-net: no"},"polls":"no interrupt",
        "counts":{"flaps":0,"negotiation_failures":0,"quarantines":0,"heals":0,"heal_failures":0,
        "round_trips":{"within":[0,0,0,0,0,0,0,0,0,0,0,0,0,0],"count":0,"sum_ns":0}}}],
        "metrics":{"address":"127.0.0.1:9477","error":"in use"},
        "counts":{"started_unix_ms":1790000000000,"reloads":1,"reload_failures":2,
        "log_lines_left_out":3}}"#;

    pub(in crate::daemon) fn sample() -> Status {
        let up = LinkStatus {
            name: "bl0".into(),
            transport: "shm:/run/boardlane/slot0.sock".into(),
            slot: Some(0),
            state: LinkState::Up,
            age_ms: 61_000,
            reason: None,
            carrier: true,
            epoch: Some(0xdead_beef),
            peer_epoch: Some(7),
            peer_version: Some("0.1.0".into()),
            mac: Some("02:00:00:00:00:01".into()),
            mtu: Some(1500),
            features: vec!["MRG_RXBUF".into(), "CSUM".into()],
            queues: vec![QueueStatus {
                rx: Traffic { frames: 10, bytes: 1500, drops: [("ring_full".into(), 2)].into() },
                tx: Traffic { frames: 11, bytes: 1600, drops: BTreeMap::new() },
                notifications_sent: 3,
                notifications_received: 4,
                rescues: 1,
                throttled: 5,
                copied: 268,
                wakeups: 6,
                filled: FilledStatus {
                    rx: Filled { out: 120, size: 256 },
                    tx: Filled { out: 1, size: 256 },
                },
                cpu: Some(CpuStatus { number: 3, reason: None }),
            }],
            dma: DmaStatus {
                mode: "direct".into(),
                transfers: 21,
                bytes: 3100,
                under_way: 2,
                most_under_way: 3,
            },
            pump: PumpStatus { mode: "vhost-net".into(), reason: None },
            polls: None,
            counts: LinkCounts {
                flaps: 1,
                negotiation_failures: 2,
                quarantines: 3,
                heals: 4,
                heal_failures: 5,
                ..LinkCounts::default()
            },
        };
        let quarantined = LinkStatus {
            name: "bl1".into(),
            transport: "shm:/run/boardlane/slot1.sock".into(),
            slot: None,
            state: LinkState::Quarantined,
            age_ms: 5,
            reason: Some("descriptor chain loops".into()),
            carrier: false,
            epoch: None,
            peer_epoch: None,
            peer_version: None,
            mac: None,
            mtu: None,
            features: vec![],
            queues: vec![],
            dma: DmaStatus { mode: "direct".into(), ..DmaStatus::default() },
            pump: PumpStatus { reason: Some("/dev/vhost-net: no".into()), ..PumpStatus::default() },
            polls: Some("no interrupt".into()),
            counts: LinkCounts::default(),
        };
        let (role, version) = ("master".into(), "0.1.0".into());
        let metrics =
            Some(MetricsStatus { address: "127.0.0.1:9477".into(), error: Some("in use".into()) });
        let counts = DaemonCounts {
            started_unix_ms: 1_790_000_000_000,
            reloads: 1,
            reload_failures: 2,
            log_lines_left_out: 3,
        };
        let links = vec![up, quarantined];
        Status { role, pid: 812, version, uptime_ms: 90_000, links, metrics, counts }
    }

    #[test]
    fn the_json_has_exactly_the_fields_of_the_contract() {
        let fixture: serde_json::Value = serde_json::from_str(FIXTURE).unwrap();
        assert_eq!(serde_json::to_value(sample()).unwrap(), fixture);
        assert_eq!(serde_json::from_str::<Status>(FIXTURE).unwrap(), sample());
    }

    #[test]
    fn each_state_has_one_name() {
        for state in LinkState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
