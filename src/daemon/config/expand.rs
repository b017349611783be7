//! Writes a config with nothing left to defaults.

use std::fmt::{Display, Write};

use super::limits::bits_text;
use super::link::OF_NETDEV;
use super::pattern::OF_ONE_LINK;
use super::transport::{OF_SOCKET, OF_TUNNEL};
use super::{
    Access, Address, Config, Dma, EngineConfig, LinkConfig, NetdevKeys, Port, RateConfig, Route,
    SocketSide, Transport, VlanConfig, uio,
};
use crate::plan::{self, MasterKind, address::scope_of};

impl Config {
    /// The config as a file that says the same with each key written out; what only the running
    /// system decides stands in a comment, as which links its patterns make where these functions of
    /// known kinds are `there`.
    pub fn expand(&self, there: &[Address]) -> String {
        let mut text = format!("control = {}\n", string(self.control.display()));
        let [mode, owner] = access("control", &self.access);
        text.push_str(&format!("{} = {}\n{} = {}\n", mode.0, mode.1, owner.0, owner.1));
        text.push_str(&match &self.metrics {
            Some(metrics) => format!("metrics = {}\n", string(metrics)),
            None => "# metrics = nowhere\n".to_owned(),
        });
        text.push_str("# pool = spread over the links below\n");
        text.push_str("# defaults = none, as each link has all keys\n");
        for link in &self.links {
            text.push_str("\n[[link]]\n");
            expand_link(link, &link.transport.to_string(), &mut text);
        }
        for pattern in &self.patterns {
            let names: Vec<_> = self.links_of(pattern, there).map(|link| link.name).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            text.push_str(&format!("\n# now: {names}\n[[link]]\n"));
            expand_link(&pattern.link, &pattern.transport(), &mut text);
        }
        text
    }
}

fn expand_link(link: &LinkConfig, transport: &str, text: &mut String) {
    let is_pattern = transport.contains('*');
    let mut line = |key: &str, value: String| {
        let word = key.trim_start_matches("# ");
        // Writing to a string does not fail.
        let _ = if link.port != Port::Tap && OF_NETDEV.contains(&word) {
            writeln!(text, "# {word} = none without a netdev")
        } else if is_pattern && OF_ONE_LINK.contains(&word) {
            writeln!(text, "# {word} = each link's own")
        } else {
            writeln!(text, "{key} = {value}")
        };
    };
    line("name", string(&link.name));
    line("transport", string(transport));
    match uio::expand(&link.transport) {
        Some(uio) => line("uio", uio),
        None => line("# uio", "none, as this transport has no UIO device".into()),
    }
    match &link.transport {
        Transport::VhostUser { how: SocketSide::Server, .. } => {
            for (key, value) in access("socket", &link.socket) {
                line(&key, value);
            }
        }
        _ => OF_SOCKET.iter().for_each(|key| {
            line(&format!("# {key}"), "none, as this end makes no socket".into());
        }),
    }
    line("address", list(link.addresses.iter().map(address)));
    line("route", list(link.routes.iter().map(route)));
    let NetdevKeys { master, isolated, forward, reconcile, vlans } = &link.netdev;
    for (key, kind) in [("bridge", MasterKind::Bridge), ("vrf", MasterKind::Vrf)] {
        match master.as_ref().filter(|master| master.kind == kind) {
            Some(master) => line(key, string(&master.name)),
            None => line(&format!("# {key}"), "as the operator has it".into()),
        }
    }
    match isolated {
        Some(isolated) => line("isolated", isolated.to_string()),
        None => line("# isolated", "as the operator has it".into()),
    }
    line("vlan", list(vlans.iter().map(vlan)));
    match forward {
        Some(forward) => line("forward", forward.to_string()),
        None => line("# forward", "as the operator has it".into()),
    }
    line("reconcile", reconcile.to_string());
    match link.slot {
        Some(slot) => line("slot", slot.to_string()),
        None => line("# slot", "as the transport numbers it".into()),
    }
    match link.mac {
        Some(mac) => line("mac", mac_text(mac)),
        None => line("# mac", "derived by the master".into()),
    }
    match link.mtu {
        Some(mtu) => line("mtu", mtu.to_string()),
        None => line("# mtu", "1500 until the operator changes it".into()),
    }
    match link.up {
        Some(up) => line("up", up.to_string()),
        None => line("# up", "true until the operator changes it".into()),
    }
    line("queues", link.queues.to_string());
    match &link.netns {
        Some(super::Netns::Pid(pid)) => line("netns", pid.to_string()),
        Some(netns) => line("netns", string(netns)),
        None => line("# netns", "the daemon's".into()),
    }
    line("port", string(link.port));
    line("pump", string(link.pump));
    match &link.cpu[..] {
        [] => line("# cpu", "any".into()),
        cpus => line("cpu", list(cpus.iter().map(u32::to_string))),
    }
    line("dma", string(link.dma));
    match link.dma {
        Dma::Engine => line("engine", engine(&link.engine)),
        Dma::Auto | Dma::Direct => line("# engine", "none".into()),
    }
    match &link.transport {
        Transport::VhostUser { .. } => OF_TUNNEL.iter().for_each(|key| {
            line(&format!("# {key}"), "none with vhost-user".into());
        }),
        _ => {
            line("dialect", string(link.dialect));
            line("layout", string(link.layout));
        }
    }
    line("features_off", list(link.features_off.iter().map(string)));
    line("keep", link.keep.to_string());
    line("heartbeat_ms", link.heartbeat_ms.to_string());
    line("busy_poll_us", link.busy_poll_us.to_string());
    match &link.allow_mac[..] {
        [] => line("# allow_mac", "any".into()),
        macs => line("allow_mac", list(macs.iter().map(|mac| mac_text(*mac)))),
    }
    match &link.allow_ip[..] {
        [] => line("# allow_ip", "any".into()),
        networks => line("allow_ip", list(networks.iter().map(string))),
    }
    match link.rate {
        None => line("# rate", "no limit".into()),
        Some(rate) => line("rate", rate_text(rate)),
    }
}

/// The keys of a socket's mode and owner, and their values.
fn access(socket: &str, Access { mode, owner }: &Access) -> [(String, String); 2] {
    let mode = (format!("{socket}_mode"), string(format!("{mode:04o}")));
    let owner = match owner.to_string() {
        owner if owner.is_empty() => {
            (format!("# {socket}_owner"), "the daemon's user and group".into())
        }
        owner => (format!("{socket}_owner"), string(owner)),
    };
    [mode, owner]
}

fn mac_text(mac: [u8; 6]) -> String {
    string(mac.map(|octet| format!("{octet:02x}")).join(":"))
}

fn rate_text(RateConfig { bits, frames }: RateConfig) -> String {
    let mut keys = Vec::new();
    keys.extend(bits.map(|bits| format!("bits = {}", string(bits_text(bits)))));
    keys.extend(frames.map(|frames| format!("frames = {frames}")));
    format!("{{ {} }}", keys.join(", "))
}

fn route(route: &Route) -> String {
    let mut keys = vec![format!("to = {}", string(route.to))];
    keys.extend(route.via.map(|via| format!("via = {}", string(via))));
    keys.extend(route.metric.map(|metric| format!("metric = {metric}")));
    keys.extend(route.table.map(|table| format!("table = {table}")));
    keys.extend(route.source.map(|source| format!("source = {}", string(source))));
    keys.extend(route.onlink.then(|| "onlink = true".to_owned()));
    format!("{{ {} }}", keys.join(", "))
}

fn address(address: &plan::Address) -> String {
    if *address == address.prefix.into() {
        return string(address.prefix);
    }
    let host = address.prefix.with_len(if address.is_ipv6() { 128 } else { 32 });
    let mut keys = match address.peer {
        None => vec![format!("address = {}", string(address.prefix))],
        Some(peer) => vec![
            format!("address = {}", string(host)),
            format!("peer = {}", string(address.prefix.with_addr(peer))),
        ],
    };
    if address.scope != scope_of(address.addr()) {
        keys.push(format!("scope = {}", string(address.scope)));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn vlan(vlan: &VlanConfig) -> String {
    let mut keys = vec![format!("id = {}", vlan.id)];
    if !vlan.addresses.is_empty() {
        keys.push(format!("address = {}", list(vlan.addresses.iter().map(address))));
    }
    if !vlan.routes.is_empty() {
        keys.push(format!("route = {}", list(vlan.routes.iter().map(route))));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn engine(engine: &EngineConfig) -> String {
    let EngineConfig { depth, latency_us, bandwidth_mb_s, error_ppm, cpu_below, dma_only } = engine;
    format!(
        "{{ depth = {depth}, latency_us = {latency_us}, bandwidth_mb_s = {bandwidth_mb_s}, \
         error_ppm = {error_ppm}, cpu_below = {cpu_below}, dma_only = {dma_only} }}"
    )
}

/// `value` as TOML writes a string.
pub(super) fn string(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
