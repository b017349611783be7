//! The other end's doorbell, whatever rings it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::doorbell::ring_full_or_not;
use crate::memory::{Mapping, fence_full};

/// A doorbell of the other end's. Clones ring the same one.
#[derive(Clone, Debug)]
pub enum Bell {
    /// An eventfd, which the other end may have made to block.
    Eventfd(Arc<OwnedFd>),
    /// A register of a board or a bus bridge, which never blocks.
    Register(Register),
}

/// A register that rings when this value is written to it.
#[derive(Clone, Debug)]
pub struct Register {
    mapping: Arc<Mapping>,
    offset: usize,
    value: u32,
}

impl Register {
    /// The register at `offset` of a mapping, a multiple of 4 in it; `None` if it does not lie there.
    pub fn new(mapping: Arc<Mapping>, offset: usize, value: u32) -> Option<Self> {
        let inside = offset % 4 == 0 && offset.checked_add(4)? <= mapping.len();
        inside.then_some(Self { mapping, offset, value })
    }

    /// Writes the value, little-endian, in one store of 4 bytes. What was written before, to whichever
    /// kind of memory, comes out before it: a write-combining buffer drains in any order, and the other end
    /// looks as soon as it hears (its partner is the acquire load of an index or of a FIFO's head there).
    pub fn write(&self) {
        fence_full();
        self.mapping.view(self.offset, 4).store_le32(0, self.value);
    }
}

impl Bell {
    /// Rings. With an eventfd this may block, as [`ring_full_or_not`] says.
    pub fn ring(&self) {
        match self {
            Self::Eventfd(fd) => ring_full_or_not(fd),
            Self::Register(register) => register.write(),
        }
    }

    /// The eventfd, if it is one: what the kernel can ring by itself.
    pub fn eventfd(&self) -> Option<&Arc<OwnedFd>> {
        match self {
            Self::Eventfd(fd) => Some(fd),
            Self::Register(_) => None,
        }
    }
}

impl From<Arc<OwnedFd>> for Bell {
    fn from(fd: Arc<OwnedFd>) -> Self {
        Self::Eventfd(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Kind;

    #[test]
    fn a_register_gets_its_value_in_little_endian() {
        let registers = Arc::new(Mapping::anonymous(16, Kind::Uncached));
        Bell::Register(Register::new(registers.clone(), 12, 0x0003_0001).unwrap()).ring();
        let mut octets = [0; 8];
        registers.view(8, 8).copy_to(0, &mut octets);
        assert_eq!(octets, [0, 0, 0, 0, 1, 0, 3, 0]);
    }

    #[test]
    fn a_register_outside_its_mapping_is_none() {
        let registers = Arc::new(Mapping::anonymous(16, Kind::Uncached));
        for offset in [2, 14, 16, usize::MAX - 3] {
            assert!(Register::new(registers.clone(), offset, 0).is_none(), "{offset}");
        }
    }
}
