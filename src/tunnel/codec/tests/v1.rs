//! The messages of dialect v1 that v2 has changed, octet by octet.

use super::*;

/// Both directions.
#[track_caller]
fn same_v1(body: Body, octets: &str) {
    same_in(Dialect::V1, &message(0, 1, body), octets);
}

#[track_caller]
fn octets_of(body: Body) -> Vec<u8> {
    let mut out = [0; msg::MAX_LEN];
    let len = encode(Dialect::V1, &message(0, 1, body), &mut out);
    out[..len].to_vec()
}

#[track_caller]
fn body_of(octets: &str) -> Body {
    decode(Dialect::V1, &hex(octets)).unwrap().body
}

const INFO: Body = Body::DeviceInfo {
    device_id: 1,
    vendor_id: 0x0403_0201,
    uuid: [0; 16],
    num_feature_blocks: 2,
    config_size: 12,
    max_virtqueues: 3,
    admin_vq_start: 0x0102,
    admin_vq_count: 0x0304,
};

#[test]
fn get_device_info_is_32_bytes_long_and_counts_feature_bits() {
    same_v1(INFO, "01 02 0000 0100 2000  01000000 01020304  40000000 0c000000 03000000 0201 0403");
    same_v1(Body::GetDeviceInfo, "00 02 0000 0100 0800");
}

#[test]
fn feature_bits_that_fill_no_block_count_as_one() {
    let blocks = |bits: &str| {
        let octets = format!("01 02 0000 0100 2000 01000000 00000000 {bits} {:032}", 0);
        match body_of(&octets[..octets.len() - 8]) {
            Body::DeviceInfo { num_feature_blocks, .. } => num_feature_blocks,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(blocks("00000000"), 0);
    assert_eq!(blocks("01000000"), 1);
    assert_eq!(blocks("20000000"), 1);
    assert_eq!(blocks("21000000"), 2);
    assert_eq!(blocks("80000000"), 4);
    assert_eq!(blocks("ffffffff"), 1 << 27);
}

#[test]
fn what_v1_cannot_say_of_a_device_is_left_out() {
    let Body::DeviceInfo { device_id, vendor_id, config_size, max_virtqueues, .. } = INFO else {
        panic!("no info")
    };
    let rich = Body::DeviceInfo {
        device_id,
        vendor_id,
        uuid: *b"0123456789abcdef",
        num_feature_blocks: u32::MAX,
        config_size,
        max_virtqueues,
        admin_vq_start: 0x1_0000,
        admin_vq_count: 7,
    };
    let octets = "01 02 0000 0100 2000  01000000 01020304  ffffffff 0c000000 03000000 ffff 0700";
    assert_eq!(octets_of(rich), hex(octets));
}

#[test]
fn each_dialect_knows_the_device_info_of_the_other_by_its_size() {
    let mut out = [0; msg::MAX_LEN];
    for (dialect, size) in [(Dialect::V1, 32), (Dialect::V2, 52)] {
        let len = encode(dialect, &message(0, 1, INFO), &mut out);
        assert_eq!(len, size);
        let error = decode(dialect.other(), &out[..len]).unwrap_err();
        assert!(matches!(error, DecodeError::WrongSize { message: "GET_DEVICE_INFO", .. }));
    }
}

const AREAS: &str = "8877665544332211 0010000000000000 0020000000000000";

#[test]
fn a_queue_that_is_set_is_live_and_its_message_has_no_flags() {
    let set = Body::SetVqueue {
        index: 1,
        flags: msg::VQ_ENABLE,
        size: 128,
        reserved: 0,
        desc: 0x1122_3344_5566_7788,
        driver: 0x1000,
        device: 0x2000,
    };
    let octets =
        |at_12, at_20| format!("00 0a 0000 0100 3000 01000000 {at_12} 80000000 {at_20} {AREAS}");
    same_v1(set.clone(), &octets("00000000", "00000000"));
    assert_eq!(body_of(&octets("02000000", "ffffffff")), set, "reserved words do not count");
    same_v1(Body::VqueueSet, "01 0a 0000 0100 0800");
}

#[test]
fn a_queue_with_an_address_is_enabled() {
    let state = VqueueState {
        index: 1,
        max_size: 256,
        size: 128,
        flags: msg::VQ_ENABLED,
        desc: 0x1122_3344_5566_7788,
        driver: 0x1000,
        device: 0x2000,
    };
    let head = "01 09 0000 0100 3000 01000000 00010000 80000000";
    same_v1(Body::Vqueue(state), &format!("{head} 00000000 {AREAS}"));
    assert_eq!(body_of(&format!("{head} 01020304 {AREAS}")), Body::Vqueue(state), "reserved");
    // A device may name the size that a queue has by default, before it is set up.
    let rest = VqueueState { flags: 0, desc: 0, driver: 0, device: 0, ..state };
    same_v1(Body::Vqueue(rest), &format!("{head} 00000000 {:048}", 0));
    let device_area_alone = VqueueState { flags: msg::VQ_ENABLED, device: 0x2000, ..rest };
    let octets = format!("{head} 00000000 {:032} 0020000000000000", 0);
    same_v1(Body::Vqueue(device_area_alone), &octets);
}

#[test]
fn a_shared_memory_region_has_32_bit_length_and_address() {
    same_v1(
        Body::Shm { id: 2, length: 0x0403_0201, address: 0x4000 },
        "01 0c 0000 0100 1400 02000000 01020304 00400000",
    );
    let none = hex("01 0c 0000 0100 1400 02000000 00000000 00000000");
    for (length, address) in [(1 << 32, 0), (1, 1 << 32), (0, 0)] {
        let octets = octets_of(Body::Shm { id: 2, length, address });
        assert_eq!(octets, none, "a region out of reach is none");
    }
}

#[test]
fn devices_are_told_in_eights_and_the_count_comes_first() {
    let body = Body::Devices { offset: 8, next_offset: 24, count: 16, bitmap: vec![0x81, 0x01] };
    same_in(Dialect::V1, &message(0, 5, body), "03 02 0000 0500 1000 0800 1000 1800 8101");
    let none = Body::Devices { offset: 8, next_offset: 0, count: 0, bitmap: vec![] };
    same_in(Dialect::V1, &message(0, 5, none), "03 02 0000 0500 0e00 0800 0000 0000");
    let error = |octets: &str| decode(Dialect::V1, &hex(octets)).unwrap_err().to_string();
    let of_eight = "which in dialect v1 is a multiple of 8";
    let request = |offset, count| format!("02 02 0000 0500 0c00 {offset} {count}");
    assert_eq!(error(&request("0400", "2000")), format!("GET_DEVICES with offset 4, {of_eight}"));
    assert_eq!(error(&request("0000", "0900")), format!("GET_DEVICES with count 9, {of_eight}"));
    assert_eq!(
        error("03 02 0000 0500 1000 0000 0900 0000 0100"),
        format!("GET_DEVICES with count 9, {of_eight}")
    );
    assert_eq!(
        error("03 02 0000 0500 1000 0000 0800 0000 0100"),
        "GET_DEVICES of 16 bytes should have 15"
    );
    assert_eq!(
        error("03 02 0000 0500 0e00 0000 f8ff 0000"),
        "GET_DEVICES with 65528 devices; one message holds 2000"
    );
}

#[test]
fn each_message_of_v1_has_one_size() {
    for (octets, needed) in [
        ("01 02 0000 0100 1f00 01000000 01020304 40000000 0c000000 03000000 0201 04", 32),
        ("01 02 0000 0100 2100 01000000 01020304 40000000 0c000000 03000000 0201 0403 00", 32),
        ("01 0c 0000 0100 2000 02000000 00000000 0000000010000000 0040000000000000", 20),
        (
            "01 09 0000 0100 2c00 01000000 00010000 80000000 8877665544332211 0010000000000000
          0020000000000000",
            48,
        ),
    ] {
        match decode(Dialect::V1, &hex(octets)) {
            Err(DecodeError::WrongSize { needed: n, .. }) => assert_eq!(n, needed, "{octets}"),
            other => panic!("{other:?}"),
        }
    }
}
