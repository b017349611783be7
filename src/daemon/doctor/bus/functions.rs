//! PCI functions of known kinds, and whether a link can have them.

use super::{Finding, Machine, Wanted, lockdown_of};
use crate::daemon::config::Transport;
use crate::os::fabric::pci::{Address, Function, Mode, Tree, Wanted as Asked, Which, check, known};

const CHECK: &str = "pci";

/// The functions that links name, or that there are.
pub(in super::super) fn functions(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut tree = Tree::default();
    (tree.sys, tree.dev) = (machine.path("sys"), machine.path("dev"));
    let known = known(&tree).unwrap_or_default();
    let mut all = vfio(machine, wanted, &known);
    for (_, link) in wanted.links() {
        let Transport::Pci(Asked { which, mode }) = &link.transport else { continue };
        match which {
            Which::At(address) => all.push(named(machine, &tree, &link.name, *address, *mode)),
            Which::Auto if known.is_empty() => {
                let found = format!("{}: there is no function of a known kind", link.name);
                all.push(Finding::bad(true, CHECK, found, RESCAN));
            }
            Which::Auto => {}
        }
    }
    let named = |function: &Function| {
        wanted.links().any(|(_, link)| match &link.transport {
            Transport::Pci(Asked { which: Which::At(address), .. }) => *address == function.address,
            _ => false,
        })
    };
    for function in known.iter().filter(|function| !named(function)) {
        all.push(judge(machine, &tree, function, None, wanted.functions()));
    }
    if known.is_empty() && !wanted.functions() {
        all.push(Finding::ok(CHECK, "no function of a known kind"));
    }
    all
}

const RESCAN: &str = "see that the board has power and firmware, `echo 1 > /sys/bus/pci/rescan`, or correct `transport` (`boardlane probe` lists what there is)";

/// A function that a link names.
fn named(
    machine: &Machine,
    tree: &Tree,
    link: &str,
    address: Address,
    mode: Option<Mode>,
) -> Finding {
    match tree.function(address) {
        Ok(function) => judge(machine, tree, &function, mode, true),
        Err(_) => {
            let found = format!("{link}: PCI function {address} is not there");
            Finding::bad(true, CHECK, found, RESCAN)
        }
    }
}

/// Whether a link can have a function, by the way that its config or, without it, the function itself says.
fn judge(
    machine: &Machine,
    tree: &Tree,
    function: &Function,
    mode: Option<Mode>,
    needed: bool,
) -> Finding {
    let address = function.address;
    let kind = match check(function) {
        Ok(kind) => kind.name,
        Err(e) => return Finding::bad(needed, CHECK, e.to_string(), "name another one"),
    };
    let bad = |found: String, remedy: String| Finding::bad(needed, CHECK, found, remedy);
    let driver = function.driver.as_deref();
    let usual = if function.group.is_some() { Mode::Vfio } else { Mode::Sysfs };
    match (mode.unwrap_or(usual), function.group) {
        (Mode::Vfio, None) => bad(
            format!("{address} is in no IOMMU group, which ?vfio takes"),
            "boot with intel_iommu=on (or with AMD's in the firmware), or take ?vfio out".into(),
        ),
        (Mode::Vfio, Some(group)) => {
            let others =
                tree.group(group).into_iter().filter_map(|(other, driver)| Some((other, driver?)));
            let others = others.filter(|(other, driver)| {
                *other != address.to_string() && !["vfio-pci", "pcieport"].contains(&&**driver)
            });
            let others: Vec<_> =
                others.map(|(other, driver)| format!("{other} (driver {driver})")).collect();
            if others.is_empty() {
                let held = driver.filter(|driver| *driver != "vfio-pci");
                let held =
                    held.map(|driver| format!(", from the driver {driver}")).unwrap_or_default();
                return Finding::ok(
                    CHECK,
                    format!("{address} {kind}: by VFIO, IOMMU group {group}{held}"),
                );
            }
            bad(
                format!("{address} shares IOMMU group {group} with {}", others.join(", ")),
                "unbind those, or put the board into a slot of its own".into(),
            )
        }
        (Mode::Sysfs, _) => match driver {
            Some(driver) => bad(
                format!("{address} is held by the driver {driver}"),
                format!("`echo {address} > /sys/bus/pci/drivers/{driver}/unbind`"),
            ),
            None if is_locked_down(machine) => bad(
                format!("{address} has to be mapped by sysfs, and the kernel is locked down"),
                "boot with an IOMMU (intel_iommu=on), or without lockdown and Secure Boot".into(),
            ),
            None => Finding::ok(CHECK, format!("{address} {kind}: by sysfs, polled")),
        },
    }
}

/// What VFIO needs, if a function is in an IOMMU group or a link asks for it.
fn vfio(machine: &Machine, wanted: &Wanted, known: &[Function]) -> Vec<Finding> {
    let asks = wanted
        .any(|link| matches!(link.transport, Transport::Pci(Asked { mode: Some(Mode::Vfio), .. })));
    let usual = wanted.functions() && known.iter().any(|function| function.group.is_some());
    let mut all = Vec::new();
    if machine.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode").as_deref() == Some("Y")
    {
        let found = "VFIO works without an IOMMU here, so that a device may write to all of this machine's memory";
        let file = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        all.push(Finding::warn("vfio", found, format!("`echo N > {file}`; boards do without")));
    }
    if !asks && !usual && known.is_empty() {
        return all;
    }
    if machine.names("sys/kernel/iommu_groups").is_empty() {
        let remedy =
            "turn it on in the firmware and boot with intel_iommu=on; without it links poll";
        all.push(Finding::bad(asks, "vfio", "there is no IOMMU", remedy));
        return all;
    }
    let missing = [
        ("sys/bus/pci/drivers/vfio-pci", "vfio-pci"),
        ("dev/vfio/vfio", "vfio"),
        ("sys/module/vfio_iommu_type1", "vfio_iommu_type1"),
    ];
    let missing = missing.iter().filter(|(path, _)| !machine.has(path));
    let missing: Vec<_> = missing.map(|(_, module)| *module).collect();
    all.push(if missing.is_empty() {
        Finding::ok("vfio", "IOMMU and modules are there")
    } else {
        let found = format!("the kernel's {} is not there", missing.join(", "));
        let remedy = "`modprobe -a vfio-pci vfio_iommu_type1`; the unit of the master does that";
        Finding::bad(asks || usual, "vfio", found, remedy)
    });
    all
}

/// Whether the kernel maps no BAR by sysfs.
fn is_locked_down(machine: &Machine) -> bool {
    lockdown_of(machine).is_some_and(|mode| mode != "none")
}
