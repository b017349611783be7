//! What the other end may send: whose addresses, and how much.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::QueueStats;
use crate::net::frame::Drop as FrameDrop;
use crate::net::rate::{self, Rate};
use crate::net::sources::Sources;

/// What the other end of a link may send, the same for all its workers; all of it by default.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Whom its frames may claim to be from.
    pub sources: Option<Arc<Sources>>,
    /// How much.
    pub rate: Option<Arc<Rate>>,
}

impl Limits {
    /// Judges a frame by its private start.
    pub(super) fn check(&self, prefix: &[u8]) -> Result<(), FrameDrop> {
        self.sources.as_ref().map_or(Ok(()), |sources| sources.check(prefix))
    }

    /// Frames that are taken at this time.
    pub(super) fn batch(&self, now: Instant) -> Batch<'_> {
        Batch(self.rate.as_ref().map(|rate| rate.batch(now)))
    }
}

/// Frames that are taken at one time.
pub(super) struct Batch<'r>(Option<rate::Batch<'r>>);

impl Batch<'_> {
    /// Whether no more may be taken, which is counted, and then when to look again.
    pub(super) fn is_spent(&self, stats: &QueueStats) -> Option<Instant> {
        let due = self.0.as_ref()?.is_spent()?;
        stats.throttled.fetch_add(1, Ordering::Relaxed);
        Some(due)
    }

    /// A frame of so many bytes was taken; 0: it was dropped unread.
    pub(super) fn take(&self, len: usize) {
        if let Some(batch) = &self.0 {
            batch.take(len);
        }
    }
}
