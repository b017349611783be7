//! The device's data path: fills the driver's receive buffers, empties its transmit buffers.
//!
//! Receive buffers are the driver's choice. Chains are popped ahead and *held* until they can take
//! the largest frame there is; then the netdev is read straight into them. With less than that, a
//! frame is read into a private buffer and scattered, because a TAP read cuts what does not fit. A
//! frame that needs more chains than there are waits for them (mergeable buffers), for one whole
//! heartbeat and less than two; one that is larger than a lone buffer, or than all chains that the
//! queue can have, is dropped (virtio 1.4 §5.1.6.4).
//!
//! Where the driver filters, or takes fewer offloads than were negotiated, a frame's start is read to
//! private memory and judged there: receive buffers may be far, and are never read.
//!
//! A queue that the driver resets is gone until it is set up anew; its held chains go with it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::features::Features;
use super::frame::{self, Drop, LARGEST, Offloads, PREFIX_LEN};
use super::path::{
    self, Filled, Inward, LentQueue, MOST_SPANS, Path, PathError, Room, Taken, Which, countable,
};
use super::settings::{Current, JUDGED_LEN, Settings, Watch};
use crate::memory::{BusMemory, Span};
use crate::planted::{Bug, planted};
use crate::spec::net::{self, HEADER_LEN};
use crate::virtqueue::{Chain, DeviceQueue, Position, QueueConfig, Start};

/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

/// A frame that waits.
#[derive(Clone, Copy, Debug)]
struct Pending {
    len: usize,
    /// A heartbeat has found it waiting.
    seen: bool,
}

/// Where `room` had the frame read to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lent {
    /// All of it to `private`.
    Private,
    /// The start to `private`, the rest to ring memory.
    Split,
    /// All of it to ring memory.
    Shared,
}

/// The device's end of a queue pair.
#[derive(Debug)]
pub struct DevicePath {
    /// `None` after a reset.
    receiveq: Option<DeviceQueue>,
    transmitq: Option<DeviceQueue>,
    /// Where they lie, in this order.
    configs: [QueueConfig; 2],
    settings: Watch,
    mergeable: bool,
    allowed: Offloads,
    /// Popped receive chains that wait for a frame: the first `held` of these, in order.
    chains: VecDeque<Chain>,
    held: usize,
    held_len: usize,
    /// The held chains' spans, behind `gone` ones of chains that were used.
    spans: Vec<Span>,
    gone: usize,
    /// Those of them that system calls may not copy to.
    uncached: usize,
    lent: Lent,
    private: Box<[u8]>,
    /// A frame may be written up to the end of its last word.
    whole_words: bool,
    /// A frame in `private` that waits for more chains.
    pending: Option<Pending>,
    /// Why frames that waited were dropped, as far as that is not yet told.
    dropped: Vec<Drop>,
    transmit: Chain,
    inward: Box<[u8]>,
    tail: Vec<Span>,
    copied: usize,
}

impl DevicePath {
    /// A path over the two queues that the driver has set up.
    pub fn new(
        mem: &BusMemory,
        features: Features,
        receiveq: &QueueConfig,
        transmitq: &QueueConfig,
    ) -> Result<Self, PathError> {
        let queues = [
            path::activate(mem, Which::Receiveq, receiveq)?,
            path::activate(mem, Which::Transmitq, transmitq)?,
        ];
        Ok(Self::over(queues, [*receiveq, *transmitq], features))
    }

    /// A path over two queues, receiveq and transmitq, that are in use.
    pub fn new_at(
        mem: &BusMemory,
        features: Features,
        queues: [&QueueConfig; 2],
        starts: [Start; 2],
    ) -> Result<Self, PathError> {
        Ok(Self::over(
            path::activate_at(mem, queues, starts)?,
            queues.map(|config| *config),
            features,
        ))
    }

    fn over(
        [receiveq, transmitq]: [DeviceQueue; 2],
        configs: [QueueConfig; 2],
        features: Features,
    ) -> Self {
        Self {
            mergeable: features.has(net::F_MRG_RXBUF),
            allowed: Offloads::to_device(features),
            chains: VecDeque::new(),
            held: 0,
            held_len: 0,
            // Of chains as long as any, and as many used ones before them as are kept.
            spans: Vec::with_capacity(usize::from(receiveq.size()) + 2 * MOST_SPANS),
            gone: 0,
            uncached: 0,
            lent: Lent::Private,
            settings: Settings::new(Current::at_first(features, [0; 6])).watch(),
            private: vec![0; LARGEST].into(),
            whole_words: false,
            pending: None,
            dropped: Vec::new(),
            transmit: Chain::with_capacity(transmitq.size().into()),
            inward: vec![0; LARGEST].into(),
            tail: Vec::with_capacity(transmitq.size().into()),
            receiveq: Some(receiveq),
            transmitq: Some(transmitq),
            configs,
            copied: 0,
        }
    }

    /// No receive chain is held any more.
    fn let_go(&mut self) {
        (self.held, self.held_len, self.uncached, self.gone) = (0, 0, 0, 0);
        self.spans.clear();
    }

    fn have(&mut self, which: Which, queue: DeviceQueue) {
        match which {
            Which::Receiveq => self.receiveq = Some(queue),
            Which::Transmitq => self.transmitq = Some(queue),
        }
    }

    /// The same, with a driver that sets things at run time.
    #[must_use]
    pub fn obeying(mut self, settings: &Arc<Settings>) -> Self {
        self.settings = settings.watch();
        self
    }

    /// The same, with our own driver, or another: what stands behind a frame in our own one's buffers means
    /// nothing, and far memory that takes words only need not be read to keep it.
    #[must_use]
    pub fn with_own_driver(self, own: bool) -> Self {
        Self { whole_words: own, ..self }
    }

    /// Whether more chains than are held cannot come, or would not count.
    fn holds_all(&self) -> bool {
        // Without a queue there is none, and a frame that waits does so for the next one.
        let size = self.receiveq.as_ref().map(DeviceQueue::size);
        size.is_some_and(|size| self.held == if self.mergeable { size.into() } else { 1 })
    }

    /// Pops receive chains until they can take the largest frame, or there are none left.
    fn gather(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        while self.held_len < LARGEST && !self.holds_all() {
            let Some(receiveq) = &mut self.receiveq else { break };
            if self.held == self.chains.len() {
                self.chains.push_back(Chain::with_capacity(receiveq.size().into()));
            }
            let chain = &mut self.chains[self.held];
            if !receiveq.pop(mem, chain).map_err(PathError::Receiveq)? {
                break;
            }
            let len = chain.writable_len();
            if (len as usize) < HEADER_LEN {
                return Err(PathError::BufferTooSmall(len));
            }
            self.spans.extend_from_slice(&chain.writable);
            self.uncached += path::uncached(mem, &chain.writable);
            self.held += 1;
            self.held_len += countable(chain);
        }
        Ok(())
    }

    /// Puts a frame of `len` bytes, of which `private` holds what was not read in place, into the held
    /// chains, which are long enough.
    fn deliver(&mut self, mem: &BusMemory, len: usize) {
        let mut left = len;
        let mut used = 0;
        while left > 0 {
            left -= left.min(self.chains[used].writable_len() as usize);
            used += 1;
        }
        let count = u16::try_from(used).expect("at most the queue size").to_le_bytes();
        let private = match self.lent {
            Lent::Private => len,
            Lent::Split => len.min(JUDGED_LEN),
            Lent::Shared => 0,
        };
        if private == 0 {
            path::copy_in(mem, &self.spans[self.gone..], NUM_BUFFERS, &count);
        } else {
            self.private[NUM_BUFFERS..][..count.len()].copy_from_slice(&count);
            let put = if self.whole_words { path::copy_frame_in } else { path::copy_start_in };
            put(mem, &self.spans[self.gone..], &self.private[..private]);
            self.copied = self.copied.wrapping_add(private);
        }
        left = len;
        for chain in self.chains.range(..used) {
            let part = left.min(chain.writable_len() as usize);
            left -= part;
            let part = u32::try_from(part).expect("at most a u32's worth");
            let part = part - u32::from(planted(Bug::UsedLength));
            if let Some(receiveq) = &mut self.receiveq {
                receiveq.push(mem, chain.head, part);
            }
            self.gone += chain.writable.len();
            self.held_len -= countable(chain);
            self.uncached -= path::uncached(mem, &chain.writable);
        }
        // A short frame takes one chain of many: the others' spans are moved for one in many frames only.
        if self.gone >= MOST_SPANS {
            self.spans.drain(..self.gone);
            self.gone = 0;
        }
        self.chains.rotate_left(used);
        self.held -= used;
    }
}

impl Path for DevicePath {
    fn room(&mut self, mem: &BusMemory) -> Result<Room<'_>, PathError> {
        self.settings.refresh();
        self.gather(mem)?;
        if let Some(Pending { len, .. }) = self.pending {
            // It has waited, and the driver may want it no more.
            let unwanted = self.settings.current.judge(&self.private[..len.min(JUDGED_LEN)]);
            if let Some(reason) = unwanted {
                self.dropped.push(reason);
            } else if len <= self.held_len {
                self.lent = Lent::Private;
                self.deliver(mem, len);
                self.gather(mem)?;
            } else if self.holds_all() {
                self.dropped.push(Drop::TooLong);
            } else {
                return Ok(Room::Nowhere);
            }
            self.pending = None;
        }
        if self.held == 0 {
            return Ok(Room::Nowhere);
        }
        let lend = self.held_len >= LARGEST
            && self.spans.len() - self.gone <= MOST_SPANS
            && self.uncached == 0;
        self.lent = match (lend, self.settings.current.judges()) {
            (false, _) => Lent::Private,
            (true, true) => Lent::Split,
            (true, false) => Lent::Shared,
        };
        Ok(match self.lent {
            Lent::Private => Room::Private(&mut self.private),
            Lent::Shared => Room::Shared(&self.spans[self.gone..]),
            Lent::Split => {
                self.tail.clear();
                self.tail.extend_from_slice(&self.spans[self.gone..]);
                path::skip(&mut self.tail, JUDGED_LEN);
                Room::Split { head: &mut self.private[..JUDGED_LEN], rest: &self.tail }
            }
        })
    }

    fn sent(&mut self, mem: &BusMemory, len: usize) -> Result<Option<Drop>, PathError> {
        if let Some(reason) = frame::wrong_length(len) {
            return Ok(Some(reason));
        }
        if self.lent != Lent::Shared {
            if let Some(reason) = self.settings.current.judge(&self.private[..len.min(JUDGED_LEN)])
            {
                return Ok(Some(reason));
            }
        }
        if len <= self.held_len {
            self.deliver(mem, len);
        } else if self.holds_all() {
            return Ok(Some(Drop::TooLong));
        } else {
            self.pending = Some(Pending { len, seen: false });
        }
        Ok(None)
    }

    fn flush(&mut self, mem: &BusMemory) -> bool {
        self.receiveq.as_mut().is_some_and(|queue| queue.publish(mem))
    }

    fn receive(&mut self, mem: &BusMemory) -> Result<Inward<'_>, PathError> {
        let Some(transmitq) = &mut self.transmitq else { return Ok(Inward::Empty) };
        if !transmitq.pop(mem, &mut self.transmit).map_err(PathError::Transmitq)? {
            return Ok(Inward::Empty);
        }
        let total = self.transmit.readable_len() as usize;
        if total > LARGEST {
            return Ok(Inward::Dropped(Drop::TooLong));
        }
        let whole = !path::all_cached(mem, &self.transmit.readable);
        let cut = if whole { total } else { total.min(PREFIX_LEN) };
        path::copy_out(mem, &self.transmit.readable, 0, &mut self.inward[..cut]);
        self.copied = self.copied.wrapping_add(cut);
        let prefix = &self.inward[..cut];
        if let Err(reason) = frame::check(prefix, total, self.allowed) {
            return Ok(Inward::Dropped(reason));
        }
        self.tail.clear();
        // Of a short frame nothing follows.
        if cut < total {
            self.tail.extend_from_slice(&self.transmit.readable);
            path::skip(&mut self.tail, cut);
        }
        Ok(Inward::Frame { prefix, tail: &self.tail, len: total - HEADER_LEN })
    }

    fn receive_whole(
        &mut self,
        mem: &BusMemory,
        _: &BusMemory,
        to: &mut [u8],
    ) -> Result<Taken, PathError> {
        let Some(transmitq) = &mut self.transmitq else { return Ok(Taken::Empty) };
        if !transmitq.pop(mem, &mut self.transmit).map_err(PathError::Transmitq)? {
            return Ok(Taken::Empty);
        }
        let total = self.transmit.readable_len() as usize;
        let judged = if total > LARGEST {
            Err(Drop::TooLong)
        } else {
            path::copy_out(mem, &self.transmit.readable, 0, &mut to[..total]);
            self.copied = self.copied.wrapping_add(total);
            frame::check(&to[..total.min(PREFIX_LEN)], total, self.allowed)
        };
        transmitq.push(mem, self.transmit.head, 0);
        Ok(judged.map_or_else(Taken::Dropped, |()| Taken::Frame(total)))
    }

    fn rejected(&self) -> (&[u8], usize) {
        let total = self.transmit.readable_len() as usize;
        let start = if total > LARGEST { 0 } else { total.min(PREFIX_LEN) };
        (&self.inward[..start], total)
    }

    fn received(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        if let Some(transmitq) = &mut self.transmitq {
            transmitq.push(mem, self.transmit.head, 0);
        }
        Ok(())
    }

    fn release(&mut self, mem: &BusMemory) -> bool {
        self.transmitq.as_mut().is_some_and(|queue| queue.publish(mem))
    }

    fn arm(&mut self, mem: &BusMemory, for_room: bool) -> Result<bool, PathError> {
        let frames = path::arm(self.transmitq.as_mut(), mem).map_err(PathError::Transmitq)?;
        let room = for_room && self.arm_for_room(mem)?;
        Ok(frames || room)
    }

    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        path::arm(self.receiveq.as_mut(), mem).map_err(PathError::Receiveq)
    }

    fn disarm(&mut self, mem: &BusMemory) {
        for queue in [&mut self.transmitq, &mut self.receiveq].into_iter().flatten() {
            queue.disarm(mem);
        }
    }

    fn halt(&mut self, mem: &BusMemory) -> [Option<Position>; 2] {
        self.let_go();
        self.dropped.extend(self.pending.take().map(|_| Drop::QueueReset));
        [self.receiveq.take(), self.transmitq.take()].map(|queue| path::halt(queue, mem))
    }

    fn lend(&mut self, mem: &BusMemory) -> Option<[Option<LentQueue>; 2]> {
        let there = [&self.receiveq, &self.transmitq].map(Option::as_ref);
        if there.into_iter().flatten().any(|q| matches!(q.position(), Position::Packed { .. })) {
            return None;
        }
        let [receiveq, transmitq] = self.halt(mem);
        let lent = |position, config| match position {
            Some(Position::Split { avail: next, .. }) => Some(LentQueue { config, next }),
            _ => None,
        };
        Some([lent(receiveq, self.configs[0]), lent(transmitq, self.configs[1])])
    }

    fn take_back(&mut self, mem: &BusMemory, which: Which, next: u16) -> Result<(), PathError> {
        let queue = path::take_back(mem, which, &self.configs[which as usize], next)?;
        self.have(which, queue);
        Ok(())
    }

    fn reset_queue(&mut self, which: Which) {
        match which {
            Which::Receiveq => {
                self.receiveq = None;
                self.let_go();
            }
            Which::Transmitq => self.transmitq = None,
        }
    }

    fn enable_queue(
        &mut self,
        mem: &BusMemory,
        which: Which,
        config: &QueueConfig,
    ) -> Result<(), PathError> {
        let queue = path::activate(mem, which, config)?;
        self.configs[which as usize] = *config;
        self.have(which, queue);
        Ok(())
    }

    fn filled(&self) -> [Filled; 2] {
        [&self.receiveq, &self.transmitq].map(path::filled)
    }

    fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied)
    }

    fn tick(&mut self) -> Option<Drop> {
        if let Some(reason) = self.dropped.pop() {
            return Some(reason);
        }
        match &mut self.pending {
            Some(frame) if !frame.seen => {
                frame.seen = true;
                None
            }
            frame => frame.take().map(|_| path::waited_in_vain(self.receiveq.as_ref())),
        }
    }
}
