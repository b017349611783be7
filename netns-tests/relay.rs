//! A slot's server that stands between two clients: each has the other's doorbells from it, and what
//! one rings the other hears only if the relay lets it pass.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;

use boardlane::os::poll::ring;
use boardlane::spec::ivshmem::{SHARED_MEMORY, VERSION};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::traffic::Random;

/// Of each client: messages, and one queue pair.
const VECTORS: usize = 2;
const SLOT_LEN: u64 = 16 << 20;

/// Serves two clients, once each; its threads end with the case.
pub(crate) struct Relay {
    lose: Arc<AtomicU8>,
    lost: Arc<[AtomicU64; VECTORS]>,
}

impl Relay {
    /// Serves the slot at this path, and loses nothing yet.
    pub(crate) fn at(path: &Path) -> Self {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        let relay = Self { lose: Arc::default(), lost: Arc::default() };
        let bells = || [(); VECTORS].map(|()| Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()));
        // Where each client listens, and what the other one rings instead.
        let own: [_; 2] = std::array::from_fn(|_| bells());
        let rung: [_; 2] = std::array::from_fn(|_| bells());
        for client in 0..2 {
            for vector in 0..VECTORS {
                let (from, to) = (rung[client][vector].clone(), own[client][vector].clone());
                relay.pass_on(vector, client, from, to);
            }
        }
        thread::spawn(move || serve(&listener, &own, &rung));
        relay
    }

    /// So many rings of a hundred are lost from now on.
    pub(crate) fn lose(&self, percent: u8) {
        self.lose.store(percent, Ordering::Relaxed);
    }

    /// How many were lost so far: for messages, and for queues.
    pub(crate) fn lost(&self) -> [u64; VECTORS] {
        self.lost.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    fn pass_on(&self, vector: usize, client: usize, from: Arc<OwnedFd>, to: Arc<OwnedFd>) {
        let (lose, lost) = (self.lose.clone(), self.lost.clone());
        let mut random = Random(1 + (2 * vector + client) as u64);
        thread::spawn(move || {
            while rustix::io::read(&from, &mut [0; 8]).is_ok() {
                if random.octet() % 100 < lose.load(Ordering::Relaxed) {
                    lost[vector].fetch_add(1, Ordering::Relaxed);
                } else {
                    ring(&*to).unwrap();
                }
            }
        });
    }
}

type Bells = [[Arc<OwnedFd>; VECTORS]; 2];

fn serve(listener: &UnixListener, own: &Bells, rung: &Bells) {
    let memory = memory();
    let mut clients = Vec::new();
    for id in 0..2 {
        let (socket, _) = listener.accept().unwrap();
        let number = i64::try_from(id).unwrap();
        tell(&socket, VERSION, None);
        tell(&socket, number, None);
        tell(&socket, SHARED_MEMORY, Some(memory.as_fd()));
        for (other, before) in clients.iter().enumerate() {
            tell_all(&socket, other, &rung[other]);
            tell_all(before, id, &rung[id]);
        }
        tell_all(&socket, id, &own[id]);
        clients.push(socket);
    }
    // The clients lose their server when the case ends.
    loop {
        thread::park();
    }
}

fn memory() -> OwnedFd {
    let fd = memfd_create("relay", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, SLOT_LEN).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    fd
}

fn tell_all(socket: &UnixStream, id: usize, bells: &[Arc<OwnedFd>]) {
    for bell in bells {
        tell(socket, i64::try_from(id).unwrap(), Some(bell.as_fd()));
    }
}

fn tell(socket: &UnixStream, number: i64, fd: Option<BorrowedFd<'_>>) {
    let octets = number.to_le_bytes();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    sendmsg(socket, &[std::io::IoSlice::new(&octets)], &mut control, SendFlags::empty()).unwrap();
}
