//! A path whose frames are sent back, against one with a netdev.

use super::pairs::compare;
use super::*;
use crate::net::echo::{Echo, Step};
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::net::frame::Offloads;

const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];

/// An end that echoes, and a worker and an engine for it.
struct Echoing<P> {
    end: End<P>,
    echo: Echo,
    under_way: Vec<Transfer>,
}

impl<P: Path> Echoing<P> {
    fn new(path: P, back: Offloads) -> Self {
        Self { end: End::new(path), echo: Echo::new(back), under_way: Vec::new() }
    }

    /// Sends up to `batch` frames back: how many it took, and whether it wants room.
    fn step(&mut self, mem: &BusMemory, batch: usize) -> (usize, bool) {
        let Self { end, echo, .. } = self;
        let frames = end.local.clone();
        let frames = frames.as_deref().unwrap_or(mem);
        let mut taken = 0;
        while taken < batch {
            match echo.step(&mut end.path, mem, frames).unwrap() {
                Step::Empty => return (taken, false),
                Step::NoRoom => return (taken, true),
                Step::Dropped(reason) | Step::NotSent { reason, .. } => end.drops.push(reason),
                Step::Sent { .. } => {}
            }
            taken += 1;
        }
        (taken, false)
    }

    fn publish(&mut self, mem: &BusMemory) {
        self.end.rings += u64::from(self.end.path.flush(mem));
        self.end.rings += u64::from(self.end.path.release(mem));
    }

    /// As `End::turn`. The engine completes the last transfer first, a turn after it was given it.
    fn turn(&mut self, mem: &BusMemory, batch: usize) -> bool {
        let rings = self.end.rings;
        if self.end.asleep {
            self.end.path.disarm(mem);
            self.end.asleep = false;
        }
        for _ in 0..4 {
            let mut moved = self.under_way.len();
            while let Some(transfer) = self.under_way.pop() {
                let done = carry_out(mem, self.end.local.as_deref().unwrap(), transfer);
                self.end.path.handle_completion(done).unwrap();
            }
            let (taken, blocked) = self.step(mem, batch);
            self.publish(mem);
            self.under_way.extend(std::iter::from_fn(|| self.end.path.poll_transfer()));
            moved += taken + self.under_way.len();
            if moved > 0 {
                return self.end.rings > rings;
            }
            let path = &mut self.end.path;
            let more = if blocked { path.arm_for_room(mem) } else { path.arm(mem, false) };
            if !more.unwrap() {
                self.end.asleep = true;
                return self.end.rings > rings;
            }
            self.end.path.disarm(mem);
        }
        panic!("turns without progress, and does not sleep: {:?}", self.end);
    }
}

/// Lets both ends work until both sleep; each wakes only if it is rung, its netdev has frames, or its
/// engine has copied.
fn settle<P: Path, Q: Path>(
    mem: &BusMemory,
    end: &mut End<P>,
    echo: &mut Echoing<Q>,
    random: &mut Random,
) {
    let (mut wake_end, mut wake_echo) = (true, true);
    while wake_end || wake_echo || !end.asleep || !echo.end.asleep {
        if random.coin() {
            if wake_end || !end.asleep {
                wake_end = false;
                wake_echo |= end.turn(mem, 1 + random.below(40));
            }
        } else if wake_echo || !echo.end.asleep {
            wake_echo = false;
            wake_end |= echo.turn(mem, 1 + random.below(40));
        }
    }
}

fn back(features: Features) -> [Offloads; 2] {
    [Offloads::to_driver(features), Offloads::to_device(features)]
}

/// What comes back of 100 frames a round.
fn comes_back<P: Path, Q: Path>(
    mem: &BusMemory,
    mut end: End<P>,
    mut echo: Echoing<Q>,
    random: &mut Random,
) {
    for _ in 0..4 {
        let mut sent: VecDeque<_> = (0..100).map(|i| frame(i, random.len())).collect();
        end.outbox.extend(sent.iter().cloned());
        settle(mem, &mut end, &mut echo, random);
        compare(&mut end.inbox, &mut sent);
    }
    assert_eq!((end.drops, echo.end.drops), (vec![], vec![]));
}

#[test]
fn every_frame_comes_back_in_order_whole_and_unaltered() {
    let mut random = Random(0xec40);
    for round in 0..36 {
        let kinds = [KINDS[random.below(3)], KINDS[random.below(3)]];
        let kinds = if round < 18 { [Kind::Cached; 2] } else { kinds };
        let rings = with_rings(features(random.coin(), random.coin(), random.coin()), kinds);
        let features = rings[round / 3 % rings.len()];
        let p = placed(2 << 20, features, [4 << random.below(7), 4 << random.below(7)]);
        let mem = memory(2 << 20, kinds[0], kinds[1]);
        let driver = driver_path(&mem, features, &p);
        let [to_driver, to_device] = back(features);
        match round % 3 {
            0 => {
                let device = device_path(&mem, features, &p);
                comes_back(&mem, End::new(driver), Echoing::new(device, to_driver), &mut random);
            }
            1 => {
                let device = device_path(&mem, features, &p);
                comes_back(&mem, End::new(device), Echoing::new(driver, to_device), &mut random);
            }
            _ => {
                let by_engine = EngineUse { cpu_below: random.below(2) * 300 };
                let device =
                    EnginePath::new(&mem, features, &p.receiveq, &p.transmitq, by_engine).unwrap();
                comes_back(&mem, End::new(driver), Echoing::new(device, to_driver), &mut random);
            }
        }
    }
}

/// Has the driver send without taking anything in, until nothing goes on any more; then it takes all.
fn without_room<P: Path>(mem: &BusMemory, driver: &mut End<DriverPath>, echo: &mut Echoing<P>) {
    let mut sent: VecDeque<_> = (0..400).map(|i| frame(i, 60)).collect();
    driver.outbox.extend(sent.iter().cloned());
    for _ in 0..100 {
        driver.outward(mem, 40);
        echo.turn(mem, 40);
    }
    assert!(echo.end.asleep, "it has no room, and does not spin on the frames that wait");
    assert!(!driver.outbox.is_empty(), "they wait in the ring, and the netdev is not read");
    settle(mem, driver, echo, &mut Random(5));
    compare(&mut driver.inbox, &mut sent);
    assert!(echo.end.drops.is_empty());
}

#[test]
fn without_room_frames_wait_in_the_ring_and_none_is_lost() {
    for features in with_rings(features(true, true, true), [Kind::Cached; 2]) {
        let p = placed(2 << 20, features, [8, 16]);
        let mem = memory(2 << 20, Kind::Cached, Kind::Cached);
        let [to_driver, _] = back(features);
        let mut driver = End::new(driver_path(&mem, features, &p));
        let device = device_path(&mem, features, &p);
        without_room(&mem, &mut driver, &mut Echoing::new(device, to_driver));

        let mem = memory(2 << 20, Kind::Cached, Kind::Cached);
        let mut driver = End::new(driver_path(&mem, features, &p));
        let by_engine = EngineUse { cpu_below: 0 };
        let device = EnginePath::new(&mem, features, &p.receiveq, &p.transmitq, by_engine).unwrap();
        without_room(&mem, &mut driver, &mut Echoing::new(device, to_driver));
    }
}

#[test]
fn a_frame_whose_offload_may_not_go_back_is_dropped_with_the_reason() {
    let one_way = Features::from_names(["GUEST_CSUM", "GUEST_TSO4"]).unwrap();
    let features = features(true, true, true).minus(one_way);
    let p = placed(2 << 20, features, [16, 16]);
    let mem = memory(2 << 20, Kind::Cached, Kind::Cached);
    let mut driver = End::new(driver_path(&mem, features, &p));
    let mut echo = Echoing::new(device_path(&mem, features, &p), back(features)[0]);
    let mut csum = frame(1, 100);
    csum[..10].copy_from_slice(&[net::HDR_F_NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    let mut tso = frame(2, 3000);
    tso[..10].copy_from_slice(&[net::HDR_F_NEEDS_CSUM, net::GSO_TCPV4, 54, 0, 0, 4, 34, 0, 16, 0]);
    let plain = frame(3, 100);
    driver.outbox.extend([csum.clone(), tso.clone(), plain.clone()]);
    settle(&mem, &mut driver, &mut echo, &mut Random(2));
    assert_eq!(echo.end.drops, [Drop::CsumNotNegotiated, Drop::CsumNotNegotiated]);
    assert_eq!(driver.inbox.len(), 1);
    assert_eq!(driver.inbox.pop_front().map(|frame| frame[12..] == plain[12..]), Some(true));

    // As the driver with CTRL_GUEST_OFFLOADS would leave it: the checksum may be unfinished.
    echo.echo = Echo::new(Offloads { csum: true, ..Offloads::default() });
    echo.end.drops.clear();
    driver.outbox.push_back(tso);
    settle(&mem, &mut driver, &mut echo, &mut Random(2));
    assert_eq!(echo.end.drops, [Drop::GsoNotNegotiated]);
}

#[test]
fn what_the_header_says_of_one_way_does_not_go_the_other_way() {
    let features = features(true, true, true);
    let p = placed(2 << 20, features, [16, 16]);
    let mem = memory(2 << 20, Kind::Cached, Kind::Cached);
    let mut sent = frame(0, 100);
    sent[0] = net::HDR_F_DATA_VALID;
    let mut device = End::new(device_path(&mem, features, &p));
    let mut echo = Echoing::new(driver_path(&mem, features, &p), back(features)[1]);
    device.outbox.push_back(sent.clone());
    settle(&mem, &mut device, &mut echo, &mut Random(3));
    // A driver sets neither DATA_VALID nor `num_buffers` (virtio 1.4 §5.1.6.2).
    assert_eq!(device.inbox[0][..12], [0; 12]);

    let mem = memory(2 << 20, Kind::Cached, Kind::Cached);
    let mut driver = End::new(driver_path(&mem, features, &p));
    let mut echo = Echoing::new(device_path(&mem, features, &p), back(features)[0]);
    driver.outbox.push_back(sent);
    settle(&mem, &mut driver, &mut echo, &mut Random(3));
    assert_eq!(driver.inbox[0][..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
}
