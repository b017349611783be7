//! The CPU that a worker is bound to.

use std::io::ErrorKind;
use std::sync::PoisonError;

use super::Job;
use crate::daemon::status::CpuStatus;
use crate::os::affinity::bind;
use crate::os::log::Log;

/// A CPU for a worker.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Its number, up to [`CPU_MAX`](crate::os::affinity::CPU_MAX).
    pub number: u32,
    /// Where to say that it cannot be had.
    pub log: Log,
}

/// Binds the calling thread to the job's CPU, if it has one. Without it, it goes on where it may.
pub(super) fn bind_to(job: &Job) {
    let Some(Cpu { number, log }) = &job.cpu else { return };
    let reason = bind(*number).err().map(|e| match e.kind() {
        ErrorKind::InvalidInput => "it is not there, or not for this process".to_owned(),
        _ => e.to_string(),
    });
    if let Some(reason) = &reason {
        log.warn(format_args!("a worker is not bound to CPU {number}: {reason}"));
    }
    let mut cpu = job.stats.cpu.lock().unwrap_or_else(PoisonError::into_inner);
    *cpu = Some(CpuStatus { number: *number, reason });
}
