//! Reads which CPUs a link's workers run on: `cpu`.

use toml::de::{DeTable, DeValue};

use super::QUEUES_MAX;
use super::reader::Reader;
use crate::os::affinity::CPU_MAX;

/// The CPUs, none if the key is not there. Which of them there are, only the running system knows.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Vec<u32> {
    let Some(value) = table.get("cpu") else { return Vec::new() };
    let most = usize::from(QUEUES_MAX);
    let entries = match value.get_ref() {
        DeValue::Array(entries) if (1..=most).contains(&entries.len()) => &entries[..],
        DeValue::Array(entries) => {
            let what = format!("cpu has {} entries", entries.len());
            reader.problem(value.span(), what, format!("write 1 to {most}, one for a queue pair"));
            return Vec::new();
        }
        DeValue::Integer(_) => std::slice::from_ref(value),
        other => {
            reader.wrong_type("cpu", other, value.span());
            return Vec::new();
        }
    };
    let mut cpus = Vec::new();
    for entry in entries {
        match entry.get_ref() {
            DeValue::Integer(number) => {
                cpus.extend(reader.in_range("cpu", number, entry.span(), 0..=CPU_MAX));
            }
            other => reader.wrong_entry("cpu", other, entry.span()),
        }
    }
    cpus
}
