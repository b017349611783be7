//! Two ends find each other on an "AMP over PCI" bus, whose messages are all that there is for it.
//!
//! Theory of operation. The driver begins: it takes and forgets what its inbox holds, which was said to
//! somebody before it, sends `GET_DEVICES(0, 32)`, and again each second once that is taken or when the
//! device says that it has come or gone. The answer counts if it is what Linux' driver takes, offset 0 and count
//! 32, and has device 0. That is its session, in which it sends a PING each second. The device's session
//! begins with the first message, whatever it is; the tunnel answers. It forgets what waits only after its
//! driver has broken a rule: a driver that came first has asked already, and Linux' asks once.
//!
//! Who lives. A driver looks back each second: where it has heard nothing at all since its last look, when
//! it sent a PING, it gives the bus up, as Linux' does. A device looks back twice a second. If it has heard
//! nothing for a second it sends a PING of its own, which a driver has to answer, and after
//! [`DEVICE_PATIENCE`] it gives the driver up. It sends one also while its tunnel takes nothing: the answer
//! to a reset may wait for its workers, and the driver's PING behind that. A transport that says who is
//! there is believed: where nobody is left, the other end is gone.
//!
//! A restart of the device is told by `EVENT_DEVICE` with REMOVED, which a device sends when it leaves and
//! when it begins. The driver leaves, and asks for devices anew. If that event is lost, the status that a
//! running driver asks for once a second is 0. A restart of the driver is told by nothing but its requests:
//! it asks for devices, and then resets the device, as virtio has every driver do. A driver that leaves in
//! an orderly way resets it too. An end whose own indices are not as it left them starts over: the memory
//! was set anew, or somebody else takes himself for this end.
//!
//! Why old rings are not touched. The driver uses the memory of rings again only after the device has
//! answered a reset, or is one that has begun anew: it sets queues up behind that, in the same order of
//! requests, and the answer to a reset waits in dialect v1 until the device's workers are done. Answers are
//! known by their tokens, which begin at random, and come in order. A device that begins has status 0
//! and no queue, and what waits in its inbox is one request and events at most: that sets up no queue. One
//! that gives the driver up stops its workers first, and begins only then.
//!
//! What this layout cannot give, and the window's own header does: there is no epoch, so that a driver
//! which died is read from and written to until its device hears of it by the transport, by a reset, or by
//! its silence, five seconds. There is no owner, so that two drivers or two devices at one FIFO disturb each
//! other, and are found out only by indices that change. What waits for a device that never comes fills the
//! queue, and a reset or an event for which there is no room is not told.

use std::time::{Duration, Instant};

use super::fifo::{Area, Fifo};
use crate::memory::BusMemory;
use crate::spec::{amp_pci as a, msg};
use crate::tunnel::fifo::FifoError;
use crate::tunnel::message::{self, Body, Dialect, Message};
use crate::tunnel::part::{Peer, Reason, Role};
use crate::tunnel::session::{Change, LOOK_TIME};

/// Between a driver's looks back, and its PINGs.
pub const SECOND: Duration = Duration::from_secs(1);
/// Between a device's looks back.
const HALF: Duration = Duration::from_millis(500);
/// How long a device waits for a message of its driver, in seconds.
pub const DEVICE_PATIENCE: u32 = 5;

/// What makes an end.
#[derive(Clone, Debug)]
pub struct Params {
    /// Which end it is.
    pub role: Role,
    /// The bus address of the window, at whose start the FIFO is.
    pub window_addr: u64,
    /// The slot's number, which no message tells.
    pub slot: u32,
    /// How often messages are looked for without a doorbell.
    pub heartbeat: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before `start`, and after `Down`.
    Stopped,
    /// Our indices are to be read.
    Resuming,
    /// Nobody has been heard of.
    Waiting,
    Up,
}

/// One end of the bus.
#[derive(Debug)]
pub struct Session {
    params: Params,
    area: Area,
    phase: Phase,
    epoch: u32,
    /// Heartbeats come at whole intervals after it.
    origin: Instant,
    next_beat: Instant,
    next_look: Instant,
    /// When to look back.
    next_back: Instant,
    /// Messages that have come since the last look back.
    heard: u32,
    /// Looks back that found nothing.
    silent: u32,
    /// Driver: when devices were last asked for.
    asked: Option<Instant>,
    /// A PING is to be sent.
    ping: bool,
    /// The tunnel takes no message for now.
    held: bool,
    /// What waits in the inbox is to be forgotten.
    distrusts: bool,
    /// Why the session is over, as a message said.
    over: Option<Reason>,
    reason: Option<Reason>,
    /// The queues, before the session is up; then the link has them.
    fifo: Option<Fifo>,
}

impl Session {
    /// A stopped end over a window that must be mapped.
    pub fn new(now: Instant, mem: &BusMemory, params: Params) -> Result<Self, FifoError> {
        Ok(Self {
            area: Area::at(mem, params.window_addr, params.role)?,
            params,
            phase: Phase::Stopped,
            epoch: 0,
            origin: now,
            next_beat: now,
            next_look: now,
            next_back: now,
            heard: 0,
            silent: 0,
            asked: None,
            ping: false,
            held: false,
            distrusts: false,
            over: None,
            reason: None,
            fifo: None,
        })
    }

    /// Begins anew; the rings must be quiet. `epoch` is a random number, which nobody is told.
    pub fn start(&mut self, now: Instant, epoch: u32) {
        self.epoch = epoch;
        self.phase = Phase::Resuming;
        self.fifo = None;
        self.reason = None;
        self.next_look = now;
    }

    /// The driver has broken a rule: what waits in the inbox then is not looked at by the next session.
    pub fn distrust(&mut self) {
        self.distrusts = true;
    }

    /// As [`tunnel::session`](crate::tunnel::session::Session::align) has it.
    pub fn align(&mut self, origin: Instant) {
        self.origin = origin;
    }

    /// The first heartbeat's time after `now`.
    pub fn tick(&self, now: Instant) -> Instant {
        let interval = self.params.heartbeat.as_nanos().max(1);
        let past = now.saturating_duration_since(self.origin).as_nanos() % interval;
        now + Duration::from_nanos(u64::try_from(interval - past).unwrap_or(u64::MAX))
    }

    /// The number that [`Session::start`] was given.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When to look again at the latest; `None` while stopped.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped => None,
            Phase::Up => Some(self.next_beat.min(self.next_back)),
            _ => Some(self.next_look),
        }
    }

    /// Looks, and takes at most one step. `alone`: the transport says that nobody else is there; `fifo`:
    /// the queues, while the session is up. To be called again while it returns something.
    pub fn handle_look(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        alone: bool,
        fifo: Option<&Fifo>,
    ) -> Option<Change<Fifo>> {
        let change = match self.phase {
            Phase::Stopped => return None,
            Phase::Resuming => self.resume(now, mem),
            Phase::Waiting => self.seek(now, mem, alone),
            Phase::Up => self.watch(now, mem, fifo),
        };
        if change.is_none() && now >= self.next_look {
            self.next_look = now + LOOK_TIME;
        }
        if matches!(change, Some(Change::Down(_))) {
            self.phase = Phase::Stopped;
        }
        change
    }

    /// The transport says that somebody has left; `alone`: nobody else is there.
    pub fn handle_peer_gone(&mut self, alone: bool) -> Option<Change<Fifo>> {
        if self.phase != Phase::Up || !alone {
            return None;
        }
        self.phase = Phase::Stopped;
        let gone = Reason::Gone(self.params.role.other());
        Some(Change::Down(self.over.take().unwrap_or(gone)))
    }

    /// Leaves in an orderly way, if the session is up: `true` if that is told. The driver resets the
    /// device, and that one says that it is not there any more.
    pub fn shutdown(&mut self, mem: &BusMemory, fifo: Option<&mut Fifo>) -> bool {
        let body = match self.params.role {
            Role::Driver => Body::SetDeviceStatus { status: 0 },
            Role::Device => REMOVED,
        };
        self.phase = Phase::Stopped;
        fifo.is_some_and(|fifo| fifo.is_ours(mem) && put(mem, fifo, body))
    }

    /// Why the session is over, though no look has found it yet; `fifo` as in [`Session::handle_look`].
    pub fn is_over(&self, mem: &BusMemory, fifo: Option<&Fifo>) -> Option<Reason> {
        let fifo = fifo.filter(|_| self.phase == Phase::Up)?;
        if self.area.is_dead(mem) {
            return Some(Reason::AllOnes);
        }
        let foreign = Reason::Indices(self.params.role);
        self.over.clone().or_else(|| (!fifo.is_ours(mem)).then_some(foreign))
    }

    /// While up: a message has come. `true`: it was the bus's, and the tunnel does not need it.
    pub fn take(&mut self, octets: &[u8]) -> bool {
        self.heard = self.heard.saturating_add(1);
        self.held = false;
        match bus_message(octets) {
            Some(Body::Pong { .. }) => true,
            Some(Body::Devices { .. }) => self.params.role == Role::Driver,
            Some(Body::EventDevice { number, state }) if self.params.role == Role::Driver => {
                if (number, state) == (0, msg::DEVICE_REMOVED) {
                    self.over = Some(Reason::Shutdown(Role::Device));
                }
                true
            }
            _ => false,
        }
    }

    /// While up: the tunnel takes no message for now.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Whether a message has ended the session, which the next look tells.
    pub fn has_news(&self) -> bool {
        self.over.is_some()
    }

    /// While up: a message of the bus that is to be sent.
    pub fn poll_message(&mut self, out: &mut [u8; msg::MAX_LEN]) -> Option<usize> {
        std::mem::take(&mut self.ping).then(|| encode(Body::Ping { data: 1 }, out))
    }

    fn resume(&mut self, now: Instant, mem: &BusMemory) -> Option<Change<Fifo>> {
        if self.area.is_dead(mem) {
            return self.wait(now, Reason::AllOnes);
        }
        let other = self.params.role.other();
        let Some(mut fifo) = self.area.resume(mem) else {
            return self.wait(now, Reason::NotReady(other));
        };
        let mut ring = false;
        if self.params.role == Role::Driver || self.distrusts {
            fifo.discard(mem);
        }
        if self.params.role == Role::Device {
            ring = put(mem, &mut fifo, REMOVED);
        }
        self.distrusts = false;
        self.asked = None;
        (self.ping, self.held) = (false, false);
        self.over = None;
        self.fifo = Some(fifo);
        self.phase = Phase::Waiting;
        self.next_look = now;
        ring.then_some(Change::Ring(u32::MAX)).or_else(|| self.wait(now, Reason::NotReady(other)))
    }

    /// Is there somebody?
    fn seek(&mut self, now: Instant, mem: &BusMemory, alone: bool) -> Option<Change<Fifo>> {
        let other = self.params.role.other();
        let mut fifo = self.fifo?;
        let found = match self.params.role {
            _ if !fifo.is_ours(mem) => {
                self.phase = Phase::Resuming;
                return self.wait(now, Reason::NotReady(other));
            }
            Role::Device if alone || !fifo.has_message(mem) => Ok(None),
            Role::Device => Ok(Some(true)),
            Role::Driver => self.answers(mem, &mut fifo),
        };
        self.fifo = Some(fifo);
        match found {
            Ok(Some(true)) => {
                self.fifo = None;
                self.reason = None;
                self.phase = Phase::Up;
                // As if something had been heard just now.
                (self.heard, self.silent) = (1, 0);
                self.ping = self.params.role == Role::Driver;
                self.next_beat = self.tick(now);
                self.next_back = self.next_look_back(now);
                let slot = self.params.slot;
                let peer = Peer { owner: u32::MAX, slot, ..Peer::default() };
                Some(Change::Up(peer, fifo))
            }
            Ok(Some(false)) => self.wait(now, Reason::NoDevice),
            Ok(None) if self.params.role == Role::Driver && self.asks(now, mem) => {
                self.next_look = now + LOOK_TIME;
                Some(Change::Ring(u32::MAX))
            }
            // A bus without the device stays one till it says otherwise.
            Ok(None) if self.reason == Some(Reason::NoDevice) => self.wait(now, Reason::NoDevice),
            Ok(None) => self.wait(now, Reason::NotReady(other)),
            // It may have set its index anew, as it started.
            Err(error) => {
                self.phase = Phase::Resuming;
                self.wait(now, Reason::Fifo(error))
            }
        }
    }

    /// Driver: takes what has come. `true`: the device is there; `false`: it is not among those that are.
    fn answers(&mut self, mem: &BusMemory, fifo: &mut Fifo) -> Result<Option<bool>, FifoError> {
        let mut slot = [0; a::SLOT_LEN];
        // As many as fit, or a flood would hold us up.
        for _ in 1..a::SLOTS {
            if !fifo.receive(mem, &mut slot)? {
                break;
            }
            match bus_message(&slot) {
                Some(Body::Devices { offset: 0, count: a::DEVICES, bitmap, .. }) => {
                    return Ok(Some(bitmap.first().is_some_and(|first| first & 1 == 1)));
                }
                // Whatever it says, it is there to be asked.
                Some(Body::EventDevice { .. }) => self.asked = None,
                _ => {}
            }
        }
        Ok(None)
    }

    /// Driver: asks for devices, if it is time and the last request does not wait still.
    fn asks(&mut self, now: Instant, mem: &BusMemory) -> bool {
        let Some(fifo) = &mut self.fifo else { return false };
        let due = match self.asked {
            None => true,
            Some(asked) => now >= asked + SECOND && fifo.progress(mem).is_ok_and(|(_, n)| n == 0),
        };
        if !due || !put(mem, fifo, Body::GetDevices { offset: 0, count: a::DEVICES }) {
            return false;
        }
        self.asked = Some(now);
        true
    }

    fn watch(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        fifo: Option<&Fifo>,
    ) -> Option<Change<Fifo>> {
        if let Some(reason) = self.over.take() {
            return Some(Change::Down(reason));
        }
        if now >= self.next_beat {
            self.next_beat = self.tick(now);
        }
        if now < self.next_back {
            return None;
        }
        self.next_back = self.next_look_back(now);
        if let Some(reason) = self.is_over(mem, fifo) {
            return Some(Change::Down(reason));
        }
        // What waits has come, too: this end may have slept.
        let waits = || fifo.is_some_and(|fifo| fifo.has_message(mem));
        let silent = std::mem::take(&mut self.heard) == 0 && !waits();
        self.silent = if silent { self.silent + 1 } else { 0 };
        let (other, looks, patience) = match self.params.role {
            Role::Driver => (Role::Device, 1, 1),
            Role::Device => (Role::Driver, 2 * DEVICE_PATIENCE, DEVICE_PATIENCE),
        };
        if self.silent >= looks {
            return Some(Change::Down(Reason::Mute(other, patience)));
        }
        self.ping = self.params.role == Role::Driver || self.held || self.silent >= 2;
        None
    }

    /// When to look back next: with a heartbeat, so that it costs no wake-up of its own.
    fn next_look_back(&self, now: Instant) -> Instant {
        let interval = if self.params.role == Role::Driver { SECOND } else { HALF };
        match interval.checked_sub(self.params.heartbeat) {
            Some(rest) => self.tick(now + rest),
            None => now + interval,
        }
    }

    fn wait(&mut self, now: Instant, reason: Reason) -> Option<Change<Fifo>> {
        self.next_look = now + LOOK_TIME;
        if self.reason.as_ref() == Some(&reason) {
            return None;
        }
        self.reason = Some(reason.clone());
        Some(Change::Waiting(reason))
    }
}

const REMOVED: Body = Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED };

/// What a message of the bus says.
fn bus_message(octets: &[u8]) -> Option<Body> {
    let of_bus = octets.first().is_some_and(|kind| kind & msg::TYPE_BUS != 0);
    let message = of_bus.then(|| message::decode(Dialect::V1, octets).ok())?;
    message.map(|message| message.body)
}

fn encode(body: Body, out: &mut [u8; msg::MAX_LEN]) -> usize {
    message::encode(Dialect::V1, &Message { dev_num: 0, token: 0, body }, out)
}

/// Sends a message; `false` if there is no room, or the other end's index is wrong.
fn put(mem: &BusMemory, fifo: &mut Fifo, body: Body) -> bool {
    let mut out = [0; msg::MAX_LEN];
    let len = encode(body, &mut out);
    fifo.send(mem, &out[..len]).unwrap_or(false)
}
