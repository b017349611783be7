//! The registers of an "AMP over PCI" function (layout: [`crate::spec::amp_pci`]), at either end.
//!
//! Where a slot stands for the function there are none: doorbells do what they do.

use std::fmt;

use crate::memory::View;
use crate::spec::amp_pci as a;

/// The function has another version than this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherVersion(pub u32);

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the function has version {:#x}, this program knows {:#x}", self.0, a::VERSION)
    }
}

impl std::error::Error for OtherVersion {}

/// Device: what the driver is to read.
pub fn show(registers: View<'_>) {
    registers.store_le32(a::AT_FEATURES, 0);
    registers.store_release_le32(a::AT_VERSION, a::VERSION);
}

/// Driver: whether the function is one that it knows. Features may come; none has to be used.
///
/// # Errors
/// It has another version. All ones are a function that does not answer.
pub fn check(registers: View<'_>) -> Result<(), OtherVersion> {
    match registers.load_acquire_le32(a::AT_VERSION) {
        a::VERSION => Ok(()),
        other => Err(OtherVersion(other)),
    }
}

/// Driver: the offset of the register that says that a FIFO has something for the device; `None`: no
/// function has so many FIFOs. What is written there does not count.
pub fn notify(fifo: u32) -> Option<usize> {
    (fifo < a::MAX_FIFOS).then_some(a::AT_NOTIFY + 4 * fifo as usize)
}
