//! One thing at a time.

use super::*;

#[test]
fn both_ends_come_up_in_either_order_and_frames_pass() {
    for order in [[Role::Device, Role::Driver], [Role::Driver, Role::Device]] {
        let mut world = World::new(1);
        for role in order {
            world.attach(role, Features::NONE);
            world.run(SECOND);
        }
        world.until_up(SECOND);
        world.frames_pass();
        for end in world.ends.values() {
            let peer = end.peer.as_ref().unwrap();
            assert_eq!(peer.version.to_string(), format!("{:?}", end.role.other()));
            assert_eq!(end.link.slot(), Some(3));
        }
    }
}

#[test]
fn without_any_doorbell_the_ends_come_up_in_seconds() {
    let mut world = World::new(2);
    world.wire.lost = 100;
    world.both();
    let took = world.until_up(5 * SECOND);
    world.frames_pass();
    assert!(took < 3 * SECOND, "{took:?}");
}

#[test]
fn a_feature_that_either_end_leaves_out_is_not_in_use() {
    let off = [
        net::F_MRG_RXBUF,
        net::F_HOST_TSO4,
        net::F_GUEST_TSO6,
        net::F_CSUM,
        net::F_GUEST_CSUM,
        net::F_STATUS,
        net::F_MTU,
        net::F_MAC,
        virtio::F_EVENT_IDX,
        virtio::F_INDIRECT_DESC,
        virtio::F_ACCESS_PLATFORM,
        virtio::F_RING_PACKED,
        virtio::F_IN_ORDER,
        virtio::F_RING_RESET,
        net::F_STATUS,
        net::F_CTRL_VQ,
        net::F_CTRL_RX,
        net::F_CTRL_MAC_ADDR,
        net::F_GUEST_ANNOUNCE,
    ];
    for bit in off {
        for which in [Role::Device, Role::Driver] {
            let mut world = World::new(u64::from(bit));
            for role in [Role::Device, Role::Driver] {
                let off = if role == which { Features::of(&[bit]) } else { Features::NONE };
                world.attach(role, off);
            }
            world.until_up(SECOND);
            world.frames_pass();
            let used: Vec<_> =
                world.ends.values().map(|e| e.worker.as_ref().unwrap().features).collect();
            assert_eq!(used[0], used[1]);
            assert_eq!(used[0], ONE_PAIR.without(Features::of(&[bit])), "{which:?}");
        }
    }
}

#[test]
fn packed_rings_are_not_for_memory_of_which_some_is_not_cached() {
    for kinds in [[Kind::Uncached, Kind::Cached], [Kind::Cached, Kind::WriteCombined]] {
        let mut world = World::new(8);
        world.mem = slot_of(world.len, kinds);
        world.both();
        world.until_up(SECOND);
        world.frames_pass();
        for end in world.ends.values() {
            let features = end.worker.as_ref().unwrap().features;
            let packed = Features::of(&[virtio::F_RING_PACKED]);
            assert_eq!(features, ONE_PAIR.without(packed), "{kinds:?}");
        }
    }
}

#[test]
fn version_1_cannot_be_left_out() {
    for which in [Role::Device, Role::Driver] {
        let mut world = World::new(4);
        for role in [Role::Device, Role::Driver] {
            let off = Features::of(&[virtio::F_VERSION_1]);
            world.attach(role, if role == which { off } else { Features::NONE });
        }
        world.until_up(SECOND);
    }
}

#[test]
fn an_idle_link_is_called_at_its_heartbeats_and_no_more() {
    let idle = |world: &mut World, id: u32| {
        let before = world.ends[&id].turns;
        world.run(20 * SECOND);
        (world.ends[&id].turns - before) / 20
    };
    let mut world = World::new(5);
    let driver = world.attach(Role::Driver, Features::NONE);
    world.run(SECOND);
    let alone = idle(&mut world, driver);
    assert!(alone <= 21, "alone: {alone} turns a second, one look each 50 ms");
    let device = world.attach(Role::Device, Features::NONE);
    world.until_up(SECOND);
    let rival = world.attach(Role::Device, Features::NONE);
    world.run(SECOND);
    let (up, board) = (idle(&mut world, driver), idle(&mut world, device));
    assert!(up <= 10 && board <= 10, "up: {up} and {board}, four beats and a keepalive");
    let waiting = idle(&mut world, rival);
    assert!(waiting <= 21, "a rival: {waiting}");
    for _ in 0..6 {
        world.until_up(100 * SECOND);
        world.break_worker(driver);
    }
    let before = world.ends[&driver].turns;
    world.run(20 * SECOND);
    assert!(world.ends[&driver].turns - before <= 2 * 25, "in quarantine next to nothing");
}

#[test]
fn a_ring_that_breaks_under_either_end_is_set_up_again() {
    for which in 0..2 {
        let mut world = World::new(6);
        let ids = world.both();
        world.until_up(SECOND);
        world.break_worker(ids[which]);
        assert!(!world.ends[&ids[which]].carrier, "a netdev behind a broken ring has no carrier");
        world.run(10 * MS);
        assert!(world.ends.values().all(|end| end.worker.is_none() && !end.carrier));
        let driver = &world.ends[&ids[1]];
        assert_eq!(driver.state, State::Quarantined);
        if which == 0 {
            assert!(driver.reason.contains("reset"), "{}", driver.reason);
            let said = &world.ends[&ids[0]].log;
            assert!(said.iter().any(|(_, _, why)| why == "a test broke the ring"), "{said:?}");
        }
        let took = world.until_up(2 * SECOND);
        assert!(took >= SECOND / 2, "it is not met again at once: {took:?}");
        world.frames_pass();
    }
}

#[test]
fn a_slow_worker_is_told_once_to_stop_and_holds_up_the_new_session() {
    for which in 0..2 {
        let mut world = World::new(7);
        let ids = world.both();
        world.until_up(SECOND);
        world.wire.stop = 3 * SECOND;
        world.break_worker(ids[which]);
        world.run(10 * MS);
        // More reasons to leave, while the workers still stop.
        world.break_worker(ids[1 - which]);
        let late = world.ends[&ids[0]].epoch;
        let now = world.now;
        world.input(ids[0], |link| link.handle_broken(now, "once more"));
        world.input(ids[1], |link| link.handle_broken(now, "once more"));
        world.crash(ids[1 - which]);
        world.run(10 * MS);
        assert_eq!(world.ends.get(&ids[0]).map_or(late, |end| end.epoch), late);
        let role = [Role::Driver, Role::Device][which];
        world.attach(role, Features::NONE);
        world.until_up(10 * SECOND);
        world.frames_pass();
    }
}

#[test]
fn a_rival_gets_the_slot_when_the_first_one_s_worker_is_gone_and_no_sooner() {
    for role in [Role::Device, Role::Driver] {
        let mut world = World::new(8);
        let ids = world.both();
        let first = ids[usize::from(role == Role::Driver)];
        world.until_up(SECOND);
        let rival = world.attach(role, Features::NONE);
        world.run(2 * SECOND);
        assert_eq!(world.ends[&rival].state, State::Waiting);
        assert!(world.ends[&rival].reason.starts_with("slot is held by another"));
        // `World::start` fails if the rival begins while the first one's worker has its rings.
        (world.wire.stop, world.wire.slow) = (2 * SECOND, Some(first));
        let now = world.now;
        world.input(first, |link| link.shutdown(now));
        while world.ends[&first].worker.is_some() {
            world.step(now + 10 * SECOND);
        }
        world.run(SECOND);
        assert_eq!(world.ends[&first].link.poll_timeout(), None);
        let up = world.ends[&rival].worker.is_some();
        assert!(up, "it need not wait for the first one's process: {:#?}", world.logs());
        world.crash(first);
        world.until_up(SECOND);
        world.frames_pass();
    }
}

#[test]
fn a_link_that_is_stopped_wants_nothing_more_in_whatever_state_it_was() {
    for wait in [0, 5, 10, 25, 40, 60, 80, 100, 150, 400] {
        for which in 0..2 {
            let mut world = World::new(9 + wait);
            let ids = world.both();
            world.run(Duration::from_millis(wait));
            world.stop(ids[which]);
            world.run(2 * SECOND);
            let other = &world.ends[&ids[1 - which]];
            assert_eq!((other.state, other.carrier), (State::Waiting, false), "after {wait} ms");
            world.attach([Role::Device, Role::Driver][which], Features::NONE);
            world.until_up(2 * SECOND);
            world.frames_pass();
        }
    }
}

#[test]
fn an_end_that_freezes_is_dead_after_a_second_and_comes_back() {
    for which in 0..2 {
        let mut world = World::new(10);
        let ids = world.both();
        world.until_up(SECOND);
        let thaw = world.now + 5 * SECOND;
        world.end(ids[which]).frozen_until = Some(thaw);
        world.run(1300 * MS);
        let other = &world.ends[&ids[1 - which]];
        assert!(other.worker.is_none() && !other.carrier, "{:?}", other.log);
        assert!(other.log.iter().any(|(_, _, why)| why.contains("silent")), "{:?}", other.log);
        world.run(4 * SECOND);
        world.until_up(3 * SECOND);
        world.frames_pass();
    }
}

/// How long the driver's quarantine lasts after its ring breaks.
fn quarantine(world: &mut World, driver: u32) -> Duration {
    world.until_up(100 * SECOND);
    let (since, epoch) = (world.now, world.ends[&driver].epoch);
    world.break_worker(driver);
    assert_eq!(world.ends[&driver].state, State::Quarantined);
    while world.ends[&driver].epoch == epoch {
        world.run(MS);
    }
    // It ended in the millisecond before.
    world.now - since - MS
}

#[test]
fn quarantine_grows_from_a_second_to_a_minute_and_a_minute_up_ends_it() {
    let mut world = World::new(11);
    let [_, driver] = world.both();
    for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        assert_eq!(quarantine(&mut world, driver), expected * SECOND);
    }
    world.until_up(SECOND);
    world.run(59 * SECOND);
    assert_eq!(quarantine(&mut world, driver), 60 * SECOND, "not quite a minute");
    world.until_up(SECOND);
    world.run(60 * SECOND);
    assert_eq!(quarantine(&mut world, driver), SECOND);
    assert_eq!(quarantine(&mut world, driver), 2 * SECOND);
}

#[test]
fn only_time_that_the_link_was_up_makes_up_for_offences() {
    let mut world = World::new(12);
    let [device, driver] = world.both();
    assert_eq!(quarantine(&mut world, driver), SECOND);
    world.until_up(SECOND);
    world.run(5 * SECOND);
    world.stop(device);
    world.run(300 * SECOND);
    world.attach(Role::Device, Features::NONE);
    world.until_up(SECOND);
    assert_eq!(quarantine(&mut world, driver), 2 * SECOND, "five minutes alone do not count");
    // A minute up does, though the session ended by itself before the next offence.
    world.until_up(SECOND);
    world.run(61 * SECOND);
    let device = world.next_id - 1;
    world.stop(device);
    world.attach(Role::Device, Features::NONE);
    assert_eq!(quarantine(&mut world, driver), SECOND);
}

/// The whole window as its octets.
fn window(world: &World) -> crate::memory::View<'_> {
    world.mem.view(world.mem.resolve(0, (world.len / 4) as u32).unwrap()).unwrap()
}

#[test]
fn a_window_of_another_version_is_named_until_it_is_ours() {
    let mut world = World::new(13);
    let [device, _] = world.both();
    world.until_up(SECOND);
    world.crash(device);
    window(&world).store_le32(window::AT_VERSION, 2);
    world.run(SECOND);
    let driver = world.ends.values().next().unwrap();
    assert_eq!(driver.state, State::Waiting);
    assert!(driver.reason.contains("layout version 2"), "{}", driver.reason);
    world.attach(Role::Device, Features::NONE);
    world.until_up(SECOND);
}

#[test]
fn a_slot_that_is_too_small_is_refused_in_words() {
    let mut world = World::with_slot(14, 256 << 10);
    let [device, driver] = world.both();
    world.run(100 * SECOND);
    let said = |id: u32| &world.ends[&id].log;
    assert!(said(driver).iter().any(|(_, state, why)| {
        *state == State::Quarantined && why == "the slot is too small for queues and buffers"
    }));
    assert!(said(driver).len() < 200 && said(device).len() < 200, "no flood of states");
    // Smaller still: not even the tunnel fits, with a mailbox for each end.
    for len in [64, 4096, 8192, 16 << 10, 20 << 10, 33 << 10, 49 << 10, 50 << 10] {
        for role in [Role::Device, Role::Driver] {
            let params = params(role, 1, len, Features::NONE);
            let link = Link::new(Instant::now(), slot(len), params);
            let fits = len / 4 >= 4096 + 2 * 4352;
            assert_eq!(link.is_ok(), fits, "{len} {role:?}");
        }
    }
}

#[test]
fn a_board_in_reset_is_a_dead_link_and_its_next_life_is_met() {
    let mut world = World::new(15);
    let [device, driver] = world.both();
    world.until_up(SECOND);
    world.crash(device);
    // Its worker sleeps, as no doorbell rings, and does not see what becomes of the rings.
    world.end(driver).worker.as_mut().unwrap().broken = true;
    window(&world).copy_from(0, &vec![0xff; (world.len / 4) as usize]);
    world.parcels.clear();
    world.run(2 * SECOND);
    assert_eq!(world.ends[&driver].state, State::Waiting);
    assert!(world.ends[&driver].reason.contains("all ones"), "{}", world.ends[&driver].reason);
    // Its memory may hold anything when it comes back, all ones too.
    world.attach(Role::Device, Features::NONE);
    world.run(SECOND);
    world.until_up(2 * SECOND);
    world.frames_pass();
}

#[test]
fn an_end_that_died_before_it_met_anybody_is_not_met_again_and_again() {
    for role in [Role::Device, Role::Driver] {
        let mut world = World::new(17);
        let dead = world.attach(role, Features::NONE);
        world.run(SECOND);
        world.crash(dead);
        let id = world.attach(role.other(), Features::NONE);
        world.run(20 * SECOND);
        let end = &world.ends[&id];
        assert_eq!(end.reason, format!("waiting for {}", role.name()));
        assert!(end.log.len() <= 3, "{:?}", end.log);
        world.attach(role, Features::NONE);
        world.until_up(SECOND);
        world.frames_pass();
    }
}
