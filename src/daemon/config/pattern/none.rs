//! Without the transport `pci:` there are no patterns.

use toml::de::DeTable;

use super::reader::{Place, Reader};
use super::{Config, LinkConfig, Netns, Role, Transport, transport};

/// No function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {}

/// No entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) functions: Covered,
    pub(super) link: LinkConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covered {}

pub(super) const OF_ONE_LINK: &[&str] = &[];
pub(super) const SLOT_MAX: u32 = u32::MAX >> 1;

impl Covered {
    pub(super) fn longest_place(self) -> String {
        match self {}
    }
}

impl Pattern {
    /// None.
    pub fn netns(&self) -> Option<&Netns> {
        match self.functions {}
    }

    pub(super) fn transport(&self) -> String {
        match self.functions {}
    }
}

impl Config {
    /// The link that a name means.
    pub fn link_named(&self, name: &str) -> Option<LinkConfig> {
        self.links.iter().find(|link| link.name == name).cloned()
    }

    /// The links that are to run.
    pub fn links_with(&self, _: &[Address]) -> Vec<LinkConfig> {
        self.links.clone()
    }

    pub(super) fn links_of(&self, _: &Pattern, _: &[Address]) -> impl Iterator<Item = LinkConfig> {
        std::iter::empty()
    }

    /// None.
    pub fn nameless(&self, _: &[Address]) -> Vec<String> {
        Vec::new()
    }

    /// Whether there is anything whose function may come and go.
    pub fn has_functions(&self) -> bool {
        false
    }
}

pub(super) fn slot(_: &Transport) -> Option<u32> {
    None
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    role: Role,
) -> (Option<Covered>, Option<Transport>) {
    (None, transport::read(reader, table, role))
}

/// Where an entry has its name and its transport.
#[allow(dead_code, reason = "patterns alone ask for it")]
pub(super) struct Places {
    pub(super) name: Place,
    pub(super) transport: Place,
}

pub(super) fn check_all(_: &mut Reader<'_>, _: &[(LinkConfig, Places)], _: &[(Pattern, Places)]) {}
