//! `GET_VQUEUE` and `SET_VQUEUE`, in a device's words.

use crate::spec::msg;
use crate::tunnel::message::{Body, VqueueState};
use crate::tunnel::model::{Device, QueueError, QueueOperation, QueueUpdate};

pub(super) fn vqueue(device: &impl Device, index: u32) -> Body {
    let q = device.queue(index);
    Body::Vqueue(VqueueState {
        index,
        max_size: u32::from(q.max_size),
        size: u32::from(q.size),
        flags: if q.enabled { msg::VQ_ENABLED } else { 0 },
        desc: q.desc,
        driver: q.driver,
        device: q.device,
    })
}

/// Takes `SET_VQUEUE`'s flags apart. Whatever the outcome, the answer is the same.
pub(super) fn set_vqueue(device: &mut impl Device, set: &Body) -> Result<(), QueueError> {
    let &Body::SetVqueue { index, flags, size, reserved, desc, driver, device: used } = set else {
        return Ok(());
    };
    let known = msg::VQ_STATE_MASK
        | msg::VQ_IGNORE_SIZE
        | msg::VQ_IGNORE_DESC
        | msg::VQ_IGNORE_DRIVER
        | msg::VQ_IGNORE_DEVICE;
    let operation = match flags & msg::VQ_STATE_MASK {
        msg::VQ_KEEP_DISABLED => QueueOperation::KeepDisabled,
        msg::VQ_ENABLE => QueueOperation::Enable,
        msg::VQ_KEEP => QueueOperation::Keep,
        _ => return Err(QueueError::Reserved { flags, reserved }),
    };
    if reserved != 0 || flags & !known != 0 {
        return Err(QueueError::Reserved { flags, reserved });
    }
    let update = QueueUpdate {
        operation,
        size: (flags & msg::VQ_IGNORE_SIZE == 0).then_some(size),
        desc: (flags & msg::VQ_IGNORE_DESC == 0).then_some(desc),
        driver: (flags & msg::VQ_IGNORE_DRIVER == 0).then_some(driver),
        device: (flags & msg::VQ_IGNORE_DEVICE == 0).then_some(used),
    };
    device.set_queue(index, &update)
}
