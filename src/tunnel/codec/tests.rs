//! The octets below are written by hand from the standard's tables, not by the encoder.

use proptest::prelude::*;

use super::*;
use crate::tunnel::arbitrary::nearly_a_message;
use crate::tunnel::message::{Blocks, Version};

mod v1;

const BOTH: [Dialect; 2] = [Dialect::V1, Dialect::V2];

/// Octets from hexadecimal; blanks do not count.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| (d[0] * 16 + d[1]) as u8).collect()
}

fn message(dev_num: u16, token: u16, body: Body) -> Message {
    Message { dev_num, token, body }
}

/// Both directions, and with a whole slot behind the message.
#[track_caller]
fn same_in(dialect: Dialect, m: &Message, octets: &str) {
    let octets = hex(octets);
    let mut out = [0xEE; msg::MAX_LEN];
    let len = encode(dialect, m, &mut out);
    assert_eq!(out[..len], octets[..], "octets of {m:?} in {dialect}");
    assert!(out[len..].iter().all(|b| *b == 0), "a slot's rest is zero");
    assert_eq!(decode(dialect, &octets).as_ref(), Ok(m), "in {dialect}");
    let mut slot = octets;
    slot.resize(msg::MAX_LEN + 8, 0xEE);
    assert_eq!(decode(dialect, &slot).as_ref(), Ok(m), "in a longer slot, in {dialect}");
}

/// A message that is the same in both dialects.
#[track_caller]
fn same(m: &Message, octets: &str) {
    for dialect in BOTH {
        same_in(dialect, m, octets);
    }
}

/// A message whose octets are v2's alone.
#[track_caller]
fn same_v2(m: &Message, octets: &str) {
    same_in(Dialect::V2, m, octets);
    let mut out = [0; msg::MAX_LEN];
    let len = encode(Dialect::V1, m, &mut out);
    assert_ne!(out[..len], hex(octets)[..], "v1 has other octets");
}

/// What both dialects make of octets.
#[track_caller]
fn decode_both(bytes: &[u8]) -> Result<Message, DecodeError> {
    let [v1, v2] = BOTH.map(|dialect| decode(dialect, bytes));
    assert_eq!(v1, v2);
    v2
}

#[test]
fn the_header_is_type_id_device_token_size() {
    same(&message(0x1234, 0xABCD, Body::GetDeviceInfo), "00 02 3412 cdab 0800");
    same(&message(0x1234, 0xABCD, Body::VqueueSet), "01 0a 3412 cdab 0800");
}

#[test]
fn get_device_info_is_52_bytes_long() {
    let info = Body::DeviceInfo {
        device_id: 1,
        vendor_id: 0x0403_0201,
        uuid: *b"0123456789abcdef",
        num_feature_blocks: 4,
        config_size: 12,
        max_virtqueues: 2,
        admin_vq_start: 0x0102,
        admin_vq_count: 0x0304,
    };
    same_v2(
        &message(0, 7, info),
        "01 02 0000 0700 3400  01000000 01020304  30313233343536373839616263646566
         04000000 0c000000 02000000 02010000 04030000",
    );
}

#[test]
fn features_go_in_blocks_of_32() {
    same(
        &message(0, 1, Body::GetDeviceFeatures { index: 1, count: 4 }),
        "00 03 0000 0100 1000 01000000 04000000",
    );
    let blocks = Blocks { index: 1, blocks: vec![0x8000_0001, 0x0A0B_0C0D] };
    same(
        &message(0, 1, Body::DeviceFeatures(blocks.clone())),
        "01 03 0000 0100 1800 01000000 02000000 01000080 0d0c0b0a",
    );
    same(
        &message(0, 1, Body::SetDriverFeatures(blocks)),
        "00 04 0000 0100 1800 01000000 02000000 01000080 0d0c0b0a",
    );
    same(&message(0, 1, Body::DriverFeaturesSet), "01 04 0000 0100 0800");
}

#[test]
fn config_space_goes_with_generation_offset_and_length() {
    same(
        &message(0, 1, Body::GetConfig { offset: 6, length: 2 }),
        "00 05 0000 0100 1000 06000000 02000000",
    );
    same(
        &message(0, 1, Body::Config { generation: 9, offset: 6, data: vec![1, 0] }),
        "01 05 0000 0100 1600 09000000 06000000 02000000 0100",
    );
    same(
        &message(0, 1, Body::SetConfig { generation: 0, offset: 0, data: vec![1, 2, 3] }),
        "00 06 0000 0100 1700 00000000 00000000 03000000 010203",
    );
    same(
        &message(0, 1, Body::ConfigSet { generation: 9, offset: 0, data: vec![1, 2, 3] }),
        "01 06 0000 0100 1700 09000000 00000000 03000000 010203",
    );
    same(
        &message(0, 1, Body::ConfigSet { generation: 9, offset: 4, data: vec![] }),
        "01 06 0000 0100 1400 09000000 04000000 00000000",
    );
}

#[test]
fn status_is_a_32_bit_word() {
    same(&message(0, 1, Body::GetDeviceStatus), "00 07 0000 0100 0800");
    same(&message(0, 1, Body::DeviceStatus { status: 0x4F }), "01 07 0000 0100 0c00 4f000000");
    same(&message(0, 1, Body::SetDeviceStatus { status: 3 }), "00 08 0000 0100 0c00 03000000");
    same(&message(0, 1, Body::DeviceStatusSet { status: 3 }), "01 08 0000 0100 0c00 03000000");
}

#[test]
fn a_queue_is_its_size_flags_and_three_areas() {
    same(&message(0, 1, Body::GetVqueue { index: 1 }), "00 09 0000 0100 0c00 01000000");
    let state = VqueueState {
        index: 1,
        max_size: 256,
        size: 128,
        flags: 1,
        desc: 0x1122_3344_5566_7788,
        driver: 0x1000,
        device: 0x2000,
    };
    same_v2(
        &message(0, 1, Body::Vqueue(state)),
        "01 09 0000 0100 3000 01000000 00010000 80000000 01000000
         8877665544332211 0010000000000000 0020000000000000",
    );
    let set = Body::SetVqueue {
        index: 1,
        flags: 1,
        size: 128,
        reserved: 0,
        desc: 0x1122_3344_5566_7788,
        driver: 0x1000,
        device: 0x2000,
    };
    same_v2(
        &message(0, 1, set),
        "00 0a 0000 0100 3000 01000000 01000000 80000000 00000000
         8877665544332211 0010000000000000 0020000000000000",
    );
    same(&message(0, 1, Body::ResetVqueue { index: 1 }), "00 0b 0000 0100 0c00 01000000");
    same(&message(0, 1, Body::VqueueReset), "01 0b 0000 0100 0800");
}

#[test]
fn a_shared_memory_region_has_64_bit_length_and_address() {
    same(&message(0, 1, Body::GetShm { id: 2 }), "00 0c 0000 0100 0c00 02000000");
    same_v2(
        &message(0, 1, Body::Shm { id: 2, length: 0x10_0000_0000, address: 0x4000 }),
        "01 0c 0000 0100 2000 02000000 00000000 0000000010000000 0040000000000000",
    );
}

#[test]
fn events_are_requests_that_nobody_answers() {
    let body = Body::EventConfig { status: 0x4F, generation: 3, offset: 6, data: vec![1, 0] };
    same(&message(0, 0, body), "00 40 0000 0000 1a00 4f000000 03000000 06000000 02000000 0100");
    let body = Body::EventConfig { status: 0x4F, generation: 3, offset: 0, data: vec![] };
    same(&message(0, 0, body), "00 40 0000 0000 1800 4f000000 03000000 00000000 00000000");
    same(
        &message(0, 0, Body::EventAvail { index: 1, next: 0x8000_0002 }),
        "00 41 0000 0000 1000 01000000 02000080",
    );
    same(&message(0, 0, Body::EventUsed { index: 1 }), "00 42 0000 0000 0c00 01000000");
}

#[test]
fn the_bus_has_its_own_ids() {
    same(
        &message(0, 5, Body::GetDevices { offset: 0, count: 256 }),
        "02 02 0000 0500 0c00 0000 0001",
    );
    let body = Body::Devices { offset: 0, next_offset: 0, count: 9, bitmap: vec![1, 0] };
    same_in(Dialect::V2, &message(0, 5, body), "03 02 0000 0500 1000 0000 0000 0900 0100");
    let body = Body::Devices { offset: 8, next_offset: 16, count: 8, bitmap: vec![0x81] };
    same_in(Dialect::V2, &message(0, 5, body), "03 02 0000 0500 0f00 0800 1000 0800 81");
    same(&message(0, 5, Body::Ping { data: 0xDEAD_BEEF }), "02 03 0000 0500 0c00 efbeadde");
    same(&message(0, 5, Body::Pong { data: 0xDEAD_BEEF }), "03 03 0000 0500 0c00 efbeadde");
    same(
        &message(0, 0, Body::EventDevice { number: 7, state: 2 }),
        "02 40 0000 0000 0c00 0700 0200",
    );
}

fn hello() -> Hello {
    Hello {
        revision: 1,
        max_len: 264,
        transport_features: 0x0102_0304_0506_0708,
        epoch: 0xCAFE_F00D,
        layout: 1,
        mac: [2, 0, 0, 0xAA, 0xBB, 0xCC],
        version: "0.1.0".into(),
    }
}

const HELLO_FIELDS: &str = "01000000 08010000 0807060504030201 0df0feca 01000000 020000aabbcc 0000
    302e312e30 000000 0000000000000000 0000000000000000 0000000000000000";

#[test]
fn hello_is_72_bytes_long() {
    same(&message(0, 5, Body::Hello(hello())), &format!("02 80 0000 0500 4800 {HELLO_FIELDS}"));
    same(&message(0, 5, Body::HelloBack(hello())), &format!("03 80 0000 0500 4800 {HELLO_FIELDS}"));
}

#[test]
fn event_link_is_mtu_state_and_mac() {
    let state = NetdevState { mtu: 1400, up: true, mac: [2, 0, 0, 0xAA, 0xBB, 0xCC] };
    let event = |state| message(0, 0, Body::EventLink(state));
    same(&event(state), "02 81 0000 0000 1400 7805 0100 020000aabbcc 0000");
    let down = NetdevState { mtu: 65521, up: false, ..state };
    same(&event(down), "02 81 0000 0000 1400 f1ff 0000 020000aabbcc 0000");
    // State bits and fields of a later version.
    let later = hex("02 81 0000 0000 1600 7805 ffff 020000aabbcc ffff 0102");
    assert_eq!(decode_both(&later), Ok(event(state)));
    let cut = hex("02 81 0000 0000 1300 7805 0100 020000aabbcc 00");
    let error = DecodeError::WrongSize { message: "EVENT_LINK", size: 19, needed: 20 };
    assert_eq!(decode_both(&cut), Err(error));
    let answered = hex("03 81 0000 0000 1400 7805 0100 020000aabbcc 0000");
    assert_eq!(decode_both(&answered), Err(DecodeError::Unknown { kind: 3, id: 0x81 }));
}

#[test]
fn a_longer_hello_of_a_later_version_is_understood() {
    let octets = hex(&format!("02 80 0000 0500 4c00 {HELLO_FIELDS} 01020304"));
    assert_eq!(decode_both(&octets), Ok(message(0, 5, Body::Hello(hello()))));
    let cut = hex(&format!("02 80 0000 0500 4700 {HELLO_FIELDS}"));
    let error = DecodeError::WrongSize { message: "HELLO", size: 71, needed: 72 };
    assert_eq!(decode_both(&cut), Err(error));
}

#[test]
fn a_version_is_cut_where_it_is_made_and_goes_round_whole() {
    let version = Version::from("naïve\n".repeat(9).as_str());
    assert_eq!(version.len(), MAX_VERSION);
    assert!(version.starts_with("na?ve?na"));
    let long = Message { dev_num: 0, token: 0, body: Body::Hello(Hello { version, ..hello() }) };
    let mut out = [0; msg::MAX_LEN];
    assert_eq!(encode(Dialect::V2, &long, &mut out), 72);
    assert_eq!(decode_both(&out), Ok(long));
    assert_eq!(*Version::from("1.0\0-secret"), *"1.0");
}

#[test]
fn a_version_from_the_peer_is_plain_text_when_it_reaches_a_log() {
    let mut out = [0; msg::MAX_LEN];
    encode(Dialect::V2, &message(0, 0, Body::Hello(hello())), &mut out);
    out[40..44].copy_from_slice(b"\x1B[2m");
    let Body::Hello(got) = decode_both(&out).unwrap().body else { panic!("not a HELLO") };
    assert_eq!(got.version.to_string(), "?[2m0");
}

#[test]
fn reserved_bits_of_the_type_do_not_count() {
    assert_eq!(decode_both(&hex("fc 02 0000 0700 0800")), Ok(message(0, 7, Body::GetDeviceInfo)));
}

#[test]
fn the_size_must_be_there() {
    let size = |text| decode_both(&hex(text)).unwrap_err();
    assert_eq!(size("00 02 0000 0700 08"), DecodeError::NoHeader { len: 7 });
    assert_eq!(size(""), DecodeError::NoHeader { len: 0 });
    assert_eq!(size("00 02 0000 0700 0700"), DecodeError::MsgSize { msg_size: 7, most: 8 });
    assert_eq!(size("00 02 0000 0700 0900"), DecodeError::MsgSize { msg_size: 9, most: 8 });
    let mut big = vec![0; 4096];
    big[..8].copy_from_slice(&hex("00 06 0000 0700 0901"));
    assert_eq!(decode_both(&big), Err(DecodeError::MsgSize { msg_size: 265, most: msg::MAX_LEN }));
}

#[test]
fn each_message_has_one_size() {
    let wrong = |text, message, size, needed| {
        assert_eq!(decode_both(&hex(text)), Err(DecodeError::WrongSize { message, size, needed }));
    };
    wrong("00 02 0000 0700 0900 00", "GET_DEVICE_INFO", 9, 8);
    wrong("00 08 0000 0700 0a00 0000", "SET_DEVICE_STATUS", 10, 12);
    wrong("01 08 0000 0700 1000 00000000 00000000", "SET_DEVICE_STATUS", 16, 12);
    wrong("00 42 0000 0000 0d00 01000000 00", "EVENT_USED", 13, 12);
    wrong("01 05 0000 0100 1500 09000000 06000000 02000000 01", "GET_CONFIG", 21, 22);
    wrong("01 05 0000 0100 1700 09000000 06000000 02000000 010203", "GET_CONFIG", 23, 22);
    wrong("00 40 0000 0000 1900 4f000000 03000000 06000000 02000000 01", "EVENT_CONFIG", 25, 26);
    let error = DecodeError::WrongSize { message: "GET_DEVICES", size: 16, needed: 15 };
    let bitmap_too_long = hex("03 02 0000 0500 1000 0000 0000 0800 0100");
    assert_eq!(decode(Dialect::V2, &bitmap_too_long), Err(error));
}

#[test]
fn a_count_beyond_one_message_is_refused_before_it_is_believed() {
    let too_many = |error| match error {
        DecodeError::TooMany { count, most, .. } => (count, most),
        other => panic!("{other}"),
    };
    let many = |text| too_many(decode_both(&hex(text)).unwrap_err());
    assert_eq!(many("00 03 0000 0100 1000 00000000 3f000000"), (63, 62));
    assert_eq!(many("00 04 0000 0100 1000 00000000 ffffffff"), (u32::MAX, 62));
    assert_eq!(many("00 05 0000 0100 1000 00000000 f5000000"), (245, 244));
    assert_eq!(many("01 05 0000 0100 1400 00000000 00000000 f5000000"), (245, 244));
    assert_eq!(many("00 40 0000 0000 1a00 00000000 00000000 00000000 f1000000 0000"), (241, 240));
    let devices = decode(Dialect::V2, &hex("03 02 0000 0500 0e00 0000 0000 ffff"));
    assert_eq!(too_many(devices.unwrap_err()), (65535, 2000));
}

#[test]
fn the_longest_messages_fit() {
    let mut out = [0; msg::MAX_LEN];
    let whole = [
        Body::Config { generation: 1, offset: 0, data: vec![7; MAX_DATA] },
        Body::EventConfig { status: 1, generation: 1, offset: 0, data: vec![7; MAX_EVENT_DATA] },
        Body::SetDriverFeatures(Blocks { index: 0, blocks: vec![7; MAX_BLOCKS] }),
        Body::Devices {
            offset: 0,
            next_offset: 0,
            count: MAX_DEVICES as u16,
            bitmap: vec![1; MAX_DEVICES / 8],
        },
    ];
    for body in whole {
        let m = message(0, 1, body);
        for dialect in BOTH {
            assert_eq!(encode(dialect, &m, &mut out), msg::MAX_LEN);
            assert_eq!(decode(dialect, &out).as_ref(), Ok(&m));
        }
    }
}

#[test]
fn a_changed_range_without_data_is_to_be_read() {
    let octets = hex("00 40 0000 0000 1800 4f000000 03000000 06000000 02000000");
    let body = Body::EventConfig { status: 0x4F, generation: 3, offset: 6, data: vec![] };
    assert_eq!(decode_both(&octets), Ok(message(0, 0, body)));
}

#[test]
fn requests_responses_events_and_the_bus_are_not_mixed_up() {
    let unknown = |text| match decode_both(&hex(text)).unwrap_err() {
        error @ DecodeError::Unknown { .. } => error.to_string(),
        other => panic!("{other}"),
    };
    assert_eq!(
        unknown("01 42 0000 0000 0c00 01000000"),
        "there is no transport response with id 0x42"
    );
    assert_eq!(unknown("03 40 0000 0000 0c00 0000 0200"), "there is no bus response with id 0x40");
    assert_eq!(unknown("02 07 0000 0000 0800"), "there is no bus request or event with id 0x07");
    assert_eq!(
        unknown("00 80 0000 0000 0800"),
        "there is no transport request or event with id 0x80"
    );
    assert_eq!(
        unknown("00 00 0000 0000 0800"),
        "there is no transport request or event with id 0x00"
    );
    let error = DecodeError::BusDevice { message: "PING", dev_num: 1 };
    assert_eq!(decode_both(&hex("02 03 0100 0500 0c00 00000000")), Err(error));
    assert_eq!(error.to_string(), "PING is the bus's, but names device 1");
}

#[test]
fn errors_say_what_and_the_numbers() {
    let text = |octets| decode_both(&hex(octets)).unwrap_err().to_string();
    assert_eq!(text("0002"), "2 bytes are no message: its header has 8");
    assert_eq!(text("00 02 0000 0700 0700"), "message size 7 is not within 8 to 8");
    assert_eq!(text("00 08 0000 0700 0800"), "SET_DEVICE_STATUS of 8 bytes should have 12");
    assert_eq!(
        text("00 05 0000 0100 1000 00000000 f5000000"),
        "GET_CONFIG with 245 bytes; one message holds 244"
    );
}

proptest! {
    #[test]
    fn no_octets_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for dialect in BOTH {
            let _ = decode(dialect, &bytes);
        }
    }

    #[test]
    fn what_was_decoded_is_the_same_after_encoding(bytes in nearly_a_message()) {
        for dialect in BOTH {
            if let Ok(m) = decode(dialect, &bytes) {
                let mut out = [0; msg::MAX_LEN];
                let len = encode(dialect, &m, &mut out);
                prop_assert_eq!(decode(dialect, &out[..len]), Ok(m));
            }
        }
    }
}
