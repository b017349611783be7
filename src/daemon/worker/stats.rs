//! What a worker counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::atomic::AtomicU64;
use crate::daemon::status::CpuStatus;
use crate::net::frame::Drop as FrameDrop;

/// One thread at a time writes them, and locked additions were nearly a fifth of a short frame's way.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(n as u64);
    counter.store(sum, Ordering::Relaxed);
}

/// Says how much there is now.
pub(super) fn set(gauge: &AtomicU32, n: usize) {
    gauge.store(u32::try_from(n).unwrap_or(u32::MAX), Ordering::Relaxed);
}

/// Counters of one direction; written by one worker, read by anyone.
#[derive(Debug, Default)]
pub struct DirectionStats {
    /// Frames.
    pub frames: AtomicU64,
    /// Bytes from the Ethernet header on.
    pub bytes: AtomicU64,
    /// Frames dropped, by `net::frame::Drop as usize`.
    pub drops: [AtomicU64; FrameDrop::ALL.len()],
}

impl DirectionStats {
    pub(super) fn frame(&self, bytes: usize) {
        self.frames(1, bytes);
    }

    /// So many frames, of so many bytes together.
    pub(super) fn frames(&self, frames: usize, bytes: usize) {
        add(&self.frames, frames);
        add(&self.bytes, bytes);
    }

    pub(in crate::daemon) fn dropped(&self, reason: FrameDrop) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counters of a queue pair. `rx` is what the netdev received.
#[derive(Debug, Default)]
pub struct QueueStats {
    /// Ring to netdev.
    pub rx: DirectionStats,
    /// Netdev to ring.
    pub tx: DirectionStats,
    /// Doorbells rung.
    pub notifications_sent: AtomicU64,
    /// Doorbells heard.
    pub notifications_received: AtomicU64,
    /// Work found at a heartbeat without a doorbell.
    pub rescues: AtomicU64,
    /// Times that the other end had sent what it may.
    pub throttled: AtomicU64,
    /// Sleeps that have ended.
    pub wakeups: AtomicU64,
    /// Descriptors of each way's queue ([`OUT`](super::OUT), [`IN`](super::IN)) that are with the device, and
    /// how many there are; as [`Path::filled`](crate::net::path::Path::filled) has them.
    pub filled: [AtomicU32; 2],
    /// As above.
    pub sizes: [AtomicU32; 2],
    /// Bytes of frames that our own code copied; not what system calls and the engine did.
    pub copied: AtomicU64,
    /// Transfers given to the engine, and their bytes.
    pub transfers: AtomicU64,
    /// As above.
    pub transfer_bytes: AtomicU64,
    /// Transfers that are under way.
    pub under_way: AtomicU32,
    /// Most transfers that were under way at once.
    pub most_under_way: AtomicU64,
    /// The CPU that its thread is bound to, or is not; written as it starts.
    pub cpu: Mutex<Option<CpuStatus>>,
}

impl QueueStats {
    /// A worker begins, on queues of so many descriptors.
    pub(super) fn at_work(&self, sizes: [u16; 2]) {
        for (gauge, size) in self.sizes.iter().zip(sizes) {
            set(gauge, size.into());
        }
    }

    /// It has ended: nothing is filled any more.
    pub(super) fn at_rest(&self) {
        let gauges = self.filled.iter().chain(&self.sizes).chain([&self.under_way]);
        gauges.for_each(|gauge| set(gauge, 0));
    }
}
