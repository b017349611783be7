//! A netdev that is to be something: the link's own, or one of its VLANs.

use std::rc::Rc;

use super::owned::Owned;
use super::{Look, mtu::Borrowed};
use crate::daemon::broker::Broker;
use crate::os::netlink::{At, Netlink};
use crate::plan::{Action, Change, Desired, Observed, leftovers, plan, waits_for};

/// So many passes make it what is desired: what a VRF takes away comes in the second one, routes in
/// the last.
pub(super) const PASSES: usize = 3;
/// So many differences are named.
const MOST_NAMED: usize = 3;

/// The netdev with this index, whatever it is called.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) netlink: Rc<Netlink>,
    pub(super) index: u32,
    pub(super) desired: Desired,
    pub(super) owned: Owned,
    /// For a switch that netlink does not have, of this link.
    broker: Broker,
    link: String,
    /// What people are to know of what it is and is not.
    pub(super) remarks: Vec<String>,
    /// It waits for somebody else's netdev.
    pub(super) waits: bool,
    /// What was set since somebody has looked here.
    pub(super) healed: Vec<String>,
}

/// What a step has come to.
pub(super) enum Step {
    /// It is what is desired, as far as that was to be set.
    Done,
    /// These were done, and there may be more.
    More(Vec<Action>),
    /// These were done, and some could not be: why.
    Failed(Vec<Action>, String),
}

impl Subject {
    /// One of the netdevs of `link`.
    pub(super) fn new(
        netlink: Rc<Netlink>,
        index: u32,
        desired: Desired,
        owned: Owned,
        broker: &Broker,
        link: &str,
    ) -> Self {
        let (broker, link) = (broker.clone(), link.to_owned());
        let (remarks, healed) = (Vec::new(), Vec::new());
        Self { netlink, index, desired, owned, broker, link, remarks, waits: false, healed }
    }

    /// Where netlink finds it.
    pub(super) fn at(&self) -> At<'_> {
        At::index(self.index, &self.desired.name)
    }

    pub(super) async fn observe(&self) -> Result<Observed, Look> {
        match self.netlink.observe_for(self.at(), &self.desired).await {
            Ok(Some(observed)) => Ok(observed),
            // Who has taken it away is found out by the next look, of which the kernel tells.
            Ok(None) => Err(Look::Failed(format!("{}: it has just gone away", self.desired.name))),
            Err(e) => Err(Look::Failed(e.to_string())),
        }
    }

    /// Does what `which` says of what is missing; `borrowed` is for the note.
    pub(super) async fn step(
        &mut self,
        observed: &Observed,
        borrowed: Option<Borrowed>,
        which: impl Fn(&Action) -> bool,
    ) -> Step {
        let planned = plan(&self.desired, observed);
        let (actions, left): (Vec<_>, Vec<_>) = planned.into_iter().partition(which);
        let waits = waits_for(&self.desired, observed);
        self.waits = waits.is_some();
        self.remarks = waits.into_iter().chain(differences(&left)).collect();
        match self.carry_out(&actions, borrowed).await {
            (done, Some(why)) => Step::Failed(done, why),
            (done, None) if done.is_empty() => Step::Done,
            (done, None) => Step::More(done),
        }
    }

    /// Does these actions, which are noted first; what was done, and why others could not be.
    pub(super) async fn carry_out(
        &mut self,
        actions: &[Action],
        borrowed: Option<Borrowed>,
    ) -> (Vec<Action>, Option<String>) {
        if let Err(e) = self.owned.note(actions, borrowed) {
            return (Vec::new(), Some(format!("{}: {e}", self.desired.name)));
        }
        let by_netlink = |action: &Action| !matches!(action, Action::SetForward6(_));
        let (actions, sysctls): (Vec<_>, Vec<_>) = actions.iter().cloned().partition(by_netlink);
        let mut applied = self.netlink.apply(self.at(), &actions).await;
        for action in sysctls {
            let Action::SetForward6(Change { to, .. }) = action else { continue };
            match self.broker.forward(&self.link, to).await {
                Ok(true) => applied.done.push(action),
                Ok(false) => {}
                Err(e) => self.remarks.push(format!("IPv6 is not forwarded: {e}")),
            }
        }
        self.owned.did(&applied.done);
        self.healed.extend(applied.done.iter().map(Action::object));
        let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
        (applied.done, Some(failed.join("; ")).filter(|why| !why.is_empty()))
    }

    /// What an earlier config or start has left of what is not desired any more: addresses, and the rest.
    /// That has to go first, since the kernel has no room for two routes to one network; but with its last
    /// address it would take away all routes, the operator's too, so an address goes after others have come.
    pub(super) fn leftovers(&self, observed: &Observed) -> (Vec<Action>, Vec<Action>) {
        let left = leftovers(self.owned.done(), &self.desired, observed);
        left.into_iter().partition(|action| matches!(action, Action::DelAddress(_)))
    }

    /// Takes away what is no longer desired.
    pub(super) async fn remove(&mut self, leftovers: &[Action], borrowed: Option<Borrowed>) {
        if let (_, Some(why)) = self.carry_out(leftovers, borrowed).await {
            tracing::warn!("{}: {why}", self.desired.name);
        }
    }
}

/// What is not as it was to be, and is left so.
fn differences(left: &[Action]) -> Option<String> {
    let (first, rest) = left.split_at(left.len().min(MOST_NAMED));
    let named: Vec<_> = first.iter().map(Action::difference).collect();
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    (!named.is_empty()).then(|| format!("differs: {}{more}", named.join(", ")))
}
