//! Links that leave out a feature: they come up without it, and carry what they carried.

use std::collections::BTreeSet;

use boardlane::net::features::Features;
use serde_json::Value;

use crate::world::{World, check, wait};

/// Features that are turned off, each on a link of its own.
const OFF: &[&str] = &[
    "MRG_RXBUF",
    "HOST_TSO4",
    "HOST_TSO6",
    "HOST_USO",
    "GUEST_TSO4",
    "GUEST_TSO6",
    "GUEST_USO4",
    "CSUM",
    "GUEST_CSUM",
    "EVENT_IDX",
    "INDIRECT_DESC",
    "RING_PACKED",
    "IN_ORDER",
    "CTRL_VQ",
];

/// As `ethtool -k` names the offloads that frames to the device may use, and those from it.
const SHOWN: [[(&str, &str); 4]; 2] = [
    [
        ("tx-checksum-ip-generic", "CSUM"),
        ("tx-tcp-segmentation", "HOST_TSO4"),
        ("tx-tcp6-segmentation", "HOST_TSO6"),
        ("tx-udp-segmentation", "HOST_USO"),
    ],
    [
        ("tx-checksum-ip-generic", "GUEST_CSUM"),
        ("tx-tcp-segmentation", "GUEST_TSO4"),
        ("tx-tcp6-segmentation", "GUEST_TSO6"),
        ("tx-udp-segmentation", "GUEST_USO4"),
    ],
];

/// One board for each feature; `side` is the machine whose config turns it off.
fn world_without(side: &str) -> World {
    let boards = u8::try_from(OFF.len()).unwrap();
    World::running(boards, |machine, slot| {
        if machine.starts_with(side) {
            format!("features_off = [\"{}\"]", OFF[usize::from(slot)])
        } else {
            String::new()
        }
    })
}

/// Board, its netdev at the master, and the features that its link must have.
fn links() -> impl Iterator<Item = (String, String, usize, BTreeSet<&'static str>)> {
    OFF.iter().enumerate().map(|(slot, off)| {
        // One pair is all that these links have.
        let off = Features::from_names([*off, "MQ"]).unwrap();
        let left: BTreeSet<_> = Features::ACCEPT.without(off).names().collect();
        (format!("board{slot}"), format!("bl{slot}"), slot, left)
    })
}

fn works_without_each_feature(side: &str) {
    let world = world_without(side);
    for (board, name, slot, left) in links() {
        eprintln!("without {} at {side}:", OFF[slot]);
        for (machine, netdev) in [("master", &*name), (&*board, "bl0")] {
            let status = world.link_status(machine, netdev).unwrap();
            let features: BTreeSet<_> = status.features.iter().map(String::as_str).collect();
            assert_eq!(features, left, "{machine}");
        }
        for (from, to, host) in [("master", &*board, 2), (&*board, "master", 1)] {
            for address in [format!("10.77.{slot}.{host}"), format!("fd77:0:0:{slot}::{host}")] {
                world.transfer(from, to, &address, 3 << 20);
            }
        }
        for machine in ["master", &*board] {
            let netdev = if machine == "master" { &*name } else { "bl0" };
            let drops: Vec<_> = world.link_status(machine, netdev).unwrap().queues[0]
                .rx
                .drops
                .keys()
                .cloned()
                .collect();
            assert!(drops.is_empty(), "{machine} dropped: {drops:?}");
        }
    }
}

pub(crate) fn a_board_without_one_feature_has_a_link_that_works() {
    works_without_each_feature("board");
}

pub(crate) fn a_master_without_one_feature_has_a_link_that_works() {
    works_without_each_feature("master");
}

fn ethtool_agrees(side: &str) {
    let world = world_without(side);
    for (board, name, slot, left) in links() {
        for (machine, netdev, shown) in [("master", &*name, &SHOWN[0]), (&*board, "bl0", &SHOWN[1])]
        {
            let text = world.run_well(machine, &["ethtool", "-k", netdev]);
            for (offload, feature) in shown {
                let state = if left.contains(feature) { "on" } else { "off" };
                let line = text.lines().find(|line| line.trim().starts_with(offload)).unwrap();
                let found = line.trim().strip_prefix(offload).unwrap().trim_start_matches(": ");
                assert!(found.starts_with(state), "without {}: {machine}: {line}", OFF[slot]);
            }
        }
    }
}

pub(crate) fn ethtool_shows_what_was_negotiated() {
    ethtool_agrees("board");
    ethtool_agrees("master");
}

pub(crate) fn iperf3_passes_without_each_feature() {
    let mut world = world_without("board");
    for (board, _, slot, _) in links() {
        // One server for each: while it ends one test it refuses the next.
        world.start_words("iperf3", "master", &["iperf3", "--server", "--one-off"]);
        wait("  iperf3 listens", || {
            let text = world.run_well("master", &["ss", "-ltn"]);
            check(text.contains(":5201"), text)
        });
        let target = format!("10.77.{slot}.1");
        let words = ["iperf3", "--json", "--time", "1", "--bidir", "--client", &*target];
        let report: Value = serde_json::from_slice(&world.run(&board, &words).stdout).unwrap();
        let bits = ["sum_received", "sum_received_bidir_reverse"]
            .map(|sum| report["end"][sum]["bits_per_second"].as_f64().unwrap_or_default());
        eprintln!("without {}: {:.2} and {:.2} Gbit/s", OFF[slot], bits[0] / 1e9, bits[1] / 1e9);
        assert!(bits.iter().all(|bits| *bits > 0.0), "{report}");
        world.wait_end("iperf3");
    }
}
