//! Where the demo's words go. For people: the report on standard output. With `--json`: the one
//! object there, and nothing else. Progress goes to standard error, on a terminal as one line that
//! is written over, elsewhere as a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::error::Error;

/// Time between two progress lines where they cannot be written over.
const PAUSE: Duration = Duration::from_secs(5);

/// Standard output and standard error, as the demo uses them.
#[derive(Debug)]
pub(super) struct Console {
    json: bool,
    terminal: bool,
    /// Whether a progress line stands on the terminal.
    pending: bool,
    last: Instant,
}

impl Console {
    /// A console that reports to people, or with `json` to a program.
    pub(super) fn new(json: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { json, terminal, pending: false, last: Instant::now() }
    }

    /// Something people want to know as the result: not shown with `--json`.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Error> {
        if self.json { Ok(()) } else { self.print(text) }
    }

    /// A stage that is reached: on standard error with `--json`.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn stage(&mut self, text: &str) -> Result<(), Error> {
        if self.json {
            self.warn(text);
            return Ok(());
        }
        self.print(text)
    }

    /// The object that `--json` asked for.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn object(&mut self, text: &str) -> Result<(), Error> {
        if self.json { self.print(text) } else { Ok(()) }
    }

    /// A line on standard error, come what may.
    pub(super) fn warn(&mut self, text: &str) {
        self.clear();
        // Nobody is left to tell that standard error is gone.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// How far a wait or measurement is.
    pub(super) fn progress(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(io::stderr().lock(), "\r{text}\x1b[K");
            self.pending = true;
        } else if self.last.elapsed() >= PAUSE {
            self.last = Instant::now();
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Takes the progress line away.
    pub(super) fn clear(&mut self) {
        self.last = Instant::now();
        if std::mem::take(&mut self.pending) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Error> {
        self.clear();
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::Output)
    }
}
