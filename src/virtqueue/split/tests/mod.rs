//! What is particular to split rings.

mod events;
mod hostile;
mod octets;

use super::*;
use crate::memory::MemoryError;
use crate::virtqueue::Chain;
use crate::virtqueue::tests::*;

/// A descriptor's octets, put together field by field as §2.7.5 has them.
fn desc(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut d = [0; 16];
    d[0..8].copy_from_slice(&addr.to_le_bytes());
    d[8..12].copy_from_slice(&len.to_le_bytes());
    d[12..14].copy_from_slice(&flags.to_le_bytes());
    d[14..16].copy_from_slice(&next.to_le_bytes());
    d
}
