//! A peer that breaks the rules: one row per rule, with the section of virtio 1.4 that it breaks.

use proptest::prelude::*;

use super::*;
use crate::virtqueue::QueueError as E;

const NEXT: u16 = packed::DESC_F_NEXT;
const WRITE: u16 = packed::DESC_F_WRITE;
const INDIRECT: u16 = packed::DESC_F_INDIRECT;

fn ring(mem: &BusMemory, descriptors: &[[u8; 16]]) {
    poke(mem, WINDOW, &descriptors.concat());
}

/// A descriptor that is available on the first lap.
fn avail(addr: u64, len: u32, id: u16, flags: u16) -> [u8; 16] {
    desc(addr, len, id, flags | AVAILABLE)
}

/// One row: the rule's section, what the driver does to a ring of 4, and what the device says.
type DeviceRow = (&'static str, fn(&BusMemory), E);

const DEVICE_ROWS: &[DeviceRow] = &[
    (
        "2.8.6: all flags must be set in all descriptors of the list",
        |m| ring(m, &[avail(BUFFERS, 1, 0, NEXT), desc(BUFFERS, 1, 0, 0)]),
        E::NotAvailable { head: 0, at: 1 },
    ),
    (
        "2.8.17: the first descriptor of a list is made available last",
        |m| ring(m, &[avail(BUFFERS, 1, 0, NEXT), desc(BUFFERS, 1, 0, IS_USED)]),
        E::NotAvailable { head: 0, at: 1 },
    ),
    (
        "2.8.1: a list over the end of the ring is available on the next lap",
        |m| {
            let one = avail(BUFFERS, 1, 0, 0);
            let [two, three] = [1, 2].map(|id| avail(BUFFERS, 1, id, 0));
            ring(m, &[one, two, three, avail(BUFFERS, 1, 3, NEXT)]);
        },
        E::ChainTooLong { head: 3 },
    ),
    (
        "2.8.17: no list longer than the queue, no loops",
        |m| ring(m, &[avail(BUFFERS, 1, 0, NEXT); 4]),
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.8.22: an id names one buffer at a time",
        |m| ring(m, &[avail(BUFFERS, 1, 7, 0), avail(BUFFERS, 1, 7, 0)]),
        E::IdTwice { head: 1, id: 7 },
    ),
    (
        "2.8.13: a descriptor describes a buffer",
        |m| ring(m, &[avail(BUFFERS, 0, 0, 0)]),
        E::ZeroLength { head: 0 },
    ),
    (
        "2.8.17: writable after readable",
        |m| ring(m, &[avail(BUFFERS, 1, 0, NEXT | WRITE), avail(BUFFERS, 1, 0, 0)]),
        E::ReadableAfterWritable { head: 0 },
    ),
    (
        "2.8.4: a length in 32 bits for all of it",
        |m| ring(m, &[avail(ENGINE, u32::MAX, 0, NEXT), avail(BUFFERS, 1, 0, WRITE)]),
        E::ChainTooLarge { head: 0 },
    ),
    (
        "2.8.13: addr is an address",
        |m| ring(m, &[avail(NOWHERE, 1, 0, 0)]),
        E::Buffer { head: 0, error: MemoryError::Outside { addr: NOWHERE, len: 1 } },
    ),
    (
        "2.8.13: a buffer does not wrap around",
        |m| ring(m, &[avail(u64::MAX, 2, 0, WRITE)]),
        E::Buffer { head: 0, error: MemoryError::Outside { addr: u64::MAX, len: 2 } },
    ),
    (
        "2.8.19: not indirect and continued",
        |m| ring(m, &[avail(TABLES, 16, 0, INDIRECT | NEXT), avail(BUFFERS, 1, 0, 0)]),
        E::IndirectWithNext { head: 0 },
    ),
    (
        "2.8.19: no indirect descriptor in a list",
        |m| ring(m, &[avail(BUFFERS, 1, 0, NEXT), avail(TABLES, 16, 0, INDIRECT)]),
        E::IndirectWithNext { head: 0 },
    ),
    (
        "2.8.7: 16 bytes each",
        |m| ring(m, &[avail(TABLES, 24, 0, INDIRECT)]),
        E::IndirectLength { head: 0, len: 24 },
    ),
    (
        "2.8.7: the first descriptor is in the table",
        |m| ring(m, &[avail(TABLES, 0, 0, INDIRECT)]),
        E::IndirectLength { head: 0, len: 0 },
    ),
    (
        "2.8.17: no list longer than the queue, in a table neither",
        |m| ring(m, &[avail(TABLES, 80, 0, INDIRECT)]),
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.8.17: no list longer than the queue, however long the table",
        |m| ring(m, &[avail(ENGINE, 0xffff_fff0, 0, INDIRECT)]),
        E::ChainTooLong { head: 0 },
    ),
    (
        "2.8.13: a descriptor of a table describes a buffer",
        |m| {
            poke(m, TABLES, &[0; 16]);
            ring(m, &[avail(TABLES, 16, 0, INDIRECT)]);
        },
        E::ZeroLength { head: 0 },
    ),
    (
        "2.8.7: the table is in memory",
        |m| ring(m, &[avail(NOWHERE, 16, 0, INDIRECT)]),
        E::IndirectTable { head: 0, error: MemoryError::Outside { addr: NOWHERE, len: 16 } },
    ),
    (
        "2.8.7: the table is in memory that the CPU reaches",
        |m| ring(m, &[avail(ENGINE, 16, 0, INDIRECT)]),
        E::IndirectTable { head: 0, error: MemoryError::NotMapped { addr: ENGINE } },
    ),
];

#[test]
fn a_device_names_the_rule_that_its_driver_broke() {
    for (rule, break_it, expected) in DEVICE_ROWS {
        let mem = with_engine_memory();
        let mut device = packed_config(4, true, true).activate_device(&mem).unwrap();
        break_it(&mem);
        let mut chain = Chain::default();
        let mut last = device.pop(&mem, &mut chain);
        while let Ok(true) = last {
            last = device.pop(&mem, &mut chain);
        }
        assert_eq!(last, Err(*expected), "{rule}");
        assert!(chain.writable.is_empty(), "{rule}");

        // From now on it says so whatever the driver does, and writes nothing.
        let before = peek::<64>(&mem, WINDOW);
        assert_eq!(device.pop(&mem, &mut chain), Err(*expected), "{rule}");
        assert_eq!(device.avail_ready(&mem), Err(*expected), "{rule}");
        assert_eq!(device.arm(&mem), Err(*expected), "{rule}");
        device.disarm(&mem);
        assert!(!device.publish(&mem), "{rule}");
        assert_eq!(peek::<4>(&mem, HOST), [0; 4], "{rule}");
        assert_eq!(peek::<64>(&mem, WINDOW), before, "{rule}");
    }
}

#[test]
fn indirect_descriptors_are_refused_where_they_were_not_negotiated() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut device = packed_config(4, true, false).activate_device(&mem).unwrap();
    poke(&mem, TABLES, &desc(BUFFERS, 1, 0, 0));
    ring(&mem, &[avail(TABLES, 16, 0, INDIRECT)]);
    let error = E::IndirectNotNegotiated { head: 0 };
    assert_eq!(device.pop(&mem, &mut Chain::default()), Err(error), "2.8.19");
}

#[test]
fn a_ring_that_is_all_with_the_device_has_no_place_for_more() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut device = packed_config(2, true, false).activate_device(&mem).unwrap();
    ring(&mem, &[avail(BUFFERS, 1, 0, 0), avail(BUFFERS, 1, 1, 0)]);
    let mut chain = Chain::default();
    assert_eq!(device.avail_ready(&mem), Ok(2));
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    // 2.8.16: a driver changes no descriptor before the device has used it.
    ring(&mem, &[desc(BUFFERS, 1, 2, AVAILABLE_2), desc(BUFFERS, 1, 3, AVAILABLE_2)]);
    assert_eq!(device.avail_ready(&mem), Ok(1));
    device.push(&mem, chain.head, 0);
    assert_eq!(device.avail_ready(&mem), Ok(1), "nor before it can know of it");
    let _ = device.publish(&mem);
    assert_eq!(device.avail_ready(&mem), Ok(1), "used has been written over it");
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    assert_eq!(chain.readable_len(), 1, "as it was when it was found");
    assert_eq!(device.pop(&mem, &mut chain), Ok(false));
}

/// One row: the rule's section, what the device writes at the first place, and what the driver says.
/// The ring of 6 has id 0 (readable), id 1 (readable, then 100 bytes writable), and id 2, which is
/// added but not published.
type DriverRow = (&'static str, [u8; 16], E);

fn driver_rows() -> Vec<DriverRow> {
    vec![
        ("2.8.22: id names a buffer", desc(0, 0, 6, IS_USED), E::UsedId { id: 6 }),
        ("2.8.22: id names a buffer", desc(0, 0, 0xffff, IS_USED), E::UsedId { id: 0xffff }),
        ("2.8.22: id was given out", desc(0, 0, 5, IS_USED), E::UsedId { id: 5 }),
        ("2.8.15: id was made available", desc(0, 0, 2, IS_USED), E::UsedId { id: 2 }),
        (
            "2.8.4: the length was written",
            desc(0, 101, 1, IS_USED | WRITE),
            E::UsedLength { id: 1, len: 101, most: 100 },
        ),
        (
            "2.8.4: the length was written, none to a readable list",
            desc(0, u32::MAX, 0, IS_USED | WRITE),
            E::UsedLength { id: 0, len: u32::MAX, most: 0 },
        ),
    ]
}

#[test]
fn a_driver_names_the_rule_that_its_device_broke() {
    for ((rule, octets, expected), in_order) in
        driver_rows().into_iter().flat_map(|row| [(row, false), (row, true)])
    {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { in_order, ..packed_config(6, true, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        driver.add(&mem, &[buffer(BUFFERS, 100)], &[], 0).unwrap();
        driver.add(&mem, &[buffer(BUFFERS, 100)], &[buffer(BUFFERS, 100)], 1).unwrap();
        let _ = driver.publish(&mem);
        driver.add(&mem, &[], &[buffer(BUFFERS, 100)], 3).unwrap();
        poke(&mem, WINDOW, &octets);
        assert_eq!(driver.pop_used(&mem), Err(expected), "{rule}");

        // From now on it says so whatever the device does, and makes nothing available.
        ring(&mem, &[desc(0, 0, 0, IS_USED)]);
        assert_eq!(driver.pop_used(&mem), Err(expected), "{rule}");
        assert_eq!(driver.used_ready(&mem), Err(expected), "{rule}");
        assert_eq!(driver.arm(&mem), Err(expected), "{rule}");
        assert!(driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).is_err(), "{rule}");
        assert!(!driver.publish(&mem), "{rule}");
        driver.disarm(&mem);
        assert_eq!(peek::<4>(&mem, AVAIL), [0; 4], "{rule}");
        assert_eq!(peek::<8>(&mem, WINDOW + 56), [0; 8], "{rule}");
    }
}

#[test]
fn a_buffer_that_is_used_twice_is_seen() {
    for in_order in [false, true] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { in_order, ..packed_config(4, true, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        (0..2).for_each(|i| driver.add(&mem, &[buffer(BUFFERS, 1)], &[], i).unwrap());
        let _ = driver.publish(&mem);
        ring(&mem, &[desc(0, 0, 0, IS_USED), desc(0, 0, 0, IS_USED), desc(0, 0, 0, IS_USED)]);
        assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0, len: 0 })));
        assert_eq!(driver.pop_used(&mem), Err(E::UsedId { id: 0 }), "2.8.15");
    }
}

#[test]
fn used_descriptors_where_nothing_is_out_are_not_looked_at() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = packed_config(2, true, false).activate_driver(&mem).unwrap();
    ring(&mem, &[desc(0, 0, 0, IS_USED), desc(0, 0, 1, IS_USED)]);
    assert_eq!(driver.pop_used(&mem), Ok(None));
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 5).unwrap();
    assert_eq!(driver.pop_used(&mem), Ok(None), "not published yet");
    let _ = driver.publish(&mem);
    assert_eq!(driver.pop_used(&mem), Ok(None), "and then written over");
    ring(&mem, &[desc(0, 0, 0, IS_USED)]);
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 5, len: 0 })));
    assert_eq!(driver.pop_used(&mem), Ok(None));
}

#[test]
fn queues_of_wrong_size_or_place_are_refused() {
    let mem = with_engine_memory();
    let good = packed_config(5, true, true);
    let area = |area, error| E::Area { area, error };
    let outside = |addr, len| MemoryError::Outside { addr, len };
    let misaligned = |addr, align| MemoryError::Misaligned { addr, align };
    let engine = MemoryError::NotMapped { addr: ENGINE };
    let rows = [
        (QueueConfig { size: 0, ..good }, E::PackedSize { size: 0 }),
        (QueueConfig { size: 32769, ..good }, E::PackedSize { size: 32769 }),
        (QueueConfig { desc: NOWHERE, ..good }, area(Area::Descriptors, outside(NOWHERE, 80))),
        (
            QueueConfig { desc: WINDOW + 8, ..good },
            area(Area::Descriptors, misaligned(WINDOW + 8, 16)),
        ),
        (QueueConfig { driver: AVAIL + 2, ..good }, area(Area::Driver, misaligned(AVAIL + 2, 4))),
        (QueueConfig { driver: HOST - 4, ..good }, area(Area::Driver, outside(HOST - 4, 4))),
        (QueueConfig { device: u64::MAX, ..good }, area(Area::Device, outside(u64::MAX, 4))),
        (QueueConfig { device: ENGINE, ..good }, area(Area::Device, engine)),
    ];
    for (config, expected) in rows {
        assert_eq!(config.activate_device(&mem).unwrap_err(), expected);
        assert_eq!(config.activate_driver(&mem).unwrap_err(), expected);
    }
    for kind in [Kind::Uncached, Kind::WriteCombined] {
        for (window, host, area) in
            [(kind, Kind::Cached, Area::Descriptors), (Kind::Cached, kind, Area::Device)]
        {
            let mem = memory(window, host);
            assert_eq!(good.activate_device(&mem).unwrap_err(), E::NotCached { area });
            assert_eq!(good.activate_driver(&mem).unwrap_err(), E::NotCached { area });
        }
    }
    let mut driver = good.activate_driver(&mem).unwrap();
    let expected = area(Area::IndirectTables, outside(NOWHERE, 5 * 32));
    assert_eq!(driver.set_indirect_tables(&mem, NOWHERE, 2), Err(expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever octets stand in the ring: no panic, no endless loop, and every span that comes out
    /// lies in memory and is counted.
    #[test]
    fn octets_at_random_break_the_queue_and_nothing_else(
        seed in any::<u64>(),
        size in 1..6u16,
        flags in prop::sample::select(vec![0u16, 1, 2, 3, 4, 7]),
        in_order in any::<bool>(),
        steps in 1..80usize,
    ) {
        let mem = with_engine_memory();
        let config = packed_config(size, true, true);
        let mut driver = QueueConfig { in_order, ..config }.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let mut chain = Chain::default();
        let mut random = Random(seed | 1);
        let places = [WINDOW, TABLES, HOST, BUFFERS, BUFFERS, BUFFERS, ENGINE, NOWHERE, u64::MAX - 8];
        let (mut held, mut out) = (Vec::new(), 0);
        for _ in 0..steps {
            for _ in 0..random.below(4) {
                let addr = places[random.below(places.len())];
                let len = [1, 16, 32, 64, 1, u32::MAX][random.below(6)];
                let lap = [0x80, 0x8000, 0x8080, 0][random.below(4)];
                let flags = flags & random.below(8) as u16 | lap;
                let d = desc(addr, len, random.below(6) as u16, flags);
                let base = if random.below(4) == 0 { TABLES } else { WINDOW };
                poke(&mem, base + 16 * random.below(size.into()) as u64, &d);
            }
            poke(&mem, AVAIL, &[random.below(6) as u8, 0x80, random.below(4) as u8, 0]);
            poke(&mem, HOST, &[random.below(6) as u8, 0, random.below(4) as u8, 0]);
            match random.below(6) {
                0 | 1 => if let Ok(true) = device.pop(&mem, &mut chain) {
                    let sum = |spans: &[Span]| spans.iter().map(|s| s.len() as u64).sum::<u64>();
                    prop_assert!(chain.readable.len() + chain.writable.len() <= size.into());
                    prop_assert_eq!(sum(&chain.readable), u64::from(chain.readable_len()));
                    prop_assert_eq!(sum(&chain.writable), u64::from(chain.writable_len()));
                    held.push((chain.head, chain.writable_len()));
                    prop_assert!(held.len() <= size.into());
                },
                2 => if !held.is_empty() {
                    let (head, len) = held.remove(random.below(held.len()));
                    device.push(&mem, head, len);
                },
                3 => _ = device.publish(&mem),
                4 => if device.avail_ready(&mem).is_ok() {
                    let _ = device.arm(&mem);
                },
                _ => device.disarm(&mem),
            }
            match random.below(5) {
                0 | 1 => {
                    let writable = [buffer(BUFFERS, 1 + random.below(3) as u32)];
                    out += u32::from(driver.add(&mem, &[], &writable, 5).is_ok());
                },
                2 => _ = driver.publish(&mem),
                3 => _ = driver.arm(&mem),
                _ => if let Ok(Some(used)) = driver.pop_used(&mem) {
                    prop_assert!(used.token == 5 && used.len <= 3);
                    out -= 1;
                },
            }
            prop_assert_eq!(u32::from(driver.free()) + out, u32::from(size));
        }
    }
}
