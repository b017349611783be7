//! The window's own layout, version 1: what stands where in the board's shared memory.
//!
//! The header is at offset 0, in 64-byte lines with one writer each. All fields are little-endian.
//!
//! | line | writer | fields (offset in the line) |
//! |---|---|---|
//! | 0 | device | 0 magic le64, 8 layout version le32, 12 header length le32, 16 window length le64, 24 flags le32 |
//! | 1 | device | its part, as below |
//! | 2 | driver | its part, as below |
//! | 3, 4 | driver | the memory table: four entries of 0 bus address le64, 8 length le64, 16 kind le32; 32 bytes each |
//!
//! A part: 0 epoch le32, 4 heartbeat le32 (one 8-byte load takes both), 8 state le32, 12 echo of the
//! peer's epoch le32 (likewise), 16 owner le32, 20 vectors le32, 24 nonce le64, 32 mailbox's bus
//! address le64, 40 its slots le32, 44 slot number le32 (driver only), 48 flags le32. An end without accesses of 8
//! bytes writes the lower field of a pair first and reads it last: an echo of 0 beside RUN is one that
//! has yet to be written.
//!
//! A **mailbox** lies in memory near its owner: the owner reads there what the other end writes.
//! Line 0 holds `head`, the count of messages ever put into the owner's inbox; line 1 holds `tail`,
//! the count of messages the other end has ever taken from the owner's outbox; the slots of the inbox
//! follow. Both counts and all slots are written by the other end alone. So each end's polling reads
//! its own memory only, and across the bus there are only writes.

/// Size of a line, in bytes; no line has two writers.
pub const LINE: usize = 64;
/// "BRDLANE1", as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BRDLANE1");
/// The version of everything in this module.
pub const LAYOUT_VERSION: u32 = 1;
/// Bytes at the start of the window that are the header's.
pub const HEADER_LEN: u32 = 4096;

/// Offset of the magic; written last.
pub const AT_MAGIC: usize = 0;
/// Offset of the layout version.
pub const AT_VERSION: usize = 8;
/// Offset of the header's length.
pub const AT_HEADER_LEN: usize = 12;
/// Offset of the window's length.
pub const AT_WINDOW_LEN: usize = 16;

/// Offset of the flags, of which a device end that knows none wrote none.
pub const AT_FLAGS: usize = 24;
/// Flag: the device end reaches driver memory by DMA engine only. Its CPU neither reads nor writes
/// there, so the driver end puts its mailbox and its used rings into the window.
pub const FLAG_DMA_ONLY: u32 = 1;

/// Offset of the device end's part.
pub const DEVICE_PART: usize = LINE;
/// Offset of the driver end's part.
pub const DRIVER_PART: usize = 2 * LINE;
/// Offset of the memory table.
pub const MEMORY_TABLE: usize = 3 * LINE;
/// Entries of the memory table.
pub const MEMORY_ENTRIES: usize = 4;
/// Size of an entry of the memory table.
pub const MEMORY_ENTRY_LEN: usize = 32;
/// Kind of an entry: unused.
pub const MEMORY_NONE: u32 = 0;
/// Kind of an entry: the window, at the bus address where the driver end sees it.
pub const MEMORY_WINDOW: u32 = 1;
/// Kind of an entry: driver memory.
pub const MEMORY_DRIVER: u32 = 2;

/// In a part: the epoch, with the heartbeat in the upper half of its 8-byte word.
pub const PART_PULSE: usize = 0;
/// In a part: the state, with the echo in the upper half of its 8-byte word.
pub const PART_STATE: usize = 8;
/// In a part: the owner's id on its transport.
pub const PART_OWNER: usize = 16;
/// In a part: the number of doorbell vectors its owner listens on; 0 means that it polls.
pub const PART_VECTORS: usize = 20;
/// In a part: a random number that tells two claims of one owner apart.
pub const PART_NONCE: usize = 24;
/// In a part: the bus address of its mailbox.
pub const PART_MAILBOX: usize = 32;
/// In a part: the number of slots of its mailbox.
pub const PART_SLOTS: usize = 40;
/// In the driver's part: the slot number, for logs and derived addresses.
pub const PART_SLOT_NUMBER: usize = 44;

/// Greatest id that a transport gives. An owner who does not know his own, or has none, has a greater one: no
/// transport tells of him, only his heartbeat.
pub const MAX_ID: u32 = 0xffff;
/// In a part: its flags.
pub const PART_FLAGS: usize = 48;
/// Flag of a part: its owner can ring nobody, having no way to a doorbell of the other end, which has to look
/// by itself.
pub const PART_MUTE: u32 = 1;

/// State of a part: nothing in it counts yet.
pub const STATE_INIT: u32 = 0;
/// State of a part: set up, waiting for the other end.
pub const STATE_READY: u32 = 1;
/// State of a part: runs with the epoch that it echoes.
pub const STATE_RUN: u32 = 2;
/// State of a part: stopped in an orderly way.
pub const STATE_SHUTDOWN: u32 = 3;

/// In a mailbox: messages ever put in, modulo 2^32.
pub const MAILBOX_HEAD: usize = 0;
/// In a mailbox: messages ever taken out at the other end, modulo 2^32.
pub const MAILBOX_TAIL: usize = LINE;
/// In a mailbox: the first slot.
pub const MAILBOX_SLOTS: usize = 2 * LINE;
/// Size of a slot, which is the greatest message.
pub const SLOT_LEN: usize = 264;
/// Slots that our own mailboxes have; counts are reduced modulo it, so a power of two.
pub const SLOTS: u32 = 16;
/// Greatest number of slots that another end's mailbox may have.
pub const MAX_SLOTS: u32 = 1024;

/// Length in bytes of a mailbox of `slots` slots.
#[allow(clippy::cast_possible_truncation, reason = "below 300 kB for every valid count")]
pub const fn mailbox_len(slots: u32) -> u32 {
    (2 * LINE + SLOT_LEN * slots as usize) as u32
}

const _: () = assert!(PART_FLAGS + 4 <= LINE && SLOT_LEN % 8 == 0 && SLOTS.is_power_of_two());
const _: () = assert!(MEMORY_TABLE + MEMORY_ENTRIES * MEMORY_ENTRY_LEN <= HEADER_LEN as usize);
