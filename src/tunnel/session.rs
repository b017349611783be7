//! Two ends find each other in a window: owners, epochs, states, heartbeats.
//!
//! Theory of operation. Each end has a part of the window's header that it alone writes, and walks
//! `INIT → READY → RUN`. A *session* is a pair of epochs: it is up when both ends are in `RUN` and
//! each echoes the other's epoch. Whatever breaks it (a new epoch, an orderly stop, a heartbeat that
//! stands still), an end leaves it by drawing a new epoch and starting from `INIT`; it does so only
//! after its rings are quiet, so a peer that sees the new epoch knows that nobody writes to the old
//! rings any more.
//!
//! Why this converges. An end goes to `RUN` only from `READY`, and only when the peer is `READY`, or
//! is in `RUN` and echoes *this* epoch. So a peer that runs with somebody who is gone must first
//! leave that session by itself, and it does, because it sees an epoch it does not echo. Two ends
//! that draw new epochs at the same moment meet in `READY`.
//!
//! Who writes the counts of a mailbox: the other end alone, and it sets them to zero just before it
//! goes to `RUN`. Nobody reads them before that, so leftovers of a dead end do no harm.
//!
//! Owners. A part is taken by writing one's id and a random nonce, waiting [`CLAIM_TIME`], and
//! finding the nonce still there. A live owner wins, and only a live peer is met; whether one lives is
//! what the transport says of its id, or its heartbeat where nothing is said. An owner that stops keeps its claim until its rings are quiet.
//!
//! Far reads. While a session is up, one 8-byte load per heartbeat takes the peer's epoch and
//! heartbeat. Everything else is read only before that.
//!
//! Use: `start`, then `handle_look` whenever the doorbell rang, the transport reported a peer, or
//! [`Session::poll_timeout`] has passed; it returns what changed. After `Change::Down` the caller
//! makes its rings quiet and calls `start` again.

mod header;
mod presence;
mod watch;

use std::time::{Duration, Instant};

use super::fifo::{Fifo, FifoError, Mailbox};
use super::part::{MemoryEntry, Params, Peer, Reason, Role, read_pair, write_pair};
use crate::memory::{BusMemory, MemoryError, Span, View, fence_full};
use crate::planted::{Bug, planted};
use crate::spec::window as w;
use presence::Presence;

/// How long a claim must stand before it counts.
pub const CLAIM_TIME: Duration = Duration::from_millis(20);
/// How often the header is looked at while there is no session.
pub const LOOK_TIME: Duration = Duration::from_millis(50);

/// Looks at a peer's part that a doorbell may bring about before a heartbeat has to pay for them.
const MOST_LOOKS: u32 = 4;

/// What a look found out; `F` is what carries messages.
#[derive(Debug)]
pub enum Change<F = Fifo> {
    /// There is no session yet, because of this; said once per reason.
    Waiting(Reason),
    /// The session is up. The doorbell must be rung, as the peer may wait for it.
    Up(Peer, F),
    /// Our part changed: ring the doorbell of this peer, if it is there.
    Ring(u32),
    /// The session is over, or our claim is lost.
    Down(Reason),
}

/// Says of an id on the transport whether it is there.
pub type Alive<'a> = &'a dyn Fn(u32) -> bool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before `start`, and after `Down`.
    Stopped,
    /// The part is not ours, or not yet; `since` is when we wrote our nonce.
    Claiming { since: Option<Instant> },
    /// `READY`: looks for a peer.
    Ready,
    /// `RUN`: echoes the peer's epoch, waits for it to echo ours.
    Running { peer: u32 },
    /// Both run.
    Up { peer: u32 },
}

/// One end's view of a window's header.
#[derive(Debug)]
pub struct Session {
    params: Params,
    window: Span,
    own_mailbox: Mailbox,
    /// The device's CPU reaches the window only.
    dma_only: bool,
    /// This end can ring nobody.
    mute: bool,
    phase: Phase,
    epoch: u32,
    nonce: u64,
    heartbeat: u32,
    /// Whose id stood in the peer's part when it was met.
    peer_id: u32,
    /// Heartbeats come at whole intervals after it.
    origin: Instant,
    next_beat: Instant,
    next_look: Instant,
    peer_beat: u32,
    peer_heard: Instant,
    said: Option<Reason>,
    fifo: Option<Fifo>,
    /// While up: how often the peer's part may be looked at; each heartbeat adds one.
    looks: u32,
    /// The transport does not tell who is there.
    untold: bool,
    /// What heartbeats tell of the peer, and of who claims our part.
    seen: [Presence; 2],
}

impl Session {
    /// A stopped session over the window that `params` names, which must be mapped.
    pub fn new(now: Instant, mem: &BusMemory, params: Params) -> Result<Self, FifoError> {
        let mailbox = |error| FifoError::Mailbox { slots: w::SLOTS, error: Some(error) };
        assert!(params.table.len() <= w::MEMORY_ENTRIES, "the table has room for our memory");
        let (addr, len) = (params.window_addr, params.window_len);
        if len < w::HEADER_LEN {
            return Err(mailbox(MemoryError::Outside { addr, len: w::HEADER_LEN.into() }));
        }
        let window = mem.resolve_mapped(addr, len, 64).map_err(mailbox)?;
        Ok(Self {
            own_mailbox: Mailbox::at(mem, params.mailbox, w::SLOTS)?,
            dma_only: params.dma_only,
            mute: false,
            window,
            params,
            phase: Phase::Stopped,
            epoch: 0,
            nonce: 0,
            heartbeat: 0,
            peer_id: 0,
            origin: now,
            next_beat: now,
            next_look: now,
            peer_beat: 0,
            peer_heard: now,
            said: None,
            fifo: None,
            looks: 0,
            untold: false,
            seen: Default::default(),
        })
    }

    /// Begins anew with this epoch and nonce, both random; the rings must be quiet.
    ///
    /// # Panics
    /// If either is 0 or all ones, which have meanings of their own.
    pub fn start(&mut self, now: Instant, epoch: u32, nonce: u64) {
        assert!(epoch != 0 && epoch != u32::MAX && nonce != 0 && nonce != u64::MAX);
        self.epoch = epoch;
        self.nonce = nonce;
        self.phase = Phase::Claiming { since: None };
        self.fifo = None;
        self.said = None;
        self.next_look = now;
        self.seen.iter_mut().for_each(Presence::forget);
    }

    /// From now on heartbeats come at whole intervals after this moment: ends that have it and the interval
    /// in common send theirs in one wake-up.
    pub fn align(&mut self, origin: Instant) {
        self.origin = origin;
    }

    /// The first heartbeat's time after `now`.
    pub fn tick(&self, now: Instant) -> Instant {
        let interval = self.params.heartbeat.as_nanos().max(1);
        let past = now.saturating_duration_since(self.origin).as_nanos() % interval;
        now + Duration::from_nanos(u64::try_from(interval - past).unwrap_or(u64::MAX))
    }

    /// Our epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When to look again at the latest; `None` while stopped.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped => None,
            Phase::Up { .. } => Some(self.next_beat),
            _ => Some(self.next_look),
        }
    }

    /// Leaves in an orderly way: the peer sees it at its next look. Returns the peer to ring. The
    /// claim stands until [`Session::release`]: the rings may still be in use.
    pub fn shutdown(&mut self, mem: &BusMemory) -> Option<u32> {
        let before = std::mem::replace(&mut self.phase, Phase::Stopped);
        if matches!(before, Phase::Stopped | Phase::Claiming { .. }) {
            return None;
        }
        let part = self.part(mem, self.params.role);
        write_pair(part, w::PART_STATE, w::STATE_SHUTDOWN, 0);
        write_pair(part, w::PART_PULSE, 0, self.heartbeat);
        fence_full();
        self.peer_owner(mem)
    }

    /// Gives up the claim, while stopped and with quiet rings: anyone may take our part.
    pub fn release(&mut self, mem: &BusMemory) {
        let part = self.part(mem, self.params.role);
        let ours = self.nonce != 0 && part.load_le64(w::PART_NONCE) == self.nonce;
        if self.phase == Phase::Stopped && ours {
            write_pair(part, w::PART_STATE, w::STATE_SHUTDOWN, 0);
            write_pair(part, w::PART_PULSE, 0, self.heartbeat);
            part.store_le64(w::PART_NONCE, 0);
            fence_full();
        }
    }

    /// Looks at the header and takes at most one step. To be called again while it returns something.
    pub fn handle_look(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        alive: Alive<'_>,
    ) -> Option<Change> {
        let change = match self.phase {
            Phase::Stopped => return None,
            Phase::Claiming { since } => self.claim(now, mem, since, alive),
            Phase::Ready => self.meet(now, mem, alive),
            Phase::Running { peer } => self.run(now, mem, peer),
            Phase::Up { peer } => self.watch(now, mem, peer),
        };
        if change.is_none() && now >= self.next_look {
            self.next_look = now + LOOK_TIME;
        }
        if matches!(change, Some(Change::Down(_))) {
            self.phase = Phase::Stopped;
        }
        change
    }

    /// The transport says that this id has left.
    pub fn handle_peer_gone(&mut self, mem: &BusMemory, id: u32) -> Option<Change> {
        let involved = matches!(self.phase, Phase::Running { .. } | Phase::Up { .. });
        if !involved || self.peer_id != id {
            return None;
        }
        // Whoever leaves in an orderly way has said so before, which may not have been looked at yet.
        let other = self.params.role.other();
        let said = self.is_over(mem).filter(|said| *said == Reason::Shutdown(other));
        self.phase = Phase::Stopped;
        Some(Change::Down(said.unwrap_or(Reason::Gone(other))))
    }

    fn claim(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        since: Option<Instant>,
        alive: Alive<'_>,
    ) -> Option<Change> {
        let part = self.part(mem, self.params.role);
        let (owner, nonce) = (part.load_le32(w::PART_OWNER), part.load_le64(w::PART_NONCE));
        if nonce == u64::MAX && self.bus_is_dead(mem) {
            return self.wait(now, Reason::AllOnes);
        }
        let foreign = nonce != 0 && owner != self.params.owner;
        // Nobody is both ends: such a word is a forged one, and would hold the slot for ever.
        let held = foreign && self.peer_owner(mem) != Some(owner);
        if held && self.rival_lives(now, mem, (owner, nonce), alive) {
            self.phase = Phase::Claiming { since: None };
            return self.wait(now, Reason::Held(self.params.role, owner));
        }
        match since {
            Some(t) if nonce == self.nonce => {
                if now < t + CLAIM_TIME {
                    self.next_look = t + CLAIM_TIME;
                    return None;
                }
                self.set_up(now, mem);
                self.phase = Phase::Ready;
                self.next_look = now;
                Some(Change::Ring(self.peer_owner(mem).unwrap_or(u32::MAX)))
            }
            _ => {
                part.store_le32(w::PART_OWNER, self.params.owner);
                part.store_le64(w::PART_NONCE, self.nonce);
                self.phase = Phase::Claiming { since: Some(now) };
                self.next_look = now + CLAIM_TIME;
                self.said_once(Reason::Claiming)
            }
        }
    }

    /// Whether all ones are a dead bus's, not what memory held before anybody wrote to it: the board's
    /// own memory answers always, and once its agent has written the header, that is there too.
    pub fn bus_is_dead(&self, mem: &BusMemory) -> bool {
        self.params.role == Role::Driver && self.window_view(mem).load_le64(w::AT_MAGIC) == u64::MAX
    }

    /// Writes our whole part: `INIT`, the new epoch, everything else, then `READY`.
    fn set_up(&mut self, now: Instant, mem: &BusMemory) {
        let mut mailbox = self.params.mailbox;
        if self.params.role == Role::Driver {
            self.dma_only = self.asks_for_window(mem);
            if self.dma_only {
                mailbox = self.params.window_mailbox;
            }
            self.own_mailbox = Mailbox::at(mem, mailbox, w::SLOTS).expect("our own placement");
        }
        let part = self.part(mem, self.params.role);
        write_pair(part, w::PART_STATE, w::STATE_INIT, 0);
        fence_full();
        write_pair(part, w::PART_PULSE, self.epoch, self.heartbeat);
        part.store_le32(w::PART_VECTORS, self.params.vectors);
        part.store_le64(w::PART_MAILBOX, mailbox);
        part.store_le32(w::PART_SLOTS, w::SLOTS);
        part.store_le32(w::PART_FLAGS, if self.mute { w::PART_MUTE } else { 0 });
        let window = self.window_view(mem);
        match self.params.role {
            Role::Device => {
                window.store_le32(w::AT_VERSION, w::LAYOUT_VERSION);
                window.store_le32(w::AT_HEADER_LEN, w::HEADER_LEN);
                window.store_le64(w::AT_WINDOW_LEN, self.params.window_len.into());
                let flags = if self.dma_only { w::FLAG_DMA_ONLY } else { 0 };
                window.store_le32(w::AT_FLAGS, flags);
                fence_full();
                window.store_le64(w::AT_MAGIC, w::MAGIC);
            }
            Role::Driver => {
                part.store_le32(w::PART_SLOT_NUMBER, self.params.slot);
                for i in 0..w::MEMORY_ENTRIES {
                    let at = w::MEMORY_TABLE + i * w::MEMORY_ENTRY_LEN;
                    let none = MemoryEntry { kind: w::MEMORY_NONE, bus_addr: 0, len: 0 };
                    let e = self.params.table.get(i).copied().unwrap_or(none);
                    window.store_le64(at, e.bus_addr);
                    window.store_le64(at + 8, e.len);
                    window.store_le32(at + 16, e.kind);
                }
            }
        }
        // Partner: the fences in `meet` and `run`, between reading the state and what it covers.
        fence_full();
        write_pair(part, w::PART_STATE, w::STATE_READY, 0);
        fence_full();
        self.next_beat = self.tick(now);
    }

    /// In `READY`: is there a peer that may be met?
    fn meet(&mut self, now: Instant, mem: &BusMemory, alive: Alive<'_>) -> Option<Change> {
        if let Some(change) = self.lost_claim(mem) {
            return Some(change);
        }
        self.beat(now, mem);
        let other = self.params.role.other();
        self.hear_peer(now, mem);
        if other == Role::Device {
            if let Some(reason) = self.bad_header(mem) {
                return self.wait(now, reason);
            }
            // It came after us: it cannot have met us, as it does not reach our mailbox.
            if !self.dma_only && self.asks_for_window(mem) {
                self.set_up(now, mem);
            }
        }
        let Some((epoch, state, echo)) = self.read_peer(mem) else {
            return self.wait(now, Reason::NotReady(other));
        };
        let ours = echo == self.epoch || planted(Bug::StaleEpoch);
        let meets = state == w::STATE_READY || (state == w::STATE_RUN && ours);
        if !meets {
            return self.wait(now, Reason::NotReady(other));
        }
        let part = self.part(mem, other);
        let owner = part.load_le32(w::PART_OWNER);
        // One that died in `READY` has left it standing.
        if !self.peer_lives(now, owner, alive) {
            return self.wait(now, Reason::NotReady(other));
        }
        let (addr, slots) = (part.load_le64(w::PART_MAILBOX), part.load_le32(w::PART_SLOTS));
        let mailbox = match Mailbox::at(mem, addr, slots) {
            Ok(mailbox) => mailbox,
            Err(e) => return self.wait(now, Reason::Fifo(e)),
        };
        if let Some(entry) = self.bad_table_entry(mem) {
            return self.wait(now, Reason::Table(entry));
        }
        self.fifo = Some(Fifo::start(mem, self.own_mailbox, mailbox));
        fence_full();
        write_pair(self.part(mem, self.params.role), w::PART_STATE, w::STATE_RUN, epoch);
        fence_full();
        self.phase = Phase::Running { peer: epoch };
        self.peer_id = owner;
        self.peer_heard = now;
        self.next_look = now;
        Some(Change::Ring(owner))
    }

    /// In `RUN`: does the peer echo us?
    fn run(&mut self, now: Instant, mem: &BusMemory, peer: u32) -> Option<Change> {
        if let Some(change) = self.lost_claim(mem) {
            return Some(change);
        }
        self.beat(now, mem);
        let other = self.params.role.other();
        let Some((epoch, state, echo)) = self.read_peer(mem) else {
            let dead = self.bus_is_dead(mem);
            return Some(Change::Down(if dead {
                Reason::AllOnes
            } else {
                Reason::Restarted(other)
            }));
        };
        if epoch != peer || !matches!(state, w::STATE_READY | w::STATE_RUN) {
            return Some(Change::Down(Reason::Restarted(other)));
        }
        if state == w::STATE_RUN && (echo == self.epoch || planted(Bug::StaleEpoch)) {
            let part = self.part(mem, other);
            let slot = self.part(mem, Role::Driver).load_le32(w::PART_SLOT_NUMBER);
            let peer_info = Peer {
                owner: self.peer_id,
                vectors: part.load_le32(w::PART_VECTORS),
                mute: part.load_le32(w::PART_FLAGS) & w::PART_MUTE != 0,
                epoch,
                slot,
                dma_only: self.dma_only,
            };
            let (_, beat) = read_pair(part, w::PART_PULSE);
            self.peer_beat = beat;
            self.peer_heard = now;
            self.said = None;
            self.phase = Phase::Up { peer };
            self.looks = MOST_LOOKS;
            let fifo = self.fifo.take().expect("made before RUN");
            return Some(Change::Up(peer_info, fifo));
        }
        // No epoch is 0: an end that writes in halves is about to write its echo.
        let echoes_another = state == w::STATE_RUN && echo != 0;
        if echoes_another || now >= self.peer_heard + self.params.dead_after {
            // It runs with somebody else's epoch, or does not answer: start over.
            return Some(Change::Down(Reason::NotReady(other)));
        }
        None
    }

    fn beat(&mut self, now: Instant, mem: &BusMemory) {
        if now >= self.next_beat {
            self.heartbeat = self.heartbeat.wrapping_add(1);
            write_pair(self.part(mem, self.params.role), w::PART_PULSE, self.epoch, self.heartbeat);
            self.next_beat = self.tick(now);
        }
    }

    fn lost_claim(&self, mem: &BusMemory) -> Option<Change> {
        let part = self.part(mem, self.params.role);
        match part.load_le64(w::PART_NONCE) {
            nonce if nonce == self.nonce => None,
            u64::MAX if self.bus_is_dead(mem) => Some(Change::Down(Reason::AllOnes)),
            _ => {
                let owner = part.load_le32(w::PART_OWNER);
                Some(Change::Down(Reason::Stolen(self.params.role, owner)))
            }
        }
    }

    /// The peer's epoch, state and echo, if they belong together and mean something.
    fn read_peer(&self, mem: &BusMemory) -> Option<(u32, u32, u32)> {
        let part = self.part(mem, self.params.role.other());
        let (epoch, _) = read_pair(part, w::PART_PULSE);
        fence_full();
        let (state, echo) = read_pair(part, w::PART_STATE);
        fence_full();
        let (again, _) = read_pair(part, w::PART_PULSE);
        let good = epoch == again && epoch != 0 && epoch != u32::MAX;
        good.then_some((epoch, state, echo))
    }

    /// The id in the peer's part, if there is an owner.
    fn peer_owner(&self, mem: &BusMemory) -> Option<u32> {
        let part = self.part(mem, self.params.role.other());
        (part.load_le64(w::PART_NONCE) != 0).then(|| part.load_le32(w::PART_OWNER))
    }

    fn wait(&mut self, now: Instant, reason: Reason) -> Option<Change> {
        self.next_look = now + LOOK_TIME;
        self.said_once(reason)
    }

    fn said_once(&mut self, reason: Reason) -> Option<Change> {
        if self.said.as_ref() == Some(&reason) {
            return None;
        }
        self.said = Some(reason.clone());
        Some(Change::Waiting(reason))
    }

    fn window_view<'m>(&self, mem: &'m BusMemory) -> View<'m> {
        mem.view(self.window).expect("a window is mapped")
    }

    fn part<'m>(&self, mem: &'m BusMemory, role: Role) -> View<'m> {
        let span = self.window.skip(role.own_part()).take(w::LINE);
        mem.view(span).expect("a window is mapped")
    }
}
