//! vhost-user: the configuration messages between a process with the driver's memory (front-end) and
//! one that is the device (back-end), over a Unix socket.

pub mod front_end;
mod message;
mod reply;
mod request;

pub use message::{Fault, Header, Inflight, MemoryRegion, VringAddr, encode, name};
pub use reply::Reply;
pub use request::Request;
