//! What links have in common: `[defaults]`, whose keys a link takes over where it has none of its own.
//!
//! A key is taken over whole, with its place in the file, before anything is read of the link. So each
//! key of a link may stand there, and what is wrong with one is told at its own place.

use toml::de::{DeTable, DeValue};

use super::reader::{self, Reader};

/// Keys that say which link it is.
const OF_ONE_LINK: &[&str] = &["name", "transport", "slot", "slots"];

/// The keys of `[defaults]`; none if it is not there.
pub(super) fn read<'i>(reader: &mut Reader<'_>, root: &DeTable<'i>) -> DeTable<'i> {
    let Some((key, value)) = root.get_key_value("defaults") else { return DeTable::new() };
    let DeValue::Table(table) = value.get_ref() else {
        let what = format!("defaults is {}", reader::kind(value.get_ref()));
        reader.problem(key.span(), what, "write [defaults] above the keys that links share");
        return DeTable::new();
    };
    reader.known_keys(table, reader::LINK);
    let mut defaults = table.clone();
    for word in OF_ONE_LINK {
        if let Some((key, _)) = defaults.remove_entry(*word) {
            let what = format!("{word} is each link's own");
            reader.problem(key.span(), what, "put it below a line [[link]]");
        }
    }
    defaults
}

/// The keys of all these tables; of one that several have, that of the first.
pub(super) fn layered<'i>(layers: &[&DeTable<'i>]) -> DeTable<'i> {
    let mut all = DeTable::new();
    for layer in layers {
        for (key, value) in *layer {
            if !all.contains_key(key) {
                all.insert(key.clone(), value.clone());
            }
        }
    }
    all
}
