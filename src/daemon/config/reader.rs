//! Takes typed values out of the tree of a config file, and notes what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::{ConfigError, Problem, SHOWN_MAX, nearest, quoted};

/// Keys of one kind of table, each with what it should look like.
pub(super) type Keys = &'static [(&'static str, &'static str)];

/// Keys at the top of the file.
pub(super) const TOP: Keys = &[
    ("control", r#"control = "/run/boardlane/master.sock""#),
    ("control_mode", r#"control_mode = "0660""#),
    ("control_owner", r#"control_owner = "root:netdev""#),
    ("metrics", r#"metrics = "127.0.0.1:9477""#),
    ("pool", r#"pool = { v4 = "10.77.0.0/16", prefix = 30, v6 = "fd77::/48" }"#),
    ("defaults", "[defaults]"),
    ("link", "[[link]]"),
];

/// Keys of a pool.
pub(super) const POOL: Keys =
    &[("v4", r#"v4 = "10.77.0.0/16""#), ("prefix", "prefix = 30"), ("v6", r#"v6 = "fd77::/48""#)];

/// Keys of a `[[link]]`.
pub(super) const LINK: Keys = &[
    ("name", r#"name = "bl0""#),
    ("transport", r#"transport = "shm:/run/boardlane/slot0.sock""#),
    ("uio", r#"uio = { window = "window", doorbell = "doorbell" }"#),
    ("socket_mode", r#"socket_mode = "0660""#),
    ("socket_owner", r#"socket_owner = ":kvm""#),
    ("address", r#"address = ["10.77.0.1/30", "fd77::1/64"]"#),
    ("route", r#"route = [{ to = "10.80.0.0/24", via = "10.77.0.2" }]"#),
    ("slot", "slot = 0"),
    ("slots", r#"slots = "0-15""#),
    ("mac", r#"mac = "02:00:00:00:00:01""#),
    ("mtu", "mtu = 1500"),
    ("up", "up = true"),
    ("queues", "queues = 1"),
    ("netns", r#"netns = "board0""#),
    ("bridge", r#"bridge = "br0""#),
    ("isolated", "isolated = true"),
    ("vlan", "vlan = [100, { id = 200, address = [\"10.78.0.1/30\"] }]"),
    ("vrf", r#"vrf = "blue""#),
    ("forward", "forward = true"),
    ("reconcile", "reconcile = false"),
    ("dma", r#"dma = "auto""#),
    ("engine", "engine = { depth = 32, latency_us = 0 }"),
    ("port", r#"port = "tap""#),
    ("pump", r#"pump = "builtin""#),
    ("features_off", r#"features_off = ["MRG_RXBUF"]"#),
    ("keep", "keep = true"),
    ("dialect", r#"dialect = "v2""#),
    ("layout", r#"layout = "boardlane""#),
    ("busy_poll_us", "busy_poll_us = 50"),
    ("cpu", "cpu = [2, 3]"),
    ("heartbeat_ms", "heartbeat_ms = 250"),
    ("allow_mac", r#"allow_mac = ["02:00:00:00:00:01"]"#),
    ("allow_ip", r#"allow_ip = ["10.77.0.2", "10.80.0.0/24"]"#),
    ("rate", r#"rate = "200M""#),
];

/// Keys of a route.
pub(super) const ROUTE: Keys = &[
    ("to", r#"to = "10.80.0.0/24""#),
    ("via", r#"via = "10.77.0.2""#),
    ("dev", r#"dev = "bl0.100""#),
    ("metric", "metric = 100"),
    ("table", "table = 100"),
    ("source", r#"source = "10.77.0.1""#),
    ("onlink", "onlink = true"),
];

/// Keys of an address that is more than a text.
pub(super) const ADDRESS: Keys = &[
    ("address", r#"address = "10.77.0.1/32""#),
    ("peer", r#"peer = "10.77.0.2/32""#),
    ("scope", r#"scope = "link""#),
];

/// Keys of a VLAN.
pub(super) const VLAN: Keys = &[
    ("id", "id = 100"),
    ("address", r#"address = ["10.78.0.1/30"]"#),
    ("route", r#"route = [{ to = "10.80.0.0/24", via = "10.78.0.2" }]"#),
];

/// Keys of a link's engine.
pub(super) const ENGINE: Keys = &[
    ("depth", "depth = 32"),
    ("latency_us", "latency_us = 0"),
    ("bandwidth_mb_s", "bandwidth_mb_s = 0"),
    ("error_ppm", "error_ppm = 0"),
    ("cpu_below", "cpu_below = 256"),
    ("dma_only", "dma_only = false"),
];

/// Keys of a UIO device.
pub(super) const UIO: Keys = &[
    ("window", r#"window = "window""#),
    ("driver_memory", r#"driver_memory = "driver-memory""#),
    ("doorbell", r#"doorbell = "doorbell""#),
    ("doorbell_offset", "doorbell_offset = 0"),
    ("doorbell_value", "doorbell_value = 1"),
    ("doorbell_step", "doorbell_step = 0"),
    ("clear_offset", "clear_offset = 4"),
    ("clear_value", "clear_value = 1"),
    ("interrupt", "interrupt = true"),
];

/// Keys of a rate.
pub(super) const RATE: Keys = &[("bits", r#"bits = "200M""#), ("frames", "frames = 100000")];

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its terminator (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// A place in the file's text.
pub(super) type Place = Range<usize>;

/// The walk over one file.
pub(super) struct Reader<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    problems: Vec<(Place, String, String)>,
    seen: BTreeMap<(&'static str, String), usize>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(newlines).collect();
        Self { text, lines, problems: Vec::new(), seen: BTreeMap::new() }
    }

    /// Where something that is missing is reported: the end of the text.
    pub(super) fn end(&self) -> Place {
        let end = self.text.trim_end().len();
        end..end
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.lines.partition_point(|&start| start <= place.start)
    }

    /// Notes that something is wrong at `place`.
    pub(super) fn problem(
        &mut self,
        place: Place,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push((place, what.into(), remedy.into()));
    }

    /// The same of a judgement; there is no value then.
    pub(super) fn wrong<T>(&mut self, place: Place, (what, remedy): (String, String)) -> Option<T> {
        self.problem(place, what, remedy);
        None
    }

    /// Notes what the TOML parser says.
    pub(super) fn syntax(&mut self, error: &toml::de::Error) {
        let place = error.span().unwrap_or_else(|| self.end());
        let (what, remedy) = match error.message().split_once(", expected ") {
            Some((what, expected)) => (what, format!("expected {expected}")),
            None if error.message() == "duplicate key" => ("duplicate key", "take one out".into()),
            None => (error.message(), String::new()),
        };
        self.problem(place, what, remedy);
    }

    /// How many problems have been noted.
    pub(super) fn problems(&self) -> usize {
        self.problems.len()
    }

    /// All problems, in the order of the file.
    pub(super) fn into_error(mut self, file: &str) -> ConfigError {
        self.problems.sort_by_key(|(place, _, _)| place.start);
        // The parser tells of each bracket that the end of the file leaves open, and each link of what is
        // wrong in the defaults.
        let mut told = BTreeSet::new();
        self.problems.retain(|(place, what, _)| told.insert((place.start, what.clone())));
        let more = self.problems.len().saturating_sub(SHOWN_MAX);
        let shown = self.problems.into_iter().take(SHOWN_MAX);
        let problems = shown
            .map(|(place, what, remedy)| Problem::new(self.text, place, what, remedy))
            .collect();
        ConfigError::Invalid { file: file.into(), problems, more }
    }

    /// Notes each key that this kind of table does not have.
    pub(super) fn known_keys(&mut self, table: &DeTable<'_>, keys: Keys) {
        for key in table.keys() {
            let word = key.get_ref().as_ref();
            if is_key(keys, word) {
                continue;
            }
            let known: Vec<&str> = keys.iter().map(|&(known, _)| known).collect();
            let remedy = if keys == TOP && is_key(LINK, word) {
                format!("{word} belongs to a link: put it below a line [[link]]")
            } else if keys == LINK && word != "link" && is_key(TOP, word) {
                format!("{word} belongs to the daemon: put it above the first [[link]]")
            } else if let Some(meant) = nearest(word, &known) {
                format!("did you mean {meant}?")
            } else if keys == TOP && nearest(word, &link_keys()).is_some() {
                "keys of a link stand below a line [[link]]".into()
            } else {
                format!("known here: {}", known.join(", "))
            };
            self.problem(key.span(), format!("unknown key {}", quoted(word)), remedy);
        }
    }

    /// Notes a value that may stand only once in the file; `what` says what it is. Whether it is the first.
    pub(super) fn once(
        &mut self,
        what: &'static str,
        value: impl Display,
        place: &Place,
        remedy: &str,
    ) -> bool {
        let value = value.to_string();
        match self.seen.get(&(what, value.clone())) {
            None => {
                self.seen.insert((what, value), place.start);
                true
            }
            Some(&first) => {
                let line = self.line(&(first..first));
                // Within a namespace's values the namespace stands behind a line feed.
                let value = quoted(value.split('\n').next().unwrap_or_default());
                if first == place.start {
                    // In the defaults, or in an entry of many slots.
                    let what = format!("{what} {value} is given to several links");
                    self.problem(place.clone(), what, format!("{remedy}, or write {{slot}} in it"));
                } else {
                    let what = format!("{what} {value} stands on line {line} already");
                    self.problem(place.clone(), what, remedy);
                }
                false
            }
        }
    }

    /// Notes a value of another type than the key's.
    pub(super) fn wrong_type(&mut self, key: &str, value: &DeValue<'_>, place: Place) {
        let example = [LINK, ROUTE, ADDRESS, VLAN, ENGINE, UIO, RATE, POOL, TOP]
            .iter()
            .find_map(|keys| example(keys, key));
        let remedy = format!("write it as {}", example.unwrap_or(key));
        self.problem(place, format!("{key} is {}", kind(value)), remedy);
    }

    /// Notes an entry of another type than those of the list `key`.
    pub(super) fn wrong_entry(&mut self, key: &str, entry: &DeValue<'_>, place: Place) {
        let remedy = format!("write it as {}", example(LINK, key).unwrap_or(key));
        self.problem(place, format!("an entry of {key} is {}", kind(entry)), remedy);
    }

    /// The text of `key`, if it is there.
    pub(super) fn string<'v>(
        &mut self,
        table: &'v DeTable<'_>,
        key: &str,
    ) -> Option<(&'v str, Place)> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            other => {
                self.wrong_type(key, other, value.span());
                None
            }
        }
    }

    /// The number of `key`, if it is there and in `range`.
    pub(super) fn number(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = table.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value.get_ref(), value.span());
            return None;
        };
        self.in_range(key, integer, value.span(), range)
    }

    /// This number of `key`, if it is in `range`.
    pub(super) fn in_range(
        &mut self,
        key: &str,
        integer: &DeInteger<'_>,
        place: Place,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let remedy = format!("write {} to {}", range.start(), range.end());
            let what = match integer.to_string() {
                shown if shown.len() <= 24 => format!("{key} {shown} is out of range"),
                _ => format!("{key} is out of range"),
            };
            self.problem(place, what, remedy);
        }
        number
    }

    /// The truth of `key`, if it is there.
    pub(super) fn boolean(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            other => {
                self.wrong_type(key, other, value.span());
                None
            }
        }
    }

    /// The texts of the list `key`; none if it is not there.
    pub(super) fn strings<'v>(
        &mut self,
        table: &'v DeTable<'_>,
        key: &str,
    ) -> Vec<(&'v str, Place)> {
        let mut texts = Vec::new();
        let Some(value) = table.get(key) else { return texts };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value.get_ref(), value.span());
            return texts;
        };
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => texts.push((text.as_ref(), item.span())),
                other => self.wrong_entry(key, other, item.span()),
            }
        }
        texts
    }

    /// Notes a path that no Unix socket can have; says whether it is good.
    pub(super) fn socket_path(&mut self, path: &Path, place: &Place) -> bool {
        let octets = path.as_os_str().as_encoded_bytes();
        if octets.is_empty() || octets.contains(&0) {
            self.problem(place.clone(), "this is not the path of a socket", "write a file's path");
        } else if octets.len() > SOCKET_PATH_MAX {
            let what = format!("this path has {} bytes", octets.len());
            self.problem(place.clone(), what, format!("a socket's has at most {SOCKET_PATH_MAX}"));
        } else {
            return true;
        }
        false
    }
}

fn is_key(keys: Keys, word: &str) -> bool {
    keys.iter().any(|&(known, _)| known == word)
}

pub(super) fn example(keys: Keys, word: &str) -> Option<&'static str> {
    keys.iter().find(|&&(known, _)| known == word).map(|&(_, example)| example)
}

fn link_keys() -> Vec<&'static str> {
    LINK.iter().map(|&(known, _)| known).collect()
}

/// What a value is, for people.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
