//! What the tests of the two halves share: memory with an area in each region, and raw octets.

mod hostile;
mod octets;
mod pairs;
mod races;
mod suppression;

use std::sync::Arc;

use super::*;
use crate::memory::{Mapping, Region, Side};
use crate::virtqueue::Buffer;

/// The window: descriptor table, available ring, indirect tables.
const WINDOW: u64 = 0x4000_0000;
const AVAIL: u64 = WINDOW + 0x2000;
const TABLES: u64 = WINDOW + 0x3000;
/// The driver's memory: the used ring, then buffers.
const HOST: u64 = 0x1_2345_0000;
const BUFFERS: u64 = HOST + 0x2000;
const BUFFERS_LEN: u32 = 0x10_0000;

/// Two regions of memory of these kinds, which stand apart.
fn memory(window: Kind, host: Kind) -> BusMemory {
    let (window_len, host_len) = (0x2_0000, 0x2000 + u64::from(BUFFERS_LEN));
    let w = Arc::new(Mapping::anonymous(window_len as usize, window));
    let h = Arc::new(Mapping::anonymous(host_len as usize, host));
    BusMemory::new(vec![
        Region::mapped(WINDOW, window_len, Side::Far, w, 0),
        Region::mapped(HOST, host_len, Side::Near, h, 0),
    ])
    .unwrap()
}

fn config(size: u16, event_idx: bool, indirect: bool) -> QueueConfig {
    QueueConfig { size, desc: WINDOW, driver: AVAIL, device: HOST, event_idx, indirect }
}

/// Writes octets at a bus address.
fn poke(mem: &BusMemory, addr: u64, octets: &[u8]) {
    let span = mem.resolve(addr, octets.len() as u32).unwrap();
    mem.view(span).unwrap().copy_from(0, octets);
}

/// Reads octets at a bus address.
fn peek<const N: usize>(mem: &BusMemory, addr: u64) -> [u8; N] {
    let mut octets = [0; N];
    mem.view(mem.resolve(addr, N as u32).unwrap()).unwrap().copy_to(0, &mut octets);
    octets
}

/// A descriptor's octets, put together field by field as §2.7.5 has them.
fn desc(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut d = [0; 16];
    d[0..8].copy_from_slice(&addr.to_le_bytes());
    d[8..12].copy_from_slice(&len.to_le_bytes());
    d[12..14].copy_from_slice(&flags.to_le_bytes());
    d[14..16].copy_from_slice(&next.to_le_bytes());
    d
}

fn buffer(addr: u64, len: u32) -> Buffer {
    Buffer { addr, len }
}

/// Small, repeatable, good enough to mix things up (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }
}
