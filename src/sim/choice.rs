//! What a seed makes of a link: machines, memory, features, an engine.

use std::sync::Arc;
use std::time::Duration;

use super::fabric::{self, DRIVER_MEMORY, WINDOW};
use super::random::Random;
use crate::link::LinkParams;
use crate::memory::{BusMemory, Kind, Region, Side};
use crate::net::engine_path::EngineUse;
use crate::net::features::Features;
use crate::spec::{net, virtio};
use crate::tunnel::message::Dialect;
use crate::tunnel::part::{Layout, Role};

pub(super) const HEARTBEAT: Duration = Duration::from_millis(250);

/// Bits that an end may do without, each now and then.
const OPTIONAL: &[u8] = &[
    net::F_MRG_RXBUF,
    net::F_STATUS,
    net::F_CSUM,
    net::F_GUEST_CSUM,
    net::F_HOST_TSO4,
    net::F_MAC,
    net::F_CTRL_VQ,
    net::F_GUEST_ANNOUNCE,
    virtio::F_INDIRECT_DESC,
    virtio::F_RING_RESET,
];

/// What stays as it is for a whole run.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// Kinds of the window as the driver maps it, and of driver memory as the device does.
    pub(super) far: [Kind; 2],
    /// Whether the device's and the driver's CPUs are weak.
    pub(super) weak: [bool; 2],
    /// Lengths of the window and of driver memory.
    pub(super) lens: [usize; 2],
    /// Somebody tells each end who is there: a backplane. On a bus nobody does.
    pub(super) notices: bool,
    pub(super) pairs: u16,
    pub(super) dialect: Dialect,
    pub(super) vectors: [u32; 2],
    /// Turned off for this link, whatever an end would do without by itself.
    off: Features,
    pub(super) engine: Option<EngineUse>,
    /// Transfers that the engine takes.
    pub(super) depth: usize,
}

impl Choice {
    pub(super) fn new(random: &mut Random) -> Self {
        let far = match random.below(6) {
            0..3 => [Kind::Cached; 2],
            3 => [Kind::WriteCombined, Kind::Uncached],
            4 => [Kind::Uncached, Kind::WriteCombined],
            _ => [Kind::WriteCombined, Kind::DmaOnly],
        };
        let engine = random.one_in(2) || far[DRIVER_MEMORY] == Kind::DmaOnly;
        let below = [0, 300, 4000][random.index(3)];
        let len = 1 << (20 + random.index(3));
        let often = [virtio::F_RING_PACKED, virtio::F_IN_ORDER, virtio::F_EVENT_IDX];
        Self {
            notices: far == [Kind::Cached; 2],
            far,
            weak: [0, 1].map(|_| random.one_in(2)),
            lens: [len / 4, len - len / 4],
            pairs: 1 + u16::from(random.one_in(2)),
            dialect: if random.one_in(3) { Dialect::V1 } else { Dialect::V2 },
            vectors: [0, 1].map(|_| [1, 2, 3, 4][random.index(4)]),
            off: some_of(random, &often, 2),
            engine: engine.then_some(EngineUse { cpu_below: below }),
            depth: [1, 4, 32][random.index(3)],
        }
    }

    /// An end that starts anew.
    pub(super) fn params(&self, random: &mut Random, role: Role, id: u32) -> LinkParams {
        let [window, driver] = self.lens.map(|len| len as u64);
        LinkParams {
            role,
            dialect: self.dialect,
            layout: Layout::default(),
            window: 0..window,
            driver_memory: window..window + driver,
            slot: 3,
            owner: id,
            vectors: self.vectors[index(role)],
            heartbeat: HEARTBEAT,
            features_off: self.off.union(some_of(random, OPTIONAL, 6)),
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 1500,
            pairs: self.pairs,
            engine: self.engine.filter(|_| role == Role::Device),
            version: "simulated".to_owned(),
            seed: random.next(),
        }
    }

    /// Memory as an end's CPU maps it, or its engine.
    pub(super) fn memory(&self, link: usize, role: Role, engine: bool) -> Arc<BusMemory> {
        let mut at = 0;
        let regions = [WINDOW, DRIVER_MEMORY].map(|area| {
            let len = self.lens[area];
            let far = area != index(role);
            let kind = if far && !engine { self.far[area] } else { Kind::Cached };
            let backing = (kind != Kind::DmaOnly)
                .then(|| (Arc::new(fabric::mapping(link, area, len, kind, far, engine)), 0));
            let side = if far { Side::Far } else { Side::Near };
            let region = Region { bus_addr: at, len: len as u64, side, backing };
            at += len as u64;
            region
        });
        Arc::new(BusMemory::new(regions.into()).expect("two regions, one after the other"))
    }
}

/// A role's place: the device has the window, the driver has driver memory.
pub(super) fn index(role: Role) -> usize {
    match role {
        Role::Device => 0,
        Role::Driver => 1,
    }
}

pub(super) const ROLES: [Role; 2] = [Role::Device, Role::Driver];

fn some_of(random: &mut Random, bits: &[u8], one_in: u64) -> Features {
    let chosen = bits.iter().filter(|_| random.one_in(one_in));
    chosen.fold(Features::NONE, |set, bit| set.union(Features::of(&[*bit])))
}
