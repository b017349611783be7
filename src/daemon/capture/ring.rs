//! The ring by which a worker hands what it sees to the process that captures.
//!
//! There is one for each queue pair, in memory that both processes map: two lines, then records behind one
//! another, around and around. The worker alone writes the first line and the records, the reader the
//! second line. A position is an offset in the records, a multiple of 8, and both are equal when the ring is
//! empty; so 8 octets are never used.
//!
//! | at | what |
//! |---|---|
//! | 0 | u32: where the next record will begin, stored last |
//! | 8, 16 | u64: frames that were to be captured; how many of them found no room |
//! | 64 | u32: where the reader is |
//! | 128 | records, each a [`Record`] and as much of the frame as is captured, up to a multiple of 8 |
//!
//! A worker that finds no room counts, and goes on. What the reader writes is looked at by the worker for
//! room only, and believed as far as it is a position: a reader can spoil nothing but its own capture.

use std::sync::Arc;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::memory::{BusMemory, Mapping, Span, View};

const TAIL: usize = 0;
const SEEN: usize = 8;
const LOST: usize = 16;
const HEAD: usize = 64;
const RECORDS: usize = 128;
const RECORD: usize = size_of::<Record>();

/// Direction of a frame: the netdev receives it.
pub const RX: u8 = 1;
/// Direction of a frame: the netdev sends it.
pub const TX: u8 = 2;

/// What stands before a frame in the ring.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Record {
    /// ns since the epoch.
    pub time: U64,
    /// Octets of the frame that follow.
    pub captured: U32,
    /// Its length, without virtio-net header; 0: not known.
    pub len: U32,
    /// Frames that have found no room so far, modulo 2^32.
    pub lost: U32,
    /// [`RX`] or [`TX`].
    pub way: u8,
    /// One more than the `net::frame::Drop` for which it was dropped; 0: it was not.
    pub dropped: u8,
    /// Of its virtio-net header.
    pub flags: u8,
    /// The same.
    pub gso_type: u8,
    /// The same.
    pub gso_size: U16,
    /// 0.
    pub unused: [u8; 6],
}

/// Length of a record with so much of a frame.
fn extent(captured: usize) -> usize {
    RECORD + captured.next_multiple_of(8)
}

/// One ring's part of the memory that both ends map.
#[derive(Clone, Debug)]
struct Place {
    memory: Arc<Mapping>,
    /// Where it begins, a multiple of 8.
    at: usize,
    /// Length of the records.
    len: usize,
}

impl Place {
    fn new(memory: Arc<Mapping>, at: usize, len: usize) -> Self {
        Self { memory, at, len: (len - RECORDS) & !7 }
    }

    fn lines(&self) -> View<'_> {
        self.memory.view(self.at, RECORDS)
    }

    /// Part of the records.
    fn part(&self, at: usize, len: usize) -> View<'_> {
        self.memory.view(self.at + RECORDS + at, len)
    }

    /// A position that somebody may have written, if it is one.
    fn position(&self, line: usize) -> Option<usize> {
        let at = self.lines().load_acquire_le32(line) as usize;
        (at < self.len && at % 8 == 0).then_some(at)
    }

    /// How far `to` is ahead of `from`.
    fn ahead(&self, from: usize, to: usize) -> usize {
        (to + self.len - from) % self.len
    }

    fn store(&self, line: usize, at: usize) {
        let at = u32::try_from(at).expect("a ring is shorter than 4 GiB");
        self.lines().store_release_le32(line, at);
    }

    fn add(&self, line: usize, n: u64) {
        let lines = self.lines();
        lines.store_le64(line, lines.load_le64(line).wrapping_add(n));
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Producer {
    place: Place,
    tail: usize,
    /// Where the reader was when it was last looked at.
    head: usize,
    /// Where the next octet of the record that is being written goes, from its start.
    next: usize,
}

impl Producer {
    /// Of the ring at this part of the memory, which goes on where it is.
    ///
    /// # Panics
    /// There is no such part.
    pub fn new(memory: Arc<Mapping>, at: usize, len: usize) -> Self {
        let place = Place::new(memory, at, len);
        let tail = place.position(TAIL).unwrap_or_default();
        let head = place.position(HEAD).unwrap_or(tail);
        Self { tail, head, next: RECORD, place }
    }

    /// Begins a record with so many octets of a frame, if there is room.
    pub fn begin(&mut self, captured: usize) -> bool {
        self.next = RECORD;
        // Full or not, 8 octets stay free, and a record takes more than that.
        let fits = |it: &Self| extent(captured) + it.place.ahead(it.head, it.tail) < it.place.len;
        // The reader's line is fetched for a whole ring of frames, not for each.
        if fits(self) {
            return true;
        }
        // Pairs with the reader's release of its position: it has read what was there.
        let Some(head) = self.place.position(HEAD) else { return false };
        self.head = head;
        fits(self)
    }

    /// Puts private octets behind those that stand in the record already.
    pub fn put(&mut self, octets: &[u8]) {
        let at = (self.tail + self.next) % self.place.len;
        let (first, rest) = octets.split_at(octets.len().min(self.place.len - at));
        self.place.part(at, first.len()).copy_from(0, first);
        self.place.part(0, rest.len()).copy_from(0, rest);
        self.next += octets.len();
    }

    /// The same with octets of shared memory that the CPU can reach.
    pub fn put_span(&mut self, mem: &BusMemory, span: Span) {
        let at = (self.tail + self.next) % self.place.len;
        let first = span.take(self.place.len - at);
        let rest = span.skip(first.len());
        for (at, span) in [(at, first), (0, rest)] {
            if let Some(from) = mem.view(span) {
                from.copy_into(&self.place.part(at, span.len()));
            }
        }
        self.next += span.len();
    }

    /// The record is complete but for this; the reader sees it.
    pub fn publish(&mut self, mut record: Record) {
        let (lines, end) = (self.place.lines(), extent(record.captured.get() as usize));
        self.next = 0;
        #[allow(clippy::cast_possible_truncation, reason = "modulo 2^32")]
        let lost = lines.load_le64(LOST) as u32;
        record.lost = lost.into();
        self.put(record.as_bytes());
        self.place.add(SEEN, 1);
        self.tail = (self.tail + end) % self.place.len;
        // Pairs with the reader's acquire of it: then it sees the record.
        self.place.store(TAIL, self.tail);
    }

    /// There was no room for a frame.
    pub fn lose(&mut self) {
        self.place.add(SEEN, 1);
        self.place.add(LOST, 1);
    }
}

/// A ring in which the worker's position or a record makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The reader's end.
#[derive(Debug)]
pub struct Consumer {
    place: Place,
    head: usize,
    /// Frames lost before the last record.
    lost: u32,
}

impl Consumer {
    /// Of the ring at this part of the memory, of which nothing has been read yet.
    ///
    /// # Panics
    /// There is no such part.
    pub fn new(memory: Arc<Mapping>, at: usize, len: usize) -> Self {
        Self { place: Place::new(memory, at, len), head: 0, lost: 0 }
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// What stands there is none.
    pub fn peek(&self) -> Result<Option<Record>, Broken> {
        let tail = self.place.position(TAIL).ok_or(Broken)?;
        let there = self.place.ahead(self.head, tail);
        if there == 0 {
            return Ok(None);
        }
        let mut record = Record::new_zeroed();
        self.copy(0, record.as_mut_bytes());
        let fits = extent(record.captured.get() as usize) <= there;
        if fits { Ok(Some(record)) } else { Err(Broken) }
    }

    /// Takes the record that [`peek`](Self::peek) gave: its frame to `frame`, and how many frames were lost
    /// before it.
    pub fn take(&mut self, record: &Record, frame: &mut Vec<u8>) -> u32 {
        let captured = record.captured.get() as usize;
        frame.resize(captured, 0);
        self.copy(RECORD, frame);
        self.head = (self.head + extent(captured)) % self.place.len;
        // Pairs with the worker's acquire of it: then it may write there.
        self.place.store(HEAD, self.head);
        let lost = record.lost.get();
        lost.wrapping_sub(std::mem::replace(&mut self.lost, lost))
    }

    /// Frames that were to be captured, and how many of them were lost.
    pub fn counters(&self) -> (u64, u64) {
        let lines = self.place.lines();
        (lines.load_le64(SEEN), lines.load_le64(LOST))
    }

    fn copy(&self, at: usize, out: &mut [u8]) {
        let at = (self.head + at) % self.place.len;
        let (first, rest) = out.split_at_mut(out.len().min(self.place.len - at));
        self.place.part(at, first.len()).copy_to(0, first);
        self.place.part(0, rest.len()).copy_to(0, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Kind, Region, Side};

    const AT: usize = 4096;

    fn ring(len: usize) -> (Producer, Consumer) {
        let memory = Arc::new(Mapping::anonymous(AT + len, Kind::Cached));
        (Producer::new(memory.clone(), AT, len), Consumer::new(memory, AT, len))
    }

    fn record(captured: usize) -> Record {
        let captured = u32::try_from(captured).unwrap();
        Record { captured: captured.into(), len: captured.into(), way: RX, ..Record::default() }
    }

    fn send(ring: &mut Producer, frame: &[u8]) -> bool {
        let fits = ring.begin(frame.len());
        if fits {
            ring.put(frame);
            ring.publish(record(frame.len()));
        } else {
            ring.lose();
        }
        fits
    }

    fn receive(ring: &mut Consumer) -> Option<(Vec<u8>, u32)> {
        let record = ring.peek().unwrap()?;
        let mut frame = Vec::new();
        let lost = ring.take(&record, &mut frame);
        Some((frame, lost))
    }

    #[test]
    fn frames_of_every_length_come_out_as_they_went_in_around_and_around() {
        let (mut producer, mut consumer) = ring(RECORDS + 1000);
        for round in 0..200_u32 {
            for len in [0, 1, 7, 8, 9, 60, 61, 200] {
                let frame: Vec<u8> = (0..len).map(|i| (i * 7 + round) as u8).collect();
                assert!(send(&mut producer, &frame), "round {round}, {len}");
                assert_eq!(receive(&mut consumer), Some((frame, 0)), "round {round}, {len}");
                assert_eq!(receive(&mut consumer), None);
            }
        }
        assert_eq!(consumer.counters(), (1600, 0));
    }

    #[test]
    fn shared_memory_goes_around_the_end_as_private_does() {
        let bytes = Arc::new(Mapping::anonymous(4096, Kind::Cached));
        let octets: Vec<u8> = (0..300_u32).map(|i| i as u8).collect();
        bytes.view(0, 300).copy_from(0, &octets);
        let mem = BusMemory::new(vec![Region::mapped(0, 4096, Side::Near, bytes, 0)]).unwrap();
        let (mut producer, mut consumer) = ring(RECORDS + 1000);
        for round in 0..100 {
            let len = 200 + round;
            assert!(producer.begin(len));
            producer.put(&octets[..13]);
            producer.put_span(&mem, mem.resolve(13, u32::try_from(len - 13).unwrap()).unwrap());
            producer.publish(record(len));
            assert_eq!(receive(&mut consumer), Some((octets[..len].to_vec(), 0)), "{len}");
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_with_the_next_that_does() {
        let (mut producer, mut consumer) = ring(RECORDS + 1024);
        let sent = (0..100).filter(|n| send(&mut producer, &[*n; 64])).count();
        // 96 octets each, and 8 stay free.
        assert_eq!(sent, 10);
        assert_eq!(consumer.counters(), (100, 90));
        for n in 0..10 {
            assert_eq!(receive(&mut consumer), Some((vec![n; 64], 0)));
        }
        assert_eq!(receive(&mut consumer), None);
        assert!(send(&mut producer, &[7; 64]) && send(&mut producer, &[8; 64]));
        assert_eq!(receive(&mut consumer), Some((vec![7; 64], 90)));
        assert_eq!(receive(&mut consumer), Some((vec![8; 64], 0)));
        assert!(!send(&mut producer, &[0; 1024]), "it never fits");
    }

    #[test]
    fn a_record_that_is_not_published_was_never_there() {
        let (mut producer, mut consumer) = ring(RECORDS + 1024);
        assert!(producer.begin(60));
        producer.put(&[1; 60]);
        assert_eq!(receive(&mut consumer), None);
        assert!(send(&mut producer, &[2; 61]));
        assert_eq!(receive(&mut consumer), Some((vec![2; 61], 0)));
    }

    #[test]
    fn another_worker_goes_on_where_the_last_one_ended() {
        let (mut first, mut consumer) = ring(RECORDS + 1024);
        assert!(send(&mut first, &[1; 60]));
        let mut second = Producer::new(first.place.memory.clone(), AT, RECORDS + 1024);
        drop(first);
        assert!(send(&mut second, &[2; 60]));
        assert_eq!(receive(&mut consumer), Some((vec![1; 60], 0)));
        assert_eq!(receive(&mut consumer), Some((vec![2; 60], 0)));
    }

    #[test]
    fn a_reader_that_lies_about_its_position_costs_its_own_capture_only() {
        for lie in [1, 4, 1024, 1032, u32::MAX] {
            let (mut producer, consumer) = ring(RECORDS + 1024);
            consumer.place.lines().store_le32(HEAD, lie);
            // Once around, it is asked for room.
            assert_eq!((0..100).filter(|_| send(&mut producer, &[1; 64])).count(), 10, "{lie}");
        }
        // One that is a position makes room where there is none: the reader finds records spoiled.
        let (mut producer, consumer) = ring(RECORDS + 1024);
        for n in 0..100 {
            send(&mut producer, &[n; 64]);
            consumer.place.lines().store_le32(HEAD, u32::from(n) * 8);
            consumer.place.lines().store_le32(TAIL, u32::MAX);
            assert_eq!(consumer.peek(), Err(Broken));
        }
        let (producer, consumer) = ring(RECORDS + 1024);
        producer.place.store(TAIL, 64);
        producer.place.part(8, 4).store_le32(0, 4000);
        assert_eq!(consumer.peek(), Err(Broken), "a record beyond the worker's position");
    }

    #[test]
    fn two_threads_see_each_other_s_records_whole_and_in_order() {
        const FRAMES: u32 = 20_000;
        let (mut producer, mut consumer) = ring(RECORDS + 4096);
        let reader = std::thread::spawn(move || {
            let mut next = 0;
            while next < FRAMES {
                let Some((frame, before)) = receive(&mut consumer) else {
                    std::thread::yield_now();
                    continue;
                };
                let number = u32::from_le_bytes(frame[..4].try_into().unwrap());
                assert!(frame[4..].iter().all(|octet| *octet == number as u8));
                assert_eq!(number, next + before);
                next = number + 1;
            }
        });
        for number in 0..FRAMES {
            let mut frame = vec![number as u8; 4 + (number as usize * 37) % 500];
            frame[..4].copy_from_slice(&number.to_le_bytes());
            // The last one has to get through, or nobody would know.
            while number + 1 == FRAMES && !producer.begin(frame.len()) {
                std::thread::yield_now();
            }
            send(&mut producer, &frame);
        }
        reader.join().unwrap();
    }
}
