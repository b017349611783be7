//! The transport `pci:ADDRESS`: a board's function on a PCI bus, whose BAR both ends share.
//!
//! Theory of operation. Whoever has the rights *takes* the function ([`take()`]): looks at it (`sysfs`),
//! checks it against its kind ([`KINDS`]), gives it to vfio-pci or enables it, and opens it. What it was
//! like before is remembered in [`Taken`], and given back. The open descriptors and a line of text
//! ([`Told`]) go to whoever runs the link, who needs no rights: [`PciLink`] maps the BARs, has interrupts
//! add to eventfds, and notices when the function goes.
//!
//! By VFIO (`vfio`) this end has interrupts; by sysfs (`resource`) it polls. In both the other end's
//! doorbell is a register.
//!
//! Memory of a function that is taken from its machine is gone at any moment. Its mappings are
//! [registered](crate::os::bus_error): whoever touches them then finds zeros. A function that is still
//! there but answers no more reads as all ones.

mod address;
mod binding;
mod error;
mod kinds;
mod link;
mod look;
mod resource;
mod sysfs;
mod take;
#[cfg(test)]
mod tests;
mod vfio;
mod vfio_api;

pub use address::{Address, Mode, NoAddress, Wanted, Which};
pub use error::{BarFault, PciError};
pub use kinds::{BoardKind, DoorbellRegister, KINDS, Register};
pub use link::PciLink;
pub use sysfs::{Bar, Function, Tree};
pub use take::{Opened, Taken, Told, check, known, take};
pub use vfio_api::{OPENING, USING};
