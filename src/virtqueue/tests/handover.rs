//! A device half that stops, another one that goes on, and the first one again.

use super::*;
use crate::virtqueue::{Buffer, Chain, DeviceQueue, DriverQueue};

fn add(driver: &mut DriverQueue, mem: &BusMemory, token: u16) -> bool {
    let buffer = Buffer { addr: BUFFERS + 64 * u64::from(token), len: 64 };
    driver.add(mem, &[buffer], &[], token).unwrap();
    driver.publish(mem)
}

/// Uses all that is there; how much that was, and whether the driver is to be told.
fn serve(device: &mut DeviceQueue, mem: &BusMemory) -> (u32, bool) {
    let (mut chain, mut served) = (Chain::default(), 0);
    while device.pop(mem, &mut chain).unwrap() {
        device.push(mem, chain.head, 0);
        served += 1;
    }
    (served, device.publish(mem))
}

#[test]
fn two_halves_take_turns_and_the_driver_sees_one_device() {
    for event_idx in [false, true] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = config(4, event_idx, false);
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut halves = [0, 1].map(|_| config.activate_device(&mem).unwrap());
        let mut next = 0;
        // Indices wrap meanwhile, and so do rings.
        for turn in 0..30_000_u32 {
            let half = &mut halves[turn as usize % 2];
            half.move_to(&mem, next).unwrap();
            half.disarm(&mem);
            let added = 1 + turn % 4;
            for token in 0..added {
                let _ = add(&mut driver, &mem, token as u16);
            }
            assert!(!driver.arm(&mem).unwrap());
            assert_eq!(serve(half, &mem), (added, true), "turn {turn}");
            while driver.pop_used(&mem).unwrap().is_some() {}
            // Asleep, it is to hear of the next chain, whichever half asked last.
            assert!(!half.arm(&mem).unwrap());
            assert!(add(&mut driver, &mem, 0), "turn {turn}");
            let _ = serve(half, &mem);
            next = half.position().unwrap();
            while driver.pop_used(&mem).unwrap().is_some() {}
        }
    }
}

#[test]
fn a_half_that_holds_chains_or_is_broken_has_no_position() {
    let mem = memory(Kind::Cached, Kind::Cached);
    let config = config(4, true, false);
    let mut driver = config.activate_driver(&mem).unwrap();
    let mut device = config.activate_device(&mem).unwrap();
    let _ = add(&mut driver, &mem, 0);
    assert_eq!(device.position(), Some(0));
    let mut chain = Chain::default();
    assert!(device.pop(&mem, &mut chain).unwrap());
    assert_eq!(device.position(), None, "held");
    device.push(&mem, chain.head, 0);
    assert_eq!(device.position(), None, "not published");
    let _ = device.publish(&mem);
    assert_eq!(device.position(), Some(1));
    // Whoever took over has lost a chain.
    let lost = QueueError::LeftUnused { taken: 3, used: 1 };
    assert_eq!(device.move_to(&mem, 3), Err(lost));
    assert_eq!((device.position(), device.pop(&mem, &mut chain)), (None, Err(lost)));
    let packed = QueueConfig { packed: true, ..config };
    let _driver = packed.activate_driver(&mem).unwrap();
    assert_eq!(packed.activate_device(&mem).unwrap().position(), None);
}
