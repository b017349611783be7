//! A session that is up: whether the other end still is.

use std::time::Instant;

use super::{Alive, Change, MOST_LOOKS, Phase, Session};
use crate::memory::BusMemory;
use crate::spec::window as w;
use crate::tunnel::part::{Reason, Role, read_pair};

impl Session {
    /// While up: one far read per heartbeat, of the peer's epoch and heartbeat. Doorbells have a few more of
    /// them made at once, but not more of them in the long run, however thick they come.
    pub(super) fn watch(&mut self, now: Instant, mem: &BusMemory, peer: u32) -> Option<Change> {
        let other = self.params.role.other();
        if now >= self.next_beat {
            self.looks = MOST_LOOKS.min(self.looks + 1);
            if let Some(change) = self.robbed(now, mem) {
                return Some(change);
            }
        }
        self.beat(now, mem);
        self.looks = self.looks.checked_sub(1)?;
        let (epoch, beat) = read_pair(self.part(mem, other), w::PART_PULSE);
        if let Some(reason) = self.ends(peer, epoch, beat) {
            return Some(Change::Down(reason));
        }
        if beat != self.peer_beat {
            self.peer_beat = beat;
            self.peer_heard = now;
        } else if now >= self.peer_heard + self.params.dead_after {
            return Some(Change::Down(Reason::Silent(other)));
        }
        None
    }

    /// Before a heartbeat, where heartbeats are all that others know of this end: whether another one has
    /// claimed our part, which only an end does that heard none of ours for some. So the driver, whose part is far, looks only if this one comes so late
    /// that at least one is missing; that costs no more far reads than if none were.
    fn robbed(&self, now: Instant, mem: &BusMemory) -> Option<Change> {
        let near = self.params.role == Role::Device;
        let late = now >= self.next_beat + self.params.heartbeat;
        let untold = !self.is_told_of(self.params.owner);
        if untold && (near || late) { self.lost_claim(mem) } else { None }
    }

    /// The transport does not tell who is there: from now on heartbeats do, and not `alive`.
    pub fn go_by_heartbeats(&mut self) {
        self.untold = true;
    }

    /// This end can ring nobody: the other one has to look by itself.
    pub fn ring_nobody(&mut self) {
        self.mute = true;
    }

    /// Whether the transport tells of this owner. It cannot of one who has no id on it.
    fn is_told_of(&self, owner: u32) -> bool {
        !self.untold && owner <= w::MAX_ID
    }

    /// Before the peer is met: listens for its heartbeat.
    pub(super) fn hear_peer(&mut self, now: Instant, mem: &BusMemory) {
        let (epoch, beat) = read_pair(self.part(mem, self.params.role.other()), w::PART_PULSE);
        self.seen[0].look(now, epoch.into(), beat);
    }

    /// Whether the peer, which is this owner's, lives.
    pub(super) fn peer_lives(&self, now: Instant, owner: u32, alive: Alive<'_>) -> bool {
        match self.is_told_of(owner) {
            true => alive(owner),
            false => self.seen[0].moves(now, self.params.dead_after),
        }
    }

    /// Whether an owner who has claimed our part with this nonce lives; by his heartbeat unless it stands
    /// still.
    pub(super) fn rival_lives(
        &mut self,
        now: Instant,
        mem: &BusMemory,
        (owner, nonce): (u32, u64),
        alive: Alive<'_>,
    ) -> bool {
        if self.is_told_of(owner) {
            return alive(owner);
        }
        let (_, beat) = read_pair(self.part(mem, self.params.role), w::PART_PULSE);
        self.seen[1].look(now, nonce, beat);
        !self.seen[1].stands(now, self.params.dead_after)
    }

    /// Why the session with `peer` is over, if its part says this.
    fn ends(&self, peer: u32, epoch: u32, beat: u32) -> Option<Reason> {
        let other = self.params.role.other();
        match epoch {
            u32::MAX if beat == u32::MAX => Some(Reason::AllOnes),
            0 => Some(Reason::Shutdown(other)),
            _ => (epoch != peer).then_some(Reason::Restarted(other)),
        }
    }

    /// While up: why the session is over, though no look has found it yet.
    pub fn is_over(&self, mem: &BusMemory) -> Option<Reason> {
        let Phase::Up { peer } = self.phase else { return None };
        let (epoch, beat) = read_pair(self.part(mem, self.params.role.other()), w::PART_PULSE);
        self.ends(peer, epoch, beat)
    }
}
