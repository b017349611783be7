//! An agent, and a driver of its rings that sends what it can.

use std::time::{Duration, Instant};

use boardlane::daemon::status::QueueStatus;
use boardlane::net::features::Features;
use boardlane::net::path::Inward;
use boardlane::spec::net::HEADER_LEN;
use boardlane::spec::virtio::F_RING_PACKED;

use crate::master::Master;
use crate::site::Site;

/// What the agents do with a frame.
pub(crate) const PORTS: [&str; 2] = ["discard", "echo"];
/// Octets of a frame from its Ethernet header on, and of it in the ring.
pub(crate) const OCTETS: usize = 64;
const LEN: usize = HEADER_LEN + OCTETS;
/// Between looks at what is not the rings: a heartbeat is 100 ms.
const LOOK: Duration = Duration::from_millis(20);
/// Turns between looks at the clock.
const TURNS: usize = 64;
/// Until the rings are full, and the clock has risen.
const WARM_UP: Duration = Duration::from_millis(100);

/// What came of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Frames a second.
    pub(crate) rate: f64,
    /// Notifications per 1000 frames: to the agent, and from it.
    pub(crate) notifications: [f64; 2],
}

pub(crate) struct Generator {
    pub(crate) port: &'static str,
    pub(crate) packed: bool,
    site: Site,
    master: Master,
    frame: [u8; LEN],
    /// Number of the next frame to be sent, and of the next one to come back.
    next: u64,
    back: u64,
}

impl Generator {
    pub(crate) fn start(port: &'static str, packed: bool) -> Self {
        let mut site = Site::new(&format!("rings-{port}-{packed}"));
        site.start("backplane", "");
        site.start("agent", &format!("port = \"{port}\""));
        let off = if packed { Features::NONE } else { Features::of(&[F_RING_PACKED]) };
        let master = Master::new(&site, off);
        let mut frame = [0; LEN];
        frame[HEADER_LEN..][..14].copy_from_slice(b"\x02\0\0\0\0\x09\x02\0\0\0\0\x08\x88\xb5");
        let mut generator = Self { port, packed, site, master, frame, next: 0, back: 0 };
        generator.path_disarm();
        generator
    }

    fn path_disarm(&mut self) {
        let pair = self.master.pair.as_mut().unwrap();
        pair.path.disarm(&self.master.mem);
    }

    /// What the agent counts.
    fn counts(&self) -> QueueStatus {
        self.site.link("agent").unwrap().queues.remove(0)
    }

    /// A batch out, as far as there is room, and at most as much back; whether the agent was rung.
    fn turn(&mut self, batch: usize) -> bool {
        let Self { master: Master { mem, pair, .. }, frame, next, back, .. } = self;
        let path = &mut pair.as_mut().unwrap().path;
        for _ in 0..batch {
            let words = frame[HEADER_LEN + 16..].chunks_exact_mut(8);
            words.for_each(|word| word.copy_from_slice(&next.to_le_bytes()));
            if !path.room(mem).unwrap().fill(mem, frame) {
                break;
            }
            assert_eq!(path.sent(mem, LEN).unwrap(), None);
            *next += 1;
        }
        let mut ring = path.flush(mem);
        for _ in 0..batch {
            match path.receive(mem).unwrap() {
                Inward::Empty => break,
                Inward::Dropped(reason) => panic!("{}", reason.name()),
                Inward::Frame { prefix, tail, .. } => {
                    assert!(prefix.len() == LEN && tail.is_empty());
                    let came = prefix[HEADER_LEN + 16..].chunks_exact(8);
                    assert!(came.into_iter().all(|octets| *octets == back.to_le_bytes()));
                    *back += 1;
                }
            }
            path.received(mem).unwrap();
        }
        ring |= path.release(mem);
        if ring {
            self.master.ring_worker();
        }
        ring
    }
}

/// The generator at this place sends frames, `batch` at a time, for this long. The others' links are kept
/// alive.
pub(crate) fn measure(
    all: &mut [Generator],
    at: usize,
    batch: usize,
    duration: Duration,
) -> Sample {
    run(all, at, batch, WARM_UP);
    let (before, returned, began) = (all[at].counts(), all[at].back, Instant::now());
    let rung = run(all, at, batch, duration);
    let took = began.elapsed().as_secs_f64();
    let (after, returned) = (all[at].counts(), all[at].back - returned);
    assert!(after.rx.drops.is_empty() && after.tx.drops.is_empty(), "{after:?}");
    let frames = match all[at].port {
        "echo" => returned,
        _ => after.rx.frames - before.rx.frames,
    };
    let from = after.notifications_sent - before.notifications_sent;
    let per_1000 = |n: u64| n as f64 * 1000.0 / frames as f64;
    Sample { rate: frames as f64 / took, notifications: [rung, from].map(per_1000) }
}

/// Returns how often the agent was rung.
fn run(all: &mut [Generator], at: usize, batch: usize, duration: Duration) -> u64 {
    let (mut rung, began) = (0, Instant::now());
    let (mut now, mut next_look) = (began, began);
    while now - began < duration {
        if now >= next_look {
            next_look = now + LOOK;
            all.iter_mut().for_each(|generator| generator.master.turn());
        }
        rung += (0..TURNS).filter(|_| all[at].turn(batch)).count() as u64;
        now = Instant::now();
    }
    rung
}
