//! What a device does otherwise in dialect v1.

use super::*;

#[test]
fn a_device_of_any_width_has_64_feature_bits_in_v1() {
    for offered in [vec![], vec![0xA], vec![0xA, 0xB, 0xC]] {
        let mut end = End::of(Dialect::V1);
        end.device.offered.clone_from(&offered);
        let Body::DeviceInfo { num_feature_blocks, .. } = end.ask(Body::GetDeviceInfo) else {
            panic!("no info")
        };
        assert_eq!(num_feature_blocks, 2);
        let Body::DeviceFeatures(got) = end.ask(Body::GetDeviceFeatures { index: 0, count: 4 })
        else {
            panic!("no features")
        };
        let block = |i| offered.get(i).copied().unwrap_or(0);
        assert_eq!(got.blocks, [block(0), block(1), 0, 0], "and none beyond them");
    }
}

#[test]
fn a_config_write_in_v1_must_know_the_present_generation() {
    let mut end = End::of(Dialect::V1);
    end.device.generation = 5;
    end.device.writable = true;
    let write = |generation| Body::SetConfig { generation, offset: 2, data: vec![9] };
    for stale in [0, 4, 6] {
        let refused = Body::ConfigSet { generation: 5, offset: 2, data: vec![] };
        assert_eq!(end.ask(write(stale)), refused, "length 0, and the generation to use");
    }
    assert_eq!(end.device.writes, 0);
    let done = Body::ConfigSet { generation: 5, offset: 2, data: vec![9] };
    assert_eq!(end.ask(write(5)), done);
    assert_eq!(end.device.writes, 1);
    let empty = Body::SetConfig { generation: 5, offset: 0, data: vec![] };
    assert_eq!(end.ask(empty), Body::ConfigSet { generation: 5, offset: 0, data: vec![] });
}

#[test]
fn a_queue_set_in_v1_is_enabled_with_all_its_values() {
    let mut end = End::of(Dialect::V1);
    // v1 has no flags: whatever they are is not sent.
    let (flags, reserved) = (msg::VQ_KEEP_DISABLED | msg::VQ_IGNORE_DESC, 1);
    let body =
        Body::SetVqueue { index: 1, flags, size: 64, reserved, desc: 1, driver: 2, device: 3 };
    assert_eq!(end.ask(body), Body::VqueueSet);
    let all = QueueUpdate {
        operation: QueueOperation::Enable,
        size: Some(64),
        desc: Some(1),
        driver: Some(2),
        device: Some(3),
    };
    assert_eq!(end.device.queues, [(1, all)]);
}

#[test]
fn devices_in_v1_are_asked_for_and_told_in_eights() {
    let mut end = End::of(Dialect::V1);
    let devices = |count, bitmap| Body::Devices { offset: 0, next_offset: 0, count, bitmap };
    let ask = |count| Body::GetDevices { offset: 0, count };
    assert_eq!(end.ask(ask(32)), devices(32, vec![1, 0, 0, 0]));
    end.tell(ask(9));
    assert_eq!(end.tunnel.counters().malformed, 1);
    for max_len in 72..=90 {
        end.ask(Body::Hello(Hello { max_len, ..ours() }));
        end.tunnel.poll_event();
        let Body::Devices { count, .. } = end.ask(ask(0xFFF8)) else { panic!("no devices") };
        assert_eq!(u32::from(count), (max_len - 14) * 8, "as many as one message tells");
    }
}
