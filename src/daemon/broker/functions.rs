//! The PCI functions that links have, and what they were like before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::protocol::Refused;
use super::server::Granted;
use crate::daemon::config::Transport;
use crate::os::child;
use crate::os::fabric::pci::{self, BoardKind, Opened, Taken, Tree, Wanted, Which};
use crate::os::uevent;

/// How long giving back may take in the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// By the link's name.
#[derive(Debug, Default)]
pub(super) struct Functions {
    pub(super) tree: Tree,
    taken: BTreeMap<String, Option<Taken>>,
    /// This process is not killed with the daemon.
    outlives: bool,
}

impl Functions {
    /// Takes the function of a link, and none that its config or use gives to `others`.
    pub(super) fn take<'a>(
        &mut self,
        name: &str,
        transport: &Transport,
        others: impl Iterator<Item = &'a Transport>,
    ) -> Result<Granted, Refused> {
        let Transport::Pci(wanted) = transport else {
            return Err(format!("transport {transport} has no PCI function").into());
        };
        let by_config = others.filter_map(|other| match other {
            Transport::Pci(Wanted { which: Which::At(address), .. }) => Some(*address),
            _ => None,
        });
        let by_use = self.taken.iter().filter(|(other, _)| *other != name);
        let by_use = by_use.filter_map(|(_, taken)| Some(taken.as_ref()?.address()));
        let others: Vec<_> = by_config.chain(by_use).collect();
        let taken = self.taken.entry(name.to_owned()).or_default();
        let opened = pci::take(&self.tree, *wanted, &others, taken);
        let Opened { told, fds } = opened.map_err(|e| e.to_string())?;
        Ok(Granted { index: 0, note: told.to_string(), fds })
    }

    /// Those that are there and of known kinds, as lines with their addresses.
    pub(super) fn list(&self) -> Result<String, Refused> {
        let known = pci::known(&self.tree).map_err(|e| e.to_string())?;
        Ok(known.iter().map(|function| format!("{}\n", function.address)).collect())
    }

    /// Whether the function that a link names is there, and of a known kind.
    pub(super) fn is_there(&self, transport: &Transport) -> bool {
        let Transport::Pci(Wanted { which: Which::At(address), .. }) = transport else {
            return false;
        };
        let ids = self.tree.ids(*address);
        ids.is_ok_and(|[vendor, device]| BoardKind::of(vendor, device).is_some())
    }

    /// A socket that hears of functions that come and go.
    pub(super) fn uevents() -> Result<Granted, Refused> {
        Ok(uevent::socket().map_err(|e| e.to_string())?.into())
    }

    /// Gives back the function of a link, if it has one.
    pub(super) fn release(&mut self, name: &str) -> Result<(), String> {
        self.taken.remove(name).flatten().map_or(Ok(()), Taken::give_back)
    }

    /// Gives all back, and waits until that is done.
    pub(super) fn release_all(&mut self) {
        for (name, taken) in std::mem::take(&mut self.taken) {
            if let Some(Err(e)) = taken.map(Taken::give_back) {
                tracing::warn!("{name}: {e}");
            }
        }
        self.tree.wait_returned(LAST_PATIENCE);
    }

    /// As long as there is something to give back, or about to be, a daemon that is killed must not take this
    /// with it.
    pub(super) fn outlive_daemon(&mut self, taking: bool) {
        let outlives = taking || self.taken.values().any(Option::is_some);
        if outlives != self.outlives {
            match child::die_with_parent(!outlives) {
                Ok(()) => self.outlives = outlives,
                Err(e) => tracing::warn!("the signal that tells of the daemon's end: {e}"),
            }
        }
    }
}
