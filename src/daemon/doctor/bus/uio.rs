//! A board's own UIO devices.

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{Finding, Machine, Wanted};
use crate::daemon::config::Transport;
use crate::os::fabric::uio::devices;

/// The devices that links name, or that there are.
pub(in super::super) fn uio(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    const CHECK: &str = "uio";
    let devices = devices(&machine.path("sys"));
    let mut named = Vec::new();
    for (_, link) in wanted.links() {
        let Transport::Uio { path, .. } = &link.transport else { continue };
        let file = machine.path(&path.display().to_string());
        let path = path.display();
        let device =
            devices.iter().find(|device| device.path.display().to_string() == path.to_string());
        let access = accessat(CWD, &file, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS);
        named.push(match device {
            None => Finding::bad(
                true,
                CHECK,
                format!("{}: there is no device {path}", link.name),
                "load its driver, or correct `transport` (`boardlane probe` lists what there is)",
            ),
            Some(_) if !file.exists() => Finding::bad(
                true,
                CHECK,
                format!("the kernel has {path}, and its file is not there"),
                "give the container this device",
            ),
            Some(_) if access.is_err() => Finding::bad(
                true,
                CHECK,
                format!("this user may not read and write {path}"),
                "run as root, or have a udev rule give the daemon's group the device",
            ),
            Some(device) => {
                Finding::ok(CHECK, format!("{path} ({}): {} maps", device.name, device.maps.len()))
            }
        });
    }
    if named.is_empty() {
        let names: Vec<_> = devices
            .iter()
            .map(|device| format!("{} ({})", device.path.display(), device.name))
            .collect();
        let found = if names.is_empty() { "no device".to_owned() } else { names.join(", ") };
        named.push(Finding::ok(CHECK, found));
    }
    named
}
