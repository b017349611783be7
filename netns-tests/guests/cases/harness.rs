//! What the other stories stand on, without boardlane in the guest.

use crate::bus::{Bus, Machine, address};

pub(super) fn a_slot_is_a_function_that_vfio_takes() {
    let mut bus = Bus::start(1);
    let mut end = bus.guest("guest", &Machine::default());
    end.introduce();
    let function = address(0);
    let path = format!("/sys/bus/pci/devices/{function}");
    // BAR2 is the slot's memory.
    let bar = end.guest.run_well(&format!("sed -n 3p {path}/resource"));
    let bounds: Vec<_> = bar.split(' ').take(2).map(number).collect();
    assert_eq!(bounds[1] - bounds[0] + 1, 16 << 20, "{bar}");
    end.guest.run_well(&format!(
        "echo vfio-pci >{path}/driver_override && echo {function} >/sys/bus/pci/drivers_probe"
    ));
    let group = end.guest.run_well(&format!("basename $(readlink {path}/iommu_group)"));
    end.guest.run_well(&format!("[ -c /dev/vfio/{} ]", group.trim()));
    end.introduce();
    end.guest.kill(&mut bus.world);
}

fn number(word: &str) -> u64 {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}
