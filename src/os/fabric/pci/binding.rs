//! A function's driver: vfio-pci takes it, and what had it gets it back.
//!
//! `driver_override` names the one driver that may have a function (Linux, ABI/testing/sysfs-bus-pci). A
//! function that was with vfio-pci already is left as it was found: somebody else has arranged that.

use super::address::Address;
use super::error::PciError;
use super::sysfs::{Function, Tree};

const VFIO_PCI: &str = "vfio-pci";

/// A function that is with vfio-pci, and how it was before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binding {
    address: Address,
    /// `None`: it was with vfio-pci.
    before: Option<Before>,
}

#[derive(Debug, PartialEq, Eq)]
struct Before {
    driver: Option<String>,
    driver_override: Option<String>,
}

impl Binding {
    /// Gives the function to vfio-pci.
    ///
    /// # Errors
    /// vfio-pci is not loaded or does not take it; then it is as before, if that can be done.
    pub(super) fn take(tree: &Tree, function: &Function) -> Result<Self, PciError> {
        let address = function.address;
        if function.driver.as_deref() == Some(VFIO_PCI) {
            return Ok(Self { address, before: None });
        }
        is_loaded(tree)?;
        let before = Before {
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone(),
        };
        let binding = Self { address, before: Some(before) };
        match binding.bind(tree) {
            Ok(()) => Ok(binding),
            Err(error) => {
                // The first error tells more than what follows from it.
                let _ = binding.give_back(tree);
                Err(error)
            }
        }
    }

    /// Takes it again, should it not be with vfio-pci any more.
    ///
    /// # Errors
    /// As of [`Binding::take`]; how it was before is still remembered.
    pub(super) fn renew(&mut self, tree: &Tree, function: &Function) -> Result<(), PciError> {
        if function.driver.as_deref() == Some(VFIO_PCI) {
            return Ok(());
        }
        if self.before.is_none() {
            *self = Self::take(tree, function)?;
            return Ok(());
        }
        is_loaded(tree)?;
        self.bind(tree)
    }

    fn bind(&self, tree: &Tree) -> Result<(), PciError> {
        tree.write(&tree.file(self.address, "driver_override"), VFIO_PCI)?;
        unbind(tree, self.address)?;
        tree.write(&tree.sys.join("bus/pci/drivers_probe"), &self.address.to_string())?;
        match tree.function(self.address)?.driver {
            Some(driver) if driver == VFIO_PCI => Ok(()),
            driver => Err(PciError::Bind { address: self.address, driver }),
        }
    }

    /// Undoes it, as far as it can be done; waits until nobody has the function open any more.
    ///
    /// # Errors
    /// The first that was met.
    pub(super) fn give_back(self, tree: &Tree) -> Result<(), PciError> {
        let (address, Some(before)) = (self.address, self.before) else { return Ok(()) };
        let unbound = unbind(tree, address);
        // An empty line means none.
        let text = before.driver_override.unwrap_or_else(|| "\n".to_owned());
        let released = tree.write(&tree.file(address, "driver_override"), &text);
        let bound = before.driver.map_or(Ok(()), |driver| {
            let path = tree.sys.join("bus/pci/drivers").join(driver).join("bind");
            tree.write(&path, &address.to_string())
        });
        match unbound.and(released).and(bound) {
            // Nothing is left to give back.
            Err(_) if !tree.directory(address).exists() => Ok(()),
            done => done,
        }
    }
}

/// Whether there is a vfio-pci: without it nothing is touched.
fn is_loaded(tree: &Tree) -> Result<(), PciError> {
    let path = tree.sys.join("bus/pci/drivers").join(VFIO_PCI);
    if path.exists() { Ok(()) } else { Err(PciError::NoModule { path, module: VFIO_PCI }) }
}

/// Takes the function from the driver that has it, if one does.
fn unbind(tree: &Tree, address: Address) -> Result<(), PciError> {
    let path = tree.file(address, "driver/unbind");
    if path.exists() { tree.write(&path, &address.to_string()) } else { Ok(()) }
}
