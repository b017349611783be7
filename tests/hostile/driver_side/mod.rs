//! A driver's half that breaks the rules, against our device.

mod beyond;
mod chains;
mod changing;
mod control;
mod frames;
mod messages;
mod packed;
mod queues;
mod session;
mod split;

use boardlane::net::features::Features;
use boardlane::spec::{net, virtio};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::Role;

use crate::attack::{Setup, Stage};
use crate::case::Table;

/// All that a device of one pair offers and a split queue can have, used in any order.
pub(crate) const SPLIT: Setup = Setup {
    stage: Stage::Running,
    features: Features::OFFER.minus(Features::of(&[
        net::F_MQ,
        virtio::F_RING_PACKED,
        virtio::F_IN_ORDER,
    ])),
    pairs: 1,
    dialect: Dialect::V2,
    window_only: false,
};

/// The same with packed queues.
pub(crate) const PACKED: Setup =
    Setup { features: SPLIT.features.union(Features::of(&[virtio::F_RING_PACKED])), ..SPLIT };

/// A device whose CPU reaches the window only; frames are copied by an engine.
pub(crate) const WINDOW_ONLY: Setup = Setup { window_only: true, ..SPLIT };

/// The ends have met, and no message was sent.
pub(crate) const MET: Setup = SPLIT.stage(Stage::Met);

pub(crate) fn tables() -> Vec<Table> {
    let table = |name, cases| Table { name, attacker: Role::Driver, cases };
    vec![
        table("split", split::cases()),
        table("packed", packed::cases()),
        table("chains", chains::cases()),
        table("frames", frames::cases()),
        table("queues", queues::cases()),
        table("control", control::cases()),
        table("messages", messages::cases()),
        table("session", session::cases()),
        table("changing", changing::cases()),
        table("beyond", beyond::cases()),
    ]
}
