//! The two halves against each other, with a list of what should come out as the reference.

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
    config: QueueConfig,
    /// The device uses chains in the order in which it got them, negotiated or not.
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
            config,
            in_order: in_order || config.in_order,
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
        let takes = if self.config.indirect && (2..=4.min(self.driver.size())).contains(&count) {
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
        // A packed ring shows one at a time.
        let shown = if self.config.packed { self.used.len().min(1) } else { self.used.len() };
        assert_eq!(usize::from(self.driver.used_ready(&self.mem).unwrap()), shown);
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

/// Sizes that either format takes, and those that only a packed ring does.
const SIZES: [u16; 9] = [1, 2, 4, 256, 3, 5, 7, 100, 255];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_one_half_adds_the_other_finds_and_gives_back(
        size in 0..SIZES.len(),
        (event_idx, indirect, packed) in any::<(bool, bool, bool)>(),
        (in_order, negotiated) in any::<(bool, bool)>(),
        (window, host) in (0..3usize, 0..3usize),
        seed in any::<u64>(),
        ops in prop::collection::vec((0..10u8, 0..6usize, 0..4usize), 1..300),
    ) {
        let (size, kinds) = if packed {
            (SIZES[size], [Kind::Cached; 2])
        } else {
            (SIZES[size % 4], [KINDS[window], KINDS[host]])
        };
        let config = QueueConfig {
            packed,
            in_order: in_order && negotiated,
            ..config(size, event_idx, indirect)
        };
        let mut pair = Pair::new(memory(kinds[0], kinds[1]), config, in_order, seed);
        for (op, readable, writable) in ops {
            pair.step(op, readable, if readable == 0 { writable + 1 } else { writable });
        }
        pair.drain();
    }
}

#[test]
fn indices_and_wrap_counters_go_round_without_a_trace() {
    for (size, event_idx, indirect, in_order) in [
        (1u16, true, false, true),
        (4, false, true, false),
        (256, true, true, false),
        (256, false, false, false),
        (256, true, false, true),
        (3, true, false, false),
        (255, false, true, false),
        (7, true, true, true),
    ] {
        for (packed, negotiated) in [(false, false), (false, true), (true, false), (true, true)] {
            if !packed && !size.is_power_of_two() || negotiated && !in_order {
                continue;
            }
            let config =
                QueueConfig { packed, in_order: negotiated, ..config(size, event_idx, indirect) };
            // Indices wrap after 65536 chains, wrap counters after a lap.
            let (host, chains) =
                if packed { (Kind::Cached, 30_000) } else { (Kind::Uncached, 150_000) };
            let mut pair = Pair::new(memory(Kind::Cached, host), config, in_order, 0x5eed);
            while pair.completed < chains {
                let (op, readable) = (pair.random.below(10) as u8, pair.random.below(2));
                for _ in 0..1 + pair.random.below(8) {
                    let writable = 1 - readable + pair.random.below(2);
                    pair.step(op, readable, writable);
                }
            }
            pair.drain();
        }
    }
}

#[test]
fn the_largest_queues_are_filled_to_the_last_descriptor_and_wrap() {
    for (size, packed, in_order) in [
        (32768, false, false),
        (32768, false, true),
        (32768, true, false),
        (32768, true, true),
        (32767, true, false),
    ] {
        fill(size, packed, in_order);
    }
}

fn fill(size: u16, packed: bool, in_order: bool) {
    let mem = {
        let m = Arc::new(Mapping::anonymous(0x10_0000, Kind::Cached));
        BusMemory::new(vec![Region::mapped(0, 0x10_0000, Side::Near, m, 0)]).unwrap()
    };
    let config = QueueConfig {
        size,
        desc: 0,
        driver: 0x8_0000,
        device: 0xa_0000,
        packed,
        in_order,
        event_idx: true,
        indirect: false,
    };
    let mut driver = config.activate_driver(&mem).unwrap();
    let mut device = config.activate_device(&mem).unwrap();
    let mut chain = Chain::with_capacity(1);
    for round in 0..3u32 {
        for token in 0..size {
            driver.add(&mem, &[], &[buffer(0xf_0000, 1 + round)], token).unwrap();
        }
        assert_eq!(driver.add(&mem, &[], &[buffer(0xf_0000, 1)], 0), Err(Full));
        let _ = driver.publish(&mem);
        assert_eq!(device.avail_ready(&mem), Ok(size));
        while device.pop(&mem, &mut chain).unwrap() {
            device.push(&mem, chain.head, 1 + round);
        }
        let _ = device.publish(&mem);
        assert_eq!(driver.used_ready(&mem), Ok(if packed { 1 } else { size }));
        for token in 0..size {
            assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token, len: 1 + round })));
        }
        assert_eq!(driver.pop_used(&mem), Ok(None));
    }
    // One chain may take all of it, and be given back and taken again.
    let all = vec![buffer(0xf_0000, 1); size.into()];
    for _ in 0..3 {
        driver.add(&mem, &all, &[], 9).unwrap();
        let _ = driver.publish(&mem);
        for _ in 0..2 {
            assert_eq!(device.pop(&mem, &mut chain), Ok(true));
            assert_eq!((chain.readable.len(), chain.readable_len()), (size.into(), size.into()));
            assert_eq!(device.pop(&mem, &mut Chain::default()), Ok(false));
            device.unpop(1);
        }
        assert_eq!(device.pop(&mem, &mut chain), Ok(true));
        device.push(&mem, chain.head, 0);
        let _ = device.publish(&mem);
        assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 9, len: 0 })));
        assert_eq!(driver.arm(&mem), Ok(false));
    }
}

#[test]
fn chains_longer_than_their_table_go_out_direct() {
    for config in [config(8, true, true), packed_config(8, true, true)] {
        let mut pair = Pair::new(memory(Kind::Cached, Kind::Cached), config, true, 1);
        pair.add(2, 2);
        assert_eq!(pair.driver.free(), 7);
        pair.add(3, 2);
        assert_eq!(pair.driver.free(), 2);
        pair.add(1, 0);
        assert_eq!(pair.driver.free(), 1);
        pair.drain();
    }
}

#[test]
fn nothing_is_written_outside_the_areas_on_cached_memory() {
    for (size, event_idx, packed) in [
        (1u16, true, false),
        (2, true, false),
        (4, false, false),
        (4, true, false),
        (1, true, true),
        (3, true, true),
        (4, false, true),
    ] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let ends = [
            WINDOW + 16 * u64::from(size),
            AVAIL + if packed { 4 } else { 6 + 2 * u64::from(size) },
            HOST + if packed { 4 } else { 6 + 8 * u64::from(size) },
        ];
        ends.iter().for_each(|end| poke(&mem, *end, &[0xa5; 16]));
        let config = QueueConfig { packed, ..config(size, event_idx, false) };
        let mut pair = Pair::new(mem, config, true, 7);
        for i in 0..20_000u32 {
            pair.step((i % 10) as u8, 1, 0);
        }
        ends.iter().for_each(|end| assert_eq!(peek(&pair.mem, *end), [0xa5; 16], "{size}"));
    }
}

#[test]
fn a_chain_that_is_held_for_long_keeps_its_name_while_others_take_its_place() {
    for config in [config(2, true, false), packed_config(2, true, false)] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let (mut held, mut chain) = (Chain::default(), Chain::default());
        driver.add(&mem, &[], &[buffer(BUFFERS, 9)], 99).unwrap();
        let _ = driver.publish(&mem);
        assert!(device.pop(&mem, &mut held).unwrap());
        for token in 0..10 {
            driver.add(&mem, &[], &[buffer(BUFFERS + 64, 1)], token).unwrap();
            let _ = driver.publish(&mem);
            assert!(device.pop(&mem, &mut chain).unwrap());
            assert_ne!(chain.head, held.head);
            device.push(&mem, chain.head, 1);
            let _ = device.publish(&mem);
            assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token, len: 1 })));
        }
        device.push(&mem, held.head, 9);
        let _ = device.publish(&mem);
        assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 99, len: 9 })));
    }
}

#[test]
fn with_in_order_a_device_that_uses_a_younger_chain_first_is_our_bug() {
    for packed in [false, true] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { packed, in_order: true, ..config(4, true, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        (0..2).for_each(|i| driver.add(&mem, &[buffer(BUFFERS, 1)], &[], i).unwrap());
        let _ = driver.publish(&mem);
        let mut chain = Chain::default();
        assert!(device.pop(&mem, &mut chain).unwrap() && device.pop(&mem, &mut chain).unwrap());
        let push = std::panic::AssertUnwindSafe(|| device.push(&mem, chain.head, 0));
        assert!(std::panic::catch_unwind(push).is_err());
    }
}
