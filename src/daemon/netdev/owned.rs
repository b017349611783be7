//! A note of the addresses and routes that were set on a netdev, for the start after a crash.
//!
//! Without it, nobody could tell an address of an earlier config from one that the operator has
//! added. It lies beside the control socket, so it goes with a reboot, as the netdev does. One line
//! each: `address 10.77.0.1/30`, `route 10.80.0.0/24 10.77.0.2 100`, with `-` for what there is not.
//! `mtu 1400 9000` stands there while the MTU is the other end's: it, and what the operator has set.

use std::io;
use std::path::{Path, PathBuf};

use super::mtu::Borrowed;
use crate::plan::{Action, Desired, IpPrefix, Observed, Route};

/// What a note's file name ends with; before it are the control socket's, a dot, and the netdev's.
pub const NOTE_END: &str = ".owned";

/// The note of one netdev.
#[derive(Debug)]
pub(super) struct Owned {
    file: PathBuf,
    /// What it says, if this start has written it.
    text: String,
}

impl Owned {
    /// The note of the netdev `name` of the daemon with this control socket.
    pub(super) fn beside(control: &Path, name: &str) -> Self {
        let mut file = control.as_os_str().to_owned();
        file.push(format!(".{name}{NOTE_END}"));
        Self { file: file.into(), text: String::new() }
    }

    /// What to take away: noted by an earlier start, still there, and no longer desired.
    pub(super) fn leftovers(&self, desired: &Desired, observed: &Observed) -> Vec<Action> {
        let Ok(text) = std::fs::read_to_string(&self.file) else { return Vec::new() };
        let mut actions = Vec::new();
        // Routes first: some may lead over an address that goes.
        for route in text.lines().filter_map(read_route) {
            let wanted = desired.routes.iter().any(|r| r.same_as(&route));
            if !wanted && observed.routes.iter().any(|r| r.same_as(&route)) {
                actions.push(Action::DelRoute(route));
            }
        }
        for line in text.lines() {
            let Some(Ok(address)) = line.strip_prefix("address ").map(str::parse::<IpPrefix>)
            else {
                continue;
            };
            if !desired.addresses.contains(&address) && observed.addresses.contains(&address) {
                actions.push(Action::DelAddress(address));
            }
        }
        actions
    }

    /// The other end's MTU as an earlier start has set it.
    pub(super) fn borrowed(&self) -> Option<Borrowed> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("mtu "))?;
        let (mtu, operator) = line.split_once(' ')?;
        Some((mtu.parse().ok()?, operator.parse().ok()))
    }

    /// Notes what is going to be set.
    pub(super) fn note(&mut self, desired: &Desired, borrowed: Option<Borrowed>) -> io::Result<()> {
        let mut text = String::new();
        for address in &desired.addresses {
            text.push_str(&format!("address {address}\n"));
        }
        for Route { to, via, metric } in &desired.routes {
            let via = via.map_or("-".to_owned(), |v| v.to_string());
            let metric = metric.map_or("-".to_owned(), |m| m.to_string());
            text.push_str(&format!("route {to} {via} {metric}\n"));
        }
        if let Some((mtu, operator)) = borrowed {
            let operator = operator.map_or("-".to_owned(), |mtu| mtu.to_string());
            text.push_str(&format!("mtu {mtu} {operator}\n"));
        }
        if text == self.text && !text.is_empty() {
            return Ok(());
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, &text)?;
        std::fs::rename(&new, &self.file)?;
        self.text = text;
        Ok(())
    }

    /// Removes the note.
    pub(super) fn forget(&self) {
        // It may have gone with its directory; the next start ignores what is not on its netdev.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn read_route(line: &str) -> Option<Route> {
    let mut words = line.strip_prefix("route ")?.split(' ');
    let to = words.next()?;
    let mut word = || words.next().filter(|w| *w != "-");
    let via = word().map(str::parse).transpose().ok()?;
    let metric = word().map(str::parse).transpose().ok()?;
    Route::parse(to, via, metric).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(addresses: &[&str], routes: &[Route]) -> Desired {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Desired { addresses, routes: routes.to_vec(), ..Desired::default() }
    }

    #[test]
    fn only_what_an_earlier_start_has_set_is_taken_away() {
        let name = format!("boardlane-owned-{}.sock", std::process::id());
        let mut owned = Owned::beside(&std::env::temp_dir().join(name), "bl0");
        let via = Some("10.77.0.2".parse().unwrap());
        let old = Route::parse("10.80.0.0/24", via, Some(100)).unwrap();
        let kept = Route::parse("10.81.0.0/24", None, None).unwrap();
        let foreign = Route::parse("10.82.0.0/24", via, None).unwrap();
        owned
            .note(&desired(&["10.77.0.1/30", "fd77::1/64"], &[old, kept]), Some((1400, Some(9000))))
            .unwrap();
        assert_eq!(owned.borrowed(), Some((1400, Some(9000))));
        owned
            .note(&desired(&["10.77.0.1/30", "fd77::1/64"], &[old, kept]), Some((1400, None)))
            .unwrap();
        assert_eq!(owned.borrowed(), Some((1400, None)));
        let observed = Observed {
            addresses: ["10.77.0.1/30", "fd77::1/64", "192.0.2.1/24"]
                .map(|a| a.parse().unwrap())
                .into(),
            routes: vec![old, kept, foreign],
            ..Observed::default()
        };
        let actions = owned.leftovers(&desired(&["fd77::1/64"], &[kept]), &observed);
        let address = "10.77.0.1/30".parse().unwrap();
        assert_eq!(actions, [Action::DelRoute(old), Action::DelAddress(address)]);
        owned.note(&desired(&[], &[]), None).unwrap();
        assert_eq!(owned.borrowed(), None);
        owned.forget();
        assert_eq!(owned.leftovers(&Desired::default(), &observed), Vec::new());
    }
}
