//! Queue pairs: which of them have a worker, and how one changes while the others run.
//!
//! A pair's data path is here or with its worker. What changes it (a queue reset, a queue set up anew)
//! waits until the path is here; then a pair that is used gets its worker again.

use std::time::Instant;

use super::{Core, Event, Link, StartPair, Work};
use crate::memory::BusMemory;
use crate::net::model::NetDevice;
use crate::net::path::{Path, PathError, Which};
use crate::tunnel::part::Layout;
use crate::virtqueue::QueueConfig;

/// What is to be done with a path.
#[derive(Debug)]
enum Change {
    /// The driver resets this queue.
    Reset(u16),
    /// It has set it up anew.
    Enable(u16, QueueConfig),
    /// It takes other offloads: what was judged by the earlier ones is published.
    Offloads,
}

/// A queue pair.
#[derive(Debug)]
pub(super) struct Pair {
    /// `None` while a worker has it.
    path: Option<Box<dyn Path>>,
    /// The worker was told to give it back.
    stopping: bool,
    changes: Vec<Change>,
}

impl Pair {
    pub(super) fn new(path: Box<dyn Path>) -> Self {
        Self { path: Some(path), stopping: false, changes: Vec::new() }
    }
}

/// The vector for a pair, of an end that listens on so many: the first is for messages, where there
/// are more. `None`: it polls.
pub fn pair_vector(pair: u16, vectors: u32) -> Option<u16> {
    match vectors {
        0 => None,
        1 => Some(0),
        _ => u16::try_from(1 + u32::from(pair) % (vectors - 1)).ok(),
    }
}

impl Link {
    /// The worker of this pair has given its data path back; `None`: it could not.
    pub fn handle_pair_stopped(&mut self, now: Instant, pair: u16, path: Option<Box<dyn Path>>) {
        match (path, self.pairs.get_mut(usize::from(pair))) {
            _ if self.work != Work::Running => {}
            (Some(path), Some(waiting)) => {
                waiting.path = Some(path);
                waiting.stopping = false;
                self.change(now, pair);
            }
            _ => self.broken(now, "a worker did not give its queues back"),
        }
        self.turn(now);
    }

    /// So many pairs are used from now on.
    pub(super) fn use_pairs(&mut self, pairs: u16) {
        self.used_pairs = pairs;
        for pair in 0..u16::try_from(self.pairs.len()).unwrap_or(u16::MAX) {
            self.settle(pair);
        }
    }

    /// The driver resets a queue.
    pub(super) fn reset_queue(&mut self, now: Instant, index: u16) {
        self.change_queue(now, index, Change::Reset(index));
    }

    /// The driver has set a queue up that it had reset; `false` if there is none.
    pub(super) fn enable_queue(&mut self, now: Instant, index: u16, config: QueueConfig) -> bool {
        self.change_queue(now, index, Change::Enable(index, config))
    }

    /// The driver takes other offloads: each worker gives its path back once, and so has published what it
    /// took from the netdev before.
    pub(super) fn change_offloads(&mut self, now: Instant) {
        for pair in 0..u16::try_from(self.pairs.len()).unwrap_or(u16::MAX) {
            if let Some(waiting) = self.pairs.get_mut(usize::from(pair)) {
                waiting.changes.push(Change::Offloads);
            }
            self.change(now, pair);
        }
    }

    /// Whether every pair is as it was asked to be: none has a worker that is not used, none has to change.
    pub(super) fn pairs_are_settled(&self) -> bool {
        self.pairs.iter().enumerate().all(|(index, pair)| {
            let used = index < usize::from(self.used_pairs);
            pair.changes.is_empty() && !pair.stopping && (used || pair.path.is_some())
        })
    }

    fn change_queue(&mut self, now: Instant, index: u16, change: Change) -> bool {
        let (pair, _) = Which::of(index);
        let Some(waiting) = self.pairs.get_mut(usize::from(pair)) else { return false };
        waiting.changes.push(change);
        self.change(now, pair);
        true
    }

    /// Makes the changes that wait, if the path is here, or fetches it.
    fn change(&mut self, now: Instant, pair: u16) {
        let Some(waiting) = self.pairs.get_mut(usize::from(pair)) else { return };
        let mut made = Ok(());
        if let (Some(path), Some(Core::Device { tunnel, model, .. })) =
            (&mut waiting.path, &mut self.core)
        {
            for change in waiting.changes.drain(..) {
                made = made.and_then(|()| make(change, path.as_mut(), &self.mem, model));
                tunnel.notify_at_rest(model.as_ref());
            }
        }
        if let Err(e) = made {
            return self.broken(now, &e.to_string());
        }
        self.settle(pair);
    }

    /// Gives the pair's path to a worker, or takes it back, as it should be.
    fn settle(&mut self, pair: u16) {
        if self.work != Work::Running {
            return;
        }
        let settings = match &self.core {
            Some(Core::Device { model, .. }) => Some(model.settings().clone()),
            _ => None,
        };
        let polls = self.polls();
        let Some(waiting) = self.pairs.get_mut(usize::from(pair)) else { return };
        let wanted = pair < self.used_pairs && waiting.changes.is_empty();
        if !wanted && waiting.path.is_none() && !waiting.stopping {
            waiting.stopping = true;
            self.events.push_back(Event::StopPair(pair));
        }
        if let Some(path) = waiting.path.take_if(|_| wanted) {
            let doorbell =
                self.peer.as_ref().and_then(|p| Some((p.owner, pair_vector(pair, p.vectors)?)));
            let in_band = self.params.layout == Layout::AmpPci;
            let start = StartPair { pair, path, doorbell, polls, in_band, settings };
            self.events.push_back(Event::StartPair(start));
        }
    }
}

/// Makes one change.
fn make(
    change: Change,
    path: &mut dyn Path,
    mem: &BusMemory,
    model: &mut NetDevice,
) -> Result<(), PathError> {
    match change {
        Change::Reset(index) => {
            path.reset_queue(Which::of(index).1);
            model.queue_quiesced(index);
            Ok(())
        }
        Change::Offloads => Ok(()),
        Change::Enable(index, config) => path.enable_queue(mem, Which::of(index).1, &config),
    }
}
