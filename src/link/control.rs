//! The control queue: what the driver asks of the device at run time, at either end.

use std::time::Instant;

use super::messages::Broken;
use super::{Core, Event, Link, State, Work};
use crate::net::control::ControlPath;
use crate::net::control_driver::{Command, ControlError};
use crate::net::model::NetDevice;
use crate::net::path::Which;
use crate::spec::{net, virtio};
use crate::virtqueue::QueueConfig;

/// Commands of the kind that data paths follow, answered in one turn; a flood waits.
const MOST_ROUNDS: usize = 16;

impl Link {
    /// Carries out the driver's commands, or asks the device and takes its answers.
    pub(super) fn turn_control(&mut self, now: Instant) {
        // Before DRIVER_OK nothing is asked (virtio 1.4 §3.1.1), and a queue that rests is the driver's.
        if self.work != Work::Running {
            return;
        }
        for _ in 0..MOST_ROUNDS {
            self.turn_control_once(now);
            let waits = matches!(
                &self.core,
                Some(Core::Device { control: Some(control), .. }) if control.waits()
            );
            if !waits || !self.pairs_are_settled() {
                return;
            }
        }
        self.more = true;
    }

    fn turn_control_once(&mut self, now: Instant) {
        let settled = self.pairs_are_settled();
        let ring = match &mut self.core {
            Some(Core::Device { model, control: Some(control), .. }) => {
                match control.handle(&self.mem, model, settled) {
                    Ok((ring, more)) => {
                        self.more |= more;
                        ring
                    }
                    Err(e) => return self.broken(now, &format!("controlq: {e}")),
                }
            }
            Some(Core::Driver { control: Some(_), .. }) => match self.ask(now) {
                Ok(ring) => ring,
                Err(e) => return self.offend(now, e.to_string()),
            },
            _ => return,
        };
        if ring {
            self.ring_control();
        }
        // What the commands changed.
        if let Err(e) = self.drain(now).and_then(|()| self.send()) {
            self.offend(now, e.to_string());
        }
    }

    /// Tells the other end that there is something in the control queue.
    fn ring_control(&mut self) {
        let index = match &self.core {
            Some(Core::Driver { control_index, .. }) => *control_index,
            Some(Core::Device { model, .. }) => model.controlq(),
            None => return,
        };
        match &self.peer {
            _ if self.notifies_in_band() => self.notify(index),
            Some(peer) => self.ring(peer.owner, 0),
            None => {}
        }
    }

    /// Takes the device's answers and asks the next thing. `true`: ring the device.
    fn ask(&mut self, now: Instant) -> Result<bool, Broken> {
        let broken = |e: ControlError| Broken(e.to_string());
        loop {
            let Some(Core::Driver { control: Some(control), .. }) = &mut self.core else {
                return Ok(false);
            };
            match control.poll(now, &self.mem).map_err(broken)? {
                None => return control.send(now, &self.mem).map_err(broken),
                Some((command, done)) => self.answered(command, done),
            }
        }
    }

    /// A device may refuse a command (virtio 1.4 §5.1.6.5): one pair works anyway, an announcement asks for
    /// nothing, and what it then filters its people have to know.
    fn answered(&mut self, command: Command, done: bool) {
        match command {
            Command::UsePairs(pairs) if done => self.use_pairs(pairs),
            Command::Promiscuous(_) | Command::MacAddress(_) if !done => {
                let why =
                    format!("controlq: the device refuses {command:?}, and may filter frames");
                self.say(State::Up, why);
            }
            _ => {}
        }
    }

    /// Driver: has the device asked for this, if it has a control queue and the feature.
    pub(super) fn command(&mut self, feature: u8, command: Command) {
        if let Some(Core::Driver { control: Some(control), features, .. }) = &mut self.core {
            if features.has(feature) {
                control.ask(command);
            }
        }
    }

    /// Driver: config space says something new.
    pub(super) fn configured(&mut self, config: &net::Config) {
        let status = config.status.get();
        self.link_status(status & net::S_LINK_UP != 0);
        if status & net::S_ANNOUNCE != 0 {
            self.events.push_back(Event::Announce);
            self.command(net::F_GUEST_ANNOUNCE, Command::Announced);
        }
    }

    /// Device: the driver resets a queue that no worker has: the control queue, or one of a pair that is not
    /// whole. `false`: it is another one, or the driver may not.
    pub(super) fn reset_alone(&mut self, index: u16) -> bool {
        let alone = usize::from(Which::of(index).0) >= self.pairs.len();
        match &mut self.core {
            Some(Core::Device { tunnel, model, control }) if alone && may_reset(model) => {
                if is_control(model, index) {
                    *control = None;
                }
                model.queue_quiesced(index);
                tunnel.notify_at_rest(model.as_ref());
                true
            }
            _ => false,
        }
    }

    /// Device: the driver has set up the control queue that it had reset. `false`: it is another one.
    pub(super) fn enable_control(
        &mut self,
        index: u16,
        config: &QueueConfig,
    ) -> Result<bool, Broken> {
        match &mut self.core {
            Some(Core::Device { model, control, .. })
                if may_reset(model) && is_control(model, index) =>
            {
                let new = ControlPath::new(&self.mem, config);
                *control = Some(new.map_err(|e| Broken(format!("controlq: {e}")))?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn has(model: &NetDevice, feature: u8) -> bool {
    model.negotiated().is_some_and(|features| features.has(feature))
}

/// Device: whether the driver may reset queues while others run, and set them up anew.
pub(super) fn may_reset(model: &NetDevice) -> bool {
    has(model, virtio::F_RING_RESET)
}

fn is_control(model: &NetDevice, index: u16) -> bool {
    has(model, net::F_CTRL_VQ) && index == model.controlq()
}
