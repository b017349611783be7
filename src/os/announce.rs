//! Sends frames of our own by a netdev, as its kernel would.

#![allow(unsafe_code)]

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The pauses before each round, in milliseconds. The first frames may come too early for a netdev
/// whose carrier has just been raised, here or at the other end, and any may be lost. A kernel that has
/// asked for an address in vain asks again after a second: traffic goes on as soon as one round arrives.
const ROUNDS_MS: [u64; 7] = [10, 40, 100, 200, 300, 350, 350];

/// How long an announcement takes: what asks for another one meanwhile is served by the last round.
pub const TIME: Duration = Duration::from_millis(1350);

/// Sends each frame once a round by the netdev of this index in the calling thread's network namespace.
/// Blocks for somewhat more than a second, or until the other end of `wanted` is dropped: what the frames
/// say may not be so any more.
///
/// # Errors
/// No packet socket can be had, which needs CAP_NET_RAW, or the last round could not be sent.
pub fn announce(index: u32, frames: &[Vec<u8>], wanted: &Receiver<()>) -> io::Result<()> {
    // With protocol 0 the socket receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let to = address(index)?;
    let mut sent = Ok(());
    for pause_ms in ROUNDS_MS {
        match wanted.recv_timeout(Duration::from_millis(pause_ms)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        sent = frames.iter().try_for_each(|frame| socket.send_to(frame, &to).map(drop));
    }
    sent
}

/// The address of the netdev of this index, for packet sockets.
///
/// # Errors
/// There is no such index.
#[allow(clippy::cast_possible_truncation, reason = "numbers and lengths of a few bytes")]
pub fn address(index: u32) -> io::Result<SockAddr> {
    let index = libc::c_int::try_from(index).map_err(io::Error::other)?;
    // SAFETY: what is written is a sockaddr_ll, for which there is room in the storage, and its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let to = storage.cast::<libc::sockaddr_ll>();
            (*to).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*to).sll_ifindex = index;
            (*to).sll_halen = 6;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}
