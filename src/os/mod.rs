//! The OS edge: what touches the kernel, and nothing that thinks about rings or messages.

pub mod access;
pub mod affinity;
pub mod announce;
pub mod bell;
pub mod broker;
pub mod bus_error;
pub mod child;
pub mod close;
pub mod confine;
pub mod dma;
pub mod doorbell;
pub mod fabric;
pub mod interrupt;
pub mod limits;
pub mod lock;
pub mod log;
pub mod netlink;
pub mod netns;
pub mod pace;
pub mod poll;
pub mod socket_file;
pub mod tap;
pub mod terminal;
pub mod udp;
pub mod userns;
pub mod vhost_net;
