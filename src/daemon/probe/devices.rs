//! UIO devices: which there are, and a look at one that no daemon holds.

use std::path::Path;

use serde::Serialize;

use super::mapped::Mapped;
use crate::os::fabric::regions;
use crate::os::fabric::uio::{self, Device};

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DeviceLine {
    /// Its file, such as `/dev/uio0`.
    pub(super) path: String,
    /// What its driver calls it.
    pub(super) name: String,
    /// Its maps.
    pub(super) maps: Vec<MapLine>,
}

/// A map of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct MapLine {
    /// Its number.
    pub(super) number: u8,
    /// Its name, which may be empty.
    pub(super) name: String,
    /// Where it is on the board's bus.
    pub(super) addr: u64,
    /// Its length in bytes.
    pub(super) len: u64,
}

/// All devices, by number.
pub(super) fn list(sys: &Path) -> Vec<DeviceLine> {
    uio::devices(sys).into_iter().map(line).collect()
}

fn line(device: Device) -> DeviceLine {
    let map = |map: uio::Map| MapLine {
        number: map.number,
        name: map.name,
        addr: map.addr,
        len: map.size,
    };
    DeviceLine {
        path: device.path.display().to_string(),
        name: device.name,
        maps: device.maps.into_iter().map(map).collect(),
    }
}

/// Maps the device at this path.
pub(super) fn map(sys: &Path, path: &Path) -> Result<Mapped, String> {
    let (parts, file) = uio::look(sys, path).map_err(|e| e.to_string())?;
    let len = |at: usize| parts.get(at).map(|part| part.memory.len() as u64);
    let window = len(0).unwrap_or(0);
    // As a link has it: bus addresses of the two parts follow each other.
    let memories = len(1).map_or_else(|| regions(window), |len| (0..window, window..window + len));
    Ok(Mapped::device(parts, memories, Some(file)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::spec::window;

    #[test]
    fn driver_memory_of_a_map_of_its_own_follows_the_window() {
        let dir = std::env::temp_dir().join(format!("bl-devices-{}", std::process::id()));
        let home = dir.join("class/uio/uio0");
        let path = dir.join("uio0");
        let page = 4096;
        for (n, (name, size)) in
            [("window", 1 << 20), ("driver-memory", 1 << 20)].iter().enumerate()
        {
            let map = home.join(format!("maps/map{n}"));
            fs::create_dir_all(&map).unwrap();
            let write = |file: &str, text: String| fs::write(map.join(file), text).unwrap();
            write("name", format!("{name}\n"));
            write("addr", format!("{:#x}\n", n << 24));
            write("size", format!("{size:#x}\n"));
            write("offset", "0x0\n".to_owned());
        }
        fs::write(home.join("name"), "board\n").unwrap();
        fs::write(home.join("dev"), "0:0\n").unwrap();
        // Map n lies n pages in the file; of the driver memory, so, the window's second page is the first.
        let mut file = vec![0; (1 << 20) + page];
        file[..8].copy_from_slice(&window::MAGIC.to_le_bytes());
        file[8] = 1;
        let (part, mailbox) = (window::DRIVER_PART, 1_u64 << 20);
        file[part + window::PART_STATE] = 2;
        file[part + window::PART_NONCE] = 1;
        file[part + window::PART_PULSE] = 5;
        file[part + window::PART_STATE + 4] = 6;
        file[part + window::PART_MAILBOX..][..8].copy_from_slice(&mailbox.to_le_bytes());
        file[part + window::PART_SLOTS] = 16;
        let part = window::DEVICE_PART;
        file[part + window::PART_STATE] = 2;
        file[part + window::PART_NONCE] = 1;
        file[part + window::PART_PULSE] = 6;
        file[part + window::PART_STATE + 4] = 5;
        file[part + window::PART_MAILBOX..][..8].copy_from_slice(&0x2000_u64.to_le_bytes());
        file[part + window::PART_SLOTS] = 16;
        file[page] = 9;
        fs::write(&path, file).unwrap();
        let lines = list(&dir);
        let window = map(&dir, &path).and_then(|mapped| mapped.look());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((lines.len(), &*lines[0].path, lines[0].maps.len()), (1, "/dev/uio0", 2));
        let window = window.unwrap();
        assert!(window.up);
        assert_eq!(window.to_master.unwrap().put, 9);
        let mailbox = window.master.unwrap().mailbox;
        assert_eq!((mailbox.addr, mailbox.memory.as_deref()), (1 << 20, Some("driver memory")));
    }
}
