//! A ring of bytes: room for any frame is lent at its head, a frame takes what it needs, and the bytes
//! come back in the order in which they were taken.

use super::frame::LARGEST;

/// Room for any frame, in whole lines.
#[allow(clippy::cast_possible_truncation, reason = "65,601")]
pub(super) const SLOT: u32 = (LARGEST as u32).next_multiple_of(64);

/// Bytes handed out in order and taken back in order.
#[derive(Debug)]
pub(super) struct Arena {
    len: u32,
    /// Where the next frame goes, and where the oldest one in flight begins.
    head: u32,
    tail: u32,
    /// Frames in flight, oldest at `first`: where each ends, and whether it is done.
    flights: Box<[(u32, bool)]>,
    first: usize,
    count: usize,
}

impl Arena {
    pub(super) fn new(len: u32, most: u16) -> Self {
        let flights = vec![(0, false); most.into()].into();
        Self { len, head: 0, tail: 0, flights, first: 0, count: 0 }
    }

    /// The offset of room for any frame, if there is some.
    pub(super) fn room(&mut self) -> Option<u32> {
        if self.count == self.flights.len() {
            return None;
        }
        if self.count == 0 {
            self.head = 0;
            self.tail = 0;
        }
        // `head == tail` means empty, so frames never end where the oldest begins.
        if self.count == 0 || self.head > self.tail {
            if self.len - self.head >= SLOT {
                return Some(self.head);
            }
            return (self.tail > SLOT).then_some(0);
        }
        (self.tail - self.head > SLOT).then_some(self.head)
    }

    /// Takes `len` bytes at `at`, where `room` said; returns the frame's token.
    #[allow(clippy::cast_possible_truncation, reason = "as many flights as a queue has entries")]
    pub(super) fn take(&mut self, at: u32, len: u32) -> u16 {
        self.head = at + len.next_multiple_of(64).min(SLOT);
        let token = (self.first + self.count) % self.flights.len();
        self.flights[token] = (self.head, false);
        self.count += 1;
        token as u16
    }

    /// The frame of this token, which is in flight, is done.
    pub(super) fn done(&mut self, token: u16) {
        self.flights[usize::from(token)].1 = true;
        while self.count > 0 && self.flights[self.first].1 {
            self.tail = self.flights[self.first].0;
            self.first = (self.first + 1) % self.flights.len();
            self.count -= 1;
        }
    }
}
