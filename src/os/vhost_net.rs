//! The kernel's vhost-net, which moves a queue pair's frames between a TAP and the rings by itself.
//!
//! Theory of operation. Each open descriptor of /dev/vhost-net is a device of one queue pair, with a
//! thread of the kernel's own. It is told where bus addresses lie in this process, where the rings are,
//! which TAP they serve, and two kinds of eventfd: *kicks*, by which it hears of new chains, and
//! *calls*, by which it tells the driver of used ones. Configuration is no affair of its: features,
//! status, and control queue stay with whoever owns the device.
//!
//! Facts of drivers/vhost that this relies on (as read in Linux 5.7, and tried with 6.1):
//!
//! * a kick is polled and never read, and so each write to it is one, as with all doorbells here;
//! * the memory table is what its addresses mean, as long as `ACCESS_PLATFORM` is not acknowledged to
//!   it: with that it would ask for translations;
//! * it lets go of a queue between two chains: where it stops, its available index is its used index,
//!   unless the TAP has failed it;
//! * with `VERSION_1` the rings and the virtio-net header, of 12 bytes, are little-endian;
//! * on what is wrong in a ring it writes to the *error* eventfd, and looks again at the next kick;
//! * a descriptor that is closed, if only as the process is killed, stops it.
//!
//! It judges no frame: what the other end sends goes to the TAP, which checks the header, and what the
//! TAP gives goes to the ring.

#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, NoArg, Opcode, Setter, Updater, opcode};

use crate::memory::{BusMemory, MemoryError};
use crate::net::features::Features;
use crate::net::path::LentQueue;
use crate::spec::{net, split, virtio};

const PATH: &str = "/dev/vhost-net";
/// The kernel's own limit, unless its module was told another.
const MOST_REGIONS: usize = 64;

// linux/vhost.h: requests. That of the memory table is sized by its head alone.
const VHOST: u8 = 0xaf;
const GET_FEATURES: Opcode = opcode::read::<u64>(VHOST, 0x00);
const SET_FEATURES: Opcode = opcode::write::<u64>(VHOST, 0x00);
const SET_OWNER: Opcode = opcode::none(VHOST, 0x01);
const SET_MEM_TABLE: Opcode = opcode::write::<[u32; 2]>(VHOST, 0x03);
const SET_VRING_NUM: Opcode = opcode::write::<State>(VHOST, 0x10);
const SET_VRING_ADDR: Opcode = opcode::write::<Addresses>(VHOST, 0x11);
const SET_VRING_BASE: Opcode = opcode::write::<State>(VHOST, 0x12);
const GET_VRING_BASE: Opcode = opcode::read_write::<State>(VHOST, 0x12);
const SET_VRING_KICK: Opcode = opcode::write::<File>(VHOST, 0x20);
const SET_VRING_CALL: Opcode = opcode::write::<File>(VHOST, 0x21);
const SET_VRING_ERR: Opcode = opcode::write::<File>(VHOST, 0x22);
const SET_BACKEND: Opcode = opcode::write::<File>(VHOST, 0x30);

/// All of them, for who lists what a process may call. They have 32 bits.
#[allow(clippy::unnecessary_cast, reason = "a C library's type may be wider")]
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits")]
pub const REQUESTS: [u32; 12] = [
    GET_FEATURES as u32,
    SET_FEATURES as u32,
    SET_OWNER as u32,
    SET_MEM_TABLE as u32,
    SET_VRING_NUM as u32,
    SET_VRING_ADDR as u32,
    SET_VRING_BASE as u32,
    GET_VRING_BASE as u32,
    SET_VRING_KICK as u32,
    SET_VRING_CALL as u32,
    SET_VRING_ERR as u32,
    SET_BACKEND as u32,
];

/// `struct vhost_vring_state`.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    index: u32,
    num: u32,
}

/// `struct vhost_vring_file`; -1 for none.
#[repr(C)]
#[derive(Clone, Copy)]
struct File {
    index: u32,
    fd: i32,
}

/// `struct vhost_vring_addr`, by addresses in this process.
#[repr(C)]
#[derive(Clone, Copy)]
struct Addresses {
    index: u32,
    flags: u32,
    desc: u64,
    used: u64,
    avail: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MemoryRegion {
    bus_addr: u64,
    len: u64,
    user_addr: u64,
    flags: u64,
}

/// `struct vhost_memory`, with room for its regions.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [MemoryRegion; MOST_REGIONS],
}

/// Why vhost-net does not move frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VhostError {
    /// /dev/vhost-net cannot be opened.
    Open(Errno),
    /// A request failed.
    Os {
        /// Which.
        doing: &'static str,
        /// What ioctl(2) said.
        errno: Errno,
    },
    /// The kernel's is one of virtio 0.9.
    NoVersion1,
    /// The region of memory at this bus address is not mapped, or not cached.
    NotCached {
        /// Its bus address.
        addr: u64,
    },
    /// There are more regions of memory than the kernel takes.
    Regions(usize),
    /// A part of a ring does not lie in memory.
    Ring(MemoryError),
}

impl fmt::Display for VhostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(errno @ (Errno::NOENT | Errno::NXIO | Errno::NODEV)) => {
                write!(f, "{PATH}: {errno}; load the driver (modprobe vhost_net)")
            }
            Self::Open(errno) => write!(f, "{PATH}: {errno}"),
            Self::Os { doing, errno } => write!(f, "vhost-net: {doing}: {errno}"),
            Self::NoVersion1 => write!(f, "this kernel's vhost-net does not know VERSION_1"),
            Self::NotCached { addr } => {
                write!(f, "memory at {addr:#x} is not cached memory of this process")
            }
            Self::Regions(n) => write!(f, "{n} regions of memory are more than vhost-net takes"),
            Self::Ring(e) => write!(f, "vhost-net: a ring: {e}"),
        }
    }
}

impl std::error::Error for VhostError {}

/// Opens a device for one queue pair.
///
/// # Errors
/// The kernel has no vhost-net, or this process may not open it.
pub fn open() -> Result<OwnedFd, VhostError> {
    rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(VhostError::Open)
}

/// What this kernel's vhost-net can do.
///
/// # Errors
/// It is of no use, or the descriptor is none of its.
pub fn features(device: impl AsFd) -> Result<Features, VhostError> {
    // SAFETY: the kernel writes 64 bits.
    let bits = unsafe { ioctl::ioctl(device, Getter::<GET_FEATURES, u64>::new()) };
    let bits = bits.map_err(|errno| VhostError::Os { doing: "VHOST_GET_FEATURES", errno })?;
    let features = Features::from_bits(bits.into());
    if features.has(virtio::F_VERSION_1) { Ok(features) } else { Err(VhostError::NoVersion1) }
}

/// What it has to do with: features that are about rings and receive buffers.
const ITS_OWN: Features = Features::of(&[
    virtio::F_VERSION_1,
    virtio::F_INDIRECT_DESC,
    virtio::F_EVENT_IDX,
    net::F_MRG_RXBUF,
]);
/// What it never does for us: packed rings are unknown to it, and so are, of what the driver sets at run
/// time, filters of frames and coalesced notifications. Kernels whose vhost-net knows `IN_ORDER` (from
/// 6.18 on) are too new for us to have tried that.
const NEVER: Features = Features::of(&[
    virtio::F_RING_PACKED,
    virtio::F_IN_ORDER,
    net::F_CTRL_RX,
    net::F_CTRL_VLAN,
    net::F_NOTF_COAL,
]);

/// Features that a device does without whose queues a vhost-net of these features is to serve.
pub fn unfit(features: Features) -> Features {
    ITS_OWN.minus(features).union(NEVER)
}

/// What a queue pair is to be served with; queues, kicks and calls in the order receiveq, transmitq.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What bus addresses mean.
    pub mem: &'a Arc<BusMemory>,
    /// What was negotiated.
    pub features: Features,
    /// The queues; one that is reset is not there.
    pub queues: [Option<LentQueue>; 2],
    /// Our doorbells.
    pub kicks: [BorrowedFd<'a>; 2],
    /// The driver's; `None` if it polls.
    pub calls: [Option<BorrowedFd<'a>>; 2],
    /// A queue of the TAP.
    pub tap: BorrowedFd<'a>,
}

/// A queue pair that the kernel serves. Dropping it stops that.
#[derive(Debug)]
pub struct VhostNet {
    device: OwnedFd,
    error: OwnedFd,
    runs: [bool; 2],
    /// Stays mapped as long as the kernel uses it.
    _mem: Arc<BusMemory>,
}

impl VhostNet {
    /// Has the kernel serve the queues by a fresh `device`, which has to be this process's first.
    ///
    /// # Errors
    /// It cannot; nothing is served then, and the queues are as they were.
    pub fn start(device: OwnedFd, setup: &Setup<'_>) -> Result<Self, VhostError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let error = eventfd(0, flags)
            .map_err(|errno| VhostError::Os { doing: "making an eventfd", errno })?;
        let mut vhost = Self { device, error, runs: [false; 2], _mem: setup.mem.clone() };
        let table = table(setup.mem)?;
        // SAFETY: the request takes no argument.
        let owned = unsafe { ioctl::ioctl(&vhost.device, NoArg::<SET_OWNER>::new()) };
        owned.map_err(|errno| VhostError::Os { doing: "VHOST_SET_OWNER", errno })?;
        let acked = setup.features.intersection(ITS_OWN).block(0);
        let version = 1 << virtio::F_VERSION_1;
        vhost.set::<SET_FEATURES, u64>("VHOST_SET_FEATURES", u64::from(acked) | version)?;
        vhost.set::<SET_MEM_TABLE, MemoryTable>("VHOST_SET_MEM_TABLE", table)?;
        for (index, queue) in (0..).zip(&setup.queues) {
            if let Some(queue) = queue {
                vhost.prepare(index, queue, setup)?;
            }
        }
        for (index, queue) in (0..).zip(&setup.queues) {
            if queue.is_some() {
                vhost.file::<SET_BACKEND>("VHOST_NET_SET_BACKEND", index, Some(setup.tap))?;
                vhost.runs[index as usize] = true;
            }
        }
        Ok(vhost)
    }

    fn prepare(&self, index: u32, queue: &LentQueue, setup: &Setup<'_>) -> Result<(), VhostError> {
        let LentQueue { config, next } = queue;
        let at = index as usize;
        let state = |num: u16| State { index, num: num.into() };
        self.set::<SET_VRING_NUM, State>("VHOST_SET_VRING_NUM", state(config.size))?;
        self.set::<SET_VRING_BASE, State>("VHOST_SET_VRING_BASE", state(*next))?;
        let of = |addr, len| user_address(setup.mem, addr, len);
        let addresses = Addresses {
            index,
            flags: 0,
            desc: of(config.desc, split::desc_len(config.size))?,
            used: of(config.device, split::used_len(config.size))?,
            avail: of(config.driver, split::avail_len(config.size))?,
            log: 0,
        };
        self.set::<SET_VRING_ADDR, Addresses>("VHOST_SET_VRING_ADDR", addresses)?;
        self.file::<SET_VRING_CALL>("VHOST_SET_VRING_CALL", index, setup.calls[at])?;
        self.file::<SET_VRING_ERR>("VHOST_SET_VRING_ERR", index, Some(self.error.as_fd()))?;
        self.file::<SET_VRING_KICK>("VHOST_SET_VRING_KICK", index, Some(setup.kicks[at]))
    }

    /// Becomes readable when the kernel finds something wrong with a ring.
    pub fn error(&self) -> BorrowedFd<'_> {
        self.error.as_fd()
    }

    /// Stops it: from now on nobody touches the queues. The index of each one's next chain.
    ///
    /// # Errors
    /// The kernel does not tell. It has stopped nevertheless.
    pub fn stop(self) -> Result<[Option<u16>; 2], VhostError> {
        let mut next = [None; 2];
        for index in [0, 1] {
            if !self.runs[index as usize] {
                continue;
            }
            self.file::<SET_BACKEND>("VHOST_NET_SET_BACKEND", index, None)?;
            let mut state = State { index, num: 0 };
            // SAFETY: the kernel reads and writes one vhost_vring_state.
            let got = unsafe {
                let updater = Updater::<GET_VRING_BASE, State>::new(&mut state);
                ioctl::ioctl(&self.device, updater)
            };
            got.map_err(|errno| VhostError::Os { doing: "VHOST_GET_VRING_BASE", errno })?;
            let out_of_range =
                |_| VhostError::Os { doing: "VHOST_GET_VRING_BASE", errno: Errno::RANGE };
            next[index as usize] = Some(u16::try_from(state.num).map_err(out_of_range)?);
        }
        Ok(next)
    }

    fn file<const REQUEST: Opcode>(
        &self,
        doing: &'static str,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), VhostError> {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        self.set::<REQUEST, File>(doing, File { index, fd })
    }

    fn set<const REQUEST: Opcode, T: Copy>(
        &self,
        doing: &'static str,
        value: T,
    ) -> Result<(), VhostError> {
        // SAFETY: each request is used with the type that it reads, which has no padding: of a table as
        // many regions as its head says. What the kernel goes on using are eventfds, a TAP, which it
        // holds itself, and mapped memory, which other processes write to anyway and which `_mem` keeps.
        unsafe { ioctl::ioctl(&self.device, Setter::<REQUEST, T>::new(value)) }
            .map_err(|errno| VhostError::Os { doing, errno })
    }
}

/// Whether the kernel can be told of all of this memory.
///
/// # Errors
/// It cannot, as the error says.
pub fn check_memory(mem: &BusMemory) -> Result<(), VhostError> {
    table(mem).map(drop)
}

fn table(mem: &BusMemory) -> Result<MemoryTable, VhostError> {
    let regions = mem.regions();
    let mut table =
        MemoryTable { count: 0, padding: 0, regions: [MemoryRegion::default(); MOST_REGIONS] };
    if regions.len() > MOST_REGIONS {
        return Err(VhostError::Regions(regions.len()));
    }
    for (to, region) in table.regions.iter_mut().zip(regions) {
        let not_cached = VhostError::NotCached { addr: region.bus_addr };
        let (mapping, offset) = region.backing.as_ref().ok_or(not_cached.clone())?;
        let len = usize::try_from(region.len).map_err(|_| not_cached.clone())?;
        let (start, _) = mapping.view(*offset, len).io_parts().ok_or(not_cached)?;
        let user_addr = start.expose_provenance() as u64;
        *to = MemoryRegion { bus_addr: region.bus_addr, len: region.len, user_addr, flags: 0 };
        table.count += 1;
    }
    Ok(table)
}

/// Where `len` bytes at a bus address lie in this process.
fn user_address(mem: &BusMemory, addr: u64, len: u32) -> Result<u64, VhostError> {
    let span = mem.resolve(addr, len).map_err(VhostError::Ring)?;
    let parts = mem.view(span).and_then(|view| view.io_parts());
    let (start, _) = parts.ok_or(VhostError::NotCached { addr })?;
    Ok(start.expose_provenance() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Kind, Mapping, Region, Side};

    #[test]
    fn requests_are_those_of_the_kernels_header() {
        // As a C compiler has them of linux/vhost.h, on most machines.
        let expected = [
            0x8008_af00,
            0x4008_af00,
            0x0000_af01,
            0x4008_af03,
            0x4008_af10,
            0x4028_af11,
            0x4008_af12,
            0xc008_af12,
            0x4008_af20,
            0x4008_af21,
            0x4008_af22,
            0x4008_af30,
        ];
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")) {
            assert_eq!(REQUESTS, expected);
        }
        assert_eq!(size_of::<MemoryRegion>(), 32);
        assert_eq!(size_of::<MemoryTable>(), 8 + 32 * MOST_REGIONS);
    }

    #[test]
    fn the_memory_table_leads_from_bus_addresses_to_this_process() {
        let [near, far] =
            [0x3000, 0x8000].map(|len| Arc::new(Mapping::anonymous(len, Kind::Cached)));
        let mem = BusMemory::new(vec![
            Region::mapped(0, 0x2000, Side::Near, near, 0x1000),
            Region::mapped(0x10_0000, 0x8000, Side::Far, far, 0),
        ])
        .unwrap();
        let table = table(&mem).unwrap();
        assert_eq!(table.count, 2);
        for (entry, region) in table.regions.iter().zip(mem.regions()) {
            assert_eq!((entry.bus_addr, entry.len, entry.flags), (region.bus_addr, region.len, 0));
            // A write by a bus address is found at the address that the kernel would use.
            let at = region.bus_addr + 0x18;
            mem.view(mem.resolve(at, 8).unwrap()).unwrap().store_le64(0, at);
            let user = std::ptr::with_exposed_provenance::<u64>((entry.user_addr + 0x18) as usize);
            // SAFETY: it lies in a mapping that lives, as the view above has checked.
            assert_eq!(u64::from_le(unsafe { user.read_volatile() }), at);
            assert_eq!(user_address(&mem, at, 8), Ok(entry.user_addr + 0x18));
        }
        assert_eq!(table.regions[2], MemoryRegion::default());
        let error = user_address(&mem, 0x1ff8, 16).unwrap_err();
        assert!(matches!(error, VhostError::Ring(_)), "{error}");
    }

    #[test]
    fn memory_that_a_system_call_may_not_copy_is_none_for_the_kernel() {
        for kind in [Kind::WriteCombined, Kind::Uncached] {
            let bytes = Arc::new(Mapping::anonymous(0x1000, kind));
            let mem = BusMemory::new(vec![Region::mapped(0x7000, 0x1000, Side::Far, bytes, 0)]);
            assert_eq!(check_memory(&mem.unwrap()), Err(VhostError::NotCached { addr: 0x7000 }));
        }
        let mem = BusMemory::new(vec![Region {
            bus_addr: 0x9000,
            len: 0x1000,
            side: Side::Far,
            backing: None,
        }]);
        assert_eq!(check_memory(&mem.unwrap()), Err(VhostError::NotCached { addr: 0x9000 }));
        let bytes = Arc::new(Mapping::anonymous(0x1000, Kind::Cached));
        let many = (0..=MOST_REGIONS as u64)
            .map(|i| Region::mapped(i << 12, 0x1000, Side::Far, bytes.clone(), 0))
            .collect();
        assert_eq!(check_memory(&BusMemory::new(many).unwrap()), Err(VhostError::Regions(65)));
    }

    #[test]
    fn what_the_kernel_cannot_do_is_not_offered() {
        let kernel = Features::from_names(["VERSION_1", "EVENT_IDX", "MRG_RXBUF", "INDIRECT_DESC"]);
        let left = |kernel| Features::OFFER.without(unfit(kernel));
        let usual = left(kernel.unwrap());
        for (bit, on) in [
            (virtio::F_EVENT_IDX, true),
            (virtio::F_RING_RESET, true),
            (virtio::F_ACCESS_PLATFORM, true),
            (net::F_MQ, true),
            (net::F_GUEST_TSO4, true),
            (net::F_CTRL_GUEST_OFFLOADS, true),
            (virtio::F_RING_PACKED, false),
            (virtio::F_IN_ORDER, false),
            (net::F_CTRL_RX, false),
            (net::F_CTRL_VLAN, false),
            (net::F_NOTF_COAL, false),
        ] {
            assert_eq!(usual.has(bit), on, "{}", Features::of(&[bit]));
        }
        let poor = left(Features::of(&[virtio::F_VERSION_1]));
        let lost = ["EVENT_IDX", "MRG_RXBUF", "INDIRECT_DESC"];
        assert_eq!(usual.minus(poor), Features::from_names(lost).unwrap());
    }
}
