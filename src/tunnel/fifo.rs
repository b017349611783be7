//! The two message FIFOs of a window, as one end sees them.
//!
//! Each end has a mailbox near it (layout: [`crate::spec::window`]): the slots of its inbox and the
//! two counts that the other end writes. Counts run freely modulo 2^32, so a full FIFO and an empty
//! one differ, and an index that jumps shows. Single producer, single consumer, no lock.
//!
//! Ordering: a slot is written before `head` counts it (release; its partner is the acquire load of
//! `head` in [`Fifo::receive`]), and copied out before `tail` frees it (release; its partner is the
//! acquire load of `tail` in [`Fifo::send`]).

use std::fmt;

use crate::memory::{BusMemory, MemoryError, Span, View};
use crate::planted::{Bug, planted};
use crate::spec::{amp_pci, window};

/// How the other end broke a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoError {
    /// The mailbox's address or number of slots is not usable.
    Mailbox {
        /// Slots it claims to have.
        slots: u32,
        /// What is wrong with its address, if it is that.
        error: Option<MemoryError>,
    },
    /// The count of messages put in is beyond what the inbox holds.
    HeadJumped {
        /// Messages we have taken.
        taken: u32,
        /// Messages the other end claims to have put in.
        head: u32,
    },
    /// The count of messages taken out is beyond what we sent.
    TailJumped {
        /// Messages we have put in.
        sent: u32,
        /// Messages the other end claims to have taken.
        tail: u32,
    },
    /// "AMP over PCI": an index is not a slot's.
    Index {
        /// Which one.
        name: &'static str,
        /// Its value.
        index: u32,
    },
    /// "AMP over PCI": an index takes back what it has told.
    Back {
        /// Which one.
        name: &'static str,
        /// What it was.
        from: u32,
        /// What it is.
        to: u32,
    },
}

impl fmt::Display for FifoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox { slots, error: Some(e) } => write!(f, "mailbox of {slots} slots: {e}"),
            Self::Mailbox { slots, error: None } => {
                write!(
                    f,
                    "mailbox of {slots} slots: not a power of two up to {}",
                    window::MAX_SLOTS
                )
            }
            Self::HeadJumped { taken, head } => {
                write!(f, "message FIFO: head is {head}, but only {taken} messages were taken")
            }
            Self::TailJumped { sent, tail } => {
                write!(f, "message FIFO: tail is {tail}, but only {sent} messages were sent")
            }
            Self::Index { name, index } => {
                write!(f, "message FIFO: {name} is {index}, and there are {} slots", amp_pci::SLOTS)
            }
            Self::Back { name, from, to } => {
                write!(f, "message FIFO: {name} went back from {from} to {to}")
            }
        }
    }
}

impl std::error::Error for FifoError {}

/// Where a mailbox is and how many slots it has.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    span: Span,
    slots: u32,
}

impl Mailbox {
    /// The mailbox of `slots` slots at bus address `addr`.
    pub fn at(mem: &BusMemory, addr: u64, slots: u32) -> Result<Self, FifoError> {
        if !slots.is_power_of_two() || slots > window::MAX_SLOTS {
            return Err(FifoError::Mailbox { slots, error: None });
        }
        let span = mem
            .resolve_mapped(addr, window::mailbox_len(slots), 8)
            .map_err(|e| FifoError::Mailbox { slots, error: Some(e) })?;
        Ok(Self { span, slots })
    }

    fn view<'m>(&self, mem: &'m BusMemory) -> View<'m> {
        mem.view(self.span).expect("a mailbox is mapped")
    }

    fn slot(&self, count: u32) -> usize {
        window::MAILBOX_SLOTS + (count % self.slots) as usize * window::SLOT_LEN
    }
}

/// One end's half of both FIFOs.
#[derive(Debug)]
pub struct Fifo {
    own: Mailbox,
    peer: Mailbox,
    sent: u32,
    taken: u32,
}

impl Fifo {
    /// Both FIFOs, empty: writes the counts that this end owns, in the peer's mailbox. To be called
    /// before the peer may look at them.
    pub fn start(mem: &BusMemory, own: Mailbox, peer: Mailbox) -> Self {
        let view = peer.view(mem);
        view.store_release_le32(window::MAILBOX_HEAD, 0);
        view.store_release_le32(window::MAILBOX_TAIL, 0);
        Self { own, peer, sent: 0, taken: 0 }
    }

    /// Whether a message waits in the inbox.
    pub fn has_message(&self, mem: &BusMemory) -> bool {
        self.own.view(mem).load_acquire_le32(window::MAILBOX_HEAD) != self.taken
    }

    /// Copies the next message's slot to `out`; `false` if there is none.
    pub fn receive(
        &mut self,
        mem: &BusMemory,
        out: &mut [u8; window::SLOT_LEN],
    ) -> Result<bool, FifoError> {
        let own = self.own.view(mem);
        let head = own.load_acquire_le32(window::MAILBOX_HEAD);
        let waiting = head.wrapping_sub(self.taken);
        if waiting > self.own.slots {
            return Err(FifoError::HeadJumped { taken: self.taken, head });
        }
        if waiting == 0 {
            return Ok(false);
        }
        own.copy_to(self.own.slot(self.taken), out);
        self.taken = self.taken.wrapping_add(1);
        self.peer.view(mem).store_release_le32(window::MAILBOX_TAIL, self.taken);
        Ok(true)
    }

    /// How many messages the other end has taken, modulo 2^32, and how many wait for it.
    pub fn progress(&self, mem: &BusMemory) -> Result<(u32, u32), FifoError> {
        let tail = self.own.view(mem).load_acquire_le32(window::MAILBOX_TAIL);
        let unread = self.sent.wrapping_sub(tail);
        if unread > self.peer.slots {
            return Err(FifoError::TailJumped { sent: self.sent, tail });
        }
        Ok((tail, unread))
    }

    /// Whether there is room for a message.
    pub fn has_room(&self, mem: &BusMemory) -> Result<bool, FifoError> {
        self.progress(mem).map(|(_, unread)| unread < self.peer.slots)
    }

    /// Puts a message into the other end's inbox; `false` if there is no room.
    pub fn send(&mut self, mem: &BusMemory, message: &[u8]) -> Result<bool, FifoError> {
        assert!(message.len() <= window::SLOT_LEN, "messages fit a slot");
        if !self.has_room(mem)? {
            return Ok(false);
        }
        let peer = self.peer.view(mem);
        let mut slot = [0; window::SLOT_LEN];
        slot[..message.len()].copy_from_slice(message);
        if planted(Bug::HeadBeforeSlot) {
            peer.store_release_le32(window::MAILBOX_HEAD, self.sent.wrapping_add(1));
        }
        peer.copy_from(self.peer.slot(self.sent), &slot);
        self.sent = self.sent.wrapping_add(1);
        peer.store_release_le32(window::MAILBOX_HEAD, self.sent);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Kind, Mapping, Region, Side};

    const B: u64 = 0x4000;

    fn ends(kind: Kind) -> (BusMemory, Fifo, Fifo) {
        let m = Arc::new(Mapping::anonymous(0x8000, kind));
        let mem = BusMemory::new(vec![Region::mapped(0, 0x8000, Side::Near, m, 0)]).unwrap();
        let (a, b) = (Mailbox::at(&mem, 0, 4).unwrap(), Mailbox::at(&mem, B, 8).unwrap());
        let (x, y) = (Fifo::start(&mem, a, b), Fifo::start(&mem, b, a));
        (mem, x, y)
    }

    fn number(slot: &[u8]) -> u64 {
        u64::from_le_bytes(slot[..8].try_into().unwrap())
    }

    #[test]
    fn messages_come_out_in_order_and_a_full_fifo_takes_no_more() {
        for kind in [Kind::Cached, Kind::Uncached] {
            let (mem, mut x, mut y) = ends(kind);
            let mut slot = [0; window::SLOT_LEN];
            let (mut sent, mut got) = (0u64, 0u64);
            for round in 0..1000 {
                for _ in 0..round % 12 {
                    sent += u64::from(x.send(&mem, &sent.to_le_bytes()).unwrap());
                }
                assert!(sent - got <= 8);
                for _ in 0..(round / 3) % 12 {
                    if y.receive(&mem, &mut slot).unwrap() {
                        assert_eq!(number(&slot), got);
                        got += 1;
                    }
                }
            }
            assert!(got > 1000);
        }
    }

    #[test]
    fn counts_wrap_around() {
        let (mem, mut x, mut y) = ends(Kind::Cached);
        x.sent = u32::MAX - 2;
        y.taken = u32::MAX - 2;
        let (near_x, near_y) = (x.own.view(&mem), y.own.view(&mem));
        near_x.store_le32(window::MAILBOX_TAIL, u32::MAX - 2);
        near_y.store_le32(window::MAILBOX_HEAD, u32::MAX - 2);
        let mut slot = [0; window::SLOT_LEN];
        for i in 0..8u64 {
            assert!(x.send(&mem, &i.to_le_bytes()).unwrap());
        }
        assert!(!x.send(&mem, &[]).unwrap());
        for i in 0..8u64 {
            assert!(y.receive(&mem, &mut slot).unwrap());
            assert_eq!(number(&slot), i);
        }
        assert!(!y.receive(&mem, &mut slot).unwrap());
        assert_eq!(near_y.load_le32(window::MAILBOX_HEAD), 5);
    }

    #[test]
    fn counts_that_jump_are_the_peer_s_fault() {
        let (mem, mut x, mut y) = ends(Kind::Cached);
        let mut slot = [0; window::SLOT_LEN];
        y.own.view(&mem).store_le32(window::MAILBOX_HEAD, 9);
        assert_eq!(y.receive(&mem, &mut slot), Err(FifoError::HeadJumped { taken: 0, head: 9 }));
        y.own.view(&mem).store_le32(window::MAILBOX_HEAD, u32::MAX);
        assert!(y.receive(&mem, &mut slot).is_err(), "reads of all ones are not messages");
        x.own.view(&mem).store_le32(window::MAILBOX_TAIL, 1);
        assert_eq!(x.send(&mem, &[]), Err(FifoError::TailJumped { sent: 0, tail: 1 }));
    }

    #[test]
    fn a_mailbox_outside_memory_or_of_odd_size_is_refused() {
        let (mem, ..) = ends(Kind::Cached);
        for (addr, slots) in [(0, 0), (0, 3), (0, 2048), (0x7fff, 4), (0x7000, 1024), (4, 4)] {
            assert!(Mailbox::at(&mem, addr, slots).is_err(), "{addr:#x} {slots}");
        }
    }
}
