//! Device halves that end and start again in the middle of the rings, orderly or by a crash. Every chain
//! carries its number, and both ends look that none is lost, repeated or out of order.

use proptest::prelude::*;

use super::*;

/// Bytes of each buffer: a number.
const LEN: u32 = 8;

/// How a device half ends, and what its successor goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything is given back, and the position is handed over.
    Position,
    /// The same, as a vring base.
    Base,
    /// Whatever is held is gone; what was published may not have been told.
    Crash,
}

/// Zeroed memory for the journal of such a queue.
pub(super) fn journal(size: u16, packed: bool) -> Journal {
    let mapping = Arc::new(Mapping::anonymous(64 + Journal::len(size, packed), Kind::Cached));
    Journal::new(mapping, 64, size, packed).unwrap()
}

/// A driver, and a device half that is replaced now and then.
pub(super) struct World {
    pub(super) mem: BusMemory,
    pub(super) config: QueueConfig,
    pub(super) driver: DriverQueue,
    pub(super) device: DeviceQueue,
    pub(super) journal: Option<Journal>,
    pub(super) random: Random,
    chain: Chain,
    /// Heads of what the device holds, oldest first, and what was written there.
    held: VecDeque<(u16, u32)>,
    /// Numbers of the next chain to be added, shown, popped, shown as used, and taken back.
    added: u64,
    pub(super) shown: u64,
    pub(super) popped: u64,
    pub(super) pushed: u64,
    pub(super) used: u64,
    pub(super) taken: u64,
    /// Which of the chains that are not taken back are answered.
    answered: VecDeque<bool>,
    driver_sleeps: bool,
    device_sleeps: bool,
}

impl World {
    pub(super) fn new(
        mem: BusMemory,
        config: QueueConfig,
        journal: Option<Journal>,
        seed: u64,
    ) -> Self {
        let mut driver = config.activate_driver(&mem).unwrap();
        driver.set_indirect_tables(&mem, TABLES, 4).unwrap();
        let at = At::Base(Position::first(config.packed).base());
        let start = Start { at, journal: journal.clone() };
        Self {
            device: config.activate_device_at(&mem, start).unwrap(),
            mem,
            config,
            driver,
            journal,
            random: Random(seed | 1),
            chain: Chain::default(),
            held: VecDeque::new(),
            added: 0,
            shown: 0,
            popped: 0,
            pushed: 0,
            used: 0,
            taken: 0,
            answered: VecDeque::new(),
            driver_sleeps: false,
            device_sleeps: false,
        }
    }

    /// Where the number of a chain is written, and where the answer.
    fn places(number: u64) -> [u64; 2] {
        let at = BUFFERS + number % 1024 * 64;
        [at, at + 32]
    }

    /// Adds a chain of one to three buffers; whether it fits.
    pub(super) fn add(&mut self) -> bool {
        let [question, answer] = Self::places(self.added).map(|at| buffer(at, LEN));
        let (short, half) = (buffer(question.addr, LEN / 2), buffer(question.addr + 4, LEN / 2));
        let token = self.added as u16;
        let (mem, driver) = (&self.mem, &mut self.driver);
        poke(mem, question.addr, &self.added.to_le_bytes());
        let most = usize::from(self.config.size.min(3));
        let kind = if self.config.size == 1 { 0 } else { self.random.below(most) };
        let added = match kind {
            0 => driver.add(mem, &[question], &[], token),
            1 => driver.add(mem, &[question], &[answer], token),
            _ => driver.add(mem, &[short, half], &[answer], token),
        };
        if added.is_ok() {
            poke(mem, answer.addr, &[0; LEN as usize]);
            self.answered.push_back(kind > 0);
            self.added += 1;
        }
        added.is_ok()
    }

    pub(super) fn show(&mut self) {
        if self.driver.publish(&self.mem) {
            self.device_sleeps = false;
        }
        self.shown = self.added;
        assert!(!self.device_sleeps || self.popped == self.shown, "the device oversleeps");
    }

    /// Takes the next chain, which must be the right one; whether there is one.
    pub(super) fn pop(&mut self) -> bool {
        let there = self.device.pop(&self.mem, &mut self.chain).unwrap();
        assert_eq!(there, self.popped < self.shown, "{} of {}", self.popped, self.shown);
        if !there {
            return false;
        }
        let mut number = Vec::new();
        for span in &self.chain.readable {
            let at = number.len();
            number.resize(at + span.len(), 0);
            self.mem.view(*span).unwrap().copy_to(0, &mut number[at..]);
        }
        assert_eq!(number, self.popped.to_le_bytes(), "chain {} comes next", self.popped);
        if let Some(span) = self.chain.writable.first() {
            self.mem.view(*span).unwrap().copy_from(0, &(!self.popped).to_le_bytes());
        }
        self.held.push_back((self.chain.head, self.chain.writable_len()));
        self.popped += 1;
        true
    }

    pub(super) fn push(&mut self) -> bool {
        let Some((head, len)) = self.held.pop_front() else { return false };
        self.device.push(&self.mem, head, len);
        self.pushed += 1;
        true
    }

    pub(super) fn publish(&mut self) {
        if self.device.publish(&self.mem) {
            self.driver_sleeps = false;
        }
        self.used = self.pushed;
        assert!(!self.driver_sleeps || self.taken == self.used, "the driver oversleeps");
    }

    /// The driver takes what it was shown. (A packed ring with a journal shows it earlier than it counts:
    /// `cuts` has what comes of that.)
    pub(super) fn take(&mut self) -> bool {
        if self.taken == self.used {
            return false;
        }
        let used = self.driver.pop_used(&self.mem);
        let answered = self.answered.pop_front().unwrap();
        let len = if answered { LEN } else { 0 };
        assert_eq!(used, Ok(Some(Used { token: self.taken as u16, len })));
        let answer = peek(&self.mem, Self::places(self.taken)[1]);
        assert_eq!(u64::from_le_bytes(answer), if answered { !self.taken } else { 0 });
        self.taken += 1;
        true
    }

    pub(super) fn restart(&mut self, end: End) {
        let at = match end {
            End::Crash => At::Crash { base: 0xdead_beef },
            End::Position | End::Base => {
                self.device.unpop(self.held.len() as u16);
                let _ = self.device.publish(&self.mem);
                self.used = self.pushed;
                let position = self.device.position();
                if end == End::Base { At::Base(position.base()) } else { At::Position(position) }
            }
        };
        if self.config.packed && self.journal.is_some() {
            self.used = self.pushed; // what was pushed was published
        }
        (self.pushed, self.popped) = (self.used, self.used);
        self.held.clear();
        self.device_sleeps = false;
        let start = Start { at, journal: self.journal.clone() };
        self.device = self.config.activate_device_at(&self.mem, start).unwrap();
    }

    fn step(&mut self, op: u8, mut count: usize) {
        match op {
            0 | 1 => {
                while count > 0 && self.add() {
                    count -= 1;
                }
            }
            2 => self.show(),
            3 | 4 => {
                while count > 0 && self.pop() {
                    count -= 1;
                }
            }
            5 => {
                while count > 0 && self.push() {
                    count -= 1;
                }
            }
            6 => self.publish(),
            7 => {
                while count > 0 && self.take() {
                    count -= 1;
                }
            }
            8 => {
                self.driver_sleeps = !self.driver.arm(&self.mem).unwrap();
                self.device_sleeps = !self.device.arm(&self.mem).unwrap();
            }
            _ => {
                (self.driver_sleeps, self.device_sleeps) = (false, false);
                self.driver.disarm(&self.mem);
                self.device.disarm(&self.mem);
            }
        }
    }

    /// Everything that was added comes back.
    pub(super) fn drain(&mut self) {
        self.show();
        loop {
            while self.pop() {}
            while self.push() {}
            self.publish();
            while self.take() {}
            if self.taken == self.added {
                break;
            }
        }
        assert_eq!(self.driver.free(), self.driver.size());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_device_half_that_ends_anywhere_is_followed_by_one_that_goes_on_exactly(
        size in prop::sample::select(vec![1u16, 2, 4, 16, 3, 5, 7, 100]),
        (packed, event_idx, in_order) in any::<(bool, bool, bool)>(),
        (indirect, journaled, far) in any::<(bool, bool, bool)>(),
        seed in any::<u64>(),
        ops in prop::collection::vec((0..12u8, 1..6usize), 1..400),
    ) {
        let size = if packed { size } else { size.next_power_of_two() };
        let config = QueueConfig { packed, in_order, ..config(size, event_idx, indirect) };
        let kind = if far && !packed { Kind::Uncached } else { Kind::Cached };
        let mem = memory(kind, kind);
        let mut world = World::new(mem, config, journaled.then(|| journal(size, packed)), seed);
        for (op, count) in ops {
            match (op, count) {
                (10, 1 | 2) => world.restart(End::Position),
                (10, _) => world.restart(End::Base),
                // Without a journal a packed ring does not tell.
                (11, _) if journaled || !packed => world.restart(End::Crash),
                _ => world.step(op, count),
            }
        }
        world.drain();
    }
}

#[test]
fn a_half_may_be_replaced_after_every_chain_until_indices_and_wrap_counters_have_gone_round() {
    for (size, packed) in [(1u16, false), (256, false), (1, true), (3, true), (256, true)] {
        let config = QueueConfig { packed, ..config(size, true, false) };
        let journal = Some(journal(size, packed));
        let mem = memory(Kind::Cached, Kind::Cached);
        let mut world = World::new(mem, config, journal, 1);
        for round in 0..if packed { 3000 } else { 70_000 } {
            assert!(world.add());
            world.step(8, 1);
            world.show();
            assert!(world.pop() && world.push());
            world.publish();
            assert!(world.take());
            world.restart([End::Position, End::Base, End::Crash][round % 3]);
        }
        world.drain();
    }
}
