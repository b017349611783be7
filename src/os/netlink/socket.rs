//! One rtnetlink socket: a request, and the whole of its answer.
//!
//! An answer counts only once its end was seen (an acknowledgement, the end of a dump, a single
//! object); where messages were lost (overrun) or the tables changed under a dump, the request is
//! made again: all our requests may be repeated. The kernel's own explanation of a refusal
//! (extended acknowledgement, Linux 4.12) is kept.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{
    DoneMessage, ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::sys::{SocketAddr, TokioSocket};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often a request is repeated whose answer was cut short, before that is an error.
const TRIES: u32 = 8;

/// `NLMSGERR_ATTR_MSG` of `linux/netlink.h`: the kernel's explanation, a C string.
const EXT_ACK_TEXT: u16 = 1;

/// The length of `struct nlmsghdr`, all of the request that a capped error message repeats.
const HEADER_LEN: usize = 16;

type Message = NetlinkMessage<RouteNetlinkMessage>;
/// What a connection consists of: itself, what asks by it, and what comes unasked.
type Parts = (
    rtnetlink::proto::Connection<RouteNetlinkMessage>,
    rtnetlink::Handle,
    UnboundedReceiver<(Message, SocketAddr)>,
);

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel said no.
    Refused {
        /// The errno, positive.
        errno: i32,
        /// The kernel's explanation, if it gave one.
        text: Option<String>,
    },
    /// The answer was cut short each time.
    Unstable,
    /// The socket is gone, or its runtime.
    Closed,
}

impl Failure {
    /// Whether the kernel refused with one of these.
    pub(super) fn is(&self, errnos: &[i32]) -> bool {
        matches!(self, Self::Refused { errno, .. } if errnos.contains(errno))
    }
}

/// The socket, served by two tasks on the runtime that it was made on.
#[derive(Debug)]
pub(super) struct Socket {
    handle: rtnetlink::Handle,
    overruns: watch::Receiver<u64>,
    tasks: [JoinHandle<()>; 2],
    strict: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Makes a socket in the namespace `netns`.
///
/// setns moves one thread, so a thread of its own goes there, makes the socket and ends: a socket
/// stays in the namespace that it was made in.
pub(super) fn route_socket_in(netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
            route_socket()
        })?;
        thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

/// An rtnetlink socket in the calling thread's network namespace.
///
/// # Errors
/// The kernel gives none.
pub fn route_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 is NETLINK_ROUTE.
    Ok(socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, None)?)
}

/// A connection that goes by this socket, in the calling runtime. It comes with one of its own, in
/// whatever namespace, which has not been used yet.
pub(super) fn connection_over(socket: OwnedFd) -> io::Result<Parts> {
    let (mut connection, handle, unasked) = rtnetlink::new_connection()?;
    // SAFETY: the descriptor is open, and given away here.
    *connection.socket_mut() = unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) };
    Ok((connection, handle, unasked))
}

impl Socket {
    /// Serves a socket that [`route_socket`] has made, by the calling runtime.
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        let runtime = Runtime::try_current().map_err(io::Error::other)?;
        let (mut connection, handle, mut unasked) = connection_over(socket)?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = rtnetlink::sys::AsyncSocket::socket_mut(connection.socket_mut());
        // Filtered dumps need Linux 4.20; without them the answers are longer, and filtered here.
        let strict = socket.set_netlink_get_strict_chk(true).is_ok();
        // Explanations are found in an error message only if its copy of the request is capped.
        if socket.set_cap_ack(true).is_ok() {
            socket.set_ext_ack(true)?;
        }
        let (lost, overruns) = watch::channel(0_u64);
        let count_overruns = async move {
            while let Some((message, _)) = unasked.next().await {
                if matches!(message.payload, NetlinkPayload::Overrun(_)) {
                    lost.send_modify(|n| *n += 1);
                }
            }
        };
        let tasks = [runtime.spawn(connection), runtime.spawn(count_overruns)];
        Ok(Self { handle, overruns, tasks, strict })
    }

    /// Whether the kernel filters dumps. If not, a dump's request must not ask for it.
    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Sends `message` with these flags and waits for the whole answer.
    pub(super) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        for _ in 0..TRIES {
            let mut overruns = self.overruns.clone();
            overruns.mark_unchanged();
            let whole = tokio::select! {
                answer = self.request_once(message.clone(), flags) => answer?,
                lost = overruns.changed() => {
                    lost.map_err(|_| Failure::Closed)?;
                    None
                }
            };
            if let Some(answer) = whole {
                return Ok(answer);
            }
        }
        Err(Failure::Unstable)
    }

    /// The whole of a dump.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        self.request(message, NLM_F_DUMP).await
    }

    /// One try; `None` if the tables changed under the dump.
    async fn request_once(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Failure> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answer = self.handle.clone().request(request).map_err(|_| Failure::Closed)?;
        let (mut objects, mut ended, mut changed) = (Vec::new(), false, false);
        while let Some(message) = answer.next().await {
            changed |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(object) => {
                    ended |= message.header.flags & NLM_F_MULTIPART == 0;
                    objects.push(object);
                }
                NetlinkPayload::Done(done) => {
                    check_done(&done)?;
                    ended = true;
                }
                NetlinkPayload::Error(error) => {
                    check_error(&error)?;
                    ended = true;
                }
                _ => changed = true,
            }
        }
        if !ended && !changed {
            return Err(Failure::Closed);
        }
        Ok((!changed).then_some(objects))
    }
}

/// An acknowledgement is an error message without an error.
fn check_error(error: &ErrorMessage) -> Result<(), Failure> {
    let Some(code) = error.code else { return Ok(()) };
    let text = error.header.get(HEADER_LEN..).and_then(explanation);
    Err(Failure::Refused { errno: code.get().saturating_neg(), text })
}

/// A dump can fail at its end.
fn check_done(done: &DoneMessage) -> Result<(), Failure> {
    if done.code >= 0 {
        return Ok(());
    }
    let text = explanation(&done.extended_ack);
    Err(Failure::Refused { errno: done.code.saturating_neg(), text })
}

/// The text among the attributes of an extended acknowledgement.
fn explanation(attributes: &[u8]) -> Option<String> {
    let text = NlasIterator::new(attributes).flatten().find(|a| a.kind() == EXT_ACK_TEXT)?;
    let text = String::from_utf8_lossy(text.value());
    let text = text.trim_end_matches('\0').trim();
    (!text.is_empty()).then(|| text.to_owned())
}
