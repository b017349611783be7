//! The same bytes as vm-memory's guest memory and as bus memory.

#![allow(unsafe_code, reason = "both see one mapping, which is not ours")]

use std::ptr::NonNull;
use std::sync::Arc;

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub(super) type Guest = GuestMemoryMmap<()>;

/// One memory under two names.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) guest: Guest,
    pub(super) mem: BusMemory,
    /// Address and length of each region, sorted.
    pub(super) regions: Vec<(u64, u32)>,
}

impl Image {
    pub(super) fn new(regions: &[(u64, u32)]) -> Self {
        let ranges: Vec<_> = regions
            .iter()
            .map(|&(at, len)| (GuestAddress(at), usize::try_from(len).unwrap()))
            .collect();
        let guest = Guest::from_ranges(&ranges).unwrap();
        let ours = regions.iter().map(|&(at, len)| {
            let base = NonNull::new(guest.get_host_address(GuestAddress(at)).unwrap()).unwrap();
            let bytes = usize::try_from(len).unwrap();
            // SAFETY: the guest memory, of which a clone is kept, maps these bytes. Others reach them
            // by volatile accesses, or by pointers that virtio-drivers has; what is no atomic access
            // of these is ordered by the ring's indices, and never meets one of ours.
            let mapping =
                unsafe { Mapping::from_raw(base, bytes, Kind::Cached, Box::new(guest.clone())) };
            Region::mapped(at, len.into(), Side::Near, Arc::new(mapping), 0)
        });
        let mem = BusMemory::new(ours.collect()).unwrap();
        Self { guest, mem, regions: regions.to_vec() }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.guest.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(super) fn write_half(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    pub(super) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.guest.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Whether all of the range lies in one region.
    pub(super) fn holds(&self, at: u64, len: u32) -> bool {
        let (at, len) = (u128::from(at), u128::from(len));
        let mut regions =
            self.regions.iter().map(|&(from, len)| (u128::from(from), u128::from(len)));
        regions.any(|(from, size)| from <= at && at + len <= from + size)
    }
}
