//! Bells of this link's workers, whose rings become messages: where notifications go in band, the link
//! tells the other end of them.
//!
//! A bell is an eventfd of this process, which a task waits for. What it hears waits in a channel, so that
//! the tasks wait for the link, and of rings without end each hears one in a while, as of a doorbell.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use crate::daemon::worker::{IN, OUT};
use crate::os::bell::Bell;
use crate::os::doorbell::Doorbell;
use crate::spec::net;
use crate::tunnel::part::Role;

/// The bells of a link's workers.
#[derive(Debug)]
pub(super) struct InBand {
    heard: mpsc::Receiver<u16>,
    hears: mpsc::Sender<u16>,
    /// By queue: its bell, and who waits for that. A queue keeps them when its worker changes, as a ring
    /// of the last one may not have been heard yet.
    bells: BTreeMap<u16, (Bell, JoinHandle<()>)>,
}

impl InBand {
    pub(super) fn new() -> Self {
        let (hears, heard) = mpsc::channel(1);
        Self { heard, hears, bells: BTreeMap::new() }
    }

    /// Bells for the worker of a pair at this end, by way.
    pub(super) fn bells(&mut self, role: Role, pair: u16) -> io::Result<[Option<Bell>; 2]> {
        let mut bells = [None, None];
        for way in [OUT, IN] {
            // Frames go out by the driver's transmitq, which is where they come in at the device.
            let transmits = (role == Role::Driver) == (way == OUT);
            let queue = 2 * pair + if transmits { net::TRANSMITQ } else { net::RECEIVEQ };
            let bell = match self.bells.get(&queue) {
                Some((bell, task)) if !task.is_finished() => bell.clone(),
                _ => self.bell(queue)?,
            };
            bells[way] = Some(bell);
        }
        Ok(bells)
    }

    fn bell(&mut self, queue: u16) -> io::Result<Bell> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (mut rings, hears) = (Doorbell::new(bell.clone())?, self.hears.clone());
        let task = spawn_local(async move {
            while rings.rung().await.is_ok() && hears.send(queue).await.is_ok() {}
        });
        let bell = Bell::from(bell);
        self.bells.insert(queue, (bell.clone(), task));
        Ok(bell)
    }

    /// Waits for a ring: the queue that it is for. Nothing is lost if it is dropped early.
    pub(super) async fn rung(&mut self) -> u16 {
        match self.heard.recv().await {
            Some(queue) => queue,
            None => std::future::pending().await,
        }
    }

    /// No worker is there to ring.
    pub(super) fn clear(&mut self) {
        for (_, task) in std::mem::take(&mut self.bells).into_values() {
            task.abort();
        }
    }
}

impl Drop for InBand {
    fn drop(&mut self) {
        self.clear();
    }
}
