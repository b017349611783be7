//! Notice that somebody changed links, addresses or routes of a namespace.
//!
//! It tells that something changed, not what: whoever wants to know looks again. So an overrun, in
//! which the kernel drops messages, is a change like any other, and nothing is kept per message.

use std::io;
use std::os::fd::BorrowedFd;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NetlinkError;
use super::socket::in_namespace;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

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
    /// Watches the calling thread's namespace, or the one that `netns` refers to; must be called in
    /// a tokio runtime, which serves the socket.
    pub fn new(netns: Option<BorrowedFd<'_>>) -> Result<Self, NetlinkError> {
        match netns {
            None => Self::open().map_err(NetlinkError::Socket),
            Some(netns) => in_namespace(netns, Self::open).map_err(NetlinkError::Namespace),
        }
    }

    fn open() -> io::Result<Self> {
        let runtime = Runtime::try_current().map_err(io::Error::other)?;
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
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
