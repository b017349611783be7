//! UDP's segmentation offloads, which no crate here has a call for (linux/udp.h).

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams that one call may send at most, by any kernel that has the offload (UDP_MAX_SEGMENTS).
pub const SEGMENTS_MAX: usize = 64;

/// Has each send become datagrams of `payload` bytes, the last one of what is left.
///
/// # Errors
/// A kernel before Linux 4.18; no UDP socket.
pub fn set_segment(socket: impl AsFd, payload: u16) -> io::Result<()> {
    set(socket, libc::UDP_SEGMENT, payload.into())
}

/// Has a receive take datagrams of one sender and length together.
///
/// # Errors
/// A kernel before Linux 5.0; no UDP socket.
pub fn set_gro(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::UDP_GRO, 1)
}

#[allow(clippy::cast_possible_truncation, reason = "the length of an int")]
fn set(socket: impl AsFd, option: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both options take an int, and `value` is one that outlives the call.
    let done =
        unsafe { libc::setsockopt(fd, libc::SOL_UDP, option, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
