//! virtio-net: frames and chains, offloads, the device model.
