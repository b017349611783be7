//! What goes wrong: processes and machines that die, stop, freeze and come back; bad wires and engines.

use std::time::Duration;

use super::choice::ROLES;
use super::fabric::{self, Fabric};
use super::log::{Fault, What};
use super::mail::{Cargo, GOOD, Wire};
use super::world::{MS, SECOND, World};
use crate::memory::Kind;

/// How long the other end may seem to break rules after memory, a ring or an engine was hurt: an attempt
/// of a driver takes three seconds to fail.
const EXCUSE: Duration = Duration::from_secs(5);

impl World {
    /// One fault, of any kind that is possible.
    pub(super) fn fault(&mut self) {
        let l = self.random.index(self.slots.len());
        let e = self.random.index(2);
        let fault = match self.random.below(20) {
            0..4 => Fault::Crash,
            4..6 => Fault::Reset,
            6..8 => Fault::Stop,
            8..10 => Fault::Freeze,
            10 => Fault::Break,
            11 => Fault::Move,
            12..15 => Fault::Wire,
            15..17 => Fault::Spurious,
            _ => Fault::Engine,
        };
        let ends = if e == 1 && self.one_master { 0..self.slots.len() } else { l..l + 1 };
        match fault {
            Fault::Crash => ends.for_each(|l| self.crash(l, e, false)),
            Fault::Reset => ends.for_each(|l| self.crash(l, e, true)),
            Fault::Stop => ends.for_each(|l| self.stop(l, e, Fault::Stop)),
            Fault::Freeze => {
                let time = self.up_to(2 * SECOND);
                ends.for_each(|l| self.freeze(l, e, time));
            }
            Fault::Break => self.break_worker(l, e),
            Fault::Move => self.move_both(l),
            Fault::Wire => self.rewire(l),
            Fault::Spurious => self.ring_for_nothing(l),
            Fault::Engine => self.spoil_engine(l),
        }
    }

    /// The faults are over: who is away comes back at once, what is late arrives soon.
    pub(super) fn relent(&mut self) {
        for slot in &mut self.slots {
            slot.wire = GOOD;
            slot.errors = None;
            for back in slot.back.iter_mut().flatten() {
                *back = (*back).min(self.now + MS);
            }
            for end in slot.ends.iter_mut().flatten() {
                end.frozen_until = end.frozen_until.map(|until| until.min(self.now + MS));
                end.stops_at = end.stops_at.map(|at| at.min(self.now + MS));
            }
        }
        let soon = self.now + MS;
        self.parcels.iter_mut().for_each(|parcel| parcel.due = parcel.due.min(soon));
    }

    /// The process is gone without a word, and with `reset` all that its machine held.
    fn crash(&mut self, l: usize, e: usize, reset: bool) {
        if self.slots[l].ends[e].is_none() {
            return;
        }
        // Only a machine behind a bus goes alone.
        let bus = self.slots[l].choice.far[e] != Kind::Cached;
        let reset = reset && bus;
        self.note(l, Some(ROLES[e]), What::Fault(if reset { Fault::Reset } else { Fault::Crash }));
        let back = self.now + self.up_to(SECOND);
        if reset {
            fabric::with(|fabric| {
                fabric.lose(l, e);
                fabric.set_dead(l, e, true);
            });
            self.slots[l].in_reset[e] = true;
            self.slots[l].spoilt |= e == 0;
        }
        self.end_workers(l, e, false);
        self.slots[l].back[e] = Some(back);
        self.gone(l, e);
    }

    /// The process has ended; the others hear of it, sooner or later.
    pub(super) fn gone(&mut self, l: usize, e: usize) {
        let slot = &mut self.slots[l];
        let Some(end) = slot.ends[e].take() else { return };
        if slot.back[e].is_none() {
            let back = self.now + self.up_to(SECOND);
            self.slots[l].back[e] = Some(back);
        }
        let within = self.slots[l].wire.gone;
        self.send(l, 1 - e, within, Cargo::Gone(end.id));
        let slot = &mut self.slots[l];
        if slot.moving && slot.ends.iter().all(Option::is_none) {
            slot.moving = false;
            fabric::with(|fabric| (0..2).for_each(|area| fabric.wipe(l, area, 0)));
        }
    }

    /// A machine that was reset is there again, with whatever its memory holds now.
    pub(super) fn revive(&mut self, l: usize, e: usize) {
        if !std::mem::take(&mut self.slots[l].in_reset[e]) {
            return;
        }
        let left = match self.random.below(3) {
            0 => None,
            1 => Some(0),
            _ => Some(u64::MAX),
        };
        fabric::with(|fabric| {
            fabric.set_dead(l, e, false);
            left.into_iter().for_each(|word| fabric.wipe(l, e, word));
        });
    }

    fn excuse(&mut self, l: usize) {
        let slot = &mut self.slots[l];
        slot.excused_until = slot.excused_until.max(self.now + EXCUSE);
    }

    /// The process stops in an orderly way.
    fn stop(&mut self, l: usize, e: usize, fault: Fault) {
        let now = self.now;
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        if end.leaving {
            return;
        }
        end.leaving = true;
        end.frozen_until = None;
        self.note(l, Some(ROLES[e]), What::Fault(fault));
        self.input(l, e, |link| link.shutdown(now));
        let end = self.slots[l].ends[e].as_ref();
        if end.is_some_and(|end| end.stops_at.is_none()) {
            self.gone(l, e);
        }
    }

    fn freeze(&mut self, l: usize, e: usize, time: Duration) {
        let until = self.now + time;
        if let Some(end) = &mut self.slots[l].ends[e] {
            end.frozen_until = Some(until);
            // What it does not answer in time looks like a broken peer.
            self.excuse(l);
            self.note(l, Some(ROLES[e]), What::Fault(Fault::Freeze));
        }
    }

    fn break_worker(&mut self, l: usize, e: usize) {
        let now = self.now;
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        let sound = |worker: &&mut super::worker::Worker| !worker.broken && !worker.giving_back;
        let Some(worker) = end.workers.iter_mut().flatten().find(sound) else { return };
        if !end.running {
            return;
        }
        worker.broken = true;
        self.excuse(l);
        self.note(l, Some(ROLES[e]), What::Fault(Fault::Break));
        self.input(l, e, |link| link.handle_broken(now, "the simulation broke the ring"));
    }

    /// Both ends stop, and come back on new memory.
    fn move_both(&mut self, l: usize) {
        if self.slots[l].ends.iter().any(Option::is_none) {
            return;
        }
        self.slots[l].moving = true;
        (0..2).for_each(|e| self.stop(l, e, Fault::Move));
    }

    fn rewire(&mut self, l: usize) {
        let wire = Wire {
            lost: [0, 0, 2, 30, 100][self.random.index(5)],
            doubled: [0, 5, 50][self.random.index(3)],
            ring: MS * [0, 1, 20, 300][self.random.index(4)],
            gone: MS * [1, 100, 3000][self.random.index(3)],
            stop: MS * [0, 1, 40, 500][self.random.index(4)],
        };
        self.slots[l].wire = wire;
        self.note(l, None, What::Fault(Fault::Wire));
    }

    fn ring_for_nothing(&mut self, l: usize) {
        self.note(l, None, What::Fault(Fault::Spurious));
        for _ in 0..=self.random.below(20) {
            let (e, vector) = (self.random.index(2), [0, 1, 2, 3][self.random.index(4)]);
            self.send(l, e, 20 * MS, Cargo::Ring(vector));
        }
    }

    fn spoil_engine(&mut self, l: usize) {
        let slot = &mut self.slots[l];
        if slot.choice.engine.is_none() {
            return;
        }
        slot.errors = match slot.errors {
            Some(_) => None,
            None => Some([3, 50, 500][self.random.index(3)]),
        };
        self.excuse(l);
        self.note(l, None, What::Fault(Fault::Engine));
    }

    /// While an engine fails, its end may give up at any time.
    pub(super) fn excuse_engines(&mut self) {
        for l in 0..self.slots.len() {
            if self.slots[l].errors.is_some() {
                self.excuse(l);
            }
        }
    }

    /// Whatever the threads hold back is seen.
    pub(super) fn settle(&mut self) {
        fabric::with(Fabric::settle);
    }
}
