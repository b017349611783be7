//! What each fuzz target does with its octets: an ordinary function, `run`, that panics at a finding.
//!
//! `fuzz_targets/` gives them to libFuzzer; `tests/corpora.rs` of the main package runs each file of
//! `corpus/` through them, on the stable toolchain. So they use nothing but the library's public API.

pub mod config;
pub mod control;
pub mod device_ring;
pub mod driver_ring;
pub mod ivshmem_client;
pub mod ivshmem_server;
pub mod messages;
pub mod net_header;
pub mod vhost_user;

mod octets;
mod ring_driver;
mod ring_memory;
mod ring_worker;
mod sockets;
