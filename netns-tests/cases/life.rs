//! Daemons that come late, die, and come back.

use std::time::Duration;

use boardlane::daemon::status::LinkState;
use boardlane::daemon::traffic::Ping;
use boardlane::os::tap::Existing;

use crate::traffic::exchange;
use crate::world::{World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

pub(crate) fn a_backplane_that_comes_last_is_waited_for() {
    let mut world = World::new(1, plain);
    world.start("master");
    world.start("board0");
    for machine in ["master", "board0"] {
        let link = world.wait_state(machine, "bl0", LinkState::Waiting, "no backplane yet");
        assert!(link.reason.unwrap().contains("slot0.sock"));
        assert!(!link.carrier && !world.has_carrier(machine, "bl0"));
    }
    world.start("backplane");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn an_agent_that_comes_last_is_waited_for() {
    let mut world = World::new(1, plain);
    world.start("backplane");
    world.start("master");
    world.wait_state("master", "bl0", LinkState::Waiting, "waiting for board");
    world.start("board0");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_master_that_comes_last_is_waited_for() {
    let mut world = World::new(1, plain);
    world.start("backplane");
    world.start("board0");
    world.wait_state("board0", "bl0", LinkState::Waiting, "waiting for master");
    world.start("master");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

fn ifindex(world: &World, machine: &str, name: &str) -> u64 {
    world.netdev(machine, name).expect("the netdev is there")["ifindex"].as_u64().unwrap()
}

pub(crate) fn an_agent_killed_ten_times_comes_back_and_disturbs_no_other_board() {
    let mut world = World::running(2, plain);
    let index = ifindex(&world, "board0", "bl0");
    let other = world.steady_ping("master", "10.77.1.2");
    for round in 1..=10 {
        world.kill("board0");
        wait("carrier gone at the master", || {
            let link = world.link_status("master", "bl0")?;
            check(!link.carrier && !world.has_carrier("master", "bl0"), link)
        });
        let orphan = world.netdev("board0", "bl0").expect("the netdev outlives its daemon");
        let addresses = orphan["addr_info"].as_array().unwrap();
        assert!(addresses.iter().any(|a| a["local"] == "10.77.0.2"), "{orphan}");
        world.start("board0");
        world.wait_ping(&format!("round {round}: traffic back"), "master", "10.77.0.2");
        world.wait_up(0);
        assert_eq!(ifindex(&world, "board0", "bl0"), index);
    }
    world.ping_well("board0", "fd77::1");
    other.finish_without_loss();
}

pub(crate) fn a_tcp_connection_outlives_both_daemons() {
    let mut world = World::running(1, plain);
    let [client, server] = world.connection("master", "board0", "10.77.0.2");
    for daemon in ["board0", "master"] {
        world.kill(daemon);
        world.start(daemon);
        world.wait_up(0);
        exchange(&client, &server, 1 << 20, &format!("after {daemon} was killed"));
    }
}

pub(crate) fn a_master_killed_and_restarted_has_its_links_back() {
    let mut world = World::running(2, plain);
    let index = ifindex(&world, "master", "bl1");
    for _ in 0..3 {
        world.kill("master");
        world.wait_state("board0", "bl0", LinkState::Waiting, "waiting for master");
        wait("carrier gone at the board", || {
            check(!world.has_carrier("board0", "bl0"), "there is a carrier")
        });
        world.start("master");
        world.wait_ping("traffic back", "board0", "10.77.0.1");
        for slot in 0..2 {
            world.wait_up(slot);
            world.ping_well("master", &format!("10.77.{slot}.2"));
        }
        assert_eq!(ifindex(&world, "master", "bl1"), index);
    }
}

pub(crate) fn a_link_outlives_its_backplane_and_moves_to_the_next_one() {
    let mut world = World::running(1, plain);
    let steady = world.steady_ping("master", "10.77.0.2");
    let epoch = world.link_status("master", "bl0").unwrap().epoch;
    world.kill("backplane");
    for daemon in ["master", "board0"] {
        wait(&format!("{daemon} has noticed"), || {
            let log = world.log(daemon);
            check(log.contains("the link goes on without it"), log)
        });
    }
    // Longer than ends take to look for a new one.
    let plan = Ping { count: 20, interval: Duration::from_millis(50), ..Ping::default() };
    assert_eq!(world.ping("board0", "10.77.0.1", plan).received, 20);
    world.wait_up(0);
    assert_eq!(world.link_status("master", "bl0").unwrap().epoch, epoch, "the link was never down");
    steady.finish_without_loss();

    world.start("backplane");
    for machine in ["master", "board0"] {
        wait(&format!("{machine} has moved"), || {
            let link = world.link_status(machine, "bl0")?;
            let epochs = [link.epoch, link.peer_epoch];
            check(link.state == LinkState::Up && !epochs.contains(&epoch), &link)
        });
    }
    world.wait_ping("traffic back", "master", "10.77.0.2");
    // An end that starts now knows the new slot only.
    world.kill("board0");
    world.start("board0");
    world.wait_ping("traffic back with a new agent", "master", "10.77.0.2");
}

pub(crate) fn a_link_that_lost_backplane_and_agent_comes_back() {
    let mut world = World::running(1, plain);
    world.kill("backplane");
    world.kill("board0");
    // Nobody announces it: its heartbeat stands still.
    wait("carrier gone at the master", || {
        let link = world.link_status("master", "bl0")?;
        check(!link.carrier && !world.has_carrier("master", "bl0"), link)
    });
    world.start("board0");
    world.wait_state("board0", "bl0", LinkState::Waiting, "its server has died");
    world.start("backplane");
    world.wait_up(0);
    world.wait_ping("traffic back", "master", "10.77.0.2");
}

/// So slow that a heartbeat does not tell in time what a doorbell must tell at once.
fn slow_heart(_: &str, _: u8) -> String {
    "heartbeat_ms = 10000".to_owned()
}

pub(crate) fn an_orderly_stop_is_told_at_once_and_removes_the_netdev() {
    let mut world = World::running(1, slow_heart);
    for (daemon, name, other, reason) in [
        ("board0", "bl0", "master", "board stopped"),
        ("master", "bl0", "board0", "master stopped"),
    ] {
        assert!(world.stop(daemon).success(), "{}", world.log(daemon));
        wait("carrier gone at the other end", || {
            let link = world.link_status(other, "bl0")?;
            check(!link.carrier && !world.has_carrier(other, "bl0"), link)
        });
        wait(&format!("{other} has said {reason:?}"), || {
            let log = world.log(other);
            check(log.contains(reason), log)
        });
        assert!(world.netdev(daemon, name).is_none());
        world.start(daemon);
        world.wait_up(0);
    }
}

pub(crate) fn a_netdev_to_be_kept_stays_without_a_carrier() {
    let mut world = World::running(1, |_, _| "keep = true".to_owned());
    for (daemon, address) in [("board0", "10.77.0.2"), ("master", "10.77.0.1")] {
        let index = ifindex(&world, daemon, "bl0");
        assert!(world.stop(daemon).success(), "{}", world.log(daemon));
        let netdev = world.netdev(daemon, "bl0").expect("kept");
        let addresses = netdev["addr_info"].as_array().unwrap();
        assert!(addresses.iter().any(|a| a["local"] == address), "{netdev}");
        assert!(!world.has_carrier(daemon, "bl0"));
        world.start(daemon);
        world.wait_up(0);
        assert_eq!(ifindex(&world, daemon, "bl0"), index);
        world.ping_well("master", "10.77.0.2");
    }
}

pub(crate) fn a_netdev_that_somebody_deletes_is_made_again() {
    let world = World::running(2, plain);
    let other = world.steady_ping("master", "10.77.1.2");
    for machine in ["master", "board0"] {
        let index = ifindex(&world, machine, "bl0");
        world.ip(machine, "link del bl0");
        wait(&format!("{machine} has another bl0"), || {
            let netdev = world.netdev(machine, "bl0").ok_or("none")?;
            check(netdev["ifindex"] != index, netdev)
        });
        world.wait_up(0);
        world.wait_ping("traffic back", "master", "10.77.0.2");
        world.wait_ping("traffic back", "board0", "fd77::1");
    }
    other.finish_without_loss();
}

pub(crate) fn a_netdev_that_the_operator_sets_down_stays_down_until_he_sets_it_up() {
    let world = World::running(1, plain);
    for machine in ["master", "board0"] {
        world.ip(machine, "link set bl0 down");
        let plan = Ping { count: 5, timeout: Duration::from_millis(50), ..Ping::default() };
        for (from, to) in [("board0", "10.77.0.1"), ("master", "10.77.0.2")] {
            assert_eq!(world.ping(from, to, plan).received, 0, "{from}");
        }
        assert_eq!(world.netdev(machine, "bl0").unwrap()["operstate"], "DOWN");
        world.ip(machine, "link set bl0 up");
        world.wait_ping("traffic back", "board0", "10.77.0.1");
        world.wait_ping("traffic back", "master", "10.77.0.2");
    }
}

pub(crate) fn a_killed_daemons_netdev_has_no_carrier() {
    let mut world = World::running(1, plain);
    for daemon in ["board0", "master"] {
        for _ in 0..3 {
            world.kill(daemon);
            // Not after a while: the process has only just been seen to end.
            assert!(!world.has_carrier(daemon, "bl0"), "{daemon}");
            wait("the kernel has taken that up", || {
                let state = world.netdev(daemon, "bl0").expect("it stays")["operstate"].to_string();
                check(state == "\"DOWN\"", state)
            });
            world.start(daemon);
            world.wait_up(0);
        }
    }
}

/// How many queues of a netdev are attached.
fn queues(world: &World, machine: &str, name: &str) -> u32 {
    let found = world.inside(machine, || Existing::of(name).unwrap());
    found.and_then(|found| found.tun).map_or(0, |tun| tun.queues)
}

/// A second daemon's command on the machine of the first, with the same netdev.
fn rival(world: &mut World) -> Vec<String> {
    let directory = world.directory("rival");
    std::fs::create_dir(&directory).unwrap();
    world.configure("rival", &world.link("bl0", 0, 2, ""));
    world.command("rival")
}

pub(crate) fn two_daemons_never_share_a_netdev() {
    let mut world = World::new(1, plain);
    let words = rival(&mut world);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    world.start("backplane");
    world.start("master");
    for round in 1..=10 {
        world.start("board0");
        world.start_words("rival", "board0", &words);
        let owner = wait(&format!("round {round}: one has it, the other waits"), || {
            let links = ["board0", "rival"].map(|daemon| world.link_status(daemon, "bl0"));
            let [Ok(first), Ok(second)] = &links else { return Err(format!("{links:?}")) };
            for (owner, link, other) in [("board0", first, second), ("rival", second, first)] {
                let reason = other.reason.clone().unwrap_or_default();
                // For a moment the name is the broker's, which got it for the daemon.
                let said = format!("TAP bl0: process {} has it; stop that first", world.pid(owner));
                if link.state == LinkState::Up && reason == said {
                    return Ok(owner);
                }
            }
            Err(format!("{links:?}"))
        });
        assert_eq!(queues(&world, "board0", "bl0"), 1);
        let other = if owner == "board0" { "rival" } else { "board0" };
        world.kill(owner);
        wait("the other one has it", || {
            let link = world.link_status(other, "bl0")?;
            check(link.state == LinkState::Up && queues(&world, "board0", "bl0") == 1, link)
        });
        world.ping_well("master", "10.77.0.2");
        world.kill(other);
        // The next two find what is left.
        assert_eq!(queues(&world, "board0", "bl0"), 0);
    }
}
