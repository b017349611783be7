//! Without the transport pci: no link has a PCI function.

use super::protocol::Refused;
use super::server::Granted;
use crate::daemon::config::Transport;

#[derive(Debug, Default)]
pub(super) struct Functions(());

impl Functions {
    pub(super) fn take<'a>(
        &mut self,
        _: &str,
        _: &Transport,
        _: impl Iterator<Item = &'a Transport>,
    ) -> Result<Granted, Refused> {
        Err("this program is built without PCI".into())
    }

    pub(super) fn list(&self) -> Result<String, Refused> {
        Ok(String::new())
    }

    pub(super) fn is_there(&self, _: &Transport) -> bool {
        false
    }

    pub(super) fn uevents() -> Result<Granted, Refused> {
        Err("this program is built without PCI".into())
    }

    pub(super) fn release(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    pub(super) fn release_all(&mut self) {}

    pub(super) fn outlive_daemon(&mut self, _: bool) {}
}
