//! Links of virtio-msg's "AMP over PCI" layout: messages are all that the ends have of each other.

use std::time::Duration;

use boardlane::daemon::status::LinkState;
use boardlane::daemon::traffic::Ping;
use boardlane::os::fabric::regions;
use boardlane::spec::amp_pci;
use rustix::process::Signal;

use crate::cases::hostile::Intruder;
use crate::cases::probe_slot::probe;
use crate::traffic::exchange;
use crate::world::{World, check, wait, wait_for};

fn amp(_: &str, _: u8) -> String {
    "layout = \"amp-pci\"\n".to_owned()
}

/// Each way, by both protocols.
fn carries_all(world: &World) {
    for to in ["10.77.0.2", "fd77::2"] {
        world.ping_well("master", to);
        world.transfer("master", "board0", to, 4 << 20);
    }
    for to in ["10.77.0.1", "fd77::1"] {
        world.ping_well("board0", to);
        world.transfer("board0", "master", to, 4 << 20);
    }
}

fn wait_no_carrier(world: &World, machine: &str) {
    wait(&format!("carrier gone at {machine}"), || {
        let link = world.link_status(machine, "bl0")?;
        check(!link.carrier && !world.has_carrier(machine, "bl0"), link)
    });
}

pub(crate) fn two_ends_carry_v4_and_v6_and_leave_the_window_to_messages() {
    let world = World::running(1, amp);
    carries_all(&world);
    for machine in ["master", "board0"] {
        let link = world.link_status(machine, "bl0").unwrap();
        assert_eq!((link.epoch, link.peer_epoch, &link.peer_version), (None, None, &None));
        assert!(link.features.iter().any(|f| f == "HOST_TSO4"), "{link:?}");
        for target in ["bl0", &format!("shm:{}", world.slot(0).display())] {
            let (status, text, found) = probe(&world, machine, target);
            assert_eq!((status, &*text), (1, ""));
            assert_eq!(found["verdict"], "layout amp-pci: no header to show");
        }
    }
    let intruder = Intruder::in_slot(&world.slot(0));
    let slot = intruder.shm.slot();
    let (window, _) = regions(slot.len);
    let mut octets = vec![0; usize::try_from(window.end).unwrap()];
    slot.memory.view(0, octets.len()).copy_to(0, &mut octets);
    let [from, to] = [amp_pci::TO_DEVICE, amp_pci::TO_DRIVER + amp_pci::QUEUE_LEN]
        .map(|offset| usize::try_from(offset).unwrap());
    assert!(octets[from..to].iter().any(|octet| *octet != 0));
    octets[from..to].fill(0);
    assert!(octets.iter().all(|octet| *octet == 0), "there is more than messages");
    // An end that the slot is shared with is no reason to part.
    drop(intruder);
    let steady = world.steady_ping("master", "10.77.0.2");
    std::thread::sleep(Duration::from_secs(3));
    steady.finish_without_loss();
    world.wait_up(0);
}

pub(crate) fn two_queue_pairs_and_the_control_queue_work_by_messages() {
    let world = World::running(1, |machine, slot| amp(machine, slot) + "queues = 2\n");
    for machine in ["master", "board0"] {
        wait(&format!("{machine} uses two pairs"), || {
            let link = world.link_status(machine, "bl0")?;
            check(link.queues.len() == 2, link)
        });
    }
    carries_all(&world);
}

pub(crate) fn an_end_that_was_killed_or_stopped_is_back_and_a_connection_lives_through_it() {
    let mut world = World::running(1, |machine, slot| amp(machine, slot) + "keep = true\n");
    let [client, server] = world.connection("master", "board0", "10.77.0.2");
    for round in 0..3 {
        for (daemon, other) in [("board0", "master"), ("master", "board0")] {
            world.kill(daemon);
            wait_no_carrier(&world, other);
            world.start(daemon);
            world.wait_up(0);
            exchange(&client, &server, 1 << 20, &format!("{round}: after {daemon} was killed"));
            assert!(world.stop(daemon).success());
            wait_no_carrier(&world, other);
            world.start(daemon);
            world.wait_up(0);
            exchange(&server, &client, 1 << 20, &format!("{round}: after {daemon} was stopped"));
        }
    }
    for daemon in ["board0", "master"] {
        let log = world.log(daemon);
        assert!(!log.contains("quarantined"), "{log}");
    }
}

pub(crate) fn ends_that_are_killed_together_and_under_traffic_are_back() {
    let mut world = World::running(1, amp);
    let flood = Ping { count: 5, timeout: Duration::from_millis(20), ..Ping::default() };
    for order in [["master", "board0"], ["board0", "master"]] {
        world.ping("master", "10.77.0.2", flood);
        for daemon in order {
            world.kill(daemon);
        }
        for daemon in order {
            world.start(daemon);
        }
        world.wait_up(0);
        world.wait_ping("traffic back", "master", "10.77.0.2");
        // At once, so that the other end meets the new one before it has missed the old one.
        world.kill(order[0]);
        world.start(order[0]);
        world.wait_up(0);
        world.wait_ping("traffic back", "board0", "10.77.0.1");
    }
}

pub(crate) fn an_end_that_hangs_is_silent_and_has_its_link_back_when_it_goes_on() {
    let world = World::running(1, amp);
    for (daemon, other, told) in [
        ("board0", "master", "bl0: down: board is silent: no message for 1 s"),
        ("master", "board0", "bl0: down: master is silent: no message for 5 s"),
    ] {
        world.signal(daemon, Signal::STOP);
        wait(&format!("{other} has said {told:?}"), || {
            let log = world.log(other);
            check(log.contains(told), log)
        });
        wait_no_carrier(&world, other);
        world.signal(daemon, Signal::CONT);
        world.wait_up(0);
        world.wait_ping("traffic back", "master", "10.77.0.2");
    }
}

pub(crate) fn a_bus_without_its_backplane_tells_by_its_messages_who_is_gone() {
    let mut world = World::running(1, amp);
    world.kill("backplane");
    world.ping_well("master", "10.77.0.2");
    world.kill("board0");
    wait_no_carrier(&world, "master");
    world.start("backplane");
    world.start("board0");
    world.wait_up(0);
    world.wait_ping("traffic back", "master", "10.77.0.2");
}

pub(crate) fn indices_and_octets_of_a_strangers_making_cost_the_link_and_nothing_else() {
    let world = World::running(2, |machine, slot| match (machine, slot) {
        ("master" | "board0", 0) => amp(machine, slot),
        _ => String::new(),
    });
    let other = world.steady_ping("master", "10.77.1.2");
    {
        let intruder = Intruder::in_slot(&world.slot(0));
        let area = |offset: u32| {
            let len = usize::try_from(amp_pci::QUEUE_LEN).unwrap();
            intruder.shm.slot().memory.view(usize::try_from(offset).unwrap(), len)
        };
        for queue in [amp_pci::TO_DEVICE, amp_pci::TO_DRIVER] {
            for at in [amp_pci::AT_HEAD, amp_pci::AT_TAIL] {
                for value in [u32::MAX, 62, 30] {
                    area(queue).store_le32(at, value);
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
            let octets: Vec<u8> = (0..3968_u32).map(|i| (i * 7 % 251) as u8).collect();
            area(queue).copy_from(amp_pci::AT_SLOTS, &octets);
            area(queue).store_le32(amp_pci::AT_HEAD, 17);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    let quarantine = world.log("master").contains("bl0: quarantined");
    eprintln!("quarantined: {quarantine}");
    // A quarantine doubles with each offence.
    let quarantined = Duration::from_secs(30);
    wait_for(quarantined, "both ends are patient again, and the link is up", || {
        let [master, board] =
            [world.link_status("master", "bl0")?, world.link_status("board0", "bl0")?];
        check(master.state == LinkState::Up && board.state == LinkState::Up, [master, board])
    });
    world.wait_ping("traffic back", "master", "10.77.0.2");
    other.finish_without_loss();
}
