//! Which rings run, and what they are run by.

use super::*;
use crate::memory::MemoryError;
use crate::net::device_path::DevicePath;
use crate::net::engine_path::EnginePath;
use crate::net::path::PathError;
use crate::virtqueue::{Position, QueueError};

/// Commands of the kind that data paths follow, answered in one turn; a flood waits.
const MOST_ROUNDS: usize = 16;

/// Why rings cannot run.
#[derive(Debug)]
enum Unfit {
    Memory(u16, MemoryError),
    Queue(u16, QueueError),
    Path(PathError),
    Reset,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(index, e) => write!(f, "ring {index}: {e}"),
            Self::Queue(index, e) => write!(f, "ring {index}: {e}"),
            Self::Path(e) => write!(f, "{e}"),
            Self::Reset => f.write_str("a ring runs before there are features"),
        }
    }
}

impl Unfit {
    /// Whether it may be by what the driver wrote: where a split queue stands in its used ring is read there.
    fn may_be_by_driver(&self) -> bool {
        let fault = match self {
            Self::Queue(_, e) | Self::Path(PathError::Receiveq(e) | PathError::Transmitq(e)) => e,
            _ => return false,
        };
        let (QueueError::Position { position, .. } | QueueError::OutInOrder { position }) = fault
        else {
            return false;
        };
        matches!(position, Position::Split { .. })
    }
}

impl<F: Descriptor> BackEndLink<F> {
    /// Where the control queue is, if there is one.
    pub(super) fn controlq(&self) -> u16 {
        let mq = self.accepts(net::F_MQ) && self.accepts(net::F_CTRL_VQ);
        net::controlq(if mq { self.params.pairs } else { 1 })
    }

    fn accepts(&self, feature: u8) -> bool {
        self.back.accepted().is_some_and(|bits| bits & 1 << feature != 0)
    }

    /// Whether a control queue passes by the front-end.
    fn passes_control(&self) -> bool {
        self.accepts(net::F_CTRL_VQ) && self.back.runs(self.controlq())
    }

    /// Lets run what is to run, and stops what is not.
    pub(super) fn settle(&mut self) {
        let able = self.broken.is_none() && !self.closed && self.model.negotiated().is_some();
        if able && self.passes_control() && self.control.is_none() {
            if let Err(unfit) = self.start_control() {
                return self.cannot_start(&unfit);
            }
        }
        for pair in 0..self.params.pairs {
            let enabled = [2 * pair, 2 * pair + 1].iter().all(|index| self.back.runs(*index));
            let of_control = self.accepts(net::F_CTRL_VQ) && 2 * pair >= self.controlq();
            let used = !self.passed || pair < self.used_pairs;
            let wanted = able && enabled && used && !of_control;
            match self.pairs[usize::from(pair)] {
                Pair::Running if !wanted => self.stop_pair(pair),
                // What waits may be for this one to rest.
                Pair::AtRest if wanted && self.waiting.is_none() => {
                    if let Err(unfit) = self.start_pair(pair) {
                        return self.cannot_start(&unfit);
                    }
                }
                _ => {}
            }
        }
    }

    fn cannot_start(&mut self, unfit: &Unfit) {
        if matches!(unfit, Unfit::Memory(..)) && self.more_memory {
            self.say(State::Waiting, &unfit.to_string());
        } else if unfit.may_be_by_driver() {
            self.handle_broken(&unfit.to_string());
        } else {
            self.close(&unfit.to_string());
        }
    }

    fn start_pair(&mut self, pair: u16) -> Result<(), Unfit> {
        let features = self.model.negotiated().ok_or(Unfit::Reset)?;
        self.mem = self.back.memory().clone();
        let (rx, tx) = (2 * pair, 2 * pair + 1);
        let configs = [self.queue(rx, features)?, self.queue(tx, features)?];
        let queues = [&configs[0], &configs[1]];
        let starts = [self.begin(rx)?, self.begin(tx)?];
        let path: Box<dyn Path> = match self.params.engine {
            None => {
                let path = DevicePath::new_at(&self.mem, features, queues, starts);
                Box::new(path.map_err(Unfit::Path)?.obeying(self.model.settings()))
            }
            Some(engine) => {
                let path = EnginePath::new_at(&self.mem, features, queues, starts, engine);
                Box::new(path.map_err(Unfit::Path)?.obeying(self.model.settings()))
            }
        };
        let first = self.start(features);
        let ring = |index| self.back.ring(index).ok_or(Unfit::Reset);
        let kick = |index| ring(index)?.kick.clone().ok_or(Unfit::Reset);
        let call = |index| Ok::<_, Unfit>(ring(index)?.call.clone());
        self.events.push_back(Event::StartPair(StartPair {
            pair,
            path,
            mem: self.mem.clone(),
            kicks: [kick(rx)?, kick(tx)?],
            calls: [call(rx)?, call(tx)?],
            settings: self.model.settings().clone(),
        }));
        self.pairs[usize::from(pair)] = Pair::Running;
        if first {
            self.events.push_back(Event::Carrier(true));
            self.say(State::Up, "");
        }
        Ok(())
    }

    /// A pair is about to run; whether it is the first since nothing did.
    fn start(&mut self, features: Features) -> bool {
        if std::mem::replace(&mut self.started, true) {
            return false;
        }
        self.model.set_status(status::DRIVER_OK.into());
        let mut octets = [0; size_of::<net::Config>()];
        self.model.read_config(0, &mut octets);
        self.events.push_back(Event::Start(Start { features, config: config_of(&octets) }));
        // By commands that came before there was anything to follow them, or when it last ran.
        let news = std::iter::from_fn(|| self.model.poll_event());
        for event in news {
            match event {
                model::Event::UsePairs(pairs) => self.used_pairs = pairs,
                model::Event::Offloads(offloads) => self.offloads = Some(offloads),
                _ => {}
            }
        }
        self.events.extend(self.offloads.map(Event::Offloads));
        if self.model.ask_to_announce() {
            self.tell_config_changed();
        }
        true
    }

    /// Where a ring lies.
    fn queue(&self, index: u16, features: Features) -> Result<QueueConfig, Unfit> {
        let ring = self.back.ring(index).ok_or(Unfit::Reset)?;
        let addr = ring.addr.ok_or(Unfit::Reset)?;
        let bus_addr = |user| self.back.bus_addr(user).map_err(|e| Unfit::Memory(index, e));
        let (desc, driver) = (bus_addr(addr.desc)?, bus_addr(addr.driver)?);
        let device = bus_addr(addr.device)?;
        Ok(config_from(&QueueSetup { index, size: ring.size, desc, driver, device }, features))
    }

    /// Where a ring goes on. All that was taken has been used, so of a packed one there is one place; the
    /// half of the base that is about the used ring is left out by some front-ends.
    fn begin(&self, index: u16) -> Result<Begin, Unfit> {
        let ring = self.back.ring(index).ok_or(Unfit::Reset)?;
        let packed = self.accepts(virtio::F_RING_PACKED);
        let base = if packed { ring.base & 0xffff | ring.base << 16 } else { ring.base };
        let Some((tracked, offset)) = self.back.tracked(index, ring.size) else {
            return Ok(Begin { at: At::Base(base), journal: None });
        };
        let journal = Journal::new(tracked.memory.clone(), offset, tracked.queue_size, packed);
        let journal = journal.map_err(|e| Unfit::Queue(index, e))?;
        Ok(Begin { at: At::Crash { base }, journal: Some(journal) })
    }

    /// Finds where a ring goes on whose worker cannot say it. A packed one does not tell.
    pub(super) fn find_base(&mut self, index: u16) {
        let features = self.model.negotiated().unwrap_or_default();
        let Ok(QueueConfig { device, packed: false, .. }) = self.queue(index, features) else {
            return;
        };
        let ring = self.mem.resolve_mapped(device, 4, 4).ok().and_then(|span| self.mem.view(span));
        if let Some(used) = ring.map(|ring| ring.load_acquire_le16(2)) {
            self.back.set_base(index, used.into());
        }
    }

    /// Nothing of these rings is in flight.
    pub(super) fn forget_in_flight(&self, rings: impl IntoIterator<Item = u16>) {
        for (tracked, offset) in rings.into_iter().filter_map(|index| self.back.tracked_at(index)) {
            let (memory, size) = (tracked.memory.clone(), tracked.queue_size);
            if let Ok(journal) = Journal::new(memory, offset, size, tracked.packed) {
                journal.forget();
            }
        }
    }

    fn start_control(&mut self) -> Result<(), Unfit> {
        let index = self.controlq();
        let features = self.model.negotiated().ok_or(Unfit::Reset)?;
        self.mem = self.back.memory().clone();
        let (config, begin) = (self.queue(index, features)?, self.begin(index)?);
        let control = ControlPath::new_at(&self.mem, &config, begin);
        self.control = Some(control.map_err(|e| Unfit::Queue(index, e))?);
        let kick = self.back.ring(index).and_then(|ring| ring.kick.clone());
        self.events.push_back(Event::Watch(kick));
        (self.passed, self.more) = (true, true);
        Ok(())
    }

    /// Nothing is taken from the control queue any more; where it goes on is kept.
    pub(super) fn drop_control(&mut self) {
        if let Some(control) = self.control.take() {
            self.back.set_base(self.controlq(), control.halt().base());
            self.events.push_back(Event::Watch(None));
        }
    }

    /// Carries out the driver's commands.
    pub(super) fn turn_control(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let settled = self.is_settled();
            let Some(control) = &mut self.control else { return };
            match control.handle(&self.mem, &mut self.model, settled) {
                Ok((ring, more)) => {
                    self.more |= more;
                    let call = self.back.ring(self.controlq()).and_then(|ring| ring.call.clone());
                    self.events.extend(call.filter(|_| ring).map(Event::Ring));
                }
                Err(e) => return self.handle_broken(&format!("controlq: {e}")),
            }
            self.follow_commands();
            let waits = self.control.as_ref().is_some_and(ControlPath::waits);
            if !waits || !self.is_settled() {
                return;
            }
        }
        self.more = true;
    }

    /// What commands have changed.
    fn follow_commands(&mut self) {
        while let Some(event) = self.model.poll_event() {
            match event {
                model::Event::UsePairs(pairs) => self.used_pairs = pairs,
                model::Event::Offloads(offloads) => {
                    self.offloads = Some(offloads);
                    self.events.push_back(Event::Offloads(offloads));
                    // Each worker has published what it took by the earlier ones once it has stopped.
                    (0..self.params.pairs).for_each(|pair| self.stop_pair(pair));
                }
                _ => {}
            }
        }
        self.settle();
    }

    /// Whether data paths have followed all commands.
    fn is_settled(&self) -> bool {
        let is_used = |pair: usize| pair < usize::from(self.used_pairs);
        let mut pairs = self.pairs.iter().enumerate();
        pairs.all(|(index, pair)| match pair {
            Pair::AtRest => true,
            Pair::Running => is_used(index),
            Pair::Leaving => false,
        })
    }
}
