//! A packet socket: raw frames to and from a netdev, each with its virtio-net header.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::world::{PATIENCE, World};

/// Length of the header that PACKET_VNET_HDR puts before a frame: without `num_buffers`.
pub(crate) const VNET_LEN: usize = 10;
/// Room for what waits to be received: more than a case has under way.
const BUFFER: c_int = 64 << 20;
/// Greatest frame that is received.
const ROOM: usize = 66 << 10;

/// A socket on a netdev.
pub(crate) struct Packets(Socket);

impl Packets {
    /// Receives frames of this ethertype that come in by the machine's netdev, those that it sends aside.
    pub(crate) fn on(world: &World, machine: &str, netdev: &str, ethertype: u16) -> Self {
        let index = world.netdev(machine, netdev).unwrap()["ifindex"].as_i64().unwrap();
        let socket = world.inside(machine, || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.bind(&address(c_int::try_from(index).unwrap(), ethertype)?)?;
            io::Result::Ok(socket)
        });
        let socket = socket.unwrap();
        set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1);
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Sends a frame with its header before it.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(self.0.send(frame).unwrap(), frame.len());
    }

    /// The next frame with its header before it.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; ROOM];
        let len = io::Read::read(&mut &self.0, &mut frame).expect("a frame comes in time");
        frame.truncate(len);
        frame
    }
}

fn set(socket: &Socket, level: c_int, option: c_int, value: c_int) {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).unwrap();
    let value = (&raw const value).cast();
    // SAFETY: each option used here takes an int, and `value` is one for the time of the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn address(index: c_int, ethertype: u16) -> io::Result<SockAddr> {
    // SAFETY: what is written is a sockaddr_ll, for which there is room in the storage, and its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let to = storage.cast::<libc::sockaddr_ll>();
            (*to).sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
            (*to).sll_protocol = ethertype.to_be();
            (*to).sll_ifindex = index;
            *len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            Ok(())
        })
    }?;
    Ok(address)
}
