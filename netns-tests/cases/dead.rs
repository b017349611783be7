//! Other ends that hang, boards in reset, doorbells that get lost.

use std::time::Duration;

use boardlane::daemon::status::LinkState;
use boardlane::daemon::traffic::Ping;
use rustix::process::Signal;

use crate::cases::hostile::Intruder;
use crate::relay::Relay;
use crate::world::{World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

fn wait_for_line(world: &World, daemon: &str, line: &str) {
    wait(&format!("{daemon} has said {line:?}"), || {
        let log = world.log(daemon);
        check(log.contains(line), log)
    });
}

fn wait_no_carrier(world: &World, machine: &str) {
    wait(&format!("carrier gone at {machine}"), || {
        let link = world.link_status(machine, "bl0")?;
        check(!link.carrier && !world.has_carrier(machine, "bl0"), link)
    });
}

pub(crate) fn a_daemon_that_hangs_is_silent_and_has_its_link_back_when_it_goes_on() {
    let world = World::running(2, plain);
    let other = world.steady_ping("master", "10.77.1.2");
    world.signal("board0", Signal::STOP);
    wait_for_line(&world, "master", "bl0: down: board is silent: its heartbeat stands still");
    wait_no_carrier(&world, "master");
    world.signal("board0", Signal::CONT);
    world.wait_up(0);
    world.wait_ping("traffic back", "master", "10.77.0.2");
    other.finish_without_loss();

    world.signal("master", Signal::STOP);
    for board in ["board0", "board1"] {
        wait_for_line(&world, board, "bl0: down: master is silent: its heartbeat stands still");
        wait_no_carrier(&world, board);
    }
    world.signal("master", Signal::CONT);
    for slot in 0..2 {
        world.wait_up(slot);
        world.wait_ping("traffic back", "master", &format!("10.77.{slot}.2"));
    }
}

pub(crate) fn a_board_whose_memory_reads_as_all_ones_is_a_dead_link_and_no_offender() {
    let mut world = World::running(1, plain);
    let intruder = Intruder::in_slot(&world.slot(0));
    for round in 0..5 {
        // Under traffic the worker looks at the rings, and mostly before the heartbeat does.
        let ping = Ping { count: 3, timeout: Duration::from_millis(20), ..Ping::default() };
        world.signal("board0", Signal::STOP);
        intruder.reset_board();
        world.ping("master", "10.77.0.2", ping);
        world.wait_state("master", "bl0", LinkState::Waiting, "window reads as all ones");
        wait_no_carrier(&world, "master");
        let log = world.log("master");
        assert!(!log.contains("quarantined"), "round {round}: {log}");
        world.kill("board0");
        world.start("board0");
        world.wait_up(0);
        world.wait_ping("traffic back", "master", "10.77.0.2");
    }
    wait_for_line(&world, "master", "bl0: down: window reads as all ones: board is in reset");
}

/// Every ring is lost, or every other one, and still all arrives.
fn without_doorbells(features_off: &'static str) {
    let keys = format!("features_off = [{features_off}]\nheartbeat_ms = 50");
    let mut world = World::new(1, |_, _| keys.clone());
    let relay = Relay::at(&world.slot(0));
    world.start("master");
    world.start("board0");
    world.wait_up(0);
    let [to_board, to_master] = ["10.77.0.2", "10.77.0.1"];
    world.ping_well("master", to_board);
    for (percent, len, mtus) in [(100, 1 << 18, [1400, 1350]), (50, 4 << 20, [1300, 1280])] {
        relay.lose(percent);
        let plan = Ping { count: 10, interval: Duration::ZERO, ..Ping::default() };
        let echoes = world.ping("master", to_board, plan);
        eprintln!("{percent} % lost: echoes after {:?} to {:?}", echoes.min, echoes.max);
        assert_eq!(echoes.received, echoes.sent);
        world.transfer("master", "board0", to_board, len);
        world.transfer("board0", "master", to_master, len);
        for ([machine, other], mtu) in
            [["master", "board0"], ["board0", "master"]].into_iter().zip(mtus)
        {
            world.ip(machine, &format!("link set bl0 mtu {mtu}"));
            wait(&format!("{other} follows"), || {
                let seen = world.netdev(other, "bl0").unwrap()["mtu"].clone();
                check(seen == mtu, seen)
            });
        }
    }
    for machine in ["master", "board0"] {
        let link = world.link_status(machine, "bl0").unwrap();
        let rescues: u64 = link.queues.iter().map(|queue| queue.rescues).sum();
        eprintln!("{machine}: {rescues} rescues");
        assert!(rescues > 0 && link.state == LinkState::Up, "{link:?}");
        let log = world.log(machine);
        assert!(!log.contains("down:") && !log.contains("quarantined"), "{log}");
    }
    let [messages, queues] = relay.lost();
    eprintln!("{messages} rings for messages were lost, {queues} for queues");
    assert!(messages > 0 && queues > 0);
}

pub(crate) fn split_queues_lose_doorbells_and_no_frames() {
    without_doorbells("\"RING_PACKED\"");
}

pub(crate) fn packed_queues_lose_doorbells_and_no_frames() {
    without_doorbells("");
}
