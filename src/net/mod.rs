//! virtio-net: frames and chains, offloads, the device model.

pub mod announce;
mod arena;
pub mod control;
pub mod control_driver;
pub mod device_path;
pub mod driver_path;
pub mod echo;
pub mod engine_path;
pub mod features;
pub mod frame;
pub mod model;
pub mod owed;
pub mod path;
#[cfg(test)]
mod path_tests;
pub mod placement;
// For daemons, which count in 64 bits anyway.
#[cfg(target_has_atomic = "64")]
pub mod rate;
pub mod settings;
pub mod sources;
