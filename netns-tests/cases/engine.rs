//! A board that copies by DMA engine.

use boardlane::daemon::status::{LinkState, LinkStatus};

use crate::world::{World, check, wait};

/// A world of one board, whose engine is like this.
fn world(engine: &'static str) -> World {
    World::running(1, move |machine, _| {
        if machine == "master" {
            String::new()
        } else {
            format!("dma = \"engine\"\nengine = {engine}")
        }
    })
}

/// What the status says of both ends: master, board.
fn ends(world: &World) -> [LinkStatus; 2] {
    [("master", "bl0"), ("board0", "bl0")]
        .map(|(machine, name)| world.link_status(machine, name).unwrap())
}

pub(super) fn an_engine_that_takes_a_millisecond_carries_tcp_both_ways() {
    let world = world("{ latency_us = 1000 }");
    for (from, to, host) in [("master", "board0", 2), ("board0", "master", 1)] {
        for address in [format!("10.77.0.{host}"), format!("fd77::{host}")] {
            world.transfer(from, to, &address, 8 << 20);
        }
    }
    let [master, board] = ends(&world);
    assert_eq!((&*board.dma.mode, &*master.dma.mode), ("engine", "direct"));
    assert!(board.dma.most_under_way >= 8, "copies overlap: {:?}", board.dma);
    assert!(board.dma.transfers > 0 && board.dma.bytes > 16 << 20, "{:?}", board.dma);
    assert_eq!(master.dma.transfers, 0);
    for end in [master, board] {
        let [rx, tx] = [&end.queues[0].rx.drops, &end.queues[0].tx.drops];
        assert!(!rx.contains_key("dma_error") && !tx.contains_key("dma_error"), "{rx:?} {tx:?}");
    }
}

pub(super) fn a_board_that_reaches_the_masters_memory_by_engine_only_carries_tcp() {
    let world = world("{ dma_only = true, latency_us = 100, cpu_below = 1000 }");
    for (from, to, host) in [("master", "board0", 2), ("board0", "master", 1)] {
        world.transfer(from, to, &format!("10.77.0.{host}"), 8 << 20);
        world.transfer(from, to, &format!("fd77::{host}"), 8 << 20);
    }
    let [master, board] = ends(&world);
    assert!(board.features.contains(&"RING_PACKED".to_owned()), "rings are in the window");
    // Nothing to the master goes by CPU, whatever its length.
    assert!(board.dma.transfers >= board.queues[0].tx.frames / 256, "{:?}", board.dma);
    for end in [&master, &board] {
        assert!(end.queues[0].rx.drops.is_empty(), "{:?}", end.queues[0].rx.drops);
    }
}

pub(super) fn each_frame_that_the_engine_spoils_is_counted() {
    // Every frame goes by engine, one of a hundred transfers fails.
    let world = world("{ error_ppm = 10_000, cpu_below = 0 }");
    let before = ends(&world);
    world.run("master", &["ping", "-q", "-f", "-c", "5000", "-W", "1", "10.77.0.2"]);
    let dropped = |end: &LinkStatus, name: &str| {
        let [rx, tx] = [&end.queues[0].rx.drops, &end.queues[0].tx.drops]
            .map(|drops| drops.get(name).copied().unwrap_or(0));
        [rx, tx]
    };
    let sums = wait("what was sent to have come, or to be counted", || {
        let [master, board] = ends(&world);
        let [[board_rx, board_tx], [empty, _]] =
            [dropped(&board, "dma_error"), dropped(&master, "too_short")];
        let (m, b) = (&master.queues[0], &board.queues[0]);
        let down = b.rx.drops.get("netdev_down").copied().unwrap_or(0);
        let seen = (m.tx.frames, b.rx.frames, board_rx, b.tx.frames, m.rx.frames, board_tx, empty);
        let all = m.tx.frames == b.rx.frames + board_rx + down
            && b.tx.frames == m.rx.frames + board_tx
            && board_tx == empty;
        check(all && b.rx.frames > 1000, seen).map(|()| [board_rx, board_tx])
    });
    assert!(sums[0] > 0 && sums[1] > 0, "frames were spoilt both ways: {sums:?}");
    for (before, after) in before.iter().zip(ends(&world)) {
        assert_eq!((after.state, after.epoch), (LinkState::Up, before.epoch), "the link stays up");
    }
}
