//! What a front-end has and sends: files of memory, doorbells, requests that nearly make sense.

use std::sync::Arc;

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::features::Features;
use boardlane::spec::net::{self, ctrl};
use boardlane::spec::vhost_user::{F_PROTOCOL_FEATURES, protocol};
use boardlane::spec::virtio;
use boardlane::tunnel::vhost_user::back_end::{Descriptor, PROTOCOL_FEATURES};
use boardlane::tunnel::vhost_user::{Inflight, MemoryRegion, Reply, Request, VringAddr};
use boardlane::virtqueue::{DriverQueue, Journal, QueueConfig};

use super::super::octets::Octets;
use super::super::ring_driver::Driver;
use super::super::ring_memory::{Choice, DATA, RINGS, RINGS_LEN, describe, poke};

/// What descriptors should point to.
const DATA_LEN: u64 = 0x1_8000;
/// A file that no ring lies in.
const SMALL: u64 = 0x40_0000;
const SMALL_LEN: u64 = 0x1000;
/// The front-end's own addresses are so much beyond those on the bus.
const USER: u64 = 0x7f00_0000_0000;
/// Most rings, and bytes in which all of them are tracked.
const MOST_RINGS: usize = 5;
const MOST_TRACKED: usize = MOST_RINGS * Journal::len(32768, true);

/// A descriptor.
#[derive(Clone, Debug)]
pub(super) enum Fd {
    Memory(Arc<Mapping>),
    Bell,
    Junk,
}

impl Fd {
    pub(super) fn is_bell(&self) -> bool {
        matches!(self, Self::Bell)
    }
}

impl Descriptor for Fd {
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String> {
        match self {
            Self::Memory(memory) if offset == 0 && len <= memory.len() as u64 => Ok(memory.clone()),
            Self::Memory(_) => Err("the file is shorter".to_owned()),
            _ => Err("it is no memory".to_owned()),
        }
    }

    fn is_channel(&self) -> bool {
        true
    }

    fn is_doorbell(&self) -> bool {
        self.is_bell()
    }

    fn create(len: u64) -> Result<(Self, Arc<Mapping>), String> {
        let len = usize::try_from(len).expect("it has to be bounded");
        assert!((1..=MOST_TRACKED).contains(&len), "{len} bytes for what is in flight");
        let memory = anonymous(len);
        Ok((Self::Memory(memory.clone()), memory))
    }
}

fn anonymous(len: usize) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(len, Kind::Cached))
}

pub(super) struct FrontEnd {
    choice: Choice,
    features: Features,
    pairs: u16,
    /// Of rings, of data, and another one.
    files: [Arc<Mapping>; 3],
    queues: Vec<QueueConfig>,
    /// Where each ring goes on, as far as it knows.
    bases: Vec<u32>,
    inflight: Option<(Inflight, Fd)>,
}

impl FrontEnd {
    pub(super) fn new(choice: Choice, pairs: u16, features_off: Features) -> Self {
        let mut off = features_off
            .union(Features::of(&[virtio::F_ACCESS_PLATFORM, virtio::F_ORDER_PLATFORM]));
        if pairs == 1 {
            off = off.union(Features::of(&[net::F_MQ]));
        }
        let files = [RINGS_LEN, DATA_LEN, SMALL_LEN]
            .map(|len| anonymous(usize::try_from(len).expect("small")));
        let rings = 0..=2 * u64::from(pairs);
        let base = if choice.packed { 0x8000 } else { 0 };
        Self {
            choice,
            features: choice.features().without(off),
            pairs,
            files,
            bases: vec![base; rings.clone().count()],
            queues: rings.map(|index| queue(choice, index, 16)).collect(),
            inflight: None,
        }
    }

    /// Two regions, as a back-end has them too.
    fn memory(&self) -> BusMemory {
        let region =
            |addr, len, file: &Arc<Mapping>| Region::mapped(addr, len, Side::Near, file.clone(), 0);
        BusMemory::new(vec![
            region(RINGS, RINGS_LEN, &self.files[0]),
            region(DATA, DATA_LEN, &self.files[1]),
        ])
        .expect("regions apart")
    }

    pub(super) fn driver(&self) -> Driver {
        Driver::new(self.memory(), DATA_LEN, self.queues.clone())
    }

    /// Starts the driver's halves of the first pair's queues.
    pub(super) fn drivers(&self, features: Features) -> [DriverQueue; 2] {
        let mem = self.memory();
        [0, 1].map(|index| {
            let start = |config: QueueConfig| config.activate_driver(&mem).expect("a good place");
            start(with(self.queues[index], features))
        })
    }

    pub(super) fn clear(&self) {
        self.files.iter().for_each(|file| file.view(0, file.len()).zero());
    }

    /// A descriptor of any kind.
    pub(super) fn any(&self, script: &mut Octets<'_>) -> Fd {
        match script.u8() % 8 {
            at @ 0..=2 => Fd::Memory(self.files[usize::from(at)].clone()),
            3..=5 => Fd::Bell,
            6 => self.inflight.as_ref().map_or(Fd::Junk, |(_, fd)| fd.clone()),
            _ => Fd::Junk,
        }
    }

    /// What the front-end learns from an answer.
    pub(super) fn answered(&mut self, request: &Request, reply: &Reply, fd: Option<&Fd>) {
        match (request, reply) {
            (Request::GetVringBase { index: asked }, Reply::VringBase { index, base }) => {
                assert_eq!(asked, index);
                self.bases[usize::try_from(*index).expect("a ring")] = *base;
            }
            (Request::GetInflightFd(_), Reply::Inflight(inflight)) => {
                self.inflight = Some((*inflight, fd.expect("memory comes with it").clone()));
            }
            (Request::GetVringBase { .. } | Request::GetInflightFd(_), other) => {
                panic!("{request:?} is answered by {other:?}")
            }
            _ => assert!(fd.is_none()),
        }
    }

    fn regions(&self) -> (Vec<MemoryRegion>, Vec<Fd>) {
        let region =
            |bus_addr, len| MemoryRegion { bus_addr, len, user_addr: bus_addr + USER, offset: 0 };
        let regions = vec![region(RINGS, RINGS_LEN), region(DATA, DATA_LEN)];
        (regions, self.files[..2].iter().map(|file| Fd::Memory(file.clone())).collect())
    }

    fn region(&self, script: &mut Octets<'_>) -> (MemoryRegion, Fd) {
        let which = usize::from(script.u8());
        let (bus_addr, len) = [(RINGS, RINGS_LEN), (DATA, DATA_LEN), (SMALL, SMALL_LEN)][which % 3];
        let good = MemoryRegion { bus_addr, len, user_addr: bus_addr + USER, offset: 0 };
        let region = match script.u8() {
            0..=0xbf => good,
            0xc0..=0xcf => MemoryRegion { len: script.u16().into(), ..good },
            0xd0..=0xdf => MemoryRegion { bus_addr: script.u64(), ..good },
            0xe0..=0xef => MemoryRegion { user_addr: script.u64(), ..good },
            _ => MemoryRegion { offset: script.u64(), ..good },
        };
        (region, Fd::Memory(self.files[which % 3].clone()))
    }

    /// A ring's set-up; it begins where the front-end thinks it stands.
    fn ring(&self, index: usize, base: u32, anew: bool) -> Vec<(Request, Vec<Fd>)> {
        let queue = self.queues[index];
        let addr = VringAddr {
            desc: queue.desc + USER,
            driver: queue.driver + USER,
            device: queue.device + USER,
        };
        let index = u32::try_from(index).expect("few");
        let mut requests = vec![
            (Request::SetVringNum { index, num: queue.size.into() }, vec![]),
            (Request::SetVringBase { index, base }, vec![]),
            (Request::SetVringAddr { index, flags: 0, addr }, vec![]),
            (Request::SetVringKick { index, fd: true }, vec![Fd::Bell]),
            (Request::SetVringCall { index, fd: true }, vec![Fd::Bell]),
        ];
        let enable = (Request::SetVringEnable { index, enable: 1 }, vec![]);
        requests.insert(if anew { 5 } else { 0 }, enable);
        requests
    }

    /// What it would accept of what is offered.
    fn features(&self) -> u64 {
        u64::try_from(self.features.bits()).expect("no more are offered")
    }

    /// Parts of a good set-up.
    pub(super) fn set_up(&self, parts: u8, script: &mut Octets<'_>) -> Vec<(Request, Vec<Fd>)> {
        let on = |bit: u8| parts & 1 << bit != 0;
        let mut requests = Vec::new();
        if on(1) {
            let without = if on(7) { protocol::STATUS } else { 0 };
            requests.push((Request::SetProtocolFeatures(PROTOCOL_FEATURES & !without), vec![]));
            let off = script.choose(&[0, 1 << 15, 1 << 34, 1 << 17 | 1 << 22]);
            let bits = self.features();
            requests.push((Request::SetFeatures(bits & !off | 1 << F_PROTOCOL_FEATURES), vec![]));
        }
        if on(2) {
            let (regions, fds) = self.regions();
            requests.push((Request::SetMemTable(regions), fds));
        }
        if let (true, Some((inflight, fd))) = (on(3), &self.inflight) {
            requests.push((Request::SetInflightFd(*inflight), vec![fd.clone()]));
        }
        if on(4) {
            let rings = script.u8();
            for index in (0..self.queues.len()).filter(|index| rings & 1 << index != 0) {
                requests.extend(self.ring(index, self.bases[index], on(6)));
            }
        }
        if on(5) {
            requests.push((Request::SetStatus(15), vec![]));
        }
        requests
    }

    pub(super) fn ask_inflight(&self) -> Request {
        Request::GetInflightFd(Inflight {
            len: 0,
            offset: 0,
            queues: 2 * self.pairs,
            queue_size: 16,
        })
    }

    /// What an honest one sends, before and after it asks for memory to track in.
    #[allow(clippy::type_complexity, reason = "two lists of messages")]
    pub(super) fn honest(
        &self,
        features: Features,
        anew: bool,
    ) -> (Vec<(Request, Vec<Fd>)>, Vec<(Request, Vec<Fd>)>) {
        let (regions, fds) = self.regions();
        let bits = u64::try_from(features.bits()).expect("no more are offered");
        let mut before = vec![(Request::SetProtocolFeatures(PROTOCOL_FEATURES), vec![])];
        before.push((Request::SetFeatures(bits | 1 << F_PROTOCOL_FEATURES), vec![]));
        before.push((Request::SetMemTable(regions), fds));
        let base = if self.choice.packed { 0x8000 } else { 0 };
        let mut after = self.ring(0, base, anew);
        after.extend(self.ring(1, base, anew));
        after.push((Request::SetStatus(15), vec![]));
        (before, after)
    }

    /// A command in the driver's memory, offered in this queue.
    pub(super) fn command(&self, driver: &mut Driver, which: usize, script: &mut Octets<'_>) {
        let (class, command) = script.choose(&[
            ctrl::RX_PROMISC,
            ctrl::MQ_VQ_PAIRS_SET,
            ctrl::MQ_VQ_PAIRS_SET,
            ctrl::GUEST_OFFLOADS_SET,
            ctrl::GUEST_OFFLOADS_SET,
            ctrl::MAC_ADDR_SET,
            ctrl::MAC_TABLE_SET,
            ctrl::VLAN_ADD,
            ctrl::NOTF_COAL_RX_SET,
            ctrl::ANNOUNCE_ACK,
        ]);
        let len: u8 = script.choose(&[2, 1, 8, 6, 0, 14]);
        let at = DATA + 0x1000 + 64 * u64::from(script.u8() % 16);
        poke(&driver.mem, at, &[class, command]);
        poke(&driver.mem, at + 2, script.take(len.into()));
        let len = 2 + u32::from(len);
        if self.choice.packed {
            driver.put_packed(which, at, len, 0, 1);
            driver.put_packed(which, at + 32, 1, 0, 2);
        } else {
            let (head, desc) = (2 * (script.u8() % 8), driver.queues[which].desc);
            let place = desc + 16 * u64::from(head);
            describe(&driver.mem, place, at, len, [1, u16::from(head) + 1]);
            describe(&driver.mem, place + 16, at + 32, 1, [2, 0]);
            driver.offer(which, head.into());
        }
    }

    /// A request that nearly makes sense, and what comes with it.
    pub(super) fn request(&self, script: &mut Octets<'_>) -> (Request, Vec<Fd>) {
        let index = u32::from(script.u8()) % (u32::try_from(self.queues.len()).expect("few") + 1);
        let fd = script.u8() & 7 != 7;
        let (request, mut fds) = self.plain(index, fd, script);
        match script.u8() {
            0xf0..=0xf7 => fds.push(self.any(script)),
            0xf8..=0xff if !fds.is_empty() => {
                let last = fds.len() - 1;
                fds[last] = self.any(script);
            }
            _ => {}
        }
        (request, fds)
    }

    fn plain(&self, index: u32, fd: bool, script: &mut Octets<'_>) -> (Request, Vec<Fd>) {
        let bell = |request| (request, if fd { vec![Fd::Bell] } else { vec![] });
        let alone = |request| (request, vec![]);
        let tracked = |script: &mut Octets<'_>| Inflight {
            len: script.choose(&[0x1000, 0, 0x4000, u64::MAX]),
            offset: script.choose(&[0, 0, 0, 8]),
            queues: script.choose(&[2, 5, 0, 6, u16::MAX]),
            queue_size: script.choose(&[16, 32, 0, 3, 32768, u16::MAX]),
        };
        match script.u8() % 26 {
            0 => alone(Request::GetVringBase { index }),
            1 => bell(Request::SetVringKick { index, fd }),
            2 => bell(Request::SetVringCall { index, fd }),
            3 => bell(Request::SetVringErr { index, fd }),
            4 => {
                alone(Request::SetVringEnable { index, enable: u32::from(script.u8() & 0x83) & 3 })
            }
            5 => alone(Request::SetVringNum {
                index,
                num: script.choose(&[16, 8, 32, 1, 3, 0, 4096, 65536]),
            }),
            6 => {
                let mut base = script.choose(&[0, 0x8000, 0x8000_8000, 0x7fff, 0x1_0000]);
                base += u32::from(script.u8() & 15);
                alone(Request::SetVringBase { index, base })
            }
            7 => {
                let at = |script: &mut Octets<'_>| match script.u8() {
                    at @ 0..=0xef => RINGS + USER + 0x80 * u64::from(at),
                    _ => script.u64(),
                };
                let addr = VringAddr { desc: at(script), driver: at(script), device: at(script) };
                alone(Request::SetVringAddr { index, flags: script.u8().into(), addr })
            }
            8 => {
                let (regions, fds) = (0..script.u8() % 5).map(|_| self.region(script)).unzip();
                (Request::SetMemTable(regions), fds)
            }
            9 => {
                let (region, fd) = self.region(script);
                (Request::AddMemReg(region), vec![fd])
            }
            10 => alone(Request::RemMemReg(self.region(script).0)),
            11 => alone(Request::GetInflightFd(tracked(script))),
            12 => {
                let made = self.inflight.clone().filter(|_| script.u8() & 3 != 0);
                let other = || (tracked(script), Fd::Memory(self.files[1].clone()));
                let (inflight, fd) = made.unwrap_or_else(other);
                (Request::SetInflightFd(inflight), vec![fd])
            }
            13 => alone(Request::SetStatus(script.choose(&[0, 1, 15, 0, 64, 256]))),
            14 => alone(Request::ResetDevice),
            15 => alone(Request::ResetOwner),
            16 => {
                let bits = script.choose(&[PROTOCOL_FEATURES, 0, protocol::REPLY_ACK, 1 << 2]);
                alone(Request::SetProtocolFeatures(bits))
            }
            17 | 18 => {
                let bits = self.features() | 1 << F_PROTOCOL_FEATURES;
                let off = script.choose(&[0, 1 << 30, 1 << 32, 1 << 34, 1 << 17, 1 << 22, 1 << 29]);
                alone(Request::SetFeatures((bits | u64::from(script.u8() == 0xff)) & !off))
            }
            19 => (Request::SetBackendReqFd, vec![Fd::Bell]),
            20 => {
                let data = vec![0; script.u8().into()];
                let offset = script.choose(&[0, 6, 12, 255, u32::MAX]);
                alone(Request::GetConfig { offset, flags: 0, data })
            }
            21 => alone(Request::SetConfig { offset: 0, flags: 0, data: vec![0; 6] }),
            22 => alone(Request::GetStatus),
            23 => alone(Request::SetOwner),
            24 => alone(Request::GetMaxMemSlots),
            _ => alone(
                script
                    .choose(&[
                        &Request::GetFeatures,
                        &Request::GetProtocolFeatures,
                        &Request::GetQueueNum,
                    ])
                    .clone(),
            ),
        }
    }
}

/// Where a ring lies.
fn queue(choice: Choice, index: u64, size: u16) -> QueueConfig {
    let desc = RINGS + 0x800 * index;
    let (driver, device) = (desc + 0x400, desc + 0x600);
    QueueConfig { desc, driver, device, ..choice.queue(0, size) }
}

/// As these features have it.
fn with(queue: QueueConfig, features: Features) -> QueueConfig {
    QueueConfig {
        packed: features.has(virtio::F_RING_PACKED),
        in_order: features.has(virtio::F_IN_ORDER),
        event_idx: features.has(virtio::F_EVENT_IDX),
        indirect: features.has(virtio::F_INDIRECT_DESC),
        ..queue
    }
}
