//! What a driver sets at run time by the control queue, as the device's data paths see it
//! (virtio 1.4 §5.1.6.5).
//!
//! The device model changes it, any number of workers read it. A worker keeps a copy and looks at
//! each frame whether there is a newer one, which costs one load.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::features::Features;
use super::frame::{self, Drop, ETHERNET_LEN, Offloads};
use crate::spec::net::{self, HEADER_LEN};

/// Most addresses of a kind in the filter table; of more, all frames of that kind pass.
const MOST_ADDRESSES: usize = 64;
/// What [`Current::judge`] wants to see of a frame: the virtio-net header, addresses, and a VLAN tag.
pub const JUDGED_LEN: usize = HEADER_LEN + ETHERNET_LEN + 2;
/// The type of VLAN tags whose id is filtered: a customer's (IEEE 802.1Q). Drivers list no others: Linux
/// takes the table for these only, and would lose every frame with a service tag.
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];

/// How used buffer notifications of one direction are put together (virtio 1.4 §5.1.6.5.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalesce {
    /// Frames after which a notification is sent.
    pub max_packets: u32,
    /// µs after which a notification is sent; 0 for at once.
    pub max_usecs: u32,
}

/// The addresses that the driver takes of one kind, unicast or multicast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    listed: Vec<[u8; 6]>,
    /// There are more than can be listed.
    overflow: bool,
}

impl Addresses {
    /// These addresses.
    pub fn new(addresses: impl ExactSizeIterator<Item = [u8; 6]>) -> Self {
        if addresses.len() > MOST_ADDRESSES {
            return Self { listed: Vec::new(), overflow: true };
        }
        Self { listed: addresses.collect(), overflow: false }
    }

    fn has(&self, address: [u8; 6]) -> bool {
        self.overflow || self.listed.contains(&address)
    }
}

/// Which frames the driver takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// All of them.
    pub promiscuous: bool,
    /// All multicast ones.
    pub all_multicast: bool,
    /// Its own address.
    pub mac: [u8; 6],
    /// Other unicast addresses.
    pub unicast: Addresses,
    /// Multicast addresses.
    pub multicast: Addresses,
    /// The VLANs, a bit each; `None`: tags do not matter.
    pub vlans: Option<Box<[u64; 64]>>,
}

impl Filter {
    /// Whether the driver takes a frame that begins so.
    fn takes(&self, frame: &[u8]) -> bool {
        if self.promiscuous {
            return true;
        }
        let (Some(to), Some(kind)) = (frame.first_chunk::<6>(), frame.get(12..14)) else {
            return true;
        };
        if let (Some(vlans), true) = (&self.vlans, *kind == VLAN_TYPE) {
            let tag = frame.get(14..16).map_or(0, |tag| u16::from_be_bytes([tag[0], tag[1]]));
            let id = usize::from(tag & 0xfff);
            if vlans[id / 64] >> (id % 64) & 1 == 0 {
                return false;
            }
        }
        match to {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => true,
            [first, ..] if first & 1 == 1 => self.all_multicast || self.multicast.has(*to),
            to => *to == self.mac || self.unicast.has(*to),
        }
    }
}

/// All that is set at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Frames that the driver takes.
    pub filter: Filter,
    /// Offloads that they may carry.
    pub offloads: Offloads,
    /// Offloads that were negotiated: with as many, frames need no look.
    negotiated: Offloads,
    /// Notifications of receiveqs.
    pub receive: Coalesce,
    /// Notifications of transmitqs.
    pub transmit: Coalesce,
}

impl Current {
    /// What is set before a driver has set anything. Every frame passes, as it must where the driver
    /// has no control queue; VLANs are filtered from the start if they ever are.
    pub fn at_first(features: Features, mac: [u8; 6]) -> Self {
        let offloads = Offloads::to_driver(features);
        Self {
            filter: Filter {
                promiscuous: true,
                all_multicast: false,
                mac,
                unicast: Addresses::default(),
                multicast: Addresses::default(),
                vlans: features.has(net::F_CTRL_VLAN).then(|| Box::new([0; 64])),
            },
            offloads,
            negotiated: offloads,
            receive: Coalesce::default(),
            transmit: Coalesce::default(),
        }
    }

    /// Whether frames to the driver have to be looked at.
    pub fn judges(&self) -> bool {
        !self.filter.promiscuous || self.offloads != self.negotiated
    }

    /// Why a frame is not for the driver, by its first [`JUDGED_LEN`] bytes, header included, or as
    /// many as it has.
    pub fn judge(&self, start: &[u8]) -> Option<Drop> {
        if !self.filter.takes(start.get(HEADER_LEN..).unwrap_or_default()) {
            return Some(Drop::Filtered);
        }
        frame::check_own(start, self.offloads).err()
    }
}

/// The settings of a running device.
#[derive(Debug)]
pub struct Settings {
    version: AtomicU32,
    current: Mutex<Current>,
}

impl Settings {
    /// These settings.
    pub fn new(current: Current) -> Arc<Self> {
        Arc::new(Self { version: AtomicU32::new(0), current: Mutex::new(current) })
    }

    /// Changes them.
    pub fn change(&self, change: impl FnOnce(&mut Current)) {
        change(&mut self.lock());
        // Who sees the new version takes the lock, and so sees the change.
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// A copy, and what to ask [`Watch::refresh`] with.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let seen = self.version.load(Ordering::Relaxed);
        Watch { current: self.lock().clone(), settings: self.clone(), seen }
    }

    /// Nothing in here is left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's copy of the settings.
#[derive(Debug)]
pub struct Watch {
    /// As of the last refresh.
    pub current: Current,
    settings: Arc<Settings>,
    seen: u32,
}

impl Watch {
    /// Takes over what has changed.
    pub fn refresh(&mut self) {
        let version = self.settings.version.load(Ordering::Relaxed);
        if version != self.seen {
            self.seen = version;
            self.current.clone_from(&self.settings.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn frame(to: [u8; 6], vlan: Option<u16>) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        frame.extend(to);
        frame.extend([2, 0, 0, 0, 0, 9]);
        match vlan {
            Some(id) => frame.extend([0x81, 0, (id >> 8) as u8 | 0xe0, id as u8, 8, 0]),
            None => frame.extend([8, 0, 0x45, 0]),
        }
        frame
    }

    fn filtering(features: Features) -> Current {
        let mut current = Current::at_first(features, OWN);
        assert!(!current.judges(), "all frames pass at first");
        current.filter.promiscuous = false;
        assert!(current.judges());
        current
    }

    #[test]
    fn a_driver_gets_its_own_frames_broadcasts_and_what_it_lists() {
        let mut current = filtering(Features::NONE);
        let listed = [[2, 0, 0, 0, 0, 8], [0x33, 0x33, 0, 0, 0, 1]];
        let judge = |current: &Current, to| current.judge(&frame(to, None));
        assert_eq!(judge(&current, OWN), None);
        assert_eq!(judge(&current, [0xff; 6]), None);
        for to in listed {
            assert_eq!(judge(&current, to), Some(Drop::Filtered));
        }
        current.filter.unicast = Addresses::new([listed[0]].into_iter());
        current.filter.multicast = Addresses::new([listed[1]].into_iter());
        for to in listed {
            assert_eq!(judge(&current, to), None);
        }
        assert_eq!(judge(&current, [0x33, 0x33, 0, 0, 0, 2]), Some(Drop::Filtered));
        current.filter.all_multicast = true;
        assert_eq!(judge(&current, [0x33, 0x33, 0, 0, 0, 2]), None);
        assert_eq!(judge(&current, [2, 0, 0, 0, 0, 6]), Some(Drop::Filtered));
        current.filter.promiscuous = true;
        assert_eq!(judge(&current, [2, 0, 0, 0, 0, 6]), None);
    }

    #[test]
    fn a_table_that_is_too_long_lets_all_of_its_kind_pass() {
        let mut current = filtering(Features::NONE);
        let many = |n| (0..n).map(|i: u16| [2, 0, 0, 1, (i >> 8) as u8, i as u8]);
        let addresses = |n| Addresses::new(many(n).collect::<Vec<_>>().into_iter());
        current.filter.unicast = addresses(64);
        assert_eq!(current.judge(&frame([2, 0, 0, 1, 0, 63], None)), None);
        assert_eq!(current.judge(&frame([2, 0, 0, 1, 0, 64], None)), Some(Drop::Filtered));
        current.filter.unicast = addresses(65);
        assert_eq!(current.judge(&frame([2, 0, 0, 1, 0, 200], None)), None);
        assert_eq!(current.judge(&frame([3, 0, 0, 1, 0, 1], None)), Some(Drop::Filtered));
    }

    #[test]
    fn tagged_frames_pass_by_their_vlan_and_untagged_ones_anyway() {
        let mut current = filtering(Features::of(&[net::F_CTRL_VLAN]));
        assert_eq!(current.judge(&frame(OWN, None)), None);
        assert_eq!(current.judge(&frame(OWN, Some(100))), Some(Drop::Filtered));
        if let Some(vlans) = &mut current.filter.vlans {
            vlans[100 / 64] |= 1 << (100 % 64);
        }
        assert_eq!(current.judge(&frame(OWN, Some(100))), None);
        assert_eq!(current.judge(&frame(OWN, Some(101))), Some(Drop::Filtered));
        assert_eq!(filtering(Features::NONE).judge(&frame(OWN, Some(5))), None);
        let mut service = frame(OWN, Some(101));
        service[HEADER_LEN + 12..][..2].copy_from_slice(&[0x88, 0xa8]);
        assert_eq!(current.judge(&service), None, "the table does not speak of service tags");
    }

    #[test]
    fn frames_made_for_more_offloads_than_are_taken_now_are_dropped() {
        let features = Features::from_names(["GUEST_CSUM", "GUEST_TSO4"]).unwrap();
        let mut current = Current::at_first(features, OWN);
        let mut tso = frame(OWN, None);
        (tso[0], tso[1]) = (net::HDR_F_NEEDS_CSUM, net::GSO_TCPV4);
        assert_eq!(current.judge(&tso), None);
        current.offloads.tso4 = false;
        assert!(current.judges());
        assert_eq!(current.judge(&tso), Some(Drop::GsoNotNegotiated));
        assert_eq!(current.judge(&frame(OWN, None)), None);
    }

    #[test]
    fn a_change_reaches_every_watch_at_its_next_refresh() {
        let settings = Settings::new(Current::at_first(Features::NONE, OWN));
        let mut watch = settings.watch();
        settings.change(|current| current.filter.promiscuous = false);
        assert!(watch.current.filter.promiscuous);
        watch.refresh();
        assert!(!watch.current.filter.promiscuous);
        assert_eq!(settings.watch().current, watch.current);
    }
}
