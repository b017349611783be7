//! A master in a guest without an IOMMU: the function's memory by sysfs, and no interrupt, so it polls.

use crate::bus::{BOARD, Bus, Machine, NO_VFIO, address, master};

fn polls(transport: &str) {
    let machine = Machine { iommu: false, modules: NO_VFIO, ..master(transport, "") };
    let (mut bus, mut end) = Bus::with(&machine);
    end.is_up();
    bus.agent_up();
    assert_eq!(bus.traffic(&mut end), [0, 0]);
    end.kill_and_start();
    end.wait_state("bl0", "up", "");
    end.guest.pings(BOARD);
    end.remove(0);
    end.wait_state("bl0", "waiting", &address(0));
    end.rescan();
    end.wait_state("bl0", "up", "");
    bus.traffic(&mut end);
    // What was enabled for it is not any more.
    end.guest.run_well("kill $(cat /tmp/pid)");
    let enable = format!("/sys/bus/pci/devices/{}/enable", address(0));
    end.guest.until(&format!("grep 0 {enable}"));
}

pub(super) fn a_master_carries_traffic_and_polls() {
    polls(&format!("pci:{}?sysfs", address(0)));
}

pub(super) fn a_function_without_an_iommu_is_polled_by_itself() {
    let machine = Machine { iommu: false, modules: NO_VFIO, ..master("pci:auto", "") };
    let (mut bus, mut end) = Bus::with(&machine);
    end.is_up();
    bus.agent_up();
    assert_eq!(bus.traffic(&mut end), [0, 0]);
}
