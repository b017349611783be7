//! A peer that breaks the rules: one row per rule, with the section of virtio 1.4 that it breaks.

use proptest::prelude::*;

use super::*;
use crate::virtqueue::QueueError as E;

const NEXT: u16 = split::DESC_F_NEXT;
const WRITE: u16 = split::DESC_F_WRITE;
const INDIRECT: u16 = split::DESC_F_INDIRECT;

fn avail(mem: &BusMemory, idx: u16, heads: &[u16]) {
    poke(mem, AVAIL + 2, &idx.to_le_bytes());
    for (i, head) in (0..).zip(heads) {
        poke(mem, AVAIL + 4 + 2 * i, &head.to_le_bytes());
    }
}

fn table(mem: &BusMemory, at: u64, descriptors: &[[u8; 16]]) {
    poke(mem, at, &descriptors.concat());
}

/// One row: the rule's section, what the driver does to a ring of 4, and what the device says.
type DeviceRow = (&'static str, fn(&BusMemory), E);

const DEVICE_ROWS: &[DeviceRow] = &[
    ("2.7: at most Queue Size chains", |m| avail(m, 5, &[0; 4]), E::AvailJump { by: 5, most: 4 }),
    (
        "2.7.6.1: idx is not decremented",
        |m| avail(m, 0xffff, &[0; 4]),
        E::AvailJump { by: 0xffff, most: 4 },
    ),
    ("2.7.6: an entry is a descriptor", |m| avail(m, 1, &[4]), E::Head { head: 4 }),
    ("2.7.6: an entry is a descriptor", |m| avail(m, 1, &[0xffff]), E::Head { head: 0xffff }),
    (
        "2.7.13: a descriptor is free when it is used again",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 1, 0, 0)]);
            avail(m, 2, &[0, 0]);
        },
        E::HeadTwice { head: 0 },
    ),
    (
        "2.7.5: next is a descriptor",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 1, NEXT, 4)]);
            avail(m, 1, &[0]);
        },
        E::Next { head: 0, next: 4 },
    ),
    (
        "2.7.5.2: no loops",
        |m| {
            table(m, WINDOW + 16, &[desc(BUFFERS, 1, NEXT, 2), desc(BUFFERS, 1, NEXT, 1)]);
            avail(m, 1, &[1]);
        },
        E::ChainTooLong { head: 1 },
    ),
    (
        "2.7.5.2: no loop to itself",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 1, NEXT, 0)]);
            avail(m, 1, &[0]);
        },
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.7.5.2: at most 4 GiB in a chain",
        |m| {
            table(m, WINDOW, &[desc(ENGINE, u32::MAX, NEXT, 1), desc(BUFFERS, 1, WRITE, 0)]);
            avail(m, 1, &[0]);
        },
        E::ChainTooLarge { head: 0 },
    ),
    (
        "2.7.4.2: writable after readable",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 1, WRITE | NEXT, 1), desc(BUFFERS, 1, 0, 0)]);
            avail(m, 1, &[0]);
        },
        E::ReadableAfterWritable { head: 0 },
    ),
    (
        "2.7.5: a descriptor describes a buffer",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 0, 0, 0)]);
            avail(m, 1, &[0]);
        },
        E::ZeroLength { head: 0 },
    ),
    (
        "2.7.5: addr is an address",
        |m| {
            table(m, WINDOW, &[desc(NOWHERE, 1, 0, 0)]);
            avail(m, 1, &[0]);
        },
        E::Buffer { head: 0, error: MemoryError::Outside { addr: NOWHERE, len: 1 } },
    ),
    (
        "2.7.5: a buffer does not wrap around",
        |m| {
            table(m, WINDOW, &[desc(u64::MAX, 2, WRITE, 0)]);
            avail(m, 1, &[0]);
        },
        E::Buffer { head: 0, error: MemoryError::Outside { addr: u64::MAX, len: 2 } },
    ),
    (
        "2.7.5.3.1: not indirect and continued",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 16, INDIRECT | NEXT, 1)]);
            avail(m, 1, &[0]);
        },
        E::IndirectWithNext { head: 0 },
    ),
    (
        "2.7.5.3.1: one table per descriptor",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 32, INDIRECT, 0)]);
            table(m, TABLES, &[desc(BUFFERS, 1, NEXT, 1), desc(TABLES + 32, 16, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectNested { head: 0 },
    ),
    (
        "2.7.5.3.1: one table per descriptor, its own first entry too",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 16, INDIRECT, 0)]);
            table(m, TABLES, &[desc(TABLES, 16, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectNested { head: 0 },
    ),
    (
        "2.7.5.3: 16 bytes each",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 24, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectLength { head: 0, len: 24 },
    ),
    (
        "2.7.5.3: the first descriptor is in the table",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 0, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectLength { head: 0, len: 0 },
    ),
    (
        "2.7.5.3: next is in the table",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 32, INDIRECT, 0)]);
            table(m, TABLES, &[desc(BUFFERS, 1, NEXT, 2)]);
            avail(m, 1, &[0]);
        },
        E::Next { head: 0, next: 2 },
    ),
    (
        "2.7.5.3.1: no chain longer than the Queue Size",
        |m| {
            table(m, WINDOW, &[desc(TABLES, 80, INDIRECT, 0)]);
            let long: Vec<_> = (1..6).map(|i| desc(BUFFERS, 1, NEXT, i)).collect();
            table(m, TABLES, &long);
            avail(m, 1, &[0]);
        },
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.7.5.3.1: no chain longer than the Queue Size, counted in both tables",
        |m| {
            table(m, WINDOW, &[desc(BUFFERS, 1, NEXT, 1), desc(BUFFERS, 1, NEXT, 2)]);
            table(m, WINDOW + 32, &[desc(TABLES, 80, INDIRECT, 0)]);
            table(m, TABLES, &[desc(BUFFERS, 1, NEXT, 1), desc(BUFFERS, 1, NEXT, 2)]);
            table(m, TABLES + 32, &[desc(BUFFERS, 1, NEXT, 3)]);
            avail(m, 1, &[0]);
        },
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.7.5.3: the table is in memory",
        |m| {
            table(m, WINDOW, &[desc(NOWHERE, 16, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectTable { head: 0, error: MemoryError::Outside { addr: NOWHERE, len: 16 } },
    ),
    (
        "2.7.5.3: the table is in memory that the CPU reaches",
        |m| {
            table(m, WINDOW, &[desc(ENGINE, 16, INDIRECT, 0)]);
            avail(m, 1, &[0]);
        },
        E::IndirectTable { head: 0, error: MemoryError::NotMapped { addr: ENGINE } },
    ),
];

#[test]
fn a_device_names_the_rule_that_its_driver_broke() {
    for (rule, break_it, expected) in DEVICE_ROWS {
        let mem = with_engine_memory();
        let mut device = config(4, true, true).activate_device(&mem).unwrap();
        break_it(&mem);
        let mut chain = Chain::default();
        let mut last = device.pop(&mem, &mut chain);
        while let Ok(true) = last {
            last = device.pop(&mem, &mut chain);
        }
        assert_eq!(last, Err(*expected), "{rule}");
        assert!(chain.writable.is_empty() || matches!(expected, E::AvailJump { .. }), "{rule}");

        // From now on it says so whatever the driver does, and writes nothing.
        table(&mem, WINDOW, &[desc(BUFFERS, 1, 0, 0)]);
        avail(&mem, 1, &[0]);
        assert_eq!(device.pop(&mem, &mut chain), Err(*expected), "{rule}");
        assert_eq!(device.avail_ready(&mem), Err(*expected), "{rule}");
        assert_eq!(device.arm(&mem), Err(*expected), "{rule}");
        device.disarm(&mem);
        assert!(!device.publish(&mem), "{rule}");
        assert_eq!(peek::<38>(&mem, HOST), [0; 38], "{rule}");
    }
}

#[test]
fn indirect_descriptors_are_refused_where_they_were_not_negotiated() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut device = config(4, true, false).activate_device(&mem).unwrap();
    table(&mem, WINDOW, &[desc(TABLES, 16, INDIRECT, 0)]);
    table(&mem, TABLES, &[desc(BUFFERS, 1, 0, 0)]);
    avail(&mem, 1, &[0]);
    let error = E::IndirectNotNegotiated { head: 0 };
    assert_eq!(device.pop(&mem, &mut Chain::default()), Err(error), "2.7.5.3.1");
}

#[test]
fn an_available_index_that_moves_back_over_chains_not_yet_popped_is_seen() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut device = config(4, true, false).activate_device(&mem).unwrap();
    avail(&mem, 3, &[0, 1, 2]);
    assert_eq!(device.avail_ready(&mem), Ok(3));
    avail(&mem, 2, &[]);
    let error = E::AvailJump { by: 0xffff, most: 1 };
    assert_eq!(device.avail_ready(&mem), Err(error), "2.7.6.1");
}

#[test]
fn chains_that_the_device_holds_count_against_the_queue_size() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut device = config(4, true, false).activate_device(&mem).unwrap();
    table(&mem, WINDOW, &[desc(BUFFERS, 1, 0, 0), desc(BUFFERS, 1, 0, 0)]);
    avail(&mem, 2, &[0, 1]);
    let mut chain = Chain::default();
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    avail(&mem, 5, &[]);
    assert_eq!(device.avail_ready(&mem), Err(E::AvailJump { by: 3, most: 2 }), "2.7");
}

fn used(mem: &BusMemory, idx: u16, entries: &[(u32, u32)]) {
    poke(mem, HOST + 2, &idx.to_le_bytes());
    for (i, (id, len)) in (0..).zip(entries) {
        poke(mem, HOST + 4 + 8 * i, &id.to_le_bytes());
        poke(mem, HOST + 8 + 8 * i, &len.to_le_bytes());
    }
}

/// One row: the rule's section, what the device does, and what the driver says. The ring of 4 has
/// chain 0 (readable), chain 1 with descriptor 2 (readable, then 100 bytes writable), and chain 3,
/// which is added but not published.
type DriverRow = (&'static str, fn(&BusMemory), E);

const DRIVER_ROWS: &[DriverRow] = &[
    (
        "2.7.8: one entry per chain made available",
        |m| used(m, 3, &[(0, 0), (1, 0), (0, 0)]),
        E::UsedJump { by: 3, most: 2 },
    ),
    (
        "2.7.8: one entry per chain made available",
        |m| used(m, 0xffff, &[]),
        E::UsedJump { by: 0xffff, most: 2 },
    ),
    ("2.7.8: id is the head of a chain", |m| used(m, 1, &[(4, 0)]), E::UsedId { id: 4 }),
    (
        "2.7.8: id is the head of a chain, all 32 bits of it",
        |m| used(m, 1, &[(0x1_0000, 0)]),
        E::UsedId { id: 0x1_0000 },
    ),
    ("2.7.8: id is a head, not a middle", |m| used(m, 1, &[(2, 0)]), E::UsedId { id: 2 }),
    ("2.7.8: id was placed in the available ring", |m| used(m, 1, &[(3, 0)]), E::UsedId { id: 3 }),
    ("2.7.8: a chain is used once", |m| used(m, 2, &[(0, 0), (0, 0)]), E::UsedId { id: 0 }),
    (
        "2.7.8.2: len bytes were written",
        |m| used(m, 1, &[(1, 101)]),
        E::UsedLength { id: 1, len: 101, most: 100 },
    ),
    (
        "2.7.8.2: len bytes were written, none to a readable chain",
        |m| used(m, 1, &[(0, u32::MAX)]),
        E::UsedLength { id: 0, len: u32::MAX, most: 0 },
    ),
];

#[test]
fn a_driver_names_the_rule_that_its_device_broke() {
    for (rule, break_it, expected) in DRIVER_ROWS {
        let mem = memory(Kind::Cached, Kind::Cached);
        let mut driver = config(4, true, false).activate_driver(&mem).unwrap();
        driver.add(&mem, &[buffer(BUFFERS, 100)], &[], 0).unwrap();
        driver.add(&mem, &[buffer(BUFFERS, 100)], &[buffer(BUFFERS, 100)], 1).unwrap();
        let _ = driver.publish(&mem);
        driver.add(&mem, &[], &[buffer(BUFFERS, 100)], 3).unwrap();
        break_it(&mem);
        let mut last = driver.pop_used(&mem);
        while let Ok(Some(_)) = last {
            last = driver.pop_used(&mem);
        }
        assert_eq!(last, Err(*expected), "{rule}");

        // From now on it says so whatever the device does, and makes nothing available.
        used(&mem, 1, &[(0, 0)]);
        assert_eq!(driver.pop_used(&mem), Err(*expected), "{rule}");
        assert_eq!(driver.used_ready(&mem), Err(*expected), "{rule}");
        assert_eq!(driver.arm(&mem), Err(*expected), "{rule}");
        assert!(driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).is_err(), "{rule}");
        assert!(!driver.publish(&mem), "{rule}");
        driver.disarm(&mem);
        assert_eq!(peek::<4>(&mem, AVAIL), [0, 0, 2, 0], "{rule}");
    }
}

#[test]
fn a_used_index_that_moves_back_over_entries_not_yet_popped_is_seen() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = config(4, true, false).activate_driver(&mem).unwrap();
    (0..3).for_each(|i| driver.add(&mem, &[buffer(BUFFERS, 1)], &[], i).unwrap());
    let _ = driver.publish(&mem);
    used(&mem, 2, &[(0, 0), (1, 0)]);
    assert_eq!(driver.used_ready(&mem), Ok(2));
    used(&mem, 1, &[]);
    assert_eq!(driver.used_ready(&mem), Err(E::UsedJump { by: 0xffff, most: 1 }));
}

#[test]
fn queues_of_wrong_size_or_place_are_refused() {
    let mem = with_engine_memory();
    let good = config(4, true, true);
    let area = |area, error| E::Area { area, error };
    let outside = |addr, len| MemoryError::Outside { addr, len };
    let misaligned = |addr, align| MemoryError::Misaligned { addr, align };
    let engine = MemoryError::NotMapped { addr: ENGINE };
    let rows = [
        (QueueConfig { size: 0, ..good }, E::Size { size: 0 }),
        (QueueConfig { size: 3, ..good }, E::Size { size: 3 }),
        (QueueConfig { size: 65535, ..good }, E::Size { size: 65535 }),
        (QueueConfig { desc: NOWHERE, ..good }, area(Area::Descriptors, outside(NOWHERE, 64))),
        (
            QueueConfig { desc: WINDOW + 8, ..good },
            area(Area::Descriptors, misaligned(WINDOW + 8, 16)),
        ),
        (QueueConfig { driver: AVAIL + 1, ..good }, area(Area::Driver, misaligned(AVAIL + 1, 2))),
        (QueueConfig { driver: HOST - 1, ..good }, area(Area::Driver, outside(HOST - 1, 14))),
        (QueueConfig { device: HOST + 2, ..good }, area(Area::Device, misaligned(HOST + 2, 4))),
        (QueueConfig { device: u64::MAX, ..good }, area(Area::Device, outside(u64::MAX, 38))),
        (QueueConfig { device: ENGINE, ..good }, area(Area::Device, engine)),
    ];
    for (config, expected) in rows {
        assert_eq!(config.activate_device(&mem).unwrap_err(), expected);
    }
    // On memory that takes words only, the available ring is one of words too.
    let words = memory(Kind::Uncached, Kind::Cached);
    let config = QueueConfig { driver: AVAIL + 2, ..good };
    let expected = area(Area::Driver, misaligned(AVAIL + 2, 4));
    assert_eq!(config.activate_device(&words).unwrap_err(), expected);
    assert_eq!(config.activate_driver(&mem).unwrap_err(), expected);
    assert!(config.activate_device(&mem).is_ok());

    let mut driver = good.activate_driver(&mem).unwrap();
    let expected = area(Area::IndirectTables, outside(NOWHERE, 4 * 32));
    assert_eq!(driver.set_indirect_tables(&mem, NOWHERE, 2), Err(expected));
}

#[test]
fn in_order_an_entry_for_more_chains_than_the_index_counts_is_seen() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let config = QueueConfig { in_order: true, ..config(4, true, false) };
    let mut driver = config.activate_driver(&mem).unwrap();
    (0..3).for_each(|i| driver.add(&mem, &[buffer(BUFFERS, 1)], &[], i).unwrap());
    let _ = driver.publish(&mem);
    used(&mem, 2, &[(2, 0)]);
    let error = E::UsedOrder { id: 2, chains: 3, most: 2 };
    assert_eq!(driver.pop_used(&mem), Err(error), "2.7.9: idx moves by the size of the batch");
    assert_eq!(driver.pop_used(&mem), Err(error));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever octets stand in the ring: no panic, no endless loop, and every span that comes out
    /// lies in memory and is counted.
    #[test]
    fn octets_at_random_break_the_queue_and_nothing_else(
        seed in any::<u64>(),
        flags in prop::sample::select(vec![0u16, 1, 2, 3, 4, 7]),
        in_order in any::<bool>(),
        steps in 1..60usize,
    ) {
        let mem = with_engine_memory();
        let config = config(4, true, true);
        let mut driver = QueueConfig { in_order, ..config }.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let mut chain = Chain::default();
        let mut random = Random(seed | 1);
        let places = [WINDOW, TABLES, HOST, BUFFERS, ENGINE, NOWHERE, u64::MAX - 8];
        let (mut popped, mut taken) = (0u16, 0u16);
        for _ in 0..steps {
            let at = random.below(4) as u64 * 16;
            let addr = places[random.below(places.len())];
            let len = [1, 16, 32, 64, 0, u32::MAX][random.below(6)];
            let d = desc(addr, len, flags & random.below(8) as u16, random.below(5) as u16);
            poke(&mem, if random.below(2) == 0 { WINDOW } else { TABLES } + at, &d);
            avail(&mem, popped.wrapping_add(random.below(3) as u16), &[0, 1, 2, 3]);
            if let Ok(true) = device.pop(&mem, &mut chain) {
                popped += 1;
                let sum = |spans: &[Span]| spans.iter().map(|s| s.len() as u64).sum::<u64>();
                prop_assert!(chain.readable.len() + chain.writable.len() <= 4);
                prop_assert_eq!(sum(&chain.readable), u64::from(chain.readable_len()));
                prop_assert_eq!(sum(&chain.writable), u64::from(chain.writable_len()));
                if random.below(2) == 0 {
                    device.push(&mem, chain.head, chain.writable_len());
                }
                let _ = device.publish(&mem);
            }
            let writable = [buffer(BUFFERS, 1 + random.below(3) as u32)];
            let _ = driver.add(&mem, &[], &writable, 5);
            let _ = driver.publish(&mem);
            let idx = taken.wrapping_add(random.below(3) as u16);
            used(&mem, idx, &[(random.below(5) as u32, random.below(4) as u32); 4]);
            if let Ok(Some(used)) = driver.pop_used(&mem) {
                taken += 1;
                prop_assert!(used.token == 5 && used.len <= 3);
            }
            prop_assert!(driver.free() <= 4);
        }
    }
}
