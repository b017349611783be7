//! Two sessions on one window and a clock that the test turns.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fifo::Fifo;
use super::part::{MemoryEntry, Params, Peer, Reason, Role};
use super::session::{Change, LOOK_TIME, Session};
use crate::memory::{BusMemory, Kind, Mapping, Region, Side};
use crate::spec::window as w;

mod heartbeats;

const WINDOW: u32 = 0x8000;
const DRIVER_MEMORY: u64 = 0x8000;
const HEARTBEAT: Duration = Duration::from_millis(250);
const DEAD: Duration = Duration::from_secs(1);

struct World {
    mem: BusMemory,
    now: Instant,
    alive: BTreeSet<u32>,
    draws: u32,
}

impl World {
    fn new() -> Self {
        let m = Arc::new(Mapping::anonymous(0x10000, Kind::Cached));
        let mem = BusMemory::new(vec![
            Region::mapped(0, WINDOW.into(), Side::Near, m.clone(), 0),
            Region::mapped(DRIVER_MEMORY, 0x8000, Side::Far, m, 0x8000),
        ]);
        Self { mem: mem.unwrap(), now: Instant::now(), alive: BTreeSet::new(), draws: 0 }
    }

    fn params(role: Role, owner: u32) -> Params {
        let driver = MemoryEntry { kind: w::MEMORY_DRIVER, bus_addr: DRIVER_MEMORY, len: 0x8000 };
        let window = MemoryEntry { kind: w::MEMORY_WINDOW, bus_addr: 0, len: WINDOW.into() };
        Params {
            role,
            window_addr: 0,
            window_len: WINDOW,
            owner,
            vectors: 4,
            mailbox: if role == Role::Device { w::HEADER_LEN.into() } else { DRIVER_MEMORY },
            window_mailbox: 0x3000,
            dma_only: false,
            table: if role == Role::Device { vec![] } else { vec![window, driver] },
            slot: 7,
            heartbeat: HEARTBEAT,
            dead_after: DEAD,
        }
    }

    fn end(&mut self, role: Role, owner: u32) -> Session {
        self.alive.insert(owner);
        let mut s = Session::new(self.now, &self.mem, Self::params(role, owner)).unwrap();
        self.start(&mut s);
        s
    }

    fn start(&mut self, s: &mut Session) {
        self.draws += 1;
        s.start(self.now, self.draws, u64::from(self.draws) << 32);
    }

    fn look(&self, s: &mut Session) -> Option<Change> {
        let alive = self.alive.clone();
        s.handle_look(self.now, &self.mem, &|id| alive.contains(&id))
    }

    /// Turns both ends, restarting those that go down, until both are up.
    fn until_up(&mut self, a: &mut Session, b: &mut Session) -> [(Peer, Fifo); 2] {
        let mut up = [None, None];
        for _ in 0..400 {
            for (i, s) in [&mut *a, &mut *b].into_iter().enumerate() {
                match self.look(s) {
                    Some(Change::Up(peer, fifo)) => up[i] = Some((peer, fifo)),
                    Some(Change::Down(_)) => {
                        up[i] = None;
                        self.start(s);
                    }
                    _ => {}
                }
            }
            self.now += Duration::from_millis(5);
            if up.iter().all(Option::is_some) {
                return up.map(Option::unwrap);
            }
        }
        panic!("not up after two seconds: {a:?} {b:?}");
    }

    fn until_down(&mut self, s: &mut Session) -> (Reason, Duration) {
        let since = self.now;
        for _ in 0..400 {
            if let Some(Change::Down(reason)) = self.look(s) {
                return (reason, self.now - since);
            }
            self.now += Duration::from_millis(5);
        }
        panic!("still up after two seconds: {s:?}");
    }
}

fn say(mem: &BusMemory, from: &mut Fifo, to: &mut Fifo, text: &[u8]) {
    let mut slot = [0; w::SLOT_LEN];
    assert!(from.send(mem, text).unwrap());
    assert!(to.receive(mem, &mut slot).unwrap());
    assert_eq!(&slot[..text.len()], text);
}

#[test]
fn two_ends_meet_in_either_order_and_talk() {
    for device_first in [true, false] {
        let mut world = World::new();
        let roles =
            if device_first { [Role::Device, Role::Driver] } else { [Role::Driver, Role::Device] };
        let mut a = world.end(roles[0], 1);
        for _ in 0..20 {
            world.look(&mut a);
            world.now += LOOK_TIME;
        }
        let mut b = world.end(roles[1], 2);
        let [(peer_b, mut fa), (peer_a, mut fb)] = world.until_up(&mut a, &mut b);
        assert_eq!((peer_b.owner, peer_a.owner), (2, 1));
        assert_eq!((peer_b.epoch, peer_a.epoch), (b.epoch(), a.epoch()));
        assert_eq!((peer_a.vectors, peer_a.slot), (4, 7));
        say(&world.mem, &mut fa, &mut fb, b"hello");
        say(&world.mem, &mut fb, &mut fa, b"hello back");
    }
}

#[test]
fn a_master_without_a_board_says_that_the_window_has_no_magic() {
    let mut world = World::new();
    let mut s = world.end(Role::Driver, 1);
    let mut said = Vec::new();
    for _ in 0..50 {
        if let Some(Change::Waiting(r)) = world.look(&mut s) {
            said.push(r.to_string());
        }
        world.now += Duration::from_millis(10);
    }
    assert_eq!(said, ["claiming the slot", "waiting for board: window has no magic"]);
}

#[test]
fn a_header_of_another_version_or_size_is_named() {
    let cases = [
        (w::AT_VERSION, 2u64 | 4096 << 32, Reason::Version(2)),
        (w::AT_WINDOW_LEN, 0x4000, Reason::WindowLen(0x4000)),
        (w::AT_MAGIC, 0x1234, Reason::NoMagic),
        (w::AT_MAGIC, u64::MAX, Reason::AllOnes),
    ];
    for (at, value, expected) in cases {
        let mut world = World::new();
        let mut device = world.end(Role::Device, 1);
        for _ in 0..20 {
            world.look(&mut device);
            world.now += Duration::from_millis(10);
        }
        let window = world.mem.view(world.mem.resolve(0, WINDOW).unwrap()).unwrap();
        window.store_le64(at, value);
        let mut driver = world.end(Role::Driver, 2);
        let mut last = None;
        for _ in 0..20 {
            if let Some(Change::Waiting(r)) = world.look(&mut driver) {
                last = Some(r);
            }
            world.now += Duration::from_millis(10);
        }
        assert_eq!(last, Some(expected));
    }
}

#[test]
fn a_live_owner_wins_and_a_dead_one_is_replaced() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    let mut second = world.end(Role::Device, 3);
    let mut said = None;
    for _ in 0..20 {
        match world.look(&mut second) {
            Some(Change::Waiting(r)) => said = Some(r),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        assert!(world.look(&mut a).is_none() && world.look(&mut b).is_none());
        world.now += Duration::from_millis(10);
    }
    assert_eq!(said.unwrap().to_string(), "slot is held by another agent (peer 1)");
    // The first agent dies; the second takes over, and the master notices.
    world.alive.remove(&1);
    let gone = b.handle_peer_gone(&world.mem, 1);
    assert!(matches!(gone, Some(Change::Down(Reason::Gone(Role::Device)))), "{gone:?}");
    world.start(&mut b);
    let [(peer, _), _] = world.until_up(&mut b, &mut second);
    assert_eq!(peer.owner, 3);
}

#[test]
fn a_peer_whose_echo_comes_after_its_state_is_waited_for() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    let window = world.mem.view(world.mem.resolve(0, WINDOW).unwrap()).unwrap();
    let state = |role: Role| window.load_le32(role.own_part() + w::PART_STATE);
    while state(Role::Driver) != w::STATE_RUN {
        if state(Role::Device) != w::STATE_READY {
            world.look(&mut a);
        }
        world.look(&mut b);
        world.now += Duration::from_millis(5);
    }
    let at = w::DEVICE_PART + w::PART_STATE;
    window.store_le32(at, w::STATE_RUN);
    assert!(world.look(&mut b).is_none());
    window.store_le32(at + 4, b.epoch());
    assert!(matches!(world.look(&mut b), Some(Change::Up(..))));
}

#[test]
fn an_orderly_end_is_told_from_a_death_though_its_departure_is_heard_first() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    b.shutdown(&world.mem);
    let gone = a.handle_peer_gone(&world.mem, 2);
    assert!(matches!(gone, Some(Change::Down(Reason::Shutdown(Role::Driver)))), "{gone:?}");
}

#[test]
fn the_departure_of_a_stranger_changes_nothing() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    assert!(a.handle_peer_gone(&world.mem, 9).is_none());
    assert!(world.look(&mut a).is_none());
}

#[test]
fn an_owner_that_is_the_other_end_does_not_hold_the_slot() {
    let mut world = World::new();
    let mut master = world.end(Role::Driver, 2);
    for _ in 0..20 {
        world.look(&mut master);
        world.now += Duration::from_millis(10);
    }
    let window = world.mem.view(world.mem.resolve(0, WINDOW).unwrap()).unwrap();
    window.store_le32(w::DEVICE_PART + w::PART_OWNER, 2);
    window.store_le64(w::DEVICE_PART + w::PART_NONCE, 0x1111);
    let mut board = world.end(Role::Device, 1);
    world.until_up(&mut master, &mut board);
}

#[test]
fn of_two_claims_at_once_one_stays() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Device, 2));
    let mut ready = [0, 0];
    for _ in 0..100 {
        for (i, s) in [&mut a, &mut b].into_iter().enumerate() {
            match world.look(s) {
                Some(Change::Ring(_)) => ready[i] += 1,
                Some(Change::Down(_)) => panic!("a claim that stood was lost"),
                _ => {}
            }
        }
        world.now += Duration::from_millis(5);
    }
    assert_eq!(ready.iter().sum::<i32>(), 1, "{ready:?}");
}

#[test]
fn a_restart_of_either_end_is_noticed_and_both_meet_again() {
    for role in [Role::Device, Role::Driver] {
        let mut world = World::new();
        let (mut a, mut b) = (world.end(role, 1), world.end(role.other(), 2));
        world.until_up(&mut a, &mut b);
        for round in 0..10 {
            // A crash: a new process with a new id, and the old part still in the window.
            world.alive.remove(&(1 + 2 * round));
            let mut fresh = world.end(role, 3 + 2 * round);
            let [(peer, mut fa), (_, mut fb)] = world.until_up(&mut fresh, &mut b);
            assert_eq!(peer.epoch, b.epoch());
            say(&world.mem, &mut fa, &mut fb, b"again");
            a = fresh;
        }
        let (reason, after) = {
            world.start(&mut a);
            for _ in 0..20 {
                world.look(&mut a);
                world.now += Duration::from_millis(5);
            }
            world.until_down(&mut b)
        };
        assert_eq!(reason, Reason::Restarted(role));
        assert!(after <= HEARTBEAT);
    }
}

#[test]
fn a_silent_peer_is_dead_after_a_second_and_a_shutdown_is_seen_at_once() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    let (reason, after) = world.until_down(&mut b);
    assert_eq!(reason, Reason::Silent(Role::Device));
    assert!(after <= DEAD + HEARTBEAT, "{after:?}");

    world.start(&mut b);
    world.until_up(&mut a, &mut b);
    assert_eq!(a.shutdown(&world.mem), Some(2));
    assert!(
        matches!(world.look(&mut b), Some(Change::Down(Reason::Shutdown(Role::Device)))),
        "one look is enough"
    );
}

#[test]
fn doorbells_that_come_thick_make_no_more_far_reads_than_heartbeats_do() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    (0..10).for_each(|_| assert!(world.look(&mut b).is_none()));
    assert_eq!(a.shutdown(&world.mem), Some(2));
    assert!(world.look(&mut b).is_none(), "no far read is left");
    let (reason, after) = world.until_down(&mut b);
    assert_eq!(reason, Reason::Shutdown(Role::Device));
    assert!(after <= HEARTBEAT, "{after:?}");
}

#[test]
fn a_window_of_all_ones_is_a_dead_link() {
    let mut world = World::new();
    let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
    world.until_up(&mut a, &mut b);
    let window = world.mem.view(world.mem.resolve(0, WINDOW).unwrap()).unwrap();
    window.copy_from(0, &[0xff; 0x8000]);
    assert!(matches!(world.look(&mut b), Some(Change::Down(Reason::AllOnes))));
}

#[test]
fn memory_that_held_all_ones_before_does_not_keep_the_ends_apart() {
    for device_first in [true, false] {
        let mut world = World::new();
        let window = world.mem.resolve(0, WINDOW).unwrap();
        world.mem.view(window).unwrap().copy_from(0, &[0xff; WINDOW as usize]);
        let roles =
            if device_first { [Role::Device, Role::Driver] } else { [Role::Driver, Role::Device] };
        let mut a = world.end(roles[0], 1);
        for _ in 0..20 {
            world.look(&mut a);
            world.now += LOOK_TIME;
        }
        let mut b = world.end(roles[1], 2);
        world.until_up(&mut a, &mut b);
    }
}

#[test]
fn memory_that_a_board_cannot_reach_is_refused_with_its_address() {
    let mut world = World::new();
    let mut params = World::params(Role::Driver, 2);
    params.table[1].len = 0x9000;
    world.alive.insert(2);
    let mut driver = Session::new(world.now, &world.mem, params).unwrap();
    world.start(&mut driver);
    let mut device = world.end(Role::Device, 1);
    let mut last = None;
    for _ in 0..40 {
        world.look(&mut driver);
        if let Some(Change::Waiting(r)) = world.look(&mut device) {
            last = Some(r.to_string());
        }
        world.now += Duration::from_millis(10);
    }
    assert_eq!(last.unwrap(), "master's memory at 0x8000 with length 0x9000 cannot be reached");
}

#[test]
fn a_forged_header_never_panics() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..200 {
        let mut world = World::new();
        let (mut a, mut b) = (world.end(Role::Device, 1), world.end(Role::Driver, 2));
        let window = world.mem.view(world.mem.resolve(0, WINDOW).unwrap()).unwrap();
        for _ in 0..100 {
            for s in [&mut a, &mut b] {
                if let Some(Change::Down(_)) = world.look(s) {
                    world.draws += 1;
                    s.start(world.now, world.draws, u64::from(world.draws) << 32);
                }
            }
            let value = match random() % 4 {
                0 => u64::MAX,
                1 => random() % 4,
                _ => random(),
            };
            window.store_le64((random() % 40) as usize * 8, value);
            world.now += Duration::from_millis(random() % 40);
        }
    }
}

#[test]
fn a_board_whose_cpu_reaches_the_window_only_is_met_there_whoever_comes_first() {
    for device_first in [true, false] {
        let mut world = World::new();
        let window = world.mem.regions()[0].clone();
        let far = Region { backing: None, ..world.mem.regions()[1].clone() };
        let seen_by_device = BusMemory::new(vec![window, far]).unwrap();
        world.alive.extend([1, 2]);
        let params = Params { dma_only: true, ..World::params(Role::Device, 2) };
        let mut device = Session::new(world.now, &seen_by_device, params).unwrap();
        let params = World::params(Role::Driver, 1);
        let mut driver = Session::new(world.now, &world.mem, params).unwrap();
        for life in 0..2 {
            let mut up = [None, None];
            world.start(if device_first { &mut device } else { &mut driver });
            for turn in 0..400 {
                if turn == 20 {
                    world.start(if device_first { &mut driver } else { &mut device });
                }
                let alive = |id: u32| world.alive.contains(&id);
                for (i, (session, mem)) in
                    [(&mut device, &seen_by_device), (&mut driver, &world.mem)]
                        .into_iter()
                        .enumerate()
                {
                    if let Some(Change::Up(peer, fifo)) =
                        session.handle_look(world.now, mem, &alive)
                    {
                        up[i] = Some((peer, fifo));
                    }
                }
                world.now += Duration::from_millis(5);
            }
            let [Some((_, mut to_driver)), Some((peer, mut to_device))] = up else {
                panic!("life {life}: not up: {device:?} {driver:?}")
            };
            assert!(peer.dma_only);
            let mut slot = [0; w::SLOT_LEN];
            assert!(to_driver.send(&seen_by_device, b"hello").unwrap());
            assert!(to_device.receive(&world.mem, &mut slot).unwrap());
            assert_eq!(&slot[..5], b"hello");
            assert!(to_device.send(&world.mem, b"back").unwrap());
            assert!(to_driver.receive(&seen_by_device, &mut slot).unwrap());
            assert_eq!(&slot[..4], b"back");
            device.shutdown(&seen_by_device);
            driver.shutdown(&world.mem);
        }
    }
}
