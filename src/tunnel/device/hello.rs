//! Whether two ends fit, from what they say in HELLO.

use std::fmt;

use crate::spec::msg;
use crate::tunnel::message::{Dialect, Hello};

/// Least value of a HELLO's greatest message, in bytes: what HELLO itself takes.
const MIN_LEN: u32 = 72;

/// The driver end does not fit this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloRefused {
    /// What this end is.
    pub ours: Hello,
    /// What the driver end is.
    pub theirs: Hello,
}

impl fmt::Display for HelloRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ours, theirs } = self;
        let (what, their_number, our_number) = if theirs.layout != ours.layout {
            ("window layout", theirs.layout, ours.layout)
        } else if theirs.revision != ours.revision {
            ("virtio-msg revision", theirs.revision, ours.revision)
        } else {
            ("greatest message", theirs.max_len, ours.max_len)
        };
        write!(
            f,
            "{what} {their_number} at the other end (version {}), {our_number} here (version {}): ",
            theirs.version, ours.version
        )?;
        if theirs.layout == ours.layout && theirs.revision == ours.revision {
            write!(f, "both ends must take messages of {MIN_LEN} bytes")
        } else {
            write!(f, "run versions that have the same")
        }
    }
}

/// The greatest message in bytes that this end takes.
pub(super) fn limit(dialect: Dialect, ours: &Hello) -> usize {
    let len = usize::try_from(ours.max_len.max(dialect.longest_fixed()));
    len.map_or(msg::MAX_LEN, |len| len.min(msg::MAX_LEN))
}

/// The greatest message in bytes that both ends take.
pub(super) fn check(ours: &Hello, theirs: &Hello) -> Result<usize, HelloRefused> {
    if theirs.layout != ours.layout || theirs.revision != ours.revision || theirs.max_len < MIN_LEN
    {
        return Err(HelloRefused { ours: ours.clone(), theirs: theirs.clone() });
    }
    Ok(usize::try_from(theirs.max_len).map_or(msg::MAX_LEN, |len| len.min(msg::MAX_LEN)))
}
