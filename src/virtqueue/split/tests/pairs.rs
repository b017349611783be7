//! The two halves against each other, with a list of what should come out as the reference.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::virtqueue::{Full, Used};

/// What the reference knows of a chain.
#[derive(Clone, Debug)]
struct Expected {
    token: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Expected {
    fn writable_len(&self) -> u32 {
        self.writable.iter().map(|b| b.len).sum()
    }
}

/// Both halves, and where each chain should be.
struct Pair {
    mem: BusMemory,
    driver: DriverQueue,
    device: DeviceQueue,
    chain: Chain,
    random: Random,
    next_token: u16,
    added: VecDeque<Expected>,
    available: VecDeque<Expected>,
    held: Vec<(u16, Expected)>,
    pushed: VecDeque<Used>,
    used: VecDeque<Used>,
    indirect: bool,
    in_order: bool,
    completed: u64,
}

impl Pair {
    fn new(mem: BusMemory, config: QueueConfig, in_order: bool, seed: u64) -> Self {
        let mut driver = config.activate_driver(&mem).unwrap();
        driver.set_indirect_tables(&mem, TABLES, 4).unwrap();
        Self {
            device: config.activate_device(&mem).unwrap(),
            chain: Chain::default(),
            random: Random(seed | 1),
            next_token: 0,
            added: VecDeque::new(),
            available: VecDeque::new(),
            held: Vec::new(),
            pushed: VecDeque::new(),
            used: VecDeque::new(),
            completed: 0,
            indirect: config.indirect,
            in_order,
            driver,
            mem,
        }
    }

    fn buffers(&mut self, count: usize) -> Vec<Buffer> {
        (0..count)
            .map(|_| {
                let len = 1 + self.random.below(9000) as u32;
                let addr = self.random.below((BUFFERS_LEN - len) as usize) as u64;
                buffer(BUFFERS + addr, len)
            })
            .collect()
    }

    fn add(&mut self, readable: usize, writable: usize) {
        let count = (readable + writable) as u16;
        let expected = Expected {
            token: self.next_token,
            readable: self.buffers(readable),
            writable: self.buffers(writable),
        };
        let takes = if self.indirect && (2..=4.min(self.driver.size())).contains(&count) {
            1
        } else {
            count
        };
        let free = self.driver.free();
        let Expected { token, readable, writable } = &expected;
        match self.driver.add(&self.mem, readable, writable, *token) {
            Ok(()) => {
                assert_eq!(self.driver.free(), free - takes);
                self.next_token = self.next_token.wrapping_add(1);
                self.added.push_back(expected);
            }
            Err(Full) => assert!(takes > free, "{takes} refused with {free} free"),
        }
    }

    fn pop(&mut self) {
        let there = self.device.pop(&self.mem, &mut self.chain).unwrap();
        assert_eq!(there, !self.available.is_empty());
        let Some(expected) = self.available.pop_front() else { return };
        let spans = |buffers: &[Buffer]| -> Vec<Span> {
            buffers.iter().map(|b| self.mem.resolve(b.addr, b.len).unwrap()).collect()
        };
        assert_eq!(self.chain.readable, spans(&expected.readable));
        assert_eq!(self.chain.writable, spans(&expected.writable));
        assert_eq!(self.chain.writable_len(), expected.writable_len());
        let readable = expected.readable.iter().map(|b| b.len).sum::<u32>();
        assert_eq!(self.chain.readable_len(), readable);
        self.held.push((self.chain.head, expected));
    }

    fn unpop(&mut self, count: usize) {
        let count = count.min(self.held.len());
        self.device.unpop(count as u16);
        for _ in 0..count {
            self.available.push_front(self.held.pop().unwrap().1);
        }
    }

    fn push(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let which = if self.in_order { 0 } else { self.random.below(self.held.len()) };
        let (head, expected) = self.held.remove(which);
        let len = self.random.below(expected.writable_len() as usize + 1) as u32;
        self.device.push(&self.mem, head, len);
        self.pushed.push_back(Used { token: expected.token, len });
    }

    fn pop_used(&mut self) {
        let got = self.driver.pop_used(&self.mem).unwrap();
        let expected = self.used.pop_front();
        self.completed += u64::from(expected.is_some());
        assert_eq!(got, expected);
    }

    fn publish_driver(&mut self) {
        let _ = self.driver.publish(&self.mem);
        self.available.append(&mut self.added);
        assert_eq!(usize::from(self.device.avail_ready(&self.mem).unwrap()), self.available.len());
    }

    fn publish_device(&mut self) {
        let _ = self.device.publish(&self.mem);
        self.used.append(&mut self.pushed);
        assert_eq!(usize::from(self.driver.used_ready(&self.mem).unwrap()), self.used.len());
    }

    fn step(&mut self, op: u8, readable: usize, writable: usize) {
        match op {
            0 | 1 => self.add(readable, writable),
            2 => self.publish_driver(),
            3 | 4 => self.pop(),
            5 => self.push(),
            6 => self.publish_device(),
            7 => self.pop_used(),
            8 => {
                // A frame did not come: what was taken for it goes back.
                let before = self.held.len();
                (0..readable).for_each(|_| self.pop());
                self.unpop(self.held.len() - before);
            }
            _ => {
                self.driver.disarm(&self.mem);
                self.device.disarm(&self.mem);
                assert_eq!(self.driver.arm(&self.mem), Ok(!self.used.is_empty()));
                assert_eq!(self.device.arm(&self.mem), Ok(!self.available.is_empty()));
            }
        }
    }

    fn drain(&mut self) {
        self.publish_driver();
        while !self.available.is_empty() {
            self.pop();
        }
        while !self.held.is_empty() {
            self.push();
        }
        self.publish_device();
        while !self.used.is_empty() {
            self.pop_used();
        }
        assert_eq!(self.driver.free(), self.driver.size());
    }
}

const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_one_half_adds_the_other_finds_and_gives_back(
        size in prop::sample::select(vec![1u16, 2, 4, 256]),
        (event_idx, indirect, in_order) in any::<(bool, bool, bool)>(),
        (window, host) in (0..3usize, 0..3usize),
        seed in any::<u64>(),
        ops in prop::collection::vec((0..10u8, 0..6usize, 0..4usize), 1..300),
    ) {
        let mem = memory(KINDS[window], KINDS[host]);
        let mut pair = Pair::new(mem, config(size, event_idx, indirect), in_order, seed);
        for (op, readable, writable) in ops {
            pair.step(op, readable, if readable == 0 { writable + 1 } else { writable });
        }
        pair.drain();
    }
}

#[test]
fn indices_wrap_several_times_without_a_trace() {
    for (size, event_idx, indirect, in_order) in [
        (1, true, false, true),
        (4, false, true, false),
        (256, true, true, false),
        (256, false, false, false),
    ] {
        let mem = memory(Kind::Cached, Kind::Uncached);
        let mut pair = Pair::new(mem, config(size, event_idx, indirect), in_order, 0x5eed);
        while pair.completed < 200_000 {
            let (op, readable) = (pair.random.below(10) as u8, pair.random.below(2));
            for _ in 0..1 + pair.random.below(8) {
                let writable = 1 - readable + pair.random.below(2);
                pair.step(op, readable, writable);
            }
        }
        pair.drain();
    }
}

#[test]
fn the_largest_queue_is_filled_to_the_last_descriptor_and_wraps() {
    let mem = {
        let m = Arc::new(Mapping::anonymous(0x10_0000, Kind::Cached));
        BusMemory::new(vec![Region::mapped(0, 0x10_0000, Side::Near, m, 0)]).unwrap()
    };
    let config = QueueConfig {
        size: 32768,
        desc: 0,
        driver: 0x8_0000,
        device: 0xa_0000,
        event_idx: true,
        indirect: false,
    };
    let mut driver = config.activate_driver(&mem).unwrap();
    let mut device = config.activate_device(&mem).unwrap();
    let mut chain = Chain::with_capacity(1);
    for round in 0..5u32 {
        for token in 0..32768 {
            driver.add(&mem, &[], &[buffer(0xf_0000, 1 + round)], token).unwrap();
        }
        assert_eq!(driver.add(&mem, &[], &[buffer(0xf_0000, 1)], 0), Err(Full));
        let _ = driver.publish(&mem);
        assert_eq!(device.avail_ready(&mem), Ok(32768));
        while device.pop(&mem, &mut chain).unwrap() {
            device.push(&mem, chain.head, 1 + round);
        }
        let _ = device.publish(&mem);
        assert_eq!(driver.used_ready(&mem), Ok(32768));
        for token in 0..32768 {
            assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token, len: 1 + round })));
        }
        assert_eq!(driver.pop_used(&mem), Ok(None));
    }
    // One chain may take all of it.
    let all = vec![buffer(0xf_0000, 1); 32768];
    driver.add(&mem, &all, &[], 9).unwrap();
    let _ = driver.publish(&mem);
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    assert_eq!((chain.readable.len(), chain.readable_len()), (32768, 32768));
}

#[test]
fn chains_longer_than_their_table_go_out_direct() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut pair = Pair::new(mem, config(8, true, true), true, 1);
    pair.add(2, 2);
    assert_eq!(pair.driver.free(), 7);
    pair.add(3, 2);
    assert_eq!(pair.driver.free(), 2);
    pair.add(1, 0);
    assert_eq!(pair.driver.free(), 1);
    pair.drain();
}

#[test]
fn nothing_is_written_outside_the_areas_on_cached_memory() {
    for (size, event_idx) in [(1u16, true), (2, true), (4, false), (4, true)] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let ends = [
            WINDOW + u64::from(split::desc_len(size)),
            AVAIL + u64::from(split::avail_len(size)),
            HOST + u64::from(split::used_len(size)),
        ];
        ends.iter().for_each(|end| poke(&mem, *end, &[0xa5; 16]));
        let mut pair = Pair::new(mem, config(size, event_idx, false), true, 7);
        for i in 0..20_000u32 {
            pair.step((i % 10) as u8, 1, 0);
        }
        ends.iter().for_each(|end| assert_eq!(peek(&pair.mem, *end), [0xa5; 16], "{size}"));
    }
}
