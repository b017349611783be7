//! The split virtqueue's layout (virtio 1.4 §2.7). All fields are little-endian.

/// Greatest queue size.
pub const MAX_SIZE: u16 = 32768;

/// Size of a descriptor: `addr` le64 at 0, `len` le32 at 8, `flags` le16 at 12, `next` le16 at 14.
pub const DESC_LEN: u32 = 16;
/// Alignment of a descriptor table.
pub const DESC_ALIGN: u64 = 16;
/// The chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer; else it reads it.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;

/// Alignment of an available ring.
pub const AVAIL_ALIGN: u64 = 2;
/// Offset of `idx` in either ring; `flags` stands at 0.
pub const RING_IDX: usize = 2;
/// Offset of the first entry in either ring.
pub const RING_ENTRIES: usize = 4;
/// `flags` of the available ring: no used buffer notifications wanted.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Alignment of a used ring.
pub const USED_ALIGN: u64 = 4;
/// Size of an entry of the used ring: `id` le32 at 0, `len` le32 at 4.
pub const USED_ENTRY_LEN: usize = 8;
/// `flags` of the used ring: no available buffer notifications wanted.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Length in bytes of the descriptor table of a queue of `size`.
pub const fn desc_len(size: u16) -> u32 {
    DESC_LEN * size as u32
}

/// Length in bytes of the available ring: flags, idx, entries, `used_event`.
pub const fn avail_len(size: u16) -> u32 {
    6 + 2 * size as u32
}

/// Offset of `used_event` in the available ring.
pub const fn used_event(size: u16) -> usize {
    RING_ENTRIES + 2 * size as usize
}

/// Length in bytes of the used ring: flags, idx, entries, `avail_event`.
pub const fn used_len(size: u16) -> u32 {
    6 + 8 * size as u32
}

/// Offset of `avail_event` in the used ring.
pub const fn avail_event(size: u16) -> usize {
    RING_ENTRIES + USED_ENTRY_LEN * size as usize
}
