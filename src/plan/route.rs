//! A route through the netdev that a plan is for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{IpPrefix, PrefixError};

/// The table that routes are in where nobody says another (`RT_TABLE_MAIN` of `linux/rtnetlink.h`).
pub const MAIN_TABLE: u32 = 254;
/// The table of this machine's own addresses, which is the kernel's (`RT_TABLE_LOCAL`).
pub const LOCAL_TABLE: u32 = 255;

/// A unicast route through the link that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The network it leads to, without host bits.
    pub to: IpPrefix,
    /// The next hop; `None` where the network is on the link itself. An IPv4 route's may be of IPv6.
    pub via: Option<IpAddr>,
    /// The metric; `None` is the kernel's default: 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
    /// The table; `None` is the netdev's own: main, or that of the VRF that it is in.
    pub table: Option<u32>,
    /// This machine's address in what it sends by the route; `None`: as the kernel chooses.
    pub source: Option<IpAddr>,
    /// The next hop counts as reachable though no address of the link says so. Not a part of what
    /// the route is: the kernel asks only when it is made.
    pub onlink: bool,
}

impl Route {
    /// A route as people write it: `to` is a network, or `default` where `via` tells the family.
    pub fn parse(to: &str, via: Option<IpAddr>, metric: Option<u32>) -> Result<Self, RouteError> {
        let to = match (to, via) {
            ("default", Some(via)) => IpPrefix::everything(via),
            ("default", None) => return Err(RouteError::DefaultOfNoFamily),
            _ => to.parse().map_err(RouteError::Destination)?,
        };
        to.check_network().map_err(RouteError::Destination)?;
        if to.addr().is_multicast() {
            return Err(RouteError::Multicast { to });
        }
        if let Some(via) = via {
            if via.is_ipv4() && to.is_ipv6() {
                return Err(RouteError::Family { to, via });
            }
            if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
                return Err(RouteError::Via { via });
            }
        }
        Ok(Self::new(to, via, metric))
    }

    /// A route in the netdev's own table.
    pub fn new(to: IpPrefix, via: Option<IpAddr>, metric: Option<u32>) -> Self {
        Self { to, via, metric, table: None, source: None, onlink: false }
    }

    /// The same, in a table that is named: `own` is the netdev's.
    #[must_use]
    pub fn in_table(self, own: u32) -> Self {
        Self { table: Some(self.table.unwrap_or(own)), ..self }
    }

    /// The metric that the kernel uses: IPv6 knows no 0.
    pub fn effective_metric(&self) -> u32 {
        match (self.to.is_ipv6(), self.metric.unwrap_or(0)) {
            (true, 0) => 1024,
            (_, metric) => metric,
        }
    }

    /// Whether both would be one and the same to the kernel. Their tables must be named alike.
    pub fn same_as(&self, other: &Self) -> bool {
        self.rivals(other) && (self.via, self.source) == (other.via, other.source)
    }

    /// Whether the kernel has room for only one of the two: same table, network and metric.
    pub fn rivals(&self, other: &Self) -> bool {
        self.to.network() == other.to.network()
            && self.table == other.table
            && self.effective_metric() == other.effective_metric()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(table) = self.table.filter(|table| *table != MAIN_TABLE) {
            write!(f, " table {table}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        Ok(())
    }
}

impl FromStr for Route {
    type Err = ();

    /// What [`Display`](fmt::Display) writes, which leaves out the main table.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let to: IpPrefix = words.next().ok_or(())?.parse().map_err(|_| ())?;
        let mut route = Self::new(to, None, None);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(());
            match word {
                "via" => route.via = Some(value()?.parse().map_err(|_| ())?),
                "metric" => route.metric = Some(value()?.parse().map_err(|_| ())?),
                "table" => route.table = Some(value()?.parse().map_err(|_| ())?),
                "src" => route.source = Some(value()?.parse().map_err(|_| ())?),
                "onlink" => route.onlink = true,
                _ => return Err(()),
            }
        }
        Ok(route)
    }
}

/// Why a route cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The destination is no network.
    Destination(PrefixError),
    /// `default` without a next hop is of no family.
    DefaultOfNoFamily,
    /// A multicast network.
    Multicast {
        /// The destination.
        to: IpPrefix,
    },
    /// An IPv6 destination has a next hop of IPv4.
    Family {
        /// The destination.
        to: IpPrefix,
        /// The next hop.
        via: IpAddr,
    },
    /// The next hop is no host.
    Via {
        /// The next hop.
        via: IpAddr,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(e) => write!(f, "{e}"),
            Self::DefaultOfNoFamily => {
                write!(f, "a default route needs `via`, or write 0.0.0.0/0 or ::/0")
            }
            Self::Multicast { to } => write!(f, "{to} is a multicast network: give a unicast one"),
            Self::Family { to, via } => {
                write!(f, "the route to {to} cannot go via {via}: give an IPv6 address")
            }
            Self::Via { via } => write!(f, "{via} cannot be a next hop: give a host's address"),
        }
    }
}

impl std::error::Error for RouteError {}
