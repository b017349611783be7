//! Frames, whatever rings are made of and wherever they lie.

use super::*;
use crate::net::engine_path::EngineUse;

/// With and without each of what changes how rings are used.
fn rings() -> impl Iterator<Item = Features> {
    let bits =
        [virtio::F_EVENT_IDX, virtio::F_INDIRECT_DESC, virtio::F_IN_ORDER, virtio::F_RING_PACKED];
    (0..16).map(move |set| {
        let without = bits.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
        off(&without.map(|(_, bit)| *bit).chain([net::F_CTRL_VQ]).collect::<Vec<_>>())
    })
}

#[test]
fn frames_go_both_ways_with_all_kinds_of_rings_by_cpu_and_by_engine_across_stops() {
    for engine in [None, Some(EngineUse { cpu_below: 0 }), Some(EngineUse { cpu_below: 256 })] {
        for features in rings() {
            let params = Params { engine, ..params(1) };
            let mut front_end = FrontEnd::set_up_with(params, features, 1);
            for round in 0..4 {
                front_end.exchange(40 * round..40 * (round + 1));
                // A frame waits in the ring meanwhile.
                front_end.offer(0, 0xee, 500);
                let bases = [0, 1].map(|index| front_end.stop_ring(index));
                front_end.start_rings(bases);
                assert_eq!(front_end.take(0), Some(vec![0xee; 500]), "{features:?}");
            }
        }
    }
}

#[test]
fn a_queue_s_areas_may_lie_in_different_pieces_of_memory() {
    for features in rings() {
        let mut front_end = FrontEnd::set_up_with(params(1), features, 2);
        let queue = front_end.placed.pairs[0].receiveq;
        let in_second = [queue.desc, queue.driver, queue.device].map(|area| area >= MIDDLE);
        assert_ne!(in_second, [in_second[0]; 3]);
        front_end.exchange(0..100);
    }
}

#[test]
fn a_ring_that_ends_outside_a_piece_of_memory_closes_the_connection() {
    let ends = [USER + LEN / 4, SECOND_USER + LEN - LEN / 4];
    for area in 0..3 {
        for end in ends {
            let mut front_end = FrontEnd::with(params(1), split(), 2);
            front_end.introduce();
            front_end.share_memory();
            let mut areas = [USER, USER + 0x1000, USER + 0x2000];
            areas[area] = end - 16;
            let [desc, driver, device] = areas;
            let addr = VringAddr { desc, driver, device };
            for index in 0..2 {
                front_end.start_ring(index, 0);
                front_end.send(&Request::SetVringAddr { index, flags: 0, addr }, vec![]);
                front_end.enable(index, true);
            }
            front_end.send_octets(&Request::SetStatus(15).encode(false), vec![]);
            let closed = front_end.closed.clone().unwrap_or_default();
            assert!(closed.contains("receiveq: "), "{closed}");
            assert!(closed.contains("lies in no memory region"), "{closed}");
            assert!(front_end.running.is_empty());
        }
    }
}
