//! The device's path against drivers that post what they like.

use super::*;
use crate::memory::Span;
use crate::net::frame::LARGEST;
use crate::net::settings::{Current, Settings};
use crate::virtqueue::{Buffer, DriverQueue, QueueConfig};

const SLOT: u64 = 16 << 20;
const WINDOW: u64 = SLOT / 4;
/// Where the driver's buffers begin, and its indirect tables.
const BUFFERS: u64 = WINDOW + 0x20_0000;
const TABLES: u64 = WINDOW + 0x10_0000;
const SIZE: u16 = 256;

/// A driver that posts chains of these lengths, and the device under test.
struct Stock {
    mem: BusMemory,
    rx: DriverQueue,
    tx: DriverQueue,
    /// Lengths of the buffers of each chain.
    shape: Vec<u32>,
    mergeable: bool,
    device: End<DevicePath>,
}

impl Stock {
    fn new(size: u16, kind: Kind, features: Features, shape: &[u32], indirect: bool) -> Self {
        let mem = memory(SLOT, kind, kind);
        let base = |at| QueueConfig {
            size,
            desc: at,
            driver: at + 0x4000,
            device: at + 0x8000,
            packed: features.has(virtio::F_RING_PACKED),
            in_order: features.has(virtio::F_IN_ORDER),
            event_idx: features.has(virtio::F_EVENT_IDX),
            indirect: features.has(virtio::F_INDIRECT_DESC),
        };
        let (receiveq, transmitq) = (base(WINDOW), base(WINDOW + 0x1_0000));
        let (mut rx, tx) =
            (receiveq.activate_driver(&mem).unwrap(), transmitq.activate_driver(&mem).unwrap());
        if indirect {
            rx.set_indirect_tables(&mem, TABLES, 64).unwrap();
        }
        let path = DevicePath::new(&mem, features, &receiveq, &transmitq).unwrap();
        let mergeable = features.has(net::F_MRG_RXBUF);
        Self { mem, rx, tx, shape: shape.to_vec(), mergeable, device: End::new(path) }
    }

    /// The buffers of a chain, apart from each other by a little.
    fn chain(&self, token: u16) -> Vec<Buffer> {
        let each: u32 = self.shape.iter().map(|len| len.next_multiple_of(8) + 8).sum();
        let mut addr = BUFFERS + u64::from(token) * u64::from(each);
        let mut next = |len: u32| {
            addr += u64::from(len.next_multiple_of(8)) + 8;
            Buffer { addr: addr - u64::from(len.next_multiple_of(8)), len }
        };
        self.shape.iter().map(|len| next(*len)).collect()
    }

    /// Posts the chains of these tokens, as many as fit, and fills them with a mark.
    fn post(&mut self, tokens: impl IntoIterator<Item = u16>) -> usize {
        let mut posted = 0;
        for token in tokens {
            let chain = self.chain(token);
            for span in spans(&self.mem, &chain) {
                self.mem.view(span).unwrap().copy_from(0, &vec![0xee; span.len()]);
            }
            if self.rx.add(&self.mem, &[], &chain, token).is_err() {
                break;
            }
            posted += 1;
        }
        let _ = self.rx.publish(&self.mem);
        posted
    }

    /// Takes the frames that the device has published, with the chains that they came in.
    fn frames(&mut self) -> Vec<(Vec<u8>, Vec<u16>)> {
        let mut frames = Vec::new();
        while let Some(first) = self.rx.pop_used(&self.mem).unwrap() {
            let (mut used, mut frame) = (vec![first], self.bytes(first.token, first.len));
            let count = u16::from_le_bytes([frame[10], frame[11]]);
            assert!(count >= 1 && (self.mergeable || count == 1), "num_buffers {count}");
            let whole: u32 = self.shape.iter().sum();
            for _ in 1..count {
                assert_eq!(used.last().unwrap().len, whole, "all but the last are filled");
                used.push(self.rx.pop_used(&self.mem).unwrap().expect("published together"));
                let last = used.last().unwrap();
                assert!(last.len > 0, "no chain is used up for nothing");
                frame.extend(self.bytes(last.token, last.len));
            }
            frames.push((frame, used.iter().map(|used| used.token).collect()));
        }
        frames
    }

    /// The first `len` bytes of a chain; the others must be as they were.
    fn bytes(&self, token: u16, len: u32) -> Vec<u8> {
        let chain = self.chain(token);
        let mut all = vec![0; self.shape.iter().sum::<u32>() as usize];
        path::copy_out(&self.mem, &spans(&self.mem, &chain), 0, &mut all);
        let rest = all.split_off(len as usize);
        assert!(rest.iter().all(|b| *b == 0xee), "bytes beyond the used length are touched");
        all
    }

    /// Offers the frame to the device; `false` if it did not want to read.
    fn give(&mut self, frame: &[u8]) -> bool {
        self.device.outbox.push_back(frame.to_vec());
        let (sent, blocked) = self.device.outward(&self.mem, 1);
        assert_eq!(sent == 0, blocked, "it reads, or says that it wants room");
        if sent == 0 {
            self.device.outbox.pop_back();
        }
        sent == 1
    }
}

fn spans(mem: &BusMemory, buffers: &[Buffer]) -> Vec<Span> {
    buffers.iter().map(|b| mem.resolve(b.addr, b.len).unwrap()).collect()
}

/// What drivers are known to post, and what they might.
fn shapes() -> Vec<(&'static str, bool, Vec<u32>)> {
    let pages = |first: &[u32]| first.iter().copied().chain([4096; 17]).collect::<Vec<u32>>();
    vec![
        ("small mergeable", true, vec![1526]),
        ("a page", true, vec![4096]),
        ("half a page and odd", true, vec![2047]),
        ("header of its own, mergeable", true, vec![12, 1514]),
        ("split header, mergeable", true, vec![5, 7, 3000]),
        ("just a header, mergeable", true, vec![12]),
        ("header, rest of the page, pages", false, pages(&[12, 4084])),
        ("one large buffer", false, vec![65_601]),
        ("tiny pieces first", false, pages(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7])),
        ("small, not mergeable", false, vec![12, 1514]),
    ]
}

#[test]
fn frames_are_scattered_over_whatever_a_driver_posts() {
    for kind in [Kind::Cached, Kind::Uncached] {
        for (i, (name, mergeable, shape)) in shapes().into_iter().enumerate() {
            for (indirect, features) in [false, true].into_iter().flat_map(|indirect| {
                let all = with_rings(features(mergeable, true, indirect), [kind; 2]);
                all.into_iter().map(move |features| (indirect, features))
            }) {
                let mut stock = Stock::new(SIZE, kind, features, &shape, indirect);
                let each: u32 = shape.iter().sum();
                let posted = stock.post(0..if mergeable { SIZE } else { 64 });
                let fits = if mergeable { posted * each as usize } else { each as usize };
                let mut random = Random(1 + i as u64);
                for number in 0..60 {
                    let sent = frame(number, random.len().min(fits - 12));
                    assert!(stock.give(&sent), "{name}: frame {number} of {}", sent.len());
                    let mut got = stock.frames();
                    assert_eq!(got.len(), 1, "{name}: {} bytes, {:?}", sent.len(), stock.device);
                    let (mut bytes, tokens) = got.remove(0);
                    assert_eq!(bytes[10], tokens.len() as u8, "num_buffers");
                    assert_eq!(tokens.len(), sent.len().div_ceil(each as usize));
                    bytes[10..12].fill(0);
                    assert!(bytes == sent, "{name}: frame {number} of {} bytes", sent.len());
                    assert_eq!(stock.post(tokens.iter().copied()), tokens.len());
                }
                assert!(stock.device.drops.is_empty(), "{name}: {:?}", stock.device.drops);
            }
        }
    }
}

#[test]
fn a_frame_waits_for_buffers_and_nothing_is_read_meanwhile() {
    for kind in [Kind::Cached, Kind::Uncached] {
        let mut stock = Stock::new(SIZE, kind, features(true, true, false), &[1526], false);
        stock.post(0..3);
        let big = frame(1, 9000);
        assert!(stock.give(&big), "three buffers are there, so the netdev is read");
        assert_eq!(stock.frames().len(), 0, "no part of it is shown");
        for token in 3..5 {
            assert!(!stock.give(&frame(2, 60)), "the netdev is not read");
            assert!(!stock.device.path.arm(&stock.mem, true).unwrap(), "it may sleep");
            stock.device.path.disarm(&stock.mem);
            stock.post([token]);
        }
        assert!(stock.device.path.arm(&stock.mem, true).unwrap(), "a buffer is there");
        stock.post([5]);
        assert!(!stock.give(&frame(3, 60)), "six are enough, and none is left");
        let got = stock.frames();
        assert_eq!((got.len(), got[0].1.len()), (1, 6));
        assert!(got[0].0[12..] == big[12..]);
        stock.post(6..20);
        assert!(stock.give(&frame(4, 60)));
        assert_eq!(stock.frames()[0].0.len(), 72);
        assert!(stock.device.drops.is_empty());
    }
}

#[test]
fn a_waiting_frame_is_delivered_whole_before_the_next_one() {
    let mut stock = Stock::new(SIZE, Kind::Cached, features(true, true, false), &[1526], false);
    stock.post(0..2);
    let (first, second) = (frame(1, 5000), frame(2, 100));
    assert!(stock.give(&first));
    stock.post(2..SIZE);
    assert!(stock.give(&second));
    let got = stock.frames();
    assert_eq!(got.iter().map(|(f, _)| f.len()).collect::<Vec<_>>(), [5012, 112]);
    assert!(got[0].0[12..] == first[12..] && got[1].0[12..] == second[12..]);
}

#[test]
fn a_frame_that_waits_is_dropped_if_the_driver_wants_it_no_more() {
    let features = features(true, true, false);
    let mut stock = Stock::new(SIZE, Kind::Cached, features, &[1526], false);
    let settings = Settings::new(Current::at_first(features, [2, 0, 0, 0, 0, 7]));
    stock.device = End::new(stock.device.path.obeying(&settings));
    stock.post(0..2);
    assert!(stock.give(&frame(1, 5000)));
    settings.change(|current| current.filter.promiscuous = false);
    stock.post(2..SIZE);
    assert!(stock.give(&frame(2, 100)));
    assert!(stock.frames().is_empty());
    assert_eq!(stock.device.drops, [Drop::Filtered], "the one that has just come");
    assert_eq!(stock.device.path.tick(), Some(Drop::Filtered), "the one that waited");
    assert_eq!(stock.device.path.tick(), None);
}

#[test]
fn a_frame_that_just_came_is_not_dropped_by_a_heartbeat_and_one_that_waits_is() {
    let mut stock = Stock::new(SIZE, Kind::Cached, features(true, true, false), &[1526], false);
    stock.post(0..1);
    assert_eq!(stock.device.path.tick(), None);
    assert!(stock.give(&frame(1, 9000)));
    assert_eq!(stock.device.path.tick(), None, "it has not waited for a heartbeat yet");
    assert!(!stock.give(&frame(2, 60)), "it waits still");
    assert_eq!(stock.device.path.tick(), Some(Drop::TooLong));
    assert_eq!(stock.device.path.tick(), None, "once");
    assert!(stock.give(&frame(3, 60)), "the netdev is read again, into the buffer that was held");
    let got = stock.frames();
    assert_eq!((got.len(), got[0].0.len()), (1, 72));
    // A delivered frame leaves nothing behind that a heartbeat would find.
    stock.post(1..2);
    assert!(stock.give(&frame(4, 9000)));
    assert_eq!(stock.device.path.tick(), None);
    stock.post(2..SIZE);
    assert!(stock.give(&frame(5, 9000)));
    assert_eq!((stock.device.path.tick(), stock.device.path.tick()), (None, None));
    assert_eq!(stock.frames().len(), 2);
}

#[test]
fn a_frame_that_no_buffer_can_ever_hold_is_dropped_at_once() {
    // A lone buffer that is too small.
    let mut stock = Stock::new(SIZE, Kind::Cached, features(false, true, false), &[1526], false);
    stock.post(0..9);
    assert!(stock.give(&frame(1, 1515)));
    assert_eq!(stock.device.drops, [Drop::TooLong]);
    assert!(stock.give(&frame(2, 1514)), "the same buffer takes one that fits");
    assert_eq!(stock.frames()[0].0.len(), 1526);

    // All buffers of the queue together are too small.
    let mut stock = Stock::new(16, Kind::Cached, features(true, true, false), &[1526], false);
    stock.post(0..16);
    assert!(stock.give(&frame(1, 16 * 1526 - 11)));
    assert_eq!(stock.device.drops, [Drop::TooLong]);
    assert!(stock.give(&frame(2, 16 * 1526 - 12)), "one byte less fits");
    let (bytes, tokens) = stock.frames().remove(0);
    assert_eq!((bytes.len(), bytes[10], tokens.len()), (16 * 1526, 16, 16));
}

#[test]
fn a_frame_that_waits_for_more_than_the_queue_has_does_not_wait_for_ever() {
    // Buffers were missing when the frame came; when all are there it still does not fit.
    let mut stock = Stock::new(16, Kind::Cached, features(true, true, false), &[1526], false);
    stock.post(0..15);
    assert!(stock.give(&frame(1, 40_000)));
    assert!(!stock.give(&frame(2, 60)), "one buffer is still to come");
    stock.post(15..16);
    assert!(stock.give(&frame(3, 60)), "what can never fit is out of the way at once");
    assert_eq!(stock.frames().len(), 1);
    assert_eq!(stock.device.path.tick(), Some(Drop::TooLong), "and is counted");
    assert_eq!(stock.device.path.tick(), None);
}

#[test]
fn a_queue_of_the_smallest_buffers_carries_small_frames_and_drops_others() {
    // Twelve bytes each: 256 of them hold 3,072.
    let mut stock = Stock::new(SIZE, Kind::Cached, features(true, true, false), &[12], false);
    stock.post(0..SIZE);
    assert!(stock.give(&frame(1, 3061)));
    assert_eq!(stock.device.drops, [Drop::TooLong]);
    assert!(stock.give(&frame(2, 3060)));
    let (bytes, tokens) = stock.frames().remove(0);
    assert_eq!((bytes.len(), tokens.len()), (3072, 256));
    assert_eq!(u16::from_le_bytes([bytes[10], bytes[11]]), 256);
}

#[test]
fn ring_memory_in_many_pieces_is_not_lent_because_one_read_takes_only_so_many() {
    // 256 chains of 64 pieces of 5 bytes: 65,601 bytes take 13,121 pieces.
    let mut stock = Stock::new(SIZE, Kind::Cached, features(true, true, true), &[5; 64], true);
    assert_eq!(stock.post(0..SIZE), usize::from(SIZE));
    let path = &mut stock.device.path;
    assert!(matches!(path.room(&stock.mem).unwrap(), Room::Private(_)));
    let sent = frame(1, 65_577);
    assert!(stock.give(&sent));
    let (bytes, tokens) = stock.frames().remove(0);
    assert_eq!((bytes.len(), tokens.len()), (LARGEST - 12, (LARGEST - 12).div_ceil(320)));
    assert!(bytes[12..] == sent[12..]);
}

#[test]
fn transmit_chains_in_any_number_of_pieces_come_out_as_one_frame() {
    for kind in [Kind::Cached, Kind::Uncached] {
        let features = features(true, true, true);
        let mut stock = Stock::new(SIZE, kind, features, &[4096], false);
        stock.tx.set_indirect_tables(&stock.mem, TABLES + 0x8_0000, 64).unwrap();
        let mut random = Random(3);
        for number in 0..300 {
            let sent = frame(number, random.len());
            // Up to 20 pieces, some of a single byte; the last takes the rest.
            let (mut left, mut addr, mut pieces) = (sent.len(), BUFFERS, Vec::new());
            let most = 1 + random.below(20);
            while left > 0 {
                let rest = pieces.len() + 1 == most;
                let len = if rest { left } else { (1 + random.below(700)).min(left) };
                pieces.push(Buffer { addr, len: len as u32 });
                addr += len as u64 + 8 - len as u64 % 8;
                left -= len;
            }
            path::copy_in(&stock.mem, &spans(&stock.mem, &pieces), 0, &sent);
            stock.tx.add(&stock.mem, &pieces, &[], number as u16).unwrap();
            let _ = stock.tx.publish(&stock.mem);
            assert_eq!(stock.device.inward(&stock.mem, 9), 1);
            assert!(stock.device.inbox.pop_front().unwrap() == sent, "frame {number}");
            let used = stock.tx.pop_used(&stock.mem).unwrap().unwrap();
            assert_eq!((used.token, used.len), (number as u16, 0));
        }
        assert_eq!(stock.tx.free(), SIZE);
    }
}
