//! Frames between a TAP and memory of which a part is shared.

use super::QueueStats;
use crate::memory::{BusMemory, Span};
use crate::net::frame::Drop as FrameDrop;
use crate::net::path::{MOST_SPANS, Room};
use crate::os::tap::{IoSpan, IoSpanMut, LostTap, Tap, Write};

/// Spans of nearly every frame.
const FEW_SPANS: usize = 4;

/// Drops the frames that wait in a TAP's queue: from before the link came up they may carry offloads
/// that are off now, and are late in any case. There is no carrier yet, so no new ones come; or the
/// queue is about to be closed.
pub fn drop_stale(tap: &Tap, stats: &QueueStats) -> std::io::Result<()> {
    let mut scratch = [0; 2048];
    // The queue has a bound of its own; this one is for a kernel that refills it meanwhile.
    for _ in 0..4096 {
        let mut spans = [IoSpanMut::private(&mut scratch)];
        if tap.read_into(&mut spans).map_err(std::io::Error::other)?.is_none() {
            break;
        }
        stats.tx.dropped(FrameDrop::Stale);
    }
    Ok(())
}

/// Reads a frame to where there is room; the spans are in the table `mem`.
pub(super) fn read(
    tap: &Tap,
    mem: &BusMemory,
    room: &mut Room<'_>,
) -> Result<Option<usize>, LostTap> {
    match room {
        Room::Nowhere => Ok(None),
        Room::Private(buffer) => tap.read_into(&mut [IoSpanMut::private(buffer)]),
        Room::Shared(spans) => read_shared(tap, mem, &mut [], spans),
        Room::Split { head, rest } => read_shared(tap, mem, head, rest),
    }
}

/// Reads a frame to `head`, which may be empty, and then to shared memory.
fn read_shared(
    tap: &Tap,
    mem: &BusMemory,
    head: &mut [u8],
    rest: &[Span],
) -> Result<Option<usize>, LostTap> {
    let shared = |span: &Span| mem.view(*span).and_then(IoSpanMut::shared);
    if let ([], [span]) = (&head, rest) {
        return match shared(span) {
            Some(span) => tap.read_into(&mut [span]),
            None => Ok(None),
        };
    }
    // What is left over has no length, and takes nothing.
    let mut list: [_; MOST_SPANS + 1] = std::array::from_fn(|_| IoSpanMut::private(&mut []));
    list[0] = IoSpanMut::private(head);
    for (to, from) in list[1..].iter_mut().zip(rest.iter().filter_map(shared)) {
        *to = from;
    }
    let used = 1 + rest.len().min(MOST_SPANS);
    let empty = usize::from(list[0].is_empty());
    tap.read_into(&mut list[empty..used])
}

/// Writes a frame: the private prefix, then the shared tail. Only a tail in more pieces than any
/// driver has a reason for takes an allocation.
pub(super) fn write<'m>(
    tap: &Tap,
    mem: &'m BusMemory,
    prefix: &'m [u8],
    tail: &[Span],
) -> Result<Write, LostTap> {
    match tail.len() {
        0..FEW_SPANS => write_list(tap, mem, &mut [IoSpan::private(prefix); FEW_SPANS], tail),
        FEW_SPANS..MOST_SPANS => {
            write_list(tap, mem, &mut [IoSpan::private(prefix); MOST_SPANS], tail)
        }
        n => write_list(tap, mem, &mut vec![IoSpan::private(prefix); n + 1], tail),
    }
}

/// Puts the tail behind the first entry of `list`, which has room for it, and writes both.
fn write_list<'m>(
    tap: &Tap,
    mem: &'m BusMemory,
    list: &mut [IoSpan<'m>],
    tail: &[Span],
) -> Result<Write, LostTap> {
    for (to, from) in list[1..].iter_mut().zip(tail) {
        let Some(span) = mem.view(*from).and_then(IoSpan::shared) else {
            return Ok(Write::BadFrame);
        };
        *to = span;
    }
    tap.write_from(&list[..=tail.len()])
}

/// Why the kernel did not take a frame, if it did not.
pub(super) fn unwritten(written: Write) -> Result<(), FrameDrop> {
    match written {
        Write::Sent => Ok(()),
        Write::BadFrame => Err(FrameDrop::Refused),
        Write::Down => Err(FrameDrop::NetdevDown),
        // A TAP's send buffer has no bound by default, so this is want of memory.
        Write::NoMemory | Write::WouldBlock => Err(FrameDrop::NoMemory),
    }
}
