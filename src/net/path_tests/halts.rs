//! Device's paths, by CPU and by engine, that are replaced while frames pass: halted and followed by one
//! that starts where they stood, or gone without a word.

use super::*;
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::virtqueue::{At, Journal, Position, QueueConfig, Start};

/// A path that can start in the middle.
trait Successor: Path + Sized {
    fn start(mem: &BusMemory, features: Features, p: &Placement, starts: [Start; 2]) -> Self;
}

impl Successor for DevicePath {
    fn start(mem: &BusMemory, features: Features, p: &Placement, starts: [Start; 2]) -> Self {
        Self::new_at(mem, features, [&p.receiveq, &p.transmitq], starts).unwrap()
    }
}

impl Successor for EnginePath {
    fn start(mem: &BusMemory, features: Features, p: &Placement, starts: [Start; 2]) -> Self {
        let by_engine = EngineUse { cpu_below: 300 };
        Self::new_at(mem, features, [&p.receiveq, &p.transmitq], starts, by_engine).unwrap()
    }
}

/// How a path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// When its copies are over.
    InOrder,
    /// With copies that never come.
    EngineGone,
    /// Not even halted.
    Crash,
}

struct World<P> {
    mem: BusMemory,
    features: Features,
    placement: Placement,
    journals: [Journal; 2],
    driver: End<DriverPath>,
    device: End<P>,
    under_way: Vec<Transfer>,
    random: Random,
    /// Frames for the driver of which a path said that they are lost.
    lost: usize,
    crashes: usize,
    restarts: usize,
}

impl<P: Successor> World<P> {
    fn new(len: u64, features: Features, sizes: [u16; 2], seed: u64) -> Self {
        let placement = placed(len, features, sizes);
        let mem = memory(len, Kind::Cached, Kind::Cached);
        let journal = |queue: &QueueConfig| {
            let bytes = Mapping::anonymous(Journal::len(queue.size, queue.packed), Kind::Cached);
            Journal::new(Arc::new(bytes), 0, queue.size, queue.packed).unwrap()
        };
        let journals = [&placement.receiveq, &placement.transmitq].map(journal);
        let driver = End::new(driver_path(&mem, features, &placement));
        let first = At::Position(Position::first(placement.receiveq.packed));
        let starts = journals.clone().map(|journal| Start { at: first, journal: Some(journal) });
        let device = End::new(P::start(&mem, features, &placement, starts));
        Self {
            mem,
            features,
            placement,
            journals,
            driver,
            device,
            under_way: Vec::new(),
            random: Random(seed),
            lost: 0,
            crashes: 0,
            restarts: 0,
        }
    }

    fn complete(&mut self, at: usize) {
        let transfer = self.under_way.swap_remove(at);
        let local = self.device.local.clone().unwrap();
        let done = carry_out(&self.mem, &local, transfer);
        self.device.path.handle_completion(done).unwrap();
    }

    fn submit(&mut self) {
        self.under_way.extend(std::iter::from_fn(|| self.device.path.poll_transfer()));
    }

    /// As a worker leaves its path: what was under way is over and told.
    fn finish(&mut self) {
        self.submit();
        while !self.under_way.is_empty() {
            self.complete(0);
            self.submit();
        }
        let _ = self.device.path.flush(&self.mem);
    }

    fn replace(&mut self, way: Way) {
        if way == Way::InOrder {
            self.finish();
        }
        let ats = if way == Way::Crash {
            self.crashes += 1;
            [At::Crash { base: 0xbad_ba5e }; 2]
        } else {
            let path = &mut self.device.path;
            let positions = path.halt(&self.mem).map(|position| position.unwrap());
            let waited = std::iter::from_fn(|| path.tick()).count();
            let dropped = std::iter::from_fn(|| path.poll_drop()).count();
            assert!(way == Way::EngineGone || waited + dropped <= 1, "one frame waits at most");
            self.lost += waited + dropped;
            assert_eq!(path.halt(&self.mem), [None; 2], "it is over");
            assert!(matches!(path.room(&self.mem), Ok(Room::Nowhere)));
            assert!(matches!(path.receive(&self.mem), Ok(Inward::Empty)));
            assert!(path.poll_transfer().is_none());
            let by_base = self.random.coin();
            positions.map(|p| if by_base { At::Base(p.base()) } else { At::Position(p) })
        };
        self.under_way.clear();
        let [receive, transmit] = [0, 1].map(|i| {
            let journal = Some(self.journals[i].clone());
            Start { at: ats[i], journal }
        });
        let path = P::start(&self.mem, self.features, &self.placement, [receive, transmit]);
        let old = std::mem::replace(&mut self.device, End::new(path));
        (self.device.outbox, self.device.inbox) = (old.outbox, old.inbox);
        self.device.drops = old.drops;
        self.restarts += 1;
    }

    /// Lets both ends work until both sleep, each woken by rings only, and replaces the device's path now
    /// and then.
    fn settle(&mut self, mut replacements: usize) {
        let (mut wake_driver, mut wake_device) = (true, true);
        while wake_driver
            || wake_device
            || !self.driver.asleep
            || !self.device.asleep
            || !self.under_way.is_empty()
        {
            let batch = 1 + self.random.below(20);
            match self.random.below(16) {
                0..5 if wake_driver || !self.driver.asleep => {
                    wake_driver = false;
                    wake_device |= self.driver.turn(&self.mem, batch);
                }
                5..10 if wake_device || !self.device.asleep => {
                    wake_device = false;
                    wake_driver |= self.device.turn(&self.mem, batch);
                    self.submit();
                }
                10..15 if !self.under_way.is_empty() => {
                    let at = self.random.below(self.under_way.len());
                    self.complete(at);
                    wake_device = true;
                }
                15 if replacements > 0 => {
                    replacements -= 1;
                    let way = [Way::InOrder, Way::InOrder, Way::EngineGone, Way::Crash];
                    let way = way[self.random.below(4)];
                    self.replace(way);
                    wake_device = true;
                }
                _ => {}
            }
        }
    }

    /// Sends numbered frames both ways, and looks at what has come.
    fn pass(&mut self, count: usize) {
        let frames = |random: &mut Random| -> Vec<_> {
            (0..count).map(|number| frame(number, random.len())).collect()
        };
        let (to_device, to_driver) = (frames(&mut self.random), frames(&mut self.random));
        self.driver.outbox.extend(to_device.iter().cloned());
        self.device.outbox.extend(to_driver.iter().cloned());
        let (lost, crashes) = (self.lost, self.crashes);
        self.settle(10);
        pairs::compare(&mut self.device.inbox, &mut to_device.into());
        // What waited is lost, and counted where somebody could; all else came, in order and once.
        let mut sent = to_driver.iter();
        let got = self.driver.inbox.len();
        for got in self.driver.inbox.drain(..) {
            assert!(
                sent.any(|sent| sent[12..] == got[12..]),
                "a frame that was not, or comes late"
            );
        }
        if self.crashes == crashes {
            assert_eq!(got + self.lost - lost, count);
        }
        assert!(self.driver.drops.is_empty() && self.device.drops.is_empty());
    }
}

fn replace_often<P: Successor>(engine: bool) {
    let (mut lost, mut restarts) = (0, 0);
    for round in 0..12u64 {
        let mut random = Random(round + 1);
        let rings = [random.coin(), random.coin(), random.coin()];
        let rings = with_rings(features(rings[0], rings[1], rings[2]), [Kind::Cached; 2]);
        let features = rings[round as usize % rings.len()];
        let sizes = [4 << random.below(6), 4 << random.below(6)];
        let mut world = World::<P>::new(1 << 20, features, sizes, round + 7);
        for _ in 0..5 {
            world.pass(100);
        }
        lost += world.lost;
        restarts += world.restarts;
    }
    assert!(restarts > 250, "{restarts}");
    assert!(!engine || lost > 0, "copies never came");
}

#[test]
fn frames_pass_in_order_and_once_while_the_device_s_path_is_replaced_again_and_again() {
    replace_often::<DevicePath>(false);
}

#[test]
fn frames_pass_in_order_and_once_while_a_path_with_an_engine_is_replaced_again_and_again() {
    replace_often::<EnginePath>(true);
}
