//! Rights, configs, units, and the daemons that run.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Finding, Machine, Wanted};
use crate::daemon::VERSION;
use crate::daemon::config::{RUN_DIR, Transport};
use crate::daemon::status::table::lacks;
use crate::daemon::status::{LinkState, LinkStatus, MetricsStatus, Status};

/// Everybody may write to a file.
const WORLD_WRITABLE: u32 = 0o002;
/// In a directory, what is another's can still not be replaced.
const STICKY: u32 = 0o1000;

/// Of many things so many are named.
const NAMED: usize = 4;

/// What this user may do, and what everybody may do to the daemons' sockets.
pub(super) fn rights(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut all = Vec::new();
    let has = |capability| machine.capabilities.contains(capability);
    if machine.is_root {
        let enters = wanted.any(|link| link.netns.is_some());
        let lacks = [
            (
                wanted.netdevs() && !has(CapabilitySet::NET_ADMIN),
                "NET_ADMIN",
                "to set up netdevs",
                true,
            ),
            (
                enters && !has(CapabilitySet::SYS_ADMIN),
                "SYS_ADMIN",
                "to enter network namespaces",
                true,
            ),
            (
                wanted.netdevs() && !has(CapabilitySet::NET_RAW),
                "NET_RAW",
                "to announce addresses",
                false,
            ),
        ];
        for (_, name, what, needed) in lacks.iter().filter(|(lacks, ..)| *lacks) {
            let found = format!("root has no CAP_{name} here, which it takes {what}");
            let remedy = format!("start the container with --cap-add {name}");
            all.push(Finding::bad(*needed, "rights", found, remedy));
        }
        if all.is_empty() {
            all.push(Finding::ok("rights", "root has the capabilities that links need"));
        }
    } else {
        let found = "not root: of daemons and files only what this user may see is told";
        all.push(Finding::warn("rights", found, "run this as root for all of it"));
    }
    if let Ok(directory) = machine.path(RUN_DIR).metadata() {
        let mode = directory.mode();
        if mode & WORLD_WRITABLE != 0 && mode & STICKY == 0 {
            let found = format!("anybody may replace the sockets in {RUN_DIR}");
            all.push(Finding::bad(true, "rights", found, format!("`chmod 0755 {RUN_DIR}`")));
        }
    }
    all
}

/// The config files.
pub(super) fn configs(_: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let counted = wanted.configs.iter().map(|(file, role, config)| {
        let file = file.display();
        let mode = Path::new(&file.to_string()).metadata().map_or(0, |file| file.mode());
        if mode & WORLD_WRITABLE != 0 {
            return Finding::bad(
                true,
                "config",
                format!("anybody may write {file}"),
                format!("`chmod o-w {file}`"),
            );
        }
        let links = config.links.len() + config.patterns.len();
        Finding::ok("config", format!("{file}: {links} links of {role} are well-formed"))
    });
    let mut all: Vec<_> = counted.collect();
    if all.is_empty() {
        all.push(Finding::ok(
            "config",
            "none, so nothing is needed yet: name one to have its links looked after",
        ));
    }
    all
}

/// What two configs of one machine must not share.
pub(super) fn clashes(_: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, role, config) in &wanted.configs {
        let mut own = vec![format!("control socket {}", config.control.display())];
        for link in &config.links {
            let netns = link.netns.as_ref().map(|netns| format!(" in {netns}")).unwrap_or_default();
            own.push(format!("netdev {}{netns}", link.name));
            // Both ends of a slot or of a vhost-user socket may be on one machine.
            let role = match &link.transport {
                Transport::Shm(_) => format!(" as {role}"),
                _ => String::new(),
            };
            if !matches!(link.transport, Transport::VhostUser { .. }) {
                own.push(format!("{}{role}", link.transport));
            }
        }
        for what in own {
            owners.entry(what).or_default().push(file.display().to_string());
        }
    }
    let shared = owners.into_iter().filter(|(_, files)| files.len() > 1);
    shared
        .map(|(what, files)| {
            Finding::bad(
                true,
                "config",
                format!("{} share {what}", files.join(" and ")),
                "give each its own",
            )
        })
        .collect()
}

/// What MAC addresses are derived from.
pub(super) fn identity(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    let id = machine.read("etc/machine-id").unwrap_or_default();
    let good = id.len() == 32 && id.bytes().all(|octet| octet.is_ascii_hexdigit());
    vec![if good {
        Finding::ok("identity", "MAC addresses are derived from /etc/machine-id")
    } else if machine.has("var/lib/boardlane/seed") {
        Finding::ok("identity", "MAC addresses are derived from /var/lib/boardlane/seed")
    } else {
        let found = "/etc/machine-id has no id: a master's MAC addresses depend on a seed in /var/lib/boardlane";
        Finding::warn(
            "identity",
            found,
            "`systemd-machine-id-setup`, or see that this directory lasts",
        )
    }]
}

/// Units of a machine with systemd.
pub(super) fn units(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut all = Vec::new();
    if !machine.has("run/systemd/system") {
        return all;
    }
    for (file, role, config) in &wanted.configs {
        let unit = format!("boardlane-{role}");
        let places =
            ["usr/lib", "lib", "etc"].map(|place| format!("{place}/systemd/system/{unit}.service"));
        let installed = places.iter().any(|place| machine.has(place));
        let usual = machine.path(&format!("etc/boardlane/{role}.toml"));
        if !installed || *file != usual {
            continue;
        }
        let enabled = machine
            .names("etc/systemd/system/multi-user.target.wants")
            .contains(&format!("{unit}.service"));
        let runs = machine
            .daemons()
            .any(|(path, daemon)| path == config.control && daemon.role == role.to_string());
        all.push(match (enabled, runs) {
            (true, true) => Finding::ok("units", format!("{unit} is enabled and runs")),
            (true, false) => Finding::warn(
                "units",
                format!("{unit} is enabled and does not run, or does not answer"),
                format!("`systemctl status {unit}`"),
            ),
            (false, true) => Finding::warn(
                "units",
                format!("{unit} runs, but not after the next boot"),
                format!("`systemctl enable {unit}`"),
            ),
            (false, false) => Finding::warn(
                "units",
                format!("{unit} has a config and is not enabled"),
                format!("`systemctl enable --now {unit}`"),
            ),
        });
    }
    all
}

/// The daemons that run, and their links.
pub(super) fn daemons(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let mut all = Vec::new();
    for (path, answer) in &machine.daemons {
        match answer {
            Ok(daemon) => all.extend(of_daemon(daemon)),
            Err(why) => all.push(Finding::warn("daemons", path.display().to_string(), why.clone())),
        }
    }
    for (_, role, config) in &wanted.configs {
        let holder =
            machine.daemons().find(|(path, _)| *path == config.control).map(|(_, daemon)| daemon);
        if let Some(other) = holder.filter(|daemon| daemon.role != role.to_string()) {
            let found = format!(
                "process {}, which is {}, has the control socket {}",
                other.pid,
                other.role,
                config.control.display()
            );
            all.push(Finding::bad(
                true,
                "daemons",
                found,
                format!("set another `control` in the config of {role}"),
            ));
        }
    }
    if all.is_empty() {
        all.push(Finding::ok("daemons", "none runs"));
    }
    all
}

/// Some of many things.
fn some(all: &[String]) -> String {
    let named = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn of_daemon(daemon: &Status) -> Vec<Finding> {
    let Status { role, pid, version, links, .. } = daemon;
    let who = format!("{role}, pid {pid}");
    let mut all = Vec::new();
    if version != VERSION {
        let found = format!("{who}, is of version {version}, and this program of {VERSION}");
        all.push(Finding::warn("daemons", found, "restart it to have done with the upgrade"));
    }
    let named = |is: &dyn Fn(&LinkStatus) -> Option<String>| {
        let names = links.iter().filter_map(|link| Some(format!("{}: {}", link.name, is(link)?)));
        some(&names.collect::<Vec<_>>())
    };
    let odd = named(&|link| {
        let whys = [&link.reason, &link.pump.reason, &link.polls].into_iter().flatten();
        let whys = whys.map(String::as_str).collect::<Vec<_>>().join("; ");
        let state = link.state.name();
        (link.state != LinkState::Up || !whys.is_empty()).then(|| format!("{state} ({whys})"))
    });
    if !odd.is_empty() {
        let remedy = "look the reason up in boardlane(7)";
        all.push(Finding::warn("links", format!("{who}: {odd}"), remedy));
    }
    let slow = named(&|link| Some(format!("without {}", lacks(link)?)));
    if !slow.is_empty() {
        let remedy = "take features_off out at both ends, or have the other end offer more";
        all.push(Finding::warn("links", format!("{who}: slower than need be: {slow}"), remedy));
    }
    let older = named(&|link| {
        let other = link.peer_version.as_ref().filter(|other| *other != version)?;
        Some(format!("the other end is of version {other}"))
    });
    if !older.is_empty() {
        all.push(Finding::warn(
            "links",
            format!("{who}: {older}"),
            "they work together; upgrade the older one when it suits",
        ));
    }
    if let Some(MetricsStatus { address, error: Some(error) }) = &daemon.metrics {
        let found = format!("{who}: metrics {address}: {error}");
        all.push(Finding::warn(
            "metrics",
            found,
            "give it another address, or end who has this one",
        ));
    }
    if all.is_empty() {
        all.push(Finding::ok("daemons", format!("{who}: {} links are up", links.len())));
    }
    all
}

pub(super) fn leftovers(machine: &Machine, _: &Wanted) -> Vec<Finding> {
    match &machine.leftovers[..] {
        [] => vec![Finding::ok("leftovers", "nothing is left of daemons that were killed")],
        left => {
            let found = format!("{} without a daemon", some(left));
            vec![Finding::warn("leftovers", found, "start the daemon again, or `boardlane clean`")]
        }
    }
}
