//! A lock file: it tells a live owner from the leftovers of a dead one.
//!
//! The kernel lets go of the lock when its owner ends, however that is. The file holds the owner's
//! process id, for people, and is removed with the lock still held, so that nobody else's is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock that is held.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: File,
}

/// Why a lock is not had.
#[derive(Debug)]
pub enum LockError {
    /// A live process has it.
    Held {
        /// What that one wrote about itself: its process id.
        pid: String,
    },
    /// The operating system refused something.
    Os {
        /// What was tried.
        doing: &'static str,
        /// The error.
        error: io::Error,
    },
}

impl LockFile {
    /// Takes the lock, or says who has it. Only the owner's user may open the file, so nobody else
    /// can take the lock away before there is an owner.
    ///
    /// # Errors
    /// Somebody has it; the system refuses.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let os = |doing| move |error| LockError::Os { doing, error };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(os("open the lock"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    // A lock of something else has no text, and is held all the same.
                    let _ = (&file).take(32).read_to_string(&mut pid);
                    return Err(LockError::Held { pid: pid.trim().to_owned() });
                }
                Err(error) => return Err(os("lock")(error.into())),
            }
            // Its last owner may have removed the file between our opening and locking it.
            if !stands_at(&file, path) {
                continue;
            }
            file.set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .map_err(os("write"))?;
            return Ok(Self { path: path.to_owned(), file });
        }
    }

    /// Whether there is a lock file whose owner is dead.
    pub fn is_left(path: &Path) -> bool {
        File::open(path).is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK)
        })
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Somebody may have taken it away, with its directory; then there is nothing to remove.
        if stands_at(&self.file, &self.path) {
            if let Err(error) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove the lock");
            }
        }
    }
}

fn stands_at(file: &File, path: &Path) -> bool {
    let inode = |m: io::Result<fs::Metadata>| m.map(|m| (m.dev(), m.ino())).ok();
    inode(file.metadata()) == inode(fs::symlink_metadata(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_owner_and_goes_with_it() {
        let path = std::env::temp_dir().join(format!("bl-lock-{}", std::process::id()));
        fs::write(&path, "what a dead owner left, and longer than a number").unwrap();
        assert!(LockFile::is_left(&path));
        let lock = LockFile::take(&path).unwrap();
        match LockFile::take(&path) {
            Err(LockError::Held { pid }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        assert!(!LockFile::is_left(&path));
        drop(lock);
        assert!(!path.exists() && !LockFile::is_left(&path));
        let lock = LockFile::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(lock);
        fs::remove_file(&path).expect("it is another's");
    }
}
