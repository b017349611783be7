//! The client of the ivshmem-server protocol against a server that sends what it likes: octets in
//! pieces, and descriptors of all kinds.
//!
//! The client must give up or go on, with no more peers and doorbells than a slot has, and leave no
//! descriptor behind.

use std::time::Duration;

use boardlane::os::fabric::shm::{PeerEvent, ShmLink};
use boardlane::os::fabric::{FabricError, MAX_CLIENTS, MAX_VECTORS, regions};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::octets::Octets;
use super::sockets::{CLIENT_DESCRIPTORS, Dir, Kind, STEPS, descriptors, run_closed, send};

/// Most events of a script: each of its messages may complete one peer and remove another.
const EVENTS: usize = 16 * STEPS;

/// How long the client waits for news.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs a script.
pub fn run(data: &[u8]) {
    let dir = Dir::new("server");
    let path = dir.path().join("slot0.sock");
    run_closed(async {
        let listener = UnixListener::bind(&path).expect("a socket");
        let before = descriptors();
        let mut script = Octets(data);
        let server = async {
            let (socket, _) = listener.accept().await.expect("the client comes");
            let stays = script.u8() & 1 != 0;
            serve(&socket, &mut script).await;
            // It may stay, and say no more.
            stays.then_some(socket)
        };
        let client = async {
            match ShmLink::connect(&path).await {
                Ok(mut link) => follow(&mut link, before).await,
                Err(error) => sane(&error),
            }
        };
        // The server's socket stays until the client is done.
        let _ = tokio::join!(server, client);
    });
}

/// The server's part.
async fn serve(socket: &UnixStream, script: &mut Octets<'_>) {
    for _ in 0..STEPS {
        if script.is_empty() {
            return;
        }
        match script.u8() % 8 {
            // A good start.
            0 => {
                send(socket, &0i64.to_le_bytes(), &[]);
                send(socket, &3i64.to_le_bytes(), &[]);
                send(socket, &(-1i64).to_le_bytes(), &[Kind::Memory(1 << 20).open()]);
            }
            // A number alone.
            1 | 2 => send(socket, &number(script).to_le_bytes(), &[]),
            // A doorbell, or several of them.
            3 => {
                let number = number(script).to_le_bytes();
                for _ in 0..script.choose(&[1, 2, 4, 32, 33]) {
                    send(socket, &number, &[Kind::Doorbell.open()]);
                }
            }
            4 => send(socket, &number(script).to_le_bytes(), &[Kind::of(script).open()]),
            5 => {
                let fds: Vec<_> = (0..script.u8() % 8).map(|_| Kind::of(script).open()).collect();
                let len = script.u8() % 20;
                send(socket, script.take(len.into()), &fds);
            }
            6 => sleep(Duration::from_millis(script.choose(&[1, 200, 300, 6000]))).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

fn number(script: &mut Octets<'_>) -> i64 {
    match script.u8() {
        few @ 0..=0x1f => few.into(),
        0x20..=0x7f => 3,
        0x80..=0x9f => -1,
        0xa0..=0xbf => script.u16().into(),
        0xc0..=0xcf => i64::from(script.u32()),
        _ => i64::from_le_bytes(script.u64().to_le_bytes()),
    }
}

/// The client's part, once it has what a client needs.
async fn follow(link: &mut ShmLink, before: usize) {
    for n in 0.. {
        assert!(n < EVENTS, "events without end");
        check(link);
        match timeout(LIMIT, link.next()).await {
            Err(_) => break,
            Ok(Err(error)) => {
                sane(&error);
                let again = timeout(LIMIT, link.next()).await;
                assert!(matches!(again, Ok(Err(_))), "no more news: {again:?}");
                break;
            }
            Ok(Ok(PeerEvent::Joined(id))) => assert!(link.peers().contains_key(&id)),
            Ok(Ok(PeerEvent::Left(id))) => assert!(!link.peers().contains_key(&id)),
        }
    }
    check(link);
    let open = descriptors() - before;
    assert!(open <= CLIENT_DESCRIPTORS, "{open} descriptors");
    // What the client has is there, whatever became of the server.
    let slot = link.slot();
    let (window, driver) = regions(slot.len);
    assert_eq!((window.end, driver.end), (driver.start, slot.len));
    let last = slot.memory.len() - 8;
    slot.memory.view(0, 8).store_le64(0, 1);
    slot.memory.view(last, 8).store_le64(0, 1);
}

fn check(link: &ShmLink) {
    let vectors = 1..=usize::from(MAX_VECTORS);
    let slot = link.slot();
    assert!(vectors.contains(&slot.doorbells.len()));
    assert!(slot.len.is_power_of_two() && usize::try_from(slot.len) == Ok(slot.memory.len()));
    assert!(link.peers().len() < MAX_CLIENTS && !link.peers().contains_key(&slot.id));
    assert!(link.peers().values().all(|peer| vectors.contains(&peer.vectors.len())));
}

fn sane(error: &FabricError) {
    assert!(error.to_string().len() < 500, "{error}");
}
