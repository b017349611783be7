//! Device halves that end between any two of their stores, and then once more while they recover. Memory is
//! a model that takes so many stores, and after them no more until somebody else lives.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::restarts::{End, World};
use super::*;
use crate::memory::cells::Cells;

/// How many more stores are taken.
type Life = Arc<AtomicUsize>;

#[derive(Debug)]
struct Mortal {
    bytes: Mutex<Vec<u8>>,
    life: Life,
}

impl Mortal {
    fn mapping(len: usize, life: &Life) -> Arc<Mapping> {
        let cells = Self { bytes: Mutex::new(vec![0; len]), life: life.clone() };
        Arc::new(Mapping::model(Arc::new(cells), Kind::Cached))
    }
}

impl Cells for Mortal {
    fn len(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }

    fn load(&self, offset: usize, size: usize, _: Ordering) -> u64 {
        let mut word = [0; 8];
        word[..size].copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + size]);
        u64::from_le_bytes(word)
    }

    fn store(&self, offset: usize, size: usize, value: u64, _: Ordering) {
        let left = self.life.load(Ordering::Relaxed);
        self.life.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 0 {
            let word = &value.to_le_bytes()[..size];
            self.bytes.lock().unwrap()[offset..offset + size].copy_from_slice(word);
        }
    }
}

const FOR_EVER: usize = usize::MAX / 2;

struct Case {
    size: u16,
    packed: bool,
    event_idx: bool,
    seed: u64,
}

impl Case {
    /// A world in which `before` chains have come and gone.
    fn world(&self, life: &Life, before: u64) -> World {
        let Self { size, packed, event_idx, seed } = *self;
        life.store(FOR_EVER, Ordering::Relaxed);
        let regions = [(WINDOW, 0x4000), (HOST, 0x2000 + u64::from(BUFFERS_LEN))];
        let regions = regions.map(|(at, len)| {
            Region::mapped(at, len, Side::Near, Mortal::mapping(len as usize, life), 0)
        });
        let mem = BusMemory::new(regions.into()).unwrap();
        let config = QueueConfig { packed, ..config(size, event_idx, false) };
        let journal = Mortal::mapping(Journal::len(size, packed), life);
        let journal = Journal::new(journal, 0, size, packed).unwrap();
        let mut world = World::new(mem, config, Some(journal), seed);
        while world.shown < before {
            world.add();
            world.drain();
        }
        world
    }

    /// The half ends after `stores` of those that a batch takes, its successor after `more` of those that
    /// it starts with; the next one must go on where the driver is. Whether they came to all their stores.
    fn ends(&self, before: u64, stores: usize, more: usize) -> [bool; 2] {
        let life = Life::default();
        let mut world = self.world(&life, before);
        while world.add() {}
        world.show();
        life.store(stores, Ordering::Relaxed);
        let batch = 1 + self.seed as usize % 4;
        for _ in 0..batch {
            world.pop();
        }
        for _ in 0..batch {
            world.push();
        }
        let _ = world.device.publish(&world.mem);
        let all = life.load(Ordering::Relaxed) > 0;
        life.store(FOR_EVER, Ordering::Relaxed);
        // The driver goes on alone, as far as it can.
        let (batch, shown) = (world.pushed - world.taken, world.taken);
        world.used = u64::MAX;
        while world.driver.used_ready(&world.mem).unwrap() > 0 {
            assert!(world.take());
        }
        assert!(world.taken - shown <= batch);
        while self.seed % 3 > 0 && world.add() {}
        world.show();
        world.used = world.taken;
        world.pushed = world.taken;

        life.store(more, Ordering::Relaxed);
        world.restart(End::Crash);
        let all = [all, life.load(Ordering::Relaxed) > 0];
        life.store(FOR_EVER, Ordering::Relaxed);
        world.restart(End::Crash);
        world.drain();
        all
    }
}

/// Every cut of a batch that begins after so many chains.
fn cut_everywhere(case: &Case, before: u64) {
    for stores in 0.. {
        let mut batch_is_whole = false;
        for more in 0.. {
            let [batch, recovery] = case.ends(before, stores, more);
            batch_is_whole = batch;
            if recovery {
                assert!(more > 1, "a recovery stores something");
                break;
            }
        }
        if batch_is_whole {
            assert!(stores > 1, "a batch stores something");
            break;
        }
    }
}

#[test]
fn a_half_that_ends_between_any_two_stores_leaves_no_chain_lost_and_none_used_twice() {
    for (size, packed) in [
        (1u16, true),
        (2, true),
        (3, true),
        (4, true),
        (5, true),
        (7, true),
        (1, false),
        (2, false),
        (8, false),
    ] {
        for seed in 1..=6 {
            let case = Case { size, packed, event_idx: seed % 2 == 0, seed };
            for before in 0..2 * u64::from(size) {
                cut_everywhere(&case, before);
            }
        }
    }
}
