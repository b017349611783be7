//! A link's netdev: a TAP made or adopted, and what netlink sets on it.
//!
//! The TAP is persistent, so that netdev, addresses and routes outlive a crash of the daemon; the
//! next start adopts it by its alias, and takes away what the last one had set and this one's config
//! no longer says. An orderly stop removes the netdev, and with it all that was set, unless the config
//! says `keep`. What the config says is set again when somebody takes it away; what it does not say
//! is the operator's: a MAC address, an MTU (unless the other end has a smaller one), admin state.

mod mtu;
mod owned;
mod pace;
mod place;

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::broker::{Broker, Opened};
use super::config::{LinkConfig, Netns};
use super::namespaces::Strays;
use crate::net::announce;
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::os::announce::Announcement;
use crate::os::netlink::{LinkStats, Netlink, Watch};
use crate::os::netns::Namespace;
use crate::os::tap::{Existing, Offload, Owner, Tap, TapError};
use crate::plan::{Action, Desired, IpPrefix, Mac, Observed, plan};
use crate::spec::net;
use crate::tunnel::message::NetdevState;
use mtu::Mtu;
pub use owned::NOTE_END;
use owned::{Owned, leftovers};
use pace::Pace;

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
    netlink: Rc<Netlink>,
    watch: Watch,
    strays: Strays,
    /// Its network namespace has vanished.
    homeless: bool,
    /// In its network namespace.
    index: u32,
    desired: Desired,
    owned: Owned,
    mtu: Mtu,
    up: bool,
    /// What the config says of that.
    config_up: Option<bool>,
    /// The MAC address that it was last seen with, or given.
    mac: Option<Mac>,
    /// Whose address that is: the config says one, or somebody has set one since the start.
    mac_in_config: bool,
    mac_of_operator: bool,
    pace: Pace,
    /// What this look has set again.
    healed: Vec<String>,
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
            mtu: None,
            up: Some(config.up.unwrap_or(true)),
            gso_max_size: None,
            addresses: config.addresses.clone(),
            routes: config.routes.clone(),
        };
        let has_ipv6 = config.addresses.iter().any(IpPrefix::is_ipv6);
        let mut netdev = Self {
            index: tap.index(),
            tap: Arc::new(tap),
            _owner: owner,
            unfit,
            broker: broker.clone(),
            netlink: Rc::new(netlink),
            watch,
            strays,
            homeless: false,
            desired,
            owned: Owned::beside(control, &config.name),
            mtu: Mtu::new(config.mtu, has_ipv6),
            up: true,
            config_up: config.up,
            mac: None,
            mac_in_config: config.mac.is_some(),
            mac_of_operator: false,
            pace: Pace::default(),
            healed: Vec::new(),
        };
        netdev.begin().await?;
        // Only now: a crash before this leaves nothing that the next start could not tell as ours.
        netdev.tap.set_persistent(true).map_err(|e| e.to_string())?;
        Ok(netdev)
    }

    /// Sets all that is desired for the first time, and takes away what an earlier start has left.
    async fn begin(&mut self) -> Result<(), String> {
        let observed = self.observe().await?.ok_or("the netdev has gone away")?;
        let leftovers = self.owned.leftovers(&self.desired, &observed);
        self.mtu.begin(short(observed.mtu), self.owned.borrowed());
        self.note()?;
        self.remove(&leftovers).await;
        let done = self.apply().await;
        // Unless the config says it, the operator's from now on: an interface that is set down stays down.
        self.desired.up = self.config_up;
        done
    }

    /// Takes addresses, routes and MTU from another config of the same netdev. What stays is not
    /// touched, and what comes is there before an address goes: with its last one, the kernel would
    /// take away all routes, the operator's too.
    pub async fn change(&mut self, config: &LinkConfig) -> Look {
        let addresses = std::mem::replace(&mut self.desired.addresses, config.addresses.clone());
        let routes = std::mem::replace(&mut self.desired.routes, config.routes.clone());
        self.mtu.configure(config.mtu);
        self.config_up = config.up;
        self.desired.up = config.up;
        let leftovers = match self.observe().await {
            Ok(None) => return gone(),
            Ok(Some(observed)) => leftovers(&addresses, &routes, &self.desired, &observed),
            Err(e) => return Look::Failed(e),
        };
        // A route goes first, since the kernel has no room for two to one network.
        let is_route = |action: &Action| matches!(action, Action::DelRoute(_));
        let (routes, addresses): (Vec<_>, Vec<_>) = leftovers.into_iter().partition(is_route);
        self.remove(&routes).await;
        let look = self.look().await;
        if addresses.is_empty() {
            return look;
        }
        self.remove(&addresses).await;
        self.look().await
    }

    /// Takes away what is no longer desired.
    async fn remove(&self, leftovers: &[Action]) {
        for failure in self.netlink.apply(&self.desired.name, leftovers).await.failed {
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
        let addresses = observed.addresses.iter().chain(&observed.peer_addresses);
        let addresses: Vec<_> = addresses.map(IpPrefix::addr).collect();
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

    /// What people are to know of an MTU that is the `other` end's.
    pub fn mtu_note(&self, other: &str) -> Option<String> {
        self.mtu.note(other)
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
        self.apply().await
    }

    /// A link comes up: the greatest MTU that its device takes, and what the other end wants.
    pub async fn agree(&mut self, offered: Option<u16>, peer: Option<u16>) -> Look {
        self.mtu.offer(offered);
        self.follow(peer).await
    }

    /// The other end wants this MTU, or has not said which.
    pub async fn follow(&mut self, peer: Option<u16>) -> Look {
        self.mtu.peer(peer);
        self.look().await
    }

    /// Says what the kernel may leave unfinished in frames that it gives us.
    pub fn set_offloads(&self, allowed: Offloads) -> Result<(), TapError> {
        let Offloads { csum, tso4, tso6, ecn, uso } = allowed;
        self.tap.set_offload(Offload { csum, tso4, tso6, ecn, uso })
    }

    /// Looks at the netdev, and sets again what somebody else has set otherwise.
    pub async fn heal(&mut self) -> Look {
        self.healed.clear();
        let look = self.look().await;
        let (failed, was) = (look != Look::Good, self.pace.contended().is_some());
        self.pace.looked(Instant::now(), &self.healed, failed);
        let name = &self.desired.name;
        // While all is well, only what has to do with this netdev is of interest.
        let indices = [self.index];
        let calm = self.healed.is_empty() && !failed;
        if let Err(e) = self.watch.keep_to(if calm { &indices } else { &[] }) {
            tracing::debug!("{name}: {e}");
        }
        match self.pace.contended() {
            Some(what) if look == Look::Good => {
                Look::Failed(format!("somebody else keeps undoing what is set here: {what}"))
            }
            _ => {
                if !was && !self.healed.is_empty() {
                    tracing::info!("{name}: set again: {}", self.healed.join(", "));
                }
                look
            }
        }
    }

    /// Brings it to what is desired.
    async fn look(&mut self) -> Look {
        let named = match self.find().await {
            Ok(named) => named,
            Err(look) => return look,
        };
        let done = self.apply().await;
        self.desired.up = self.config_up;
        let wrong: Vec<_> = [named, done].into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() { Look::Good } else { Look::Failed(wrong.join("; ")) }
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
        self.netlink.observe(&self.desired.name).await.map_err(|e| e.to_string())
    }

    /// What the operator has changed since the last look becomes what is desired, where the config
    /// does not speak of it.
    fn notice(&mut self, observed: &Observed) {
        self.up = observed.up;
        let ipv6 = |a: &IpPrefix| a.is_ipv6() && !a.is_ipv6_link_local();
        let lists = [&self.desired.addresses, &observed.addresses, &observed.peer_addresses];
        let has_ipv6 = lists.into_iter().flatten().any(ipv6);
        self.mtu.seen(short(observed.mtu), has_ipv6);
        self.desired.mtu = Some(self.mtu.in_force().into());
        if self.mac.is_some_and(|last| last != observed.mac) && !self.mac_in_config {
            self.mac_of_operator = true;
            self.desired.mac = Some(observed.mac);
        }
        self.mac = Some(observed.mac);
    }

    fn note(&mut self) -> Result<(), String> {
        let noted = self.owned.note(&self.desired, self.mtu.borrowed());
        noted.map_err(|e| format!("{}: {e}", self.desired.name))
    }

    /// Brings the netdev to what is desired. Routes come when it is up, which is a second pass.
    async fn apply(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            let observed = self.observe().await?;
            let observed = observed
                .ok_or_else(|| format!("{}: the netdev has gone away", self.desired.name))?;
            self.notice(&observed);
            self.note()?;
            let actions = plan(&self.desired, &observed);
            if actions.is_empty() {
                break;
            }
            let applied = self.netlink.apply(&self.desired.name, &actions).await;
            for action in &applied.done {
                self.healed.push(action.object());
                match action {
                    Action::SetMtu(change) => self.mtu.set(short(change.to)),
                    Action::SetMac(change) => self.mac = Some(change.to),
                    _ => {}
                }
            }
            if !applied.failed.is_empty() {
                let all: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
                return Err(all.join("; "));
            }
        }
        Ok(())
    }
}

fn gone() -> Look {
    Look::Gone("the netdev has been deleted".to_owned())
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
