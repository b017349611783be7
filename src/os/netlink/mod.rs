//! rtnetlink: what a netdev is, and doing what a plan says.
//!
//! This module is the only one that knows the netlink crates. A [`Netlink`] speaks with one network
//! namespace: the one its socket was made in, whatever its thread or process does later.
//!
//! [`Netlink::observe`] and [`Netlink::apply`] are the two ends of [`plan`](crate::plan): observe,
//! plan, apply; where nothing failed, the next plan is empty. Applying goes on after a failure,
//! reports each one, and says what was done, for [`undo`](crate::plan::undo). What turns out to be
//! there already is success, but not ours to take away.

mod apply;
mod error;
mod filter;
mod names;
mod observe;
mod once;
mod socket;
mod vlan;
mod watch;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::NLM_F_ACK;

pub use apply::Applied;
pub use error::NetlinkError;
pub use observe::LinkStats;
pub use once::{get_link, move_link};
pub use socket::route_socket;
use socket::{Failure, Socket, route_socket_in};
pub use vlan::MaybeVlan;
pub use watch::{Watch, watch_socket};

/// Which netdev is meant: one of a name, or one of an index, whatever it is called.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// For people, if there is an index.
    name: &'a str,
    index: Option<u32>,
}

impl<'a> At<'a> {
    /// The one of this index; `name` is what people know it by.
    pub fn index(index: u32, name: &'a str) -> Self {
        Self { name, index: Some(index) }
    }
}

impl<'a> From<&'a str> for At<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, index: None }
    }
}

impl<'a> From<&'a String> for At<'a> {
    fn from(name: &'a String) -> Self {
        name.as_str().into()
    }
}

/// rtnetlink in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// In the calling thread's network namespace; must be called in a tokio runtime, which serves
    /// the socket from then on.
    pub fn new() -> Result<Self, NetlinkError> {
        Self::over(route_socket().map_err(NetlinkError::Socket)?)
    }

    /// By a socket that [`route_socket`] has made, in whatever process; as [`new`](Self::new) apart
    /// from that.
    pub fn over(socket: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::over(socket).map_err(NetlinkError::Socket)? })
    }

    /// In the network namespace that `netns` refers to (an open `/proc/PID/ns/net`, or a file in
    /// `/run/netns`); as [`new`](Self::new) apart from that. The calling thread stays where it is.
    pub fn in_namespace(netns: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        Self::over(route_socket_in(netns).map_err(NetlinkError::Namespace)?)
    }

    /// The index of the link `name`, `None` if there is none.
    pub async fn link_index(&self, name: &str) -> Result<Option<u32>, NetlinkError> {
        Ok(self.link(name).await?.map(|link| link.header.index))
    }

    /// Sets the loopback link up, which a new namespace needs for its own addresses.
    pub async fn set_loopback_up(&self) -> Result<(), NetlinkError> {
        let index = self.need_index("lo").await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.set_link(up).await.map_err(NetlinkError::on(|| "state up on lo".to_owned()))
    }

    /// Moves the link `name` into the namespace that `netns` refers to. The kernel sets it down and
    /// removes its addresses on the way.
    pub async fn move_to_namespace(
        &self,
        name: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let index = self.need_index(name).await?;
        let message = LinkUnspec::new_with_index(index).setns_by_fd(netns.as_raw_fd()).build();
        self.set_link(message).await.map_err(NetlinkError::on(|| format!("namespace of {name}")))
    }

    /// Deletes a link; that it is not there is success.
    pub async fn delete_link(&self, at: impl Into<At<'_>>) -> Result<(), NetlinkError> {
        let at = at.into();
        let Some(link) = self.link(at).await? else { return Ok(()) };
        let message = LinkUnspec::new_with_index(link.header.index).build();
        match self.socket.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).await {
            Err(e) if !e.is(&[libc::ENODEV]) => {
                Err(NetlinkError::failed(format!("link {}", at.name), e))
            }
            _ => Ok(()),
        }
    }

    /// The link's message.
    async fn link(&self, at: impl Into<At<'_>>) -> Result<Option<LinkMessage>, NetlinkError> {
        let At { name, index } = at.into();
        let mut message = LinkMessage::default();
        match index {
            Some(index) => message.header.index = index,
            None => message.attributes.push(LinkAttribute::IfName(name.to_owned())),
        }
        match self.get_link(message).await {
            Ok(link) => Ok(Some(link)),
            Err(e) if e.is(&[libc::ENODEV]) => Ok(None),
            Err(e) => Err(NetlinkError::failed(format!("link {name}"), e)),
        }
    }

    /// The one link that `message` asks for.
    async fn get_link(&self, message: LinkMessage) -> Result<LinkMessage, Failure> {
        let answer = self.socket.request(RouteNetlinkMessage::GetLink(message), 0).await?;
        let link = answer.into_iter().find_map(|m| match m {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.ok_or(Failure::Unstable)
    }

    async fn need_index(&self, at: impl Into<At<'_>>) -> Result<u32, NetlinkError> {
        let at = at.into();
        match self.link(at).await? {
            Some(link) => Ok(link.header.index),
            None => Err(NetlinkError::NoLink { name: at.name.to_owned() }),
        }
    }

    /// Changes an existing link. RTM_SETLINK never creates one.
    async fn set_link(&self, message: LinkMessage) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::SetLink(message);
        self.socket.request(message, NLM_F_ACK).await.map(drop)
    }
}
