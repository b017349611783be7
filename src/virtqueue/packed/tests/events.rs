//! Places in the ring, and who wants to hear of which.

use super::*;

fn at(at: u16, wrap: bool) -> Cursor {
    Cursor { at, wrap }
}

#[test]
fn a_place_goes_round_and_turns_its_wrap_counter() {
    for (from, by, size, to) in [
        (at(0, true), 1, 1, at(0, false)),
        (at(0, false), 1, 1, at(0, true)),
        (at(0, true), 3, 5, at(3, true)),
        (at(3, true), 2, 5, at(0, false)),
        (at(4, false), 5, 5, at(4, true)),
        (at(0, true), 5, 5, at(0, false)),
        (at(32767, true), 32768, 32768, at(32767, false)),
        (at(32767, true), 1, 32768, at(0, false)),
        (at(2, true), 0, 5, at(2, true)),
    ] {
        assert_eq!(from.advance(by, size), to, "{from:?} + {by} of {size}");
        assert_eq!(to.back(by, size), from, "{to:?} - {by} of {size}");
        assert_eq!(to.since(from, size), u32::from(by));
    }
    assert_eq!(at(0, true).since(at(0, false), 5), 5);
    assert_eq!(at(0, true).since(at(1, true), 5), 9, "two laps on, less one");
    assert_eq!(at(1, false).since(at(3, true), 5), 3);
}

#[test]
fn an_event_is_reached_when_its_descriptor_is_written() {
    // (event, start, count, reached) in a ring of 5.
    for (event, start, count, reached) in [
        (at(0, true), at(0, true), 1, true),
        (at(1, true), at(0, true), 1, false),
        (at(1, true), at(0, true), 2, true),
        (at(0, true), at(1, true), 4, false),
        (at(0, false), at(1, true), 4, false),
        (at(0, false), at(1, true), 5, true),
        (at(3, true), at(4, true), 3, false),
        (at(1, false), at(4, true), 3, true),
        (at(2, false), at(4, true), 3, false),
        (at(0, true), at(0, false), 5, false),
        (at(4, false), at(0, false), 5, true),
        (at(4, true), at(0, false), 5, false),
    ] {
        let said = format!("{event:?}: {count} from {start:?}");
        assert_eq!(Events::At(event).want(start, count, 5), reached, "{said}");
        assert!(Events::Enabled.want(start, count, 5));
        assert!(!Events::Disabled.want(start, count, 5));
    }
}

#[test]
fn an_event_suppression_that_makes_no_sense_asks_for_everything() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let layout = |event_idx| Layout::new(&packed_config(5, event_idx, false), &mem).unwrap();
    for (octets, with, without) in [
        ([0, 0, 0, 0], Events::Enabled, Events::Enabled),
        ([4, 0x80, 1, 0], Events::Disabled, Events::Disabled),
        ([4, 0x80, 2, 0], Events::At(at(4, true)), Events::Enabled),
        ([3, 0, 2, 0], Events::At(at(3, false)), Events::Enabled),
        ([5, 0, 2, 0], Events::Enabled, Events::Enabled),
        ([0xff, 0xff, 2, 0], Events::Enabled, Events::Enabled),
        ([0, 0, 3, 0], Events::Enabled, Events::Enabled),
        // The other bits of `flags` are reserved.
        ([0, 0, 0xf9, 0xff], Events::Disabled, Events::Disabled),
    ] {
        poke(&mem, HOST, &octets);
        let event = mem.view(mem.resolve(HOST, 4).unwrap()).unwrap();
        assert_eq!(Events::load(&event, &layout(true)), with, "{octets:?}");
        assert_eq!(Events::load(&event, &layout(false)), without, "{octets:?}");
    }
}
