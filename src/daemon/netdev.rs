//! A link's netdev: a TAP made or adopted, and what netlink sets on it.
//!
//! The TAP is persistent, so that netdev, addresses and routes outlive a crash of the daemon; the
//! next start adopts it by its alias. An orderly stop removes it, and with it all that was set,
//! unless the config says `keep`.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::config::{LinkConfig, Netns};
use crate::net::frame::Offloads;
use crate::os::netlink::Netlink;
use crate::os::netns::Namespace;
use crate::os::tap::{Offload, Tap, TapError};
use crate::plan::{Desired, plan};

/// The alias that marks a netdev as ours.
const ALIAS: &str = "boardlane";

/// A netdev of ours, for as long as this lives and, unless removed, longer.
#[derive(Debug)]
pub struct Netdev {
    tap: Arc<Tap>,
    netlink: Netlink,
    desired: Desired,
}

impl Netdev {
    /// Makes or adopts the netdev that the config asks for, in its namespace.
    ///
    /// # Errors
    /// One line for people: what is missing and what to do.
    pub async fn set_up(config: &LinkConfig, mac: [u8; 6]) -> Result<Self, String> {
        let namespace = config
            .netns
            .as_ref()
            .map(|n| match n {
                Netns::Name(name) => Namespace::open(name),
                Netns::Path(path) => Namespace::open(&path.to_string_lossy()),
                Netns::Pid(pid) => Namespace::open(&pid.to_string()),
            })
            .transpose()
            .map_err(|e| format!("network namespace of {}: {e}", config.name))?;
        let (opened, netlink) = match &namespace {
            None => (open_tap(&config.name), Netlink::new()),
            Some(ns) => {
                let tap = ns.run(|| open_tap(&config.name)).map_err(|e| e.to_string())?;
                (tap, Netlink::in_namespace(ns.as_fd()))
            }
        };
        let tap = opened.map_err(|e| e.to_string())?;
        let netlink = netlink.map_err(|e| e.to_string())?;
        let desired = Desired {
            name: config.name.clone(),
            alias: Some(ALIAS.to_owned()),
            mac: Some(mac),
            mtu: config.mtu.map(u32::from),
            up: Some(true),
            gso_max_size: None,
            addresses: config.addresses.clone(),
            routes: config.routes.clone(),
        };
        let mut netdev = Self { tap: Arc::new(tap), netlink, desired };
        netdev.apply().await?;
        // Only now: a crash before this leaves nothing that the next start could not tell as ours.
        netdev.tap.set_persistent(true).map_err(|e| e.to_string())?;
        Ok(netdev)
    }

    /// The TAP itself.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// The MTU that the netdev has now, in bytes.
    pub async fn observed_mtu(&self) -> Option<u16> {
        let observed = self.netlink.observe(&self.desired.name).await.ok()??;
        u16::try_from(observed.mtu).ok()
    }

    /// Sets the MAC address.
    pub async fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), String> {
        self.desired.mac = Some(mac);
        self.apply().await
    }

    /// Sets the MTU.
    pub async fn set_mtu(&mut self, mtu: u16) -> Result<(), String> {
        self.desired.mtu = Some(mtu.into());
        self.apply().await
    }

    /// Says what the kernel may leave unfinished in frames that it gives us.
    pub fn set_offloads(&self, allowed: Offloads) -> Result<(), TapError> {
        let Offloads { csum, tso4, tso6 } = allowed;
        self.tap.set_offload(Offload { csum, tso4, tso6, ecn: false, uso: false })
    }

    /// Removes the netdev, or with `keep` leaves it, without carrier.
    pub fn tear_down(self, keep: bool) -> Result<(), TapError> {
        if keep { self.tap.set_carrier(false) } else { self.tap.set_persistent(false) }
    }

    /// Brings the netdev to what is desired. Routes come when it is up, which is a second pass.
    async fn apply(&mut self) -> Result<(), String> {
        let name = self.desired.name.clone();
        for _ in 0..2 {
            let observed = self.netlink.observe(&name).await.map_err(|e| e.to_string())?;
            let observed = observed.ok_or_else(|| format!("{name}: the netdev has gone away"))?;
            let actions = plan(&self.desired, &observed);
            if actions.is_empty() {
                break;
            }
            let applied = self.netlink.apply(&name, &actions).await;
            if !applied.failed.is_empty() {
                let all: Vec<_> = applied.failed.iter().map(ToString::to_string).collect();
                return Err(all.join("; "));
            }
        }
        // The operator's from now on: an interface set down stays down.
        self.desired.up = None;
        Ok(())
    }
}

fn open_tap(name: &str) -> Result<Tap, TapError> {
    match Tap::adopt(name, Some(ALIAS)) {
        Err(TapError::Missing { .. }) => Tap::create(name, false),
        done => done,
    }
}
