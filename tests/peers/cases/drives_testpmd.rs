//! A master as a front-end, with testpmd as its device.

use crate::lane::{Lane, Role};
use crate::testpmd::{Plan, Testpmd, device};

/// Enough to fill every ring several times.
const FRAMES: u64 = 100_000;
/// What is in the rings when testpmd stops.
const UNDER_WAY: u64 = 4 * 256;
const LAYOUTS: [&str; 2] = ["features_off = [\"RING_PACKED\"]\n", ""];

/// A master and the device that it is to find, with these keys.
fn pair(keys: &str, queues: u16) -> (Lane, Testpmd) {
    let mut lane = Lane::start(Role::Master, &format!("queues = {queues}\n{keys}"));
    let back = start(&mut lane, queues);
    (lane, back)
}

fn start(lane: &mut Lane, queues: u16) -> Testpmd {
    lane.mark();
    let plan = Plan {
        machine: lane.peers(),
        devices: vec![device(&lane.socket(), queues)],
        queues,
        processor: 1,
        ..Plan::default()
    };
    let back = Testpmd::start(&mut lane.world, "back", &plan);
    lane.wait_up(queues.into());
    back.introduce(&lane.world);
    lane.agrees_on(back.features(&lane.world));
    back
}

fn each(keys: &str, act: impl Fn(&mut Lane, &mut Testpmd)) {
    for (layout, queues) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        let keys = format!("{}{keys}", LAYOUTS[layout]);
        eprintln!("-- {queues} queue pairs, {keys:?}");
        let (mut lane, mut back) = pair(&keys, queues);
        act(&mut lane, &mut back);
        back.quit(&mut lane.world);
        lane.wait_not_up();
    }
}

pub(super) fn all_that_it_sends_a_master_counts() {
    each("port = \"discard\"\n", |lane, back| {
        back.forward("txonly");
        back.wait_for(|stats| stats.tx_packets, FRAMES);
        let sent = back.stop();
        eprintln!("{sent:?}");
        lane.wait_received(sent.tx);
        lane.is_well(&[]);
    });
}

pub(super) fn what_it_sends_comes_back() {
    each("port = \"echo\"\n", |lane, back| {
        back.tell("set fwd io");
        back.tell("start tx_first 4");
        back.wait_for(|stats| stats.rx_packets, FRAMES);
        let had = back.stop();
        eprintln!("{had:?}");
        assert!(had.tx <= had.rx + UNDER_WAY, "{had:?}");
        lane.is_well(&[]);
    });
}

pub(super) fn it_answers_echoes_of_a_tap() {
    each("", |lane, back| {
        back.forward("icmpecho");
        lane.pings("10.77.0.1");
        lane.counts_as(back);
        eprintln!("{:?}", back.stop());
        lane.is_well(&[]);
    });
}

pub(super) fn a_device_that_comes_back_is_found_again() {
    let (mut lane, mut back) = pair("", 1);
    for _ in 0..3 {
        back.quit(&mut lane.world);
        lane.wait_not_up();
        back = start(&mut lane, 1);
        back.forward("icmpecho");
        lane.pings("10.77.0.1");
    }
    lane.is_well(&["stale", "netdev_down"]);
}
