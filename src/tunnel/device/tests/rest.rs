//! Answers that wait until the device has let go of its rings.

use super::*;

const RESET: Body = Body::SetDeviceStatus { status: 0 };

impl End {
    /// Sends a request that is not answered yet, and after which none is taken.
    fn ask_in_vain(&mut self, body: Body) {
        assert!(self.tunnel.ready());
        self.send(&Message { dev_num: 0, token: 7, body });
        assert_eq!(self.receive(), None);
        self.tunnel.notify_at_rest(&self.device);
        assert_eq!(self.receive(), None, "the device is not so far");
        assert!(!self.tunnel.ready(), "so that the answers keep their order");
    }

    /// The device is so far: the answer.
    fn at_rest(&mut self) -> Body {
        self.tunnel.notify_at_rest(&self.device);
        assert!(self.tunnel.ready());
        let answer = self.receive().expect("an answer");
        assert_eq!((answer.dev_num, answer.token), (0, 7));
        self.tunnel.notify_at_rest(&self.device);
        assert_eq!(self.receive(), None, "one answer");
        answer.body
    }
}

#[test]
fn the_reset_of_a_queue_is_answered_when_it_is_at_rest() {
    for dialect in BOTH {
        let mut end = End::of(dialect);
        end.device.status = 15;
        assert_eq!(end.ask(Body::ResetVqueue { index: 0 }), Body::VqueueReset, "not in use");
        end.device.in_use = vec![0, 1];
        end.ask_in_vain(Body::ResetVqueue { index: 1 });
        end.device.in_use = vec![0];
        assert_eq!(end.at_rest(), Body::VqueueReset);
        assert_eq!(end.ask(Body::ResetVqueue { index: u32::MAX }), Body::VqueueReset);
        assert_eq!(end.device.queues_reset, [0, 1, u32::MAX]);
    }
}

#[test]
fn a_driver_that_resets_the_device_and_then_its_queues_waits_for_the_device() {
    let mut end = End::new();
    (end.device.status, end.device.reset_takes_long) = (15, true);
    end.device.in_use = vec![0, 1];
    assert_eq!(end.ask(RESET), Body::DeviceStatusSet { status: 15 });
    end.ask_in_vain(Body::ResetVqueue { index: 0 });
    end.device.in_use.clear();
    assert_eq!(end.at_rest(), Body::VqueueReset);
}

#[test]
fn a_v1_driver_asks_once_for_a_reset_and_is_answered_when_it_is_over() {
    let mut end = End::of(Dialect::V1);
    assert_eq!(end.ask(RESET), Body::DeviceStatusSet { status: 0 });
    (end.device.status, end.device.reset_takes_long) = (15, true);
    end.ask_in_vain(RESET);
    end.tunnel.notify_config_changed(&end.device);
    end.device.status = 0;
    assert_eq!(end.at_rest(), Body::DeviceStatusSet { status: 0 });
    assert_eq!(end.receive(), None, "what happened before the reset is not told after it");
}

#[test]
fn pings_and_notices_go_out_while_an_answer_waits() {
    let mut end = End::new();
    end.device.status = 15;
    end.device.in_use = vec![0];
    end.ask_in_vain(Body::ResetVqueue { index: 0 });
    end.tunnel.notify_config_changed(&end.device);
    assert!(matches!(end.receive().unwrap().body, Body::EventConfig { .. }));
    end.tunnel.ping(end.now);
    assert!(matches!(end.receive().unwrap().body, Body::Ping { .. }));
}
