//! virtio-msg's octets, dialect "v2" (the PATCH v2 layout of May 2026), and what dialect "v1" shares
//! with it; the rest of v1 stands in [`v1`].
//!
//! All fields are little-endian. Every message begins with the header: 0 type u8, 1 id u8, 2 device
//! number le16 (0 in messages of the bus), 4 token le16, 6 total size le16. The rest, by offset from
//! the start of the message; `req` and `resp` are the total sizes of request and response:
//!
//! | id | message | req | request's fields | resp | response's fields |
//! |---|---|---|---|---|---|
//! | 02 | `GET_DEVICE_INFO` | 8 | | 52 | 8 device id le32, 12 vendor id le32, 16 uuid\[16\], 32 feature blocks le32, 36 config size le32, 40 queues le32, 44 first admin queue le32, 48 admin queues le32 |
//! | 03 | `GET_DEVICE_FEATURES` | 16 | 8 block index le32, 12 blocks le32 | 16+4n | 8 block index le32, 12 n le32, 16 le32\[n\] |
//! | 04 | `SET_DRIVER_FEATURES` | 16+4n | 8 block index le32, 12 n le32, 16 le32\[n\] | 8 | |
//! | 05 | `GET_CONFIG` | 16 | 8 offset le32, 12 length le32 | 20+n | 8 generation le32, 12 offset le32, 16 n le32, 20 data\[n\] |
//! | 06 | `SET_CONFIG` | 20+n | 8 generation le32, 12 offset le32, 16 n le32, 20 data\[n\] | 20+n | as the request; n is 0 if refused |
//! | 07 | `GET_DEVICE_STATUS` | 8 | | 12 | 8 status le32 |
//! | 08 | `SET_DEVICE_STATUS` | 12 | 8 status le32 | 12 | 8 status le32 |
//! | 09 | `GET_VQUEUE` | 12 | 8 index le32 | 48 | 8 index le32, 12 greatest size le32, 16 size le32, 20 flags le32, 24 descriptor area le64, 32 driver area le64, 40 device area le64 |
//! | 0a | `SET_VQUEUE` | 48 | 8 index le32, 12 flags le32, 16 size le32, 20 reserved le32, 24, 32, 40 areas as above | 8 | |
//! | 0b | `RESET_VQUEUE` | 12 | 8 index le32 | 8 | |
//! | 0c | `GET_SHM` | 12 | 8 id le32 | 32 | 8 id le32, 12 reserved le32, 16 length le64, 24 address le64 |
//! | 40 | `EVENT_CONFIG` | 24+n | 8 status le32, 12 generation le32, 16 offset le32, 20 length le32, 24 data\[n\]; n is the length or 0 | | |
//! | 41 | `EVENT_AVAIL` | 16 | 8 queue le32, 12 next offset le32 | | |
//! | 42 | `EVENT_USED` | 12 | 8 queue le32 | | |
//! | bus 02 | `GET_DEVICES` | 12 | 8 offset le16, 10 count le16 | 14+⌈n/8⌉ | 8 offset le16, 10 next offset le16, 12 n le16, 14 bitmap |
//! | bus 03 | `PING` | 12 | 8 data le32 | 12 | 8 data le32 |
//! | bus 40 | `EVENT_DEVICE` | 12 | 8 device number le16, 10 state le16 | | |
//! | bus 80 | `HELLO` | 72 | 8 revision le32, 12 greatest message le32, 16 transport features le64, 24 epoch le32, 28 layout version le32, 32 mac\[6\], 38 zero\[2\], 40 program version\[32\] | 72 | as the request |
//! | bus 81 | `EVENT_LINK` | 20 | 8 MTU le16, 10 state le16 (bit 0: set up), 12 mac\[6\], 18 zero\[2\] | | |
//!
//! A message has exactly its size, so that no two ends differ about what is in it. HELLO and EVENT_LINK,
//! which are ours, may be longer: both ends must be able to read the other's, whatever its version has
//! added.
//! Reserved bits of the header and reserved fields are sent as zero and ignored when received, except
//! `SET_VQUEUE`'s reserved word, which the device judges.

mod v1;

use super::message::{
    Body, Dialect, Hello, MAX_BLOCKS, MAX_DATA, MAX_DEVICES, MAX_EVENT_DATA, MAX_VERSION, Message,
    NetdevState, VqueueState,
};
use super::octets::{DecodeError, Reader, Writer, len32};
use crate::spec::msg::{self, TYPE_BUS, TYPE_RESPONSE};

/// Writes `m` to the start of `out`, zeroes the rest, and returns the message's length.
///
/// # Panics
///
/// If `m` holds more than a message carries (`MAX_DATA` and its like), or a bitmap that is not of
/// its count's length: whoever makes a message bounds it.
pub fn encode(dialect: Dialect, m: &Message, out: &mut [u8; msg::MAX_LEN]) -> usize {
    out.fill(0);
    let (kind, id) = kind_and_id(&m.body);
    let mut w = Writer { out, at: 0 };
    w.bytes(&[kind, id]);
    w.le16(m.dev_num);
    w.le16(m.token);
    w.le16(0);
    if dialect == Dialect::V2 || !v1::write(&mut w, &m.body) {
        write_body(&mut w, &m.body);
    }
    let len = w.at;
    let size = u16::try_from(len).unwrap_or(u16::MAX);
    out[6..8].copy_from_slice(&size.to_le_bytes());
    len
}

/// Reads the message at the start of `bytes`, which may be a longer slot.
pub fn decode(dialect: Dialect, bytes: &[u8]) -> Result<Message, DecodeError> {
    let &[kind, id, d0, d1, t0, t1, s0, s1, ..] = bytes else {
        return Err(DecodeError::NoHeader { len: bytes.len() });
    };
    let dev_num = u16::from_le_bytes([d0, d1]);
    let token = u16::from_le_bytes([t0, t1]);
    let msg_size = u16::from_le_bytes([s0, s1]);
    let most = bytes.len().min(msg::MAX_LEN);
    let size = usize::from(msg_size);
    let Some(rest) = bytes.get(msg::HEADER_LEN..size).filter(|_| size <= most) else {
        return Err(DecodeError::MsgSize { msg_size, most });
    };
    let kind = kind & (TYPE_BUS | TYPE_RESPONSE);
    let Some(message) = name(kind & TYPE_BUS != 0, id) else {
        return Err(DecodeError::Unknown { kind, id });
    };
    if kind & TYPE_BUS != 0 && dev_num != 0 {
        return Err(DecodeError::BusDevice { message, dev_num });
    }
    let mut r = Reader { message, size, rest };
    let body = match kind {
        _ if dialect == Dialect::V1 && v1::differs(kind, id) => v1::read(&mut r, kind, id)?,
        0 => read_request(&mut r, id)?,
        TYPE_RESPONSE => read_response(&mut r, id)?,
        TYPE_BUS => read_bus_request(&mut r, id)?,
        _ => read_bus_response(&mut r, id)?,
    };
    let Some(body) = body else { return Err(DecodeError::Unknown { kind, id }) };
    r.end(&body)?;
    Ok(Message { dev_num, token, body })
}

/// A message's name, for people.
fn name(bus: bool, id: u8) -> Option<&'static str> {
    Some(match (bus, id) {
        (false, msg::GET_DEVICE_INFO) => "GET_DEVICE_INFO",
        (false, msg::GET_DEVICE_FEATURES) => "GET_DEVICE_FEATURES",
        (false, msg::SET_DRIVER_FEATURES) => "SET_DRIVER_FEATURES",
        (false, msg::GET_CONFIG) => "GET_CONFIG",
        (false, msg::SET_CONFIG) => "SET_CONFIG",
        (false, msg::GET_DEVICE_STATUS) => "GET_DEVICE_STATUS",
        (false, msg::SET_DEVICE_STATUS) => "SET_DEVICE_STATUS",
        (false, msg::GET_VQUEUE) => "GET_VQUEUE",
        (false, msg::SET_VQUEUE) => "SET_VQUEUE",
        (false, msg::RESET_VQUEUE) => "RESET_VQUEUE",
        (false, msg::GET_SHM) => "GET_SHM",
        (false, msg::EVENT_CONFIG) => "EVENT_CONFIG",
        (false, msg::EVENT_AVAIL) => "EVENT_AVAIL",
        (false, msg::EVENT_USED) => "EVENT_USED",
        (true, msg::BUS_GET_DEVICES) => "GET_DEVICES",
        (true, msg::BUS_PING) => "PING",
        (true, msg::BUS_EVENT_DEVICE) => "EVENT_DEVICE",
        (true, msg::BUS_HELLO) => "HELLO",
        (true, msg::BUS_EVENT_LINK) => "EVENT_LINK",
        _ => return None,
    })
}

/// The header's first two bytes.
fn kind_and_id(body: &Body) -> (u8, u8) {
    const RESP: u8 = TYPE_RESPONSE;
    const BUS_RESP: u8 = TYPE_BUS | TYPE_RESPONSE;
    match body {
        Body::GetDeviceInfo => (0, msg::GET_DEVICE_INFO),
        Body::DeviceInfo { .. } => (RESP, msg::GET_DEVICE_INFO),
        Body::GetDeviceFeatures { .. } => (0, msg::GET_DEVICE_FEATURES),
        Body::DeviceFeatures(_) => (RESP, msg::GET_DEVICE_FEATURES),
        Body::SetDriverFeatures(_) => (0, msg::SET_DRIVER_FEATURES),
        Body::DriverFeaturesSet => (RESP, msg::SET_DRIVER_FEATURES),
        Body::GetConfig { .. } => (0, msg::GET_CONFIG),
        Body::Config { .. } => (RESP, msg::GET_CONFIG),
        Body::SetConfig { .. } => (0, msg::SET_CONFIG),
        Body::ConfigSet { .. } => (RESP, msg::SET_CONFIG),
        Body::GetDeviceStatus => (0, msg::GET_DEVICE_STATUS),
        Body::DeviceStatus { .. } => (RESP, msg::GET_DEVICE_STATUS),
        Body::SetDeviceStatus { .. } => (0, msg::SET_DEVICE_STATUS),
        Body::DeviceStatusSet { .. } => (RESP, msg::SET_DEVICE_STATUS),
        Body::GetVqueue { .. } => (0, msg::GET_VQUEUE),
        Body::Vqueue(_) => (RESP, msg::GET_VQUEUE),
        Body::SetVqueue { .. } => (0, msg::SET_VQUEUE),
        Body::VqueueSet => (RESP, msg::SET_VQUEUE),
        Body::ResetVqueue { .. } => (0, msg::RESET_VQUEUE),
        Body::VqueueReset => (RESP, msg::RESET_VQUEUE),
        Body::GetShm { .. } => (0, msg::GET_SHM),
        Body::Shm { .. } => (RESP, msg::GET_SHM),
        Body::EventConfig { .. } => (0, msg::EVENT_CONFIG),
        Body::EventAvail { .. } => (0, msg::EVENT_AVAIL),
        Body::EventUsed { .. } => (0, msg::EVENT_USED),
        Body::GetDevices { .. } => (TYPE_BUS, msg::BUS_GET_DEVICES),
        Body::Devices { .. } => (BUS_RESP, msg::BUS_GET_DEVICES),
        Body::Ping { .. } => (TYPE_BUS, msg::BUS_PING),
        Body::Pong { .. } => (BUS_RESP, msg::BUS_PING),
        Body::EventDevice { .. } => (TYPE_BUS, msg::BUS_EVENT_DEVICE),
        Body::Hello(_) => (TYPE_BUS, msg::BUS_HELLO),
        Body::HelloBack(_) => (BUS_RESP, msg::BUS_HELLO),
        Body::EventLink(_) => (TYPE_BUS, msg::BUS_EVENT_LINK),
    }
}

fn write_body(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::GetDeviceInfo
        | Body::DriverFeaturesSet
        | Body::GetDeviceStatus
        | Body::VqueueSet
        | Body::VqueueReset => {}
        &Body::DeviceInfo {
            device_id,
            vendor_id,
            uuid,
            num_feature_blocks,
            config_size,
            max_virtqueues,
            admin_vq_start,
            admin_vq_count,
        } => {
            w.le32s(&[device_id, vendor_id]);
            w.bytes(&uuid);
            w.le32s(&[num_feature_blocks, config_size, max_virtqueues]);
            w.le32s(&[admin_vq_start, admin_vq_count]);
        }
        &Body::GetDeviceFeatures { index, count } => w.le32s(&[index, count]),
        Body::DeviceFeatures(b) | Body::SetDriverFeatures(b) => {
            w.le32s(&[b.index, len32(b.blocks.len())]);
            w.le32s(&b.blocks);
        }
        &Body::GetConfig { offset, length } => w.le32s(&[offset, length]),
        Body::Config { generation, offset, data }
        | Body::SetConfig { generation, offset, data }
        | Body::ConfigSet { generation, offset, data } => {
            w.le32s(&[*generation, *offset, len32(data.len())]);
            w.bytes(data);
        }
        &Body::DeviceStatus { status: word }
        | &Body::SetDeviceStatus { status: word }
        | &Body::DeviceStatusSet { status: word }
        | &Body::GetVqueue { index: word }
        | &Body::ResetVqueue { index: word }
        | &Body::GetShm { id: word }
        | &Body::EventUsed { index: word }
        | &Body::Ping { data: word }
        | &Body::Pong { data: word } => w.le32s(&[word]),
        Body::Vqueue(q) => {
            w.le32s(&[q.index, q.max_size, q.size, q.flags]);
            w.le64s(&[q.desc, q.driver, q.device]);
        }
        &Body::SetVqueue { index, flags, size, reserved, desc, driver, device } => {
            w.le32s(&[index, flags, size, reserved]);
            w.le64s(&[desc, driver, device]);
        }
        &Body::Shm { id, length, address } => {
            w.le32s(&[id, 0]);
            w.le64s(&[length, address]);
        }
        Body::EventConfig { status, generation, offset, data } => {
            w.le32s(&[*status, *generation, *offset, len32(data.len())]);
            w.bytes(data);
        }
        &Body::EventAvail { index, next } => w.le32s(&[index, next]),
        &Body::GetDevices { offset: a, count: b } | &Body::EventDevice { number: a, state: b } => {
            w.le16(a);
            w.le16(b);
        }
        Body::Devices { offset, next_offset, count, bitmap } => {
            assert_eq!(bitmap.len(), usize::from(*count).div_ceil(8), "bitmap of its count");
            w.le16(*offset);
            w.le16(*next_offset);
            w.le16(*count);
            w.bytes(bitmap);
        }
        Body::Hello(hello) | Body::HelloBack(hello) => write_hello(w, hello),
        &Body::EventLink(NetdevState { mtu, up, mac }) => {
            w.le16(mtu);
            w.le16(if up { msg::LINK_ADMIN_UP } else { 0 });
            w.bytes(&mac);
            w.le16(0);
        }
    }
}

fn write_hello(w: &mut Writer<'_>, hello: &Hello) {
    w.le32s(&[hello.revision, hello.max_len]);
    w.le64s(&[hello.transport_features]);
    w.le32s(&[hello.epoch, hello.layout]);
    w.bytes(&hello.mac);
    w.le16(0);
    let mut version = [0; MAX_VERSION];
    version[..hello.version.len()].copy_from_slice(hello.version.as_bytes());
    w.bytes(&version);
}

fn read_request(r: &mut Reader<'_>, id: u8) -> Result<Option<Body>, DecodeError> {
    Ok(Some(match id {
        msg::GET_DEVICE_INFO => Body::GetDeviceInfo,
        msg::GET_DEVICE_FEATURES => {
            let index = r.le32()?;
            Body::GetDeviceFeatures { index, count: r.count("feature blocks", MAX_BLOCKS)? }
        }
        msg::SET_DRIVER_FEATURES => Body::SetDriverFeatures(r.blocks()?),
        msg::GET_CONFIG => {
            Body::GetConfig { offset: r.le32()?, length: r.count("bytes", MAX_DATA)? }
        }
        msg::SET_CONFIG => {
            Body::SetConfig { generation: r.le32()?, offset: r.le32()?, data: r.data(MAX_DATA)? }
        }
        msg::GET_DEVICE_STATUS => Body::GetDeviceStatus,
        msg::SET_DEVICE_STATUS => Body::SetDeviceStatus { status: r.le32()? },
        msg::GET_VQUEUE => Body::GetVqueue { index: r.le32()? },
        msg::SET_VQUEUE => Body::SetVqueue {
            index: r.le32()?,
            flags: r.le32()?,
            size: r.le32()?,
            reserved: r.le32()?,
            desc: r.le64()?,
            driver: r.le64()?,
            device: r.le64()?,
        },
        msg::RESET_VQUEUE => Body::ResetVqueue { index: r.le32()? },
        msg::GET_SHM => Body::GetShm { id: r.le32()? },
        msg::EVENT_CONFIG => {
            let (status, generation, offset) = (r.le32()?, r.le32()?, r.le32()?);
            // A range may stand without its data; the driver then reads it.
            let data = if r.rest.len() == 4 {
                r.le32()?;
                Vec::new()
            } else {
                r.data(MAX_EVENT_DATA)?
            };
            Body::EventConfig { status, generation, offset, data }
        }
        msg::EVENT_AVAIL => Body::EventAvail { index: r.le32()?, next: r.le32()? },
        msg::EVENT_USED => Body::EventUsed { index: r.le32()? },
        _ => return Ok(None),
    }))
}

fn read_response(r: &mut Reader<'_>, id: u8) -> Result<Option<Body>, DecodeError> {
    Ok(Some(match id {
        msg::GET_DEVICE_INFO => Body::DeviceInfo {
            device_id: r.le32()?,
            vendor_id: r.le32()?,
            uuid: r.array()?,
            num_feature_blocks: r.le32()?,
            config_size: r.le32()?,
            max_virtqueues: r.le32()?,
            admin_vq_start: r.le32()?,
            admin_vq_count: r.le32()?,
        },
        msg::GET_DEVICE_FEATURES => Body::DeviceFeatures(r.blocks()?),
        msg::SET_DRIVER_FEATURES => Body::DriverFeaturesSet,
        msg::GET_CONFIG => {
            Body::Config { generation: r.le32()?, offset: r.le32()?, data: r.data(MAX_DATA)? }
        }
        msg::SET_CONFIG => {
            Body::ConfigSet { generation: r.le32()?, offset: r.le32()?, data: r.data(MAX_DATA)? }
        }
        msg::GET_DEVICE_STATUS => Body::DeviceStatus { status: r.le32()? },
        msg::SET_DEVICE_STATUS => Body::DeviceStatusSet { status: r.le32()? },
        msg::GET_VQUEUE => Body::Vqueue(VqueueState {
            index: r.le32()?,
            max_size: r.le32()?,
            size: r.le32()?,
            flags: r.le32()?,
            desc: r.le64()?,
            driver: r.le64()?,
            device: r.le64()?,
        }),
        msg::SET_VQUEUE => Body::VqueueSet,
        msg::RESET_VQUEUE => Body::VqueueReset,
        msg::GET_SHM => {
            let id = r.le32()?;
            r.le32()?;
            Body::Shm { id, length: r.le64()?, address: r.le64()? }
        }
        _ => return Ok(None),
    }))
}

fn read_bus_request(r: &mut Reader<'_>, id: u8) -> Result<Option<Body>, DecodeError> {
    Ok(Some(match id {
        msg::BUS_GET_DEVICES => Body::GetDevices { offset: r.le16()?, count: r.le16()? },
        msg::BUS_PING => Body::Ping { data: r.le32()? },
        msg::BUS_EVENT_DEVICE => Body::EventDevice { number: r.le16()?, state: r.le16()? },
        msg::BUS_HELLO => Body::Hello(r.hello()?),
        msg::BUS_EVENT_LINK => {
            let (mtu, state, mac) = (r.le16()?, r.le16()?, r.array()?);
            r.le16()?;
            Body::EventLink(NetdevState { mtu, up: state & msg::LINK_ADMIN_UP != 0, mac })
        }
        _ => return Ok(None),
    }))
}

fn read_bus_response(r: &mut Reader<'_>, id: u8) -> Result<Option<Body>, DecodeError> {
    Ok(Some(match id {
        msg::BUS_GET_DEVICES => {
            let (offset, next_offset, count) = (r.le16()?, r.le16()?, r.le16()?);
            let n = usize::from(count);
            if n > MAX_DEVICES {
                return Err(r.too_many("devices", u32::from(count), MAX_DEVICES));
            }
            Body::Devices { offset, next_offset, count, bitmap: r.bytes(n.div_ceil(8))?.to_vec() }
        }
        msg::BUS_PING => Body::Pong { data: r.le32()? },
        msg::BUS_HELLO => Body::HelloBack(r.hello()?),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
