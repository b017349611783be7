//! An address with the length of its network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address and a prefix length, as in `10.77.0.1/30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    /// The address; it may have host bits.
    pub addr: IpAddr,
    /// Length of the prefix in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub len: u8,
}

/// Why a text is no [`IpPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// What stands before the slash is no address.
    Address,
    /// There is no slash.
    NoLength,
    /// The length is no number, or too large.
    Length {
        /// The greatest length of the address's family, in bits.
        max: u8,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("is not an IP address with a prefix length"),
            Self::NoLength => f.write_str("has no prefix length"),
            Self::Length { max } => write!(f, "has a prefix length that is not 0 to {max}"),
        }
    }
}

impl std::error::Error for PrefixError {}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| PrefixError::Address)?;
        let len = len.ok_or(PrefixError::NoLength)?;
        let max = max_len(addr);
        // A plain parse would take a sign.
        let digits = len.bytes().all(|octet| octet.is_ascii_digit());
        match len.parse::<u8>() {
            Ok(len) if digits && len <= max => Ok(Self { addr, len }),
            _ => Err(PrefixError::Length { max }),
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl IpPrefix {
    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.addr.is_ipv6()
    }

    /// The same network, without host bits.
    pub fn network(&self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(addr) => IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() & self.mask_v4())),
            IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & self.mask_v6())),
        };
        Self { addr, len: self.len }
    }

    /// The last address of the network: IPv4's broadcast address.
    pub fn last(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(addr) => IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() | !self.mask_v4())),
            IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() | !self.mask_v6())),
        }
    }

    /// Whether `addr` lies in the network; never for the other family.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Self { addr, len: self.len }.network().addr == self.network().addr
    }

    /// Whether the network has no host part to speak of: each of its addresses is a host's
    /// (RFC 3021, RFC 6164).
    pub fn is_point_to_point(&self) -> bool {
        self.len + 1 >= max_len(self.addr)
    }

    fn mask_v4(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    fn mask_v6(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0)
    }
}

/// The greatest prefix length of the family of `addr`.
fn max_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}
