//! Settings of this machine's network, and who else manages netdevs.

use super::{Finding, Machine, Wanted};
use crate::daemon::Role;
use crate::daemon::config::{LinkConfig, Netns, Port};
use crate::plan::MasterKind;

/// A drop-in of a package, or of an operator, has this in its name.
const OURS: &str = "boardlane";

pub(super) fn ipv6(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    const CHECK: &str = "ipv6";
    let off = |name: &str| {
        machine.sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6")).as_deref() == Some("1")
    };
    let needed = wanted.ipv6();
    vec![if !machine.has("proc/sys/net/ipv6") {
        Finding::bad(
            needed,
            CHECK,
            "this kernel has no IPv6",
            "take the IPv6 addresses out of the config, or boot with ipv6.disable=0",
        )
    } else if off("all") || off("default") {
        let remedy =
            "`sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`";
        Finding::bad(needed, CHECK, "IPv6 is disabled for new netdevs", remedy)
    } else {
        Finding::ok(CHECK, "new netdevs have it")
    }]
}

/// A master of several boards is what is between them.
pub(super) fn forwarding(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    const CHECK: &str = "forwarding";
    // What the config routes, bridges or leaves to itself is as it says.
    let routed = |link: &LinkConfig| link.netdev.forward.is_none() && link.netdev.master.is_none();
    let links = wanted
        .links()
        .filter(|(role, link)| *role == Role::Master && link.port == Port::Tap && routed(link));
    let boards = links.count();
    let on = |name: &str| machine.sysctl(name).as_deref() == Some("1");
    let v4 = on("net.ipv4.ip_forward");
    let v6 = on("net.ipv6.conf.all.forwarding") || !wanted.ipv6();
    let mut all = vec![if boards < 2 || v4 && v6 {
        Finding::ok(
            CHECK,
            "boards reach each other through their master as far as that has several",
        )
    } else {
        let names = [(v4, "net.ipv4.ip_forward"), (v6, "net.ipv6.conf.all.forwarding")];
        let off: Vec<_> =
            names.iter().filter(|(on, _)| !on).map(|(_, name)| format!("{name}=1")).collect();
        let ra = "; accept_ra=2 on a netdev that has its default route from router advertisements";
        let remedy = format!(
            "if they are to reach each other, `sysctl -w {}` and a file in /etc/sysctl.d{}",
            off.join(" "),
            if v6 { "" } else { ra }
        );
        Finding::warn(
            CHECK,
            format!("{boards} boards reach this master, but not each other"),
            remedy,
        )
    }];
    let strict = machine.sysctl("net.ipv4.conf.all.rp_filter").as_deref() == Some("1");
    if strict && boards > 0 {
        let found = "reverse path filtering is strict: what comes from behind a board is dropped without a route there";
        all.push(Finding::ok("rp_filter", found));
    }
    all
}

/// Network namespaces that links wait for.
pub(super) fn namespaces(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let missing = wanted.links().filter_map(|(_, link)| {
        let netns = link.netns.as_ref()?;
        let (path, remedy) = match netns {
            Netns::Name(name) => (format!("run/netns/{name}"), format!("`ip netns add {name}`")),
            Netns::Path(path) => (path.display().to_string(), "correct `netns`".to_owned()),
            Netns::Pid(pid) => {
                (format!("proc/{pid}"), "correct `netns`, or start that process".to_owned())
            }
        };
        let found = || format!("{} waits for the network namespace {netns}", link.name);
        (!machine.has(&path)).then(|| Finding::bad(true, "netns", found(), remedy))
    });
    missing.collect()
}

/// Bridges and VRFs of this network namespace that links wait for: they are the operator's.
pub(super) fn masters(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let missing = wanted.links().filter_map(|(_, link)| {
        let master = link.netdev.master.as_ref().filter(|_| link.netns.is_none())?;
        let (name, kind) = (&master.name, master.kind.name());
        let word = kind.to_ascii_lowercase();
        let is = machine.read(&format!("sys/class/net/{name}/uevent"));
        let is = is.map(|text| text.lines().any(|line| line == format!("DEVTYPE={word}")));
        let (found, remedy) = match is {
            Some(true) => return None,
            Some(false) => (
                format!("{name} is no {kind}, which {} waits for", link.name),
                "correct the config".to_owned(),
            ),
            None => {
                let table = if master.kind == MasterKind::Vrf { " table 100" } else { "" };
                let remedy = format!("`ip link add {name} type {word}{table}` and set it up");
                (format!("{} waits for the {kind} {name}", link.name), remedy)
            }
        };
        Some(Finding::bad(true, "masters", found, remedy))
    });
    missing.collect()
}

/// NetworkManager and systemd-networkd, which take any netdev that they are not told to leave.
pub(super) fn managers(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, runs, devices, directory, remedy) in [
        (
            "NetworkManager",
            "run/NetworkManager/devices",
            "run/NetworkManager/devices",
            "NetworkManager/conf.d",
            "write `[keyfile]` and `unmanaged-devices=interface-name:bl*` into /etc/NetworkManager/conf.d/boardlane.conf, \
             then `systemctl reload NetworkManager`",
        ),
        (
            "systemd-networkd",
            "run/systemd/netif/state",
            "run/systemd/netif/links",
            "systemd/network",
            "write `[Match]`, `Name=bl*`, `[Link]` and `Unmanaged=yes` into /etc/systemd/network/05-boardlane.network, then \
             `networkctl reload`",
        ),
    ] {
        // The directories may be there without it.
        if !machine.has(runs) {
            continue;
        }
        let managed = managed(machine, devices);
        let told = has_drop_in(machine, directory);
        all.push(match (&managed[..], told) {
            ([], true) => {
                Finding::ok("managers", format!("{name} leaves the links' netdevs alone"))
            }
            ([], false) if !wanted.netdevs() => continue,
            ([], false) => Finding::warn(
                "managers",
                format!("{name} runs, and nothing tells it to leave netdevs of links alone"),
                remedy,
            ),
            (names, _) => {
                Finding::warn("managers", format!("{name} manages {}", names.join(", ")), remedy)
            }
        });
    }
    all
}

/// Netdevs of daemons that run which a manager says are its own, in its file for each netdev's index.
fn managed(machine: &Machine, devices: &str) -> Vec<String> {
    let links = machine.daemons().flat_map(|(_, daemon)| &daemon.links);
    let is_managed = |name: &&str| {
        let index = machine.read(&format!("sys/class/net/{name}/ifindex"));
        let said = index.and_then(|index| machine.read(&format!("{devices}/{index}")));
        said.unwrap_or_default().lines().any(|line| match line.split_once('=') {
            Some(("managed", managed)) => managed == "true",
            Some(("ADMIN_STATE", state)) => {
                ["configuring", "configured", "failed"].contains(&state)
            }
            _ => false,
        })
    };
    links.map(|link| &*link.name).filter(is_managed).map(str::to_owned).collect()
}

/// Whether there is a file of ours that says something: an empty one or a link to /dev/null masks it.
fn has_drop_in(machine: &Machine, directory: &str) -> bool {
    ["etc", "run", "usr/lib", "lib"]
        .iter()
        .find_map(|place| {
            let directory = format!("{place}/{directory}");
            let names = machine
                .names(&directory)
                .into_iter()
                .filter(|name| name.contains(OURS) && !name.ends_with(".link"));
            let texts: Vec<_> =
                names.filter_map(|name| machine.read(&format!("{directory}/{name}"))).collect();
            // What stands further ahead masks what has the same name further behind.
            (!texts.is_empty()).then(|| texts.iter().any(|text| !text.is_empty()))
        })
        .unwrap_or(false)
}
