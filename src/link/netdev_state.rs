//! `EVENT_LINK`: what the netdevs at both ends are set to, which virtio-net cannot carry both ways.
//!
//! Once HELLO has gone by, each end tells its netdev's MTU, admin state and MAC address, and again
//! whenever one of them changes. Only the latest state counts. On the way out it waits until the FIFO
//! has room, behind what the tunnel has to say. On the way in the owner hears of a change at once, but
//! of changes that come thick and fast with growing pauses: each costs it system calls and a log line.
//! A value that makes no sense is not taken, the others of its message are.
//!
//! An end that does not know the message ignores it and sends none: nothing is known of its netdev
//! then, and it counts as set up. The carrier is there while virtio's link status is up and the other
//! end's netdev is set up.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{Event, Link, Work};
use crate::net::control_driver::Command;
use crate::spec::{msg, net};
use crate::tunnel::message::{self, Body, Dialect, Hello, Message, NetdevState};

/// Shortest and longest pause after a change of the other end's netdev that the owner is told.
pub(super) const PACE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// MTUs that a netdev can have, in bytes: from IPv4's least (RFC 791) to a TAP's greatest.
const MTU: RangeInclusive<u16> = 68..=65521;

/// What the other end's netdev is set to, as far as it makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLink {
    /// Admin state.
    pub up: bool,
    /// The MTU in bytes that it would have by itself.
    pub mtu: Option<u16>,
    /// Its unicast Ethernet address.
    pub mac: Option<[u8; 6]>,
}

impl PeerLink {
    fn of(said: NetdevState) -> Self {
        let NetdevState { mtu, up, mac } = said;
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        Self {
            up,
            mtu: Some(mtu).filter(|mtu| MTU.contains(mtu)),
            mac: Some(mac).filter(|_| unicast),
        }
    }
}

/// Both ends' states, and what of them is still to be told.
#[derive(Debug, Default)]
pub(super) struct NetdevStates {
    own: Option<NetdevState>,
    unsent: bool,
    /// The other end has said HELLO in this session.
    greeted: bool,
    heard: Option<PeerLink>,
    told: Option<PeerLink>,
    /// When the owner may be told again, and the pause that this ends.
    tell_at: Option<Instant>,
    pause: Duration,
    /// virtio's link status.
    status_up: bool,
}

impl NetdevStates {
    /// A session begins: nothing is known of the other end.
    pub(super) fn begin(&mut self) {
        *self = Self { own: self.own, ..Self::default() };
    }

    /// Whether the other end has said HELLO: it is a program like this one.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Takes a message if it is an `EVENT_LINK`.
    pub(super) fn take(&mut self, dialect: Dialect, octets: &[u8]) -> bool {
        if octets.get(1) != Some(&msg::BUS_EVENT_LINK) {
            return false;
        }
        let Ok(Message { body: Body::EventLink(said), .. }) = message::decode(dialect, octets)
        else {
            return false;
        };
        if self.greeted {
            self.heard = Some(PeerLink::of(said));
        }
        true
    }

    /// Our state as a message, if it is still to be sent.
    pub(super) fn poll_message(
        &mut self,
        dialect: Dialect,
        out: &mut [u8; msg::MAX_LEN],
    ) -> Option<usize> {
        let own = self.own.filter(|_| self.greeted && self.unsent)?;
        self.unsent = false;
        let event = Message { dev_num: 0, token: 0, body: Body::EventLink(own) };
        Some(message::encode(dialect, &event, out))
    }

    /// When the owner is to be told of a change that waits.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.tell_at.filter(|_| self.heard != self.told)
    }
}

impl Link {
    /// What our netdev is set to, now or still; the other end is told of a change.
    pub fn handle_netdev(&mut self, now: Instant, own: NetdevState) {
        let changed = self.netdevs.own != Some(own);
        let moved = self.netdevs.own.is_none_or(|was| was.mac != own.mac);
        self.netdevs.own = Some(own);
        if moved {
            self.tell_mac();
        }
        self.netdevs.unsent |= changed;
        // Without a session it is no step towards one: who else is on the transport may not be known.
        if changed && self.core.is_some() {
            self.turn(now);
        }
    }

    /// What the other end's netdev is set to, if this session's peer has said it.
    pub fn peer_link(&self) -> Option<PeerLink> {
        self.netdevs.told.filter(|_| self.core.is_some())
    }

    /// Driver: tells the device our MAC address.
    pub(super) fn tell_mac(&mut self) {
        if let Some(own) = self.netdevs.own {
            self.command(net::F_CTRL_MAC_ADDR, Command::MacAddress(own.mac));
        }
    }

    /// The other end has said what it is: a program that begins anew has to hear of us again. In one
    /// session it is the same one, and the owner, whom each costs netlink requests, is told once.
    pub(super) fn greet(&mut self, hello: Hello) {
        let again = std::mem::replace(&mut self.netdevs.greeted, true);
        self.netdevs.unsent = true;
        if !again {
            self.events.push_back(Event::Peer(hello));
        }
    }

    /// Tells the owner what was heard, if it is time to.
    pub(super) fn tell_peer_link(&mut self, now: Instant) {
        let states = &mut self.netdevs;
        if self.core.is_none()
            || states.heard == states.told
            || states.tell_at.is_some_and(|at| now < at)
        {
            return;
        }
        let calm = states.tell_at.is_none_or(|at| now >= at + states.pause);
        states.pause = if calm { PACE[0] } else { PACE[1].min(2 * states.pause) };
        states.tell_at = Some(now + states.pause);
        states.told = states.heard;
        self.events.extend(states.heard.map(Event::PeerLink));
        if self.work == Work::Running {
            self.tell_carrier();
        }
    }

    /// virtio's link status, of a data path that runs.
    pub(super) fn link_status(&mut self, up: bool) {
        self.netdevs.status_up = up;
        self.tell_carrier();
    }

    fn tell_carrier(&mut self) {
        let peer_up = self.peer_link().is_none_or(|peer| peer.up);
        self.events.push_back(Event::Carrier(self.netdevs.status_up && peer_up));
    }
}
