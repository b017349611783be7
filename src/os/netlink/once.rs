//! A single request without a runtime, in the calling thread's network namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

/// The netdev `name`.
///
/// # Errors
/// `NODEV`: there is none.
pub fn get_link(name: &str) -> Result<LinkMessage, Errno> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match ask(RouteNetlinkMessage::GetLink(link), 0)? {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        _ => Err(Errno::BADMSG),
    }
}

/// Moves the netdev `name` into the network namespace that `to` refers to, where it is to be named `as_name`.
///
/// # Errors
/// `EXIST`: that is another one's name there.
pub fn move_link(name: &str, to: BorrowedFd<'_>, as_name: &str) -> io::Result<()> {
    let index = get_link(name)?.header.index;
    let link = LinkUnspec::new_with_index(index).setns_by_fd(to.as_raw_fd());
    let link = link.name(as_name.to_owned()).build();
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)?;
    Ok(())
}

/// Sends a request, and gives the one object that it is answered with; none where that is an
/// acknowledgement.
fn ask(message: RouteNetlinkMessage, flags: u16) -> Result<Option<RouteNetlinkMessage>, Errno> {
    let os = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE).map_err(os)?;
    let kernel = SocketAddr::new(0, 0);
    socket.send_to(&bytes, &kernel, 0).map_err(os)?;
    // The socket is in no multicast group: the one datagram that comes is the answer.
    let (answer, _) = socket.recv_from_full().map_err(os)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(|_| Errno::BADMSG)?.payload {
        NetlinkPayload::InnerMessage(object) => Ok(Some(object)),
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(None),
        NetlinkPayload::Error(error) => Err(os(error.to_io())),
        _ => Err(Errno::BADMSG),
    }
}
