//! Whatever a driver end sends.

use proptest::prelude::*;

use super::*;
use crate::tunnel::arbitrary::{driver_message, nearly_a_message};

/// Whether a device has to answer.
fn is_request(body: &Body) -> bool {
    !matches!(body, Body::EventAvail { .. } | Body::Pong { .. } | Body::EventLink(_))
}

proptest! {
    #[test]
    fn any_request_gets_exactly_one_answer(
        dialect in prop::sample::select(BOTH.to_vec()),
        messages in prop::collection::vec(driver_message(), 1..40),
    ) {
        let mut end = End::of(dialect);
        let mut refused = false;
        for mut m in messages {
            if let Body::GetDevices { offset, count } = &mut m.body {
                (*offset, *count) = (*offset & !7, *count & !7);
            }
            let before = end.tunnel.counters();
            if let Body::Hello(hello) = &m.body {
                refused = hello.layout != 1 || hello.revision != 1 || hello.max_len < 72;
            }
            let bus = matches!(m.body, Body::Hello(_) | Body::GetDevices { .. } | Body::Ping { .. });
            end.send(&m);
            let answer = end.receive();
            let too_long = end.tunnel.counters().unanswerable > before.unanswerable;
            let wanted = is_request(&m.body) && (bus || !refused) && !too_long;
            prop_assert_eq!(answer.map(|a| a.token), wanted.then_some(m.token));
            prop_assert_eq!(end.receive(), None);
            while end.tunnel.poll_event().is_some() {}
        }
    }

    #[test]
    fn hostile_octets_neither_panic_nor_pile_up(
        dialect in prop::sample::select(BOTH.to_vec()),
        messages in prop::collection::vec((nearly_a_message(), any::<bool>()), 1..30),
    ) {
        let mut end = End::of(dialect);
        for (bytes, drain) in messages {
            end.tunnel.handle_message(end.now, &bytes, &mut end.device);
            end.tunnel.notify_config_changed(&end.device);
            if drain {
                end.device.in_use.clear();
                end.tunnel.notify_at_rest(&end.device);
                end.device.in_use = vec![0, 1];
            }
            prop_assert!(end.tunnel.answers.len() <= MAX_ANSWERS);
            prop_assert!(end.tunnel.events.len() <= MAX_EVENTS);
            prop_assert_eq!(end.tunnel.answers.capacity(), MAX_ANSWERS);
            prop_assert_eq!(end.tunnel.events.capacity(), MAX_EVENTS);
            if drain {
                while end.receive().is_some() {}
                while end.tunnel.poll_event().is_some() {}
            }
        }
    }
}
