//! The memory that a front-end shares: by bus address, and by its own addresses.

use std::sync::Arc;

use super::back_end::Descriptor;
use super::message::MemoryRegion;
use super::refusal::Refusal;
use crate::memory::{BusMemory, Mapping, MemoryError, Region, Side};
use crate::spec::vhost_user::MAX_REGIONS;

/// The regions that there are. A change that is refused changes nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedMemory {
    regions: Vec<(MemoryRegion, Arc<Mapping>)>,
    memory: Arc<BusMemory>,
}

impl SharedMemory {
    pub(super) fn memory(&self) -> &Arc<BusMemory> {
        &self.memory
    }

    /// The bus address of what the front-end has at an address of its own.
    pub(super) fn bus_addr(&self, user_addr: u64) -> Result<u64, MemoryError> {
        let found = self.regions.iter().find_map(|(region, _)| {
            let offset = user_addr.checked_sub(region.user_addr)?;
            (offset < region.len).then(|| region.bus_addr + offset)
        });
        found.ok_or(MemoryError::Outside { addr: user_addr, len: 1 })
    }

    /// These regions, in place of all others.
    pub(super) fn set<F: Descriptor>(
        &mut self,
        regions: &[MemoryRegion],
        fds: &[F],
    ) -> Result<(), Refusal> {
        let mapped = regions.iter().zip(fds).map(|(region, fd)| map(region, fd));
        self.replace(mapped.collect::<Result<_, _>>()?)
    }

    pub(super) fn add<F: Descriptor>(
        &mut self,
        region: MemoryRegion,
        fds: &[F],
    ) -> Result<(), Refusal> {
        let mut regions = self.regions.clone();
        for fd in fds {
            regions.push(map(&region, fd)?);
        }
        self.replace(regions)
    }

    pub(super) fn remove(&mut self, region: MemoryRegion) -> Result<(), Refusal> {
        let mut regions = self.regions.clone();
        let key = |r: &MemoryRegion| (r.bus_addr, r.len, r.user_addr);
        let at = regions.iter().position(|(r, _)| key(r) == key(&region));
        regions.remove(at.ok_or(Refusal::NoSuchRegion(region))?);
        self.replace(regions)
    }

    fn replace(&mut self, regions: Vec<(MemoryRegion, Arc<Mapping>)>) -> Result<(), Refusal> {
        if regions.len() > MAX_REGIONS {
            return Err(Refusal::Regions);
        }
        let mut own: Vec<_> = regions.iter().map(|(r, _)| (r.user_addr, r.len)).collect();
        own.sort_unstable();
        for pair in own.windows(2) {
            // None wraps, as `map` has looked.
            if pair[0].0 + pair[0].1 > pair[1].0 {
                return Err(Refusal::Table(MemoryError::BadTable { addr: pair[1].0 }));
            }
        }
        let table = regions
            .iter()
            .map(|(r, mapping)| Region::mapped(r.bus_addr, r.len, Side::Near, mapping.clone(), 0));
        self.memory = Arc::new(BusMemory::new(table.collect()).map_err(Refusal::Table)?);
        self.regions = regions;
        Ok(())
    }
}

fn map<F: Descriptor>(
    region: &MemoryRegion,
    fd: &F,
) -> Result<(MemoryRegion, Arc<Mapping>), Refusal> {
    let wraps = region.bus_addr.checked_add(region.len).is_none()
        || region.user_addr.checked_add(region.len).is_none();
    let refused = |why| Refusal::Region { region: *region, why };
    if wraps || region.len == 0 {
        return Err(refused("it is empty, or wraps".to_owned()));
    }
    let mapping = fd.map(region.offset, region.len).map_err(refused)?;
    Ok((*region, mapping))
}
