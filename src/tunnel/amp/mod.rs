//! virtio-msg's bus binding "AMP over PCI" as a layout of the window: no header, two queues for messages
//! ([`fifo`]), and a bus that ends find each other on by its messages ([`session`]).

pub mod fifo;
pub mod registers;
pub mod session;
#[cfg(test)]
mod session_tests;
