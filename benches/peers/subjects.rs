//! What is measured: an agent, and a back-end of another make, each with a driver of its own that is at
//! work only while it is measured.

use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{self, Guest, Plan as GuestPlan, serve_iperf3};
use crate::lane::{Lane, Role};
use crate::testpmd::{Plan, Stats, Testpmd, device, driver};

/// The processor of the devices; that of drivers is the other one.
const DEVICES: usize = 0;
/// Until rings are full, and the clock has risen.
const WARM_UP: Duration = Duration::from_millis(200);
/// The agent's address, and that of the netdev that QEMU plays the device for.
const AGENT: &str = "10.77.0.2";
const TAP: &str = "10.78.0.2";

/// What the device does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Discard,
    Echo,
}

impl Purpose {
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Discard { "discard" } else { "echo" }
    }

    /// What testpmd does as a driver, and as a device.
    fn modes(self) -> [&'static str; 2] {
        if self == Self::Discard { ["txonly", "rxonly"] } else { ["flowgen", "io"] }
    }

    fn count(self, stats: &Stats) -> u64 {
        if self == Self::Discard { stats.tx_packets } else { stats.rx_packets }
    }
}

/// An agent, and testpmd as a device, with testpmd as the driver of each.
pub(crate) struct Pairs {
    lane: Lane,
    purpose: Purpose,
    device: Testpmd,
    /// The agent's, and the device's.
    drivers: [Testpmd; 2],
}

impl Pairs {
    pub(crate) fn start(purpose: Purpose, packed: bool, frame: u16) -> Self {
        let keys = format!("port = \"{}\"\n", purpose.name());
        let mut lane = Lane::start_by(Role::Agent, &keys, &["taskset", "-c", "0"]);
        let [driving, mode] = purpose.modes();
        let socket = lane.socket().with_file_name("dpdk.sock");
        let devices = vec![device(&socket, 1)];
        let plan = Plan { devices, mode, processor: DEVICES, ..Plan::default() };
        let device = Testpmd::start(&mut lane.world, "device", &plan);
        let keys = format!("packed_vq={}", u8::from(packed));
        let drivers = [("ours", lane.socket()), ("dpdks", socket)].map(|(name, socket)| {
            let devices = vec![driver(&socket, &keys)];
            let processor = 1 - DEVICES;
            let plan = Plan { devices, mode: driving, processor, frame, ..Plan::default() };
            Testpmd::start(&mut lane.world, name, &plan)
        });
        for driver in &drivers {
            driver.introduce(&lane.world);
        }
        lane.wait_up(1);
        Self { lane, purpose, device, drivers }
    }

    /// Million frames a second through the agent, and through the other.
    pub(crate) fn measure(&mut self, duration: Duration) -> [f64; 2] {
        let [driving, mode] = self.purpose.modes();
        let ours = self.rate(0, driving, duration);
        self.device.forward(mode);
        let others = self.rate(1, driving, duration);
        self.device.stop();
        [ours, others]
    }

    fn rate(&mut self, which: usize, mode: &str, duration: Duration) -> f64 {
        let (driver, purpose) = (&mut self.drivers[which], self.purpose);
        driver.forward(mode);
        thread::sleep(WARM_UP);
        let (before, began) = (purpose.count(&driver.stats(0)), Instant::now());
        thread::sleep(duration);
        let (after, took) = (purpose.count(&driver.stats(0)), began.elapsed());
        driver.stop();
        (after - before) as f64 / took.as_secs_f64() / 1e6
    }

    pub(crate) fn end(mut self) {
        self.lane.is_well(&[]);
        for driver in self.drivers {
            driver.quit(&mut self.lane.world);
        }
        self.device.quit(&mut self.lane.world);
    }
}

/// A guest with a netdev of each kind.
pub(crate) struct Guests {
    lane: Lane,
    guest: Guest,
}

impl Guests {
    pub(crate) fn start() -> Self {
        let mut lane = Lane::start(Role::Agent, "");
        let mut network = guest::vhost_user(&lane.socket(), 1, "packed=on");
        network.extend(guest::own_tap("tap0", "mac=52:54:00:12:34:57"));
        let plan = GuestPlan { network, ..GuestPlan::default() };
        let machine = lane.peers();
        let mut guest = Guest::start(&mut lane.world, "guest", machine, &plan);
        lane.world.ip(machine, &format!("addr add {TAP}/30 dev tap0"));
        lane.world.ip(machine, "link set tap0 up");
        guest.introduce();
        guest.set_up("eth0", "10.77.0.1/30");
        guest.set_up("eth1", "10.78.0.1/30");
        lane.wait_up(1);
        for address in [AGENT, TAP] {
            guest.pings(address);
        }
        Self { lane, guest }
    }

    /// Gbit/s from the guest, and to it: through the agent, and through QEMU.
    pub(crate) fn measure(&mut self, duration: Duration) -> [[f64; 2]; 2] {
        let seconds = duration.as_secs();
        ["", "-R"].map(|way| {
            [(self.lane.daemon(), AGENT), (self.lane.peers(), TAP)].map(|(machine, address)| {
                serve_iperf3(&mut self.lane.world, machine);
                let rate = self.guest.iperf3(address, seconds, way);
                self.lane.world.wait_end("iperf3");
                rate
            })
        })
    }

    pub(crate) fn end(mut self) {
        self.lane.is_well(&[]);
        self.guest.kill(&mut self.lane.world);
    }
}
