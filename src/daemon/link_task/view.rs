//! What `status` shows of a link; written by the link's task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::probed::Probed;
use crate::atomic::AtomicU64;
use crate::daemon::config::LinkConfig;
use crate::daemon::counts::LinkCounts;
use crate::daemon::probe::window::LinkProbe;
use crate::daemon::status::{
    DmaStatus, Filled, FilledStatus, LinkState, LinkStatus, PumpStatus, QueueStatus, Traffic,
};
use crate::daemon::worker::{DirectionStats, IN, OUT, QueueStats};
use crate::link::{REFUSED, State};
use crate::net::features::Features;
use crate::net::frame::Drop;

/// What is known of a link.
#[derive(Debug)]
pub struct View {
    name: String,
    /// As the config has it; where that leaves something open, as it is.
    pub(super) transport: String,
    pub(super) slot: Option<u32>,
    state: State,
    /// Since when it has been in this state.
    since: Instant,
    reason: String,
    /// What is wrong with the netdev, shown where there is no other reason.
    pub(super) note: String,
    pub(super) carrier: bool,
    pub(super) epoch: Option<u32>,
    pub(super) peer_epoch: Option<u32>,
    pub(super) peer_version: Option<String>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: Option<u16>,
    pub(super) features: Features,
    /// Of each queue pair that there has been; at least one.
    pub(super) stats: Vec<Arc<QueueStats>>,
    pub(super) counts: LinkCounts,
    /// An engine copies.
    pub(super) engine: bool,
    pub(super) pump: PumpStatus,
    /// Why this end polls, if it does.
    pub(super) polls: Option<String>,
    /// What it is, or was, attached to.
    pub(super) probed: Option<Probed>,
}

impl View {
    /// A link of which nothing is known yet.
    pub fn new(config: &LinkConfig) -> Self {
        Self {
            name: config.name.clone(),
            transport: config.transport.to_string(),
            slot: config.known_slot(),
            state: State::Waiting,
            since: Instant::now(),
            reason: "starting".to_owned(),
            note: String::new(),
            carrier: false,
            epoch: None,
            peer_epoch: None,
            peer_version: None,
            mac: None,
            mtu: config.mtu,
            features: Features::NONE,
            stats: vec![Arc::default()],
            counts: LinkCounts::default(),
            engine: false,
            pump: PumpStatus::default(),
            polls: None,
            probed: None,
        }
    }

    /// The same, but for what `earlier` has counted, a link of this name that has ended.
    pub fn after(config: &LinkConfig, earlier: Option<&Self>) -> Self {
        let new = Self::new(config);
        match earlier {
            Some(Self { stats, counts, .. }) => {
                Self { stats: stats.clone(), counts: counts.clone(), ..new }
            }
            None => new,
        }
    }

    /// The link is in this state from now on, or still, for this reason; says whether each is new.
    pub(super) fn enter(&mut self, state: State, reason: String) -> [bool; 2] {
        let is_new = [self.state != state, self.reason != reason];
        let refused = state == State::Negotiating && reason.starts_with(REFUSED);
        self.counts.enter(link_state(self.state), link_state(state), refused);
        if is_new[0] {
            self.since = Instant::now();
        }
        (self.state, self.reason) = (state, reason);
        is_new
    }

    /// Whether frames flow.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// The link has left its slot.
    pub(super) fn link_down(&mut self) {
        self.carrier = false;
        self.epoch = None;
        self.peer_epoch = None;
        self.peer_version = None;
        self.features = Features::NONE;
    }

    /// The counters of a queue pair.
    pub(super) fn stats(&mut self, pair: u16) -> Arc<QueueStats> {
        let pair = usize::from(pair);
        self.stats.resize_with(self.stats.len().max(pair + 1), Arc::default);
        self.stats[pair].clone()
    }

    /// Whether the kernel moves its frames, as far as that is known.
    pub fn in_kernel(&self) -> bool {
        self.pump.mode != PumpStatus::default().mode
    }

    /// What it says of its window and queues.
    pub fn probe(&self) -> LinkProbe {
        self.probed.as_ref().map(Probed::look).unwrap_or_default()
    }

    /// As `status` shows it.
    pub fn status(&self) -> LinkStatus {
        let sum = |of: fn(&QueueStats) -> &AtomicU64| {
            self.stats.iter().map(|stats| count(of(stats))).fold(0, u64::wrapping_add)
        };
        LinkStatus {
            name: self.name.clone(),
            transport: self.transport.clone(),
            slot: self.slot,
            state: link_state(self.state),
            age_ms: milliseconds(self.since.elapsed()),
            reason: [&self.reason, &self.note].into_iter().find(|r| !r.is_empty()).cloned(),
            carrier: self.carrier,
            epoch: self.epoch,
            peer_epoch: self.peer_epoch,
            peer_version: self.peer_version.clone(),
            mac: self.mac.map(|mac| mac.map(|b| format!("{b:02x}")).join(":")),
            mtu: self.mtu,
            features: self.features.names().map(str::to_owned).collect(),
            queues: self.stats.iter().map(|stats| queue(stats)).collect(),
            dma: DmaStatus {
                mode: if self.engine { "engine" } else { "direct" }.to_owned(),
                transfers: sum(|stats| &stats.transfers),
                bytes: sum(|stats| &stats.transfer_bytes),
                under_way: self.stats.iter().map(|stats| gauge(&stats.under_way)).sum(),
                most_under_way: self
                    .stats
                    .iter()
                    .map(|stats| count(&stats.most_under_way))
                    .max()
                    .unwrap_or(0),
            },
            pump: self.pump.clone(),
            polls: self.polls.clone(),
            counts: self.counts.clone(),
        }
    }
}

/// A time as `status` has it.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The state's name in logs.
pub(super) fn name(state: State) -> &'static str {
    link_state(state).name()
}

fn link_state(state: State) -> LinkState {
    match state {
        State::Waiting => LinkState::Waiting,
        State::Negotiating => LinkState::Negotiating,
        State::Up => LinkState::Up,
        State::Down => LinkState::Down,
        State::Quarantined => LinkState::Quarantined,
    }
}

fn queue(stats: &QueueStats) -> QueueStatus {
    QueueStatus {
        rx: traffic(&stats.rx),
        tx: traffic(&stats.tx),
        notifications_sent: count(&stats.notifications_sent),
        notifications_received: count(&stats.notifications_received),
        rescues: count(&stats.rescues),
        throttled: count(&stats.throttled),
        copied: count(&stats.copied),
        wakeups: count(&stats.wakeups),
        filled: filled(stats),
        cpu: stats.cpu.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

/// What the netdev receives comes by the one queue, and what it sends goes out by the other.
fn filled(stats: &QueueStats) -> FilledStatus {
    let of = |way: usize| Filled { out: gauge(&stats.filled[way]), size: gauge(&stats.sizes[way]) };
    FilledStatus { rx: of(IN), tx: of(OUT) }
}

fn traffic(stats: &DirectionStats) -> Traffic {
    let drops = Drop::ALL.iter().map(|d| (d.name().to_owned(), count(&stats.drops[*d as usize])));
    Traffic {
        frames: count(&stats.frames),
        bytes: count(&stats.bytes),
        drops: drops.filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>(),
    }
}

fn gauge(gauge: &AtomicU32) -> u64 {
    gauge.load(Ordering::Relaxed).into()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
