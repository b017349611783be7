//! Where boards are: PCI functions and what VFIO takes, UIO devices, slots of a backplane.

#[cfg(feature = "pci")]
mod functions;
#[cfg(feature = "uio")]
mod uio;

#[cfg(feature = "pci")]
pub(super) use functions::functions;
#[cfg(feature = "uio")]
pub(super) use uio::uio;

use super::{Finding, Machine, Wanted};

/// EFI's variable of that name; its value is the fifth octet.
const SECURE_BOOT: &str =
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// How far the kernel is locked down (kernel_lockdown(7)): "none", "integrity" or "confidentiality".
fn lockdown_of(machine: &Machine) -> Option<String> {
    let all = machine.read("sys/kernel/security/lockdown")?;
    Some(all.split_once('[')?.1.split_once(']')?.0.to_owned())
}

pub(super) fn lockdown(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    const CHECK: &str = "lockdown";
    let secure =
        std::fs::read(machine.path(SECURE_BOOT)).is_ok_and(|octets| octets.get(4) == Some(&1));
    let because = if secure { ", as Secure Boot is on" } else { "" };
    vec![match lockdown_of(machine) {
        Some(mode) if mode != "none" => Finding::ok(
            CHECK,
            format!("{mode}{because}: a function without an IOMMU (`?sysfs`) cannot be mapped"),
        ),
        _ => Finding::ok(CHECK, "the kernel is not locked down"),
    }]
}

pub(super) fn vhost_net(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    let finding = match &machine.vhost_net {
        None => return Vec::new(),
        Some(Ok(())) => Finding::ok("vhost-net", "can be opened"),
        Some(Err(why)) => {
            let remedy =
                "`modprobe vhost_net`, or give the container /dev/vhost-net; links work without";
            Finding::warn("vhost-net", why, remedy)
        }
    };
    vec![finding]
}

/// Sockets of a backplane's slots.
pub(super) fn sockets(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let is_missing = |path: &std::path::Path| !machine.has(&path.display().to_string());
    let missing: Vec<_> = wanted
        .slots()
        .filter(|(_, path)| is_missing(path))
        .map(|(name, path)| format!("{} of {name}", path.display()))
        .collect();
    match (&missing[..], wanted.slots().count()) {
        (_, 0) => Vec::new(),
        ([], n) => vec![Finding::ok("backplane", format!("has the sockets of {n} links"))],
        (missing, _) => {
            let found = format!("there is no socket {}", missing.join(", no "));
            let remedy = "`systemctl start boardlane-backplane` with as many --slots, or correct `transport`";
            vec![Finding::bad(true, "backplane", found, remedy)]
        }
    }
}
