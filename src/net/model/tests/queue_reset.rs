//! The reset of one queue, negotiated and not.

use super::*;

const AT_REST: QueueState =
    QueueState { max_size: 256, size: 0, enabled: false, desc: 0, driver: 0, device: 0 };

/// Queue 0 as `enable` with this size hands it over.
fn setup(size: u16) -> QueueSetup {
    QueueSetup { index: 0, size, desc: 0x1000, driver: 0x2000, device: 0x3000 }
}

#[test]
fn a_queue_that_is_reset_before_it_runs_is_as_new() {
    let mut device = set_up();
    device.reset_queue(0);
    assert_eq!(device.queue(0), AT_REST);
    device.set_queue(0, &enable(64)).unwrap();
    device.reset_queue(0);
    device.set_status(u32::from(DRIVER_OK));
    device.reset_queue(1);
    let event = Event::Activate { features: Features::OFFER, queues: vec![] };
    assert_eq!(device.poll_event(), Some(event), "what was reset is not handed over");
    device.reset_queue(2);
    device.reset_queue(u32::MAX);
    assert_eq!(device.poll_event(), None);
}

#[test]
fn a_running_queue_is_at_rest_only_when_the_link_has_given_it_back() {
    for offer in [OFFER, WITHOUT_RING_RESET] {
        let mut device = running_with(offer);
        device.reset_queue(0);
        device.reset_queue(0);
        assert!(device.queue(0).enabled, "its rings are still in use");
        assert_eq!(device.poll_event(), Some(Event::ResetQueue(0)));
        assert_eq!(device.poll_event(), None, "told once");
        refused(&mut device, 0, enable(256), "the queue is still being reset");
        device.queue_quiesced(0);
        assert_eq!(device.queue(0), AT_REST);
        assert!(device.queue(1).enabled, "the other one runs on");
        assert_eq!(device.poll_event(), None);
    }
}

#[test]
fn a_queue_that_was_reset_is_handed_over_anew_if_ring_reset_is_negotiated() {
    let mut device = running();
    device.reset_queue(0);
    device.poll_event();
    device.queue_quiesced(0);
    let sized = QueueUpdate { size: Some(32), ..NOTHING };
    device.set_queue(0, &sized).unwrap();
    assert_eq!(device.poll_event(), None, "not enabled yet");
    device.set_queue(0, &enable(32)).unwrap();
    assert_eq!(device.poll_event(), Some(Event::EnableQueue(setup(32))));
    assert_eq!(device.set_queue(0, &enable(32)), Ok(()), "repeated");
    assert_eq!(device.poll_event(), None, "it runs once");
    refused(&mut device, 0, enable(64), "an enabled queue changes only by a reset");
    device.reset_queue(0);
    assert_eq!(device.poll_event(), Some(Event::ResetQueue(0)));
}

#[test]
fn a_queue_that_was_reset_unnegotiated_stays_off_until_the_device_is_reset() {
    let mut device = running_with(WITHOUT_RING_RESET);
    device.reset_queue(0);
    device.poll_event();
    device.quiesced();
    assert_eq!(device.queue(0), AT_REST);
    refused(&mut device, 0, enable(64), "queues are set up before DRIVER_OK");
    device.reset_queue(1);
    assert!(!device.queue(1).enabled, "nobody uses it: it is at rest at once");
    assert_eq!(device.poll_event(), None);
    device.set_status(0);
    assert_eq!(device.status(), 0);
}

#[test]
fn a_queue_enabled_again_and_reset_before_the_link_looks_was_never_there() {
    let mut device = running();
    device.reset_queue(0);
    device.poll_event();
    device.queue_quiesced(0);
    device.set_queue(0, &enable(64)).unwrap();
    device.reset_queue(0);
    assert_eq!(device.queue(0), AT_REST);
    assert_eq!(device.poll_event(), None);
}

#[test]
fn a_reset_of_the_device_covers_those_of_its_queues() {
    let mut device = running();
    device.reset_queue(0);
    device.set_status(0);
    device.reset_queue(1);
    assert_eq!(device.poll_event(), Some(Event::Reset));
    assert_eq!(device.poll_event(), None, "there is nothing more to stop");
    assert!(device.queue(1).enabled, "its rings are still in use");
    device.quiesced();
    assert_eq!((device.status(), device.queue(0)), (0, AT_REST));
    assert!(!device.queue(1).enabled);
}
