//! An address of a netdev: this end's, perhaps the other end's, and how far it counts.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::IpPrefix;

/// How far an address counts (`rt_scope_t` of `linux/rtnetlink.h`): the greater, the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere.
    pub const GLOBAL: Self = Self(0);
    /// Within a site.
    pub const SITE: Self = Self(200);
    /// On the link alone.
    pub const LINK: Self = Self(253);
    /// Within this machine.
    pub const HOST: Self = Self(254);

    const NAMES: [(&str, Self); 4] = [
        ("global", Self::GLOBAL),
        ("site", Self::SITE),
        ("link", Self::LINK),
        ("host", Self::HOST),
    ];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, scope)| scope == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Scope {
    type Err = ();

    /// As ip(8) has it: a name or a number up to 254; 255 is nowhere.
    fn from_str(text: &str) -> Result<Self, ()> {
        match Self::NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, scope)) => Ok(*scope),
            None if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok().filter(|n| *n < 255).map(Self).ok_or(())
            }
            None => Err(()),
        }
    }
}

/// An address of a netdev. Two that differ in anything are two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// This end's. The length is that of the network that is reached by it, which with a peer is the
    /// peer's.
    pub prefix: IpPrefix,
    /// The other end's, where the address is of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// How far it counts. The kernel derives that of an IPv6 address.
    pub scope: Scope,
}

impl Address {
    /// This end's address alone.
    pub fn addr(&self) -> IpAddr {
        self.prefix.addr()
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.prefix.is_ipv6()
    }

    /// Whether it is one that the kernel gives each IPv6 link by itself.
    pub fn is_ipv6_link_local(&self) -> bool {
        self.prefix.is_ipv6_link_local()
    }

    /// The network that is reached by it: that of the peer, where there is one.
    pub fn network(&self) -> IpPrefix {
        self.prefix.with_addr(self.peer.unwrap_or(self.addr())).network()
    }
}

impl From<IpPrefix> for Address {
    /// An address without a peer, and of the scope that it has by itself.
    fn from(prefix: IpPrefix) -> Self {
        Self { prefix, peer: None, scope: scope_of(prefix.addr()) }
    }
}

/// The scope that an address has where nobody gives it another.
pub fn scope_of(addr: IpAddr) -> Scope {
    let is_site_local = |a: Ipv6Addr| a.segments()[0] & 0xffc0 == 0xfec0;
    match addr {
        IpAddr::V4(a) if a.is_loopback() => Scope::HOST,
        IpAddr::V6(a) if a.is_loopback() => Scope::HOST,
        IpAddr::V6(a) if a.is_unicast_link_local() => Scope::LINK,
        IpAddr::V6(a) if is_site_local(a) => Scope::SITE,
        _ => Scope::GLOBAL,
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        if let Some(peer) = self.peer {
            write!(f, " peer {peer}")?;
        }
        if self.scope != scope_of(self.addr()) {
            write!(f, " scope {}", self.scope)?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = ();

    /// What [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let prefix: IpPrefix = words.next().ok_or(())?.parse().map_err(|_| ())?;
        let mut address = Self::from(prefix);
        while let Some(word) = words.next() {
            let value = words.next().ok_or(())?;
            match word {
                "peer" => address.peer = Some(value.parse().map_err(|_| ())?),
                "scope" => address.scope = value.parse()?,
                _ => return Err(()),
            }
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in [
            "10.77.0.1/30",
            "10.77.0.1/32 peer 10.77.0.2",
            "10.77.0.1/32 peer 10.77.0.2 scope link",
            "10.77.0.1/30 scope 99",
            "fd77::1/128 peer fd77::2",
            "fe80::1/64",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for bad in ["", "10.77.0.1", "10.77.0.1/30 peer", "10.77.0.1/30 metric 1"] {
            assert_eq!(bad.parse::<Address>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_scope_has_a_name_or_a_number() {
        for (text, number) in [("global", 0), ("site", 200), ("link", 253), ("host", 254)] {
            assert_eq!(text.parse(), Ok(Scope(number)));
            assert_eq!(number.to_string().parse(), Ok(Scope(number)));
            assert_eq!(Scope(number).to_string(), text);
        }
        for bad in ["", "255", "256", "-1", "nowhere", "Link", " 1", "universe"] {
            assert_eq!(bad.parse::<Scope>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn the_network_is_the_peers() {
        let address: Address = "10.77.0.1/32 peer 10.77.0.2".parse().unwrap();
        assert_eq!(address.network().to_string(), "10.77.0.2/32");
        let address: Address = "10.77.0.1/24".parse().unwrap();
        assert_eq!(address.network().to_string(), "10.77.0.0/24");
    }
}
