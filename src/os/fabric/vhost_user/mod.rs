//! The transport `vhost-user:PATH`: a Unix socket between a front-end, which has the driver's memory, and a
//! back-end, which is the device (QEMU's "Vhost-user Protocol"). Either may be the one that listens.
//!
//! Here is what touches the OS: [`connection`] takes messages apart and puts them together, with the
//! descriptors that come beside them, and [`dial()`] connects; [`memory`] maps what the other end gives. What a message means is
//! no matter of this module.
//!
//! Bounds of what the other end may bring about: a message has a payload of at most
//! [`MAX_PAYLOAD`](connection::MAX_PAYLOAD) bytes and at most [`MAX_FDS`](connection::MAX_FDS) descriptors, and one that has not come whole is all
//! that is kept of a connection; at most [`MAX_WAITING`](connection::MAX_WAITING) messages wait for it to read;
//! a connection has at most [`MAX_REGIONS`](memory::MAX_REGIONS) pieces of memory of at most [`MAX_MAPPED`](memory::MAX_MAPPED)
//! bytes together, and those that it takes away are zeros.

pub mod connection;
mod dial;
pub mod memory;
mod pair;

pub use dial::{DialError, dial};
pub use pair::pair;
