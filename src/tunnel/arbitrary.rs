//! Messages for property tests: what a peer might send, well meant or not.

use proptest::prelude::*;

use super::message::{Blocks, Body, Hello, Message, NetdevState};

/// A header that is likely to be one, and anything behind it.
pub(crate) fn nearly_a_message() -> impl Strategy<Value = Vec<u8>> {
    let ids = prop_oneof![0..0x0E_u8, 0x40..0x44_u8, 0x80..0x83_u8];
    let fields = prop::collection::vec(prop_oneof![0..70_u32, any::<u32>()], 0..80);
    (0..4_u8, ids, 0..2_u16, any::<u16>(), prop::option::of(0..300_u16), fields).prop_map(
        |(kind, id, dev, token, size, fields)| {
            let size = size.unwrap_or(8 + 4 * fields.len() as u16);
            let mut bytes = vec![kind, id];
            for half in [dev, token, size] {
                bytes.extend(half.to_le_bytes());
            }
            bytes.extend(fields.iter().flat_map(|f| f.to_le_bytes()));
            bytes
        },
    )
}

/// Any number, with those that mean something more often than the rest.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..4_u32, 1 => Just(u32::MAX), 1 => Just(1 << 7), 1 => any::<u32>()]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![4 => (1..9_u64).prop_map(|n| n << 12), 1 => Just(0), 1 => any::<u64>()]
}

fn blocks() -> impl Strategy<Value = Blocks> {
    let bits = prop_oneof![Just(0), Just(u32::MAX), Just(1), Just(0x13), any::<u32>()];
    let any = (word(), prop::collection::vec(bits, 0..5));
    prop_oneof![3 => Just((0, vec![0, 1])), 1 => any]
        .prop_map(|(index, blocks)| Blocks { index, blocks })
}

/// Status bits in the right order more often than not.
fn status() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0), 6 => prop::sample::select(vec![1, 3, 11, 15]), 1 => any::<u32>()]
}

fn set_vqueue() -> impl Strategy<Value = Body> {
    let flags = prop_oneof![4 => Just(1), 2 => 0..64_u32, 1 => any::<u32>()];
    let size = prop_oneof![3 => Just(64), 1 => 0..300_u32, 1 => any::<u32>()];
    let reserved = prop_oneof![9 => Just(0), 1 => any::<u32>()];
    (word(), flags, size, reserved, [address(), address(), address()]).prop_map(
        |(index, flags, size, reserved, [desc, driver, device])| Body::SetVqueue {
            index,
            flags,
            size,
            reserved,
            desc,
            driver,
            device,
        },
    )
}

/// A well-formed request or event of a driver end that means nothing in particular by it.
pub(crate) fn driver_message() -> impl Strategy<Value = Message> {
    let data = || prop::collection::vec(any::<u8>(), 0..9);
    let body = prop_oneof![
        1 => Just(Body::GetDeviceInfo),
        1 => (word(), 0..63_u32).prop_map(|(index, count)| Body::GetDeviceFeatures { index, count }),
        3 => blocks().prop_map(Body::SetDriverFeatures),
        1 => (word(), 0..245_u32).prop_map(|(offset, length)| Body::GetConfig { offset, length }),
        1 => (word(), word(), data())
            .prop_map(|(generation, offset, data)| Body::SetConfig { generation, offset, data }),
        1 => Just(Body::GetDeviceStatus),
        6 => status().prop_map(|status| Body::SetDeviceStatus { status }),
        1 => word().prop_map(|index| Body::GetVqueue { index }),
        4 => set_vqueue(),
        1 => word().prop_map(|index| Body::ResetVqueue { index }),
        1 => word().prop_map(|id| Body::GetShm { id }),
        1 => (word(), word()).prop_map(|(index, next)| Body::EventAvail { index, next }),
        1 => (0..9_u16, any::<u16>()).prop_map(|(offset, count)| Body::GetDevices { offset, count }),
        1 => any::<u32>().prop_map(|data| Body::Ping { data }),
        1 => any::<u32>().prop_map(|data| Body::Pong { data }),
        1 => (any::<u16>(), any::<bool>(), any::<[u8; 6]>())
            .prop_map(|(mtu, up, mac)| Body::EventLink(NetdevState { mtu, up, mac })),
        1 => (1..3_u32, 0..400_u32, 1..3_u32).prop_map(|(revision, max_len, layout)| {
            Body::Hello(Hello { revision, max_len, layout, ..Hello::default() })
        }),
    ];
    (any::<u16>(), body).prop_map(|(token, body)| Message { dev_num: 0, token, body })
}
