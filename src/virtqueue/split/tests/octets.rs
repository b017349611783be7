//! Rings octet by octet, against values written by hand from virtio 1.4 §2.7.

use super::*;
use crate::virtqueue::Used;

#[test]
fn a_direct_chain_and_its_ring_entry_lie_as_the_standard_says() {
    for window in [Kind::Cached, Kind::Uncached] {
        let mem = memory(window, Kind::Cached);
        let mut driver = config(4, true, false).activate_driver(&mem).unwrap();
        let readable = [buffer(0x1_2345_6789, 0x0a0b_0c0d), buffer(0x22, 0x33)];
        driver.add(&mem, &readable, &[buffer(0x44, 0x55)], 0x7777).unwrap();
        driver.add(&mem, &[], &[buffer(0x66, 0x77)], 0x8888).unwrap();
        assert_eq!(peek::<14>(&mem, AVAIL), [0; 14], "nothing shows before publish");
        assert!(driver.publish(&mem));
        let table = [
            0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 1, 0, 1, 0, // NEXT, 1
            0x22, 0, 0, 0, 0, 0, 0, 0, 0x33, 0, 0, 0, 1, 0, 2, 0, // NEXT, 2
            0x44, 0, 0, 0, 0, 0, 0, 0, 0x55, 0, 0, 0, 2, 0, 0, 0, // WRITE
            0x66, 0, 0, 0, 0, 0, 0, 0, 0x77, 0, 0, 0, 2, 0, 0, 0, // WRITE
        ];
        assert_eq!(peek::<64>(&mem, WINDOW), table);
        // flags 0, idx 2, ring {0, 3, 0, 0}, used_event 0.
        assert_eq!(peek::<14>(&mem, AVAIL), [0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn an_indirect_chain_is_one_descriptor_that_points_to_its_own_table() {
    let mem = memory(Kind::Uncached, Kind::Cached);
    let mut driver = config(4, false, true).activate_driver(&mem).unwrap();
    driver.set_indirect_tables(&mem, TABLES, 3).unwrap();
    driver.add(&mem, &[buffer(0x11, 1)], &[], 0).unwrap();
    driver.add(&mem, &[buffer(0x22, 2)], &[buffer(0x33, 3)], 0).unwrap();
    assert!(driver.publish(&mem));
    let table = [
        0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // direct
        0x30, 0x30, 0, 0x40, 0, 0, 0, 0, 32, 0, 0, 0, 4, 0, 0, 0, // INDIRECT, 2 entries
    ];
    assert_eq!(peek::<32>(&mem, WINDOW), table);
    let second = [
        0x22, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0, // NEXT, 1
        0x33, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, // WRITE
    ];
    assert_eq!(peek::<32>(&mem, TABLES + 0x30), second);
}

#[test]
fn event_fields_and_flags_stand_at_their_places() {
    for kind in [Kind::Cached, Kind::Uncached] {
        for size in [1u16, 2, 4] {
            let mem = memory(kind, kind);
            let mut driver = config(size, true, false).activate_driver(&mem).unwrap();
            let mut device = config(size, true, false).activate_device(&mem).unwrap();
            driver.disarm(&mem);
            device.disarm(&mem);
            // "Long past" is one before index 0.
            let used_event = AVAIL + 4 + 2 * u64::from(size);
            let avail_event = HOST + 4 + 8 * u64::from(size);
            assert_eq!(peek::<2>(&mem, used_event), [0xff, 0xff], "{kind:?} {size}");
            assert_eq!(peek::<2>(&mem, avail_event), [0xff, 0xff], "{kind:?} {size}");
            assert_eq!(peek::<4>(&mem, AVAIL), [0; 4], "flags stay 0 with EVENT_IDX");
            assert_eq!(peek::<4>(&mem, HOST), [0; 4], "flags stay 0 with EVENT_IDX");
            assert_eq!((driver.arm(&mem), device.arm(&mem)), (Ok(false), Ok(false)));
            assert_eq!(peek::<2>(&mem, used_event), [0, 0]);
            assert_eq!(peek::<2>(&mem, avail_event), [0, 0]);

            let mut driver = config(size, false, false).activate_driver(&mem).unwrap();
            let mut device = config(size, false, false).activate_device(&mem).unwrap();
            driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
            assert!(driver.publish(&mem));
            assert!(device.pop(&mem, &mut Chain::default()).unwrap());
            device.push(&mem, 0, 0);
            driver.disarm(&mem);
            device.disarm(&mem);
            assert_eq!(peek::<4>(&mem, AVAIL), [1, 0, 1, 0], "NO_INTERRUPT keeps idx");
            assert_eq!(peek::<4>(&mem, HOST), [1, 0, 0, 0], "NO_NOTIFY publishes nothing");
            assert!(!device.publish(&mem));
            assert_eq!(peek::<4>(&mem, HOST), [1, 0, 1, 0]);
            assert_eq!(device.arm(&mem), Ok(false));
            assert_eq!(peek::<4>(&mem, HOST), [0, 0, 1, 0]);
        }
    }
}

/// Memory for a stock driver's ring: its available ring is aligned to 2 only, and its indirect
/// table not at all.
#[test]
fn a_ring_written_by_hand_is_read_as_it_says() {
    for avail in [AVAIL, AVAIL + 2] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { driver: avail, ..config(4, true, true) };
        let table = TABLES + 3;
        poke(&mem, WINDOW + 32, &desc(BUFFERS + 5, 7, 1, 3));
        poke(&mem, WINDOW + 48, &desc(table, 48, 4 | 2, 0xffff));
        poke(&mem, table, &desc(BUFFERS + 0x100, 0x20, 1, 2));
        poke(&mem, table + 32, &desc(HOST + 0x1ff0, 0x30, 2 | 1, 1));
        poke(&mem, table + 16, &desc(BUFFERS + 0x200, 1, 2, 9));
        poke(&mem, WINDOW, &desc(BUFFERS, 1, 2 | 0x80, 77));
        // flags 1 (ignored with EVENT_IDX), idx 2, ring {2, 0, ..}, used_event 1.
        poke(&mem, avail, &[1, 0, 2, 0, 2, 0, 0, 0, 0xee, 0xee, 0xee, 0xee, 1, 0]);

        let mut device = config.activate_device(&mem).unwrap();
        let mut chain = Chain::default();
        assert_eq!(device.avail_ready(&mem), Ok(2));
        assert_eq!(device.pop(&mem, &mut chain), Ok(true));
        let at = |addr, len| mem.resolve(addr, len).unwrap();
        assert_eq!(chain.head, 2);
        assert_eq!(chain.readable, [at(BUFFERS + 5, 7), at(BUFFERS + 0x100, 0x20)]);
        assert_eq!(chain.writable, [at(HOST + 0x1ff0, 0x30), at(BUFFERS + 0x200, 1)]);
        assert_eq!((chain.readable_len(), chain.writable_len()), (0x27, 0x31));
        assert_eq!(device.pop(&mem, &mut chain), Ok(true));
        assert_eq!((chain.head, chain.readable.len(), chain.writable_len()), (0, 0, 1));
        assert_eq!(device.pop(&mem, &mut chain), Ok(false));

        device.push(&mem, 0, 1);
        assert!(!device.publish(&mem), "used_event 1 is not reached by entry 0");
        device.push(&mem, 2, 0x31);
        assert_eq!(peek::<4>(&mem, HOST), [0, 0, 1, 0], "pushed is not published");
        assert!(device.publish(&mem), "used_event 1 is reached by entry 1");
        let used = [0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0x31, 0, 0, 0];
        assert_eq!(peek::<20>(&mem, HOST), used);
    }
}

#[test]
fn a_used_ring_written_by_hand_is_read_as_it_says() {
    for host in [Kind::Cached, Kind::Uncached] {
        let mem = memory(Kind::Cached, host);
        let mut driver = config(2, true, false).activate_driver(&mem).unwrap();
        driver.add(&mem, &[], &[buffer(BUFFERS, 0x10000)], 0xaaaa).unwrap();
        driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0xbbbb).unwrap();
        // idx 0, avail_event 1: tell me of the second.
        poke(&mem, HOST, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert!(driver.publish(&mem));
        // flags 1 (ignored), idx 2, {1, 0}, {0, 0x1234}, avail_event 0x8001.
        let used = [1, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 1, 0x80];
        poke(&mem, HOST, &used);
        assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0xbbbb, len: 0 })));
        assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0xaaaa, len: 0x1234 })));
        assert_eq!(driver.pop_used(&mem), Ok(None));
        driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
        assert!(!driver.publish(&mem), "avail_event is far away");
    }
}

#[test]
fn old_contents_of_the_rings_are_cleared_when_the_driver_starts() {
    let mem = memory(Kind::Uncached, Kind::Cached);
    poke(&mem, AVAIL, &[0x5a; 64]);
    poke(&mem, HOST, &[0x5a; 64]);
    let mut driver = config(4, true, false).activate_driver(&mem).unwrap();
    let mut device = config(4, true, false).activate_device(&mem).unwrap();
    assert_eq!((driver.used_ready(&mem), device.avail_ready(&mem)), (Ok(0), Ok(0)));
    assert_eq!(peek::<38>(&mem, HOST), [0; 38]);
    assert_eq!(peek::<26>(&mem, HOST + 38), [0x5a; 26]);
}

#[test]
fn a_device_asks_for_the_first_chain_whatever_the_driver_left_in_avail_event() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = config(4, true, false).activate_driver(&mem).unwrap();
    poke(&mem, HOST + 36, &[0x5a; 2]);
    let _device = config(4, true, false).activate_device(&mem).unwrap();
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
    assert!(driver.publish(&mem));
}

#[test]
fn in_order_descriptors_are_taken_as_the_table_goes_round() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let config = QueueConfig { in_order: true, ..config(4, true, false) };
    let mut driver = config.activate_driver(&mem).unwrap();
    let three = [buffer(0x11, 1), buffer(0x22, 2), buffer(0x33, 3)];
    driver.add(&mem, &three, &[], 1).unwrap();
    let _ = driver.publish(&mem);
    poke(&mem, HOST, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 1, len: 0 })));
    driver.add(&mem, &three[..2], &[], 2).unwrap();
    driver.add(&mem, &three[..1], &[], 3).unwrap();
    let _ = driver.publish(&mem);
    // 2.7.5.2: from the last, next is 0.
    assert_eq!(peek::<8>(&mem, WINDOW + 56), [1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(peek::<8>(&mem, WINDOW + 8), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(peek::<8>(&mem, WINDOW + 24), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(peek::<10>(&mem, AVAIL), [0, 0, 3, 0, 0, 0, 3, 0, 1, 0]);
}

#[test]
fn in_order_one_used_entry_stands_for_a_batch() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let config = QueueConfig { in_order: true, ..config(8, true, false) };
    let mut driver = config.activate_driver(&mem).unwrap();
    for token in 0..3 {
        let writable = [buffer(BUFFERS, 5), buffer(BUFFERS, 6)];
        driver.add(&mem, &[], &writable, 10 + token).unwrap();
    }
    let _ = driver.publish(&mem);
    // For the first two, by the head of the second, in place 0; then, in place 2, for the third.
    poke(&mem, HOST + 4, &[2, 0, 0, 0, 7, 0, 0, 0]);
    poke(&mem, HOST + 20, &[4, 0, 0, 0, 8, 0, 0, 0]);
    poke(&mem, HOST, &[0, 0, 3, 0]);
    assert_eq!(driver.used_ready(&mem), Ok(3));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 10, len: 11 })), "all of it");
    assert_eq!(driver.arm(&mem), Ok(true), "half a batch is no reason to sleep");
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 11, len: 7 })));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 12, len: 8 })));
    assert_eq!(driver.pop_used(&mem), Ok(None));
    assert_eq!(driver.free(), 8);
}
