//! One link of a daemon, from its config to its end: netdev if it has one, transport, link, worker.
//!
//! Each step that is not possible yet is tried again, and `status` says why it waits. What one link
//! meets never touches another.

mod running;
mod view;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Role;
use super::broker::{Broker, Refused};
use super::config::{LinkConfig, Port, Transport};
use super::identity::Identity;
use super::netdev::Netdev;
use super::worker::Limits;
use crate::link::State;
use crate::net::features::Features;
use crate::net::rate::Rate;
use crate::net::sources::Sources;
use crate::os::fabric::shm::ShmLink;
use crate::os::log::Log;
use crate::tunnel::part::Role as End;
use running::{Ended, Running};
pub use view::View;

/// Between tries of what may heal.
const RETRY: Duration = Duration::from_millis(500);
/// Between looks for a backplane that is not there: one that is restarted is not to be missed for long.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no connection, and how long to wait before the next try.
struct Refusal {
    why: String,
    pause: Duration,
}

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
    log: Log,
    /// Of all sessions, so that a new one finds no fresh bucket.
    limits: Limits,
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
        let limits = limits(&config);
        Self {
            role,
            log: Log::new(&config.name),
            config,
            control: control.to_owned(),
            slot,
            mac,
            other_mac,
            features_off,
            broker: broker.clone(),
            limits,
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
                    self.log.warn(format_args!("removing the netdev: {e}"));
                }
                return;
            }
            if self.pause(RETRY).await {
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
            if self.pause(RETRY).await {
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
                    self.wait_because(e.why);
                    if self.pause(e.pause).await {
                        return true;
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<ShmLink, Refusal> {
        let refusal = |why, absent| Refusal { why, pause: if absent { LOOK } else { RETRY } };
        let socket = self.broker.slot(&self.config.name).await;
        let socket = socket.map_err(|Refused { text, absent }| refusal(text, absent))?;
        match &self.config.transport {
            Transport::Shm(path) => ShmLink::over(path, socket)
                .await
                .map_err(|e| refusal(e.to_string(), e.is_absence())),
            other => Err(refusal(format!("transport {other} is not in this version"), false)),
        }
    }

    /// Runs the link on one connection.
    async fn connected(&mut self, shm: ShmLink, netdev: Option<&mut Netdev>) -> Ended {
        let mut running = match Running::new(self, shm, netdev) {
            Ok(running) => running,
            Err(e) => {
                self.wait_because(e);
                return if self.pause(RETRY).await { Ended::Stopping } else { Ended::Moved(None) };
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
            self.log.info(format_args!("waiting: {reason}"));
        }
        view.state = State::Waiting;
        view.reason = reason;
    }

    /// Waits before the next try; `true` if the daemon stops.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(time) => false,
        }
    }
}

/// What the other end may send.
fn limits(config: &LinkConfig) -> Limits {
    let networks: Vec<_> =
        config.allow_ip.iter().map(|network| (network.addr(), network.prefix_len())).collect();
    let rate =
        config.rate.map(|rate| Rate::new(Instant::now(), rate.bits, rate.frames.map(u64::from)));
    Limits {
        sources: Sources::new(&config.allow_mac, &networks).map(Arc::new),
        rate: rate.map(Arc::new),
    }
}

/// The slot number that the config gives, or its socket's name such as `slot7.sock`.
fn slot_in(config: &LinkConfig) -> Option<u32> {
    let Transport::Shm(path) = &config.transport else { return config.slot };
    let named = || path.file_stem()?.to_str()?.strip_prefix("slot")?.parse().ok();
    config.slot.or_else(named)
}
