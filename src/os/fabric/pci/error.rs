//! Why a PCI function cannot be had, or was lost: one line each, which says what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::address::Address;
use super::kinds::{BoardKind, KINDS};
use crate::os::bus_error::RegisterError;
use crate::os::fabric::{MAX_SLOT_LEN, MIN_SLOT_LEN};

/// Why a function cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum PciError {
    /// There is no such function.
    Absent {
        /// Its directory.
        path: PathBuf,
    },
    /// None of a known kind is left for a link that takes any.
    NoneLeft {
        /// How many there are that others have.
        taken: usize,
    },
    /// A file says what none of its kind does.
    Sense {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The function is of no known kind.
    NotOurs {
        /// The function.
        address: Address,
        /// Its vendor and device id.
        ids: [u16; 2],
    },
    /// It has a known kind's ids, and another class.
    Class {
        /// The function.
        address: Address,
        /// The kind.
        kind: &'static BoardKind,
        /// Its class code.
        class: u32,
    },
    /// A BAR is not as its kind has it.
    Bar {
        /// The function.
        address: Address,
        /// The BAR's number.
        bar: usize,
        /// What is wrong with it.
        fault: BarFault,
    },
    /// A driver has it, and sysfs does not keep two apart.
    Driver {
        /// The function.
        address: Address,
        /// The driver's name.
        driver: String,
    },
    /// Another process has it.
    Held {
        /// What that one holds.
        path: PathBuf,
    },
    /// Another process has its IOMMU group, or has not yet let go of it.
    GroupHeld {
        /// The group's file.
        path: PathBuf,
        /// The function.
        address: Address,
    },
    /// A link had it until just now, and it goes back to its driver.
    Returning {
        /// The function.
        address: Address,
    },
    /// It is gone, though its files are there still.
    Gone {
        /// The function.
        address: Address,
        /// How it shows.
        why: &'static str,
    },
    /// It is in no IOMMU group.
    NoIommu {
        /// The function.
        address: Address,
    },
    /// A module of VFIO's is not there.
    NoModule {
        /// What tells so.
        path: PathBuf,
        /// The module.
        module: &'static str,
    },
    /// It was not bound to vfio-pci.
    Bind {
        /// The function.
        address: Address,
        /// The driver that has it instead.
        driver: Option<String>,
    },
    /// Other functions of its IOMMU group are in use.
    NotViable {
        /// The group.
        group: u32,
        /// The function.
        address: Address,
        /// The others, each with its driver.
        others: Vec<(String, String)>,
    },
    /// This user may not open a file.
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is locked down.
    Lockdown {
        /// What cannot be mapped.
        path: PathBuf,
    },
    /// It has too few interrupts.
    Vectors {
        /// The function.
        address: Address,
        /// How many MSI-X vectors it has.
        has: u32,
        /// How many its kind needs.
        needs: u16,
    },
    /// Its id register has no id.
    Id {
        /// The function.
        address: Address,
        /// What it has.
        value: u32,
    },
    /// A request of VFIO's fails.
    Vfio {
        /// The function.
        address: Address,
        /// Which.
        doing: &'static str,
        /// What ioctl(2) said.
        errno: Errno,
    },
    /// Mapping a BAR fails.
    Map {
        /// The function.
        address: Address,
        /// The BAR's number.
        bar: usize,
        /// What mmap(2) said.
        errno: Errno,
    },
    /// The loss of what was mapped could not be survived.
    Unregistered(RegisterError),
    /// What the broker says of it makes no sense.
    Told(String),
    /// Another error of the operating system.
    Os {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// What is wrong with a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarFault {
    /// There is none.
    Missing,
    /// It is not memory but I/O ports.
    Ports,
    /// It has been given no place in memory.
    Unset,
    /// Its length in bytes is no slot's.
    Length(u64),
    /// Its length in bytes is too small for the registers.
    Registers(u64),
    /// VFIO does not map it.
    NotMapped,
    /// This program cannot address so many bytes.
    AddressSpace(u64),
}

impl fmt::Display for BarFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is not there"),
            Self::Ports => write!(f, "is of I/O ports, not memory"),
            Self::Unset => write!(
                f,
                "has been given no place in memory; see `dmesg`, and boot with pci=realloc"
            ),
            Self::Length(len) => write!(
                f,
                "has {len} bytes, and it takes a power of two from {MIN_SLOT_LEN} to {MAX_SLOT_LEN}"
            ),
            Self::Registers(len) => write!(f, "has {len} bytes, too few for the registers"),
            Self::NotMapped => write!(
                f,
                "cannot be mapped by VFIO, as it shares a page with another; boot with \
                 pci=resource_alignment=, or use ?sysfs"
            ),
            Self::AddressSpace(len) => {
                write!(f, "has {len} bytes, which do not fit into this program's address space")
            }
        }
    }
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { path } => write!(
                f,
                "no such PCI function: {} does not exist; plug it in, or correct `transport` (see `lspci -D`)",
                path.display()
            ),
            Self::NoneLeft { taken: 0 } => {
                write!(f, "no PCI function of a known kind is there ({})", known())
            }
            Self::NoneLeft { taken } => write!(
                f,
                "all {taken} PCI functions of a known kind belong to other links; give this one an \
                 address of its own"
            ),
            Self::Sense { path, text } => {
                write!(f, "{}: {text:?} makes no sense", path.display())
            }
            Self::NotOurs { address, ids: [vendor, device] } => write!(
                f,
                "PCI function {address} is {vendor:04x}:{device:04x}, which is no board that is known \
                 ({}); correct `transport`",
                known()
            ),
            Self::Class { address, kind, class } => write!(
                f,
                "PCI function {address} has the ids of {}, and class {class:06x} in place of {:04x}xx: \
                 it is something else",
                kind.name, kind.class
            ),
            Self::Bar { address, bar, fault } => {
                write!(f, "BAR {bar} of PCI function {address} {fault}")
            }
            Self::Driver { address, driver } => write!(
                f,
                "PCI function {address} is held by the driver {driver}; unbind it (echo {address} > \
                 /sys/bus/pci/drivers/{driver}/unbind), or give its address with ?vfio in `transport`"
            ),
            Self::Held { path } => {
                write!(f, "{} is held by another process; stop that one", path.display())
            }
            Self::GroupHeld { path, address } => write!(
                f,
                "the IOMMU group of PCI function {address} is open elsewhere ({}); stop the process that \
                 has one of its functions",
                path.display()
            ),
            Self::Returning { address } => {
                write!(
                    f,
                    "PCI function {address} is being given back to its driver: wait until it is"
                )
            }
            Self::Gone { address, why } => write!(f, "PCI function {address} {why}"),
            Self::NoIommu { address } => write!(
                f,
                "PCI function {address} is in no IOMMU group, which VFIO needs; switch the IOMMU on \
                 (firmware, intel_iommu=on), or use ?sysfs"
            ),
            Self::NoModule { path, module } => write!(
                f,
                "{} does not exist: {module} is not loaded (modprobe {module})",
                path.display()
            ),
            Self::Bind { address, driver: None } => {
                write!(f, "PCI function {address} was not taken by vfio-pci; see `dmesg` for why")
            }
            Self::Bind { address, driver: Some(driver) } => write!(
                f,
                "PCI function {address} was not taken by vfio-pci, but by {driver}; see `dmesg` for why"
            ),
            Self::NotViable { group, address, others } => {
                write!(f, "IOMMU group {group} of PCI function {address} is in use: ")?;
                for (i, (other, driver)) in others.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{other} is with {driver}")?;
                }
                if others.is_empty() {
                    f.write_str("by others")?;
                }
                f.write_str("; unbind those, or put the board into another slot")
            }
            Self::Permission { path } => write!(
                f,
                "no permission to open {}; run the daemon as root, or give its user the file",
                path.display()
            ),
            Self::Lockdown { path } => write!(
                f,
                "the kernel is locked down (/sys/kernel/security/lockdown) and forbids to map {}; use \
                 ?vfio, or boot without lockdown",
                path.display()
            ),
            Self::Vectors { address, has, needs } => write!(
                f,
                "PCI function {address} has {has} MSI-X vectors and its kind needs {needs}; use one with \
                 doorbells (QEMU: ivshmem-doorbell), or ?sysfs, which polls"
            ),
            Self::Id { address, value } => write!(
                f,
                "the id register of PCI function {address} reads {value:#x}: nobody serves its memory"
            ),
            Self::Vfio { address, doing, errno } => {
                write!(f, "PCI function {address} by VFIO: {doing}: {errno}")
            }
            Self::Map { address, bar, errno } => {
                write!(f, "mapping BAR {bar} of PCI function {address}: {errno}")
            }
            Self::Unregistered(error) => write!(f, "{error}"),
            Self::Told(text) => write!(f, "the broker says of a PCI function {text:?}"),
            Self::Os { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// What is known, for people.
fn known() -> String {
    let all = KINDS.iter().map(|k| format!("{} {:04x}:{:04x}", k.name, k.vendor, k.device));
    all.collect::<Vec<_>>().join(", ")
}

impl std::error::Error for PciError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { error, .. } => Some(error),
            Self::Vfio { errno, .. } | Self::Map { errno, .. } => Some(errno),
            Self::Unregistered(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RegisterError> for PciError {
    fn from(error: RegisterError) -> Self {
        Self::Unregistered(error)
    }
}
