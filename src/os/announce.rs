//! Sends frames of our own by a netdev, as its kernel would.

#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The pauses before each round, in milliseconds. The first frames may come too early for a netdev
/// whose carrier has just been raised, here or at the other end, and any may be lost. A kernel that has
/// asked for an address in vain asks again after a second: traffic goes on as soon as one round arrives.
const ROUNDS_MS: [u64; 7] = [10, 40, 100, 200, 300, 350, 350];

/// How long an announcement takes: what asks for another one meanwhile is served by the last round.
pub const TIME: Duration = Duration::from_millis(1350);

/// An announcement that a thread makes; it ends with this, so that none goes on with what is so no more.
#[derive(Debug)]
pub struct Announcement {
    is_over: Arc<AtomicBool>,
}

impl Announcement {
    /// Has a thread send each frame once a round by the netdev of this index in the socket's network
    /// namespace; `failed` hears that the last round could not be sent.
    ///
    /// # Errors
    /// There is no such index, or no thread.
    pub fn begin(
        socket: Socket,
        index: u32,
        frames: Vec<Vec<u8>>,
        failed: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let to = address(index)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let rounds = move || {
            let mut sent = Ok(());
            for pause_ms in ROUNDS_MS {
                std::thread::sleep(Duration::from_millis(pause_ms));
                if over.load(Ordering::Relaxed) {
                    return;
                }
                sent = frames.iter().try_for_each(|frame| socket.send_to(frame, &to).map(drop));
            }
            if let Err(e) = sent {
                failed(e);
            }
        };
        std::thread::Builder::new().name("bl-announce".to_owned()).spawn(rounds)?;
        Ok(Self { is_over })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// A socket that sends by netdevs of the calling thread's network namespace.
///
/// # Errors
/// It cannot be had, which needs CAP_NET_RAW.
pub fn socket() -> io::Result<Socket> {
    // With protocol 0 the socket receives nothing.
    Socket::new(Domain::PACKET, Type::RAW, None)
}

/// The address of the netdev of this index, for packet sockets.
///
/// # Errors
/// There is no such index.
#[allow(clippy::cast_possible_truncation, reason = "numbers and lengths of a few bytes")]
pub fn address(index: u32) -> io::Result<SockAddr> {
    let index = libc::c_int::try_from(index).map_err(io::Error::other)?;
    // SAFETY: what is written is a sockaddr_ll, for which there is room in the storage, and its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let to = storage.cast::<libc::sockaddr_ll>();
            (*to).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*to).sll_ifindex = index;
            (*to).sll_halen = 6;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}
