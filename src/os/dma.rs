//! The built-in DMA engine: it copies as slowly and as badly as it is told to.
//!
//! It stands for a hardware engine, so that the asynchronous path is the one that runs: transfers are
//! taken in order, several are under way at once, each is complete some time after it was begun, and
//! some may fail. A hardware engine implements [`Engine::submit`] and [`Engine::poll`] likewise.
//!
//! An engine with a latency or a bandwidth is a thread, and its completions wake the worker, as a hardware
//! engine's interrupts do. One without copies when it is polled, what was submitted until then: to wake a
//! thread and to be woken by it takes some 15 us, and to copy 64 KiB takes 1 to 4.
//!
//! Visibility: a thread's copies are ordinary stores, and the completion goes through a channel, whose
//! sending and receiving order them; whoever has the completion may publish.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::poll::ring;
use crate::dma::{Completion, Piece, Place, Transfer};
use crate::memory::BusMemory;

/// What the engine is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineModel {
    /// Transfers that may be under way at once.
    pub depth: u16,
    /// Time from the end of a transfer's copy to its completion.
    pub latency: Duration,
    /// Bytes per second; 0: as fast as the CPU copies.
    pub bandwidth: u64,
    /// Of a million transfers, how many fail.
    pub error_ppm: u32,
}

impl EngineModel {
    /// Whether it differs in time from a CPU that copies.
    fn takes_time(&self) -> bool {
        !self.latency.is_zero() || self.bandwidth > 0
    }

    fn duration(&self, bytes: u64) -> Duration {
        match bytes.saturating_mul(1_000_000_000).checked_div(self.bandwidth) {
            Some(ns) => Duration::from_nanos(ns),
            None => Duration::ZERO,
        }
    }
}

impl Default for EngineModel {
    fn default() -> Self {
        Self { depth: 32, latency: Duration::ZERO, bandwidth: 0, error_ppm: 0 }
    }
}

/// A running engine, for one worker. Dropping it ends its thread after the copy under way, and waits
/// for that: no byte is written afterwards.
#[derive(Debug)]
pub struct Engine {
    work: Work,
    bell: Arc<OwnedFd>,
    depth: usize,
    /// Transfers and bytes submitted.
    submitted: (u64, u64),
    under_way: usize,
}

/// Who copies.
#[derive(Debug)]
enum Work {
    /// Whoever polls, these transfers.
    Polled(Copier, VecDeque<Transfer>),
    Thread(Thread),
}

impl Engine {
    /// Starts an engine that copies between the link's memory and the path's own.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub fn start(
        model: EngineModel,
        bus: Arc<BusMemory>,
        local: Arc<BusMemory>,
    ) -> std::io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let depth = model.depth.max(1).into();
        // Any seed but 0; this one has bits all over.
        let copier = Copier { model, bus, local, random: 0x9e37_79b9_7f4a_7c15 };
        let work = if model.takes_time() {
            Work::Thread(Thread::start(copier, depth, bell.clone())?)
        } else {
            Work::Polled(copier, VecDeque::with_capacity(depth))
        };
        Ok(Self { work, bell, depth, submitted: (0, 0), under_way: 0 })
    }

    /// Gives the engine a transfer; gives it back if there is no room for it now.
    pub fn submit(&mut self, transfer: Transfer) -> Result<(), Transfer> {
        if self.under_way >= self.depth {
            return Err(transfer);
        }
        let len = transfer.len() as u64;
        match &mut self.work {
            Work::Polled(_, waiting) => waiting.push_back(transfer),
            Work::Thread(thread) => thread.submit(transfer)?,
        }
        self.submitted = (self.submitted.0 + 1, self.submitted.1 + len);
        self.under_way += 1;
        Ok(())
    }

    /// The next transfer that is over.
    pub fn poll(&mut self) -> Option<Completion> {
        let done = match &mut self.work {
            Work::Polled(copier, waiting) => copier.copy(waiting.pop_front()?),
            Work::Thread(thread) => thread.from.try_recv().ok()?,
        };
        self.under_way -= 1;
        Some(done)
    }

    /// Transfers and bytes submitted so far.
    pub fn submitted(&self) -> (u64, u64) {
        self.submitted
    }

    /// Whether its thread is gone, by a panic: then nothing completes any more.
    pub fn is_dead(&self) -> bool {
        match &self.work {
            Work::Polled(..) => false,
            Work::Thread(thread) => thread.handle.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }

    /// Transfers that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}

/// Readable at an edge when a transfer that the thread made is over; never read, as doorbells are.
impl AsFd for Engine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The thread of an engine that takes time.
#[derive(Debug)]
struct Thread {
    to: Option<SyncSender<Transfer>>,
    from: Receiver<Completion>,
    handle: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    fn start(copier: Copier, depth: usize, bell: Arc<OwnedFd>) -> std::io::Result<Self> {
        let (to, inbox) = sync_channel(depth);
        let (outbox, from) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let runner = Runner { copier, outbox, bell, stop: stop.clone() };
        let handle = std::thread::Builder::new().name("bl-engine".to_owned()).spawn(move || {
            super::confine::worker();
            runner.run(&inbox);
        })?;
        Ok(Self { to: Some(to), from, handle: Some(handle), stop })
    }

    fn submit(&self, transfer: Transfer) -> Result<(), Transfer> {
        let Some(to) = &self.to else { return Err(transfer) };
        to.try_send(transfer).map_err(|refused| match refused {
            TrySendError::Full(t) | TrySendError::Disconnected(t) => t,
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.to = None;
        if let Some(thread) = self.handle.take() {
            thread.thread().unpark();
            // A panic of the engine has been printed by its own thread.
            let _ = thread.join();
        }
    }
}

/// What the thread does.
struct Runner {
    copier: Copier,
    outbox: Sender<Completion>,
    bell: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
}

impl Runner {
    fn run(mut self, inbox: &Receiver<Transfer>) {
        let mut flying: VecDeque<(Instant, Completion)> = VecDeque::new();
        let mut free_at = Instant::now();
        let model = self.copier.model;
        // What is still under way when the core wants no more is not waited for.
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while flying.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, done)) = flying.pop_front() {
                    self.complete(done);
                }
            }
            let room = flying.len() < usize::from(model.depth.max(1));
            let next = match flying.front() {
                Some((due, _)) if !room => {
                    std::thread::park_timeout(due.saturating_duration_since(now));
                    continue;
                }
                Some((due, _)) => inbox.recv_timeout(due.saturating_duration_since(now)),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(_) if self.stop.load(Ordering::Relaxed) => return,
                Ok(transfer) => {
                    let done = self.copier.copy(transfer);
                    free_at = free_at.max(now) + model.duration(done.transfer.len() as u64);
                    let due = free_at + model.latency;
                    if due <= Instant::now() && flying.is_empty() {
                        self.complete(done);
                    } else {
                        flying.push_back((due, done));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn complete(&self, done: Completion) {
        // The other side may be gone already; then nobody wants to know.
        let _ = self.outbox.send(done);
        let _ = ring(&*self.bell);
    }
}

/// What copies.
#[derive(Debug)]
struct Copier {
    model: EngineModel,
    bus: Arc<BusMemory>,
    local: Arc<BusMemory>,
    random: u64,
}

impl Copier {
    fn copy(&mut self, transfer: Transfer) -> Completion {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let fails = self.random % 1_000_000 < self.model.error_ppm.into();
        let good = !fails && transfer.pieces.iter().all(|p| self.copy_piece(p));
        Completion { transfer, good }
    }

    fn copy_piece(&self, piece: &Piece) -> bool {
        let view = |place| match place {
            Place::Bus(span) => self.bus.view(span),
            Place::Local(span) => self.local.view(span),
        };
        let (Some(from), Some(to)) = (view(piece.from), view(piece.to)) else { return false };
        from.copy_into(&to);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Kind, Mapping, Region, Side};

    fn table(len: usize) -> Arc<BusMemory> {
        let bytes = Arc::new(Mapping::anonymous(len, Kind::Cached));
        Arc::new(BusMemory::new(vec![Region::mapped(0, len as u64, Side::Near, bytes, 0)]).unwrap())
    }

    fn transfer(token: u32, bus: &BusMemory, local: &BusMemory, at: u64, len: u32) -> Transfer {
        let from = Place::Local(local.resolve(at, len).unwrap());
        let to = Place::Bus(bus.resolve(at, len).unwrap());
        Transfer { token, pieces: vec![Piece { from, to }] }
    }

    fn wait(engine: &mut Engine) -> Completion {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(done) = engine.poll() {
                return done;
            }
            assert!(Instant::now() < deadline, "no completion");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn many_transfers_are_under_way_and_what_is_complete_has_been_copied() {
        let (bus, local) = (table(65536), table(65536));
        let model =
            EngineModel { latency: Duration::from_millis(50), depth: 16, ..Default::default() };
        let mut engine = Engine::start(model, bus.clone(), local.clone()).unwrap();
        for i in 0..16u32 {
            let at = u64::from(i) * 4096;
            let view = local.view(local.resolve(at, 8).unwrap()).unwrap();
            view.store_le64(0, u64::from(i) + 7);
            engine.submit(transfer(i, &bus, &local, at, 4096)).unwrap();
        }
        assert_eq!(engine.under_way(), 16);
        for i in 0..16u32 {
            let done = wait(&mut engine);
            assert!(done.good && done.transfer.token == i);
            let at = u64::from(i) * 4096;
            let view = bus.view(bus.resolve(at, 8).unwrap()).unwrap();
            assert_eq!(view.load_le64(0), u64::from(i) + 7);
        }
        assert_eq!(engine.submitted(), (16, 65536));
    }

    #[test]
    fn an_engine_that_takes_no_time_copies_when_it_is_polled() {
        let (bus, local) = (table(4096), table(4096));
        let model = EngineModel { depth: 2, ..Default::default() };
        let mut engine = Engine::start(model, bus.clone(), local.clone()).unwrap();
        let value =
            |table: &BusMemory, at| table.view(table.resolve(at, 8).unwrap()).unwrap().load_le64(0);
        for (token, at) in [(1, 0), (2, 64)] {
            local.view(local.resolve(at, 8).unwrap()).unwrap().store_le64(0, 7);
            engine.submit(transfer(token, &bus, &local, at, 8)).unwrap();
        }
        assert_eq!(engine.submit(transfer(3, &bus, &local, 128, 8)).unwrap_err().token, 3, "full");
        assert_eq!((engine.under_way(), value(&bus, 0)), (2, 0), "nothing has been copied");
        for (token, at, left) in [(1, 0, 1), (2, 64, 0)] {
            let done = engine.poll().unwrap();
            assert!(done.good && done.transfer.token == token);
            assert_eq!((engine.under_way(), value(&bus, at)), (left, 7));
        }
        assert!(engine.poll().is_none());
    }

    #[test]
    fn errors_come_as_often_as_the_model_says() {
        let (bus, local) = (table(4096), table(4096));
        for latency in [Duration::ZERO, Duration::from_nanos(1)] {
            let model = EngineModel { error_ppm: 100_000, latency, ..Default::default() };
            let mut engine = Engine::start(model, bus.clone(), local.clone()).unwrap();
            let mut bad = 0;
            for i in 0..2000 {
                engine.submit(transfer(i, &bus, &local, 0, 64)).unwrap();
                bad += u32::from(!wait(&mut engine).good);
            }
            assert!((100..300).contains(&bad), "{bad} of 2000");
        }
    }

    #[test]
    fn an_engine_that_is_full_gives_the_transfer_back() {
        let (bus, local) = (table(4096), table(4096));
        let model = EngineModel { latency: Duration::from_secs(5), depth: 1, ..Default::default() };
        let mut engine = Engine::start(model, bus.clone(), local.clone()).unwrap();
        let given =
            (0..10).take_while(|i| engine.submit(transfer(*i, &bus, &local, 0, 64)).is_ok());
        assert_eq!(given.count(), 1);
        assert!(engine.submit(transfer(77, &bus, &local, 0, 64)).unwrap_err().token == 77);
    }

    #[test]
    fn an_engine_that_is_dropped_waits_for_nothing_and_writes_nothing_afterwards() {
        let (bus, local) = (table(1 << 20), table(1 << 20));
        let view = local.view(local.resolve(0, 1 << 20).unwrap()).unwrap();
        (0..1 << 17).for_each(|i| view.store_le64(8 * i, u64::MAX));
        let model = EngineModel { latency: Duration::from_secs(3600), ..Default::default() };
        for depth in [1, 4, 64] {
            let model = EngineModel { depth, ..model };
            let mut engine = Engine::start(model, bus.clone(), local.clone()).unwrap();
            for i in 0..depth.into() {
                engine.submit(transfer(i, &bus, &local, 0, 1 << 20)).unwrap();
            }
            drop(engine);
            let bytes = bus.view(bus.resolve(0, 1 << 20).unwrap()).unwrap();
            (0..1 << 17).for_each(|i| bytes.store_le64(8 * i, 0));
            std::thread::sleep(Duration::from_millis(2));
            assert!((0..1 << 17).all(|i| bytes.load_le64(8 * i) == 0), "depth {depth}");
        }
    }
}
