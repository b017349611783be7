//! What the kernel says of a PCI function in `/sys/bus/pci/devices` (Linux, "Accessing PCI device
//! resources through sysfs"). The root of the tree is a value, so that it can be a made-up one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::address::Address;
use super::binding::Refused;
use super::error::PciError;
use super::take::Returning;
use super::vfio::Groups;

/// Flags of a resource (linux/ioport.h): memory, not I/O ports; prefetchable; without an address.
const IORESOURCE_MEM: u64 = 0x200;
const IORESOURCE_PREFETCH: u64 = 0x2000;
const IORESOURCE_UNSET: u64 = 0x2000_0000;

/// A machine's PCI bus: where sysfs and device files are, and what of them this process has open. Clones are
/// the same one.
#[derive(Clone, Debug)]
pub struct Tree {
    /// sysfs, else `/sys`.
    pub sys: PathBuf,
    /// Device files, else `/dev`.
    pub dev: PathBuf,
    /// What is open of VFIO's groups.
    pub(super) groups: Groups,
    /// What vfio-pci has refused.
    pub(super) refused: Refused,
    /// What is on its way back to where it was.
    pub(super) returning: Returning,
    /// What the kernel would do after a file was written.
    #[cfg(test)]
    pub(super) after_write: fn(&Self, &Path, &str),
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            groups: Groups::default(),
            refused: Refused::default(),
            returning: Returning::default(),
            #[cfg(test)]
            after_write: |_, _, _| {},
        }
    }
}

/// A function, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Its vendor id.
    pub vendor: u16,
    /// Its device id.
    pub device: u16,
    /// Its class code: class, subclass and programming interface in the lower three octets.
    pub class: u32,
    /// Its revision.
    pub revision: u8,
    /// Its BARs; `None` where there is none.
    pub bars: [Option<Bar>; 6],
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Whether somebody has enabled it.
    pub enabled: bool,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Where it is for this machine's CPU; 0 if it has not been given a place.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// It is memory, not I/O ports.
    pub memory: bool,
    /// Reads have no side effect, so it may be write-combined.
    pub prefetchable: bool,
}

impl Tree {
    /// The directory of a function.
    pub fn directory(&self, address: Address) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address.to_string())
    }

    /// A file of a function.
    pub fn file(&self, address: Address, name: &str) -> PathBuf {
        self.directory(address).join(name)
    }

    /// The addresses of all functions, lowest first.
    ///
    /// # Errors
    /// The machine has no PCI bus, or sysfs cannot be read.
    pub fn functions(&self) -> Result<Vec<Address>, PciError> {
        let path = self.sys.join("bus/pci/devices");
        let names = fs::read_dir(&path).map_err(|error| PciError::Os { path, error })?;
        let names = names.flatten().map(|entry| entry.file_name());
        let mut all: Vec<Address> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        all.sort();
        Ok(all)
    }

    /// A function's vendor and device id.
    ///
    /// # Errors
    /// It is not there.
    pub fn ids(&self, address: Address) -> Result<[u16; 2], PciError> {
        Ok([self.number(address, "vendor")?, self.number(address, "device")?])
    }

    /// Looks at a function.
    ///
    /// # Errors
    /// It is not there; what sysfs says of it makes no sense.
    pub fn function(&self, address: Address) -> Result<Function, PciError> {
        if !self.directory(address).exists() {
            return Err(PciError::Absent { path: self.directory(address) });
        }
        let [vendor, device] = self.ids(address)?;
        let group = self.target(address, "iommu_group");
        Ok(Function {
            address,
            vendor,
            device,
            class: self.number(address, "class")?,
            revision: self.number(address, "revision")?,
            bars: self.bars(address)?,
            driver: self.target(address, "driver"),
            group: group.and_then(|group| group.parse().ok()),
            enabled: self.text(address, "enable")?.parse::<u32>().is_ok_and(|count| count > 0),
        })
    }

    /// The other functions of an IOMMU group, each with its driver if it has one.
    pub fn group(&self, group: u32) -> Vec<(String, Option<String>)> {
        let path = self.sys.join(format!("kernel/iommu_groups/{group}/devices"));
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .map(|entry| {
                let driver = fs::read_link(entry.path().join("driver")).ok();
                let driver = driver.and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
                (entry.file_name().to_string_lossy().into_owned(), driver)
            })
            .collect();
        all.sort();
        all
    }

    /// Writes into a file that is there.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), PciError> {
        let opened = fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| PciError::Os { path: path.to_owned(), error })?;
        #[cfg(test)]
        (self.after_write)(self, path, text);
        Ok(())
    }

    fn text(&self, address: Address, name: &str) -> Result<String, PciError> {
        let path = self.file(address, name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(e) if is_gone(&e) => Err(PciError::Absent { path: self.directory(address) }),
            Err(error) => Err(PciError::Os { path, error }),
        }
    }

    /// A hexadecimal number, with 0x before it.
    fn number<T: TryFrom<u64>>(&self, address: Address, name: &str) -> Result<T, PciError> {
        let text = self.text(address, name)?;
        let number = text.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or(PciError::Sense { path: self.file(address, name), text })
    }

    /// The last part of what a link leads to.
    fn target(&self, address: Address, name: &str) -> Option<String> {
        let to = fs::read_link(self.file(address, name)).ok()?;
        Some(to.file_name()?.to_str()?.to_owned())
    }

    pub(super) fn driver_override(&self, address: Address) -> Result<Option<String>, PciError> {
        let text = self.text(address, "driver_override")?;
        Ok(Some(text).filter(|text| !text.is_empty() && text != "(null)"))
    }

    /// The first six lines of `resource`: first and last address, and flags.
    fn bars(&self, address: Address) -> Result<[Option<Bar>; 6], PciError> {
        let text = self.text(address, "resource")?;
        let mut bars = [None; 6];
        for (bar, line) in bars.iter_mut().zip(text.lines()) {
            let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
            let words: Option<Vec<_>> = line.split(' ').map(hex).collect();
            let Some([start, end, flags]) = words.as_deref() else {
                let path = self.file(address, "resource");
                return Err(PciError::Sense { path, text: line.to_owned() });
            };
            let len = end.checked_sub(*start).and_then(|len| len.checked_add(1));
            let unset = flags & IORESOURCE_UNSET != 0;
            *bar = len.filter(|_| *flags != 0).map(|len| Bar {
                start: if unset { 0 } else { *start },
                len,
                memory: flags & IORESOURCE_MEM != 0,
                prefetchable: flags & IORESOURCE_PREFETCH != 0,
            });
        }
        Ok(bars)
    }
}

/// Whether the function has gone meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
