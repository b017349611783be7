//! Ends of which no transport tells, so that heartbeats do.

use super::*;

#[test]
fn without_notices_ends_meet_by_heartbeat_and_what_a_dead_end_left_is_not_met() {
    let mut world = World::new();
    let [mut a, mut b] = [(Role::Device, 1), (Role::Driver, 2)].map(|(role, id)| {
        let mut end = world.end(role, id);
        end.go_by_heartbeats();
        end
    });
    world.alive.clear();
    world.until_up(&mut a, &mut b);
    // The master dies, the board sees it by the heartbeat; what the master left says that it runs, then,
    // from another that died earlier on its way, that it is ready.
    let (reason, after) = world.until_down(&mut a);
    assert_eq!(reason, Reason::Silent(Role::Driver));
    assert!(after <= DEAD + HEARTBEAT, "{after:?}");
    let part = world.mem.resolve(w::DRIVER_PART as u64, 64).unwrap();
    for state in [w::STATE_RUN, w::STATE_READY] {
        world.mem.view(part).unwrap().store_le32(w::PART_STATE, state);
        world.start(&mut a);
        for _ in 0..400 {
            assert!(!matches!(world.look(&mut a), Some(Change::Up(..) | Change::Down(_))));
            world.now += Duration::from_millis(5);
        }
    }
    // Another master, with another id, takes over what stands still.
    let mut c = world.end(Role::Driver, 3);
    c.go_by_heartbeats();
    world.until_up(&mut a, &mut c);
    // And a third one has to wait as long as that one lives.
    let mut d = world.end(Role::Driver, 4);
    d.go_by_heartbeats();
    for _ in 0..400 {
        assert!(!matches!(world.look(&mut d), Some(Change::Ring(_) | Change::Up(..))));
        assert!(!matches!(world.look(&mut c), Some(Change::Down(_))));
        assert!(!matches!(world.look(&mut a), Some(Change::Down(_))));
        world.now += Duration::from_millis(5);
    }
}

#[test]
fn an_end_without_an_id_lives_by_its_heartbeat_on_a_transport_that_tells_of_the_others() {
    let mut world = World::new();
    let mut a = world.end(Role::Device, w::MAX_ID + 2);
    let mut b = world.end(Role::Driver, 2);
    world.alive.remove(&(w::MAX_ID + 2));
    world.until_up(&mut a, &mut b);
    // It dies on its way to a session: what stands there is not met, and another one takes it over.
    let (reason, _) = world.until_down(&mut b);
    assert_eq!(reason, Reason::Silent(Role::Device));
    let part = world.mem.resolve(w::DEVICE_PART as u64, 64).unwrap();
    world.mem.view(part).unwrap().store_le32(w::PART_STATE, w::STATE_READY);
    world.start(&mut b);
    for _ in 0..400 {
        assert!(!matches!(world.look(&mut b), Some(Change::Up(..) | Change::Down(_))));
        world.now += Duration::from_millis(5);
    }
    let mut c = world.end(Role::Device, 3);
    world.until_up(&mut c, &mut b);
}

#[test]
fn an_end_that_slept_finds_its_part_taken_and_does_not_write_to_it() {
    for role in [Role::Device, Role::Driver] {
        let mut world = World::new();
        let [mut slept, mut other, mut new] =
            [(role, w::MAX_ID + 5), (role.other(), w::MAX_ID + 6), (role, w::MAX_ID + 7)]
                .map(|(role, id)| world.end(role, id));
        world.alive.clear();
        world.until_up(&mut slept, &mut other);
        assert_eq!(world.until_down(&mut other).0, Reason::Silent(role));
        world.start(&mut other);
        world.until_up(&mut new, &mut other);
        assert!(matches!(
            world.look(&mut slept),
            Some(Change::Down(Reason::Stolen(part, owner))) if (part, owner) == (role, w::MAX_ID + 7)
        ));
        // It waits as long as the other one lives, whose session stands.
        world.start(&mut slept);
        for _ in 0..400 {
            assert!(!matches!(world.look(&mut slept), Some(Change::Ring(_) | Change::Up(..))));
            for end in [&mut new, &mut other] {
                assert!(!matches!(world.look(end), Some(Change::Down(_))));
            }
            world.now += Duration::from_millis(5);
        }
    }
}
