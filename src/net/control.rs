//! The device's end of the control queue: takes commands, has the model carry them out, says whether it did
//! (virtio 1.4 §5.1.6.5).
//!
//! A command is a class, a command and data in the readable buffers, however the driver has cut them, and
//! one byte for the answer in a writable one. It is copied to private memory before it is looked at.
//!
//! The answer says that what was asked for is so: no frame goes to a pair that is not used any more
//! (§5.1.6.5.6.2), none carries an offload that was turned off. Where data paths have to follow first, it
//! waits for them, and so do later commands.

use super::model::NetDevice;
use super::path;
use crate::memory::BusMemory;
use crate::spec::net::ctrl;
use crate::virtqueue::{Chain, DeviceQueue, Position, QueueConfig, QueueError, Start};

/// Longest command: a filter table of 1,300 addresses. A longer one is refused.
const LONGEST: usize = 8 << 10;
/// Commands done in one go; a flood waits.
const MOST_COMMANDS: usize = 16;

/// The device's end of a control queue.
#[derive(Debug)]
pub struct ControlPath {
    queue: DeviceQueue,
    chain: Chain,
    command: Box<[u8]>,
    /// Of a command that is done but not answered: how many bytes were written.
    unanswered: Option<u32>,
}

impl ControlPath {
    /// A path over the queue that the driver has set up.
    pub fn new(mem: &BusMemory, queue: &QueueConfig) -> Result<Self, QueueError> {
        queue.activate_device(mem).map(Self::over)
    }

    /// A path over a queue that is in use.
    pub fn new_at(mem: &BusMemory, queue: &QueueConfig, start: Start) -> Result<Self, QueueError> {
        queue.activate_device_at(mem, start).map(Self::over)
    }

    fn over(queue: DeviceQueue) -> Self {
        let chain = Chain::with_capacity(queue.size().into());
        Self { queue, chain, command: vec![0; LONGEST].into(), unanswered: None }
    }

    /// Ends in the middle of the queue: where a successor goes on. A command that was not answered is
    /// carried out again.
    pub fn halt(mut self) -> Position {
        if self.unanswered.is_some() {
            self.queue.unpop(1);
        }
        self.queue.position()
    }

    /// Whether a command waits for the data paths.
    pub fn waits(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Carries out the commands that wait, up to one that data paths have to follow. `followed`: they have
    /// followed all that the device was told before. `(ring the driver, more wait)`.
    pub fn handle(
        &mut self,
        mem: &BusMemory,
        device: &mut NetDevice,
        followed: bool,
    ) -> Result<(bool, bool), QueueError> {
        if self.waits() && !followed {
            return Ok((false, false));
        }
        self.queue.disarm(mem);
        for _ in 0..MOST_COMMANDS {
            if let Some(written) = self.unanswered.take() {
                self.queue.push(mem, self.chain.head, written);
            }
            if !self.queue.pop(mem, &mut self.chain)? {
                break;
            }
            self.unanswered = Some(self.carry_out(mem, device));
            if device.has_to_be_followed() {
                return Ok((self.queue.publish(mem), false));
            }
        }
        if let Some(written) = self.unanswered.take() {
            self.queue.push(mem, self.chain.head, written);
        }
        let ring = self.queue.publish(mem);
        Ok((ring, self.queue.arm(mem)?))
    }

    /// Carries out the command in the chain; how many bytes were written.
    fn carry_out(&mut self, mem: &BusMemory, device: &mut NetDevice) -> u32 {
        let len = self.chain.readable_len() as usize;
        let reachable = path::all_mapped(mem, &self.chain.readable);
        let done = self.command.get_mut(..len).filter(|_| reachable).and_then(|command| {
            path::copy_out(mem, &self.chain.readable, 0, command);
            match command {
                [class, command, data @ ..] => device.control((*class, *command), data),
                _ => None,
            }
        });
        let answer = if done.is_some() { ctrl::OK } else { ctrl::ERR };
        path::copy_in(mem, &self.chain.writable, 0, &[answer]);
        self.chain.writable_len().min(1)
    }
}
