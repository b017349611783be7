//! The attacker as a device: this crate's model answers, and a case changes what it says on the way.

use boardlane::net::features::Features;
use boardlane::net::model::{Event, NetDevice, Offer};
use boardlane::spec::{msg, net, virtio, window};
use boardlane::tunnel::device::DeviceTunnel;
use boardlane::tunnel::message::{self, Hello, Message};
use boardlane::tunnel::model::Device as _;
use boardlane::virtqueue::QueueConfig;

use crate::attack::{Attack, MS, Setup};
use crate::rings::{peek, poke};

/// A device as its driver configures it.
pub(crate) struct Device {
    pub(crate) tunnel: DeviceTunnel,
    pub(crate) model: NetDevice,
}

impl Device {
    pub(crate) fn new(setup: Setup) -> Self {
        let hello = Hello {
            revision: msg::REVISION,
            max_len: 264,
            epoch: 1,
            layout: window::LAYOUT_VERSION,
            ..Hello::default()
        };
        let mut model = NetDevice::new(Offer {
            features: setup.features,
            mac: [2; 6],
            mtu: 1500,
            rx_size: 64,
            tx_size: 64,
            pairs: setup.pairs,
        });
        model.set_link(true);
        Self { tunnel: DeviceTunnel::new(setup.dialect, hello), model }
    }

    /// Where the driver has put the queues.
    pub(crate) fn queues(&self, features: Features) -> impl Iterator<Item = QueueConfig> + use<'_> {
        let has = move |bit| features.has(bit);
        (0..self.model.info().max_virtqueues)
            .map(|index| self.model.queue(index))
            .filter(|queue| queue.enabled)
            .map(move |queue| QueueConfig {
                size: queue.size,
                desc: queue.desc,
                driver: queue.driver,
                device: queue.device,
                packed: has(virtio::F_RING_PACKED),
                in_order: has(virtio::F_IN_ORDER),
                event_idx: has(virtio::F_EVENT_IDX),
                indirect: has(virtio::F_INDIRECT_DESC),
            })
    }
}

impl Attack {
    /// Answers the driver for some turns, after `alter` has changed the answer.
    pub(crate) fn serve(&mut self, turns: usize, alter: &mut dyn FnMut(&mut Message)) {
        let mut out = [0; msg::MAX_LEN];
        for _ in 0..turns {
            self.pass(MS);
            while let Some(octets) = self.take_octets() {
                let Device { tunnel, model } = &mut self.device;
                tunnel.handle_message(self.now, &octets, model);
                while let Some(event) = model.poll_event() {
                    if event == Event::Reset {
                        model.quiesced();
                    }
                }
                while tunnel.poll_event().is_some() {}
            }
            while let Some(len) = self.device.tunnel.poll_message(&mut out) {
                let mut message = message::decode(self.setup.dialect, &out[..len]).unwrap();
                alter(&mut message);
                self.send_message(&message);
            }
        }
    }

    /// Answers a command that the driver's control queue has, by this octet.
    pub(crate) fn answer_command(&mut self, answer: u8) {
        self.pass(MS);
        let mem = self.memory.attacker.clone();
        let ctrl = self.ctrl();
        let Some((id, _, _)) = ctrl.next() else { return };
        // A chain of two: the answer stands in its second descriptor.
        let addr =
            if ctrl.config.packed { ctrl.read(1).0 } else { ctrl.read(ctrl.read(id).2[1]).0 };
        poke(&mem, addr, &[answer]);
        ctrl.give(id.into(), 1);
        self.pass(MS);
    }

    /// Takes a frame of the driver's and gives it this one.
    pub(crate) fn exchange(&mut self, frame: &[u8]) {
        let mem = self.memory.attacker.clone();
        self.victim.outbox.push_back(frame.to_vec());
        self.settle();
        let (id, addr, len) = self.tx().next().expect("the driver sends");
        assert_eq!(len as usize, frame.len());
        let mut got = frame.to_vec();
        mem.view(mem.resolve(addr, len).unwrap()).unwrap().copy_to(0, &mut got);
        assert!(got == frame, "the driver's frame is another");
        self.tx().give(id.into(), 0);
        self.give_frame(frame);
        self.settle();
    }

    /// Uses the next receive buffer for a frame in one buffer.
    pub(crate) fn give_frame(&mut self, frame: &[u8]) {
        self.give_part(frame, Some(1), None);
    }

    /// Uses the next receive buffer for these octets, with this `num_buffers` and used length.
    pub(crate) fn give_part(&mut self, octets: &[u8], num_buffers: Option<u16>, len: Option<u32>) {
        let mem = self.memory.attacker.clone();
        let (id, addr, _) = self.rx().next().expect("the driver has posted buffers");
        poke(&mem, addr, octets);
        if let Some(count) = num_buffers {
            poke(&mem, addr + net::HEADER_LEN as u64 - 2, &count.to_le_bytes());
        }
        let len = len.unwrap_or(u32::try_from(octets.len()).unwrap());
        self.rx().give(id.into(), len);
    }

    /// Four octets of the slot.
    pub(crate) fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(peek(self.mem(), at))
    }
}
