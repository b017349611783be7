//! DPDK's testpmd: a virtio driver (`net_virtio_user`, a vhost-user front-end) or a device (`net_vhost`,
//! a back-end), with memory of its own that it shares, and traffic at the speed of a processor.

use std::path::Path;
use std::process::Command;

use boardlane::net::features::Features;

use crate::place;
use crate::talk::Talk;
use crate::world::{PATIENCE, World, check, wait};

const PROMPT: &str = "testpmd> ";
/// What stands before its version.
const VERSION: &str = "RTE Version: '";
/// Buffers; with them each process shares 512 MB at most.
const BUFFERS: u32 = 16384;

/// How to start one.
pub(crate) struct Plan<'a> {
    /// The machine that it runs on.
    pub(crate) machine: &'a str,
    /// Its devices, as `--vdev` has them: port 0, 1, ...
    pub(crate) devices: Vec<String>,
    /// Queue pairs of each port.
    pub(crate) queues: u16,
    /// `txonly`, `rxonly`, `io`, ...
    pub(crate) mode: &'a str,
    /// The processor that forwards, 0 or 1; the other one takes commands.
    pub(crate) processor: usize,
    /// Octets of each frame of `txonly`, without the frame check sequence.
    pub(crate) frame: u16,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        let (devices, mode) = (Vec::new(), "io");
        Self { machine: "master", devices, queues: 1, mode, processor: 0, frame: 64 }
    }
}

/// A driver that connects to `socket`; `keys` are more of its arguments.
pub(crate) fn driver(socket: &Path, keys: &str) -> String {
    let comma = if keys.is_empty() { "" } else { "," };
    format!("net_virtio_user0,path={}{comma}{keys}", socket.display())
}

/// A device that listens on `socket`.
pub(crate) fn device(socket: &Path, queues: u16) -> String {
    format!("net_vhost0,iface={},queues={queues}", socket.display())
}

/// A port's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_missed: u64,
    pub(crate) rx_errors: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_errors: u64,
    /// Since the counters were read before.
    pub(crate) rx_pps: u64,
    pub(crate) tx_pps: u64,
}

/// What a port has forwarded between start and stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) rx: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx: u64,
    /// Frames that its peer had no room for.
    pub(crate) tx_dropped: u64,
}

/// A running testpmd.
pub(crate) struct Testpmd {
    talk: Talk,
    version: String,
}

impl Testpmd {
    /// Starts one, and waits until it takes commands.
    pub(crate) fn start(world: &mut World, name: &str, plan: &Plan<'_>) -> Self {
        let talk = Talk::start(world, name, plan.machine, &words(world, name, plan));
        let mut testpmd = Self { talk, version: String::new() };
        testpmd.version = testpmd.talk.hear("it takes commands", PATIENCE, |text| {
            text.ends_with(PROMPT).then(|| between(text, VERSION, "'").to_owned())
        });
        testpmd
    }

    /// Tells it a command; gives what it says.
    pub(crate) fn tell(&mut self, command: &str) -> String {
        self.talk.say(command);
        self.talk.hear(command, PATIENCE, |text| {
            let (_, answer) = text.split_once(command)?;
            Some(answer.split_once(PROMPT)?.0.to_owned())
        })
    }

    /// Lets traffic flow, in this mode.
    pub(crate) fn forward(&mut self, mode: &str) {
        self.tell(&format!("set fwd {mode}"));
        self.tell("start");
    }

    /// Stops traffic: what port 0 had of it.
    pub(crate) fn stop(&mut self) -> Forwarded {
        let text = self.tell("stop");
        let (_, port) = text.split_once("Forward statistics for port 0").unwrap_or_else(|| {
            panic!("{} did not forward: {text}", self.talk.name());
        });
        let number = |name| number(port, name);
        let (rx, rx_dropped) = (number("RX-packets:"), number("RX-dropped:"));
        Forwarded { rx, rx_dropped, tx: number("TX-packets:"), tx_dropped: number("TX-dropped:") }
    }

    /// The counters of a port.
    pub(crate) fn stats(&mut self, port: u16) -> Stats {
        let text = self.tell(&format!("show port stats {port}"));
        let number = |name| number(&text, name);
        Stats {
            rx_packets: number("RX-packets:"),
            rx_bytes: number("RX-bytes:"),
            rx_missed: number("RX-missed:"),
            rx_errors: number("RX-errors:"),
            tx_packets: number("TX-packets:"),
            tx_bytes: number("TX-bytes:"),
            tx_errors: number("TX-errors:"),
            rx_pps: number("Rx-pps:"),
            tx_pps: number("Tx-pps:"),
        }
    }

    /// Waits until port 0 has sent or received this many frames more than before.
    pub(crate) fn wait_for(&mut self, way: fn(&Stats) -> u64, frames: u64) {
        let before = way(&self.stats(0));
        let name = self.talk.name().to_owned();
        wait(&format!("{name}: {frames} frames"), || {
            let stats = self.stats(0);
            check(way(&stats) >= before + frames, stats)
        });
    }

    /// The features that were negotiated last.
    pub(crate) fn features(&self, world: &World) -> Features {
        let log = world.log(self.talk.name());
        let as_driver = log.rsplit_once("features after negotiate = ");
        let as_device = log.rsplit_once("negotiated Virtio features: 0x");
        let (_, rest) = as_driver.or(as_device).expect("features that were negotiated");
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        Features::from_bits(u128::from_str_radix(&rest[..end], 16).unwrap())
    }

    /// Says who it is and what it has negotiated.
    pub(crate) fn introduce(&self, world: &World) {
        let features = self.features(world);
        eprintln!("{}: {}, negotiated {features}", self.talk.name(), self.version);
    }

    /// Ends it.
    pub(crate) fn quit(mut self, world: &mut World) {
        self.talk.say("quit");
        let status = world.wait_end(self.talk.name());
        assert!(status.success(), "{}: {status}", self.talk.name());
    }
}

/// The version of what is there.
pub(crate) fn version() -> String {
    let output = Command::new(place::testpmd()).args(["-v", "-h"]).output().unwrap();
    between(&String::from_utf8_lossy(&output.stderr), VERSION, "'").to_owned()
}

/// The command line.
fn words(world: &World, name: &str, plan: &Plan<'_>) -> Vec<String> {
    let program = place::testpmd().display().to_string();
    // It leaves files about itself.
    let files = format!("RUNTIME_DIRECTORY={}", world.directory(plan.machine).display());
    let (command, queues) = (1 - plan.processor, plan.queues);
    let mut words: Vec<String> = Vec::new();
    // Into a file it would write a page at a time.
    words.extend(["env", &files, "stdbuf", "-oL", &program].map(str::to_owned));
    words.extend(
        ["-l0,1", "--no-huge", "-m512", "--no-pci", "--no-telemetry", "-v"].map(str::to_owned),
    );
    words.push(format!("--main-lcore={command}"));
    let levels = ["lib.vhost.config:info", "pmd.net.virtio.init:debug"];
    words.extend(levels.map(|level| format!("--log-level={level}")));
    words.push(format!("--file-prefix={name}"));
    words.extend(plan.devices.iter().map(|device| format!("--vdev={device}")));
    words.extend(["--", "-i", "--nb-cores=1"].map(str::to_owned));
    words.push(format!("--forward-mode={}", plan.mode));
    words.extend([format!("--rxq={queues}"), format!("--txq={queues}")]);
    words.push(format!("--txpkts={}", plan.frame));
    words.push(format!("--total-num-mbufs={BUFFERS}"));
    words
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(found, _)| found)
}

/// The number that follows a name.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).unwrap_or_else(|| panic!("no {name} in {text}")).1;
    let word = rest.split_whitespace().next().unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("{name} {word:?} is no number"))
}
