//! The tunnel: virtio's configuration cycles as messages through the window.

pub mod amp;
#[cfg(test)]
pub(crate) mod arbitrary;
mod codec;
pub mod device;
pub mod driver;
pub mod fifo;
pub mod inspect;
pub mod message;
pub mod model;
mod octets;
pub mod part;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod vhost_user;
