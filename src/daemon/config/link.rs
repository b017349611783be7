//! Reads and checks one `[[link]]`.

use toml::de::{DeTable, DeValue};

use super::pattern::{self, Covered, Pattern, SLOT_MAX};
use super::problem::{nearest, quoted};
use super::reader::{self, Place, Reader};
use super::{
    BUSY_POLL_US, Dma, EngineConfig, HEARTBEAT_MS, LinkConfig, MTU_MAX, MTU_MIN, Netns, Port,
    QUEUES_MAX, Role,
};
use super::{cpu, layout, limits, netdev, pump, transport};
use crate::net::features::Features;
use crate::os::tap::NAME_MAX;
use crate::spec::virtio::F_VERSION_1;

/// A key with few values: those of this version, the first one the default, and those of a later.
pub(super) struct Choice {
    pub(super) key: &'static str,
    pub(super) now: &'static [&'static str],
    pub(super) later: &'static [&'static str],
}

const DMA: Choice = Choice { key: "dma", now: &["auto", "direct", "engine"], later: &[] };

const PORT: Choice = Choice { key: "port", now: &["tap", "discard", "echo"], later: &[] };

/// Keys that speak of a netdev, which only the port "tap" has.
pub(super) const OF_NETDEV: &[&str] = &[
    "address",
    "route",
    "mac",
    "mtu",
    "up",
    "netns",
    "bridge",
    "isolated",
    "vlan",
    "vrf",
    "forward",
    "reconcile",
    "keep",
    "allow_mac",
    "allow_ip",
];

/// What a `[[link]]` is.
pub(super) enum Entry {
    Link(LinkConfig),
    Pattern(Pattern),
}

/// Reads the link whose keys are in `table`; `None` if its name or transport is not right.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    place: Place,
    role: Role,
) -> Option<Entry> {
    reader.known_keys(table, reader::LINK);
    for key in ["name", "transport"] {
        require(reader, table, key, place.clone());
    }
    let (functions, transport) = pattern::read(reader, table, role);
    let name = read_name(reader, table, functions.as_ref(), transport.is_some());
    let socket = transport::read_access(reader, table, "socket_mode", "socket_owner");
    let netns = read_netns(reader, table);
    let home = netns.as_ref().map(Netns::to_string).unwrap_or_default();
    let mtu = reader.number(table, "mtu", u32::from(MTU_MIN)..=u32::from(MTU_MAX));
    let mtu = mtu.and_then(|mtu| u16::try_from(mtu).ok());
    let own_name = reader.string(table, "name").map(|(name, _)| name);
    let netdev = netdev::read(reader, table, own_name.filter(|_| name.is_some()), &home, mtu);
    let slot = reader.number(table, "slot", 0..=SLOT_MAX);
    let port = read_port(reader, table);
    let dma = match read_choice(reader, table, &DMA) {
        Some("direct") => Dma::Direct,
        Some("engine") => Dma::Engine,
        _ => Dma::Auto,
    };
    let pump = pump::read(reader, table, role, transport.as_ref(), port, dma);
    let engine = read_engine(reader, table, dma);
    let (layout, dialect) = layout::read(reader, table);
    let mac = read_mac(reader, table);
    let up = reader.boolean(table, "up");
    let features_off = read_features(reader, table);
    let queues = reader.number(table, "queues", 1..=QUEUES_MAX.into()).unwrap_or(1);
    let cpu = cpu::read(reader, table);
    let keep = reader.boolean(table, "keep").unwrap_or(false);
    let heartbeat_ms = reader.number(table, "heartbeat_ms", 10..=10_000).unwrap_or(HEARTBEAT_MS);
    let busy_poll_us = reader.number(table, "busy_poll_us", 0..=1000).unwrap_or(BUSY_POLL_US);
    let allow_mac = limits::read_allow_mac(reader, table);
    let allow_ip = limits::read_allow_ip(reader, table);
    let rate = limits::read_rate(reader, table);
    let link = LinkConfig {
        name: name?,
        transport: transport?,
        socket,
        addresses: netdev.addresses,
        routes: netdev.routes,
        netdev: netdev.keys,
        slot,
        mac,
        mtu,
        up,
        queues: u16::try_from(queues).unwrap_or(1),
        netns,
        port,
        cpu,
        dma,
        pump,
        engine,
        layout,
        dialect,
        features_off,
        keep,
        heartbeat_ms,
        busy_poll_us,
        allow_mac,
        allow_ip,
        rate,
    };
    transport::check(reader, table, &link);
    layout::check(reader, table, &link);
    Some(match functions {
        Some(functions) => Entry::Pattern(Pattern { functions, link }),
        None => Entry::Link(link),
    })
}

/// Notes that the link lacks `key`, unless a misspelt key is all that is wrong.
fn require(reader: &mut Reader<'_>, table: &DeTable<'_>, key: &str, place: Place) {
    let misspelt = table.keys().any(|word| nearest(word.get_ref(), &[key]).is_some());
    if !table.contains_key(key) && !misspelt {
        let remedy = format!("add {}", reader::example(reader::LINK, key).unwrap_or(key));
        reader.problem(place, format!("this link has no {key}"), remedy);
    }
}

/// The choice that stands in the file, if it is one of this version.
pub(super) fn read_choice(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    choice: &Choice,
) -> Option<&'static str> {
    let (word, place) = reader.string(table, choice.key)?;
    if let Some(&known) = choice.now.iter().find(|&&known| known == word) {
        return Some(known);
    }
    let now: Vec<String> = choice.now.iter().map(|known| format!("{known:?}")).collect();
    let what = if choice.later.contains(&word) {
        format!("{} {word:?} is not in this version", choice.key)
    } else {
        format!("{} has no {}", choice.key, quoted(word))
    };
    reader.problem(place, what, format!("write {}", now.join(" or ")));
    None
}

/// The port, beside which nothing may stand that only another one has.
fn read_port(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Port {
    let port = match read_choice(reader, table, &PORT) {
        Some("discard") => Port::Discard,
        Some("echo") => Port::Echo,
        _ => return Port::Tap,
    };
    for (key, _) in table {
        let word = key.get_ref().as_ref();
        if OF_NETDEV.contains(&word) {
            let what = format!("{word} speaks of a netdev, and port \"{port}\" makes none");
            reader.problem(key.span(), what, r#"take this line out, or write port = "tap""#);
        }
    }
    port
}

/// What the engine is like; the defaults where there is no table.
fn read_engine(reader: &mut Reader<'_>, table: &DeTable<'_>, dma: Dma) -> EngineConfig {
    let default = EngineConfig::default();
    let Some(value) = table.get("engine") else { return default };
    let DeValue::Table(engine) = value.get_ref() else {
        reader.wrong_type("engine", value.get_ref(), value.span());
        return default;
    };
    reader.known_keys(engine, reader::ENGINE);
    if dma != Dma::Engine {
        let what = "engine speaks of an engine that this link does not use";
        reader.problem(value.span(), what, r#"write dma = "engine", or take this line out"#);
    }
    let mut number = |key, most, or| reader.number(engine, key, most).unwrap_or(or);
    let depth = number("depth", 1..=1024, default.depth.into());
    EngineConfig {
        depth: u16::try_from(depth).unwrap_or(default.depth),
        latency_us: number("latency_us", 0..=1_000_000, default.latency_us),
        bandwidth_mb_s: number("bandwidth_mb_s", 0..=1_000_000, default.bandwidth_mb_s),
        error_ppm: number("error_ppm", 0..=1_000_000, default.error_ppm),
        cpu_below: number("cpu_below", 0..=65_536, default.cpu_below),
        dma_only: reader.boolean(engine, "dma_only").unwrap_or(default.dma_only),
    }
}

/// The name, which has a star where the transport is a pattern of these `functions`.
fn read_name(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    functions: Option<&Covered>,
    has_transport: bool,
) -> Option<String> {
    let (name, place) = reader.string(table, "name")?;
    let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
    // Of the longest one, where there are many.
    let longest = functions.map(|functions| name.replacen('*', &functions.longest_place(), 1));
    let longest = longest.as_deref().unwrap_or(name);
    let (what, remedy) = if name.is_empty() {
        ("the name is empty".to_owned(), r#"write 1 to 15 bytes, as "bl0""#)
    } else if functions.is_some() && name.matches('*').count() != 1 {
        let what = "this name is for one link, and a pattern makes many".to_owned();
        (what, r#"write one * where the function's place is to stand, as "bl*""#)
    } else if functions.is_none() && has_transport && name.contains('*') {
        let what = "'*' stands for a function's place, and this transport is no pattern".to_owned();
        (what, r#"write another name, as "bl0", or transport = "pci:0000:03:*""#)
    } else if longest.len() > NAME_MAX {
        let what = format!("the name {} has {} bytes", quoted(longest), longest.len());
        (what, "a netdev's name has at most 15")
    } else if matches!(name, "." | ".." | "all" | "default" | "lo") {
        (format!("no link can be named {name:?}"), r#"write another name, as "bl0""#)
    } else if let Some(c) = name.chars().find(|&c| bad(c)) {
        (format!("{c:?} cannot stand in a netdev's name"), "use letters, digits, - and _")
    } else {
        if functions.is_none() {
            reader.once("name", name, &place, "give each link its own name");
        }
        return Some(name.into());
    };
    reader.problem(place, what, remedy);
    None
}

fn read_netns(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Netns> {
    if matches!(table.get("netns").map(|value| value.get_ref()), Some(DeValue::Integer(_))) {
        return reader.number(table, "netns", 1..=i32::MAX.unsigned_abs()).map(Netns::Pid);
    }
    let (text, place) = reader.string(table, "netns")?;
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        if let Some(pid) =
            text.parse().ok().filter(|pid| (1..=i32::MAX.unsigned_abs()).contains(pid))
        {
            return Some(Netns::Pid(pid));
        }
    } else if text.starts_with('/') && !text.contains('\0') {
        return Some(Netns::Path(text.into()));
    } else if !matches!(text, "" | "." | "..") && !text.contains(['/', '\0']) && text.len() <= 255 {
        return Some(Netns::Name(text.into()));
    }
    let remedy = r#"write a name as "board0", a full path, or a process id"#;
    reader.problem(place, "this names no network namespace", remedy);
    None
}

fn read_mac(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<[u8; 6]> {
    let (text, place) = reader.string(table, "mac")?;
    check_mac(reader, text, place)
}

/// The MAC address of a netdev.
pub(super) fn check_mac(reader: &mut Reader<'_>, text: &str, place: Place) -> Option<[u8; 6]> {
    let Some(mac) = parse_mac(text) else {
        let what = format!("{} is not a MAC address", quoted(text));
        reader.problem(place, what, r#"write it as "02:00:00:00:00:01""#);
        return None;
    };
    if mac[0] & 1 != 0 {
        let what = format!("{text} is a group address, not a netdev's");
        let first = mac[0] & 0xfe;
        reader.problem(place, what, format!("write an even first octet, as {first:02x}"));
        return None;
    }
    if mac == [0; 6] {
        reader.problem(place, "a MAC address is not zero", r#"write it as "02:00:00:00:00:01""#);
        return None;
    }
    Some(mac)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn read_features(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Vec<String> {
    let required = Features::of(&[F_VERSION_1]);
    let known: Vec<_> = Features::OFFER.minus(required).names().collect();
    let mut features = Vec::new();
    for (text, place) in reader.strings(table, "features_off") {
        if known.contains(&text) {
            features.push(text.into());
        } else if text == "VERSION_1" {
            reader.problem(place, "VERSION_1 is required", "take it out of the list");
        } else {
            let remedy = match nearest(text, &known) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("known: {}", known.join(", ")),
            };
            reader.problem(place, format!("there is no feature {}", quoted(text)), remedy);
        }
    }
    features
}
