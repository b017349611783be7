//! What a name stands for already, without touching it.
//!
//! One RTM_GETLINK by name. It tells a TUN/TAP's flags and how many queues are attached, which
//! sysfs tells only for the namespace that it was mounted in, and TUNGETIFF only after attaching.

use std::fmt;
use std::io;

use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkInfo, LinkMessage,
};
use rustix::io::Errno;

use super::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_PERSIST, IFF_TAP, IFF_TUN, IFF_VNET_HDR, TapError, check_name,
};
use crate::os::netlink::get_link;

// linux/if_link.h, IFLA_TUN_*.
const TUN_TYPE: u16 = 3;
const TUN_PI: u16 = 4;
const TUN_VNET_HDR: u16 = 5;
const TUN_PERSIST: u16 = 6;
const TUN_MULTI_QUEUE: u16 = 7;
const TUN_NUM_QUEUES: u16 = 8;
const TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// A netdev, as far as it matters to somebody who would like to have its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its index in the calling thread's network namespace.
    pub index: u32,
    /// What made it ("veth", "tun", ..); empty for hardware and for the loopback.
    pub kind: String,
    /// Its alias.
    pub alias: Option<String>,
    /// More, if its kind is "tun".
    pub tun: Option<TunFlags>,
}

/// How a TUN or TAP was made, and how many use it (linux/if_link.h, IFLA_TUN_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunFlags {
    /// Ethernet frames, not IP packets.
    pub tap: bool,
    /// Frames are preceded by packet information.
    pub packet_info: bool,
    /// Frames are preceded by a virtio-net header.
    pub vnet_hdr: bool,
    /// It stays when nobody has it open.
    pub persistent: bool,
    /// It may have several queues.
    pub multi_queue: bool,
    /// How many queues are attached; always 0 where `multi_queue` is not set.
    pub queues: u32,
}

impl TunFlags {
    /// As in `ifr_flags` of TUNGETIFF.
    pub(super) fn flags(self) -> u16 {
        let kind = if self.tap { IFF_TAP } else { IFF_TUN };
        [
            (!self.packet_info, IFF_NO_PI),
            (self.vnet_hdr, IFF_VNET_HDR),
            (self.persistent, IFF_PERSIST),
            (self.multi_queue, IFF_MULTI_QUEUE),
        ]
        .into_iter()
        .fold(kind, |flags, (on, flag)| if on { flags | flag } else { flags })
    }

    fn parse(attributes: &[InfoTun]) -> Self {
        let mut tun = Self::default();
        for attribute in attributes {
            let mut value = [0; 4];
            let len = attribute.value_len();
            if len > value.len() {
                continue;
            }
            attribute.emit_value(&mut value[..len]);
            let on = value[0] != 0;
            let number = u32::from_ne_bytes(value);
            match attribute.kind() {
                TUN_TYPE => tun.tap = u16::from(value[0]) == IFF_TAP,
                TUN_PI => tun.packet_info = on,
                TUN_VNET_HDR => tun.vnet_hdr = on,
                TUN_PERSIST => tun.persistent = on,
                TUN_MULTI_QUEUE => tun.multi_queue = on,
                TUN_NUM_QUEUES | TUN_NUM_DISABLED_QUEUES => {
                    tun.queues = tun.queues.saturating_add(number);
                }
                _ => {}
            }
        }
        tun
    }
}

impl fmt::Display for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tun, self.kind.as_str()) {
            (Some(tun), _) => {
                let persistent = if tun.persistent { "persistent" } else { "temporary" };
                let multi = if tun.multi_queue { "multi-queue" } else { "single-queue" };
                let kind = if tun.tap { "TAP" } else { "TUN" };
                let header = if tun.vnet_hdr { "with" } else { "without" };
                write!(f, "a {persistent} {multi} {kind} {header} virtio-net header")?;
                if tun.queues > 0 {
                    write!(f, ", in use")?;
                }
            }
            (None, "") => write!(f, "a network interface that is no TAP")?,
            (None, kind) => write!(f, "a network interface of kind {kind}")?,
        }
        match &self.alias {
            Some(alias) => write!(f, ", alias {alias:?}"),
            None => Ok(()),
        }
    }
}

impl Existing {
    /// The netdev `name` in the calling thread's network namespace, if there is one.
    pub fn of(name: &str) -> Result<Option<Self>, TapError> {
        check_name(name)?;
        let failed = |errno| TapError::Os { name: name.to_owned(), doing: "RTM_GETLINK", errno };
        match get_link(name) {
            Ok(link) => Ok(Some(Self::parse(&link))),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The names of all netdevs in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn names() -> io::Result<Vec<String>> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        // Two lines of headings have no colon; a name has none, either.
        let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        Ok(names.collect())
    }

    fn parse(link: &LinkMessage) -> Self {
        let mut found =
            Self { index: link.header.index, kind: String::new(), alias: None, tun: None };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfAlias(alias) => found.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|i| found.add(i)),
                _ => {}
            }
        }
        found
    }

    fn add(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => {
                self.kind = kind.to_string();
                // A kernel that gives no details still gets a TUN, with no flag of ours.
                if *kind == InfoKind::Tun {
                    self.tun.get_or_insert_default();
                }
            }
            LinkInfo::Data(InfoData::Tun(attributes)) => {
                self.tun = Some(TunFlags::parse(attributes));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_and_is_no_tap() {
        let lo = Existing::of("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.tun), (1, None));
        assert_eq!(lo.to_string(), "a network interface that is no TAP");
        assert!(Existing::names().unwrap().contains(&"lo".to_owned()));
    }

    #[test]
    fn a_name_that_nobody_bears_is_none() {
        assert_eq!(Existing::of("bl-no-such-dev").unwrap(), None);
    }
}
