use proptest::prelude::*;

use super::*;
use crate::memory::{Kind, Mapping};

const LEN: usize = 0x8000;
/// The master's mailbox, beyond the window.
const FAR: u64 = 0x4000;

/// Memory in which these octets stand.
fn memory(pieces: &[(usize, &[u8])]) -> Mapping {
    let memory = Mapping::anonymous(LEN, Kind::Uncached);
    for (at, octets) in pieces {
        memory.view(0, LEN).copy_from(*at, octets);
    }
    memory
}

/// The header in it, whose window is the first half.
fn read(memory: &Mapping) -> Header {
    let reach = |addr: u64, len: u32| {
        let (at, len) = (usize::try_from(addr).ok()?, len as usize);
        (at <= LEN && len <= LEN - at).then(|| Look::from(memory.view(at, len)))
    };
    Header::read(memory.view(0, LEN / 2).into(), &reach).unwrap()
}

/// Magic, version 1, header of 4096, window of 0x4000, flag 0.
const FIRST: &[u8] = b"BRDLANE1\x01\0\0\0\x00\x10\0\0\x00\x40\0\0\0\0\0\0\x01\0\0\0";
/// Epoch 0x11223344, heartbeat 7; RUN, echo 0x55667788; owner 3, 4 vectors; a nonce; mailbox at 0x1000
/// with 16 slots.
const BOARD: &[u8] = b"\x44\x33\x22\x11\x07\0\0\0\x02\0\0\0\x88\x77\x66\x55\x03\0\0\0\x04\0\0\0\
    \x01\0\0\0\0\0\0\x80\x00\x10\0\0\0\0\0\0\x10\0\0\0";
/// The other way about: heartbeat 9; owner 5, polls; mailbox at 0x4000 with 32 slots; slot 2; mute.
const MASTER: &[u8] = b"\x88\x77\x66\x55\x09\0\0\0\x02\0\0\0\x44\x33\x22\x11\x05\0\0\0\0\0\0\0\
    \x02\0\0\0\0\0\0\0\x00\x40\0\0\0\0\0\0\x20\0\0\0\x02\0\0\0\
    \x01\0\0\0";
/// The window at 0, 0x4000 long; nothing; driver memory at 0x4000, as long.
const TABLE: &[u8] = b"\0\0\0\0\0\0\0\0\x00\x40\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x00\x40\0\0\0\0\0\0\x00\x40\0\0\0\0\0\0\x02\0\0\0";
/// 0xfffffffe messages taken by the one who sent 4 here.
const BOARD_COUNTS: [(usize, &[u8]); 2] = [(0x1000, b"\x04\0\0\0"), (0x1040, b"\xfe\xff\xff\xff")];
const MASTER_COUNTS: [(usize, &[u8]); 2] = [(0x4000, b"\x03\0\0\0"), (0x4040, b"\x01\0\0\0")];

fn up() -> Vec<(usize, &'static [u8])> {
    let header = [(0, FIRST), (64, BOARD), (128, MASTER), (192, TABLE)];
    [&header[..], &BOARD_COUNTS, &MASTER_COUNTS].concat()
}

#[test]
fn a_header_is_read_as_it_stands() {
    let header = read(&memory(&up()));
    let part = Part {
        state: w::STATE_RUN,
        epoch: 0x1122_3344,
        echo: 0x5566_7788,
        heartbeat: 7,
        owner: 3,
        held: true,
        vectors: 4,
        mailbox: 0x1000,
        slots: 16,
        flags: 0,
        counts: Some(Counts { head: 4, tail: u32::MAX - 1 }),
    };
    let driver = Part {
        epoch: 0x5566_7788,
        echo: 0x1122_3344,
        heartbeat: 9,
        owner: 5,
        vectors: 0,
        mailbox: FAR,
        slots: 32,
        flags: w::PART_MUTE,
        counts: Some(Counts { head: 3, tail: 1 }),
        ..part.clone()
    };
    let entry = |kind, bus_addr| MemoryEntry { kind, bus_addr, len: 0x4000 };
    let memory = vec![entry(w::MEMORY_WINDOW, 0), entry(w::MEMORY_DRIVER, FAR)];
    let ends = Ends { device: part, driver, slot: 2, memory };
    assert!(ends.are_up());
    let [to_board, to_master] = ends.fills().map(Option::unwrap);
    assert_eq!(to_board, Fill { put: 4, taken: 1, slots: 16 });
    assert_eq!(to_master, Fill { put: 3, taken: u32::MAX - 1, slots: 32 });
    assert_eq!([to_board, to_master].map(|fill| fill.waiting()), [Some(3), Some(5)]);
    let expected = Header {
        magic: w::MAGIC,
        version: 1,
        header_len: 4096,
        window_len: 0x4000,
        flags: w::FLAG_DMA_ONLY,
        ends: Some(ends),
    };
    assert_eq!(header, expected);
    assert_eq!(header.content(), Content::Good);
}

#[test]
fn what_the_first_word_is_decides_whether_the_rest_is_read() {
    let cases: [(&[u8], Content); 5] = [
        (b"\0\0\0\0\0\0\0\0", Content::Empty),
        (&[0xff; 28], Content::Dead),
        (b"BRDLANE1\x02\0\0\0", Content::Version(2)),
        (b"BRDLANE1\0\0\0\0", Content::Version(0)),
        (b"BRDLANE2\x01\0\0\0", Content::Other(u64::from_le_bytes(*b"BRDLANE2"))),
    ];
    for (first, content) in cases {
        let mut pieces = up();
        pieces.insert(1, (0, first));
        let header = read(&memory(&pieces));
        assert_eq!(header.content(), content);
        // A master that came first has written its part.
        assert_eq!(header.ends.is_some(), content == Content::Empty);
    }
    let short = memory(&up());
    let nothing = |_: u64, _: u32| None;
    assert_eq!(Header::read(short.view(0, 4088).into(), &nothing), None);
    assert_eq!(Header::read(short.view(4, 4096).into(), &nothing), None);
}

#[test]
fn ends_that_do_not_run_with_each_other_have_no_messages() {
    let changes: [(usize, &[u8]); 5] = [
        (64 + 8, b"\x01"),        // the board is READY
        (128 + 12, b"\x45"),      // the master echoes another epoch
        (128, b"\0\0\0\0"),       // it has stopped
        (64 + 24, &[0; 8]),       // nobody has the board's part
        (64 + 40, b"\x11\0\0\0"), // no number of slots
    ];
    for (at, octets) in changes {
        let pieces = [up(), vec![(at, octets)]].concat();
        let ends = read(&memory(&pieces)).ends.unwrap();
        assert!(!ends.are_up() || ends.device.counts.is_none(), "{at}");
        assert_eq!(ends.fills()[0], None, "{at}");
    }
}

#[test]
fn a_mailbox_that_is_not_in_memory_has_no_counts() {
    for addr in [0x7fff_u64, 0x7f00, 0x1004, u64::MAX, u64::MAX - 7] {
        let octets = addr.to_le_bytes();
        let pieces = [up(), vec![(64 + 32, &octets[..])]].concat();
        let ends = read(&memory(&pieces)).ends.unwrap();
        assert_eq!((ends.device.mailbox, ends.device.counts), (addr, None));
    }
}

#[test]
fn counts_that_jump_are_no_number_of_messages() {
    for (put, taken) in [(17, 0), (0, 1), (u32::MAX, 3)] {
        assert_eq!(Fill { put, taken, slots: 16 }.waiting(), None);
    }
    assert_eq!(Fill { put: 5, taken: u32::MAX, slots: 16 }.waiting(), Some(6));
}

proptest! {
    #[test]
    fn any_octets_can_be_looked_at(
        octets in prop::collection::vec(any::<u8>(), 0..320),
        magic in any::<bool>(),
        slots in prop_oneof![0..6_u32, any::<u32>()],
        at in prop_oneof![any::<u64>(), 0..LEN as u64],
    ) {
        let memory = memory(&[(0, &octets)]);
        let view = memory.view(0, LEN);
        if magic {
            view.copy_from(0, FIRST);
            view.store_le32(64 + w::PART_SLOTS, 1_u32.wrapping_shl(slots));
            view.store_le64(64 + w::PART_MAILBOX, at);
        }
        let header = read(&memory);
        prop_assert_eq!(header.ends.is_some(), matches!(header.content(), Content::Good | Content::Empty));
        if let Some(ends) = header.ends {
            prop_assert!(ends.memory.len() <= w::MEMORY_ENTRIES);
            let _ = ends.fills().map(|fill| fill.and_then(|fill| fill.waiting()));
        }
    }
}
