//! Takes a function for a link: chooses it, checks it, makes it usable, and opens it.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use super::address::{Address, Mode, Wanted, Which};
use super::binding::{Binding, wait_for_lock};
use super::error::{BarFault, PciError};
use super::kinds::BoardKind;
use super::resource;
use super::sysfs::{Bar, Function, Tree};
use super::vfio::Group;
use crate::os::fabric::is_slot_len;
use crate::os::fabric::mapped::page_size;

/// How long giving a function back may take: whoever has it open may not let go at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// A function that is open for a link.
#[derive(Debug)]
pub struct Opened {
    /// What has to be told of it.
    pub told: Told,
    /// By VFIO the device and its config space; by sysfs the latter, memory, and registers if it has any.
    pub fds: Vec<OwnedFd>,
}

/// What has to be told of a function that is open, beside its descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Which it is.
    pub address: Address,
    /// Its kind.
    pub kind: &'static BoardKind,
    /// By what it is reached.
    pub mode: Mode,
    /// Its memory is write-combined.
    pub combined: bool,
    /// Where in a page its registers begin, in bytes.
    pub registers_at: usize,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, kind, mode, combined, registers_at } = self;
        let memory = if *combined { "wc" } else { "uc" };
        write!(f, "{address} {} {mode} {memory} {registers_at}", kind.name)
    }
}

impl FromStr for Told {
    type Err = PciError;

    fn from_str(text: &str) -> Result<Self, PciError> {
        let read = || {
            let words: Vec<&str> = text.split(' ').collect();
            let [address, kind, mode, memory, registers_at] = words[..] else { return None };
            Some(Self {
                address: address.parse().ok()?,
                kind: BoardKind::named(kind)?,
                mode: match mode {
                    "vfio" => Mode::Vfio,
                    "sysfs" => Mode::Sysfs,
                    _ => return None,
                },
                combined: match memory {
                    "wc" => true,
                    "uc" => false,
                    _ => return None,
                },
                registers_at: registers_at.parse().ok().filter(|at| *at < page_size())?,
            })
        };
        read().ok_or_else(|| PciError::Told(text.to_owned()))
    }
}

/// A function that a link has, and how it was before.
#[derive(Debug)]
pub struct Taken {
    tree: Tree,
    address: Address,
    undo: Undo,
    /// By VFIO, once the function is open.
    group: Option<Arc<Group>>,
}

#[derive(Debug)]
enum Undo {
    /// Its driver.
    Binding(Binding),
    /// It was not enabled.
    Disable,
    Nothing,
}

impl Taken {
    fn new(tree: &Tree, address: Address, undo: Undo) -> Self {
        Self { tree: tree.clone(), address, undo, group: None }
    }

    /// Which one it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Has the function be as it was, once nobody has it open any more; waits for that for a while.
    ///
    /// # Errors
    /// Why not, in a line.
    pub fn give_back(self) -> Result<(), String> {
        let Self { tree, address, undo, group } = self;
        // An old kernel may wait for it when the last of its functions is unbound.
        drop(group);
        let (tell, told) = mpsc::channel();
        let returning = tree.returning.clone();
        returning.lock().insert(address);
        let begun = returning.clone();
        let work = move || {
            let done = match undo {
                Undo::Binding(binding) => binding.give_back(&tree),
                Undo::Disable => disable(&tree, address),
                Undo::Nothing => Ok(()),
            };
            begun.has_ended(address);
            let _ = tell.send(done);
        };
        let thread = std::thread::Builder::new().name("bl-give-back".to_owned()).spawn(work);
        thread.map_err(|e| {
            returning.has_ended(address);
            format!("giving back {address}: {e}")
        })?;
        match told.recv_timeout(PATIENCE) {
            Ok(done) => done.map_err(|e| format!("giving back PCI function {address}: {e}")),
            Err(_) => Err(format!("PCI function {address} is still open; it is given back later")),
        }
    }
}

/// Functions that are being given back.
#[derive(Clone, Debug, Default)]
pub(super) struct Returning(Arc<(Mutex<BTreeSet<Address>>, Condvar)>);

impl Returning {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Address>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self, address: Address) {
        self.lock().remove(&address);
        self.0.1.notify_all();
    }
}

impl Tree {
    /// Waits until all that was to be given back has been, for so long at most: who ends before that leaves it
    /// half done.
    pub fn wait_returned(&self, most: Duration) {
        let returning = self.returning.lock();
        let _ = self.returning.0.1.wait_timeout_while(returning, most, |all| !all.is_empty());
    }
}

fn disable(tree: &Tree, address: Address) -> Result<(), PciError> {
    // Whoever maps it by now found it enabled, and has the lock.
    let _lock = match wait_for_lock(tree, address) {
        Err(_) if !tree.directory(address).exists() => return Ok(()),
        lock => lock?,
    };
    match tree.function(address) {
        // It is gone, or somebody else's by now.
        Err(PciError::Absent { .. }) | Ok(Function { driver: Some(_), .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => tree.write(&tree.file(address, "enable"), "0"),
    }
}

/// Takes a function as a link wants it, none of those that are `others`'. In `taken` is what the link has
/// from an earlier try, and from this one, whether it comes to its end or not: a driver must not lose and
/// get back its function each time.
///
/// # Errors
/// Why there is none.
pub fn take(
    tree: &Tree,
    wanted: Wanted,
    others: &[Address],
    taken: &mut Option<Taken>,
) -> Result<Opened, PciError> {
    match wanted.which {
        Which::At(address) => {
            if let Some(other) = taken.take_if(|taken| taken.address != address) {
                // Somebody else's by now, perhaps; this link needs it no more.
                let _ = other.give_back();
            }
            let function = tree.function(address)?;
            let kind = check(&function)?;
            let opened = take_function(tree, &function, kind, wanted.mode, taken);
            opened.map_err(|error| match error {
                // It may go at any moment.
                PciError::Os { .. } if !tree.directory(address).exists() => {
                    PciError::Absent { path: tree.directory(address) }
                }
                error => error,
            })
        }
        Which::Auto => take_any(tree, wanted.mode, others, taken),
    }
}

/// The functions of known kinds that are there, lowest first.
///
/// # Errors
/// The machine has no PCI bus, or sysfs cannot be read.
pub fn known(tree: &Tree) -> Result<Vec<Function>, PciError> {
    // One that goes meanwhile is none.
    let known = tree.functions()?.into_iter().filter_map(|address| {
        let [vendor, device] = tree.ids(address).ok()?;
        BoardKind::of(vendor, device)?;
        tree.function(address).ok()
    });
    Ok(known.collect())
}

/// Tries each function of a known kind that nobody else has, first the one that the link had.
fn take_any(
    tree: &Tree,
    mode: Option<Mode>,
    others: &[Address],
    taken: &mut Option<Taken>,
) -> Result<Opened, PciError> {
    let had = taken.as_ref().map(|taken| taken.address);
    let (held, mut free): (Vec<_>, Vec<_>) =
        known(tree)?.into_iter().partition(|function| others.contains(&function.address));
    free.sort_by_key(|function| (Some(function.address) != had, function.address));
    let mut error = PciError::NoneLeft { taken: held.len() };
    for (n, function) in free.iter().enumerate() {
        if let Some(other) = taken.take_if(|taken| taken.address != function.address) {
            // This one is tried whatever becomes of that.
            let _ = other.give_back();
        }
        // What a driver has was not meant: an address says so.
        let driver = function.driver.clone().filter(|driver| driver != "vfio-pci");
        let tried = match driver {
            Some(driver) => Err(PciError::Driver { address: function.address, driver }),
            None => {
                check(function).and_then(|kind| take_function(tree, function, kind, mode, taken))
            }
        };
        match tried {
            Ok(opened) => return Ok(opened),
            Err(e) if n == 0 => error = e,
            Err(_) => {}
        }
    }
    Err(error)
}

fn take_function(
    tree: &Tree,
    function: &Function,
    kind: &'static BoardKind,
    mode: Option<Mode>,
    taken: &mut Option<Taken>,
) -> Result<Opened, PciError> {
    let address = function.address;
    let mode = mode.unwrap_or(if function.group.is_some() { Mode::Vfio } else { Mode::Sysfs });
    let mut told = Told { address, kind, mode, combined: false, registers_at: 0 };
    if tree.returning.lock().contains(&address) {
        return Err(PciError::Returning { address });
    }
    let config = resource::lock(tree, address)?;
    let fds = match (mode, function.driver.clone()) {
        (Mode::Vfio, _) if function.group.is_none() => return Err(PciError::NoIommu { address }),
        (Mode::Vfio, _) => {
            match taken {
                Some(Taken { undo: Undo::Binding(binding), group, .. }) => {
                    // What is not open must not keep it.
                    *group = None;
                    binding.renew(tree, function)?;
                }
                _ => {
                    let undo = Undo::Binding(Binding::take(tree, function)?);
                    *taken = Some(Taken::new(tree, address, undo));
                }
            }
            let group = Group::of(tree, function)?;
            let device = group.device(address)?;
            if let Some(taken) = taken {
                taken.group = Some(group);
            }
            vec![device, config]
        }
        (Mode::Sysfs, Some(driver)) => return Err(PciError::Driver { address, driver }),
        (Mode::Sysfs, None) => {
            if !function.enabled {
                tree.write(&tree.file(address, "enable"), "1")?;
                *taken = Some(Taken::new(tree, address, Undo::Disable));
            } else if taken.is_none() {
                *taken = Some(Taken::new(tree, address, Undo::Nothing));
            }
            let files = resource::open(tree, function, kind, config)?;
            told.combined = files.combined;
            if let Some(bar) = kind.register_bar().and_then(|(bar, _)| function.bars[bar]) {
                // Less than a page, so it is a usize.
                told.registers_at = usize::try_from(bar.start % page_size() as u64).unwrap_or(0);
            }
            [files.config, files.memory].into_iter().chain(files.registers).collect()
        }
    };
    Ok(Opened { told, fds })
}

/// The kind of a function, if it is one that is known and looks as those do.
///
/// # Errors
/// What is not as it should be.
pub fn check(function: &Function) -> Result<&'static BoardKind, PciError> {
    let &Function { address, vendor, device, class, ref bars, .. } = function;
    let kind = BoardKind::of(vendor, device);
    let kind = kind.ok_or(PciError::NotOurs { address, ids: [vendor, device] })?;
    if class >> 8 != u32::from(kind.class) {
        return Err(PciError::Class { address, kind, class });
    }
    let wrong = |bar, fault| PciError::Bar { address, bar, fault };
    let memory = memory_bar(bars, kind.memory).map_err(|fault| wrong(kind.memory, fault))?;
    if !is_slot_len(memory.len) {
        return Err(wrong(kind.memory, BarFault::Length(memory.len)));
    }
    if let Some((at, end)) = kind.register_bar() {
        let registers = memory_bar(bars, at).map_err(|fault| wrong(at, fault))?;
        if registers.len < end as u64 {
            return Err(wrong(at, BarFault::Registers(registers.len)));
        }
    }
    Ok(kind)
}

fn memory_bar(bars: &[Option<Bar>; 6], bar: usize) -> Result<Bar, BarFault> {
    match bars.get(bar).copied().flatten() {
        None => Err(BarFault::Missing),
        Some(Bar { memory: false, .. }) => Err(BarFault::Ports),
        Some(Bar { start: 0, .. }) => Err(BarFault::Unset),
        Some(bar) => Ok(bar),
    }
}
