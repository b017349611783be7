//! What this kernel can do, found out by doing it: in a network namespace that ends with the trial.
//!
//! A first use loads the kernel's modules, and so may this. Nothing else of the machine is changed.

#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, InfoVrf, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::tap::{Offload, Tap, TapError};
use super::userns;

/// The TAP's name: there is no other netdev but the loopback.
const NAME: &str = "bltrial";
/// Any VLAN, and any routing table.
const VLAN: u16 = 2;
const TABLE: u32 = 77;
/// Threads that have ended are so long on their way at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// What could be done.
#[derive(Debug)]
pub struct Trial {
    /// A TAP, and the greatest offload that the kernel takes for it.
    pub tap: Result<Offload, TapError>,
    /// Whether its carrier could be set.
    pub carrier: bool,
    /// Whether netdevs of other kinds could be made.
    pub bridge: Result<(), Errno>,
    /// A VLAN on top of the TAP.
    pub vlan: Result<(), Errno>,
    /// A VRF.
    pub vrf: Result<(), Errno>,
}

impl Trial {
    /// Tries in a network namespace of its own, which a process with CAP_SYS_ADMIN makes for a thread of it.
    ///
    /// # Errors
    /// There is no namespace to be had.
    pub fn of_root() -> io::Result<Self> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("trial".to_owned());
            let thread = thread.spawn_scoped(scope, || {
                // SAFETY: a network namespace of its own changes nothing about the file descriptors
                // that this thread shares with the others.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
                Ok(Self::here())
            })?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the trial has ended early")))
        })
    }

    /// As [`of_root`](Self::of_root), for any other user: this process moves into a user namespace for good.
    ///
    /// # Errors
    /// There is none to be had: one line, which says what to do.
    pub fn of_user() -> Result<Self, userns::Refused> {
        // Only a process with a single thread can go there, and one that was joined may still be leaving.
        let start = Instant::now();
        let threads = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        while threads() > 1 && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        userns::enter()?;
        Ok(Self::here())
    }

    fn here() -> Self {
        let made = Tap::create(NAME, false);
        let index = made.as_ref().map_or(0, Tap::index);
        let parent = vec![LinkAttribute::Link(index)];
        Self {
            carrier: made.as_ref().is_ok_and(|tap| tap.set_carrier(true).is_ok()),
            bridge: make("blbridge", InfoKind::Bridge, None, Vec::new()),
            vlan: match made {
                Ok(_) => {
                    let vlan = InfoData::Vlan(vec![InfoVlan::Id(VLAN)]);
                    make("blvlan", InfoKind::Vlan, Some(vlan), parent)
                }
                Err(_) => Err(Errno::NODEV),
            },
            vrf: make(
                "blvrf",
                InfoKind::Vrf,
                Some(InfoData::Vrf(vec![InfoVrf::TableId(TABLE)])),
                Vec::new(),
            ),
            tap: made.and_then(|tap| tap.probe_offload()),
        }
    }
}

/// Makes a netdev in the calling thread's network namespace.
fn make(
    name: &str,
    kind: InfoKind,
    data: Option<InfoData>,
    mut attributes: Vec<LinkAttribute>,
) -> Result<(), Errno> {
    let os = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
    attributes.extend([LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(info)]);
    let mut link = LinkMessage::default();
    link.attributes = attributes;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::NewLink(link).into());
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);

    let socket = Socket::new(NETLINK_ROUTE).map_err(os)?;
    socket.send_to(&octets, &SocketAddr::new(0, 0), 0).map_err(os)?;
    // The socket is in no multicast group: the one datagram that comes is the answer.
    let (answer, _) = socket.recv_from_full().map_err(os)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(|_| Errno::BADMSG)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(os(error.to_io())),
        NetlinkPayload::Error(_) => Ok(()),
        _ => Err(Errno::BADMSG),
    }
}
