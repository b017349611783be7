//! Ethernet frames of one length, as many as the kernel takes, past its protocols.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, netdevice, sendmmsg};
use socket2::Socket;

use super::SLICE;
use crate::atomic::AtomicU64;
use crate::os::announce;

/// Frames of one system call.
const BATCH: usize = 64;
/// From one locally administered address to another, with the type that IEEE 802 leaves for experiments:
/// who receives them counts them, and nobody takes them.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// What a flood has come to, while it goes on.
#[derive(Debug, Default)]
pub struct FrameFlood {
    /// Frames that the kernel took; it may still drop them.
    pub sent: AtomicU64,
    /// Whether to end.
    pub done: AtomicBool,
}

/// A socket that sends by a netdev of the calling thread's network namespace.
///
/// # Errors
/// No such netdev; no permission for a packet socket.
pub fn frame_socket(netdev: &str) -> io::Result<Socket> {
    let socket = announce::socket()?;
    let index = netdevice::name_to_index(&socket, netdev)?;
    socket.bind(&announce::address(index)?)?;
    socket.set_write_timeout(Some(SLICE))?;
    Ok(socket)
}

/// Sends frames of `len` bytes, header included, until the flood is done.
///
/// # Errors
/// Those of sendmmsg, but for a queue that is full.
pub fn flood_frames(socket: &Socket, len: usize, flood: &FrameFlood) -> io::Result<()> {
    let mut frame = HEADER.to_vec();
    frame.resize(len.max(HEADER.len()), 0x5a);
    let parts = [IoSlice::new(&frame)];
    let mut no_control: Vec<_> = (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
    let mut batch: Vec<_> =
        no_control.iter_mut().map(|control| MMsgHdr::new(&parts, control)).collect();
    while !flood.done.load(Ordering::Relaxed) {
        match sendmmsg(socket, &mut batch, SendFlags::empty()) {
            Ok(sent) => {
                flood.sent.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
