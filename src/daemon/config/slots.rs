//! The `[[link]]` entries, one by one, and those that stand for a link in each of many slots:
//! `slots = "0-15"`, `name = "bl{slot}"`.
//!
//! An entry's table is made from its own keys, those of the entry with `slots` that has its slot or gives
//! its name, and the defaults, in this order. Then `{slot}` becomes the slot's number in each string, and
//! the table is read as if it stood so in the file: nothing else knows of this.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::defaults::{self, layered};
use super::link::{self, Entry};
use super::pattern::{self, Places, SLOT_MAX};
use super::pool::{self, Pool};
use super::problem::quoted;
use super::reader::{self, Place, Reader};
use super::{LinkConfig, Pattern, Role};
use crate::os::tap::NAME_MAX;

/// Most links of a file; an entry with a pattern of PCI functions counts as one.
pub(super) const LINKS_MAX: usize = 256;

/// What the tables of all links may come to: bytes of text, and [`VALUE_COST`] for each value.
const SIZE_MAX: usize = 4 << 20;
const VALUE_COST: usize = 8;

/// An item of `[[link]]`.
struct Item<'v, 'i> {
    table: &'v DeTable<'i>,
    place: Place,
    /// What `slots` says, or `slot`.
    slots: Slots,
    /// It stands for a link that another item would make.
    is_override: bool,
}

enum Slots {
    One(Option<u32>),
    Many(Vec<u32>),
}

/// The links and patterns of a file.
pub(super) fn read_links(
    reader: &mut Reader<'_>,
    root: &DeTable<'_>,
    role: Role,
) -> (Vec<LinkConfig>, Vec<Pattern>) {
    let defaults = defaults::read(reader, root);
    let pool = pool::read(reader, root, role);
    let mut items = read_items(reader, root);
    let overrides = find_overrides(reader, &mut items);
    let mut walk =
        Walk { reader, role, defaults, pool, size: 0, links: Vec::new(), patterns: Vec::new() };
    for (at, item) in items.iter().enumerate() {
        match &item.slots {
            Slots::One(_) if item.is_override => {}
            Slots::One(slot) => walk.read(&[item.table], *slot, &item.place),
            Slots::Many(slots) => walk
                .read_many(item, slots, |slot| overrides.get(&(at, slot)).map(|own| &items[*own])),
        }
    }
    walk.pool.finish(walk.reader);
    pattern::check_all(walk.reader, &walk.links, &walk.patterns);
    let links = walk.links.into_iter().map(|(link, _)| link).collect();
    (links, walk.patterns.into_iter().map(|(pattern, _)| pattern).collect())
}

/// The items, in the file's order, if they are not too many.
fn read_items<'v, 'i>(reader: &mut Reader<'_>, root: &'v DeTable<'i>) -> Vec<Item<'v, 'i>> {
    const WRITE: &str = "write [[link]] above the keys of each link";
    let end = reader.end();
    let Some((key, value)) = root.get_key_value("link") else {
        reader.problem(end, "there is no link", "add a [[link]] with name and transport");
        return Vec::new();
    };
    let DeValue::Array(tables) = value.get_ref() else {
        let what = format!("link is {}", reader::kind(value.get_ref()));
        reader.problem(key.span(), what, WRITE);
        return Vec::new();
    };
    if tables.is_empty() {
        reader.problem(value.span(), "there is no link", "add a [[link]] with name and transport");
    }
    let (mut items, mut links) = (Vec::new(), 0);
    for item in tables {
        let DeValue::Table(table) = item.get_ref() else {
            let what = format!("this link is {}", reader::kind(item.get_ref()));
            reader.problem(item.span(), what, WRITE);
            continue;
        };
        let slots = match table.get("slots") {
            None => Slots::One(number(table)),
            Some(_) => match read_slots(reader, table) {
                Some(slots) => Slots::Many(slots),
                None => continue,
            },
        };
        links += if let Slots::Many(slots) = &slots { slots.len() } else { 1 };
        if links > LINKS_MAX {
            let what = format!("with this there are more than {LINKS_MAX} links");
            reader.problem(item.span(), what, "run several daemons, each with its own config");
            return Vec::new();
        }
        items.push(Item { table, place: item.span(), slots, is_override: false });
    }
    items
}

/// What `slot` says, if it is a number at all; the link's reader tells what is wrong with another.
fn number(table: &DeTable<'_>) -> Option<u32> {
    let number = table.get("slot")?.get_ref().as_integer()?;
    u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|slot| *slot <= SLOT_MAX)
}

/// The numbers in `slots`, such as `"0-3,8"`: one at least.
fn read_slots(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Vec<u32>> {
    let (text, place) = reader.string(table, "slots")?;
    if let Some(slot) = table.get_key_value("slot") {
        let remedy = "take this line out, or slots";
        reader.problem(slot.0.span(), "slot is for one link, and slots makes many", remedy);
    }
    let mut slots: Vec<u32> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
            text.parse().ok().filter(|slot: &u32| is_number && *slot <= SLOT_MAX)
        };
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            let what = format!("{} is neither a slot's number nor a range", quoted(part));
            reader.problem(place, what, r#"write slots as "0-15" or "0-3,8,10-11""#);
            return None;
        };
        let (count, room) = (u64::from(last).saturating_sub(first.into()), LINKS_MAX - slots.len());
        let wrong = if last < first {
            format!("{part} runs backwards")
        } else if usize::try_from(count).map_or(true, |count| count >= room) {
            format!("these are more than {LINKS_MAX} slots")
        } else if let Some(twice) = slots.iter().find(|slot| (first..=last).contains(*slot)) {
            format!("slot {twice} stands here twice")
        } else {
            slots.extend(first..=last);
            continue;
        };
        reader.problem(place, wrong, r#"write each slot once, as "0-3,8,10-11""#);
        return None;
    }
    Some(slots)
}

/// Finds items with a slot, or else a name, that an item with `slots` has: each by the latter's number
/// and the slot.
fn find_overrides(
    reader: &mut Reader<'_>,
    items: &mut [Item<'_, '_>],
) -> BTreeMap<(usize, u32), usize> {
    let mut overrides = BTreeMap::new();
    for at in 0..items.len() {
        let Some(found) = overridden(items, &items[at]) else { continue };
        items[at].is_override = true;
        let first = *overrides.entry(found).or_insert(at);
        if first != at {
            let line = reader.line(&items[first].place);
            let what = format!("slot {} has its own entry on line {line} already", found.1);
            reader.problem(items[at].place.clone(), what, "make them one");
        }
    }
    overrides
}

/// The item with `slots` that would make this one's link, and the slot.
fn overridden(items: &[Item<'_, '_>], item: &Item<'_, '_>) -> Option<(usize, u32)> {
    let Slots::One(slot) = item.slots else { return None };
    let name = text(item.table, "name").filter(|_| !item.table.contains_key("slot"));
    // A longer text gives no name of a netdev.
    let is_short = |text: &&str| text.len() <= 10 * NAME_MAX;
    items.iter().enumerate().find_map(|(at, other)| {
        let Slots::Many(slots) = &other.slots else { return None };
        let pattern = text(other.table, "name").filter(is_short);
        let gives_name = |slot| {
            let given = pattern.and_then(|pattern| filled(pattern, slot));
            given.is_some_and(|given| name == Some(&given))
        };
        let mut slots = slots.iter().copied();
        slots.find(|n| slot == Some(*n) || gives_name(*n)).map(|slot| (at, slot))
    })
}

fn text<'t>(table: &'t DeTable<'_>, key: &str) -> Option<&'t str> {
    table.get(key)?.get_ref().as_str()
}

/// The walk over the items.
struct Walk<'r, 't, 'i> {
    reader: &'r mut Reader<'t>,
    role: Role,
    defaults: DeTable<'i>,
    pool: Pool,
    /// What the tables have come to.
    size: usize,
    links: Vec<(LinkConfig, Places)>,
    patterns: Vec<(Pattern, Places)>,
}

impl<'i> Walk<'_, '_, 'i> {
    /// The links in many slots, of which some have an `own` item.
    fn read_many<'v>(
        &mut self,
        item: &Item<'v, 'i>,
        slots: &[u32],
        own: impl Fn(u32) -> Option<&'v Item<'v, 'i>>,
    ) where
        'i: 'v,
    {
        let mut failed = false;
        for slot in slots {
            match own(*slot) {
                Some(own) => self.read(&[own.table, item.table], Some(*slot), &own.place),
                // What is wrong with one is with the others.
                None if failed => {}
                None => {
                    let before = self.reader.problems();
                    self.read(&[item.table], Some(*slot), &item.place);
                    failed = self.reader.problems() > before;
                }
            }
        }
    }

    /// The link of these tables and the defaults; of what several have, the first one's counts.
    fn read(&mut self, tables: &[&DeTable<'i>], slot: Option<u32>, place: &Place) {
        if self.size > SIZE_MAX {
            return;
        }
        let layers: Vec<_> = tables.iter().copied().chain([&self.defaults]).collect();
        let mut table = layered(&layers);
        let slots = table.remove("slots");
        let problems = self.reader.problems();
        for (_, value) in &mut table {
            self.size = self.size.saturating_add(fill(self.reader, value, slot));
        }
        if self.reader.problems() > problems {
            return;
        }
        if self.size > SIZE_MAX {
            let what = format!("with this the links are more than {} MiB", SIZE_MAX >> 20);
            self.reader.problem(place.clone(), what, "write less");
            return;
        }
        let span = |key| table.get(key).map_or(0..0, Spanned::span);
        let places = Places { name: span("name"), transport: span("transport") };
        let is_new = match (slot, table.get("slot").or(slots.as_ref())) {
            (Some(slot), Some(at)) => {
                self.reader.once("slot", slot, &at.span(), "give each link its own slot")
            }
            _ => true,
        };
        // Another slot's addresses would be told of a second time.
        if is_new {
            self.pool.fill(self.reader, &mut table, slot, place);
        }
        match link::read(self.reader, &table, place.clone(), self.role) {
            Some(Entry::Link(link)) => {
                self.links.push((LinkConfig { slot: slot.or(link.slot), ..link }, places));
            }
            Some(Entry::Pattern(pattern)) => {
                if let Some(slots) = slots {
                    let what = "slots makes links, and so does the pattern of the transport";
                    self.reader.problem(slots.span(), what, "take one of them out");
                }
                self.patterns.push((pattern, places));
            }
            None => {}
        }
    }
}

/// Puts the slot's number into each string of a value; what the value comes to.
fn fill(reader: &mut Reader<'_>, value: &mut Spanned<DeValue<'_>>, slot: Option<u32>) -> usize {
    let place = value.span();
    let content = match value.get_mut() {
        DeValue::String(text) => {
            if text.contains(SLOT) {
                match slot.map(|slot| filled(text, slot)) {
                    Some(Some(new)) => *text = new.into(),
                    Some(None) => {
                        let what = format!("there is no such form of {SLOT}}}");
                        reader.problem(place, what, "write {slot}, {slot:02} or {slot:02x}");
                    }
                    None => {
                        let what = "{slot} is the slot's number, and this link does not say which";
                        reader.problem(place, what, r#"add slot = 0, or slots = "0-15""#);
                    }
                }
            }
            text.len()
        }
        DeValue::Array(items) => items.iter_mut().map(|item| fill(reader, item, slot)).sum(),
        DeValue::Table(table) => {
            table.into_iter().map(|(_, value)| fill(reader, value, slot)).sum()
        }
        _ => 0,
    };
    content + VALUE_COST
}

/// What the forms of the slot's number begin with.
const SLOT: &str = "{slot";

/// A text with the slot's number in it: `{slot}`, with at least so many digits `{slot:02}`, and these
/// hexadecimal `{slot:02x}`. `None` if another form stands there.
fn filled(text: &str, slot: u32) -> Option<String> {
    let mut parts = text.split(SLOT);
    let mut all = parts.next()?.to_owned();
    for part in parts {
        let (form, rest) = part.split_once('}')?;
        all += &match form.as_bytes() {
            [] => slot.to_string(),
            [b':', b'0', width @ b'1'..=b'9'] => format!("{slot:00$}", usize::from(width - b'0')),
            [b':', b'0', width @ b'1'..=b'9', b'x'] => {
                format!("{slot:00$x}", usize::from(width - b'0'))
            }
            _ => return None,
        };
        all += rest;
    }
    Some(all)
}
