//! A function that is looked at where nobody has taken it: nothing of it is changed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::error::{BarFault, PciError};
use super::kinds::BoardKind;
use super::resource::mapping_error;
use super::sysfs::{Function, Tree};
use crate::os::fabric::looked::Looked;

/// The command register in config space, and its bit by which a function answers for its memory.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 2;

impl Tree {
    /// Whether the function answers for its memory: one that nobody has enabled need not.
    ///
    /// # Errors
    /// Its config space cannot be read.
    pub fn answers(&self, function: &Function) -> Result<bool, PciError> {
        let path = self.file(function.address, "config");
        let mut command = [0; 2];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut command, COMMAND));
        match read {
            Ok(()) => Ok(u16::from_le_bytes(command) & COMMAND_MEMORY != 0),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(PciError::Permission { path }),
            Err(error) => Err(PciError::Os { path, error }),
        }
    }

    /// Maps a function's memory, which it must answer for, to be read only.
    ///
    /// # Errors
    /// The kernel does not map it for this user.
    pub fn look(&self, function: &Function, kind: &BoardKind) -> Result<Looked, PciError> {
        let (address, bar) = (function.address, kind.memory);
        let path = self.file(address, &format!("resource{bar}"));
        let wrong = |fault| PciError::Bar { address, bar, fault };
        let len = function.bars[bar].ok_or(wrong(BarFault::Missing))?.len;
        let len = usize::try_from(len).map_err(|_| wrong(BarFault::AddressSpace(len)))?;
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => PciError::Permission { path: path.clone() },
            _ => PciError::Os { path: path.clone(), error },
        })?;
        Looked::map(file.as_fd(), 0, len).map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => mapping_error(self, path, errno),
            None => PciError::Os { path, error },
        })
    }
}
