//! vhost-user: the configuration messages between a process with the driver's memory (front-end) and
//! one that is the device (back-end), over a Unix socket.

pub mod back_end;
pub mod front_end;
mod message;
mod refusal;
mod reply;
mod request;
mod shared;

pub use message::{Fault, Header, Inflight, MemoryRegion, VringAddr, encode, name};
pub use refusal::Refusal;
pub use reply::Reply;
pub use request::Request;
