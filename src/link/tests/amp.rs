//! Links over "AMP over PCI": ends that know of each other by messages alone.

use super::*;
use crate::spec::amp_pci;

impl World {
    pub(super) fn of_layout(seed: u64, layout: Layout) -> Self {
        let dialect = match layout {
            Layout::Boardlane => Dialect::default(),
            Layout::AmpPci => Dialect::V1,
        };
        Self { dialect, layout, ..Self::new(seed) }
    }

    fn amp(seed: u64) -> Self {
        Self::of_layout(seed, Layout::AmpPci)
    }
}

fn said(world: &World, id: u32, what: &str) -> bool {
    world.ends[&id].log.iter().any(|(_, _, why)| why.contains(what))
}

#[test]
fn both_ends_come_up_in_either_order_and_frames_pass() {
    for order in [[Role::Device, Role::Driver], [Role::Driver, Role::Device]] {
        let mut world = World::amp(1);
        for role in order {
            world.attach(role, Features::NONE);
            assert!(!world.is_up());
            world.run(3 * SECOND);
        }
        world.until_up(SECOND);
        world.frames_pass();
        for end in world.ends.values() {
            assert!(end.peer.is_none() && end.told.is_empty());
            assert_eq!((end.link.epochs(), end.link.slot()), ((0, None), Some(3)));
        }
    }
}

#[test]
fn without_any_doorbell_the_ends_come_up_in_seconds() {
    let mut world = World::amp(2);
    world.wire.lost = 100;
    world.both();
    let took = world.until_up(5 * SECOND);
    world.frames_pass();
    assert!(took < 3 * SECOND, "{took:?}");
}

#[test]
fn an_idle_link_is_called_at_its_heartbeats_and_no_more() {
    let mut world = World::amp(5);
    let ids = world.both();
    world.until_up(SECOND);
    world.run(5 * SECOND);
    let turns = |world: &World| ids.map(|id| world.ends[&id].turns);
    let before = turns(&world);
    world.run(20 * SECOND);
    for (before, after) in before.into_iter().zip(turns(&world)) {
        let each = (after - before) / 20;
        assert!(each <= 14, "{each} a second: four beats, and a keepalive's messages");
    }
    assert!(world.is_up());
    world.frames_pass();
}

#[test]
fn an_end_that_dies_is_back_though_nobody_says_that_it_has_gone() {
    for which in 0..2 {
        for notice in [MS, 20 * SECOND] {
            for pause in [Duration::ZERO, 300 * MS, 4 * SECOND, 9 * SECOND] {
                let mut world = World::amp(3);
                let ids = world.both();
                world.until_up(SECOND);
                world.frames_pass();
                world.wire.gone = notice;
                world.crash(ids[which]);
                world.run(pause);
                world.attach([Role::Device, Role::Driver][which], Features::NONE);
                world.run(50 * MS);
                let took = world.until_up(3 * SECOND);
                world.frames_pass();
                let log = &world.ends[&ids[1 - which]].log;
                assert!(!log.iter().any(|(_, state, _)| *state == State::Quarantined), "{log:?}");
                assert!(took < 1500 * MS, "{which} {notice:?} {pause:?}: {took:?}");
            }
        }
    }
}

#[test]
fn a_worker_that_is_slow_to_stop_holds_up_the_next_session_and_its_rings_are_left_alone() {
    for which in 0..2 {
        let mut world = World::amp(7);
        let ids = world.both();
        world.until_up(SECOND);
        world.wire.stop = 4 * SECOND;
        world.break_worker(ids[which]);
        for _ in 0..20 {
            world.run(200 * MS);
            world.send(ids[1 - which]);
        }
        world.until_up(20 * SECOND);
        // The device was not taken for dead while its driver waited for the reset.
        assert!(!said(&world, ids[1], "silent"), "{:#?}", world.logs());
        world.wire = GOOD;
        world.run(SECOND);
        world.until_up(20 * SECOND);
        world.frames_pass();
    }
}

#[test]
fn an_end_that_freezes_is_given_up_and_comes_back() {
    for (which, patience) in [(0, 2500 * MS), (1, 6 * SECOND)] {
        let mut world = World::amp(10);
        let ids = world.both();
        world.until_up(SECOND);
        let thaw = world.now + 9 * SECOND;
        world.end(ids[which]).frozen_until = Some(thaw);
        world.run(patience);
        let other = &world.ends[&ids[1 - which]];
        assert!(other.worker.is_none() && !other.carrier, "{:?}", other.log);
        assert!(said(&world, ids[1 - which], "is silent: no message for"));
        world.run(9 * SECOND - patience);
        world.until_up(3 * SECOND);
        world.frames_pass();
    }
}

#[test]
fn a_ring_that_breaks_under_either_end_is_set_up_again() {
    for which in 0..2 {
        let mut world = World::amp(6);
        let ids = world.both();
        world.until_up(SECOND);
        world.break_worker(ids[which]);
        world.run(10 * MS);
        assert!(world.ends.values().all(|end| end.worker.is_none() && !end.carrier));
        assert_eq!(world.ends[&ids[1]].state, State::Quarantined);
        let took = world.until_up(2 * SECOND);
        assert!(took >= SECOND / 2, "it is not met again at once: {took:?}");
        world.frames_pass();
    }
}

#[test]
fn an_end_that_stops_is_known_to_have_stopped() {
    for which in 0..2 {
        let mut world = World::amp(9);
        let ids = world.both();
        world.until_up(SECOND);
        world.wire.gone = 10 * SECOND;
        world.stop(ids[which]);
        world.run(20 * MS);
        let other = &world.ends[&ids[1 - which]];
        assert!(other.worker.is_none() && !other.carrier, "{:?}", other.log);
        world.attach([Role::Device, Role::Driver][which], Features::NONE);
        world.until_up(2 * SECOND);
        world.frames_pass();
    }
}

#[test]
fn notifications_are_messages_each_pending_once_and_wake_the_other_end() {
    let mut world = World::amp(11);
    let ids = world.both();
    world.until_up(SECOND);
    world.run(100 * MS);
    let now = world.now;
    for (which, queue) in [(0, 0), (1, 1)] {
        let [from, to] = [ids[which], ids[1 - which]];
        let before = world.ends[&to].events;
        world.wire.lost = 100;
        // Many more than there is room for in the FIFO, and the other end is not called meanwhile.
        for _ in 0..500 {
            world.input(from, |link| link.handle_notify(now, queue));
        }
        assert!(world.is_up());
        // A queue that is not there is no message.
        world.input(from, |link| link.handle_notify(now, 40));
        world.wire.lost = 0;
        world.run(300 * MS);
        let woken = world.ends[&to].events - before;
        assert!((61..=80).contains(&woken), "{woken} events");
        world.frames_pass();
    }
}

#[test]
fn whatever_stands_in_the_window_nobody_panics_and_the_ends_find_each_other_after_it() {
    for seed in 0..20 {
        let mut world = World::amp(seed);
        world.both();
        world.until_up(SECOND);
        let events = |world: &World| world.ends.values().map(|end| end.events).sum::<u64>();
        let before = events(&world);
        for _ in 0..300 {
            let pause = world.random.up_to(20 * MS);
            world.run(pause);
            scribble(&mut world);
        }
        let after = events(&world) - before;
        assert!(after < 30_000, "seed {seed}: {after} events");
        // A quarantine may have a minute to go.
        world.until_up(70 * SECOND);
        world.run(3 * SECOND);
        assert!(world.is_up());
        world.frames_pass();
    }
}

/// Changes something in the FIFO.
fn scribble(world: &mut World) {
    let fifo = world.mem.resolve(0, amp_pci::FIFO_LEN).unwrap();
    let mem = world.mem.clone();
    let view = mem.view(fifo).unwrap();
    let random = &mut world.random;
    let queue = [amp_pci::TO_DEVICE, amp_pci::TO_DRIVER][random.below(2) as usize] as usize;
    match random.below(4) {
        0 => {
            let at = [amp_pci::AT_HEAD, amp_pci::AT_TAIL][random.below(2) as usize];
            let value = [random.below(62), random.below(70), u64::from(u32::MAX)];
            view.store_le32(queue + at, value[random.below(3) as usize] as u32);
        }
        1 => {
            // Octets of a message that is one nearly.
            let slot = amp_pci::AT_SLOTS + random.below(62) as usize * amp_pci::SLOT_LEN;
            let at = queue + slot + random.below(16) as usize * 4;
            view.store_le32(at, random.below(300) as u32);
        }
        2 => {
            let len = amp_pci::SLOTS as usize * amp_pci::SLOT_LEN;
            let octets: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            view.copy_from(queue + amp_pci::AT_SLOTS, &octets);
        }
        _ => {
            let head = view.load_le32(queue + amp_pci::AT_HEAD);
            view.store_le32(queue + amp_pci::AT_HEAD, head.wrapping_add(1) % amp_pci::SLOTS);
        }
    }
}

#[test]
fn the_master_learns_how_long_its_board_takes_to_answer_in_either_layout() {
    for layout in [Layout::Boardlane, Layout::AmpPci] {
        let mut world = World::of_layout(9, layout);
        let [device, driver] = world.both();
        world.until_up(3 * SECOND);
        let mut answers = 0;
        for _ in 0..50 {
            world.run(100 * MS);
            let took = world.ends.get_mut(&driver).unwrap().link.take_round_trip();
            assert!(took.is_none_or(|took| took < 100 * MS), "{took:?}");
            answers += u32::from(took.is_some());
            assert_eq!(world.ends.get_mut(&device).unwrap().link.take_round_trip(), None);
        }
        assert!((4..=6).contains(&answers), "{layout}: {answers} in five seconds");
    }
}
