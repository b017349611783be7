//! What there is to look at on this machine. Nothing is touched: no socket of a slot is connected to.

use std::path::Path;

use serde::Serialize;

#[cfg(feature = "pci")]
use super::functions::FunctionLine;
use super::{Asked, Daemons};
use crate::daemon::control::client::is_slot;
#[cfg(feature = "pci")]
use crate::os::fabric::pci::Tree;

/// All of it; later versions only add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct List {
    /// PCI functions of kinds that are known.
    #[cfg(feature = "pci")]
    pub functions: Vec<FunctionLine>,
    /// Without the feature there are none.
    #[cfg(not(feature = "pci"))]
    pub functions: [(); 0],
    /// Paths of the slots' sockets of a backplane.
    pub slots: Vec<String>,
    /// Links of the daemons that run.
    pub links: Vec<LinkLine>,
}

/// A link of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LinkLine {
    /// Whose link it is, and its state.
    #[serde(flatten)]
    pub asked: Asked,
    /// Its transport, as `status` has it.
    pub transport: String,
    /// Why it is not up.
    pub reason: Option<String>,
}

impl List {
    /// What is in `directory`, and what the daemons say.
    pub(super) fn new(directory: &Path, daemons: &Daemons) -> Self {
        let links = daemons.links().map(|(asked, link)| LinkLine {
            asked,
            transport: link.transport.clone(),
            reason: link.reason.clone(),
        });
        Self {
            #[cfg(feature = "pci")]
            functions: super::functions::list(&Tree::default()),
            #[cfg(not(feature = "pci"))]
            functions: [],
            slots: slots(directory),
            links: links.collect(),
        }
    }
}

/// The slots' sockets, sorted by number.
fn slots(directory: &Path) -> Vec<String> {
    // A directory that is missing or closed to this user has none that he could use.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| is_slot(name)).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names.iter().map(|name| directory.join(name).display().to_string()).collect()
}
