//! What `boardlane probe` says of slots: whoever is asked, and whatever stands there.

use std::path::Path;
use std::process::Output;

use boardlane::daemon::status::LinkState;
use boardlane::os::fabric::shm::ShmLink;
use boardlane::spec::window;
use serde_json::Value;

use crate::world::{PROGRAM, World, check, wait};

/// What a probe of one target comes to: the exit status, the text, and the JSON's one object. Asks the
/// daemon of this machine. Text and JSON are of two looks, and agree once nothing changes between them.
pub(super) fn probe(world: &World, asked: &str, target: &str) -> (i32, String, Value) {
    wait("text and JSON agree", || look_twice(world, asked, target))
}

fn look_twice(world: &World, asked: &str, target: &str) -> Result<(i32, String, Value), String> {
    let control = world.directory(asked).join("control.sock");
    let words = [PROGRAM, "probe", "--control", control.to_str().unwrap(), target];
    let run = |words: &[&str]| {
        let Output { status, stdout, stderr } = world.run(asked, words);
        let [out, err] = [stdout, stderr].map(|octets| String::from_utf8(octets).unwrap());
        (status.code().unwrap(), out, err)
    };
    let (status, text, err) = run(&words);
    let (again, json, _) = run(&[&words[..], &["--json"]].concat());
    let mut all: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(all.len(), 1, "{json}");
    let found = all.remove(0);
    let verdict = format!("{target}: {}", found["verdict"].as_str().unwrap());
    let first = if found["window"].is_null() { err } else { text.clone() };
    let agree = status == again && first.lines().any(|line| line.ends_with(&verdict));
    check(agree, (status, first, again, verdict))?;
    assert_eq!((found["good"] == true, found["target"].as_str()), (status == 0, Some(target)));
    Ok((status, text, found))
}

fn target(world: &World, slot: u8) -> String {
    format!("shm:{}", world.slot(slot).display())
}

pub(crate) fn a_live_link_is_told_by_both_daemons_and_by_a_look_without_them() {
    let world = World::running(2, |_, _| String::new());
    let before = world.link_status("master", "bl0").unwrap();
    let slot = target(&world, 0);
    let up = "window is good, board and master are up";
    let mut epochs = Vec::new();
    // Each end by its own name and by the slot's; then somebody who holds another slot is asked.
    for (asked, target) in [
        ("master", "bl0"),
        ("board0", "bl0"),
        ("master", &*slot),
        ("board0", &slot),
        ("board1", &slot),
    ] {
        let (status, text, found) = probe(&world, asked, target);
        assert_eq!((status, found["verdict"].as_str()), (0, Some(up)), "{text}");
        let window = &found["window"];
        for end in ["board", "master"] {
            let part = &window[end];
            assert_eq!((&part["moves"], &part["held"]), (&true.into(), &true.into()), "{part}");
            assert_eq!((&part["state"], &part["presence"]), (&"run".into(), &"attached".into()));
            assert_ne!(part["mailbox"]["memory"], Value::Null, "{part}");
        }
        for way in ["to_board", "to_master"] {
            assert!(window[way]["put"].as_u64() > Some(0), "{window}");
            assert!(window[way]["waiting"].as_u64() < Some(16), "{window}");
        }
        epochs.push((window["board"]["epoch"].clone(), window["master"]["epoch"].clone()));
        assert_eq!(window["memory"].as_array().map(Vec::len), Some(2));
        let queues = found["queues"].as_array().unwrap();
        if asked == "board1" {
            assert_eq!((&found["asked"], queues.len()), (&Value::Null, 0));
            continue;
        }
        assert_eq!(found["asked"]["pid"], world.pid(asked));
        let names: Vec<_> = queues.iter().map(|queue| queue["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["receiveq0", "transmitq0", "controlq"], "{text}");
        for queue in queues {
            assert_eq!(
                (&queue["enabled"], &queue["descriptors"]["memory"]),
                (&true.into(), &"window".into())
            );
            assert_eq!(queue["device_area"]["memory"], "driver memory");
        }
    }
    assert!(epochs.iter().all(|pair| *pair == epochs[0]), "{epochs:?}");
    // Nobody was disturbed.
    let after = world.link_status("master", "bl0").unwrap();
    assert_eq!((before.epoch, before.peer_epoch), (after.epoch, after.peer_epoch));
    assert_eq!(after.state, LinkState::Up);
}

pub(crate) fn one_end_alone_is_told_from_one_that_died() {
    let mut world = World::new(2, |_, _| String::new());
    world.start("backplane");
    world.start("board1");
    let said = |world: &World, slot: u8, expected: &str| {
        wait(&format!("probe says {expected:?}"), || {
            let (_, text, found) = probe(world, "board1", &target(world, slot));
            check(found["verdict"] == expected, text)
        });
    };
    said(&world, 0, "no agent has written this window");
    world.start("master");
    said(&world, 0, "no agent has written this window, master is ready");
    assert!(world.stop("master").success());
    world.start("board0");
    said(&world, 0, "window is good, board is ready, master has stopped");
    world.kill("board0");
    said(&world, 0, "window is good, board is gone, master has stopped");
    // A daemon that has no backplane any more, nor had one.
    let (status, _, found) = probe(&world, "board1", "bl7");
    assert_eq!((status, &found["window"]), (1, &Value::Null));
    world.kill("board1");
    world.kill("backplane");
    world.start("board1");
    world.wait_state("board1", "bl0", LinkState::Waiting, "no backplane");
    let (status, text, found) = probe(&world, "board1", "bl0");
    let verdict = found["verdict"].as_str().unwrap();
    assert!(status == 1 && verdict.starts_with("the agent says: no backplane"), "{text}{verdict}");
}

/// Writes at the start of a slot's memory.
fn forge(slot: &Path, octets: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let link = runtime.block_on(ShmLink::connect(slot)).unwrap();
    link.slot().memory.view(0, octets.len()).copy_from(0, octets);
}

pub(crate) fn a_window_that_is_none_of_ours_is_named_for_what_it_is() {
    let mut world = World::new(1, |_, _| String::new());
    world.start("backplane");
    world.start("board0");
    world.wait_state("board0", "bl0", LinkState::Waiting, "waiting for master");
    let newer = [&window::MAGIC.to_le_bytes()[..], &7_u32.to_le_bytes()].concat();
    let mailbox = [&window::MAGIC.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0xff; 500]].concat();
    let cases: [(&[u8], &str, i32); 5] = [
        (&[], "no agent has written this window", 1),
        (&newer, "window has layout version 7, this program has 1: upgrade the older end", 1),
        (&[0xff; 4096], "window reads as all ones: board is in reset or off the bus", 1),
        (&[0x5a; 64], "it begins with 0x5a5a5a5a5a5a5a5a, which is not its magic", 1),
        // Nothing there makes sense; each value is shown, and nobody follows an address.
        (&mailbox, "board is gone, master is gone", 0),
    ];
    for (slot, (octets, expected, code)) in (2..).zip(cases) {
        forge(&world.slot(slot), octets);
        let (status, text, found) = probe(&world, "board0", &target(&world, slot));
        assert!(found["verdict"].as_str().unwrap().ends_with(expected), "{text}");
        assert_eq!(status, code, "{text}");
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
    }
    // The daemon that is asked about its own finds the same there.
    forge(&world.slot(0), &newer);
    let (status, text, found) = probe(&world, "board0", "bl0");
    assert_eq!((status, &found["asked"]["role"]), (1, &"agent".into()), "{text}");
    assert_eq!(found["window"]["content"], "version", "{text}");
}
