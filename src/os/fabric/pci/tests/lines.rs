//! The line of each error, as a machine brings it about.

use super::*;
use crate::os::fabric::pci::binding::Refused;

/// What is wrong with a function.
fn complaint(machine: &Machine, want: &str) -> String {
    let mut taken = None;
    let error = take(&machine.tree, wanted(want), &[], &mut taken).unwrap_err();
    if let Some(taken) = taken {
        taken.give_back().unwrap();
    }
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(machine.dir.to_str().unwrap(), "")
}

/// The same of a machine with one function.
fn of_one(name: &str, made: &Made, want: &str) -> String {
    let machine = Machine::new(name);
    machine.add(IVSHMEM, made);
    complaint(&machine, want)
}

#[test]
fn a_function_that_is_not_there() {
    let machine = Machine::new("absent");
    assert_eq!(
        complaint(&machine, IVSHMEM),
        "no such PCI function: /sys/bus/pci/devices/0000:00:03.0 does not exist; plug it in, or \
         correct `transport` (see `lspci -D`)"
    );
    assert_eq!(
        complaint(&machine, "auto"),
        "no PCI function of a known kind is there (ivshmem-doorbell 1af4:1110)"
    );
}

#[test]
fn a_function_that_is_no_board() {
    let made = Made { ids: ["0x8086", "0x100e", "0x020000"], ..Made::default() };
    assert_eq!(
        of_one("foreign", &made, IVSHMEM),
        "PCI function 0000:00:03.0 is 8086:100e, which is no board that is known (ivshmem-doorbell \
         1af4:1110); correct `transport`"
    );
    let made = Made { ids: ["0x1af4", "0x1110", "0x020000"], ..Made::default() };
    assert_eq!(
        of_one("class", &made, IVSHMEM),
        "PCI function 0000:00:03.0 has the ids of ivshmem-doorbell, and class 020000 in place of 0500xx: \
         it is something else"
    );
    let made = Made { ids: ["1af4", "0x1110", "0x050000"], ..Made::default() };
    assert_eq!(
        of_one("sense", &made, IVSHMEM),
        "/sys/bus/pci/devices/0000:00:03.0/vendor: \"1af4\" makes no sense"
    );
}

#[test]
fn a_bar_that_is_not_as_its_kind_has_it() {
    let zero = "0x0000000000000000 0x0000000000000000 0x0000000000000000";
    let right = Made::default().bars;
    for (name, bars, fault) in [
        ("missing", [right[0], zero], "BAR 2 of PCI function 0000:00:03.0 is not there"),
        (
            "small",
            [right[0], "0x00000000fe000000 0x00000000fe07ffff 0x000000000014220c"],
            "BAR 2 of PCI function 0000:00:03.0 has 524288 bytes, and it takes a power of two from \
             1048576 to 4294967296",
        ),
        (
            "ports",
            [right[0], "0x000000000000c000 0x00000000000fffff 0x0000000000040101"],
            "BAR 2 of PCI function 0000:00:03.0 is of I/O ports, not memory",
        ),
        (
            "unset",
            [right[0], "0x0000000000000000 0x00000000000fffff 0x000000002014220c"],
            "BAR 2 of PCI function 0000:00:03.0 has been given no place in memory; see `dmesg`, and \
             boot with pci=realloc",
        ),
        (
            "registers",
            ["0x00000000febf2000 0x00000000febf2007 0x0000000000040200", right[1]],
            "BAR 0 of PCI function 0000:00:03.0 has 8 bytes, too few for the registers",
        ),
        (
            "nonsense",
            ["0x00000000febf2000 0x00000000febf20ff", right[1]],
            "/sys/bus/pci/devices/0000:00:03.0/resource: \"0x00000000febf2000 0x00000000febf20ff\" makes \
             no sense",
        ),
    ] {
        let made = Made { bars, ..Made::default() };
        assert_eq!(of_one(&format!("bar-{name}"), &made, IVSHMEM), fault);
    }
}

#[test]
fn a_function_that_a_driver_has_is_not_mapped_beside_it() {
    let made = Made { driver: Some("nvme"), ..Made::default() };
    let line = "PCI function 0000:00:03.0 is held by the driver nvme; unbind it (echo 0000:00:03.0 > \
                /sys/bus/pci/drivers/nvme/unbind), or give its address with ?vfio in `transport`";
    assert_eq!(of_one("driver", &made, IVSHMEM), line);
    assert_eq!(of_one("driver-auto", &made, "auto?vfio"), line);
}

#[test]
fn vfio_without_what_it_needs() {
    assert_eq!(
        of_one("iommu", &Made::default(), "0000:00:03.0?vfio"),
        "PCI function 0000:00:03.0 is in no IOMMU group, which VFIO needs; switch the IOMMU on \
         (firmware, intel_iommu=on), or use ?sysfs"
    );
    let made = Made { group: Some(4), ..Made::default() };
    assert_eq!(
        of_one("module", &made, IVSHMEM),
        "/sys/bus/pci/drivers/vfio-pci does not exist: vfio-pci is not loaded (modprobe vfio-pci)"
    );
    let mut machine = Machine::new("refusing");
    machine.add(IVSHMEM, &made);
    fs::write(machine.driver("vfio-pci").join("refuses"), "").unwrap();
    let refused = "PCI function 0000:00:03.0 was not taken by vfio-pci; see `dmesg` for why";
    assert_eq!(complaint(&machine, IVSHMEM), refused);
    fs::remove_file(machine.driver("vfio-pci").join("refuses")).unwrap();
    // It is not tried again with each look, for its driver's sake.
    assert_eq!(complaint(&machine, IVSHMEM), refused);
    machine.tree.refused = Refused::default();
    assert_eq!(
        complaint(&machine, IVSHMEM),
        "/dev/vfio/vfio does not exist: vfio is not loaded (modprobe vfio)"
    );
}

#[test]
fn a_group_that_cannot_be_opened() {
    let said =
        |errno: Errno| vfio::open_error("/dev/vfio/4".into(), "vfio-pci", errno.into()).to_string();
    assert_eq!(
        said(Errno::NOENT),
        "/dev/vfio/4 does not exist: vfio-pci is not loaded (modprobe vfio-pci)"
    );
    assert_eq!(said(Errno::BUSY), "/dev/vfio/4 is held by another process; stop that one");
    for errno in [Errno::ACCESS, Errno::PERM] {
        assert_eq!(
            said(errno),
            "no permission to open /dev/vfio/4; run the daemon as root, or give its user the file"
        );
    }
}

#[test]
fn a_group_that_others_use() {
    let machine = Machine::new("viable");
    for (address, driver) in [
        (IVSHMEM, Some("vfio-pci")),
        ("0000:00:03.1", Some("e1000e")),
        ("0000:00:03.2", None),
        ("0000:00:03.3", Some("pci-stub")),
        ("0000:00:03.4", Some("nvme")),
    ] {
        machine.add(address, &Made { driver, group: Some(4), ..Made::default() });
    }
    assert_eq!(
        vfio::not_viable(&machine.tree, IVSHMEM.parse().unwrap(), 4).to_string(),
        "IOMMU group 4 of PCI function 0000:00:03.0 is in use: 0000:00:03.1 is with e1000e, \
         0000:00:03.4 is with nvme; unbind those, or put the board into another slot"
    );
}

#[test]
fn a_kernel_that_forbids_to_map() {
    let machine = Machine::new("lockdown");
    fs::create_dir_all(machine.tree.sys.join("kernel/security")).unwrap();
    let state = machine.tree.sys.join("kernel/security/lockdown");
    let said = |errno| resource::mapping_error(&machine.tree, "/r2".into(), errno).to_string();
    let locked = "the kernel is locked down (/sys/kernel/security/lockdown) and forbids to map /r2; use \
                  ?vfio, or boot without lockdown";
    assert_eq!(said(Errno::PERM), locked);
    fs::write(&state, "none [integrity] confidentiality\n").unwrap();
    assert_eq!(said(Errno::PERM), locked);
    fs::write(&state, "[none] integrity confidentiality\n").unwrap();
    assert_eq!(
        said(Errno::PERM),
        "no permission to open /r2; run the daemon as root, or give its user the file"
    );
    assert_eq!(said(Errno::INVAL), "/r2: Invalid argument (os error 22)");
}

#[test]
fn what_only_a_real_function_brings_about() {
    let (address, kind) = (IVSHMEM.parse().unwrap(), &KINDS[0]);
    for (error, line) in [
        (
            PciError::Vectors { address, has: 0, needs: kind.vectors },
            "PCI function 0000:00:03.0 has 0 MSI-X vectors and its kind needs 1; use one with doorbells \
             (QEMU: ivshmem-doorbell), or ?sysfs, which polls",
        ),
        (
            PciError::Id { address, value: u32::MAX },
            "the id register of PCI function 0000:00:03.0 reads 0xffffffff: nobody serves its memory",
        ),
        (
            PciError::Bar { address, bar: 0, fault: BarFault::NotMapped },
            "BAR 0 of PCI function 0000:00:03.0 cannot be mapped by VFIO, as it shares a page with \
             another; boot with pci=resource_alignment=, or use ?sysfs",
        ),
        (
            PciError::Vfio { address, doing: "VFIO_SET_IOMMU", errno: Errno::NODEV },
            "PCI function 0000:00:03.0 by VFIO: VFIO_SET_IOMMU: No such device (os error 19)",
        ),
        (
            PciError::Map { address, bar: 2, errno: Errno::NOMEM },
            "mapping BAR 2 of PCI function 0000:00:03.0: Cannot allocate memory (os error 12)",
        ),
    ] {
        assert_eq!(error.to_string(), line);
    }
}
