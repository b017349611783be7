//! A function that a link runs on: what it maps, how it rings, and when it goes.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::io::pread;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::address::{Address, Mode, Wanted, Which};
use super::error::{BarFault, PciError};
use super::kinds::BoardKind;
use super::take::Told;
use super::vfio::Device;
use crate::memory::{Kind, Mapping};
use crate::os::bell::{Bell, Register};
use crate::os::bus_error::{Registered, register};
use crate::os::fabric::mapped::{Mapped, page_size};
use crate::os::fabric::{Attached, Part, is_slot_len};
use crate::spec::ivshmem::MAX_ID;

/// Between looks whether the function is there.
const LOOK: Duration = Duration::from_millis(250);
/// What a config space reads as that nobody answers for.
const ALL_ONES: [u8; 2] = [0xff; 2];

/// A function that is mapped. Dropping it, and all that was given of it, gives it up.
#[derive(Debug)]
pub struct PciLink {
    told: Told,
    attached: Attached,
    registers: Option<Arc<Mapping>>,
    /// Its config space, as sysfs has it.
    config: OwnedFd,
    /// Set when memory was touched that is gone.
    lost: Arc<AtomicBool>,
    notices: Vec<(&'static str, AsyncFd<Arc<OwnedFd>>)>,
    next_look: Instant,
    _device: Option<Arc<Device>>,
}

/// What is open of a function, by either way.
struct Open {
    address: Address,
    kind: &'static BoardKind,
    device: Option<Arc<Device>>,
    /// The files of memory and registers; by VFIO the device's is both.
    files: Vec<OwnedFd>,
    memory: Kind,
    registers_at: usize,
    lost: Arc<AtomicBool>,
}

impl PciLink {
    /// Takes on what was opened. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// It cannot be mapped, or what it says of itself makes no sense.
    pub fn new(told: Told, fds: Vec<OwnedFd>) -> Result<Self, PciError> {
        let Told { address, kind, mode, combined, registers_at } = told;
        let short = || PciError::Told(format!("{told}, with {} descriptors", fds.len()));
        let wanted = match mode {
            Mode::Vfio => 2,
            Mode::Sysfs => 2 + usize::from(kind.register_bar().is_some()),
        };
        if fds.len() != wanted {
            return Err(short());
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| PciError::Told(told.to_string()));
        let (device, config) = match mode {
            Mode::Vfio => (Some(Arc::new(Device::new(address, next()?)?)), next()?),
            Mode::Sysfs => (None, next()?),
        };
        let memory = if combined { Kind::WriteCombined } else { Kind::Uncached };
        let files = fds.collect();
        let lost = Arc::new(AtomicBool::new(false));
        let open = Open { address, kind, device, files, memory, registers_at, lost };
        Self::over(told, open, config)
    }

    fn over(told: Told, open: Open, config: OwnedFd) -> Result<Self, PciError> {
        let (address, kind) = (open.address, open.kind);
        let (memory, len) = open.memory()?;
        let registers = open.registers()?;
        let id = match (kind.id, &registers) {
            (Some(register), Some(registers)) => {
                let value = registers.view(register.offset, 4).load_le32(0);
                if value > MAX_ID.into() {
                    return Err(PciError::Id { address, value });
                }
                value
            }
            _ => 0,
        };
        let rings = kind.doorbell.is_some();
        let (doorbells, notices) = match &open.device {
            Some(device) if kind.vectors > 0 => {
                let has = device.vectors()?;
                if has < kind.vectors.into() {
                    return Err(PciError::Vectors { address, has, needs: kind.vectors });
                }
                let doorbells = device.doorbells()?;
                if doorbells.len() < usize::from(kind.vectors) {
                    let has = u32::try_from(doorbells.len()).unwrap_or(0);
                    return Err(PciError::Vectors { address, has, needs: kind.vectors });
                }
                (doorbells, device.notices())
            }
            Some(device) => (Vec::new(), device.notices()),
            None => (Vec::new(), Vec::new()),
        };
        let [window, driver_memory] = <[_; 2]>::from((kind.regions)(len)).map(|range| Part {
            bus_addr: range.start,
            len: range.end - range.start,
            mapping: memory.clone(),
            // It lies in what is mapped, whose length is a usize.
            offset: usize::try_from(range.start).unwrap_or(0),
        });
        let notices = notices.into_iter().map(|(why, fd)| {
            // SAFETY: an `Arc<OwnedFd>` refers to the same open descriptor for as long as it exists.
            let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
            watched.map(|fd| (why, fd))
        });
        let notices = notices.collect::<Result<Vec<_>, _>>();
        let notices =
            notices.map_err(|e| PciError::Os { path: "eventfd".into(), error: e.into() })?;
        let link = Self {
            told,
            attached: Attached { window, driver_memory, id, doorbells, rings },
            registers,
            config,
            lost: open.lost.clone(),
            notices,
            next_look: Instant::now() + LOOK,
            _device: open.device,
        };
        match link.is_gone() {
            Some(why) => Err(PciError::Gone { address, why }),
            None => Ok(link),
        }
    }

    /// Which function it is, and by what it is reached.
    pub fn wanted(&self) -> Wanted {
        Wanted { which: Which::At(self.told.address), mode: Some(self.told.mode) }
    }

    /// What this end has of it.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The doorbell for this vector of this owner of the other end, if there is one.
    pub fn bell(&self, owner: u32, vector: u16) -> Option<Bell> {
        let doorbell = self.told.kind.doorbell?;
        let value = (doorbell.value)(owner, vector)?;
        let register = Register::new(self.registers.clone()?, doorbell.register.offset, value);
        register.map(Bell::Register)
    }

    /// Waits until the function is to be let go of, or is gone: gives why, as one line. Nothing is lost if
    /// it is dropped early.
    pub async fn next(&mut self) -> String {
        let address = self.told.address;
        loop {
            let why = tokio::select! {
                why = heard(self.notices.first()) => Some(why),
                why = heard(self.notices.get(1)) => Some(why),
                () = sleep_until(self.next_look) => {
                    self.next_look = Instant::now() + LOOK;
                    self.is_gone()
                }
            };
            if let Some(why) = why {
                return format!("PCI function {address} {why}");
            }
        }
    }

    fn is_gone(&self) -> Option<&'static str> {
        let mut vendor = [0; 2];
        match pread(&self.config, &mut vendor, 0) {
            Ok(_) if vendor == ALL_ONES => {
                Some("answers no more: its config space reads as all ones")
            }
            Ok(_) if self.lost.load(Ordering::Acquire) => Some("has lost its memory"),
            Ok(_) => None,
            Err(_) => Some("is gone"),
        }
    }
}

async fn heard(notice: Option<&(&'static str, AsyncFd<Arc<OwnedFd>>)>) -> &'static str {
    let Some((why, fd)) = notice else { return std::future::pending().await };
    // An error says that nothing can be heard any more: the looks go on.
    if fd.readable().await.is_err() {
        std::future::pending::<()>().await;
    }
    why
}

impl Open {
    fn fault(&self, bar: usize, fault: BarFault) -> PciError {
        PciError::Bar { address: self.address, bar, fault }
    }

    /// The whole of the memory, and its length in bytes.
    fn memory(&self) -> Result<(Arc<Mapping>, u64), PciError> {
        let bar = self.kind.memory;
        let (fd, offset, len) = match (&self.device, self.files.first()) {
            (Some(device), _) => {
                let region = device.bar(bar)?;
                if !region.maps(region.size) {
                    return Err(self.fault(bar, BarFault::NotMapped));
                }
                (device.fd().as_fd(), region.offset, region.size)
            }
            (None, Some(file)) => {
                let stat = fstat(file);
                let size =
                    stat.map_err(|errno| PciError::Map { address: self.address, bar, errno });
                (file.as_fd(), 0, u64::try_from(size?.st_size).unwrap_or(0))
            }
            (None, None) => return Err(PciError::Told("no memory".to_owned())),
        };
        if !is_slot_len(len) {
            return Err(self.fault(bar, BarFault::Length(len)));
        }
        let bytes =
            usize::try_from(len).map_err(|_| self.fault(bar, BarFault::AddressSpace(len)))?;
        Ok((self.map(fd, bar, offset, 0, bytes, self.memory)?, len))
    }

    /// As much of the registers as is used, if the kind has any.
    fn registers(&self) -> Result<Option<Arc<Mapping>>, PciError> {
        let Some((bar, end)) = self.kind.register_bar() else { return Ok(None) };
        let (fd, offset, at) = match (&self.device, self.files.get(1)) {
            (Some(device), _) => {
                let region = device.bar(bar)?;
                if region.size < end as u64 {
                    return Err(self.fault(bar, BarFault::Registers(region.size)));
                }
                if !region.maps(end as u64) {
                    return Err(self.fault(bar, BarFault::NotMapped));
                }
                (device.fd().as_fd(), region.offset, 0)
            }
            (None, Some(file)) => (file.as_fd(), 0, self.registers_at),
            (None, None) => return Err(PciError::Told("no registers".to_owned())),
        };
        // They lie in what is aligned to more than a word.
        let len = end.next_multiple_of(8);
        self.map(fd, bar, offset, at, len, Kind::Uncached).map(Some)
    }

    /// Maps `len` bytes that begin `at` bytes behind `offset`, a multiple of pages.
    fn map(
        &self,
        fd: BorrowedFd<'_>,
        bar: usize,
        offset: u64,
        at: usize,
        len: usize,
        kind: Kind,
    ) -> Result<Arc<Mapping>, PciError> {
        let page = page_size();
        let failed = |errno| PciError::Map { address: self.address, bar, errno };
        let whole = (at + len).next_multiple_of(page);
        let mapped = Mapped::new(fd, offset, whole, page).map_err(failed)?;
        // SAFETY: these are the whole pages that `mapped` has just mapped and nobody has touched yet; the
        // Mapping is how they are accessed. They are unmapped after what is returned here is dropped.
        let registered = unsafe { register(mapped.base, whole, page, &self.lost) }?;
        // SAFETY: `at` lies in what was mapped.
        let base = unsafe { mapped.base.add(at) };
        let kept = Kept { _registered: registered, _mapped: mapped, _device: self.device.clone() };
        // SAFETY: `kept` holds `base..base + len` mapped, readable and writable, and a page of it that is
        // lost is replaced. A page begins at a multiple of 8, and so does a BAR.
        Ok(Arc::new(unsafe { Mapping::from_raw(base, len, kind, Box::new(kept)) }))
    }
}

/// What keeps a BAR mapped; dropped in this order.
#[derive(Debug)]
struct Kept {
    _registered: Registered,
    _mapped: Mapped,
    /// It is given up after all that was mapped of it.
    _device: Option<Arc<Device>>,
}
