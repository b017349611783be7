//! What dialect "v1" (RFC3 and PATCH v1, November 2025 to January 2026) writes otherwise than "v2".
//!
//! | id | message | req | request's fields | resp | response's fields |
//! |---|---|---|---|---|---|
//! | 02 | `GET_DEVICE_INFO` | 8 | | 32 | 8 device id le32, 12 vendor id le32, 16 feature bits le32, 20 config size le32, 24 queues le32, 28 first admin queue le16, 30 admin queues le16 |
//! | 09 | `GET_VQUEUE` | 12 | 8 index le32 | 48 | 8 index le32, 12 greatest size le32, 16 size le32, 20 reserved le32, 24 descriptor area le64, 32 driver area le64, 40 device area le64 |
//! | 0a | `SET_VQUEUE` | 48 | 8 index le32, 12 reserved le32, 16 size le32, 20 reserved le32, 24, 32, 40 areas as above | 8 | |
//! | 0c | `GET_SHM` | 12 | 8 id le32 | 20 | 8 id le32, 12 length le32, 16 address le32 |
//! | bus 02 | `GET_DEVICES` | 12 | 8 offset le16, 10 count le16 | 14+n/8 | 8 offset le16, 10 n le16, 12 next offset le16, 14 bitmap |
//!
//! What v1 does not say is made up where it is read: `SET_VQUEUE` enables the queue, a queue with an
//! address is enabled, a device has no uuid. What it cannot say is left out where it is written.

use super::super::message::{Body, MAX_DEVICES, VqueueState};
use super::super::octets::{DecodeError, Reader, Writer};
use crate::spec::msg::{self, TYPE_BUS, TYPE_RESPONSE};

const RESPONSE: u8 = TYPE_RESPONSE;
const BUS_RESPONSE: u8 = TYPE_BUS | TYPE_RESPONSE;

/// Whether the message is of those that are read here.
pub(super) fn differs(kind: u8, id: u8) -> bool {
    matches!(
        (kind, id),
        (RESPONSE, msg::GET_DEVICE_INFO | msg::GET_VQUEUE | msg::GET_SHM)
            | (0, msg::SET_VQUEUE)
            | (TYPE_BUS | BUS_RESPONSE, msg::BUS_GET_DEVICES)
    )
}

/// Writes what follows the header if it differs from v2, and says whether it does.
pub(super) fn write(w: &mut Writer<'_>, body: &Body) -> bool {
    match body {
        &Body::DeviceInfo {
            device_id,
            vendor_id,
            uuid: _,
            num_feature_blocks,
            config_size,
            max_virtqueues,
            admin_vq_start,
            admin_vq_count,
        } => {
            let num_feature_bits = num_feature_blocks.saturating_mul(32);
            w.le32s(&[device_id, vendor_id, num_feature_bits, config_size, max_virtqueues]);
            w.le16(u16::try_from(admin_vq_start).unwrap_or(u16::MAX));
            w.le16(u16::try_from(admin_vq_count).unwrap_or(u16::MAX));
        }
        Body::Vqueue(q) => {
            w.le32s(&[q.index, q.max_size, q.size, 0]);
            w.le64s(&[q.desc, q.driver, q.device]);
        }
        &Body::SetVqueue { index, flags: _, size, reserved: _, desc, driver, device } => {
            w.le32s(&[index, 0, size, 0]);
            w.le64s(&[desc, driver, device]);
        }
        &Body::Shm { id, length, address } => {
            // A region out of reach is none.
            let region = u32::try_from(length).and_then(|l| Ok((l, u32::try_from(address)?)));
            let (length, address) = region.unwrap_or_default();
            w.le32s(&[id, length, address]);
        }
        Body::Devices { offset, next_offset, count, bitmap } => {
            assert_eq!(
                bitmap.len() * 8,
                usize::from(*count),
                "bitmap of its count, in whole octets"
            );
            w.le16(*offset);
            w.le16(*count);
            w.le16(*next_offset);
            w.bytes(bitmap);
        }
        _ => return false,
    }
    true
}

/// Reads what follows the header of a message that [`differs`].
pub(super) fn read(r: &mut Reader<'_>, kind: u8, id: u8) -> Result<Option<Body>, DecodeError> {
    Ok(Some(match (kind, id) {
        (RESPONSE, msg::GET_DEVICE_INFO) => Body::DeviceInfo {
            device_id: r.le32()?,
            vendor_id: r.le32()?,
            uuid: [0; 16],
            num_feature_blocks: r.le32()?.div_ceil(32),
            config_size: r.le32()?,
            max_virtqueues: r.le32()?,
            admin_vq_start: r.le16()?.into(),
            admin_vq_count: r.le16()?.into(),
        },
        (RESPONSE, msg::GET_VQUEUE) => {
            let (index, max_size, size, _) = (r.le32()?, r.le32()?, r.le32()?, r.le32()?);
            let (desc, driver, device) = (r.le64()?, r.le64()?, r.le64()?);
            let flags = if desc | driver | device == 0 { 0 } else { msg::VQ_ENABLED };
            Body::Vqueue(VqueueState { index, max_size, size, flags, desc, driver, device })
        }
        (0, msg::SET_VQUEUE) => {
            let (index, _, size, _) = (r.le32()?, r.le32()?, r.le32()?, r.le32()?);
            let (desc, driver, device) = (r.le64()?, r.le64()?, r.le64()?);
            let flags = msg::VQ_ENABLE;
            Body::SetVqueue { index, flags, size, reserved: 0, desc, driver, device }
        }
        (RESPONSE, msg::GET_SHM) => {
            Body::Shm { id: r.le32()?, length: r.le32()?.into(), address: r.le32()?.into() }
        }
        (TYPE_BUS, msg::BUS_GET_DEVICES) => {
            Body::GetDevices { offset: eights(r, "offset")?, count: eights(r, "count")? }
        }
        (BUS_RESPONSE, msg::BUS_GET_DEVICES) => {
            let (offset, count) = (eights(r, "offset")?, eights(r, "count")?);
            if usize::from(count) > MAX_DEVICES {
                return Err(r.too_many("devices", count.into(), MAX_DEVICES));
            }
            let next_offset = r.le16()?;
            let bitmap = r.bytes(usize::from(count / 8))?.to_vec();
            Body::Devices { offset, next_offset, count, bitmap }
        }
        _ => return Ok(None),
    }))
}

/// A number of devices, which is a multiple of 8.
fn eights(r: &mut Reader<'_>, what: &'static str) -> Result<u16, DecodeError> {
    let value = r.le16()?;
    if value % 8 == 0 { Ok(value) } else { Err(r.not_eights(what, value)) }
}
