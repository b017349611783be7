//! What a front-end sets up, asks for, and must not.

use super::*;

#[test]
fn a_front_end_sets_the_device_up_and_frames_go_both_ways() {
    for features in [split(), packed(), split().without(Features::of(&[net::F_MRG_RXBUF]))] {
        let mut front_end = FrontEnd::set_up(features);
        assert!(front_end.carrier);
        front_end.exchange(0..200);
    }
}

#[test]
fn a_ring_that_is_stopped_says_where_it_goes_on_once_its_worker_has_left() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::set_up(features);
        front_end.exchange(0..100);
        front_end.send(&Request::GetVringBase { index: 0 }, vec![]);
        assert!(front_end.link.is_busy() && front_end.replies.is_empty());
        front_end.leave();
        assert!(!front_end.link.is_busy());
        let (octets, _) = front_end.replies.pop().unwrap();
        let Ok(Reply::VringBase { base: receive, .. }) = Reply::decode(11, &octets[12..]) else {
            panic!("{octets:?}")
        };
        let transmit = front_end.stop_ring(1);
        assert!(!front_end.carrier && front_end.running.is_empty());
        if !features.has(virtio::F_RING_PACKED) {
            assert_eq!((receive, transmit), (100, 100));
        }
        front_end.start_rings([receive, transmit]);
        front_end.exchange(100..200);
    }
}

#[test]
fn memory_that_is_told_anew_is_used_from_where_the_rings_were() {
    let mut front_end = FrontEnd::set_up(packed());
    front_end.exchange(0..50);
    let region = MemoryRegion { bus_addr: BUS, len: LEN, user_addr: USER, offset: 0 };
    let extra = MemoryRegion { bus_addr: 0, len: 0x1000, user_addr: 0x1000, offset: 0 };
    let memory = Arc::new(Mapping::anonymous(0x1000, Kind::Cached));
    front_end.send(&Request::AddMemReg(extra), vec![Fd(7, Some(memory))]);
    assert!(front_end.link.is_busy());
    front_end.leave();
    assert_eq!(front_end.running[&0].mem.regions().len(), 2);
    front_end.exchange(50..100);
    front_end.send(&Request::RemMemReg(extra), vec![]);
    front_end.leave();
    assert_eq!(front_end.running[&0].mem.regions().len(), 1);
    front_end.exchange(100..150);
    // What takes the place of a ring's memory may follow; if it does not, the ring cannot go on.
    let outside = "ring 0: bus address 0x7f0000000000 with length 1 lies in no memory region";
    for back in [true, false] {
        front_end.send(&Request::RemMemReg(region), vec![]);
        front_end.leave();
        assert_eq!(front_end.state, Some((State::Waiting, outside.to_owned())));
        if back {
            let file = front_end.regions[0].1.clone();
            front_end.send(&Request::AddMemReg(region), vec![file]);
            front_end.exchange(150..200);
        }
    }
    front_end.send_octets(&Request::GetFeatures.encode(false), vec![]);
    assert_eq!(front_end.closed.as_deref(), Some(outside));
}

#[test]
fn a_driver_without_version_1_waits_and_the_next_one_runs() {
    let mut front_end = FrontEnd::new(split());
    front_end.send(&Request::SetProtocolFeatures(PROTOCOL_FEATURES), vec![]);
    front_end.send(&Request::SetFeatures(1 << net::F_MAC | 1 << F_PROTOCOL_FEATURES), vec![]);
    front_end.share_memory();
    front_end.start_rings([0; 2]);
    let (state, why) = front_end.state.clone().unwrap();
    assert_eq!(state, State::Waiting, "{why}");
    assert!(why.contains("VERSION_1"), "{why}");
    let bits = front_end.features.bits() as u64 | 1 << F_PROTOCOL_FEATURES;
    front_end.send(&Request::SetFeatures(bits), vec![]);
    assert_eq!(front_end.state, Some((State::Up, String::new())));
    front_end.exchange(0..10);
}

#[test]
fn a_broken_ring_stops_all_until_the_device_is_reset() {
    let mut front_end = FrontEnd::set_up(split());
    front_end.exchange(0..10);
    front_end.link.handle_broken("transmitq: broken");
    front_end.drain();
    assert!(front_end.stopped && front_end.running.is_empty() && !front_end.carrier);
    assert_eq!(front_end.rung, [30, 31]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(15 | 64));
    front_end.send(&Request::SetStatus(0), vec![]);
    assert_eq!(front_end.ask(&Request::GetStatus), Reply::Number(0));
    // The guest boots again.
    let mut again = FrontEnd::new(split());
    std::mem::swap(&mut again.link, &mut front_end.link);
    again.introduce();
    again.share_memory();
    again.start_rings([0; 2]);
    again.exchange(0..10);
}

#[test]
fn what_cannot_be_closes_the_connection_with_the_reason() {
    let region = |bus_addr, user_addr, len| MemoryRegion { bus_addr, user_addr, len, offset: 0 };
    let memory = || Fd(9, Some(Arc::new(Mapping::anonymous(0x2000, Kind::Cached))));
    let overlap = vec![region(0, 0x10_0000, 0x2000), region(0x1000, 0x20_0000, 0x2000)];
    let user_overlap = vec![region(0, 0x1000, 0x2000), region(0x8000, 0x2000, 0x2000)];
    let cases: Vec<(Request, Vec<Fd>, &str)> = vec![
        (Request::SetFeatures(1 << 60), vec![], "SET_FEATURES has bits 0x1000000000000000"),
        (Request::SetMemTable(overlap), vec![memory(), memory()], "overlaps another"),
        (Request::SetMemTable(user_overlap), vec![memory(), memory()], "overlaps another"),
        (
            Request::SetMemTable(vec![region(0, 0, 0x3000)]),
            vec![memory()],
            "memory region at 0x0 with length 0x3000: the file is shorter",
        ),
        (
            Request::SetMemTable(vec![region(u64::MAX - 1, 0, 0x1000)]),
            vec![memory()],
            "it is empty, or wraps",
        ),
        (Request::SetVringNum { index: 3, num: 8 }, vec![], "SET_VRING_NUM of ring 3"),
        (Request::SetVringNum { index: 0, num: 3 }, vec![], "SET_VRING_NUM has the value 0x3"),
        (Request::SetVringNum { index: 0, num: 65536 }, vec![], "SET_VRING_NUM has the value"),
        (Request::SetVringKick { index: 0, fd: false }, vec![], "SET_VRING_KICK"),
        (Request::SetVringKick { index: 0, fd: true }, vec![], "came with 0 descriptors"),
        (Request::SetVringCall { index: 0, fd: true }, vec![memory()], "that is no eventfd"),
        (Request::GetStatus, vec![], "GET_STATUS without protocol feature STATUS"),
        (Request::RemMemReg(region(0, 0, 1)), vec![], "REM_MEM_REG without protocol feature"),
        (Request::SetProtocolFeatures(1 << 1), vec![], "which were not offered"),
    ];
    for (request, fds, why) in cases {
        let mut front_end = FrontEnd::new(split());
        front_end.send_octets(&request.encode(false), fds);
        let closed = front_end.closed.clone().unwrap_or_default();
        assert!(closed.contains(why), "{request:?}: {closed:?}");
        assert_eq!(front_end.state, Some((State::Down, closed)));
    }
}

#[test]
fn what_was_in_flight_when_the_back_end_died_is_taken_again() {
    for features in [split(), packed()] {
        let mut front_end = FrontEnd::new(features);
        front_end.introduce();
        let asked = Inflight { len: 0, offset: 0, queues: 2, queue_size: 64 };
        front_end.send(&Request::GetInflightFd(asked), vec![]);
        let (octets, fd) = front_end.replies.pop().unwrap();
        let Ok(Reply::Inflight(inflight)) = Reply::decode(31, &octets[12..]) else { panic!() };
        front_end.send(&Request::SetInflightFd(inflight), vec![fd.clone().unwrap()]);
        front_end.share_memory();
        let base = front_end.first_base();
        front_end.start_rings([base; 2]);
        front_end.exchange(0..100);
        // It dies with a frame in its hands, and with receive buffers held.
        front_end.offer(0, 0xee, 100);
        let StartPair { path, mem, .. } = front_end.running.get_mut(&0).unwrap();
        assert!(matches!(path.receive(mem), Ok(Inward::Frame { .. })));
        front_end.running.clear();
        front_end.link = BackEndLink::new(params(1));
        front_end.introduce();
        front_end.send(&Request::SetInflightFd(inflight), vec![fd.unwrap()]);
        front_end.share_memory();
        // This front-end does not know where the rings are.
        front_end.start_rings([base; 2]);
        assert_eq!(front_end.take(0), Some(vec![0xee; 100]), "the frame that was in its hands");
        front_end.exchange(100..200);
    }
}

#[test]
fn protocol_features_are_those_that_work_here() {
    let mut front_end = FrontEnd::new(split());
    let of_one_pair = PROTOCOL_FEATURES & !protocol::MQ;
    assert_eq!(front_end.ask(&Request::GetProtocolFeatures), Reply::Number(of_one_pair));
    assert_eq!(front_end.ask(&Request::GetQueueNum), Reply::Number(1));
    front_end.introduce();
    assert_eq!(front_end.ask(&Request::GetMaxMemSlots), Reply::Number(32));
    let asked = Request::GetConfig { offset: 0, flags: 0, data: vec![0; 12] };
    let Reply::Config { data, .. } = front_end.ask(&asked) else { panic!() };
    assert_eq!(data, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0xdc, 5]);
    assert_eq!(front_end.link.protocol() & protocol::STATUS, protocol::STATUS);
    // One that asks for a reply gets one.
    front_end.send_octets(&Request::SetOwner.encode(true), vec![]);
    assert_eq!(front_end.replies.pop().map(|(octets, _)| octets[12..].to_vec()), Some(vec![0; 8]));
}
