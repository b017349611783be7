//! A frame as packet sockets carry it, and its identity.
//!
//! Each frame of the checker has a source address that tells its flow and its number in that flow;
//! segmentation copies it into each segment. Nothing else has such addresses.

/// Bytes of a virtio-net header as packet sockets use it: without `num_buffers`, in host order.
pub(crate) const VNET_LEN: usize = 10;
pub(crate) const ETHERNET_LEN: usize = 14;

pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP: u8 = 5;
pub(crate) const GSO_ECN: u8 = 0x80;

pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// First octets of the source addresses; the address is a local one.
const SOURCE: u8 = 0x0e;

/// What is left to do for a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    /// A hint: it says nothing about the frame.
    pub(crate) hdr_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl Vnet {
    pub(crate) fn to_bytes(self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        bytes[..2].copy_from_slice(&[self.flags, self.gso_type]);
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (at, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; VNET_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    pub(crate) fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether both leave the same to do.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let csum = |vnet: &Self| vnet.needs_csum().then_some((vnet.csum_start, vnet.csum_offset));
        let gso = |vnet: &Self| (vnet.gso_type != GSO_NONE).then_some(vnet.gso_size);
        csum(self) == csum(other) && self.gso_type == other.gso_type && gso(self) == gso(other)
    }
}

/// A frame from the Ethernet header on, and what is left to do for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) vnet: Vnet,
    pub(crate) bytes: Vec<u8>,
}

/// Which frame it is: one way's flow, and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) flow: u8,
    pub(crate) number: u32,
}

impl Identity {
    pub(crate) fn source(self) -> [u8; 6] {
        let [a, b, c, d] = self.number.to_be_bytes();
        [SOURCE, self.flow, a, b, c, d]
    }

    /// That of a frame; `None` if it is not the checker's.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let &[first, flow, a, b, c, d] = frame.get(6..12)? else { return None };
        let number = u32::from_be_bytes([a, b, c, d]);
        (first == SOURCE).then_some(Self { flow, number })
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
