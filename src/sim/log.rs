//! What happened: counted, digested, and the end of it remembered.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::worker::Said;
use crate::link::State;
use crate::tunnel::part::Role;

/// Events that are told with a violation.
const TOLD: usize = 50;

/// A fault that the world has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A process was killed.
    Crash,
    /// A machine was reset, with its memory.
    Reset,
    /// A process stopped in an orderly way.
    Stop,
    /// A process stood still for a time.
    Freeze,
    /// An end was told that its ring is broken.
    Break,
    /// Both ends moved to new memory, with new ids.
    Move,
    /// Doorbells and notices became worse, or better.
    Wire,
    /// Doorbells that nobody rang.
    Spurious,
    /// An engine began to fail, or stopped failing.
    Engine,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Crash,
        Self::Reset,
        Self::Stop,
        Self::Freeze,
        Self::Break,
        Self::Move,
        Self::Wire,
        Self::Spurious,
        Self::Engine,
    ];
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Fault(Fault),
    Attached(u32),
    State(State, String),
    Ring { vector: u16, fate: &'static str },
    Delivered(&'static str),
    Started { pair: u16, session: (u32, u32) },
    Stopped,
    Worker { pair: usize, said: Said },
    Broken(String),
    Copied { pair: usize },
    Traffic { pair: usize, frames: u64 },
    Phase(&'static str),
}

/// When, where and what.
#[derive(Clone, Debug)]
pub(super) struct Event {
    step: u64,
    at: Duration,
    link: usize,
    role: Option<Role>,
    what: What,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, at, link, role, what } = self;
        let role = role.map_or("", Role::name);
        write!(f, "{step:>9} {:>12.6} s  link {link} {role:<6} {what:?}", at.as_secs_f64())
    }
}

/// The log of a run.
#[derive(Debug, Default)]
pub(super) struct Log {
    last: VecDeque<Event>,
    pub(super) digest: u64,
    pub(super) faults: [u64; Fault::ALL.len()],
    /// Each event is printed by this.
    pub(super) tell: Option<fn(&str)>,
}

impl Log {
    pub(super) fn add(
        &mut self,
        step: u64,
        at: Duration,
        link: usize,
        role: Option<Role>,
        what: What,
    ) {
        let mut hasher = DefaultHasher::new();
        (self.digest, step, at, link, role.map(Role::name)).hash(&mut hasher);
        match &what {
            What::Fault(fault) => {
                self.faults[*fault as usize] += 1;
                fault.hash(&mut hasher);
            }
            What::Attached(id) => id.hash(&mut hasher),
            What::State(state, why) => (*state as u8, why).hash(&mut hasher),
            What::Ring { vector, fate } => (vector, fate).hash(&mut hasher),
            What::Delivered(what) | What::Phase(what) => what.hash(&mut hasher),
            What::Started { pair, session } => (pair, session).hash(&mut hasher),
            What::Stopped => 0.hash(&mut hasher),
            What::Worker { pair, said } => match said {
                Said::Moved { out, frames } => (pair, out, frames).hash(&mut hasher),
                Said::Asleep => (pair, 1).hash(&mut hasher),
                Said::Rescue => (pair, 2).hash(&mut hasher),
                Said::Nothing => (pair, 3).hash(&mut hasher),
            },
            What::Broken(why) => why.hash(&mut hasher),
            What::Copied { pair } => pair.hash(&mut hasher),
            What::Traffic { pair, frames } => (pair, frames).hash(&mut hasher),
        }
        self.digest = hasher.finish();
        let event = Event { step, at, link, role, what };
        if let Some(tell) = self.tell {
            tell(&event.to_string());
        }
        if self.last.len() == TOLD {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// The last events, a line each.
    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().map(ToString::to_string).collect()
    }
}
