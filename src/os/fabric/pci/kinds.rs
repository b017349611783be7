//! The kinds of boards that are known. To add one is to add an entry to [`KINDS`].

use std::ops::Range;

use crate::os::fabric::regions;

/// What is known of a kind of board: how its PCI function looks, and what lies where in it.
#[derive(Clone, Copy, Debug)]
pub struct BoardKind {
    /// What people call it.
    pub name: &'static str,
    /// The function's vendor id.
    pub vendor: u16,
    /// Its device id.
    pub device: u16,
    /// Its class and subclass, as in the upper two octets of the class code.
    pub class: u16,
    /// The BAR whose memory both ends share, as a power of two of bytes.
    pub memory: usize,
    /// Where in that memory of so many bytes the window lies, and where driver memory. Offsets are also
    /// the bus addresses that the board's end sees.
    pub regions: fn(u64) -> (Range<u64>, Range<u64>),
    /// How to interrupt the other end; `None`: it polls.
    pub doorbell: Option<DoorbellRegister>,
    /// The register that has this end's own number; `None`: it is 0.
    pub id: Option<Register>,
    /// MSI-X vectors that it must have at least where there are interrupts: the first is for messages,
    /// the others are the queue pairs'. 0: it has none, so this end polls.
    pub vectors: u16,
}

/// A register of 4 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The BAR it is in.
    pub bar: usize,
    /// Where in that, in bytes.
    pub offset: usize,
}

/// A register that interrupts the other end when it is written.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellRegister {
    /// Where it is.
    pub register: Register,
    /// What is written for this vector of this owner of the other end; `None`: it has no such doorbell.
    pub value: fn(owner: u32, vector: u16) -> Option<u32>,
}

/// All kinds, with ids that differ.
pub const KINDS: &[BoardKind] = &[
    // QEMU, "Device Specification for Inter-VM shared memory device": the guest's view of a slot.
    BoardKind {
        name: "ivshmem-doorbell",
        vendor: 0x1af4,
        device: 0x1110,
        class: 0x0500,
        memory: 2,
        regions,
        doorbell: Some(DoorbellRegister {
            register: Register { bar: 0, offset: 12 },
            value: |peer, vector| {
                Some(u32::from(u16::try_from(peer).ok()?) << 16 | u32::from(vector))
            },
        }),
        id: Some(Register { bar: 0, offset: 8 }),
        vectors: 1,
    },
];

impl BoardKind {
    /// The kind with these ids.
    pub fn of(vendor: u16, device: u16) -> Option<&'static Self> {
        KINDS.iter().find(|kind| (kind.vendor, kind.device) == (vendor, device))
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Its registers, as many as it has.
    pub(super) fn registers(&self) -> impl Iterator<Item = Register> {
        self.doorbell.map(|doorbell| doorbell.register).into_iter().chain(self.id)
    }

    /// The BAR of its registers, and up to where they reach in it, in bytes; they lie in one.
    pub(super) fn register_bar(&self) -> Option<(usize, usize)> {
        let end = self.registers().map(|register| register.offset + 4).max()?;
        Some((self.registers().next()?.bar, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_can_be_told_from_the_others_and_keeps_its_own_rules() {
        for (at, kind) in KINDS.iter().enumerate() {
            let same = |other: &BoardKind| {
                other.name == kind.name
                    || (other.vendor, other.device) == (kind.vendor, kind.device)
            };
            assert_eq!(KINDS.iter().position(same), Some(at), "{}", kind.name);
            assert!(!kind.name.contains([' ', '\n']) && kind.memory < 6, "{}", kind.name);
            let mut registers = kind.registers();
            let bar = registers.next().map(|register| register.bar);
            assert!(registers.all(|register| Some(register.bar) == bar), "{}", kind.name);
            let mut registers = kind.registers();
            assert!(registers.all(|r| r.offset % 4 == 0 && r.bar < 6 && r.bar != kind.memory));
            let (window, driver) = (kind.regions)(1 << 24);
            assert!(window.end <= driver.start || driver.end <= window.start);
            assert!(window.end.max(driver.end) <= 1 << 24);
        }
    }

    #[test]
    fn an_ivshmem_doorbell_names_peer_and_vector() {
        let kind = BoardKind::of(0x1af4, 0x1110).unwrap();
        let value = kind.doorbell.unwrap().value;
        assert_eq!((value(3, 2), value(0xffff, 0xffff)), (Some(0x0003_0002), Some(u32::MAX)));
        assert_eq!(value(0x1_0000, 0), None, "the register has 16 bits for it");
        assert_eq!(kind.register_bar(), Some((0, 16)));
    }
}
