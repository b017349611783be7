//! Notice that functions of PCI come, go, or change drivers: the kernel's uevents, as udev hears them.
//!
//! Each is a datagram of texts that zero octets end: `ACTION@DEVPATH`, then `KEY=VALUE` ones, in no
//! promised order. What is passed on is that something changed, not what: whoever wants to know looks
//! again. So an overrun, in which the kernel drops messages, is a change like any other.
//!
//! The kernel is heard in each network namespace that the initial user namespace owns. Elsewhere nothing
//! ever comes, which is an error at once.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrAny, SocketFlags, SocketType, bind, recvfrom, socket_with,
    sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group that the kernel sends to; udev has another for its own.
const KERNELS_GROUP: u32 = 1;
/// The kernel's texts have 2,048 bytes (`UEVENT_BUFFER_SIZE`), and a path stands before them.
const LONGEST: usize = 8 << 10;
/// Bytes that may wait in the socket, where the kernel allows that without a privilege: a bus with many
/// functions that are found at once is many notices.
const WAITING: usize = 1 << 20;
/// Messages that a call takes at most before others have their turn.
const MOST: usize = 64;
/// Of the initial user namespace, all user ids.
const ALL_IDS: [&str; 3] = ["0", "0", "4294967295"];

/// Whether a message says that a function of PCI has come, gone, or changed its driver. Any octets may be
/// given.
pub fn is_of_function(octets: &[u8]) -> bool {
    let mut texts = octets.split(|octet| *octet == 0);
    // udev's own messages, which the group does not have, begin otherwise.
    let is_kernels = texts.next().is_some_and(|text| text.contains(&b'@'));
    let (mut action, mut subsystem) = (None, None);
    for text in texts {
        if let Some(word) = text.strip_prefix(b"ACTION=") {
            action = Some(word);
        } else if let Some(word) = text.strip_prefix(b"SUBSYSTEM=") {
            subsystem = Some(word);
        }
    }
    let actions = [&b"add"[..], b"remove", b"bind", b"unbind"];
    is_kernels && subsystem == Some(b"pci") && action.is_some_and(|word| actions.contains(&word))
}

/// A socket that hears the kernel.
///
/// # Errors
/// There is none to be had, or nothing would come by it.
pub fn socket() -> io::Result<OwnedFd> {
    let ids = std::fs::read_to_string("/proc/self/uid_map")?;
    if !ids.split_whitespace().eq(ALL_IDS) {
        return Err(io::Error::other("the kernel does not tell user namespaces"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(KOBJECT_UEVENT))?;
    // With less, more is lost at once, and looked for.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, WAITING);
    bind(&socket, &SocketAddrNetlink::new(0, KERNELS_GROUP))?;
    Ok(socket)
}

/// What comes by such a socket.
#[derive(Debug)]
pub struct Uevents {
    socket: AsyncFd<OwnedFd>,
}

impl Uevents {
    /// By a [`socket`], made in whatever process; must be called in a tokio runtime, which serves it.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` refers to the same open descriptor for as long as it exists.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self { socket: socket? })
    }

    /// Waits for a change since the last call; pends for ever if the socket has failed. Nothing is lost if
    /// it is dropped early.
    pub async fn changed(&mut self) {
        while let Ok(mut ready) = self.socket.readable().await {
            match take_all(ready.get_inner()) {
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
            drop(ready);
            // Of a bus that is looked through, or of other subsystems, there may be thousands.
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }
}

/// Takes what has come: whether there was a change, and whether there may be more.
fn take_all(socket: &OwnedFd) -> Result<(bool, bool), Errno> {
    let mut octets = [0; LONGEST];
    let mut heard = false;
    for _ in 0..MOST {
        match recvfrom(socket, &mut octets[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, len, from)) => {
                // One that is longer than any is not known.
                let is_of_function = || octets.get(..len).is_none_or(is_of_function);
                heard |= from.is_some_and(is_kernels) && is_of_function();
            }
            Err(Errno::INTR) => {}
            // The kernel has dropped some.
            Err(Errno::NOBUFS) => heard = true,
            Err(Errno::AGAIN) => return Ok((heard, false)),
            Err(e) => return Err(e),
        }
    }
    Ok((heard, true))
}

/// Whether a message is the kernel's, to all: any other sender has a port number, which the kernel gives.
fn is_kernels(from: SocketAddrAny) -> bool {
    SocketAddrNetlink::try_from(from)
        .is_ok_and(|from| from.pid() == 0 && from.groups() & KERNELS_GROUP != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel says as a function comes, with its action written instead of `ADD`.
    const KERNELS: &str = "ADD@/devices/pci0000:00/0000:00:1c.0/0000:03:00.0\0ACTION=ADD\0\
        DEVPATH=/devices/pci0000:00/0000:00:1c.0/0000:03:00.0\0SUBSYSTEM=pci\0PCI_CLASS=50000\0\
        PCI_ID=1AF4:1110\0PCI_SUBSYS_ID=1AF4:1100\0PCI_SLOT_NAME=0000:03:00.0\0\
        MODALIAS=pci:v00001AF4d00001110sv00001AF4sd00001100bc05sc00i00\0SEQNUM=1723\0";

    #[test]
    fn functions_that_come_go_or_change_drivers_are_told() {
        for word in ["add", "remove", "bind", "unbind"] {
            let octets = KERNELS.replace("ADD", word).into_bytes();
            assert!(is_of_function(&octets), "{word}");
            // Without the end of the last text.
            assert!(is_of_function(&octets[..octets.len() - 1]));
        }
        assert!(is_of_function(b"add@/x\0SEQNUM=1\0SUBSYSTEM=pci\0\xff\0ACTION=add"));
    }

    #[test]
    fn what_is_of_others_or_no_message_is_passed_over() {
        let add = KERNELS.replace("ADD", "add");
        for other in [
            "",
            "\0",
            "libudev\0",
            &add.replace("add@", "add "),
            &add.replace("ACTION=add", "ACTION=change"),
            &add.replace("ACTION=add", "ACTION="),
            &add.replace("ACTION=add", ""),
            &add.replace("=pci\0", "=net\0"),
            &add.replace("=pci\0", "=pci_bus\0"),
            "add@/devices/virtual/net/tap0\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=tap0\0",
        ] {
            assert!(!is_of_function(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn nobody_but_the_kernel_is_heard() {
        let kernels = |port, groups| is_kernels(SocketAddrNetlink::new(port, groups).into());
        assert!(kernels(0, 1) && !kernels(7, 1), "a port is a process's");
        assert!(!kernels(0, 0) && !kernels(0, 2), "nor what is sent to one, or to udev's group");
    }

    #[tokio::test]
    async fn other_senders_and_silence_are_no_change() {
        // None of this process's, as a pair of sockets has no kernel at its other end.
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut uevents = Uevents::over(ours.into()).unwrap();
        for _ in 0..2 * MOST {
            theirs.send(KERNELS.replace("ADD", "add").as_bytes()).unwrap();
        }
        let wait = tokio::time::timeout(std::time::Duration::from_millis(50), uevents.changed());
        assert!(wait.await.is_err());
        assert_eq!(take_all(uevents.socket.get_ref()), Ok((false, false)), "all was taken");
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..256)) {
            is_of_function(&octets);
        }

        /// Texts of the right kind, in any order and number, with or without what makes a message.
        #[test]
        fn of_texts_that_are_there_twice_the_last_counts(
            texts in proptest::collection::vec(
                prop_oneof![
                    Just("ACTION=add"), Just("ACTION=move"), Just("SUBSYSTEM=pci"), Just("SUBSYSTEM=usb"),
                    Just("PCI_SLOT_NAME=0000:03:00.0"), Just("="), Just(""), Just("@"),
                ],
                0..8,
            )
        ) {
            let octets = format!("add@/x\0{}\0", texts.join("\0"));
            let last = |key| texts.iter().rfind(|text| text.starts_with(key)).copied();
            let whole = last("ACTION") == Some("ACTION=add") && last("SUBSYSTEM") == Some("SUBSYSTEM=pci");
            prop_assert_eq!(is_of_function(octets.as_bytes()), whole);
        }
    }
}
