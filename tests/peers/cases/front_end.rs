//! A master with testpmd as its device, when either dies in the middle of traffic, and when it is the
//! master who listens.

use crate::lane::{Lane, NETDEV, Role};
use crate::testpmd::{Plan, Testpmd, device};

const FRAMES: u64 = 100_000;
const KEYS: &str = "queues = 2\nport = \"echo\"\n";

/// A device; `keys` are more of its arguments.
fn start(lane: &mut Lane, keys: &str) -> Testpmd {
    let device = format!("{}{keys}", device(&lane.socket(), 2));
    let (machine, devices) = (lane.peers(), vec![device]);
    let plan = Plan { machine, devices, queues: 2, processor: 1, ..Plan::default() };
    Testpmd::start(&mut lane.world, "back", &plan)
}

/// Has it send, and take what comes back.
fn traffic(lane: &Lane, back: &mut Testpmd) {
    lane.wait_up(2);
    back.tell("set fwd io");
    back.tell("start tx_first 4");
    back.wait_for(|stats| stats.rx_packets, FRAMES);
}

pub(super) fn a_device_killed_in_the_middle_of_traffic_makes_room_for_another() {
    let mut lane = Lane::start(Role::Master, KEYS);
    for _ in 0..3 {
        let mut back = start(&mut lane, "");
        traffic(&lane, &mut back);
        lane.world.kill("back");
        lane.wait_not_up();
        // It does not make a socket where there is one.
        std::fs::remove_file(lane.socket()).unwrap();
    }
    let mut back = start(&mut lane, "");
    traffic(&lane, &mut back);
    back.quit(&mut lane.world);
    lane.is_well(&[]);
}

pub(super) fn a_master_killed_in_the_middle_of_traffic_has_its_device_again() {
    let mut lane = Lane::start(Role::Master, KEYS);
    let mut back = start(&mut lane, "");
    traffic(&lane, &mut back);
    for _ in 0..3 {
        lane.world.kill("master");
        back.tell("stop");
        lane.world.start("master");
        traffic(&lane, &mut back);
    }
    back.quit(&mut lane.world);
    lane.wait_not_up();
    lane.is_well(&[]);
}

pub(super) fn a_device_that_connects_to_the_master_is_driven_too_and_comes_back() {
    let mut lane = Lane::start(Role::Master, KEYS);
    let transport = format!("vhost-user:{}?server", lane.socket().display());
    let link = format!("[[link]]\nname = \"{NETDEV}\"\ntransport = \"{transport}\"\n{KEYS}");
    lane.world.configure("master", &link);
    for _ in 0..2 {
        // It takes commands while it looks for a master, once a second.
        assert!(lane.world.stop("master").success());
        let mut back = start(&mut lane, ",client=1");
        for _ in 0..2 {
            lane.world.start("master");
            traffic(&lane, &mut back);
            back.tell("stop");
            assert!(lane.world.stop("master").success());
        }
        lane.world.start("master");
        lane.wait_up(2);
        back.quit(&mut lane.world);
        lane.wait_not_up();
    }
    lane.is_well(&[]);
}
