//! The models in `examples/config`, as they stand there: all that is changed is where the slots are, and
//! which board's file it is. The one with a VRF is run in a guest, whose kernel has VRFs.

use std::fs;
use std::time::Duration;

use boardlane::daemon::traffic::Ping;

use crate::world::{PATIENCE, World, check, wait, wait_for};

/// A machine with this example as its config; of the example's slots only those with a board are used.
fn configure(world: &World, machine: &str, example: &str, slot: u8) {
    let path = format!("{}/examples/config/{example}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let slots = world.slot(0).parent().unwrap().display().to_string();
    let text = text.replace("/run/boardlane/slot", &format!("{slots}/slot"));
    let is_slot = |line: &&str| machine != "master" && line.starts_with("slot = ");
    let line = |line| if is_slot(&line) { format!("slot = {slot}\n") } else { format!("{line}\n") };
    world.configure(machine, &text.lines().map(line).collect::<String>());
}

fn board(slot: u8) -> String {
    format!("board{slot}")
}

/// The master of an example, with these boards' agents; all run, and the boards' links are up. `before` is
/// done on the master before its daemon starts.
fn started(master: &str, boards: &[(u8, &str)], before: impl Fn(&World)) -> World {
    let mut world = World::new(0, |_, _| String::new());
    configure(&world, "master", master, 0);
    before(&world);
    world.start("backplane");
    world.start("master");
    for (slot, example) in boards {
        world.add_machine(&board(*slot));
        configure(&world, &board(*slot), example, *slot);
        world.start(&board(*slot));
    }
    for (slot, _) in boards {
        world.wait_up(*slot);
    }
    world
}

fn answers(world: &World, machine: &str, to: &str) -> bool {
    let plan = Ping { count: 2, timeout: Duration::from_millis(500), ..Ping::default() };
    world.ping(machine, to, plan).received > 0
}

/// Waits until echoes come back: bridges, and addresses of IPv6, take a moment.
fn reaches(world: &World, machine: &str, to: &str) {
    wait_for(2 * PATIENCE, &format!("{machine} reaches {to}"), || {
        check(answers(world, machine, to), "no answer")
    });
}

/// A machine of the network outside, joined to another one by a pair of netdevs.
fn add_outside(world: &mut World, machine: &str, inside: &str) {
    world.add_machine("outside");
    let namespace = world.namespace("outside");
    let pair = format!("link add {inside} type veth peer name eth0 netns {namespace}");
    world.ip(machine, &pair);
    world.ip(machine, &format!("link set {inside} up"));
    world.ip("outside", "link set eth0 up");
}

pub(crate) fn a_crate_whose_boards_reach_each_other_and_a_network_behind_one() {
    let boards = [(0, "agent-crate"), (3, "agent-crate"), (12, "agent-router")];
    let mut world = started("master-crate", &boards, |_| {});
    for (slot, _) in boards {
        reaches(&world, &board(slot), &format!("10.77.0.{}", 4 * slot + 1));
        reaches(&world, &board(slot), &format!("fd77:0:0:{slot:x}::1"));
    }
    // By the master, of which nobody but the daemon has asked that it forward.
    reaches(&world, "board0", "10.77.0.14");
    reaches(&world, "board3", "10.77.0.50");
    // Board 12's own network, and its router's other interface.
    add_outside(&mut world, "board12", "eth0");
    world.ip("board12", "address add 10.80.0.1/24 dev eth0");
    let forward = "echo 1 >/proc/sys/net/ipv4/conf/eth0/forwarding";
    world.run_well("board12", &["sh", "-c", forward]);
    world.ip("outside", "address add 10.80.0.2/24 dev eth0");
    world.ip("outside", "route add default via 10.80.0.1");
    reaches(&world, "outside", "10.77.0.49");
    // The master has the way there from its config, another board from its operator.
    world.ip("board0", "route add 10.80.0.0/24 via 10.77.0.1");
    reaches(&world, "outside", "10.77.0.2");
    reaches(&world, "master", "10.80.0.2");
    let mtus = |name| world.netdev("master", name).unwrap()["mtu"].as_u64();
    assert_eq!((mtus("bl0"), mtus("bl3")), (Some(9000), Some(1500)));
}

pub(crate) fn a_midplane_whose_boards_reach_the_master_only() {
    let boards = [(1, "agent-midplane"), (2, "agent-midplane")];
    let mut world = started("master-midplane", &boards, |world| {
        world.ip("master", "link add br-boards type bridge");
        world.ip("master", "address add 169.254.200.254/24 dev br-boards");
        world.ip("master", "link set br-boards up");
    });
    for (slot, _) in boards {
        reaches(&world, &board(slot), "169.254.200.254");
        reaches(&world, "master", &format!("169.254.200.{slot}"));
    }
    assert!(!answers(&world, "board1", "169.254.200.2"), "ports are isolated");
    // As the file says: without that line boards reach each other.
    let text = fs::read_to_string(world.config("master")).unwrap();
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with("isolated")).collect();
    fs::write(world.config("master"), text.join("\n")).unwrap();
    let control = world.directory("master").join("control.sock").display().to_string();
    let done = world.run_well("master", &[crate::world::PROGRAM, "reload", "--control", &control]);
    assert!(done.contains("changed bl1 bl2"), "{done}");
    for name in ["bl1", "bl2"] {
        // What was ours is as it was before us: not isolated.
        wait(&format!("{name} is not isolated"), || {
            let port = world.ip("master", &format!("-d link show dev {name}")).remove(0);
            let isolated = port["linkinfo"]["info_slave_data"]["isolated"].clone();
            check(isolated == false, isolated)
        });
    }
    reaches(&world, "board1", "169.254.200.2");
    // The bridge may come late, and go and come again.
    world.ip("master", "link del br-boards");
    wait("the link says that its bridge is missing", || {
        let reason = world.link_status("master", "bl1")?.reason.unwrap_or_default();
        check(reason.contains("br-boards"), reason)
    });
    world.ip("master", "link add br-boards type bridge");
    world.ip("master", "address add 169.254.200.254/24 dev br-boards");
    world.ip("master", "link set br-boards up");
    reaches(&world, "board1", "169.254.200.254");
    world.stop("master");
    assert!(world.netdev("master", "br-boards").is_some(), "the bridge is not ours to remove");
}

pub(crate) fn boards_on_the_network_outside() {
    let plain = fs::read_to_string(format!(
        "{}/examples/config/master-lan.toml",
        env!("CARGO_MANIFEST_DIR")
    ));
    assert!(plain.unwrap().contains("needs no address in its config"));
    let mut world = started("master-lan", &[], |world| {
        world.ip("master", "link add br-lan type bridge");
        world.ip("master", "link set br-lan up");
    });
    add_outside(&mut world, "master", "port0");
    world.ip("master", "link set port0 master br-lan");
    world.ip("outside", "address add 192.0.2.254/24 dev eth0");
    for slot in [0, 2] {
        world.add_machine(&board(slot));
        let link = world.link("bl0", slot, 2, "address = []");
        world.configure(&board(slot), &link);
        world.start(&board(slot));
        world.wait_up(slot);
        // As a DHCP client would.
        world.ip(&board(slot), &format!("address add 192.0.2.{}/24 dev bl0", slot + 1));
        reaches(&world, &board(slot), "192.0.2.254");
    }
    reaches(&world, "board0", "192.0.2.3");
    reaches(&world, "outside", "192.0.2.1");
}
