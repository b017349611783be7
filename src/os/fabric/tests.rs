//! Clients and servers over real sockets.

mod hostile;

use std::future::Future;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::backplane::{Backplane, BackplaneConfig, BackplaneError, run};
use super::shm::{PeerEvent, ShmLink};
use super::{FabricError, Fault, MAX_CLIENTS, MemoryFault, memfd, regions, wire};
use crate::os::access::{Access, Owner};

const LIMIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
/// Where the test that is a server for another process finds its directory.
const SERVE_DIR: &str = "BOARDLANE_TEST_SERVE_DIR";

/// A directory that is removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("boardlane-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn config(&self, slots: u16, vectors: u16) -> BackplaneConfig {
        BackplaneConfig {
            dir: self.0.clone(),
            slots,
            slot_len: MIB,
            vectors,
            access: Access::default(),
        }
    }

    fn slot(&self, n: u16) -> PathBuf {
        self.config(1, 1).socket(n)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A backplane on a thread of its own; stopped in the end.
struct Server(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Server {
    fn start(config: &BackplaneConfig) -> Self {
        Self::start_with(config, super::slot::STALL)
    }

    fn start_with(config: &BackplaneConfig, stall: Duration) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let config = config.clone();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let mut backplane = Backplane::open(&config).unwrap();
                for slot in &mut backplane.slots {
                    slot.stall = stall;
                }
                ready.send(()).unwrap();
                backplane.serve(async { drop(stopped.await) }).await;
            });
        });
        is_ready.recv_timeout(LIMIT).unwrap();
        Self(Some((stop, thread)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("did not happen within 10 s")
}

async fn connect(path: &Path) -> ShmLink {
    soon(ShmLink::connect(path)).await.unwrap()
}

async fn next(link: &mut ShmLink) -> PeerEvent {
    soon(link.next()).await.unwrap()
}

/// Waits until the server takes another client: it does not know at once that one has left.
async fn connect_when_free(path: &Path) -> ShmLink {
    soon(async {
        loop {
            match ShmLink::connect(path).await {
                Ok(link) => return link,
                Err(FabricError::Refused { .. } | FabricError::Busy { .. }) => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await
}

fn ring(fd: &Arc<OwnedFd>, times: u64) {
    rustix::io::write(fd, &times.to_ne_bytes()).unwrap();
}

/// What a doorbell counts. Programs never read one; a test may.
fn rung(fd: &Arc<OwnedFd>) -> u64 {
    let mut octets = [0; 8];
    rustix::io::read(fd, &mut octets).map_or(0, |_| u64::from_ne_bytes(octets))
}

/// Reads the next eight octets and the descriptors that come with them, without the client's code.
fn raw(socket: &UnixStream) -> ([u8; 8], Option<OwnedFd>) {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut octets = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = recvmsg(socket, &mut [IoSliceMut::new(&mut octets)], &mut control, RecvFlags::empty());
    assert_eq!(n.unwrap().bytes, 8);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    assert!(fds.len() <= 1, "{} descriptors with one message", fds.len());
    (octets, fds.pop())
}

#[test]
fn a_newcomer_gets_these_octets_in_this_order() {
    const NUMBER_0: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0];
    const NUMBER_1: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];
    const MINUS_1: [u8; 8] = [255, 255, 255, 255, 255, 255, 255, 255];
    let dir = Dir::new();
    let _server = Server::start(&dir.config(1, 2));
    let expect = |socket: &UnixStream, expected: &[([u8; 8], bool)]| -> Vec<Arc<OwnedFd>> {
        let mut fds = Vec::new();
        for (at, &(octets, with_fd)) in expected.iter().enumerate() {
            let (got, fd) = raw(socket);
            assert_eq!((got, fd.is_some()), (octets, with_fd), "message {at}");
            fds.extend(fd.map(Arc::new));
        }
        fds
    };

    let first = UnixStream::connect(dir.slot(0)).unwrap();
    let first_has = expect(
        &first,
        &[
            (NUMBER_0, false), // version
            (NUMBER_0, false), // its id
            (MINUS_1, true),   // the memory
            (NUMBER_0, true),  // its vector 0
            (NUMBER_0, true),  // its vector 1
        ],
    );
    let second = UnixStream::connect(dir.slot(0)).unwrap();
    let second_has = expect(
        &second,
        &[
            (NUMBER_0, false), // version
            (NUMBER_1, false), // its id
            (MINUS_1, true),   // the memory
            (NUMBER_0, true),  // vector 0 of the first client
            (NUMBER_0, true),  // vector 1 of the first client
            (NUMBER_1, true),  // its vector 0
            (NUMBER_1, true),  // its vector 1
        ],
    );
    let of_second = expect(&first, &[(NUMBER_1, true), (NUMBER_1, true)]);

    let inode = |fd: &Arc<OwnedFd>| fstat(fd).map(|s| (s.st_dev, s.st_ino, s.st_size)).unwrap();
    assert_eq!(inode(&first_has[0]), inode(&second_has[0]));
    assert_eq!(inode(&first_has[0]).2, 1 << 20);
    for (there, here, times) in [
        (&second_has[1], &first_has[1], 1),
        (&second_has[2], &first_has[2], 2),
        (&of_second[0], &second_has[3], 3),
        (&of_second[1], &second_has[4], 4),
    ] {
        ring(there, times);
        assert_eq!(rung(here), times);
        assert!(fcntl_getfl(here).unwrap().contains(OFlags::NONBLOCK));
    }
    drop(second);
    expect(&first, &[(NUMBER_1, false)]);
    let third = UnixStream::connect(dir.slot(0)).unwrap();
    assert_eq!([raw(&third).0, raw(&third).0], [NUMBER_0, [2, 0, 0, 0, 0, 0, 0, 0]]);
}

#[tokio::test]
async fn clients_share_memory_and_ring_each_other() {
    let dir = Dir::new();
    let _server = Server::start(&dir.config(2, 4));
    let mut a = connect(&dir.slot(0)).await;
    let b = connect(&dir.slot(0)).await;
    let elsewhere = connect(&dir.slot(1)).await;
    assert_eq!(next(&mut a).await, PeerEvent::Joined(b.slot().id));
    assert_eq!((a.slot().doorbells.len(), b.slot().doorbells.len()), (4, 4));
    assert!(elsewhere.peers().is_empty());

    let (window, driver) = regions(a.slot().len);
    assert_eq!((window.end, driver.clone()), (MIB / 4, MIB / 4..MIB));
    let last = usize::try_from(driver.end).unwrap() - 8;
    a.slot().memory.view(0, last + 8).store_le64(last, 77);
    assert_eq!(b.slot().memory.view(0, last + 8).load_le64(last), 77);
    assert_eq!(elsewhere.slot().memory.view(0, last + 8).load_le64(last), 0);

    for vector in 0..4 {
        ring(&a.peers()[&b.slot().id].vectors[vector], 1 + vector as u64);
        ring(&b.peers()[&a.slot().id].vectors[vector], 11 + vector as u64);
    }
    for vector in 0..4 {
        assert_eq!(rung(&b.slot().doorbells[vector]), 1 + vector as u64);
        assert_eq!(rung(&a.slot().doorbells[vector]), 11 + vector as u64);
    }
}

#[tokio::test]
async fn joins_and_departures_are_told_to_everybody_else() {
    let dir = Dir::new();
    let _server = Server::start(&dir.config(1, 2));
    let mut a = connect(&dir.slot(0)).await;
    let mut b = connect(&dir.slot(0)).await;
    assert_eq!(next(&mut a).await, PeerEvent::Joined(1));
    let c = connect(&dir.slot(0)).await;
    assert_eq!(c.peers().keys().copied().collect::<Vec<_>>(), [0, 1]);
    for link in [&mut a, &mut b] {
        assert_eq!(next(link).await, PeerEvent::Joined(2));
        assert_eq!(link.peers()[&2].vectors.len(), 2);
    }
    drop(c);
    for link in [&mut a, &mut b] {
        assert_eq!(next(link).await, PeerEvent::Left(2));
        assert!(!link.peers().contains_key(&2));
    }
    drop(b);
    assert_eq!(next(&mut a).await, PeerEvent::Left(1));
    assert_eq!(connect(&dir.slot(0)).await.slot().id, 3, "ids are not used again soon");
}

#[tokio::test]
async fn a_slot_takes_so_many_clients_and_then_refuses() {
    let dir = Dir::new();
    let _server = Server::start(&dir.config(1, 1));
    let mut links = Vec::new();
    for _ in 0..MAX_CLIENTS {
        links.push(connect(&dir.slot(0)).await);
    }
    let error = soon(ShmLink::connect(dir.slot(0))).await.unwrap_err();
    assert!(matches!(error, FabricError::Refused { .. }) && error.can_heal(), "{error}");
    links.pop();
    assert_eq!(connect_when_free(&dir.slot(0)).await.peers().len(), MAX_CLIENTS - 1);
}

/// Not a test of its own: the server that another test starts as a process and kills.
#[tokio::test]
async fn serve_for_another_process() {
    let Some(dir) = std::env::var_os(SERVE_DIR) else { return };
    let config = BackplaneConfig {
        dir: dir.into(),
        slots: 1,
        slot_len: MIB,
        vectors: 2,
        access: Access::default(),
    };
    run(&config, std::future::pending()).await.unwrap();
}

/// A backplane in a process of its own.
struct Process(Child);

impl Process {
    fn start(dir: &Dir) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "os::fabric::tests::serve_for_another_process"])
            .env(SERVE_DIR, &dir.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn clients_of_a_killed_server_go_on_and_a_new_one_takes_its_place() {
    let dir = Dir::new();
    let server = Process::start(&dir);
    let mut a = soon(async {
        loop {
            match ShmLink::connect(dir.slot(0)).await {
                Ok(link) => return link,
                Err(FabricError::NoSocket { .. } | FabricError::NobodyListens { .. }) => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let b = connect(&dir.slot(0)).await;
    assert_eq!(next(&mut a).await, PeerEvent::Joined(1));
    let refused = Backplane::open(&dir.config(1, 2)).unwrap_err();
    let pid = server.0.id().to_string();
    assert!(matches!(&refused, BackplaneError::Running { pid: p, .. } if *p == pid), "{refused}");
    server.kill();

    let error = soon(a.next()).await.unwrap_err();
    assert!(matches!(error, FabricError::Closed { .. }) && error.can_heal(), "{error}");
    a.slot().memory.view(0, 8).store_le64(0, 5);
    assert_eq!(b.slot().memory.view(0, 8).load_le64(0), 5);
    ring(&a.peers()[&1].vectors[1], 1);
    assert_eq!(rung(&b.slot().doorbells[1]), 1);

    let error = soon(ShmLink::connect(dir.slot(0))).await.unwrap_err();
    assert!(matches!(error, FabricError::NobodyListens { .. }) && error.can_heal(), "{error}");
    let _server = Server::start(&dir.config(1, 2));
    let again = connect(&dir.slot(0)).await;
    assert_eq!(again.slot().memory.view(0, 8).load_le64(0), 0, "a new server has new memory");
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_stops() {
    let dir = Dir::new();
    let server = Server::start(&dir.config(3, 1));
    let mut link = connect(&dir.slot(2)).await;
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 4);
    drop(server);
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);
    assert!(matches!(soon(link.next()).await, Err(FabricError::Closed { .. })));
    let error = soon(ShmLink::connect(dir.slot(2))).await.unwrap_err();
    assert!(matches!(error, FabricError::NoSocket { .. }) && error.can_heal(), "{error}");
}

#[tokio::test]
async fn leftovers_are_replaced_and_what_is_in_use_is_not() {
    let dir = Dir::new();
    drop(UnixListener::bind(dir.slot(0)).unwrap());
    std::fs::write(dir.0.join(".lock"), "4194304\n").unwrap();
    let server = Server::start(&dir.config(1, 1));
    connect(&dir.slot(0)).await;
    let error = Backplane::open(&dir.config(1, 1)).unwrap_err();
    assert!(matches!(error, BackplaneError::Running { .. }), "{error}");
    connect(&dir.slot(0)).await;
    drop(server);

    let others = UnixListener::bind(dir.slot(1)).unwrap();
    let error = Backplane::open(&dir.config(2, 1)).unwrap_err();
    assert!(matches!(&error, BackplaneError::InUse(p) if *p == dir.slot(1)), "{error}");
    assert!(!dir.slot(0).exists(), "a failed start leaves nothing");
    others.set_nonblocking(true).unwrap();
    UnixStream::connect(dir.slot(1)).unwrap();

    std::fs::remove_file(dir.slot(1)).unwrap();
    std::fs::write(dir.slot(1), "precious").unwrap();
    let error = Backplane::open(&dir.config(2, 1)).unwrap_err();
    assert!(matches!(&error, BackplaneError::NotASocket(p) if *p == dir.slot(1)), "{error}");
    assert_eq!(std::fs::read(dir.slot(1)).unwrap(), b"precious");
}

#[tokio::test]
async fn slots_have_the_mode_and_owner_of_the_configuration_also_after_a_crash() {
    let dir = Dir::new();
    let is_root = rustix::process::geteuid().is_root();
    let owner = if is_root { "65534:65534" } else { "" };
    let owner = Owner::parse(owner).unwrap_or_default();
    let access = Access { mode: 0o660, owner };
    let config = BackplaneConfig { access, ..dir.config(2, 1) };
    let look = |n| {
        let file = std::fs::symlink_metadata(dir.slot(n)).unwrap();
        (file.mode() & 0o7777, file.uid(), file.gid())
    };
    let (uid, gid) = if is_root { (65534, 65534) } else { look_self() };
    for _ in 0..2 {
        let server = Server::start(&config);
        assert_eq!([look(0), look(1)], [(0o660, uid, gid); 2]);
        connect(&dir.slot(1)).await;
        drop(server);
        // What a killed one leaves.
        drop(crate::os::access::listen(&dir.slot(0), &config.access).unwrap());
    }
}

fn look_self() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[tokio::test]
async fn a_configuration_out_of_range_is_refused_before_anything_is_made() {
    let dir = Dir::new();
    let good = dir.config(1, 1);
    for bad in [
        BackplaneConfig { slots: 0, ..good.clone() },
        BackplaneConfig { slots: 257, ..good.clone() },
        BackplaneConfig { vectors: 0, ..good.clone() },
        BackplaneConfig { vectors: 33, ..good.clone() },
        BackplaneConfig { slot_len: 0, ..good.clone() },
        BackplaneConfig { slot_len: MIB / 2, ..good.clone() },
        BackplaneConfig { slot_len: 3 * MIB, ..good.clone() },
        BackplaneConfig { slot_len: 1 << 33, ..good.clone() },
    ] {
        assert!(Backplane::open(&bad).unwrap_err().is_config(), "{bad:?}");
    }
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[tokio::test]
async fn where_no_server_is_the_error_says_why() {
    let dir = Dir::new();
    let path = |name: &str| dir.0.join(name);
    drop(UnixListener::bind(path("stale")).unwrap());
    std::fs::write(path("file"), "").unwrap();
    let _datagram = UnixDatagram::bind(path("datagram")).unwrap();
    let cases = [
        (path("nothing"), "NoSocket"),
        (path("nothing/slot0.sock"), "NoSocket"),
        (path("file/slot0.sock"), "NoSocket"),
        (path("stale"), "NobodyListens"),
        (path("file"), "NotASocket"),
        (dir.0.clone(), "NotASocket"),
        (path("datagram"), "NotASocket"),
        (path(&"x".repeat(120)), "BadPath"),
    ];
    for (path, expected) in cases {
        let error = soon(ShmLink::connect(&path)).await.unwrap_err();
        assert_eq!(format!("{error:?}").split(' ').next(), Some(expected), "{error}");
        assert_eq!(error.can_heal(), expected != "BadPath");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
