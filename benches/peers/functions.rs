//! A guest that is a slot's master by a function on its PCI bus, by interrupts and by polling, next to a
//! netdev that QEMU plays itself.

use std::time::Duration;

use crate::bus::{BOARD, Bus, End, Machine, address, master};
use crate::guest::{own_tap, serve_iperf3};

/// The TAP that QEMU plays the device for.
const TAP: &str = "10.78.0.2";
const PINGS: u32 = 200;

/// A guest, the agent of the board that it is the master of, and a TAP.
pub(crate) struct Functions {
    bus: Bus,
    end: End,
}

/// What is measured, in turn.
pub(crate) const MODES: [(&str, &str); 2] = [("VFIO", "?vfio"), ("polling", "?sysfs")];
/// With its unit.
pub(crate) const MEASURES: [(&str, &str); 3] = [
    ("TCP from the guest", "Gbit/s"),
    ("TCP to the guest", "Gbit/s"),
    ("ping of the guest, mean", "us"),
];

impl Functions {
    pub(crate) fn start() -> Self {
        let machine = Machine {
            network: own_tap("tap0", ""),
            ..master(&format!("pci:{}?vfio", address(0)), "")
        };
        let (bus, mut end) = Bus::with(&machine);
        bus.world.ip("master", &format!("addr add {TAP}/30 dev tap0"));
        bus.world.ip("master", "link set tap0 up");
        end.guest.set_up("eth0", "10.78.0.1/30");
        end.guest.pings(TAP);
        end.is_up();
        Self { bus, end }
    }

    /// For each mode each measure; the other's are the last.
    pub(crate) fn measure(&mut self, duration: Duration) -> [[f64; 3]; 3] {
        let [vfio, polling] = MODES.map(|(_, word)| {
            let (config, pid) = ("/etc/boardlane.toml", "/tmp/pid");
            self.end.guest.run_well(&format!(
                "kill $(cat {pid}); while [ -e /proc/$(cat {pid}) ]; do usleep 20000; done; \
                 sed -i 's/?[a-z]*\"/{word}\"/' {config}; sh /start"
            ));
            self.end.wait_state("bl0", "up", "");
            self.subject("board0", BOARD, duration)
        });
        // The master is idle meanwhile.
        [vfio, polling, self.subject("master", TAP, duration)]
    }

    fn subject(&mut self, machine: &str, address: &str, duration: Duration) -> [f64; 3] {
        self.end.guest.pings(address);
        let [from, to] = ["", "-R"].map(|way| {
            serve_iperf3(&mut self.bus.world, machine);
            let rate = self.end.guest.iperf3(address, duration.as_secs(), way);
            self.bus.world.wait_end("iperf3");
            rate
        });
        let ping = format!("ping -q -c {PINGS} -i 0.002 {address}");
        let text = self.end.guest.run_well(&ping);
        let mean =
            text.rsplit_once(" = ").and_then(|(_, times)| times.split('/').nth(1)?.parse().ok());
        let mean: f64 = mean.unwrap_or_else(|| panic!("no mean in {text}"));
        [from, to, mean * 1000.0]
    }

    pub(crate) fn end(mut self) {
        self.end.guest.kill(&mut self.bus.world);
    }
}
