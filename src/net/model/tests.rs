use super::*;
use crate::tunnel::model::QueueOperation;

mod control;
mod queue_reset;
mod through_tunnel;

const OFFER: Offer = Offer {
    features: Features::OFFER,
    mac: [2, 0, 0, 0, 0, 1],
    mtu: 1500,
    rx_size: 256,
    tx_size: 128,
    pairs: 1,
};

const DRIVER: u8 = status::ACKNOWLEDGE | status::DRIVER;
const FEATURES_OK: u8 = DRIVER | status::FEATURES_OK;
const DRIVER_OK: u8 = FEATURES_OK | status::DRIVER_OK;

/// One whose driver must not reset one queue.
const WITHOUT_RING_RESET: Offer =
    Offer { features: Features::OFFER.minus(Features::of(&[virtio::F_RING_RESET])), ..OFFER };

/// A device whose driver accepts `features` and asks for `FEATURES_OK`.
fn after(features: Features) -> NetDevice {
    after_with(OFFER, features)
}

fn after_with(offer: Offer, features: Features) -> NetDevice {
    let mut device = NetDevice::new(offer);
    device.set_status(u32::from(status::ACKNOWLEDGE));
    device.set_status(u32::from(DRIVER));
    for block in 0..4 {
        device.set_driver_features(block, features.block(block));
    }
    device.set_status(u32::from(FEATURES_OK));
    device
}

/// One that has them.
fn negotiated() -> NetDevice {
    negotiated_with(OFFER)
}

fn negotiated_with(offer: Offer) -> NetDevice {
    let device = after_with(offer, offer.features);
    assert_eq!(device.status(), FEATURES_OK);
    device
}

fn enable(size: u32) -> QueueUpdate {
    QueueUpdate {
        operation: QueueOperation::Enable,
        size: Some(size),
        desc: Some(0x1000),
        driver: Some(0x2000),
        device: Some(0x3000),
    }
}

/// Values for an update that has none.
const NOTHING: QueueUpdate = QueueUpdate {
    operation: QueueOperation::Keep,
    size: None,
    desc: None,
    driver: None,
    device: None,
};

/// One with queues.
fn set_up() -> NetDevice {
    set_up_with(OFFER)
}

fn set_up_with(offer: Offer) -> NetDevice {
    let mut device = negotiated_with(offer);
    device.set_queue(0, &enable(256)).unwrap();
    device.set_queue(1, &enable(64)).unwrap();
    device
}

/// One that runs.
fn running() -> NetDevice {
    running_with(OFFER)
}

fn running_with(offer: Offer) -> NetDevice {
    let mut device = set_up_with(offer);
    device.set_status(u32::from(DRIVER_OK));
    assert!(matches!(device.poll_event(), Some(Event::Activate { .. })));
    device
}

fn config(device: &NetDevice) -> [u8; 12] {
    let mut out = [0xEE; 12];
    device.read_config(0, &mut out);
    out
}

#[test]
fn a_driver_that_leaves_out_version_1_is_refused_at_features_ok() {
    let device = after(Features::OFFER.without(Features::of(&[virtio::F_VERSION_1])));
    assert_eq!(device.status(), DRIVER, "the bit stays clear");
    assert_eq!(device.refused(), Some(&FeatureError::NoVersion1));
    assert_eq!(device.negotiated(), None);
}

#[test]
fn features_that_are_not_offered_or_lack_what_they_need_are_refused() {
    let named = |names: &[&str]| Features::from_names(names.iter().copied()).unwrap();
    let device = after(Features::OFFER.union(named(&["SR_IOV"])));
    assert_eq!(device.status(), DRIVER);
    assert_eq!(device.refused(), Some(&FeatureError::NotOffered(named(&["SR_IOV"]))));
    for (left_out, needy) in [("CSUM", "HOST_TSO4 needs CSUM"), ("GUEST_CSUM", "GUEST_TSO4 needs")]
    {
        let device = after(Features::OFFER.minus(named(&[left_out])));
        assert_eq!(device.status(), DRIVER, "without {left_out}");
        assert!(device.refused().unwrap().to_string().starts_with(needy));
    }
}

#[test]
fn features_beyond_bit_127_are_refused_until_a_reset() {
    let mut device = NetDevice::new(OFFER);
    device.set_driver_features(u32::MAX, 1);
    device.set_driver_features(u32::MAX, 0);
    device.set_driver_features(0, Features::OFFER.block(0));
    device.set_driver_features(1, Features::OFFER.block(1));
    device.set_status(u32::from(FEATURES_OK));
    assert_eq!(device.refused(), Some(&FeatureError::BeyondAll));
    device.set_status(0);
    device.set_driver_features(9, 0);
    device.set_driver_features(1, 1);
    device.set_status(u32::from(FEATURES_OK));
    assert_eq!(device.negotiated(), Some(Features::of(&[virtio::F_VERSION_1])));
}

#[test]
fn a_refused_driver_may_try_again_with_less() {
    let mut device = after(Features::OFFER.minus(Features::of(&[net::F_CSUM])));
    assert!(device.refused().is_some());
    let less = Features::OFFER.without(Features::of(&[net::F_CSUM]));
    device.set_driver_features(0, less.block(0));
    device.set_driver_features(1, less.block(1));
    device.set_status(u32::from(FEATURES_OK));
    assert_eq!((device.negotiated(), device.refused()), (Some(less), None));
}

#[test]
fn accepted_features_are_fixed_once_they_are_agreed_on() {
    let mut device = negotiated();
    device.set_driver_features(0, 0);
    device.set_driver_features(7, 1);
    device.set_status(u32::from(DRIVER_OK));
    assert_eq!(device.negotiated(), Some(Features::OFFER));
    assert_eq!(device.features(0), Features::OFFER.block(0), "what is offered is no matter of it");
}

#[test]
fn status_bits_come_in_order_and_stay_until_a_reset() {
    let mut device = NetDevice::new(OFFER);
    device.set_status(u32::from(status::DRIVER_OK));
    assert_eq!(device.status(), 0, "no DRIVER_OK before FEATURES_OK");
    device.set_driver_features(1, Features::of(&[virtio::F_VERSION_1]).block(1));
    device.set_status(u32::from(status::FEATURES_OK));
    assert_eq!(device.status(), 0, "no FEATURES_OK before DRIVER");
    device.set_status(u32::from(DRIVER_OK | status::DEVICE_NEEDS_RESET));
    assert_eq!(device.status(), DRIVER_OK, "DEVICE_NEEDS_RESET is not the driver's");
    device.set_status(u32::from(status::ACKNOWLEDGE));
    assert_eq!(device.status(), DRIVER_OK, "nothing is taken back");
    device.set_status(0x100);
    assert_eq!(device.status(), DRIVER_OK, "only zero is a reset");
    device.set_status(u32::from(DRIVER_OK | status::FAILED));
    assert_eq!(device.status(), DRIVER_OK | status::FAILED);
    device.set_status(0);
    assert_eq!(device.status(), 0);
}

#[test]
fn driver_ok_hands_over_the_enabled_queues() {
    let mut device = negotiated();
    device.set_queue(0, &enable(256)).unwrap();
    device
        .set_queue(1, &QueueUpdate { operation: QueueOperation::KeepDisabled, ..enable(64) })
        .unwrap();
    assert_eq!(device.poll_event(), None);
    device.set_status(u32::from(DRIVER_OK));
    let setup = QueueSetup { index: 0, size: 256, desc: 0x1000, driver: 0x2000, device: 0x3000 };
    let event = Event::Activate { features: Features::OFFER, queues: vec![setup] };
    assert_eq!(device.poll_event(), Some(event));
    device.set_status(u32::from(DRIVER_OK));
    assert_eq!(device.poll_event(), None, "once");
}

#[test]
fn a_queue_reads_back_as_it_was_set_up() {
    let mut device = negotiated();
    assert_eq!(device.queue(0), QueueState { max_size: 256, ..QueueState::default() });
    assert_eq!(device.queue(2), QueueState { max_size: 64, ..QueueState::default() }, "control");
    assert_eq!(device.queue(3), QueueState::default());
    assert_eq!(device.queue(u32::MAX), QueueState::default());
    device.set_queue(0, &enable(64)).unwrap();
    let state = QueueState {
        max_size: 256,
        size: 64,
        enabled: true,
        desc: 0x1000,
        driver: 0x2000,
        device: 0x3000,
    };
    assert_eq!(device.queue(0), state);
}

#[test]
fn a_queue_may_be_set_up_in_pieces_and_then_enabled() {
    let mut device = negotiated();
    let kept = QueueUpdate { operation: QueueOperation::KeepDisabled, ..NOTHING };
    device.set_queue(1, &QueueUpdate { desc: Some(0x1000), ..NOTHING }).unwrap();
    device.set_queue(1, &QueueUpdate { driver: Some(0x2000), ..kept }).unwrap();
    device.set_queue(1, &QueueUpdate { device: Some(0x3000), size: Some(32), ..kept }).unwrap();
    assert!(!device.queue(1).enabled);
    let enable = QueueUpdate { operation: QueueOperation::Enable, ..NOTHING };
    device.set_queue(1, &enable).unwrap();
    assert_eq!((device.queue(1).enabled, device.queue(1).size), (true, 32));
    device.set_queue(1, &enable).unwrap();
    device.set_queue(1, &NOTHING).unwrap();
    assert!(device.queue(1).enabled, "what asks for nothing new is no error");
}

#[test]
fn a_request_that_is_repeated_word_by_word_is_no_change() {
    let mut device = set_up();
    let before = device.queues.clone();
    assert_eq!(device.set_queue(0, &enable(256)), Ok(()), "the answer was lost");
    assert_eq!(device.set_queue(1, &QueueUpdate { desc: Some(0x1000), ..NOTHING }), Ok(()));
    device.set_status(u32::from(DRIVER_OK));
    assert_eq!(device.set_queue(0, &enable(256)), Ok(()), "late, but nothing new");
    assert_eq!(device.queues, before);
}

/// The update is refused with this sentence, and nothing changes.
#[track_caller]
fn refused(device: &mut NetDevice, index: u32, update: QueueUpdate, sentence: &str) {
    let before = device.queues.clone();
    let error = device.set_queue(index, &update).unwrap_err();
    assert_eq!(error.to_string(), sentence);
    assert_eq!(device.queues, before, "all or nothing");
}

#[test]
fn each_rule_for_setting_up_a_queue_has_its_sentence() {
    let mut early = NetDevice::new(OFFER);
    refused(&mut early, 0, enable(64), "queues are set up after FEATURES_OK");
    let mut late = running_with(WITHOUT_RING_RESET);
    refused(&mut late, 0, enable(64), "queues are set up before DRIVER_OK");
    late.set_status(0);
    refused(&mut late, 0, enable(64), "the device is still being reset");

    let d = &mut negotiated();
    refused(d, 3, enable(64), "there are 3 queues, from 0");
    refused(d, u32::MAX, enable(64), "there are 3 queues, from 0");
    for size in [0, 3, 512, 0x1_0040, u32::MAX] {
        let sentence = format!("size {size} is not a power of two from 1 to 256");
        refused(d, 0, enable(size), &sentence);
    }
    refused(d, 1, enable(256), "size 256 is not a power of two from 1 to 128");
    let enable_only = QueueUpdate { operation: QueueOperation::Enable, ..NOTHING };
    refused(d, 0, enable_only, "size 0 is not a power of two from 1 to 256");
    let sized = QueueUpdate { size: Some(64), ..enable_only };
    refused(d, 0, sized, "the descriptor area has no address");
    refused(d, 0, QueueUpdate { device: Some(0), ..enable(64) }, "the device area has no address");
    let bad = "is not aligned to";
    let beyond = "or ends beyond 2^64";
    refused(
        d,
        0,
        QueueUpdate { desc: Some(0x1008), ..enable(64) },
        &format!("the descriptor area at 0x1008 {bad} 16 {beyond}"),
    );
    refused(
        d,
        0,
        QueueUpdate { driver: Some(0x2001), ..enable(64) },
        &format!("the driver area at 0x2001 {bad} 2 {beyond}"),
    );
    refused(
        d,
        0,
        QueueUpdate { device: Some(u64::MAX - 3), ..enable(64) },
        &format!("the device area at 0xfffffffffffffffc {bad} 4 {beyond}"),
    );

    d.set_queue(0, &enable(64)).unwrap();
    let sentence = "an enabled queue changes only by a reset";
    refused(d, 0, enable(128), sentence);
    for other in [
        QueueUpdate { size: Some(128), ..NOTHING },
        QueueUpdate { desc: Some(0x4000), ..NOTHING },
        QueueUpdate { driver: Some(0x4000), ..enable(64) },
        QueueUpdate { device: Some(0), ..enable(64) },
    ] {
        refused(d, 0, other, sentence);
    }
    refused(d, 0, QueueUpdate { operation: QueueOperation::KeepDisabled, ..NOTHING }, sentence);
}

#[test]
fn a_reset_forgets_everything_once_the_queues_rest() {
    let mut device = running();
    device.needs_reset("ring 0 is broken");
    device.set_status(0);
    assert_eq!(device.status(), DRIVER_OK | status::DEVICE_NEEDS_RESET, "not yet");
    assert_eq!(device.poll_event(), Some(Event::Reset));
    device.set_status(0);
    device.set_status(u32::from(DRIVER_OK | status::FAILED));
    device.set_driver_features(0, 0);
    assert_eq!(device.poll_event(), None, "a reset is begun once, and nothing comes between");
    assert_eq!(device.status(), DRIVER_OK | status::DEVICE_NEEDS_RESET);
    device.quiesced();
    assert_eq!(device.status(), 0);
    assert_eq!((device.broken(), device.negotiated()), (None, None));
    assert_eq!(device.queue(0), QueueState { max_size: 256, ..QueueState::default() });
    assert_eq!(device.accepted, Features::NONE);
    assert_eq!(device.poll_event(), None);
}

#[test]
fn a_reset_before_the_queues_run_is_done_at_once() {
    let mut device = negotiated();
    device.set_queue(0, &enable(64)).unwrap();
    device.set_status(u32::from(DRIVER_OK));
    device.set_status(0);
    assert_eq!(device.status(), 0);
    assert_eq!(device.poll_event(), None, "nothing is handed over any more");
}

#[test]
fn a_link_that_stopped_by_itself_owes_the_reset_nothing() {
    let mut device = running();
    device.quiesced();
    assert_eq!(device.status(), DRIVER_OK, "that is no reset");
    device.set_status(0);
    assert_eq!(device.status(), 0);
}

#[test]
fn a_device_that_cannot_go_on_says_so_until_it_is_reset() {
    let mut device = negotiated();
    assert!(!device.needs_reset("no memory"), "before DRIVER_OK there is no notice");
    device.set_status(u32::from(DRIVER_OK));
    assert_eq!(device.poll_event(), None, "what is broken does not start");
    let mut device = running();
    assert!(device.needs_reset("chain longer than the queue"));
    assert!(!device.needs_reset("and another"), "the first reason stands");
    assert_eq!(device.broken(), Some("chain longer than the queue"));
    device.set_status(u32::from(DRIVER_OK));
    assert_eq!(device.status(), DRIVER_OK | status::DEVICE_NEEDS_RESET);
}

#[test]
fn config_space_shows_mac_link_and_mtu() {
    let mut device = NetDevice::new(OFFER);
    assert_eq!(config(&device), [2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0xDC, 0x05]);
    device.set_link(true);
    let mut part = [0xEE; 8];
    device.read_config(6, &mut part);
    assert_eq!(part, [1, 0, 1, 0, 0xDC, 0x05, 255, 255]);
    device.read_config(12, &mut part);
    assert_eq!(part, [255, 255, 255, 255, 1, 0, 0, 0], "speed unknown, full duplex");
    device.read_config(u32::MAX, &mut part);
    assert_eq!(part, [0; 8]);
}

#[test]
fn config_space_shows_only_what_is_offered() {
    let named = Features::from_names(["MAC", "MTU", "STATUS", "MQ", "SPEED_DUPLEX"]).unwrap();
    let mut device = NetDevice::new(Offer { features: Features::OFFER.without(named), ..OFFER });
    assert!(!device.set_link(true));
    assert_eq!(config(&device), [0; 12]);
    assert_eq!(device.generation(), 0);
}

#[test]
fn the_generation_changes_whenever_config_space_does() {
    let mut device = NetDevice::new(OFFER);
    let generation = device.generation();
    assert!(device.set_link(true));
    assert_ne!(device.generation(), generation);
    let generation = device.generation();
    assert!(!device.set_link(true), "no change");
    assert!(!device.write_config(0, &[1]), "read-only");
    assert_eq!(device.generation(), generation);
    assert!(device.set_link(false));
    assert_ne!(device.generation(), generation);
    device.set_link(true);
    device.set_status(0);
    assert_eq!(config(&device)[6], 1, "the link outlives a reset");
}

#[test]
fn what_the_device_is_covers_its_features() {
    let info = NetDevice::new(OFFER).info();
    assert_eq!((info.device_id, info.config_size, info.max_virtqueues), (1, 17, 3));
    assert_eq!(info.num_feature_blocks, 2, "a driver of 64 bits can take it");
    assert_eq!(NetDevice::new(OFFER).features(2), 0);
}
