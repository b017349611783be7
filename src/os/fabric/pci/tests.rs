//! Functions of made-up trees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::binding::Binding;
use super::*;
use crate::memory::Kind;
use crate::os::bell::Bell;

mod lines;
mod links;
mod look;

const IVSHMEM: &str = "0000:00:03.0";

/// A made-up machine.
struct Machine {
    tree: Tree,
    dir: PathBuf,
}

/// A function of it; `Default` is one of the kind that every machine has.
struct Made {
    ids: [&'static str; 3],
    /// BAR 0 and BAR 2, as lines of `resource`.
    bars: [&'static str; 2],
    driver: Option<&'static str>,
    driver_override: &'static str,
    group: Option<u32>,
    enable: &'static str,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            ids: ["0x1af4", "0x1110", "0x050000"],
            bars: [
                "0x00000000febf2000 0x00000000febf20ff 0x0000000000040200",
                "0x00000000fe000000 0x00000000fe0fffff 0x000000000014220c",
            ],
            driver: None,
            driver_override: "(null)",
            group: None,
            enable: "0",
        }
    }
}

impl Machine {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bl-pci-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for part in ["sys/bus/pci/devices", "sys/bus/pci/drivers", "dev/vfio"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let (sys, dev) = (dir.join("sys"), dir.join("dev"));
        let tree = Tree { sys, dev, after_write: kernel, ..Tree::default() };
        fs::write(tree.sys.join("bus/pci/drivers_probe"), "").unwrap();
        Self { tree, dir }
    }

    fn driver(&self, name: &str) -> PathBuf {
        let path = self.tree.sys.join("bus/pci/drivers").join(name);
        fs::create_dir_all(&path).unwrap();
        for file in ["bind", "unbind"] {
            fs::write(path.join(file), "").unwrap();
        }
        path
    }

    fn add(&self, address: &str, made: &Made) {
        let path = self.tree.directory(address.parse().unwrap());
        fs::create_dir_all(&path).unwrap();
        let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        for (name, text) in ["vendor", "device", "class"].iter().zip(made.ids) {
            write(name, &format!("{text}\n"));
        }
        write("revision", "0x01\n");
        write("enable", &format!("{}\n", made.enable));
        write("driver_override", &format!("{}\n", made.driver_override));
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000";
        write("resource", &[made.bars[0], none, made.bars[1], none, none, none, none].join("\n"));
        write("config", "\u{1a}\u{2f}");
        if let Some(driver) = made.driver {
            symlink(self.driver(driver), path.join("driver")).unwrap();
        }
        if let Some(group) = made.group {
            let group = self.tree.sys.join(format!("kernel/iommu_groups/{group}"));
            fs::create_dir_all(group.join("devices")).unwrap();
            symlink(&group, path.join("iommu_group")).unwrap();
            symlink(&path, group.join("devices").join(address)).unwrap();
        }
    }

    fn look(&self, address: &str) -> Function {
        self.tree.function(address.parse().unwrap()).unwrap()
    }

    /// What the function looks like to whoever would see it changed.
    fn state(&self, address: &str) -> (Option<String>, Option<String>, bool) {
        let Function { address, driver, enabled, .. } = self.look(address);
        let driver_override = self.tree.driver_override(address).unwrap();
        (driver, driver_override, enabled)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What a kernel does. One whose vfio-pci has a file `refuses` does not take functions.
fn kernel(tree: &Tree, path: &Path, text: &str) {
    let drivers = tree.sys.join("bus/pci/drivers");
    let device = |text: &str| tree.sys.join("bus/pci/devices").join(text);
    match path.file_name().unwrap().to_str().unwrap() {
        "driver_override" => fs::write(path, format!("{}\n", text.trim())).unwrap(),
        "unbind" => fs::remove_file(device(text).join("driver")).unwrap(),
        "bind" => symlink(path.parent().unwrap(), device(text).join("driver")).unwrap(),
        "drivers_probe" => {
            let wanted = fs::read_to_string(device(text).join("driver_override")).unwrap();
            let driver = drivers.join(wanted.trim());
            if driver.exists() && !driver.join("refuses").exists() {
                symlink(driver, device(text).join("driver")).unwrap();
            }
        }
        _ => {}
    }
}

fn wanted(text: &str) -> Wanted {
    let (which, mode) = text.split_once('?').unwrap_or((text, ""));
    let mode = match mode {
        "vfio" => Some(Mode::Vfio),
        "sysfs" => Some(Mode::Sysfs),
        _ => None,
    };
    let which = if which == "auto" { Which::Auto } else { Which::At(which.parse().unwrap()) };
    Wanted { which, mode }
}

#[test]
fn a_function_is_what_its_files_say() {
    let machine = Machine::new("says");
    machine.driver("vfio-pci");
    let made = Made { driver: Some("nvme"), group: Some(7), enable: "2", ..Made::default() };
    machine.add(IVSHMEM, &made);
    let function = machine.look(IVSHMEM);
    assert_eq!((function.vendor, function.device, function.revision), (0x1af4, 0x1110, 1));
    assert_eq!((function.class, function.group, function.enabled), (0x05_0000, Some(7), true));
    assert_eq!(function.driver.as_deref(), Some("nvme"));
    assert_eq!(machine.tree.driver_override(function.address).unwrap(), None);
    let registers = Bar { start: 0xfebf_2000, len: 256, memory: true, prefetchable: false };
    let memory = Bar { start: 0xfe00_0000, len: 1 << 20, memory: true, prefetchable: true };
    assert_eq!(function.bars, [Some(registers), None, Some(memory), None, None, None]);
    machine.add("10000:e1:1f.7", &Made::default());
    machine.add("0000:00:02.0", &Made::default());
    let all = machine.tree.functions().unwrap().into_iter().map(|a| a.to_string());
    assert_eq!(all.collect::<Vec<_>>(), ["0000:00:02.0", IVSHMEM, "10000:e1:1f.7"]);
    assert_eq!(machine.tree.group(7), [(IVSHMEM.to_owned(), Some("nvme".to_owned()))]);
}

#[test]
fn a_driver_gives_its_function_to_vfio_pci_and_gets_it_back() {
    for (name, driver, driver_override) in
        [("none", None, "(null)"), ("other", Some("uio"), "(null)"), ("asked", Some("uio"), "uio")]
    {
        let machine = Machine::new(&format!("binding-{name}"));
        machine.driver("vfio-pci");
        machine.add(IVSHMEM, &Made { driver, driver_override, ..Made::default() });
        let function = machine.look(IVSHMEM);
        let before = machine.state(IVSHMEM);
        let mut binding = Binding::take(&machine.tree, &function).unwrap();
        let vfio = Some("vfio-pci".to_owned());
        assert_eq!(machine.state(IVSHMEM), (vfio.clone(), vfio.clone(), false));
        // Somebody else takes it away.
        fs::remove_file(machine.tree.file(function.address, "driver")).unwrap();
        binding.renew(&machine.tree, &machine.look(IVSHMEM)).unwrap();
        assert_eq!(machine.state(IVSHMEM).0, vfio);
        binding.give_back(&machine.tree).unwrap();
        assert_eq!(machine.state(IVSHMEM), before, "{name}");
    }
}

#[test]
fn a_function_that_was_with_vfio_pci_stays_with_it() {
    let machine = Machine::new("found");
    machine.add(IVSHMEM, &Made { driver: Some("vfio-pci"), ..Made::default() });
    let function = machine.look(IVSHMEM);
    let before = machine.state(IVSHMEM);
    Binding::take(&machine.tree, &function).unwrap().give_back(&machine.tree).unwrap();
    assert_eq!(machine.state(IVSHMEM), before);
}

#[test]
fn what_vfio_pci_does_not_take_is_as_before() {
    let machine = Machine::new("refuses");
    fs::write(machine.driver("vfio-pci").join("refuses"), "").unwrap();
    machine.add(IVSHMEM, &Made { driver: Some("nvme"), ..Made::default() });
    let function = machine.look(IVSHMEM);
    let before = machine.state(IVSHMEM);
    let error = Binding::take(&machine.tree, &function).unwrap_err();
    assert!(matches!(error, PciError::Bind { driver: None, .. }), "{error}");
    assert_eq!(machine.state(IVSHMEM), before);
}

#[test]
fn a_function_that_has_gone_takes_nothing_back() {
    let machine = Machine::new("gone");
    machine.driver("vfio-pci");
    machine.add(IVSHMEM, &Made::default());
    let function = machine.look(IVSHMEM);
    let binding = Binding::take(&machine.tree, &function).unwrap();
    fs::remove_dir_all(machine.tree.directory(function.address)).unwrap();
    binding.give_back(&machine.tree).unwrap();
}

#[test]
fn a_driver_does_not_lose_its_function_anew_with_each_try() {
    let machine = Machine::new("tries");
    machine.driver("vfio-pci");
    let made = Made { driver: Some("uio"), group: Some(1), ..Made::default() };
    machine.add(IVSHMEM, &made);
    let before = machine.state(IVSHMEM);
    let mut taken = None;
    for _ in 0..3 {
        // VFIO itself is not there.
        let error = take(&machine.tree, wanted(IVSHMEM), &[], &mut taken).unwrap_err();
        assert!(matches!(error, PciError::NoModule { module: "vfio", .. }), "{error}");
        assert_eq!(machine.state(IVSHMEM).0.as_deref(), Some("vfio-pci"));
    }
    taken.unwrap().give_back().unwrap();
    assert_eq!(machine.state(IVSHMEM), before);
}

#[test]
fn what_is_told_of_a_function_is_read_as_it_was_written() {
    for text in
        ["0000:00:03.0 ivshmem-doorbell vfio uc 0", "10000:e1:00.7 ivshmem-doorbell sysfs wc 256"]
    {
        assert_eq!(text.parse::<Told>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "0000:00:03.0 ivshmem-doorbell vfio uc",
        "0000:00:03.0 ivshmem-doorbell vfio uc 0 0",
        "0000:00:03.0 no-such-kind vfio uc 0",
        "0000:00:03.0 ivshmem-doorbell uio uc 0",
        "0000:00:03.0 ivshmem-doorbell vfio wb 0",
        "0000:00:03.0 ivshmem-doorbell vfio uc 65536",
        "0000:00:03.8 ivshmem-doorbell vfio uc 0",
    ] {
        assert!(matches!(text.parse::<Told>(), Err(PciError::Told(_))), "{text}");
    }
}

#[test]
fn what_somebody_else_has_by_now_is_not_given_back() {
    let machine = Machine::new("usurped");
    for name in ["vfio-pci", "nvme", "other"] {
        machine.driver(name);
    }
    machine.add(IVSHMEM, &Made { driver: Some("nvme"), group: Some(7), ..Made::default() });
    let mut taken = None;
    // There is no VFIO, but vfio-pci has it.
    assert!(take(&machine.tree, wanted(IVSHMEM), &[], &mut taken).is_err());
    assert_eq!(machine.look(IVSHMEM).driver.as_deref(), Some("vfio-pci"));
    // An operator gives it to another driver.
    let address: Address = IVSHMEM.parse().unwrap();
    machine.tree.write(&machine.tree.file(address, "driver/unbind"), IVSHMEM).unwrap();
    machine.tree.write(&machine.tree.file(address, "driver_override"), "other").unwrap();
    machine.tree.write(&machine.tree.sys.join("bus/pci/drivers_probe"), IVSHMEM).unwrap();
    assert_eq!(machine.look(IVSHMEM).driver.as_deref(), Some("other"));
    taken.unwrap().give_back().unwrap();
    assert_eq!(machine.look(IVSHMEM).driver.as_deref(), Some("other"));
}
