//! From messages to a data path: what the link does when the tunnel or the device model speaks.

use std::time::Instant;

use zerocopy::FromBytes;

use super::messages::Broken;
use super::{Core, Event, Link, Start, State, Work};
use crate::memory::Kind;
use crate::net::device_path::DevicePath;
use crate::net::driver_path::DriverPath;
use crate::net::engine_path::EnginePath;
use crate::net::features::Features;
use crate::net::model;
use crate::net::path::{Path, PathError};
use crate::net::placement::place;
use crate::spec::{net, virtio, window};
use crate::tunnel::device;
use crate::tunnel::driver::{self, QueueSetup};
use crate::tunnel::model::Device;
use crate::tunnel::part::Role;
use crate::virtqueue::QueueConfig;

impl Link {
    /// What this end offers or accepts. Packed rings are for cached memory only.
    pub(super) fn features(&self) -> Features {
        let cached = self.mem.regions().iter().all(|r| r.kind() == Kind::Cached);
        let unfit = if cached { Features::NONE } else { Features::of(&[virtio::F_RING_PACKED]) };
        Features::OFFER.without(self.params.features_off.union(unfit))
    }

    /// Acts on what the tunnel and the model say.
    pub(super) fn drain(&mut self, now: Instant) -> Result<(), Broken> {
        loop {
            match &mut self.core {
                None => return Ok(()),
                Some(Core::Driver { tunnel, .. }) => {
                    let Some(event) = tunnel.poll_event() else { return Ok(()) };
                    self.driver_event(now, event)?;
                }
                Some(Core::Device { tunnel, model }) => {
                    if let Some(event) = tunnel.poll_event() {
                        self.device_event(event)?;
                    } else if let Some(event) = model.poll_event() {
                        self.model_event(now, event)?;
                    } else {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn driver_event(&mut self, now: Instant, event: driver::Event) -> Result<(), Broken> {
        match event {
            driver::Event::Hello(hello) => self.greet(hello),
            driver::Event::QueuesNeeded { max_sizes, features, .. } => {
                self.set_up_queues(now, &max_sizes, Features::from_bits(features))?;
            }
            driver::Event::Running { features, config } => {
                let Some(Core::Driver { path, features: used, .. }) = &mut self.core else {
                    return Ok(());
                };
                *used = Features::from_bits(features);
                if let Some(path) = path.take() {
                    self.start(path, Features::from_bits(features), config_of(&config), now);
                }
            }
            driver::Event::ConfigChanged { config } => {
                let has_status = matches!(
                    &self.core,
                    Some(Core::Driver { features, .. }) if features.has(net::F_STATUS)
                );
                if has_status {
                    self.carrier(&config_of(&config));
                }
            }
            driver::Event::UsedNotified(_) => self.events.push_back(Event::Wake),
            driver::Event::Failed(error) => return Err(Broken(error.to_string())),
            driver::Event::Stopped => {}
        }
        Ok(())
    }

    /// Makes the driver's data path, and only then tells the device of the queues.
    fn set_up_queues(
        &mut self,
        now: Instant,
        max_sizes: &[u16],
        features: Features,
    ) -> Result<(), Broken> {
        let &[receive, transmit, ..] = max_sizes else {
            return Err(Broken("the device has fewer than two queues".to_owned()));
        };
        let own = u64::from(window::mailbox_len(window::SLOTS));
        let after_header = self.params.window.start + u64::from(window::HEADER_LEN);
        let placement = place(
            after_header + own..self.params.window.end,
            self.params.driver_memory.start + own..self.params.driver_memory.end,
            [receive, transmit],
            features,
        )
        .ok_or_else(|| Broken("the slot is too small for queues and buffers".to_owned()))?;
        let (rx, tx) = (&placement.receiveq, &placement.transmitq);
        let new_path = DriverPath::new(&self.mem, features, rx, tx, &placement.buffers)
            .map_err(|e| Broken(e.to_string()))?;
        if let Some(Core::Driver { tunnel, path, .. }) = &mut self.core {
            *path = Some(Box::new(new_path));
            let setup = |index, q: &QueueConfig| QueueSetup {
                index,
                size: q.size,
                desc: q.desc,
                driver: q.driver,
                device: q.device,
            };
            tunnel.set_queues(now, vec![setup(net::RECEIVEQ, rx), setup(net::TRANSMITQ, tx)]);
        }
        Ok(())
    }

    fn device_event(&mut self, event: device::Event) -> Result<(), Broken> {
        match event {
            device::Event::PeerHello(hello) => self.greet(hello),
            device::Event::HelloRefused(refused) => return Err(Broken(refused.to_string())),
            device::Event::QueueNotified(_) => self.events.push_back(Event::Wake),
            device::Event::QueueRefused { .. }
            | device::Event::Pong { .. }
            | device::Event::Malformed(_) => {}
        }
        Ok(())
    }

    fn model_event(&mut self, now: Instant, event: model::Event) -> Result<(), Broken> {
        match event {
            model::Event::Activate { features, queues } => {
                let config = |index: u16| {
                    queues
                        .iter()
                        .find(|q| q.index == index)
                        .map(|q| QueueConfig {
                            size: q.size,
                            desc: q.desc,
                            driver: q.driver,
                            device: q.device,
                            packed: features.has(virtio::F_RING_PACKED),
                            in_order: features.has(virtio::F_IN_ORDER),
                            event_idx: features.has(virtio::F_EVENT_IDX),
                            indirect: features.has(virtio::F_INDIRECT_DESC),
                        })
                        .ok_or_else(|| Broken(format!("DRIVER_OK without queue {index}")))
                };
                let (rx, tx) = (config(net::RECEIVEQ)?, config(net::TRANSMITQ)?);
                let broken = |e: PathError| Broken(e.to_string());
                let path: Box<dyn Path> = match self.params.engine {
                    None => {
                        Box::new(DevicePath::new(&self.mem, features, &rx, &tx).map_err(broken)?)
                    }
                    Some(engine) => Box::new(
                        EnginePath::new(&self.mem, features, &rx, &tx, engine).map_err(broken)?,
                    ),
                };
                let Some(Core::Device { model, .. }) = &self.core else { return Ok(()) };
                let mut octets = [0; size_of::<net::Config>()];
                model.read_config(0, &mut octets);
                self.start(path, features, config_of(&octets), now);
            }
            model::Event::Reset => self.take_back(now, "the driver reset the device".to_owned()),
            // Not negotiated: whoever does this is about to take the device down.
            model::Event::ResetQueue(index) => {
                self.take_back(now, format!("the driver reset queue {index}"));
            }
            model::Event::EnableQueue(queue) => {
                return Err(Broken(format!("queue {} was set up after DRIVER_OK", queue.index)));
            }
        }
        Ok(())
    }

    /// No worker has the data path any more.
    pub(super) fn rest(&mut self) {
        if let Some(Core::Device { tunnel, model }) = &mut self.core {
            model.quiesced();
            tunnel.notify_at_rest(model.as_ref());
        }
    }

    /// Takes the data path back from the worker.
    fn take_back(&mut self, now: Instant, why: String) {
        if self.work == Work::Idle {
            self.rest();
        } else {
            self.say(State::Negotiating, why);
            self.stop_worker(now);
        }
    }

    fn start(
        &mut self,
        path: Box<dyn Path>,
        features: Features,
        config: net::Config,
        now: Instant,
    ) {
        self.work = Work::Running;
        self.up_since = Some(now);
        let doorbell = self.peer.as_ref().and_then(|p| match p.vectors {
            0 => None,
            1 => Some((p.owner, 0)),
            _ => Some((p.owner, 1)),
        });
        self.events.push_back(Event::Start(Start { path, features, config, doorbell }));
        self.say(State::Up, String::new());
        if self.params.role == Role::Driver && features.has(net::F_STATUS) {
            self.carrier(&config);
        } else {
            self.link_status(true);
        }
    }

    fn carrier(&mut self, config: &net::Config) {
        self.link_status(config.status.get() & net::S_LINK_UP != 0);
    }
}

fn config_of(bytes: &[u8]) -> net::Config {
    let mut octets = [0; size_of::<net::Config>()];
    let len = bytes.len().min(octets.len());
    octets[..len].copy_from_slice(&bytes[..len]);
    net::Config::read_from_bytes(&octets).unwrap_or_default()
}
