//! The CPU that a thread runs on.

use std::io;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The greatest number of a CPU.
pub const CPU_MAX: u32 = 1023;

/// Has the calling thread run on this CPU alone, whatever it was bound to before.
///
/// # Errors
/// The CPU is not there, or is not for this process, or the kernel refuses for another reason.
pub fn bind(cpu: u32) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    let cpu = usize::try_from(cpu).ok().filter(|cpu| *cpu < CpuSet::MAX_CPU);
    cpus.set(cpu.ok_or(Errno::INVAL)?);
    Ok(sched_setaffinity(None, &cpus)?)
}
