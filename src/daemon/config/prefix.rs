//! An address with the length of its network's prefix. STAND-IN: the netlink plan's own type takes
//! its place; what is here has the names and the behaviour of that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address and a prefix length, as in `10.77.0.1/30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    addr: IpAddr,
    len: u8,
}

/// Why a text is no [`IpPrefix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// What stands before the slash is no address.
    Address {
        /// The whole text.
        given: String,
    },
    /// There is no slash.
    NoLength {
        /// The address.
        addr: IpAddr,
    },
    /// The length is no number, or too large.
    Length {
        /// What stands behind the slash.
        given: String,
        /// The address before it.
        addr: IpAddr,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { given } => {
                write!(f, "{given:?} is not an address with a prefix length")
            }
            Self::NoLength { addr } => write!(f, "{addr} has no prefix length"),
            Self::Length { given, addr } => write!(f, "{addr} has no prefix length {given:?}"),
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
        let addr: IpAddr =
            addr.parse().map_err(|_| PrefixError::Address { given: text.to_owned() })?;
        let given = len.ok_or(PrefixError::NoLength { addr })?;
        // A plain parse would take a sign.
        let digits = given.bytes().all(|octet| octet.is_ascii_digit());
        match given.parse::<u8>() {
            Ok(len) if digits && len <= max_len(addr) => Ok(Self { addr, len }),
            _ => Err(PrefixError::Length { given: given.to_owned(), addr }),
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl IpPrefix {
    /// The network of everything, of the family of `like`.
    pub fn everything(like: IpAddr) -> Self {
        Self { addr: like, len: 0 }.network()
    }

    /// The address; it may have host bits.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the prefix in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.addr.is_ipv6()
    }

    /// The same network, without host bits.
    #[must_use]
    pub fn network(&self) -> Self {
        let host_bits = u32::from(max_len(self.addr) - self.len);
        let addr = match self.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() & mask))
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & mask))
            }
        };
        Self { addr, len: self.len }
    }

    /// Whether `addr` lies in the network; never for the other family.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Self { addr, len: self.len }.network() == self.network()
    }
}

/// The greatest prefix length of the family of `addr`.
fn max_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}
