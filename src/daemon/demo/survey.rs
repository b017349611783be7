//! What the kernel says about the machines: interfaces with their addresses, and routes.

use std::io;
use std::net::IpAddr;

use super::layout::{Machine, link_name};
use super::{Demo, Error, report};
use crate::daemon::columns::table;
use crate::daemon::status::LinkStatus;
use crate::os::netlink::Netlink;
use crate::plan::{Mac, Observed, Route};

/// Up to this many boards are listed one by one.
const BOARDS_SHOWN_MAX: u8 = 8;

/// Brings the loopback of the calling thread's network namespace up: a machine pings itself, too.
pub(super) fn loopback_up() -> io::Result<()> {
    with_netlink(async |netlink| netlink.set_loopback_up().await.map_err(io::Error::other))
}

/// Looks at netdevs of the calling thread's network namespace; one that is not there is left out.
fn observe(names: &[String]) -> io::Result<Vec<(String, Observed)>> {
    with_netlink(async |netlink| {
        let mut found = Vec::new();
        for name in names {
            let observed = netlink.observe(name).await.map_err(io::Error::other)?;
            found.extend(observed.map(|observed| (name.clone(), observed)));
        }
        Ok(found)
    })
}

fn with_netlink<T>(work: impl AsyncFnOnce(Netlink) -> io::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { work(Netlink::new().map_err(io::Error::other)?).await })
}

impl Demo<'_> {
    /// Shows interfaces, routes and features to people.
    ///
    /// # Errors
    /// A namespace cannot be looked into; standard output is gone.
    pub(super) fn show_machines(&mut self, links: &[LinkStatus]) -> Result<(), Error> {
        if self.options.json {
            return Ok(());
        }
        let boards = self.layout.boards;
        let shown = boards.min(BOARDS_SHOWN_MAX);
        let mut interfaces =
            vec![["machine", "netdev", "", "mtu", "mac", "addresses"].map(str::to_owned).to_vec()];
        let mut routes = Vec::new();
        for machine in self.layout.machines().take(1 + usize::from(shown)) {
            let names: Vec<_> = match machine {
                Machine::Master => (0..shown).map(link_name).collect(),
                Machine::Board(_) => vec![link_name(0)],
            };
            let name = self.layout.namespace(machine);
            let seen = self.scene.run_in(&name, "look at its netdevs", || observe(&names))?;
            for (netdev, seen) in seen {
                interfaces.push(interface_row(machine, &netdev, &seen));
                let all = seen.kernel_routes.iter().chain(&seen.routes);
                let all = all.filter(|route| !is_link_local(route.to.addr()));
                routes.extend(all.map(|route| route_row(machine, &netdev, route)));
            }
        }
        let more = match boards - shown {
            0 => String::new(),
            more => format!("\n  and {more} more boards alike"),
        };
        let text = format!(
            "\nInterfaces\n{}{more}\n\nRoutes\n{}{more}",
            table("  ", &interfaces),
            table("  ", &routes)
        );
        self.console.say(&text)?;
        let features: Vec<_> =
            links.iter().map(|link| (link.name.clone(), link.features.clone())).collect();
        let text = report::features_text(&features);
        self.console.say(&format!("\nNegotiated features\n{text}"))
    }
}

fn interface_row(machine: Machine, netdev: &str, seen: &Observed) -> Vec<String> {
    let addresses: Vec<_> = seen
        .addresses
        .iter()
        .filter(|address| !is_link_local(address.addr()))
        .map(ToString::to_string)
        .collect();
    let state = if seen.up { "up" } else { "down" };
    vec![
        machine.name(),
        netdev.to_owned(),
        state.to_owned(),
        seen.mtu.to_string(),
        mac_text(seen.mac),
        addresses.join(" "),
    ]
}

fn route_row(machine: Machine, netdev: &str, route: &Route) -> Vec<String> {
    let via = route.via.map(|via| format!("via {via}")).unwrap_or_default();
    vec![machine.name(), route.to.to_string(), format!("dev {netdev}"), via]
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether an address is one that the kernel gives each IPv6 link by itself (RFC 4291 §2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_told_without_its_link_local_address() {
        let addresses = ["10.77.0.1/30", "fd77::1/64", "fe80::1/64"];
        let seen = Observed {
            mtu: 9000,
            up: true,
            mac: [2, 0, 0, 0, 0xab, 1],
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..Observed::default()
        };
        assert_eq!(
            interface_row(Machine::Board(3), "bl0", &seen),
            ["board3", "bl0", "up", "9000", "02:00:00:00:ab:01", "10.77.0.1/30 fd77::1/64"]
        );
    }

    #[test]
    fn a_route_on_the_link_has_no_next_hop() {
        let route = |via: Option<&str>| {
            let via = via.map(|via| via.parse().unwrap());
            Route::new("10.77.0.0/16".parse().unwrap(), via, None)
        };
        let row = route_row(Machine::Board(0), "bl0", &route(Some("10.77.0.1")));
        assert_eq!(row, ["board0", "10.77.0.0/16", "dev bl0", "via 10.77.0.1"]);
        assert_eq!(route_row(Machine::Master, "bl0", &route(None))[3], "");
    }
}
