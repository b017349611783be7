//! A link's turns: what it is told, what it asks for, and what must not be among it.

use super::choice::ROLES;
use super::end::End;
use super::fabric::{self, At, THREADS};
use super::log::What;
use super::mail::Cargo;
use super::world::World;
use crate::link::{Event, Link, StartPair, State};

impl World {
    /// Gives an end's link an input, and does what it then wants.
    pub(super) fn input(&mut self, l: usize, e: usize, input: impl FnOnce(&mut Link)) {
        fabric::with(|fabric| fabric.enter(At { link: l, end: e, thread: 0 }));
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        if end.frozen_until.is_some_and(|until| until <= self.now) {
            end.frozen_until = None;
        }
        input(&mut end.link);
        end.note_epochs();
        while let Some(event) = self.slots[l].ends[e].as_mut().and_then(|end| end.link.poll_event())
        {
            self.event(l, e, event);
        }
    }

    fn event(&mut self, l: usize, e: usize, event: Event) {
        let now = self.now;
        let stop = self.slots[l].wire.stop;
        let stop = self.up_to(stop);
        let Some(end) = &mut self.slots[l].ends[e] else { return };
        let role = Some(end.role);
        match event {
            Event::State(state, why) => {
                end.state = state;
                end.states += 1;
                self.judge_state(l, state, &why);
                self.note(l, role, What::State(state, why));
            }
            Event::Ring { owner, vector } => {
                self.ring(l, At { link: l, end: e, thread: 0 }, owner, vector)
            }
            Event::Start(start) => {
                if end.running || end.has_worker() {
                    self.fail(l, "started while workers of before run");
                } else {
                    (end.features, end.running) = (start.features, true);
                }
            }
            Event::StartPair(start) => self.start(l, e, start),
            Event::StopPair(pair) => {
                if let Some(worker) = &mut end.workers[usize::from(pair)] {
                    worker.giving_back = true;
                }
            }
            Event::Stop => {
                if !end.running {
                    return self.fail(l, "told to stop without workers");
                }
                end.running = false;
                end.stops_at = Some(now + stop);
            }
            Event::Wake => end.workers.iter_mut().flatten().for_each(|worker| worker.called = true),
            Event::Carrier(up) => {
                end.carrier = up;
                end.next_traffic = now;
            }
            Event::Peer(_) | Event::PeerLink(_) | Event::Announce | Event::Offloads(_) => {}
        }
    }

    fn start(&mut self, l: usize, e: usize, start: StartPair) {
        let (pair, now) = (start.pair, self.now);
        fabric::with(|fabric| {
            (0..THREADS - 1).for_each(|thread| fabric.flush(At { link: l, end: e, thread }));
        });
        let slot = &mut self.slots[l];
        let Some(end) = &mut slot.ends[e] else { return };
        slot.spoilt &= e == 0;
        end.start(now, start);
        let (session, role) = (end.session(), end.role);
        // Whose session was over before it could begin is told to stop next.
        let same = |a, b| a == 0 || b == 0 || a == b;
        let others = slot.ends[1 - e].iter().flat_map(|other| other.workers.iter().flatten());
        let strange = others
            .map(|w| w.session)
            .find(|other| !same(other.0, session.0) || !same(other.1, session.1));
        if let Some(other) = strange {
            self.fail(l, format!("session {session:x?} begins while {other:x?} has workers"));
        }
        self.note(l, Some(role), What::Started { pair, session });
    }

    /// A new process on the slot.
    pub(super) fn attach(&mut self, l: usize, e: usize) {
        let id = self.next_id;
        self.next_id += 1;
        self.revive(l, e);
        let (now, role) = (self.now, ROLES[e]);
        let slot = &mut self.slots[l];
        slot.back[e] = None;
        fabric::with(|fabric| fabric.enter(At { link: l, end: e, thread: 0 }));
        slot.ends[e] = Some(End::new(now, &slot.choice, l, role, id, &mut self.random));
        self.note(l, Some(role), What::Attached(id));
        let within = self.slots[l].wire.ring;
        (0..2).for_each(|e| self.send(l, e, within, Cargo::Peers));
    }

    /// A log line that says more than that an end came or went is a failure, unless it is explained.
    fn judge_state(&mut self, l: usize, state: State, why: &str) {
        let wrong = [
            "window has layout",
            "window says it has",
            "master's memory at",
            "mailbox of",
            "slot was taken",
            "FEATURES_OK is refused",
        ];
        // A driver that came first takes its mailbox to the window once it has read that it must.
        let early = why.contains("can be reached by a DMA engine only");
        let bad = state == State::Quarantined || wrong.iter().any(|wrong| why.contains(wrong));
        let bad = bad && !(early && state == State::Waiting);
        if bad && self.slots[l].excused_until <= self.now {
            self.fail(l, format!("{state:?}: {why}"));
        }
    }

    /// Whether both ends of each link are up in one session.
    pub(super) fn all_up(&self) -> bool {
        self.slots.iter().all(|slot| match &slot.ends {
            [Some(a), Some(b)] => {
                let workers = |end: &End| end.workers.iter().flatten().count();
                a.is_up() && b.is_up() && a.session() == b.session() && workers(a) == workers(b)
            }
            _ => false,
        })
    }
}
