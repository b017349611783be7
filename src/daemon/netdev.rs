//! A link's netdev: a TAP made or adopted, and what netlink sets on it.
//!
//! The TAP is persistent, so that netdev, addresses and routes outlive a crash of the daemon; the
//! next start adopts it by its alias, and takes away what the last one had set and this one's config
//! no longer says. An orderly stop removes the netdev, and with it all that was set, unless the config
//! says `keep`. What the config says is set again when somebody takes it away; what it does not say
//! is the operator's: a MAC address, an MTU (unless the other end has a smaller one), admin state.

mod heal;
mod mtu;
mod open;
mod owned;
mod pace;
mod place;
mod subject;
mod vlan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::broker::{Broker, Opened};
use super::config::LinkConfig;
use super::namespaces::Strays;
use crate::net::announce;
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::os::announce::Announcement;
use crate::os::netlink::{At, LinkStats, Watch};
use crate::os::tap::{Offload, Owner, Tap, TapError};
use crate::plan::{Action, Address, Desired, Mac};
use crate::spec::net;
use crate::tunnel::message::NetdevState;
use mtu::Mtu;
pub(super) use open::open_tap;
pub use open::{open_namespace, remove_dead};
pub use owned::NOTE_END;
use owned::Owned;
use pace::Pace;
use subject::Subject;
use vlan::Vlan;

/// What needs a TAP that takes and gives UDP segmentation packets.
const USO: Features = Features::of(&[net::F_HOST_USO, net::F_GUEST_USO4, net::F_GUEST_USO6]);
/// The alias that marks a netdev as ours.
const ALIAS: &str = "boardlane";
/// A netdev of ours, for as long as this lives and, unless removed, longer.
#[derive(Debug)]
pub struct Netdev {
    tap: Arc<Tap>,
    /// Nobody else's as long as this lives.
    _owner: Owner,
    /// What this kernel's TAPs cannot do.
    unfit: Features,
    broker: Broker,
    control: PathBuf,
    watch: Watch,
    pace: Pace,
    strays: Strays,
    /// Its network namespace has vanished.
    homeless: bool,
    /// Itself, in its network namespace.
    subject: Subject,
    /// In the order of the config.
    vlans: Vec<Vlan>,
    /// What somebody else changes is set again.
    reconcile: bool,
    mtu: Mtu,
    up: bool,
    /// What the config says of that.
    config_up: Option<bool>,
    /// The MAC address that it was last seen with, or given.
    mac: Option<Mac>,
    /// Whose address that is: the config says one, or somebody has set one since the start.
    mac_in_config: bool,
    mac_of_operator: bool,
    /// What was set again, and could not be, since somebody asked.
    applied: [u64; 2],
}

/// What a look at the netdev found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// All is as it should be, or is so again.
    Good,
    /// It cannot be reached any more: why.
    Gone(String),
    /// Something cannot be set.
    Failed(String),
}

impl Look {
    /// Nothing was set, or all that was to be.
    fn check(self) -> Result<(), String> {
        if self == Self::Good { Ok(()) } else { Err(self.to_string()) }
    }
}

impl Netdev {
    /// Makes or adopts the netdev that the config asks for, in its namespace. What is set on it is
    /// noted beside the control socket.
    ///
    /// # Errors
    /// One line for people: what is missing and what to do.
    pub async fn set_up(
        config: &LinkConfig,
        mac: [u8; 6],
        control: &Path,
        broker: &Broker,
        mut strays: Strays,
    ) -> Result<Self, String> {
        // What was found before is not of this one.
        strays.mark_unchanged();
        let Opened { owner, tap, netlink, watch } = broker.netdev(&config.name).await?;
        let uso = tap.probe_offload().map_err(|e| e.to_string())?.uso;
        let unfit = if uso { Features::NONE } else { USO };
        let desired = Desired {
            name: config.name.clone(),
            alias: Some(ALIAS.to_owned()),
            mac: Some(mac),
            ..Desired::default()
        };
        let owned = Owned::beside(control, &config.name);
        let subject = {
            let netlink = Rc::new(netlink);
            Subject::new(netlink, tap.index(), desired, owned, broker, &config.name)
        };
        let has_ipv6 = config.addresses.iter().any(Address::is_ipv6);
        let mut netdev = Self {
            tap: Arc::new(tap),
            _owner: owner,
            unfit,
            broker: broker.clone(),
            control: control.to_owned(),
            watch,
            pace: Pace::default(),
            strays,
            homeless: false,
            subject,
            vlans: Vec::new(),
            reconcile: true,
            mtu: Mtu::new(config.mtu, has_ipv6),
            up: true,
            config_up: None,
            mac: None,
            mac_in_config: config.mac.is_some(),
            mac_of_operator: false,
            applied: [0; 2],
        };
        netdev.configure(config);
        netdev.begin().await?;
        // Only now: a crash before this leaves nothing that the next start could not tell as ours.
        netdev.tap.set_persistent(true).map_err(|e| e.to_string())?;
        let done = match netdev.change_vlans(&config.netdev).await {
            Ok(()) => netdev.settle(true, |_| true).await.check(),
            failed => failed,
        };
        if let Err(e) = done {
            tracing::warn!("{}: {e}", config.name);
        }
        // Whatever has come of it, and changed meanwhile.
        netdev.pace.changed(Instant::now());
        Ok(netdev)
    }

    /// Takes from a config what may change while the link runs.
    fn configure(&mut self, config: &LinkConfig) {
        let (keys, desired) = (&config.netdev, &mut self.subject.desired);
        desired.addresses.clone_from(&config.addresses);
        desired.routes.clone_from(&config.routes);
        desired.master.clone_from(&keys.master);
        desired.isolated = keys.isolated;
        desired.forward4 = keys.forward;
        // An older kernel cannot do it, which is no matter where there is no IPv6.
        desired.forward6 = keys.forward.filter(|_| config.has_ipv6());
        desired.up = config.up;
        self.config_up = config.up;
        self.reconcile = keys.reconcile;
        self.mtu.configure(config.mtu);
    }

    /// Sets all that is desired for the first time, and takes away what an earlier start has left.
    async fn begin(&mut self) -> Result<(), String> {
        let observed = self.subject.observe().await.map_err(|look| look.to_string())?;
        let subject = &mut self.subject;
        self.mtu.begin(short(observed.mtu), subject.owned.borrowed());
        let borrowed = self.mtu.borrowed();
        let (addresses, others) = subject.leftovers(&observed);
        subject.remove(&[others, addresses].concat(), borrowed).await;
        subject.owned.let_go(&subject.desired, observed.table);
        // From then on the operator's, unless the config says it: an interface that is set down stays down.
        subject.desired.up = Some(self.config_up.unwrap_or(true));
        // There are no VLANs yet, so no address of theirs that a route could have as its source.
        let own: Vec<_> = self.subject.desired.addresses.iter().map(Address::addr).collect();
        let is_own = |source| own.contains(&source);
        let now = |a: &Action| !matches!(a, Action::AddRoute(r) if !r.source.is_none_or(is_own));
        let done = self.apply(now).await;
        self.subject.desired.up = self.config_up;
        self.subject.healed.clear();
        done.map_err(|look| look.to_string())
    }

    /// Goes over to another config of the same netdev. What stays is not touched.
    pub async fn change(&mut self, config: &LinkConfig) -> Look {
        self.configure(config);
        // Without its name it goes on, and is healed later.
        if let Err(look) = self.find(true).await {
            return look;
        }
        let observed = match self.subject.observe().await {
            Ok(observed) => observed,
            Err(look) => return look,
        };
        let borrowed = self.mtu.borrowed();
        let (addresses, others) = self.subject.leftovers(&observed);
        self.subject.remove(&others, borrowed).await;
        let mut look = self.settle(true, |_| true).await;
        if !addresses.is_empty() {
            self.subject.remove(&addresses, borrowed).await;
            look = self.settle(true, |_| true).await;
        }
        let subject = &mut self.subject;
        subject.owned.let_go(&subject.desired, observed.table);
        if let Err(e) = self.change_vlans(&config.netdev).await {
            return if look == Look::Good { Look::Failed(e) } else { look };
        }
        if let Look::Failed(_) = look {
            // A route's source may be an address of a VLAN that there was not yet.
            look = self.settle(true, |_| true).await;
        }
        look
    }

    /// Features that a link by this netdev does without: Linux before 6.2 knows no USO.
    pub fn unfit(&self) -> Features {
        self.unfit
    }

    /// The TAP itself.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// Begins to tell the netdev's network where its addresses are.
    pub async fn announce(&self) -> Result<Announcement, String> {
        let observed = self.subject.observe().await.map_err(|look| look.to_string())?;
        let addresses: Vec<_> = observed.addresses.iter().map(Address::addr).collect();
        let frames = announce::frames(observed.mac, &addresses);
        let name = self.subject.desired.name.clone();
        let socket = self.broker.announcer(&name).await?;
        let failed = move |e| tracing::warn!("{name}: announcing the address: {e}");
        Announcement::begin(socket, observed.index, frames, failed).map_err(|e| e.to_string())
    }

    /// Asks for what the kernel counts of it, also after this is gone; `None` if it cannot be asked.
    pub fn counters(&self) -> impl AsyncFn() -> Option<LinkStats> + use<> {
        let Subject { netlink, index, desired, .. } = &self.subject;
        let (netlink, index, name) = (netlink.clone(), *index, desired.name.clone());
        async move || netlink.stats(At::index(index, &name)).await.ok().flatten()
    }

    /// Opens another queue of the TAP.
    pub async fn another_queue(&self) -> Result<Tap, String> {
        self.broker.queue(&self.subject.desired.name, &self.tap).await
    }

    /// Whether its admin state is up, as last seen.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The MTU that it was last seen with, or given, in bytes.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu.last()
    }

    /// What people are to know of it; `other` is what they call the other end.
    pub fn note(&self, other: &str) -> Option<String> {
        let vlans = self.vlans.iter().flat_map(|vlan| &vlan.subject.remarks);
        let all = self.subject.remarks.iter().chain(vlans).cloned();
        let all: Vec<_> = all.chain(self.mtu.note(other)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What the other end is to be told.
    pub fn state(&self) -> NetdevState {
        let mac = self.mac.or(self.subject.desired.mac).unwrap_or_default();
        NetdevState { mtu: self.mtu.own(), up: self.up, mac }
    }

    /// Sets the MAC address that the other end has chosen, unless somebody has chosen one here.
    pub async fn set_mac(&mut self, mac: Mac) -> Result<(), String> {
        if self.mac_in_config || self.mac_of_operator {
            return Ok(());
        }
        self.subject.desired.mac = Some(mac);
        let reconcile = self.reconcile;
        self.settle(reconcile, |a| matches!(a, Action::SetMac(_))).await.check()
    }

    /// A link comes up: the greatest MTU that its device takes, and what the other end wants.
    pub async fn agree(&mut self, offered: Option<u16>, peer: Option<u16>) -> Look {
        self.mtu.offer(offered);
        self.follow(peer).await
    }

    /// The other end wants this MTU, or has not said which.
    pub async fn follow(&mut self, peer: Option<u16>) -> Look {
        self.mtu.peer(peer);
        let reconcile = self.reconcile;
        let look = self.settle(reconcile, |a| matches!(a, Action::SetMtu(_))).await;
        self.or_contended(look)
    }

    /// Says what the kernel may leave unfinished in frames that it gives us.
    pub fn set_offloads(&self, allowed: Offloads) -> Result<(), TapError> {
        let Offloads { csum, tso4, tso6, ecn, uso } = allowed;
        self.tap.set_offload(Offload { csum, tso4, tso6, ecn, uso })
    }

    /// How much was set again, and could not be, since this was last asked.
    pub fn take_applied(&mut self) -> [u64; 2] {
        std::mem::take(&mut self.applied)
    }

    /// Removes the netdev, or with `keep` leaves it, without carrier.
    pub fn tear_down(self, keep: bool) -> Result<(), TapError> {
        if keep {
            return self.tap.set_carrier(false);
        }
        self.subject.owned.forget();
        self.vlans.iter().for_each(|vlan| vlan.subject.owned.forget());
        self.tap.set_persistent(false)
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => Ok(()),
            Self::Gone(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// An MTU as virtio has it; a TAP's is no greater.
fn short(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}
