//! What a server may tell, and what not.

use rustix::event::{EventfdFlags, eventfd};

use super::*;

const WITH: bool = true;
const BARE: bool = false;

fn message(number: i64, with_fd: bool) -> Message {
    let fd = with_fd.then(|| eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    Message { number, fd }
}

/// A roster with id 3 after these messages, and how the last of them went.
fn after(messages: &[(i64, bool)]) -> (Roster, Result<(), Fault>) {
    let mut roster = Roster::new(3);
    let mut last = Ok(());
    for (at, &(number, with_fd)) in messages.iter().enumerate() {
        assert_eq!(last, Ok(()), "message {} of {messages:?}", at - 1);
        last = roster.take(message(number, with_fd));
    }
    (roster, last)
}

fn counts(roster: &Roster) -> Vec<(u16, usize)> {
    roster.peers.iter().map(|(id, p)| (*id, p.vectors.len())).collect()
}

#[test]
fn the_peers_before_us_say_how_many_vectors_we_have() {
    let (roster, _) = after(&[(0, WITH), (0, WITH), (2, WITH), (2, WITH), (3, WITH)]);
    assert!(!roster.settled);
    let (roster, _) = after(&[(0, WITH), (0, WITH), (2, WITH), (2, WITH), (3, WITH), (3, WITH)]);
    assert!(roster.settled);
    assert_eq!((counts(&roster), roster.events.len()), (vec![(0, 2), (2, 2)], 0));
}

#[test]
fn the_first_clients_vectors_end_where_another_joins() {
    let (roster, _) = after(&[(3, WITH), (3, WITH)]);
    assert!(!roster.settled);
    let (roster, _) = after(&[(3, WITH), (3, WITH), (4, WITH)]);
    assert!(roster.settled && roster.peers.is_empty() && roster.events.is_empty());
    let (roster, _) = after(&[(3, WITH), (3, WITH), (4, WITH), (4, WITH)]);
    assert_eq!((counts(&roster), &roster.events[0]), (vec![(4, 2)], &PeerEvent::Joined(4)));
}

#[test]
fn a_peer_with_fewer_vectors_has_joined_when_something_else_happens() {
    let (mut roster, _) =
        after(&[(3, WITH), (3, WITH), (4, WITH), (5, WITH), (5, WITH), (4, BARE)]);
    assert_eq!(counts(&roster), [(5, 2)]);
    let events: Vec<_> = roster.events.drain(..).collect();
    assert_eq!(events, [PeerEvent::Joined(4), PeerEvent::Joined(5), PeerEvent::Left(4)]);
}

#[test]
fn a_peer_that_leaves_while_it_is_told_of_was_never_there() {
    let (roster, last) = after(&[(3, WITH), (3, WITH), (4, WITH), (4, BARE)]);
    assert_eq!((last, counts(&roster), roster.events.len()), (Ok(()), vec![], 0));
}

#[test]
fn who_leaves_during_the_set_up_is_not_news() {
    let (roster, last) = after(&[(1, WITH), (2, WITH), (1, BARE), (3, WITH)]);
    assert_eq!((last, counts(&roster), roster.events.len()), (Ok(()), vec![(2, 1)], 0));
}

#[test]
fn a_doorbell_that_comes_too_late_is_closed() {
    let (roster, last) = after(&[(1, WITH), (3, WITH), (3, WITH), (3, WITH)]);
    assert_eq!((last, roster.doorbells.len()), (Ok(()), 1));
}

#[test]
fn a_server_that_breaks_the_protocol_is_told_so() {
    let up = [(1, WITH), (3, WITH)];
    let cases: [(&[(i64, bool)], Fault); 7] = [
        (&[(-1, WITH)], Fault::Number(-1)),
        (&[(65536, WITH)], Fault::Number(65536)),
        (&[(i64::MIN, BARE)], Fault::Number(i64::MIN)),
        (&[(7, BARE)], Fault::UnknownPeer(7)),
        (&[(7, WITH), (7, BARE), (7, BARE)], Fault::UnknownPeer(7)),
        (&[(1, BARE), (1, BARE)], Fault::UnknownPeer(1)),
        (&[(3, BARE)], Fault::OwnDeparture),
    ];
    for (tail, fault) in cases {
        let messages: Vec<_> = up.iter().chain(tail).copied().collect();
        assert_eq!(after(&messages).1, Err(fault), "{messages:?}");
    }
}

#[test]
fn what_is_not_an_eventfd_is_no_doorbell() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for fd in [pipe, socket.into(), file.into()] {
        let outcome = Roster::new(3).take(Message { number: 1, fd: Some(fd) });
        assert_eq!(outcome, Err(Fault::NotADoorbell(1)));
    }
}

#[test]
fn peers_and_vectors_are_bounded() {
    let many: Vec<_> = (4..100).map(|id| (id, WITH)).collect();
    let mut roster = Roster::new(3);
    let fault = many.iter().find_map(|&(n, f)| roster.take(message(n, f)).err());
    assert_eq!((fault, roster.peers.len()), (Some(Fault::TooManyPeers), 15));

    for id in [3, 4] {
        let mut roster = Roster::new(3);
        let fault = (0..100).find_map(|_| roster.take(message(id, WITH)).err());
        assert_eq!(fault, Some(Fault::TooManyVectors(u16::try_from(id).unwrap())));
    }
}
