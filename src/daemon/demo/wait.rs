//! Waiting until every link is up: both daemons say so, and an echo comes back.
//!
//! The master is asked about all its links at once; an agent only once the master has its link up.
//! Patience starts anew with each link that comes up, so many boards on few processors do not run
//! out of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::layout::{self, Machine, link_name};
use super::{Demo, Error};
use crate::daemon::control::client::ask_status;
use crate::daemon::status::{LinkState, LinkStatus};
use crate::daemon::traffic::{Ping, ping};

/// How long no further link may come up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(50);

impl Demo<'_> {
    /// Waits for all links, and returns the master's view of them in slot order.
    ///
    /// # Errors
    /// A process ended; links stay down, and why; a signal.
    pub(super) fn wait_until_up(&mut self) -> Result<Vec<LinkStatus>, Error> {
        let boards = usize::from(self.layout.boards);
        let mut up: Vec<Option<LinkStatus>> = vec![None; boards];
        let mut why = vec!["no answer yet".to_owned(); boards];
        let (begin, mut patience) = (Instant::now(), Instant::now());
        loop {
            self.check_stop()?;
            if let Some((what, log)) = self.scene.newly_ended().into_iter().next() {
                return Err(Error::Ended { what, log });
            }
            let before = up.iter().flatten().count();
            self.ask_all(&mut up, &mut why);
            let after = up.iter().flatten().count();
            if after == boards {
                break;
            }
            if after > before {
                patience = Instant::now();
            }
            self.console.progress(&format!("waiting for links: {after} of {boards} up"));
            if patience.elapsed() >= PATIENCE {
                return Err(self.down(&up, &why));
            }
            std::thread::sleep(PAUSE);
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.console.stage(&format!("\n{boards} of {boards} links up after {seconds:.1} s"))?;
        Ok(up.into_iter().flatten().collect())
    }

    /// One round of questions about the links that are not up yet.
    fn ask_all(&self, up: &mut [Option<LinkStatus>], why: &mut [String]) {
        let answer = self.ask(Machine::Master);
        for (slot, (up, why)) in (0..self.layout.boards).zip(up.iter_mut().zip(why.iter_mut())) {
            if up.is_some() {
                continue;
            }
            match answer.as_ref().map(|links| find(links, &link_name(slot))) {
                Err(text) => *why = format!("master: {text}"),
                Ok(None) => *why = "master: has no such link".to_owned(),
                Ok(Some(link)) if !is_up(link) => *why = format!("master: {}", describe(link)),
                Ok(Some(link)) => match self.check_board(slot) {
                    Ok(()) => *up = Some(link.clone()),
                    Err(text) => *why = text,
                },
            }
        }
    }

    /// Whether the board's end is up, and an echo comes back from it.
    fn check_board(&self, slot: u8) -> Result<(), String> {
        let board = Machine::Board(slot).name();
        let links = self.ask(Machine::Board(slot)).map_err(|text| format!("{board}: {text}"))?;
        let link = find(&links, &link_name(0)).ok_or(format!("{board}: has no such link"))?;
        if !is_up(link) {
            return Err(format!("{board}: {}", describe(link)));
        }
        let once = Ping { count: 1, timeout: Duration::from_millis(300), ..Ping::default() };
        let mut targets = vec![layout::v4(slot, 2)];
        if self.layout.ipv6() {
            targets.push(layout::v6(slot, 2));
        }
        let master = self.layout.namespace(Machine::Master);
        for target in targets {
            let echoes = self
                .scene
                .run_in(&master, "send an echo request", || ping(target, &once, &self.stop))
                .map_err(|error| error.to_string())?;
            if echoes.received == 0 {
                return Err(format!("up, but no echo from {target}"));
            }
        }
        Ok(())
    }

    fn ask(&self, machine: Machine) -> Result<Vec<LinkStatus>, String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        match ask_status(&self.layout.control(machine)) {
            Ok((_, status)) => Ok(status.links),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The error that names the links that are down, with the log of the first one's agent.
    fn down(&self, up: &[Option<LinkStatus>], why: &[String]) -> Error {
        let down: Vec<_> = (0..self.layout.boards)
            .zip(up.iter().zip(why))
            .filter(|(_, (up, _))| up.is_none())
            .map(|(slot, (_, why))| (slot, format!("{} ({why})", link_name(slot))))
            .collect();
        let count = down.len();
        let shown: Vec<_> = down.iter().take(3).map(|(_, text)| text.as_str()).collect();
        let more = if count > shown.len() { ", ..." } else { "" };
        let first = down.first().map(|(slot, _)| self.layout.namespace(Machine::Board(*slot)));
        let log = self
            .scene
            .processes()
            .iter()
            .find(|process| process.namespace == first)
            .map(|process| process.log_tail())
            .unwrap_or_default();
        let seconds = PATIENCE.as_secs();
        let what = format!(
            "{count} of {} links not up after {seconds} s: {}{more}",
            up.len(),
            shown.join(", ")
        );
        Error::Down { what, log }
    }
}

fn find<'a>(links: &'a [LinkStatus], name: &str) -> Option<&'a LinkStatus> {
    links.iter().find(|link| link.name == name)
}

/// Whether frames can pass, as this end sees it.
fn is_up(link: &LinkStatus) -> bool {
    link.state == LinkState::Up && link.carrier
}

/// State and reason in a few words.
fn describe(link: &LinkStatus) -> String {
    match (&link.reason, link.state) {
        (Some(reason), state) => format!("{}: {reason}", state.name()),
        (None, LinkState::Up) if !link.carrier => "up, no carrier".to_owned(),
        (None, state) => state.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(state: &str, reason: Option<&str>, carrier: bool) -> LinkStatus {
        let link = serde_json::json!({
            "name": "bl0", "transport": "shm:/x", "slot": 0, "state": state, "reason": reason,
            "carrier": carrier, "epoch": null, "peer_epoch": null, "peer_version": null,
            "mac": null, "mtu": 1500, "features": ["VERSION_1"], "queues": [],
            "dma": {"mode": "direct", "transfers": 0, "bytes": 0},
        });
        serde_json::from_value(link).unwrap()
    }

    #[test]
    fn a_link_is_up_only_with_carrier() {
        assert!(is_up(&link("up", None, true)));
        assert!(!is_up(&link("up", None, false)));
        assert!(!is_up(&link("waiting", None, true)));
        assert_eq!(describe(&link("up", None, false)), "up, no carrier");
        let waiting = link("waiting", Some("window has no magic"), false);
        assert_eq!(describe(&waiting), "waiting: window has no magic");
    }
}
