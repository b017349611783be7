//! How it comes to rest: resets, faults, the end of the connection; and what is kept for a successor.

use super::*;
use crate::net::path::{Inward, PathError, Room};

/// Memory to track in is asked for and set.
fn track(front_end: &mut FrontEnd) {
    let asked = Inflight { len: 0, offset: 0, queues: 2, queue_size: 64 };
    front_end.send(&Request::GetInflightFd(asked), vec![]);
    let (octets, fd) = front_end.replies.pop().unwrap();
    let Ok(Reply::Inflight(inflight)) = Reply::decode(31, &octets[12..]) else { panic!() };
    front_end.send(&Request::SetInflightFd(inflight), vec![fd.unwrap()]);
}

#[test]
fn a_reset_in_the_middle_of_traffic_waits_for_the_worker_and_forgets_all_but_memory() {
    for request in [Request::SetStatus(0), Request::ResetDevice, Request::ResetOwner] {
        for (features, tracked) in
            [(split(), false), (packed(), false), (split(), true), (packed(), true)]
        {
            let mut front_end = FrontEnd::new(features);
            front_end.introduce();
            if tracked {
                track(&mut front_end);
            }
            front_end.share_memory();
            let base = front_end.first_base();
            for _ in 0..3 {
                front_end.start_rings([base; 2]);
                front_end.exchange(0..77);
                front_end.offer(0, 1, 60);
                front_end.send(&request, vec![]);
                assert!(front_end.link.is_busy() && front_end.told == [0]);
                assert_eq!(front_end.take(0), Some(vec![1; 60]));
                front_end.leave();
                assert!(front_end.running.is_empty() && !front_end.carrier);
                front_end.boot();
                let bits = front_end.bits();
                front_end.send(&Request::SetFeatures(bits), vec![]);
            }
        }
    }
}

#[test]
fn a_driver_that_resets_its_rings_begins_where_the_front_end_says() {
    for features in [split(), packed()] {
        for tracked in [true, false] {
            let mut front_end = FrontEnd::new(features);
            front_end.introduce();
            if tracked {
                track(&mut front_end);
            }
            front_end.share_memory();
            let base = front_end.first_base();
            for rounds in 0..4 {
                front_end.start_rings([base; 2]);
                front_end.exchange(0..70 + rounds);
                let bases = [0, 1].map(|index| front_end.stop_ring(index));
                assert_ne!(bases, [base; 2]);
                front_end.boot();
            }
        }
    }
}

#[test]
fn memory_that_cannot_track_what_it_is_for_is_refused() {
    let good = Inflight { len: 0x4000, offset: 0, queues: 3, queue_size: 64 };
    let memory = |len| Fd(9, Some(Arc::new(Mapping::anonymous(len, Kind::Cached))));
    for (inflight, len, good) in [
        (good, 0x4000, true),
        (Inflight { queues: 0, ..good }, 0x4000, false),
        (Inflight { queues: 4, ..good }, 0x4000, false),
        (Inflight { queue_size: 0, ..good }, 0x4000, false),
        (Inflight { queue_size: 32769, len: u64::MAX, ..good }, 0x4000, false),
        (Inflight { len: 0x400, ..good }, 0x4000, false),
        (good, 0x400, false),
        (Inflight { offset: u64::MAX, ..good }, 0x4000, false),
    ] {
        let mut front_end = FrontEnd::new(split());
        front_end.introduce();
        let request = Request::SetInflightFd(inflight);
        front_end.send_octets(&request.encode(false), vec![memory(len)]);
        assert_eq!(front_end.closed.is_none(), good, "{inflight:?}: {:?}", front_end.closed);
    }
    // A ring that is larger than what was asked for goes untracked.
    let mut front_end = FrontEnd::new(packed());
    front_end.introduce();
    let small = Inflight { queue_size: 32, ..good };
    front_end.send(&Request::SetInflightFd(small), vec![memory(0x4000)]);
    front_end.share_memory();
    front_end.start_rings([0x8000; 2]);
    front_end.exchange(0..100);
}

#[test]
fn what_closes_the_connection_stops_its_pairs() {
    let mut front_end = FrontEnd::set_up_with(params(2), split(), 1);
    front_end.send_octets(&[99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], vec![]);
    assert_eq!(front_end.closed.as_deref(), Some("request 99 is not served"));
    assert_eq!(front_end.told, [0, 1]);
    front_end.leave();
    assert!(front_end.running.is_empty());
    // Nothing comes after it.
    front_end.link.handle_netdev(false);
    front_end.link.handle_broken("a worker found out too late");
    front_end.link.handle_kick();
    front_end.send_octets(&Request::GetStatus.encode(false), vec![]);
    assert!(front_end.replies.is_empty() && front_end.link.poll_event().is_none());
}

#[test]
fn a_pair_that_leaves_while_all_are_to_stop_does_not_start_before_they_have() {
    let mut front_end = FrontEnd::set_up_with(params(2), split(), 1);
    front_end.exchange(0..10);
    let bases: Vec<_> = [2, 3].map(|index| front_end.stop_ring(index)).to_vec();
    front_end.send(&Request::GetVringBase { index: 0 }, vec![]);
    let StartPair { path, .. } = front_end.running.remove(&0).unwrap();
    front_end.link.handle_broken("pair 1's worker says so");
    front_end.link.handle_pair_stopped(0, Some(path));
    assert!(front_end.link.is_busy(), "not all have stopped");
    front_end.told.clear();
    front_end.drain();
    assert!(!front_end.link.is_busy() && front_end.stopped);
    let (octets, _) = front_end.replies.pop().unwrap();
    let receive = Reply::VringBase { index: 0, base: 10 };
    assert_eq!(Reply::decode(11, &octets[12..]), Ok(receive));
    let transmit = front_end.stop_ring(1);
    front_end.start_rings([10, transmit]);
    front_end.exchange(10..20);
    for (index, base) in (2..).zip(bases) {
        front_end.start_ring(index, base);
    }
    front_end.exchange_on(1, 0..10);
}

#[test]
fn a_refusal_is_told_to_who_asks_for_it_and_can_be_told() {
    let refused = Request::SetVringNum { index: 9, num: 8 };
    let inflight = Request::GetInflightFd(Inflight { len: 0, offset: 0, queues: 9, queue_size: 8 });
    for (protocol, request, answers) in [
        (PROTOCOL_FEATURES, &refused, 1),
        (PROTOCOL_FEATURES & !protocol::REPLY_ACK, &refused, 0),
        (PROTOCOL_FEATURES, &inflight, 0),
    ] {
        let mut front_end = FrontEnd::new(split());
        front_end.protocol = Some(protocol);
        front_end.introduce();
        front_end.send_octets(&request.encode(true), vec![]);
        assert!(front_end.closed.is_some());
        assert_eq!(front_end.replies.len(), answers, "{request:?}");
        for (octets, _) in &front_end.replies {
            assert_eq!(Reply::decode(8, &octets[12..]), Ok(Reply::Number(1)));
        }
    }
}

#[test]
fn a_driver_that_spoils_its_used_ring_breaks_its_device_and_not_the_connection() {
    let mut front_end = FrontEnd::set_up(split());
    front_end.exchange(0..10);
    let bases = [0, 1].map(|index| front_end.stop_ring(index));
    let used = front_end.placed.pairs[0].transmitq.device;
    let index = front_end.mem.resolve(used + 2, 2).unwrap();
    front_end.mem.view(index).unwrap().store_le16(0, 5000);
    front_end.start_rings(bases);
    assert!(front_end.closed.is_none() && front_end.running.is_empty());
    let (state, why) = front_end.state.clone().unwrap();
    assert!(state == State::Down && why.contains("start at available"), "{why}");
    front_end.send(&Request::SetStatus(0), vec![]);
    front_end.boot();
    front_end.introduce();
    front_end.start_rings([0; 2]);
    front_end.exchange(0..10);
}

#[test]
fn rings_that_broke_go_on_where_they_were_once_the_front_end_has_disabled_or_stopped_them_all() {
    let mut front_end = FrontEnd::set_up(split());
    front_end.exchange(0..100);
    // A network device's config space is read-only; a driver that does not know it ends nothing.
    let write = Request::SetConfig { offset: 0, flags: 0, data: vec![1] };
    front_end.send_octets(&write.encode(true), vec![]);
    let (nack, _) = front_end.replies.pop().unwrap();
    assert_eq!((nack[12], &front_end.closed), (1, &None));
    front_end.link.handle_broken("transmitq: broken");
    front_end.drain();
    for index in 0..2 {
        assert!(front_end.running.is_empty());
        front_end.send(&Request::SetVringEnable { index, enable: 0 }, vec![]);
    }
    assert_eq!(front_end.state.as_ref().map(|(state, _)| *state), Some(State::Negotiating));
    let bases = [0, 1].map(|index| front_end.stop_ring(index));
    assert_eq!(bases, [100, 100]);
    front_end.start_rings(bases);
    front_end.exchange(100..200);
}

/// A path that has come to rest with a frame that waits for buffers.
#[derive(Debug)]
struct Waiting(Option<Drop>);

impl Path for Waiting {
    fn room(&mut self, _: &BusMemory) -> Result<Room<'_>, PathError> {
        Ok(Room::Nowhere)
    }
    fn sent(&mut self, _: &BusMemory, _: usize) -> Result<Option<Drop>, PathError> {
        Ok(None)
    }
    fn flush(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn receive(&mut self, _: &BusMemory) -> Result<Inward<'_>, PathError> {
        Ok(Inward::Empty)
    }
    fn received(&mut self, _: &BusMemory) -> Result<(), PathError> {
        Ok(())
    }
    fn release(&mut self, _: &BusMemory) -> bool {
        false
    }
    fn arm(&mut self, _: &BusMemory, _: bool) -> Result<bool, PathError> {
        Ok(false)
    }
    fn arm_for_room(&mut self, _: &BusMemory) -> Result<bool, PathError> {
        Ok(false)
    }
    fn disarm(&mut self, _: &BusMemory) {}
    fn tick(&mut self) -> Option<Drop> {
        self.0.take()
    }
}

#[test]
fn a_frame_that_waits_for_buffers_when_its_pair_stops_is_told_as_dropped() {
    let mut front_end = FrontEnd::set_up(split());
    front_end.send(&Request::GetVringBase { index: 0 }, vec![]);
    front_end.running.clear();
    let waiting = Waiting(Some(Drop::QueueReset));
    front_end.link.handle_pair_stopped(0, Some(Box::new(waiting)));
    front_end.drain();
    assert_eq!(front_end.dropped, [Which::Receiveq]);
}
