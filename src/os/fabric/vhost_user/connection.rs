//! Messages of a vhost-user connection, as octets and descriptors.
//!
//! A message is a header of three 32-bit numbers (request, flags, size of the payload) and the payload.
//! Numbers have the byte order of the machine, on which both ends are; the machines that vhost-user is
//! used on are little-endian. Descriptors come with a message's first octets. A stream does not keep
//! messages apart, so what is read ends where a message's header or payload does, and no more than one
//! message is under way in. One that has come in part waits for its rest, and holds up nobody else.
//!
//! After an error nothing more comes, and nothing can be sent: who does not keep to the protocol in one
//! message has lost the thread of those behind it.

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// Length in bytes of a message's header.
pub const HEADER_LEN: usize = 12;
/// Longest payload in bytes. The longest that there is a use for is a config space of 256 with its header.
pub const MAX_PAYLOAD: usize = 4096;
/// Most descriptors of a message. A memory table comes with 8.
pub const MAX_FDS: usize = 32;
/// Most descriptors that Linux takes with one message (SCM_MAX_FD). What there is no room for, the kernel
/// closes within recvmsg(2), which may wait in that for as long as the other end likes.
const KERNEL_MAX_FDS: usize = 253;
/// Most messages that wait until the other end reads.
pub const MAX_WAITING: usize = 64;

/// A message as it came.
#[derive(Debug)]
pub struct Received {
    /// Request, flags and the payload's size, each of 4 bytes in the machine's byte order.
    pub header: [u8; HEADER_LEN],
    /// As many bytes as the header says.
    pub payload: Vec<u8>,
    /// What came with it, at most [`MAX_FDS`].
    pub fds: Vec<OwnedFd>,
}

/// Why a connection is over.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The other end has closed it, between messages.
    Closed,
    /// It closed it within a message.
    CutOff {
        /// How many bytes of the message had come.
        have: usize,
    },
    /// A payload is longer than any is.
    TooLong {
        /// The message's request.
        request: u32,
        /// What it says about its payload, in bytes.
        size: u32,
    },
    /// More descriptors came with a message than any has, or than this process may have open.
    LostDescriptors,
    /// Descriptors came with a message whose beginning had come before.
    LateDescriptors,
    /// So many messages wait already that no other can: the other end does not read.
    Unread,
    /// A system call failed.
    Os(io::Error),
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the other end has closed the connection"),
            Self::CutOff { have } => {
                write!(f, "the other end closed the connection after {have} bytes of a message")
            }
            Self::TooLong { request, size } => write!(
                f,
                "request {request} says that its payload has {size} bytes; none has more than \
                 {MAX_PAYLOAD}"
            ),
            Self::LostDescriptors => write!(
                f,
                "descriptors got lost: more than {MAX_FDS} in a message, or this process has too \
                 many open (raise its limit of open files)"
            ),
            Self::LateDescriptors => f.write_str("descriptors came in the middle of a message"),
            Self::Unread => {
                write!(f, "the other end does not read: {MAX_WAITING} messages wait for it")
            }
            Self::Os(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for ConnectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

/// A socket that listens for the other end. It takes one connection at a time: whoever else connects
/// waits in the kernel's queue until the one before him is gone.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// Takes on a socket that listens; within a tokio runtime with I/O.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket).map(Self)
    }

    /// Waits for somebody to connect. Nothing is lost if it is dropped early.
    ///
    /// # Errors
    /// No connection can be had now, as when this process has too many files open; a later one may do.
    pub async fn accept(&self) -> io::Result<Connection> {
        let (stream, _) = self.0.accept().await?;
        Ok(Connection::new(stream))
    }
}

/// One end of a connection. [`next`](Self::next) is to be waited for all the time: it also sends what
/// could not be sent at once.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    over: bool,
}

impl Connection {
    /// The end of a connection.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, inbox: Inbox::default(), outbox: Outbox::default(), over: false }
    }

    /// Takes on a socket that is connected; within a tokio runtime with I/O.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self::new)
    }

    /// Waits for the next message, and sends meanwhile what waits. Nothing is lost if it is dropped early.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn next(&mut self) -> Result<Received, ConnectionError> {
        if self.over {
            return Err(ConnectionError::Closed);
        }
        let received = self.receive().await;
        self.over = received.is_err();
        received
    }

    async fn receive(&mut self) -> Result<Received, ConnectionError> {
        loop {
            let sends = self.has_unsent();
            let interest =
                if sends { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = self.stream.ready(interest).await.map_err(ConnectionError::Os)?;
            let Self { stream, inbox, outbox, .. } = self;
            if sends && ready.is_writable() {
                settle(stream.try_io(Interest::WRITABLE, || outbox.send(stream)))?;
            }
            if !ready.is_readable() {
                continue;
            }
            // Only an error that says so clears the socket's readiness, so the others go around it.
            let polled =
                stream.try_io(Interest::READABLE, || match inbox.receive(stream.as_fd()) {
                    Err(ConnectionError::Os(e)) if e.kind() == WouldBlock => Err(e),
                    other => Ok(other),
                });
            if let Ok(received) = polled {
                return received;
            }
        }
    }

    /// Sends a message with descriptors, or keeps what cannot be sent yet for [`next`](Self::next) or
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// The connection is over: the other end is gone, or too many messages wait.
    ///
    /// # Panics
    /// The message is shorter than a header, or has more than [`MAX_FDS`] descriptors.
    pub fn send(&mut self, octets: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ConnectionError> {
        assert!(octets.len() >= HEADER_LEN, "a message has a header");
        assert!(fds.len() <= MAX_FDS, "at most {MAX_FDS} descriptors go with a message");
        if self.over {
            return Err(ConnectionError::Closed);
        }
        let done = self.send_or_keep(octets, fds);
        self.over = done.is_err();
        done
    }

    fn send_or_keep(
        &mut self,
        octets: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ConnectionError> {
        // Whether the socket is ready is asked of itself: the runtime may not know yet.
        settle(self.outbox.send(&self.stream))?;
        let sent = if self.has_unsent() { 0 } else { send_some(&self.stream, octets, fds)? };
        if sent == octets.len() {
            return Ok(());
        }
        if self.outbox.0.len() >= MAX_WAITING {
            return Err(ConnectionError::Unread);
        }
        let fds = if sent == 0 { fds } else { &[] };
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<_>>();
        let fds = fds.map_err(ConnectionError::Os)?;
        self.outbox.0.push_back(Outgoing { octets: octets.to_vec(), sent, fds });
        Ok(())
    }

    /// Whether messages wait until the other end reads.
    pub fn has_unsent(&self) -> bool {
        !self.outbox.0.is_empty()
    }

    /// Waits until all messages are sent. Nothing is lost if it is dropped early.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn flush(&mut self) -> Result<(), ConnectionError> {
        while !self.over && self.has_unsent() {
            let writable = self.stream.writable().await;
            let Self { stream, outbox, .. } = self;
            let sent =
                writable.and_then(|()| stream.try_io(Interest::WRITABLE, || outbox.send(stream)));
            let sent = settle(sent);
            self.over = sent.is_err();
            sent?;
        }
        if self.over { Err(ConnectionError::Closed) } else { Ok(()) }
    }
}

/// What could not be sent at once, in order.
#[derive(Debug, Default)]
struct Outbox(VecDeque<Outgoing>);

/// What of a message has not been sent yet.
#[derive(Debug)]
struct Outgoing {
    octets: Vec<u8>,
    sent: usize,
    /// Go with the first octet.
    fds: Vec<OwnedFd>,
}

impl Outbox {
    /// Sends all of it; `WouldBlock` if the other end takes no more now.
    fn send(&mut self, socket: &UnixStream) -> io::Result<()> {
        while let Some(first) = self.0.front_mut() {
            let fds: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            first.sent += transmit(socket, &first.octets[first.sent..], &fds)?;
            first.fds.clear();
            if first.sent == first.octets.len() {
                self.0.pop_front();
            }
        }
        Ok(())
    }
}

/// Sends the beginning of `octets`, one at least.
fn transmit(socket: &UnixStream, octets: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "there is room for {MAX_FDS} descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match sendmsg(socket, &[IoSlice::new(octets)], &mut control, flags) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// As [`transmit`]; 0 if the other end takes nothing now.
fn send_some(
    socket: &UnixStream,
    octets: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<usize, ConnectionError> {
    let mut sent = 0;
    settle(transmit(socket, octets, fds).map(|n| sent = n))?;
    Ok(sent)
}

/// That the other end takes no more now is no error.
fn settle(sent: io::Result<()>) -> Result<(), ConnectionError> {
    match sent {
        Err(e) if e.kind() == WouldBlock => Ok(()),
        Err(e) if matches!(e.kind(), BrokenPipe | ConnectionReset) => Err(ConnectionError::Closed),
        done => done.map_err(ConnectionError::Os),
    }
}

/// What has come of the next message.
#[derive(Debug, Default)]
struct Inbox {
    header: [u8; HEADER_LEN],
    /// Of header and payload.
    have: usize,
    /// As long as the header says, once that is there.
    payload: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Inbox {
    /// Receives the rest of the next message without waiting for it; a system error that says that it
    /// would have to is the only one after which to go on.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Received, ConnectionError> {
        while self.have < HEADER_LEN {
            self.receive_some(socket)?;
            if self.have == HEADER_LEN {
                self.payload = vec![0; self.payload_len()?];
            }
        }
        while self.have < HEADER_LEN + self.payload.len() {
            self.receive_some(socket)?;
        }
        let Self { header, payload, fds, .. } = std::mem::take(self);
        Ok(Received { header, payload, fds })
    }

    /// What the header says about the payload, within bounds.
    fn payload_len(&self) -> Result<usize, ConnectionError> {
        let [request, _, size] = std::array::from_fn(|i| {
            let [a, b, c, d, ..] = self.header[4 * i..] else { return 0 };
            u32::from_ne_bytes([a, b, c, d])
        });
        let len = usize::try_from(size).ok().filter(|len| *len <= MAX_PAYLOAD);
        len.ok_or(ConnectionError::TooLong { request, size })
    }

    fn receive_some(&mut self, socket: BorrowedFd<'_>) -> Result<(), ConnectionError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let rest = match self.have.checked_sub(HEADER_LEN) {
            None => &mut self.header[self.have..],
            Some(have) => &mut self.payload[have..],
        };
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, flags) {
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::CONNRESET) => return Err(self.ended()),
            done => done.map_err(|e| ConnectionError::Os(e.into()))?,
        };
        let before = self.fds.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MAX_FDS {
            return Err(ConnectionError::LostDescriptors);
        }
        if self.have > 0 && self.fds.len() > before {
            return Err(ConnectionError::LateDescriptors);
        }
        if received.bytes == 0 {
            return Err(self.ended());
        }
        self.have += received.bytes;
        Ok(())
    }

    fn ended(&self) -> ConnectionError {
        match self.have {
            0 => ConnectionError::Closed,
            have => ConnectionError::CutOff { have },
        }
    }
}

#[cfg(test)]
mod tests;
