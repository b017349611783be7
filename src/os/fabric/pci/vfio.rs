//! A function by VFIO (Linux, "VFIO - Virtual Function I/O"): its group, its device, BARs and interrupts.
//!
//! Who has the rights opens it ([`Group::of`], [`Group::device`]): a container with an IOMMU of type 1, the
//! function's group in it, and from that the device, whose descriptor is passed on. With it [`Device`] does
//! the rest, which asks for no rights. The kernel has a group be opened once, and a device of it that is open
//! counts; so a group is kept as long as a link has a function of it ([`Groups`]), for the next function.
//!
//! The kernel resets the function when it is opened and when it is closed, if it can be reset; so nothing
//! here asks for it. To close it may take as long as a reset, and is done by a thread that may wait.
//!
//! Left out: DMA mapping. No device that is known here reads or writes the master's memory by itself.
//! iommufd: every kernel that has it has groups and containers as well.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::without_provenance_mut;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, pread, pwrite};

use super::address::Address;
use super::error::PciError;
use super::sysfs::{Function, Tree};
use super::vfio_api::{self as api, DeviceInfo, GroupStatus, IrqInfo, REGION_ROOM, Region, argsz};
use crate::os::close::{Closer, Kept};
use crate::os::fabric::MAX_VECTORS;

/// Of the config space: the command register, its bits for memory and to be a bus master. An interrupt by
/// MSI-X is a write by the function, as a bus master.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

/// Drivers that may have other functions of a group, as the kernel has it.
const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];

/// The groups that this process has open, by number. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(Arc<Mutex<BTreeMap<u32, Weak<Group>>>>);

/// A group that is open, in a container of its own.
#[derive(Debug)]
pub(super) struct Group {
    file: OwnedFd,
    _container: OwnedFd,
}

impl Group {
    /// The group of a function that is with vfio-pci: one that is open already, or opened anew.
    ///
    /// # Errors
    /// A module of VFIO's is missing; the group is another's, or not to be opened, or in use otherwise.
    pub(super) fn of(tree: &Tree, function: &Function) -> Result<Arc<Self>, PciError> {
        let address = function.address;
        let number = function.group.ok_or(PciError::NoIommu { address })?;
        let mut groups = tree.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(&number).and_then(Weak::upgrade) {
            return Ok(group);
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Self::open(tree, address, number)?);
        groups.insert(number, Arc::downgrade(&group));
        Ok(group)
    }

    fn open(tree: &Tree, address: Address, number: u32) -> Result<Self, PciError> {
        let container = open_file(tree.dev.join("vfio/vfio"), "vfio")?;
        let none = std::ptr::null_mut();
        // SAFETY: the request takes no argument.
        let version =
            unsafe { address.ask("VFIO_GET_API_VERSION", &container, api::GET_API_VERSION, none) }?;
        if version != api::API_VERSION {
            return Err(address.failed("VFIO_GET_API_VERSION")(Errno::PROTO));
        }
        let type1 = without_provenance_mut::<c_void>(api::TYPE1V2_IOMMU);
        let doing = "VFIO_CHECK_EXTENSION";
        // SAFETY: the request takes a number.
        let known = unsafe { address.ask(doing, &container, api::CHECK_EXTENSION, type1) }?;
        if known == 0 {
            let path = tree.sys.join("module/vfio_iommu_type1");
            return Err(PciError::NoModule { path, module: "vfio_iommu_type1" });
        }
        let file = open_file(tree.dev.join("vfio").join(number.to_string()), "vfio-pci");
        let file = file.map_err(|error| match error {
            PciError::Held { path } => PciError::GroupHeld { path, address },
            error => error,
        })?;
        let mut status = GroupStatus { argsz: argsz::<GroupStatus>(), flags: 0 };
        let (doing, argument) = ("VFIO_GROUP_GET_STATUS", (&raw mut status).cast());
        // SAFETY: the request takes its structure.
        unsafe { address.ask(doing, &file, api::GROUP_GET_STATUS, argument) }?;
        if status.flags & api::GROUP_VIABLE == 0 {
            return Err(not_viable(tree, address, number));
        }
        let mut fd = container.as_raw_fd();
        let (doing, argument) = ("VFIO_GROUP_SET_CONTAINER", (&raw mut fd).cast());
        // SAFETY: the request takes a descriptor's number, by address.
        match unsafe { address.ask(doing, &file, api::GROUP_SET_CONTAINER, argument) } {
            // Later kernels find out here who else has a function of the group.
            Err(PciError::Vfio { errno: Errno::BUSY | Errno::PERM, .. }) => {
                return Err(not_viable(tree, address, number));
            }
            done => done?,
        };
        // SAFETY: the request takes a number.
        unsafe { address.ask("VFIO_SET_IOMMU", &container, api::SET_IOMMU, type1) }?;
        Ok(Self { file, _container: container })
    }

    /// Opens a function of it.
    ///
    /// # Errors
    /// It has gone, or fails.
    pub(super) fn device(&self, address: Address) -> Result<OwnedFd, PciError> {
        let mut name = format!("{address}\0").into_bytes();
        let (doing, argument) = ("VFIO_GROUP_GET_DEVICE_FD", name.as_mut_ptr().cast());
        // SAFETY: the request takes a string that ends in zero.
        let fd = unsafe { address.ask(doing, &self.file, api::GROUP_GET_DEVICE_FD, argument) }?;
        // SAFETY: the kernel has made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn open_file(path: PathBuf, module: &'static str) -> Result<OwnedFd, PciError> {
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    opened.map(Into::into).map_err(|error| open_error(path, module, error))
}

/// Tells apart why a file of VFIO's cannot be opened.
pub(super) fn open_error(path: PathBuf, module: &'static str, error: std::io::Error) -> PciError {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => PciError::NoModule { path, module },
        Some(Errno::ACCESS | Errno::PERM) => PciError::Permission { path },
        Some(Errno::BUSY) => PciError::Held { path },
        _ => PciError::Os { path, error },
    }
}

/// Names what keeps a group from being used.
pub(super) fn not_viable(tree: &Tree, address: Address, group: u32) -> PciError {
    let others = tree.group(group).into_iter().filter_map(|(other, driver)| Some((other, driver?)));
    let others = others.filter(|(other, driver)| {
        *other != address.to_string() && !HARMLESS.contains(&driver.as_str())
    });
    PciError::NotViable { group, address, others: others.collect() }
}

impl Address {
    fn failed(self, doing: &'static str) -> impl Fn(Errno) -> PciError {
        move |errno| PciError::Vfio { address: self, doing, errno }
    }

    /// Makes a request of the function; gives what it returns.
    ///
    /// # Safety
    /// `argument` is what the request takes.
    unsafe fn ask(
        self,
        doing: &'static str,
        fd: impl AsFd,
        request: rustix::ioctl::Opcode,
        argument: *mut c_void,
    ) -> Result<i32, PciError> {
        // SAFETY: the caller's promise.
        unsafe { api::call(fd, request, argument) }.map_err(self.failed(doing))
    }
}

/// An open device, with interrupts. Dropping it has the function write and interrupt no more, and gives it
/// up.
#[derive(Debug)]
pub(super) struct Device {
    address: Address,
    fd: Kept<OwnedFd>,
    config: Region,
}

impl Device {
    /// Takes on what [`Group::device`] has given; has the function's memory answer, and lets it interrupt.
    ///
    /// # Errors
    /// It is no PCI function by VFIO, or fails.
    pub(super) fn new(address: Address, fd: OwnedFd) -> Result<Self, PciError> {
        let mut info = DeviceInfo { argsz: argsz::<DeviceInfo>(), ..Default::default() };
        let (doing, argument) = ("VFIO_DEVICE_GET_INFO", (&raw mut info).cast());
        // SAFETY: the request takes its structure.
        unsafe { address.ask(doing, &fd, api::DEVICE_GET_INFO, argument) }?;
        if info.flags & api::DEVICE_PCI == 0 {
            return Err(address.failed(doing)(Errno::NODEV));
        }
        let config = region(address, &fd, api::CONFIG_REGION)?;
        let device = Self { address, fd: Closer::default().keep(fd), config };
        device.command(COMMAND_MEMORY | COMMAND_MASTER, 0)?;
        Ok(device)
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// What can be done with a BAR.
    pub(super) fn bar(&self, bar: usize) -> Result<Region, PciError> {
        region(self.address, &*self.fd, u32::try_from(bar).unwrap_or(u32::MAX))
    }

    /// How many interrupts it has of a sort.
    fn interrupts(&self, index: u32) -> Result<u32, PciError> {
        let argsz = argsz::<IrqInfo>();
        let mut info = IrqInfo { argsz, index, ..Default::default() };
        let (doing, argument) = ("VFIO_DEVICE_GET_IRQ_INFO", (&raw mut info).cast());
        // SAFETY: the request takes its structure.
        unsafe { self.address.ask(doing, &*self.fd, api::DEVICE_GET_IRQ_INFO, argument) }?;
        Ok(info.count)
    }

    /// How many MSI-X vectors it has.
    pub(super) fn vectors(&self) -> Result<u32, PciError> {
        self.interrupts(api::IRQ_MSIX)
    }

    /// Has the first MSI-X vectors, as many as can be used, add 1 to eventfds.
    /// Fewer where the machine has no more of them.
    pub(super) fn doorbells(&self) -> Result<Vec<Arc<OwnedFd>>, PciError> {
        let mut count = self.vectors()?.min(MAX_VECTORS.into());
        loop {
            match self.wire(api::IRQ_MSIX, count)? {
                (fds, 0) => return Ok(fds),
                // The machine has no more of them, and none was set.
                (_, fewer) => count = fewer.min(count - 1),
            }
            if count == 0 {
                return Ok(Vec::new());
            }
        }
    }

    /// What tells that the kernel wants the function back, or has met an error of it that nobody mends.
    pub(super) fn notices(&self) -> Vec<(&'static str, Arc<OwnedFd>)> {
        let both = [
            (api::IRQ_REQUEST, "is asked back by the kernel, as it is removed or unbound"),
            (api::IRQ_ERROR, "has met an error of the bus that cannot be mended"),
        ];
        // What a function or kernel does not have is done without.
        let wired = both.into_iter().filter_map(|(index, why)| {
            let count = self.interrupts(index).ok().filter(|count| *count > 0)?;
            let (mut fds, _) =
                self.wire(index, count.min(1)).ok().filter(|(_, fewer)| *fewer == 0)?;
            Some((why, fds.pop()?))
        });
        wired.collect()
    }

    /// Gives so many interrupts of a sort an eventfd each; or gives how many could be had at most, which is not
    /// 0 then.
    fn wire(&self, index: u32, count: u32) -> Result<(Vec<Arc<OwnedFd>>, u32), PciError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let made = (0..count).map(|_| eventfd(0, flags).map(Arc::new));
        let made = made.collect::<Result<Vec<_>, _>>();
        let fds = made.map_err(self.address.failed("eventfd"))?;
        let words = fds.iter().map(|fd| fd.as_raw_fd().unsigned_abs());
        let fewer = self.set_irqs(index, api::IRQ_EVENTFDS, words.collect())?;
        Ok((fds, fewer))
    }

    /// `struct vfio_irq_set`: argsz, flags, index, start, count, and a descriptor for each.
    fn set_irqs(&self, index: u32, flags: u32, fds: Vec<u32>) -> Result<u32, PciError> {
        let count = u32::try_from(fds.len()).unwrap_or(0);
        let mut set = vec![4 * (5 + count), flags, index, 0, count];
        set.extend(fds);
        let (doing, argument) = ("VFIO_DEVICE_SET_IRQS", set.as_mut_ptr().cast());
        // SAFETY: the request takes its structure, whose first word tells its length.
        let more = unsafe { self.address.ask(doing, &*self.fd, api::DEVICE_SET_IRQS, argument) }?;
        Ok(u32::try_from(more).unwrap_or(0))
    }

    /// Sets bits of the command register, and clears others.
    fn command(&self, set: u16, clear: u16) -> Result<(), PciError> {
        let failed = self.address.failed("the command register");
        let mut octets = [0; 2];
        let at = self.config.offset + COMMAND;
        pread(&*self.fd, &mut octets, at).map_err(&failed)?;
        let command = (u16::from_le_bytes(octets) | set) & !clear;
        pwrite(&*self.fd, &command.to_le_bytes(), at).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A function that is gone takes neither.
        let _ = self.command(0, COMMAND_MASTER);
        let _ = self.set_irqs(api::IRQ_MSIX, api::IRQ_NONE, Vec::new());
    }
}

fn region(address: Address, fd: impl AsFd, index: u32) -> Result<Region, PciError> {
    #[repr(C, align(8))]
    struct Room([u8; REGION_ROOM]);
    let mut room = Room([0; REGION_ROOM]);
    room.0[..4].copy_from_slice(&argsz::<Room>().to_ne_bytes());
    room.0[8..12].copy_from_slice(&index.to_ne_bytes());
    let (doing, argument) = ("VFIO_DEVICE_GET_REGION_INFO", (&raw mut room).cast());
    // SAFETY: the request takes its structure, whose first word tells its length.
    unsafe { address.ask(doing, fd, api::DEVICE_GET_REGION_INFO, argument) }?;
    Ok(Region::parse(&room.0))
}
