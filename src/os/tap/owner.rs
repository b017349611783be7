//! Who owns a netdev's name: one process at a time, for as long as it lives.
//!
//! The kernel lets a second process attach to a multi-queue TAP, and gives it a part of the flows
//! without a word. To look first who is attached leaves a moment in which two processes that start
//! together do not see each other. So an owner holds an abstract Unix socket of the netdev's name
//! first: those names belong to a network namespace, as netdevs do, a name is bound once at a time, and
//! the kernel takes it back from a process that has died, however it died.
//!
//! Any process in the namespace can bind any such name, and it must not keep a daemon out by that. So a
//! holder counts only if it shows itself to be root's or this user's; from another one that really is
//! attached to the TAP, [`Tap::adopt`](super::Tap::adopt) keeps away.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;

use super::{TapError, check_name};

/// How often a holder is asked who it is: it may not listen yet.
const TRIES: u32 = 10;
/// How many may ask at once.
const BACKLOG: i32 = 16;

/// The right to a netdev's name in a network namespace. It ends when this is dropped.
#[derive(Debug)]
pub struct Owner {
    socket: Option<OwnedFd>,
}

impl Owner {
    /// The right that another process has got, and gives to this one by the descriptor.
    ///
    /// # Errors
    /// The descriptor is none of [`into_fd`](Self::into_fd).
    pub fn from_fd(socket: Option<OwnedFd>) -> Result<Self, Errno> {
        if let Some(socket) = &socket {
            // Who asks is told of the process that has called this last.
            listen(socket, BACKLOG)?;
        }
        Ok(Self { socket })
    }

    /// The descriptor by which the right can be given to another process, which has it as long as it
    /// has that; none if there is only somebody who does not count.
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.socket
    }

    /// Becomes the owner of `name` in the calling thread's network namespace. There need not be a
    /// netdev of that name.
    ///
    /// # Errors
    /// [`TapError::Owned`] says which process has it.
    pub fn of(name: &str) -> Result<Self, TapError> {
        check_name(name)?;
        let failed = |doing| move |errno| TapError::Os { name: name.to_owned(), doing, errno };
        let address = SocketAddrUnix::new_abstract_name(format!("boardlane/{name}").as_bytes())
            .map_err(failed("naming a socket"))?;
        let socket = new_socket().map_err(failed("socket"))?;
        match bind(&socket, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => {
                return match holder(&address) {
                    Some(pid) => Err(TapError::Owned { name: name.to_owned(), pid }),
                    None => Ok(Self { socket: None }),
                };
            }
            Err(errno) => return Err(failed("bind")(errno)),
        }
        // Nobody is ever accepted: who connects has learnt all that there is.
        listen(&socket, BACKLOG).map_err(failed("listen"))?;
        Ok(Self { socket: Some(socket) })
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The process that holds the name, if it counts.
fn holder(address: &SocketAddrUnix) -> Option<i32> {
    for _ in 0..TRIES {
        let probe = new_socket().ok()?;
        match connect(&probe, address) {
            Ok(()) => {
                let who = listener_of(&probe)?;
                return (who.uid == 0 || who.uid == geteuid().as_raw()).then_some(who.pid);
            }
            Err(Errno::CONNREFUSED) => std::thread::sleep(Duration::from_millis(2)),
            // Many have asked already: then it has held the TAP for long, which is to be seen.
            Err(_) => return None,
        }
    }
    None
}

/// Who listens at the other end: its process id is 0 if that is not seen from this process's namespace.
fn listener_of(socket: &OwnedFd) -> Option<libc::ucred> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: the kernel writes at most `len` bytes, which is all of `who`, and then `len`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    (status == 0).then_some(who)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(what: &str) -> String {
        format!("{what}{}", std::process::id())
    }

    #[test]
    fn a_name_has_one_owner_until_it_is_dropped() {
        let name = name("one");
        let owner = Owner::of(&name).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let refused = Owner::of(&name).unwrap_err();
        assert_eq!(refused, TapError::Owned { name: name.clone(), pid });
        assert!(refused.to_string().contains(&format!("process {pid} has it")), "{refused}");
        drop(owner);
        Owner::of(&name).unwrap();
    }

    #[test]
    fn one_of_many_that_start_together_is_the_owner() {
        let name = name("many");
        for _ in 0..50 {
            let done: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Owner::of(&name))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(done.iter().filter(|owner| owner.is_ok()).count(), 1, "{done:?}");
        }
    }

    #[test]
    fn a_holder_that_does_not_say_who_it_is_keeps_nobody_out() {
        let name = name("mute");
        let address =
            SocketAddrUnix::new_abstract_name(format!("boardlane/{name}").as_bytes()).unwrap();
        let mute = new_socket().unwrap();
        bind(&mute, &address).unwrap();
        Owner::of(&name).unwrap();
    }
}
