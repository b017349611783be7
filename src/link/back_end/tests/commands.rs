//! A control queue that passes by the front-end.

use super::*;
use ctrl::{ERR, OK};

fn pairs(front_end: &FrontEnd) -> Vec<u16> {
    front_end.running.keys().copied().collect()
}

fn use_pairs(front_end: &mut FrontEnd, count: u16) -> Option<u8> {
    front_end.command(ctrl::MQ_VQ_PAIRS_SET, &count.to_le_bytes())
}

#[test]
fn as_many_pairs_run_as_the_driver_says_and_the_answer_says_that_it_is_so() {
    for features in passing() {
        let mut front_end = FrontEnd::set_up_with(params(3), features, 1);
        assert_eq!(pairs(&front_end), [0]);
        front_end.exchange(0..10);
        assert_eq!(use_pairs(&mut front_end, 3), Some(OK));
        for pair in 0..3 {
            front_end.exchange_on(pair, 0..20);
        }
        assert_eq!(use_pairs(&mut front_end, 1), None);
        front_end.exchange(20..30);
        front_end.leave_one(2);
        assert_eq!(front_end.answer(), None);
        front_end.leave_one(1);
        assert_eq!(front_end.answer(), Some(OK));
        assert_eq!(pairs(&front_end), [0]);
        assert_eq!(use_pairs(&mut front_end, 2), Some(OK));
        front_end.exchange_on(1, 20..30);
        for count in [0, 4, u16::MAX] {
            assert_eq!(use_pairs(&mut front_end, count), Some(ERR));
        }
        assert_eq!(pairs(&front_end), [0, 1]);
    }
}

#[test]
fn a_command_from_before_the_first_pair_runs_is_followed() {
    for features in passing() {
        let mut front_end = FrontEnd::with(params(2), features, 1);
        front_end.introduce();
        front_end.share_memory();
        let base = front_end.first_base();
        front_end.send(&Request::SetStatus(15), vec![]);
        front_end.start_ring(4, base);
        front_end.enable(4, true);
        assert_eq!(front_end.watched, Some(14));
        assert!(front_end.link.has_more(), "a kick may have been lost");
        let _ = use_pairs(&mut front_end, 2);
        for index in 0..4 {
            front_end.start_ring(index, base);
            front_end.enable(index, true);
        }
        front_end.leave();
        assert_eq!(pairs(&front_end), [0, 1]);
        front_end.exchange_on(1, 0..5);
    }
}

#[test]
fn what_the_driver_filters_stays_so_while_its_queue_is_set_up_anew() {
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    for features in passing() {
        let mut front_end = FrontEnd::set_up_with(params(2), features, 1);
        let mac = [2, 0, 0, 0, 0, 7];
        assert!(front_end.receive_to(0, OTHER, 1, 60).is_some(), "all pass at first");
        assert_eq!(front_end.command(ctrl::MAC_ADDR_SET, &mac), Some(OK));
        for filters in [true, false, true] {
            let promiscuous = front_end.command(ctrl::RX_PROMISC, &[(!filters).into()]);
            assert_eq!(promiscuous, Some(OK));
            for call in 0..3 {
                assert_eq!(front_end.receive_to(0, OTHER, 1, 60).is_none(), filters);
                assert!(front_end.receive_to(0, mac, 2, 60).is_some());
                let fd = Fd(50 + call, None);
                front_end.send(&Request::SetVringCall { index: 4, fd: true }, vec![fd]);
                assert!(front_end.told.is_empty(), "pairs go on");
                front_end.rung.clear();
                front_end.link.handle_kick();
                assert_eq!(front_end.command(ctrl::VLAN_ADD, &[1, 0]), Some(OK));
                assert_eq!(front_end.rung.last(), Some(&(50 + call)));
            }
        }
        // Nor is it forgotten when the front-end halts the device for a while.
        let bases: Vec<_> = (0..5).map(|index| front_end.stop_ring(index)).collect();
        assert!(pairs(&front_end).is_empty());
        for (index, base) in (0..).zip(bases) {
            front_end.start_ring(index, base);
        }
        front_end.leave();
        assert_eq!(pairs(&front_end), [0]);
        assert!(front_end.receive_to(0, OTHER, 1, 60).is_none());
        assert!(front_end.receive_to(0, mac, 1, 60).is_some());
    }
}

#[test]
fn offloads_change_once_each_worker_has_published_what_it_took_by_the_earlier_ones() {
    for features in passing() {
        let mut front_end = FrontEnd::set_up_with(params(2), features, 1);
        assert_eq!(use_pairs(&mut front_end, 2), Some(OK));
        front_end.exchange(0..5);
        front_end.offloads.clear();
        assert_eq!(front_end.command(ctrl::GUEST_OFFLOADS_SET, &[0; 8]), None);
        assert_eq!(front_end.offloads, [Offloads::default()]);
        assert_eq!(front_end.told, [0, 1]);
        front_end.exchange(5..10);
        front_end.leave_one(1);
        assert_eq!(front_end.answer(), None);
        front_end.exchange_on(1, 0..10);
        front_end.leave_one(0);
        assert_eq!(front_end.answer(), Some(OK));
        front_end.exchange(10..20);
        // The netdev is told again when it is set up again.
        let bases: Vec<_> = (0..5).map(|index| front_end.stop_ring(index)).collect();
        front_end.offloads.clear();
        for (index, base) in (0..).zip(bases) {
            front_end.start_ring(index, base);
        }
        assert_eq!(front_end.offloads, [Offloads::default()]);
        assert_eq!(pairs(&front_end), [0, 1]);
        front_end.exchange(20..30);
        // A reset forgets it.
        front_end.offloads.clear();
        front_end.send(&Request::SetStatus(0), vec![]);
        front_end.leave();
        front_end.boot();
        front_end.introduce();
        front_end.start_all();
        assert!(front_end.offloads.is_empty());
        front_end.exchange(0..10);
    }
}

#[test]
fn a_command_does_not_stop_the_pairs_that_no_message_waits_for() {
    for features in passing() {
        let mut front_end = FrontEnd::set_up_with(params(3), features, 1);
        assert_eq!(use_pairs(&mut front_end, 3), Some(OK));
        front_end.send(&Request::GetVringBase { index: 2 }, vec![]);
        assert_eq!(front_end.told, [1]);
        // The pair that leaves is among those that are not used any more.
        assert_eq!(use_pairs(&mut front_end, 1), None);
        assert_eq!(front_end.told, [1, 2]);
        front_end.exchange(0..10);
        front_end.leave();
        assert!(!front_end.link.is_busy() && front_end.replies.len() == 1);
        assert_eq!(front_end.answer(), Some(OK));
        assert_eq!(pairs(&front_end), [0]);
    }
}

#[test]
fn pairs_go_on_while_the_control_queue_rests() {
    for features in passing() {
        let mut front_end = FrontEnd::set_up_with(params(2), features, 1);
        front_end.exchange(0..10);
        let base = front_end.stop_ring(4);
        assert_eq!((pairs(&front_end), front_end.watched), (vec![0], None));
        front_end.ask_command(ctrl::RX_PROMISC, &[1]);
        assert_eq!(front_end.answer(), None);
        front_end.exchange(10..20);
        front_end.start_ring(4, base);
        front_end.link.handle_kick();
        front_end.drain();
        assert_eq!(front_end.answer(), Some(OK));
        assert_eq!(use_pairs(&mut front_end, 2), Some(OK));
    }
}

#[test]
fn a_control_queue_that_breaks_stops_all() {
    let [features, _] = passing();
    let mut front_end = FrontEnd::set_up_with(params(2), features, 1);
    let avail = front_end.placed.control.as_ref().unwrap().queue.driver;
    let index = front_end.mem.resolve(avail + 2, 2).unwrap();
    front_end.mem.view(index).unwrap().store_le16(0, 1000);
    front_end.rung.clear();
    front_end.link.handle_kick();
    front_end.drain();
    let (state, why) = front_end.state.clone().unwrap();
    assert!(state == State::Down && why.starts_with("controlq: "), "{why}");
    assert!(front_end.stopped && front_end.watched.is_none());
    assert_eq!(front_end.rung, [30, 31, 32, 33, 34]);
}
