//! Devices that are looked at: which there are, and what stands in the memory of one that nobody has.

use std::fs::read_dir;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::maps::{Map, Place, is_uio, read_maps, text};
use super::{Description, UioError, open};
use crate::os::fabric::looked::Looked;

/// A device, as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its file.
    pub path: PathBuf,
    /// What its driver calls it.
    pub name: String,
    /// Its maps.
    pub maps: Vec<Map>,
}

/// The devices that there are, by number; `sys` is where sysfs is. A kernel without UIO has none.
pub fn devices(sys: &Path) -> Vec<Device> {
    let entries = read_dir(sys.join("class/uio")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| is_uio(name)).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    let device = |name: &String| {
        let home = sys.join("class/uio").join(name);
        // One that goes meanwhile is not there.
        let (label, maps) = (text(&home.join("name")).ok()?, read_maps(&home).ok()?);
        Some(Device { path: Path::new("/dev").join(name), name: label, maps })
    };
    names.iter().filter_map(device).collect()
}

/// Maps the memory of the device at `path` to be read only, by what is known of its kind or by the names of
/// its maps: the window, with driver memory behind it unless that follows as a map of its own. The device
/// is locked as for a link while the file is open.
///
/// # Errors
/// It is not there, or another's; it has not what a link needs.
pub fn look(sys: &Path, path: &Path) -> Result<(Vec<Looked>, OwnedFd), UioError> {
    let (file, layout) = open(sys, path, &Description::default())?;
    let map = |place: Place| {
        let len = usize::try_from(place.len).map_err(|_| UioError::AddressSpace(place.len))?;
        let looked = Looked::map(file.as_fd(), place.offset, len);
        looked.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => UioError::Map(path.to_owned(), errno),
            None => UioError::Os(path.to_owned(), error),
        })
    };
    let parts = [Some(layout.window), layout.driver_memory].into_iter().flatten();
    let parts = parts.map(map).collect::<Result<_, _>>()?;
    Ok((parts, file))
}
