//! Reads the transport `uio:` and its table: which device, and what its maps and registers are.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::Transport;
use super::expand::string;
use super::reader::{self, Place, Reader};
use crate::os::fabric::uio::{Description, MAPS_MAX, MapKey};

/// `DEVICE`, with what the table says of it.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    path: &str,
    place: &Place,
) -> Option<Transport> {
    let description = read_table(reader, table);
    if !path.starts_with('/') || path.contains('\0') {
        let remedy = r#"write the device's whole path, as "uio:/dev/uio0""#;
        reader.problem(place.clone(), "this is not the path of a UIO device", remedy);
        return None;
    }
    Some(Transport::Uio { path: PathBuf::from(path), description })
}

/// Whether a link has such a device.
pub(super) fn is_of(transport: &Transport) -> bool {
    matches!(transport, Transport::Uio { .. })
}

/// The table of such a link, with what is not left to the names of maps.
pub(super) fn expand(transport: &Transport) -> Option<String> {
    let Transport::Uio { description, .. } = transport else { return None };
    let Description { doorbell_offset, doorbell_value, doorbell_step, interrupt, .. } = description;
    let map = |key, map: &Option<MapKey>| match map.as_ref()? {
        MapKey::Name(name) => Some(format!("{key} = {}", string(name))),
        MapKey::Number(number) => Some(format!("{key} = {number}")),
    };
    let number = |key, number: Option<u32>| Some(format!("{key} = {}", number?));
    let keys = [
        map("window", &description.window),
        map("driver_memory", &description.driver_memory),
        map("doorbell", &description.doorbell),
        number("doorbell_offset", Some(*doorbell_offset)),
        number("doorbell_value", Some(*doorbell_value)),
        number("doorbell_step", Some(*doorbell_step)),
        number("clear_offset", description.clear_offset),
        number("clear_value", description.clear_value),
        Some(format!("interrupt = {interrupt}")),
    ];
    Some(format!("{{ {} }}", keys.into_iter().flatten().collect::<Vec<_>>().join(", ")))
}

fn read_table(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Description {
    let default = Description::default();
    let Some(value) = table.get("uio") else { return default };
    let DeValue::Table(uio) = value.get_ref() else {
        reader.wrong_type("uio", value.get_ref(), value.span());
        return default;
    };
    reader.known_keys(uio, reader::UIO);
    let [window, driver_memory, doorbell] =
        ["window", "driver_memory", "doorbell"].map(|key| read_map(reader, uio, key));
    let mut number = |key| reader.number(uio, key, 0..=u32::MAX);
    let description = Description {
        window,
        driver_memory,
        doorbell,
        doorbell_offset: number("doorbell_offset").unwrap_or(default.doorbell_offset),
        doorbell_value: number("doorbell_value").unwrap_or(default.doorbell_value),
        doorbell_step: number("doorbell_step").unwrap_or(default.doorbell_step),
        clear_offset: number("clear_offset"),
        clear_value: number("clear_value"),
        interrupt: reader.boolean(uio, "interrupt").unwrap_or(default.interrupt),
    };
    if let (Some(value), None) = (uio.get("clear_value"), description.clear_offset) {
        let what = "clear_value is written to a register that is not named";
        reader.problem(value.span(), what, "add clear_offset, or take this out");
    }
    description
}

/// A map, by its name or its number.
fn read_map(reader: &mut Reader<'_>, uio: &DeTable<'_>, key: &str) -> Option<MapKey> {
    if matches!(uio.get(key)?.get_ref(), DeValue::Integer(_)) {
        let number = reader.number(uio, key, 0..=u32::from(MAPS_MAX - 1))?;
        return u8::try_from(number).ok().map(MapKey::Number);
    }
    let (name, place) = reader.string(uio, key)?;
    if name.is_empty() {
        let remedy = format!("write its number, as {key} = 0");
        reader.problem(place, "no map is found by an empty name", remedy);
        return None;
    }
    Some(MapKey::Name(name.to_owned()))
}
