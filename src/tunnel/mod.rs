//! The tunnel: virtio's configuration cycles as messages through the window.

pub mod fifo;
pub mod message;
pub mod part;
pub mod session;
#[cfg(test)]
mod session_tests;
