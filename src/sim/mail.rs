//! Doorbells and notices on their way: late, lost, twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::choice::ROLES;
use super::fabric::{self, At};
use super::log::What;
use super::world::{MS, World};
use crate::link::pair_vector;

/// What happens to doorbells and notices on their way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    /// Of a hundred doorbells, how many are lost, and how many come twice.
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// Longest way of a doorbell, and of a notice that a peer is gone.
    pub(super) ring: Duration,
    pub(super) gone: Duration,
    /// Longest time that workers take to stop.
    pub(super) stop: Duration,
}

pub(super) const GOOD: Wire = Wire {
    lost: 0,
    doubled: 0,
    ring: Duration::from_micros(50),
    gone: MS,
    stop: Duration::from_micros(100),
};

/// What arrives at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cargo {
    Ring(u16),
    Peers,
    Gone(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel {
    pub(super) due: Instant,
    pub(super) link: usize,
    pub(super) to: u32,
    cargo: Cargo,
}

impl World {
    /// A doorbell is rung by this thread.
    pub(super) fn ring(&mut self, l: usize, by: At, owner: u32, vector: u16) {
        fabric::with(|fabric| fabric.flush(by));
        let wire = self.slots[l].wire;
        let role = Some(ROLES[by.end]);
        let Some(to) = self.slots[l].ends.iter_mut().flatten().find(|end| end.id == owner) else {
            return self.note(l, role, What::Ring { vector, fate: "to nobody" });
        };
        if self.random.below(100) < wire.lost {
            let vectors = to.vectors;
            for (pair, worker) in (0..).zip(&mut to.workers) {
                if let Some(worker) =
                    worker.as_mut().filter(|_| pair_vector(pair, vectors) == Some(vector))
                {
                    worker.unheard = true;
                }
            }
            return self.note(l, role, What::Ring { vector, fate: "lost" });
        }
        let twice = self.random.below(100) < wire.doubled;
        for _ in 0..=u8::from(twice) {
            let due = self.now + self.up_to(wire.ring);
            self.parcels.push(Parcel { due, link: l, to: owner, cargo: Cargo::Ring(vector) });
        }
        self.note(l, role, What::Ring { vector, fate: if twice { "twice" } else { "once" } });
    }

    /// Sends a notice to an end, if it is there.
    pub(super) fn send(&mut self, l: usize, e: usize, within: Duration, cargo: Cargo) {
        let due = self.now + self.up_to(within);
        let tells = self.slots[l].choice.notices || matches!(cargo, Cargo::Ring(_));
        if let Some(end) = self.slots[l].ends[e].as_ref().filter(|_| tells) {
            self.parcels.push(Parcel { due, link: l, to: end.id, cargo });
        }
    }

    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let Parcel { link: l, to, cargo, .. } = parcel;
        let now = self.now;
        let ends = &self.slots[l].ends;
        let Some(e) = ends.iter().position(|end| end.as_ref().is_some_and(|end| end.id == to))
        else {
            return;
        };
        let alive: BTreeSet<u32> = ends.iter().flatten().map(|end| end.id).collect();
        let what = match cargo {
            Cargo::Ring(_) => "doorbell",
            Cargo::Peers => "peers",
            Cargo::Gone(_) => "peer gone",
        };
        self.note(l, Some(ROLES[e]), What::Delivered(what));
        match cargo {
            Cargo::Ring(vector) => {
                let Some(end) = &mut self.slots[l].ends[e] else { return };
                for (pair, worker) in (0..).zip(&mut end.workers) {
                    if pair_vector(pair, end.vectors) == Some(vector) {
                        worker.iter_mut().for_each(|worker| worker.called = true);
                    }
                }
                if vector == 0 {
                    self.input(l, e, |link| link.handle_doorbell(now));
                }
            }
            Cargo::Peers => {
                let alive = alive.into_iter().filter(|id| *id != to).collect();
                self.input(l, e, |link| link.handle_peers(now, alive));
            }
            Cargo::Gone(id) => self.input(l, e, |link| link.handle_peer_gone(now, id)),
        }
    }

    /// Whether a doorbell for this worker is on its way.
    pub(super) fn is_called(&self, l: usize, e: usize, pair: usize) -> bool {
        let Some(end) = &self.slots[l].ends[e] else { return false };
        let own = u16::try_from(pair).ok().and_then(|pair| pair_vector(pair, end.vectors));
        self.parcels.iter().any(|p| {
            (p.link, p.to) == (l, end.id)
                && matches!(p.cargo, Cargo::Ring(vector) if Some(vector) == own)
        })
    }
}
