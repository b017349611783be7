//! How the two ends of a link meet and talk, which each layout of the window has in its own way.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use super::{Core, Event, Link, LinkParams, reaches_window_only};
use crate::memory::{BusMemory, MemoryError};
use crate::spec::{amp_pci, msg, window};
use crate::tunnel::amp;
use crate::tunnel::fifo::{Fifo, FifoError};
use crate::tunnel::part::{Layout, MemoryEntry, Params, Reason, Role};
use crate::tunnel::session::{Change, Session};

/// This end's way to meet the other one.
#[derive(Debug)]
pub(super) enum Ends {
    Window(Box<Session>),
    AmpPci(Box<amp::session::Session>),
}

/// What carries messages in a session.
#[derive(Debug)]
pub(super) enum Pipe {
    Window(Fifo),
    AmpPci(amp::fifo::Fifo),
}

/// The layout's greatest message, in bytes.
pub(super) fn max_len(layout: Layout) -> usize {
    match layout {
        Layout::Boardlane => msg::MAX_LEN,
        Layout::AmpPci => amp_pci::SLOT_LEN,
    }
}

impl Ends {
    pub(super) fn new(
        now: Instant,
        mem: &BusMemory,
        params: &LinkParams,
    ) -> Result<Self, FifoError> {
        Ok(match params.layout {
            Layout::Boardlane => {
                Self::Window(Box::new(Session::new(now, mem, window_params(mem, params)?)?))
            }
            Layout::AmpPci => {
                let LinkParams { role, slot, heartbeat, .. } = *params;
                let window_addr = params.window.start;
                let params = amp::session::Params { role, window_addr, slot, heartbeat };
                Self::AmpPci(Box::new(amp::session::Session::new(now, mem, params)?))
            }
        })
    }

    pub(super) fn start(&mut self, now: Instant, epoch: u32, nonce: u64) {
        match self {
            Self::Window(session) => session.start(now, epoch, nonce),
            Self::AmpPci(session) => session.start(now, epoch),
        }
    }

    /// What the other end has left does not count at the next start.
    pub(super) fn distrust(&mut self) {
        if let Self::AmpPci(session) = self {
            session.distrust();
        }
    }

    pub(super) fn align(&mut self, origin: Instant) {
        match self {
            Self::Window(session) => session.align(origin),
            Self::AmpPci(session) => session.align(origin),
        }
    }

    pub(super) fn tick(&self, now: Instant) -> Instant {
        match self {
            Self::Window(session) => session.tick(now),
            Self::AmpPci(session) => session.tick(now),
        }
    }

    /// A random number of this session's, which is our epoch where there are epochs.
    pub(super) fn epoch(&self) -> u32 {
        match self {
            Self::Window(session) => session.epoch(),
            Self::AmpPci(session) => session.epoch(),
        }
    }

    pub(super) fn has_epochs(&self) -> bool {
        matches!(self, Self::Window(_))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Window(session) => session.poll_timeout(),
            Self::AmpPci(session) => session.poll_timeout(),
        }
    }

    /// Leaves in an orderly way; whom to ring.
    pub(super) fn shutdown(&mut self, mem: &BusMemory, pipe: Option<&mut Pipe>) -> Option<u32> {
        match self {
            Self::Window(session) => session.shutdown(mem),
            Self::AmpPci(session) => {
                let fifo = pipe.and_then(|pipe| match pipe {
                    Pipe::AmpPci(fifo) => Some(fifo),
                    Pipe::Window(_) => None,
                });
                session.shutdown(mem, fifo).then_some(u32::MAX)
            }
        }
    }

    /// Gives up what keeps others from being this end.
    pub(super) fn release(&mut self, mem: &BusMemory) {
        if let Self::Window(session) = self {
            session.release(mem);
        }
    }

    /// `alive`: who is on the transport, if it tells.
    pub(super) fn handle_look(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        alive: Option<&BTreeSet<u32>>,
        pipe: Option<&Pipe>,
    ) -> Option<Change<Pipe>> {
        match self {
            Self::Window(session) => {
                let alive = |id| alive.is_some_and(|alive| alive.contains(&id));
                session.handle_look(now, mem, &alive).map(|change| over(change, Pipe::Window))
            }
            Self::AmpPci(session) => {
                let alone = alive.is_some_and(BTreeSet::is_empty);
                let change = session.handle_look(now, mem, alone, pipe.and_then(Pipe::amp));
                change.map(|change| over(change, Pipe::AmpPci))
            }
        }
    }

    /// The transport says that this id has left; `alone`: nobody else is there.
    pub(super) fn handle_peer_gone(
        &mut self,
        mem: &BusMemory,
        id: u32,
        alone: bool,
    ) -> Option<Change<Pipe>> {
        match self {
            Self::Window(session) => {
                session.handle_peer_gone(mem, id).map(|change| over(change, Pipe::Window))
            }
            Self::AmpPci(session) => {
                session.handle_peer_gone(alone).map(|change| over(change, Pipe::AmpPci))
            }
        }
    }

    /// The transport does not tell who is there.
    pub(super) fn go_by_heartbeats(&mut self) {
        if let Self::Window(session) = self {
            session.go_by_heartbeats();
        }
    }

    /// This end has no way to ring the other one.
    pub(super) fn ring_nobody(&mut self) {
        if let Self::Window(session) = self {
            session.ring_nobody();
        }
    }

    pub(super) fn is_over(&self, mem: &BusMemory, pipe: Option<&Pipe>) -> Option<Reason> {
        match self {
            Self::Window(session) => session.is_over(mem),
            Self::AmpPci(session) => session.is_over(mem, pipe.and_then(Pipe::amp)),
        }
    }

    /// A message has come. `true`: it was meant for this layout's way to meet, not for the tunnel.
    pub(super) fn take(&mut self, octets: &[u8]) -> bool {
        match self {
            Self::Window(_) => false,
            Self::AmpPci(session) => session.take(octets),
        }
    }

    /// The tunnel takes no message for now.
    pub(super) fn hold(&mut self) {
        if let Self::AmpPci(session) = self {
            session.hold();
        }
    }

    /// A message of this layout's way to meet.
    pub(super) fn poll_message(&mut self, out: &mut [u8; msg::MAX_LEN]) -> Option<usize> {
        match self {
            Self::Window(_) => None,
            Self::AmpPci(session) => session.poll_message(out),
        }
    }

    /// Whether a message calls for a look.
    pub(super) fn has_news(&self) -> bool {
        matches!(self, Self::AmpPci(session) if session.has_news())
    }
}

impl Pipe {
    fn amp(&self) -> Option<&amp::fifo::Fifo> {
        match self {
            Self::AmpPci(fifo) => Some(fifo),
            Self::Window(_) => None,
        }
    }

    pub(super) fn has_message(&self, mem: &BusMemory) -> bool {
        match self {
            Self::Window(fifo) => fifo.has_message(mem),
            Self::AmpPci(fifo) => fifo.has_message(mem),
        }
    }

    /// Copies the next message's slot to the start of `out`: the slot's length, if there is a message.
    pub(super) fn receive(
        &mut self,
        mem: &BusMemory,
        out: &mut [u8; window::SLOT_LEN],
    ) -> Result<Option<usize>, FifoError> {
        let (there, len) = match self {
            Self::Window(fifo) => (fifo.receive(mem, out)?, window::SLOT_LEN),
            Self::AmpPci(fifo) => {
                let slot = out.first_chunk_mut().expect("slots here are shorter");
                (fifo.receive(mem, slot)?, amp_pci::SLOT_LEN)
            }
        };
        Ok(there.then_some(len))
    }

    /// A number that changes when the other end takes messages, and how many wait for it.
    pub(super) fn progress(&self, mem: &BusMemory) -> Result<(u32, u32), FifoError> {
        match self {
            Self::Window(fifo) => fifo.progress(mem),
            Self::AmpPci(fifo) => fifo.progress(mem),
        }
    }

    pub(super) fn has_room(&self, mem: &BusMemory) -> Result<bool, FifoError> {
        match self {
            Self::Window(fifo) => fifo.has_room(mem),
            Self::AmpPci(fifo) => fifo.has_room(mem),
        }
    }

    pub(super) fn send(&mut self, mem: &BusMemory, message: &[u8]) -> Result<bool, FifoError> {
        match self {
            Self::Window(fifo) => fifo.send(mem, message),
            Self::AmpPci(fifo) => fifo.send(mem, message),
        }
    }
}

/// The same change, with what carries messages as a pipe.
fn over<F>(change: Change<F>, pipe: impl FnOnce(F) -> Pipe) -> Change<Pipe> {
    match change {
        Change::Waiting(reason) => Change::Waiting(reason),
        Change::Up(peer, fifo) => Change::Up(peer, pipe(fifo)),
        Change::Ring(owner) => Change::Ring(owner),
        Change::Down(reason) => Change::Down(reason),
    }
}

/// What a session over our own header begins with.
fn window_params(mem: &BusMemory, params: &LinkParams) -> Result<Params, FifoError> {
    let entry = |kind, range: &Range<u64>| MemoryEntry {
        kind,
        bus_addr: range.start,
        len: range.end - range.start,
    };
    let header = u64::from(window::HEADER_LEN);
    let (mailbox, end, table) = match params.role {
        Role::Device => (params.window.start + header, params.window.end, vec![]),
        Role::Driver => (
            params.driver_memory.start,
            params.driver_memory.end,
            vec![
                entry(window::MEMORY_WINDOW, &params.window),
                entry(window::MEMORY_DRIVER, &params.driver_memory),
            ],
        ),
    };
    let mailbox_len = u64::from(window::mailbox_len(window::SLOTS));
    // The window has room for both.
    let window_mailbox = params.window.start + header + mailbox_len;
    for (at, end) in [(mailbox, end), (window_mailbox, params.window.end)] {
        if at + mailbox_len > end {
            let error = Some(MemoryError::Outside { addr: at, len: mailbox_len });
            return Err(FifoError::Mailbox { slots: window::SLOTS, error });
        }
    }
    Ok(Params {
        role: params.role,
        window_addr: params.window.start,
        window_len: u32::try_from(params.window.end - params.window.start).unwrap_or(u32::MAX),
        owner: params.owner,
        vectors: params.vectors,
        mailbox,
        window_mailbox,
        dma_only: params.role == Role::Device && reaches_window_only(mem),
        table,
        slot: params.slot,
        heartbeat: params.heartbeat,
        dead_after: 4 * params.heartbeat,
    })
}

impl Link {
    /// Whether the other end is told of available and used buffers by messages.
    pub(super) fn notifies_in_band(&self) -> bool {
        self.params.layout == Layout::AmpPci
    }

    /// Tells the other end, by message, that there is something in a queue: once, however often it is
    /// asked for before there is room.
    pub(super) fn notify(&mut self, queue: u16) {
        match &mut self.core {
            Some(Core::Driver { tunnel, .. }) => tunnel.notify_available(queue),
            Some(Core::Device { tunnel, model, .. }) => tunnel.notify_used(queue, model.as_ref()),
            None => {}
        }
    }

    /// Rings the other end for messages: where its id is not known, whoever is there.
    pub(super) fn ring(&mut self, owner: u32, vector: u16) {
        let ids = match (&self.session, &self.alive) {
            (Ends::AmpPci(_), Some(alive)) => alive.iter().copied().collect(),
            _ => vec![owner],
        };
        self.events.extend(ids.into_iter().map(|owner| Event::Ring { owner, vector }));
    }
}
