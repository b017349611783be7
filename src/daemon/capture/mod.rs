//! Frames as they pass, for whoever captures them: `boardlane capture`.
//!
//! A capture has a [`ring`] for each queue pair of its link, in memory that the daemon makes and whoever
//! captures gets. Workers copy into it what they see; the [`client`] takes it out and writes it as
//! [`pcapng`]. The daemon itself has nothing to do with frames, and a reader that is slow, stopped or gone
//! costs it nothing: what finds no room is counted.
//!
//! A worker looks once in each breath whether a capture has begun or ended, which is one load. Without any
//! its loops are those that have no capture in them.

pub mod client;
pub mod pcapng;
pub mod ring;
mod writer;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zerocopy::FromBytes;

use crate::memory::{BusMemory, Mapping, Span};
use crate::net::frame::Drop as FrameDrop;
use crate::net::path::{self, Room};
use crate::os::fabric::memfd;
use crate::spec::net::{HEADER_LEN, Header};
use ring::{Producer, Record};

/// Captures of a daemon's links at a time.
pub const MOST: usize = 4;
/// Memory of a ring in bytes, of which is taken what is written to: some 7 ms of 10 Gbit/s.
const RING_LEN: usize = 8 << 20;
/// What a daemon and a client have to agree on: the layout of rings and records.
const FORMAT: u32 = 1;

/// Why a link's frames cannot be captured here, and what to do.
pub const KERNEL_MOVES: &str = "the kernel moves this link's frames (vhost-net), past this program: \
    capture its netdev with tcpdump, or take pump out of its config";

/// What somebody wants to see of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The link's name.
    pub link: String,
    /// So many octets of each frame.
    pub snaplen: u32,
    /// Only frames that were dropped.
    pub drops: bool,
}

/// What a client is told when its capture has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The format of the shared memory; a client that knows another one stops.
    pub format: u32,
    /// "master" or "agent".
    pub role: String,
    /// How many rings there are.
    pub rings: u16,
    /// Length of a ring in bytes; they stand one behind the other.
    pub ring_len: u32,
}

/// Why a capture ended by itself.
type End = Option<&'static str>;

/// One capture.
#[derive(Debug)]
struct Capture {
    memory: Arc<Mapping>,
    rings: u16,
    snaplen: usize,
    drops: bool,
    ended: watch::Sender<End>,
}

/// The captures of one link; it lives as long as the config has a link of this name.
#[derive(Debug, Default)]
pub struct Captures {
    /// Changes whenever one begins or ends.
    version: AtomicU32,
    list: Mutex<Vec<Arc<Capture>>>,
}

impl Captures {
    /// Begins a capture of a link that has at most so many queue pairs.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn begin(self: &Arc<Self>, wanted: &Wanted, pairs: u16) -> Result<Session, String> {
        let failed = |e: &dyn std::fmt::Display| format!("memory for the capture: {e}");
        // A file's length is a power of two.
        let rings = pairs.next_power_of_two();
        let len = u64::from(rings) * RING_LEN as u64;
        let file = memfd::create("boardlane-capture", len).map_err(|e| failed(&e))?;
        let (memory, _) = memfd::map(file.as_fd()).map_err(|e| failed(&e))?;
        let (ended, end) = watch::channel(None);
        let snaplen = usize::try_from(wanted.snaplen).unwrap_or(usize::MAX);
        let capture = Arc::new(Capture { memory, rings, snaplen, drops: wanted.drops, ended });
        self.change(|list| list.push(capture.clone()));
        Ok(Session { captures: self.clone(), capture, file, end })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Ends them all, and says why.
    pub fn end(&self, why: &'static str) {
        self.change(|list| {
            for capture in list.drain(..) {
                capture.ended.send_replace(Some(why));
            }
        });
    }

    /// A worker's eye for a queue pair.
    pub fn eye(self: &Arc<Self>, pair: u16) -> Eye {
        // Not what it is now, so that it looks.
        let seen = self.version.load(Ordering::Relaxed).wrapping_sub(1);
        Eye { captures: self.clone(), pair, seen, open: Vec::new() }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Capture>>)) {
        change(&mut self.lock());
        // Who sees the new version takes the lock, and so sees the change.
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing in here is left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Capture>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture that goes on until this is dropped.
#[derive(Debug)]
pub struct Session {
    captures: Arc<Captures>,
    capture: Arc<Capture>,
    /// The memory, for the client.
    pub file: OwnedFd,
    end: watch::Receiver<End>,
}

impl Session {
    /// What to tell the client of this daemon, of which end it is.
    pub fn begun(&self, role: String) -> Begun {
        let ring_len = u32::try_from(RING_LEN).expect("a constant");
        Begun { format: FORMAT, role, rings: self.capture.rings, ring_len }
    }

    /// Waits until it has ended by itself: why.
    pub async fn ended(&mut self) -> &'static str {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.captures.change(|list| list.retain(|it| !Arc::ptr_eq(it, &self.capture)));
    }
}

/// A frame where it lies, header included.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The private start: nothing, or at least the header.
    pub start: &'a [u8],
    /// What follows, as far as it is at hand.
    pub rest: &'a [Span],
    /// The table of those spans.
    pub mem: &'a BusMemory,
    /// Its length in bytes.
    pub len: usize,
}

impl<'a> Seen<'a> {
    /// A frame of `len` bytes that was read to where there was room.
    pub fn in_room(room: &'a Room<'_>, mem: &'a BusMemory, len: usize) -> Self {
        let (start, rest): (&[u8], &[Span]) = match room {
            Room::Nowhere => (&[], &[]),
            Room::Private(buffer) => (buffer, &[]),
            Room::Shared(spans) => (&[], spans),
            Room::Split { head, rest } => (head, rest),
        };
        Self { start: &start[..start.len().min(len)], rest, mem, len }
    }

    fn header(&self) -> Header {
        let mut octets = [0; HEADER_LEN];
        match self.start.first_chunk() {
            Some(start) => octets = *start,
            None => path::copy_out(self.mem, self.rest, 0, &mut octets),
        }
        Header::read_from_bytes(&octets).unwrap_or_default()
    }

    /// So many octets of the frame, without the header, that are at hand.
    fn at_hand(&self) -> usize {
        let shared = self.rest.iter().map(Span::len).fold(0, usize::saturating_add);
        (self.start.len() + shared).min(self.len).saturating_sub(HEADER_LEN)
    }

    /// Puts `captured` octets that are at hand into a record.
    fn put(&self, captured: usize, ring: &mut Producer) {
        let start = self.start.get(HEADER_LEN..).unwrap_or_default();
        let mut left = captured;
        let now = start.len().min(left);
        ring.put(&start[..now]);
        left -= now;
        let mut skip = if self.start.is_empty() { HEADER_LEN } else { 0 };
        for span in self.rest {
            if left == 0 {
                break;
            }
            let cut = skip.min(span.len());
            skip -= cut;
            let span = span.skip(cut).take(left);
            ring.put_span(self.mem, span);
            left -= span.len();
        }
    }
}

/// A capture as one worker sees it.
#[derive(Debug)]
struct Open {
    capture: Arc<Capture>,
    ring: Producer,
    /// The frame that was seen last, if it found room.
    record: Option<Record>,
}

/// By which a worker shows its frames to those who capture its link. By default nobody ever does.
#[derive(Debug, Default)]
pub struct Eye {
    captures: Arc<Captures>,
    pair: u16,
    /// The version of `captures` that was looked at last.
    seen: u32,
    open: Vec<Open>,
}

impl Eye {
    /// Looks whether anybody captures; to be called once in a breath.
    #[inline]
    pub fn look(&mut self) -> bool {
        if self.captures.version.load(Ordering::Relaxed) != self.seen {
            self.refresh();
        }
        !self.open.is_empty()
    }

    /// Whether anybody did at the last look.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    #[cold]
    fn refresh(&mut self) {
        let list = self.captures.lock();
        // A change that comes now is seen the next time.
        self.seen = self.captures.version.load(Ordering::Relaxed);
        self.open.retain(|open| list.iter().any(|it| Arc::ptr_eq(it, &open.capture)));
        for capture in list.iter().filter(|it| self.pair < it.rings) {
            if self.open.iter().all(|open| !Arc::ptr_eq(capture, &open.capture)) {
                let at = usize::from(self.pair) * RING_LEN;
                let ring = Producer::new(capture.memory.clone(), at, RING_LEN);
                self.open.push(Open { capture: capture.clone(), ring, record: None });
            }
        }
    }

    /// A frame goes by, in this direction; what becomes of it is for [`settle`](Self::settle).
    pub fn see(&mut self, way: u8, frame: Seen<'_>) {
        let (time, header, at_hand) = (now(), frame.header(), frame.at_hand());
        for open in &mut self.open {
            let captured = at_hand.min(open.capture.snaplen);
            open.record = open.ring.begin(captured).then(|| {
                frame.put(captured, &mut open.ring);
                record(time, way, captured, frame.len.saturating_sub(HEADER_LEN), header)
            });
        }
    }

    /// The frame that was seen last has gone on, or was dropped for a reason.
    pub fn settle(&mut self, dropped: Option<FrameDrop>) {
        let dropped = dropped.map_or(0, |reason| reason as u8 + 1);
        for open in &mut self.open {
            let record = open.record.take();
            if dropped == 0 && open.capture.drops {
                continue;
            }
            match record {
                Some(record) => open.ring.publish(Record { dropped, ..record }),
                None => open.ring.lose(),
            }
        }
    }

    /// A frame was dropped of which only a start is at hand, header included, or nothing; its length is
    /// 0 where it is not known.
    pub fn reject(&mut self, way: u8, start: &[u8], len: usize, reason: FrameDrop) {
        if !self.open.is_empty() {
            self.see(way, Seen { start, rest: &[], mem: &BusMemory::default(), len });
            self.settle(Some(reason));
        }
    }
}

fn record(time: u64, way: u8, captured: usize, len: usize, header: Header) -> Record {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).into();
    Record {
        time: time.into(),
        captured: number(captured),
        len: number(len),
        way,
        flags: header.flags,
        gso_type: header.gso_type,
        gso_size: header.gso_size,
        ..Record::default()
    }
}

/// ns since the epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
