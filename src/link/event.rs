//! What a link asks of its owner.

use std::sync::Arc;

use super::{PeerLink, State};
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::net::path::Path;
use crate::net::settings::Settings;
use crate::spec::net;
use crate::tunnel::message::Hello;

/// What the owner of the link must do or learn.
#[derive(Debug)]
pub enum Event {
    /// The state, and why.
    State(State, String),
    /// Ring this peer's doorbell.
    Ring {
        /// Its id on the transport.
        owner: u32,
        /// The vector.
        vector: u16,
    },
    /// Queues are set up: the netdev is to do with these features. Data paths follow.
    Start(Start),
    /// Give this data path to a worker.
    StartPair(StartPair),
    /// Take this pair's data path back from its worker, with nothing under way, and give it to
    /// [`handle_pair_stopped`](super::Link::handle_pair_stopped).
    StopPair(u16),
    /// Stop all workers, whose data paths are done with, then call [`handle_stopped`](super::Link::handle_stopped).
    Stop,
    /// The driver takes these offloads from now on.
    Offloads(Offloads),
    /// The device asks that the netdev's address is announced to its network.
    Announce,
    /// An in-band notification came: wake the worker.
    Wake,
    /// What the other end says it is.
    Peer(Hello),
    /// What the other end's netdev is set to, or it has changed.
    PeerLink(PeerLink),
    /// Whether the netdev is to have a carrier.
    Carrier(bool),
}

/// What was negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The negotiated features.
    pub features: Features,
    /// The device's config space.
    pub config: net::Config,
}

/// A pair's data path.
#[derive(Debug)]
pub struct StartPair {
    /// Number of the pair.
    pub pair: u16,
    /// The data path.
    pub path: Box<dyn Path>,
    /// The peer whose doorbell the worker rings, and the vector; `None` if it polls.
    pub doorbell: Option<(u32, u16)>,
    /// The worker polls: its own doorbell will not be rung.
    pub polls: bool,
    /// There is no doorbell but the link: what the worker rings for, queue by queue, is for
    /// [`handle_notify`](super::Link::handle_notify).
    pub in_band: bool,
    /// What the driver sets at run time; the device's.
    pub settings: Option<Arc<Settings>>,
}
