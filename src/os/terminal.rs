//! The terminal that a process was started from, and one as a screen that is drawn anew.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::tcgetwinsize;

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

// Control sequences (xterm's ctlseqs, after ECMA-48): the other screen and no cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Columns and rows of a terminal that does not say.
const USUAL: [usize; 2] = [80, 24];

/// Columns and rows of the terminal that standard output is, now.
pub fn size() -> [usize; 2] {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(USUAL, |size| [size.ws_col, size.ws_row].map(usize::from))
}

/// Standard output as a screen of its own. What was on the terminal is back when this is dropped.
#[derive(Debug)]
pub struct Screen(File);

impl Screen {
    /// Goes over to a screen of its own.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn enter() -> io::Result<Self> {
        let screen = Self(io::stdout().as_fd().try_clone_to_owned()?.into());
        (&screen.0).write_all(ENTER.as_bytes())?;
        Ok(screen)
    }

    /// Shows a text that fits, in one write and over what was there, so that nothing flickers.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn show(&self, text: &str) -> io::Result<()> {
        let mut octets = HOME.to_owned();
        for (n, line) in text.lines().enumerate() {
            // The carriage return is for a terminal that somebody has made raw.
            octets += if n == 0 { "" } else { "\r\n" };
            octets += line;
            octets += CLEAR_TO_END_OF_LINE;
        }
        octets += CLEAR_BELOW;
        (&self.0).write_all(octets.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // One that is gone needs nothing.
        let _ = (&self.0).write_all(LEAVE.as_bytes());
    }
}

/// Whether the first signal of this process's mask of ignored ones is set (proc_pid_status(5)).
fn ignores_hang_ups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}
