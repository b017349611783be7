//! The packed virtqueue's layout (virtio 1.4 §2.8). All fields are little-endian.

/// Greatest queue size; any size from 1 to it will do.
pub const MAX_SIZE: u16 = 32768;

/// Size of a descriptor: `addr` le64 at 0, `len` le32 at 8, `id` le16 at 12, `flags` le16 at 14.
pub const DESC_LEN: u32 = 16;
/// Alignment of the descriptor ring.
pub const DESC_ALIGN: u64 = 16;
/// Offset of the word that holds `len`, `id` and `flags`.
pub const DESC_WORD: usize = 8;
/// The list goes on with the next descriptor.
pub const DESC_F_NEXT: u16 = 1;
/// Available: the device writes the buffer; else it reads it. Used: the device has written bytes.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// The driver's wrap counter as it made the descriptor available.
pub const DESC_F_AVAIL: u16 = 0x80;
/// The device's wrap counter as it used the descriptor, and till then the opposite of `AVAIL`.
pub const DESC_F_USED: u16 = 0x8000;

/// Length in bytes of an event suppression structure: `desc` le16 at 0, `flags` le16 at 2.
pub const EVENT_LEN: u32 = 4;
/// Alignment of an event suppression structure.
pub const EVENT_ALIGN: u64 = 4;
/// The wrap counter in `desc`; what is below is the offset in the ring, in descriptors.
pub const EVENT_WRAP: u16 = 0x8000;
/// The bits of `flags` that are not reserved.
pub const EVENT_FLAGS: u16 = 3;
/// `flags`: notifications are wanted.
pub const EVENT_ENABLE: u16 = 0;
/// `flags`: none are wanted.
pub const EVENT_DISABLE: u16 = 1;
/// `flags`: one is wanted when the descriptor that `desc` names changes; needs `EVENT_IDX`.
pub const EVENT_DESC: u16 = 2;

/// Length in bytes of the descriptor ring of a queue of `size`.
pub const fn desc_len(size: u16) -> u32 {
    DESC_LEN * size as u32
}
