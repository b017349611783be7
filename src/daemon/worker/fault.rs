//! Why a worker ends by itself.

use super::FINISH_TIME;
use crate::net::path::PathError;
use crate::os::tap::LostTap;

/// Why a worker cannot go on.
pub(super) enum Fault {
    Path(PathError),
    Tap(LostTap),
    Poll(std::io::Error),
    Engine,
    SlowEngine,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(e) => write!(f, "{e}"),
            Self::Tap(e) => write!(f, "{e}"),
            Self::Poll(e) => write!(f, "waiting for work: {e}"),
            Self::Engine => f.write_str("the DMA engine's thread has ended"),
            Self::SlowEngine => write!(
                f,
                "the DMA engine has not done within {} s what was under way",
                FINISH_TIME.as_secs()
            ),
        }
    }
}

impl From<PathError> for Fault {
    fn from(e: PathError) -> Self {
        Self::Path(e)
    }
}

impl From<LostTap> for Fault {
    fn from(e: LostTap) -> Self {
        Self::Tap(e)
    }
}
