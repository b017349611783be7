//! The device as a driver's messages find it.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::spec::msg;
use crate::tunnel::arbitrary::driver_message;
use crate::tunnel::device::DeviceTunnel;
use crate::tunnel::message::{self, Body, Dialect, Hello, Message};

/// A device behind its tunnel.
struct End {
    dialect: Dialect,
    device: NetDevice,
    tunnel: DeviceTunnel,
}

impl End {
    fn new(dialect: Dialect) -> Self {
        let ours = Hello { revision: 1, layout: 1, ..Hello::default() };
        let tunnel = DeviceTunnel::new(dialect, ours);
        Self { dialect, device: NetDevice::new(OFFER), tunnel }
    }

    fn tell(&mut self, body: Body) {
        let mut octets = [0; msg::MAX_LEN];
        message::encode(self.dialect, &Message { dev_num: 0, token: 1, body }, &mut octets);
        self.tunnel.handle_message(Instant::now(), &octets, &mut self.device);
    }

    fn hear(&mut self) -> Option<Body> {
        let mut octets = [0; msg::MAX_LEN];
        let len = self.tunnel.poll_message(&mut octets)?;
        Some(message::decode(self.dialect, &octets[..len]).unwrap().body)
    }

    fn ask(&mut self, body: Body) -> Body {
        self.tell(body);
        self.hear().expect("an answer")
    }

    fn status(&mut self, status: u8) {
        let answer = self.ask(Body::SetDeviceStatus { status: u32::from(status) });
        assert_eq!(answer, Body::DeviceStatusSet { status: u32::from(status) });
    }

    /// As a driver does that goes by the book.
    fn bring_up(&mut self) {
        for status in [0, status::ACKNOWLEDGE, DRIVER] {
            self.status(status);
        }
        let Body::DeviceFeatures(offered) =
            self.ask(Body::GetDeviceFeatures { index: 0, count: 2 })
        else {
            panic!("no features")
        };
        assert_eq!(self.ask(Body::SetDriverFeatures(offered)), Body::DriverFeaturesSet);
        self.status(FEATURES_OK);
        for index in 0..2 {
            let areas = (0x1000, 0x2000, 0x3000);
            let (desc, driver, device) = areas;
            let flags = msg::VQ_ENABLE;
            let body =
                Body::SetVqueue { index, flags, size: 64, reserved: 0, desc, driver, device };
            assert_eq!(self.ask(body), Body::VqueueSet);
            let Body::Vqueue(q) = self.ask(Body::GetVqueue { index }) else { panic!("no queue") };
            assert_eq!((q.size, q.flags, (q.desc, q.driver, q.device)), (64, 1, areas));
        }
        self.status(DRIVER_OK);
        let event = self.device.poll_event();
        assert!(matches!(event, Some(Event::Activate { queues, .. }) if queues.len() == 2));
    }

    fn quiesced(&mut self) {
        self.device.quiesced();
        self.tunnel.notify_at_rest(&self.device);
    }
}

#[test]
fn a_driver_by_the_book_brings_the_device_up_and_waits_for_its_reset() {
    let mut end = End::new(Dialect::V2);
    end.bring_up();
    let reset = Body::SetDeviceStatus { status: 0 };
    assert_eq!(end.ask(reset), Body::DeviceStatusSet { status: u32::from(DRIVER_OK) });
    assert_eq!(end.device.poll_event(), Some(Event::Reset));
    end.quiesced();
    assert_eq!(end.ask(Body::GetDeviceStatus), Body::DeviceStatus { status: 0 });
}

/// Linux' driver of v1 looks at no status after a reset; it resets each queue, negotiated or not, and
/// frees the rings after the answer.
#[test]
fn a_v1_driver_that_never_looks_twice_is_answered_when_its_rings_are_free() {
    let mut end = End::new(Dialect::V1);
    end.bring_up();
    let nothing = Body::Config { generation: 0, offset: 0, data: vec![] };
    assert_eq!(end.ask(Body::GetConfig { offset: 0, length: 0 }), nothing, "the generation alone");
    end.tell(Body::SetDeviceStatus { status: 0 });
    assert_eq!(end.hear(), None, "the rings are in use");
    assert_eq!(end.device.poll_event(), Some(Event::Reset));
    end.quiesced();
    assert_eq!(end.hear(), Some(Body::DeviceStatusSet { status: 0 }));
    for index in 0..2 {
        assert_eq!(end.ask(Body::ResetVqueue { index }), Body::VqueueReset);
    }
    end.bring_up();
    // And one that forgets to reset the device.
    end.tell(Body::ResetVqueue { index: 0 });
    assert_eq!(end.hear(), None, "the rings are in use");
    assert_eq!(end.device.poll_event(), Some(Event::ResetQueue(0)));
    end.quiesced();
    assert_eq!(end.hear(), Some(Body::VqueueReset));
    assert_eq!(end.ask(Body::ResetVqueue { index: 1 }), Body::VqueueReset);
    end.bring_up();
}

/// What must hold whatever a driver has done.
fn holds_together(device: &NetDevice) -> Result<(), TestCaseError> {
    let has = |bit| device.status() & bit != 0;
    if let Some(features) = device.negotiated() {
        prop_assert_eq!(features::check(features, device.offer.features), Ok(()));
    }
    prop_assert!(!has(status::DRIVER_OK) || has(status::FEATURES_OK));
    prop_assert!(!has(status::FEATURES_OK) || has(status::DRIVER));
    for q in device.queues.iter().map(|queue| &queue.state) {
        let usable = q.size.is_power_of_two()
            && q.size <= q.max_size
            && q.desc % 16 == 0
            && ![q.desc, q.driver, q.device].contains(&0);
        prop_assert!(!q.enabled || usable && has(status::FEATURES_OK), "{:?}", q);
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_driver_gets_the_device_into_a_state_that_is_none(
        offer in prop::sample::select(vec![OFFER, WITHOUT_RING_RESET]),
        start in prop::sample::select(vec![NetDevice::new, negotiated_with, set_up_with, running_with]),
        steps in prop::collection::vec((driver_message(), 0..8_u8), 1..80),
    ) {
        let mut device: NetDevice = start(offer);
        let mut tunnel = DeviceTunnel::new(Dialect::V2, Hello::default());
        let mut octets = [0; msg::MAX_LEN];
        // The queues that the link has, if it has the device.
        let mut has: Option<Vec<u16>> = device.running.then(|| vec![0, 1]);
        for (message, then) in steps {
            if matches!(message.body, Body::Hello(_)) {
                continue;
            }
            message::encode(Dialect::V2, &message, &mut octets);
            tunnel.handle_message(Instant::now(), &octets, &mut device);
            while tunnel.poll_message(&mut octets).is_some() {}
            while tunnel.poll_event().is_some() {}
            holds_together(&device)?;
            match then {
                0 => {
                    device.quiesced();
                    has = None;
                }
                1 => { device.needs_reset("a test"); }
                2 => { device.set_link(true); }
                3 => {
                    device.queue_quiesced(1);
                    has.iter_mut().for_each(|queues| queues.retain(|index| *index != 1));
                }
                _ => match device.poll_event() {
                    Some(Event::Activate { features, queues }) => {
                        prop_assert_eq!(has, None, "taken back before they are given again");
                        prop_assert_eq!(Some(features), device.negotiated());
                        has = Some(queues.iter().map(|queue| queue.index).collect());
                    }
                    Some(Event::Reset) => prop_assert!(has.is_some()),
                    Some(Event::ResetQueue(index)) => {
                        prop_assert!(has.as_ref().is_some_and(|queues| queues.contains(&index)));
                    }
                    Some(Event::EnableQueue(queue)) => {
                        let queues = has.as_mut().expect("a device that runs");
                        prop_assert!(!queues.contains(&queue.index), "taken back before");
                        prop_assert!(device.queue(queue.index.into()).enabled);
                        queues.push(queue.index);
                    }
                    Some(Event::UsePairs(_) | Event::Offloads(_)) | None => {}
                },
            }
            tunnel.notify_at_rest(&device);
            holds_together(&device)?;
        }
        device.set_status(0);
        device.quiesced();
        prop_assert_eq!(device.status(), 0, "every reset comes to an end");
    }
}
