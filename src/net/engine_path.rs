//! The device's data path by DMA engine: frames pass through local buffers, copies overlap.
//!
//! Outward, a frame is read from the netdev into local memory, receive chains are taken for it, and
//! its copy joins the open transfer; inward, a chain is popped, local memory is taken for it, and its
//! copy joins the other open transfer. A transfer is closed, and so given to the engine, when it has
//! 64 KiB or at the end of a batch: small frames share transfers, large ones have their own.
//!
//! Frames are *flights*, oldest first. A flight lands when its transfer has completed; only landed
//! flights at the front go on, so frames keep their order whatever the engine does, and a used entry
//! is published only after the completion of its payload. Short frames are copied by the CPU where
//! it can reach the memory, and then have landed at once.
//!
//! Local memory is private: what has landed in it is checked there, and cannot change any more.
//!
//! A queue that the driver resets is gone until it is set up anew. Frames on their way to it or from
//! it are dropped when their copies are over.

use std::collections::VecDeque;
use std::sync::Arc;

use super::arena::SLOT;
use super::features::Features;
use super::frame::{self, Drop, LARGEST, Offloads, PREFIX_LEN};
use super::path::{self, Filled, Inward, Path, PathError, Room, Which, countable};
use super::settings::{Current, JUDGED_LEN, Settings, Watch};
use crate::dma::{Completion, Piece, Place, Transfer};
use crate::memory::{BusMemory, Kind, Mapping, Region, Side, Span};
use crate::planted::{Bug, planted};
use crate::spec::net::{self, HEADER_LEN};
use crate::virtqueue::{Chain, DeviceQueue, Position, QueueConfig, Start};
#[cfg(test)]
pub(super) use lane::copy;
use lane::{Cpu, Flight, LOCAL, Lane};

mod end;
mod lane;

/// Errors in a row after which the engine is given up.
const MOST_ERRORS: u32 = 16;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

/// How an [`EnginePath`] uses its engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineUse {
    /// Frames shorter than this are copied by the CPU, where it can reach the memory. In bytes.
    pub cpu_below: usize,
}

/// The device's end of a queue pair, with an engine.
#[derive(Debug)]
pub struct EnginePath {
    /// `None` after a reset.
    receiveq: Option<DeviceQueue>,
    transmitq: Option<DeviceQueue>,
    settings: Watch,
    mergeable: bool,
    allowed: Offloads,
    cpu: Cpu,
    local: Arc<BusMemory>,
    out: Lane,
    inward: Lane,
    /// Popped receive chains that no frame has taken: the first `held` of these.
    chains: Vec<Chain>,
    held: usize,
    held_len: usize,
    /// Heads and used lengths of the chains that flights have taken, oldest first.
    taken: VecDeque<(u16, u32)>,
    room_at: u32,
    lent: [Span; 1],
    /// A frame in the lent memory that waits for more chains, its length, and whether it has waited.
    pending: Option<(usize, bool)>,
    transmit: Chain,
    ready: VecDeque<Transfer>,
    spare: Vec<Vec<Piece>>,
    next_token: u32,
    errors: u32,
    drops: VecDeque<(Which, Drop)>,
    prefix: Box<[u8; PREFIX_LEN]>,
    tail: Vec<Span>,
}

impl EnginePath {
    /// A path over the two queues that the driver has set up.
    pub fn new(
        mem: &BusMemory,
        features: Features,
        receiveq: &QueueConfig,
        transmitq: &QueueConfig,
        engine: EngineUse,
    ) -> Result<Self, PathError> {
        let receiveq = path::activate(mem, Which::Receiveq, receiveq)?;
        let transmitq = path::activate(mem, Which::Transmitq, transmitq)?;
        Ok(Self::over([receiveq, transmitq], features, engine))
    }

    /// A path over two queues, receiveq and transmitq, that are in use.
    pub fn new_at(
        mem: &BusMemory,
        features: Features,
        queues: [&QueueConfig; 2],
        starts: [Start; 2],
        engine: EngineUse,
    ) -> Result<Self, PathError> {
        Ok(Self::over(path::activate_at(mem, queues, starts)?, features, engine))
    }

    fn over(
        [receiveq, transmitq]: [DeviceQueue; 2],
        features: Features,
        engine: EngineUse,
    ) -> Self {
        let len = 2 * LOCAL as usize;
        let bytes = Arc::new(Mapping::anonymous(len, Kind::Cached));
        let region = Region::mapped(0, len as u64, Side::Near, bytes, 0);
        let local = Arc::new(BusMemory::new(vec![region]).expect("one region overlaps nothing"));
        let lent = [local.resolve(0, SLOT).expect("local memory has room for a frame")];
        Self {
            mergeable: features.has(net::F_MRG_RXBUF),
            allowed: Offloads::to_device(features),
            cpu: Cpu { below: engine.cpu_below, may_read: true },
            local,
            out: Lane::new(0, 1),
            inward: Lane::new(LOCAL.into(), 2),
            chains: Vec::new(),
            held: 0,
            held_len: 0,
            taken: VecDeque::with_capacity(receiveq.size().into()),
            room_at: 0,
            lent,
            pending: None,
            transmit: Chain::with_capacity(transmitq.size().into()),
            ready: VecDeque::new(),
            spare: Vec::new(),
            next_token: 2,
            errors: 0,
            drops: VecDeque::new(),
            prefix: Box::new([0; PREFIX_LEN]),
            tail: Vec::with_capacity(1),
            settings: Settings::new(Current::at_first(features, [0; 6])).watch(),
            receiveq: Some(receiveq),
            transmitq: Some(transmitq),
        }
    }

    /// The same, with a driver that sets things at run time.
    #[must_use]
    pub fn obeying(mut self, settings: &Arc<Settings>) -> Self {
        self.settings = settings.watch();
        self
    }

    /// The same, with our own driver, or another: with our own one no far memory is read.
    #[must_use]
    pub fn with_own_driver(self, own: bool) -> Self {
        Self { cpu: Cpu { may_read: !own, ..self.cpu }, ..self }
    }

    /// Whether more chains than are held cannot come, or would not count.
    fn holds_all(&self) -> bool {
        // Without a queue there is none, and a frame that waits does so for the next one.
        let size = self.receiveq.as_ref().map(DeviceQueue::size);
        size.is_some_and(|size| self.held == if self.mergeable { size.into() } else { 1 })
    }

    /// Why the driver does not want the frame of `len` bytes in the lent memory.
    fn judge(&mut self, len: usize) -> Option<Drop> {
        if !self.settings.current.judges() {
            return None;
        }
        let start = &mut self.prefix[..len.min(JUDGED_LEN)];
        path::copy_out(&self.local, &self.lent, 0, start);
        self.settings.current.judge(start)
    }

    /// Pops receive chains until they can take any frame, or there are none left.
    fn gather(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        while self.held_len < LARGEST && !self.holds_all() {
            let Some(receiveq) = &mut self.receiveq else { break };
            if self.held == self.chains.len() {
                self.chains.push(Chain::with_capacity(receiveq.size().into()));
            }
            let chain = &mut self.chains[self.held];
            if !receiveq.pop(mem, chain).map_err(PathError::Receiveq)? {
                break;
            }
            let len = chain.writable_len();
            if (len as usize) < HEADER_LEN {
                return Err(PathError::BufferTooSmall(len));
            }
            self.held += 1;
            self.held_len += countable(chain);
        }
        Ok(())
    }

    /// Sends a frame of `len` bytes in the lent memory on its way to the held chains, which are long
    /// enough.
    fn depart(&mut self, mem: &BusMemory, len: usize) {
        let local = self.lent[0].take(len);
        let short = u32::try_from(len).expect("at most a slot");
        let token = self.out.arena.take(self.room_at, short);
        let mut used = 0;
        let mut left = len;
        let first = self.out.open.pieces.len();
        let mut at = 0;
        while left > 0 {
            let chain = &self.chains[used];
            let part = left.min(chain.writable_len() as usize);
            let mut rest = part;
            for span in &chain.writable {
                if rest == 0 {
                    break;
                }
                let to = span.take(rest);
                let from = local.skip(at).take(to.len());
                self.out.open.pieces.push(Piece { from: Place::Local(from), to: Place::Bus(to) });
                at += to.len();
                rest -= to.len();
            }
            let written = u32::try_from(part).expect("at most a slot");
            self.taken.push_back((chain.head, written));
            self.held_len -= countable(chain);
            left -= part;
            used += 1;
        }
        let count = u16::try_from(used).expect("at most the queue size");
        path::copy_in(&self.local, &[local], NUM_BUFFERS, &count.to_le_bytes());
        self.chains[..self.held].rotate_left(used);
        self.held -= used;
        let transfer = self.out.board(mem, &self.local, first, len, self.cpu);
        self.out.flights.push_back(Flight {
            local,
            token,
            transfer,
            bad: None,
            chains: used,
            head: 0,
        });
        if self.out.is_full() {
            self.close_out();
        }
    }

    /// Takes up what waits in the transmitq, as far as there is local memory for it.
    fn take_up(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        while let Some((at, slot)) = self.inward.room(&self.local) {
            let Some(transmitq) = &mut self.transmitq else { break };
            if !transmitq.pop(mem, &mut self.transmit).map_err(PathError::Transmitq)? {
                break;
            }
            let total = self.transmit.readable_len() as usize;
            let bad = match total {
                0..HEADER_LEN => Some(Drop::TooShort),
                _ if total > LARGEST => Some(Drop::TooLong),
                _ => None,
            };
            let len = if bad.is_some() { 0 } else { total };
            let local = slot.take(len);
            let short = u32::try_from(len).expect("at most a slot");
            let token = self.inward.arena.take(at, short);
            let first = self.inward.open.pieces.len();
            let mut done = 0;
            for &span in self.transmit.readable.iter().take_while(|_| bad.is_none()) {
                let to = local.skip(done).take(span.len());
                done += span.len();
                let piece = Piece { from: Place::Bus(span), to: Place::Local(to) };
                self.inward.open.pieces.push(piece);
            }
            let transfer = self.inward.board(mem, &self.local, first, len, self.cpu);
            let head = self.transmit.head;
            self.inward.flights.push_back(Flight { local, token, transfer, bad, chains: 1, head });
            if self.inward.is_full() {
                self.close_inward();
            }
        }
        self.close_inward();
        Ok(())
    }

    fn close_out(&mut self) {
        if !self.out.open.is_empty() {
            let next = self.empty();
            self.ready.push_back(self.out.close(next));
        }
    }

    fn close_inward(&mut self) {
        if !self.inward.open.is_empty() {
            let next = self.empty();
            self.ready.push_back(self.inward.close(next));
        }
    }

    /// An empty transfer with a token of its own.
    fn empty(&mut self) -> Transfer {
        if !planted(Bug::TokenReused) {
            self.next_token = self.next_token.wrapping_add(1);
        }
        Transfer { token: self.next_token, pieces: self.spare.pop().unwrap_or_default() }
    }
}

impl Path for EnginePath {
    fn filled(&self) -> [Filled; 2] {
        [&self.receiveq, &self.transmitq].map(path::filled)
    }

    fn local(&self) -> Option<Arc<BusMemory>> {
        Some(self.local.clone())
    }

    fn room(&mut self, mem: &BusMemory) -> Result<Room<'_>, PathError> {
        self.settings.refresh();
        self.gather(mem)?;
        if let Some((len, _)) = self.pending {
            // It has waited, and the driver may want it no more.
            if let Some(reason) = self.judge(len) {
                self.drops.push_back((Which::Receiveq, reason));
            } else if len <= self.held_len {
                self.depart(mem, len);
                self.gather(mem)?;
            } else if self.holds_all() {
                self.drops.push_back((Which::Receiveq, Drop::TooLong));
            } else {
                return Ok(Room::Nowhere);
            }
            self.pending = None;
        }
        if self.held == 0 {
            return Ok(Room::Nowhere);
        }
        let Some((at, span)) = self.out.room(&self.local) else { return Ok(Room::Nowhere) };
        self.room_at = at;
        self.lent = [span];
        Ok(Room::Shared(&self.lent))
    }

    fn sent(&mut self, mem: &BusMemory, len: usize) -> Result<Option<Drop>, PathError> {
        if let Some(reason) = frame::wrong_length(len) {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.judge(len) {
            return Ok(Some(reason));
        }
        if len <= self.held_len {
            self.depart(mem, len);
        } else if self.holds_all() {
            return Ok(Some(Drop::TooLong));
        } else {
            self.pending = Some((len, false));
        }
        Ok(None)
    }

    fn flush(&mut self, mem: &BusMemory) -> bool {
        self.close_out();
        while self.out.landed() {
            let Some(flight) = self.out.pop() else { break };
            for _ in 0..flight.chains {
                let Some((head, len)) = self.taken.pop_front() else { break };
                let len = if flight.bad.is_none() { len } else { 0 };
                if let Some(receiveq) = &mut self.receiveq {
                    receiveq.push(mem, head, len);
                }
            }
            self.drops.extend(flight.bad.map(|reason| (Which::Receiveq, reason)));
        }
        self.receiveq.as_mut().is_some_and(|queue| queue.publish(mem))
    }

    fn receive(&mut self, mem: &BusMemory) -> Result<Inward<'_>, PathError> {
        self.take_up(mem)?;
        let Some(flight) = self.inward.flights.front().filter(|f| f.transfer.is_none()) else {
            return Ok(Inward::Empty);
        };
        if let Some(reason) = flight.bad {
            return Ok(Inward::Dropped(reason));
        }
        let total = flight.local.len();
        let cut = total.min(PREFIX_LEN);
        path::copy_out(&self.local, &[flight.local], 0, &mut self.prefix[..cut]);
        let prefix = &self.prefix[..cut];
        if let Err(reason) = frame::check(prefix, total, self.allowed) {
            return Ok(Inward::Dropped(reason));
        }
        self.tail.clear();
        if total > cut {
            self.tail.push(flight.local.skip(cut));
        }
        Ok(Inward::Frame { prefix, tail: &self.tail, len: total - HEADER_LEN })
    }

    fn rejected(&self) -> (&[u8], usize) {
        // What never came, or came spoiled, was not looked at.
        let good = self.inward.flights.front().filter(|flight| flight.bad.is_none());
        let total = good.map_or(0, |flight| flight.local.len());
        (&self.prefix[..total.min(PREFIX_LEN)], total)
    }

    fn received(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        if let (Some(flight), Some(transmitq)) = (self.inward.pop(), &mut self.transmitq) {
            transmitq.push(mem, flight.head, 0);
        }
        Ok(())
    }

    fn release(&mut self, mem: &BusMemory) -> bool {
        self.transmitq.as_mut().is_some_and(|queue| queue.publish(mem))
    }

    fn arm(&mut self, mem: &BusMemory, for_room: bool) -> Result<bool, PathError> {
        let landed = self.out.landed() || self.inward.landed();
        let room = for_room && self.arm_for_room(mem)?;
        // Without local memory the rings cannot be served; a completion comes before more is needed.
        let full = self.inward.arena.room().is_none();
        let transmitq = self.transmitq.as_mut().filter(|_| !full);
        let frames = path::arm(transmitq, mem).map_err(PathError::Transmitq)?;
        // Transfers that wait for the engine are no reason to stay awake: it completes others first.
        Ok(landed || frames || room)
    }

    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        let want = self.out.arena.room().is_some();
        // Local memory may have come back since `room` found none, with chains in hand all the while.
        let held = want && self.pending.is_none() && self.held > 0;
        let receiveq = self.receiveq.as_mut().filter(|_| want);
        let room = path::arm(receiveq, mem).map_err(PathError::Receiveq)?;
        Ok(self.out.landed() || held || room)
    }

    fn disarm(&mut self, mem: &BusMemory) {
        for queue in [&mut self.transmitq, &mut self.receiveq].into_iter().flatten() {
            queue.disarm(mem);
        }
    }

    fn halt(&mut self, mem: &BusMemory) -> [Option<Position>; 2] {
        self.halt_queues(mem)
    }

    fn reset_queue(&mut self, which: Which) {
        self.forget_queue(which);
    }

    fn enable_queue(
        &mut self,
        mem: &BusMemory,
        which: Which,
        config: &QueueConfig,
    ) -> Result<(), PathError> {
        let queue = path::activate(mem, which, config)?;
        match which {
            Which::Receiveq => self.receiveq = Some(queue),
            Which::Transmitq => self.transmitq = Some(queue),
        }
        Ok(())
    }

    fn tick(&mut self) -> Option<Drop> {
        match &mut self.pending {
            Some((_, waited @ false)) => {
                *waited = true;
                None
            }
            pending => pending.take().map(|_| path::waited_in_vain(self.receiveq.as_ref())),
        }
    }

    fn poll_transfer(&mut self) -> Option<Transfer> {
        self.ready.pop_front()
    }

    fn handle_completion(&mut self, done: Completion) -> Result<(), PathError> {
        let Completion { transfer: Transfer { token, mut pieces }, good } = done;
        self.errors = if good { 0 } else { self.errors.saturating_add(1) };
        self.out.completed(token, good);
        self.inward.completed(token, good);
        pieces.clear();
        self.spare.push(pieces);
        if self.errors >= MOST_ERRORS { Err(PathError::Engine(self.errors)) } else { Ok(()) }
    }

    fn poll_drop(&mut self) -> Option<(Which, Drop)> {
        self.drops.pop_front()
    }
}
