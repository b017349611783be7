//! A function's driver: vfio-pci takes it, and what had it gets it back.
//!
//! `driver_override` names the one driver that may have a function (Linux, ABI/testing/sysfs-bus-pci). A
//! function that was with vfio-pci already is left as it was found: somebody else has arranged that.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::address::Address;
use super::error::PciError;
use super::resource;
use super::sysfs::{Function, Tree};

const VFIO_PCI: &str = "vfio-pci";
/// How long a link's end may take to close a function that is given back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a function that vfio-pci has refused is not given to it again.
const PAUSE: Duration = Duration::from_secs(10);

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
        if let Some(driver) = tree.refused.lately(address) {
            return Err(PciError::Bind { address, driver });
        }
        let driver_override = tree.driver_override(address)?;
        let before = Before { driver: function.driver.clone(), driver_override };
        let binding = Self { address, before: Some(before) };
        match binding.bind(tree) {
            Ok(()) => Ok(binding),
            Err(error) => {
                // Its driver is not to lose it again with each try.
                if let PciError::Bind { driver, .. } = &error {
                    tree.refused.note(address, driver.clone());
                }
                // The first error tells more than what follows from it.
                let _ = binding.undo(tree);
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

    /// Undoes it, unless somebody else has done so, or has the function by now; waits until nobody has it open
    /// any more.
    ///
    /// # Errors
    /// Another process has the function; the first that was met.
    pub(super) fn give_back(self, tree: &Tree) -> Result<(), PciError> {
        let address = self.address;
        if self.before.is_none() {
            return Ok(());
        }
        // Whoever gave it to this link closes it in a moment. Who has it after that has taken it since.
        let lock = wait_for_lock(tree, address);
        let _lock = match lock {
            Err(_) if !tree.directory(address).exists() => return Ok(()),
            lock => lock?,
        };
        let ours = match tree.function(address)?.driver {
            Some(driver) => driver == VFIO_PCI,
            None => tree.driver_override(address)?.as_deref() == Some(VFIO_PCI),
        };
        if ours { self.undo(tree) } else { Ok(()) }
    }

    /// Undoes it, as far as it can be done.
    fn undo(self, tree: &Tree) -> Result<(), PciError> {
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

/// The lock on a function (see [`resource::lock`]), once others have let go of it.
pub(super) fn wait_for_lock(tree: &Tree, address: Address) -> Result<OwnedFd, PciError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match resource::lock(tree, address) {
            Err(PciError::Held { .. }) if Instant::now() < until => sleep(PATIENCE / 100),
            done => return done,
        }
    }
}

/// Functions that vfio-pci did not take, and when that was.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<BTreeMap<Address, Refusal>>>);

/// When it was, and the driver that the function had instead.
type Refusal = (Instant, Option<String>);

impl Refused {
    /// The driver that a function had instead, if it was refused less than [`PAUSE`] ago.
    fn lately(&self, address: Address) -> Option<Option<String>> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, driver) = refused.get(&address)?;
        (when.elapsed() < PAUSE).then(|| driver.clone())
    }

    fn note(&self, address: Address, driver: Option<String>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(address, (Instant::now(), driver));
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
