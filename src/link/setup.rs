//! From messages to a data path: what the link does when the tunnel or the device model speaks.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use zerocopy::FromBytes;

use super::control::may_reset;
use super::messages::Broken;
use super::pairs::Pair;
use super::{Core, Event, Link, LinkParams, Start, State, Work};
use crate::memory::{Kind, Region};
use crate::net::control::ControlPath;
use crate::net::control_driver::{Command, ControlDriver};
use crate::net::device_path::DevicePath;
use crate::net::driver_path::DriverPath;
use crate::net::engine_path::EnginePath;
use crate::net::features::Features;
use crate::net::model;
use crate::net::path::{Path, PathError, Which};
use crate::net::placement::{Reach, place_all};
use crate::spec::{net, virtio, window};
use crate::tunnel::device;
use crate::tunnel::driver::{self, DriverError, QueueSetup};
use crate::tunnel::model::Device;
use crate::tunnel::part::{Layout, Reason, Role};
use crate::virtqueue::QueueConfig;

impl Link {
    /// What this end offers or accepts. Packed rings are for cached memory only,
    /// and one pair needs no command to choose it.
    pub(super) fn features(&self) -> Features {
        // Where an engine alone reaches driver memory, no ring of ours is there.
        let mut kinds = self.mem.regions().iter().map(Region::kind);
        let cached = kinds.all(|kind| matches!(kind, Kind::Cached | Kind::DmaOnly));
        let mut off = self.params.features_off;
        if !cached {
            off = off.union(Features::of(&[virtio::F_RING_PACKED]));
        }
        if self.params.pairs == 1 {
            off = off.union(Features::of(&[net::F_MQ]));
        }
        let all = match self.params.role {
            Role::Device => Features::OFFER,
            Role::Driver => Features::ACCEPT,
        };
        all.without(off)
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
                Some(Core::Device { tunnel, model, .. }) => {
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
            driver::Event::QueuesNeeded { queues, features, .. } => {
                self.set_up_queues(now, &queues, Features::from_bits(features))?;
            }
            driver::Event::Running { features, config } => {
                self.start(Features::from_bits(features), config_of(&config), now);
            }
            driver::Event::ConfigChanged { config } => {
                let has_status = matches!(
                    &self.core,
                    Some(Core::Driver { features, .. }) if features.has(net::F_STATUS)
                );
                if has_status {
                    self.configured(&config_of(&config));
                }
            }
            driver::Event::UsedNotified(_) => self.events.push_back(Event::Wake),
            // No offence: it is what an end does that was killed.
            driver::Event::Failed(DriverError::Forgotten) => {
                self.leave(now, State::Down, Reason::Restarted(Role::Device).to_string());
            }
            driver::Event::Failed(error) => return Err(Broken(error.to_string())),
            driver::Event::Stopped => {}
        }
        Ok(())
    }

    /// Makes the driver's data paths, and only then tells the device of the queues.
    fn set_up_queues(
        &mut self,
        now: Instant,
        queues: &[(u16, u16)],
        features: Features,
    ) -> Result<(), Broken> {
        let broken = |e: &dyn fmt::Display| Broken(e.to_string());
        let (control, pairs) = match queues.split_last() {
            Some((last, pairs)) if features.has(net::F_CTRL_VQ) => (Some(*last), pairs),
            _ => (None, queues),
        };
        let sizes: Vec<[u16; 2]> =
            pairs.chunks_exact(2).map(|pair| [pair[0].1, pair[1].1]).collect();
        let (near_device, near_driver, reach) = self.free_memory();
        let placed = place_all(
            near_device,
            near_driver,
            &sizes,
            control.map(|(_, size)| size),
            features,
            reach,
        )
        .ok_or_else(|| Broken("the slot is too small for queues and buffers".to_owned()))?;
        // What a session that failed before it ran has left goes.
        self.pairs.clear();
        let mut setups = Vec::new();
        for p in &placed.pairs {
            let path = DriverPath::new(&self.mem, features, &p.receiveq, &p.transmitq, &p.buffers)
                .map_err(|e| broken(&e))?;
            self.pairs.push(Pair::new(Box::new(path)));
            setups.extend([&p.receiveq, &p.transmitq]);
        }
        let mut setups: Vec<_> =
            (0..).zip(setups).map(|(index, queue)| setup_of(index, queue)).collect();
        let Some(Core::Driver { tunnel, control: driver, control_index, features: used, .. }) =
            &mut self.core
        else {
            return Ok(());
        };
        *used = features;
        if let (Some((index, _)), Some(p)) = (control, placed.control) {
            let new = ControlDriver::new(&self.mem, &p.queue, p.command, p.answer);
            *driver = Some(new.map_err(|e| broken(&e))?);
            *control_index = index;
            setups.push(setup_of(index, &p.queue));
        }
        tunnel.set_queues(now, setups);
        Ok(())
    }

    /// Driver: what of memory is free for queues and buffers: near the device, near the driver, and what of
    /// it the device's CPU reaches.
    fn free_memory(&self) -> (Range<u64>, Range<u64>, Reach) {
        let LinkParams { window, driver_memory, layout, .. } = &self.params;
        if *layout == Layout::AmpPci {
            // All of it is the driver's memory. A third has what would be near the device elsewhere.
            let third = (driver_memory.end - driver_memory.start) / 3;
            let middle = driver_memory.start + third;
            return (driver_memory.start..middle, middle..driver_memory.end, Reach::Both);
        }
        let own = u64::from(window::mailbox_len(window::SLOTS));
        let after_header = window.start + u64::from(window::HEADER_LEN);
        let dma_only = self.peer.as_ref().is_some_and(|peer| peer.dma_only);
        let (mailboxes, reach) = if dma_only { (2, Reach::Window) } else { (1, Reach::Both) };
        let near_device = after_header + mailboxes * own..window.end;
        (near_device, driver_memory.start + own..driver_memory.end, reach)
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
            model::Event::Activate { features, queues } => self.activate(now, features, &queues)?,
            model::Event::Reset => {
                self.take_back(now, "the driver reset the device".to_owned());
                self.may_try_again()?;
            }
            model::Event::ResetQueue(index) if self.resets_queue(index) => {
                self.reset_queue(now, index);
            }
            model::Event::ResetQueue(index) if self.reset_alone(index) => {}
            // Whoever does this without RING_RESET takes the device down.
            model::Event::ResetQueue(index) => {
                self.take_back(now, format!("the driver reset queue {index}"));
            }
            model::Event::EnableQueue(queue) => {
                let Some(Core::Device { model, .. }) = &self.core else { return Ok(()) };
                let features = model.negotiated().unwrap_or_default();
                let config = config_from(&queue, features);
                let made = match self.enable_control(queue.index, &config) {
                    Ok(false) if !self.enable_queue(now, queue.index, config) => {
                        self.make_paths(features)
                    }
                    made => made.map(drop),
                };
                // The device runs, so the driver can be told, as with a pair that was whole before.
                if let Err(e) = made {
                    self.broken(now, &e.to_string());
                }
            }
            model::Event::UsePairs(pairs) => self.use_pairs(pairs),
            model::Event::Offloads(offloads) => {
                self.events.push_back(Event::Offloads(offloads));
                self.change_offloads(now);
            }
        }
        Ok(())
    }

    /// Whether this queue can be reset while the others run.
    fn resets_queue(&self, index: u16) -> bool {
        let Some(Core::Device { model, .. }) = &self.core else { return false };
        may_reset(model) && usize::from(Which::of(index).0) < self.pairs.len()
    }

    /// The driver is set up: it has a pair at least.
    fn activate(
        &mut self,
        now: Instant,
        features: Features,
        queues: &[model::QueueSetup],
    ) -> Result<(), Broken> {
        self.pairs.clear();
        self.make_paths(features)?;
        let there = |index| queues.iter().find(|queue| queue.index == index);
        if self.pairs.is_empty() {
            let missing =
                if there(net::RECEIVEQ).is_none() { net::RECEIVEQ } else { net::TRANSMITQ };
            return Err(Broken(format!("DRIVER_OK without queue {missing}")));
        }
        let Some(Core::Device { model, control, .. }) = &mut self.core else { return Ok(()) };
        let queue = there(model.controlq()).filter(|_| features.has(net::F_CTRL_VQ));
        let new = queue.map(|queue| ControlPath::new(&self.mem, &config_from(queue, features)));
        *control = new.transpose().map_err(|e| Broken(format!("controlq: {e}")))?;
        let mut octets = [0; size_of::<net::Config>()];
        model.read_config(0, &mut octets);
        self.start(features, config_of(&octets), now);
        Ok(())
    }

    /// Makes the device's data paths of the pairs that the driver has set up. It may leave pairs out, and
    /// can use only those before.
    fn make_paths(&mut self, features: Features) -> Result<(), Broken> {
        let Some(Core::Device { model, .. }) = &self.core else { return Ok(()) };
        let settings = model.settings().clone();
        let broken = |e: PathError| Broken(e.to_string());
        let config = |index| Some(config_from(&model.queue_setup(index)?, features));
        for pair in u16::try_from(self.pairs.len()).unwrap_or(u16::MAX)..model.pairs() {
            let (Some(rx), Some(tx)) = (config(2 * pair), config(2 * pair + 1)) else { break };
            let path: Box<dyn Path> = match self.params.engine {
                None if super::reaches_window_only(&self.mem) => {
                    let why = "driver memory is reached by an engine only, and there is none";
                    return Err(Broken(why.to_owned()));
                }
                None => {
                    let path = DevicePath::new(&self.mem, features, &rx, &tx).map_err(broken)?;
                    Box::new(path.obeying(&settings).with_own_driver(self.netdevs.is_greeted()))
                }
                Some(engine) => {
                    let path = EnginePath::new(&self.mem, features, &rx, &tx, engine);
                    let path = path.map_err(broken)?.obeying(&settings);
                    Box::new(path.with_own_driver(self.netdevs.is_greeted()))
                }
            };
            self.pairs.push(Pair::new(path));
        }
        Ok(())
    }

    /// No worker has the data path any more.
    pub(super) fn rest(&mut self) {
        if let Some(Core::Device { tunnel, model, .. }) = &mut self.core {
            model.quiesced();
            tunnel.notify_at_rest(model.as_ref());
        }
    }

    /// Takes the data path back from the worker.
    fn take_back(&mut self, now: Instant, why: String) {
        if let Some(Core::Device { control, .. }) = &mut self.core {
            *control = None;
        }
        if self.work == Work::Idle {
            self.rest();
        } else {
            self.say(State::Negotiating, why);
            self.stop_workers(now);
        }
    }

    fn start(&mut self, features: Features, config: net::Config, now: Instant) {
        self.work = Work::Running;
        self.up_since = Some(now);
        self.events.push_back(Event::Start(Start { features, config }));
        self.use_pairs(1);
        self.say(State::Up, String::new());
        if self.params.role == Role::Device {
            self.link_status(true);
            // The driver's address may have been behind another port of this network before.
            if let Some(Core::Device { tunnel, model, .. }) = &mut self.core {
                if model.ask_to_announce() {
                    tunnel.notify_config_changed(model.as_ref());
                }
            }
            return;
        }
        self.command(net::F_CTRL_RX, Command::Promiscuous(true));
        self.tell_mac();
        if let Ok(pairs @ 2..) = u16::try_from(self.pairs.len()) {
            self.command(net::F_MQ, Command::UsePairs(pairs));
        }
        if features.has(net::F_STATUS) {
            self.configured(&config);
        } else {
            self.link_status(true);
        }
    }
}

fn setup_of(index: u16, queue: &QueueConfig) -> QueueSetup {
    let QueueConfig { size, desc, driver, device, .. } = *queue;
    QueueSetup { index, size, desc, driver, device }
}

pub(super) fn config_from(queue: &model::QueueSetup, features: Features) -> QueueConfig {
    QueueConfig {
        size: queue.size,
        desc: queue.desc,
        driver: queue.driver,
        device: queue.device,
        packed: features.has(virtio::F_RING_PACKED),
        in_order: features.has(virtio::F_IN_ORDER),
        event_idx: features.has(virtio::F_EVENT_IDX),
        indirect: features.has(virtio::F_INDIRECT_DESC),
    }
}

/// What a device's config space says, as far as it was read.
pub(super) fn config_of(bytes: &[u8]) -> net::Config {
    let mut octets = [0; size_of::<net::Config>()];
    let len = bytes.len().min(octets.len());
    octets[..len].copy_from_slice(&bytes[..len]);
    net::Config::read_from_bytes(&octets).unwrap_or_default()
}
