//! Bus memory: what a descriptor's or a message's address may mean.
//!
//! A [`BusMemory`] is a small table of regions, sorted by bus address. [`BusMemory::resolve`] turns
//! an address and a length that a peer wrote into a [`Span`], or into an error: never into something
//! that wraps, leaves its region, or is only partly there. A span is a plain value; the bytes behind
//! it are reached through a [`View`], which holds the memory for as long as it is used.
//!
//! Shared memory is never a Rust reference. Each access is an atomic load or store of the size that
//! the region's [`Kind`] allows, in [`mapping`], the only module below the OS edge with `unsafe`.

#[cfg(feature = "sim")]
pub mod cells;
#[cfg(any(test, not(target_has_atomic = "64")))]
mod halves;
pub mod mapping;

use std::fmt;
use std::sync::Arc;

pub use mapping::{Look, Mapping, ReadOnly, View, fence_full};

/// How a region's memory may be accessed by this machine's CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary coherent memory: any aligned access; system calls may copy to and from it.
    Cached,
    /// Stores are collected; aligned 4- and 8-byte accesses only, a store fence before a doorbell.
    WriteCombined,
    /// Aligned 4- and 8-byte accesses only.
    Uncached,
    /// Not mapped here at all: reached by a DMA engine only.
    DmaOnly,
}

/// Whose memory a region is. A CPU read of far memory waits for a round trip over the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This machine's own memory.
    Near,
    /// The other end's memory.
    Far,
}

/// One contiguous range of bus addresses and what stands behind it.
#[derive(Clone, Debug)]
pub struct Region {
    /// First bus address of the range.
    pub bus_addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whose memory it is.
    pub side: Side,
    /// Its bytes, and where in them the range begins; `None` for memory only an engine can reach.
    pub backing: Option<(Arc<Mapping>, usize)>,
}

impl Region {
    /// A region that is the part of `mapping` at `offset..offset + len`.
    pub fn mapped(
        bus_addr: u64,
        len: u64,
        side: Side,
        mapping: Arc<Mapping>,
        offset: usize,
    ) -> Self {
        Self { bus_addr, len, side, backing: Some((mapping, offset)) }
    }

    /// How the CPU may access it.
    pub fn kind(&self) -> Kind {
        self.backing.as_ref().map_or(Kind::DmaOnly, |(m, _)| m.kind())
    }

    fn end(&self) -> Option<u64> {
        self.bus_addr.checked_add(self.len)
    }
}

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No region holds the whole of the range.
    Outside {
        /// The bus address asked for.
        addr: u64,
        /// The length asked for, in bytes.
        len: u64,
    },
    /// The range is good, but the CPU cannot reach it.
    NotMapped {
        /// The bus address asked for.
        addr: u64,
    },
    /// The address must be a multiple of `align`.
    Misaligned {
        /// The bus address asked for.
        addr: u64,
        /// The alignment that is needed, in bytes.
        align: u64,
    },
    /// Regions of a table overlap, wrap around, or are larger than what stands behind them.
    BadTable {
        /// The bus address of the offending region.
        addr: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Outside { addr, len } => {
                write!(f, "bus address {addr:#x} with length {len} lies in no memory region")
            }
            Self::NotMapped { addr } => {
                write!(f, "bus address {addr:#x} can be reached by a DMA engine only")
            }
            Self::Misaligned { addr, align } => {
                write!(f, "bus address {addr:#x} is not a multiple of {align}")
            }
            Self::BadTable { addr } => {
                write!(f, "memory region at {addr:#x} overlaps another, wraps, or has no memory")
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// A range that [`BusMemory::resolve`] has checked. Valid for the table that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    region: u32,
    offset: usize,
    len: u32,
}

impl Span {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part from `from` to the end.
    ///
    /// # Panics
    /// If `from` is beyond the end: a span's user knows its length.
    #[must_use]
    pub fn skip(self, from: usize) -> Self {
        assert!(from <= self.len(), "skip beyond the end of a span");
        #[allow(clippy::cast_possible_truncation, reason = "from is at most a u32, as asserted")]
        let cut = from as u32;
        Self { region: self.region, offset: self.offset + from, len: self.len - cut }
    }

    /// The first `len` bytes, or all of it if it is shorter.
    #[must_use]
    pub fn take(self, len: usize) -> Self {
        Self { len: u32::try_from(len).map_or(self.len, |l| l.min(self.len)), ..self }
    }
}

/// The table of regions that addresses of one link are resolved in.
#[derive(Clone, Debug, Default)]
pub struct BusMemory {
    regions: Vec<Region>,
}

impl BusMemory {
    /// A table of these regions, which must neither overlap nor wrap, and must have their memory.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        regions.sort_by_key(|r| r.bus_addr);
        let mut free_from = 0;
        for r in &regions {
            let bad = MemoryError::BadTable { addr: r.bus_addr };
            let end = r.end().ok_or(bad)?;
            if r.bus_addr < free_from || r.len == 0 {
                return Err(bad);
            }
            if let Some((mapping, offset)) = &r.backing {
                let len = usize::try_from(r.len).map_err(|_| bad)?;
                if offset.checked_add(len).is_none_or(|end| end > mapping.len()) {
                    return Err(bad);
                }
            }
            free_from = end;
        }
        Ok(Self { regions })
    }

    /// The regions, by rising bus address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The span at `addr` of `len` bytes, all of which must lie in one region.
    pub fn resolve(&self, addr: u64, len: u32) -> Result<Span, MemoryError> {
        let outside = MemoryError::Outside { addr, len: len.into() };
        let index = self.regions.partition_point(|r| r.bus_addr <= addr);
        let index = index.checked_sub(1).ok_or(outside)?;
        let region = &self.regions[index];
        let offset = addr - region.bus_addr;
        if offset.checked_add(len.into()).is_none_or(|end| end > region.len) {
            return Err(outside);
        }
        let region = u32::try_from(index).map_err(|_| outside)?;
        Ok(Span { region, offset: usize::try_from(offset).map_err(|_| outside)?, len })
    }

    /// As [`resolve`](Self::resolve), for memory that the CPU will access in words: aligned to
    /// `align` bytes (on the bus as in this process), and mapped.
    pub fn resolve_mapped(&self, addr: u64, len: u32, align: u64) -> Result<Span, MemoryError> {
        let span = self.resolve(addr, len)?;
        let view = self.view(span).ok_or(MemoryError::NotMapped { addr })?;
        if addr % align != 0 || !view.is_aligned(align) {
            return Err(MemoryError::Misaligned { addr, align });
        }
        Ok(span)
    }

    /// Whose memory the span is.
    pub fn side(&self, span: Span) -> Side {
        self.regions[span.region as usize].side
    }

    /// How the CPU may access the span.
    pub fn kind(&self, span: Span) -> Kind {
        self.regions[span.region as usize].kind()
    }

    /// The bytes of the span; `None` where only a DMA engine can reach them.
    pub fn view(&self, span: Span) -> Option<View<'_>> {
        let (mapping, base) = self.regions[span.region as usize].backing.as_ref()?;
        Some(mapping.view(base + span.offset, span.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_regions() -> BusMemory {
        let m = Arc::new(Mapping::anonymous(0x3000, Kind::Cached));
        BusMemory::new(vec![
            Region::mapped(0x9000, 0x2000, Side::Far, m.clone(), 0x1000),
            Region::mapped(0x1000, 0x1000, Side::Near, m, 0),
        ])
        .unwrap()
    }

    #[test]
    fn a_span_lies_in_one_region_or_is_refused() {
        let mem = two_regions();
        assert_eq!(mem.side(mem.resolve(0x1000, 0x1000).unwrap()), Side::Near);
        assert_eq!(mem.side(mem.resolve(0xafff, 1).unwrap()), Side::Far);
        for (addr, len) in [
            (0x0, 8),
            (0xfff, 1),
            (0xfff, 2),
            (0x1fff, 2),
            (0x2000, 1),
            (0xb000, 1),
            (0xafff, 2),
            (u64::MAX, 1),
            (u64::MAX, u32::MAX),
            (0x1000, u32::MAX),
        ] {
            assert!(mem.resolve(addr, len).is_err(), "{addr:#x}+{len:#x}");
        }
        // The end of a region is an address of it only for an empty span.
        assert!(mem.resolve(0x2000, 0).is_ok());
        assert!(mem.resolve(0x2001, 0).is_err());
    }

    #[test]
    fn overlapping_wrapping_and_empty_tables_are_refused() {
        let m = Arc::new(Mapping::anonymous(0x2000, Kind::Cached));
        let near = |a, l, o| Region::mapped(a, l, Side::Near, m.clone(), o);
        assert!(BusMemory::new(vec![near(0, 0x1001, 0), near(0x1000, 0x1000, 0)]).is_err());
        assert!(BusMemory::new(vec![near(u64::MAX - 1, 0x1000, 0)]).is_err());
        assert!(BusMemory::new(vec![near(0, 0, 0)]).is_err());
        assert!(BusMemory::new(vec![near(0, 0x1001, 0x1000)]).is_err());
        assert!(BusMemory::new(vec![near(0, 0x1000, usize::MAX)]).is_err());
    }

    #[test]
    fn both_regions_reach_their_own_bytes() {
        let mem = two_regions();
        let near = mem.view(mem.resolve(0x1010, 8).unwrap()).unwrap();
        let far = mem.view(mem.resolve(0x9010, 8).unwrap()).unwrap();
        near.store_le32(0, 0x0403_0201);
        far.store_le32(0, 0x0807_0605);
        let mut b = [0; 4];
        near.copy_to(0, &mut b);
        assert_eq!(b, [1, 2, 3, 4]);
        far.copy_to(0, &mut b);
        assert_eq!(b, [5, 6, 7, 8]);
    }

    #[test]
    fn memory_without_a_mapping_resolves_but_has_no_bytes() {
        let mem = BusMemory::new(vec![Region {
            bus_addr: 0x4000_0000,
            len: 0x1000,
            side: Side::Far,
            backing: None,
        }])
        .unwrap();
        let span = mem.resolve(0x4000_0010, 16).unwrap();
        assert_eq!(mem.kind(span), Kind::DmaOnly);
        assert!(mem.view(span).is_none());
        assert_eq!(
            mem.resolve_mapped(0x4000_0010, 16, 4),
            Err(MemoryError::NotMapped { addr: 0x4000_0010 })
        );
    }
}
