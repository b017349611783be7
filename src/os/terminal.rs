//! The terminal that a process was started from.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};

/// The controlling terminal as it was at some moment, if there was one (tty(4)).
#[derive(Debug)]
pub struct Terminal(Option<OwnedFd>);

impl Terminal {
    /// This process's, unless whoever started it has it outlive that, as nohup(1) does: SIGHUP is
    /// ignored then. To be called before that signal is handled.
    pub fn of_process() -> Self {
        if ignores_hang_ups() {
            return Self(None);
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(open("/dev/tty", flags, Mode::empty()).ok())
    }

    /// Whether there was one that has been hung up since: closed, or left by the shell in it.
    pub fn is_gone(&self) -> bool {
        let Some(terminal) = &self.0 else { return false };
        let mut fds = [PollFd::new(terminal, PollFlags::empty())];
        let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

/// Whether the first signal of this process's mask of ignored ones is set (proc_pid_status(5)).
fn ignores_hang_ups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}
