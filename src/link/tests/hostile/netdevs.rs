//! `EVENT_LINK` to and from an end that is driven by hand.

use super::*;
use crate::link::netdev_state::PACE;
use crate::tunnel::message::{Message, NetdevState};

const STATE: NetdevState = NetdevState { mtu: 1400, up: true, mac: [2, 0, 0, 0, 0, 1] };

fn octets(body: Body) -> Vec<u8> {
    let mut out = [0; msg::MAX_LEN];
    let message = Message { dev_num: 0, token: 7, body };
    let len = message::encode(Dialect::default(), &message, &mut out);
    out[..len].to_vec()
}

impl Pair {
    /// A pair whose other end has said HELLO.
    fn greeted(role: Role) -> Self {
        let mut pair = Self::new(role, Features::NONE);
        let theirs = hello(&pair);
        let mut said = None;
        if role == Role::Device {
            assert!(pair.send(&octets(Body::Hello(theirs))));
        } else {
            while let Some(slot) = pair.take() {
                said = Some(message::decode(Dialect::default(), &slot).unwrap());
            }
            let Message { token, body, .. } = said.unwrap();
            assert!(matches!(body, Body::Hello(_)));
            let mut answer = octets(Body::HelloBack(theirs));
            answer[4..6].copy_from_slice(&token.to_le_bytes());
            assert!(pair.send(&answer));
        }
        pair.pass(MS);
        assert!(pair.events.iter().any(|e| matches!(e, Event::Peer(_))));
        pair
    }

    fn set(&mut self, own: NetdevState) {
        let now = self.now;
        self.input(|link| link.handle_netdev(now, own));
    }

    /// The states among the messages that wait for the other end.
    fn states_sent(&mut self) -> Vec<NetdevState> {
        let messages = std::iter::from_fn(|| self.take());
        let decoded = messages.map(|slot| message::decode(Dialect::default(), &slot).unwrap());
        let states = decoded.filter_map(|m| match m.body {
            Body::EventLink(state) => Some(state),
            _ => None,
        });
        states.collect()
    }

    fn told(&self) -> Vec<PeerLink> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::PeerLink(peer) => Some(*peer),
            _ => None,
        });
        told.collect()
    }
}

#[test]
fn nothing_is_told_and_nothing_heard_before_hello() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::new(role, Features::NONE);
        pair.set(STATE);
        assert!(pair.send(&octets(Body::EventLink(STATE))));
        pair.pass(MS);
        assert!(pair.states_sent().is_empty() && pair.told().is_empty(), "{role:?}");
        assert_eq!(pair.last_state(), State::Negotiating);
    }
}

#[test]
fn an_end_that_says_hello_again_is_told_again() {
    let mut pair = Pair::greeted(Role::Device);
    pair.set(STATE);
    assert_eq!(pair.states_sent(), [STATE]);
    pair.set(STATE);
    pair.pass(SECOND / 2);
    assert!(pair.states_sent().is_empty(), "what has not changed is not told again");
    let theirs = hello(&pair);
    assert!(pair.send(&octets(Body::Hello(theirs))));
    pair.pass(MS);
    assert_eq!(pair.states_sent(), [STATE]);
}

#[test]
fn with_the_fifo_full_the_latest_state_waits_for_room() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::greeted(role);
        while pair.take().is_some() {}
        // The answers fill it.
        for data in 0..window::SLOTS {
            assert!(pair.send(&octets(Body::Ping { data })));
            pair.pass(MS);
        }
        for mtu in [1300, 1500, 1600] {
            pair.set(NetdevState { mtu, ..STATE });
        }
        pair.look();
        pair.pass(HEARTBEAT);
        assert!(pair.states_sent().is_empty(), "{role:?}: there was no room");
        pair.pass(HEARTBEAT);
        assert_eq!(pair.states_sent(), [NetdevState { mtu: 1600, ..STATE }], "{role:?}");
    }
}

#[test]
fn a_flood_is_told_now_and_then_and_ends_in_its_last_state() {
    // A driver would give up in this time, as nobody answers its requests.
    let mut pair = Pair::greeted(Role::Device);
    for i in 1..=5000_u16 {
        let state = NetdevState { mtu: 1500 + i, up: i % 2 == 0, ..STATE };
        assert!(pair.send(&octets(Body::EventLink(state))));
        while pair.take().is_some() {}
        pair.look();
        pair.pass(MS);
    }
    assert_eq!(pair.told().len(), 5, "after 0, 200, 600, 1400 and 3000 ms");
    for _ in 0..25 {
        assert!(pair.link.poll_timeout().unwrap() > pair.now);
        pair.look();
        pair.pass(PACE[0] / 2);
    }
    let last = *pair.told().last().unwrap();
    assert_eq!((last.mtu, last.up), (Some(6500), true));
    assert_eq!(pair.link.peer_link(), Some(last));
    // Then a change is told at once again.
    assert!(pair.send(&octets(Body::EventLink(STATE))));
    pair.pass(MS);
    assert_eq!(pair.link.peer_link().unwrap().mtu, Some(STATE.mtu));
}

#[test]
fn values_that_make_no_sense_are_not_taken_and_not_punished() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::greeted(role);
        for (mtu, mac, expected) in [
            (0, STATE.mac, (None, Some(STATE.mac))),
            (67, STATE.mac, (None, Some(STATE.mac))),
            (68, [0; 6], (Some(68), None)),
            (65521, [3, 0, 0, 0, 0, 1], (Some(65521), None)),
            (65522, [0xff; 6], (None, None)),
            (65535, STATE.mac, (None, Some(STATE.mac))),
        ] {
            assert!(pair.send(&octets(Body::EventLink(NetdevState { mtu, up: false, mac }))));
            pair.look();
            pair.pass(2 * PACE[0]);
            let peer = pair.link.peer_link().unwrap();
            assert_eq!((peer.up, (peer.mtu, peer.mac)), (false, expected), "{role:?}");
        }
        assert_eq!(pair.last_state(), State::Negotiating);
    }
}

#[test]
fn an_end_that_does_not_know_the_message_has_a_link_as_before() {
    let mut pair = Pair::new(Role::Driver, Features::NONE);
    pair.set(STATE);
    // This half of a tunnel has no use for it: it counts it.
    let mut device = RawDevice::new(&pair);
    device.turn(&mut pair);
    assert_eq!((pair.last_state(), pair.carrier()), (State::Up, Some(true)));
    assert_eq!(device.tunnel.counters().unexpected, 1);
    assert_eq!((pair.link.peer_link(), pair.told()), (None, vec![]));
    // And what a later version may add is ignored here.
    let mut unknown = octets(Body::EventLink(STATE));
    unknown[1] = 0x90;
    assert!(pair.send(&unknown));
    device.turn(&mut pair);
    assert_eq!((pair.last_state(), pair.carrier()), (State::Up, Some(true)));
}
