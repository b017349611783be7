//! The control queue's commands, by their octets.

use super::*;
use crate::net::frame::Drop;
use crate::net::settings::{Coalesce, JUDGED_LEN};
use crate::spec::net::HEADER_LEN;

const TWO_PAIRS: Offer = Offer { pairs: 2, ..OFFER };

/// One that runs with its first pair.
fn with_two_pairs(features: Features) -> NetDevice {
    let mut device = after_with(TWO_PAIRS, features);
    assert_eq!(device.status(), FEATURES_OK);
    device.set_queue(0, &enable(64)).unwrap();
    device.set_queue(1, &enable(64)).unwrap();
    device
}

fn start(device: &mut NetDevice) {
    device.set_status(u32::from(DRIVER_OK));
    assert!(matches!(device.poll_event(), Some(Event::Activate { .. })));
}

/// Whether a frame to this address with this VLAN would go to the driver.
fn passes(device: &NetDevice, to: [u8; 6], vlan: Option<u16>) -> bool {
    let mut start = vec![0; JUDGED_LEN];
    start[HEADER_LEN..][..6].copy_from_slice(&to);
    if let Some(id) = vlan {
        start[HEADER_LEN + 12..][..2].copy_from_slice(&[0x81, 0]);
        start[HEADER_LEN + 14..][..2].copy_from_slice(&id.to_be_bytes());
    }
    let verdict = device.settings().watch().current.judge(&start);
    assert!(verdict.is_none_or(|reason| reason == Drop::Filtered));
    verdict.is_none()
}

#[test]
fn the_control_queue_stands_behind_the_pairs_that_are_negotiated() {
    let device = NetDevice::new(TWO_PAIRS);
    assert_eq!(device.info().max_virtqueues, 5);
    assert_eq!(config(&device)[8..10], [2, 0]);
    let sizes = |features| {
        let device = after_with(TWO_PAIRS, features);
        assert_eq!(device.status(), FEATURES_OK);
        (0..6).map(|i| device.queue(i).max_size).collect::<Vec<_>>()
    };
    let without = |bit| Features::OFFER.without(Features::of(&[bit]));
    assert_eq!(sizes(Features::OFFER), [256, 128, 256, 128, 64, 0]);
    assert_eq!(sizes(without(net::F_MQ)), [256, 128, 64, 0, 0, 0]);
    assert_eq!(sizes(without(net::F_CTRL_VQ)), [256, 128, 0, 0, 0, 0]);
}

#[test]
fn what_needs_the_control_queue_is_refused_without_it() {
    for needy in ["MQ", "CTRL_RX", "CTRL_VLAN", "CTRL_MAC_ADDR", "GUEST_ANNOUNCE", "NOTF_COAL"] {
        let features = Features::from_names(["VERSION_1", needy]).unwrap();
        let device = after_with(TWO_PAIRS, features);
        assert_eq!(device.status(), DRIVER);
        let sentence = format!("{needy} needs CTRL_VQ, which is not accepted");
        assert_eq!(device.refused().unwrap().to_string(), sentence);
    }
}

#[test]
fn a_command_without_its_feature_is_refused_and_changes_nothing() {
    let commands: [(u8, u8, &[u8], u8); 10] = [
        (0, 0, &[1], net::F_CTRL_RX),
        (0, 1, &[1], net::F_CTRL_RX),
        (1, 0, &[0; 8], net::F_CTRL_RX),
        (1, 1, &[2, 0, 0, 0, 0, 9], net::F_CTRL_MAC_ADDR),
        (2, 0, &[5, 0], net::F_CTRL_VLAN),
        (3, 0, &[], net::F_GUEST_ANNOUNCE),
        (4, 0, &[1, 0], net::F_MQ),
        (5, 0, &[0; 8], net::F_CTRL_GUEST_OFFLOADS),
        (6, 0, &[0; 8], net::F_NOTF_COAL),
        (6, 1, &[0; 8], net::F_NOTF_COAL),
    ];
    for (class, command, data, feature) in commands {
        let mut device = with_two_pairs(Features::OFFER.without(Features::of(&[feature])));
        start(&mut device);
        let before = device.settings().watch().current;
        assert_eq!(device.control((class, command), data), None, "{class} {command}");
        assert_eq!(device.settings().watch().current, before);
        let mut device = with_two_pairs(Features::OFFER);
        start(&mut device);
        assert_eq!(device.control((class, command), data), Some(()), "{class} {command}");
    }
}

#[test]
fn a_command_that_is_unknown_or_malformed_is_refused() {
    let mut device = with_two_pairs(Features::OFFER);
    start(&mut device);
    let before = device.settings().watch().current;
    let two_macs = [2, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0];
    let bad: [(u8, u8, &[u8]); 24] = [
        (0, 0, &[]),
        (0, 0, &[2]),
        (0, 0, &[1, 1]),
        // CTRL_RX_EXTRA is not offered.
        (0, 2, &[1]),
        (0, 5, &[1]),
        (1, 0, &[]),
        (1, 0, &two_macs),
        (1, 0, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        (1, 0, &[0; 9]),
        (1, 1, &[2, 0, 0, 0, 0]),
        (1, 1, &[3, 0, 0, 0, 0, 9]),
        (1, 1, &[0; 6]),
        (2, 0, &[0, 16]),
        (2, 1, &[0]),
        (3, 0, &[0]),
        (3, 1, &[]),
        (4, 0, &[0, 0]),
        // The queues of the second pair are not set up, and there is no third.
        (4, 0, &[2, 0]),
        (4, 0, &[3, 0]),
        (4, 1, &[0; 40]),
        // GUEST_UFO is not negotiated.
        (5, 0, &[0, 4, 0, 0, 0, 0, 0, 0]),
        (6, 0, &[0; 7]),
        (6, 2, &[0; 12]),
        (0x7f, 0, &[]),
    ];
    for (class, command, data) in bad {
        assert_eq!(device.control((class, command), data), None, "{class} {command} {data:?}");
    }
    assert_eq!(device.settings().watch().current, before);
    assert_eq!(device.poll_event(), None);
}

#[test]
fn a_stock_driver_s_filters_do_what_it_asks_for() {
    let mut device = with_two_pairs(Features::OFFER);
    start(&mut device);
    let (own, other, group) = (OFFER.mac, [2, 0, 0, 0, 0, 5], [0x33, 0x33, 0, 0, 0, 1]);
    assert!(passes(&device, other, Some(7)), "at first everything passes");
    device.control((0, 0), &[0]).unwrap();
    let now = |device: &NetDevice| [own, other, group].map(|to| passes(device, to, None));
    assert_eq!(now(&device), [true, false, false]);
    let table = [&[1, 0, 0, 0][..], &other, &[1, 0, 0, 0], &group].concat();
    device.control((1, 0), &table).unwrap();
    assert_eq!(now(&device), [true, true, true]);
    device.control((1, 0), &[0; 8]).unwrap();
    device.control((0, 1), &[1]).unwrap();
    assert_eq!(now(&device), [true, false, true]);
    device.control((1, 1), &other).unwrap();
    assert_eq!(now(&device), [false, true, true]);
    assert_eq!(config(&device)[..6], other, "config space shows it");
    assert!(!passes(&device, other, Some(7)));
    device.control((2, 0), &[7, 0]).unwrap();
    assert!(passes(&device, other, Some(7)));
    device.control((2, 1), &[7, 0]).unwrap();
    assert!(!passes(&device, other, Some(7)));
    device.set_status(0);
    device.quiesced();
    assert_eq!(config(&device)[..6], own, "a reset brings the device's own back");
}

#[test]
fn pairs_can_be_used_when_their_queues_are_set_up() {
    let mut device = with_two_pairs(Features::OFFER);
    device.set_queue(2, &enable(64)).unwrap();
    device.set_queue(3, &enable(64)).unwrap();
    start(&mut device);
    device.control((4, 0), &[1, 0]).unwrap();
    assert_eq!(device.poll_event(), None, "one was used before");
    device.control((4, 0), &[2, 0]).unwrap();
    assert_eq!(device.poll_event(), Some(Event::UsePairs(2)));
    device.control((4, 0), &[1, 0]).unwrap();
    assert_eq!(device.poll_event(), Some(Event::UsePairs(1)));
    assert_eq!(device.poll_event(), None);
}

#[test]
fn offloads_and_notifications_are_told_to_the_data_path() {
    let mut device = with_two_pairs(Features::OFFER);
    start(&mut device);
    // GUEST_CSUM and GUEST_TSO4.
    device.control((5, 0), &[0x82, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let offloads = Offloads { csum: true, tso4: true, ..Offloads::default() };
    assert_eq!(device.poll_event(), Some(Event::Offloads(offloads)));
    device.control((6, 0), &[16, 0, 0, 0, 50, 0, 0, 0]).unwrap();
    device.control((6, 1), &[1, 1, 0, 0, 0, 0, 1, 0]).unwrap();
    let current = device.settings().watch().current;
    assert_eq!(current.offloads, offloads);
    assert_eq!(current.transmit, Coalesce { max_packets: 16, max_usecs: 50 });
    assert_eq!(current.receive, Coalesce { max_packets: 257, max_usecs: 65536 });
}

#[test]
fn an_offload_without_what_it_needs_is_off() {
    let mut device = with_two_pairs(Features::OFFER);
    start(&mut device);
    for (names, offloads) in [
        (["GUEST_TSO4", "GUEST_TSO6"], Offloads::default()),
        (["GUEST_CSUM", "GUEST_USO4"], Offloads { csum: true, ..Offloads::default() }),
        (["GUEST_CSUM", "GUEST_ECN"], Offloads { csum: true, ..Offloads::default() }),
        (["GUEST_ECN", "GUEST_TSO6"], Offloads::default()),
    ] {
        let bits = u64::try_from(Features::from_names(names).unwrap().bits()).unwrap();
        device.control((5, 0), &bits.to_le_bytes()).unwrap();
        assert_eq!(device.poll_event(), Some(Event::Offloads(offloads)), "{names:?}");
        assert_eq!(device.settings().watch().current.offloads, offloads);
    }
}

#[test]
fn an_announcement_is_asked_for_until_the_driver_has_made_it() {
    let mut device = with_two_pairs(Features::OFFER);
    start(&mut device);
    device.set_link(true);
    let generation = device.generation();
    assert!(device.ask_to_announce());
    assert!(!device.ask_to_announce(), "it has been asked for already");
    assert_eq!(config(&device)[6..8], [3, 0]);
    device.control((3, 0), &[]).unwrap();
    assert_eq!(config(&device)[6..8], [1, 0]);
    assert_ne!(device.generation(), generation);
    let mut device =
        with_two_pairs(Features::OFFER.without(Features::of(&[net::F_GUEST_ANNOUNCE])));
    assert!(!device.ask_to_announce());
}
