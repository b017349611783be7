//! What the other end does by itself, and what the owner asks of a running session.

use proptest::prelude::*;

use super::super::*;
use super::board::{BOTH, Bench, Board, Fate, hello, running};
use crate::tunnel::arbitrary::nearly_a_message;

fn changed(status: u32) -> Body {
    Body::EventConfig { status, generation: 2, offset: 0, data: vec![] }
}

#[test]
fn the_other_ends_ping_and_hello_are_answered_with_their_token_at_any_time() {
    for mut bench in [Bench::new(Board::new()), running()] {
        while bench.poll().is_some() {}
        bench.deliver(&Message { dev_num: 0, token: 77, body: Body::Ping { data: 5 } });
        let body = Body::Hello(bench.board.hello.clone());
        bench.deliver(&Message { dev_num: 0, token: 78, body });
        let pong = Message { dev_num: 0, token: 77, body: Body::Pong { data: 5 } };
        assert_eq!(bench.poll(), Some(pong));
        let body = Body::HelloBack(hello(0x1234_FFFE));
        assert_eq!(bench.poll(), Some(Message { dev_num: 0, token: 78, body }));
        assert_eq!(bench.events, []);
    }
}

#[test]
fn a_flood_of_pings_is_answered_as_far_as_there_is_room() {
    let mut bench = running();
    for data in 0..1000 {
        bench.deliver_body(Body::Ping { data });
    }
    let answered = std::iter::from_fn(|| bench.poll()).count();
    assert_eq!(answered, MAX_REPLIES);
    assert_eq!(bench.driver.counters().replies_dropped, 1000 - MAX_REPLIES as u64);
}

#[test]
fn another_epoch_in_hello_ends_the_session_without_a_word_to_the_new_program() {
    let mut bench = running();
    bench.deliver_body(Body::Hello(hello(0x0E0E)));
    assert_eq!(bench.failure(), "the other end started anew: epoch 0x00000e0e after 0xb0a4d001");
    assert!(matches!(bench.poll().unwrap().body, Body::HelloBack(_)));
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_removed_device_ends_the_session() {
    let removed = Body::EventDevice { number: 0, state: msg::DEVICE_REMOVED };
    let mut bench = Bench::new(Board::new());
    bench.deliver_body(removed.clone());
    assert_eq!(bench.events, [], "left over from before HELLO");
    bench.settle();
    bench.deliver_body(Body::EventDevice { number: 3, state: msg::DEVICE_REMOVED });
    bench.deliver_body(Body::EventDevice { number: 0, state: msg::DEVICE_ADDED });
    assert!(bench.driver.is_running());
    bench.deliver_body(removed);
    assert_eq!(bench.failure(), "device was removed");
}

#[test]
fn a_changed_config_space_is_read_again_and_told_if_it_differs() {
    let mut bench = running();
    bench.board.config[6] = 0;
    for _ in 0..10 {
        bench.deliver_body(changed(15));
    }
    bench.settle();
    // One reading, and one more because events came during it.
    assert_eq!(bench.names(), ["GET_CONFIG", "GET_CONFIG"]);
    assert_eq!(bench.events, [Event::ConfigChanged { config: bench.board.config.clone() }]);
}

#[test]
fn an_owner_that_does_not_ask_keeps_only_the_latest_config() {
    let mut bench = running();
    for value in 100..120 {
        bench.board.config[6] = value;
        bench.driver.handle(bench.now, Message { dev_num: 0, token: 0, body: changed(15) });
        let request = bench.poll().unwrap();
        let answer = bench.board.answer(&request).unwrap();
        bench.driver.handle(bench.now, answer);
    }
    bench.drain_events();
    assert_eq!(bench.events, [Event::ConfigChanged { config: bench.board.config.clone() }]);
}

#[test]
fn a_change_at_any_point_of_the_initialisation_is_not_missed() {
    for at in 0..16 {
        let mut bench = Bench::new(Board::new());
        for _ in 0..at {
            bench.step();
        }
        // The event overtakes the answer, which still has the old content.
        let request = bench.poll().unwrap();
        let answer = bench.board.answer(&request).unwrap();
        bench.board.config[6] = 200;
        bench.board.generation += 1;
        bench.deliver_body(changed(bench.board.status));
        bench.deliver(&answer);
        bench.settle();
        assert!(bench.driver.is_running());
        let last = bench.events.iter().rev().find_map(|event| match event {
            Event::Running { config, .. } | Event::ConfigChanged { config } => Some(config),
            _ => None,
        });
        assert_eq!(last, Some(&bench.board.config), "after {at} answers");
        let readings = bench.names().iter().filter(|name| *name == "GET_CONFIG").count();
        // The reading that the event overtook is not among them; one from before it is.
        assert_eq!(readings, if at > 8 { 2 } else { 1 }, "after {at} answers");
    }
}

#[test]
fn a_device_that_needs_a_reset_is_given_up_and_told() {
    let mut bench = running();
    bench.deliver_body(changed(15 | 64));
    assert_eq!(bench.failure(), "device needs a reset");
    bench.settle();
    assert_eq!(bench.names(), ["status=143"]);
    // Over: nothing counts any more.
    bench.deliver_body(changed(15 | 64));
    bench.deliver_body(Body::EventUsed { index: 0 });
    bench.deliver_body(Body::Ping { data: 1 });
    bench.driver.notify_available(0);
    bench.driver.ping(bench.now);
    bench.driver.reset(bench.now);
    assert_eq!(bench.events.len(), 1);
    assert_eq!((bench.poll(), bench.driver.poll_timeout()), (None, None));
}

#[test]
fn needs_reset_from_before_the_reset_is_ignored_and_after_it_is_not() {
    for at in 0..16 {
        let mut bench = Bench::new(Board::new());
        for _ in 0..at {
            bench.step();
        }
        bench.deliver_body(changed(64));
        let ended = matches!(bench.events.last(), Some(Event::Failed(DriverError::NeedsReset)));
        assert_eq!(ended, at >= 3, "after {at} answers");
    }
    let failure = {
        let mut bench = Bench::new(Board::new());
        bench.settle_with(|_, _| Fate::Deliver);
        bench.board.status |= 64;
        bench.driver.ping(bench.now);
        bench.settle();
        bench.failure()
    };
    assert_eq!(failure, "device needs a reset", "the event was lost, the keepalive sees it");
}

#[test]
fn a_new_session_after_a_failure_runs_and_takes_no_answers_of_the_old_one() {
    let mut bench = running();
    bench.driver.ping(bench.now);
    let old = bench.poll().unwrap();
    let late = bench.board.answer(&old).unwrap();
    bench.deliver_body(changed(64));
    bench.events.clear();
    bench.driver.restart(bench.now);
    bench.deliver(&late);
    bench.settle();
    assert!(bench.driver.is_running());
    assert_eq!(bench.names().len(), 16);
    assert_eq!(bench.events.len(), 3);
}

#[test]
fn a_keepalive_finds_what_lost_events_would_have_told() {
    let mut bench = running();
    bench.driver.ping(bench.now);
    bench.driver.ping(bench.now);
    bench.board.config[6] ^= 1;
    bench.now += Duration::from_millis(20);
    bench.settle();
    let keepalive = ["PING", "GET_DEVICE_STATUS", "GET_CONFIG"];
    assert_eq!(bench.names(), [keepalive, keepalive].concat());
    assert_eq!(bench.driver.last_heard(), Some(bench.now));
    assert_eq!(bench.events.len(), 1);

    // A device that somebody has reset.
    bench.board.status = 0;
    bench.driver.ping(bench.now);
    bench.settle();
    assert_eq!(bench.failure(), "device did not take status 0xf: its status is 0x0");
}

#[test]
fn an_unanswered_keepalive_fails_the_session() {
    let mut bench = running();
    bench.driver.ping(bench.now);
    bench.settle_with(|_, _| Fate::LoseRequest);
    assert_eq!(bench.failure(), "PING not answered in 3 attempts of 1s");
    assert_eq!(bench.requests.last().unwrap().body, Body::SetDeviceStatus { status: 143 });

    let mut bench = running();
    bench.driver.ping(bench.now);
    let ping = bench.poll().unwrap();
    bench.deliver(&Message { body: Body::Pong { data: 0xDEAD_0000 }, ..ping });
    assert_eq!(bench.failure(), "bad answer to PING: other data than in the request");
}

#[test]
fn an_orderly_end_resets_the_device_and_waits_for_it() {
    for (dialect, at) in BOTH.into_iter().flat_map(|dialect| (0..20).map(move |at| (dialect, at))) {
        let mut bench = Bench::new(Board { reset_looks: 2, ..Board::of(dialect) });
        for _ in 0..at {
            bench.step();
        }
        bench.driver.reset(bench.now);
        bench.driver.notify_available(0);
        bench.settle();
        assert_eq!(bench.events.last(), Some(&Event::Stopped), "after {at} steps");
        assert_eq!(bench.board.status, 0);
        assert!(bench.board.queues.iter().all(|q| q.flags == 0));
        assert_eq!(bench.driver.poll_timeout(), None);
    }
    let mut bench = running();
    bench.driver.reset(bench.now);
    bench.settle_with(|_, _| Fate::LoseRequest);
    assert_eq!(bench.failure(), "SET_DEVICE_STATUS not answered in 3 attempts of 1s");
    assert_eq!(bench.names().len(), 3, "no FAILED for a device that is being reset");
}

#[test]
fn queues_count_only_when_they_were_asked_for() {
    let mut bench = running();
    bench.driver.set_queues(bench.now, vec![]);
    assert_eq!(bench.poll(), None);
    let now = bench.now;
    let mut early = DriverTunnel::new(now, super::board::config());
    early.set_queues(now, vec![]);
    assert!(matches!(early.next_message().unwrap().body, Body::Hello(_)));
}

proptest! {
    #[test]
    fn random_octets_neither_panic_nor_pile_up(
        dialect in proptest::sample::select(BOTH.to_vec()),
        steps in 0usize..18,
        messages in proptest::collection::vec(nearly_a_message(), 1..60),
    ) {
        let mut bench = Bench::new(Board::of(dialect));
        for _ in 0..steps {
            bench.step();
        }
        for octets in &messages {
            bench.driver.handle_message(bench.now, octets);
            bench.now += Duration::from_millis(7);
            bench.driver.handle_timeout(bench.now);
            let s = &bench.driver.session;
            prop_assert!(s.events.len() <= 3 + 1 + 2 + 1, "{:?}", s.events);
            prop_assert!(s.replies.len() <= MAX_REPLIES);
        }
        let waiting = std::iter::from_fn(|| bench.poll()).count();
        prop_assert!(waiting <= MAX_REPLIES + 2);
    }

    #[test]
    fn an_answer_with_random_content_ends_in_a_running_session_or_a_named_failure(
        dialect in proptest::sample::select(BOTH.to_vec()),
        bend_at in 0usize..16,
        content in proptest::collection::vec(any::<u8>(), 64),
        keep in 8usize..64,
    ) {
        let mut bench = Bench::new(Board::of(dialect));
        for _ in 0..bend_at {
            bench.step();
        }
        let request = bench.poll().unwrap();
        let answer = bench.board.answer(&request).unwrap();
        let mut octets = [0; msg::MAX_LEN];
        let len = message::encode(dialect, &answer, &mut octets);
        for (at, value) in content.iter().enumerate().take(len).skip(keep) {
            octets[at] = *value;
        }
        bench.driver.handle_message(bench.now, &octets[..len]);
        bench.settle();
        let ended = bench.driver.is_running() || !bench.failure().is_empty();
        prop_assert!(ended);
    }
}

#[test]
fn a_keepalive_tells_once_how_long_the_answer_to_its_last_attempt_took() {
    let mut bench = running();
    assert_eq!(bench.driver.take_round_trip(), None, "before it runs nothing is one");
    bench.driver.ping(bench.now);
    let lost = bench.poll().unwrap();
    bench.now += Duration::from_secs(1);
    bench.driver.handle_timeout(bench.now);
    let ping = bench.poll().unwrap();
    let late = bench.board.answer(&lost).unwrap();
    bench.deliver(&late);
    assert_eq!(bench.driver.take_round_trip(), None, "the answer to another attempt");
    let pong = bench.board.answer(&ping).unwrap();
    bench.now += Duration::from_millis(3);
    bench.deliver(&pong);
    assert_eq!(bench.driver.take_round_trip(), Some(Duration::from_millis(3)));
    bench.settle();
    assert_eq!(bench.driver.take_round_trip(), None, "the other requests of it are no keepalive");
}
