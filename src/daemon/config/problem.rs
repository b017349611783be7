//! What is wrong in a config file: where, what, and what would be right.

use std::fmt;
use std::ops::Range;
use std::string::FromUtf8Error;

/// At most so many problems of a file are shown.
pub(super) const SHOWN_MAX: usize = 20;
/// At most so many characters of the offending line are shown.
const LINE_MAX: usize = 120;
/// At most so many characters of a value are quoted.
const VALUE_MAX: usize = 60;

/// Why there is no [`Config`](super::Config).
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// Its name.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is larger than 1 MiB.
    TooLarge {
        /// Its name.
        file: String,
    },
    /// The file was read and is not right.
    Invalid {
        /// Its name.
        file: String,
        /// What is wrong, in the order of the file: at least one problem, at most 20.
        problems: Vec<Problem>,
        /// How many more there are.
        more: usize,
    },
}

impl ConfigError {
    /// The error for a file that is not text.
    pub(super) fn not_utf8(file: &str, error: &FromUtf8Error) -> Self {
        let at = error.utf8_error().valid_up_to();
        // The replacement takes three bytes and begins where the bad octet stands.
        let text = String::from_utf8_lossy(error.as_bytes());
        let problem =
            Problem::new(&text, at..at + 3, "this is not UTF-8".into(), "save it as UTF-8".into());
        Self::Invalid { file: file.into(), problems: vec![problem], more: 0 }
    }
}

impl ConfigError {
    /// How many problems there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Read { .. } | Self::TooLarge { .. } => 1,
            Self::Invalid { problems, more, .. } => problems.len() + more,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, error } => write!(f, "{file}: cannot be read: {error}"),
            Self::TooLarge { file } => write!(f, "{file}: is larger than 1 MiB: not a config"),
            Self::Invalid { file, problems, more } => {
                for (i, problem) in problems.iter().enumerate() {
                    let end = if i == 0 { "" } else { "\n" };
                    write!(f, "{end}{file}:{problem}")?;
                }
                if *more > 0 {
                    write!(f, "\n{file}: and {more} more")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong in a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right; may be empty.
    pub remedy: String,
    /// The line, or the part of it around the column.
    shown: String,
    /// Characters before the caret, and carets.
    caret: (usize, usize),
}

impl Problem {
    /// The problem with the octets `span` of `text`.
    pub(super) fn new(text: &str, span: Range<usize>, what: String, remedy: String) -> Self {
        let start = floor_char(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let marked = &text[start..floor_char(text, span.end.clamp(start, line_end))];
        let before = text[line_start..start].chars().count();
        // A long line is shown from a little before the caret.
        let skipped = if before < LINE_MAX - 40 { 0 } else { before - 20 };
        let shown: String = line.chars().skip(skipped).take(LINE_MAX).map(visible).collect();
        let room = shown.chars().count().saturating_sub(before - skipped);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            what,
            remedy,
            caret: (before - skipped, marked.chars().count().min(room).max(1)),
            shown,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let blank = " ".repeat(number.len());
        writeln!(f, "{}:{}: {}", self.line, self.column, self.what)?;
        writeln!(f, "{}", format!("  {number} | {}", self.shown).trim_end())?;
        let (before, carets) = self.caret;
        // A tab stays a tab, so that the caret stands below its text whatever a tab's width is.
        let indent = self.shown.chars().take(before).map(|c| if c == '\t' { c } else { ' ' });
        let indent: String = indent.collect();
        let line = format!("  {blank} | {indent}{} {}", "^".repeat(carets), self.remedy);
        f.write_str(line.trim_end())
    }
}

/// The greatest boundary of a character that is not above `at`.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Keeps a file from writing control sequences to the reader's terminal.
fn visible(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

/// `value` as messages quote it: escaped, and cut if it is long.
pub(super) fn quoted(value: &str) -> String {
    if value.chars().count() <= VALUE_MAX {
        return format!("{value:?}");
    }
    let cut: String = value.chars().take(VALUE_MAX).collect();
    format!("{cut:?}...")
}

/// The word of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > VALUE_MAX {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = (word.len() / 3).max(1);
    let near = known.iter().filter_map(|&candidate| {
        let other: Vec<char> = candidate.to_lowercase().chars().collect();
        let distance = distance(&word, &other);
        let begins = word.len() >= 3 && (other.starts_with(&word) || word.starts_with(&other));
        (distance <= allowed || begins).then_some((distance, candidate))
    });
    near.min_by_key(|&(distance, _)| distance).map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, replaced, or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
