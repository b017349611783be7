//! What is particular to packed rings.

mod events;
mod hostile;
mod octets;

use super::*;
use crate::memory::MemoryError;
use crate::virtqueue::tests::*;
use crate::virtqueue::{Area, Chain, QueueConfig, Used};

/// A descriptor's octets, put together field by field as §2.8.13 has them.
fn desc(addr: u64, len: u32, id: u16, flags: u16) -> [u8; 16] {
    let mut d = [0; 16];
    d[0..8].copy_from_slice(&addr.to_le_bytes());
    d[8..12].copy_from_slice(&len.to_le_bytes());
    d[12..14].copy_from_slice(&id.to_le_bytes());
    d[14..16].copy_from_slice(&flags.to_le_bytes());
    d
}

/// `AVAIL` and `USED` on the first lap: made available, used.
const AVAILABLE: u16 = 0x80;
const IS_USED: u16 = 0x8080;
/// The same on the second lap.
const AVAILABLE_2: u16 = 0x8000;
