//! What ends a session, how soon that is known, and what is said then.
//!
//! Each bound runs from the last sign of life; at the default heartbeat of 250 ms these are the times.
//!
//! | cause | how it is known | bound | state, and its reason |
//! |---|---|---|---|
//! | the board is in reset, or off the bus | the header reads as all ones, at a heartbeat or when something else looks broken | a heartbeat, 250 ms | down: window reads as all ones |
//! | the other end hangs | its heartbeat in the header stands still | four heartbeats, 1 s | down: … is silent: its heartbeat stands still |
//! | it started anew | another epoch, at a heartbeat or a doorbell | a heartbeat | down: … restarted |
//! | it stopped in an orderly way | its epoch is 0, and it rings | a heartbeat, mostly at once | down: … stopped |
//! | its process is gone | the transport says so, if it tells who is there | at once | down: … is gone |
//! | it takes no messages | the FIFO's tail stands still over what was sent | the board 2.5 s, the master 10 s | quarantined: … takes no messages |
//! | it takes them and does not answer (driver) | no answer to three attempts of a request; while the link is up a PING asks once a second | 3 s | quarantined: PING not answered in 3 attempts of 1s |
//! | it answers, and its reset does not end (driver) | the status that it answers | 3 s | quarantined: device does not finish its reset |
//! | it does not carry out a command (driver) | no used buffer in the control queue | 3 s | quarantined: controlq: … |
//! | it breaks a ring, or a message | what is checked does not hold | when it is read | quarantined; at the board first down, and the driver is told by NEEDS_RESET |
//!
//! Over "AMP over PCI" there is neither header nor heartbeat; [`tunnel::amp::session`](crate::tunnel::amp::session)
//! has its own: a board that says nothing for a second or two, a master for five, is silent, one that
//! begins anew or leaves says so by a message, and all ones are looked for once a second.
//!
//! A window of all ones explains every other fault, so it is looked at first and quarantines nobody. An
//! end that keeps its heartbeat and answers nothing breaks virtio-msg's rule that each request has its
//! answer, so it is kept away with growing delay. A doorbell that is lost is no end of anything: FIFO and
//! rings are looked at once a heartbeat, and the keepalive asks for status and config space, which a
//! lost event would have told.

use std::time::{Duration, Instant};

use super::messages::Broken;
use super::{Core, Link, State, Work};
use crate::tunnel::part::Role;

/// How long messages may lie with a device that takes none of them. An attempt of a request is made, and
/// rung for, once a second: this is three of them.
const UNTAKEN_BY_DEVICE: Duration = Duration::from_millis(2500);
/// And with a driver: what a device says unasked is rung for once, and a driver may have reasons to be late.
const UNTAKEN_BY_DRIVER: Duration = Duration::from_secs(10);

/// Since when the other end has taken none of the messages that wait for it.
#[derive(Debug)]
pub(super) struct Untaken {
    /// How long it may.
    most: Duration,
    tail: u32,
    since: Option<Instant>,
}

impl Untaken {
    /// At this end, in a session that begins.
    pub(super) fn new(role: Role) -> Self {
        let most = match role {
            Role::Driver => UNTAKEN_BY_DEVICE,
            Role::Device => UNTAKEN_BY_DRIVER,
        };
        Self { most, tail: 0, since: None }
    }

    /// When the other end has had enough time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + self.most)
    }

    /// The other end has taken so many, and others may wait: whether it still has time.
    fn handle(&mut self, now: Instant, tail: u32, waiting: bool) -> bool {
        if !waiting || tail != self.tail {
            self.since = None;
        }
        self.tail = tail;
        !waiting || now < *self.since.get_or_insert(now) + self.most
    }
}

impl Link {
    /// The transport does not tell who is on it, so heartbeats do; `handle_peers` is never called.
    pub fn go_by_heartbeats(&mut self) {
        self.alive = None;
        self.session.go_by_heartbeats();
    }

    /// This end has no way to ring the other one.
    pub fn ring_nobody(&mut self) {
        self.session.ring_nobody();
    }

    /// Whether this end has to look by itself: nobody rings it.
    pub(super) fn polls(&self) -> bool {
        self.params.vectors == 0 || self.peer.as_ref().is_some_and(|peer| peer.mute)
    }

    /// Whether the other end takes what it is sent.
    pub(super) fn check_taken(&mut self, now: Instant) -> Result<(), Broken> {
        let Some(fifo) = &self.fifo else { return Ok(()) };
        let (tail, unread) = fifo.progress(&self.mem)?;
        if self.untaken.handle(now, tail, unread > 0) {
            return Ok(());
        }
        let (other, time) = (self.params.role.other().name(), self.untaken.most.as_secs_f32());
        Err(Broken(format!("{other} takes no messages: {unread} have waited for {time} s")))
    }

    /// A worker cannot go on.
    pub(super) fn broken(&mut self, now: Instant, reason: &str) {
        match &mut self.core {
            _ if self.work != Work::Running => {}
            // The driver is told, and resets the device.
            Some(Core::Device { tunnel, model, control }) => {
                *control = None;
                model.needs_reset(reason);
                tunnel.notify_status_changed(model.as_ref());
                self.say(State::Down, reason.to_owned());
                self.stop_workers(now);
                if let Err(e) = self.may_try_again() {
                    self.offend(now, e.to_string());
                }
            }
            Some(Core::Driver { .. }) => self.offend(now, reason.to_owned()),
            None => {}
        }
    }
}
