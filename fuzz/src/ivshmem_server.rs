//! The server of the ivshmem protocol against clients that come, go, talk, and take nothing.
//!
//! A client that was there before must be served all the time, and see whole peers only; one that comes
//! afterwards must meet it. No descriptor stays behind.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use boardlane::os::access::Access;
use boardlane::os::fabric::backplane::{Backplane, BackplaneConfig};
use boardlane::os::fabric::shm::{PeerEvent, ShmLink};
use boardlane::os::fabric::{FabricError, MAX_CLIENTS, MAX_VECTORS};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, Shutdown, recvmsg, shutdown};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::octets::Octets;
use super::sockets::{Dir, Kind, STEPS, descriptors, run_closed, send};

/// Most clients of a script at a time: more than a slot takes.
const CLIENTS: usize = MAX_CLIENTS + 8;

/// Runs a script.
pub fn run(data: &[u8]) {
    let dir = Dir::new("clients");
    run_closed(async {
        let mut script = Octets(data);
        // Many take long: each client is sent those of all.
        let vectors = script.choose(&[1, 2, 3, 4, 5, 6, 7, MAX_VECTORS]);
        let (dir, access) = (dir.path().to_owned(), Access::default());
        let config = BackplaneConfig { dir, slots: 1, slot_len: 1 << 20, vectors, access };
        let (stop, stopped) = oneshot::channel::<()>();
        let backplane = Backplane::open(&config).expect("nobody else has the directory");
        let server = tokio::spawn(backplane.serve(async { drop(stopped.await) }));
        play(&config.socket(0), vectors.into(), &mut script).await;
        drop(stop);
        server.await.expect("the server ends when it is told to");
    });
}

async fn play(path: &Path, vectors: usize, script: &mut Octets<'_>) {
    let before = descriptors();
    let mut honest = ShmLink::connect(path).await.expect("the first client");
    let mut clients: Vec<UnixStream> = Vec::new();
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        let which = usize::from(script.u8()) % clients.len().max(1);
        let client = clients.get(which);
        match (script.u8() % 8, client) {
            (0 | 1, _) if clients.len() < CLIENTS => {
                clients.push(UnixStream::connect(path).expect("a server listens"));
            }
            (2, Some(client)) => {
                let fds: Vec<_> = (0..script.u8() % 4).map(|_| Kind::of(script).open()).collect();
                let len = script.u8();
                send(client, script.take(len.into()), &fds);
            }
            (3, Some(client)) => {
                let how = script.choose(&[Shutdown::Read, Shutdown::Write, Shutdown::Both]);
                let _ = shutdown(client, how);
            }
            (4, Some(_)) => drop(clients.swap_remove(which)),
            (5, Some(client)) => take(client, script.u8().into()),
            (6, _) => serve(&mut honest, vectors, script.choose(&[1, 100, 1000, 11_000])).await,
            _ => serve(&mut honest, vectors, 0).await,
        }
    }
    // A server has 16 clients at most, and each its connection and doorbells.
    let open = descriptors() - before - clients.len();
    assert!(open <= 2 * MAX_CLIENTS * (vectors + 1), "{open} descriptors");
    drop(clients);
    let mut last = late(path, &mut honest, vectors).await;
    serve(&mut honest, vectors, 1000).await;
    serve(&mut last, vectors, 1000).await;
    let [one, other] = [honest.slot(), last.slot()];
    assert!(honest.peers().keys().eq([&other.id]) && last.peers().keys().eq([&one.id]));
    // They share memory, and a ring arrives.
    one.memory.view(64, 8).store_le64(0, 0x1122_3344);
    assert_eq!(other.memory.view(64, 8).load_le64(0), 0x1122_3344);
    rustix::io::write(&last.peers()[&one.id].vectors[vectors - 1], &1u64.to_ne_bytes())
        .expect("a doorbell");
    let mut octets = [0; 8];
    rustix::io::read(&one.doorbells[vectors - 1], &mut octets).expect("rung");
    assert_eq!(u64::from_ne_bytes(octets), 1);
}

/// Lets time pass, in which the client follows what its server says.
async fn serve(honest: &mut ShmLink, vectors: usize, time_ms: u64) {
    let follow = async {
        loop {
            match honest.next().await {
                Ok(PeerEvent::Joined(id)) => {
                    assert_eq!(honest.peers()[&id].vectors.len(), vectors, "a whole peer");
                }
                Ok(PeerEvent::Left(id)) => assert!(!honest.peers().contains_key(&id)),
                Err(error) => panic!("a client that keeps to the rules is served: {error}"),
            }
            assert!(honest.peers().len() < MAX_CLIENTS);
        }
    };
    let _: Result<(), _> = timeout(Duration::from_millis(time_ms), follow).await;
}

/// Reads up to `len` octets, and closes what comes with them.
fn take(client: &UnixStream, len: usize) {
    let (mut octets, mut space) = (vec![0; len], [std::mem::MaybeUninit::uninit(); 256]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [std::io::IoSliceMut::new(&mut octets)];
    let _ = recvmsg(client, &mut into, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC);
}

/// A client that comes when the others have gone: the server may not know yet that they have.
async fn late(path: &Path, honest: &mut ShmLink, vectors: usize) -> ShmLink {
    for _ in 0..100 {
        serve(honest, vectors, 100).await;
        match ShmLink::connect(path).await {
            Ok(link) if link.slot().doorbells.len() == vectors => return link,
            Ok(link) => panic!("{} doorbells", link.slot().doorbells.len()),
            Err(FabricError::Refused { .. } | FabricError::Busy { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no place within ten seconds");
}
