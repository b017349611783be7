//! One link of a daemon, from its config to its end: netdev if it has one, transport, link, worker.
//!
//! Each step that is not possible yet is tried again, and `status` says why it waits. What one link
//! meets never touches another.

mod running;
mod view;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use super::Role;
use super::broker::Broker;
use super::config::{LinkConfig, Port, Transport};
use super::identity::Identity;
use super::netdev::Netdev;
use crate::link::State;
use crate::net::features::Features;
use crate::os::fabric::shm::ShmLink;
use crate::tunnel::part::Role as End;
use running::{Ended, Running};
pub use view::View;

/// Between tries of what may heal.
const RETRY: Duration = Duration::from_millis(500);
/// One link and all that it needs.
#[derive(Debug)]
pub struct LinkTask {
    role: Role,
    config: LinkConfig,
    control: PathBuf,
    slot: u32,
    /// This netdev's address, and the one meant for the other end.
    mac: [u8; 6],
    other_mac: [u8; 6],
    features_off: Features,
    broker: Broker,
    view: Rc<RefCell<View>>,
    stop: watch::Receiver<bool>,
}

impl LinkTask {
    /// The link at `index` of the config.
    #[allow(clippy::too_many_arguments, reason = "a daemon's parts, each once")]
    pub fn new(
        role: Role,
        config: LinkConfig,
        control: &Path,
        index: u32,
        identity: &Identity,
        broker: &Broker,
        view: Rc<RefCell<View>>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let slot = slot_in(&config).unwrap_or(index);
        let own = match role {
            Role::Master => End::Driver,
            Role::Agent => End::Device,
        };
        let mac = config.mac.unwrap_or_else(|| identity.mac(slot, own));
        let other_mac = identity.mac(slot, own.other());
        // The config has been checked, so the names are known.
        let off = config.features_off.iter().map(String::as_str);
        let features_off = Features::from_names(off).unwrap_or_default();
        Self {
            role,
            config,
            control: control.to_owned(),
            slot,
            mac,
            other_mac,
            features_off,
            broker: broker.clone(),
            view,
            stop,
        }
    }

    /// Runs until the daemon stops.
    pub async fn run(mut self) {
        loop {
            let mut netdev = None;
            if self.config.port == Port::Tap {
                netdev = self.netdev().await;
                if netdev.is_none() {
                    return;
                }
                self.view.borrow_mut().mac = Some(self.mac);
            }
            if self.attached(netdev.as_mut()).await {
                if let Some(Err(e)) = netdev.map(|netdev| netdev.tear_down(self.config.keep)) {
                    tracing::warn!("{}: removing the netdev: {e}", self.config.name);
                }
                return;
            }
            if self.pause().await {
                return;
            }
        }
    }

    /// Waits until the netdev can be had; `None` if the daemon stops first.
    async fn netdev(&mut self) -> Option<Netdev> {
        loop {
            match Netdev::set_up(&self.config, self.mac, &self.control, &self.broker).await {
                Ok(netdev) => return Some(netdev),
                Err(e) => self.wait_because(e),
            }
            if self.pause().await {
                return None;
            }
        }
    }

    /// Attaches to the slot, again and again; `true` when the daemon stops, `false` if the netdev is
    /// lost.
    async fn attached(&mut self, mut netdev: Option<&mut Netdev>) -> bool {
        let mut next: Option<Box<ShmLink>> = None;
        loop {
            let shm = match next.take() {
                Some(shm) => Ok(*shm),
                None => {
                    let mut stop = self.stop.clone();
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => return true,
                        shm = self.connect() => shm,
                    }
                }
            };
            match shm {
                Ok(shm) => match self.connected(shm, netdev.as_deref_mut()).await {
                    Ended::Stopping => return true,
                    Ended::NetdevLost => return false,
                    Ended::Moved(shm) => next = shm,
                },
                Err(e) => {
                    self.wait_because(e);
                    if self.pause().await {
                        return true;
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<ShmLink, String> {
        let socket = self.broker.slot(&self.config.name).await?;
        match &self.config.transport {
            Transport::Shm(path) => ShmLink::over(path, socket).await.map_err(|e| e.to_string()),
            other => Err(format!("transport {other} is not in this version")),
        }
    }

    /// Runs the link on one connection.
    async fn connected(&mut self, shm: ShmLink, netdev: Option<&mut Netdev>) -> Ended {
        let mut running = match Running::new(self, shm, netdev) {
            Ok(running) => running,
            Err(e) => {
                self.wait_because(e);
                return if self.pause().await { Ended::Stopping } else { Ended::Moved(None) };
            }
        };
        let ended = running.run().await;
        running.stop_workers().await;
        if let Some(netdev) = running.netdev {
            // A netdev that is lost has none.
            let _ = netdev.tap().set_carrier(false);
        }
        self.view.borrow_mut().link_down();
        ended
    }

    fn wait_because(&self, reason: String) {
        let mut view = self.view.borrow_mut();
        if view.reason != reason {
            tracing::info!("{}: waiting: {reason}", self.config.name);
        }
        view.state = State::Waiting;
        view.reason = reason;
    }

    /// Waits before the next try; `true` if the daemon stops.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(RETRY) => false,
        }
    }
}

/// The slot number that the config gives, or its socket's name such as `slot7.sock`.
fn slot_in(config: &LinkConfig) -> Option<u32> {
    let Transport::Shm(path) = &config.transport else { return config.slot };
    let named = || path.file_stem()?.to_str()?.strip_prefix("slot")?.parse().ok();
    config.slot.or_else(named)
}
