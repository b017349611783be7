//! What a config says, and what comes of a wrong one or of a system that does not let us.

use boardlane::daemon::identity::Identity;
use boardlane::daemon::status::LinkState;
use boardlane::tunnel::part::Role;

use crate::world::{World, check, wait};

fn mac(world: &World, machine: &str, name: &str) -> String {
    let netdev = world.netdev(machine, name).unwrap();
    netdev["address"].as_str().unwrap().to_owned()
}

fn derived(slot: u32, side: Role) -> String {
    Identity::of_machine().mac(slot, side).map(|octet| format!("{octet:02x}")).join(":")
}

pub(crate) fn a_boards_mac_is_the_masters_choice_and_stays() {
    // On its own the agent would derive one for slot 9.
    let mut world = World::running(1, |machine, _| match machine {
        "master" => String::new(),
        _ => "slot = 9".to_owned(),
    });
    let expected = [("master", derived(0, Role::Driver)), ("board0", derived(0, Role::Device))];
    let holds = |world: &World| {
        for (machine, mac_of_slot) in &expected {
            assert_eq!(mac(world, machine, "bl0"), *mac_of_slot, "{machine}");
            let status = world.link_status(machine, "bl0").unwrap();
            assert_eq!(status.mac.as_ref(), Some(mac_of_slot), "{machine}");
        }
    };
    holds(&world);
    for daemon in ["board0", "master"] {
        assert!(world.stop(daemon).success());
        world.start(daemon);
        world.wait_up(0);
        holds(&world);
        world.kill(daemon);
        world.start(daemon);
        world.wait_up(0);
        holds(&world);
    }
}

pub(crate) fn a_mac_in_a_config_wins() {
    let world = World::running(2, |machine, slot| match (machine, slot) {
        ("master", 0) => "mac = \"02:bb:00:00:00:0a\"".to_owned(),
        ("board1", _) => "mac = \"02:bb:00:00:00:0b\"".to_owned(),
        _ => String::new(),
    });
    assert_eq!(mac(&world, "master", "bl0"), "02:bb:00:00:00:0a");
    assert_eq!(mac(&world, "board0", "bl0"), derived(0, Role::Device));
    assert_eq!(mac(&world, "master", "bl1"), derived(1, Role::Driver));
    assert_eq!(mac(&world, "board1", "bl0"), "02:bb:00:00:00:0b");
    world.ping_well("board0", "10.77.0.1");
    world.ping_well("board1", "10.77.1.1");
}

pub(crate) fn a_netdev_appears_in_the_namespace_that_the_config_names() {
    let mut world = World::new(1, |_, _| String::new());
    world.add_machine("inner");
    let inner = format!("netns = \"{}\"", world.namespace("inner"));
    world.configure("master", &world.link("bl0", 0, 1, &inner));
    for daemon in ["backplane", "board0", "master"] {
        world.start(daemon);
    }
    wait("carrier in the namespace", || {
        let up = ["inner", "board0"].iter().all(|machine| world.is_operational(machine, "bl0"));
        check(up, world.link_status("master", "bl0"))
    });
    assert!(world.netdev("master", "bl0").is_none());
    world.ping_well("inner", "10.77.0.2");
    world.ping_well("board0", "fd77::1");
    world.transfer("inner", "board0", "fd77::2", 4 << 20);
    world.kill("master");
    assert!(world.netdev("inner", "bl0").is_some());
    world.start("master");
    world.wait_ping("traffic back", "board0", "10.77.0.1");
    assert!(world.stop("master").success());
    assert!(world.netdev("inner", "bl0").is_none());
}

/// Every netdev of a machine with its addresses, as text.
fn netdevs(world: &World, machine: &str) -> String {
    let mut found = world.ip(machine, "addr show");
    for netdev in &mut found {
        netdev["stats64"].take();
    }
    format!("{found:?}")
}

pub(crate) fn a_bad_config_ends_with_2_and_changes_nothing() {
    let mut world = World::running(1, |_, _| String::new());
    world.add_machine("board1");
    let before = netdevs(&world, "board1");
    for (bad, told) in [
        ("mtuu = 1500", "mtu"),
        ("mtu = 60", "68"),
        ("mtu = 1200", "1280"),
        ("address = [\"10.77.0.300/30\"]", "10.77.0.300"),
        ("name = \"bl0\"", "name"),
    ] {
        world.configure("board1", &world.link("bl0", 1, 2, bad));
        let words = world.command("board1");
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = world.run("board1", &words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{bad}: {text}");
        assert!(text.contains(".toml:") && text.contains(told), "{bad}: {text}");
        assert_eq!(netdevs(&world, "board1"), before, "{bad}");
        assert!(!world.directory("board1").join("control.sock").exists(), "{bad}");
    }
}

pub(crate) fn a_second_daemon_on_one_control_socket_is_refused() {
    let world = World::running(1, |_, _| String::new());
    let before = netdevs(&world, "board0");
    let words = world.command("board0");
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = world.run("board0", &words);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another daemon holds") && text.lines().count() == 1, "{text}");
    assert_eq!(netdevs(&world, "board0"), before);
    assert_eq!(world.status("board0").unwrap().pid, world.pid("board0"));
    world.ping_well("master", "10.77.0.2");
}

/// Waits until `board1` has the link to this machine.
fn wait_second(world: &World, other: &str) {
    wait("the second has the slot", || {
        let link = world.link_status("board1", "bl0")?;
        check(link.state == LinkState::Up, &link)?;
        let up = ["board1", other].iter().all(|machine| world.is_operational(machine, "bl0"));
        check(up, "not operational")
    });
}

pub(crate) fn a_second_agent_on_one_slot_waits_for_the_first_to_go() {
    let mut world = World::running(1, |_, _| String::new());
    world.add_machine("board1");
    world.configure("board1", &world.link("bl0", 0, 2, ""));
    let first = world.steady_ping("master", "10.77.0.2");
    world.start("board1");
    world.wait_state("board1", "bl0", LinkState::Waiting, "slot is held by another agent");
    assert!(!world.has_carrier("board1", "bl0"));
    world.ping_well("board0", "10.77.0.1");
    first.finish_without_loss();
    world.kill("board0");
    wait_second(&world, "master");
    world.ping_well("board1", "10.77.0.1");
}

pub(crate) fn a_second_master_on_one_slot_waits_for_the_first_to_go() {
    let mut world = World::running(1, |_, _| String::new());
    world.add_machine("board1");
    let words = world.command("master");
    world.configure("board1", &world.link("bl0", 0, 1, ""));
    let config = world.config("board1").display().to_string();
    world.start_words("board1", "board1", &[&words[0], "master", "--config", &config]);
    world.wait_state("board1", "bl0", LinkState::Waiting, "slot is held by another master");
    world.ping_well("board0", "10.77.0.1");
    world.kill("master");
    wait_second(&world, "board0");
    world.ping_well("board1", "10.77.0.2");
}

/// The lines of an agent's log that say what it waits for.
fn complaints(world: &World, told: &str) -> usize {
    world.log("board0").lines().filter(|line| line.contains(told)).count()
}

pub(crate) fn an_agent_without_permission_says_so_once_and_in_status() {
    let mut world = World::new(1, |_, _| String::new());
    world.start("backplane");
    world.start("master");
    world.start_as("board0", &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    let link = world.wait_state("board0", "bl0", LinkState::Waiting, "CAP_NET_ADMIN");
    assert!(!link.carrier);
    assert!(world.netdev("board0", "bl0").is_none());
    // It has tried more than once by the time the master has beaten a few times.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(complaints(&world, "CAP_NET_ADMIN"), 1, "{}", world.log("board0"));
    assert!(world.stop("board0").success());
    world.start("board0");
    world.wait_up(0);
}

pub(crate) fn an_agent_without_tun_says_so_and_heals_when_it_appears() {
    let mut world = World::new(1, |_, _| String::new());
    world.start("backplane");
    world.start("master");
    let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
    world.start_as("board0", &["unshare", "--mount", "sh", "-c", hide, "sh"]);
    let link = world.wait_state("board0", "bl0", LinkState::Waiting, "/dev/net/tun");
    assert!(link.reason.unwrap().contains("modprobe tun"));
    assert_eq!(complaints(&world, "/dev/net/tun"), 1, "{}", world.log("board0"));
    let target = world.pid("board0").to_string();
    world.run_well("board0", &["nsenter", "-t", &target, "--mount", "umount", "/dev/net"]);
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_link_whose_ends_speak_dialect_v1_comes_up() {
    let world = World::running(1, |_, _| "dialect = \"v1\"".to_owned());
    world.ping_well("master", "10.77.0.2");
    world.transfer("board0", "master", "fd77::1", 4 << 20);
}

pub(crate) fn a_master_says_that_its_board_speaks_another_dialect() {
    let mut world = World::new(1, |machine, _| match machine {
        "master" => "dialect = \"v1\"".to_owned(),
        _ => String::new(),
    });
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    let told = "the board speaks virtio-msg dialect v2";
    world.wait_state("master", "bl0", LinkState::Quarantined, told);
    assert!(!world.has_carrier("master", "bl0") && !world.has_carrier("board0", "bl0"));
    assert!(world.stop("master").success());
    world.configure("master", &world.link("bl0", 0, 1, ""));
    world.start("master");
    world.wait_up(0);
}
