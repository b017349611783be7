//! The control queue's commands, and what each changes (virtio 1.4 §5.1.6.5).

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::NetDevice;
use crate::net::features::Features;
use crate::net::frame::Offloads;
use crate::net::settings::{Addresses, Coalesce, Current};
use crate::spec::net::{self, ctrl};

/// The offloads that a driver may turn on and off.
const GUEST_OFFLOADS: Features = Features::of(&[
    net::F_GUEST_CSUM,
    net::F_GUEST_TSO4,
    net::F_GUEST_TSO6,
    net::F_GUEST_ECN,
    net::F_GUEST_USO4,
    net::F_GUEST_USO6,
]);
const MULTICAST: u8 = 1;

impl NetDevice {
    /// Does what a command asks for; `None` if it is unknown, needs a feature that is not negotiated, or
    /// makes no sense: then nothing has changed, and the driver is to be told so.
    pub fn control(&mut self, code: ctrl::Code, data: &[u8]) -> Option<()> {
        match code {
            ctrl::RX_PROMISC => {
                self.needs(net::F_CTRL_RX)?;
                let on = on(data)?;
                self.change(|current| current.filter.promiscuous = on)
            }
            ctrl::RX_ALLMULTI => {
                self.needs(net::F_CTRL_RX)?;
                let on = on(data)?;
                self.change(|current| current.filter.all_multicast = on)
            }
            ctrl::MAC_TABLE_SET => {
                // The table belongs to CTRL_RX, although the address class is CTRL_MAC_ADDR's.
                self.needs(net::F_CTRL_RX)?;
                let (unicast, rest) = addresses(data)?;
                let (multicast, rest) = addresses(rest)?;
                rest.is_empty().then_some(())?;
                self.change(|current| {
                    current.filter.unicast = unicast;
                    current.filter.multicast = multicast;
                })
            }
            ctrl::MAC_ADDR_SET => {
                self.needs(net::F_CTRL_MAC_ADDR)?;
                self.set_mac(data.try_into().ok()?)
            }
            ctrl::VLAN_ADD | ctrl::VLAN_DEL => {
                self.needs(net::F_CTRL_VLAN)?;
                let id = usize::from(number::<U16>(data)?.get());
                (id < 4096).then_some(())?;
                self.change(|current| {
                    let Some(vlans) = &mut current.filter.vlans else { return };
                    let bit = 1 << (id % 64);
                    match code {
                        ctrl::VLAN_ADD => vlans[id / 64] |= bit,
                        _ => vlans[id / 64] &= !bit,
                    }
                })
            }
            ctrl::ANNOUNCE_ACK => {
                self.needs(net::F_GUEST_ANNOUNCE)?;
                data.is_empty().then_some(())?;
                self.set_status_bit(net::S_ANNOUNCE, false);
                Some(())
            }
            ctrl::MQ_VQ_PAIRS_SET => {
                self.needs(net::F_MQ)?;
                self.use_pairs(number::<U16>(data)?.get())
            }
            ctrl::GUEST_OFFLOADS_SET => {
                self.needs(net::F_CTRL_GUEST_OFFLOADS)?;
                self.set_offloads(Features::from_bits(number::<U64>(data)?.get().into()))
            }
            ctrl::NOTF_COAL_TX_SET => {
                self.needs(net::F_NOTF_COAL)?;
                let coalesce = coalesce(data)?;
                self.change(|current| current.transmit = coalesce)
            }
            ctrl::NOTF_COAL_RX_SET => {
                self.needs(net::F_NOTF_COAL)?;
                let coalesce = coalesce(data)?;
                self.change(|current| current.receive = coalesce)
            }
            _ => None,
        }
    }

    /// Whether a command has changed what data paths have to follow, and the link has not been told yet.
    pub fn has_to_be_followed(&self) -> bool {
        self.pairs_changed || self.offloads_changed.is_some()
    }

    fn needs(&self, feature: u8) -> Option<()> {
        self.negotiated()?.has(feature).then_some(())
    }

    fn change(&self, change: impl FnOnce(&mut Current)) -> Option<()> {
        self.settings.change(change);
        Some(())
    }

    fn set_mac(&mut self, mac: [u8; 6]) -> Option<()> {
        (mac != [0; 6] && mac[0] & MULTICAST == 0).then_some(())?;
        if self.config.mac != mac && self.offer.features.has(net::F_MAC) {
            self.config.mac = mac;
            self.generation = self.generation.wrapping_add(1);
        }
        self.change(|current| current.filter.mac = mac)
    }

    /// Only pairs whose queues the driver has set up can be used.
    fn use_pairs(&mut self, pairs: u16) -> Option<()> {
        let queues = self.queues.get(..2 * usize::from(pairs)).unwrap_or_default();
        let set_up = self.bare || queues.iter().all(|queue| queue.state.enabled);
        (set_up && pairs <= self.pairs() && !queues.is_empty()).then_some(())?;
        self.pairs_changed |= self.used_pairs != pairs;
        self.used_pairs = pairs;
        Some(())
    }

    fn set_offloads(&mut self, asked: Features) -> Option<()> {
        let negotiated = self.negotiated()?.intersection(GUEST_OFFLOADS);
        negotiated.contains(asked).then_some(())?;
        // One that lacks what it needs is as good as off, and a netdev would refuse the whole set.
        let offloads = Offloads::to_driver(asked.without(Features::NONE));
        self.offloads_changed = Some(offloads);
        self.change(|current| current.offloads = offloads)
    }
}

/// A list of addresses, and what follows it.
fn addresses(data: &[u8]) -> Option<(Addresses, &[u8])> {
    let (count, rest) = U32::read_from_prefix(data).ok()?;
    let len = usize::try_from(count.get()).ok()?.checked_mul(6)?;
    let (list, rest) = rest.split_at_checked(len)?;
    let list = list.chunks_exact(6).map(|mac| mac.try_into().unwrap_or_default());
    Some((Addresses::new(list), rest))
}

fn number<T: FromBytes + Unaligned + Immutable + KnownLayout>(data: &[u8]) -> Option<T> {
    T::read_from_bytes(data).ok()
}

fn on(data: &[u8]) -> Option<bool> {
    match data {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn coalesce(data: &[u8]) -> Option<Coalesce> {
    let [packets, usecs] = number::<[U32; 2]>(data)?;
    Some(Coalesce { max_packets: packets.get(), max_usecs: usecs.get() })
}
