//! What a daemon's worker does, a part of a breath at a time, so that other threads come in between.
//!
//! The stages are those of the daemon's loop: what is due, a batch out, a batch in, copies; with nothing
//! moved, arm and look again, sleep, disarm. What is found after a sleep that nothing ended was not told,
//! though it was asked for: a *rescue*, which only a lost doorbell explains.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::flow::{Flow, Session};
use super::random::Random;
use crate::dma::Transfer;
use crate::memory::BusMemory;
use crate::net::features::Features;
use crate::net::path::{Inward, Path, PathError, Which};

/// Frames a direction may move before the other has its turn.
const BATCH: u64 = 24;
/// Frames that a netdev's queue holds.
const NETDEV: usize = 200;

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Due,
    Out,
    In,
    Copies,
    Arm,
    Asleep { until: Instant },
    Woken { silent: bool },
}

/// What a worker said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It moved so many frames one way.
    Moved { out: bool, frames: u64 },
    /// It sleeps now.
    Asleep,
    /// It woke up and found what nobody told it of.
    Rescue,
    /// Nothing to tell.
    Nothing,
}

/// Why a worker cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its end sees that the ring is broken.
    Path(PathError),
    /// It is the oracle that is not content.
    Oracle(String),
}

impl From<PathError> for Fault {
    fn from(e: PathError) -> Self {
        Self::Path(e)
    }
}

/// What a worker finds around it.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) now: Instant,
    pub(super) mem: &'a BusMemory,
    /// The way out and the way in.
    pub(super) flows: [&'a mut Flow; 2],
    pub(super) random: &'a mut Random,
    /// Put here: the other end is to be rung.
    pub(super) ring: &'a mut bool,
}

/// A worker with its data path.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) path: Box<dyn Path>,
    pub(super) session: Session,
    pub(super) doorbell: Option<(u32, u16)>,
    pub(super) engine: Option<Engine>,
    /// Its path is to be given back.
    pub(super) giving_back: bool,
    /// Something came that ends a sleep.
    pub(super) called: bool,
    /// A doorbell was lost since it last looked.
    pub(super) unheard: bool,
    /// It found its ring broken, and does nothing more.
    pub(super) broken: bool,
    pub(super) rescues: u64,
    features: Features,
    frames: Option<Arc<BusMemory>>,
    refused: Option<Transfer>,
    /// Lengths of the frames that the netdev has.
    netdev: VecDeque<usize>,
    heartbeat: Duration,
    next_tick: Instant,
    stage: Stage,
    moved: u64,
    blocked: bool,
    scratch: Vec<u8>,
}

impl Worker {
    pub(super) fn new(
        now: Instant,
        path: Box<dyn Path>,
        session: Session,
        features: Features,
        heartbeat: Duration,
    ) -> Self {
        Self {
            frames: path.local(),
            path,
            session,
            doorbell: None,
            engine: None,
            giving_back: false,
            called: false,
            unheard: false,
            broken: false,
            rescues: 0,
            features,
            refused: None,
            netdev: VecDeque::new(),
            heartbeat,
            next_tick: now + heartbeat,
            stage: Stage::Due,
            moved: 0,
            blocked: false,
            scratch: Vec::new(),
        }
    }

    /// The netdev has a frame of `len` bytes.
    pub(super) fn offer(&mut self, len: usize) {
        if self.netdev.len() < NETDEV {
            self.netdev.push_back(len);
            self.called = true;
        }
    }

    /// Whether the netdev's frames have all been taken.
    pub(super) fn is_drained(&self) -> bool {
        self.netdev.is_empty()
    }

    pub(super) fn is_asleep(&self) -> bool {
        matches!(self.stage, Stage::Asleep { .. })
    }

    /// Whether it would do something now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        match self.stage {
            _ if self.broken => false,
            Stage::Asleep { until } => self.called || self.giving_back || until <= now,
            _ => true,
        }
    }

    /// When it wakes up by itself.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asleep { until } if !self.broken => Some(until),
            _ => None,
        }
    }

    /// Whether its path may change hands: nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.refused.is_none() && self.engine.as_ref().is_none_or(|engine| engine.under_way() == 0)
    }

    /// One stage.
    pub(super) fn step(&mut self, around: &mut Around<'_>) -> Result<Said, Fault> {
        let mem = around.mem;
        match self.stage {
            Stage::Due => {
                self.due(around);
                (self.stage, self.moved, self.blocked) = (Stage::Out, 0, false);
                Ok(Said::Nothing)
            }
            Stage::Out => {
                self.stage = Stage::In;
                let frames = if self.giving_back { 0 } else { self.outward(around)? };
                self.moved += frames;
                Ok(Said::Moved { out: true, frames })
            }
            Stage::In => {
                self.stage = Stage::Copies;
                let frames = if self.giving_back { 0 } else { self.inward(around)? };
                self.moved += frames;
                Ok(Said::Moved { out: false, frames })
            }
            Stage::Copies => {
                self.moved += self.copies(around)?;
                self.stage = if self.moved > 0 { Stage::Due } else { Stage::Arm };
                Ok(Said::Nothing)
            }
            Stage::Arm => {
                // Whatever was told before this look is found by it.
                self.unheard = false;
                if self.path.arm(mem, self.blocked)? {
                    self.stage = Stage::Woken { silent: false };
                    return Ok(Said::Nothing);
                }
                self.stage = Stage::Asleep { until: around.now + self.heartbeat };
                Ok(Said::Asleep)
            }
            Stage::Asleep { .. } => {
                self.stage = Stage::Woken { silent: !std::mem::take(&mut self.called) };
                Ok(Said::Nothing)
            }
            Stage::Woken { silent } => {
                self.path.disarm(mem);
                self.stage = Stage::Due;
                if silent && !self.giving_back && self.inward(around)? + self.submit() > 0 {
                    self.rescues += 1;
                    return Ok(Said::Rescue);
                }
                Ok(Said::Nothing)
            }
        }
    }

    /// Publishes what has been copied, before the path changes hands.
    pub(super) fn finish(&mut self, around: &mut Around<'_>) {
        *around.ring |= self.path.flush(around.mem);
    }

    fn due(&mut self, around: &mut Around<'_>) {
        if around.now >= self.next_tick {
            self.next_tick = around.now + self.heartbeat;
            while self.path.tick().is_some() {
                around.flows[0].dropped(self.session);
            }
        }
    }

    fn outward(&mut self, around: &mut Around<'_>) -> Result<u64, Fault> {
        let (mem, most) = (around.mem, 1 + around.random.below(BATCH));
        let mut frames = 0;
        while frames < most {
            let Some(len) = self.netdev.front().copied() else { break };
            let flow = &mut around.flows[0];
            flow.make(len, self.features, &mut self.scratch);
            let table = self.frames.as_deref().unwrap_or(mem);
            if !self.path.room(mem)?.fill(table, &self.scratch) {
                self.blocked = true;
                break;
            }
            self.netdev.pop_front();
            match self.path.sent(mem, len)? {
                None => flow.went(len, self.features, self.session),
                Some(_) => flow.refused(),
            }
            frames += 1;
        }
        *around.ring |= self.path.flush(mem);
        Ok(frames)
    }

    fn inward(&mut self, around: &mut Around<'_>) -> Result<u64, Fault> {
        let (mem, most) = (around.mem, 1 + around.random.below(BATCH));
        let mut frames = 0;
        while frames < most {
            let flow = &mut around.flows[1];
            match self.path.receive(mem)? {
                Inward::Empty => break,
                Inward::Dropped(_) => flow.dropped(self.session),
                Inward::Frame { prefix, tail, .. } => {
                    let table = self.frames.as_deref().unwrap_or(mem);
                    self.scratch.clear();
                    self.scratch.extend_from_slice(prefix);
                    for span in tail {
                        let at = self.scratch.len();
                        self.scratch.resize(at + span.len(), 0);
                        let view = table.view(*span).ok_or("a tail that is not mapped");
                        view.map_err(|e| Fault::Oracle(e.to_owned()))?
                            .copy_to(0, &mut self.scratch[at..]);
                    }
                    flow.came(&self.scratch, self.session).map_err(Fault::Oracle)?;
                }
            }
            self.path.received(mem)?;
            frames += 1;
        }
        *around.ring |= self.path.release(mem);
        Ok(frames)
    }

    fn submit(&mut self) -> u64 {
        let Some(engine) = &mut self.engine else { return 0 };
        let mut begun = 0;
        while let Some(transfer) = self.refused.take().or_else(|| self.path.poll_transfer()) {
            if let Err(transfer) = engine.submit(transfer) {
                self.refused = Some(transfer);
                break;
            }
            begun += 1;
        }
        begun
    }

    fn copies(&mut self, around: &mut Around<'_>) -> Result<u64, Fault> {
        self.submit();
        let Some(engine) = &mut self.engine else { return Ok(0) };
        let mut done = 0;
        while let Some(completion) = engine.poll() {
            self.path.handle_completion(completion)?;
            done += 1;
        }
        while let Some((queue, _)) = self.path.poll_drop() {
            let way = usize::from(queue == Which::Transmitq);
            around.flows[way].dropped(self.session);
        }
        Ok(done)
    }
}
