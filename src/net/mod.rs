//! virtio-net: frames and chains, offloads, the device model.

pub mod features;
pub mod model;
