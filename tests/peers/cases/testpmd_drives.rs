//! An agent as a back-end, with testpmd as its driver: rings of both layouts, one and two queue pairs,
//! with and without mergeable buffers and use in order.

use boardlane::daemon::status::LinkState;
use boardlane::net::features::{self, Features};

use crate::lane::{Lane, Role};
use crate::testpmd::{Plan, Testpmd, driver};
use crate::world::{check, wait};

/// Enough to fill every ring several times.
const FRAMES: u64 = 100_000;
/// The agent's most, so that the driver decides.
const QUEUES: &str = "queues = 2\n";
/// What is waiting in testpmd's receive queue when it stops is not counted.
const UNDER_WAY: u64 = 4 * 32 * 4;

/// How a driver is made.
#[derive(Clone, Copy, Debug)]
struct Shape {
    packed: bool,
    queues: u16,
    mergeable: bool,
    in_order: bool,
}

impl Shape {
    fn all() -> impl Iterator<Item = Self> {
        (0..16_u8).map(|n| Self {
            packed: n & 1 != 0,
            mergeable: n & 2 != 0,
            in_order: n & 4 != 0,
            queues: if n & 8 == 0 { 1 } else { 2 },
        })
    }

    /// As arguments of the driver.
    fn keys(self) -> String {
        let [packed, mergeable, in_order] =
            [self.packed, self.mergeable, self.in_order].map(u8::from);
        let Self { queues, .. } = self;
        format!("packed_vq={packed},mrg_rxbuf={mergeable},in_order={in_order},queues={queues}")
    }

    /// What it chooses must be what was negotiated.
    fn is_negotiated(self, features: Features) {
        let wanted = [
            ("RING_PACKED", self.packed),
            ("MRG_RXBUF", self.mergeable),
            ("IN_ORDER", self.in_order),
        ];
        for (name, wanted) in wanted {
            let bit = features::bit(name).unwrap();
            assert_eq!(features.has(bit), wanted, "{name} of {self:?} in {features}");
        }
    }
}

/// Lets a driver of each shape in turn meet the same agent, and `act` with it.
fn with_each(keys: &str, act: impl Fn(&mut Lane, &mut Testpmd, Shape)) {
    let mut lane = Lane::start(Role::Agent, &format!("{QUEUES}{keys}"));
    for shape in Shape::all() {
        eprintln!("-- {shape:?}");
        lane.mark();
        let plan = Plan {
            machine: lane.peers(),
            devices: vec![driver(&lane.socket(), &shape.keys())],
            queues: shape.queues,
            processor: 1,
            ..Plan::default()
        };
        let mut front = Testpmd::start(&mut lane.world, "front", &plan);
        front.introduce(&lane.world);
        shape.is_negotiated(front.features(&lane.world));
        let link = lane.wait_up(shape.queues.into());
        check(link.reason.is_none(), &link).unwrap();
        lane.agrees_on(front.features(&lane.world));
        act(&mut lane, &mut front, shape);
        front.quit(&mut lane.world);
        wait("the link waits for another driver", || {
            let link = lane.status();
            check(link.state != LinkState::Up && link.state != LinkState::Quarantined, link)
        });
    }
}

pub(super) fn all_that_it_sends_an_agent_counts() {
    with_each("port = \"discard\"\n", |lane, front, shape| {
        front.forward("txonly");
        front.wait_for(|stats| stats.tx_packets, FRAMES);
        let sent = front.stop();
        eprintln!("{sent:?}");
        lane.wait_received(sent.tx);
        let each = lane.status().queues;
        assert!(each.iter().all(|queue| queue.rx.frames > 0), "{shape:?}: {each:?}");
        lane.is_well(&[]);
    });
}

pub(super) fn what_it_sends_comes_back() {
    with_each("port = \"echo\"\n", |lane, front, _| {
        front.tell("set fwd io");
        front.tell("start tx_first 4");
        front.wait_for(|stats| stats.rx_packets, FRAMES);
        let had = front.stop();
        eprintln!("{had:?}");
        assert!(had.tx <= had.rx + UNDER_WAY * u64::from(lane_queues(lane)), "{had:?}");
        lane.is_well(&[]);
    });
}

fn lane_queues(lane: &Lane) -> u32 {
    u32::try_from(lane.status().queues.len()).unwrap()
}

pub(super) fn it_answers_echoes_of_a_tap() {
    with_each("", |lane, front, shape| {
        front.forward("icmpecho");
        lane.pings("10.77.0.1");
        lane.counts_as(front);
        eprintln!("{shape:?}: {:?}", front.stop());
        // What its kernel has sent while no driver was there.
        lane.is_well(&["stale"]);
    });
}
