//! The tunnel: virtio's configuration cycles as messages through the window.

pub mod message;
