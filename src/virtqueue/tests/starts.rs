//! Where a device half may start: vring bases, journals, and those of a peer that means no good.

use proptest::prelude::*;

use super::restarts::journal;
use super::*;
use crate::virtqueue::QueueError as E;

fn mem() -> BusMemory {
    memory(Kind::Cached, Kind::Cached)
}

fn start(config: QueueConfig, mem: &BusMemory, at: At) -> Result<Position, E> {
    config.activate_device_at(mem, Start::at(at)).map(|queue| queue.position())
}

fn crashed(config: QueueConfig, mem: &BusMemory, journal: &Journal) -> Result<Position, E> {
    let start = Start { at: At::Crash { base: 0x8001_8001 }, journal: Some(journal.clone()) };
    config.activate_device_at(mem, start).map(|queue| queue.position())
}

/// At this place in a packed ring, with nothing in flight.
fn place(at: u16, wrap: bool) -> Position {
    Position::Packed { avail: at, avail_wrap: wrap, used: at, used_wrap: wrap }
}

/// A journal over `octets`, in memory that is zero behind them.
fn journal_of(octets: &[u8], size: u16, packed: bool) -> Journal {
    let mapping = Arc::new(Mapping::anonymous(Journal::len(size, packed), Kind::Cached));
    mapping.view(0, octets.len()).copy_from(0, octets);
    Journal::new(mapping, 0, size, packed).unwrap()
}

/// The fields before `desc`, as vhost-user's `QueueRegionPacked` has them.
fn packed_region(size: u16, [used, old]: [u16; 2], wraps: [u8; 2]) -> Vec<u8> {
    let halves = [1, size, 0, 0, used, old].map(u16::to_le_bytes).concat();
    [[0; 8].to_vec(), halves, wraps.to_vec()].concat()
}

#[test]
fn a_vring_base_has_its_fields_where_vhost_user_has_them() {
    let packed = |avail, avail_wrap, used, used_wrap| Position::Packed {
        avail,
        avail_wrap,
        used,
        used_wrap,
    };
    for (position, base) in [
        (Position::Split { avail: 0x1234, used: 0x1230 }, 0x1234),
        (Position::first(false), 0),
        (Position::first(true), 0x8000_8000),
        (packed(0x123, true, 0x45, false), 0x0045_8123),
        (packed(0x123, false, 0x45, true), 0x8045_0123),
    ] {
        assert_eq!(position.base(), base, "{position}");
        if matches!(position, Position::Packed { .. }) {
            assert_eq!(Position::of_packed_base(base), position);
        }
    }
}

#[test]
fn a_base_that_cannot_be_is_refused() {
    let mem = mem();
    let split = config(8, true, false);
    poke(&mem, HOST + 2, &100u16.to_le_bytes());
    for base in [100, 101, 108] {
        let position = start(split, &mem, At::Base(base));
        assert_eq!(position, Ok(Position::Split { avail: base as u16, used: 100 }));
    }
    for base in [99, 109, 0, 0xffff] {
        let position = Position::Split { avail: base as u16, used: 100 };
        let error = E::Position { position, size: 8 };
        assert_eq!(start(split, &mem, At::Base(base)), Err(error), "{base}");
    }
    let base = 0x1_0064;
    assert_eq!(start(split, &mem, At::Base(base)), Err(E::SplitBase { base }));
    assert_eq!(peek(&mem, HOST + 2), 100u16.to_le_bytes(), "the used ring is as it was");

    let packed = packed_config(5, true, false);
    for base in [0x8000_8000, 0x8000_0000, 0x8004_8004, 0x8004_0004, 0x8003_8004, 0x0004_0004] {
        assert!(start(packed, &mem, At::Base(base)).is_ok(), "{base:#x}");
    }
    // No such place; used ahead of available; more than a lap between them.
    for base in [0x8000_8005, 0x8005_8000, 0xffff_ffff, 0x8004_8003, 0x8003_0004] {
        let position = Position::of_packed_base(base);
        let error = E::Position { position, size: 5 };
        assert_eq!(start(packed, &mem, At::Base(base)), Err(error), "{base:#x}");
    }
    for (config, first) in [(split, true), (packed, false)] {
        let position = Position::first(first);
        let error = E::PositionFormat { position };
        assert_eq!(start(config, &mem, At::Position(position)), Err(error));
    }
}

#[test]
fn chains_that_a_predecessor_took_and_did_not_use_stay_out_and_others_go_on() {
    for config in [config(4, true, false), packed_config(4, true, false)] {
        let mem = mem();
        let mut driver = config.activate_driver(&mem).unwrap();
        let post = |driver: &mut DriverQueue, token: u16| {
            let added = driver.add(&mem, &[buffer(BUFFERS + u64::from(token), 1)], &[], token);
            let _ = driver.publish(&mem);
            added
        };
        (0..3).for_each(|token| post(&mut driver, token).unwrap());
        let mut base = if config.packed { 0x8000_8002 } else { 2 };
        let mut chain = Chain::default();
        for token in 2..50 {
            // The successor's successor knows of the two that are gone.
            let mut device = config.activate_device_at(&mem, Start::at(At::Base(base))).unwrap();
            assert_eq!(post(&mut driver, token + 1), Ok(()));
            assert_eq!(post(&mut driver, 99), Err(Full));
            assert_eq!(device.avail_ready(&mem), Ok(2));
            assert_eq!(device.pop(&mem, &mut chain), Ok(true));
            assert_eq!(chain.readable, [mem.resolve(BUFFERS + u64::from(token), 1).unwrap()]);
            device.push(&mem, chain.head, 0);
            assert!(device.publish(&mem));
            assert_eq!(driver.pop_used(&mem), Ok(Some(Used { token, len: 0 })));
            base = device.position().base();
        }
        let at = At::Base(base);
        let ordered = QueueConfig { in_order: true, ..config };
        assert!(matches!(start(ordered, &mem, at), Err(E::OutInOrder { .. })));
        let start = Start { at, journal: Some(journal(4, config.packed)) };
        let refused = config.activate_device_at(&mem, start).map(|queue| queue.position());
        assert!(matches!(refused, Err(E::OutInOrder { .. })));
    }
}

#[test]
fn the_first_publish_tells_the_driver_even_of_nothing_and_the_next_one_does_not() {
    for config in [config(4, true, false), packed_config(4, true, false), config(4, false, false)] {
        let mem = mem();
        let mut driver = config.activate_driver(&mem).unwrap();
        driver.disarm(&mem);
        let mut fresh = config.activate_device(&mem).unwrap();
        assert!(!fresh.publish(&mem));
        let start = Start::at(At::Position(fresh.position()));
        let mut device = config.activate_device_at(&mem, start).unwrap();
        assert!(device.publish(&mem));
        assert!(!device.publish(&mem));
    }
}

#[test]
fn who_starts_on_rings_whose_device_wanted_no_notifications_gets_them() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let mem = mem();
        let config = QueueConfig { packed, ..config(4, event_idx, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        device.disarm(&mem);
        let mut post = || {
            driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
            driver.publish(&mem)
        };
        assert!(!post());
        let at = At::Position(device.position());
        let mut device = config.activate_device_at(&mem, Start::at(at)).unwrap();
        // It looks at the ring first, and asks once more if it found something.
        assert!(device.pop(&mem, &mut Chain::default()).unwrap());
        assert_eq!(device.arm(&mem), Ok(false));
        assert!(post());
    }
}

#[test]
fn journals_are_as_long_as_vhost_user_s_regions_and_lie_in_their_memory() {
    // 16 octets and 16 for each descriptor; 32 and 32; in whole lines of 64.
    for (size, packed, len) in [
        (1, false, 64),
        (2, false, 64),
        (4, false, 128),
        (256, false, 4160),
        (1, true, 64),
        (2, true, 128),
        (256, true, 8256),
        (32768, true, 1_048_640),
    ] {
        assert_eq!(Journal::len(size, packed), len, "{size} {packed}");
    }
    let mapping = Arc::new(Mapping::anonymous(256, Kind::Cached));
    let at = |offset| Journal::new(mapping.clone(), offset, 4, true).map(drop);
    assert_eq!((at(0), at(64)), (Ok(()), Ok(())));
    for offset in [4, 65, 72, 256, usize::MAX, usize::MAX - 7] {
        assert_eq!(at(offset), Err(E::JournalArea { offset, len: 192 }));
    }
    let uncached = Arc::new(Mapping::anonymous(256, Kind::Uncached));
    assert!(Journal::new(uncached, 0, 4, true).is_err());
    for (config, packed) in [(config(4, true, false), true), (packed_config(4, true, false), false)]
    {
        let error = E::JournalOfOther { size: 4, packed };
        assert_eq!(crashed(config, &mem(), &journal(4, packed)), Err(error));
    }
    let small = E::JournalOfOther { size: 4, packed: true };
    assert_eq!(crashed(packed_config(5, true, false), &mem(), &journal(4, true)), Err(small));
    assert!(crashed(packed_config(3, true, false), &mem(), &journal(4, true)).is_ok());
}

#[test]
fn a_journal_s_octets_are_those_of_vhost_user() {
    for packed in [false, true] {
        let mem = mem();
        let config = QueueConfig { packed, ..config(4, false, false) };
        let memory = Arc::new(Mapping::anonymous(Journal::len(4, packed), Kind::Cached));
        let journal = Journal::new(memory.clone(), 0, 4, packed).unwrap();
        assert!(journal.is_fresh());
        let mut driver = config.activate_driver(&mem).unwrap();
        let at = At::Position(Position::first(packed));
        let start = Start { at, journal: Some(journal.clone()) };
        let mut device = config.activate_device_at(&mem, start).unwrap();
        assert!(!journal.is_fresh());
        for used in 0..7u16 {
            let octets = |len| {
                let mut octets = vec![0; memory.len()];
                memory.view(0, memory.len()).copy_to(0, &mut octets);
                assert!(octets[len..].iter().all(|octet| *octet == 0));
                octets.truncate(len);
                octets
            };
            if packed {
                let wrap = u8::from(used < 4);
                assert_eq!(octets(22), packed_region(4, [used % 4; 2], [wrap; 2]));
            } else {
                let halves = [1, 4, 0, used].map(u16::to_le_bytes).concat();
                assert_eq!(octets(16), [&[0; 8][..], &halves].concat());
            }
            driver.add(&mem, &[buffer(BUFFERS, 1)], &[], 0).unwrap();
            let _ = driver.publish(&mem);
            let mut chain = Chain::default();
            assert!(device.pop(&mem, &mut chain).unwrap());
            device.push(&mem, chain.head, 0);
            let _ = device.publish(&mem);
            assert!(driver.pop_used(&mem).unwrap().is_some());
        }
    }
}

#[test]
fn a_packed_queue_is_recovered_by_what_its_journal_and_the_old_descriptor_say() {
    let config = packed_config(4, true, false);
    let used = |mem: &BusMemory, at: u64, flags: u16| {
        poke(mem, WINDOW + 16 * at + 14, &flags.to_le_bytes());
    };
    // used_idx and old_used_idx, their wrap counters, flags at the old place, and where it goes on.
    for (places, wraps, flags, then) in [
        ([2, 2], [1, 1], 0x0080, place(2, true)),
        ([3, 2], [1, 1], 0x0080, place(2, true)),
        ([3, 2], [1, 1], 0x8080, place(3, true)),
        // The driver has made it available again since.
        ([3, 2], [1, 1], 0x8000, place(3, true)),
        ([3, 2], [0, 0], 0x8000, place(2, false)),
        ([3, 2], [0, 0], 0x0000, place(3, false)),
        ([1, 3], [0, 1], 0x0080, place(3, true)),
        ([1, 3], [0, 1], 0x8080, place(1, false)),
        // Half of what says that it goes round, before and after the descriptor.
        ([3, 3], [0, 1], 0x0080, place(3, true)),
        ([1, 3], [0, 0], 0x8080, place(1, false)),
        // A chain of all descriptors.
        ([3, 3], [0, 1], 0x8080, place(3, false)),
    ] {
        let mem = mem();
        used(&mem, u64::from(places[1]), flags);
        let journal = journal_of(&packed_region(4, places, wraps), 4, true);
        let case = format!("{places:?} {wraps:?} {flags:#x}");
        assert_eq!(crashed(config, &mem, &journal), Ok(then), "{case}");
        // Now both places are the same, and the descriptor does not count.
        (0..4).for_each(|at| used(&mem, at, !flags));
        assert_eq!(crashed(config, &mem, &journal), Ok(then), "{case}");
    }
}

#[test]
fn a_crash_without_a_journal_is_recovered_by_the_used_ring_if_there_is_one() {
    let mem = mem();
    poke(&mem, HOST + 2, &77u16.to_le_bytes());
    let at = At::Crash { base: 0x1234_5678 };
    let split = config(4, true, false);
    assert_eq!(start(split, &mem, at), Ok(Position::Split { avail: 77, used: 77 }));
    assert_eq!(start(packed_config(4, true, false), &mem, at), Err(E::NoJournal));
    // In a fresh one nothing stands, so the base counts.
    let journal = journal(4, true);
    assert_eq!(crashed(packed_config(4, true, false), &mem, &journal), Ok(place(1, true)));
    assert!(!journal.is_fresh());
}

#[test]
fn a_journal_of_another_layout_or_place_is_refused() {
    let config = packed_config(4, true, false);
    let good = packed_region(4, [1, 1], [1, 1]);
    assert_eq!(crashed(config, &mem(), &journal_of(&good, 4, true)), Ok(place(1, true)));
    let layout = |version, size, features| E::JournalLayout { version, size, features };
    let no_place = |used, old_used| E::JournalPlace { used, old_used, size: 4 };
    for (at, octets, error) in [
        (0, [1, 0], layout(1, 4, 1)),
        (8, [2, 0], layout(2, 4, 0)),
        (8, [1, 1], layout(0x101, 4, 0)),
        (10, [5, 0], layout(1, 5, 0)),
        (16, [4, 0], no_place(4, 1)),
        (18, [0xff, 0xff], no_place(1, 0xffff)),
        (20, [2, 1], no_place(1, 1)),
        (20, [1, 0xff], no_place(1, 1)),
    ] {
        let mut region = good.clone();
        region[at..at + 2].copy_from_slice(&octets);
        assert_eq!(crashed(config, &mem(), &journal_of(&region, 4, true)), Err(error), "{at}");
    }
    let region = [&[0; 8][..], &[3, 0, 4, 0]].concat();
    let error = crashed(self::config(4, true, false), &mem(), &journal_of(&region, 4, false));
    assert_eq!(error, Err(layout(3, 4, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_base_and_no_journal_over_any_rings_makes_a_half_panic(
        (packed, event_idx, in_order, crash) in any::<(bool, bool, bool, bool)>(),
        base in any::<u32>(),
        narrow in any::<bool>(),
        journal in prop::option::of(prop::collection::vec(any::<u8>(), 32)),
        sane in any::<[bool; 3]>(),
        rings in prop::collection::vec(any::<u8>(), 3 * 80),
        ops in prop::collection::vec(0..4u8, 1..40),
    ) {
        let mem = mem();
        let config = QueueConfig { packed, in_order, ..config(4, event_idx, true) };
        for (octets, at) in rings.chunks(80).zip([WINDOW, AVAIL, HOST]) {
            poke(&mem, at, octets);
        }
        let journal = journal.map(|mut octets| {
            if sane[0] {
                octets[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0]);
            }
            if sane[1] {
                [16, 18].iter().for_each(|at| octets[*at] &= 3);
                [17, 19].iter().for_each(|at| octets[*at] = 0);
            }
            if sane[2] {
                [20, 21].iter().for_each(|at| octets[*at] &= 1);
            }
            journal_of(&octets, 4, packed)
        });
        let mask = match (narrow, packed) {
            (false, _) => u32::MAX,
            (true, true) => 0x8003_8003,
            (true, false) => 0xffff,
        };
        let base = base & mask;
        let at = if crash { At::Crash { base } } else { At::Base(base) };
        let start = Start { at, journal: journal.clone() };
        let Ok(mut device) = config.activate_device_at(&mem, start) else { return Ok(()) };
        let mut held = VecDeque::new();
        let mut chain = Chain::default();
        for op in ops {
            match op {
                0 => if device.pop(&mem, &mut chain) == Ok(true) {
                    held.push_back(chain.head);
                },
                1 => if let Some(head) = held.pop_front() {
                    device.push(&mem, head, 0);
                },
                2 => drop(device.publish(&mem)),
                _ => drop(device.arm(&mem)),
            }
        }
        let at = At::Position(device.position());
        let successor = config.activate_device_at(&mem, Start { at, journal });
        prop_assert!(successor.is_ok());
    }
}

#[test]
fn a_driver_may_not_use_again_what_a_predecessor_took() {
    let mem = mem();
    poke(&mem, AVAIL + 2, &5u16.to_le_bytes());
    let device = config(4, true, false).activate_device_at(&mem, Start::at(At::Base(2)));
    assert_eq!(device.unwrap().avail_ready(&mem), Err(E::AvailJump { by: 3, most: 2 }));
    // A list of three, of which the last stands where the first of the two does.
    for (at, flags) in [(2u64, 0x0081u16), (3, 0x0081), (0, 0x8000)] {
        poke(&mem, WINDOW + 16 * at + 14, &flags.to_le_bytes());
    }
    let device =
        packed_config(4, true, false).activate_device_at(&mem, Start::at(At::Base(0x8000_8002)));
    assert_eq!(device.unwrap().avail_ready(&mem), Err(E::ChainTooLong { head: 2 }));
}

#[test]
fn a_broken_queue_with_a_journal_stands_where_it_broke() {
    let mem = mem();
    let config = packed_config(4, true, false);
    let journal = journal(4, true);
    let mut driver = config.activate_driver(&mem).unwrap();
    (0..3).for_each(|token| driver.add(&mem, &[buffer(BUFFERS, 1)], &[], token).unwrap());
    let _ = driver.publish(&mem);
    poke(&mem, WINDOW + 32 + 8, &[0; 4]);
    let start = Start { at: At::Position(Position::first(true)), journal: Some(journal.clone()) };
    let mut device = config.activate_device_at(&mem, start).unwrap();
    let mut chains = [(); 3].map(|()| Chain::default());
    for chain in &mut chains[..2] {
        assert_eq!(device.pop(&mem, chain), Ok(true));
    }
    assert_eq!(device.pop(&mem, &mut chains[2]), Err(E::ZeroLength { head: 2 }));
    chains[..2].iter().for_each(|chain| device.push(&mem, chain.head, 0));
    assert!(!device.publish(&mem));
    assert_eq!(driver.pop_used(&mem), Ok(None));
    assert_eq!(device.position(), Position::first(true));
    assert_eq!(crashed(config, &mem, &journal), Ok(Position::first(true)));
}
