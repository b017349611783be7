//! The netdev's other side, as the kernel's own interfaces show it: ioctls, packet sockets, and
//! netlink requests written by hand, independent of the library's.

use std::ffi::c_int;
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::thread::sleep;
use std::time::{Duration, Instant};

use boardlane::memory::{Kind, Mapping};
use boardlane::os::netns::Namespace;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// IEEE 802: local experimental ethertype 1.
pub(crate) const ETHERTYPE: u16 = 0x88b5;
pub(crate) const TIME_FOR_A_STATE: Duration = Duration::from_secs(10);

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIME_FOR_A_STATE, "never came true: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: all bytes zero is an ifreq.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req
}

fn request(number: libc::c_ulong, req: &mut libc::ifreq) {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    // SAFETY: each request used here takes an ifreq.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, req) };
    assert_eq!(done, 0, "ioctl {number:#x}: {}", std::io::Error::last_os_error());
}

fn flags(name: &str) -> c_int {
    let mut req = ifreq(name);
    request(libc::SIOCGIFFLAGS, &mut req);
    // SAFETY: the request has written the flags.
    c_int::from(unsafe { req.ifr_ifru.ifru_flags })
}

pub(crate) fn set_up(name: &str, up: bool) {
    let mut req = ifreq(name);
    let now = flags(name) & !libc::IFF_UP;
    req.ifr_ifru.ifru_flags = (if up { now | libc::IFF_UP } else { now }) as libc::c_short;
    request(libc::SIOCSIFFLAGS, &mut req);
}

/// What comes of a user without rights who can open /dev/net/tun, and attaches to the TAP `name` of
/// another one.
pub(crate) fn attach_as_nobody(name: &str) -> std::io::Result<()> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut req = ifreq(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
    // SAFETY: the request takes an ifreq.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &mut req) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Whether the netdev is operational: its carrier, as the kernel's link watch has taken it up.
pub(crate) fn is_running(name: &str) -> bool {
    flags(name) & libc::IFF_RUNNING != 0
}

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

fn ethtool(name: &str, cmd: u32) -> bool {
    let mut value = EthtoolValue { cmd, data: 0 };
    let mut req = ifreq(name);
    req.ifr_ifru.ifru_data = (&raw mut value).cast();
    request(libc::SIOCETHTOOL, &mut req);
    value.data != 0
}

// linux/ethtool.h: ETHTOOL_GLINK, ETHTOOL_GTXCSUM, ETHTOOL_GTSO.
pub(crate) fn has_carrier(name: &str) -> bool {
    ethtool(name, 0x0a)
}

pub(crate) fn checksum_offload(name: &str) -> bool {
    ethtool(name, 0x16)
}

pub(crate) fn tso(name: &str) -> bool {
    ethtool(name, 0x1e)
}

/// Frames of our ethertype on one netdev, as the kernel's stack sees them.
pub(crate) struct Packets(Socket);

impl Packets {
    pub(crate) fn on(index: u32) -> Self {
        let protocol = ETHERTYPE.to_be();
        let wire = Some(Protocol::from(c_int::from(protocol)));
        let socket = Socket::new(Domain::PACKET, Type::RAW, wire).unwrap();
        // SAFETY: the storage is large enough for a sockaddr_ll, and its length is given.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, len| {
                let ll = storage.cast::<libc::sockaddr_ll>();
                (*ll).sll_family = libc::AF_PACKET as u16;
                (*ll).sll_protocol = protocol;
                (*ll).sll_ifindex = index as c_int;
                *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })
        }
        .unwrap();
        socket.bind(&address).unwrap();
        socket.set_read_timeout(Some(TIME_FOR_A_STATE)).unwrap();
        Self(socket)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(self.0.send(frame).unwrap(), frame.len());
    }

    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(65536);
        self.0
            .recv(bytes.spare_capacity_mut())
            .map(|len| {
                // SAFETY: so many bytes were received.
                unsafe { bytes.set_len(len) }
            })
            .unwrap();
        bytes
    }
}

/// A mapped file that can be cut short.
pub(crate) fn shared_memory(len: usize) -> (Mapping, File) {
    // SAFETY: the name is a C string; the result is a descriptor of ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"tap-test".as_ptr(), libc::MFD_CLOEXEC);
        File::from(OwnedFd::from_raw_fd(fd))
    };
    file.set_len(len as u64).unwrap();
    // SAFETY: a new mapping; it stays for the rest of the process.
    let base = unsafe {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        libc::mmap(std::ptr::null_mut(), len, access, flags, file.as_raw_fd(), 0)
    };
    assert_ne!(base, libc::MAP_FAILED);
    let base = NonNull::new(base.cast::<u8>()).unwrap();
    // SAFETY: mapped for ever, as above, and reached through the Mapping only.
    (unsafe { Mapping::from_raw(base, len, Kind::Cached, Box::new(())) }, file)
}

fn netlink(message: RouteNetlinkMessage) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Netlink::new(NETLINK_ROUTE).unwrap();
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).unwrap().payload {
        NetlinkPayload::Error(error) if error.code.is_none() => {}
        other => panic!("{other:?}"),
    }
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = attributes;
    link
}

pub(crate) fn delete(index: u32) {
    netlink(RouteNetlinkMessage::DelLink(link(index, vec![])));
}

pub(crate) fn set_alias(index: u32, alias: &str) {
    let alias = LinkAttribute::IfAlias(alias.to_owned());
    netlink(RouteNetlinkMessage::SetLink(link(index, vec![alias])));
}

pub(crate) fn move_to(index: u32, namespace: &Namespace) {
    let fd = LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd());
    netlink(RouteNetlinkMessage::SetLink(link(index, vec![fd])));
}
