//! Rings by hand: octets at their places, and no rule kept that a case wants to break.

use std::sync::Arc;

use boardlane::memory::BusMemory;
use boardlane::virtqueue::QueueConfig;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Packed descriptors' `AVAIL` and `USED`.
pub(crate) const AVAIL: u16 = 0x80;
pub(crate) const USED: u16 = 0x8000;
/// Entries of an attacker's queues.
pub(crate) const SIZE: u16 = 64;

/// Address, length, flags.
pub(crate) type Piece = (u64, u32, u16);

pub(crate) fn poke(mem: &BusMemory, at: u64, octets: &[u8]) {
    let len = u32::try_from(octets.len()).unwrap();
    mem.view(mem.resolve(at, len).unwrap()).unwrap().copy_from(0, octets);
}

pub(crate) fn peek<const N: usize>(mem: &BusMemory, at: u64) -> [u8; N] {
    let mut octets = [0; N];
    let len = u32::try_from(N).unwrap();
    mem.view(mem.resolve(at, len).unwrap()).unwrap().copy_to(0, &mut octets);
    octets
}

/// One queue, as either end may scribble in it.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    mem: Arc<BusMemory>,
    pub(crate) config: QueueConfig,
    /// Split: the available index. Packed: how many descriptors were made available.
    pub(crate) avail: u16,
    /// Split: the used index. Packed: how many descriptors were used.
    pub(crate) used: u16,
}

impl Ring {
    pub(crate) fn of(mem: &Arc<BusMemory>, config: QueueConfig) -> Self {
        Self { mem: mem.clone(), config, avail: 0, used: 0 }
    }

    /// An attacker's queue, whose areas begin at `at`, at half a page's distance.
    pub(crate) fn at(mem: &Arc<BusMemory>, at: u64, packed: bool) -> Self {
        let config = QueueConfig {
            size: SIZE,
            desc: at,
            driver: at + 0x800,
            device: at + 0x1000,
            packed,
            in_order: false,
            event_idx: true,
            indirect: true,
        };
        poke(mem, at, &[0; 0x1800]);
        Self::of(mem, config)
    }

    fn size(&self) -> u16 {
        self.config.size
    }

    /// The octets of a descriptor: split has flags and next behind the length, packed id and flags.
    pub(crate) fn write(&self, at: u16, addr: u64, len: u32, last: [u16; 2]) {
        write_desc(&self.mem, self.config.desc, at, addr, len, last);
    }

    pub(crate) fn read(&self, at: u16) -> (u64, u32, [u16; 2]) {
        let octets: [u8; 16] = peek(&self.mem, self.config.desc + 16 * u64::from(at));
        let half = |i: usize| u16::from_le_bytes([octets[i], octets[i + 1]]);
        let addr = u64::from_le_bytes(octets[..8].try_into().unwrap());
        (addr, u32::from_le_bytes(octets[8..12].try_into().unwrap()), [half(12), half(14)])
    }

    // The driver's end.

    /// Makes a chain available as a driver should, `NEXT` added.
    pub(crate) fn send(&mut self, pieces: &[Piece]) {
        let count = u16::try_from(pieces.len()).unwrap();
        let next = |i: u16| if i + 1 < count { NEXT } else { 0 };
        if self.config.packed {
            for (i, (addr, len, flags)) in (0..count).zip(pieces).rev() {
                let (at, lap) = self.lap(self.avail.wrapping_add(i));
                let lap = if lap { AVAIL } else { USED };
                self.write(at, *addr, *len, [self.avail % self.size(), flags | next(i) | lap]);
            }
            self.avail = self.avail.wrapping_add(count);
            return;
        }
        let at = |i: u16| (self.avail.wrapping_mul(4).wrapping_add(i)) % self.size();
        for (i, (addr, len, flags)) in (0..count).zip(pieces) {
            self.write(at(i), *addr, *len, [flags | next(i), at(i + 1)]);
        }
        self.offer(at(0));
    }

    /// Split: makes the chain at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        let at = self.config.driver + 4 + 2 * u64::from(self.avail % self.size());
        poke(&self.mem, at, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.set_avail(self.avail);
    }

    /// Split: the available index.
    pub(crate) fn set_avail(&self, index: u16) {
        poke(&self.mem, self.config.driver + 2, &index.to_le_bytes());
    }

    /// How much the device has used: split by its index, packed by its descriptors.
    pub(crate) fn used_by_device(&self) -> u16 {
        if !self.config.packed {
            return u16::from_le_bytes(peek(&self.mem, self.config.device + 2));
        }
        let mut used = self.used;
        while used != self.avail {
            let (at, lap) = self.lap(used);
            let [_, flags] = self.read(at).2;
            if (flags & (AVAIL | USED)) != if lap { AVAIL | USED } else { 0 } {
                break;
            }
            used = used.wrapping_add(1);
        }
        used
    }

    // The device's end.

    /// The next available chain, of one descriptor: name, address, length.
    pub(crate) fn next(&mut self) -> Option<(u16, u64, u32)> {
        if self.config.packed {
            let (at, lap) = self.lap(self.avail);
            let (addr, len, [id, flags]) = self.read(at);
            let there = flags & (AVAIL | USED) == if lap { AVAIL } else { USED };
            self.avail = self.avail.wrapping_add(there.into());
            return there.then_some((id, addr, len));
        }
        let index = u16::from_le_bytes(peek(&self.mem, self.config.driver + 2));
        if index == self.avail {
            return None;
        }
        let at = self.config.driver + 4 + 2 * u64::from(self.avail % self.size());
        let head = u16::from_le_bytes(peek(&self.mem, at));
        self.avail = self.avail.wrapping_add(1);
        let (addr, len, [flags, _]) = self.read(head);
        if flags & INDIRECT == 0 {
            return Some((head, addr, len));
        }
        let octets: [u8; 12] = peek(&self.mem, addr);
        let addr = u64::from_le_bytes(octets[..8].try_into().unwrap());
        Some((head, addr, u32::from_le_bytes(octets[8..].try_into().unwrap())))
    }

    /// Uses a chain, known or not.
    pub(crate) fn give(&mut self, id: u32, len: u32) {
        if self.config.packed {
            let (at, lap) = self.lap(self.used);
            let lap = if lap { AVAIL | USED } else { 0 };
            self.write(at, 0, len, [id as u16, lap | WRITE]);
            self.used = self.used.wrapping_add(1);
            return;
        }
        let at = self.config.device + 4 + 8 * u64::from(self.used % self.size());
        poke(&self.mem, at, &[id.to_le_bytes(), len.to_le_bytes()].concat());
        self.used = self.used.wrapping_add(1);
        self.set_used(self.used);
    }

    /// Split: the used index.
    pub(crate) fn set_used(&self, index: u16) {
        poke(&self.mem, self.config.device + 2, &index.to_le_bytes());
    }

    /// Where a packed ring's `count`th descriptor stands, and its wrap counter.
    fn lap(&self, count: u16) -> (u16, bool) {
        (count % self.size(), count / self.size() % 2 == 0)
    }
}

/// Writes a descriptor of a table.
pub(crate) fn write_desc(
    mem: &BusMemory,
    table: u64,
    at: u16,
    addr: u64,
    len: u32,
    last: [u16; 2],
) {
    let octets = [
        &addr.to_le_bytes()[..],
        &len.to_le_bytes(),
        &last[0].to_le_bytes(),
        &last[1].to_le_bytes(),
    ];
    poke(mem, table + 16 * u64::from(at), &octets.concat());
}
