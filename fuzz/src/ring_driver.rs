//! What a driver writes to its queues, good or not, step by step.

use boardlane::memory::BusMemory;
use boardlane::virtqueue::QueueConfig;

use super::octets::Octets;
use super::ring_memory::{Cursor, RINGS, address, describe, length, poke, scribble};

/// The driver: its queues, and how far it has come in each.
pub(super) struct Driver {
    pub(super) mem: BusMemory,
    data_len: u64,
    pub(super) queues: Vec<QueueConfig>,
    avail: Vec<u16>,
    cursors: Vec<Cursor>,
}

impl Driver {
    /// With `data_len` bytes to point to.
    pub(super) fn new(mem: BusMemory, data_len: u64, queues: Vec<QueueConfig>) -> Self {
        let (avail, cursors) = (vec![0; queues.len()], vec![Cursor::START; queues.len()]);
        Self { mem, data_len, queues, avail, cursors }
    }

    /// The queue begins anew.
    pub(super) fn restart(&mut self, which: usize) {
        (self.avail[which], self.cursors[which]) = (0, Cursor::START);
    }

    /// One thing that a driver does, good or not.
    pub(super) fn step(&mut self, which: usize, script: &mut Octets<'_>) {
        let queue = self.queues[which];
        let size = queue.size.clamp(1, 32);
        match script.u8() % 6 {
            // A descriptor, in the ring, the table, or an indirect table.
            0 => {
                let table = if script.u8() & 3 == 0 { RINGS + 0x3000 } else { queue.desc };
                let at = table + 16 * u64::from(u16::from(script.u8()) % size);
                let (addr, len) = (address(script, self.data_len), length(script));
                describe(&self.mem, at, addr, len, [script.u16(), script.u16()]);
            }
            1 | 2 if queue.packed => self.offer_packed(which, script),
            // A chain of one or two buffers, as it should be.
            1 => {
                let head = u16::from(script.u8()) % size;
                let (addr, len) = (address(script, self.data_len), length(script));
                let flags = u16::from(script.u8()) & 7;
                let next = u16::from(script.u8()) % size;
                describe(&self.mem, queue.desc + 16 * u64::from(head), addr, len, [flags, next]);
                self.offer(which, head);
            }
            2 => self.offer(which, u16::from(script.u8()) % size),
            // What stands in the available ring or the event suppression.
            3 => {
                let at = queue.driver + u64::from(script.u8() % 80) / 2 * 2;
                poke(&self.mem, at, &script.u16().to_le_bytes());
            }
            4 => scribble(&self.mem, script),
            // A whole indirect table, and a descriptor for it.
            _ => {
                let count = u32::from(script.u8() % 8);
                for i in 0..count {
                    let (addr, len) = (address(script, self.data_len), length(script));
                    let last = [u16::from(script.u8()) & 7, u16::from(script.u8()) & 7];
                    let last = if queue.packed { [0, last[0]] } else { last };
                    describe(&self.mem, RINGS + 0x3000 + 16 * u64::from(i), addr, len, last);
                }
                let len = 16 * count + u32::from(script.u8() == 255);
                self.offer_indirect(which, len);
            }
        }
    }

    /// Makes the chain at `head` of a split queue available.
    pub(super) fn offer(&mut self, which: usize, head: u16) {
        let queue = &self.queues[which];
        let slot = self.avail[which] % queue.size.clamp(1, 32);
        poke(&self.mem, queue.driver + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.avail[which] = self.avail[which].wrapping_add(1);
        poke(&self.mem, queue.driver + 2, &self.avail[which].to_le_bytes());
    }

    /// Makes one descriptor of a packed queue available where the device looks for it.
    pub(super) fn offer_packed(&mut self, which: usize, script: &mut Octets<'_>) {
        let (addr, len) = (address(script, self.data_len), length(script));
        let (id, flags) = (script.u8().into(), u16::from(script.u8()) & 7);
        self.put_packed(which, addr, len, id, flags);
    }

    pub(super) fn put_packed(&mut self, which: usize, addr: u64, len: u32, id: u16, flags: u16) {
        let (queue, cursor) = (&self.queues[which], self.cursors[which]);
        let last = [id, flags | cursor.flags(false)];
        describe(&self.mem, queue.desc + 16 * u64::from(cursor.at), addr, len, last);
        self.cursors[which] = cursor.next(queue.size.clamp(1, 32));
    }

    pub(super) fn offer_indirect(&mut self, which: usize, len: u32) {
        let queue = self.queues[which];
        if queue.packed {
            let id = self.cursors[which].at;
            self.put_packed(which, RINGS + 0x3000, len, id, 4);
        } else {
            let head = self.avail[which] % queue.size.clamp(1, 32);
            let at = queue.desc + 16 * u64::from(head);
            describe(&self.mem, at, RINGS + 0x3000, len, [4, 0]);
            self.offer(which, head);
        }
    }
}
