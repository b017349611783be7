//! What vhost-user messages are made of, and what makes one wrong.

use std::fmt;

use crate::spec::vhost_user::{
    HEADER_LEN, MAX_CONFIG, MAX_PAYLOAD, MAX_REGIONS, VRING_INDEX_MASK, VRING_NO_FD, flags, request,
};

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The request's number.
    pub request: u32,
    /// [`flags`].
    pub flags: u32,
    /// Length in bytes of the payload, at most [`MAX_PAYLOAD`].
    pub size: u32,
}

impl Header {
    /// Reads a header of a request, or with `reply` of the reply to one.
    pub fn parse(octets: [u8; HEADER_LEN], reply: bool) -> Result<Self, Fault> {
        let word = |at: usize| {
            u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        };
        let header = Self { request: word(0), flags: word(4), size: word(8) };
        let is_reply = header.flags & flags::REPLY != 0;
        if header.flags & flags::VERSION_MASK != flags::VERSION || is_reply != reply {
            return Err(Fault::Flags { request: header.request, flags: header.flags });
        }
        match usize::try_from(header.size) {
            Ok(size) if size <= MAX_PAYLOAD => Ok(header),
            _ => Err(Fault::Long { request: header.request, size: header.size }),
        }
    }

    /// Whether the sender asks for a reply where there need be none.
    pub fn needs_reply(&self) -> bool {
        self.flags & flags::NEED_REPLY != 0
    }

    fn octets(self) -> [u8; HEADER_LEN] {
        let mut octets = [0; HEADER_LEN];
        let words = [self.request, self.flags, self.size];
        for (to, word) in octets.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        octets
    }
}

/// The octets of a message; `flags` without the version.
pub fn encode(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = Header { request, flags: flags | flags::VERSION, size };
    let mut octets = header.octets().to_vec();
    octets.extend_from_slice(payload);
    octets
}

/// A memory region as a front-end tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRegion {
    /// The address that stands in descriptors: the guest's physical one.
    pub bus_addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// The address that rings are told by: the front-end's virtual one.
    pub user_addr: u64,
    /// Where in the file it begins.
    pub offset: u64,
}

impl MemoryRegion {
    pub(super) const LEN: usize = 32;

    pub(super) fn octets(&self) -> [u8; Self::LEN] {
        let mut octets = [0; Self::LEN];
        let words = [self.bus_addr, self.len, self.user_addr, self.offset];
        for (to, word) in octets.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        octets
    }
}

/// Where a ring lies, as addresses of the front-end's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VringAddr {
    /// The descriptor area.
    pub desc: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
}

/// The memory in which what is in flight is tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflight {
    /// Its length in bytes.
    pub len: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// For how many queues it has room.
    pub queues: u16,
    /// For queues of which size.
    pub queue_size: u16,
}

impl Inflight {
    /// Its octets, as the C structure that both ends send has them, padding included.
    pub(super) fn octets(&self) -> [u8; 24] {
        let mut octets = [0; 24];
        octets[..8].copy_from_slice(&self.len.to_le_bytes());
        octets[8..16].copy_from_slice(&self.offset.to_le_bytes());
        octets[16..18].copy_from_slice(&self.queues.to_le_bytes());
        octets[18..20].copy_from_slice(&self.queue_size.to_le_bytes());
        octets
    }
}

/// A message that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another version, or a reply where a request is due, or the other way about.
    Flags {
        /// The request's number.
        request: u32,
        /// Its flags.
        flags: u32,
    },
    /// Its payload is longer than any.
    Long {
        /// The request's number.
        request: u32,
        /// The length in bytes that its header says.
        size: u32,
    },
    /// There is no such request, or it belongs to a feature that was not offered.
    Unknown(u32),
    /// The payload's length is not what the request takes.
    Length {
        /// The request's number.
        request: u32,
        /// The payload's length in bytes.
        size: usize,
    },
    /// It came with too few descriptors, or with too many.
    Descriptors {
        /// The request's number.
        request: u32,
        /// How many came with it.
        got: usize,
        /// How many it takes.
        takes: (usize, usize),
    },
    /// It has more memory regions than there may be.
    Regions(u64),
    /// A vring number with bits that mean nothing.
    Vring {
        /// The request's number.
        request: u32,
        /// The number.
        value: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flags { request, flags } => {
                write!(f, "{} has flags {flags:#x}", name(request))
            }
            Self::Long { request, size } => {
                write!(f, "{} has {size} bytes, more than {MAX_PAYLOAD}", name(request))
            }
            Self::Unknown(request) => write!(f, "{} is not served", name(request)),
            Self::Length { request, size } => {
                write!(f, "{} has a payload of {size} bytes, which it cannot have", name(request))
            }
            Self::Descriptors { request, got, takes: (least, most) } => {
                write!(f, "{} came with {got} descriptors and takes ", name(request))?;
                if least == most { write!(f, "{least}") } else { write!(f, "{least} to {most}") }
            }
            Self::Regions(regions) => {
                write!(f, "{regions} memory regions, at most {MAX_REGIONS} are taken")
            }
            Self::Vring { request, value } => {
                write!(f, "{} has {value:#x}, which is no ring", name(request))
            }
        }
    }
}

impl std::error::Error for Fault {}

/// What a request is called.
pub fn name(request: u32) -> String {
    let known = request::NAMES.iter().find(|(number, _)| *number == request);
    known.map_or_else(|| format!("request {request}"), |(_, name)| (*name).to_owned())
}

/// Reads a payload from its start.
pub(super) struct Payload<'a> {
    request: u32,
    whole: usize,
    pub(super) rest: &'a [u8],
}

impl<'a> Payload<'a> {
    pub(super) fn new(request: u32, octets: &'a [u8]) -> Self {
        Self { request, whole: octets.len(), rest: octets }
    }

    fn fault(&self) -> Fault {
        Fault::Length { request: self.request, size: self.whole }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.fault())?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn region(&mut self) -> Result<MemoryRegion, Fault> {
        let (bus_addr, len) = (self.u64()?, self.u64()?);
        Ok(MemoryRegion { bus_addr, len, user_addr: self.u64()?, offset: self.u64()? })
    }

    pub(super) fn regions(&mut self) -> Result<Vec<MemoryRegion>, Fault> {
        let (count, _padding) = (self.u32()?, self.u32()?);
        if !usize::try_from(count).is_ok_and(|count| count <= MAX_REGIONS) {
            return Err(Fault::Regions(count.into()));
        }
        (0..count).map(|_| self.region()).collect()
    }

    /// The ring's index, and whether a descriptor comes with it.
    pub(super) fn vring(&mut self) -> Result<(u32, bool), Fault> {
        let value = self.u64()?;
        if value & !(VRING_INDEX_MASK | VRING_NO_FD) != 0 {
            return Err(Fault::Vring { request: self.request, value });
        }
        let index = u32::try_from(value & VRING_INDEX_MASK).unwrap_or(u32::MAX);
        Ok((index, value & VRING_NO_FD == 0))
    }

    pub(super) fn inflight(&mut self) -> Result<Inflight, Fault> {
        let (len, offset) = (self.u64()?, self.u64()?);
        let (queues, queue_size) = (self.u16()?, self.u16()?);
        // Some compilers' structures end with padding, others' do not.
        if self.rest.len() == 4 {
            self.rest = &[];
        }
        Ok(Inflight { len, offset, queues, queue_size })
    }

    pub(super) fn config(&mut self) -> Result<(u32, u32, Vec<u8>), Fault> {
        let (offset, size, flags) = (self.u32()?, self.u32()?, self.u32()?);
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_CONFIG);
        if size != Some(self.rest.len()) {
            return Err(self.fault());
        }
        Ok((offset, flags, std::mem::take(&mut self.rest).to_vec()))
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault()) }
    }
}
