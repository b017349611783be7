//! Notice that somebody changed links, addresses or routes of a namespace.
//!
//! It tells that something changed, not what: whoever wants to know looks again. So an overrun, in
//! which the kernel drops messages, is a change like any other, and nothing is kept per message.
//!
//! With many links in a namespace each hears of all the others' changes, and of everybody's routes. So
//! the kernel can be told which netdevs matter ([`Watch::keep_to`]), and then wakes nobody for others.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rtnetlink::MulticastGroup;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, bind, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::NetlinkError;
use super::filter;
use super::socket::route_socket;

/// Messages that a call drops at most before others have their turn.
const MOST: usize = 256;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    // Of forwarding.
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// A socket that hears of changes in the calling thread's network namespace.
///
/// # Errors
/// The kernel gives none.
pub fn watch_socket() -> io::Result<OwnedFd> {
    let socket = route_socket()?;
    let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A subscription to one namespace's changes.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
    /// Which netdevs it hears of; all, if empty.
    kept: Vec<u32>,
}

impl Watch {
    /// By a socket that [`watch_socket`] has made; must be called in a tokio runtime, which serves it.
    pub fn over(socket: OwnedFd) -> Result<Self, NetlinkError> {
        // SAFETY: an `OwnedFd` refers to the same open descriptor for as long as it exists.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|e| NetlinkError::Socket(e.into()))?;
        Ok(Self { socket, kept: Vec::new() })
    }

    /// Hears from now on of what has to do with the netdevs of these indices, and of a route that may have
    /// taken another's place; of everything, if there are none. What has come before stays. Whether it hears
    /// of something now that it did not before, and so may have missed.
    ///
    /// # Errors
    /// The kernel does not do so: then it is heard of everything.
    pub fn keep_to(&mut self, indices: &[u32]) -> io::Result<bool> {
        if self.kept == indices {
            return Ok(false);
        }
        let before = std::mem::take(&mut self.kept);
        filter::set(self.socket.get_ref().as_raw_fd(), indices)?;
        self.kept.extend(indices);
        let wider = |index| !before.contains(index);
        Ok(!before.is_empty() && (indices.is_empty() || indices.iter().any(wider)))
    }

    /// Waits for a change since the last call; pends for ever if the socket has failed. Nothing is lost
    /// if it is dropped early.
    pub async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { break };
            match drop_all(ready.get_inner()) {
                Ok((heard, more)) => {
                    if !more {
                        ready.clear_ready();
                    }
                    if heard {
                        return;
                    }
                }
                Err(_) => break,
            }
        }
        std::future::pending().await
    }
}

/// Takes what has come, unread: with many links in a namespace, each hears of all the others', and
/// taking the messages apart cost some 400 KiB a link. Whether there was something, and may be more.
fn drop_all(socket: &OwnedFd) -> Result<(bool, bool), Errno> {
    for taken in 0..MOST {
        match recv(socket, &mut [0_u8; 1], RecvFlags::DONTWAIT) {
            // The kernel has dropped some.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok((taken > 0, false)),
            Err(e) => return Err(e),
        }
    }
    Ok((true, true))
}
