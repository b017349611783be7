//! What the demo builds: machines, names, addresses, and the config files that say so.
//!
//! Link i has `10.77.i.1/30` and `fd77:0:0:i::1/64` on the master (netdev `bl<i>`), `.2` and `::2`
//! on board i (netdev `bl0`). Boards reach each other through the master.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::daemon::Role;

/// The smallest MTU that IPv6 works with (RFC 8200 §5).
const IPV6_MTU_MIN: u32 = 1280;

/// Where a demo leaves its marks. The default is the one demo of a machine; a test takes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What names of network namespaces start with.
    pub prefix: String,
    /// The run directory: lock, journal, config files, sockets, logs. Removed at the end.
    pub directory: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self { prefix: "bl-".to_owned(), directory: PathBuf::from("/run/boardlane-demo") }
    }
}

/// One of the demo's machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// The PCI master: one netdev per board.
    Master,
    /// The board in this slot.
    Board(u8),
}

impl Machine {
    /// Its name in tables.
    pub(super) fn name(self) -> String {
        match self {
            Self::Master => "master".to_owned(),
            Self::Board(slot) => format!("board{slot}"),
        }
    }

    /// The role of its daemon, which is its subcommand.
    pub(super) fn role(self) -> Role {
        match self {
            Self::Master => Role::Master,
            Self::Board(_) => Role::Agent,
        }
    }
}

/// Everything about a demo that is known before it starts.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Where it is built.
    pub(super) place: Place,
    /// Number of boards, 1..=64.
    pub(super) boards: u8,
    /// MTU of every netdev.
    pub(super) mtu: u32,
    /// The `dma` key of every link.
    pub(super) dma: String,
}

impl Layout {
    /// All machines, the master first.
    pub(super) fn machines(&self) -> impl Iterator<Item = Machine> + use<> {
        std::iter::once(Machine::Master).chain((0..self.boards).map(Machine::Board))
    }

    /// Name of a machine's network namespace.
    pub(super) fn namespace(&self, machine: Machine) -> String {
        format!("{}{}", self.place.prefix, machine.name())
    }

    /// Directory of the backplane's slot sockets.
    pub(super) fn slots(&self) -> PathBuf {
        self.place.directory.join("slots")
    }

    /// Directory of a machine's files: daemons lock the one that their control socket is in.
    pub(super) fn files(&self, machine: Machine) -> PathBuf {
        self.place.directory.join(machine.name())
    }

    /// Control socket of a machine's daemon.
    pub(super) fn control(&self, machine: Machine) -> PathBuf {
        self.files(machine).join("control.sock")
    }

    /// Config file of a machine's daemon.
    pub(super) fn config(&self, machine: Machine) -> PathBuf {
        // Not beside the control socket: there the daemon could write it.
        self.place.directory.join(format!("{}.toml", machine.name()))
    }

    /// Whether links carry IPv6: not with an MTU that it does not work with.
    pub(super) fn ipv6(&self) -> bool {
        self.mtu >= IPV6_MTU_MIN
    }

    /// The address that others reach a machine by: a board's own, the master's of link 0.
    pub(super) fn address(machine: Machine) -> IpAddr {
        match machine {
            Machine::Master => v4(0, 1),
            Machine::Board(slot) => v4(slot, 2),
        }
    }

    /// The config file of a machine.
    pub(super) fn config_text(&self, machine: Machine) -> String {
        let mut text = format!("control = {}\n", quoted(&self.control(machine)));
        match machine {
            Machine::Master => (0..self.boards).for_each(|slot| self.link(&mut text, slot, true)),
            Machine::Board(slot) => self.link(&mut text, slot, false),
        }
        text
    }

    fn link(&self, text: &mut String, slot: u8, master: bool) {
        let socket = self.slots().join(format!("slot{slot}.sock"));
        let mut transport = PathBuf::from("shm:");
        transport.as_mut_os_string().push(socket);
        let (name, host) = if master { (link_name(slot), 1) } else { (link_name(0), 2) };
        let mut addresses = vec![format!("\"{}/30\"", v4(slot, host))];
        let mut routes = vec![format!("{{ to = \"10.77.0.0/16\", via = \"{}\" }}", v4(slot, 1))];
        if self.ipv6() {
            addresses.push(format!("\"{}/64\"", v6(slot, host)));
            routes.push(format!("{{ to = \"fd77::/48\", via = \"{}\" }}", v6(slot, 1)));
        }
        // To a String, write! does not fail.
        let _ = write!(
            text,
            "\n[[link]]\nname = \"{name}\"\ntransport = {}\nslot = {slot}\naddress = [{}]\n",
            quoted(&transport),
            addresses.join(", ")
        );
        if !master {
            let _ = writeln!(text, "route = [{}]", routes.join(", "));
        }
        let _ = writeln!(text, "mtu = {}\ndma = \"{}\"", self.mtu, self.dma);
    }
}

/// The netdev of a slot's link at the master.
pub(super) fn link_name(slot: u8) -> String {
    format!("bl{slot}")
}

/// The IPv4 address of a link's end: host 1 is the master, 2 the board.
pub(super) fn v4(slot: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, slot, host).into()
}

/// The IPv6 address of a link's end: host 1 is the master, 2 the board.
pub(super) fn v6(slot: u8, host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, slot.into(), 0, 0, 0, host.into()).into()
}

/// A path as a TOML basic string.
fn quoted(path: &Path) -> String {
    let escaped = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Config;

    fn layout(boards: u8, mtu: u32) -> Layout {
        Layout { place: Place::default(), boards, mtu, dma: "auto".to_owned() }
    }

    fn parse(layout: &Layout, machine: Machine) -> toml::Table {
        layout.config_text(machine).parse().unwrap()
    }

    #[test]
    fn the_masters_config_has_a_link_per_board_in_slot_order() {
        let config = parse(&layout(64, 1500), Machine::Master);
        assert_eq!(config["control"].as_str(), Some("/run/boardlane-demo/master/control.sock"));
        let links = config["link"].as_array().unwrap();
        assert_eq!(links.len(), 64);
        let last = links[63].as_table().unwrap();
        assert_eq!(last["name"].as_str(), Some("bl63"));
        assert_eq!(last["slot"].as_integer(), Some(63));
        assert_eq!(last["transport"].as_str(), Some("shm:/run/boardlane-demo/slots/slot63.sock"));
        let addresses: Vec<_> =
            last["address"].as_array().unwrap().iter().filter_map(|a| a.as_str()).collect();
        assert_eq!(addresses, ["10.77.63.1/30", "fd77:0:0:3f::1/64"]);
        assert!(!last.contains_key("route"), "the master is on every link's network");
    }

    #[test]
    fn a_board_routes_to_all_others_through_its_end_of_the_master() {
        let config = parse(&layout(2, 9000), Machine::Board(1));
        assert_eq!(config["control"].as_str(), Some("/run/boardlane-demo/board1/control.sock"));
        let links = config["link"].as_array().unwrap();
        assert_eq!(links.len(), 1);
        let link = links[0].as_table().unwrap();
        assert_eq!(link["name"].as_str(), Some("bl0"));
        assert_eq!(link["mtu"].as_integer(), Some(9000));
        assert_eq!(link["dma"].as_str(), Some("auto"));
        let routes: Vec<_> = link["route"]
            .as_array()
            .unwrap()
            .iter()
            .map(|route| (route["to"].as_str().unwrap(), route["via"].as_str().unwrap()))
            .collect();
        assert_eq!(routes, [("10.77.0.0/16", "10.77.1.1"), ("fd77::/48", "fd77:0:0:1::1")]);
    }

    #[test]
    fn an_mtu_below_1280_leaves_ipv6_out() {
        let small = layout(1, 1279);
        assert!(!small.config_text(Machine::Board(0)).contains("fd77"));
        assert!(!small.config_text(Machine::Master).contains("fd77"));
        assert!(layout(1, 1280).config_text(Machine::Board(0)).contains("fd77::/48"));
    }

    #[test]
    fn the_daemons_take_every_config() {
        for (boards, mtu) in [(1, 68), (2, 1279), (2, 1280), (64, 1500), (3, 65_521)] {
            let layout = layout(boards, mtu);
            for machine in layout.machines() {
                let text = layout.config_text(machine);
                let config = Config::parse("demo.toml", &text, machine.role());
                assert!(config.is_ok(), "{config:?}\n{text}");
            }
        }
    }

    #[test]
    fn machines_are_the_master_and_then_the_boards() {
        let names: Vec<_> =
            layout(2, 1500).machines().map(|machine| layout(2, 1500).namespace(machine)).collect();
        assert_eq!(names, ["bl-master", "bl-board0", "bl-board1"]);
    }

    #[test]
    fn a_path_with_quotes_stays_one_string() {
        let odd = PathBuf::from("/run/a\"b\\c");
        let table: toml::Table = format!("p = {}", quoted(&odd)).parse().unwrap();
        assert_eq!(table["p"].as_str(), odd.to_str());
    }
}
