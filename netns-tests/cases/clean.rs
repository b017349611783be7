//! What killed daemons leave, and who takes it away.

use std::fs;
use std::os::unix::net::UnixListener;

use boardlane::os::tap::Tap;

use crate::world::{PROGRAM, World};

const KILLED: [&str; 3] = ["board0", "master", "backplane"];

/// A world of two boards whose daemons and backplane were killed, the second board's excepted.
fn world() -> World {
    let mut world = World::running(2, |_, _| String::new());
    KILLED.iter().for_each(|daemon| world.kill(daemon));
    world
}

/// What `boardlane clean` says on a machine, after its own daemon.
fn clean(world: &World, machine: &str, by: &[&str], option: &str) -> (i32, Vec<String>, String) {
    let config = world.config(machine).display().to_string();
    let words: Vec<_> = by.iter().copied().chain([PROGRAM, "clean", "--config", &config]).collect();
    let words: Vec<_> = words.into_iter().chain(Some(option).filter(|o| !o.is_empty())).collect();
    let output = world.run(machine, &words);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let lines = text(&output.stdout).lines().map(str::to_owned).collect();
    (output.status.code().unwrap(), lines, text(&output.stderr))
}

pub(crate) fn what_killed_daemons_left_is_removed_and_nothing_else() {
    let world = world();
    let directory = world.directory("board0");
    let slots = world.slot(0).parent().unwrap().to_owned();
    // What is not ours: by its alias, by its kind, by its name, by who listens on it.
    let tap = world.inside("board0", || Tap::create("foreign", true).unwrap());
    drop(tap);
    world.ip("board0", "link add fake type bridge");
    world.ip("board0", "link set fake alias boardlane");
    fs::write(directory.join("control.sock.txt"), "").unwrap();
    let _listener = UnixListener::bind(slots.join("slot99.sock")).unwrap();

    let left = [
        "netdev bl0".to_owned(),
        format!("note {}", directory.join("control.sock.bl0.owned").display()),
        format!("socket {}", directory.join("control.sock").display()),
        format!("lock {}", directory.join("control.sock.lock").display()),
    ];
    let slot_files =
        (0..16).map(|n| format!("socket {}", slots.join(format!("slot{n}.sock")).display()));
    let mut slot_files: Vec<_> = slot_files.collect();
    slot_files.sort();
    slot_files.push(format!("socket {}", slots.join(".lock").display()));
    let all: Vec<_> = left.iter().chain(&slot_files).cloned().collect();

    let (status, said, complaints) = clean(&world, "board0", &[], "--dry-run");
    let would: Vec<_> = all.iter().map(|what| format!("would remove {what}")).collect();
    assert_eq!((status, said, complaints.as_str()), (0, would, ""));
    assert!(world.netdev("board0", "bl0").is_some() && world.slot(0).exists());

    assert_eq!(clean(&world, "board0", &[], ""), (0, all, String::new()));
    let names: Vec<_> =
        world.ip("board0", "link show").iter().map(|n| n["ifname"].to_string()).collect();
    assert_eq!(names, ["\"lo\"", "\"foreign\"", "\"fake\""]);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["control.sock.txt"]);
    assert!(slots.join("slot99.sock").exists());
    assert_eq!(clean(&world, "board0", &[], ""), (0, Vec::new(), String::new()));
}

pub(crate) fn what_is_alive_is_not_cleaned() {
    let mut world = World::running(1, |_, _| String::new());
    let steady = world.steady_ping("master", "10.77.0.2");
    for machine in ["master", "board0"] {
        assert_eq!(clean(&world, machine, &[], ""), (0, Vec::new(), String::new()));
    }
    world.wait_up(0);
    steady.finish_without_loss();
    // Its daemon is gone, but not the backplane, nor the other end.
    world.kill("board0");
    let (status, said, complaints) = clean(&world, "board0", &[], "");
    assert_eq!((status, said.len(), complaints.as_str()), (0, 4, ""), "{said:?}");
    world.start("board0");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_netdev_in_a_named_namespace_is_cleaned_after_its_config() {
    let mut world = World::new(1, |_, _| String::new());
    world.add_machine("inner");
    let inner = world.namespace("inner");
    world.configure("board0", &world.link("bl0", 0, 2, &format!("netns = \"{inner}\"")));
    KILLED.iter().rev().for_each(|daemon| world.start(daemon));
    crate::world::wait("the link is up", || {
        crate::world::check(world.is_operational("inner", "bl0"), "not operational")
    });
    world.kill("board0");
    let (status, said, complaints) = clean(&world, "board0", &[], "");
    assert_eq!((status, said.len(), complaints.as_str()), (0, 4, ""), "{said:?}");
    assert_eq!(said[0], format!("netdev bl0 in network namespace {inner}"));
    assert!(world.netdev("inner", "bl0").is_none());
}

pub(crate) fn what_may_not_be_cleaned_is_named() {
    let world = world();
    let by = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all"];
    let (status, said, complaints) = clean(&world, "board0", &by, "");
    assert_eq!(status, 1, "{complaints}");
    let each =
        ["/dev/net/tun", "control.sock", "slots/.lock"].map(|what| complaints.contains(what));
    // Where everybody may open /dev/net/tun, it is the TAP that is not permitted.
    let tap = each[0] || complaints.contains("TAP bl0: not permitted");
    assert!(tap && each[1] && each[2] && complaints.lines().count() == 3, "{complaints}");
    assert_eq!(said, Vec::<String>::new());
}
