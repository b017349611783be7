//! Where a device half stands, and how one starts in the middle of rings that are in use.
//!
//! A device half may be replaced by another over the same rings: it gives back what it holds, and its
//! [position](super::DeviceQueue::position) tells the successor where to go on. In vhost-user messages
//! a position is a number of 32 bits, the *vring base*.

use std::fmt;

use super::packed::Cursor;
use super::{Journal, QueueError};

/// Where a device half stands in its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// In a split queue, by indices that count modulo 65536.
    Split {
        /// Of the next entry of the available ring to be taken.
        avail: u16,
        /// Of the next entry of the used ring to be written.
        used: u16,
    },
    /// In a packed queue, by places in the ring and the wrap counters there.
    Packed {
        /// The next available descriptor.
        avail: u16,
        /// The driver's wrap counter there.
        avail_wrap: bool,
        /// Where the next used descriptor goes.
        used: u16,
        /// The device's wrap counter there.
        used_wrap: bool,
    },
}

impl Position {
    /// Of a queue that a driver has just cleared.
    pub fn first(packed: bool) -> Self {
        if packed { Self::packed(Cursor::START, Cursor::START) } else { Self::split(0, 0) }
    }

    /// As a vhost-user vring base (vhost-user, "Vring descriptor indices"). Of a split queue it holds the
    /// index of the available ring only; the other one stands in the used ring.
    pub fn base(self) -> u32 {
        match self {
            Self::Split { avail, .. } => avail.into(),
            Self::Packed { avail, avail_wrap, used, used_wrap } => {
                let half = |at: u16, wrap: bool| u32::from(at) | u32::from(wrap) << 15;
                half(avail, avail_wrap) | half(used, used_wrap) << 16
            }
        }
    }

    /// The position in a packed queue that a vhost-user vring base stands for.
    pub(super) fn of_packed_base(base: u32) -> Self {
        let [low, high] = super::area::halves(base);
        let (place, wrap) = (|half: u16| half & 0x7fff, |half: u16| half & 0x8000 != 0);
        Self::Packed {
            avail: place(low),
            avail_wrap: wrap(low),
            used: place(high),
            used_wrap: wrap(high),
        }
    }

    pub(super) fn split(avail: u16, used: u16) -> Self {
        Self::Split { avail, used }
    }

    pub(super) fn packed(avail: Cursor, used: Cursor) -> Self {
        let (avail_wrap, used_wrap) = (avail.wrap, used.wrap);
        Self::Packed { avail: avail.at, avail_wrap, used: used.at, used_wrap }
    }

    /// How many chains (split) or descriptors (packed) of a queue of `size` are taken and not used here:
    /// somebody before took them, and it is not known which they are. In order there can be none.
    pub(super) fn out(self, size: u16, in_order: bool) -> Result<u16, QueueError> {
        let bad = QueueError::Position { position: self, size };
        let out = match self {
            Self::Split { avail, used } => avail.wrapping_sub(used).into(),
            Self::Packed { avail, avail_wrap, used, used_wrap } => {
                if avail >= size || used >= size {
                    return Err(bad);
                }
                let used = Cursor { at: used, wrap: used_wrap };
                Cursor { at: avail, wrap: avail_wrap }.since(used, size)
            }
        };
        let out = u16::try_from(out).ok().filter(|out| *out <= size).ok_or(bad)?;
        if in_order && out > 0 {
            return Err(QueueError::OutInOrder { position: self });
        }
        Ok(out)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Split { avail, used } => write!(f, "available {avail}, used {used}"),
            Self::Packed { avail, avail_wrap, used, used_wrap } => write!(
                f,
                "available {avail} (wrap counter {}), used {used} (wrap counter {})",
                u8::from(avail_wrap),
                u8::from(used_wrap)
            ),
        }
    }
}

/// Where a device half is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Here.
    Position(Position),
    /// Where a vhost-user front-end says (`SET_VRING_BASE`). Where a split queue stands in its used ring
    /// is read there.
    Base(u32),
    /// Where one stood that has crashed. A split queue goes on at the index in its used ring. A packed one
    /// goes by its journal, and by this base as long as nothing stands in that. Either takes what was
    /// available and not used a second time.
    Crash {
        /// What a vhost-user front-end says, for a packed queue and a fresh journal.
        base: u32,
    },
}

/// How a device half starts on rings that may be in use.
#[derive(Clone, Debug)]
pub struct Start {
    /// Where.
    pub at: At,
    /// What the half is to keep for the case that it crashes. Chains are then to be used in order, as
    /// with `IN_ORDER`.
    pub journal: Option<Journal>,
}

impl Start {
    /// Here, and no journal.
    pub fn at(at: At) -> Self {
        Self { at, journal: None }
    }
}
