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
pub mod rate;
pub mod settings;
pub mod sources;
