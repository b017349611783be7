//! Messages with descriptors between a confined process and the one that opens things for it.
//!
//! A socket pair keeps messages apart (SOCK_SEQPACKET), so a message is whole or none. Both ends look at
//! each: its length, how many descriptors came with it, and whether the kernel had to leave some out.
//! Descriptors of a message that is refused are closed.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest message, in bytes.
pub const MESSAGE_MAX: usize = 2048;
/// Most descriptors that come with one.
pub const FDS_MAX: usize = 4;

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// Its octets, one at least.
    pub octets: Vec<u8>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

/// What came instead of a message.
#[derive(Debug)]
pub enum ReceiveError {
    /// The other end is gone.
    Closed,
    /// It is longer than a message may be, or has more descriptors. The next one may be good.
    Bad,
    /// The system call failed; `WouldBlock` says that there is none yet.
    Os(io::Error),
}

/// Two ends of a new channel. They block.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message with descriptors. On an end that does not block, `WouldBlock` says that the other
/// one has taken too little yet.
///
/// # Panics
/// The message is empty or longer than [`MESSAGE_MAX`], or has more than [`FDS_MAX`] descriptors.
pub fn send(socket: impl AsFd, octets: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!((1..=MESSAGE_MAX).contains(&octets.len()), "a message has 1 to {MESSAGE_MAX} bytes");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "at most {FDS_MAX} descriptors go with a message");
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(octets)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

/// Receives the next message.
///
/// # Errors
/// There is none, or it is none; then its descriptors have been closed.
pub fn receive(socket: impl AsFd) -> Result<Message, ReceiveError> {
    // One more than may be, to tell what is too long.
    let mut octets = vec![0; MESSAGE_MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let slices = &mut [IoSliceMut::new(&mut octets)];
        match recvmsg(&socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(ReceiveError::Closed),
            done => break done.map_err(|e| ReceiveError::Os(e.into()))?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    // Also of an empty message, which nobody sends.
    if received.bytes == 0 {
        return Err(ReceiveError::Closed);
    }
    let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    if cut || received.bytes > MESSAGE_MAX || fds.len() > FDS_MAX {
        return Err(ReceiveError::Bad);
    }
    octets.truncate(received.bytes);
    Ok(Message { octets, fds })
}

/// The end that does not block, in a tokio runtime.
#[derive(Debug)]
pub struct Asker(AsyncFd<OwnedFd>);

impl Asker {
    /// Takes on a channel's end. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // The other end's way to wait is its own.
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` refers to the same open descriptor for as long as it exists.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?))
    }

    /// As [`send`]; `WouldBlock` if the other end has taken too little yet.
    pub fn send(&self, octets: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.get_ref(), octets, fds)
    }

    /// Waits for the next message that is good; `None` if there will be no more. Nothing is lost if it
    /// is dropped early.
    pub async fn receive(&self) -> Option<Message> {
        loop {
            let mut ready = self.0.readable().await.ok()?;
            match receive(self.0.get_ref()) {
                Ok(message) => return Some(message),
                Err(ReceiveError::Bad) => {}
                Err(ReceiveError::Os(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                Err(ReceiveError::Closed | ReceiveError::Os(_)) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn a_message_comes_whole_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        let fds = [a.as_fd(); FDS_MAX];
        for n in 0..=FDS_MAX {
            send(&a, &vec![7; 1 + n], &fds[..n]).unwrap();
        }
        for n in 0..=FDS_MAX {
            let message = receive(&b).unwrap();
            assert_eq!((message.octets, message.fds.len()), (vec![7; 1 + n], n));
            for fd in message.fds {
                assert!(
                    rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
                );
            }
        }
        drop(a);
        assert!(matches!(receive(&b), Err(ReceiveError::Closed)));
    }

    #[test]
    fn what_is_too_long_or_has_too_many_descriptors_is_bad_and_the_next_is_good() {
        let (a, b) = pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        for (len, fds) in [(MESSAGE_MAX + 1, 0), (100_000, 0), (1, FDS_MAX + 1), (1, 32)] {
            let mut control = SendAncillaryBuffer::new(&mut space);
            let list = vec![a.as_fd(); fds];
            assert!(fds == 0 || control.push(SendAncillaryMessage::ScmRights(&list)));
            let octets = vec![1; len];
            sendmsg(&a, &[IoSlice::new(&octets)], &mut control, SendFlags::empty()).unwrap();
            let error = receive(&b).unwrap_err();
            assert!(matches!(error, ReceiveError::Bad), "{len} {fds}: {error:?}");
            send(&a, b"good", &[]).unwrap();
            assert_eq!(receive(&b).unwrap().octets, b"good");
        }
    }

    #[test]
    fn descriptors_of_a_bad_message_are_closed() {
        let (a, b) = pair().unwrap();
        let bad = vec![1; MESSAGE_MAX + 1];
        let list = [a.as_fd(); FDS_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let before = descriptors();
        for _ in 0..200 {
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&list)));
            sendmsg(&a, &[IoSlice::new(&bad)], &mut control, SendFlags::empty()).unwrap();
            assert!(matches!(receive(&b), Err(ReceiveError::Bad)));
        }
        // Other tests of this process have theirs, but not hundreds.
        assert!(descriptors() < before + 200, "{before} before, {} now", descriptors());
    }
}
