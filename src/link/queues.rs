//! Where the queues of a session lie, for whoever looks at the link.

use super::{Core, Link};

/// A queue that the driver has set up. Addresses are the bus's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkQueue {
    /// Its index: an even one is a receiveq, an odd one a transmitq, unless it is the control queue.
    pub index: u16,
    /// It is the control queue.
    pub control: bool,
    /// Its size in entries.
    pub size: u16,
    /// Whether it is live.
    pub enabled: bool,
    /// The descriptor area.
    pub desc: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
}

impl Link {
    /// The queues, by index.
    pub fn queues(&self) -> impl Iterator<Item = LinkQueue> {
        let (ours, model) = match &self.core {
            Some(Core::Driver { tunnel, .. }) => (Some(tunnel), None),
            Some(Core::Device { model, .. }) => (None, Some(model)),
            None => (None, None),
        };
        let ours = ours.into_iter().flat_map(|tunnel| {
            let (setups, enabled) = (tunnel.queues(), tunnel.is_running());
            // What stands behind the pairs, of two queues each, is the control queue.
            let pairs = setups.len() & !1;
            setups.iter().enumerate().map(move |(i, queue)| LinkQueue {
                index: queue.index,
                control: i >= pairs,
                size: queue.size,
                enabled,
                desc: queue.desc,
                driver: queue.driver,
                device: queue.device,
            })
        });
        let theirs = model.into_iter().flat_map(|model| {
            let control = model.controlq();
            (0..=control).filter_map(|index| model.queue_setup(index)).map(move |queue| LinkQueue {
                index: queue.index,
                control: queue.index == control,
                size: queue.size,
                enabled: true,
                desc: queue.desc,
                driver: queue.driver,
                device: queue.device,
            })
        });
        ours.chain(theirs)
    }
}
