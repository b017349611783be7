//! A master in a guest, over VFIO and ivshmem-doorbell; the agent outside, in a namespace, on the same slot.

use std::time::Instant;

use boardlane::daemon::status::LinkState;

use crate::bus::{BOARD, Bus, End, address, master};
use crate::guest::serve_iperf3;
use crate::world::{check, wait};

/// What a first sight of a link up shows.
fn running() -> (Bus, End) {
    let (bus, mut end) = Bus::with(&master(&format!("pci:{}", address(0)), ""));
    end.is_up();
    bus.agent_up();
    (bus, end)
}

pub(super) fn a_master_carries_traffic_by_interrupts() {
    let (mut bus, mut end) = running();
    let [before, after] = bus.traffic(&mut end);
    assert!(after > before + 10, "{before} to {after}");
    let (ours, boards) =
        (end.link().features, bus.world.link_status("board0", "bl0").unwrap().features);
    assert_eq!(ours, boards);
    // What was bound for it is given back.
    let path = format!("/sys/bus/pci/devices/{}", address(0));
    end.guest.run_well("kill $(cat /tmp/pid)");
    end.guest.until(&format!("[ ! -e {path}/driver ]"));
    let text = end.guest.run_well(&format!("cat {path}/driver_override"));
    assert!(!text.contains("vfio"), "{text}");
    bus.world.wait_state("board0", "bl0", LinkState::Waiting, "");
}

pub(super) fn the_lowest_function_is_found() {
    let (mut bus, mut end) = Bus::with(&master("pci:auto", ""));
    end.is_up();
    bus.agent_up();
    bus.traffic(&mut end);
}

pub(super) fn a_master_that_is_killed_is_back() {
    let (mut bus, mut end) = running();
    for _ in 0..3 {
        under_traffic(&mut bus, &mut end);
        let began = Instant::now();
        end.kill_and_start();
        end.wait_state("bl0", "up", "");
        end.guest.pings(BOARD);
        eprintln!("killed, and up again after {:.2} s", began.elapsed().as_secs_f64());
        no_traffic(&mut bus, &mut end);
    }
    bus.traffic(&mut end);
}

pub(super) fn a_function_that_is_removed_is_missed_and_found_again() {
    let (mut bus, mut end) = running();
    for _ in 0..2 {
        under_traffic(&mut bus, &mut end);
        end.remove(0);
        end.wait_state("bl0", "waiting", &address(0));
        bus.world.wait_state("board0", "bl0", LinkState::Waiting, "");
        no_traffic(&mut bus, &mut end);
        let began = Instant::now();
        end.rescan();
        end.wait_state("bl0", "up", "");
        eprintln!("there, and up again after {:.2} s", began.elapsed().as_secs_f64());
        end.guest.pings(BOARD);
    }
    let log = end.log();
    eprintln!("{log}");
    let mut reasons = log.lines().filter_map(|line| line.split_once("bl0: waiting: "));
    assert!(reasons.any(|(_, reason)| reason.contains(&address(0))), "it says why");
    bus.traffic(&mut end);
}

pub(super) fn a_reset_of_the_guest_under_traffic_is_survived() {
    let (mut bus, mut end) = running();
    for orderly in [false, true] {
        under_traffic(&mut bus, &mut end);
        let pid = bus.world.pid("board0");
        if orderly {
            end.guest.reboot();
        } else {
            end.guest.reset();
        }
        bus.world.kill("iperf3");
        end.is_up();
        bus.agent_up();
        assert_eq!(bus.world.status("board0").unwrap().pid, pid);
        bus.traffic(&mut end);
    }
}

/// TCP both ways for longer than it takes to disturb it.
fn under_traffic(bus: &mut Bus, end: &mut End) {
    serve_iperf3(&mut bus.world, "board0");
    let frames = |bus: &Bus| bus.world.link_status("board0", "bl0").map(|l| l.queues[0].rx.frames);
    let before = frames(bus).unwrap();
    end.guest.run_well(&format!("(iperf3 -c {BOARD} --bidir -t 60 >/tmp/iperf3 2>&1 & )"));
    wait("traffic flows", || {
        let now = frames(bus)?;
        check(now > before + 300, [before, now])
    });
}

fn no_traffic(bus: &mut Bus, end: &mut End) {
    bus.world.kill("iperf3");
    end.guest.run_well("killall iperf3; true");
}

/// QEMU does not look for another backplane. Its guest and the agent keep what they have, until another
/// one joins there.
pub(super) fn a_backplane_that_restarts_takes_a_new_guest() {
    let (mut bus, mut end) = running();
    bus.world.kill("backplane");
    end.guest.pings(BOARD);
    bus.start_backplane();
    end.guest.pings(BOARD);
    let mut other = bus.guest("second", &master(&format!("pci:{}", address(0)), ""));
    other.is_up();
    bus.agent_up();
    end.wait_state("bl0", "waiting", "waiting for board");
    end.guest.kill(&mut bus.world);
    bus.traffic(&mut other);
}
