//! A program that is told things through its standard input, and answers into its log.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::World;

const POLL: Duration = Duration::from_millis(5);
/// What an error shows of what was said instead.
const TAIL_BYTES: usize = 2000;

/// A running program; its world ends it.
pub(crate) struct Talk {
    name: String,
    input: ChildStdin,
    log: PathBuf,
    /// Bytes of the log that were answers to what was asked before.
    heard: u64,
}

impl Talk {
    /// Starts it on a machine of `world`, as the daemon of this name.
    pub(crate) fn start(world: &mut World, name: &str, machine: &str, words: &[String]) -> Self {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let log = world.log_path(name);
        // One that ran before by this name has written, too.
        let heard = fs::metadata(&log).map_or(0, |log| log.len());
        let input = world.start_told(name, machine, &words, Stdio::piped()).unwrap();
        Self { name: name.to_owned(), input, log, heard }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tells it a line.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap_or_else(|e| panic!("{}: {line:?}: {e}", self.name));
    }

    /// Waits until `find` finds something in what was said since the last find; says how long it took.
    pub(crate) fn hear<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            let text = self.said();
            let (name, length) = (&self.name, text.len());
            if let Some(found) = find(&text) {
                eprintln!("{name}: {what} after {:.2} s", start.elapsed().as_secs_f64());
                self.heard += length as u64;
                return found;
            }
            if start.elapsed() >= limit {
                let tail = &text[length.saturating_sub(TAIL_BYTES)..];
                panic!("{name}: {what}: not within {} s, but {tail:?}", limit.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// What was said since the last find.
    fn said(&self) -> String {
        let mut file = File::open(&self.log).unwrap();
        file.seek(SeekFrom::Start(self.heard)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        // Neither testpmd nor a guest's console says anything but ASCII, so lengths stay.
        bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
    }
}
