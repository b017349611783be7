//! What is set with `ip` on one end's netdev, and what the other end makes of it.

use boardlane::daemon::status::LinkStatus;
use boardlane::daemon::traffic::Ping;
use serde_json::Value;

use crate::traffic::exchange;
use crate::world::{World, check, wait};

/// Each end, its peer, and what either calls the other.
const ENDS: [[&str; 3]; 2] = [["master", "board0", "master"], ["board0", "master", "board"]];

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// A machine's usual addresses.
fn addresses(machine: &str) -> [&str; 2] {
    if machine == "master" { ["10.77.0.1", "fd77::1"] } else { ["10.77.0.2", "fd77::2"] }
}

fn netdev(world: &World, machine: &str) -> Value {
    world.netdev(machine, "bl0").expect("the netdev is there")
}

/// Waits until netdev and status of a machine have this MTU, and its status this reason.
fn wait_mtu(world: &World, machine: &str, mtu: u16, reason: Option<&str>) {
    wait(&format!("{machine} has MTU {mtu}"), || {
        let link = world.link_status(machine, "bl0")?;
        check(netdev(world, machine)["mtu"] == mtu, netdev(world, machine))?;
        check(link.mtu == Some(mtu) && link.reason.as_deref() == reason, &link)
    });
}

fn wait_carrier(world: &World, machine: &str, up: bool) -> LinkStatus {
    wait(&format!("{machine}: carrier {up}"), || {
        let link = world.link_status(machine, "bl0")?;
        check(link.carrier == up && world.has_carrier(machine, "bl0") == up, &link).map(|()| link)
    })
}

pub(crate) fn an_mtu_set_with_ip_reaches_the_other_end_and_goes_back() {
    let world = World::running(1, plain);
    for [here, there, name] in ENDS {
        world.ip(here, "link set bl0 mtu 1400");
        let note = format!("the {name}'s MTU 1400 is the smaller one");
        wait_mtu(&world, there, 1400, Some(&note));
        wait_mtu(&world, here, 1400, None);
        world.transfer("master", "board0", "fd77::2", 1 << 20);
        world.ip(here, "link set bl0 mtu 1500");
        wait_mtu(&world, there, 1500, None);
        wait_mtu(&world, here, 1500, None);
    }
    world.transfer("board0", "master", "10.77.0.1", 1 << 20);
}

pub(crate) fn a_greater_mtu_set_with_ip_needs_both_ends() {
    let world = World::running(1, plain);
    world.ip("master", "link set bl0 mtu 9000");
    wait_mtu(&world, "master", 1500, Some("the board's MTU 1500 is the smaller one"));
    world.ip("board0", "link set bl0 mtu 4000");
    wait_mtu(&world, "master", 4000, Some("the board's MTU 4000 is the smaller one"));
    wait_mtu(&world, "board0", 4000, None);
    world.ip("board0", "link set bl0 mtu 9000");
    wait_mtu(&world, "master", 9000, None);
    wait_mtu(&world, "board0", 9000, None);
    world.transfer("master", "board0", "10.77.0.2", 4 << 20);
}

pub(crate) fn the_smaller_mtu_of_two_configs_wins_and_stays() {
    for [here, there, name] in ENDS {
        let world = World::running(1, |machine, _| {
            format!("mtu = {}", if machine == here { 1400 } else { 1500 })
        });
        let note = format!("the {name}'s MTU 1400 is the smaller one");
        wait_mtu(&world, there, 1400, Some(&note));
        wait_mtu(&world, here, 1400, None);
        // What a config says is set again, whatever somebody sets; but not above the other end's.
        world.ip(there, "link set bl0 mtu 1450");
        wait_mtu(&world, there, 1400, Some(&note));
        world.ip(here, "link set bl0 mtu 1300");
        wait_mtu(&world, here, 1400, None);
        wait_mtu(&world, there, 1400, Some(&note));
    }
}

pub(crate) fn an_mtu_above_the_boards_config_is_cut_to_it() {
    let world = World::running(1, |machine, _| match machine {
        "master" => String::new(),
        _ => "mtu = 2000".to_owned(),
    });
    wait_mtu(&world, "master", 2000, None);
    world.ip("master", "link set bl0 mtu 9000");
    wait_mtu(&world, "master", 2000, Some("the board's MTU 2000 is the smaller one"));
    world.ip("master", "link set bl0 mtu 1600");
    wait_mtu(&world, "board0", 1600, Some("the master's MTU 1600 is the smaller one"));
    wait_mtu(&world, "master", 1600, None);
}

pub(crate) fn an_mtu_too_small_for_ipv6_does_not_take_the_other_ends_addresses() {
    let world = World::running(1, |machine, _| match machine {
        "master" => "address = [\"10.77.0.1/30\"]".to_owned(),
        _ => String::new(),
    });
    world.ip("master", "link set bl0 mtu 1000");
    let link = wait("the board says that it keeps its own", || {
        let link = world.link_status("board0", "bl0")?;
        let said = link.reason.as_deref().unwrap_or_default().contains("MTU 1000 is too small");
        check(said, &link).map(|()| link)
    });
    assert!(link.carrier);
    wait_mtu(&world, "board0", 1500, link.reason.as_deref());
    assert!(has_address(&netdev(&world, "board0"), "fd77::2"));
    world.ip("master", "link set bl0 mtu 1500");
    wait_mtu(&world, "board0", 1500, None);
}

fn has_flag(netdev: &Value, flag: &str) -> bool {
    netdev["flags"].as_array().unwrap().iter().any(|f| f == flag)
}

fn has_address(netdev: &Value, address: &str) -> bool {
    netdev["addr_info"].as_array().unwrap().iter().any(|info| info["local"] == address)
}

pub(crate) fn a_netdev_set_down_takes_the_other_ends_carrier_and_nothing_else() {
    let world = World::running(1, plain);
    for [here, there, name] in ENDS {
        let ([back4, back6], [host4, host6]) = (addresses(here), addresses(there));
        let index = netdev(&world, there)["ifindex"].clone();
        world.ip(here, "link set bl0 down");
        let link = wait_carrier(&world, there, false);
        let expected = format!("the {name}'s netdev is set down");
        wait(&format!("{there} says why"), || {
            let reason = world.link_status(there, "bl0")?.reason;
            check(reason.as_deref() == Some(&expected), reason)
        });
        assert_eq!(link.state.name(), "up");
        let shown = wait(&format!("the kernel of {there} has taken it up"), || {
            let shown = netdev(&world, there);
            check(has_flag(&shown, "NO-CARRIER"), &shown).map(|()| shown)
        });
        assert!(has_flag(&shown, "UP"), "{shown}");
        assert!(has_address(&shown, host4) && has_address(&shown, host6), "{shown}");
        assert_eq!(shown["ifindex"], index);

        world.ip(here, "link set bl0 up");
        wait_carrier(&world, there, true);
        world.wait_up(0);
        world.wait_ping("traffic back", here, host4);
        world.wait_ping("traffic back", there, back4);
        world.wait_ping("traffic back, IPv6", there, back6);
    }
}

pub(crate) fn two_netdevs_set_down_have_their_carriers_when_both_are_up_again() {
    let world = World::running(1, plain);
    for [here, ..] in ENDS {
        world.ip(here, "link set bl0 down");
    }
    for [here, ..] in ENDS {
        wait(&format!("{here} has lost its carrier"), || {
            let link = world.link_status(here, "bl0")?;
            check(!link.carrier, &link)
        });
    }
    world.ip("master", "link set bl0 up");
    wait_carrier(&world, "master", false);
    world.ip("board0", "link set bl0 up");
    world.wait_up(0);
    world.wait_ping("traffic back", "master", "10.77.0.2");
}

pub(crate) fn a_daemon_that_starts_hears_that_the_other_end_is_set_down() {
    let mut world = World::running(1, plain);
    for [here, there, _] in ENDS {
        world.ip(here, "link set bl0 down");
        wait_carrier(&world, there, false);
        for kill in [true, false] {
            if kill {
                world.kill(there);
            } else {
                assert!(world.stop(there).success(), "{}", world.log(there));
            }
            world.start(there);
            wait(&format!("{there} is up without a carrier"), || {
                let link = world.link_status(there, "bl0")?;
                let silent = !link.carrier && !world.has_carrier(there, "bl0");
                check(link.state.name() == "up" && silent, &link)?;
                let why = link.reason.as_deref().unwrap_or_default();
                check(why.ends_with("netdev is set down"), &link)
            });
            assert!(has_address(&netdev(&world, there), addresses(there)[0]));
        }
        world.ip(here, "link set bl0 up");
        world.wait_up(0);
        world.wait_ping(
            "traffic back",
            here,
            if here == "master" { "10.77.0.2" } else { "10.77.0.1" },
        );
    }
}

pub(crate) fn a_killed_daemons_mtu_is_still_the_other_ends() {
    let mut world = World::running(1, plain);
    world.ip("board0", "link set bl0 mtu 1400");
    let note = Some("the board's MTU 1400 is the smaller one");
    wait_mtu(&world, "master", 1400, note);
    world.kill("master");
    world.start("master");
    world.wait_up(0);
    wait_mtu(&world, "master", 1400, note);
    world.ip("board0", "link set bl0 mtu 1500");
    wait_mtu(&world, "master", 1500, None);
    wait_mtu(&world, "board0", 1500, None);
}

pub(crate) fn a_boards_mtu_taken_before_a_crash_is_not_the_masters_after_it() {
    let mut world = World::running(1, |machine, _| match machine {
        "master" => String::new(),
        _ => "mtu = 2000".to_owned(),
    });
    wait_mtu(&world, "master", 2000, None);
    world.kill("master");
    world.start("master");
    world.wait_up(0);
    wait_mtu(&world, "master", 2000, None);
    assert!(world.stop("board0").success());
    world.configure("board0", &world.link("bl0", 0, 2, "mtu = 3000"));
    world.start("board0");
    for machine in ["master", "board0"] {
        wait_mtu(&world, machine, 3000, None);
    }
}

pub(crate) fn a_tcp_connection_outlives_changes_of_the_mtu() {
    let world = World::running(1, plain);
    let [client, server] = world.connection("master", "board0", "fd77::2");
    for (machine, mtu) in [("master", 1400), ("board0", 1280), ("board0", 1500), ("master", 1500)] {
        world.ip(machine, &format!("link set bl0 mtu {mtu}"));
        let smaller = if machine == "board0" { mtu.min(1400) } else { mtu };
        wait(&format!("MTU {smaller} at both ends, and traffic all the while"), || {
            exchange(&client, &server, 4 << 20, "to the board");
            exchange(&server, &client, 4 << 20, "to the master");
            let mtus = ["master", "board0"].map(|m| netdev(&world, m)["mtu"].clone());
            check(mtus.iter().all(|found| *found == smaller), mtus)
        });
    }
}

pub(crate) fn a_mac_set_with_ip_stays_and_is_seen_at_the_other_end() {
    let mut world = World::running(1, plain);
    for [here, there, name] in ENDS {
        let [host, _] = addresses(there);
        let mac = format!("02:bb:00:00:00:{}", if here == "master" { "0a" } else { "0b" });
        world.ip(here, &format!("link set bl0 address {mac}"));
        let told = format!("the {name}'s netdev is set up, MTU 1500, MAC {mac}");
        wait(&format!("{there} has heard of it"), || {
            let log = world.log(there);
            check(log.contains(&told), log)
        });
        wait(&format!("status of {here} shows it"), || {
            let link = world.link_status(here, "bl0")?;
            check(link.mac.as_ref() == Some(&mac), &link)
        });
        world.wait_ping("traffic", here, host);
        // Another session, in which the master says again which one the board should have.
        world.kill(there);
        world.start(there);
        world.wait_up(0);
        world.wait_ping("traffic back", here, host);
        assert_eq!(netdev(&world, here)["address"], mac);
    }
}

pub(crate) fn changes_without_a_pause_end_in_the_last_one() {
    let world = World::running(1, plain);
    let steps: Vec<_> = (0..200)
        .flat_map(|i| {
            [
                format!("link set bl0 mtu {}", 1300 + i % 100),
                format!("link set bl0 {}", if i % 2 == 0 { "down" } else { "up" }),
            ]
        })
        .chain(["link set bl0 mtu 1337".to_owned()])
        .collect();
    let batch = steps.join("\n");
    let script = format!("ip -batch - <<'END'\n{batch}\nEND");
    world.run_well("master", &["sh", "-c", &script]);
    wait_mtu(&world, "board0", 1337, Some("the master's MTU 1337 is the smaller one"));
    world.wait_up(0);
    world.wait_ping("traffic back", "board0", "10.77.0.1");
    let plan = Ping { count: 5, ..Ping::default() };
    assert_eq!(world.ping("master", "10.77.0.2", plan).received, 5);
}
