//! VFIO's requests and structures (linux/vfio.h), as far as they are used here.
//!
//! Every request is an `_IO(';', 100 + n)`: the number says nothing of its argument.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

pub(super) const GET_API_VERSION: Opcode = request(0);
pub(super) const CHECK_EXTENSION: Opcode = request(1);
pub(super) const SET_IOMMU: Opcode = request(2);
pub(super) const GROUP_GET_STATUS: Opcode = request(3);
pub(super) const GROUP_SET_CONTAINER: Opcode = request(4);
pub(super) const GROUP_GET_DEVICE_FD: Opcode = request(6);
pub(super) const DEVICE_GET_INFO: Opcode = request(7);
pub(super) const DEVICE_GET_REGION_INFO: Opcode = request(8);
pub(super) const DEVICE_GET_IRQ_INFO: Opcode = request(9);
pub(super) const DEVICE_SET_IRQS: Opcode = request(10);

const fn request(number: u8) -> Opcode {
    opcode::none(b';', 100 + number)
}

/// What opens a device, for who lists what a process may call. They have 32 bits.
#[allow(clippy::unnecessary_cast, reason = "a C library's type may be wider")]
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits")]
pub const OPENING: [u32; 6] = [
    GET_API_VERSION as u32,
    CHECK_EXTENSION as u32,
    SET_IOMMU as u32,
    GROUP_GET_STATUS as u32,
    GROUP_SET_CONTAINER as u32,
    GROUP_GET_DEVICE_FD as u32,
];

/// What is done with an open one.
#[allow(clippy::unnecessary_cast, reason = "a C library's type may be wider")]
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits")]
pub const USING: [u32; 4] = [
    DEVICE_GET_INFO as u32,
    DEVICE_GET_REGION_INFO as u32,
    DEVICE_GET_IRQ_INFO as u32,
    DEVICE_SET_IRQS as u32,
];

/// The one version of the interface.
pub(super) const API_VERSION: i32 = 0;
/// An IOMMU as most are.
pub(super) const TYPE1V2_IOMMU: usize = 3;
/// A group may be used: all its functions are with VFIO, or with nobody.
pub(super) const GROUP_VIABLE: u32 = 1;
/// A device is a PCI function.
pub(super) const DEVICE_PCI: u32 = 1 << 1;
/// A region can be mapped.
pub(super) const REGION_MMAP: u32 = 1 << 2;
/// A region's description goes on.
pub(super) const REGION_CAPS: u32 = 1 << 3;
/// In that: the only parts that can be mapped.
pub(super) const CAP_SPARSE_MMAP: u16 = 1;
/// The region that is the config space; those before it are the BARs.
pub(super) const CONFIG_REGION: u32 = 7;
/// Interrupts: MSI-X; an uncorrectable error; the kernel wants the device back.
pub(super) const IRQ_MSIX: u32 = 2;
pub(super) const IRQ_ERROR: u32 = 3;
pub(super) const IRQ_REQUEST: u32 = 4;
/// Eventfds come with it, and are to be triggered.
pub(super) const IRQ_EVENTFDS: u32 = 1 << 2 | 1 << 5;
/// None does, so they are triggered no more.
pub(super) const IRQ_NONE: u32 = 1 << 0 | 1 << 5;

/// The length in bytes of a structure, as its first word tells it.
#[allow(clippy::cast_possible_truncation, reason = "they have a few bytes")]
pub(super) const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// `struct vfio_group_status`.
#[repr(C)]
#[derive(Default)]
pub(super) struct GroupStatus {
    pub(super) argsz: u32,
    pub(super) flags: u32,
}

/// `struct vfio_device_info`, as far as all kernels have it.
#[repr(C)]
#[derive(Default)]
pub(super) struct DeviceInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) num_regions: u32,
    pub(super) num_irqs: u32,
}

/// `struct vfio_irq_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IrqInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// Octets that `struct vfio_region_info` and what follows it may have: a sparse BAR has few parts.
pub(super) const REGION_ROOM: usize = 4096;

/// What `struct vfio_region_info` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Length in bytes.
    pub(super) size: u64,
    /// Where it is in the device's file, in bytes.
    pub(super) offset: u64,
    /// What can be mapped of it: places and lengths in bytes.
    pub(super) mappable: Vec<(u64, u64)>,
}

impl Region {
    /// Reads the structure: argsz, flags, index, cap_offset, size, offset, then capabilities.
    pub(super) fn parse(octets: &[u8; REGION_ROOM]) -> Self {
        let le32 = |at: usize| word(octets, at).map_or(0, u32::from_ne_bytes);
        let le64 = |at: usize| word(octets, at).map_or(0, u64::from_ne_bytes);
        let (flags, size, offset) = (le32(4), le64(16), le64(24));
        let mut mappable = Vec::new();
        if flags & REGION_MMAP != 0 {
            mappable.push((0, size));
            let mut at = if flags & REGION_CAPS != 0 { le32(12) as usize } else { 0 };
            // Each is behind the one before it, so they end.
            while at >= 32 && at + 8 <= REGION_ROOM {
                let id = word(octets, at).map_or(0, u16::from_ne_bytes);
                if id == CAP_SPARSE_MMAP {
                    let places = (0..le32(at + 8) as usize).map(|i| at + 16 + 16 * i);
                    let places = places.take_while(|at| at + 16 <= REGION_ROOM);
                    mappable = places.map(|at| (le64(at), le64(at + 8))).collect();
                }
                let next = le32(at + 4) as usize;
                at = if next > at { next } else { 0 };
            }
        }
        Self { size, offset, mappable }
    }

    /// Whether the first `len` bytes can be mapped.
    pub(super) fn maps(&self, len: u64) -> bool {
        self.mappable.iter().any(|(at, room)| *at == 0 && len <= *room)
    }
}

fn word<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..at.checked_add(N)?)?.try_into().ok()
}

struct Call {
    request: Opcode,
    argument: *mut c_void,
}

// SAFETY: the request and its argument are passed on as they are, and what is given is the call's result.
unsafe impl Ioctl for Call {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(
        result: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(result)
    }
}

/// Makes a request; gives what it returns.
///
/// # Safety
/// `argument` is what the request takes: a number, or the address of its structure.
pub(super) unsafe fn call(
    fd: impl AsFd,
    request: Opcode,
    argument: *mut c_void,
) -> Result<i32, Errno> {
    // SAFETY: the caller's promise.
    unsafe { ioctl(fd, Call { request, argument }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(flags: u32, caps: &[(usize, &[u64])]) -> [u8; REGION_ROOM] {
        let mut octets = [0; REGION_ROOM];
        let mut put = |at: usize, word: u64, len: usize| {
            let bytes = word.to_ne_bytes();
            let bytes = if cfg!(target_endian = "big") { &bytes[8 - len..] } else { &bytes[..len] };
            octets[at..at + len].copy_from_slice(bytes);
        };
        put(4, flags.into(), 4);
        put(12, caps.first().map_or(0, |(at, _)| *at as u64), 4);
        put(16, 0x10000, 8);
        put(24, 2 << 40, 8);
        for (at, words) in caps {
            put(*at, words[0], 2);
            put(at + 4, words[1], 4);
            put(at + 8, words[2], 4);
            for (i, word) in words[3..].iter().enumerate() {
                put(at + 16 + 8 * i, *word, 8);
            }
        }
        octets
    }

    #[test]
    fn a_region_says_what_can_be_mapped_of_it() {
        let region = Region::parse(&info(0, &[]));
        assert_eq!((region.size, region.offset, region.maps(1)), (0x10000, 2 << 40, false));
        let region = Region::parse(&info(REGION_MMAP, &[]));
        assert_eq!((region.maps(0x10000), region.maps(0x10001)), (true, false));
        // As of a BAR with the MSI-X table in its third page, behind a capability that is none of ours.
        let sparse = [1, 0, 2, 0, 0x2000, 0x3000, 0xd000];
        let region =
            Region::parse(&info(REGION_MMAP | REGION_CAPS, &[(32, &[3, 48, 0]), (48, &sparse)]));
        assert_eq!(region.mappable, [(0, 0x2000), (0x3000, 0xd000)]);
        assert_eq!((region.maps(0x2000), region.maps(0x2001)), (true, false));
    }

    #[test]
    fn capabilities_that_lead_nowhere_end() {
        for cap in [[3, 32, 0], [3, 4, 0], [3, u64::from(u32::MAX), 0], [1, 0, u64::from(u32::MAX)]]
        {
            let region = Region::parse(&info(REGION_MMAP | REGION_CAPS, &[(32, &cap)]));
            assert!(region.mappable.len() <= REGION_ROOM / 16);
        }
        // One that says that it has more parts than there is room for.
        let octets = info(REGION_MMAP | REGION_CAPS, &[(REGION_ROOM - 96, &[1, 0, 9])]);
        assert!(Region::parse(&octets).mappable.len() <= 6);
    }
}
