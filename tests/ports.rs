//! Links without a netdev, as a user without any privilege runs them: root's run is `nobody`'s.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::daemon::control::client::ask_status;
use boardlane::daemon::status::{LinkState, LinkStatus};
use boardlane::link::{Event, Link, LinkParams, StartPair, State};
use boardlane::memory::{BusMemory, Region, Side};
use boardlane::net::features::Features;
use boardlane::net::path::Inward;
use boardlane::os::child;
use boardlane::os::doorbell::ring_full_or_not;
use boardlane::os::fabric::regions;
use boardlane::os::fabric::shm::ShmLink;
use boardlane::spec::net::HEADER_LEN;
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::Role;
use rustix::process::geteuid;
use tokio::runtime::{Builder, Runtime};

const NOBODY: u32 = 65534;
/// Frames between two heartbeats.
const BATCH: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) => assert!(start.elapsed() < PATIENCE, "{what}: not in time, but {seen}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A user's directory with a copy of the program, and the daemons that run there.
struct Site {
    directory: PathBuf,
    daemons: Vec<(&'static str, Child)>,
}

impl Site {
    fn new(name: &str) -> Self {
        let name = format!("boardlane-ports-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_boardlane"), directory.join("boardlane")).unwrap();
        if geteuid().is_root() {
            chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { directory, daemons: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    fn start(&mut self, daemon: &'static str, keys: &str) {
        let mut command = Command::new(self.path("boardlane"));
        let slots = self.path("slots");
        if daemon == "backplane" {
            command.args([daemon, "--slots", "1", "--dir", &slots]);
        } else {
            let config = self.path(&format!("{daemon}.toml"));
            let control = self.path(&format!("{daemon}.sock"));
            let text = format!(
                "control = \"{control}\"\n[[link]]\nname = \"bl0\"\n\
                 transport = \"shm:{slots}/slot0.sock\"\n{keys}\n"
            );
            fs::write(&config, text).unwrap();
            command.args([daemon, "--config", &config]);
        }
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("BOARDLANE_LOG", "warn");
        let process = child::spawn(&mut command, None).unwrap();
        self.daemons.push((daemon, process));
    }

    fn kill(&mut self, daemon: &str) {
        let at = self.daemons.iter().position(|(name, _)| *name == daemon).unwrap();
        let (_, mut process) = self.daemons.remove(at);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn link(&self, daemon: &str) -> Result<LinkStatus, String> {
        let socket = self.directory.join(format!("{daemon}.sock"));
        let (_, mut status) = ask_status(&socket).map_err(|e| e.to_string())?;
        Ok(status.links.remove(0))
    }

    fn wait_up(&self, daemon: &str) -> LinkStatus {
        wait(&format!("the {daemon}'s link is up"), || {
            let link = self.link(daemon)?;
            let up = link.state == LinkState::Up && link.carrier;
            if up { Ok(link) } else { Err(format!("{link:?}")) }
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The backplane last: who loses it first tells so.
        for (_, process) in self.daemons.iter_mut().rev() {
            // It may have ended by itself, which the test has seen.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn two_ends_without_netdevs_come_up_without_privilege_and_again_after_a_crash() {
    let mut site = Site::new("discard");
    for daemon in ["backplane", "agent", "master"] {
        site.start(daemon, "port = \"discard\"\nqueues = 2");
    }
    for (_, process) in &site.daemons {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let none = "CapEff:\t0000000000000000";
        assert!(status.lines().any(|line| line == none), "{status}");
    }
    for killed in ["agent", "master"] {
        let before = ["agent", "master"].map(|daemon| site.wait_up(daemon));
        for link in &before {
            assert_eq!((&link.mac, link.mtu, &link.reason), (&None, None, &None));
        }
        site.kill(killed);
        site.start(killed, "port = \"discard\"\nqueues = 2");
        wait("new epochs", || {
            let after = [site.link("agent")?, site.link("master")?];
            let epochs = after.each_ref().map(|link| link.epoch);
            let new = epochs.iter().zip(&before).all(|(new, old)| *new != old.epoch);
            if new { Ok(()) } else { Err(format!("{epochs:?}")) }
        });
    }
    site.wait_up("agent");
    site.wait_up("master");
}

/// A master in this process, whose frames are vectors.
struct Master {
    shm: ShmLink,
    runtime: Runtime,
    link: Link,
    mem: Arc<BusMemory>,
    pair: Option<StartPair>,
}

impl Master {
    fn new(site: &Site) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let socket = site.directory.join("slots/slot0.sock");
        let shm = wait("a slot", || {
            runtime.block_on(ShmLink::connect(&socket)).map_err(|e| e.to_string())
        });
        let slot = shm.slot();
        let (window, driver_memory) = regions(slot.len);
        let region = |range: &std::ops::Range<u64>, side| {
            let offset = usize::try_from(range.start).unwrap();
            Region::mapped(range.start, range.end - range.start, side, slot.memory.clone(), offset)
        };
        let table = vec![region(&window, Side::Far), region(&driver_memory, Side::Near)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let params = LinkParams {
            role: Role::Driver,
            dialect: Dialect::V2,
            window,
            driver_memory,
            slot: 0,
            owner: slot.id.into(),
            // It polls.
            vectors: 0,
            heartbeat: Duration::from_millis(100),
            features_off: Features::NONE,
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            engine: None,
            version: "test".to_owned(),
            seed: 1,
        };
        let link = Link::new(Instant::now(), mem.clone(), params).unwrap();
        let mut master = Self { shm, runtime, link, mem, pair: None };
        wait("a queue pair", || {
            master.turn();
            master.pair.as_ref().map(|_| ()).ok_or_else(|| "none".to_owned())
        });
        master
    }

    fn turn(&mut self) {
        let news = async { tokio::time::timeout(Duration::ZERO, self.shm.next()).await };
        let _ = self.runtime.block_on(news);
        let alive: BTreeSet<u32> = self.shm.peers().keys().map(|id| u32::from(*id)).collect();
        self.link.handle_peers(Instant::now(), alive);
        self.link.handle_doorbell(Instant::now());
        self.link.handle_timeout(Instant::now());
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Ring { vector, .. } => self.ring(vector),
                Event::StartPair(pair) => self.pair = Some(pair),
                Event::State(State::Down | State::Quarantined, why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn ring(&self, vector: u16) {
        for peer in self.shm.peers().values() {
            peer.vectors.get(usize::from(vector)).into_iter().for_each(|fd| ring_full_or_not(fd));
        }
    }

    fn ring_worker(&self) {
        let doorbell = self.pair.as_ref().and_then(|pair| pair.doorbell);
        self.ring(doorbell.map_or(1, |(_, vector)| vector));
    }

    /// Sends a batch from the front as far as there is room.
    fn send(&mut self, frames: &mut &[Vec<u8>]) {
        let path = &mut self.pair.as_mut().unwrap().path;
        for _ in 0..BATCH {
            let Some((frame, rest)) = frames.split_first() else { break };
            if !path.room(&self.mem).unwrap().fill(&self.mem, frame) {
                break;
            }
            assert_eq!(path.sent(&self.mem, frame.len()).unwrap(), None);
            *frames = rest;
        }
        if path.flush(&self.mem) {
            self.ring_worker();
        }
    }

    /// A batch of what has come.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let path = &mut self.pair.as_mut().unwrap().path;
        let mut came = Vec::new();
        for _ in 0..BATCH {
            match path.receive(&self.mem).unwrap() {
                Inward::Empty => break,
                Inward::Dropped(reason) => panic!("{}", reason.name()),
                Inward::Frame { prefix, tail, .. } => {
                    let mut frame = prefix.to_vec();
                    for span in tail {
                        let at = frame.len();
                        frame.resize(at + span.len(), 0);
                        self.mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
                    }
                    came.push(frame);
                }
            }
            path.received(&self.mem).unwrap();
        }
        if path.release(&self.mem) {
            self.ring_worker();
        }
        came
    }
}

/// Frames of many lengths, each with its number in it.
fn frames(count: usize) -> Vec<Vec<u8>> {
    let frame = |number: usize| {
        let len = [60, 1514, 300, 9000, 65_000][number % 5] + number % 250;
        let mut frame = vec![0; HEADER_LEN + len];
        let octets = number.to_le_bytes().into_iter().cycle().zip(0_u8..=250);
        frame[HEADER_LEN..].iter_mut().zip(octets.cycle()).for_each(|(to, (a, b))| *to = a ^ b);
        frame
    };
    (0..count).map(frame).collect()
}

/// A site whose agent echoes.
fn echo(name: &str, keys: &str) -> Site {
    let mut site = Site::new(name);
    site.start("backplane", "");
    site.start("agent", &format!("port = \"echo\"\n{keys}"));
    site
}

const ENGINE: &str = "dma = \"engine\"\nengine = { latency_us = 100 }";

#[test]
fn what_fills_the_rings_comes_back_from_an_echo_in_order_and_unaltered() {
    let sent = frames(2000);
    for keys in ["", ENGINE] {
        let site = echo("echo", keys);
        let mut master = Master::new(&site);
        let (mut left, mut came) = (&sent[..], 0);
        let mut since = Instant::now();
        while came < sent.len() {
            master.turn();
            master.send(&mut left);
            for frame in master.receive() {
                // `num_buffers` is the ring's own business.
                let same = frame[..10] == sent[came][..10] && frame[12..] == sent[came][12..];
                assert!(same, "frame {came} of {} bytes, {keys:?}", frame.len());
                came += 1;
                since = Instant::now();
            }
            assert!(since.elapsed() < PATIENCE, "{came} frames have come back, {keys:?}");
        }
        let link = site.link("agent").unwrap();
        let [rx, tx] = [&link.queues[0].rx, &link.queues[0].tx];
        let bytes: usize = sent.iter().map(|frame| frame.len() - HEADER_LEN).sum();
        for way in [rx, tx] {
            assert_eq!((way.frames, way.bytes), (2000, u64::try_from(bytes).unwrap()));
            assert!(way.drops.is_empty(), "{:?}", way.drops);
        }
    }
}

#[test]
fn an_echo_without_room_sleeps_though_frames_wait_and_goes_on_when_there_is_some() {
    let sent = frames(600);
    for keys in ["", ENGINE] {
        let site = echo("room", keys);
        let mut master = Master::new(&site);
        let pid = site.daemons[1].1.id();
        // All the time that the process has run, in ticks: proc_pid_stat(5).
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
            fields.skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
        };
        let mut left = &sent[..];
        let (mut seen, mut same) = ((0, 0), 0);
        wait("nothing is sent any more, and the agent sleeps", || {
            master.turn();
            master.send(&mut left);
            let now = (left.len(), ticks());
            same = if now == seen { same + 1 } else { 0 };
            seen = now;
            if same == 40 { Ok(()) } else { Err(format!("{now:?}")) }
        });
        assert!(!left.is_empty(), "the rings are full");
        let mut came = Vec::new();
        wait("all frames are back", || {
            master.turn();
            master.send(&mut left);
            came.extend(master.receive());
            if came.len() == sent.len() { Ok(()) } else { Err(format!("{}", came.len())) }
        });
        let same = |(a, b): (&Vec<u8>, &Vec<u8>)| a[HEADER_LEN..] == b[HEADER_LEN..];
        assert!(came.iter().zip(&sent).all(same), "{keys:?}");
    }
}
