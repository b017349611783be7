//! virtio-msg's bus binding "AMP over PCI", as QEMU's device `virtio-msg-amp-pci` (its virtio-msg RFC of
//! 2025) and Linux' driver `virtio_msg_amp_pci` have it. No standard describes it; these numbers are
//! what both programs do. Messages are of dialect v1.
//!
//! A PCI function of this kind:
//!
//! | BAR | what |
//! |---|---|
//! | 0, 16 KiB, registers of 32 bits, little-endian | [`AT_VERSION`], [`AT_FEATURES`], and from [`AT_NOTIFY`] on one for each FIFO |
//! | 1, memory, prefetchable | 16 KiB for each FIFO, of which there are 1 to [`MAX_FIFOS`] |
//! | 2 | MSI-X: vector i says that the device has put something into FIFO i |
//!
//! A FIFO's 16 KiB, which are a bus of their own with up to 32 devices:
//!
//! | offset | what |
//! |---|---|
//! | 0 | reserved |
//! | 4 KiB | the queue from driver to device |
//! | 8 KiB | the queue from device to driver |
//! | 12 KiB | reserved |
//!
//! A queue, all of it little-endian:
//!
//! | offset | writer | what |
//! |---|---|---|
//! | 0x00 | producer | head le32: the slot that is written next |
//! | 0x40 | consumer | tail le32: the slot that is read next |
//! | 0x80 | producer | 62 slots of 64 bytes, each with one message and zeros behind it |
//!
//! Head and tail count slots modulo 62. The queue is empty where they are equal, and full with 61
//! messages, where head is just behind tail. An end that starts goes on where its indices stand.
//!
//! Addresses in `SET_VQUEUE` and in descriptors are the PCI bus's, of the driver's machine's memory:
//! rings and buffers lie there, and nothing but messages in the function's.

/// The function's PCI vendor: Xilinx, for the time being.
pub const VENDOR: u16 = 0x10ee;
/// The function's PCI device number.
pub const DEVICE: u16 = 0x9039;

/// BAR of the registers.
pub const BAR_REGISTERS: u8 = 0;
/// BAR of the FIFOs' memory.
pub const BAR_MEMORY: u8 = 1;

/// Register, to be read: the version.
pub const AT_VERSION: usize = 0x00;
/// Register, to be read: features, of which there are none yet.
pub const AT_FEATURES: usize = 0x04;
/// Register of the first FIFO, to be written, with whatever: the driver has put something into it. The
/// next FIFO's is 4 bytes behind.
pub const AT_NOTIFY: usize = 0x20;
/// The version that there is.
pub const VERSION: u32 = 0x0001;

/// Most FIFOs of a function.
pub const MAX_FIFOS: u32 = 8;
/// Length of a FIFO's memory, in bytes.
pub const FIFO_LEN: u32 = 0x4000;
/// In a FIFO's memory: the queue from driver to device.
pub const TO_DEVICE: u32 = 0x1000;
/// In a FIFO's memory: the queue from device to driver.
pub const TO_DRIVER: u32 = 0x2000;

/// Length of a queue, in bytes.
pub const QUEUE_LEN: u32 = 0x1000;
/// In a queue: the head.
pub const AT_HEAD: usize = 0x00;
/// In a queue: the tail.
pub const AT_TAIL: usize = 0x40;
/// In a queue: the first slot.
pub const AT_SLOTS: usize = 0x80;
/// Length of a slot, in bytes, which is the greatest message.
pub const SLOT_LEN: usize = 64;
/// Slots of a queue, of which one is always empty.
pub const SLOTS: u32 = 62;

/// How many devices a driver asks for with `GET_DEVICES`, from 0 on; it takes no other answer.
pub const DEVICES: u16 = 32;

const _: () = assert!(AT_SLOTS + SLOTS as usize * SLOT_LEN <= QUEUE_LEN as usize);
const _: () = assert!(AT_SLOTS + (SLOTS as usize + 1) * SLOT_LEN > QUEUE_LEN as usize);
