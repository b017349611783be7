//! Other ends that are there and do not do their part: each is noticed in time, for what it is.

use super::*;

/// What was said when the link was first down or quarantined, and how long that took.
fn ends(pair: &mut Pair, most: Duration, mut turn: impl FnMut(&mut Pair)) -> (State, String) {
    let since = pair.now;
    pair.events.clear();
    loop {
        turn(pair);
        pair.look();
        pair.pass(10 * MS);
        let over = |(state, _): &(State, &str)| matches!(state, State::Down | State::Quarantined);
        if let Some((state, why)) = pair.states().find(over) {
            return (state, why.to_owned());
        }
        assert!(pair.now < since + most, "still there after {most:?}: {:?}", pair.events);
    }
}

#[test]
fn an_end_that_takes_no_messages_is_noticed_in_time() {
    for (role, most, told) in [
        (Role::Driver, 2600 * MS, "board takes no messages: 3 have waited for 2.5 s"),
        (Role::Device, 10_100 * MS, "master takes no messages: 1 have waited for 10 s"),
    ] {
        let mut pair = Pair::new(role, Features::NONE);
        if role == Role::Device {
            let mut out = [0; msg::MAX_LEN];
            let question = Message { dev_num: 0, token: 7, body: Body::GetDeviceInfo };
            let len = message::encode(Dialect::default(), &question, &mut out);
            assert!(pair.send(&out[..len]));
        }
        let (state, why) = ends(&mut pair, most, |_| ());
        assert_eq!((state, why.as_str()), (State::Quarantined, told));
    }
}

#[test]
fn an_end_that_takes_messages_slowly_is_not_dead() {
    let mut pair = Pair::new(Role::Device, Features::NONE);
    let mut out = [0; msg::MAX_LEN];
    for round in 0..1800 {
        let question = Message { dev_num: 0, token: round, body: Body::GetDeviceInfo };
        let len = message::encode(Dialect::default(), &question, &mut out);
        pair.send(&out[..len]);
        if round % 90 == 0 {
            pair.take();
        }
        pair.look();
        pair.pass(100 * MS);
    }
    assert_eq!(pair.last_state(), State::Negotiating);
}

#[test]
fn an_end_that_answers_nothing_is_noticed_in_time() {
    let mut pair = Pair::new(Role::Driver, Features::NONE);
    let take_all = |pair: &mut Pair| while pair.take().is_some() {};
    let (state, why) = ends(&mut pair, 3100 * MS, take_all);
    assert_eq!(
        (state, why.as_str()),
        (State::Quarantined, "HELLO not answered in 3 attempts of 1s")
    );

    // And one that answers until the link is up.
    let mut pair = Pair::new(Role::Driver, Features::of(&[net::F_CTRL_VQ]));
    RawDevice::new(&pair).turn(&mut pair);
    assert_eq!(pair.last_state(), State::Up);
    let (state, why) = ends(&mut pair, 4100 * MS, take_all);
    assert_eq!(
        (state, why.as_str()),
        (State::Quarantined, "PING not answered in 3 attempts of 1s")
    );
}

#[test]
fn a_device_that_carries_out_no_command_is_noticed_in_time() {
    let mut pair = Pair::new(Role::Driver, Features::NONE);
    let mut device = RawDevice::new(&pair);
    device.turn(&mut pair);
    assert_eq!(pair.last_state(), State::Up);
    let (state, why) = ends(&mut pair, 3200 * MS, |pair| device.turn(pair));
    assert_eq!(state, State::Quarantined);
    assert!(why.starts_with("controlq: "), "{why}");
}

#[test]
fn a_window_of_all_ones_explains_whatever_else_looks_broken() {
    let dead = "window reads as all ones: board is in reset or off the bus";
    type Look = fn(&mut Pair);
    let looks: [(&str, Look); 3] = [
        ("a worker", |pair| {
            let now = pair.now;
            pair.input(|link| link.handle_broken(now, "receiveq: used id 65535"));
        }),
        ("the FIFO", |pair| {
            let head = pair.mem.view(pair.mem.resolve(LEN / 4, 4).unwrap()).unwrap();
            head.store_le32(window::MAILBOX_HEAD, u32::MAX);
            let now = pair.now;
            pair.input(|link| link.handle_doorbell(now));
        }),
        ("a heartbeat", |pair| {
            pair.now += HEARTBEAT;
            let now = pair.now;
            pair.input(|link| link.handle_timeout(now));
        }),
    ];
    for (who, look) in looks {
        let mut pair = Pair::new(Role::Driver, Features::NONE);
        RawDevice::new(&pair).turn(&mut pair);
        assert_eq!(pair.last_state(), State::Up);
        pair.events.clear();
        let window = pair.mem.resolve(0, (LEN / 4) as u32).unwrap();
        pair.mem.view(window).unwrap().copy_from(0, &vec![0xff; (LEN / 4) as usize]);
        look(&mut pair);
        pair.pass(SECOND);
        assert_eq!(pair.states().next(), Some((State::Down, dead)), "{who}");
        let all: Vec<_> = pair.states().collect();
        assert!(all.iter().all(|(state, _)| *state != State::Quarantined), "{who}: {all:?}");
        assert_eq!(all.last(), Some(&(State::Waiting, dead)), "{who}");
        assert_eq!(pair.carrier(), Some(false));
    }
}

#[test]
fn a_ring_that_breaks_while_the_board_is_there_is_the_boards_fault() {
    let mut pair = Pair::new(Role::Driver, Features::NONE);
    RawDevice::new(&pair).turn(&mut pair);
    let now = pair.now;
    pair.input(|link| link.handle_broken(now, "receiveq: used id 65535"));
    assert_eq!(pair.states().last(), Some((State::Quarantined, "receiveq: used id 65535")));
}

#[test]
fn an_end_that_leaves_with_each_offence_is_kept_away_all_the_same() {
    for role in [Role::Device, Role::Driver] {
        let mut pair = Pair::new(role, Features::NONE);
        let head = if role == Role::Device { u64::from(window::HEADER_LEN) } else { LEN / 4 };
        let head = pair.mem.resolve(head, 4).unwrap();
        // Whoever does it once, or is unlucky, is back at once.
        for (expected, least) in [
            (State::Down, 0),
            (State::Down, 0),
            (State::Down, 0),
            (State::Quarantined, 8),
            (State::Quarantined, 16),
        ] {
            pair.mem.view(head).unwrap().store_le32(window::MAILBOX_HEAD, u32::MAX);
            pair.raw.session.shutdown(&pair.mem);
            pair.events.clear();
            let since = pair.now;
            pair.input(|link| link.handle_doorbell(since));
            let (state, why) = pair.states().next().unwrap();
            assert_eq!(state, expected, "{why}");
            assert_eq!(why.starts_with("message FIFO: head"), least > 0, "{why}");
            pair.meet();
            let away = pair.now - since;
            assert!(least * SECOND <= away && away < (least + 1) * SECOND, "{away:?}");
        }
    }
}
