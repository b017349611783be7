//! PCI functions: which there are of a kind that is known, and a look at one that no daemon holds.

use serde::Serialize;

use super::mapped::Mapped;
use crate::os::fabric::pci::{Address, BoardKind, Function, NoAddress, Tree, check};

/// A function of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FunctionLine {
    /// Where it is, as `0000:00:03.0`.
    pub(super) address: String,
    /// Its vendor and device id, as `1af4:1110`.
    pub(super) ids: String,
    /// The kind's name.
    pub(super) kind: String,
    /// The driver that has it.
    pub(super) driver: Option<String>,
    /// Its IOMMU group: without one there is no VFIO.
    pub(super) group: Option<u32>,
    /// Whether somebody has enabled it.
    pub(super) enabled: bool,
    /// What keeps a link from having it.
    pub(super) fault: Option<String>,
}

/// All functions of known kinds, lowest first. A machine without the bus has none.
pub(super) fn list(tree: &Tree) -> Vec<FunctionLine> {
    let all = tree.functions().unwrap_or_default().into_iter();
    // One that goes meanwhile is not there.
    let all = all.filter_map(|address| tree.function(address).ok());
    all.filter_map(|function| {
        let kind = BoardKind::of(function.vendor, function.device)?;
        Some(line(&function, kind))
    })
    .collect()
}

fn line(function: &Function, kind: &BoardKind) -> FunctionLine {
    FunctionLine {
        address: function.address.to_string(),
        ids: format!("{:04x}:{:04x}", function.vendor, function.device),
        kind: kind.name.to_owned(),
        driver: function.driver.clone(),
        group: function.group,
        enabled: function.enabled,
        fault: check(function).err().map(|e| e.to_string()),
    }
}

/// Maps the function of this address, if that can be done without changing anything.
pub(super) fn map(tree: &Tree, text: &str) -> Result<Mapped, String> {
    let address: Address = text.parse().map_err(|e: NoAddress| e.to_string())?;
    let function = tree.function(address).map_err(|e| e.to_string())?;
    let kind = check(&function).map_err(|e| e.to_string())?;
    let enable = tree.file(address, "enable");
    let unbind = format!("echo {address} > /sys/bus/pci/drivers");
    match function.driver.as_deref() {
        Some("vfio-pci") => {
            return Err(format!(
                "PCI function {address} is with vfio-pci, by which one process has it: ask that daemon \
                 (--control SOCK), or let go of it ({unbind}/vfio-pci/unbind)"
            ));
        }
        Some(driver) => {
            return Err(format!(
                "PCI function {address} is held by the driver {driver}: unbind it \
                 ({unbind}/{driver}/unbind)"
            ));
        }
        None if !tree.answers(&function).map_err(|e| e.to_string())? => {
            return Err(format!(
                "PCI function {address} is disabled, so its memory does not answer: start a daemon with a \
                 link on it, or echo 1 > {}",
                enable.display()
            ));
        }
        None => {}
    }
    let looked = tree.look(&function, kind).map_err(|e| e.to_string())?;
    let parts = (kind.regions)(looked.memory.len() as u64);
    Ok(Mapped::device(vec![looked], parts, None))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::daemon::probe::{Found, look_twice};
    use crate::spec::window;

    /// A made-up machine with functions, which goes with the test.
    struct Machine(Tree);

    impl Machine {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("bl-functions-{}", std::process::id()));
            let mut tree = Tree::default();
            (tree.sys, tree.dev) = (dir.clone(), dir);
            fs::create_dir_all(tree.sys.join("bus/pci/devices")).unwrap();
            Self(tree)
        }

        /// A function of a slot's size, which is enabled if its command register says so.
        fn add(&self, address: &str, [vendor, device]: [u16; 2], command: u8) {
            let dir = self.0.directory(address.parse().unwrap());
            fs::create_dir(&dir).unwrap();
            let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
            write("vendor", &format!("{vendor:#06x}\n"));
            write("device", &format!("{device:#06x}\n"));
            write("class", "0x050000\n");
            write("revision", "0x01\n");
            write("enable", "0\n");
            write("driver_override", "(null)\n");
            let bars =
                ["0xfe000000 0xfe0000ff 0x40200", "0x0 0x0 0x0", "0xfd000000 0xfd0fffff 0x14220c"];
            write("resource", &(bars.join("\n") + "\n"));
            fs::write(dir.join("config"), [0, 0, 0, 0, command, 0]).unwrap();
            let mut memory = vec![0; 1 << 20];
            memory[..8].copy_from_slice(&window::MAGIC.to_le_bytes());
            memory[8] = 1;
            fs::write(dir.join("resource2"), memory).unwrap();
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.sys);
        }
    }

    #[test]
    fn a_function_is_looked_at_only_where_that_changes_nothing() {
        let machine = Machine::new();
        let tree = &machine.0;
        machine.add("0000:00:02.0", [0x8086, 0x10d3], 2);
        machine.add("0000:00:03.0", [0x1af4, 0x1110], 2);
        machine.add("0000:00:04.0", [0x1af4, 0x1110], 0);
        let found = Found::new(
            "pci:x",
            None,
            look_twice(|| map(tree, "00:03.0")?.look()).map(|w| (w, vec![])),
        );
        assert_eq!(found.verdict, "window is good, no agent attached, no master attached");
        assert_eq!(found.window.unwrap().board.unwrap().mailbox.memory.as_deref(), Some("window"));
        for (address, expected) in [
            ("00:02.0", "PCI function 0000:00:02.0 is 8086:10d3, which is no board that is known"),
            ("00:04.0", "PCI function 0000:00:04.0 is disabled, so its memory does not answer"),
            ("00:05.0", "no such PCI function"),
            ("auto", "write DOMAIN:BUS:DEV.FN"),
        ] {
            let why = map(tree, address).err().unwrap();
            assert!(why.starts_with(expected), "{why}");
        }
        let driver = |name: &str| {
            let link = tree.file("00:03.0".parse().unwrap(), "driver");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(format!("../../drivers/{name}"), link).unwrap();
            map(tree, "00:03.0").err().unwrap()
        };
        let why = driver("vfio-pci");
        assert!(why.contains("is with vfio-pci, by which one process has it"), "{why}");
        let why = driver("e1000");
        assert!(
            why.contains("held by the driver e1000: unbind it (echo 0000:00:03.0 > /sys"),
            "{why}"
        );
        let lines = list(tree);
        let seen: Vec<_> =
            lines.iter().map(|line| (&*line.address, line.driver.as_deref())).collect();
        assert_eq!(seen, [("0000:00:03.0", Some("e1000")), ("0000:00:04.0", None)]);
        assert!(lines.iter().all(|line| line.fault.is_none() && line.ids == "1af4:1110"));
    }
}
