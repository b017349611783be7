//! What a front-end asks for: octets to meaning and back.
//!
//! A message is judged by itself here: its length is exactly what its request takes, it came with
//! as many descriptors as it is to bring, an index is below 256. Whether it may come now, and whether
//! its numbers make sense, the [back-end](super::back_end) says.

use std::ops::RangeInclusive;

use super::message::{Fault, Inflight, MemoryRegion, Payload, VringAddr, encode};
use super::reply::config;
use crate::spec::vhost_user::{VRING_INDEX_MASK, VRING_NO_FD, flags, request};

/// What a front-end asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's own names")]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<MemoryRegion>),
    SetVringNum { index: u32, num: u32 },
    SetVringAddr { index: u32, flags: u32, addr: VringAddr },
    SetVringBase { index: u32, base: u32 },
    GetVringBase { index: u32 },
    SetVringKick { index: u32, fd: bool },
    SetVringCall { index: u32, fd: bool },
    SetVringErr { index: u32, fd: bool },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable { index: u32, enable: u32 },
    SetBackendReqFd,
    GetConfig { offset: u32, flags: u32, data: Vec<u8> },
    SetConfig { offset: u32, flags: u32, data: Vec<u8> },
    GetInflightFd(Inflight),
    SetInflightFd(Inflight),
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(MemoryRegion),
    RemMemReg(MemoryRegion),
    SetStatus(u64),
    GetStatus,
}

impl Request {
    /// Reads the payload of a request that came with so many descriptors.
    pub fn decode(request: u32, octets: &[u8], fds: usize) -> Result<Self, Fault> {
        let mut p = Payload::new(request, octets);
        let decoded = match request {
            request::GET_FEATURES => Self::GetFeatures,
            request::SET_FEATURES => Self::SetFeatures(p.u64()?),
            request::SET_OWNER => Self::SetOwner,
            request::RESET_OWNER => Self::ResetOwner,
            request::SET_MEM_TABLE => Self::SetMemTable(p.regions()?),
            request::SET_VRING_NUM => Self::SetVringNum { index: p.u32()?, num: p.u32()? },
            request::SET_VRING_ADDR => {
                let (index, flags) = (p.u32()?, p.u32()?);
                let (desc, device, driver, _log) = (p.u64()?, p.u64()?, p.u64()?, p.u64()?);
                Self::SetVringAddr { index, flags, addr: VringAddr { desc, driver, device } }
            }
            request::SET_VRING_BASE => Self::SetVringBase { index: p.u32()?, base: p.u32()? },
            request::GET_VRING_BASE => {
                let (index, _base) = (p.u32()?, p.u32()?);
                Self::GetVringBase { index }
            }
            request::SET_VRING_KICK => {
                let (index, fd) = p.vring()?;
                Self::SetVringKick { index, fd }
            }
            request::SET_VRING_CALL => {
                let (index, fd) = p.vring()?;
                Self::SetVringCall { index, fd }
            }
            request::SET_VRING_ERR => {
                let (index, fd) = p.vring()?;
                Self::SetVringErr { index, fd }
            }
            request::GET_PROTOCOL_FEATURES => Self::GetProtocolFeatures,
            request::SET_PROTOCOL_FEATURES => Self::SetProtocolFeatures(p.u64()?),
            request::GET_QUEUE_NUM => Self::GetQueueNum,
            request::SET_VRING_ENABLE => Self::SetVringEnable { index: p.u32()?, enable: p.u32()? },
            request::SET_BACKEND_REQ_FD => {
                // Some send a number with it that means nothing.
                p.rest = if p.rest.len() == 8 { &[] } else { p.rest };
                Self::SetBackendReqFd
            }
            request::GET_CONFIG => {
                let (offset, flags, data) = p.config()?;
                Self::GetConfig { offset, flags, data }
            }
            request::SET_CONFIG => {
                let (offset, flags, data) = p.config()?;
                Self::SetConfig { offset, flags, data }
            }
            request::GET_INFLIGHT_FD => Self::GetInflightFd(p.inflight()?),
            request::SET_INFLIGHT_FD => Self::SetInflightFd(p.inflight()?),
            request::RESET_DEVICE => Self::ResetDevice,
            request::GET_MAX_MEM_SLOTS => Self::GetMaxMemSlots,
            request::ADD_MEM_REG | request::REM_MEM_REG => {
                let _padding = p.u64()?;
                let region = p.region()?;
                let add = request == request::ADD_MEM_REG;
                if add { Self::AddMemReg(region) } else { Self::RemMemReg(region) }
            }
            request::SET_STATUS => Self::SetStatus(p.u64()?),
            request::GET_STATUS => Self::GetStatus,
            unknown => return Err(Fault::Unknown(unknown)),
        };
        p.end()?;
        let takes = decoded.fds();
        if !takes.contains(&fds) {
            let takes = (*takes.start(), *takes.end());
            return Err(Fault::Descriptors { request, got: fds, takes });
        }
        Ok(decoded)
    }

    /// How many descriptors come with it.
    pub fn fds(&self) -> RangeInclusive<usize> {
        match self {
            Self::SetMemTable(regions) => regions.len()..=regions.len(),
            Self::AddMemReg(_) | Self::SetBackendReqFd | Self::SetInflightFd(_) => 1..=1,
            // None should; some front-ends send one that is to be closed.
            Self::RemMemReg(_) => 0..=1,
            Self::SetVringKick { fd, .. }
            | Self::SetVringCall { fd, .. }
            | Self::SetVringErr { fd, .. } => usize::from(*fd)..=usize::from(*fd),
            _ => 0..=0,
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        match self {
            Self::GetFeatures => request::GET_FEATURES,
            Self::SetFeatures(_) => request::SET_FEATURES,
            Self::SetOwner => request::SET_OWNER,
            Self::ResetOwner => request::RESET_OWNER,
            Self::SetMemTable(_) => request::SET_MEM_TABLE,
            Self::SetVringNum { .. } => request::SET_VRING_NUM,
            Self::SetVringAddr { .. } => request::SET_VRING_ADDR,
            Self::SetVringBase { .. } => request::SET_VRING_BASE,
            Self::GetVringBase { .. } => request::GET_VRING_BASE,
            Self::SetVringKick { .. } => request::SET_VRING_KICK,
            Self::SetVringCall { .. } => request::SET_VRING_CALL,
            Self::SetVringErr { .. } => request::SET_VRING_ERR,
            Self::GetProtocolFeatures => request::GET_PROTOCOL_FEATURES,
            Self::SetProtocolFeatures(_) => request::SET_PROTOCOL_FEATURES,
            Self::GetQueueNum => request::GET_QUEUE_NUM,
            Self::SetVringEnable { .. } => request::SET_VRING_ENABLE,
            Self::SetBackendReqFd => request::SET_BACKEND_REQ_FD,
            Self::GetConfig { .. } => request::GET_CONFIG,
            Self::SetConfig { .. } => request::SET_CONFIG,
            Self::GetInflightFd(_) => request::GET_INFLIGHT_FD,
            Self::SetInflightFd(_) => request::SET_INFLIGHT_FD,
            Self::ResetDevice => request::RESET_DEVICE,
            Self::GetMaxMemSlots => request::GET_MAX_MEM_SLOTS,
            Self::AddMemReg(_) => request::ADD_MEM_REG,
            Self::RemMemReg(_) => request::REM_MEM_REG,
            Self::SetStatus(_) => request::SET_STATUS,
            Self::GetStatus => request::GET_STATUS,
        }
    }

    /// Its octets, header included; `need_reply`: the back-end is to answer though it need not.
    pub fn encode(&self, need_reply: bool) -> Vec<u8> {
        let vring = |index: &u32, fd: &bool| {
            let no_fd = if *fd { 0 } else { VRING_NO_FD };
            (u64::from(*index) & VRING_INDEX_MASK | no_fd).to_le_bytes().to_vec()
        };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let payload: Vec<u8> = match self {
            Self::SetFeatures(bits) | Self::SetProtocolFeatures(bits) | Self::SetStatus(bits) => {
                bits.to_le_bytes().to_vec()
            }
            Self::SetMemTable(regions) => {
                let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
                let regions = regions.iter().flat_map(MemoryRegion::octets);
                count.to_le_bytes().into_iter().chain([0; 4]).chain(regions).collect()
            }
            Self::SetVringNum { index, num } => words(&[*index, *num]),
            Self::SetVringBase { index, base } => words(&[*index, *base]),
            Self::SetVringEnable { index, enable } => words(&[*index, *enable]),
            Self::GetVringBase { index } => words(&[*index, 0]),
            Self::SetVringAddr { index, flags, addr } => {
                let words = [*index, *flags].into_iter().flat_map(u32::to_le_bytes);
                let addrs = [addr.desc, addr.device, addr.driver, 0];
                words.chain(addrs.into_iter().flat_map(u64::to_le_bytes)).collect()
            }
            Self::SetVringKick { index, fd }
            | Self::SetVringCall { index, fd }
            | Self::SetVringErr { index, fd } => vring(index, fd),
            Self::GetConfig { offset, flags, data } | Self::SetConfig { offset, flags, data } => {
                config(*offset, *flags, data)
            }
            Self::GetInflightFd(inflight) | Self::SetInflightFd(inflight) => {
                inflight.octets().to_vec()
            }
            Self::AddMemReg(region) | Self::RemMemReg(region) => {
                [0; 8].into_iter().chain(region.octets()).collect()
            }
            _ => Vec::new(),
        };
        encode(self.number(), if need_reply { flags::NEED_REPLY } else { 0 }, &payload)
    }

    /// Whether it is answered without being asked to be.
    pub fn has_reply(&self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetVringBase { .. }
                | Self::GetConfig { .. }
                | Self::GetInflightFd(_)
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::Header;
    use super::*;
    use crate::spec::vhost_user::HEADER_LEN;

    fn split(octets: &[u8]) -> (Header, &[u8]) {
        let (header, payload) = octets.split_first_chunk::<HEADER_LEN>().unwrap();
        (Header::parse(*header, false).unwrap(), payload)
    }

    #[test]
    fn octets_are_as_the_protocol_has_them() {
        let region = MemoryRegion { bus_addr: 1, len: 2, user_addr: 3, offset: 4 };
        let table = Request::SetMemTable(vec![region]).encode(true);
        assert_eq!(table[..20], [5, 0, 0, 0, 9, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(table[20..], [[1_u64], [2], [3], [4]].concat().map_octets());
        let addr = VringAddr { desc: 0x11, driver: 0x22, device: 0x33 };
        let octets = Request::SetVringAddr { index: 7, flags: 0, addr }.encode(false);
        // The used ring comes before the available one.
        assert_eq!(octets[20..], [0x11_u64, 0x33, 0x22, 0].map_octets());
        let call = Request::SetVringCall { index: 3, fd: false }.encode(false);
        assert_eq!(call, [13, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0]);
    }

    trait Octets {
        fn map_octets(&self) -> Vec<u8>;
    }

    impl<T: AsRef<[u64]>> Octets for T {
        fn map_octets(&self) -> Vec<u8> {
            self.as_ref().iter().flat_map(|word| word.to_le_bytes()).collect()
        }
    }

    #[test]
    fn what_is_too_long_too_short_or_has_the_wrong_descriptors_is_refused() {
        let decode = |number, payload: &[u8], fds| Request::decode(number, payload, fds);
        for (number, good) in [(1, 0), (2, 8), (8, 8), (9, 40), (11, 8), (34, 0), (37, 40)] {
            for len in [good - 1, good + 1, good + 8] {
                let Ok(len) = usize::try_from(len) else { continue };
                let fault = Fault::Length { request: number, size: len };
                assert_eq!(decode(number, &vec![0; len], 0), Err(fault));
            }
        }
        let takes = |request, got, takes| Err(Fault::Descriptors { request, got, takes });
        assert_eq!(decode(1, &[], 1), takes(1, 1, (0, 0)));
        assert_eq!(decode(12, &[0; 8], 0), takes(12, 0, (1, 1)));
        assert_eq!(decode(12, &[0, 1, 0, 0, 0, 0, 0, 0], 1), takes(12, 1, (0, 0)));
        assert_eq!(decode(37, &[0; 40], 2), takes(37, 2, (1, 1)));
        assert_eq!(decode(5, &[33, 0, 0, 0, 0, 0, 0, 0], 0), Err(Fault::Regions(33)));
        assert_eq!(decode(6, &[0; 16], 0), Err(Fault::Unknown(6)));
        let vring = Fault::Vring { request: 13, value: 0x200 };
        assert_eq!(decode(13, &0x200_u64.to_le_bytes(), 1), Err(vring));
    }

    #[test]
    fn a_header_of_another_version_or_way_or_beyond_the_longest_is_refused() {
        let header = |flags: u32, size: u32| {
            let mut octets = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            octets[4..8].copy_from_slice(&flags.to_le_bytes());
            octets[8..].copy_from_slice(&size.to_le_bytes());
            octets
        };
        assert!(Header::parse(header(1, 0), false).is_ok());
        assert!(Header::parse(header(5, 0), true).is_ok());
        for (flags, reply) in [(0, false), (2, false), (5, false), (1, true)] {
            let fault = Fault::Flags { request: 1, flags };
            assert_eq!(Header::parse(header(flags, 0), reply), Err(fault));
        }
        assert!(Header::parse(header(1, 4096), false).is_ok());
        for size in [4097, u32::MAX] {
            let fault = Fault::Long { request: 1, size };
            assert_eq!(Header::parse(header(1, size), false), Err(fault));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic_and_what_is_read_is_written_again(
            number in 0_u32..45,
            payload in proptest::collection::vec(any::<u8>(), 0..80),
            fds in 0_usize..3,
        ) {
            if let Ok(request) = Request::decode(number, &payload, fds) {
                let octets = request.encode(false);
                let (header, written) = split(&octets);
                prop_assert_eq!(header.request, number);
                let again = Request::decode(number, written, *request.fds().start());
                prop_assert_eq!(again, Ok(request));
            }
        }
    }
}
