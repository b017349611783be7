//! Packet sockets with virtio-net headers, many frames a call.
//!
//! What is sent is what a stack would hand to the netdev: where that has not the feature, the kernel
//! itself segments and completes checksums. What is received are frames as the netdev hands them up:
//! a TAP does so without merging any (it is no NAPI netdev), but the kernel has then taken off the
//! outer VLAN tag, and tells it beside the frame.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and numbers that the system's types are made for"
)]

use std::ffi::{CString, c_int};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::frame::{Frame, VNET_LEN, Vnet};

/// Frames of one call.
pub(crate) const BATCH: usize = 32;
/// Greatest frame that may come, and some more, so that a longer one shows.
const ROOM: usize = 66 << 10;
/// Room for what may wait: more than the checker lets be under way.
const BUFFER: c_int = 256 << 20;

/// A netdev's packet socket.
struct Socket(OwnedFd);

impl Socket {
    /// On a netdev of the calling thread's network namespace; `protocol` 0 receives nothing.
    fn on(netdev: &str, protocol: u16) -> io::Result<Self> {
        // SAFETY: no pointers are passed; the result is a new descriptor of ours, or -1.
        let fd = unsafe {
            let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            match libc::socket(libc::AF_PACKET, flags, 0) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        let socket = Self(fd);
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        let name = CString::new(netdev)?;
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: all zero is a sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = c_int::try_from(index).map_err(io::Error::other)?;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address is a sockaddr_ll of this length.
        done(unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(socket)
    }

    fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        let len = size_of::<c_int>() as libc::socklen_t;
        let value = (&raw const value).cast();
        // SAFETY: each option used here takes an int.
        done(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, len) })
    }
}

/// Sends on a netdev.
pub(crate) struct Sender(Socket);

impl Sender {
    pub(crate) fn on(netdev: &str) -> io::Result<Self> {
        let socket = Socket::on(netdev, 0)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)?;
        Ok(Self(socket))
    }

    /// Sends all of the frames.
    pub(crate) fn send(&self, frames: &[Frame]) -> io::Result<()> {
        for frames in frames.chunks(BATCH) {
            self.send_batch(frames)?;
        }
        Ok(())
    }

    fn send_batch(&self, frames: &[Frame]) -> io::Result<()> {
        let mut vnets: Vec<_> = frames.iter().map(|frame| frame.vnet.to_bytes()).collect();
        let part =
            |base: *const u8, len| libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len };
        let mut parts: Vec<_> = vnets
            .iter_mut()
            .zip(frames)
            .map(|(vnet, Frame { bytes, .. })| {
                [part(vnet.as_ptr(), VNET_LEN), part(bytes.as_ptr(), bytes.len())]
            })
            .collect();
        let mut messages: Vec<_> = parts
            .iter_mut()
            .map(|parts| {
                // SAFETY: all zero is a message without anything.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_iov = parts.as_mut_ptr();
                message.msg_hdr.msg_iovlen = parts.len();
                message
            })
            .collect();
        let mut rest = messages.as_mut_slice();
        while !rest.is_empty() {
            let (fd, count) = (self.0.0.as_raw_fd(), rest.len() as u32);
            // SAFETY: so many messages, whose parts live in `vnets` and `frames` until the end of this
            // function, and are read only.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), count, 0) };
            match usize::try_from(sent) {
                Ok(sent) => rest = &mut rest[sent..],
                Err(_) => {
                    let error = io::Error::last_os_error();
                    let at = frames.len() - rest.len();
                    let Frame { vnet, bytes } = &frames[at];
                    let text = format!("sending {} bytes with {vnet:?}: {error}", bytes.len());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(())
    }
}

/// Room for one ancillary message, aligned as they are.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// Receives what comes out of a netdev.
pub(crate) struct Receiver {
    socket: Socket,
    vnets: Vec<[u8; VNET_LEN]>,
    frames: Vec<Vec<u8>>,
    controls: Vec<Control>,
    /// A frame whose tag is put back.
    tagged: Vec<u8>,
}

impl Receiver {
    pub(crate) fn on(netdev: &str) -> io::Result<Self> {
        let socket = Socket::on(netdev, libc::ETH_P_ALL as u16)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        Ok(Self {
            socket,
            vnets: vec![[0; VNET_LEN]; BATCH],
            frames: vec![vec![0; ROOM]; BATCH],
            controls: vec![Control([0; 64]); BATCH],
            tagged: Vec::with_capacity(ROOM),
        })
    }

    /// Waits until something has come, or the time has run out.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut poll =
            libc::pollfd { fd: self.socket.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: one pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, limit) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Hands what has come to `take`, a batch at most: how many frames.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(&Vnet, &[u8])) -> io::Result<usize> {
        let Self { socket, vnets, frames, controls, tagged } = self;
        let part = |base: *mut u8, len| libc::iovec { iov_base: base.cast(), iov_len: len };
        let mut parts: [_; BATCH] = std::array::from_fn(|i| {
            [part(vnets[i].as_mut_ptr(), VNET_LEN), part(frames[i].as_mut_ptr(), ROOM)]
        });
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|i| {
            // SAFETY: all zero is a message without anything.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            let header = &mut message.msg_hdr;
            (header.msg_iov, header.msg_iovlen) = (parts[i].as_mut_ptr(), parts[i].len());
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>();
            message
        });
        let (fd, flags) = (socket.0.as_raw_fd(), libc::MSG_DONTWAIT);
        let (list, no_limit) = (messages.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: so many messages, whose parts are in buffers of `self` with the lengths given.
        let count = unsafe { libc::recvmmsg(fd, list, BATCH as u32, flags, no_limit) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        };
        for (i, message) in messages[..count].iter().enumerate() {
            let mut vnet = Vnet::from_bytes(vnets[i]);
            let bytes = &frames[i][..(message.msg_len as usize).saturating_sub(VNET_LEN)];
            match tag(&message.msg_hdr) {
                Some(tag) if bytes.len() >= 12 => {
                    tagged.clear();
                    tagged.extend_from_slice(&bytes[..12]);
                    tagged.extend_from_slice(&tag);
                    tagged.extend_from_slice(&bytes[12..]);
                    if vnet.needs_csum() {
                        vnet.csum_start += 4;
                    }
                    take(&vnet, tagged);
                }
                _ => take(&vnet, bytes),
            }
        }
        Ok(count)
    }

    /// Frames for which this socket had no room.
    pub(crate) fn dropped(&self) -> io::Result<u32> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let fd = self.socket.0.as_raw_fd();
        let (option, to) = (libc::PACKET_STATISTICS, (&raw mut stats).cast());
        // SAFETY: the option gives a tpacket_stats, for which there is room.
        done(unsafe { libc::getsockopt(fd, libc::SOL_PACKET, option, to, &raw mut len) })?;
        Ok(stats.tp_drops)
    }
}

/// The VLAN tag that the kernel took off a frame, as it stood there.
fn tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the kernel has written the control messages of this header, whose buffer lives on.
    let aux = unsafe {
        let control = libc::CMSG_FIRSTHDR(message);
        if control.is_null() || (*control).cmsg_type != libc::PACKET_AUXDATA {
            return None;
        }
        libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned()
    };
    let valid = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
    let [a, b] = aux.tp_vlan_tpid.to_be_bytes();
    let [c, d] = aux.tp_vlan_tci.to_be_bytes();
    (aux.tp_status & valid == valid).then_some([a, b, c, d])
}

fn done(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
