//! Names and network namespaces: what is taken, and what vanishes.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use boardlane::daemon::status::LinkState;
use boardlane::os::child;
use boardlane::os::netns::Namespace;
use rustix::process::Signal;

use super::Eye;
use crate::cases::reload::reload;
use crate::world::{World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// Renames the netdev and gives its name away, both at once, so that there is no moment in between.
const TAKEN: &str =
    "ip -batch - <<'END'\nlink set bl0 name x0\nlink add bl0 type veth peer name p0\nEND";

pub(crate) fn a_name_that_is_taken_meanwhile_is_told_and_had_again_once_it_is_free() {
    let world = World::running(1, plain);
    let traffic = world.steady_ping("board0", "10.77.0.1");
    world.run_well("master", &["sh", "-c", TAKEN]);
    let told = "the netdev has been renamed to x0, and stays so";
    wait("status tells of it", || {
        let link = world.link_status("master", "bl0")?;
        let is_told = link.reason.as_deref().is_some_and(|reason| reason.contains(told));
        check(is_told && link.state == LinkState::Up, &link)
    });
    let eye = Eye::on(&world, "master");
    // Its address is healed under the other name, and the one that has its name is nobody's here.
    let foreign = eye.see("bl0").unwrap();
    world.ip("master", "addr del fd77::1/64 dev x0");
    wait("the address is there again", || {
        let seen = eye.see("x0").ok_or("no x0")?;
        check(super::has_address(&seen, "fd77::1/64"), &seen)
    });
    assert_eq!(eye.see("bl0").unwrap(), foreign);
    world.ip("master", "link del bl0");
    wait("it has its name again", || check(eye.see("x0").is_none(), "it is x0"));
    assert!(super::has_address(&eye.see("bl0").unwrap(), "fd77::1/64"));
    wait("status has nothing to tell", || {
        let reason = world.link_status("master", "bl0")?.reason;
        check(reason.is_none(), reason)
    });
    world.wait_up(0);
    traffic.finish_without_loss();
}

pub(crate) fn a_netdev_whose_name_is_taken_is_gone_when_its_link_begins_anew() {
    let world = World::running(1, plain);
    world.run_well("master", &["sh", "-c", TAKEN]);
    let restarted = reload(&world, "master", &world.link("bl0", 0, 1, "queues = 2"));
    assert!(restarted.starts_with("restarted bl0"), "{restarted}");
    // No later start would know that it is of this link.
    wait("it is gone", || check(world.netdev("master", "x0").is_none(), "x0 is there"));
    world.ip("master", "link del bl0");
    world.wait_up(0);
}

pub(crate) fn a_netdev_whose_name_is_taken_at_home_stays_where_it_was_moved_until_it_is_free() {
    let mut world = World::running(1, plain);
    world.add_machine("other");
    let other = world.namespace("other");
    // Both at once, so that the daemon is not faster.
    world.signal("master", Signal::STOP);
    world.ip("master", &format!("link set bl0 netns {other}"));
    world.ip("master", "link add bl0 type veth peer name p0");
    world.signal("master", Signal::CONT);
    let told = "bl0 is in another network namespace, as bl0, and cannot come back";
    wait("status tells of it", || {
        let reason = world.link_status("master", "bl0")?.reason;
        check(reason.as_deref().is_some_and(|reason| reason.contains(told)), reason)
    });
    world.ip("master", "link del bl0");
    world.wait_up(0);
    world.wait_ping("traffic back", "master", "10.77.0.2");
    assert!(world.netdev("other", "bl0").is_none());
}

/// A process that lives in a namespace until it is told to end.
struct Resident(Child);

impl Resident {
    fn of(namespace: &str) -> Self {
        let netns = Namespace::open(namespace).unwrap().as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        Self(child::spawn(&mut command, Some(netns)).unwrap())
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn a_namespace_that_vanishes_is_waited_for_and_no_other_link_notices() {
    let mut world = World::new(5, plain);
    world.add_machine("inner");
    world.add_machine("lair");
    let mut resident = Resident::of(&world.namespace("lair"));
    let links: String = (0..5)
        .map(|slot| {
            let keys = match slot {
                0 => format!("netns = \"{}\"", world.namespace("inner")),
                1 => format!("netns = {}", resident.0.id()),
                _ => String::new(),
            };
            world.link(&format!("bl{slot}"), slot, 1, &keys)
        })
        .collect();
    world.configure("master", &links);
    for daemon in ["backplane", "master", "board0", "board1", "board2", "board3", "board4"] {
        world.start(daemon);
    }
    (2..5).for_each(|slot| world.wait_up(slot));
    let others: Vec<_> =
        (2..5).map(|slot| world.steady_ping("master", &format!("10.77.{slot}.2"))).collect();
    world.wait_ping("traffic", "inner", "10.77.0.2");
    world.wait_ping("traffic", "lair", "10.77.1.2");

    // Nobody else has it: what the daemon had there was all that kept it alive.
    let inner = world.namespace("inner");
    for again in 0..2 {
        world.remove_namespace("inner");
        let told = format!("network namespace {inner} does not exist");
        world.wait_state("master", "bl0", LinkState::Waiting, &told);
        world.wait_state("board0", "bl0", LinkState::Waiting, "waiting for master");
        wait("nothing of it is open", || {
            let sockets = sockets_elsewhere(&world);
            check(sockets == usize::from(again == 0), sockets)
        });
        world.make_namespace("inner");
        world.wait_ping("traffic back", "board0", "10.77.0.1");
        if again == 0 {
            let pid = resident.0.id();
            resident.end();
            let told = format!("network namespace {pid} does not exist");
            world.wait_state("master", "bl1", LinkState::Waiting, &told);
            wait("its netdev is gone", || {
                check(world.netdev("lair", "bl1").is_none(), "there is a bl1")
            });
        }
    }
    // Another one that has its name at once.
    world.remove_namespace("inner");
    world.make_namespace("inner");
    wait("the netdev is in the new one", || {
        check(world.is_operational("inner", "bl0"), world.link_status("master", "bl0"))
    });
    world.wait_ping("traffic back", "inner", "10.77.0.2");
    others.into_iter().for_each(crate::traffic::Steady::finish_without_loss);
}

/// How many of the master's TAPs are in other namespaces than its own.
fn sockets_elsewhere(world: &World) -> usize {
    let fdinfo = format!("/proc/{}/fdinfo", world.pid("master"));
    let taps = std::fs::read_dir(fdinfo).unwrap().flatten().filter(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        text.contains("iff:\tbl0") || text.contains("iff:\tbl1")
    });
    taps.count()
}
