//! What front-ends do that there are.

use super::*;

#[test]
fn rings_run_whether_they_are_enabled_before_or_after_their_kick() {
    for before in [true, false] {
        let mut front_end = FrontEnd::with(params(2), packed(), 1);
        front_end.introduce();
        front_end.share_memory();
        front_end.send(&Request::SetStatus(15), vec![]);
        for index in 0..4 {
            if before {
                front_end.enable(index, true);
            }
            front_end.start_ring(index, 0x8000);
            if !before {
                front_end.enable(index, true);
            }
        }
        front_end.exchange_on(0, 0..10);
        front_end.exchange_on(1, 0..10);
    }
}

#[test]
fn without_protocol_features_rings_are_enabled_at_once() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::with(params(1), features, 1);
        front_end.protocol = None;
        front_end.introduce();
        front_end.share_memory();
        front_end.start_all();
        front_end.exchange(0..50);
        let bases = [0, 1].map(|index| front_end.stop_ring(index));
        for (index, base) in (0..).zip(bases) {
            front_end.start_ring(index, base);
        }
        front_end.exchange(50..100);
    }
}

#[test]
fn pairs_come_and_go_by_their_enabling_while_others_run() {
    // Some accept MQ without the control queue that it needs for a driver.
    for features in [split(), packed(), packed().union(Features::of(&[net::F_MQ]))] {
        let mut front_end = FrontEnd::set_up_with(params(3), features, 1);
        for round in 0..10 {
            let pair = 1 + round % 2;
            let index = u32::from(2 * pair + round / 2 % 2);
            front_end.enable(index, false);
            assert_eq!(front_end.told, [pair]);
            front_end.exchange_on(0, 0..5);
            front_end.exchange_on(3 - pair, 0..5);
            front_end.leave();
            assert!(!front_end.running.contains_key(&pair) && front_end.carrier);
            // Frames that came meanwhile are there.
            front_end.offer(pair, 9, 100);
            front_end.enable(index, true);
            assert_eq!(front_end.take(pair), Some(vec![9; 100]));
            front_end.exchange_on(pair, 0..5);
        }
    }
}

#[test]
fn one_that_accepts_a_control_queue_may_keep_it_to_itself() {
    for features in passing() {
        let mut front_end = FrontEnd::with(params(2), features, 1);
        front_end.introduce();
        front_end.share_memory();
        let base = front_end.first_base();
        for index in 0..4 {
            front_end.start_ring(index, base);
            front_end.enable(index, true);
        }
        front_end.send(&Request::SetStatus(15), vec![]);
        assert!(front_end.watched.is_none());
        front_end.exchange_on(0, 0..10);
        front_end.exchange_on(1, 0..10);
    }
}

#[test]
fn the_descriptor_to_be_rung_may_change_at_any_time() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::set_up(features);
        for round in 0..20 {
            front_end.exchange(0..5);
            let index = round % 2;
            let fds = if round % 3 == 0 { vec![] } else { vec![Fd(100 + round, None)] };
            let call = fds.first().map(|fd| fd.0);
            front_end.send(&Request::SetVringCall { index, fd: call.is_some() }, fds);
            assert_eq!(front_end.told, [0]);
            front_end.exchange(0..5);
            front_end.leave();
            let calls = &front_end.running[&0].calls;
            assert_eq!(calls[index as usize].as_ref().map(|fd| fd.0), call);
        }
    }
}

#[test]
fn features_that_are_told_again_halt_nothing() {
    let mut front_end = FrontEnd::set_up(packed());
    let bits = front_end.bits();
    front_end.send(&Request::SetFeatures(bits), vec![]);
    front_end.send(&Request::SetStatus(15), vec![]);
    front_end.enable(0, true);
    assert!(front_end.told.is_empty() && !front_end.link.is_busy());
    front_end.exchange(0..10);
    // Other ones are a reset.
    front_end.send(&Request::SetFeatures(bits & !(1 << virtio::F_EVENT_IDX)), vec![]);
    assert!(front_end.link.is_busy());
}

#[test]
fn the_half_of_a_packed_base_that_is_about_used_descriptors_may_be_left_out() {
    for half in [true, false] {
        let mut front_end = FrontEnd::set_up(packed());
        let mut bases = [0x8000; 2];
        for round in 0..10 {
            front_end.exchange(13 * round..13 * (round + 1));
            bases = [0, 1].map(|index| front_end.stop_ring(index));
            assert_eq!(bases.map(|base| base >> 16), bases.map(|base| base & 0xffff));
            front_end.start_rings(if half { bases.map(|base| base & 0xffff) } else { bases });
        }
        assert_ne!(bases, [0x8000; 2]);
    }
}

#[test]
fn a_packed_queue_has_any_size_and_a_split_one_a_power_of_two() {
    let mut front_end = FrontEnd::new(packed());
    for placed in &mut front_end.placed.pairs {
        (placed.receiveq.size, placed.transmitq.size) = (50, 33);
    }
    front_end.boot();
    front_end.introduce();
    front_end.share_memory();
    front_end.start_all();
    front_end.exchange(0..200);
    let mut front_end = FrontEnd::set_up(split());
    front_end.send_octets(&Request::SetVringNum { index: 0, num: 50 }.encode(false), vec![]);
    front_end.leave();
    assert_eq!(front_end.closed.as_deref(), Some("SET_VRING_NUM has the value 0x32"));
}

#[test]
fn a_driver_whose_features_will_not_do_sees_no_features_ok() {
    let mut front_end = FrontEnd::new(split());
    front_end.introduce();
    front_end.send(&Request::SetFeatures(1 << net::F_MAC | 1 << F_PROTOCOL_FEATURES), vec![]);
    front_end.send(&Request::SetStatus(11), vec![]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(3));
    front_end.send(&Request::SetStatus(0), vec![]);
    let bits = front_end.bits();
    front_end.send(&Request::SetFeatures(bits), vec![]);
    front_end.send(&Request::SetStatus(11), vec![]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(11));
}
