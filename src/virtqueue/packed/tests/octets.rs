//! Rings octet by octet, against values written by hand from virtio 1.4 §2.8.

use super::*;

#[test]
fn lists_lie_as_the_standard_says_and_the_first_head_is_written_last() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = packed_config(5, true, false).activate_driver(&mem).unwrap();
    let readable = [buffer(0x1_2345_6789, 0x0a0b_0c0d), buffer(0x22, 0x33)];
    driver.add(&mem, &readable, &[buffer(0x44, 0x55)], 0x7777).unwrap();
    driver.add(&mem, &[], &[buffer(0x66, 0x77)], 0x8888).unwrap();
    assert_eq!(peek::<8>(&mem, WINDOW + 8), [0; 8], "the first waits for publish");
    assert!(driver.publish(&mem));
    let ring = [
        0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0x81, 0, // NEXT
        0x22, 0, 0, 0, 0, 0, 0, 0, 0x33, 0, 0, 0, 0, 0, 0x81, 0, // NEXT
        0x44, 0, 0, 0, 0, 0, 0, 0, 0x55, 0, 0, 0, 0, 0, 0x82, 0, // WRITE, id 0
        0x66, 0, 0, 0, 0, 0, 0, 0, 0x77, 0, 0, 0, 1, 0, 0x82, 0, // WRITE, id 1
    ];
    assert_eq!(peek::<64>(&mem, WINDOW), ring);
    assert_eq!(peek::<16>(&mem, WINDOW + 64), [0; 16]);

    // The device uses the second chain first, over the first one's descriptors.
    poke(&mem, WINDOW + 8, &[0x11, 0, 0, 0, 1, 0, 0x82, 0x80]);
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0x8888, len: 0x11 })));
    assert_eq!(driver.pop_used(&mem), Ok(None));
    // The next list goes over the end, where the wrap counter turns.
    driver.add(&mem, &[buffer(0x88, 1), buffer(0x99, 2)], &[], 0x9999).unwrap();
    let _ = driver.publish(&mem);
    assert_eq!(peek::<8>(&mem, WINDOW + 72), [1, 0, 0, 0, 2, 0, 0x81, 0]);
    assert_eq!(peek::<8>(&mem, WINDOW + 8), [2, 0, 0, 0, 2, 0, 0, 0x80]);
}

#[test]
fn an_indirect_list_is_one_descriptor_and_its_table_has_no_flags_but_write() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = packed_config(4, false, true).activate_driver(&mem).unwrap();
    driver.set_indirect_tables(&mem, TABLES, 3).unwrap();
    driver.add(&mem, &[buffer(0x11, 1)], &[], 0).unwrap();
    driver.add(&mem, &[buffer(0x22, 2)], &[buffer(0x33, 3)], 0).unwrap();
    assert!(driver.publish(&mem));
    let ring = [
        0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x80, 0, // direct, id 0
        0x30, 0x30, 0, 0x40, 0, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0x84,
        0, // INDIRECT, 2 entries, id 1
    ];
    assert_eq!(peek::<32>(&mem, WINDOW), ring);
    let table = [
        0x22, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, // read
        0x33, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 2, 0, // WRITE
    ];
    assert_eq!(peek::<32>(&mem, TABLES + 0x30), table);
}

#[test]
fn event_suppressions_stand_at_their_places() {
    for event_idx in [true, false] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = packed_config(3, event_idx, false);
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        assert_eq!((peek::<4>(&mem, AVAIL), peek::<4>(&mem, HOST)), ([0; 4], [0; 4]));
        driver.disarm(&mem);
        device.disarm(&mem);
        assert_eq!(peek::<4>(&mem, AVAIL)[2..], [1, 0]);
        assert_eq!(peek::<4>(&mem, HOST)[2..], [1, 0]);
        let mut chain = Chain::default();
        for round in 0..4u16 {
            // Two descriptors a round in a ring of three: 0, then 2, then 1 on the second lap...
            let at = 2 * round;
            let armed = [(at % 3) as u8, if at / 3 % 2 == 0 { 0x80 } else { 0 }, 2, 0];
            let armed = if event_idx { armed } else { [0; 4] };
            assert_eq!((driver.arm(&mem), device.arm(&mem)), (Ok(false), Ok(false)));
            assert_eq!(peek::<4>(&mem, AVAIL), armed, "{round}");
            assert_eq!(peek::<4>(&mem, HOST), armed, "{round}");
            driver.add(&mem, &[buffer(BUFFERS, 1), buffer(BUFFERS, 1)], &[], 0).unwrap();
            assert!(driver.publish(&mem), "{round}");
            assert!(device.pop(&mem, &mut chain).unwrap());
            device.push(&mem, chain.head, 0);
            assert!(device.publish(&mem), "{round}");
            assert!(driver.pop_used(&mem).unwrap().is_some());
        }
    }
}

/// A stock driver's ring: ids of its own choice, an indirect table that is not aligned.
#[test]
fn a_ring_written_by_hand_is_read_as_it_says() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let table = TABLES + 3;
    poke(&mem, WINDOW, &desc(BUFFERS + 5, 7, 0xeeee, 1 | AVAILABLE));
    poke(&mem, WINDOW + 16, &desc(BUFFERS + 0x200, 1, 0xfffe, 2 | AVAILABLE));
    // Indirect: WRITE is ignored, and so are all flags but WRITE and the ids in the table.
    poke(&mem, WINDOW + 32, &desc(table, 48, 3, 4 | 2 | AVAILABLE));
    poke(&mem, table, &desc(BUFFERS + 0x100, 0x20, 77, 0x8085));
    poke(&mem, table + 16, &desc(HOST + 0x1ff0, 0x30, 77, 2 | 1));
    poke(&mem, table + 32, &desc(BUFFERS + 0x300, 1, 78, 2));

    let mut device = packed_config(3, true, true).activate_device(&mem).unwrap();
    // desc: place 2 of the first lap.
    poke(&mem, AVAIL, &[2, 0x80, 2, 0]);
    let mut chain = Chain::default();
    assert_eq!(device.avail_ready(&mem), Ok(2));
    // What stands in the ring afterwards is not looked at.
    poke(&mem, WINDOW, &[0; 48]);
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    let at = |addr, len| mem.resolve(addr, len).unwrap();
    assert_eq!(chain.head, 0);
    assert_eq!(chain.readable, [at(BUFFERS + 5, 7)]);
    assert_eq!(chain.writable, [at(BUFFERS + 0x200, 1)]);
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    assert_eq!(chain.head, 1, "the second that is held");
    assert_eq!(chain.readable, [at(BUFFERS + 0x100, 0x20)]);
    assert_eq!(chain.writable, [at(HOST + 0x1ff0, 0x30), at(BUFFERS + 0x300, 1)]);
    assert_eq!((chain.readable_len(), chain.writable_len()), (0x20, 0x31));
    assert_eq!(device.pop(&mem, &mut chain), Ok(false));

    device.push(&mem, 1, 0x31);
    assert_eq!(peek::<16>(&mem, WINDOW), [0; 16], "pushed is not published");
    assert!(!device.publish(&mem), "one descriptor from place 0 does not reach place 2");
    assert_eq!(peek::<16>(&mem, WINDOW)[8..], [0x31, 0, 0, 0, 3, 0, 0x82, 0x80]);
    device.push(&mem, 0, 0);
    assert!(device.publish(&mem), "two from place 1 do");
    assert_eq!(peek::<16>(&mem, WINDOW + 16)[8..], [0, 0, 0, 0, 0xfe, 0xff, 0x80, 0x80]);
    assert_eq!(peek::<16>(&mem, WINDOW + 32), [0; 16], "one used descriptor for the list");

    // The second lap: AVAIL is 0, USED is 1, and both are 0 once it is used.
    poke(&mem, WINDOW, &desc(BUFFERS, 1, 9, 2 | AVAILABLE));
    assert_eq!(device.pop(&mem, &mut chain), Ok(false), "that was the first lap's");
    poke(&mem, WINDOW, &desc(BUFFERS, 1, 9, 2 | AVAILABLE_2));
    assert_eq!(device.pop(&mem, &mut chain), Ok(true));
    device.push(&mem, chain.head, 1);
    let _ = device.publish(&mem);
    assert_eq!(peek::<16>(&mem, WINDOW)[8..], [1, 0, 0, 0, 9, 0, 2, 0]);
}

#[test]
fn used_descriptors_written_by_hand_are_read_as_they_say() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = packed_config(3, true, false).activate_driver(&mem).unwrap();
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[buffer(BUFFERS, 0x10000)], 0xaaaa).unwrap();
    driver.add(&mem, &[], &[buffer(BUFFERS, 1)], 0xbbbb).unwrap();
    // Tell me of place 2: the second chain.
    poke(&mem, HOST, &[2, 0x80, 2, 0]);
    assert!(driver.publish(&mem));
    // Without WRITE the length is reserved; other flags are too; the address is unused.
    poke(&mem, WINDOW, &desc(0x5a5a, 0xffff_ffff, 1, IS_USED | 1 | 4));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0xbbbb, len: 0 })));
    poke(&mem, WINDOW + 16, &desc(0, 0x1234, 0, IS_USED | 2));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 0xaaaa, len: 0x1234 })));
    assert_eq!(driver.pop_used(&mem), Ok(None));
    assert_eq!(driver.free(), 3);
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
    assert!(!driver.publish(&mem), "place 2 of the first lap is long past");
    poke(&mem, HOST, &[0, 0, 1, 0]);
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
    assert!(!driver.publish(&mem), "disabled");
    poke(&mem, HOST, &[0, 0, 0, 0]);
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
    assert!(driver.publish(&mem), "enabled");
}

/// QEMU's packed rings are like that.
#[test]
fn the_length_counts_where_a_device_leaves_write_out() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let mut driver = packed_config(3, true, false).activate_driver(&mem).unwrap();
    driver.add(&mem, &[], &[buffer(BUFFERS, 100)], 7).unwrap();
    let _ = driver.publish(&mem);
    poke(&mem, WINDOW, &desc(0, 100, 0, IS_USED));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 7, len: 100 })));
}

#[test]
fn in_order_one_used_descriptor_stands_for_a_batch() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let config = QueueConfig { in_order: true, ..packed_config(6, true, false) };
    let mut driver = config.activate_driver(&mem).unwrap();
    for token in 0..3 {
        let writable = [buffer(BUFFERS, 5), buffer(BUFFERS, 6)];
        driver.add(&mem, &[], &writable, 10 + token).unwrap();
    }
    let _ = driver.publish(&mem);
    // For the first two, by the id of the second; then, four descriptors on, for the third.
    poke(&mem, WINDOW, &desc(0, 7, 1, IS_USED | 2));
    assert_eq!(driver.used_ready(&mem), Ok(1));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 10, len: 11 })), "all of it");
    assert_eq!(driver.used_ready(&mem), Ok(1));
    assert_eq!(driver.arm(&mem), Ok(true), "half a batch is no reason to sleep");
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 11, len: 7 })));
    assert_eq!(driver.pop_used(&mem), Ok(None));
    poke(&mem, WINDOW + 64, &desc(0, 0, 2, IS_USED));
    assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token: 12, len: 0 })));
}

#[test]
fn old_contents_of_the_areas_are_cleared_when_the_driver_starts() {
    let mem = memory(Kind::Cached, Kind::Cached);
    for area in [WINDOW, AVAIL, HOST] {
        poke(&mem, area, &[0x5a; 64]);
    }
    let mut driver = packed_config(3, true, false).activate_driver(&mem).unwrap();
    let mut device = packed_config(3, true, false).activate_device(&mem).unwrap();
    assert_eq!((driver.used_ready(&mem), device.avail_ready(&mem)), (Ok(0), Ok(0)));
    assert_eq!(peek::<48>(&mem, WINDOW), [0; 48]);
    assert_eq!(peek::<5>(&mem, HOST), [0, 0, 0, 0, 0x5a]);
    assert_eq!(peek::<5>(&mem, AVAIL), [0, 0, 0, 0, 0x5a]);
    // A device asks for the first chain whatever it finds in its area.
    poke(&mem, HOST, &[0, 0, 1, 0]);
    let _device = packed_config(3, true, false).activate_device(&mem).unwrap();
    driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
    assert!(driver.publish(&mem));
}
