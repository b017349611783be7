//! Workers' and engines' turns, and their ends.

use super::choice::ROLES;
use super::fabric::{self, At, THREADS};
use super::flow::SHORTEST;
use super::log::What;
use super::random::Random;
use super::worker::{Around, Fault, Said};
use super::world::{CALM, World};
use crate::net::frame::LARGEST;

impl World {
    pub(super) fn work(&mut self, l: usize, e: usize, pair: usize) {
        let at = At { link: l, end: e, thread: 1 + pair };
        fabric::with(|fabric| fabric.enter(at));
        let now = self.now;
        let slot = &mut self.slots[l];
        let Some(end) = &mut slot.ends[e] else { return };
        let Some(worker) = &mut end.workers[pair] else { return };
        let [device, driver] = &mut slot.flows;
        let (own, other) = if e == 0 { (device, driver) } else { (driver, device) };
        let mut ring = false;
        let mut around = Around {
            now,
            mem: &end.mem,
            flows: [&mut own[pair], &mut other[pair]],
            random: &mut self.random,
            ring: &mut ring,
        };
        let done = worker.step(&mut around);
        let gives = worker.giving_back && worker.is_at_rest() && done.is_ok();
        if gives {
            worker.finish(&mut around);
        }
        let doorbell = worker.doorbell.filter(|_| ring);
        // A doorbell that comes between waking up and looking was in time.
        let unheard = worker.unheard || worker.called;
        if let Some((owner, vector)) = doorbell {
            self.ring(l, at, owner, vector);
        }
        match done {
            Ok(Said::Nothing | Said::Moved { frames: 0, .. }) => {}
            Ok(said) => {
                let rescue = said == Said::Rescue;
                self.note(l, Some(ROLES[e]), What::Worker { pair, said });
                self.rescues += u64::from(rescue);
                if rescue && !unheard && !self.is_called(l, e, pair) {
                    self.fail(
                        l,
                        format!("{} pair {pair}: there was work, and no doorbell", ROLES[e].name()),
                    );
                }
            }
            Err(fault) => self.broke(l, e, pair, fault),
        }
        if gives {
            self.give_back(at);
        }
    }

    fn give_back(&mut self, at: At) {
        fabric::with(|fabric| {
            fabric.flush(at);
            fabric.flush(At { thread: 0, ..at });
        });
        let now = self.now;
        let Some(end) = &mut self.slots[at.link].ends[at.end] else { return };
        let pair = at.thread - 1;
        let path = end.workers[pair].take().map(|worker| worker.path);
        let number = u16::try_from(pair).unwrap_or(0);
        self.input(at.link, at.end, |link| link.handle_pair_stopped(now, number, path));
    }

    fn broke(&mut self, l: usize, e: usize, pair: usize, fault: Fault) {
        let now = self.now;
        let role = ROLES[e];
        let reason = match fault {
            Fault::Oracle(what) => {
                return self.fail(l, format!("{} pair {pair}: {what}", role.name()));
            }
            Fault::Path(e) => e.to_string(),
        };
        let slot = &mut self.slots[l];
        let engine = slot.excused_until > now && reason.starts_with("the DMA engine failed");
        // Where a board's memory holds rings that the master reads, they are lost with it.
        let explained = engine || e == 1 && slot.spoilt;
        let worker = slot.ends[e].as_mut().and_then(|end| end.workers[pair].as_mut());
        if let Some(worker) = worker {
            worker.broken = true;
        }
        self.note(l, Some(role), What::Broken(reason.clone()));
        if !explained {
            self.fail(l, format!("{} pair {pair}: {reason}", role.name()));
        }
        self.input(l, e, |link| link.handle_broken(now, &reason));
    }

    pub(super) fn copy(&mut self, l: usize, e: usize, pair: usize) {
        fabric::with(|fabric| fabric.enter(At { link: l, end: e, thread: THREADS - 1 }));
        let slot = &mut self.slots[l];
        let errors = slot.errors;
        let worker = slot.ends[e].as_mut().and_then(|end| end.workers[pair].as_mut());
        let Some(worker) = worker else { return };
        let Some(engine) = &mut worker.engine else { return };
        if engine.work(&mut self.random, errors) {
            worker.called = true;
            self.note(l, Some(ROLES[e]), What::Copied { pair });
        }
    }

    /// The workers that were told to stop have ended, with no copy under way.
    pub(super) fn workers_stopped(&mut self, l: usize, e: usize) {
        let now = self.now;
        fabric::with(|fabric| fabric.enter(At { link: l, end: e, thread: THREADS - 1 }));
        self.end_workers(l, e, true);
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        end.stops_at = None;
        let leaving = end.leaving;
        self.note(l, Some(ROLES[e]), What::Stopped);
        self.input(l, e, |link| link.handle_stopped(now));
        if leaving {
            self.gone(l, e);
        }
    }

    /// Ends an end's workers; `orderly`: after their copies.
    pub(super) fn end_workers(&mut self, l: usize, e: usize, orderly: bool) {
        let slot = &mut self.slots[l];
        let Some(end) = &mut slot.ends[e] else { return };
        for pair in 0..2 {
            let Some(mut worker) = end.workers[pair].take() else { continue };
            if let Some(engine) = worker.engine.as_mut().filter(|_| orderly) {
                while engine.is_busy() {
                    engine.work(&mut self.random, None);
                }
            }
            let session = worker.session;
            slot.flows.iter_mut().for_each(|pairs| pairs[pair].ended(session));
        }
        fabric::with(|fabric| {
            (0..THREADS - 1).for_each(|thread| fabric.flush(At { link: l, end: e, thread }));
        });
    }

    /// The netdev has frames.
    pub(super) fn offer(&mut self, l: usize, e: usize) {
        let (most, pause) = if self.calm { CALM } else { self.traffic };
        let pause = self.up_to(pause);
        let now = self.now;
        let frames = 1 + self.random.below(most);
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        end.next_traffic = now + pause;
        let there = end.workers.iter().flatten().count();
        if there == 0 {
            return;
        }
        let pair = self.random.index(there);
        let Some(worker) = &mut end.workers[pair] else { return };
        for _ in 0..frames {
            worker.offer(length(&mut self.random));
        }
        self.note(l, Some(ROLES[e]), What::Traffic { pair, frames });
    }
}

/// A frame's length with its header: most are short, few are as long as they get.
fn length(random: &mut Random) -> usize {
    let (from, to) = match random.below(1000) {
        0..700 => (SHORTEST, 300),
        700..965 => (300, 1526),
        965..995 => (1526, 9014),
        _ => (9014, LARGEST),
    };
    from + random.index(to - from + 1)
}
