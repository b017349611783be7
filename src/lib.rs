//! boardlane: a virtio-net link between a PCI master and each of its boards.

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

#[cfg(feature = "cli")]
pub mod daemon;
pub mod link;
pub mod memory;
pub mod net;
#[cfg(feature = "os")]
pub mod os;
pub mod plan;
pub mod spec;
pub mod tunnel;
pub mod virtqueue;
