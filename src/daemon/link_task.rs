//! One link of a daemon, from its config to its end: netdev if it has one, transport, link, worker.
//!
//! Each step that is not possible yet is tried again, and `status` says why it waits. What one link
//! meets never touches another. What it is to do comes as [`Order`]s, which it looks for wherever it
//! waits; the number of the last one that it has carried out tells how far it is.
//!
//! What the other end and the backplane can bring about without end, and where it stops:
//!
//! | of | no more than | in |
//! |---|---|---|
//! | clients of the slot, their doorbells | 16, each with 32 | `os::fabric::shm` |
//! | messages taken in a turn | 64; a turn's events are drained after it | `link::messages` |
//! | turns in a row, doorbells heard | 64, 256; then one in 4 ms | `running`, `os::doorbell` |
//! | doorbells that wait to be rung | 16 | `os::doorbell` |
//! | a worker's breaths for nothing | 64 in a row, then two in 2 ms | `worker::rings` |
//! | messages of a vhost-user back-end | 256; then one in 4 ms | `front_end` |
//! | its changes of config space | one reading in 100 ms | `tunnel::vhost_user::front_end` |
//! | its connections | growing pauses | `link::front_end` |
//! | answers and events of the tunnel | 16 each; of what repeats itself the last | `tunnel` |
//! | sessions | growing pauses | `link::again` |
//! | changes of the other end's netdev | growing pauses, up to 2 s | `link::netdev_state` |
//! | log lines | 100 of a level in 10 s | `os::log` |
//! | text from the other end | a version of 32 plain characters | `tunnel::message` |

mod attachment;
mod back_end;
mod front_end;
mod in_band;
mod minding;
mod probed;
mod pump;
mod running;
mod view;
mod workers;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Role;
use super::broker::{Broker, Refused};
use super::capture::Captures;
use super::config::{Address, LinkConfig, Port, Transport};
use super::identity::Identity;
use super::namespaces::Strays;
use super::netdev::{Look, Netdev};
use super::worker::{Cpu, Limits};
use crate::link::State;
use crate::net::features::Features;
use crate::net::rate::Rate;
use crate::net::sources::Sources;
#[cfg(feature = "pci")]
use crate::os::fabric::pci::{Opened, PciLink};
use crate::os::fabric::shm::ShmLink;
#[cfg(feature = "uio")]
use crate::os::fabric::uio::UioLink;
use crate::os::log::Log;
use crate::tunnel::part::Role as End;
use attachment::Attachment;
use minding::Minded;
use running::{Ended, Running};
pub use view::{View, milliseconds};

/// Between tries of what may heal.
const RETRY: Duration = Duration::from_millis(500);
/// A netdev that lasted so long is made again at once when it is lost; for one that does not, pauses grow.
const LASTING: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between looks for a backplane that is not there: one that is restarted is not to be missed for long.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no connection, and how long to wait before the next try.
struct Refusal {
    why: String,
    pause: Duration,
}

/// What a link is to do from now on.
#[derive(Clone, Debug)]
pub struct Order {
    /// Each order of a link has a greater one than the last; those of the start have 0.
    pub number: u64,
    /// Its config: but for addresses, routes, MTU and `keep` it stays the same.
    pub config: LinkConfig,
    /// It is to end.
    pub stop: bool,
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
    functions: watch::Receiver<Vec<Address>>,
    strays: Strays,
    /// What all links of the daemon count their heartbeats from.
    origin: Instant,
    log: Log,
    /// Of all sessions, so that a new one finds no fresh bucket.
    limits: Limits,
    /// What the kernel's vhost-net can do, where it is to move the frames of this connection.
    vhost: Cell<Option<Features>>,
    view: Rc<RefCell<View>>,
    captures: Arc<Captures>,
    orders: watch::Receiver<Order>,
    /// The number of the last order that was carried out; closed when the task has ended.
    done: watch::Sender<u64>,
}

/// What a link's task and the supervisor share.
#[derive(Debug)]
pub struct Shared {
    /// What opens things for it.
    pub broker: Broker,
    /// The PCI functions that are there.
    pub functions: watch::Receiver<Vec<Address>>,
    /// The links that have lost their network namespaces.
    pub strays: Strays,
    /// What all links of the daemon count their heartbeats from.
    pub origin: Instant,
    /// What is known of the link.
    pub view: Rc<RefCell<View>>,
    /// Who captures its frames.
    pub captures: Arc<Captures>,
    /// What it is to do.
    pub orders: watch::Receiver<Order>,
    /// The number of the last order that it has carried out.
    pub done: watch::Sender<u64>,
}

impl LinkTask {
    /// The link in this slot, with what is `shared`, of the daemon with this control socket.
    pub fn new(role: Role, slot: u32, control: PathBuf, id: &Identity, shared: Shared) -> Self {
        let Shared { broker, functions, strays, origin, view, captures, orders, done } = shared;
        let config = orders.borrow().config.clone();
        let own = end_of(role);
        let mac = config.mac.unwrap_or_else(|| id.mac(slot, own));
        let other_mac = id.mac(slot, own.other());
        // The config has been checked, so the names are known.
        let off = config.features_off.iter().map(String::as_str);
        let features_off = Features::from_names(off).unwrap_or_default();
        let log = Log::new(&config.name);
        let limits = limits(&config);
        Self {
            role,
            config,
            control,
            slot,
            mac,
            other_mac,
            features_off,
            log,
            broker,
            functions,
            strays,
            origin,
            limits,
            vhost: Cell::new(None),
            view,
            captures,
            orders,
            done,
        }
    }

    /// Runs until it is ordered to stop.
    pub async fn run(mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let mut netdev = None;
            if self.config.port == Port::Tap {
                netdev = self.netdev().await;
                if netdev.is_none() {
                    return;
                }
                self.view.borrow_mut().mac = Some(self.mac);
            }
            let since = Instant::now();
            let stops = match (&self.config.transport, self.role) {
                (Transport::VhostUser { .. }, Role::Agent) => self.served(netdev.as_mut()).await,
                (Transport::VhostUser { .. }, Role::Master) => self.drives(netdev.as_mut()).await,
                _ => self.attached(netdev.as_mut()).await,
            };
            if stops {
                self.release().await;
                if let Some(netdev) = netdev {
                    let keep = self.order().config.keep;
                    // What is kept for the next start only is for nobody if that does not find it.
                    let keep = keep && (self.config.keep || netdev.is_in_its_place().await);
                    if let Err(e) = netdev.tear_down(keep) {
                        self.log.warn(format_args!("removing the netdev: {e}"));
                    }
                }
                return;
            }
            drop(netdev);
            pause = if since.elapsed() >= LASTING {
                Duration::ZERO
            } else {
                (2 * pause).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
            };
            self.pause(pause).await;
        }
    }

    /// The last order.
    fn order(&self) -> Order {
        self.orders.borrow().clone()
    }

    /// Waits until there is an order that has not been carried out.
    async fn ordered(&self) {
        let mut orders = self.orders.clone();
        let done = *self.done.borrow();
        let found = orders.wait_for(|order| order.number > done).await.is_ok();
        if !found {
            // The supervisor has gone without a word, and so will this task.
            std::future::pending::<()>().await;
        }
    }

    /// Carries out the last order on the netdev, if there is one already; says whether it is to stop.
    async fn obey(&mut self, netdev: Option<&mut Netdev>) -> bool {
        let order = self.order();
        if order.stop {
            return true;
        }
        let is_new = order.number > *self.done.borrow();
        self.config = order.config;
        if let Some(netdev) = netdev.filter(|_| is_new) {
            // One that is gone is found out by whoever uses it.
            if let Look::Failed(e) = netdev.change(&self.config).await {
                self.log.warn(format_args!("{e}"));
            }
            self.view.borrow_mut().mtu = netdev.mtu();
        }
        self.done.send_replace(order.number);
        false
    }

    /// Waits until the netdev can be had; `None` if the link is to stop first.
    async fn netdev(&mut self) -> Option<Netdev> {
        while !self.obey(None).await {
            let strays = self.strays.clone();
            let made = Netdev::set_up(&self.config, self.mac, &self.control, &self.broker, strays);
            match made.await {
                Ok(netdev) => return Some(netdev),
                Err(e) => self.wait_because(e),
            }
            self.pause(RETRY).await;
        }
        None
    }

    /// Attaches to the window, again and again; `true` when the link is to stop, `false` if the netdev is
    /// lost.
    async fn attached(&mut self, mut netdev: Option<&mut Netdev>) -> bool {
        let mut next: Option<Box<Attachment>> = None;
        while !self.obey(netdev.as_deref_mut()).await {
            let transport = match next.take() {
                Some(transport) => Ok(*transport),
                None => match self.minding(netdev.as_deref_mut(), self.connect()).await {
                    Minded::Done(transport) => transport,
                    Minded::Order => continue,
                    Minded::NetdevLost => return false,
                },
            };
            let (why, pause) = match transport {
                Ok(transport) => match self.connected(transport, netdev.as_deref_mut()).await {
                    Ended::Stopping => return true,
                    Ended::NetdevLost => return false,
                    Ended::Moved(found) => {
                        next = found;
                        continue;
                    }
                    Ended::Gone(why) => (why, RETRY),
                },
                Err(e) => (e.why, e.pause),
            };
            let wait = self.wait_unplugged(why, pause);
            if let Minded::NetdevLost = self.minding(netdev.as_deref_mut(), wait).await {
                return false;
            }
        }
        true
    }

    /// The CPU for the worker of this queue pair, if the config has one.
    fn cpu(&self, pair: u16) -> Option<Cpu> {
        let cpus = &self.config.cpu;
        let at = usize::from(pair).checked_rem(cpus.len())?;
        Some(Cpu { number: cpus[at], log: self.log.clone() })
    }

    async fn connect(&self) -> Result<Attachment, Refusal> {
        let refusal = |why, absent| Refusal { why, pause: if absent { LOOK } else { RETRY } };
        let refused = |Refused { text, absent }: Refused| refusal(text, absent);
        let name = &self.config.name;
        match &self.config.transport {
            Transport::Shm(path) => {
                let socket = self.broker.slot(name).await.map_err(refused)?;
                let link = ShmLink::over(path, socket).await;
                let link = link.map_err(|e| refusal(e.to_string(), e.is_absence()))?;
                Attachment::in_slot(link).map_err(|e| refusal(e, false))
            }
            #[cfg(feature = "pci")]
            Transport::Pci(_) => {
                let Opened { told, fds } = self.broker.function(name).await.map_err(refused)?;
                let link = PciLink::new(told, fds).map_err(|e| refusal(e.to_string(), false))?;
                let transport = Transport::Pci(link.wanted()).to_string();
                self.log.info(format_args!("{transport} is {}", told.kind.name));
                self.view.borrow_mut().transport = transport;
                Ok(Attachment::Pci(Box::new(link)))
            }
            #[cfg(feature = "uio")]
            Transport::Uio { path, description } => {
                let (file, layout) = self.broker.uio(name).await.map_err(refused)?;
                let link = UioLink::over(path, file, &layout, description.interrupt);
                let link = link.map_err(|e| refusal(e.to_string(), false))?;
                Ok(Attachment::Uio(Box::new(link)))
            }
            other => Err(refusal(format!("transport {other} is not in this version"), false)),
        }
    }

    /// What the link had of its machine is as it was before.
    async fn release(&self) {
        #[cfg(feature = "pci")]
        if let Transport::Pci(_) = &self.config.transport {
            self.view.borrow_mut().transport = self.config.transport.to_string();
            if let Err(e) = self.broker.release(&self.config.name).await {
                self.log.warn(&e);
            }
        }
    }

    /// Runs the link on one connection.
    async fn connected(&mut self, transport: Attachment, netdev: Option<&mut Netdev>) -> Ended {
        self.look_for_vhost().await;
        let mut running = match Running::new(self, transport, netdev) {
            Ok(running) => running,
            Err(e) => {
                self.wait_because(e);
                self.pause(RETRY).await;
                return Ended::Moved(None);
            }
        };
        let ended = running.run().await;
        running.leave().await;
        self.release().await;
        ended
    }

    fn wait_because(&self, reason: String) {
        let [_, is_new] = self.view.borrow_mut().enter(State::Waiting, reason.clone());
        if is_new {
            self.log.info(format_args!("waiting: {reason}"));
        }
    }

    /// Waits before the next try, or until there is an order.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.ordered() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    /// Says why, and waits before the next try, or until PCI functions have come or gone.
    async fn wait_unplugged(&self, why: String, time: Duration) {
        self.wait_because(why);
        let mut functions = self.functions.clone();
        functions.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = functions.changed() => {}
        }
    }
}

/// Which end of a link a daemon of this role has.
fn end_of(role: Role) -> End {
    match role {
        Role::Master => End::Driver,
        Role::Agent => End::Device,
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
