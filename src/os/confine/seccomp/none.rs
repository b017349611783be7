//! What stands in the lists' place on machines that they have not been tried on.

use std::io;

use super::Part;

/// There is none.
pub(super) fn filter(_: Part) -> io::Result<()> {
    let text = format!("there is no list of system calls for {}", std::env::consts::ARCH);
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}
