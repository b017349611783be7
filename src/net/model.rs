//! The virtio-net device as its driver configures it (virtio 1.4 §2, §3.1, §5.1): features, status,
//! config space, queues. It moves no frames and knows no transport.
//!
//! Theory of operation. Whatever drives the device calls the methods of [`Device`]; the link then drains
//! [`NetDevice::poll_event`]. Two events alternate: [`Event::Activate`] hands the queues over, from now on
//! they run; [`Event::Reset`] takes them back. The queues stop outside, so a reset of a running device is
//! complete only when [`NetDevice::quiesced`] says that nobody touches the old rings any more. Till then
//! the status stays as it was, and nothing but reading works.
//!
//! Between the two, the same goes for one queue (virtio 1.4 §2.6.1): [`Event::ResetQueue`] takes it back,
//! [`NetDevice::queue_quiesced`] completes that, and [`Event::EnableQueue`] hands it over anew. A driver that
//! has not negotiated `RING_RESET` must not reset a queue. If it does, it takes the ring's memory away as
//! surely as one that has: the queue stops all the same, and stays so until the device is reset.
//!
//! The control queue's commands ([`NetDevice::control`]) change [`Settings`], which the data paths look at,
//! and what the link has to do becomes an event. Where the control queue stands is known at `FEATURES_OK`:
//! behind the pairs that are negotiated (virtio 1.4 §5.1.2).
//!
//! Status bits that the driver sets stay set until a reset. Three things keep a bit clear: `FEATURES_OK`
//! needs `DRIVER` and a set of features that [`features::check`] accepts; `DRIVER_OK` needs
//! `FEATURES_OK` and a device that works; `DEVICE_NEEDS_RESET` is the device's own.

use std::mem;
use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32};

use super::features::{self, FeatureError, Features};
use super::frame::Offloads;
use super::settings::{Current, Settings};
use crate::spec::net::{self, Config};
use crate::spec::split;
use crate::spec::virtio::{self, status};
use crate::tunnel::model::{Device, DeviceInfo, QueueError, QueueState, QueueUpdate};
use queue::Queue;

mod control;
mod queue;

/// Greatest size of the control queue; a driver sends one command at a time.
const CONTROLQ_SIZE: u16 = 64;
/// Whose device it is; stands in the device's info and is of no consequence.
const VENDOR_ID: u32 = u32::from_le_bytes(*b"BRDL");
/// The bits of the status that are the driver's to set.
const DRIVER_BITS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;

/// What the device is made with; fixed until it is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Features, which hold together ([`features::check`]).
    pub features: Features,
    /// The MAC address of the driver's netdev, shown with `MAC`.
    pub mac: [u8; 6],
    /// The greatest MTU in bytes, shown with `MTU`.
    pub mtu: u16,
    /// Greatest size of the receiveq, a power of two up to 32768.
    pub rx_size: u16,
    /// Greatest size of the transmitq, likewise.
    pub tx_size: u16,
    /// Queue pairs, at least one; of more the driver uses the first, unless `MQ` is offered.
    pub pairs: u16,
}

/// What the link is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver is set up: these queues run.
    Activate {
        /// The features that both ends agreed on.
        features: Features,
        /// The queues that the driver has enabled.
        queues: Vec<QueueSetup>,
    },
    /// The driver resets the device: stop the queues, then call [`NetDevice::quiesced`].
    Reset,
    /// The driver resets this queue: stop it, then call [`NetDevice::queue_quiesced`]. To stop all of them
    /// and call [`NetDevice::quiesced`] will do too, if `RING_RESET` is not negotiated.
    ResetQueue(u16),
    /// The driver has set up a queue while the others run: it runs too.
    EnableQueue(QueueSetup),
    /// The driver uses so many queue pairs from now on: its queues are enabled. It begins with one.
    UsePairs(u16),
    /// The driver takes these offloads from now on.
    Offloads(Offloads),
}

/// What the link is to be told of the whole device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Activate,
    Reset,
}

/// A queue to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    /// Its index.
    pub index: u16,
    /// Its size.
    pub size: u16,
    /// Bus address of the descriptor area, aligned.
    pub desc: u64,
    /// Bus address of the driver area, aligned.
    pub driver: u64,
    /// Bus address of the device area, aligned.
    pub device: u64,
}

/// The device.
#[derive(Debug)]
pub struct NetDevice {
    offer: Offer,
    config: Config,
    generation: u32,
    status: u8,
    accepted: Features,
    /// The driver has set bits beyond 127; that holds until a reset.
    beyond_all: bool,
    refused: Option<FeatureError>,
    broken: Option<String>,
    queues: Vec<Queue>,
    settings: Arc<Settings>,
    /// The queues are set up elsewhere.
    bare: bool,
    /// Queue pairs that the driver uses, and whether the link knows.
    used_pairs: u16,
    pairs_changed: bool,
    offloads_changed: Option<Offloads>,
    pending: Option<Pending>,
    /// The link has the queues: an `Activate` was taken, and they have not been given back.
    running: bool,
    resetting: bool,
}

impl NetDevice {
    /// A device after reset, with its link down.
    ///
    /// # Panics
    ///
    /// If the offer does not hold together, a queue's greatest size is no power of two, or there is no pair.
    pub fn new(offer: Offer) -> Self {
        let held = features::check(offer.features, offer.features);
        assert!(held.is_ok(), "an offer that no driver can accept: {held:?}");
        for size in [offer.rx_size, offer.tx_size] {
            assert!(size.is_power_of_two() && size <= split::MAX_SIZE, "queue size {size}");
        }
        assert!((1..=net::MAX_PAIRS).contains(&offer.pairs), "{} queue pairs", offer.pairs);
        let shown = |bit| offer.features.has(bit);
        let mut config = Config::default();
        if shown(net::F_MAC) {
            config.mac = offer.mac;
        }
        if shown(net::F_MTU) {
            config.mtu = U16::new(offer.mtu);
        }
        if shown(net::F_MQ) {
            config.max_virtqueue_pairs = U16::new(offer.pairs);
        }
        if shown(net::F_SPEED_DUPLEX) {
            // Memory has no line rate.
            config.speed = U32::new(net::SPEED_UNKNOWN);
            config.duplex = net::DUPLEX_FULL;
        }
        Self {
            offer,
            config,
            generation: 0,
            status: 0,
            accepted: Features::NONE,
            beyond_all: false,
            refused: None,
            broken: None,
            queues: queues(&offer, offer.features),
            settings: Settings::new(Current::at_first(Features::NONE, offer.mac)),
            bare: false,
            used_pairs: 1,
            pairs_changed: false,
            offloads_changed: None,
            pending: None,
            running: false,
            resetting: false,
        }
    }

    /// The queues are set up elsewhere: the driver may use any number of pairs that there are.
    pub fn without_queues(self) -> Self {
        Self { bare: true, ..self }
    }

    /// What the device was made with.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The features that both ends agreed on, from `FEATURES_OK` on.
    pub fn negotiated(&self) -> Option<Features> {
        (self.status & status::FEATURES_OK != 0).then_some(self.accepted)
    }

    /// Queue pairs that there are for the driver, from `FEATURES_OK` on.
    pub fn pairs(&self) -> u16 {
        pairs(&self.offer, self.accepted)
    }

    /// Where the control queue stands if `CTRL_VQ` is negotiated, from `FEATURES_OK` on.
    pub fn controlq(&self) -> u16 {
        net::controlq(self.pairs())
    }

    /// A queue that the driver has set up.
    pub fn queue_setup(&self, index: u16) -> Option<QueueSetup> {
        self.queues.get(usize::from(index))?.setup(index)
    }

    /// What the driver sets at run time, from `FEATURES_OK` to the next reset.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Why the driver's last try at `FEATURES_OK` was refused.
    pub fn refused(&self) -> Option<&FeatureError> {
        self.refused.as_ref()
    }

    /// Why the device needs a reset.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Sets the link's state; true if the driver is to be told that config space has changed.
    pub fn set_link(&mut self, up: bool) -> bool {
        let shown = self.offer.features.has(net::F_STATUS);
        shown && self.set_status_bit(net::S_LINK_UP, up)
    }

    /// Asks the driver to announce its address; true if it is to be told that config space has changed.
    pub fn ask_to_announce(&mut self) -> bool {
        let can = self.negotiated().is_some_and(|f| f.has(net::F_GUEST_ANNOUNCE));
        can && self.set_status_bit(net::S_ANNOUNCE, true)
    }

    /// Sets a bit of the config space's status; whether that changed it.
    fn set_status_bit(&mut self, bit: u16, on: bool) -> bool {
        let was = self.config.status.get();
        let is = if on { was | bit } else { was & !bit };
        if is == was {
            return false;
        }
        self.config.status = U16::new(is);
        self.generation = self.generation.wrapping_add(1);
        true
    }

    /// The device cannot go on, because the driver broke a rule or because of an error of its own; true if
    /// the driver is to be told that the status has changed.
    pub fn needs_reset(&mut self, reason: impl Into<String>) -> bool {
        if self.status & status::DEVICE_NEEDS_RESET != 0 {
            return false;
        }
        self.status |= status::DEVICE_NEEDS_RESET;
        self.broken = Some(reason.into());
        self.status & status::DRIVER_OK != 0
    }

    /// What the link is to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        match self.pending.take() {
            Some(Pending::Activate) => {
                self.running = true;
                let queues = (0_u16..).zip(&mut self.queues).filter_map(|(i, q)| q.hand_over(i));
                return Some(Event::Activate { features: self.accepted, queues: queues.collect() });
            }
            Some(Pending::Reset) => return Some(Event::Reset),
            None if self.resetting || !self.running => return None,
            None => {}
        }
        if let Some(offloads) = self.offloads_changed.take() {
            return Some(Event::Offloads(offloads));
        }
        if mem::take(&mut self.pairs_changed) {
            return Some(Event::UsePairs(self.used_pairs));
        }
        (0_u16..).zip(&mut self.queues).find_map(|(index, queue)| queue.poll_event(index))
    }

    /// Nobody touches the queues of the last [`Event::Activate`] any more; completes a reset, if there is one.
    pub fn quiesced(&mut self) {
        self.running = false;
        for queue in &mut self.queues {
            queue.quiesced();
        }
        if mem::take(&mut self.resetting) {
            self.forget();
        }
    }

    /// Nobody touches this queue any more; completes its reset, if there is one.
    pub fn queue_quiesced(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.quiesced();
        }
    }

    fn reset(&mut self) {
        if self.running {
            if !mem::replace(&mut self.resetting, true) {
                self.pending = Some(Pending::Reset);
            }
        } else {
            self.forget();
        }
    }

    /// The state after a reset. The link's state and the generation are no affair of the driver's.
    fn forget(&mut self) {
        self.set_status_bit(net::S_ANNOUNCE, false);
        if self.offer.features.has(net::F_MAC) {
            self.config.mac = self.offer.mac;
        }
        self.status = 0;
        self.accepted = Features::NONE;
        self.beyond_all = false;
        self.refused = None;
        self.broken = None;
        self.queues = queues(&self.offer, self.offer.features);
        self.used_pairs = 1;
        self.pairs_changed = false;
        self.offloads_changed = None;
        self.pending = None;
        self.resetting = false;
    }

    /// Whether the driver's features will do.
    fn check_features(&self) -> Result<(), FeatureError> {
        if self.beyond_all {
            return Err(FeatureError::BeyondAll);
        }
        features::check(self.accepted, self.offer.features)
    }
}

/// The queue pairs of a device whose driver accepts `features`.
fn pairs(offer: &Offer, features: Features) -> u16 {
    if features.has(net::F_MQ) { offer.pairs } else { 1 }
}

/// Their queues, and the control queue.
fn queues(offer: &Offer, features: Features) -> Vec<Queue> {
    let control = features.has(net::F_CTRL_VQ).then_some(CONTROLQ_SIZE);
    let sizes =
        (0..pairs(offer, features)).flat_map(|_| [offer.rx_size, offer.tx_size]).chain(control);
    sizes.map(Queue::new).collect()
}

impl Device for NetDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: virtio::DEVICE_ID_NET,
            vendor_id: VENDOR_ID,
            num_feature_blocks: self.offer.features.blocks(),
            config_size: net::CONFIG_LEN,
            max_virtqueues: u32::try_from(queues(&self.offer, self.offer.features).len())
                .unwrap_or(0),
        }
    }

    fn features(&self, block: u32) -> u32 {
        self.offer.features.block(block)
    }

    /// Accepted features do not change any more once `FEATURES_OK` is set.
    fn set_driver_features(&mut self, block: u32, bits: u32) {
        if self.resetting || self.status & status::FEATURES_OK != 0 {
            return;
        }
        if block < 4 {
            self.accepted = self.accepted.with_block(block, bits);
        } else if bits != 0 {
            self.beyond_all = true;
        }
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        out.fill(0);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.config.as_bytes().get(offset..).unwrap_or_default();
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// A network device's config space is read-only for drivers of virtio 1.0 and later.
    fn write_config(&mut self, _offset: u32, _data: &[u8]) -> bool {
        false
    }

    fn status(&self) -> u8 {
        self.status
    }

    fn set_status(&mut self, status: u32) {
        if status == 0 {
            return self.reset();
        }
        let [asked, ..] = status.to_le_bytes();
        let new = asked & DRIVER_BITS & !self.status;
        if self.resetting {
            return;
        }
        self.status |= new & !(status::FEATURES_OK | status::DRIVER_OK);
        if new & status::FEATURES_OK != 0 && self.status & status::DRIVER != 0 {
            self.refused = self.check_features().err();
            if self.refused.is_none() {
                self.status |= status::FEATURES_OK;
                self.queues = queues(&self.offer, self.accepted);
                self.settings = Settings::new(Current::at_first(self.accepted, self.offer.mac));
            }
        }
        let may_run = self.status & (status::FEATURES_OK | status::DEVICE_NEEDS_RESET);
        if new & status::DRIVER_OK != 0 && may_run == status::FEATURES_OK {
            self.status |= status::DRIVER_OK;
            self.pending = Some(Pending::Activate);
        }
    }

    fn queue(&self, index: u32) -> QueueState {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.queues.get(index).map(|queue| queue.state).unwrap_or_default()
    }

    fn set_queue(&mut self, index: u32, update: &QueueUpdate) -> Result<(), QueueError> {
        let queues = u32::try_from(self.queues.len()).unwrap_or(0);
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(queue) = self.queues.get_mut(at) else {
            return Err(QueueError::NoSuchQueue { queues });
        };
        if self.resetting {
            return Err(QueueError::InReset);
        }
        if queue.is_already(update)? {
            return Ok(());
        }
        if self.status & status::FEATURES_OK == 0 {
            return Err(QueueError::BeforeFeaturesOk);
        }
        if self.status & status::DRIVER_OK != 0 && !self.accepted.has(virtio::F_RING_RESET) {
            return Err(QueueError::AfterDriverOk);
        }
        queue.set(update)
    }

    fn reset_queue(&mut self, index: u32) {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        match self.queues.get_mut(at) {
            Some(queue) if !self.resetting => queue.reset(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
