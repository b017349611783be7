//! Clients and servers that do not behave: the others go on.

use super::*;

/// Two well-behaved clients meet and part, with all that belongs to it.
async fn two_clients_meet(path: &Path, vectors: usize) {
    let mut a = connect_when_free(path).await;
    let b = connect_when_free(path).await;
    let id = b.slot().id;
    while next(&mut a).await != PeerEvent::Joined(id) {}
    assert_eq!(a.peers()[&id].vectors.len(), vectors);
    ring(&a.peers()[&id].vectors[vectors - 1], 9);
    assert_eq!(rung(&b.slot().doorbells[vectors - 1]), 9);
    drop(b);
    while next(&mut a).await != PeerEvent::Left(id) {}
}

#[tokio::test]
async fn a_client_that_talks_is_dismissed() {
    let dir = Dir::new();
    let _server = Server::start(&dir.config(1, 1));
    let mut honest = connect(&dir.slot(0)).await;
    let mut talker = UnixStream::connect(dir.slot(0)).unwrap();
    assert_eq!(next(&mut honest).await, PeerEvent::Joined(1));
    talker.write_all(&[0; 8]).unwrap();
    assert_eq!(next(&mut honest).await, PeerEvent::Left(1));
    talker.set_read_timeout(Some(LIMIT)).unwrap();
    let mut rest = Vec::new();
    match talker.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
    }
    let half = UnixStream::connect(dir.slot(0)).unwrap();
    assert_eq!(next(&mut honest).await, PeerEvent::Joined(2));
    shutdown(&half, Shutdown::Write).unwrap();
    assert_eq!(next(&mut honest).await, PeerEvent::Left(2));
    two_clients_meet(&dir.slot(0), 1).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dismissed_and_holds_up_nobody() {
    let dir = Dir::new();
    let _server = Server::start_with(&dir.config(1, 32), Duration::from_millis(300));
    let _mute = UnixStream::connect(dir.slot(0)).unwrap();
    let mut honest = connect(&dir.slot(0)).await;
    assert!(honest.peers().contains_key(&0));
    soon(async {
        loop {
            let guest = connect(&dir.slot(0)).await;
            drop(guest);
            while let Ok(event) = timeout(Duration::from_millis(1), honest.next()).await {
                match event.unwrap() {
                    PeerEvent::Left(0) => return,
                    PeerEvent::Joined(id) => assert_eq!(honest.peers()[&id].vectors.len(), 32),
                    PeerEvent::Left(_) => {}
                }
            }
        }
    })
    .await;
    two_clients_meet(&dir.slot(0), 32).await;
}

#[tokio::test]
async fn a_flood_of_connections_holds_up_nobody() {
    let dir = Dir::new();
    let _server = Server::start(&dir.config(2, 4));
    let mut honest = connect(&dir.slot(0)).await;
    let stop = Arc::new(AtomicU32::new(0));
    let flood: Vec<_> = (0..2)
        .map(|_| {
            let (path, stop) = (dir.slot(0), Arc::clone(&stop));
            thread::spawn(move || {
                let mut held = std::collections::VecDeque::new();
                let mut count = 0;
                while stop.load(Ordering::Relaxed) == 0 {
                    if let Ok(mut socket) = UnixStream::connect(&path) {
                        let _ = socket.write_all(b"garbage");
                        held.push_back(socket);
                        count += 1;
                    }
                    if held.len() > 4 {
                        held.pop_front();
                    }
                }
                count
            })
        })
        .collect();
    two_clients_meet(&dir.slot(1), 4).await;
    two_clients_meet(&dir.slot(0), 4).await;
    stop.store(1, Ordering::Relaxed);
    let count: u32 = flood.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(count > 32, "{count} connections are no flood");
    let last = connect_when_free(&dir.slot(0)).await;
    while next(&mut honest).await != PeerEvent::Joined(last.slot().id) {}
}

/// What a bad server sends with a number.
#[derive(Clone, Copy, Debug)]
enum With {
    Nothing,
    Memory(u64),
    Doorbell,
    Pipe,
    Socket,
    File,
    Zero,
    Epoll,
}

/// Connects to a server that sends these messages and then waits, or closes at once. Also checks
/// that no descriptor stays behind if the connection fails.
async fn connect_to(script: &[(i64, With)], closes: bool) -> Result<ShmLink, FabricError> {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.slot(0)).unwrap();
    let (pipe_out, pipe_in) = rustix::pipe::pipe().unwrap();
    let script = script.to_vec();
    let server = thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        for (number, with) in script {
            let fd = match with {
                With::Nothing => None,
                With::Memory(len) if len == MIB => Some(memfd::create("test", len).unwrap()),
                With::Memory(len) => {
                    let flags = rustix::fs::MemfdFlags::CLOEXEC;
                    let fd = rustix::fs::memfd_create("test", flags).unwrap();
                    rustix::fs::ftruncate(&fd, len).unwrap();
                    Some(fd)
                }
                With::Doorbell => {
                    let flags = rustix::event::EventfdFlags::CLOEXEC;
                    Some(rustix::event::eventfd(0, flags).unwrap())
                }
                With::Pipe => Some(pipe_in.try_clone().unwrap()),
                With::Socket => Some(UnixStream::pair().unwrap().0.into()),
                With::File => Some(std::fs::File::open("/proc/self/status").unwrap().into()),
                With::Zero => {
                    let file = std::fs::File::options().read(true).write(true).open("/dev/zero");
                    Some(file.unwrap().into())
                }
                With::Epoll => {
                    let flags = rustix::event::epoll::CreateFlags::CLOEXEC;
                    Some(rustix::event::epoll::create(flags).unwrap())
                }
            };
            // The client may have hung up already.
            let _ = wire::send(socket.as_fd(), number, fd.as_ref().map(AsFd::as_fd));
        }
        drop(pipe_in);
        if !closes {
            let _ = socket.read(&mut [0; 1]);
        }
    });
    let outcome = soon(ShmLink::connect_within(&dir.slot(0), Duration::from_secs(1))).await;
    if outcome.is_err() {
        server.join().unwrap();
        let end = std::fs::File::from(pipe_out).read(&mut [0; 1]);
        assert_eq!(end.unwrap(), 0, "the last writer of the pipe is gone");
    }
    outcome
}

#[tokio::test]
async fn a_bad_server_is_told_apart() {
    use With::{Doorbell, File, Memory, Nothing, Pipe, Socket, Zero};
    let protocol = |fault| format!("Protocol {fault:?}");
    let memory = |fault: MemoryFault| format!("Memory {fault:?}");
    let start = [(0, Nothing), (3, Nothing), (-1, Memory(MIB))];
    let after = |tail: &[(i64, With)]| start.iter().chain(tail).copied().collect::<Vec<_>>();
    let cases = [
        (vec![], true, "Refused".to_owned()),
        (vec![], false, "Silent".to_owned()),
        (vec![(1, Nothing)], false, protocol(Fault::Version(1))),
        (vec![(0x006f_6c6c_6568, Nothing)], false, protocol(Fault::Version(0x006f_6c6c_6568))),
        (vec![(0, Pipe)], false, protocol(Fault::UnexpectedDescriptor(0))),
        (vec![(0, Nothing)], true, "Refused".to_owned()),
        (vec![(0, Nothing), (65536, Nothing)], false, protocol(Fault::Number(65536))),
        (vec![(0, Nothing), (-2, Nothing)], false, protocol(Fault::Number(-2))),
        (vec![(0, Nothing), (3, Pipe)], false, protocol(Fault::UnexpectedDescriptor(3))),
        (vec![start[0], start[1], (-1, Nothing)], false, protocol(Fault::NoDescriptor(-1))),
        (vec![start[0], start[1], (3, Doorbell)], false, protocol(Fault::Number(3))),
        (vec![start[0], start[1], (-1, Pipe)], false, memory(MemoryFault::NotSealed)),
        (vec![start[0], start[1], (-1, Memory(2 * MIB))], false, memory(MemoryFault::NotSealed)),
        (after(&[]), false, "Silent".to_owned()),
        (after(&[]), true, "Refused".to_owned()),
        (after(&[(1, Doorbell)]), false, "Silent".to_owned()),
        (after(&[(3, Pipe)]), false, protocol(Fault::NotADoorbell(3))),
        (after(&[(1, Pipe)]), false, protocol(Fault::NotADoorbell(1))),
        (after(&[(1, Socket)]), false, protocol(Fault::NotADoorbell(1))),
        (after(&[(1, File)]), false, protocol(Fault::NotADoorbell(1))),
        (after(&[(1, Zero)]), false, protocol(Fault::NotADoorbell(1))),
        (after(&[(1, Nothing)]), false, protocol(Fault::UnknownPeer(1))),
        (after(&[(3, Nothing)]), false, protocol(Fault::OwnDeparture)),
        (after(&[(-1, Memory(MIB))]), false, protocol(Fault::Number(-1))),
        (after(&[(3, Doorbell); 33]), false, protocol(Fault::TooManyVectors(3))),
    ];
    for (script, closes, expected) in cases {
        let error = connect_to(&script, closes).await.unwrap_err();
        let got = match &error {
            FabricError::Refused { .. } => "Refused".to_owned(),
            FabricError::Silent { .. } => "Silent".to_owned(),
            FabricError::Protocol { fault, .. } => protocol(*fault),
            FabricError::Memory { fault, .. } => memory(*fault),
            other => format!("{other:?}"),
        };
        assert_eq!(got, expected, "{script:?}");
        assert!(error.can_heal(), "another server may serve the path later");
    }
}

#[tokio::test]
async fn a_server_that_turns_bad_later_loses_its_client_but_not_the_memory() {
    use With::{Doorbell, Memory, Nothing};
    let script = [
        (0, Nothing),
        (3, Nothing),
        (-1, Memory(MIB)),
        (1, Doorbell),
        (3, Doorbell),
        (4, Doorbell),
        (9, Nothing),
        (4, Nothing),
    ];
    let mut link = connect_to(&script, false).await.unwrap();
    assert_eq!(next(&mut link).await, PeerEvent::Joined(4));
    let error = soon(link.next()).await.unwrap_err();
    assert!(matches!(error, FabricError::Protocol { fault: Fault::UnknownPeer(9), .. }), "{error}");
    // Also while that server says no more, or goes on as if nothing had been.
    let error = soon(link.next()).await.unwrap_err();
    assert!(matches!(error, FabricError::Closed { .. }), "{error}");
    link.slot().memory.view(0, 8).store_le64(0, 1);
    ring(&link.peers()[&1].vectors[0], 1);
}

#[tokio::test]
async fn vectors_of_the_first_client_and_of_a_lesser_peer_end_with_a_pause() {
    use With::{Doorbell, Memory, Nothing};
    let mut script = vec![(0, Nothing), (3, Nothing), (-1, Memory(MIB))];
    script.extend([(3, Doorbell); 3]);
    let link = connect_to(&script, false).await.unwrap();
    assert_eq!(link.slot().doorbells.len(), 3);

    script.push((4, Doorbell));
    let mut link = connect_to(&script, false).await.unwrap();
    assert_eq!(link.slot().doorbells.len(), 3);
    assert!(link.peers().is_empty());
    // A wait that is given up loses nothing.
    let _ = timeout(Duration::from_millis(1), link.next()).await;
    assert_eq!(next(&mut link).await, PeerEvent::Joined(4));
    assert_eq!(link.peers()[&4].vectors.len(), 1);
}

#[tokio::test]
async fn a_descriptor_that_only_looks_like_a_doorbell_is_none() {
    use With::{Epoll, Memory, Nothing};
    let script = [(0, Nothing), (3, Nothing), (-1, Memory(MIB)), (1, Epoll), (3, Epoll)];
    match connect_to(&script, false).await {
        Err(FabricError::Protocol { fault: Fault::NotADoorbell(1), .. }) => {}
        other => panic!("{other:?}"),
    }
}
