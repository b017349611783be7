//! The data path of one queue pair, between a netdev and a pair of virtqueues.
//!
//! Both ends offer the same steps ([`Path`]), so one worker drives either. *Outward* is netdev to
//! ring: `room` lends memory to read a frame into, `sent` says how long it became, `flush` publishes
//! a batch. *Inward* is ring to netdev: `receive` gives the next checked frame, `received` gives its
//! memory back, `release` publishes a batch.
//!
//! No step allocates. A frame that must be dropped is reported as such, with its reason; an error
//! means that the ring itself is broken and nothing more can be done with it.

use std::fmt;
use std::sync::Arc;

use super::frame::{Drop, LARGEST};
use crate::dma::{Completion, Transfer};
use crate::memory::{BusMemory, Kind, Span, View};
use crate::spec::net::HEADER_LEN;
use crate::virtqueue::{At, Chain, DeviceQueue, Position, QueueConfig, QueueError, Start};

/// Most spans that [`Room::Shared`] has: a read takes a list of bounded length, and stock drivers'
/// smallest buffers, 1,526 bytes each, take 43 for the largest frame.
pub const MOST_SPANS: usize = 64;

/// A ring that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The receiveq.
    Receiveq(QueueError),
    /// The transmitq.
    Transmitq(QueueError),
    /// A receive buffer cannot even hold a virtio-net header.
    BufferTooSmall(u32),
    /// The DMA engine failed so many times in a row.
    Engine(u32),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receiveq(e) => write!(f, "receiveq: {e}"),
            Self::Transmitq(e) => write!(f, "transmitq: {e}"),
            Self::BufferTooSmall(len) => {
                write!(f, "receiveq: a buffer has {len} bytes, less than a virtio-net header")
            }
            Self::Engine(n) => write!(f, "the DMA engine failed {n} times in a row"),
        }
    }
}

impl std::error::Error for PathError {}

/// Where the next frame from the netdev may be read to.
#[derive(Debug)]
pub enum Room<'a> {
    /// Into ring memory itself, which holds any frame and has at most [`MOST_SPANS`] pieces.
    Shared(&'a [Span]),
    /// Into this private buffer, which holds any frame.
    Private(&'a mut [u8]),
    /// The first bytes into the private `head`, what follows into ring memory; both hold any frame.
    Split {
        /// Filled first.
        head: &'a mut [u8],
        /// At most [`MOST_SPANS`] pieces.
        rest: &'a [Span],
    },
    /// Nowhere: stop reading the netdev until the other end has made room.
    Nowhere,
}

impl Room<'_> {
    /// Puts a frame there, header included, as a netdev's read would. `false`: there is no room.
    pub fn fill(self, mem: &BusMemory, frame: &[u8]) -> bool {
        match self {
            Self::Nowhere => return false,
            Self::Private(buffer) => buffer[..frame.len()].copy_from_slice(frame),
            Self::Shared(spans) => copy_in(mem, spans, 0, frame),
            Self::Split { head, rest } => {
                let (first, last) = frame.split_at(frame.len().min(head.len()));
                head[..first.len()].copy_from_slice(first);
                copy_in(mem, rest, 0, last);
            }
        }
        true
    }
}

/// What came out of the ring.
#[derive(Debug)]
pub enum Inward<'a> {
    /// A frame: the private checked start, then the rest in shared memory. Header included.
    Frame {
        /// Header and first bytes, private.
        prefix: &'a [u8],
        /// What follows.
        tail: &'a [Span],
        /// Length of the frame without its virtio-net header.
        len: usize,
    },
    /// A frame that must not go on. `received` is to be called for it as well.
    Dropped(Drop),
    /// Nothing is there.
    Empty,
}

/// What came out of the ring, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A checked frame, of so many bytes with its header.
    Frame(usize),
    /// A frame that must not go on.
    Dropped(Drop),
    /// Nothing is there.
    Empty,
}

/// A queue of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The receiveq.
    Receiveq,
    /// The transmitq.
    Transmitq,
}

impl Which {
    /// Both, in the order of their indices.
    pub const BOTH: [Self; 2] = [Self::Receiveq, Self::Transmitq];

    /// The queue of this index in its pair, and the pair's number.
    pub fn of(index: u16) -> (u16, Self) {
        (index / 2, if index % 2 == 0 { Self::Receiveq } else { Self::Transmitq })
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Descriptors that the driver has made available and the device not used, as far as this end has seen:
    /// it takes no look at the ring. A device's half counts a chain of a split queue as one.
    pub out: u16,
    /// Descriptors that there are; 0: there is no queue.
    pub size: u16,
}

/// A split queue that something else may go on with for a while, such as the kernel's vhost-net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentQueue {
    /// Where it lies.
    pub config: QueueConfig,
    /// The index of its next chain.
    pub next: u16,
}

/// One end's data path; see the module.
pub trait Path: Send + fmt::Debug {
    /// Where to read the next frame to.
    fn room(&mut self, mem: &BusMemory) -> Result<Room<'_>, PathError>;
    /// `len` bytes, header included, were read to where `room` said. `Some`: the frame had to be
    /// dropped.
    fn sent(&mut self, mem: &BusMemory, len: usize) -> Result<Option<Drop>, PathError>;
    /// Publishes what was sent. `true`: ring the other end.
    fn flush(&mut self, mem: &BusMemory) -> bool;
    /// The next frame from the other end.
    fn receive(&mut self, mem: &BusMemory) -> Result<Inward<'_>, PathError>;
    /// The next frame from the other end, in private memory, which has room for the largest; it is done
    /// with. The spans of `receive` are in the table `frames`.
    fn receive_whole(
        &mut self,
        mem: &BusMemory,
        frames: &BusMemory,
        to: &mut [u8],
    ) -> Result<Taken, PathError> {
        let taken = match self.receive(mem)? {
            Inward::Empty => return Ok(Taken::Empty),
            Inward::Dropped(reason) => Taken::Dropped(reason),
            Inward::Frame { prefix, tail, len } => {
                let total = len + HEADER_LEN;
                let (head, rest) = to[..total].split_at_mut(prefix.len());
                head.copy_from_slice(prefix);
                copy_out(frames, tail, 0, rest);
                Taken::Frame(total)
            }
        };
        self.received(mem)?;
        Ok(taken)
    }
    /// Of the frame that `receive` has just dropped: its private start, as far as there is one, and its
    /// length, if that is known. Both with header.
    fn rejected(&self) -> (&[u8], usize) {
        (&[], 0)
    }
    /// The frame that `receive` gave is done with.
    fn received(&mut self, mem: &BusMemory) -> Result<(), PathError>;
    /// Publishes what was given back. `true`: ring the other end.
    fn release(&mut self, mem: &BusMemory) -> bool;
    /// Asks to be notified of frames, and with `for_room` of room. `true`: there is something
    /// already, so do not sleep.
    fn arm(&mut self, mem: &BusMemory, for_room: bool) -> Result<bool, PathError>;
    /// Asks to be notified of room only. `true`: there is some already, so do not sleep.
    fn arm_for_room(&mut self, mem: &BusMemory) -> Result<bool, PathError>;
    /// Asks not to be notified.
    fn disarm(&mut self, mem: &BusMemory);
    /// To be called once a heartbeat, until it returns `None`. `Some`: since then a frame that was
    /// taken from the netdev, and waited for more room than the other end gives, was dropped.
    fn tick(&mut self) -> Option<Drop> {
        None
    }
    /// How full the queue is that frames go out by, and the one that they come by.
    fn filled(&self) -> [Filled; 2] {
        Default::default()
    }
    /// Bytes of frames that this end's own code has copied since the last call: checked starts, and what
    /// goes by a private buffer. What system calls or an engine copy does not count, and paths with an
    /// engine count nothing.
    fn take_copied(&mut self) -> usize {
        0
    }
    /// The table in which the spans of `room` and `receive` mean something, if it is not the link's:
    /// the frames then go there and come from there by an engine.
    fn local(&self) -> Option<Arc<BusMemory>> {
        None
    }
    /// The next copy for the engine.
    fn poll_transfer(&mut self) -> Option<Transfer> {
        None
    }
    /// The engine has done a copy, or failed.
    fn handle_completion(&mut self, _done: Completion) -> Result<(), PathError> {
        Ok(())
    }
    /// Why a frame on its way to or from a queue did not get through after all.
    fn poll_drop(&mut self) -> Option<(Which, Drop)> {
        None
    }
    /// Device: ends in the middle of the rings, with no copy under way, and touches them no more. A
    /// successor that starts at these positions, of receiveq and transmitq, goes on: chains that are held
    /// here are its own. `None`: the driver has reset that queue. What is lost, as a frame that waits for
    /// receive chains, `tick` and `poll_drop` tell.
    fn halt(&mut self, _mem: &BusMemory) -> [Option<Position>; 2] {
        [None, None]
    }
    /// Device: [halts](Self::halt) split queues, receiveq first, for something else to go on with; one that
    /// is reset is not there. `None`: they cannot be lent, and are as they were.
    fn lend(&mut self, _mem: &BusMemory) -> Option<[Option<LentQueue>; 2]> {
        None
    }
    /// Device: goes on with a queue that was lent, whose next chain has this index now.
    fn take_back(&mut self, _mem: &BusMemory, _which: Which, _next: u16) -> Result<(), PathError> {
        Ok(())
    }
    /// Device: the driver resets this queue. It is not touched any more; the other one goes on.
    fn reset_queue(&mut self, _which: Which) {}
    /// Device: the driver has set up a queue that it had reset.
    fn enable_queue(
        &mut self,
        _mem: &BusMemory,
        _which: Which,
        _config: &QueueConfig,
    ) -> Result<(), PathError> {
        Ok(())
    }
}

impl Which {
    /// What a fault of this queue is to its path.
    fn error(self, fault: QueueError) -> PathError {
        match self {
            Self::Receiveq => PathError::Receiveq(fault),
            Self::Transmitq => PathError::Transmitq(fault),
        }
    }
}

/// Starts the device half of a queue.
pub(super) fn activate(
    mem: &BusMemory,
    which: Which,
    config: &QueueConfig,
) -> Result<DeviceQueue, PathError> {
    config.activate_device(mem).map_err(|e| which.error(e))
}

/// Starts the device halves of a pair's queues, which are in use.
pub(super) fn activate_at(
    mem: &BusMemory,
    [receiveq, transmitq]: [&QueueConfig; 2],
    [receive, transmit]: [Start; 2],
) -> Result<[DeviceQueue; 2], PathError> {
    let start = |which: Which, config: &QueueConfig, start| {
        config.activate_device_at(mem, start).map_err(|e| which.error(e))
    };
    let receiveq = start(Which::Receiveq, receiveq, receive)?;
    Ok([receiveq, start(Which::Transmitq, transmitq, transmit)?])
}

/// Starts the device half of a split queue where something else has stopped, which it was lent to.
pub(super) fn take_back(
    mem: &BusMemory,
    which: Which,
    config: &QueueConfig,
    next: u16,
) -> Result<DeviceQueue, PathError> {
    let start = Start::at(At::Base(next.into()));
    config.activate_device_at(mem, start).map_err(|e| which.error(e))
}

/// Ends the device half of a queue: where a successor goes on, and takes again what this one holds.
pub(super) fn halt(queue: Option<DeviceQueue>, mem: &BusMemory) -> Option<Position> {
    let mut queue = queue?;
    // Whoever starts in the middle tells the driver.
    let _ = queue.publish(mem);
    Some(queue.position())
}

/// Asks to be notified of more in a queue, if there is one. `true`: there is more already.
pub(super) fn arm(queue: Option<&mut DeviceQueue>, mem: &BusMemory) -> Result<bool, QueueError> {
    queue.map_or(Ok(false), |queue| queue.arm(mem))
}

/// How full a queue is, if there is one.
pub(super) fn filled(queue: &Option<DeviceQueue>) -> Filled {
    queue.as_ref().map_or(Filled::default(), |q| Filled { out: q.out(), size: q.size() })
}

/// Why a frame is dropped that has waited for chains of this queue long enough.
pub(super) fn waited_in_vain(receiveq: Option<&DeviceQueue>) -> Drop {
    if receiveq.is_some() { Drop::TooLong } else { Drop::QueueReset }
}

/// Copies `data` into the spans, starting `at` bytes into them.
pub(super) fn copy_in(mem: &BusMemory, spans: &[Span], at: usize, data: &[u8]) {
    put_in(mem, spans, at, data, |view, at, data| view.copy_from(at, data));
}

/// Copies the private start of a frame into the spans, from their start.
pub(super) fn copy_start_in(mem: &BusMemory, spans: &[Span], start: &[u8]) {
    copy_in(mem, spans, 0, start);
}

/// The same, and on memory that takes words only what stands behind it, up to the end of the word, is lost.
/// It is a whole frame there. (A device may write more than it says it used, virtio 1.4 §2.7.8.2.)
pub(super) fn copy_frame_in(mem: &BusMemory, spans: &[Span], frame: &[u8]) {
    put_in(mem, spans, 0, frame, |view, at, data| view.copy_from_over(at, data));
}

fn put_in(
    mem: &BusMemory,
    spans: &[Span],
    mut at: usize,
    mut data: &[u8],
    put: impl Fn(View<'_>, usize, &[u8]),
) {
    for &span in spans {
        if at >= span.len() {
            at -= span.len();
            continue;
        }
        let (now, later) = data.split_at(data.len().min(span.len() - at));
        if let Some(view) = mem.view(span) {
            put(view, at, now);
        }
        data = later;
        at = 0;
        if data.is_empty() {
            break;
        }
    }
}

/// Copies bytes out of the spans, starting `at` bytes into them; the spans hold as many.
pub(crate) fn copy_out(mem: &BusMemory, spans: &[Span], mut at: usize, out: &mut [u8]) {
    let mut out = out;
    for &span in spans {
        if at >= span.len() {
            at -= span.len();
            continue;
        }
        let (now, later) = out.split_at_mut(out.len().min(span.len() - at));
        if let Some(view) = mem.view(span) {
            view.copy_to(at, now);
        }
        out = later;
        at = 0;
        if out.is_empty() {
            break;
        }
    }
}

/// Whether the CPU can reach all of these spans.
pub(super) fn all_mapped(mem: &BusMemory, spans: &[Span]) -> bool {
    spans.iter().all(|s| mem.kind(*s) != Kind::DmaOnly)
}

/// Writable bytes of a chain, as far as a frame can need them: what held chains have together then
/// fits 32 bits, whatever a driver posts.
pub(super) fn countable(chain: &Chain) -> usize {
    (chain.writable_len() as usize).min(LARGEST)
}

/// Whether system calls may copy to and from all of these spans.
pub(super) fn all_cached(mem: &BusMemory, spans: &[Span]) -> bool {
    uncached(mem, spans) == 0
}

/// How many of these spans system calls may not copy to and from.
pub(super) fn uncached(mem: &BusMemory, spans: &[Span]) -> usize {
    spans.iter().filter(|s| mem.kind(**s) != Kind::Cached).count()
}

/// Keeps what follows the first `cut` bytes of the spans, in place.
pub(super) fn skip(spans: &mut Vec<Span>, mut cut: usize) {
    spans.retain_mut(|span| {
        if cut >= span.len() {
            cut -= span.len();
            return false;
        }
        *span = span.skip(cut);
        cut = 0;
        true
    });
}
