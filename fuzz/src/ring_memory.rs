//! The memory that both ring targets play in, and what a hostile end writes to it.
//!
//! Three regions, of which the first holds the rings, the second what descriptors should point to, and
//! the third can be reached by an engine only. The first two lie on the heap, each as long as it says,
//! so that AddressSanitizer sees an access beyond them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side, Span};
use boardlane::net::features::Features;
use boardlane::net::frame::{self, Drop as Reason, LARGEST, Offloads, PREFIX_LEN};
use boardlane::net::path::{MOST_SPANS, Room};
use boardlane::spec::net::HEADER_LEN;
use boardlane::spec::{net, packed, virtio};
use boardlane::virtqueue::QueueConfig;

use super::octets::Octets;

/// Most steps of a script.
pub(super) const STEPS: usize = 256;
/// The rings.
pub(super) const RINGS: u64 = 0x1_0000;
pub(super) const RINGS_LEN: u64 = 0x4000;
/// What descriptors should point to.
pub(super) const DATA: u64 = 0x10_0000;
/// Memory for an engine only.
const FAR: u64 = 0x100_0000;
const FAR_LEN: u64 = 0x1000;

/// The memory, with `data_len` bytes of this kind to point to.
pub(super) fn memory(data_len: u64, kind: Kind) -> BusMemory {
    let mapped = |addr, len: u64, side, kind| {
        let bytes = Mapping::anonymous(usize::try_from(len).expect("small"), kind);
        Region::mapped(addr, len, side, Arc::new(bytes), 0)
    };
    BusMemory::new(vec![
        mapped(RINGS, RINGS_LEN, Side::Near, Kind::Cached),
        mapped(DATA, data_len, Side::Far, kind),
        Region { bus_addr: FAR, len: FAR_LEN, side: Side::Far, backing: None },
    ])
    .expect("regions apart")
}

pub(super) fn poke(mem: &BusMemory, addr: u64, octets: &[u8]) {
    let len = u32::try_from(octets.len()).expect("short");
    let span = mem.resolve(addr, len).expect("inside the memory");
    mem.view(span).expect("mapped").copy_from(0, octets);
}

pub(super) fn peek(mem: &BusMemory, addr: u64, out: &mut [u8]) {
    let len = u32::try_from(out.len()).expect("short");
    let span = mem.resolve(addr, len).expect("inside the memory");
    mem.view(span).expect("mapped").copy_to(0, out);
}

pub(super) fn zero_rings(mem: &BusMemory) {
    let len = u32::try_from(RINGS_LEN).expect("small");
    let span = mem.resolve(RINGS, len).expect("all of the region");
    mem.view(span).expect("mapped").zero();
}

/// The first and the last byte are where the span says; `write`: they may be written.
pub(super) fn touch(mem: &BusMemory, span: Span, write: bool) {
    assert!(!span.is_empty());
    let Some(view) = mem.view(span) else {
        assert_eq!(mem.kind(span), Kind::DmaOnly);
        return;
    };
    assert_eq!(view.len(), span.len());
    let mut octet = [0];
    for at in [0, span.len() - 1] {
        view.copy_to(at, &mut octet);
        if write {
            view.copy_from(at, &octet);
        }
    }
}

/// An address: mostly a good one, sometimes at an edge, sometimes anywhere.
pub(super) fn address(script: &mut Octets<'_>, data_len: u64) -> u64 {
    match script.u8() {
        pick @ 0..=0xa7 => DATA + u64::from(pick) * 0x200 % data_len,
        0xa8..=0xbf => DATA + u64::from(script.u16()) * 2 % data_len,
        0xc0..=0xcf => DATA + data_len - u64::from(script.u8()),
        0xd0..=0xdf => RINGS + u64::from(script.u16()) % RINGS_LEN,
        0xe0..=0xe7 => FAR + u64::from(script.u16()) % FAR_LEN,
        0xe8..=0xef => u64::MAX - u64::from(script.u8()),
        _ => script.u64(),
    }
}

/// A length: mostly a small one.
pub(super) fn length(script: &mut Octets<'_>) -> u32 {
    match script.u8() {
        pick @ 0..=0x7f => pick.into(),
        pick @ 0x80..=0xbf => (u32::from(pick) - 0x7f) * 64,
        0xc0..=0xdf => script.u16().into(),
        0xe0..=0xef => 0x1_0000 + u32::from(script.u8()),
        0xf0..=0xf7 => u32::MAX - u32::from(script.u8()),
        _ => script.u32(),
    }
}

/// Which features a script plays with, and what kind of memory.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) packed: bool,
    pub(super) event_idx: bool,
    pub(super) indirect: bool,
    pub(super) in_order: bool,
    pub(super) mergeable: bool,
    pub(super) offloads: bool,
    /// Of what the descriptors point to.
    pub(super) kind: Kind,
}

impl Choice {
    pub(super) fn of(script: &mut Octets<'_>) -> Self {
        let bits = script.u8();
        let on = |bit: u8| bits & (1 << bit) != 0;
        let kind = match bits >> 6 {
            0 | 1 => Kind::Cached,
            2 => Kind::Uncached,
            _ => Kind::WriteCombined,
        };
        Self {
            packed: on(0),
            event_idx: on(1),
            indirect: on(2),
            in_order: on(3),
            mergeable: on(4),
            offloads: on(5),
            kind,
        }
    }

    pub(super) fn features(self) -> Features {
        let off = [
            (self.packed, virtio::F_RING_PACKED),
            (self.event_idx, virtio::F_EVENT_IDX),
            (self.indirect, virtio::F_INDIRECT_DESC),
            (self.in_order, virtio::F_IN_ORDER),
            (self.mergeable, net::F_MRG_RXBUF),
            (self.offloads, net::F_CSUM),
            (self.offloads, net::F_GUEST_CSUM),
        ];
        let off = off.iter().filter(|(on, _)| !on);
        Features::OFFER
            .without(off.fold(Features::NONE, |all, (_, bit)| all.union(Features::of(&[*bit]))))
    }

    /// One of two queues in the first region.
    pub(super) fn queue(self, which: u64, size: u16) -> QueueConfig {
        let at = RINGS + 0x1000 * which;
        QueueConfig {
            size,
            desc: at,
            driver: at + 0x800,
            device: at + 0xc00,
            packed: self.packed,
            in_order: self.in_order,
            event_idx: self.event_idx,
            indirect: self.indirect,
        }
    }
}

/// A place in a packed ring, as the end that writes there goes on.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    pub(super) at: u16,
    pub(super) wrap: bool,
}

impl Cursor {
    pub(super) const START: Self = Self { at: 0, wrap: true };

    pub(super) fn next(self, size: u16) -> Self {
        if self.at + 1 < size {
            Self { at: self.at + 1, ..self }
        } else {
            Self { at: 0, wrap: !self.wrap }
        }
    }

    /// The flags of a descriptor that is made available here, or used.
    pub(super) fn flags(self, used: bool) -> u16 {
        match (used, self.wrap) {
            (false, true) => packed::DESC_F_AVAIL,
            (false, false) => packed::DESC_F_USED,
            (true, true) => packed::DESC_F_AVAIL | packed::DESC_F_USED,
            (true, false) => 0,
        }
    }
}

/// Writes one descriptor; the last two fields are flags and next, or id and flags.
pub(super) fn describe(mem: &BusMemory, at: u64, addr: u64, len: u32, last: [u16; 2]) {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&addr.to_le_bytes());
    octets[8..12].copy_from_slice(&len.to_le_bytes());
    octets[12..14].copy_from_slice(&last[0].to_le_bytes());
    octets[14..].copy_from_slice(&last[1].to_le_bytes());
    poke(mem, at, &octets);
}

/// What either hostile end may do to any word of the rings.
pub(super) fn scribble(mem: &BusMemory, script: &mut Octets<'_>) {
    match script.u8() % 3 {
        0 => {
            let at = u64::from(script.u16()) % (RINGS_LEN / 2) * 2;
            poke(mem, RINGS + at, &script.u16().to_le_bytes());
        }
        1 => {
            let at = u64::from(script.u16()) % (RINGS_LEN / 8) * 8;
            poke(mem, RINGS + at, &script.u64().to_le_bytes());
        }
        _ => {
            let at = u64::from(script.u16()) % (RINGS_LEN - 256);
            let len = script.u8().into();
            poke(mem, RINGS + at, script.take(len));
        }
    }
}

/// Does `work` while another thread changes words of the rings to and fro.
pub(super) fn storm(mem: &BusMemory, script: &mut Octets<'_>, work: impl FnOnce()) {
    let words: Vec<_> = (0..script.u8() % 8)
        .map(|_| {
            let at = RINGS + u64::from(script.u16()) % (RINGS_LEN / 2) * 2;
            (at, [script.u16(), script.u16()])
        })
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            for turn in 0.. {
                for (at, values) in &words {
                    poke(mem, *at, &values[turn % 2].to_le_bytes());
                }
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        work();
        over.store(true, Ordering::Relaxed);
        // Its end too, or LeakSanitizer finds it in the midst of that.
        other.join().expect("it only writes");
    });
}

/// Sizes of queues; some are none.
pub(super) fn size(script: &mut Octets<'_>) -> u16 {
    script.choose(&[4, 8, 16, 32, 1, 2, 3, 5, 7, 0])
}

/// Lengths of frames from the netdev, header included.
pub(super) fn frame_len(script: &mut Octets<'_>) -> usize {
    match script.u8() {
        0..=0x7f => script.choose(&[26, 72, 268, 269, 1526, 9012, LARGEST - 1, LARGEST]),
        0x80..=0xbf => 26 + usize::from(script.u8()),
        0xc0..=0xef => 26 + usize::from(script.u16()) % (LARGEST - 25),
        0xf0..=0xf7 => usize::from(script.u8()) % 26,
        _ => LARGEST + 1 + usize::from(script.u8()),
    }
}

/// Reads a frame of `len` bytes to where there is room; `None` if there is none.
pub(super) fn fill(room: Room<'_>, mem: &BusMemory, len: usize) -> Option<()> {
    let (private, spans) = match &room {
        Room::Nowhere => return None,
        Room::Private(buffer) => (buffer.len(), &[][..]),
        Room::Shared(spans) => (0, *spans),
        Room::Split { head, rest } => (head.len(), *rest),
    };
    assert!(spans.len() <= MOST_SPANS);
    spans.iter().for_each(|span| touch(mem, *span, true));
    let all = private + spans.iter().map(|span| span.len()).sum::<usize>();
    assert!(all >= LARGEST, "room for {all} bytes would cut a frame");
    assert!(room.fill(mem, &vec![0; len.min(LARGEST)]));
    Some(())
}

/// A frame that came out of a ring: as long as it says, and good.
pub(super) fn judge(mem: &BusMemory, prefix: &[u8], tail: &[Span], len: usize, allowed: Offloads) {
    let total = len + HEADER_LEN;
    assert_eq!(prefix.len() + tail.iter().map(|span| span.len()).sum::<usize>(), total);
    assert!(prefix.len() >= total.min(PREFIX_LEN), "checked on {} bytes", prefix.len());
    assert_eq!(frame::check(prefix, total, allowed), Ok::<(), Reason>(()));
    tail.iter().for_each(|span| touch(mem, *span, false));
}
