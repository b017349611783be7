//! Without the transport `pci:` there are no functions.

use tokio::sync::watch;

use super::broker::Broker;
use super::config::Address;

/// None.
#[derive(Debug)]
pub struct Functions(watch::Sender<Vec<Address>>);

impl Functions {
    /// None.
    pub fn new(_: Broker) -> Self {
        Self(watch::Sender::default())
    }

    /// None.
    pub fn there(&self) -> Vec<Address> {
        Vec::new()
    }

    /// Tells of nothing.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Address>> {
        self.0.subscribe()
    }

    /// Finds none.
    pub async fn look(&self) {}

    /// Finds none.
    pub fn follow(&self) {}
}

/// None.
pub fn of_machine() -> Vec<Address> {
    Vec::new()
}
