//! The tunnel: virtio's configuration cycles as messages through the window.

mod codec;
pub mod driver;
pub mod fifo;
pub mod message;
mod octets;
pub mod part;
pub mod session;
#[cfg(test)]
mod session_tests;
