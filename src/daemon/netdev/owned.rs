//! A note of what was done to a netdev, for the start after a crash and for the next config.
//!
//! Without it, nobody could tell an address of an earlier config from one that the operator has
//! added. It lies beside the control socket, so it goes with a reboot, as the netdev does. What is
//! going to be done is noted before. One line each, values as what was set and what was before:
//!
//! ```text
//! address 10.77.0.1/32 peer 10.77.0.2 scope link
//! route 10.80.0.0/24 via 10.77.0.2 metric 100 table 254
//! master br0 bridge - -
//! isolated 1 0
//! forward4 1 0
//! forward6 1 0
//! mtu 1400 9000
//! vlan 100
//! ```
//!
//! `mtu` stands there while the MTU is the other end's: it, and what the operator has set. Notes of
//! version 0.1 have routes as `route 10.80.0.0/24 10.77.0.2 100`, with `-` for what there is not.

use std::io;
use std::path::{Path, PathBuf};

use super::mtu::Borrowed;
use crate::plan::{Action, Change, Desired, MAIN_TABLE, Master, MasterKind, Route};

/// What a note's file name ends with; before it are the control socket's, a dot, and the netdev's.
pub const NOTE_END: &str = ".owned";

/// The note of one netdev. VLANs have notes of their own; that they were made stands here.
#[derive(Debug)]
pub(super) struct Owned {
    file: PathBuf,
    /// What it says.
    text: String,
    /// What was done, each thing once.
    done: Vec<Action>,
    borrowed: Option<Borrowed>,
    /// The ids of the VLANs that were made.
    vlans: Vec<u16>,
}

impl Owned {
    /// The note of the netdev `name` of the daemon with this control socket.
    pub(super) fn beside(control: &Path, name: &str) -> Self {
        let mut file = control.as_os_str().to_owned();
        file.push(format!(".{name}{NOTE_END}"));
        let file = PathBuf::from(file);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let done = text.lines().filter_map(read).collect();
        let borrowed = text.lines().find_map(read_borrowed);
        let vlans = text.lines().filter_map(|line| line.strip_prefix("vlan ")?.parse().ok());
        let vlans = vlans.collect();
        Self { file, text, done, borrowed, vlans }
    }

    /// What was done to the netdev, by this start or an earlier one.
    pub(super) fn done(&self) -> &[Action] {
        &self.done
    }

    /// The other end's MTU as an earlier start has set it.
    pub(super) fn borrowed(&self) -> Option<Borrowed> {
        self.borrowed
    }

    /// Notes what is going to be done beside what is done.
    pub(super) fn note(
        &mut self,
        planned: &[Action],
        borrowed: Option<Borrowed>,
    ) -> io::Result<()> {
        let mut all = self.done.clone();
        planned.iter().for_each(|action| add(&mut all, action));
        // What is going to be taken back may still be there after a crash.
        let back = self.done.iter().filter(|done| !all.contains(done));
        let mut text: String = back.chain(&all).filter_map(write).collect();
        self.borrowed = borrowed;
        if let Some((mtu, operator)) = borrowed {
            let operator = operator.map_or("-".to_owned(), |mtu| mtu.to_string());
            text.push_str(&format!("mtu {mtu} {operator}\n"));
        }
        self.vlans.iter().for_each(|id| text.push_str(&format!("vlan {id}\n")));
        if text == self.text {
            return Ok(());
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, &text)?;
        std::fs::rename(&new, &self.file)?;
        self.text = text;
        Ok(())
    }

    /// The ids of the VLANs that were made, by this start or an earlier one.
    pub(super) fn vlans(&self) -> &[u16] {
        &self.vlans
    }

    /// Notes that a VLAN is going to be made.
    pub(super) fn make_vlan(&mut self, id: u16) -> io::Result<()> {
        if !self.vlans.contains(&id) {
            self.vlans.push(id);
        }
        self.note(&[], self.borrowed)
    }

    /// A VLAN was removed; the next note says so.
    pub(super) fn forget_vlan(&mut self, id: u16) {
        self.vlans.retain(|vlan| *vlan != id);
    }

    /// This was done.
    pub(super) fn did(&mut self, actions: &[Action]) {
        actions.iter().for_each(|action| add(&mut self.done, action));
    }

    /// What is not `desired` any more was taken back as far as it could be. `table` is the netdev's.
    pub(super) fn let_go(&mut self, desired: &Desired, table: u32) {
        self.done.retain(|action| desired.names(action, table));
    }

    /// Removes the note.
    pub(super) fn forget(&self) {
        // It may have gone with its directory; the next start ignores what is not on its netdev.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Adds an action to those done: two of one thing are one, and what is taken back is none.
fn add(done: &mut Vec<Action>, action: &Action) {
    match action {
        Action::AddAddress(_) | Action::AddRoute(_) => {
            if !done.contains(action) {
                done.push(action.clone());
            }
        }
        Action::DelAddress(a) => done.retain(|d| *d != Action::AddAddress(*a)),
        Action::DelRoute(r) => {
            done.retain(|d| !matches!(d, Action::AddRoute(d) if d.same_as(r)));
        }
        Action::SetMaster(c) => {
            add_change(done, c, Action::SetMaster, |a| match a {
                Action::SetMaster(c) => Some(c),
                _ => None,
            });
            // A port that has gone elsewhere is another one.
            done.retain(|d| !matches!(d, Action::SetIsolated(_)));
        }
        Action::SetIsolated(c) => add_change(done, c, Action::SetIsolated, |a| match a {
            Action::SetIsolated(c) => Some(c),
            _ => None,
        }),
        Action::SetForward4(c) => add_change(done, c, Action::SetForward4, |a| match a {
            Action::SetForward4(c) => Some(c),
            _ => None,
        }),
        Action::SetForward6(c) => add_change(done, c, Action::SetForward6, |a| match a {
            Action::SetForward6(c) => Some(c),
            _ => None,
        }),
        // These go with the netdev.
        Action::SetMac(_)
        | Action::SetAlias(_)
        | Action::SetGsoMaxSize(_)
        | Action::SetMtu(_)
        | Action::SetUp(_) => {}
    }
}

/// Of several changes of one value, what was before the first one counts.
fn add_change<T: Clone + PartialEq>(
    done: &mut Vec<Action>,
    change: &Change<T>,
    make: fn(Change<T>) -> Action,
    pick: fn(&mut Action) -> Option<&mut Change<T>>,
) {
    match done.iter_mut().find_map(pick) {
        Some(earlier) => earlier.to = change.to.clone(),
        None => done.push(make(change.clone())),
    }
    done.retain_mut(|action| pick(action).is_none_or(|change| change.was != change.to));
}

/// The line of an action.
fn write(action: &Action) -> Option<String> {
    let change =
        |word: &str, c: &Change<bool>| format!("{word} {} {}\n", u8::from(c.to), u8::from(c.was));
    let master = |m: &Option<Master>| match m {
        Some(Master { name, kind }) => format!("{name} {}", kind.name()),
        None => "- -".to_owned(),
    };
    Some(match action {
        Action::AddAddress(address) => format!("address {address}\n"),
        Action::AddRoute(route) => {
            // A route is shown without the main table.
            let main = if route.table == Some(MAIN_TABLE) { " table 254" } else { "" };
            format!("route {route}{main}\n")
        }
        Action::SetMaster(c) => format!("master {} {}\n", master(&c.to), master(&c.was)),
        Action::SetIsolated(c) => change("isolated", c),
        Action::SetForward4(c) => change("forward4", c),
        Action::SetForward6(c) => change("forward6", c),
        _ => return None,
    })
}

fn read(line: &str) -> Option<Action> {
    let (word, rest) = line.split_once(' ')?;
    let change = || {
        let (to, was) = rest.split_once(' ')?;
        Some(Change { to: to == "1", was: was == "1" })
    };
    Some(match word {
        "address" => Action::AddAddress(rest.parse().ok()?),
        "route" => Action::AddRoute(rest.parse().ok().or_else(|| read_old_route(rest))?),
        "master" => {
            let words: Vec<_> = rest.split(' ').collect();
            let [to, to_kind, was, was_kind] = words[..] else { return None };
            let master =
                |name: &str, kind| Some(Master { name: name.to_owned(), kind: read_kind(kind)? });
            Action::SetMaster(Change { to: master(to, to_kind), was: master(was, was_kind) })
        }
        "isolated" => Action::SetIsolated(change()?),
        "forward4" => Action::SetForward4(change()?),
        "forward6" => Action::SetForward6(change()?),
        _ => return None,
    })
}

fn read_kind(text: &str) -> Option<MasterKind> {
    let kinds = [MasterKind::Bridge, MasterKind::Vrf, MasterKind::Other];
    kinds.into_iter().find(|kind| kind.name() == text)
}

fn read_old_route(text: &str) -> Option<Route> {
    let mut words = text.split(' ');
    let to = words.next()?;
    let mut word = || words.next().filter(|w| *w != "-");
    let via = word().map(str::parse).transpose().ok()?;
    let metric = word().map(str::parse).transpose().ok()?;
    Route::parse(to, via, metric).ok()
}

fn read_borrowed(line: &str) -> Option<Borrowed> {
    let (mtu, operator) = line.strip_prefix("mtu ")?.split_once(' ')?;
    Some((mtu.parse().ok()?, operator.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Observed, leftovers};

    fn actions() -> Vec<Action> {
        let bridge = |name: &str| Master { name: name.to_owned(), kind: MasterKind::Bridge };
        vec![
            Action::AddAddress("10.77.0.1/30".parse().unwrap()),
            Action::AddAddress("10.77.1.1/32 peer 10.77.1.2 scope link".parse().unwrap()),
            Action::AddRoute("10.80.0.0/24 via 10.77.0.2 metric 100 table 254".parse().unwrap()),
            Action::AddRoute("10.81.0.0/24 table 100 src 10.77.0.1 onlink".parse().unwrap()),
            Action::SetMaster(Change { was: Some(bridge("br1")), to: Some(bridge("br0")) }),
            Action::SetIsolated(Change { was: false, to: true }),
            Action::SetForward4(Change { was: false, to: true }),
            Action::SetForward6(Change { was: true, to: false }),
        ]
    }

    fn fresh(name: &str) -> (Owned, PathBuf) {
        let name = format!("boardlane-owned-{name}-{}.sock", std::process::id());
        let control = std::env::temp_dir().join(name);
        let owned = Owned::beside(&control, "bl0");
        owned.forget();
        (Owned::beside(&control, "bl0"), control)
    }

    #[test]
    fn what_was_noted_is_read_by_the_next_start() {
        let (mut owned, control) = fresh("read");
        owned.note(&actions(), Some((1400, Some(9000)))).unwrap();
        let next = Owned::beside(&control, "bl0");
        assert_eq!(next.done(), actions());
        assert_eq!(next.borrowed(), Some((1400, Some(9000))));
        owned.did(&actions());
        owned.note(&[], Some((1400, None))).unwrap();
        let next = Owned::beside(&control, "bl0");
        assert_eq!((next.done(), next.borrowed()), (&actions()[..], Some((1400, None))));
        owned.forget();
        assert_eq!(Owned::beside(&control, "bl0").done(), []);
    }

    #[test]
    fn what_is_taken_back_is_noted_until_it_is() {
        let (mut owned, control) = fresh("back");
        let address = "10.77.0.1/30".parse().unwrap();
        owned.did(&[Action::AddAddress(address)]);
        owned.note(&[Action::DelAddress(address)], None).unwrap();
        assert_eq!(Owned::beside(&control, "bl0").done(), [Action::AddAddress(address)]);
        owned.did(&[Action::DelAddress(address)]);
        owned.note(&[], None).unwrap();
        assert_eq!(Owned::beside(&control, "bl0").done(), []);
        owned.forget();
    }

    #[test]
    fn of_several_changes_the_first_value_is_kept() {
        let (mut owned, _) = fresh("first");
        let set = |was, to| Action::SetForward4(Change { was, to });
        owned.did(&[set(false, true), set(false, true)]);
        assert_eq!(owned.done(), [set(false, true)]);
        owned.did(&[set(true, false)]);
        assert_eq!(owned.done(), []);
    }

    #[test]
    fn a_note_of_version_0_1_is_read() {
        let (_, control) = fresh("old");
        let file = format!("{}.bl0.owned", control.display());
        let text = "address 10.77.0.1/30\naddress fd77::1/64\nroute 10.80.0.0/24 10.77.0.2 100\n\
                    route 10.81.0.0/24 - -\nmtu 1400 -\n";
        std::fs::write(&file, text).unwrap();
        let owned = Owned::beside(&control, "bl0");
        let old = Route::parse("10.80.0.0/24", Some("10.77.0.2".parse().unwrap()), Some(100));
        let kept = Route::parse("10.81.0.0/24", None, None).unwrap();
        let foreign = Route::parse("10.82.0.0/24", None, None).unwrap();
        let observed = Observed {
            table: MAIN_TABLE,
            addresses: ["10.77.0.1/30", "fd77::1/64", "192.0.2.1/24"]
                .map(|a| a.parse().unwrap())
                .into(),
            routes: [old.clone().unwrap(), kept, foreign].map(|r| r.in_table(MAIN_TABLE)).into(),
            ..Observed::default()
        };
        let desired = Desired {
            addresses: vec!["fd77::1/64".parse().unwrap()],
            routes: vec![kept],
            ..Desired::default()
        };
        assert_eq!(
            leftovers(owned.done(), &desired, &observed),
            [
                Action::DelRoute(old.unwrap().in_table(MAIN_TABLE)),
                Action::DelAddress("10.77.0.1/30".parse().unwrap())
            ]
        );
        owned.forget();
    }
}
