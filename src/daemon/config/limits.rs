//! Reads what the other end of a link may send: `allow_mac`, `allow_ip`, `rate`.

use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use super::problem::quoted;
use super::reader::{self, Place, Reader};
use super::{ALLOW_MAX, IpPrefix, RateConfig, ip, link};
use crate::net::rate;

/// The MAC addresses in `allow_mac`.
pub(super) fn read_allow_mac(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Vec<[u8; 6]> {
    let texts = read_list(reader, table, "allow_mac");
    texts.into_iter().filter_map(|(text, place)| link::check_mac(reader, text, place)).collect()
}

/// The addresses and networks in `allow_ip`.
pub(super) fn read_allow_ip(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Vec<IpPrefix> {
    let mut networks = Vec::new();
    for (text, place) in read_list(reader, table, "allow_ip") {
        match ip::source(text) {
            Ok(network) => networks.push(network),
            Err((what, remedy)) => reader.problem(place, what, remedy),
        }
    }
    networks
}

/// The entries of a list that is neither empty nor longer than there is a reason for.
fn read_list<'v>(
    reader: &mut Reader<'_>,
    table: &'v DeTable<'_>,
    key: &str,
) -> Vec<(&'v str, Place)> {
    if let Some(value) = table.get(key) {
        match value.get_ref().as_array().map(|list| list.len()) {
            Some(0) => {
                let what = format!("{key} allows nothing");
                reader.problem(value.span(), what, "list what is allowed, or take this line out");
            }
            Some(n) if n > ALLOW_MAX => {
                let what = format!("{key} has {n} entries");
                let remedy = format!("write {ALLOW_MAX} at most");
                reader.problem(value.span(), what, remedy);
                return Vec::new();
            }
            _ => {}
        }
    }
    reader.strings(table, key)
}

/// How much may come, `None` for no limit.
pub(super) fn read_rate(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<RateConfig> {
    let value = table.get("rate")?;
    let rate = match value.get_ref() {
        DeValue::String(text) => {
            RateConfig { bits: read_bits(reader, text, value.span()), frames: None }
        }
        DeValue::Table(rate) => {
            reader.known_keys(rate, reader::RATE);
            if rate.is_empty() {
                let remedy = "write bits, frames or both, or take this line out";
                reader.problem(value.span(), "rate sets no limit", remedy);
            }
            let bits = reader.string(rate, "bits");
            let frames = u32_range(rate::FRAMES);
            RateConfig {
                bits: bits.and_then(|(text, place)| read_bits(reader, text, place)),
                frames: reader.number(rate, "frames", frames),
            }
        }
        other => {
            reader.wrong_type("rate", other, value.span());
            return None;
        }
    };
    (rate != RateConfig::default()).then_some(rate)
}

fn u32_range(range: RangeInclusive<u64>) -> RangeInclusive<u32> {
    let [least, most] = [range.start(), range.end()].map(|n| u32::try_from(*n).unwrap_or(u32::MAX));
    least..=most
}

/// Bits per second, as `"200M"`.
fn read_bits(reader: &mut Reader<'_>, text: &str, place: Place) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number = Some(digits).filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()));
    let Some(number) = number.and_then(|digits| digits.parse::<u64>().ok()) else {
        let what = format!("{} is not a rate", quoted(text));
        let remedy = r#"write bits per second with K, M or G behind them, as "200M""#;
        reader.problem(place, what, remedy);
        return None;
    };
    let bits = number.checked_mul(unit).filter(|bits| rate::BITS.contains(bits));
    if bits.is_none() {
        let [least, most] = [rate::BITS.start(), rate::BITS.end()].map(|bits| bits_text(*bits));
        let remedy = format!("write \"{least}\" to \"{most}\"");
        reader.problem(place, format!("rate {text} is out of range"), remedy);
    }
    bits
}

/// Bits per second as the config has them.
pub(super) fn bits_text(mut bits: u64) -> String {
    let mut units = ["", "K", "M", "G"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while bits % 1000 == 0 {
        let Some(next) = units.next() else { break };
        (bits, unit) = (bits / 1000, next);
    }
    format!("{bits}{unit}")
}
