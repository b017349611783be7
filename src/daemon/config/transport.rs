//! Reads how the other end of a link is reached: `transport`, and what goes with one kind of it.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::problem::{nearest, quoted};
use super::reader::{Place, Reader};
use super::{Access, LinkConfig, Owner, Role, SocketSide, Transport, VhostUser, uio};
use crate::os::access;
#[cfg(feature = "pci")]
use crate::os::fabric::pci::{self, Mode, Wanted, Which};

/// Keys that speak of what only a boardlane program has at the other end.
pub(super) const OF_TUNNEL: &[&str] = &["dialect", "layout"];

/// Keys that speak of a UIO device.
pub(super) const OF_UIO: &[&str] = &["uio"];

/// Keys that speak of a socket that the link itself makes.
pub(super) const OF_SOCKET: &[&str] = &["socket_mode", "socket_owner"];

/// The transport, if it is right and no other link has it.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, role: Role) -> Option<Transport> {
    let (text, place) = reader.string(table, "transport")?;
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let (transport, remedy) = match kind {
        "shm" => {
            let path = PathBuf::from(rest);
            if !reader.socket_path(&path, &place) {
                return None;
            }
            (Transport::Shm(path), "give each link its own slot's socket")
        }
        "vhost-user" => {
            (read_vhost_user(reader, rest, &place, role)?, "give each link its own socket")
        }
        "pci" => (read_pci(reader, rest, &place)?, "give each link its own function"),
        "uio" => (uio::read(reader, table, rest, &place)?, "give each link its own device"),
        _ => {
            let what = format!("there is no transport {}", quoted(text));
            let remedy = if text.starts_with('/') {
                format!("write {}", quoted(&format!("shm:{text}")))
            } else {
                r#"write it as "shm:/run/boardlane/slot0.sock""#.into()
            };
            reader.problem(place, what, remedy);
            return None;
        }
    };
    // A path compares without doubled slashes and single dots, and whoever makes the socket.
    let same = match &transport {
        Transport::VhostUser { path, .. } => format!("vhost-user:{}", path.display()),
        #[cfg(feature = "pci")]
        Transport::Pci(Wanted { which: Which::At(address), .. }) => format!("pci:{address}"),
        // Each gets another one.
        #[cfg(feature = "pci")]
        Transport::Pci(_) => return Some(transport),
        other => other.to_string(),
    };
    let same = PathBuf::from(same).components().collect::<PathBuf>();
    reader.once("transport", same.display(), &place, remedy);
    Some(transport)
}

/// `PATH`, `PATH?client` or `PATH?server`.
fn read_vhost_user(
    reader: &mut Reader<'_>,
    text: &str,
    place: &Place,
    role: Role,
) -> Option<Transport> {
    let (path, how) = match text.rsplit_once('?') {
        Some((path, "client")) => (path, SocketSide::Client),
        Some((path, "server")) => (path, SocketSide::Server),
        Some((_, word)) => {
            no_such_way(reader, "vhost-user", word, ["client", "server"], "path", place);
            return None;
        }
        // A device waits for its driver.
        None if role == Role::Agent => (text, SocketSide::Server),
        None => (text, SocketSide::Client),
    };
    let path = PathBuf::from(path);
    let built = vhost_user(reader, place)?;
    reader.socket_path(&path, place).then_some(Transport::VhostUser { path, how, built })
}

#[cfg(feature = "vhost-user")]
fn vhost_user(_: &mut Reader<'_>, _: &Place) -> Option<VhostUser> {
    Some(VhostUser)
}

#[cfg(not(feature = "vhost-user"))]
fn vhost_user(reader: &mut Reader<'_>, place: &Place) -> Option<VhostUser> {
    not_built(reader, "vhost-user", place);
    None
}

/// Notes that this program is built without a transport.
#[cfg(not(all(feature = "vhost-user", feature = "pci", feature = "uio")))]
pub(super) fn not_built(reader: &mut Reader<'_>, kind: &str, place: &Place) {
    let remedy = format!("use a program that is built with the feature {kind}");
    reader.problem(place.clone(), format!("transport {kind}: is not in this program"), remedy);
}

/// `WHICH`, `WHICH?vfio` or `WHICH?sysfs`, where `WHICH` is an address or `auto`.
#[cfg(feature = "pci")]
fn read_pci(reader: &mut Reader<'_>, text: &str, place: &Place) -> Option<Transport> {
    let (which, mode) = match text.rsplit_once('?') {
        Some((which, "vfio")) => (which, Some(Mode::Vfio)),
        Some((which, "sysfs")) => (which, Some(Mode::Sysfs)),
        Some((_, word)) => {
            no_such_way(reader, "pci", word, ["vfio", "sysfs"], "address", place);
            return None;
        }
        None => (text, None),
    };
    let which = match which {
        "auto" => Which::Auto,
        _ => match which.parse() {
            Ok(address) => Which::At(address),
            Err(e) => {
                let what = format!("{} is not a PCI function's address", quoted(which));
                let remedy: pci::NoAddress = e;
                reader.problem(place.clone(), what, format!("{remedy}; or auto"));
                return None;
            }
        },
    };
    Some(Transport::Pci(Wanted { which, mode }))
}

/// None: this program is built without.
#[cfg(not(feature = "pci"))]
fn read_pci(reader: &mut Reader<'_>, _: &str, place: &Place) -> Option<Transport> {
    not_built(reader, "pci", place);
    None
}

/// Notes that what stands behind the `?` of a transport is none of two ways.
fn no_such_way(
    reader: &mut Reader<'_>,
    kind: &str,
    word: &str,
    ways: [&str; 2],
    behind: &str,
    place: &Place,
) {
    let what = format!("{kind}: has no {}", quoted(&format!("?{word}")));
    let remedy = match nearest(word, &ways) {
        Some(meant) => format!("did you mean ?{meant}?"),
        None => format!("write ?{} or ?{} behind the {behind}, or nothing", ways[0], ways[1]),
    };
    reader.problem(place.clone(), what, remedy);
}

/// Notes what stands beside a transport and does not go with it.
pub(super) fn check(reader: &mut Reader<'_>, table: &DeTable<'_>, link: &LinkConfig) {
    if !uio::is_of(&link.transport) {
        refuse(reader, table, OF_UIO, "speaks of a UIO device, and this transport has none");
    }
    let Transport::VhostUser { how, .. } = &link.transport else {
        return refuse(
            reader,
            table,
            OF_SOCKET,
            "speaks of a socket that a vhost-user: link makes",
        );
    };
    if *how == SocketSide::Client {
        refuse(reader, table, OF_SOCKET, "speaks of a socket, and the other end makes this one");
    }
    let what = "speaks of a boardlane program at the other end, and vhost-user: need not have one";
    refuse(reader, table, OF_TUNNEL, what);
    let engine = table.get("engine").and_then(|value| match value.get_ref() {
        DeValue::Table(engine) => engine.get("dma_only"),
        _ => None,
    });
    if let Some(value) = engine.filter(|_| link.engine.dma_only) {
        let what = "dma_only puts rings into a window, and vhost-user: has none";
        reader.problem(value.span(), what, "take dma_only out");
    }
}

fn refuse(reader: &mut Reader<'_>, table: &DeTable<'_>, keys: &[&str], why: &str) {
    for (key, _) in table {
        let word = key.get_ref().as_ref();
        if keys.contains(&word) {
            reader.problem(key.span(), format!("{word} {why}"), "take this line out");
        }
    }
}

/// Who may connect to a socket, by the keys of its mode and owner.
pub(super) fn read_access(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    mode: &str,
    owner: &str,
) -> Access {
    let mut access = Access::default();
    if let Some((text, place)) = reader.string(table, mode) {
        match access::parse_mode(text) {
            Some(mode) => access.mode = mode,
            None => {
                let what = format!("{} is not a socket's mode", quoted(text));
                reader.problem(place, what, r#"write three octal digits, as "0660""#);
            }
        }
    }
    if let Some((text, place)) = reader.string(table, owner) {
        match Owner::parse(text) {
            Ok(owner) => access.owner = owner,
            Err(what) => {
                let remedy = r#"write "USER:GROUP", "USER" or ":GROUP", by name or number"#;
                reader.problem(place, what, remedy);
            }
        }
    }
    access
}
