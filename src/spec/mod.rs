//! Numbers and octets of the standards. No logic: constants, layouts, and what each is called.

pub mod amp_pci;
pub mod ethernet;
pub mod ivshmem;
pub mod msg;
pub mod net;
pub mod packed;
pub mod split;
pub mod vhost_user;
pub mod virtio;
pub mod window;
