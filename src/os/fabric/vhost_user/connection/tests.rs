use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Std;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use tokio::time::timeout;

use super::*;

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Octets of a message.
fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    let mut octets = [request, 1, size].map(u32::to_ne_bytes).concat();
    octets.extend_from_slice(payload);
    octets
}

/// A peer as bare socket, and our end.
fn pair() -> (Std, Connection) {
    let (theirs, ours) = Std::pair().unwrap();
    (theirs, Connection::over(ours.into()).unwrap())
}

fn send_fds(socket: &Std, octets: &[u8], count: usize) {
    let null = File::open("/dev/null").unwrap();
    let list = vec![null.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&list)));
    let sent = sendmsg(socket, &[IoSlice::new(octets)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, octets.len());
}

async fn soon(connection: &mut Connection) -> Result<Received, ConnectionError> {
    timeout(Duration::from_secs(10), connection.next()).await.expect("within ten seconds")
}

async fn nothing_yet(connection: &mut Connection) {
    let early = timeout(Duration::from_millis(20), connection.next()).await;
    assert!(early.is_err(), "{early:?}");
}

#[test]
fn messages_come_one_by_one_with_their_descriptors() {
    in_a_runtime(async {
        let (theirs, mut ours) = pair();
        for (request, len, fds) in [(1, 0, 0), (2, 8, 1), (5, 264, 8), (9, MAX_PAYLOAD, MAX_FDS)] {
            send_fds(&theirs, &message(request, &vec![0x17; len]), fds);
        }
        for (request, len, fds) in [(1, 0, 0), (2, 8, 1), (5, 264, 8), (9, MAX_PAYLOAD, MAX_FDS)] {
            let received = soon(&mut ours).await.unwrap();
            let whole = [&received.header[..], &received.payload].concat();
            assert_eq!(whole, message(request, &vec![0x17; len]));
            assert_eq!(received.fds.len(), fds);
            for fd in received.fds {
                let flags = rustix::io::fcntl_getfd(&fd).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
        nothing_yet(&mut ours).await;
        drop(theirs);
        assert!(matches!(soon(&mut ours).await, Err(ConnectionError::Closed)));
        assert!(matches!(soon(&mut ours).await, Err(ConnectionError::Closed)));
    });
}

#[test]
fn a_message_in_pieces_waits_for_its_rest_and_nothing_is_lost() {
    in_a_runtime(async {
        let (mut theirs, mut ours) = pair();
        let octets = message(0x0403_0201, &[1, 2, 3, 4, 5, 6, 7, 8]);
        send_fds(&theirs, &octets[..1], 2);
        nothing_yet(&mut ours).await;
        for piece in octets[1..].chunks(5) {
            theirs.write_all(piece).unwrap();
            if piece.len() == 5 {
                nothing_yet(&mut ours).await;
            }
        }
        theirs.write_all(&message(7, &[])).unwrap();
        let received = soon(&mut ours).await.unwrap();
        assert_eq!((&received.payload[..], received.fds.len()), (&octets[12..], 2));
        let received = soon(&mut ours).await.unwrap();
        assert_eq!((received.header[0], received.fds.len()), (7, 0));
    });
}

#[test]
fn a_payload_that_is_too_long_is_refused_by_its_header() {
    in_a_runtime(async {
        for size in [4097, 1 << 20, u32::MAX] {
            let (mut theirs, mut ours) = pair();
            theirs.write_all(&[11, 1, size].map(u32::to_ne_bytes).concat()).unwrap();
            let error = soon(&mut ours).await.unwrap_err();
            assert!(
                matches!(error, ConnectionError::TooLong { request: 11, size: s } if s == size)
            );
            let text = format!("request 11 says that its payload has {size} bytes");
            assert!(error.to_string().starts_with(&text), "{error}");
            assert!(matches!(ours.send(&message(1, &[]), &[]), Err(ConnectionError::Closed)));
        }
    });
}

#[test]
fn descriptors_that_are_too_many_or_late_are_refused_and_closed() {
    in_a_runtime(async {
        for count in [MAX_FDS + 1, MAX_FDS + 2, 64] {
            let (theirs, mut ours) = pair();
            send_fds(&theirs, &message(5, &[]), count);
            let error = soon(&mut ours).await.unwrap_err();
            assert!(matches!(error, ConnectionError::LostDescriptors), "{count}: {error:?}");
        }
        for cut in [1, 11, HEADER_LEN, HEADER_LEN + 1] {
            let (mut theirs, mut ours) = pair();
            let octets = message(5, &[0; 8]);
            theirs.write_all(&octets[..cut]).unwrap();
            // A beginning that has come is read at once.
            nothing_yet(&mut ours).await;
            send_fds(&theirs, &octets[cut..], 1);
            let error = soon(&mut ours).await.unwrap_err();
            assert!(matches!(error, ConnectionError::LateDescriptors), "{cut}: {error:?}");
        }
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..100 {
            let (theirs, mut ours) = pair();
            send_fds(&theirs, &message(5, &[]), MAX_FDS + 1);
            soon(&mut ours).await.unwrap_err();
        }
        // Other tests of this process have theirs, but not thousands.
        assert!(open() < before + 1000, "{before} before, {} now", open());
    });
}

#[test]
fn an_end_within_a_message_is_not_an_end_between_two() {
    in_a_runtime(async {
        for (cut, whole) in [(0, true), (1, false), (11, false), (12, false), (19, false)] {
            let (mut theirs, mut ours) = pair();
            theirs.write_all(&message(5, &[0; 8])[..cut]).unwrap();
            drop(theirs);
            let error = soon(&mut ours).await.unwrap_err();
            assert_eq!(matches!(error, ConnectionError::Closed), whole, "{error:?}");
            assert!(whole || matches!(error, ConnectionError::CutOff { have } if have == cut));
        }
    });
}

#[test]
fn what_is_sent_arrives_in_order_with_its_descriptors() {
    in_a_runtime(async {
        let (theirs, ours) = Std::pair().unwrap();
        let [mut theirs, mut ours] =
            [theirs, ours].map(|socket| Connection::over(socket.into()).unwrap());
        let null = File::open("/dev/null").unwrap();
        // A socket's buffer takes little at a time, so most of it waits.
        rustix::net::sockopt::set_socket_send_buffer_size(&ours.stream, 4096).unwrap();
        for request in 0..60 {
            let fds = vec![null.as_fd(); usize::try_from(request % 3).unwrap()];
            ours.send(&message(request, &[0x2b; 3000]), &fds).unwrap();
        }
        assert!(ours.has_unsent());
        let read = async {
            for request in 0..60 {
                let received = soon(&mut theirs).await.unwrap();
                let whole = [&received.header[..], &received.payload].concat();
                assert_eq!(whole, message(request, &[0x2b; 3000]));
                assert_eq!(received.fds.len(), usize::try_from(request % 3).unwrap());
            }
            theirs.send(&message(99, &[]), &[]).unwrap();
        };
        // It is sent by whoever waits for the next message.
        let (received, ()) = tokio::join!(soon(&mut ours), read);
        assert_eq!(received.unwrap().header[0], 99);
        assert!(!ours.has_unsent());
        ours.flush().await.unwrap();
    });
}

#[test]
fn flushing_sends_what_waits() {
    in_a_runtime(async {
        let (mut theirs, mut ours) = pair();
        let octets = message(3, &[0x3c; MAX_PAYLOAD]);
        let mut sent = 0;
        while !ours.has_unsent() {
            ours.send(&octets, &[]).unwrap();
            sent += 1;
        }
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; sent * octets.len()];
            theirs.read_exact(&mut all).unwrap();
            assert!(all.chunks(octets.len()).all(|message| message == octets));
        });
        timeout(Duration::from_secs(10), ours.flush()).await.expect("in time").unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn who_reads_nothing_is_given_up() {
    in_a_runtime(async {
        let (_theirs, mut ours) = pair();
        let octets = message(3, &[0; MAX_PAYLOAD]);
        let null = File::open("/dev/null").unwrap();
        let mut sent = 0;
        let error = loop {
            match ours.send(&octets, &[null.as_fd()]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 10_000, "there is no end to it");
        };
        assert!(matches!(error, ConnectionError::Unread), "{error:?}");
        assert_eq!(ours.outbox.0.len(), MAX_WAITING);
        assert!(matches!(ours.flush().await, Err(ConnectionError::Closed)));
    });
}

#[test]
fn sending_to_who_is_gone_is_an_error_and_no_signal() {
    in_a_runtime(async {
        let (theirs, mut ours) = pair();
        drop(theirs);
        assert!(matches!(ours.send(&message(1, &[]), &[]), Err(ConnectionError::Closed)));
    });
}

#[test]
fn a_second_connection_waits_until_it_is_accepted() {
    in_a_runtime(async {
        let path = std::env::temp_dir().join(format!("bl-vhost-user-{}", std::process::id()));
        let socket = crate::os::access::listen(&path, &Default::default()).unwrap();
        let listener = Listener::over(socket.into()).unwrap();
        let mut first = Std::connect(&path).unwrap();
        let mut second = Std::connect(&path).unwrap();
        first.write_all(&message(1, &[])).unwrap();
        second.write_all(&message(2, &[])).unwrap();
        let mut connection = listener.accept().await.unwrap();
        assert_eq!(soon(&mut connection).await.unwrap().header[0], 1);
        drop(connection);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        let mut connection = listener.accept().await.unwrap();
        assert_eq!(soon(&mut connection).await.unwrap().header[0], 2);
        std::fs::remove_file(path).unwrap();
    });
}

#[test]
fn whatever_octets_come_the_connection_ends_or_waits() {
    let octets = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        // Short payloads mostly.
        proptest::collection::vec((any::<u32>(), 0..40_u32), 0..8).prop_map(|messages| {
            let octets =
                messages.iter().map(|(request, size)| message(*request, &vec![1; *size as usize]));
            octets.collect::<Vec<_>>().concat()
        }),
    ];
    let mut runner = TestRunner::new(Runs { failure_persistence: None, ..Runs::default() });
    let run = runner.run(&(octets, 1..50_usize), |(octets, piece)| {
        in_a_runtime(async {
            let (theirs, mut ours) = pair();
            for (n, piece) in octets.chunks(piece).enumerate() {
                send_fds(&theirs, piece, usize::from(n % 5 == 4));
            }
            drop(theirs);
            let mut read = 0;
            loop {
                match soon(&mut ours).await {
                    Ok(received) => read += HEADER_LEN + received.payload.len(),
                    Err(ConnectionError::Closed) => break assert_eq!(read, octets.len()),
                    Err(ConnectionError::Os(error)) => panic!("{error}"),
                    Err(_) => break assert!(read < octets.len()),
                }
            }
        });
        Ok(())
    });
    run.unwrap();
}

#[test]
fn however_a_stream_is_cut_each_message_has_its_octets_and_its_descriptors() {
    let messages = proptest::collection::vec((any::<u32>(), 0..400_usize, 0..4_usize), 1..12);
    // A message of single octets would fill the socket, which nobody reads meanwhile.
    let cuts = proptest::collection::vec(2..60_usize, 1..20);
    TestRunner::new(Runs { cases: 200, failure_persistence: None, ..Runs::default() })
        .run(&(messages, cuts), |(messages, cuts)| {
            in_a_runtime(async {
                let (theirs, mut ours) = pair();
                let mut cuts = cuts.into_iter().cycle();
                for (request, len, fds) in messages {
                    let octets = message(request, &vec![request.to_ne_bytes()[0]; len]);
                    let (mut rest, mut fds_left) = (&octets[..], fds);
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                        send_fds(&theirs, now, std::mem::take(&mut fds_left));
                        rest = later;
                        // Sometimes it is looked for before it is whole.
                        if now.len() % 7 == 0 && !rest.is_empty() {
                            let early = timeout(Duration::ZERO, ours.next()).await;
                            prop_assert!(early.is_err(), "{early:?}");
                        }
                    }
                    let received = soon(&mut ours).await.unwrap();
                    prop_assert_eq!([&received.header[..], &received.payload].concat(), octets);
                    prop_assert_eq!(received.fds.len(), fds);
                }
                Ok(())
            })
        })
        .unwrap();
}
