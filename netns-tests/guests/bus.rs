//! A backplane, and guests in which its slots are functions on their PCI bus.

use std::path::{Path, PathBuf};

use crate::guest::{Guest, Plan};
use crate::world::{PROGRAM, World};

/// Vendor and device of ivshmem-doorbell.
const KIND: &str = "0x1af4:0x1110";
/// Doorbells of an end, as a backplane gives it by default.
const VECTORS: u16 = 4;

/// What a guest's machine has.
pub(crate) struct Machine {
    /// Slots of the backplane; each is a function, and the lowest address is the first one's.
    pub(crate) slots: &'static [u8],
    pub(crate) iommu: bool,
    /// Kernel modules beyond the TAP's.
    pub(crate) modules: &'static [&'static str],
    /// QEMU's arguments for more devices.
    pub(crate) devices: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        let (slots, modules) = (&[0][..], &["vfio-pci", "vfio_iommu_type1"][..]);
        Self { slots, iommu: true, modules, devices: Vec::new() }
    }
}

/// A running backplane, and one board's agent for each slot, which does not run yet; see [`World`].
pub(crate) struct Bus {
    pub(crate) world: World,
}

impl Bus {
    pub(crate) fn start(boards: u8) -> Self {
        let mut world = World::new(boards, |_, _| String::new());
        world.start("backplane");
        crate::world::wait("the backplane listens", || {
            crate::world::check(world.slot(0).exists(), "no socket")
        });
        Self { world }
    }

    /// Starts a guest.
    pub(crate) fn guest(&mut self, name: &str, machine: &Machine) -> End {
        let mut devices = machine.devices.clone();
        if machine.iommu {
            devices.extend(["-device", "intel-iommu,intremap=on"].map(str::to_owned));
        }
        for slot in machine.slots {
            let socket = self.world.slot(*slot).display().to_string();
            let chardev = format!("socket,path={socket},id=slot{slot}");
            let address = 16 + slot;
            let function =
                format!("ivshmem-doorbell,chardev=slot{slot},vectors={VECTORS},addr={address:#x}");
            devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), function]);
        }
        let plan = Plan {
            devices,
            append: if machine.iommu { "intel_iommu=on iommu=nopt" } else { "" },
            modules: machine.modules,
            files: vec![(program(), "bin/boardlane")],
            ..Plan::default()
        };
        End { guest: Guest::start(&mut self.world, name, "master", &plan) }
    }
}

/// The program to test, as guests get it.
pub(crate) fn program() -> PathBuf {
    let linked = std::env::var_os("BOARDLANE_GUEST_PROGRAM");
    linked.map_or_else(|| Path::new(PROGRAM).to_owned(), PathBuf::from)
}

/// A guest as an end of links.
pub(crate) struct End {
    pub(crate) guest: Guest,
}

impl End {
    /// The address of a slot's function.
    pub(crate) fn function(&mut self, slot: usize) -> String {
        let text = self.guest.run_well(&format!(
            "cd /sys/bus/pci/devices; for f in *; do \
             [ $(cat $f/vendor):$(cat $f/device) != {KIND} ] || echo $f; done"
        ));
        text.split_whitespace().nth(slot).expect("a function for each slot").to_owned()
    }

    /// Shows the functions of its bus: address, class, vendor and device, driver.
    pub(crate) fn introduce(&mut self) {
        let text = self.guest.run_well(
            "uname -sr; cd /sys/bus/pci/devices; for f in *; do \
             echo $f $(cat $f/class $f/vendor $f/device) $(readlink $f/driver | sed 's/.*\\///'); done",
        );
        eprintln!("{}", text.trim_end());
    }
}
