//! Tests of either format, and what all tests of rings share: memory with an area in each region,
//! and raw octets.

mod batches;
#[cfg(feature = "sim")]
mod cuts;
mod pairs;
mod races;
mod restarts;
mod starts;
mod suppression;

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::memory::{Kind, Mapping, Region, Side, Span};

/// The window: descriptor and driver area, indirect tables.
pub(in crate::virtqueue) const WINDOW: u64 = 0x4000_0000;
pub(in crate::virtqueue) const AVAIL: u64 = WINDOW + 0x2000;
pub(in crate::virtqueue) const TABLES: u64 = WINDOW + 0x3000;
/// The driver's memory: the device area, then buffers.
pub(in crate::virtqueue) const HOST: u64 = 0x1_2345_0000;
pub(in crate::virtqueue) const BUFFERS: u64 = HOST + 0x2000;
pub(in crate::virtqueue) const BUFFERS_LEN: u32 = 0x10_0000;

/// Two regions of memory of these kinds, which stand apart.
pub(in crate::virtqueue) fn memory(window: Kind, host: Kind) -> BusMemory {
    let (window_len, host_len) = (0x2_0000, 0x2000 + u64::from(BUFFERS_LEN));
    let w = Arc::new(Mapping::anonymous(window_len as usize, window));
    let h = Arc::new(Mapping::anonymous(host_len as usize, host));
    BusMemory::new(vec![
        Region::mapped(WINDOW, window_len, Side::Far, w, 0),
        Region::mapped(HOST, host_len, Side::Near, h, 0),
    ])
    .unwrap()
}

/// An address that no region holds.
pub(in crate::virtqueue) const NOWHERE: u64 = 0x9999_0000;
/// A region that only a DMA engine can reach.
pub(in crate::virtqueue) const ENGINE: u64 = 0x8_0000_0000;

/// Memory as the other tests have it, and some that is 5 GiB large but not mapped.
pub(in crate::virtqueue) fn with_engine_memory() -> BusMemory {
    let mut regions = memory(Kind::Cached, Kind::Cached).regions().to_vec();
    let len = 5 << 30;
    regions.push(Region { bus_addr: ENGINE, len, side: Side::Far, backing: None });
    BusMemory::new(regions).unwrap()
}

/// A split queue, used in any order.
pub(in crate::virtqueue) fn config(size: u16, event_idx: bool, indirect: bool) -> QueueConfig {
    QueueConfig {
        size,
        desc: WINDOW,
        driver: AVAIL,
        device: HOST,
        packed: false,
        in_order: false,
        event_idx,
        indirect,
    }
}

/// A packed queue, used in any order.
pub(in crate::virtqueue) fn packed_config(
    size: u16,
    event_idx: bool,
    indirect: bool,
) -> QueueConfig {
    QueueConfig { packed: true, ..config(size, event_idx, indirect) }
}

/// Writes octets at a bus address.
pub(in crate::virtqueue) fn poke(mem: &BusMemory, addr: u64, octets: &[u8]) {
    let span = mem.resolve(addr, octets.len() as u32).unwrap();
    mem.view(span).unwrap().copy_from(0, octets);
}

/// Reads octets at a bus address.
pub(in crate::virtqueue) fn peek<const N: usize>(mem: &BusMemory, addr: u64) -> [u8; N] {
    let mut octets = [0; N];
    mem.view(mem.resolve(addr, N as u32).unwrap()).unwrap().copy_to(0, &mut octets);
    octets
}

pub(in crate::virtqueue) fn buffer(addr: u64, len: u32) -> Buffer {
    Buffer { addr, len }
}

/// Small, repeatable, good enough to mix things up (xorshift64*).
pub(in crate::virtqueue) struct Random(pub(in crate::virtqueue) u64);

impl Random {
    pub(in crate::virtqueue) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }
}
