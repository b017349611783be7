//! What a device tells a driver, and when: coalesced notifications, announcements.

use std::thread;
use std::time::{Duration, Instant};

use boardlane::link::pair_vector;
use boardlane::net::features::Features;
use boardlane::os::doorbell::empty;
use boardlane::spec::net::{self, Header, ctrl};
use boardlane::spec::virtio;

use super::{board, drive, pair};
use crate::stock::frames::{BROADCAST, Wire, number_of, numbered};
use crate::stock::rings::LINUX;
use crate::stock::{Driver, PACKED, SPLIT};
use crate::world::{PATIENCE, check, wait};

/// How often the driver's doorbell for its first pair was rung since the last time.
fn rung(driver: &Driver) -> u64 {
    let ours = &driver.stock.ours;
    let vector = pair_vector(0, u32::try_from(ours.len()).unwrap()).unwrap();
    let mut count = [0; 8];
    match rustix::io::read(&*ours[usize::from(vector)], &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

fn coalesce(driver: &mut Driver, code: ctrl::Code, packets: u32, usecs: u32) {
    let data = [packets.to_le_bytes(), usecs.to_le_bytes()].concat();
    assert!(driver.control.as_mut().unwrap().command(code, &[&data]));
}

/// Receives as Linux does, looking at the ring only after a doorbell, until the frame of this number:
/// how many doorbells that took.
fn receive_until(driver: &mut Driver, last: u32) -> (u64, u32) {
    let (mut doorbells, mut frames, start) = (0, 0, Instant::now());
    loop {
        assert!(start.elapsed() < PATIENCE, "{frames} frames after {doorbells} doorbells");
        let now = rung(driver);
        if now == 0 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        doorbells += now;
        let receiver = &mut driver.pairs[0].0;
        loop {
            for came in receiver.take_all() {
                frames += 1;
                if number_of(&came.data, 0) == Some(last) {
                    while receiver.arm() {
                        frames += u32::try_from(receiver.take_all().len()).unwrap();
                    }
                    return (doorbells, frames);
                }
            }
            if !receiver.arm() {
                break;
            }
        }
    }
}

fn still(driver: &mut Driver) {
    let receiver = &mut driver.pairs[0].0;
    while receiver.arm() {
        receiver.take_all();
    }
    rung(driver);
}

pub(crate) fn a_driver_that_coalesces_is_told_seldom_and_of_everything() {
    let world = board("");
    let no_events = Features::of(&[virtio::F_EVENT_IDX]);
    for features in [SPLIT, PACKED, SPLIT.minus(no_events)] {
        let mut driver = drive(&world, features, 1, LINUX);
        driver.stock.ours.iter().for_each(|doorbell| empty(doorbell));
        let wire = Wire::new(&world, "board0", "bl0");
        coalesce(&mut driver, ctrl::NOTF_COAL_RX_SET, 32, 100_000);
        // Before the doorbells are taken: one of the kernel's own frames may ring in between.
        let sent_before = pair(&world, 0).notifications_sent;
        still(&mut driver);
        (0..330).for_each(|number| wire.send(&numbered(BROADCAST, &[], number, 200)));
        let (doorbells, frames) = receive_until(&mut driver, 329);
        eprintln!("{frames} frames, {doorbells} doorbells");
        assert!(frames >= 330 && doorbells <= 40, "{doorbells} doorbells for {frames} frames");
        assert!(pair(&world, 0).notifications_sent - sent_before >= doorbells);

        coalesce(&mut driver, ctrl::NOTF_COAL_RX_SET, 1, 0);
        for number in 1000..1050 {
            still(&mut driver);
            let start = Instant::now();
            wire.send(&numbered(BROADCAST, &[], number, 200));
            let (doorbells, frames) = receive_until(&mut driver, number);
            assert!(doorbells <= u64::from(frames), "{doorbells} for {frames}");
            let took = start.elapsed();
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
        sends(&mut driver);
    }
}

/// The same for what the driver sends.
fn sends(driver: &mut Driver) {
    coalesce(driver, ctrl::NOTF_COAL_TX_SET, 32, 100_000);
    driver.pairs[0].1.reclaim();
    assert!(!driver.pairs[0].1.arm());
    rung(driver);
    let mut doorbells = 0;
    let frame = numbered(BROADCAST, &[], 0, 200);
    for _ in 0..2 {
        (0..100).for_each(|_| assert!(driver.pairs[0].1.try_send(Header::default(), &frame)));
        let start = Instant::now();
        loop {
            doorbells += rung(driver);
            let sender = &mut driver.pairs[0].1;
            if doorbells > 0 && sender.reclaim() == 0 && !sender.arm() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "not told of what was sent");
            thread::sleep(Duration::from_micros(50));
        }
    }
    eprintln!("200 sent, {doorbells} doorbells");
    assert!((1..=40).contains(&doorbells), "{doorbells}");
}

pub(crate) fn a_driver_is_asked_to_announce_itself_until_it_has_and_hears_the_board() {
    let world = board("");
    let asked = |driver: &mut Driver| driver.stock.config().status.get() & net::S_ANNOUNCE != 0;
    for features in [SPLIT, PACKED] {
        let mut driver = drive(&world, features, 1, LINUX);
        assert!(asked(&mut driver));
        thread::sleep(Duration::from_millis(300));
        assert!(asked(&mut driver), "until it has done so");
        assert!(driver.control.as_mut().unwrap().command(ctrl::ANNOUNCE_ACK, &[]));
        assert!(!asked(&mut driver));
        assert_eq!(driver.stock.config().status.get(), net::S_LINK_UP);
        // The board announces itself by a reverse ARP request (RFC 903).
        let mac = world.netdev("board0", "bl0").unwrap()["address"].as_str().unwrap().to_owned();
        let came = driver.pairs[0].0.wait_for("an announcement", |came| {
            came.data[..6] == BROADCAST && came.data[12..14] == [0x80, 0x35]
        });
        let from: Vec<_> = came.data[6..12].iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(from.join(":"), mac);
        assert!(!asked(&mut driver), "it is not asked again");
        driver.stock.reset();
    }
    let mut driver = drive(&world, SPLIT.minus(Features::of(&[net::F_GUEST_ANNOUNCE])), 1, LINUX);
    wait("the link is up without a request", || {
        check(driver.stock.config().status.get() == net::S_LINK_UP, "no")
    });
}
