//! Why a link is left, when the fault is the other end's.

use std::fmt;

use crate::tunnel::fifo::FifoError;

/// What the other end did wrong.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FifoError> for Broken {
    fn from(e: FifoError) -> Self {
        Self(e.to_string())
    }
}
