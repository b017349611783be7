//! What both ivshmem targets need: a directory, a clock of their own, descriptors of all kinds.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Once;

use boardlane::os::fabric::{MAX_CLIENTS, MAX_VECTORS};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::runtime::Runtime;

use super::octets::Octets;

/// Most steps of a script.
pub(super) const STEPS: usize = 128;
/// Most descriptors that one client of a slot can have, by the numbers of clients and vectors: its
/// connection and memory, and the doorbells, and a few that are on their way.
pub(super) const CLIENT_DESCRIPTORS: usize = MAX_CLIENTS * MAX_VECTORS as usize + 8;

/// The process's directory.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new(of: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("boardlane-fuzz-{of}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for sockets");
        Self(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs on a clock that goes on when there is nothing else to do; what it opened is closed at the end.
pub(super) fn run_closed(what: impl Future<Output = ()>) {
    // The process's first runtime opens what all of them share.
    static SHARED: Once = Once::new();
    SHARED.call_once(|| drop(runtime()));
    let before = descriptors();
    runtime().block_on(what);
    assert_eq!(descriptors(), before, "descriptors before and after");
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().expect("a runtime")
}

/// How many descriptors this process has open.
pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is there").count()
}

/// What may be sent along with octets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Doorbell,
    Memory(u64),
    Unsealed,
    Pipe,
    Socket,
    Directory,
}

impl Kind {
    pub(super) fn of(script: &mut Octets<'_>) -> Self {
        match script.u8() {
            0..=0x7f => Self::Doorbell,
            0x80..=0x9f => Self::Memory(1 << 20),
            0xa0..=0xaf => Self::Memory(1 << (script.u8() % 34)),
            0xb0..=0xbf => Self::Memory(script.u32().into()),
            0xc0..=0xcf => Self::Unsealed,
            0xd0..=0xdf => Self::Pipe,
            0xe0..=0xef => Self::Socket,
            _ => Self::Directory,
        }
    }

    pub(super) fn open(self) -> OwnedFd {
        let file = |len, seals| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = memfd_create("fuzz", flags)?;
            ftruncate(&fd, len)?;
            fcntl_add_seals(&fd, seals)?;
            Ok(fd)
        };
        match self {
            Self::Doorbell => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK),
            Self::Memory(len) => file(len, SealFlags::SHRINK | SealFlags::GROW),
            Self::Unsealed => file(1 << 20, SealFlags::GROW),
            Self::Pipe => rustix::pipe::pipe().map(|(_, write)| write),
            Self::Socket => rustix::net::socketpair(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::CLOEXEC,
                None,
            )
            .map(|(one, _)| one),
            Self::Directory => Ok(std::fs::File::open("/").map(OwnedFd::from).expect("readable")),
        }
        .expect("descriptors to send")
    }
}

/// Sends octets and descriptors, if there is room.
pub(super) fn send(socket: impl AsFd, octets: &[u8], fds: &[OwnedFd]) {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "at most eight");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // The other end may have hung up already.
    let _ = sendmsg(socket, &[IoSlice::new(octets)], &mut control, flags);
}
