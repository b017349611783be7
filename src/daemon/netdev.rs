//! A link's netdev: a TAP made or adopted, and what netlink sets on it.
//!
//! The TAP is persistent, so that netdev, addresses and routes outlive a crash of the daemon; the
//! next start adopts it by its alias, and takes away what the last one had set and this one's config
//! no longer says. An orderly stop removes the netdev, and with it all that was set, unless the config
//! says `keep`. What the config says is set again when somebody takes it away; what it does not say
//! is the operator's: a MAC address, an MTU (unless the other end has a smaller one), admin state.

mod mtu;
mod owned;

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::broker::{Broker, Opened};
use super::config::{LinkConfig, Netns};
use crate::net::announce;
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::os::announce::Announcement;
use crate::os::netlink::{LinkStats, Netlink, Watch};
use crate::os::netns::Namespace;
use crate::os::tap::{Existing, Offload, Owner, Tap, TapError};
use crate::plan::{Action, Address, Change, Desired, Mac, Observed, leftovers, plan, waits_for};
use crate::spec::net;
use crate::tunnel::message::NetdevState;
use mtu::Mtu;
pub use owned::NOTE_END;
use owned::Owned;

/// What needs a TAP that takes and gives UDP segmentation packets.
const USO: Features = Features::of(&[net::F_HOST_USO, net::F_GUEST_USO4, net::F_GUEST_USO6]);
/// The alias that marks a netdev as ours.
const ALIAS: &str = "boardlane";
/// So many passes make it what is desired: what a VRF takes away comes in the second one, routes in
/// the last.
const PASSES: usize = 3;
/// So many differences are named.
const MOST_NAMED: usize = 3;
/// Changes come in bursts; they are looked at together.
const BURST: Duration = Duration::from_millis(100);

/// A netdev of ours, for as long as this lives and, unless removed, longer.
#[derive(Debug)]
pub struct Netdev {
    tap: Arc<Tap>,
    /// Nobody else's as long as this lives.
    _owner: Owner,
    /// What this kernel's TAPs cannot do.
    unfit: Features,
    broker: Broker,
    netlink: Rc<Netlink>,
    watch: Watch,
    desired: Desired,
    /// What somebody else changes is set again.
    reconcile: bool,
    owned: Owned,
    mtu: Mtu,
    up: bool,
    /// The MAC address that it was last seen with, or given.
    mac: Option<Mac>,
    /// Whose address that is: the config says one, or somebody has set one since the start.
    mac_in_config: bool,
    mac_of_operator: bool,
    /// What people are to know of what it is and is not.
    remarks: Vec<String>,
    /// When a change was noticed that has not been told yet.
    changed_at: Option<Instant>,
}

/// What a look at the netdev found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// All is as it should be, or is so again.
    Good,
    /// Somebody has deleted it.
    Gone,
    /// Something cannot be set.
    Failed(String),
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
    ) -> Result<Self, String> {
        let Opened { owner, tap, netlink, watch } = broker.netdev(&config.name).await?;
        let uso = tap.probe_offload().map_err(|e| e.to_string())?.uso;
        let unfit = if uso { Features::NONE } else { USO };
        let desired = Desired {
            name: config.name.clone(),
            alias: Some(ALIAS.to_owned()),
            mac: Some(mac),
            mtu: None,
            up: Some(true),
            ..Desired::default()
        };
        let mut netdev = Self {
            tap: Arc::new(tap),
            _owner: owner,
            unfit,
            broker: broker.clone(),
            netlink: Rc::new(netlink),
            watch,
            desired,
            reconcile: true,
            owned: Owned::beside(control, &config.name),
            mtu: Mtu::new(config.mtu, config.addresses.iter().any(Address::is_ipv6)),
            up: true,
            mac: None,
            mac_in_config: config.mac.is_some(),
            mac_of_operator: false,
            remarks: Vec::new(),
            changed_at: None,
        };
        netdev.configure(config);
        netdev.begin().await?;
        // Only now: a crash before this leaves nothing that the next start could not tell as ours.
        netdev.tap.set_persistent(true).map_err(|e| e.to_string())?;
        Ok(netdev)
    }

    /// Takes from a config what may change while the link runs.
    fn configure(&mut self, config: &LinkConfig) {
        let keys = &config.netdev;
        self.desired.addresses.clone_from(&config.addresses);
        self.desired.routes.clone_from(&config.routes);
        self.desired.master.clone_from(&keys.master);
        self.desired.isolated = keys.isolated;
        self.desired.forward4 = keys.forward;
        // An older kernel cannot do it, which is no matter where there is no IPv6.
        self.desired.forward6 = keys.forward.filter(|_| config.has_ipv6());
        self.reconcile = keys.reconcile;
        self.mtu.configure(config.mtu);
    }

    /// Sets all that is desired for the first time, and takes away what an earlier start has left.
    async fn begin(&mut self) -> Result<(), String> {
        let observed = self.observe().await?.ok_or("the netdev has gone away")?;
        self.mtu.begin(short(observed.mtu), self.owned.borrowed());
        let left = leftovers(self.owned.done(), &self.desired, &observed);
        self.remove(&left).await;
        self.owned.let_go(&self.desired, observed.table);
        let done = self.apply(|_| true).await;
        // The operator's from now on: an interface that is set down stays down.
        self.desired.up = None;
        done
    }

    /// Goes over to another config of the same netdev. What stays is not touched, and what comes is
    /// there before an address goes: with its last one, the kernel would take away all routes, the
    /// operator's too.
    pub async fn change(&mut self, config: &LinkConfig) -> Look {
        self.configure(config);
        let observed = match self.observe().await {
            Ok(None) => return Look::Gone,
            Ok(Some(observed)) => observed,
            Err(e) => return Look::Failed(e),
        };
        let left = leftovers(self.owned.done(), &self.desired, &observed);
        // A route goes first, since the kernel has no room for two to one network.
        let is_address = |action: &Action| matches!(action, Action::DelAddress(_));
        let (addresses, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_address);
        self.remove(&others).await;
        let look = self.settle(|_| true).await;
        if addresses.is_empty() {
            self.owned.let_go(&self.desired, observed.table);
            return look;
        }
        self.remove(&addresses).await;
        self.owned.let_go(&self.desired, observed.table);
        self.settle(|_| true).await
    }

    /// Takes away what is no longer desired.
    async fn remove(&mut self, leftovers: &[Action]) {
        if let Err(failure) = self.carry_out(leftovers).await {
            tracing::warn!("{}: {failure}", self.desired.name);
        }
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
        let observed = self.observe().await?.ok_or("the netdev has gone away")?;
        let addresses: Vec<_> = observed.addresses.iter().map(Address::addr).collect();
        let frames = announce::frames(observed.mac, &addresses);
        let name = self.desired.name.clone();
        let socket = self.broker.announcer(&name).await?;
        let failed = move |e| tracing::warn!("{name}: announcing the address: {e}");
        Announcement::begin(socket, observed.index, frames, failed).map_err(|e| e.to_string())
    }

    /// Asks for what the kernel counts of it, also after this is gone; `None` if it cannot be asked.
    pub fn counters(&self) -> impl AsyncFn() -> Option<LinkStats> + use<> {
        let (netlink, name) = (self.netlink.clone(), self.desired.name.clone());
        async move || netlink.stats(&name).await.ok().flatten()
    }

    /// Opens another queue of the TAP.
    pub async fn another_queue(&self) -> Result<Tap, String> {
        self.broker.queue(&self.desired.name, &self.tap).await
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
        let all: Vec<_> = self.remarks.iter().cloned().chain(self.mtu.note(other)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What the other end is to be told.
    pub fn state(&self) -> NetdevState {
        let mac = self.mac.or(self.desired.mac).unwrap_or_default();
        NetdevState { mtu: self.mtu.own(), up: self.up, mac }
    }

    /// Sets the MAC address that the other end has chosen, unless somebody has chosen one here.
    pub async fn set_mac(&mut self, mac: Mac) -> Result<(), String> {
        if self.mac_in_config || self.mac_of_operator {
            return Ok(());
        }
        self.desired.mac = Some(mac);
        let reconcile = self.reconcile;
        self.apply(|a| reconcile || matches!(a, Action::SetMac(_))).await
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
        self.settle(|a| reconcile || matches!(a, Action::SetMtu(_))).await
    }

    /// Says what the kernel may leave unfinished in frames that it gives us.
    pub fn set_offloads(&self, allowed: Offloads) -> Result<(), TapError> {
        let Offloads { csum, tso4, tso6, ecn, uso } = allowed;
        self.tap.set_offload(Offload { csum, tso4, tso6, ecn, uso })
    }

    /// Waits until somebody has changed something in the netdev's namespace; a burst is one change.
    /// Nothing is lost if it is dropped early.
    pub async fn changed(&mut self) {
        let since = match self.changed_at {
            Some(since) => since,
            None => {
                self.watch.changed().await;
                *self.changed_at.insert(Instant::now())
            }
        };
        tokio::time::sleep_until(since + BURST).await;
        self.changed_at = None;
    }

    /// Looks at the netdev, and sets again what is missing, or says what that is.
    pub async fn heal(&mut self) -> Look {
        let reconcile = self.reconcile;
        self.settle(|_| reconcile).await
    }

    /// Looks at the netdev, and does `which` of what is missing.
    async fn settle(&mut self, which: impl Fn(&Action) -> bool) -> Look {
        match self.observe().await {
            Ok(None) => return Look::Gone,
            Ok(Some(_)) => {}
            Err(e) => return Look::Failed(e),
        }
        match self.apply(which).await {
            Ok(()) => Look::Good,
            Err(e) => Look::Failed(e),
        }
    }

    /// Removes the netdev, or with `keep` leaves it, without carrier.
    pub fn tear_down(self, keep: bool) -> Result<(), TapError> {
        if keep {
            return self.tap.set_carrier(false);
        }
        self.owned.forget();
        self.tap.set_persistent(false)
    }

    async fn observe(&self) -> Result<Option<Observed>, String> {
        self.netlink.observe_for(&self.desired).await.map_err(|e| e.to_string())
    }

    /// What the operator has changed since the last look becomes what is desired, where the config
    /// does not speak of it.
    fn notice(&mut self, observed: &Observed) {
        self.up = observed.up;
        let ipv6 = |a: &Address| a.is_ipv6() && !a.is_ipv6_link_local();
        let lists = [&self.desired.addresses, &observed.addresses];
        let has_ipv6 = lists.into_iter().flatten().any(ipv6);
        self.mtu.seen(short(observed.mtu), has_ipv6);
        self.desired.mtu = Some(self.mtu.in_force().into());
        if self.mac.is_some_and(|last| last != observed.mac) && !self.mac_in_config {
            self.mac_of_operator = true;
            self.desired.mac = Some(observed.mac);
        }
        self.mac = Some(observed.mac);
    }

    /// Does these actions, which are noted first; whether anything was done.
    async fn carry_out(&mut self, actions: &[Action]) -> Result<bool, String> {
        let name = &self.desired.name;
        let noted = self.owned.note(actions, self.mtu.borrowed());
        noted.map_err(|e| format!("{name}: {e}"))?;
        let by_netlink = |action: &Action| !matches!(action, Action::SetForward6(_));
        let (actions, sysctls): (Vec<_>, Vec<_>) = actions.iter().cloned().partition(by_netlink);
        let mut applied = self.netlink.apply(name, &actions).await;
        for action in sysctls {
            let Action::SetForward6(Change { to, .. }) = action else { continue };
            match self.broker.forward(name, to).await {
                Ok(true) => applied.done.push(action),
                Ok(false) => {}
                Err(e) => self.remarks.push(format!("IPv6 is not forwarded: {e}")),
            }
        }
        self.owned.did(&applied.done);
        for action in &applied.done {
            match action {
                Action::SetMtu(change) => self.mtu.set(short(change.to)),
                Action::SetMac(change) => self.mac = Some(change.to),
                _ => {}
            }
        }
        let failed: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
        if failed.is_empty() { Ok(!applied.done.is_empty()) } else { Err(failed.join("; ")) }
    }

    /// Brings the netdev to what is desired, as far as `which` says so of an action.
    async fn apply(&mut self, which: impl Fn(&Action) -> bool) -> Result<(), String> {
        for _ in 0..PASSES {
            let observed = self.observe().await?;
            let observed = observed
                .ok_or_else(|| format!("{}: the netdev has gone away", self.desired.name))?;
            self.notice(&observed);
            let planned = plan(&self.desired, &observed);
            let (actions, left): (Vec<_>, Vec<_>) = planned.into_iter().partition(&which);
            self.remarks = waits_for(&self.desired, &observed).into_iter().collect();
            self.remarks.extend(differences(&left));
            if !self.carry_out(&actions).await? {
                break;
            }
        }
        Ok(())
    }
}

/// What is not as it was to be, and is left so.
fn differences(left: &[Action]) -> Option<String> {
    let (first, rest) = left.split_at(left.len().min(MOST_NAMED));
    let named: Vec<_> = first.iter().map(Action::difference).collect();
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    (!named.is_empty()).then(|| format!("differs: {}{more}", named.join(", ")))
}

/// An MTU as virtio has it; a TAP's is no greater.
fn short(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// The network namespace that a config means.
///
/// # Errors
/// There is none; or it may not be opened.
pub fn open_namespace(netns: &Netns) -> io::Result<Namespace> {
    match netns {
        Netns::Name(name) => Namespace::open(name),
        Netns::Path(path) => Namespace::open(&path.to_string_lossy()),
        Netns::Pid(pid) => Namespace::open(&pid.to_string()),
    }
}

/// Removes the netdev `name` of the calling thread's network namespace, if a daemon has left it; with
/// `dry_run`, only looks. Whether it was one.
///
/// # Errors
/// It is one, and the kernel does not let it be removed.
pub fn remove_dead(name: &str, dry_run: bool) -> Result<bool, TapError> {
    let is_left = Existing::of(name)?.is_some_and(|found| {
        let is_free = found.tun.is_some_and(|tun| tun.persistent && tun.queues == 0);
        is_free && found.alias.as_deref() == Some(ALIAS)
    });
    if !is_left {
        return Ok(false);
    }
    let done = Owner::of(name).and_then(|owner| match dry_run {
        true => Ok(owner),
        false => Tap::adopt(name, Some(ALIAS))?.set_persistent(false).map(|()| owner),
    });
    match done {
        Ok(_) => Ok(true),
        // Somebody was faster, or makes it his just now, or it is like none of ours.
        Err(
            TapError::Owned { .. }
            | TapError::Busy { .. }
            | TapError::Missing { .. }
            | TapError::Foreign { .. },
        ) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes or adopts the TAP, as its owner, in the calling thread's network namespace.
pub(super) fn open_tap(name: &str) -> Result<(Owner, Tap), TapError> {
    let owner = Owner::of(name)?;
    let tap = match Tap::adopt(name, Some(ALIAS)) {
        Err(TapError::Missing { .. }) => Tap::create(name, false),
        done => done,
    };
    Ok((owner, tap?))
}
