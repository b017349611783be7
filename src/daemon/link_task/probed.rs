//! What a link says of its window and its queues to whoever asks: looked at when he does.

use std::collections::BTreeSet;
use std::sync::Weak;

use crate::daemon::probe::window::{LinkProbe, Memories, Presence, Queue, Window};
use crate::link::LinkQueue;
use crate::memory::{BusMemory, Look};
use crate::os::fabric::Attached;
use crate::tunnel::inspect::Header;
use crate::tunnel::part::Role;

/// What a link is attached to, and the queues of its session.
#[derive(Debug)]
pub(super) struct Probed {
    /// It goes with the attachment.
    memory: Weak<BusMemory>,
    memories: Memories,
    /// Which end is ours, and its id.
    own: (Role, u32),
    /// Who else is there; `None`: the transport does not tell.
    pub(super) present: Option<BTreeSet<u32>>,
    pub(super) queues: Vec<LinkQueue>,
}

impl Probed {
    /// An end that is attached, with the memory that its CPU reaches.
    pub(super) fn new(memory: Weak<BusMemory>, attached: &Attached, role: Role) -> Self {
        Self {
            memory,
            memories: Memories {
                window: attached.window.bus(),
                driver: attached.driver_memory.bus(),
            },
            own: (role, attached.id),
            present: None,
            queues: Vec::new(),
        }
    }

    /// Looks at it; nothing is there any more once the link has left.
    pub(super) fn look(&self) -> LinkProbe {
        let Some(memory) = self.memory.upgrade() else { return LinkProbe::default() };
        let reach = |addr, len| {
            let span = memory.resolve_mapped(addr, len, 8).ok()?;
            memory.view(span).map(Look::from)
        };
        let window = self.memories.window.clone();
        let len = u32::try_from(window.end - window.start).unwrap_or(u32::MAX);
        let header = reach(window.start, len).and_then(|window| Header::read(window, &reach));
        let presence = |role, id| match &self.present {
            _ if (role, id) == self.own => Presence::Attached,
            None => Presence::Unknown,
            Some(ids) if ids.contains(&id) => Presence::Attached,
            Some(_) => Presence::Gone,
        };
        LinkProbe {
            window: header.map(|header| Window::new(&header, &self.memories, &presence)),
            queues: self.queues.iter().map(|queue| self.queue(queue)).collect(),
        }
    }

    fn queue(&self, queue: &LinkQueue) -> Queue {
        let name = match queue.index {
            _ if queue.control => "controlq".to_owned(),
            index if index % 2 == 0 => format!("receiveq{}", index / 2),
            index => format!("transmitq{}", index / 2),
        };
        let [descriptors, driver_area, device_area] =
            [queue.desc, queue.driver, queue.device].map(|addr| self.memories.place(addr));
        Queue {
            name,
            index: queue.index,
            size: queue.size,
            enabled: queue.enabled,
            descriptors,
            driver_area,
            device_area,
        }
    }
}
