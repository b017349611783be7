//! What the configs want of the machine.

use std::path::{Path, PathBuf};

use crate::daemon::Role;
use crate::daemon::config::{Config, ConfigError, LinkConfig, Port, Pump, Transport};
use crate::plan::MasterKind;

/// The configs, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Each with its file and role.
    pub(super) configs: Vec<(PathBuf, Role, Config)>,
}

impl Wanted {
    /// Those in these files; without any, the usual ones below `root` that are there.
    pub(super) fn load(files: &[PathBuf], root: &Path) -> Result<Self, ConfigError> {
        let usual = ["agent", "master"].map(|role| root.join(format!("etc/boardlane/{role}.toml")));
        let usual: Vec<_> = usual.into_iter().filter(|file| file.exists()).collect();
        let files = if files.is_empty() { &usual } else { files };
        let load = |file: &PathBuf| {
            let role = Role::of_file(file);
            Ok((file.clone(), role, Config::load(file, role)?))
        };
        Ok(Self { configs: files.iter().map(load).collect::<Result<_, _>>()? })
    }

    /// The links with an entry of their own.
    pub(super) fn links(&self) -> impl Iterator<Item = (Role, &LinkConfig)> {
        self.configs
            .iter()
            .flat_map(|(_, role, config)| config.links.iter().map(|link| (*role, link)))
    }

    /// Whether a link is so; patterns, whose links have netdevs and are functions of a bus, not counted.
    pub(super) fn any(&self, is: impl Fn(&LinkConfig) -> bool) -> bool {
        self.links().any(|(_, link)| is(link))
    }

    /// Whether there is to be a netdev. Without a config there will be one some day.
    pub(super) fn netdevs(&self) -> bool {
        let patterns = self.configs.iter().any(|(_, _, config)| !config.patterns.is_empty());
        self.configs.is_empty() || patterns || self.any(|link| link.port == Port::Tap)
    }

    /// Whether a link or a pattern is a function on a PCI bus.
    #[cfg(feature = "pci")]
    pub(super) fn functions(&self) -> bool {
        self.configs.iter().any(|(_, _, config)| config.has_functions())
    }

    /// Whether there are IPv6 addresses or routes to set.
    pub(super) fn ipv6(&self) -> bool {
        self.any(LinkConfig::has_ipv6)
    }

    /// Whether a netdev has VLANs.
    pub(super) fn vlans(&self) -> bool {
        self.any(|link| !link.netdev.vlans.is_empty())
    }

    /// Whether a netdev is to be in a bridge or VRF.
    pub(super) fn masters(&self, kind: MasterKind) -> bool {
        self.any(|link| link.netdev.master.as_ref().is_some_and(|master| master.kind == kind))
    }

    /// Whether a link is to be moved by the kernel.
    pub(super) fn vhost_net(&self) -> bool {
        self.any(|link| link.pump == Pump::VhostNet)
    }

    /// Slots' sockets, each with the link's name.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.links().filter_map(|(_, link)| match &link.transport {
            Transport::Shm(path) => Some((&*link.name, &**path)),
            _ => None,
        })
    }
}
