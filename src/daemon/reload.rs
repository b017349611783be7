//! What a config that is read again changes, or a function that comes or goes: a difference of two values,
//! which the supervisor then carries out.
//!
//! A link is known by its name. One of which both configs say the same is left alone; one that differs
//! in nothing but what netlink sets, `keep` and, at the master, the MTU is changed as it runs. Any
//! other difference is in what the two ends agree on when a link comes up, so that link begins anew.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Role;
use super::config::{Config, ConfigError, LinkConfig, Port};

/// What becomes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on as it is.
    Unchanged,
    /// It goes on, and its netdev is changed.
    Changed,
    /// It ends and begins anew.
    Restarted {
        /// The new one takes the old one's netdev, with all that the operator has set on it.
        keep_netdev: bool,
    },
    /// It begins.
    Added,
    /// It ends.
    Removed,
}

/// Whether a running daemon can go over from one config to another.
///
/// # Errors
/// Something has changed that it does not change.
pub fn check(old: &Config, new: &Config) -> Result<(), ReloadError> {
    if (&old.control, &old.access) != (&new.control, &new.access) {
        return Err(ReloadError::ControlSocket);
    }
    Ok(())
}

/// What becomes of each link: those of `new` in its order, then those that end.
pub fn diff(role: Role, old: &[LinkConfig], new: &[LinkConfig]) -> Vec<(String, Fate)> {
    let slots = |links: &[LinkConfig], name: &str| {
        let at = links.iter().position(|link| link.name == name)?;
        Some((at, links[at].slot_at(at)))
    };
    let mut fates = Vec::new();
    for (at, link) in new.iter().enumerate() {
        let fate = match slots(old, &link.name) {
            None => Fate::Added,
            Some((was_at, slot)) if slot == link.slot_at(at) => fate(role, &old[was_at], link),
            Some((was_at, _)) => restarted(&old[was_at], link),
        };
        fates.push((link.name.clone(), fate));
    }
    let gone = old.iter().filter(|link| slots(new, &link.name).is_none());
    fates.extend(gone.map(|link| (link.name.clone(), Fate::Removed)));
    fates
}

fn fate(role: Role, old: &LinkConfig, new: &LinkConfig) -> Fate {
    if old == new {
        return Fate::Unchanged;
    }
    let mut changed = old.clone();
    changed.addresses.clone_from(&new.addresses);
    changed.routes.clone_from(&new.routes);
    changed.netdev.clone_from(&new.netdev);
    changed.keep = new.keep;
    changed.up = new.up;
    if role == Role::Master {
        // A board's is what its device offers, which is told but once.
        changed.mtu = new.mtu;
    }
    if changed == *new { Fate::Changed } else { restarted(old, new) }
}

fn restarted(old: &LinkConfig, new: &LinkConfig) -> Fate {
    let both = [old.port, new.port] == [Port::Tap, Port::Tap];
    Fate::Restarted { keep_netdev: both && old.netns == new.netns }
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is not right.
    Config(ConfigError),
    /// The control socket is another, or another's.
    ControlSocket,
    /// The broker does not do as it is asked.
    Broker(String),
    /// The daemon stops, or has met a fault of its own.
    Ended,
}

impl ReloadError {
    /// Whether the file is at fault.
    pub fn is_config(&self) -> bool {
        !matches!(self, Self::Ended | Self::Broker(_))
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::ControlSocket => f.write_str(
                "control, control_mode or control_owner has changed: that takes a restart of the daemon",
            ),
            Self::Broker(why) => write!(f, "the broker: {why}"),
            Self::Ended => f.write_str("the daemon did not get to it"),
        }
    }
}

impl std::error::Error for ReloadError {}

/// What a reload did: names of links, each list in the order of the new config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that have ended, in the order of the old config.
    pub removed: Vec<String>,
    /// Those of which the config says something else.
    pub changed: Vec<String>,
    /// Of these, those that had to begin anew.
    pub restarted: Vec<String>,
    /// Those that were left alone.
    pub unchanged: Vec<String>,
}

impl Report {
    /// Of these fates.
    pub fn of(fates: Vec<(String, Fate)>) -> Self {
        let mut report = Self::default();
        for (name, fate) in fates {
            match fate {
                Fate::Added => report.added.push(name),
                Fate::Removed => report.removed.push(name),
                Fate::Unchanged => report.unchanged.push(name),
                Fate::Changed => report.changed.push(name),
                Fate::Restarted { .. } => {
                    report.restarted.push(name.clone());
                    report.changed.push(name);
                }
            }
        }
        report
    }
}

impl fmt::Display for Report {
    /// One line: `added bl2; removed bl1; changed bl0; 5 unchanged`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_place = |name: &&String| !self.restarted.contains(name);
        let changed: Vec<_> = self.changed.iter().filter(in_place).cloned().collect();
        for (what, names) in [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &changed),
            ("restarted", &self.restarted),
        ] {
            if !names.is_empty() {
                write!(f, "{what} {}; ", names.join(" "))?;
            }
        }
        write!(f, "{} unchanged", self.unchanged.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Added, Changed, Removed, Unchanged};

    const ANEW: Fate = Fate::Restarted { keep_netdev: true };

    /// A config of links that are given as name, socket and further lines.
    fn config(links: &[(&str, &str, &str)]) -> Config {
        let link = |(name, socket, lines): &(&str, &str, &str)| {
            format!("[[link]]\nname = \"{name}\"\ntransport = \"shm:{socket}\"\n{lines}\n")
        };
        let text: String = links.iter().map(link).collect();
        Config::parse("f.toml", &text, Role::Master).unwrap()
    }

    fn fates(role: Role, old: &Config, new: &Config) -> Vec<Fate> {
        diff(role, &old.links, &new.links).into_iter().map(|(_, fate)| fate).collect()
    }

    #[test]
    fn links_are_told_apart_by_their_names_in_the_order_of_the_new_config() {
        let old = config(&[("a", "/slot0.sock", ""), ("b", "/slot1.sock", "")]);
        let new = config(&[("c", "/slot2.sock", ""), ("b", "/slot1.sock", "")]);
        let found = diff(Role::Agent, &old.links, &new.links);
        let expected = [("c", Added), ("b", Unchanged), ("a", Removed)];
        assert_eq!(found, expected.map(|(name, fate)| (name.to_owned(), fate)));
        let report = Report::of(found);
        assert_eq!(report.to_string(), "added c; removed a; 1 unchanged");
        assert_eq!(diff(Role::Agent, &old.links, &old.links).len(), 2);
    }

    #[test]
    fn only_what_netlink_sets_is_changed_in_place() {
        let old = config(&[("a", "/slot0.sock", "address = [\"10.77.0.1/30\"]")]);
        for (lines, master, agent) in [
            ("address = [\"10.77.0.1/30\", \"fd77::1/64\"]", Changed, Changed),
            ("address = []", Changed, Changed),
            (
                "address = [\"10.77.0.1/30\"]\nroute = [{ to = \"10.80.0.0/24\" }]\nkeep = true",
                Changed,
                Changed,
            ),
            ("address = [\"10.77.0.1/30\"]\nmtu = 1400", Changed, ANEW),
            ("address = [\"10.77.0.1/30\"]\nmac = \"02:00:00:00:00:01\"", ANEW, ANEW),
            ("address = [\"10.77.0.1/30\"]\nqueues = 2", ANEW, ANEW),
            ("address = [\"10.77.0.1/30\"]\ncpu = 1", ANEW, ANEW),
            ("address = [\"10.77.0.9/30\"]\nfeatures_off = [\"MRG_RXBUF\"]", ANEW, ANEW),
        ] {
            let new = config(&[("a", "/slot0.sock", lines)]);
            assert_eq!(fates(Role::Master, &old, &new), [master], "{lines}");
            assert_eq!(fates(Role::Agent, &old, &new), [agent], "{lines}");
        }
    }

    #[test]
    fn a_netdev_that_moves_or_goes_is_not_taken_over() {
        let old = config(&[("a", "/slot0.sock", "")]);
        for lines in ["netns = \"b\"", "port = \"echo\""] {
            let new = config(&[("a", "/slot0.sock", lines)]);
            let anew = Fate::Restarted { keep_netdev: false };
            assert_eq!(fates(Role::Master, &old, &new), [anew], "{lines}");
            assert_eq!(fates(Role::Master, &new, &old), [anew], "{lines}");
        }
    }

    #[test]
    fn names_that_swap_their_slots_both_begin_anew() {
        let old = config(&[("a", "/slot0.sock", ""), ("b", "/slot1.sock", "")]);
        let new = config(&[("a", "/slot1.sock", ""), ("b", "/slot0.sock", "")]);
        assert_eq!(fates(Role::Master, &old, &new), [ANEW, ANEW]);
        assert_eq!(Report::of(diff(Role::Master, &old.links, &new.links)).changed, ["a", "b"]);
    }

    #[test]
    fn a_place_in_the_file_counts_where_it_is_the_slots_number() {
        let (a, b) = (("a", "/x", ""), ("b", "/y", ""));
        assert_eq!(fates(Role::Master, &config(&[a, b]), &config(&[b, a])), [ANEW, ANEW]);
        let (a, b) = (("a", "/slot0.sock", ""), ("b", "/y", "slot = 7"));
        let unchanged = [Unchanged, Unchanged];
        assert_eq!(fates(Role::Master, &config(&[a, b]), &config(&[b, a])), unchanged);
    }

    #[test]
    fn of_many_links_of_one_entry_those_that_differ_are_changed() {
        let crate_of = |slots: &str, more: &str| {
            let text = format!(
                "pool = {{ v4 = \"10.77.0.0/16\" }}\n[[link]]\nslots = \"{slots}\"\n\
                 name = \"bl{{slot}}\"\ntransport = \"shm:/slot{{slot}}.sock\"\n{more}"
            );
            Config::parse("f.toml", &text, Role::Master).unwrap()
        };
        let old = crate_of("0-63", "");
        for (slots, more, report) in [
            ("0-63", "", "64 unchanged"),
            ("0-63", "[[link]]\nslot = 5\nmtu = 1400", "changed bl5; 63 unchanged"),
            ("0-63", "[[link]]\nname = \"bl5\"\nqueues = 2", "restarted bl5; 63 unchanged"),
            ("0-4,6-63", "", "removed bl5; 63 unchanged"),
            ("0-64", "", "added bl64; 64 unchanged"),
            ("5-63,0-4", "", "64 unchanged"),
        ] {
            let new = crate_of(slots, more);
            let fates = diff(Role::Master, &old.links, &new.links);
            assert_eq!(Report::of(fates).to_string(), report, "{slots} {more}");
        }
    }

    #[test]
    fn the_control_socket_is_not_changed() {
        let old = config(&[("a", "/a", "")]);
        let mut other = old.clone();
        other.access.mode = 0o660;
        let mut moved = old.clone();
        moved.control = "/elsewhere".into();
        for new in [other, moved] {
            let error = check(&old, &new).unwrap_err();
            assert!(error.is_config() && error.to_string().contains("takes a restart"), "{error}");
        }
    }
}
