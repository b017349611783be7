//! Messages in and out: between the FIFOs and the link's half of the tunnel.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Core, Ends, Link, State, Work};
use crate::spec::{msg, window};
use crate::tunnel::fifo::FifoError;
use crate::tunnel::message::{self, DecodeError, Dialect};
use crate::tunnel::session::LOOK_TIME;

/// Why a device's end negotiates still, with what did not please it behind.
pub const REFUSED: &str = "FEATURES_OK is refused";

/// Messages taken per turn; a flood waits for the next turn.
const MESSAGES_PER_TURN: usize = 64;
/// Time between the driver's keepalives, or a heartbeat if that is longer.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Time between looks for messages, for an end without a doorbell, while the ends negotiate: with answers
/// that take one look each, they come to an end in a tenth of a second.
const POLL_TIME: Duration = Duration::from_millis(2);

impl Link {
    /// Takes and sends messages; an error is the peer's fault.
    pub(super) fn turn_messages(&mut self, now: Instant) -> Result<(), Broken> {
        self.more = false;
        let awaits = self.polls() && self.work != Work::Running;
        self.next_poll = now + if awaits { POLL_TIME } else { LOOK_TIME };
        if let Some(Core::Driver { tunnel, next_ping, .. }) = &mut self.core {
            tunnel.handle_timeout(now);
            if self.work == Work::Running && now >= *next_ping {
                tunnel.ping(now);
                *next_ping = next_keepalive(&self.session, self.params.heartbeat, now);
            }
        }
        let mut slot = [0; window::SLOT_LEN];
        for taken in 0.. {
            self.tell_peer_link(now);
            self.drain(now)?;
            self.send()?;
            let (Some(core), Some(fifo)) = (&mut self.core, &mut self.fifo) else { break };
            if taken == MESSAGES_PER_TURN {
                self.more = fifo.has_message(&self.mem);
                break;
            }
            if matches!(core, Core::Device { tunnel, .. } if !tunnel.ready()) {
                self.session.hold();
                break;
            }
            let Some(len) = fifo.receive(&self.mem, &mut slot)? else { break };
            let octets = &slot[..len];
            if let Some(fault) = fault(self.params.dialect, octets) {
                return Err(fault);
            }
            if self.session.take(octets) || self.netdevs.take(self.params.dialect, octets) {
                continue;
            }
            match core {
                Core::Driver { tunnel, .. } => tunnel.handle_message(now, octets),
                Core::Device { tunnel, model, .. } => {
                    let was_refused = model.refused().is_some();
                    tunnel.handle_message(now, octets, model.as_mut());
                    let refused = model.refused().filter(|_| !was_refused).map(ToString::to_string);
                    if let Some(why) = refused {
                        self.say(State::Negotiating, format!("{REFUSED}: {why}"));
                        self.futile += 1;
                        self.may_try_again()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// How long the answer to a keepalive took, once each; the driver's.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        match &mut self.core {
            Some(Core::Driver { tunnel, .. }) => tunnel.take_round_trip(),
            _ => None,
        }
    }

    /// Sends what the tunnel has, and what our netdev is set to, as far as the FIFO has room.
    pub(super) fn send(&mut self) -> Result<(), Broken> {
        let (Some(core), Some(fifo)) = (&mut self.core, &mut self.fifo) else { return Ok(()) };
        let mut sent = false;
        let mut out = [0; msg::MAX_LEN];
        while fifo.has_room(&self.mem)? {
            let len = self.session.poll_message(&mut out).or_else(|| match core {
                Core::Driver { tunnel, .. } => tunnel.poll_message(&mut out),
                Core::Device { tunnel, .. } => tunnel.poll_message(&mut out),
            });
            let own = || self.netdevs.poll_message(self.params.dialect, &mut out);
            let Some(len) = len.or_else(own) else { break };
            fifo.send(&self.mem, &out[..len])?;
            sent = true;
        }
        if let (true, Some(peer)) = (sent, &self.peer) {
            let owner = peer.owner;
            self.ring(owner, 0);
        }
        Ok(())
    }
}

/// With a heartbeat, so that it costs no wake-up of its own: the last one within [`KEEPALIVE`]. Where
/// heartbeats are rarer, by itself: it also makes good a doorbell that was lost.
pub(super) fn next_keepalive(session: &Ends, heartbeat: Duration, now: Instant) -> Instant {
    match KEEPALIVE.checked_sub(heartbeat) {
        Some(rest) => session.tick(now + rest),
        None => now + KEEPALIVE,
    }
}

/// Octets that are a message in neither dialect are a fault. One that is not known may be a later
/// version's, and one of the other dialect has a reason of its own: both are the tunnel's to tell.
fn fault(dialect: Dialect, slot: &[u8]) -> Option<Broken> {
    let no_message = |dialect| match message::decode(dialect, slot) {
        Ok(_) | Err(DecodeError::Unknown { .. }) => None,
        Err(e) => Some(e),
    };
    let error = no_message(dialect)?;
    no_message(dialect.other()).map(|_| Broken(format!("not a message: {error}")))
}

/// What the other end did wrong.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FifoError> for Broken {
    fn from(e: FifoError) -> Self {
        Self(e.to_string())
    }
}
