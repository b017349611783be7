//! A device's half that breaks the rules, against our driver.

mod answers;
mod changing;
mod events;
mod frames;
mod rings;
mod session;

use boardlane::net::features::Features;
use boardlane::spec::{net, virtio};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::Role;

use crate::attack::{Setup, Stage};
use crate::case::Table;

/// A device of one pair with split queues, used in any order, and no control queue.
pub(crate) const SPLIT: Setup = Setup {
    stage: Stage::Running,
    features: Features::OFFER.minus(Features::of(&[
        virtio::F_RING_PACKED,
        virtio::F_IN_ORDER,
        net::F_CTRL_VQ,
        net::F_CTRL_RX,
        net::F_CTRL_VLAN,
        net::F_CTRL_MAC_ADDR,
        net::F_CTRL_GUEST_OFFLOADS,
        net::F_GUEST_ANNOUNCE,
        net::F_MQ,
        net::F_NOTF_COAL,
    ])),
    pairs: 1,
    dialect: Dialect::V2,
    window_only: false,
};

/// The same with packed queues.
pub(crate) const PACKED: Setup = with(SPLIT, &[virtio::F_RING_PACKED]);

/// The same with a control queue.
pub(crate) const CONTROL: Setup = with(SPLIT, &[net::F_CTRL_VQ, net::F_CTRL_RX]);

/// The ends have met, and no message was sent.
pub(crate) const MET: Setup = SPLIT.stage(Stage::Met);

pub(crate) const fn with(setup: Setup, bits: &[u8]) -> Setup {
    Setup { features: setup.features.union(Features::of(bits)), ..setup }
}

pub(crate) fn tables() -> Vec<Table> {
    let table = |name, cases| Table { name, attacker: Role::Device, cases };
    vec![
        table("rings", rings::cases()),
        table("frames", frames::cases()),
        table("answers", answers::cases()),
        table("events", events::cases()),
        table("session", session::cases()),
        table("changing", changing::cases()),
    ]
}
