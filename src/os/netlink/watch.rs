//! Notice that somebody changed links, addresses or routes of a namespace.
//!
//! It tells that something changed, not what: whoever wants to know looks again. So an overrun, in
//! which the kernel drops messages, is a change like any other, and nothing is kept per message.

use std::io;
use std::os::fd::OwnedFd;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use rustix::net::bind;
use rustix::net::netlink::SocketAddrNetlink;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NetlinkError;
use super::socket::{connection_over, route_socket};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
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
    changes: watch::Receiver<u64>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watch {
    /// By a socket that [`watch_socket`] has made; must be called in a tokio runtime, which serves it.
    pub fn over(socket: OwnedFd) -> Result<Self, NetlinkError> {
        Self::serve(socket).map_err(NetlinkError::Socket)
    }

    fn serve(socket: OwnedFd) -> io::Result<Self> {
        let runtime = Runtime::try_current().map_err(io::Error::other)?;
        let (connection, _, mut messages) = connection_over(socket)?;
        let (tell, changes) = watch::channel(0_u64);
        let count = async move {
            while messages.next().await.is_some() {
                tell.send_modify(|n| *n += 1);
            }
        };
        Ok(Self { changes, tasks: [runtime.spawn(connection), runtime.spawn(count)] })
    }

    /// Waits for a change since the last call. Pends for ever if the socket has failed.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
