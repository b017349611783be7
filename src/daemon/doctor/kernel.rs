//! The kernel: its version, what it does with netdevs, what it confines by.

use rustix::io::Errno;

use super::{Finding, Machine, Wanted};
use crate::plan::MasterKind;

/// The oldest Linux that this is written for.
const FLOOR: (u32, u32) = (4, 19);
/// A link has about so many files open: memory, doorbells of both ends, TAP, epoll.
const FILES_PER_LINK: u64 = 20;
/// A daemon without links has not so many.
const FILES: u64 = 64;

pub(super) fn version(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let release = &machine.release;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        let remedy = "boot Linux 4.19 or later";
        return vec![Finding::warn(
            CHECK,
            format!("version {release:?} is not understood"),
            remedy,
        )];
    };
    vec![if (major, minor) < FLOOR {
        Finding::bad(true, CHECK, format!("Linux {release}"), "boot Linux 4.19 or later")
    } else {
        Finding::ok(CHECK, format!("Linux {release}"))
    }]
}

/// What was tried in a namespace of its own.
pub(super) fn netdevs(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let needed = wanted.netdevs();
    let trial = match &machine.trial {
        Ok(trial) => trial,
        Err(why) if machine.is_root => {
            let remedy = "give the container CAP_SYS_ADMIN for this look, or look outside of it";
            return vec![Finding::warn("tun", format!("could not be tried: {why}"), remedy)];
        }
        Err(why) => return vec![Finding::warn("tun", why, "or run this as root")],
    };
    let mut all = vec![match &trial.tap {
        // What it says ends with what to do.
        Err(e) => {
            let text = e.to_string();
            let (found, remedy) = text.split_once("; ").unwrap_or((&text, "boot another kernel"));
            Finding::bad(needed, "tun", found, remedy)
        }
        Ok(offload) if !offload.uso => Finding::warn(
            "tun",
            "TAPs without UDP segmentation offload (Linux 6.2 and later have it)",
            "boot a later kernel if UDP is to go in bulk",
        ),
        Ok(_) => Finding::ok("tun", "TAPs can be made, with all offloads"),
    }];
    if trial.tap.is_ok() && !trial.carrier {
        let found = "the carrier of a TAP cannot be set (Linux 5.0 and later can)";
        all.push(Finding::warn("tun", found, "boot a later kernel to see links that are down"));
    }
    for (kind, needed, made, module, config) in [
        ("bridge", wanted.masters(MasterKind::Bridge), &trial.bridge, "bridge", "CONFIG_BRIDGE"),
        ("vlan", wanted.vlans(), &trial.vlan, "8021q", "CONFIG_VLAN_8021Q"),
        ("vrf", wanted.masters(MasterKind::Vrf), &trial.vrf, "vrf", "CONFIG_NET_VRF"),
    ] {
        all.push(match made {
            Ok(()) => Finding::ok(kind, "can be made"),
            // The TAP has been told of.
            Err(Errno::NODEV) => continue,
            // Nobody asks.
            Err(_) if !needed && !wanted.configs.is_empty() => continue,
            Err(errno) => {
                let found = format!("cannot be made here: {errno}");
                let remedy = format!("`modprobe {module}`, or boot a kernel with {config}");
                Finding::bad(needed, kind, found, remedy)
            }
        });
    }
    all
}

/// What daemons confine themselves by.
pub(super) fn walls(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    let seccomp = machine.has("proc/sys/kernel/seccomp/actions_avail");
    let lacks = [(machine.landlock.is_some(), "Landlock"), (seccomp, "seccomp")];
    let lacks: Vec<_> = lacks.iter().filter(|(has, _)| !has).map(|(_, wall)| *wall).collect();
    vec![if lacks.is_empty() {
        Finding::ok("confine", "daemons are confined by capabilities, seccomp and Landlock")
    } else {
        let remedy = "boot Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK and CONFIG_SECCOMP_FILTER, \
            and \"landlock\" in the kernel's lsm= if that is given";
        Finding::warn("confine", format!("daemons run without {}", lacks.join(" and ")), remedy)
    }]
}

/// How many files a daemon may have open.
pub(super) fn files(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let most = wanted.configs.iter().map(|(_, _, config)| config.links.len()).max().unwrap_or(0);
    let needs = FILES + FILES_PER_LINK * most as u64;
    vec![match machine.files {
        Some(limit) if limit < needs => {
            let found = format!("a process may open {limit} files, and {most} links need {needs}");
            let remedy = format!(
                "raise the hard limit: LimitNOFILE={needs} in a unit, else `ulimit -Hn {needs}`"
            );
            Finding::bad(true, "files", found, remedy)
        }
        _ => Finding::ok("files", "a process may open as many files as links need"),
    }]
}
