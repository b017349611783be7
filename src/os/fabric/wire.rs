//! One message of the ivshmem-server protocol on a Unix stream socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::slice;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::Fault;
use crate::spec::ivshmem::MESSAGE_LEN;

/// A number and what came with it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) number: i64,
    pub(super) fd: Option<OwnedFd>,
}

/// Why no further message comes.
#[derive(Debug)]
pub(super) enum ReceiveError {
    /// The other end closed the connection.
    Closed,
    /// The other end sent what is no message.
    Fault(Fault),
    /// The system call failed; `WouldBlock` is the only one after which to go on.
    Os(io::Error),
}

/// Sends a message without waiting. It goes out whole or not at all: a stream socket of this family
/// does not split what is this short.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    number: i64,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let octets = number.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        let fits = control.push(SendAncillaryMessage::ScmRights(slice::from_ref(fd)));
        assert!(fits, "there is room for one descriptor");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, &[IoSlice::new(&octets)], &mut control, flags)? {
        MESSAGE_LEN => Ok(()),
        sent => Err(io::Error::other(format!("{sent} of {MESSAGE_LEN} bytes sent"))),
    }
}

/// Puts together one message after the other; keeps what has come of the next one.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    octets: [u8; MESSAGE_LEN],
    have: usize,
    fd: Option<OwnedFd>,
}

impl Inbox {
    /// Receives the next message without waiting. Descriptors that are not returned are closed.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Message, ReceiveError> {
        while self.have < MESSAGE_LEN {
            self.receive_some(socket)?;
        }
        self.have = 0;
        Ok(Message { number: i64::from_le_bytes(self.octets), fd: self.fd.take() })
    }

    fn receive_some(&mut self, socket: BorrowedFd<'_>) -> Result<(), ReceiveError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let rest = &mut self.octets[self.have..];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, flags) {
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::CONNRESET) => return Err(ReceiveError::Closed),
            other => other.map_err(|e| ReceiveError::Os(e.into()))?,
        };
        let mut surplus = false;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    surplus |= self.fd.replace(fd).is_some();
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::Fault(Fault::LostDescriptors));
        }
        if surplus {
            return Err(ReceiveError::Fault(Fault::ManyDescriptors));
        }
        if received.bytes == 0 {
            return Err(ReceiveError::Closed);
        }
        self.have += received.bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn send_fds(socket: &UnixStream, octets: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent =
            sendmsg(socket, &[IoSlice::new(octets)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, octets.len());
    }

    fn would_block(inbox: &mut Inbox, socket: &UnixStream) -> bool {
        matches!(inbox.receive(socket.as_fd()),
            Err(ReceiveError::Os(e)) if e.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn a_message_is_eight_little_endian_octets() {
        let (mut a, b) = UnixStream::pair().unwrap();
        send(a.as_fd(), 0x0102, None).unwrap();
        send(a.as_fd(), -1, None).unwrap();
        let mut octets = [0; 16];
        rustix::io::read(&b, &mut octets).unwrap();
        assert_eq!(octets, [2, 1, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        a.write_all(&[0xff, 0, 0, 0, 0, 0, 0, 0x80]).unwrap();
        let message = Inbox::default().receive(b.as_fd()).unwrap();
        assert_eq!(message.number, i64::MIN + 255);
    }

    #[test]
    fn a_message_in_pieces_is_put_together_with_its_descriptor() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::default();
        a.write_all(&[7, 0, 0]).unwrap();
        assert!(would_block(&mut inbox, &b));
        send_fds(&a, &[0, 0, 0, 0, 0], &[a.as_fd()]);
        send(a.as_fd(), 8, None).unwrap();
        let message = inbox.receive(b.as_fd()).unwrap();
        assert_eq!((message.number, message.fd.is_some()), (7, true));
        let message = inbox.receive(b.as_fd()).unwrap();
        assert_eq!((message.number, message.fd.is_some()), (8, false));
        assert!(would_block(&mut inbox, &b));
    }

    #[test]
    fn received_descriptors_are_closed_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        send(a.as_fd(), 1, Some(a.as_fd())).unwrap();
        let fd = Inbox::default().receive(b.as_fd()).unwrap().fd.unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn surplus_descriptors_are_an_error() {
        for count in 2..=8 {
            let (a, b) = UnixStream::pair().unwrap();
            send_fds(&a, &[0; 8], &vec![a.as_fd(); count]);
            let error = Inbox::default().receive(b.as_fd()).unwrap_err();
            assert!(
                matches!(
                    error,
                    ReceiveError::Fault(Fault::ManyDescriptors | Fault::LostDescriptors)
                ),
                "{count}: {error:?}"
            );
        }
        let (a, b) = UnixStream::pair().unwrap();
        send_fds(&a, &[0; 4], &[a.as_fd()]);
        send_fds(&a, &[0; 4], &[a.as_fd()]);
        let error = Inbox::default().receive(b.as_fd()).unwrap_err();
        assert!(matches!(error, ReceiveError::Fault(Fault::ManyDescriptors)), "{error:?}");
    }

    #[test]
    fn the_end_of_the_stream_is_noticed_in_the_middle_of_a_message() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[1, 2, 3]).unwrap();
        drop(a);
        let error = Inbox::default().receive(b.as_fd()).unwrap_err();
        assert!(matches!(error, ReceiveError::Closed), "{error:?}");
    }
}
