//! VLANs of a link's netdev, each a netdev of its own: made, found again, and healed as it is.
//!
//! One of the right name is ours if it is that VLAN of our netdev, and bears our alias or stands in the note
//! of what was made. Whatever else has the name stays, and is told of. The kernel takes a VLAN away with its
//! netdev; admin state follows that, and so does the MTU unless somebody has set another. The kernel lowers a
//! VLAN's MTU with its netdev's and does not raise it: a netdev that is lower only between two looks leaves its
//! VLANs with an MTU that counts as set by somebody.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

use super::ALIAS;
use super::owned::Owned;
use super::subject::{PASSES, Step, Subject};
use crate::daemon::broker::Broker;
use crate::daemon::config::VlanConfig;
use crate::os::netlink::{At, MaybeVlan, Netlink};
use crate::plan::Desired;

/// The netdev that VLANs are of, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// The config says that it is to be up.
    pub(super) keeps_up: bool,
}

/// A VLAN of a link's netdev.
#[derive(Debug)]
pub(super) struct Vlan {
    pub(super) id: u16,
    pub(super) subject: Subject,
    /// It is there.
    found: bool,
    /// It is to be set up, once.
    fresh: bool,
    /// The MTU with which it was last seen to follow its netdev.
    follows: Option<u32>,
}

impl Vlan {
    /// One of the netdev `parent` of the daemon with this control socket; there is nothing of it yet.
    pub(super) fn new(
        netlink: Rc<Netlink>,
        control: &Path,
        broker: &Broker,
        parent: &str,
        id: u16,
    ) -> Self {
        let name = format!("{parent}.{id}");
        let owned = Owned::beside(control, &name);
        let desired = Desired { name, alias: Some(ALIAS.to_owned()), ..Desired::default() };
        let subject = Subject::new(netlink, 0, desired, owned, broker, parent);
        Self { id, subject, found: false, fresh: true, follows: None }
    }

    /// Takes over what the config says of it.
    fn configure(&mut self, config: &VlanConfig, forward: [Option<bool>; 2]) {
        self.subject.desired.addresses.clone_from(&config.addresses);
        self.subject.desired.routes.clone_from(&config.routes);
        [self.subject.desired.forward4, self.subject.desired.forward6] = forward;
    }

    /// Goes over to another config, or to the first one; `forward`: by IPv4, by IPv6. `noted` says which VLANs were made.
    pub(super) async fn change(
        &mut self,
        config: &VlanConfig,
        forward: [Option<bool>; 2],
        parent: Parent,
        noted: &mut Owned,
    ) -> Result<(), String> {
        self.configure(config, forward);
        if !self.find(parent, noted, false).await? {
            return self.settle(parent, noted, true).await;
        }
        let observed = self.subject.observe().await.map_err(text)?;
        let (addresses, others) = self.subject.leftovers(&observed);
        self.subject.remove(&others, None).await;
        let mut done = self.settle(parent, noted, true).await;
        if !addresses.is_empty() {
            self.subject.remove(&addresses, None).await;
            done = self.settle(parent, noted, true).await;
        }
        self.subject.owned.let_go(&self.subject.desired, observed.table);
        done
    }

    /// Looks at it, and makes it what is desired; without `sets` only says what it is not.
    pub(super) async fn settle(
        &mut self,
        parent: Parent,
        noted: &mut Owned,
        sets: bool,
    ) -> Result<(), String> {
        if !self.find(parent, noted, sets).await? {
            let missing = format!("{} is missing", self.subject.desired.name);
            self.subject.remarks = vec![missing];
            return Ok(());
        }
        // The kernel takes it down and up again with its netdev.
        let up = parent.up && (self.fresh || parent.keeps_up);
        self.subject.desired.up = up.then_some(true);
        for _ in 0..PASSES {
            let observed = self.subject.observe().await.map_err(text)?;
            self.follow_mtu(observed.mtu, parent.mtu);
            match self.subject.step(&observed, None, |_| sets).await {
                Step::Done => break,
                Step::More(_) => {}
                Step::Failed(_, why) => return Err(why),
            }
        }
        self.fresh &= !parent.up;
        Ok(())
    }

    fn follow_mtu(&mut self, own: u32, parents: u32) {
        self.subject.desired.mtu = None;
        if own == parents {
            self.follows = Some(own);
        } else if self.follows == Some(own) {
            self.subject.desired.mtu = Some(parents);
        } else {
            self.follows = None;
        }
    }

    /// Finds it, and has it under its name; or makes it, if it is to. Whether it is there.
    async fn find(
        &mut self,
        parent: Parent,
        noted: &mut Owned,
        sets: bool,
    ) -> Result<bool, String> {
        let name = self.subject.desired.name.clone();
        if self.found {
            match self.look(self.subject.at()).await? {
                Some(there) if self.is(&there, parent) => {
                    if there.name != name && sets {
                        self.subject.netlink.rename(there.index, &name).await.map_err(text)?;
                        self.subject.healed.push(format!("name {name}"));
                    }
                    return Ok(true);
                }
                _ => self.found = false,
            }
        }
        let mut there = self.look(At::from(&name)).await?;
        if there.is_none() && sets {
            noted.make_vlan(self.id).map_err(|e| format!("{name}: {e}"))?;
            self.subject.netlink.make_vlan(parent.index, self.id, &name).await.map_err(text)?;
            self.subject.healed.push(format!("VLAN {name}"));
            self.fresh = true;
            there = self.look(At::from(&name)).await?;
        }
        let Some(there) = there else { return Ok(false) };
        let ours = there.alias.as_deref() == Some(ALIAS) || noted.vlans().contains(&self.id);
        if !self.is(&there, parent) || !ours {
            return Err(format!("VLAN {name}: the name is taken by {}", Shown(&there)));
        }
        (self.subject.index, self.found) = (there.index, true);
        Ok(true)
    }

    /// Removes it, if it is there and ours.
    pub(super) async fn remove(mut self, parent: Parent, noted: &mut Owned) -> Result<(), String> {
        // What is not ours is none of this one's matter.
        if self.find(parent, noted, false).await.unwrap_or(false) {
            self.subject.netlink.delete_link(self.subject.at()).await.map_err(text)?;
        }
        self.subject.owned.forget();
        noted.forget_vlan(self.id);
        Ok(())
    }

    async fn look(&self, at: At<'_>) -> Result<Option<MaybeVlan>, String> {
        self.subject.netlink.maybe_vlan(at).await.map_err(text)
    }

    fn is(&self, there: &MaybeVlan, parent: Parent) -> bool {
        there.id == Some(self.id) && there.parent == Some(parent.index)
    }
}

struct Shown<'a>(&'a MaybeVlan);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.0.kind, self.0.id) {
            ("", _) => write!(f, "a network interface")?,
            (_, Some(id)) => write!(f, "somebody else's VLAN {id}")?,
            (kind, None) => write!(f, "a network interface of kind {kind}")?,
        }
        match &self.0.alias {
            Some(alias) => write!(f, ", alias {alias:?}"),
            None => Ok(()),
        }
    }
}

fn text(e: impl fmt::Display) -> String {
    e.to_string()
}
