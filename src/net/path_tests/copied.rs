//! What our own code copies of a frame, for everything else that touches it is a system call or an engine.

use super::*;
use crate::net::echo::{Echo, Step};
use crate::net::frame::{Offloads, PREFIX_LEN};

const LEN: usize = 1514;

/// Sends a frame from one end to the other; what each has copied.
fn carried(from: &mut End<impl Path>, to: &mut End<impl Path>, mem: &BusMemory) -> [usize; 2] {
    from.outbox.push_back(frame(1, LEN));
    assert_eq!((from.outward(mem, 1).0, to.inward(mem, 1)), (1, 1));
    [from.path.take_copied(), to.path.take_copied()]
}

#[test]
fn of_a_plain_frame_only_the_checked_start_is_copied_and_only_at_the_receiver() {
    let all = features(true, true, true);
    for features in with_rings(all, [Kind::Cached; 2]) {
        let mem = memory(16 << 20, Kind::Cached, Kind::Cached);
        let p = placed(16 << 20, features, [256, 256]);
        let mut driver = End::new(driver_path(&mem, features, &p));
        let mut device = End::new(device_path(&mem, features, &p));
        for _ in 0..3 {
            assert_eq!(carried(&mut driver, &mut device, &mem), [0, PREFIX_LEN], "{features}");
            assert_eq!(carried(&mut device, &mut driver, &mem), [0, PREFIX_LEN], "{features}");
        }
        assert_eq!(PREFIX_LEN, 268);
    }
}

#[test]
fn what_system_calls_cannot_reach_is_copied_whole() {
    let whole = net::HEADER_LEN + LEN;
    let features = features(true, true, true);
    let mem = memory(16 << 20, Kind::WriteCombined, Kind::Cached);
    let p = placed(16 << 20, features, [256, 256]);
    let mut driver = End::new(driver_path(&mem, features, &p));
    let mut device = End::new(device_path(&mem, features, &p));
    assert_eq!(carried(&mut driver, &mut device, &mem), [whole, whole]);
    assert_eq!(carried(&mut device, &mut driver, &mem), [0, PREFIX_LEN]);
}

#[test]
fn an_echo_copies_a_frame_out_and_in() {
    let features = features(true, true, true);
    let mem = memory(16 << 20, Kind::Cached, Kind::Cached);
    let p = placed(16 << 20, features, [256, 256]);
    let mut driver = End::new(driver_path(&mem, features, &p));
    let mut device = device_path(&mem, features, &p);
    driver.outbox.push_back(frame(1, LEN));
    driver.outward(&mem, 1);
    let mut echo = Echo::new(Offloads::to_driver(features));
    let step = echo.step(&mut device, &mem, &mem).unwrap();
    assert_eq!(step, Step::Sent { len: LEN });
    let whole = net::HEADER_LEN + LEN;
    assert_eq!([device.take_copied(), echo.take_copied()], [whole, whole]);
    assert_eq!([device.take_copied(), echo.take_copied()], [0, 0]);
}
