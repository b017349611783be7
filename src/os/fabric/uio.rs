//! The transport `uio:/dev/uioN`: a board's end by its own kernel's UIO device (Linux,
//! Documentation/driver-api/uio-howto.rst).
//!
//! Theory of operation. Such a device has maps, which sysfs names, and one interrupt. The window is a
//! map; so may driver memory be, and the registers by which the other end is rung. Whoever may open the
//! device also reads sysfs ([`open`]), and finds out by the names of maps, or by what is known of a PCI
//! function that the device stands for, what lies where ([`Layout`]). The end itself needs no more than the
//! open file and that ([`UioLink::over`]).
//!
//! An interrupt is a read of the file that ends; then it is switched on again by a write. A thread does
//! that (`interrupt`) and rings an eventfd, the only doorbell that this end has. Where there is no interrupt
//! this end has none and polls.
//!
//! Nobody says who else is there: heartbeats tell. An end whose registers have no id for it draws one
//! above those of transports that tell, so that no two are the same owner.
//!
//! A device belongs to one link: its file is locked as long as somebody has it open.
//!
//! Maps are not cached: words are all that goes in and out of them. One that vanishes ends no process
//! (`os::bus_error`).

#![allow(unsafe_code)]

mod error;
mod interrupt;
mod look;
mod maps;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::mapped::{Mapped, page_size};
#[cfg(feature = "pci")]
use super::pci::KINDS;
use super::{Attached, Part};
use crate::memory::{Kind, Mapping};
use crate::os::bell::{Bell, Register};
use crate::os::bus_error::{Registered, register};
use crate::spec::window::MAX_ID;
pub use error::UioError;
use interrupt::Interrupt;
pub use look::{Device, devices, look};
pub use maps::{Layout, MAPS_MAX, Map, MapKey, Place, Registers, RingValue};

/// Where sysfs is.
pub const SYS: &str = "/sys";

/// Between looks whether the memory is still there.
const LOOK: Duration = Duration::from_secs(1);

/// What a config says of a UIO device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    /// The window's map, if it is not the one named "window".
    pub window: Option<MapKey>,
    /// Driver memory's, if it is not named "driver-memory". Without such a map driver memory is what
    /// follows the window's quarter in its map.
    pub driver_memory: Option<MapKey>,
    /// The map of the registers, if it is not named "doorbell". Without such a map the other end polls.
    pub doorbell: Option<MapKey>,
    /// Where in that map the register is that rings the other end, in bytes.
    pub doorbell_offset: u32,
    /// What is written to it for the other end's first vector.
    pub doorbell_value: u32,
    /// How much more for each further one.
    pub doorbell_step: u32,
    /// Where the register is that takes back the interrupt to this end, if there is one.
    pub clear_offset: Option<u32>,
    /// What is written to that; without it, it is read.
    pub clear_value: Option<u32>,
    /// Whether this end waits for interrupts; else it polls.
    pub interrupt: bool,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            window: None,
            driver_memory: None,
            doorbell: None,
            doorbell_offset: 0,
            doorbell_value: 1,
            doorbell_step: 0,
            clear_offset: None,
            clear_value: None,
            interrupt: true,
        }
    }
}

/// Opens the device at `path` for one link, and finds out what lies where in it; `sys` is where sysfs is.
///
/// # Errors
/// It is not there, or another's; it does not have what a link needs.
pub fn open(sys: &Path, path: &Path, wanted: &Description) -> Result<(OwnedFd, Layout), UioError> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::NotFound => UioError::NoDevice(path.to_owned()),
        ErrorKind::PermissionDenied => UioError::NoPermission(path.to_owned()),
        ErrorKind::IsADirectory => UioError::NotUio(path.to_owned()),
        _ => UioError::Os(path.to_owned(), error),
    })?;
    let layout = Layout::read(sys, path, &file, wanted)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((file.into(), layout)),
        Err(Errno::WOULDBLOCK) => Err(UioError::Busy(path.to_owned())),
        Err(error) => Err(UioError::Os(path.to_owned(), error.into())),
    }
}

/// An end by a UIO device.
#[derive(Debug)]
pub struct UioLink {
    path: PathBuf,
    attached: Attached,
    registers: Option<(Arc<Mapping>, Registers)>,
    /// Why there is no interrupt.
    polls: Option<&'static str>,
    interrupt: Option<Interrupt>,
    lost: Arc<AtomicBool>,
    look: Interval,
}

impl UioLink {
    /// An end over the device at `path`, which is open as `file`. Needs a tokio runtime with
    /// time.
    ///
    /// # Errors
    /// The kernel does not map it; no thread can be had.
    pub fn over(
        path: &Path,
        file: OwnedFd,
        layout: &Layout,
        interrupts: bool,
    ) -> Result<Self, UioError> {
        let os = |error| UioError::Os(path.to_owned(), error);
        let lost = Arc::<AtomicBool>::default();
        let map = |place: Place| map(path, file.as_fd(), place, &lost);
        let window = map(layout.window)?;
        let registers = match layout.registers {
            Some(registers) => Some((map(registers.place)?, registers)),
            None => None,
        };
        let told = registers.as_ref().and_then(|(mapping, registers)| own_id(mapping, registers));
        let id = told.unwrap_or_else(draw_id);
        let mut attached = match layout.driver_memory {
            None => Attached::in_one_piece(&window, layout.window.len, id, Vec::new())
                .ok_or(UioError::AddressSpace(layout.window.len))?,
            Some(place) => {
                let part = |bus_addr, len, mapping| Part { bus_addr, len, mapping, offset: 0 };
                Attached {
                    window: part(0, layout.window.len, window),
                    // Bus addresses of the two parts follow each other.
                    driver_memory: part(layout.window.len, place.len, map(place)?),
                    id,
                    doorbells: Vec::new(),
                    rings: true,
                }
            }
        };
        attached.rings = registers.is_some();
        let (interrupt, polls) = if !interrupts {
            (None, Some("interrupts are off in the config"))
        } else if !interrupt::is_there(&file).map_err(os)? {
            (None, Some("the UIO device has no interrupt"))
        } else {
            let clear = registers.as_ref().and_then(|(mapping, registers)| {
                let (at, value) = registers.clear?;
                Some(interrupt::Clear { mapping: mapping.clone(), offset: at as usize, value })
            });
            let interrupt = Interrupt::start(file, clear).map_err(os)?;
            attached.doorbells.push(interrupt.bell().clone());
            (Some(interrupt), None)
        };
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { path: path.to_owned(), attached, registers, polls, interrupt, lost, look })
    }

    /// What this end has.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Why this end polls, if it does.
    pub fn polls(&self) -> Option<&'static str> {
        self.polls
    }

    /// What rings this vector of the end with this id; `None`: it polls.
    pub fn bell(&self, owner: u32, vector: u16) -> Option<Bell> {
        let (mapping, registers) = self.registers.as_ref()?;
        let value = match registers.value {
            RingValue::Steps(value, step) => value.wrapping_add(step.wrapping_mul(vector.into())),
            #[cfg(feature = "pci")]
            RingValue::OfKind(kind) => (KINDS.get(kind as usize)?.doorbell?.value)(owner, vector)?,
            #[cfg(not(feature = "pci"))]
            RingValue::OfKind(_) => {
                let _ = owner;
                return None;
            }
        };
        Register::new(mapping.clone(), registers.doorbell as usize, value).map(Bell::Register)
    }

    /// Waits until the device is gone: why. Nothing is lost if it is dropped early.
    pub async fn next(&mut self) -> String {
        let Self { path, interrupt, look, lost, .. } = self;
        let why = loop {
            let lost_interrupt = async {
                match interrupt {
                    Some(interrupt) => interrupt.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                why = lost_interrupt => break why,
                _ = look.tick() => {
                    if lost.load(Ordering::Acquire) {
                        break "its memory is gone".to_owned();
                    }
                }
            }
        };
        format!("{}: {why}", path.display())
    }
}

/// What the function's register says of this end's id, if its kind has one: by that the others ring it.
#[cfg(feature = "pci")]
fn own_id(mapping: &Mapping, registers: &Registers) -> Option<u32> {
    let RingValue::OfKind(kind) = registers.value else { return None };
    let kind = KINDS.get(kind as usize)?;
    let start = (registers.doorbell as usize).checked_sub(kind.doorbell?.register.offset)?;
    let at = start.checked_add(kind.id?.offset)?;
    let inside = at % 4 == 0 && at.checked_add(4)? <= mapping.len();
    let id = inside.then(|| mapping.view(at, 4).load_le32(0))?;
    (id <= MAX_ID).then_some(id)
}

#[cfg(not(feature = "pci"))]
fn own_id(_: &Mapping, _: &Registers) -> Option<u32> {
    None
}

/// An id that no other end has, and no transport gives; all ones stands for nobody.
fn draw_id() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    let ids = MAX_ID + 1..u32::MAX;
    ids.start + u32::try_from(random % u64::from(ids.end - ids.start)).unwrap_or(0)
}

/// What keeps a map; dropped in this order.
#[derive(Debug)]
struct Kept {
    _registered: Registered,
    _mapped: Mapped,
}

fn map(
    path: &Path,
    file: BorrowedFd<'_>,
    place: Place,
    lost: &Arc<AtomicBool>,
) -> Result<Arc<Mapping>, UioError> {
    let none = UioError::AddressSpace(place.len);
    let Ok(len) = usize::try_from(place.len) else { return Err(none) };
    let page = page_size();
    let mapped = Mapped::new(file, place.offset, len, page).map_err(|errno| match errno {
        Errno::OVERFLOW | Errno::NOMEM => none,
        errno => UioError::Map(path.to_owned(), errno),
    })?;
    // SAFETY: these are the whole pages that `mapped` has just mapped and nobody has touched yet; the
    // Mapping is how they are accessed. They are unmapped after what is returned here is dropped.
    let registered = unsafe { register(mapped.base, len, page, lost) };
    let registered = registered.map_err(UioError::Unregistered)?;
    let base = mapped.base;
    let kept = Kept { _registered: registered, _mapped: mapped };
    // SAFETY: `kept` holds `base..base + len` mapped, readable and writable, from the start of a page and
    // in whole pages; one that is lost is replaced. Nothing else here uses it.
    Ok(Arc::new(unsafe { Mapping::from_raw(base, len, Kind::Uncached, Box::new(kept)) }))
}
