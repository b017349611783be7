//! The back-end's half of vhost-user: what a front-end has set up so far, as a value.
//!
//! [`BackEnd::handle`] takes a request and gives the octets of its reply. It changes what rings are
//! and where they lie, so whoever runs them first takes back those that a request
//! [touches](BackEnd::touches), and afterwards looks at what there is to run.
//!
//! | a ring is | when | and then |
//! |---|---|---|
//! | stopped | it has no kick descriptor: at first, after `GET_VRING_BASE`, after a reset | nobody touches it |
//! | started | `SET_VRING_KICK` has come | it runs if it is enabled |
//! | enabled | `SET_VRING_ENABLE 1`; always, if `F_PROTOCOL_FEATURES` was not accepted | |
//!
//! With `STATUS`, rings run only between `DRIVER_OK` and the next reset.
//!
//! A request that is refused changes nothing, and the connection is to be closed: a front-end that
//! says what cannot be is not understood, or does not understand.

use std::fmt;
use std::sync::Arc;

use super::message::{Inflight, VringAddr};
use super::refusal::Refusal;
use super::shared::SharedMemory;
use super::{Reply, Request};
use crate::memory::{BusMemory, Mapping, MemoryError};
use crate::spec::split;
use crate::spec::vhost_user::{F_PROTOCOL_FEATURES, MAX_CONFIG, MAX_REGIONS, protocol};
use crate::spec::virtio::{F_RING_PACKED, status};

/// The protocol features that are offered.
pub const PROTOCOL_FEATURES: u64 = protocol::MQ
    | protocol::REPLY_ACK
    | protocol::BACKEND_REQ
    | protocol::CONFIG
    | protocol::INFLIGHT_SHMFD
    | protocol::RESET_DEVICE
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::STATUS;

/// A descriptor that comes with messages.
pub trait Descriptor: Clone + fmt::Debug {
    /// Maps `len` bytes of it from `offset` on.
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String>;
    /// Whether it may be a doorbell: something that can neither hold up nor kill who writes to it.
    fn is_doorbell(&self) -> bool;
    /// Whether it may be a socket for requests: one to which sending can be given up at once.
    fn is_channel(&self) -> bool;
    /// Makes `len` bytes of new memory, all zero.
    fn create(len: u64) -> Result<(Self, Arc<Mapping>), String>;
}

/// What a back-end has to offer.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Feature bits of the device.
    pub features: u64,
    /// Queue pairs.
    pub pairs: u16,
    /// Length in bytes of what is tracked of a queue of this size, packed or not.
    pub journal_len: fn(u16, bool) -> usize,
}

/// What a request changes under whoever runs the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing.
    Nothing,
    /// This ring.
    Ring(u32),
    /// All of them.
    All,
}

/// A ring as the front-end has set it up.
#[derive(Clone, Debug)]
pub struct Ring<F> {
    /// Its size; 0 before it is set.
    pub size: u16,
    /// Where it lies.
    pub addr: Option<VringAddr>,
    /// Where it goes on.
    pub base: u32,
    /// It is rung by the front-end.
    pub kick: Option<F>,
    /// To be rung by the back-end; `None`: the front-end polls.
    pub call: Option<F>,
    /// To be rung when the ring is broken.
    pub err: Option<F>,
    enabled: bool,
}

impl<F> Ring<F> {
    fn new() -> Self {
        Self { size: 0, addr: None, base: 0, kick: None, call: None, err: None, enabled: false }
    }

    /// It is stopped; whether it is enabled is kept.
    fn stop(&mut self) {
        (self.kick, self.call) = (None, None);
    }
}

/// What is tracked of what is in flight, in memory that outlives the back-end.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// The memory.
    pub memory: Arc<Mapping>,
    /// For queues of this size.
    pub queue_size: u16,
    /// For packed queues.
    pub packed: bool,
    queues: u16,
}

/// A reply's octets, and the descriptor that goes with it.
pub type Answer<F> = (Vec<u8>, Option<F>);

/// What a front-end has set up.
#[derive(Clone, Debug)]
pub struct BackEnd<F> {
    offer: Offer,
    protocol: u64,
    /// What the front-end has accepted of the device's features and of ours.
    accepted: Option<u64>,
    status: u8,
    /// The device cannot do with what was accepted.
    refused: bool,
    /// Counts what makes the device forget all.
    resets: u32,
    rings: Vec<Ring<F>>,
    shared: SharedMemory,
    tracked: Option<Tracked>,
    back_channel: Option<F>,
}

impl<F: Descriptor> BackEnd<F> {
    /// Before the first request: two rings for each pair, and one for the control queue.
    pub fn new(offer: Offer) -> Self {
        Self {
            offer,
            protocol: 0,
            accepted: None,
            status: 0,
            refused: false,
            resets: 0,
            rings: (0..=2 * offer.pairs).map(|_| Ring::new()).collect(),
            shared: SharedMemory::default(),
            tracked: None,
            back_channel: None,
        }
    }

    /// The device's features that the front-end has accepted.
    pub fn accepted(&self) -> Option<u64> {
        self.accepted.map(|bits| bits & !(1 << F_PROTOCOL_FEATURES))
    }

    /// The protocol features that the front-end has accepted.
    pub fn protocol(&self) -> u64 {
        self.protocol
    }

    /// How often the device was to forget all.
    pub fn resets(&self) -> u32 {
        self.resets
    }

    /// A ring, if there is one of this index.
    pub fn ring(&self, index: u16) -> Option<&Ring<F>> {
        self.rings.get(usize::from(index))
    }

    /// Says where a ring that has come to rest goes on.
    pub fn set_base(&mut self, index: u16, base: u32) {
        if let Some(ring) = self.rings.get_mut(usize::from(index)) {
            ring.base = base;
        }
    }

    /// Whether a ring is to run.
    pub fn runs(&self, index: u16) -> bool {
        let plain = self.accepted.is_some_and(|bits| bits & 1 << F_PROTOCOL_FEATURES == 0);
        let alive = self.protocol & protocol::STATUS == 0 || self.status & status::DRIVER_OK != 0;
        let ring = self.ring(index).filter(|_| self.accepted.is_some() && alive);
        ring.is_some_and(|ring| {
            let whole = ring.size != 0 && ring.addr.is_some() && ring.kick.is_some();
            whole && (plain || ring.enabled)
        })
    }

    /// The front-end's memory by bus address.
    pub fn memory(&self) -> &Arc<BusMemory> {
        self.shared.memory()
    }

    /// The bus address of what the front-end has at an address of its own.
    pub fn bus_addr(&self, user_addr: u64) -> Result<u64, MemoryError> {
        self.shared.bus_addr(user_addr)
    }

    /// What is tracked, if this ring is, and where in the memory that is.
    pub fn tracked(&self, index: u16, size: u16) -> Option<(&Tracked, usize)> {
        let (tracked, offset) = self.tracked_at(index)?;
        let fits = size <= tracked.queue_size && tracked.packed == self.is_packed();
        fits.then_some((tracked, offset))
    }

    /// What is tracked of a ring, whatever it is now, and where in the memory that is.
    pub fn tracked_at(&self, index: u16) -> Option<(&Tracked, usize)> {
        let tracked = self.tracked.as_ref().filter(|tracked| index < tracked.queues)?;
        let len = (self.offer.journal_len)(tracked.queue_size, tracked.packed);
        Some((tracked, usize::from(index) * len))
    }

    /// The socket for the back-end's own requests.
    pub fn back_channel(&self) -> Option<&F> {
        self.back_channel.as_ref().filter(|_| self.protocol & protocol::BACKEND_REQ != 0)
    }

    /// The device cannot do with what the driver has accepted: it sees no `FEATURES_OK`.
    pub fn refuse_features(&mut self) {
        self.refused = true;
    }

    /// The device cannot go on before a reset.
    pub fn needs_reset(&mut self) {
        self.status |= status::DEVICE_NEEDS_RESET;
    }

    /// What a request changes; it may not run meanwhile.
    pub fn touches(&self, request: &Request) -> Touched {
        match *request {
            Request::SetVringNum { index, .. }
            | Request::SetVringAddr { index, .. }
            | Request::SetVringBase { index, .. }
            | Request::GetVringBase { index }
            | Request::SetVringKick { index, .. }
            | Request::SetVringCall { index, .. }
            | Request::SetVringErr { index, .. } => Touched::Ring(index),
            Request::SetVringEnable { index, enable } => {
                let ring = usize::try_from(index).ok().and_then(|index| self.rings.get(index));
                let same = ring.is_some_and(|ring| ring.enabled == (enable != 0));
                if same { Touched::Nothing } else { Touched::Ring(index) }
            }
            // Some send the same again while rings run.
            Request::SetFeatures(bits) if self.accepted == Some(bits) => Touched::Nothing,
            Request::SetStatus(status) if status != 0 => Touched::Nothing,
            Request::SetFeatures(_)
            | Request::ResetOwner
            | Request::SetMemTable(_)
            | Request::SetProtocolFeatures(_)
            | Request::SetInflightFd(_)
            | Request::GetInflightFd(_)
            | Request::ResetDevice
            | Request::AddMemReg(_)
            | Request::RemMemReg(_)
            | Request::SetStatus(_) => Touched::All,
            _ => Touched::Nothing,
        }
    }

    /// Does what the request asks for: the reply, if there is one. `config` is the device's config space.
    ///
    /// # Errors
    /// It asks for what cannot be; nothing has changed.
    pub fn handle(
        &mut self,
        request: &Request,
        fds: Vec<F>,
        need_reply: bool,
        config: &[u8],
    ) -> Result<Option<Answer<F>>, Refusal> {
        let number = request.number();
        self.check_negotiated(request)?;
        // A network device's config space is read-only for drivers of virtio 1.0 and later. It may be a
        // driver that writes, and no fault of the front-end's.
        if matches!(request, Request::SetConfig { .. }) {
            return Ok(self.acks(need_reply).then(|| (Reply::Number(1).encode(number), None)));
        }
        let (reply, fd) = match self.read(request, config) {
            Some(reply) => (reply, None),
            None => match request {
                Request::GetInflightFd(asked) => {
                    let (inflight, fd) = self.make_inflight(*asked)?;
                    (Reply::Inflight(inflight), Some(fd))
                }
                Request::GetVringBase { index } => {
                    let ring = self.ring_of(number, *index)?;
                    ring.stop();
                    (Reply::VringBase { index: *index, base: ring.base }, None)
                }
                _ => {
                    self.write(request, fds)?;
                    (Reply::Number(0), None)
                }
            },
        };
        // REPLY_ACK counts for the request that accepts it.
        let answers = request.has_reply() || self.acks(need_reply);
        Ok(answers.then(|| (reply.encode(number), fd)))
    }

    fn acks(&self, need_reply: bool) -> bool {
        need_reply && self.protocol & protocol::REPLY_ACK != 0
    }

    /// Without more pairs than one there is no number of queues to ask for, which some count in pairs
    /// (QEMU, DPDK, and so do we) and others in rings (cloud-hypervisor, crosvm).
    fn offered_protocol(&self) -> u64 {
        if self.offer.pairs > 1 { PROTOCOL_FEATURES } else { PROTOCOL_FEATURES & !protocol::MQ }
    }

    /// What only asks.
    fn read(&self, request: &Request, config: &[u8]) -> Option<Reply> {
        Some(match request {
            Request::GetFeatures => Reply::Number(self.offer.features | 1 << F_PROTOCOL_FEATURES),
            Request::GetProtocolFeatures => Reply::Number(self.offered_protocol()),
            Request::GetQueueNum => Reply::Number(self.offer.pairs.into()),
            Request::GetMaxMemSlots => Reply::Number(MAX_REGIONS as u64),
            Request::GetStatus => {
                let hidden = if self.refused { status::FEATURES_OK } else { 0 };
                Reply::Number((self.status & !hidden).into())
            }
            Request::GetConfig { offset, flags, data } => {
                let offset_in = usize::try_from(*offset).unwrap_or(usize::MAX);
                let end = offset_in.saturating_add(data.len());
                // Beyond what the device has there is nothing but zero.
                let whole = config.iter().copied().chain(std::iter::repeat(0)).take(MAX_CONFIG);
                let part = whole.skip(offset_in).take(data.len());
                let data = if end > MAX_CONFIG { Vec::new() } else { part.collect() };
                Reply::Config { offset: *offset, flags: *flags, data }
            }
            _ => return None,
        })
    }

    fn check_negotiated(&self, request: &Request) -> Result<(), Refusal> {
        let feature = match request {
            Request::GetConfig { .. } | Request::SetConfig { .. } => protocol::CONFIG,
            Request::GetInflightFd(_) | Request::SetInflightFd(_) => protocol::INFLIGHT_SHMFD,
            Request::ResetDevice => protocol::RESET_DEVICE,
            Request::GetMaxMemSlots | Request::AddMemReg(_) | Request::RemMemReg(_) => {
                protocol::CONFIGURE_MEM_SLOTS
            }
            Request::SetStatus(_) | Request::GetStatus => protocol::STATUS,
            Request::SetBackendReqFd => protocol::BACKEND_REQ,
            _ => return Ok(()),
        };
        if self.protocol & feature == 0 {
            return Err(Refusal::NotNegotiated { request: request.number(), feature });
        }
        Ok(())
    }

    fn is_packed(&self) -> bool {
        self.accepted.is_some_and(|bits| bits & 1 << F_RING_PACKED != 0)
    }

    fn ring_of(&mut self, request: u32, index: u32) -> Result<&mut Ring<F>, Refusal> {
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        ring.ok_or(Refusal::NoSuchRing { request, index })
    }

    fn write(&mut self, request: &Request, fds: Vec<F>) -> Result<(), Refusal> {
        let number = request.number();
        let fd = fds.first().cloned();
        let is_of_ring = matches!(
            request,
            Request::SetVringKick { .. }
                | Request::SetVringCall { .. }
                | Request::SetVringErr { .. }
        );
        if is_of_ring && !fds.iter().all(F::is_doorbell) {
            return Err(Refusal::NoDoorbell(number));
        }
        match *request {
            Request::SetFeatures(bits) => self.accept(number, bits)?,
            Request::SetProtocolFeatures(bits) => {
                offered(number, bits, PROTOCOL_FEATURES)?;
                self.protocol = bits;
            }
            Request::SetMemTable(ref regions) => self.shared.set(regions, &fds)?,
            Request::AddMemReg(region) => self.shared.add(region, &fds)?,
            Request::RemMemReg(region) => self.shared.remove(region)?,
            Request::SetVringNum { index, num } => {
                // A packed queue's size is any (virtio 1.4 §2.8).
                let may_be = |size: &u16| size.is_power_of_two() || self.is_packed();
                let size = u16::try_from(num).ok().filter(|size| *size > 0 && may_be(size));
                let size = size.filter(|size| *size <= split::MAX_SIZE);
                let refused = Refusal::Value { request: number, value: num.into() };
                self.ring_of(number, index)?.size = size.ok_or(refused)?;
            }
            Request::SetVringAddr { index, addr, .. } => {
                self.ring_of(number, index)?.addr = Some(addr);
            }
            Request::SetVringBase { index, base } => self.ring_of(number, index)?.base = base,
            Request::SetVringKick { index, .. } => {
                // Without one the ring would have to be polled, for which nobody here has the time.
                let refused = Refusal::Value { request: number, value: index.into() };
                self.ring_of(number, index)?.kick = Some(fd.ok_or(refused)?);
            }
            Request::SetVringCall { index, .. } => self.ring_of(number, index)?.call = fd,
            Request::SetVringErr { index, .. } => self.ring_of(number, index)?.err = fd,
            Request::SetVringEnable { index, enable } => {
                let refused = Refusal::Value { request: number, value: enable.into() };
                let ring = self.ring_of(number, index)?;
                ring.enabled = if enable > 1 { return Err(refused) } else { enable == 1 };
            }
            Request::SetBackendReqFd => {
                let fits = fd.as_ref().is_some_and(F::is_channel);
                self.back_channel = fd.filter(|_| fits);
                return if fits { Ok(()) } else { Err(Refusal::NoChannel) };
            }
            Request::SetInflightFd(inflight) => {
                let fd = fd.ok_or(Refusal::Inflight(inflight))?;
                self.track(inflight, |offset, len| fd.map(offset, len))?;
            }
            Request::SetStatus(0) | Request::ResetDevice | Request::ResetOwner => self.reset(),
            Request::SetStatus(asked) => {
                let status = u8::try_from(asked);
                let refused = Refusal::Value { request: number, value: asked };
                self.status |= status.map_err(|_| refused)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn accept(&mut self, request: u32, bits: u64) -> Result<(), Refusal> {
        offered(request, bits, self.offer.features | 1 << F_PROTOCOL_FEATURES)?;
        if self.accepted != Some(bits) {
            (self.accepted, self.refused) = (Some(bits), false);
            self.resets = self.resets.wrapping_add(1);
        }
        Ok(())
    }

    /// All rings stop, and the driver's choices are forgotten. Memory stays.
    fn reset(&mut self) {
        for ring in &mut self.rings {
            ring.stop();
            ring.enabled = false;
        }
        (self.status, self.accepted, self.refused) = (0, None, false);
        self.resets = self.resets.wrapping_add(1);
    }

    fn make_inflight(&mut self, asked: Inflight) -> Result<(Inflight, F), Refusal> {
        let len = (self.offer.journal_len)(asked.queue_size, self.is_packed());
        let len = len as u64 * u64::from(asked.queues);
        let inflight = Inflight { len, offset: 0, ..asked };
        let mut made = None;
        self.track(inflight, |_, len| {
            let (fd, memory) = F::create(len)?;
            made = Some(fd);
            Ok(memory)
        })?;
        Ok((inflight, made.ok_or(Refusal::Inflight(asked))?))
    }

    /// Tracks what is in flight in memory that `map` gives.
    fn track(
        &mut self,
        inflight: Inflight,
        map: impl FnOnce(u64, u64) -> Result<Arc<Mapping>, String>,
    ) -> Result<(), Refusal> {
        let Inflight { len, offset, queues, queue_size } = inflight;
        let packed = self.is_packed();
        let needed = (self.offer.journal_len)(queue_size, packed) as u64 * u64::from(queues);
        let possible = usize::from(queues) <= self.rings.len()
            && queues > 0
            && (1..=split::MAX_SIZE).contains(&queue_size)
            && len >= needed;
        if !possible {
            return Err(Refusal::Inflight(inflight));
        }
        let memory = map(offset, needed).map_err(Refusal::InflightMemory)?;
        self.tracked = Some(Tracked { memory, queue_size, queues, packed });
        Ok(())
    }
}

fn offered(request: u32, bits: u64, offered: u64) -> Result<(), Refusal> {
    match bits & !offered {
        0 => Ok(()),
        bits => Err(Refusal::NotOffered { request, bits }),
    }
}
