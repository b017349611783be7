//! A run's rounds: storm, coming up, steady time; and what is counted at their ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::choice::HEARTBEAT;
use super::fabric::{self, At};
use super::log::What;
use super::world::{MS, SECOND, World};
use super::{Report, Run};
use crate::memory::Kind;
use crate::planted::plant;
use crate::spec::virtio;

/// Within this time links are up when faults are over: a quarantine may have a minute to go, and a
/// session that another one's end has spoilt takes some seconds more.
const COMES_UP: Duration = Duration::from_secs(80);
/// How long everything is up before nothing may happen any more.
const SETTLES: Duration = Duration::from_millis(1100);
/// How long traffic is watched then, and how long what is on its way may take.
const STEADY: Duration = Duration::from_millis(1500);
const ARRIVES: Duration = Duration::from_millis(300);

/// What far reads and state changes there were when the steady time began.
#[derive(Debug)]
struct Before {
    at: Instant,
    rescues: u64,
    /// By link and end: states, far reads of the link's thread, of the workers.
    ends: Vec<[u64; 3]>,
}

pub(super) fn simulate(run: Run, began: Instant) -> Report {
    let mut world = World::new(run.seed, run.links, began);
    world.log.tell = run.tell;
    let mut counted = [0; 3];
    // Faults come thick in some runs, and hardly at all in others.
    let rate = [200, 1000, 5000, 100_000][world.random.index(4)];
    plant(run.bug);
    let rounds = AssertUnwindSafe(|| {
        while world.steps < run.steps && world.violation.is_none() {
            let steps = 500 + world.random.below(30_000);
            world.storm(steps.min(run.steps), rate);
            world.come_up();
            world.be_steady(&mut counted);
        }
    });
    if let Err(panic) = catch_unwind(rounds) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        world.fail(0, format!("a panic: {}", text.unwrap_or("of unknown kind")));
    }
    plant(None);
    report(world, counted)
}

fn report(mut world: World, counted: [u64; 3]) -> Report {
    if world.violation.is_none() {
        world.judge_flows(true);
    }
    let flows = || world.slots.iter().flat_map(|slot| slot.flows.iter().flatten());
    Report {
        steps: world.steps,
        time: world.now - world.began,
        frames: flows().map(|flow| flow.frames).sum(),
        bytes: flows().map(|flow| flow.bytes).sum(),
        dropped: flows().map(|flow| flow.dropped).sum(),
        lost: flows().map(|flow| flow.lost).sum(),
        faults: world.log.faults,
        rescues: world.rescues,
        stale_loads: fabric::with(|fabric| fabric.stale),
        rounds: counted[0],
        far_reads: counted[1],
        heartbeats: counted[2],
        digest: world.log.digest,
        last: if world.violation.is_some() { world.log.last() } else { Vec::new() },
        violation: world.violation,
    }
}

impl World {
    /// Faults, one in `rate` steps.
    fn storm(&mut self, steps: u64, rate: u64) {
        self.phase("storm");
        self.calm = false;
        let last = self.steps + steps;
        while self.steps < last && self.violation.is_none() {
            if self.random.one_in(rate) {
                self.fault();
            }
            self.excuse_engines();
            self.step(self.now + SECOND);
        }
    }

    fn phase(&mut self, name: &'static str) {
        self.note(0, None, What::Phase(name));
    }

    /// No more faults: all links are up in time, and stay up.
    fn come_up(&mut self) {
        self.phase("faults are over");
        self.relent();
        self.calm = true;
        let until = self.now + COMES_UP;
        let mut up_since = None;
        while self.violation.is_none() {
            if !self.all_up() {
                up_since = None;
            } else if self.now >= *up_since.get_or_insert(self.now) + SETTLES {
                break;
            }
            if self.now >= until {
                let states = self.states();
                self.fail(0, format!("not all up after {COMES_UP:?}: {states}"));
            }
            self.step(self.now + 50 * MS);
        }
    }

    fn states(&self) -> String {
        let ends = self.slots.iter().flat_map(|slot| &slot.ends);
        let states = ends.map(|end| end.as_ref().map(|end| (end.state, end.carrier)));
        format!("{:?}", states.collect::<Vec<_>>())
    }

    /// Traffic, in which nothing goes wrong.
    fn be_steady(&mut self, counted: &mut [u64; 3]) {
        self.phase("steady");
        let before = self.measure();
        self.run(STEADY);
        // Then what was sent has time to arrive.
        let pause = self.now + 10 * SECOND;
        for end in self.slots.iter_mut().flat_map(|slot| slot.ends.iter_mut().flatten()) {
            end.next_traffic = pause;
        }
        self.run(ARRIVES);
        self.settle();
        if self.violation.is_none() {
            self.judge(&before, counted);
        }
        let now = self.now;
        for end in self.slots.iter_mut().flat_map(|slot| slot.ends.iter_mut().flatten()) {
            end.next_traffic = now;
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until && self.violation.is_none() {
            self.step(until);
        }
    }

    fn measure(&self) -> Before {
        let mut ends = Vec::new();
        for (link, slot) in self.slots.iter().enumerate() {
            for (end, process) in slot.ends.iter().enumerate() {
                let states = process.as_ref().map_or(0, |end| end.states);
                let far = |thread| fabric::with(|f| f.far_reads(At { link, end, thread }));
                ends.push([states, far(0), far(1) + far(2)]);
            }
        }
        Before { at: self.now, rescues: self.rescues, ends }
    }

    fn judge(&mut self, before: &Before, counted: &mut [u64; 3]) {
        let after = self.measure();
        let beats = (after.at - before.at).as_nanos() / HEARTBEAT.as_nanos();
        let beats = u64::try_from(beats).unwrap_or(u64::MAX) + 1;
        counted[0] += 1;
        if after.rescues != before.rescues {
            self.fail(0, "there was a rescue in the steady time");
        }
        for (at, (a, b)) in before.ends.iter().zip(&after.ends).enumerate() {
            let (link, end) = (at / 2, at % 2);
            let Some(process) = &self.slots[link].ends[end] else { continue };
            let (name, features) = (process.role.name(), process.features);
            let idle = process.workers.iter().flatten().all(|w| w.is_asleep() && w.is_drained());
            let [states, far, workers] = [0, 1, 2].map(|i| b[i] - a[i]);
            counted[1] += far;
            counted[2] += beats;
            if states > 0 {
                self.fail(link, format!("{name}: its state changed in the steady time"));
            }
            // A device whose CPU does not reach driver memory has everything in the window.
            let window_only = self.slots[link].choice.far.contains(&Kind::DmaOnly);
            // Doorbells may have had a few looks made early, for which later heartbeats pay.
            if far > beats + 4 && !window_only {
                self.fail(
                    link,
                    format!("{name}: {far} far reads in {beats} heartbeats with {features}"),
                );
            }
            if workers > 0 && !window_only && !features.has(virtio::F_RING_PACKED) {
                self.fail(link, format!("{name}: its workers made {workers} far reads"));
            }
            if !idle {
                self.fail(link, format!("{name}: its workers are not done {ARRIVES:?} later"));
            }
        }
        self.judge_flows(true);
    }

    /// Judges what is missing; `all`: nothing more is on its way.
    fn judge_flows(&mut self, all: bool) {
        for link in 0..self.slots.len() {
            let flows = self.slots[link].flows.iter_mut().flatten();
            let judged: Vec<_> =
                flows.map(|flow| if all { flow.close() } else { flow.settle() }).collect();
            for wrong in judged.into_iter().filter_map(Result::err) {
                self.fail(link, wrong);
            }
        }
    }
}
