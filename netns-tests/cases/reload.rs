//! A config that is read again: what differs in it is done, and nothing else notices.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use boardlane::daemon::status::LinkState;
use rustix::process::{Pid, Signal, kill_process};

use crate::traffic::exchange;
use crate::world::{PROGRAM, World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// What `boardlane reload` ends with, and all that it says.
fn ask(world: &World, machine: &str) -> (i32, String) {
    let control = world.directory(machine).join("control.sock");
    let words = [PROGRAM, "reload", "--control", control.to_str().unwrap()];
    let Output { status, stdout, stderr } = world.run(machine, &words);
    let text = [stdout, stderr].map(|octets| String::from_utf8(octets).unwrap()).concat();
    (status.code().unwrap(), text)
}

/// Writes the links into a machine's config, and has them be read; what was done.
pub(super) fn reload(world: &World, machine: &str, links: &str) -> String {
    world.configure(machine, links);
    let (code, text) = ask(world, machine);
    assert_eq!(code, 0, "{text}");
    let (_, done) = text.trim_end().split_once("control.sock: ").expect(&text);
    eprintln!("{machine}: {done}");
    done.to_owned()
}

/// The epochs of a link at one end, and the index of its netdev.
fn marks(world: &World, machine: &str, name: &str) -> [Option<u64>; 3] {
    let link = world.link_status(machine, name).unwrap();
    let index = world.netdev(machine, name).unwrap()["ifindex"].as_u64();
    [link.epoch.map(u64::from), link.peer_epoch.map(u64::from), index]
}

/// Segments that a machine's TCP has sent again.
fn sent_again(world: &World, machine: &str) -> u64 {
    let text = world.run_well(machine, &["cat", "/proc/net/snmp"]);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("Tcp:"))
        .map(|line| line.split(' ').collect())
        .collect();
    let at = lines[0].iter().position(|word| *word == "RetransSegs").unwrap();
    lines[1][at].parse().unwrap()
}

fn has_address(world: &World, machine: &str, name: &str, address: &str) -> bool {
    let netdev = world.netdev(machine, name).unwrap();
    netdev["addr_info"].as_array().unwrap().iter().any(|info| info["local"] == address)
}

/// Says that it is over once it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn links_come_and_go_and_the_others_do_not_notice() {
    let mut world = World::running(2, plain);
    world.add_machine("board2");
    world.configure("board2", &world.link("bl0", 2, 2, ""));
    world.start("board2");
    let before = marks(&world, "master", "bl0");
    let steady = world.steady_ping("master", "10.77.0.2");
    let [client, server] = world.connection("master", "board0", "10.77.0.2");
    let again = sent_again(&world, "master");
    let links = |slots: &[u8]| -> String {
        slots.iter().map(|slot| world.link(&format!("bl{slot}"), *slot, 1, "")).collect()
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also if something is not as it should be: the other thread is waited for.
        let end = Ends(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange(&client, &server, 16 << 20, "during the reloads");
            }
        });
        assert_eq!(
            reload(&world, "master", &links(&[2, 0])),
            "added bl2; removed bl1; 1 unchanged"
        );
        assert!(world.netdev("master", "bl1").is_none());
        let names: Vec<_> =
            world.status("master").unwrap().links.into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["bl2", "bl0"]);
        world.wait_up(2);
        world.ping_well("board2", "10.77.2.1");
        world.wait_state("board1", "bl0", LinkState::Waiting, "waiting for master");
        assert!(world.log("board1").contains("master stopped"), "{}", world.log("board1"));
        assert_eq!(reload(&world, "master", &links(&[2, 0])), "2 unchanged");
        assert_eq!(
            reload(&world, "master", &links(&[0, 1])),
            "added bl1; removed bl2; 1 unchanged"
        );
        world.wait_up(1);
        world.ping_well("board1", "10.77.1.1");
        drop(end);
    });
    steady.finish_without_loss();
    assert_eq!(marks(&world, "master", "bl0"), before);
    assert_eq!(sent_again(&world, "master"), again, "segments were lost");
    assert!(!world.directory("master").join("control.sock.bl2.owned").exists());
}

pub(crate) fn addresses_routes_and_a_masters_mtu_change_while_the_link_runs() {
    let world = World::running(1, plain);
    let before = ["master", "board0"].map(|machine| marks(&world, machine, "bl0"));
    let steady = world.steady_ping("board0", "10.77.0.1");
    world.ip("master", "addr add 192.0.2.1/24 dev bl0");
    let master = |keys: &str| reload(&world, "master", &world.link("bl0", 0, 1, keys));
    let more = "address = [\"10.77.0.1/30\", \"fd77::1/64\", \"10.78.0.1/24\"]\nmtu = 1400\n\
        route = [{ to = \"10.80.0.0/24\", via = \"10.78.0.9\" }]";
    assert_eq!(master(more), "changed bl0; 0 unchanged");
    assert!(has_address(&world, "master", "bl0", "10.78.0.1"));
    assert_eq!(world.ip("master", "route show 10.80.0.0/24")[0]["gateway"], "10.78.0.9");
    wait("the board's MTU follows", || {
        let mtu = world.netdev("board0", "bl0").unwrap()["mtu"].clone();
        check(mtu == 1400, mtu)
    });
    // The same network by another way, and a board whose address is another.
    let other = more.replace("10.78.0.9", "10.78.0.8");
    assert_eq!(master(&other), "changed bl0; 0 unchanged");
    let routes = world.ip("master", "route show 10.80.0.0/24");
    assert_eq!((routes.len(), &routes[0]["gateway"]), (1, &"10.78.0.8".into()), "{routes:?}");
    let board = "address = [\"10.77.0.2/30\", \"10.78.0.2/24\"]";
    assert_eq!(
        reload(&world, "board0", &world.link("bl0", 0, 2, board)),
        "changed bl0; 0 unchanged"
    );
    assert!(!has_address(&world, "board0", "bl0", "fd77::2"));
    world.ping_well("board0", "10.78.0.1");
    assert_eq!(master(""), "changed bl0; 0 unchanged");
    for (address, stays) in [("10.78.0.1", false), ("10.77.0.1", true), ("192.0.2.1", true)] {
        assert_eq!(has_address(&world, "master", "bl0", address), stays, "{address}");
    }
    assert!(world.ip("master", "route show 10.80.0.0/24").is_empty());
    steady.finish_without_loss();
    let after = ["master", "board0"].map(|machine| marks(&world, machine, "bl0"));
    assert_eq!(after, before, "no link was down");
    wait("the MTU is the old one", || {
        let mtu = world.netdev("board0", "bl0").unwrap()["mtu"].clone();
        check(mtu == 1500, mtu)
    });
}

pub(crate) fn a_link_that_has_to_begin_anew_keeps_its_netdev_and_is_alone_in_it() {
    let world = World::running(2, plain);
    let steady = world.steady_ping("master", "10.77.1.2");
    let before = marks(&world, "master", "bl0");
    world.ip("master", "addr add 192.0.2.1/24 dev bl0");
    let [client, server] = world.connection("master", "board0", "10.77.0.2");
    let links =
        [world.link("bl0", 0, 1, "features_off = [\"MRG_RXBUF\"]"), world.link("bl1", 1, 1, "")];
    assert_eq!(reload(&world, "master", &links.concat()), "restarted bl0; 1 unchanged");
    world.wait_up(0);
    let link = world.link_status("master", "bl0").unwrap();
    assert!(!link.features.iter().any(|feature| feature == "MRG_RXBUF"), "{link:?}");
    let after = marks(&world, "master", "bl0");
    assert_ne!(after[0], before[0]);
    assert_eq!(after[2], before[2], "the netdev is the same");
    assert!(has_address(&world, "master", "bl0", "192.0.2.1"));
    exchange(&client, &server, 1 << 20, "after the restart");
    steady.finish_without_loss();
}

pub(crate) fn a_netdev_moves_to_the_namespace_that_a_new_config_names() {
    let mut world = World::running(1, plain);
    world.add_machine("inner");
    let inner = world.link("bl0", 0, 1, &format!("netns = \"{}\"", world.namespace("inner")));
    assert_eq!(reload(&world, "master", &inner), "restarted bl0; 0 unchanged");
    assert!(world.netdev("master", "bl0").is_none());
    world.wait_ping("traffic", "inner", "10.77.0.2");
    assert_eq!(
        reload(&world, "master", &world.link("bl0", 0, 1, "port = \"echo\"")),
        "restarted bl0; 0 unchanged"
    );
    assert!(world.netdev("inner", "bl0").is_none());
}

pub(crate) fn names_that_swap_their_slots_meet_each_others_boards() {
    let world = World::running(2, plain);
    let index = ["bl0", "bl1"].map(|name| marks(&world, "master", name)[2]);
    let links = [world.link("bl0", 1, 1, ""), world.link("bl1", 0, 1, "")].concat();
    assert_eq!(reload(&world, "master", &links), "restarted bl0 bl1; 0 unchanged");
    for (name, address) in [("bl0", "10.77.1.2"), ("bl1", "10.77.0.2")] {
        wait(&format!("{name} is up"), || check(world.is_operational("master", name), "down"));
        world.wait_ping("traffic", "master", address);
        let route = world.ip("master", &format!("route get {address}"));
        assert_eq!(route[0]["dev"], name);
    }
    assert_eq!(["bl0", "bl1"].map(|name| marks(&world, "master", name)[2]), index);
}

pub(crate) fn a_config_that_is_wrong_or_moves_the_control_socket_changes_nothing() {
    let world = World::running(1, plain);
    let before = marks(&world, "master", "bl0");
    let good = world.link("bl0", 0, 1, "");
    for (links, told) in [
        (format!("{good}mtu = 12\n"), ".toml:7:7: mtu 12 is out of range"),
        (String::new(), "there is no link"),
        (format!("control_mode = \"0666\"\n{good}"), "that takes a restart of the daemon"),
    ] {
        world.configure("master", &links);
        let (code, text) = ask(&world, "master");
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(told) && text.ends_with("nothing was changed\n"), "{text}");
        assert_eq!(marks(&world, "master", "bl0"), before);
    }
    std::fs::remove_file(world.config("master")).unwrap();
    let (code, text) = ask(&world, "master");
    assert!(code == 2 && text.contains("cannot be read"), "{code}: {text}");
    world.ping_well("master", "10.77.0.2");
    assert_eq!(reload(&world, "master", &good), "1 unchanged");
}

pub(crate) fn a_hang_up_reads_the_config_again() {
    let world = World::running(1, plain);
    let before = marks(&world, "master", "bl0");
    let keys = "address = [\"10.77.0.1/30\", \"fd77::1/64\", \"10.78.0.1/24\"]";
    world.configure("master", &world.link("bl0", 0, 1, keys));
    world.signal("master", Signal::HUP);
    wait("the address is there", || {
        check(has_address(&world, "master", "bl0", "10.78.0.1"), world.log("master"))
    });
    world.configure("master", "links = 5");
    world.signal("master", Signal::HUP);
    wait("the log tells what is wrong", || {
        let log = world.log("master");
        check(log.contains("nothing was changed: ") && log.contains(":2:1: "), log)
    });
    assert_eq!(marks(&world, "master", "bl0"), before);
    world.ping_well("board0", "10.77.0.1");
}

pub(crate) fn a_daemon_whose_terminal_is_gone_stops() {
    let mut world = World::running(1, plain);
    world.stop("board0");
    // These cases may themselves run under nohup, whose ignored SIGHUP a daemon would go by.
    let line = format!("env --default-signal=HUP {}", world.command("board0").join(" "));
    world.start_words("terminal", "board0", &["script", "-qec", &line, "/dev/null"]);
    world.wait_up(0);
    // With its terminal there it is asked to reload.
    let pid = i32::try_from(world.status("board0").unwrap().pid).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), Signal::HUP).unwrap();
    wait("it has read its config again", || {
        let log = world.log("terminal");
        check(log.contains("reload: 1 unchanged"), log)
    });
    world.kill("terminal");
    wait("the agent has stopped", || {
        check(world.netdev("board0", "bl0").is_none(), "its netdev is there")
    });
    wait("its socket is gone", || {
        check(!world.directory("board0").join("control.sock").exists(), "it is there")
    });
}

pub(crate) fn a_daemon_that_nohup_started_outlives_its_terminal() {
    let mut world = World::running(1, plain);
    world.stop("board0");
    let line = format!("nohup {} >/dev/null 2>&1", world.command("board0").join(" "));
    world.start_words("terminal", "board0", &["script", "-qec", &line, "/dev/null"]);
    world.wait_up(0);
    let pid = i32::try_from(world.status("board0").unwrap().pid).ok().and_then(Pid::from_raw);
    world.kill("terminal");
    thread::sleep(Duration::from_millis(300));
    world.ping_well("master", "10.77.0.2");
    assert_eq!(reload(&world, "board0", &world.link("bl0", 0, 2, "")), "1 unchanged");
    kill_process(pid.unwrap(), Signal::TERM).unwrap();
    wait("the agent has stopped", || {
        check(!world.directory("board0").join("control.sock").exists(), "its socket is there")
    });
}

pub(crate) fn reloads_at_once_come_one_after_the_other() {
    let mut world = World::running(1, plain);
    world.add_machine("board1");
    world.configure("board1", &world.link("bl0", 1, 2, ""));
    world.start("board1");
    let links = [world.link("bl0", 0, 1, ""), world.link("bl1", 1, 1, "")].concat();
    world.configure("master", &links);
    let control = world.directory("master").join("control.sock");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut command = Command::new(PROGRAM);
            command.args(["reload", "--control"]).arg(&control).stdout(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut said = Vec::new();
    for client in clients {
        let Output { status, stdout, .. } = client.wait_with_output().unwrap();
        assert!(status.success());
        let text = String::from_utf8(stdout).unwrap();
        said.push(text.trim_end().rsplit_once(": ").unwrap().1.to_owned());
    }
    said.sort();
    assert_eq!(said.pop().as_deref(), Some("added bl1; 1 unchanged"));
    assert_eq!(said, ["2 unchanged"; 7]);
    world.wait_up(1);
    // One that is asked for while the daemon stops comes to its end, or does not begin.
    world.configure("master", &world.link("bl1", 1, 1, "queues = 2"));
    world.signal("master", Signal::HUP);
    assert!(world.stop("master").success(), "{}", world.log("master"));
    for name in ["bl0", "bl1"] {
        assert!(world.netdev("master", name).is_none(), "{name}: {}", world.log("master"));
    }
}

pub(crate) fn a_link_that_waits_for_its_backplane_is_changed_and_removed() {
    let mut world = World::new(2, plain);
    world.start("master");
    for name in ["bl0", "bl1"] {
        world.wait_state("master", name, LinkState::Waiting, "no backplane yet");
    }
    let keys = "address = [\"10.77.0.1/30\", \"10.78.0.1/24\"]\nmtu = 1400";
    let done = reload(&world, "master", &world.link("bl0", 0, 1, keys));
    assert_eq!(done, "removed bl1; changed bl0; 0 unchanged");
    assert!(has_address(&world, "master", "bl0", "10.78.0.1"));
    assert!(!has_address(&world, "master", "bl0", "fd77::1"));
    assert_eq!(world.netdev("master", "bl0").unwrap()["mtu"], 1400);
    assert!(world.netdev("master", "bl1").is_none());
    world.start("backplane");
    world.start("board0");
    world.wait_up(0);
    assert!(has_address(&world, "master", "bl0", "10.78.0.1"));
    wait("the board's MTU follows", || {
        let mtu = world.netdev("board0", "bl0").unwrap()["mtu"].clone();
        check(mtu == 1400, mtu)
    });
    let keep = world.link("bl0", 0, 1, &format!("{keys}\nkeep = true"));
    assert_eq!(reload(&world, "master", &keep), "changed bl0; 0 unchanged");
    assert!(world.stop("master").success());
    assert!(has_address(&world, "master", "bl0", "10.78.0.1"), "it was to be kept");
}
