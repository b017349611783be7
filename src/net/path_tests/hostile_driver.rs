//! The device's paths, by CPU and by engine, against a driver that offers what it likes.

use super::*;
use crate::dma::Completion;
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::net::frame::{LARGEST, PREFIX_LEN};
use crate::net::path::{PathError, Taken};
use crate::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use crate::virtqueue::{QueueConfig, QueueError};

const SLOT: u64 = 16 << 20;
const DATA: u64 = 0x10_0000;
const SIZE: u16 = 64;

/// A driver that is not bound by any rule, and the device under test.
struct Hostile {
    mem: BusMemory,
    queues: [QueueConfig; 2],
    /// Available index of the transmitq.
    avail: u16,
    path: Box<dyn Path>,
    /// Whether frames are taken as an echo does.
    whole: bool,
}

/// A descriptor: address, length, flags, next.
type Desc = (u64, u32, u16, u16);

impl Hostile {
    fn new(engine: bool, kind: Kind, features: Features) -> Self {
        let mem = memory(SLOT, kind, kind);
        let queues = [0x3000, 0x8000].map(|desc| QueueConfig {
            size: SIZE,
            desc,
            driver: desc + 0x1000,
            device: desc + 0x2000,
            packed: false,
            in_order: false,
            event_idx: features.has(virtio::F_EVENT_IDX),
            indirect: features.has(virtio::F_INDIRECT_DESC),
        });
        let [receiveq, transmitq] = &queues;
        let path: Box<dyn Path> = if engine {
            let by_engine = EngineUse { cpu_below: 0 };
            Box::new(EnginePath::new(&mem, features, receiveq, transmitq, by_engine).unwrap())
        } else {
            Box::new(DevicePath::new(&mem, features, receiveq, transmitq).unwrap())
        };
        Self { mem, queues, avail: 0, path, whole: false }
    }

    fn poke(&self, addr: u64, bytes: &[u8]) {
        let span = self.mem.resolve(addr, bytes.len() as u32).unwrap();
        self.mem.view(span).unwrap().copy_from(0, bytes);
    }

    fn describe(&self, table: u64, descs: &[Desc]) {
        for (i, (addr, len, flags, next)) in descs.iter().enumerate() {
            let mut octets = addr.to_le_bytes().to_vec();
            octets.extend(len.to_le_bytes());
            octets.extend(flags.to_le_bytes());
            octets.extend(next.to_le_bytes());
            self.poke(table + 16 * i as u64, &octets);
        }
    }

    /// Makes the chain at `head` of a queue available.
    fn offer(&mut self, queue: usize, head: u16) {
        let at = self.queues[queue].driver;
        self.poke(at + 4 + 2 * u64::from(self.avail % SIZE), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.poke(at, &[&[0; 2][..], &self.avail.to_le_bytes()].concat());
    }

    /// Sends one chain; what the device makes of it.
    fn send(&mut self, descs: &[Desc]) -> Result<Result<Vec<u8>, Drop>, PathError> {
        self.describe(self.queues[1].desc, descs);
        self.offer(1, 0);
        if let Some(local) = self.path.local() {
            // Takes the chain up; a chain without a frame needs no copy.
            let _ = self.path.receive(&self.mem)?;
            while let Some(transfer) = self.path.poll_transfer() {
                self.path.handle_completion(carry_out(&self.mem, &local, transfer)).unwrap();
            }
        }
        let local = self.path.local();
        let table = local.as_deref().unwrap_or(&self.mem);
        let outcome = if self.whole {
            let mut to = vec![0; LARGEST];
            match self.path.receive_whole(&self.mem, table, &mut to)? {
                Taken::Empty => panic!("a chain is there"),
                Taken::Dropped(reason) => Err(reason),
                Taken::Frame(total) => Ok(to[..total].to_vec()),
            }
        } else {
            let outcome = match self.path.receive(&self.mem)? {
                Inward::Empty => panic!("a chain is there"),
                Inward::Dropped(reason) => {
                    let (start, total) = self.path.rejected();
                    assert!(start.len() <= total.min(PREFIX_LEN), "{} of {total}", start.len());
                    Err(reason)
                }
                Inward::Frame { prefix, tail, len } => Ok(written(table, prefix, tail, len)),
            };
            self.path.received(&self.mem)?;
            outcome
        };
        let _ = self.path.release(&self.mem);
        let at = self.queues[1].device;
        let mut idx = [0; 2];
        self.mem.view(self.mem.resolve(at + 2, 2).unwrap()).unwrap().copy_to(0, &mut idx);
        assert_eq!(idx, self.avail.to_le_bytes(), "the chain is given back");
        Ok(outcome)
    }

    /// That a plain frame passes.
    fn goes_on(&mut self) {
        let good = frame(3, 300);
        self.poke(DATA, &good);
        assert_eq!(self.send(&[(DATA, 312, 0, 0)]), Ok(Ok(good)), "the ring goes on");
    }
}

/// Whether a fault is the expected one.
type Is = fn(QueueError) -> bool;

fn chained(pieces: &[(u64, u32)]) -> Vec<Desc> {
    let last = pieces.len() - 1;
    let flags = |i| if i < last { DESC_F_NEXT } else { 0 };
    pieces
        .iter()
        .enumerate()
        .map(|(i, (addr, len))| (*addr, *len, flags(i), i as u16 + 1))
        .collect()
}

#[test]
fn chains_that_hold_no_frame_are_dropped_with_the_reason_and_the_ring_goes_on() {
    for (engine, kind) in [(false, Kind::Cached), (false, Kind::Uncached), (true, Kind::Uncached)] {
        let mut hostile = Hostile::new(engine, kind, features(true, true, true));
        let cases: [(&[Desc], Drop); 7] = [
            (&[(DATA, 1000, DESC_F_WRITE, 0)], Drop::TooShort),
            (&[(DATA, 1, 0, 0)], Drop::TooShort),
            (&[(DATA, 11, 0, 0)], Drop::TooShort),
            (&[(DATA, 25, 0, 0)], Drop::TooShort),
            (&[(DATA, 11, DESC_F_NEXT, 1), (DATA, 1000, DESC_F_WRITE, 0)], Drop::TooShort),
            (&[(DATA, 65_602, 0, 0)], Drop::TooLong),
            (&[(DATA, 2 << 20, DESC_F_NEXT, 1), (DATA, 1 << 20, 0, 0)], Drop::TooLong),
        ];
        for (whole, (descs, reason)) in
            [false, true].into_iter().flat_map(|w| cases.map(|c| (w, c)))
        {
            hostile.whole = whole;
            assert_eq!(hostile.send(descs), Ok(Err(reason)), "{descs:?}, whole: {whole}");
            hostile.goes_on();
        }
    }
}

#[test]
fn chains_that_break_a_rule_break_the_ring() {
    let cases: [(&[Desc], Is); 7] = [
        (&[(DATA, 0, 0, 0)], |e| matches!(e, QueueError::ZeroLength { .. })),
        (&[(DATA, u32::MAX, 0, 0)], |e| matches!(e, QueueError::Buffer { .. })),
        (&[(u64::MAX, 100, 0, 0)], |e| matches!(e, QueueError::Buffer { .. })),
        (&[(SLOT - 10, 100, 0, 0)], |e| matches!(e, QueueError::Buffer { .. })),
        (&[(DATA, 100, DESC_F_NEXT, 0)], |e| matches!(e, QueueError::ChainTooLong { .. })),
        (&[(DATA, 100, DESC_F_NEXT, SIZE)], |e| matches!(e, QueueError::Next { .. })),
        (&[(DATA, 8, DESC_F_WRITE | DESC_F_NEXT, 1), (DATA, 100, 0, 0)], |e| {
            matches!(e, QueueError::ReadableAfterWritable { .. })
        }),
    ];
    for (descs, expected) in cases {
        for engine in [false, true] {
            let mut hostile = Hostile::new(engine, Kind::Cached, features(true, true, true));
            hostile.goes_on();
            let fault = hostile.send(descs).unwrap_err();
            assert!(matches!(fault, PathError::Transmitq(e) if expected(e)), "{descs:?}: {fault}");
            assert!(hostile.path.receive(&hostile.mem).is_err(), "and stays broken");
        }
    }
}

#[test]
fn four_gibibytes_in_one_chain_are_refused_without_being_looked_at() {
    for engine in [false, true] {
        // 64 descriptors of an indirect table name the same 12 MiB.
        let mut hostile = Hostile::new(engine, Kind::Cached, features(true, true, true));
        let (table, all) = (DATA, 12 << 20);
        let pieces: Vec<_> = (0..64).map(|_| (SLOT / 4, all)).collect();
        hostile.describe(table, &chained(&pieces));
        assert_eq!(hostile.send(&[(table, 64 * 16, DESC_F_INDIRECT, 0)]), Ok(Err(Drop::TooLong)));
        let mut hostile = Hostile::new(engine, Kind::Cached, features(true, true, true));
        let pieces: Vec<_> = (0..400).map(|_| (SLOT / 4, all)).collect();
        hostile.describe(table, &chained(&pieces));
        let fault = hostile.send(&[(table, 400 * 16, DESC_F_INDIRECT, 0)]).unwrap_err();
        assert_eq!(fault, PathError::Transmitq(QueueError::ChainTooLong { head: 0 }));
    }
}

#[test]
fn a_header_in_twelve_pieces_of_one_byte_is_a_header() {
    for (engine, kind) in [(false, Kind::Cached), (false, Kind::Uncached), (true, Kind::Cached)] {
        let mut hostile = Hostile::new(engine, kind, features(true, true, true));
        let mut sent = frame(9, 1000);
        sent[..10].copy_from_slice(&[1, 1, 54, 0, 0x40, 1, 34, 0, 16, 0]);
        let mut pieces: Vec<(u64, u32)> = (0..12).map(|i| (DATA + 0x1000 * i, 1)).collect();
        pieces.push((DATA + 0x2_0003, 1000));
        for ((addr, len), at) in pieces.iter().zip([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]) {
            hostile.poke(*addr, &sent[at..at + *len as usize]);
        }
        assert_eq!(hostile.send(&chained(&pieces)), Ok(Ok(sent)));
    }
}

#[test]
fn receive_chains_of_four_gib_together_take_frames_where_lengths_have_32_bits() {
    for engine in [false, true] {
        let mut hostile = Hostile::new(engine, Kind::Cached, features(true, true, true));
        let (addr, len) = (1 << 40, u32::MAX);
        let mut regions = hostile.mem.regions().to_vec();
        regions.push(Region { bus_addr: addr, len: len.into(), side: Side::Far, backing: None });
        hostile.mem = BusMemory::new(regions).unwrap();
        let chains = [(DATA, 100, DESC_F_WRITE, 0), (addr, len, DESC_F_WRITE, 0)];
        hostile.describe(hostile.queues[0].desc, &chains);
        (0..2).for_each(|head| hostile.offer(0, head));
        for len in [100, 1000] {
            assert!(!matches!(hostile.path.room(&hostile.mem), Ok(Room::Nowhere)), "{len}");
            assert_eq!(hostile.path.sent(&hostile.mem, len), Ok(None));
        }
        assert!(matches!(hostile.path.room(&hostile.mem), Ok(Room::Nowhere)), "both are used");
    }
}

#[test]
fn header_fields_that_ask_for_too_much_are_dropped_with_the_reason() {
    let all = features(true, true, true);
    let no_tso = Features::OFFER.without(Features::of(&[net::F_HOST_TSO4, net::F_HOST_TSO6]));
    let no_uso = Features::OFFER.without(Features::of(&[net::F_HOST_USO]));
    let no_ecn = Features::OFFER.without(Features::of(&[net::F_HOST_ECN]));
    let no_csum = Features::OFFER.without(Features::of(&[net::F_CSUM]));
    // flags, type, hdr_len, gso_size, csum_start, csum_offset
    let cases: [(Features, [u16; 6], Drop); 9] = [
        (all, [0x80, 0, 0, 0, 0, 0], Drop::BadFlags),
        (no_csum, [1, 0, 0, 0, 34, 16], Drop::CsumNotNegotiated),
        (all, [1, 0, 0, 0, 0xffff, 0xffff], Drop::CsumRange),
        (all, [1, 0, 0, 0, 240, 16], Drop::CsumRange),
        (no_tso, [1, 1, 54, 1448, 34, 16], Drop::GsoNotNegotiated),
        (no_uso, [1, 5, 54, 1448, 34, 16], Drop::GsoNotNegotiated),
        (no_ecn, [1, 0x81, 54, 1448, 34, 16], Drop::GsoNotNegotiated),
        (all, [1, 1, 54, 0, 34, 16], Drop::GsoBad),
        (all, [1, 1, 0xffff, 1448, 34, 16], Drop::GsoBad),
    ];
    let both = cases.iter().flat_map(|case| [(false, *case), (true, *case)]);
    for (engine, (features, [flags, gso_type, rest @ ..], reason)) in both {
        let mut hostile = Hostile::new(engine, Kind::Cached, features);
        let mut sent = frame(1, 2000);
        (sent[0], sent[1]) = (flags as u8, gso_type as u8);
        for (i, field) in rest.iter().enumerate() {
            sent[2 + 2 * i..4 + 2 * i].copy_from_slice(&field.to_le_bytes());
        }
        hostile.poke(DATA, &sent);
        assert_eq!(hostile.send(&[(DATA, 2012, 0, 0)]), Ok(Err(reason)), "{sent:02x?}");
        hostile.goes_on();
    }
}

#[test]
fn what_was_checked_is_what_goes_on_whatever_the_memory_becomes() {
    let cases = [
        (false, Kind::Cached, 268),
        (false, Kind::WriteCombined, 1012),
        (true, Kind::Cached, 1012),
    ];
    for (engine, kind, private) in cases {
        let mut hostile = Hostile::new(engine, kind, features(true, true, true));
        let good = frame(5, 1000);
        hostile.poke(DATA, &good);
        hostile.describe(hostile.queues[1].desc, &[(DATA, 1012, 0, 0)]);
        hostile.offer(1, 0);
        let local = hostile.path.local();
        if let Some(local) = &local {
            assert!(matches!(hostile.path.receive(&hostile.mem), Ok(Inward::Empty)));
            let transfer = hostile.path.poll_transfer().unwrap();
            let done = carry_out(&hostile.mem, local, transfer);
            hostile.path.handle_completion(done).unwrap();
        }
        let Inward::Frame { prefix, tail, len } = hostile.path.receive(&hostile.mem).unwrap()
        else {
            panic!("a sound frame");
        };
        // Everything the driver can write to changes: the frame, the descriptor, the ring.
        let everything = hostile.mem.resolve(0x3000, 0x20_0000).unwrap();
        let all = hostile.mem.view(everything).unwrap();
        for at in (0..all.len()).step_by(8) {
            all.store_le64(at, u64::MAX);
        }
        let table = local.as_deref().unwrap_or(&hostile.mem);
        let sent = written(table, prefix, tail, len);
        assert!(sent[..private] == good[..private], "the checked start");
        assert!(sent[private..].iter().all(|b| *b == 0xff), "the rest is what it is now");
        hostile.path.received(&hostile.mem).unwrap();
    }
}

#[test]
fn a_receive_buffer_without_room_for_a_header_breaks_the_ring() {
    let cases = [&[(DATA, 11, DESC_F_WRITE, 0)][..], &[(DATA, 4096, 0, 0)]];
    for (engine, descs) in cases.iter().flat_map(|descs| [(false, *descs), (true, *descs)]) {
        let mut hostile = Hostile::new(engine, Kind::Cached, features(true, true, true));
        hostile.describe(hostile.queues[0].desc, descs);
        hostile.offer(0, 0);
        let fault = hostile.path.room(&hostile.mem).unwrap_err();
        assert!(matches!(fault, PathError::BufferTooSmall(_)), "{fault}");
    }
}

#[test]
fn octets_at_random_in_rings_and_descriptors_never_panic() {
    let mut random = Random(0xdead);
    for round in 0..400 {
        let engine = round % 4 >= 2;
        let kind = if round % 2 == 0 { Kind::Cached } else { Kind::WriteCombined };
        let features = features(random.coin(), random.coin(), random.coin());
        let mut hostile = Hostile::new(engine, kind, features);
        for _ in 0..40 {
            let queue = random.below(2);
            let descs: Vec<Desc> = (0..8)
                .map(|_| {
                    let addr = [DATA + random.below(9) as u64, SLOT / 4 - 20][random.below(9) / 8];
                    let len = [12, 1526, 70_000, random.below(3000)][random.below(4)] as u32;
                    let write = if queue == 0 { DESC_F_WRITE } else { 0 };
                    let flags = write | [0, 0, 1, 1, 1, 4, 7, 5][random.below(8)];
                    (addr, len, flags, random.below(9) as u16)
                })
                .collect();
            let table = [hostile.queues[queue].desc, DATA][random.below(2)];
            hostile.describe(table, &descs);
            hostile.offer(queue, random.below(8) as u16);
            hostile.avail = hostile.avail.wrapping_sub(random.below(2) as u16);
            let Hostile { mem, path, .. } = &mut hostile;
            let (len, local) = (random.len(), path.local());
            let table = local.as_deref().unwrap_or(mem);
            match path.room(mem) {
                Ok(Room::Nowhere) => {}
                Ok(room) => {
                    read(table, room, &frame(1, len));
                    if path.sent(mem, 12 + len).is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
            let _ = path.flush(mem);
            match path.receive(mem) {
                Ok(Inward::Empty) => {}
                Ok(_) => path.received(mem).unwrap(),
                Err(_) => break,
            }
            let _ = path.release(mem);
            while let Some(transfer) = path.poll_transfer() {
                let good = carry_out(mem, table, transfer);
                path.handle_completion(Completion { good: random.coin(), ..good }).ok();
            }
            if path.arm(mem, random.coin()).is_err() {
                break;
            }
            path.tick();
        }
    }
}
