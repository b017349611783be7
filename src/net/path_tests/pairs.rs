//! Our driver's path against our device's.

use super::*;
use crate::net::driver_path::RECEIVE_BUFFER;

const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];

type Pair = (End<DriverPath>, End<DevicePath>);

fn pair(mem: &BusMemory, features: Features, placement: &Placement) -> Pair {
    let driver = driver_path(mem, features, placement);
    (End::new(driver), End::new(device_path(mem, features, placement)))
}

/// Lets both ends work until both sleep; each wakes only if it is rung or its netdev has frames.
fn settle(mem: &BusMemory, (driver, device): &mut Pair, random: &mut Random) {
    let (mut wake_driver, mut wake_device) = (true, true);
    while wake_driver || wake_device || !driver.asleep || !device.asleep {
        if random.coin() {
            if wake_driver || !driver.asleep {
                wake_driver = false;
                wake_device |= driver.turn(mem, 1 + random.below(40));
            }
        } else if wake_device || !device.asleep {
            wake_device = false;
            wake_driver |= device.turn(mem, 1 + random.below(40));
        }
    }
}

pub(super) fn compare(got: &mut VecDeque<Vec<u8>>, sent: &mut VecDeque<Vec<u8>>) {
    assert_eq!(got.len(), sent.len(), "frames that came out, of those sent");
    for (i, (got, sent)) in got.drain(..).zip(sent.drain(..)).enumerate() {
        // `num_buffers` is the ring's own business.
        assert_eq!((got.len(), &got[..10]), (sent.len(), &sent[..10]), "frame {i}");
        assert!(got[12..] == sent[12..], "frame {i} of {} bytes is altered", sent.len());
    }
}

/// How many of the smallest frames each end can send while the other one does nothing.
fn room(mem: &BusMemory, (driver, device): &mut Pair) -> [usize; 2] {
    driver.outbox.extend((0..1000).map(|i| frame(i, 14)));
    device.outbox.extend((0..1000).map(|i| frame(i, 14)));
    let room = [driver.outward(mem, 1000).0, device.outward(mem, 1000).0];
    driver.outbox.clear();
    device.outbox.clear();
    device.inward(mem, 1000);
    driver.inward(mem, 1000);
    assert_eq!([device.inbox.len(), driver.inbox.len()], room);
    driver.inbox.clear();
    device.inbox.clear();
    room
}

#[test]
fn frames_come_out_in_order_whole_and_unaltered_and_every_buffer_comes_back() {
    let mut random = Random(0x5eed);
    for round in 0..36 {
        let len = [1u64, 2, 16][round % 3] << 20;
        let kinds = [KINDS[random.below(3)], KINDS[random.below(3)]];
        let kinds = if round < 18 { [Kind::Cached; 2] } else { kinds };
        let rings = with_rings(features(random.coin(), random.coin(), random.coin()), kinds);
        let features = rings[round / 3 % rings.len()];
        let sizes = [4 << random.below(7), 4 << random.below(7)];
        let placement = placed(len, features, sizes);
        let mem = memory(len, kinds[0], kinds[1]);
        let mut ends = pair(&mem, features, &placement);
        let before = room(&mem, &mut ends);
        let posted = (placement.buffers.receive.end - placement.buffers.receive.start) as usize
            / RECEIVE_BUFFER as usize;
        assert_eq!(before, [usize::from(sizes[1]), posted], "the driver's and the device's room");
        for _ in 0..6 {
            let count = random.below(100);
            let mut to_device: VecDeque<_> = (0..count).map(|i| frame(i, random.len())).collect();
            let mut to_driver: VecDeque<_> =
                (0..100 - count).map(|i| frame(i, random.len())).collect();
            ends.0.outbox.extend(to_device.iter().cloned());
            ends.1.outbox.extend(to_driver.iter().cloned());
            settle(&mem, &mut ends, &mut random);
            compare(&mut ends.1.inbox, &mut to_device);
            compare(&mut ends.0.inbox, &mut to_driver);
        }
        assert_eq!(room(&mem, &mut ends), before, "{len} {sizes:?} {kinds:?} {features}");
        assert!(ends.0.drops.is_empty() && ends.1.drops.is_empty());
    }
}

#[test]
fn indices_wrap_several_times_without_a_trace() {
    let cached = [Kind::Cached; 2];
    for features in [true, false].map(|e| with_rings(features(true, e, true), cached)).concat() {
        let mut random = Random(7);
        let placement = placed(1 << 20, features, [16, 16]);
        let mem = memory(1 << 20, Kind::Cached, Kind::Cached);
        let mut ends = pair(&mem, features, &placement);
        let before = room(&mem, &mut ends);
        // Indices wrap after 65536 frames, wrap counters after 16.
        for number in 0..if features.has(virtio::F_RING_PACKED) { 300 } else { 2000 } {
            let mut frames: VecDeque<_> = (0..50).map(|i| frame(number + i, 14)).collect();
            ends.0.outbox.extend(frames.iter().cloned());
            ends.1.outbox.extend(frames.iter().cloned());
            settle(&mem, &mut ends, &mut random);
            compare(&mut ends.0.inbox, &mut frames.clone());
            compare(&mut ends.1.inbox, &mut frames);
        }
        assert_eq!(room(&mem, &mut ends), before);
    }
}

#[test]
fn an_end_that_nobody_rings_finds_nothing_and_stays_asleep() {
    for features in with_rings(features(true, true, true), [Kind::Cached; 2]) {
        let placement = placed(1 << 20, features, [16, 16]);
        let mem = memory(1 << 20, Kind::Cached, Kind::Cached);
        let mut ends = pair(&mem, features, &placement);
        settle(&mem, &mut ends, &mut Random(1));
        for number in 0..100 {
            // The driver sends one frame: one ring each way at most, then silence.
            let rings = (ends.0.rings, ends.1.rings);
            ends.0.outbox.push_back(frame(number, 60));
            settle(&mem, &mut ends, &mut Random(number as u64 + 1));
            assert_eq!(ends.0.rings - rings.0, 1, "the device slept and had to be rung");
            assert_eq!(
                ends.1.rings, rings.1,
                "the driver has room and does not want to hear of more"
            );
        }
    }
}

#[test]
fn a_frame_that_is_no_frame_is_not_sent() {
    for kind in [Kind::Cached, Kind::Uncached] {
        let features = features(true, true, true);
        let placement = placed(1 << 20, features, [16, 16]);
        let mem = memory(1 << 20, kind, kind);
        let (mut driver, mut device) = pair(&mem, features, &placement);
        for (len, reason) in [(0, Drop::TooShort), (25, Drop::TooShort), (65_602, Drop::TooLong)] {
            assert!(!matches!(driver.path.room(&mem).unwrap(), Room::Nowhere));
            assert_eq!(driver.path.sent(&mem, len), Ok(Some(reason)), "driver, {len} bytes");
            assert!(!matches!(device.path.room(&mem).unwrap(), Room::Nowhere));
            assert_eq!(device.path.sent(&mem, len), Ok(Some(reason)), "device, {len} bytes");
        }
        assert_eq!(driver.inward(&mem, 9) + device.inward(&mem, 9), 0);
        assert!(!driver.path.flush(&mem) && !device.path.flush(&mem));
    }
}
