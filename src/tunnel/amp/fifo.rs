//! The two queues of an "AMP over PCI" FIFO (layout: [`crate::spec::amp_pci`]), as one end sees them.
//!
//! An end's own indices are the head of the queue that it fills and the tail of the one that it empties.
//! It keeps copies of them and trusts these: what stands in memory is for the other end, and for whoever
//! comes after this one. The other end's two indices are read when they are needed, once, and must be in
//! range and not go back: whatever they are, nothing is read or written outside of the slots, and no more
//! than 61 messages are taken for one look at a head. A message is copied out before it is looked at.
//!
//! Ordering: a slot is written before `head` tells of it (release; its partner is the load of `head` in
//! [`Fifo::receive`]), and copied out before `tail` frees it (release; its partner is the load of `tail`
//! in [`Fifo::send`]). Where the memory is not cached each index is stored behind a full fence, so that
//! a peer that polls it sees the slot first, and read before one, as loads of write-combined memory pass
//! each other.

use crate::memory::{BusMemory, Kind, Span, View, fence_full};
use crate::spec::amp_pci as a;
use crate::tunnel::fifo::FifoError;
use crate::tunnel::part::Role;

/// Where the queues are.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    role: Role,
    outbox: Span,
    inbox: Span,
}

impl Area {
    /// The FIFO at bus address `addr`, which must be mapped, for the end of this role.
    pub fn at(mem: &BusMemory, addr: u64, role: Role) -> Result<Self, FifoError> {
        let queue = |offset: u32| {
            mem.resolve_mapped(addr + u64::from(offset), a::QUEUE_LEN, 64)
                .map_err(|error| FifoError::Mailbox { slots: a::SLOTS, error: Some(error) })
        };
        let (to_device, to_driver) = (queue(a::TO_DEVICE)?, queue(a::TO_DRIVER)?);
        Ok(match role {
            Role::Driver => Self { role, outbox: to_device, inbox: to_driver },
            Role::Device => Self { role, outbox: to_driver, inbox: to_device },
        })
    }

    /// Whether all indices read as all ones at the end that reaches them over the bus.
    pub fn is_dead(&self, mem: &BusMemory) -> bool {
        let all_ones =
            |span| [a::AT_HEAD, a::AT_TAIL].iter().all(|at| index(mem, span, *at) == u32::MAX);
        self.role == Role::Driver && all_ones(self.outbox) && all_ones(self.inbox)
    }

    /// Goes on where this end's indices stand. Such as make no sense, which nobody of this layout has
    /// written, are set so that their queue is empty, if the other end's are right. `None`: they are not.
    pub fn resume(&self, mem: &BusMemory) -> Option<Fifo> {
        let [freed, filled] =
            [(self.outbox, a::AT_TAIL), (self.inbox, a::AT_HEAD)].map(|(s, at)| index(mem, s, at));
        let own = |span, at, peer| match index(mem, span, at) {
            good @ 0..a::SLOTS => good,
            _ => {
                let good = if peer < a::SLOTS { peer } else { 0 };
                view(mem, span).store_release_le32(at, good);
                good
            }
        };
        let head = own(self.outbox, a::AT_HEAD, freed);
        let tail = own(self.inbox, a::AT_TAIL, filled);
        let good = freed < a::SLOTS && filled < a::SLOTS;
        good.then_some(Fifo { area: *self, head, freed, tail, filled })
    }
}

/// One end's half of both queues.
#[derive(Clone, Copy, Debug)]
pub struct Fifo {
    area: Area,
    /// Our indices.
    head: u32,
    tail: u32,
    /// The other end's, as last seen: the outbox's tail, the inbox's head.
    freed: u32,
    filled: u32,
}

impl Fifo {
    /// Whether a message waits in the inbox.
    pub fn has_message(&self, mem: &BusMemory) -> bool {
        index(mem, self.area.inbox, a::AT_HEAD) != self.tail
    }

    /// Copies the next message's slot to `out`; `false` if there is none.
    pub fn receive(
        &mut self,
        mem: &BusMemory,
        out: &mut [u8; a::SLOT_LEN],
    ) -> Result<bool, FifoError> {
        let head = checked("head", index(mem, self.area.inbox, a::AT_HEAD))?;
        // What waited before waits still.
        if between(self.tail, head) < between(self.tail, self.filled) {
            return Err(FifoError::Back { name: "head", from: self.filled, to: head });
        }
        self.filled = head;
        if head == self.tail {
            return Ok(false);
        }
        let inbox = view(mem, self.area.inbox);
        inbox.copy_to(slot(self.tail), out);
        self.tail = next(self.tail);
        inbox.store_release_le32(a::AT_TAIL, self.tail);
        Ok(true)
    }

    /// Takes everything that waits, without a look at it. For an end that starts: nobody counts on it.
    pub fn discard(&mut self, mem: &BusMemory) {
        self.tail = self.filled;
        view(mem, self.area.inbox).store_release_le32(a::AT_TAIL, self.tail);
    }

    /// The outbox's tail, and how many messages wait in it.
    pub fn progress(&self, mem: &BusMemory) -> Result<(u32, u32), FifoError> {
        let tail = checked("tail", index(mem, self.area.outbox, a::AT_TAIL))?;
        let unread = between(tail, self.head);
        // What was taken before is taken still.
        if unread > between(self.freed, self.head) {
            return Err(FifoError::Back { name: "tail", from: self.freed, to: tail });
        }
        Ok((tail, unread))
    }

    /// Whether there is room for a message.
    pub fn has_room(&self, mem: &BusMemory) -> Result<bool, FifoError> {
        self.progress(mem).map(|(_, unread)| unread < a::SLOTS - 1)
    }

    /// Puts a message into the outbox; `false` if there is no room.
    ///
    /// # Panics
    /// If the message is longer than a slot: its maker bounds it.
    pub fn send(&mut self, mem: &BusMemory, message: &[u8]) -> Result<bool, FifoError> {
        assert!(message.len() <= a::SLOT_LEN, "messages fit a slot");
        let (tail, unread) = self.progress(mem)?;
        self.freed = tail;
        if unread == a::SLOTS - 1 {
            return Ok(false);
        }
        let mut octets = [0; a::SLOT_LEN];
        octets[..message.len()].copy_from_slice(message);
        let outbox = view(mem, self.area.outbox);
        outbox.copy_from(slot(self.head), &octets);
        self.head = next(self.head);
        outbox.store_release_le32(a::AT_HEAD, self.head);
        Ok(true)
    }

    /// Whether our indices stand in memory as we left them. Nobody else of this layout writes them.
    pub fn is_ours(&self, mem: &BusMemory) -> bool {
        index(mem, self.area.outbox, a::AT_HEAD) == self.head
            && index(mem, self.area.inbox, a::AT_TAIL) == self.tail
    }
}

fn view(mem: &BusMemory, span: Span) -> View<'_> {
    mem.view(span).expect("a FIFO is mapped")
}

/// An index as it stands in memory, before all that is read after it.
fn index(mem: &BusMemory, span: Span, at: usize) -> u32 {
    let view = view(mem, span);
    let index = view.load_acquire_le32(at);
    if view.kind() != Kind::Cached {
        fence_full();
    }
    index
}

fn checked(name: &'static str, index: u32) -> Result<u32, FifoError> {
    if index < a::SLOTS { Ok(index) } else { Err(FifoError::Index { name, index }) }
}

/// How many slots there are from one index on to another. Both are in range.
fn between(from: u32, to: u32) -> u32 {
    if to >= from { to - from } else { to + a::SLOTS - from }
}

fn next(index: u32) -> u32 {
    if index + 1 == a::SLOTS { 0 } else { index + 1 }
}

fn slot(index: u32) -> usize {
    a::AT_SLOTS + index as usize * a::SLOT_LEN
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Mapping, Region, Side};

    const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];

    fn memory(kind: Kind) -> BusMemory {
        let m = Arc::new(Mapping::anonymous(a::FIFO_LEN as usize, kind));
        BusMemory::new(vec![Region::mapped(0x8000, a::FIFO_LEN.into(), Side::Near, m, 0)]).unwrap()
    }

    fn area(mem: &BusMemory, role: Role) -> Area {
        Area::at(mem, 0x8000, role).unwrap()
    }

    fn ends(mem: &BusMemory) -> [Fifo; 2] {
        [Role::Driver, Role::Device].map(|role| area(mem, role).resume(mem).unwrap())
    }

    fn number(slot: &[u8]) -> u64 {
        u64::from_le_bytes(slot[..8].try_into().unwrap())
    }

    #[test]
    fn messages_come_out_in_order_and_a_full_queue_takes_no_more() {
        for mem in KINDS.map(memory) {
            let [mut x, mut y] = ends(&mem);
            let mut slot = [0; a::SLOT_LEN];
            let (mut sent, mut got) = (0u64, 0u64);
            for round in 0..1000 {
                for _ in 0..round % 70 {
                    sent += u64::from(x.send(&mem, &sent.to_le_bytes()).unwrap());
                }
                assert_eq!(x.progress(&mem).unwrap().1, u32::try_from(sent - got).unwrap());
                assert!(sent - got <= 61);
                assert_eq!(x.has_room(&mem).unwrap(), sent - got < 61);
                for _ in 0..(round / 3) % 70 {
                    if y.receive(&mem, &mut slot).unwrap() {
                        assert_eq!(number(&slot), got);
                        assert!(slot[8..].iter().all(|octet| *octet == 0));
                        got += 1;
                    }
                }
            }
            assert!(got > 10_000);
        }
    }

    #[test]
    fn an_end_that_starts_goes_on_where_the_last_one_stood() {
        let mem = memory(Kind::Cached);
        let [mut x, mut y] = ends(&mem);
        let mut slot = [0; a::SLOT_LEN];
        for i in 0..100u64 {
            assert!(x.send(&mem, &i.to_le_bytes()).unwrap());
            if i < 50 {
                assert!(y.receive(&mem, &mut slot).unwrap());
            }
        }
        let [mut x, mut y] = ends(&mem);
        assert!(x.is_ours(&mem) && y.is_ours(&mem));
        assert!(x.send(&mem, &100u64.to_le_bytes()).unwrap());
        for i in 50..=100 {
            assert!(y.receive(&mem, &mut slot).unwrap());
            assert_eq!(number(&slot), i);
        }
        assert!(!y.receive(&mem, &mut slot).unwrap());
        assert!(x.send(&mem, &[1]).unwrap() && x.send(&mem, &[2]).unwrap());
        let mut y = area(&mem, Role::Device).resume(&mem).unwrap();
        y.discard(&mem);
        assert_eq!(x.progress(&mem).unwrap().1, 0);
        assert!(!y.receive(&mem, &mut slot).unwrap());
    }

    #[test]
    fn whatever_the_other_end_s_indices_are_nothing_outside_is_touched_and_no_look_is_long() {
        for mem in KINDS.map(memory) {
            let [mut x, mut y] = ends(&mem);
            let mut slot = [0; a::SLOT_LEN];
            for _ in 0..3 {
                assert!(x.send(&mem, &[7]).unwrap());
            }
            assert!(y.receive(&mem, &mut slot).unwrap());
            let (before_x, before_y) = (x, y);
            let queue = x.area.outbox;
            let set = |at, value| view(&mem, queue).store_le32(at, value);
            for bad in [62, 63, 64, 0x8000_0000, u32::MAX - 1, u32::MAX] {
                set(a::AT_HEAD, bad);
                let error = Err(FifoError::Index { name: "head", index: bad });
                assert_eq!(y.receive(&mem, &mut slot), error);
                set(a::AT_TAIL, bad);
                assert_eq!(x.send(&mem, &[]), Err(FifoError::Index { name: "tail", index: bad }));
                assert!(area(&mem, Role::Device).resume(&mem).is_none());
                set(a::AT_TAIL, 1);
            }
            // In range: what is told is believed once, and may not be taken back.
            for head in 0..a::SLOTS {
                let mut y = before_y;
                set(a::AT_HEAD, head);
                let (mut taken, end) = (0, y.receive(&mem, &mut slot));
                if end == Ok(true) {
                    taken = 1;
                    while y.receive(&mem, &mut slot).unwrap() {
                        taken += 1;
                    }
                }
                let back = FifoError::Back { name: "head", from: 3, to: head };
                assert!(taken <= 61 && (end == Err(back) || taken == between(1, head)), "{head}");
                assert!(end.is_ok() || between(1, head) < 2);
            }
            for tail in 0..a::SLOTS {
                let mut x = before_x;
                set(a::AT_TAIL, tail);
                assert_eq!(x.send(&mem, &[]).is_ok(), tail <= 3, "{tail}");
            }
        }
    }

    #[test]
    fn indices_that_nobody_of_this_layout_wrote_are_set_right_by_their_owners() {
        let mem = memory(Kind::Uncached);
        let [x, y] = [Role::Driver, Role::Device].map(|role| area(&mem, role));
        for span in [x.outbox, x.inbox] {
            view(&mem, span).store_le32(a::AT_HEAD, u32::MAX);
            view(&mem, span).store_le32(a::AT_TAIL, u32::MAX);
        }
        assert!(x.is_dead(&mem) && !y.is_dead(&mem));
        assert!(y.resume(&mem).is_none(), "the driver's are not right yet");
        assert!(!x.is_dead(&mem));
        assert!(x.resume(&mem).is_some());
        let [mut x, mut y] = ends(&mem);
        assert!(x.send(&mem, &[9]).unwrap());
        let mut slot = [0; a::SLOT_LEN];
        assert!(y.receive(&mem, &mut slot).unwrap() && slot[0] == 9);
        assert!(!y.receive(&mem, &mut slot).unwrap());
        view(&mem, x.area.outbox).store_le32(a::AT_HEAD, 0);
        assert!(!x.is_ours(&mem) && y.is_ours(&mem));
    }

    #[test]
    fn a_fifo_that_is_not_whole_is_refused() {
        let mem = memory(Kind::Cached);
        for addr in [0, 0x7000, 0x8020, 0x9000, 0xc000] {
            let fits = Area::at(&mem, addr, Role::Driver).is_ok();
            assert_eq!(fits, addr == 0x7000 || addr == 0x9000, "{addr:#x}");
        }
    }
}
