//! Entries that stand for many links: `transport = "pci:0000:03:*"`, `name = "bl*"`.
//!
//! There is a link for each function that the pattern covers, as long as it is there. Its name and its
//! slot's number say where on the bus that is, so whatever the order in which functions are found, and
//! whichever others there are, a name means the same board's place and has the same MAC addresses.
//!
//! An entry of its own has its function to itself. Patterns do not overlap. The daemon and its broker both
//! go by [`Config::link_named`], so they say alike which link a name means.

use std::fmt;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::problem::quoted;
use super::reader::{Place, Reader};
use super::{Config, LinkConfig, Netns, Role, Transport, transport};
pub use crate::os::fabric::pci::Address;
use crate::os::fabric::pci::{Mode, Wanted, Which};
use crate::os::tap::NAME_MAX;

/// Keys that the links of a pattern cannot share.
pub(super) const OF_ONE_LINK: &[&str] = &["address", "route", "slot", "mac"];

/// Slot numbers from here on are functions', by their addresses; those below are for the config to give.
const FUNCTION_SLOTS: u32 = 1 << 31;
/// The greatest slot number that a config can give.
pub(super) const SLOT_MAX: u32 = FUNCTION_SLOTS - 1;
/// Greatest domain whose functions have slot numbers.
const DOMAIN_MAX: u32 = 0x7fff;

/// The functions that a pattern covers: what is before its star, and anything in the star's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    range: RangeInclusive<Address>,
}

impl Covered {
    /// Of a pattern's text; `None` if it is none. A domain has its four digits where no bus follows, as
    /// `03:*` could mean either.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let head = text.strip_suffix('*')?;
        let (least, most) = match head.bytes().filter(|octet| *octet == b':').count() {
            0 if head.is_empty() => ("0:0:0.0", "ffffffff:ff:1f.7"),
            1 if head.len() > 4 && head.ends_with(':') => ("0:0.0", "ff:1f.7"),
            2 if head.ends_with(':') => ("0.0", "1f.7"),
            2 if head.ends_with('.') => ("0", "7"),
            _ => return None,
        };
        let address = |rest| format!("{head}{rest}").parse().ok();
        Some(Self { range: address(least)?..=address(most)? })
    }

    fn covers(&self, address: Address) -> bool {
        self.range.contains(&address)
    }

    /// The lowest that both cover.
    pub(super) fn shared(&self, other: &Self) -> Option<Address> {
        let least = *self.range.start().max(other.range.start());
        (self.covers(least) && other.covers(least)).then_some(least)
    }

    /// The one whose place takes most room in a name; where any domain is covered, of domain 0.
    pub(super) fn longest_place(&self) -> String {
        let (least, most) = (*self.range.start(), *self.range.end());
        let domain = if least.domain == most.domain { most.domain } else { 0 };
        place(Address { domain, ..most })
    }
}

impl fmt::Display for Covered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (self.range.start(), self.range.end());
        let Address { domain, bus, device, .. } = least;
        if domain != &most.domain {
            f.write_str("*")
        } else if bus != &most.bus {
            write!(f, "{domain:04x}:*")
        } else if device != &most.device {
            write!(f, "{domain:04x}:{bus:02x}:*")
        } else {
            write!(f, "{domain:04x}:{bus:02x}:{device:02x}.*")
        }
    }
}

/// Where a function is, as systemd has it in names of netdevs (systemd.net-naming-scheme(7)): domain, bus,
/// slot on it and function, as `P1p3s0f1`. Domain and function are left out where they are 0.
fn place(address: Address) -> String {
    let Address { domain, bus, device, function } = address;
    let part = |letter: &str, n: u32| if n == 0 { String::new() } else { format!("{letter}{n}") };
    format!("{}p{bus}s{device}{}", part("P", domain), part("f", function.into()))
}

/// The address of a function at this place, if it is written just so.
fn address(text: &str) -> Option<Address> {
    let (domain, rest) = match text.strip_prefix('P') {
        Some(rest) => rest.split_once('p')?,
        None => ("0", text.strip_prefix('p')?),
    };
    let (bus, rest) = rest.split_once('s')?;
    let (device, function) = rest.split_once('f').unwrap_or((rest, "0"));
    let address = Address {
        domain: domain.parse().ok()?,
        bus: bus.parse().ok()?,
        device: device.parse().ok().filter(|device| *device < 32)?,
        function: function.parse().ok().filter(|function| *function < 8)?,
    };
    (place(address) == text).then_some(address)
}

/// The number of the slot that a function is.
fn slot_of(address: Address) -> Option<u32> {
    let Address { domain, bus, device, function } = address;
    let place = u32::from(bus) << 8 | u32::from(device) << 3 | u32::from(function);
    (domain <= DOMAIN_MAX).then_some(FUNCTION_SLOTS | domain << 16 | place)
}

/// The number of the slot that a link's function is, if the link says which.
pub(super) fn slot(transport: &Transport) -> Option<u32> {
    fixed(transport).and_then(slot_of)
}

/// An entry with a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) functions: Covered,
    /// What each of its links is like. The name has a star for the function's place; the transport is that
    /// of the lowest function.
    pub(super) link: LinkConfig,
}

impl Pattern {
    /// What the name has before the star, and behind it.
    fn name(&self) -> (&str, &str) {
        self.link.name.split_once('*').unwrap_or((&self.link.name, ""))
    }

    /// The network namespace of its netdevs; otherwise the daemon's.
    pub fn netns(&self) -> Option<&Netns> {
        self.link.netns.as_ref()
    }

    /// The link for a function. `None`: the pattern does not cover it, or has no name or number for it, as
    /// its domain's number is too large.
    fn link_of(&self, address: Address) -> Option<LinkConfig> {
        let (before, behind) = self.name();
        let name = format!("{before}{}{behind}", place(address));
        let fits = name.len() <= NAME_MAX && slot_of(address).is_some();
        if !fits || !self.functions.covers(address) {
            return None;
        }
        let transport = at(address, mode(&self.link.transport));
        Some(LinkConfig { name, transport, ..self.link.clone() })
    }

    /// The function that a name means.
    fn function(&self, name: &str) -> Option<Address> {
        let (before, behind) = self.name();
        let address = address(name.strip_prefix(before)?.strip_suffix(behind)?)?;
        self.link_of(address).map(|_| address)
    }

    /// The transport as the file has it.
    pub(super) fn transport(&self) -> String {
        let mode = mode(&self.link.transport).map_or(String::new(), |mode| format!("?{mode}"));
        format!("pci:{}{mode}", self.functions)
    }
}

fn at(address: Address, mode: Option<Mode>) -> Transport {
    Transport::Pci(Wanted { which: Which::At(address), mode })
}

fn mode(transport: &Transport) -> Option<Mode> {
    match transport {
        Transport::Pci(wanted) => wanted.mode,
        _ => None,
    }
}

/// The function that a link says is its own.
fn fixed(transport: &Transport) -> Option<Address> {
    match transport {
        Transport::Pci(Wanted { which: Which::At(address), .. }) => Some(*address),
        _ => None,
    }
}

impl Config {
    /// The link that a name means; with a pattern's, whether or not its function is there.
    pub fn link_named(&self, name: &str) -> Option<LinkConfig> {
        let own = self.links.iter().find(|link| link.name == name);
        own.cloned().or_else(|| {
            let mut found =
                self.patterns.iter().filter_map(|pattern| Some((pattern, pattern.function(name)?)));
            let (pattern, address) = found.next()?;
            let taken = self.links.iter().any(|link| fixed(&link.transport) == Some(address));
            pattern.link_of(address).filter(|_| !taken)
        })
    }

    /// The links that are to run where these functions of known kinds are: those with an entry of their
    /// own, which wait for their functions, and those of patterns.
    pub fn links_with(&self, there: &[Address]) -> Vec<LinkConfig> {
        let many = self.patterns.iter().flat_map(|pattern| self.links_of(pattern, there));
        self.links.iter().cloned().chain(many).collect()
    }

    /// The links of a pattern, in the order of `there`.
    pub(super) fn links_of(
        &self,
        pattern: &Pattern,
        there: &[Address],
    ) -> impl Iterator<Item = LinkConfig> {
        // It may have an entry of its own, or its name be another pattern's for another one.
        let is_its_own = |link: &LinkConfig| self.link_named(&link.name).as_ref() == Some(link);
        there.iter().filter_map(|address| pattern.link_of(*address)).filter(is_its_own)
    }

    /// Functions that patterns cover and that have no link: the domain is too large for a name or number, or
    /// the name is another's.
    pub fn nameless(&self, there: &[Address]) -> Vec<String> {
        let links = self.links_with(there);
        let has_link = |at: &Address| links.iter().any(|link| fixed(&link.transport) == Some(*at));
        let covered = |at: &Address| self.patterns.iter().any(|it| it.functions.covers(*at));
        let nameless = there.iter().filter(|at| covered(at) && !has_link(at));
        nameless.map(Address::to_string).collect()
    }

    /// Whether there is anything whose function may come and go.
    pub fn has_functions(&self) -> bool {
        let pci = |link: &LinkConfig| matches!(link.transport, Transport::Pci(_));
        !self.patterns.is_empty() || self.links.iter().any(pci)
    }
}

/// The transport; of a pattern, that of its lowest function, with the functions that it covers.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    role: Role,
) -> (Option<Covered>, Option<Transport>) {
    let text = table.get("transport").and_then(|value| value.get_ref().as_str());
    let pattern = text.and_then(|text| text.strip_prefix("pci:")).filter(|text| text.contains('*'));
    let (Some(text), Some(value)) = (pattern, table.get("transport")) else {
        return (None, transport::read(reader, table, role));
    };
    refuse_one_links(reader, table);
    let (pattern, mode) = match text.rsplit_once('?') {
        Some((pattern, "vfio")) => (pattern, Some(Mode::Vfio)),
        Some((pattern, "sysfs")) => (pattern, Some(Mode::Sysfs)),
        _ => (text, None),
    };
    let Some(functions) = Covered::parse(pattern) else {
        let what = format!("{} is no pattern of PCI functions", quoted(pattern));
        let remedy =
            "write *, 0000:*, 0000:03:* or 0000:03:00.*, and behind it ?vfio, ?sysfs or nothing";
        reader.problem(value.span(), what, remedy);
        return (None, None);
    };
    let transport = at(*functions.range.start(), mode);
    (Some(functions), Some(transport))
}

/// Notes what stands beside a pattern and is for one link only.
fn refuse_one_links(reader: &mut Reader<'_>, table: &DeTable<'_>) {
    for (key, _) in table {
        let word = key.get_ref().as_ref();
        let remedy = match word {
            "slot" | "mac" => "take this line out: each link's comes from its place on the bus",
            _ => {
                "take this line out: networkd, which takes \"bl*\" in [Match] Name=, or ip(8) can set them"
            }
        };
        if OF_ONE_LINK.contains(&word) {
            let what = format!("{word} is for one link, and a pattern makes many");
            reader.problem(key.span(), what, remedy);
        }
    }
}

/// Where an entry has its name and its transport.
pub(super) struct Places {
    pub(super) name: Place,
    pub(super) transport: Place,
}

/// Notes entries that want the same functions or names.
pub(super) fn check_all(
    reader: &mut Reader<'_>,
    links: &[(LinkConfig, Places)],
    patterns: &[(Pattern, Places)],
) {
    for (at, (pattern, places)) in patterns.iter().enumerate() {
        let (name_line, transport_line) =
            (reader.line(&places.name), reader.line(&places.transport));
        let mut before = patterns[..at].iter();
        let shared = before.find_map(|(other, places)| {
            Some((pattern.functions.shared(&other.functions)?, &places.transport))
        });
        if let Some((address, other)) = shared {
            let what = format!("{address} is of the pattern on line {}, too", reader.line(other));
            let remedy = "write patterns that have no function in common";
            reader.problem(places.transport.clone(), what, remedy);
        }
        for (link, places) in links {
            if pattern.function(&link.name).is_some() {
                let name = quoted(&link.name);
                let what = format!("{name} is a name that the pattern on line {name_line} gives");
                reader.problem(places.name.clone(), what, "write another name");
            }
            if matches!(link.transport, Transport::Pci(Wanted { which: Which::Auto, .. })) {
                let what =
                    format!("auto takes any function, as the pattern on line {transport_line}");
                reader.problem(places.transport.clone(), what, "write the function's address");
            }
        }
    }
}
