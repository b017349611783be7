//! A netdev made what is desired, and its VLANs with it: at first, by another config, and whenever somebody
//! has changed it.

use std::time::Instant;

use super::subject::{PASSES, Step};
use super::vlan::{Parent, Vlan};
use super::{Look, Netdev, short};
use crate::daemon::config::NetdevKeys;
use crate::plan::{Action, Address, Observed};

impl Netdev {
    /// Looks at the netdev, and sets again what somebody else has set otherwise, or says what that is.
    pub async fn heal(&mut self) -> Look {
        let was_contended = self.pace.contended().is_some();
        self.take_healed();
        let look = self.settle(self.reconcile, |_| false).await;
        let healed = self.take_healed();
        self.applied[0] += healed.len() as u64;
        self.applied[1] += u64::from(matches!(look, Look::Failed(_)));
        let waits = self.subject.waits;
        let failed = look != Look::Good || waits;
        self.pace.looked(Instant::now(), &healed, failed);
        let name = &self.subject.desired.name;
        // While all is well, only what has to do with these netdevs is of interest.
        let mut indices = Vec::new();
        if healed.is_empty() && !failed {
            indices.push(self.subject.index);
            indices.extend(self.vlans.iter().map(|vlan| vlan.subject.index));
        }
        match self.watch.keep_to(&indices) {
            // What has changed since the look, and before this, nobody has told of.
            Ok(true) => self.pace.changed(Instant::now()),
            Ok(false) => {}
            Err(e) => tracing::debug!("{name}: {e}"),
        }
        if self.pace.contended().is_none() && !was_contended && !healed.is_empty() {
            tracing::info!("{name}: set again: {}", healed.join(", "));
        }
        self.or_contended(look)
    }

    /// A good look, unless somebody else keeps undoing what is set here.
    pub(super) fn or_contended(&self, look: Look) -> Look {
        match self.pace.contended() {
            Some(what) if look == Look::Good => {
                Look::Failed(format!("somebody else keeps undoing what is set here: {what}"))
            }
            _ => look,
        }
    }

    /// What was set since the last call.
    fn take_healed(&mut self) -> Vec<String> {
        let mut all = std::mem::take(&mut self.subject.healed);
        for vlan in &mut self.vlans {
            let name = &vlan.subject.desired.name;
            all.extend(vlan.subject.healed.drain(..).map(|what| format!("{what} on {name}")));
        }
        // It may take two passes.
        let mut once = Vec::new();
        all.into_iter().for_each(|what| {
            if !once.contains(&what) {
                once.push(what);
            }
        });
        once
    }

    /// Looks at the netdev, and sets what is missing: all, or which of it `also` says.
    pub(super) async fn settle(&mut self, sets: bool, also: impl Fn(&Action) -> bool) -> Look {
        let named = match self.find(sets).await {
            Ok(named) => named,
            Err(look) => return look,
        };
        let done = self.apply(|action| sets || also(action)).await;
        self.subject.desired.up = self.config_up;
        let mut wrong = Vec::new();
        match named {
            Err(e) if sets => wrong.push(e),
            Err(e) => self.subject.remarks.push(e),
            Ok(()) => {}
        }
        match done {
            Err(gone @ Look::Gone(_)) => return gone,
            done => wrong.extend(done.err().map(|look| look.to_string())),
        }
        wrong.extend(self.settle_vlans(sets).await.err());
        if wrong.is_empty() { Look::Good } else { Look::Failed(wrong.join("; ")) }
    }

    /// Brings the netdev to what is desired, as far as `which` says so of an action.
    pub(super) async fn apply(&mut self, which: impl Fn(&Action) -> bool) -> Result<(), Look> {
        for _ in 0..PASSES {
            let observed = self.subject.observe().await?;
            self.notice(&observed);
            let step = self.subject.step(&observed, self.mtu.borrowed(), &which).await;
            let (done, ended) = match step {
                Step::Done => return Ok(()),
                Step::More(done) => (done, Ok(())),
                Step::Failed(done, why) => (done, Err(Look::Failed(why))),
            };
            for action in &done {
                match action {
                    Action::SetMtu(change) => self.mtu.set(short(change.to)),
                    Action::SetMac(change) => self.mac = Some(change.to),
                    Action::SetUp(up) => self.up = *up,
                    _ => {}
                }
            }
            ended?;
        }
        Ok(())
    }

    /// What the operator has changed since the last look becomes what is desired, where the config
    /// does not speak of it.
    fn notice(&mut self, observed: &Observed) {
        self.up = observed.up;
        let ipv6 = |a: &Address| a.is_ipv6() && !a.is_ipv6_link_local();
        let desired = &mut self.subject.desired;
        let has_ipv6 = [&desired.addresses, &observed.addresses].into_iter().flatten().any(ipv6);
        self.mtu.seen(short(observed.mtu), has_ipv6);
        desired.mtu = Some(self.mtu.in_force().into());
        if self.mac.is_some_and(|last| last != observed.mac) && !self.mac_in_config {
            self.mac_of_operator = true;
            desired.mac = Some(observed.mac);
        }
        self.mac = Some(observed.mac);
    }

    fn parent(&self) -> Parent {
        Parent {
            index: self.subject.index,
            mtu: self.mtu.last().unwrap_or_else(|| self.mtu.in_force()).into(),
            up: self.up,
            keeps_up: self.config_up == Some(true),
        }
    }

    async fn settle_vlans(&mut self, sets: bool) -> Result<(), String> {
        let parent = self.parent();
        let mut wrong = Vec::new();
        for vlan in &mut self.vlans {
            wrong.extend(vlan.settle(parent, &mut self.subject.owned, sets).await.err());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Goes over to other VLANs: those that go are removed, also what an earlier start has left.
    pub(super) async fn change_vlans(&mut self, keys: &NetdevKeys) -> Result<(), String> {
        let parent = self.parent();
        let netlink = self.subject.netlink.clone();
        let (control, name) = (self.control.clone(), self.subject.desired.name.clone());
        let broker = self.broker.clone();
        let made = |id| Vlan::new(netlink.clone(), &control, &broker, &name, id);
        let forward = [self.subject.desired.forward4, self.subject.desired.forward6];
        let mut before = std::mem::take(&mut self.vlans);
        let noted = &mut self.subject.owned;
        for id in noted.vlans() {
            if before.iter().all(|vlan| vlan.id != *id) {
                before.push(made(*id));
            }
        }
        let is_wanted = |vlan: &Vlan| keys.vlans.iter().any(|config| config.id == vlan.id);
        let (mut stay, go): (Vec<_>, Vec<_>) = before.into_iter().partition(is_wanted);
        let mut wrong = Vec::new();
        for vlan in go {
            wrong.extend(vlan.remove(parent, noted).await.err());
        }
        for config in &keys.vlans {
            let known = stay.iter().position(|vlan| vlan.id == config.id);
            let mut vlan = known.map_or_else(|| made(config.id), |at| stay.swap_remove(at));
            let done = vlan.change(config, forward, parent, noted).await;
            wrong.extend(done.err());
            self.vlans.push(vlan);
        }
        if let Err(e) = noted.note(&[], self.mtu.borrowed()) {
            wrong.push(format!("{name}: {e}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}
