//! A backplane that is replaced by another one, and ends that move to its memory together.

use std::thread;
use std::time::Duration;

use boardlane::daemon::status::{LinkState, LinkStatus};
use rustix::process::Signal;

use crate::world::{PROGRAM, World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// Starts a backplane with these options.
fn start(world: &mut World, options: &str) {
    let directory = world.slot(0).parent().unwrap().display().to_string();
    let words: Vec<_> =
        [PROGRAM, "backplane", "--dir", &directory].into_iter().chain(options.split(' ')).collect();
    world.start_words("backplane", "", &words);
}

fn ends(world: &World, slot: u8) -> Result<[LinkStatus; 2], String> {
    let master = world.link_status("master", &format!("bl{slot}"))?;
    Ok([master, world.link_status(&format!("board{slot}"), "bl0")?])
}

fn epochs(world: &World, slot: u8) -> [Option<u32>; 2] {
    ends(world, slot).unwrap().map(|end| end.epoch)
}

/// Waits until both ends of a link are up in another session.
fn wait_moved(world: &World, slot: u8, before: [Option<u32>; 2]) {
    wait(&format!("link {slot} has moved"), || {
        let ends = ends(world, slot)?;
        let moved = ends.iter().zip(before).all(|(end, before)| end.epoch != before);
        check(moved && ends.iter().all(|end| end.state == LinkState::Up), &ends)
    });
    world.wait_up(slot);
}

pub(crate) fn ends_move_to_a_backplane_of_another_shape() {
    let mut world = World::running(1, plain);
    for options in [
        "--slots 1 --window 1M",
        "--slots 1 --window 64M",
        "--slots 1 --vectors 1",
        "--slots 1 --vectors 16",
        "--slots 256",
    ] {
        eprintln!("{options}");
        let before = epochs(&world, 0);
        world.kill("backplane");
        start(&mut world, options);
        wait_moved(&world, 0, before);
        world.wait_ping("traffic back", "master", "10.77.0.2");
        world.transfer("master", "board0", "10.77.0.2", 1 << 20);
        world.transfer("board0", "master", "fd77::1", 1 << 20);
    }
}

pub(crate) fn a_link_whose_slot_is_no_more_goes_on_until_an_end_is_lost() {
    let mut world = World::running(2, plain);
    let steady = world.steady_ping("master", "10.77.1.2");
    let before = [0, 1].map(|slot| epochs(&world, slot));
    assert!(world.stop("backplane").success());
    start(&mut world, "--slots 1");
    wait_moved(&world, 0, before[0]);
    world.wait_ping("traffic back", "master", "10.77.0.2");
    assert_eq!(epochs(&world, 1), before[1]);
    world.wait_up(1);
    steady.finish_without_loss();

    world.kill("board1");
    world.start("board1");
    for (machine, name) in [("board1", "bl0"), ("master", "bl1")] {
        world.wait_state(machine, name, LinkState::Waiting, "");
    }
    world.wait_state("board1", "bl0", LinkState::Waiting, "slot1.sock does not exist");
    world.ping_well("master", "10.77.0.2");
    world.kill("backplane");
    start(&mut world, "--slots 2");
    for slot in 0..2 {
        world.wait_up(slot);
        world.wait_ping("traffic back", "master", &format!("10.77.{slot}.2"));
    }
}

pub(crate) fn an_end_that_finds_the_next_backplane_first_waits_for_the_other() {
    let mut world = World::running(1, plain);
    for (frozen, awake) in [("board0", "master"), ("master", "board0")] {
        let before = epochs(&world, 0);
        world.signal(frozen, Signal::STOP);
        world.kill("backplane");
        world.start("backplane");
        // Less than after which it would be dead.
        thread::sleep(Duration::from_millis(400));
        let link = world.link_status(awake, "bl0").unwrap();
        assert!(before.contains(&link.epoch) && link.carrier, "{link:?}");
        world.signal(frozen, Signal::CONT);
        wait_moved(&world, 0, before);
        world.wait_ping("traffic back", "master", "10.77.0.2");
    }
}

pub(crate) fn ends_find_the_last_of_several_backplanes() {
    let mut world = World::running(1, plain);
    for pause_ms in [0, 5, 20, 60, 120, 300] {
        let before = epochs(&world, 0);
        for _ in 0..3 {
            world.kill("backplane");
            world.start("backplane");
            thread::sleep(Duration::from_millis(pause_ms));
        }
        wait_moved(&world, 0, before);
        world.wait_ping("traffic back", "master", "10.77.0.2");
    }
}
