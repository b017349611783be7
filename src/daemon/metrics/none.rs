//! Without metrics, as this program is built: a config that asks for them is refused.

use std::os::fd::OwnedFd;

use super::broker::Broker;
use super::config::Metrics as Place;
use super::status::{MetricsStatus, Status};
use crate::os::access::Access;
use crate::os::socket_file::SocketFile;

/// Nobody.
#[derive(Debug)]
pub struct Metrics(());

impl Metrics {
    /// Nowhere.
    pub fn new(_: Broker) -> Self {
        Self(())
    }

    /// No config has a place.
    pub fn move_to(&self, _: Option<&Place>) {}

    /// None.
    pub fn status(&self) -> Option<MetricsStatus> {
        None
    }

    /// Answers nobody.
    pub async fn serve(&self, _: impl Fn() -> Status) {
        std::future::pending().await
    }
}

/// Does not.
///
/// # Errors
/// Always.
pub fn listen(_: &Place, _: &Access) -> Result<(Option<SocketFile>, OwnedFd), String> {
    Err("this program is built without metrics".to_owned())
}
