//! Links without a netdev, as a user without any privilege runs them: root's run is `nobody`'s.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

#[path = "ports/master.rs"]
mod master;
#[path = "ports/site.rs"]
mod site;

use std::fs;
use std::time::Instant;

use boardlane::net::features::Features;
use boardlane::net::path::Inward;
use boardlane::spec::net::HEADER_LEN;
use master::Master;
use site::{PATIENCE, Site, wait};

/// Frames between two heartbeats.
const BATCH: usize = 32;

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

impl Master {
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
        let mut master = Master::new(&site, Features::NONE);
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
        let mut master = Master::new(&site, Features::NONE);
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
