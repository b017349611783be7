//! What can be wrong with a UIO device, for whoever has to set it right.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::maps::{Map, MapKey};
use crate::os::bus_error::RegisterError;

/// Why a UIO device cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum UioError {
    /// There is no such file.
    NoDevice(PathBuf),
    /// This user may not open it.
    NoPermission(PathBuf),
    /// Another process of ours has it.
    Busy(PathBuf),
    /// What is there is no UIO device.
    NotUio(PathBuf),
    /// A file that tells of the device cannot be read.
    Unreadable(PathBuf, io::Error),
    /// Such a file does not have what it should have.
    BadNumber(PathBuf, String),
    /// The device has no such map.
    NoMap {
        /// The key of the config that asks for it.
        key: &'static str,
        /// The map that is asked for.
        wanted: MapKey,
        /// Those that the device has.
        there: Vec<Map>,
    },
    /// More maps than one have this name.
    SameName(String),
    /// It is too small for what it is to be, or too large.
    Length {
        /// The map.
        map: Map,
        /// What it is to be.
        key: &'static str,
        /// Least and greatest length in bytes.
        wanted: (u64, u64),
    },
    /// It does not begin where a page does.
    Misaligned(Map),
    /// A register does not lie in its map, or not at a multiple of 4 bytes.
    Register {
        /// The map.
        map: Map,
        /// The key of the config that says where the register is.
        key: &'static str,
        /// Where that is.
        offset: u32,
    },
    /// The kernel does not map it.
    Map(PathBuf, Errno),
    /// It is longer than this program can address.
    AddressSpace(u64),
    /// Its loss could not be survived.
    Unregistered(RegisterError),
    /// What the broker said of it is not understood.
    BadLayout,
    /// Another error of the operating system.
    Os(PathBuf, io::Error),
}

impl UioError {
    /// Whether the device is not there: to find that out costs nobody anything.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoDevice(_))
    }
}

impl fmt::Display for UioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(path) => write!(
                f,
                "no UIO device: {} does not exist; load its driver, or correct transport",
                path.display()
            ),
            Self::NoPermission(path) => write!(
                f,
                "no permission to open {}; give this user read and write access to it",
                path.display()
            ),
            Self::Busy(path) => {
                write!(f, "{} is in use by another link; stop that one first", path.display())
            }
            Self::NotUio(path) => write!(
                f,
                "{} is not a UIO device; give the path of one, as /dev/uio0",
                path.display()
            ),
            Self::Unreadable(path, error) => write!(f, "reading {}: {error}", path.display()),
            Self::BadNumber(path, text) => {
                write!(f, "{} has {text:?}, which is not a hexadecimal number", path.display())
            }
            Self::NoMap { key, wanted, there } => {
                write!(f, "the UIO device has no map {wanted} for {key}; ")?;
                write_maps(f, there)
            }
            Self::SameName(name) => write!(
                f,
                "the UIO device has two maps named {name:?}; give the number of one in its place"
            ),
            Self::Length { map, key, wanted: (least, most) } => write!(
                f,
                "{map} has {} bytes that can be mapped; as {key} it has to have {least} to {most}",
                map.len()
            ),
            Self::Misaligned(map) => write!(
                f,
                "{map} begins at {:#x}, which is not the start of a page",
                map.addr.saturating_add(map.offset)
            ),
            Self::Register { map, key, offset } => write!(
                f,
                "{key} {offset} is no register of {map}: a multiple of 4 below {} is one",
                map.len()
            ),
            Self::Map(path, error) => write!(
                f,
                "the kernel does not map {}: {error}; see what its driver and the kernel's lockdown say",
                path.display()
            ),
            Self::AddressSpace(len) => {
                write!(f, "{len} bytes do not fit into this program's address space")
            }
            Self::Unregistered(error) => write!(f, "{error}"),
            Self::BadLayout => write!(f, "the broker's word on the UIO device is not understood"),
            Self::Os(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

fn write_maps(f: &mut fmt::Formatter<'_>, maps: &[Map]) -> fmt::Result {
    if maps.is_empty() {
        return write!(f, "it has none");
    }
    write!(f, "it has ")?;
    for (at, map) in maps.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        write!(f, "{comma}{map}")?;
    }
    Ok(())
}

impl std::error::Error for UioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Os(_, error) => Some(error),
            _ => None,
        }
    }
}
