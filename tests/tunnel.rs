//! Both ends of the tunnel, with the network device behind one, over mailboxes that lose and repeat
//! messages, on a clock of their own, in both dialects. Each seed is one history; a failure names it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use boardlane::net::features::Features;
use boardlane::net::model::{self, NetDevice, Offer};
use boardlane::spec::{msg, net, virtio, window};
use boardlane::tunnel::device::{self, DeviceTunnel};
use boardlane::tunnel::driver::{self, DriverConfig, DriverTunnel, QueueSetup};
use boardlane::tunnel::message::{Dialect, Hello};
use boardlane::tunnel::model::Device;

const BOTH: [Dialect; 2] = [Dialect::V1, Dialect::V2];
/// Histories in each dialect.
const SEEDS: u64 = 200;
/// Time between two looks at the mailboxes.
const TICK: Duration = Duration::from_millis(3);

/// A small generator of reproducible numbers (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n != 0 && self.next() % n == 0
    }
}

/// A mailbox: slots, and how often one is lost or repeated (one in so many; 0 is never).
#[derive(Default)]
struct Mailbox {
    slots: VecDeque<Vec<u8>>,
    lost: u64,
    repeated: u64,
}

impl Mailbox {
    fn has_room(&self) -> bool {
        self.slots.len() + 2 <= usize::try_from(window::SLOTS).unwrap()
    }

    fn put(&mut self, rng: &mut Rng, octets: &[u8]) {
        if !rng.one_in(self.lost) {
            self.slots.push_back(octets.to_vec());
        }
        if rng.one_in(self.repeated) {
            self.slots.push_back(octets.to_vec());
        }
    }
}

struct World {
    rng: Rng,
    now: Instant,
    to_device: Mailbox,
    to_driver: Mailbox,
    driver: DriverTunnel,
    device_end: DeviceTunnel,
    device: NetDevice,
    /// When a failed session is tried again.
    again: Option<Instant>,
    failures: Vec<String>,
    /// What the owner of the driver end was told: features and config space of the running session.
    told: Option<(u128, Vec<u8>)>,
    /// What the owner of the device runs.
    active: Option<(Features, Vec<model::QueueSetup>)>,
    /// When the stopped queues are given back.
    quiet_at: Option<Instant>,
    available: u64,
}

fn hello(epoch: u32) -> Hello {
    Hello {
        revision: msg::REVISION,
        max_len: u32::try_from(msg::MAX_LEN).unwrap(),
        epoch,
        layout: window::LAYOUT_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        ..Hello::default()
    }
}

impl World {
    fn new(dialect: Dialect, seed: u64, trouble: bool) -> Self {
        let offer = Offer {
            features: Features::OFFER,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            rx_size: 256,
            tx_size: 128,
            pairs: 2,
        };
        let config = DriverConfig {
            dialect,
            hello: hello(0xD1),
            greets: true,
            wanted: Features::OFFER.bits() & !(1 << net::F_CSUM),
            required: 1 << virtio::F_VERSION_1,
            clean: |bits| Features::from_bits(bits).without(Features::NONE).bits(),
            pairs: 1,
            request_timeout: Duration::from_secs(1),
            attempts: 3,
        };
        let now = Instant::now();
        let mailbox = || Mailbox {
            lost: if trouble { 12 } else { 0 },
            repeated: if trouble { 9 } else { 0 },
            ..Mailbox::default()
        };
        Self {
            rng: Rng(seed),
            now,
            to_device: mailbox(),
            to_driver: mailbox(),
            driver: DriverTunnel::new(now, config),
            device_end: DeviceTunnel::new(dialect, hello(0xDE)),
            device: NetDevice::new(offer),
            again: None,
            failures: Vec::new(),
            told: None,
            active: None,
            quiet_at: None,
            available: 0,
        }
    }

    fn run(&mut self, time: Duration, trouble: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.driver_turn();
            self.device_turn();
            if trouble {
                self.trouble();
            }
        }
    }

    fn driver_turn(&mut self) {
        if self.again.take_if(|at| *at <= self.now).is_some() {
            self.driver.restart(self.now);
        }
        while let Some(octets) = self.to_driver.slots.pop_front() {
            self.driver.handle_message(self.now, &octets);
            self.driver_events();
            if self.rng.one_in(4) {
                break;
            }
        }
        if self.driver.poll_timeout().is_some_and(|at| at <= self.now) {
            self.driver.handle_timeout(self.now);
        }
        self.driver_events();
        let mut octets = [0; msg::MAX_LEN];
        while self.to_device.has_room() {
            let Some(len) = self.driver.poll_message(&mut octets) else { break };
            self.to_device.put(&mut self.rng, &octets[..len]);
        }
    }

    fn driver_events(&mut self) {
        while let Some(event) = self.driver.poll_event() {
            match event {
                driver::Event::Hello(theirs) => assert_eq!(theirs.epoch, 0xDE),
                driver::Event::QueuesNeeded { queues, .. } => {
                    assert_eq!(queues, [(0, 256), (1, 128), (4, 64)], "the control queue is last");
                    let setups = queues.iter().map(|(index, most)| queue(*index, *most)).collect();
                    self.driver.set_queues(self.now, setups);
                }
                driver::Event::Running { features, config } => self.told = Some((features, config)),
                driver::Event::ConfigChanged { config } => {
                    let (_, told) = self.told.as_mut().expect("told before it runs");
                    assert_ne!(*told, config, "told without a change");
                    *told = config;
                }
                driver::Event::UsedNotified(_) => {}
                driver::Event::Failed(error) => {
                    self.failures.push(error.to_string());
                    self.told = None;
                    self.again = Some(self.now + Duration::from_millis(500));
                }
                driver::Event::Stopped => self.told = None,
            }
        }
    }

    fn device_turn(&mut self) {
        while self.device_end.ready() {
            let Some(octets) = self.to_device.slots.pop_front() else { break };
            self.device_end.handle_message(self.now, &octets, &mut self.device);
            self.device_events();
        }
        if self.quiet_at.take_if(|at| *at <= self.now).is_some() {
            self.device.quiesced();
            self.device_end.notify_at_rest(&self.device);
        }
        let mut octets = [0; msg::MAX_LEN];
        while self.to_driver.has_room() {
            let Some(len) = self.device_end.poll_message(&mut octets) else { break };
            self.to_driver.put(&mut self.rng, &octets[..len]);
        }
    }

    fn device_events(&mut self) {
        while let Some(event) = self.device_end.poll_event() {
            match event {
                device::Event::QueueNotified(_) => self.available += 1,
                device::Event::Malformed(error) => panic!("{error}"),
                device::Event::HelloRefused(why) => panic!("{why:?}"),
                _ => {}
            }
        }
        while let Some(event) = self.device.poll_event() {
            match event {
                model::Event::Activate { features, queues } => {
                    let before = self.active.replace((features, queues));
                    assert_eq!(before, None, "activated twice");
                }
                model::Event::Reset => {
                    assert!(self.active.take().is_some(), "reset without queues");
                    self.quiet_at = Some(self.now + Duration::from_millis(self.rng.next() % 60));
                }
                event => panic!("our driver asks for no {event:?}"),
            }
        }
    }

    /// What happens on a bad day.
    fn trouble(&mut self) {
        if self.rng.one_in(100) {
            let up = self.rng.one_in(2);
            if self.device.set_link(up) {
                self.device_end.notify_config_changed(&self.device);
            }
        }
        if self.rng.one_in(4000) && self.device.needs_reset("a bad ring") {
            self.device_end.notify_status_changed(&self.device);
        }
        if self.rng.one_in(50) {
            self.driver.notify_available(1);
        }
        if self.rng.one_in(80) {
            self.driver.ping(self.now);
        }
        if self.rng.one_in(300) {
            self.device_end.ping(self.now);
        }
    }

    /// The two ends agree on everything.
    fn check(&self) {
        assert!(self.driver.is_running(), "failures so far: {:?}", self.failures);
        assert_eq!(self.device.status(), 15, "{:?}", self.device.broken());
        let refused = self.device_end.counters().queues_refused;
        assert_eq!(refused, 0, "repeated requests are none that change an enabled queue");
        let (features, config) = self.told.as_ref().expect("running");
        let (active_features, queues) = self.active.as_ref().expect("active");
        assert_eq!(*features, active_features.bits());
        assert_eq!(features & (1 << net::F_CSUM | 1 << net::F_HOST_TSO4), 0, "TSO needs CSUM");
        let mut truth = vec![0; config.len()];
        self.device.read_config(0, &mut truth);
        assert_eq!(*config, truth);
        let asked: Vec<_> = [queue(0, 256), queue(1, 128), queue(4, 64)]
            .map(|q| (q.index, q.size, q.desc, q.driver, q.device))
            .into();
        let got: Vec<_> =
            queues.iter().map(|q| (q.index, q.size, q.desc, q.driver, q.device)).collect();
        assert_eq!(got, asked);
    }
}

fn queue(index: u16, most: u16) -> QueueSetup {
    let at = 0x1_0000 * u64::from(index + 1);
    QueueSetup { index, size: most.min(128), desc: at, driver: at + 0x1000, device: at + 0x2000 }
}

#[test]
fn over_perfect_mailboxes_the_two_ends_agree_at_the_first_try() {
    for dialect in BOTH {
        let mut world = World::new(dialect, 1, false);
        world.run(Duration::from_secs(1), false);
        world.check();
        assert_eq!(world.failures, [""; 0]);
        assert_eq!(world.driver.counters().unexpected, 0);
        assert_eq!(world.driver.counters().retries, 0);
        world.driver.notify_available(1);
        world.run(TICK * 2, false);
        assert_eq!(world.available, 1);
    }
}

#[test]
fn after_any_history_of_lost_and_repeated_messages_the_two_ends_agree() {
    for dialect in BOTH {
        let (mut failures, mut retries) = (0, 0);
        for seed in 0..SEEDS {
            let mut world = World::new(dialect, seed, true);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                world.run(Duration::from_secs(20), true);
                for mailbox in [&mut world.to_device, &mut world.to_driver] {
                    (mailbox.lost, mailbox.repeated) = (0, 0);
                }
                world.run(Duration::from_secs(10), false);
                // What lost events did not tell, a keepalive does.
                world.driver.ping(world.now);
                world.run(Duration::from_secs(10), false);
                world.check();
            }));
            assert!(outcome.is_ok(), "dialect {dialect}, seed {seed}");
            failures += world.failures.len();
            retries += world.driver.counters().retries;
        }
        assert!(failures > 0 && retries > 0, "no history was bad enough to show anything");
    }
}

#[test]
fn an_orderly_stop_leaves_the_device_reset() {
    for dialect in BOTH {
        let mut world = World::new(dialect, 7, false);
        world.run(Duration::from_secs(1), false);
        world.driver.reset(world.now);
        world.run(Duration::from_secs(1), false);
        assert_eq!((world.told, world.active), (None, None));
        assert_eq!(world.device.status(), 0);
    }
}

#[test]
fn ends_of_different_dialects_do_not_meet_and_the_driver_says_which_to_set() {
    for dialect in BOTH {
        let mut world = World::new(dialect, 3, false);
        world.device_end = DeviceTunnel::new(dialect.other(), hello(0xDE));
        world.run(Duration::from_millis(400), false);
        let [failure] = &world.failures[..] else { panic!("{:?}", world.failures) };
        assert!(failure.ends_with(&format!("set dialect = \"{}\"", dialect.other())), "{failure}");
        assert_eq!(world.device.status(), 0, "the device was left alone");
    }
}
