//! An IP address with a prefix length: an address of a netdev, or a network that a route leads to.
//!
//! One type for both, since both are written `10.77.0.1/30`; [`IpPrefix::check_host`] and
//! [`IpPrefix::check_network`] say which of the two a value can be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address and how many of its leading bits name its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    addr: IpAddr,
    len: u8,
}

impl IpPrefix {
    /// `addr/len`; the length is at most 32 for IPv4, 128 for IPv6.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        if len > bits(addr) {
            return Err(PrefixError::Length { given: len.to_string(), addr });
        }
        Ok(Self { addr, len })
    }

    /// The network of everything: `0.0.0.0/0` or `::/0`, of the family of `like`.
    pub fn everything(like: IpAddr) -> Self {
        let addr = match like {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { addr, len: 0 }
    }

    /// The same address with another length, if it has so many bits.
    #[must_use]
    pub fn with_len(&self, len: u8) -> Self {
        Self { addr: self.addr, len: len.min(bits(self.addr)) }
    }

    /// The same length with another address of its family.
    #[must_use]
    pub fn with_addr(&self, addr: IpAddr) -> Self {
        if addr.is_ipv4() == self.addr.is_ipv4() { Self { addr, len: self.len } } else { *self }
    }

    /// The address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The prefix length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.addr.is_ipv6()
    }

    /// The same with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Self { addr, len: self.len }
    }

    /// Whether `addr` lies in this network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Self { addr, len: self.len }.network() == self.network()
    }

    /// Whether it is an IPv6 link-local address (`fe80::/10`, RFC 4291 §2.5.6).
    pub fn is_ipv6_link_local(&self) -> bool {
        matches!(self.addr, IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80)
    }

    /// Refuses what cannot be the address of one end of a link.
    pub fn check_host(&self) -> Result<(), PrefixError> {
        let network = self.network();
        let is = |what| Err(PrefixError::NotAHost { given: *self, what });
        if self.addr.is_unspecified() {
            return is("the unspecified address");
        }
        if self.addr.is_multicast() {
            return is("a multicast address");
        }
        if self.addr.is_loopback() {
            return is("a loopback address");
        }
        let IpAddr::V4(addr) = self.addr else { return Ok(()) };
        if addr.is_broadcast() {
            return is("the broadcast address");
        }
        // RFC 3021: a /31 has two hosts, and neither network nor broadcast address.
        if self.len <= 30 {
            if *self == network {
                return is("its network's own address, not a host's");
            }
            let host_bits = u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
            if addr.to_bits() & host_bits == host_bits {
                return is("its network's broadcast address");
            }
        }
        Ok(())
    }

    /// Refuses host bits, which a route's destination must not have.
    pub fn check_network(&self) -> Result<(), PrefixError> {
        let network = self.network();
        if *self == network {
            return Ok(());
        }
        Err(PrefixError::HostBits { given: *self, network })
    }
}

/// How many bits an address of this family has.
fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr =
            addr.parse().map_err(|_| PrefixError::Address { given: text.to_owned() })?;
        let len = len.ok_or(PrefixError::NoLength { addr })?;
        let bad = || PrefixError::Length { given: len.to_owned(), addr };
        // u8's own parser takes a sign.
        if !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(addr, len.parse().map_err(|_| bad())?)
    }
}

/// Why a text or a value is no prefix, or not the kind that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// What stands before the slash is no IP address.
    Address {
        /// The whole text.
        given: String,
    },
    /// An address alone.
    NoLength {
        /// The address.
        addr: IpAddr,
    },
    /// The prefix length is no number, or larger than the address has bits.
    Length {
        /// What stands behind the slash.
        given: String,
        /// The address before it.
        addr: IpAddr,
    },
    /// A network was needed and bits behind the prefix are set.
    HostBits {
        /// What was given.
        given: IpPrefix,
        /// The network it lies in.
        network: IpPrefix,
    },
    /// An address of a host was needed.
    NotAHost {
        /// What was given.
        given: IpPrefix,
        /// What it is instead.
        what: &'static str,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { given } => write!(
                f,
                "\"{given}\" is no IP address with a prefix length: \
                 write for example 10.77.0.1/30 or fd77::1/64"
            ),
            Self::NoLength { addr } => {
                let usual = if addr.is_ipv4() { 30 } else { 64 };
                write!(f, "{addr} has no prefix length: write for example {addr}/{usual}")
            }
            Self::Length { given, addr } => write!(
                f,
                "prefix length \"{given}\" of {addr} must be a number from 0 to {}",
                bits(*addr)
            ),
            Self::HostBits { given, network } => {
                write!(f, "{given} is a host in a network: write {network}")
            }
            Self::NotAHost { given, what } => {
                write!(f, "{given} is {what}: give the address of one host")
            }
        }
    }
}

impl std::error::Error for PrefixError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_printed_is_what_was_written() {
        for text in ["10.77.0.1/30", "0.0.0.0/0", "fd77::1/64", "::/0", "fe80::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        let message = |text: &str| text.parse::<IpPrefix>().unwrap_err().to_string();
        assert!(message("10.77.0.1").contains("write for example 10.77.0.1/30"));
        assert!(message("fd77::1").contains("write for example fd77::1/64"));
        assert!(message("10.77.0.1/33").contains("from 0 to 32"));
        assert!(message("fd77::1/129").contains("from 0 to 128"));
        for bad in ["10.77.0.1/+3", "10.77.0.1/", "10.77.0.1/3 ", "10.77.0.1/256", "10.0.0.1/1/2"] {
            assert!(message(bad).contains("must be a number"), "{bad}");
        }
        for bad in ["", "/24", "bl0/24", "10.77.0.256/24", "10.77.0/24", "fe80::1%bl0/64"] {
            assert!(message(bad).contains("10.77.0.1/30"), "{bad}");
        }
    }

    #[test]
    fn a_network_has_its_host_bits_cleared() {
        for (given, network) in [
            ("10.77.0.2/30", "10.77.0.0/30"),
            ("10.77.0.2/32", "10.77.0.2/32"),
            ("10.77.0.2/0", "0.0.0.0/0"),
            ("fd77::1/64", "fd77::/64"),
            ("fd77::1/0", "::/0"),
            ("fd77::1/128", "fd77::1/128"),
        ] {
            assert_eq!(prefix(given).network(), prefix(network));
            assert!(prefix(given).contains(prefix(network).addr()));
        }
        assert!(!prefix("10.77.0.0/30").contains(prefix("10.77.0.4/32").addr()));
        assert!(!prefix("0.0.0.0/0").contains(prefix("::/0").addr()));
    }

    #[test]
    fn a_host_and_a_network_are_told_apart() {
        for host in ["10.77.0.1/30", "10.77.0.0/31", "10.77.0.1/32", "fd77::/64", "fe80::1/64"] {
            assert_eq!(prefix(host).check_host(), Ok(()), "{host}");
        }
        for other in [
            "10.77.0.0/30",
            "10.77.0.3/30",
            "0.0.0.0/0",
            "224.0.0.1/24",
            "127.0.0.1/8",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "ff02::1/64",
        ] {
            assert!(prefix(other).check_host().is_err(), "{other}");
        }
        let e = prefix("10.80.0.1/24").check_network().unwrap_err();
        assert!(e.to_string().contains("write 10.80.0.0/24"), "{e}");
    }
}
