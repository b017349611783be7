//! `IN_ORDER`: a device, written by hand, that writes one used entry for several chains.

use proptest::prelude::*;

use super::*;

/// A device that counts ring places from the beginning, and keeps no other books.
struct ByHand {
    config: QueueConfig,
    /// Where it takes the next chain, and where it puts the next used entry: split queues count
    /// chains here, packed ones descriptors.
    avail: u64,
    used: u64,
}

impl ByHand {
    fn place(&self, count: u64) -> u64 {
        count % u64::from(self.config.size)
    }

    /// The `AVAIL` bit of what is made available there: the driver's wrap counter, which begins as 1.
    fn wrap(&self, count: u64) -> bool {
        count / u64::from(self.config.size) % 2 == 0
    }

    /// The id of the next chain, and how far it goes.
    fn next(&mut self, mem: &BusMemory) -> (u16, u64) {
        if !self.config.packed {
            let id = peek(mem, AVAIL + 4 + 2 * self.place(self.avail));
            self.avail += 1;
            return (u16::from_le_bytes(id), 1);
        }
        let begin = self.avail;
        loop {
            let [i0, i1, f0, f1] = peek(mem, WINDOW + 16 * self.place(self.avail) + 12);
            let (flags, wrap) = (u16::from_le_bytes([f0, f1]), self.wrap(self.avail));
            assert_eq!((flags & 0x80 != 0, flags & 0x8000 != 0), (wrap, !wrap), "it is available");
            self.avail += 1;
            if flags & 1 == 0 {
                return (u16::from_le_bytes([i0, i1]), self.avail - begin);
            }
        }
    }

    /// Writes an entry for chains that go so far.
    fn write(&mut self, mem: &BusMemory, id: u16, len: u32, step: u64) {
        if self.config.packed {
            let at = WINDOW + 16 * self.place(self.used);
            let lap = if self.wrap(self.used) { 0x8080 } else { 0 };
            let flags: u16 = if len > 0 { lap | 2 } else { lap };
            poke(mem, at + 8, &len.to_le_bytes());
            poke(mem, at + 12, &id.to_le_bytes());
            poke(mem, at + 14, &flags.to_le_bytes());
            self.used += step;
            return;
        }
        let at = HOST + 4 + 8 * self.place(self.used);
        poke(mem, at, &u32::from(id).to_le_bytes());
        poke(mem, at + 4, &len.to_le_bytes());
        self.used += step;
        poke(mem, HOST + 2, &(self.used as u16).to_le_bytes());
    }
}

fn run(config: QueueConfig, seed: u64, most: usize, chains: u64) {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = config.activate_driver(&mem).unwrap();
    let mut device = ByHand { config, avail: 0, used: 0 };
    let mut random = Random(seed | 1);
    let (mut out, mut used) = (VecDeque::new(), VecDeque::new());
    let (mut token, mut back) = (0u16, 0);
    while back < chains {
        for _ in 0..random.below(1 + most) {
            let buffers = vec![buffer(BUFFERS, 10); random.below(4)];
            let writable = vec![buffer(BUFFERS, 10); 1 + random.below(2)];
            if driver.add(&mem, &buffers, &writable, token).is_err() {
                break;
            }
            out.push_back((token, 10 * writable.len() as u32));
            token = token.wrapping_add(1);
        }
        let _ = driver.publish(&mem);
        while !out.is_empty() && random.below(5) > 0 {
            let count = 1 + random.below(out.len().min(most));
            let (mut last, mut step) = (0, 0);
            for i in 0..count {
                let (id, descriptors) = device.next(&mem);
                (last, step) = (id, step + descriptors);
                // Those without an entry of their own are used completely.
                let (token, writable) = out.pop_front().unwrap();
                let len = if i + 1 < count { writable } else { random.below(11) as u32 };
                used.push_back(Used { token, len });
            }
            device.write(&mem, last, used.back().unwrap().len, step);
        }
        assert_eq!(driver.used_ready(&mem).unwrap() > 0, !used.is_empty());
        for _ in 0..random.below(2 * most) {
            assert_eq!(driver.pop_used(&mem), Ok(used.pop_front()));
            back += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_entry_for_several_chains_gives_them_all_back(
        size in prop::sample::select(vec![8u16, 64, 7, 13]),
        packed in any::<bool>(),
        (event_idx, indirect) in any::<(bool, bool)>(),
        (seed, most) in (any::<u64>(), 1..20usize),
    ) {
        let size = if packed { size } else { size.next_power_of_two() };
        let config = QueueConfig { packed, in_order: true, ..config(size, event_idx, indirect) };
        run(config, seed, most, 300);
    }
}

#[test]
fn batches_go_round_for_long() {
    for packed in [false, true] {
        let config = QueueConfig { packed, in_order: true, ..config(16, true, false) };
        run(config, 0xba7c4, 6, 300_000);
    }
}
