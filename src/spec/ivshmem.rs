//! The ivshmem-server protocol's numbers (QEMU, "Device Specification for Inter-VM shared memory
//! device", section "The ivshmem Client-Server Protocol").
//!
//! The server listens on a Unix stream socket and is the only one that talks. A message is one
//! signed little-endian number of 8 bytes; at most one file descriptor comes with it (SCM_RIGHTS).
//! A newcomer gets, in this order:
//!
//! | number | descriptor | meaning |
//! |---|---|---|
//! | [`VERSION`] | none | the protocol's version |
//! | its id | none | 0 to [`MAX_ID`], unlike that of any other client of this server |
//! | [`SHARED_MEMORY`] | the memory | to be mapped whole |
//! | id of another client | its eventfd | for each other client: once per vector, in order from vector 0 |
//! | its id | its own eventfd | once per vector, in order from vector 0 |
//!
//! From then on: an id with a descriptor is the next vector of a client that joins, repeated for each
//! of its vectors; an id without one says that this client has left. Nothing marks the last vector.
//! To interrupt, a client adds 1 to the eventfd of the other client's vector.

/// Length in bytes of each message.
pub const MESSAGE_LEN: usize = 8;
/// The protocol's version, the first number that a server sends.
pub const VERSION: i64 = 0;
/// The number that the descriptor of the shared memory comes with.
pub const SHARED_MEMORY: i64 = -1;
/// The greatest id: the device's doorbell register has 16 bits for it.
pub const MAX_ID: u16 = u16::MAX;
