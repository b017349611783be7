//! The driver's data path, with its own placement of buffers.
//!
//! Receive buffers are few, fixed, contiguous and large enough for any frame: one descriptor a
//! frame, and the same buffer is posted again as soon as its frame has gone on. Frames to be sent
//! lie in an arena, a ring of bytes: a frame is read to where any frame would fit, and takes what
//! it needs, so small frames do not take large slots. When nothing is in flight the arena starts
//! again at its beginning, so light traffic stays in few cache lines.

use std::ops::Range;

use super::arena::{Arena, SLOT};
use super::features::Features;
use super::frame::{self, Drop, LARGEST, Offloads, PREFIX_LEN};
use super::path::{self, Filled, Inward, Path, PathError, Room};
use crate::memory::{BusMemory, Span, View};
use crate::planted::{Bug, planted};
use crate::spec::net::{self, HEADER_LEN, Header};
use crate::virtqueue::{Buffer, DriverQueue, QueueConfig};
use zerocopy::FromBytes;

/// Size of our own receive buffers: any frame, in whole lines.
pub const RECEIVE_BUFFER: u32 = SLOT;
/// Least size of the memory for frames to be sent.
pub const MIN_ARENA: u32 = 2 * SLOT;

/// Where the driver's buffers lie, in bus addresses.
#[derive(Clone, Debug)]
pub struct Buffers {
    /// Receive buffers, a whole number of [`RECEIVE_BUFFER`]s is used.
    pub receive: Range<u64>,
    /// Frames to be sent, at least [`MIN_ARENA`].
    pub transmit: Range<u64>,
}

/// The driver's end of a queue pair.
#[derive(Debug)]
pub struct DriverPath {
    receiveq: DriverQueue,
    transmitq: DriverQueue,
    mergeable: bool,
    allowed: Offloads,
    receive_base: u64,
    /// Receive buffers there are.
    posted: u16,
    transmit_base: u64,
    arena: Arena,
    /// Sent frames that the device is done with were looked for since the last batch was published.
    reclaimed: bool,
    room_at: u32,
    lent: [Span; 1],
    private: Option<Box<[u8]>>,
    /// The buffers of the frame that is being received.
    tokens: Vec<u16>,
    spans: Vec<Span>,
    total: usize,
    missing: u16,
    /// How much of it lies in `inward` already.
    begun: usize,
    copied: usize,
    inward: Box<[u8]>,
}

impl DriverPath {
    /// A path over these queues and buffers, with every receive buffer posted. Our own placement, so
    /// it panics where memory is not as the caller laid it out.
    pub fn new(
        mem: &BusMemory,
        features: Features,
        receiveq: &QueueConfig,
        transmitq: &QueueConfig,
        buffers: &Buffers,
    ) -> Result<Self, PathError> {
        let receiveq = receiveq.activate_driver(mem).map_err(PathError::Receiveq)?;
        let transmitq = transmitq.activate_driver(mem).map_err(PathError::Transmitq)?;
        let arena_len = u32::try_from(buffers.transmit.end - buffers.transmit.start)
            .expect("our own placement is below 4 GiB");
        assert!(arena_len >= MIN_ARENA, "the placement leaves room to send");
        let arena = mem.resolve(buffers.transmit.start, arena_len).expect("our own placement");
        let lend = path::all_cached(mem, &[arena]);
        let posted = (buffers.receive.end - buffers.receive.start) / u64::from(RECEIVE_BUFFER);
        let posted = u16::try_from(posted).unwrap_or(u16::MAX).min(receiveq.size());
        let size = usize::from(receiveq.size());
        let mut path = Self {
            arena: Arena::new(arena_len, transmitq.size()),
            receiveq,
            transmitq,
            mergeable: features.has(net::F_MRG_RXBUF),
            allowed: Offloads::to_driver(features),
            receive_base: buffers.receive.start,
            posted,
            transmit_base: buffers.transmit.start,
            reclaimed: false,
            room_at: 0,
            lent: [arena],
            private: (!lend).then(|| vec![0; LARGEST].into()),
            tokens: Vec::with_capacity(size),
            spans: Vec::with_capacity(size),
            total: 0,
            missing: 0,
            begun: 0,
            copied: 0,
            inward: vec![0; LARGEST].into(),
        };
        for token in 0..posted {
            path.post(mem, token);
        }
        // The device looks at the ring by itself when it is activated.
        let _ = path.receiveq.publish(mem);
        Ok(path)
    }

    fn receive_buffer(&self, token: u16) -> Buffer {
        let addr = self.receive_base + u64::from(token) * u64::from(RECEIVE_BUFFER);
        Buffer { addr, len: RECEIVE_BUFFER }
    }

    fn post(&mut self, mem: &BusMemory, token: u16) {
        let buffer = self.receive_buffer(token);
        self.receiveq.add(mem, &[], &[buffer], token).expect("a descriptor for each buffer");
    }

    /// Where the next frame goes, if there is room.
    fn free_room(&mut self) -> Option<u32> {
        if self.transmitq.free() > 0 { self.arena.room() } else { None }
    }

    fn reclaim(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        self.reclaimed = true;
        while let Some(used) = self.transmitq.pop_used(mem).map_err(PathError::Transmitq)? {
            if !planted(Bug::ReusedEarly) {
                self.arena.done(used.token);
            }
        }
        Ok(())
    }

    /// Takes one used buffer into the frame that is being received.
    fn take_buffer(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        let Some(used) = self.receiveq.pop_used(mem).map_err(PathError::Receiveq)? else {
            return Ok(false);
        };
        let buffer = self.receive_buffer(used.token);
        self.tokens.push(used.token);
        self.spans.push(mem.resolve(buffer.addr, used.len).expect("our own placement"));
        self.total += used.len as usize;
        Ok(true)
    }

    /// How many buffers the frame takes beyond its first, by its private header.
    fn more_buffers(&self) -> Result<u16, Drop> {
        if !self.mergeable {
            return Ok(0);
        }
        let (header, _) = Header::read_from_prefix(&self.inward[..]).map_err(|_| Drop::TooShort)?;
        let count = header.num_buffers.get();
        // More than there are would be waited for in vain, with all of them in hand.
        if count == 0 || count > self.posted { Err(Drop::NumBuffers) } else { Ok(count - 1) }
    }
}

impl Path for DriverPath {
    fn room(&mut self, mem: &BusMemory) -> Result<Room<'_>, PathError> {
        // Each look may take a line from the device, so it is for a batch.
        if !self.reclaimed {
            self.reclaim(mem)?;
        }
        let mut at = self.free_room();
        if at.is_none() {
            self.reclaim(mem)?;
            at = self.free_room();
        }
        let Some(at) = at else { return Ok(Room::Nowhere) };
        self.room_at = at;
        if let Some(private) = &mut self.private {
            return Ok(Room::Private(private));
        }
        let addr = self.transmit_base + u64::from(at);
        self.lent = [mem.resolve(addr, RECEIVE_BUFFER).expect("our own placement")];
        Ok(Room::Shared(&self.lent))
    }

    fn sent(&mut self, mem: &BusMemory, len: usize) -> Result<Option<Drop>, PathError> {
        let addr = self.transmit_base + u64::from(self.room_at);
        if let Some(reason) = frame::wrong_length(len) {
            return Ok(Some(reason));
        }
        let short = u32::try_from(len).expect("a frame's length");
        if let Some(private) = &self.private {
            let span = mem.resolve(addr, RECEIVE_BUFFER).expect("our own placement");
            path::copy_frame_in(mem, &[span], &private[..len]);
            self.copied = self.copied.wrapping_add(len);
        }
        let token = self.arena.take(self.room_at, short);
        if planted(Bug::ReusedEarly) {
            self.arena.done(token);
        }
        let buffer = Buffer { addr, len: short };
        self.transmitq.add(mem, &[buffer], &[], token).expect("room said there is a descriptor");
        // The device has read what lies there, and the next frame need not wait for its lines.
        if let Some(at) = self.free_room().filter(|_| self.private.is_none()) {
            let span = mem.resolve(self.transmit_base + u64::from(at), RECEIVE_BUFFER);
            span.ok().and_then(|span| mem.view(span)).iter().for_each(View::prefetch_to_write);
        }
        Ok(None)
    }

    fn flush(&mut self, mem: &BusMemory) -> bool {
        self.reclaimed = false;
        self.transmitq.publish(mem)
    }

    fn receive(&mut self, mem: &BusMemory) -> Result<Inward<'_>, PathError> {
        if self.tokens.is_empty() {
            if !self.take_buffer(mem)? {
                return Ok(Inward::Empty);
            }
            self.begun = self.total.min(PREFIX_LEN);
            path::copy_out(mem, &self.spans, 0, &mut self.inward[..self.begun]);
            self.copied = self.copied.wrapping_add(self.begun);
            if self.begun < HEADER_LEN {
                return Ok(Inward::Dropped(Drop::TooShort));
            }
            match self.more_buffers() {
                Ok(count) => self.missing = count,
                Err(reason) => return Ok(Inward::Dropped(reason)),
            }
        }
        while self.missing > 0 {
            if !self.take_buffer(mem)? {
                return Ok(Inward::Empty);
            }
            self.missing -= 1;
        }
        if self.total > LARGEST {
            return Ok(Inward::Dropped(Drop::TooLong));
        }
        // What was copied before is not read again: `num_buffers` has been acted upon.
        let whole = !path::all_cached(mem, &self.spans);
        let cut = if whole { self.total } else { self.total.min(PREFIX_LEN) };
        path::copy_out(mem, &self.spans, self.begun, &mut self.inward[self.begun..cut]);
        self.copied = self.copied.wrapping_add(cut - self.begun);
        self.begun = cut;
        let prefix = &self.inward[..cut];
        if let Err(reason) = frame::check(prefix, self.total, self.allowed) {
            return Ok(Inward::Dropped(reason));
        }
        path::skip(&mut self.spans, cut);
        Ok(Inward::Frame { prefix, tail: &self.spans, len: self.total - HEADER_LEN })
    }

    fn rejected(&self) -> (&[u8], usize) {
        (&self.inward[..self.begun.min(PREFIX_LEN)], self.total)
    }

    fn received(&mut self, mem: &BusMemory) -> Result<(), PathError> {
        for i in 0..self.tokens.len() {
            self.post(mem, self.tokens[i]);
        }
        self.tokens.clear();
        self.spans.clear();
        self.total = 0;
        self.missing = 0;
        Ok(())
    }

    fn release(&mut self, mem: &BusMemory) -> bool {
        self.receiveq.publish(mem)
    }

    fn arm(&mut self, mem: &BusMemory, for_room: bool) -> Result<bool, PathError> {
        let frames = self.receiveq.arm(mem).map_err(PathError::Receiveq)?;
        let room = for_room && self.arm_for_room(mem)?;
        Ok(frames || room)
    }

    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError> {
        self.transmitq.arm(mem).map_err(PathError::Transmitq)
    }

    fn filled(&self) -> [Filled; 2] {
        [&self.transmitq, &self.receiveq].map(|q| Filled { out: q.out(), size: q.size() })
    }

    fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied)
    }

    fn disarm(&mut self, mem: &BusMemory) {
        self.receiveq.disarm(mem);
        self.transmitq.disarm(mem);
    }
}
