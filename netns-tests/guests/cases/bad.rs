//! What cannot be a link's function is named in one line, and other links go on.

use crate::bus::{BOARD, Bus, End, Machine, NO_VFIO, address, link, master};

/// Of QEMU's q35: SATA.
pub(super) const FOREIGN: &str = "0000:00:1f.2";
const ABSENT: &str = "0000:00:1e.0";

/// A link that works, and others, each with what its reason must say.
fn beside(wrong: &[(&str, &str)], machine: Machine) -> (Bus, End) {
    let mut config = link("bl0", &format!("pci:{}", address(0)), "10.77.0.1", "");
    config = if machine.iommu { config } else { config.replace("\"\naddr", "?sysfs\"\naddr") };
    for (i, (transport, _)) in wrong.iter().enumerate() {
        config += &link(&format!("bad{i}"), transport, &format!("10.78.{i}.1"), "");
    }
    let (bus, mut end) = Bus::with(&Machine { config, role: "master", ..machine });
    end.is_up();
    for (i, (_, reason)) in wrong.iter().enumerate() {
        end.wait_state(&format!("bad{i}"), "waiting", reason);
    }
    let text = end.guest.run_well("boardlane status");
    eprintln!("{text}");
    end.guest.pings(BOARD);
    (bus, end)
}

pub(super) fn functions_that_are_absent_foreign_or_held_are_named() {
    let held = address(1);
    let wrong = [
        (format!("pci:{ABSENT}"), format!("{ABSENT}.*correct .transport")),
        (format!("pci:{FOREIGN}"), format!("{FOREIGN} is 8086:2922, which is no board")),
        (
            format!("pci:{held}?sysfs"),
            format!("{held} is held by the driver vfio-pci.*/sys/bus/pci/drivers/vfio-pci/unbind"),
        ),
    ];
    let wrong: Vec<_> = wrong.iter().map(|(t, r)| (t.as_str(), r.as_str())).collect();
    let before = "f=0000:00:11.0
echo vfio-pci >/sys/bus/pci/devices/$f/driver_override
echo $f >/sys/bus/pci/drivers_probe
";
    let machine = Machine { slots: &[0, 1], before, ..Machine::default() };
    let (_bus, mut end) = beside(&wrong, machine);
    // A second daemon that wants the first one's.
    let config =
        link("other", &format!("pci:{}", address(0)), "10.79.0.1", "").replace('\n', "\\n");
    end.guest.run_well(&format!(
        "printf 'control = \"/run/other.sock\"\\n{config}' >/tmp/other.toml; \
         boardlane master --config /tmp/other.toml >/tmp/other.log 2>&1 & echo $! >/tmp/other.pid"
    ));
    eprintln!("{}", end.guest.until("grep -m 1 'held by another process' /tmp/other.log"));
    end.guest.run_well("kill $(cat /tmp/other.pid)");
    end.guest.until("! kill -0 $(cat /tmp/other.pid) 2>/dev/null");
    // It is taken as soon as it is free.
    end.guest.run_well(&format!("echo {held} >/sys/bus/pci/drivers/vfio-pci/unbind"));
    end.wait_state("bad2", "waiting", "waiting for board");
}

pub(super) fn vfio_without_an_iommu_is_named() {
    let transport = format!("pci:{}?vfio", address(1));
    let reason = format!("{} is in no IOMMU group.*intel_iommu=on.*?sysfs", address(1));
    let machine = Machine { slots: &[0, 1], iommu: false, modules: NO_VFIO, ..Machine::default() };
    beside(&[(&transport, &reason)], machine);
}

pub(super) fn vfio_pci_that_is_not_loaded_is_named() {
    let machine = Machine { modules: NO_VFIO, ..master(&format!("pci:{}", address(0)), "") };
    let (_bus, mut end) = Bus::with(&machine);
    end.wait_state(
        "bl0",
        "waiting",
        "/sys/bus/pci/drivers/vfio-pci does not exist.*modprobe vfio-pci",
    );
    eprintln!("{}", end.guest.run_well("boardlane status"));
}

pub(super) fn a_locked_kernel_is_named() {
    let machine = Machine {
        iommu: false,
        modules: NO_VFIO,
        before: "mount -t securityfs securityfs /sys/kernel/security
echo integrity >/sys/kernel/security/lockdown
",
        ..master(&format!("pci:{}", address(0)), "")
    };
    let (_bus, mut end) = Bus::with(&machine);
    end.wait_state("bl0", "waiting", "locked down (/sys/kernel/security/lockdown).*?vfio");
    eprintln!("{}", end.guest.run_well("boardlane status"));
}
