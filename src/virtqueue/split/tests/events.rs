//! Which step of an index reaches an event.

use super::*;

#[test]
fn an_event_is_reached_when_the_index_steps_past_it() {
    // (event, old, new, reached): entries old, old + 1, .. new - 1 were written.
    for (event, old, new, reached) in [
        (0u16, 0u16, 1u16, true),
        (0, 0, 0, false),
        (1, 0, 1, false),
        (1, 0, 2, true),
        (0, 1, 2, false),
        (5, 3, 5, false),
        (5, 3, 6, true),
        (5, 5, 6, true),
        (5, 6, 100, false),
        (0xffff, 0xfffe, 0xffff, false),
        (0xffff, 0xfffe, 0, true),
        (0xffff, 0xffff, 5, true),
        (0, 0xfff0, 0, false),
        (0, 0xfff0, 1, true),
        (3, 0xfff0, 0x10, true),
        (0xffef, 0xfff0, 0x10, false),
        (0x10, 0xfff0, 0x10, false),
        (0x8000, 0, 0x8000, false),
        (0x7fff, 0, 0x8000, true),
    ] {
        assert_eq!(need_event(event, new, old), reached, "event {event:#x}: {old:#x} to {new:#x}");
    }
}
