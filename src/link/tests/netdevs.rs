//! What netdevs are set to, told between two links.

use super::*;
use crate::tunnel::message::NetdevState;

const STATE: NetdevState = NetdevState { mtu: 1500, up: true, mac: [2, 0, 0, 0, 0, 1] };

impl World {
    fn set(&mut self, id: u32, own: NetdevState) {
        let now = self.now;
        self.input(id, |link| link.handle_netdev(now, own));
    }
}

fn heard(own: NetdevState) -> PeerLink {
    PeerLink { up: own.up, mtu: Some(own.mtu), mac: Some(own.mac) }
}

#[test]
fn each_end_hears_at_once_what_the_other_end_s_netdev_is_set_to() {
    for dialect in [Dialect::V1, Dialect::V2] {
        let mut world = World::new(20);
        world.dialect = dialect;
        let ids = world.both();
        let own = [STATE, NetdevState { mtu: 9000, mac: [2, 0, 0, 0, 0, 2], ..STATE }];
        world.set(ids[0], own[0]);
        world.set(ids[1], own[1]);
        world.until_up(SECOND);
        for which in 0..2 {
            let other = ids[1 - which];
            assert_eq!(world.ends[&other].link.peer_link(), Some(heard(own[which])), "{dialect}");
            world.run(SECOND);
            let changed = NetdevState { mtu: 1400, ..own[which] };
            world.set(ids[which], changed);
            world.run(2 * MS);
            assert_eq!(world.ends[&other].link.peer_link(), Some(heard(changed)));
        }
        world.frames_pass();
        assert!(world.ends.values().all(|end| end.told.len() == 2), "each change once");
    }
}

#[test]
fn a_netdev_set_down_takes_the_other_end_s_carrier_and_no_worker() {
    let mut world = World::new(21);
    let ids = world.both();
    ids.iter().for_each(|id| world.set(*id, STATE));
    world.until_up(SECOND);
    for [here, there] in [ids, [ids[1], ids[0]]] {
        let epochs = world.ends[&there].link.epochs();
        for up in [false, true] {
            world.set(here, NetdevState { up, ..STATE });
            world.run(SECOND);
            assert_eq!(world.ends[&there].carrier, up);
            assert!(world.ends[&here].carrier, "its own is the other end's to take");
            assert!(world.ends.values().all(|e| e.worker.is_some() && e.state == State::Up));
        }
        assert_eq!(world.ends[&there].link.epochs(), epochs);
    }
    world.frames_pass();
}

#[test]
fn a_session_that_begins_with_a_netdev_set_down_has_no_carrier_for_a_moment() {
    for which in 0..2 {
        let mut world = World::new(22);
        let ids = world.both();
        world.set(ids[which], NetdevState { up: false, ..STATE });
        while world.ends[&ids[1 - which]].state != State::Up {
            assert!(!world.ends[&ids[1 - which]].carrier);
            world.step(world.began + 10 * SECOND);
        }
        world.run(SECOND);
        assert!(!world.ends[&ids[1 - which]].carrier && world.ends[&ids[which]].carrier);
        world.set(ids[which], STATE);
        world.until_up(SECOND);
    }
}

#[test]
fn a_peer_that_comes_back_tells_again_and_one_that_tells_nothing_counts_as_set_up() {
    let mut world = World::new(23);
    let [device, driver] = world.both();
    world.set(device, NetdevState { up: false, ..STATE });
    world.run(SECOND);
    assert!(!world.ends[&driver].carrier);
    for tells in [true, false] {
        let device = world.role_id(Role::Device);
        world.crash(device);
        world.run(2 * SECOND);
        assert_eq!(world.ends[&driver].link.peer_link(), None);
        let device = world.attach(Role::Device, Features::NONE);
        if tells {
            world.set(device, NetdevState { up: false, ..STATE });
        }
        world.run(2 * SECOND);
        let driver = &world.ends[&driver];
        assert_eq!((driver.state, driver.carrier), (State::Up, !tells));
        assert_eq!(driver.link.peer_link().is_some(), tells);
    }
}

#[test]
fn a_netdev_s_state_alone_takes_no_slot() {
    let mut world = World::new(25);
    let first = world.attach(Role::Device, Features::NONE);
    world.run(SECOND);
    let rival = world.attach(Role::Device, Features::NONE);
    // Before it hears who else is there.
    world.set(rival, STATE);
    world.run(SECOND);
    assert!(world.ends[&rival].reason.starts_with("slot is held by another"));
    assert!(world.ends[&first].reason.starts_with("waiting for master"));
}

#[test]
fn without_any_doorbell_a_change_is_heard_at_the_next_heartbeat() {
    let mut world = World::new(24);
    world.wire.lost = 100;
    let ids = world.both();
    world.until_up(5 * SECOND);
    for which in 0..2 {
        world.set(ids[which], STATE);
        world.run(HEARTBEAT + MS);
        assert_eq!(world.ends[&ids[1 - which]].link.peer_link(), Some(heard(STATE)));
    }
}

impl World {
    fn role_id(&self, role: Role) -> u32 {
        *self.ends.iter().find(|(_, end)| end.role == role).unwrap().0
    }
}
