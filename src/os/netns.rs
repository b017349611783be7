//! Network namespaces, by name as `ip netns` knows them, by path, or by a process in them.
//!
//! A namespace is entered by a thread, not by a process, and a thread that has entered one is good
//! for nothing else: [`Namespace::run`] takes a fresh thread each time and ends it. So no runtime's
//! worker changes namespaces under the tasks that it runs. Nothing is forked: a process with
//! threads must not run code of its own after fork(2).
//!
//! What is opened inside stays inside: sockets and /dev/net/tun keep the namespace of their opening,
//! and a process that is started inside inherits it. /sys keeps showing the namespace that it was
//! mounted in.
//!
//! A named namespace is a bind mount of its /proc entry on /run/netns/NAME. That directory is made a
//! shared mount (as iproute2 does, under the same lock), so that removing a name also takes it out
//! of mount namespaces that were copied in between; otherwise those would keep the network alive.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

const NAMES: &str = "/run/netns";
/// The calling thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// What statfs(2) gives as the type of a namespace's file (linux/magic.h: NSFS_MAGIC).
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// More mounts than this are never found on one name.
const STACKED_MOUNTS_MAX: usize = 16;

/// A network namespace, kept alive while this is held.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a new, empty namespace that `ip netns` lists as `name`. It has a loopback, which is down.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name; a file that is left from a creation that was
    /// interrupted is replaced.
    pub fn create(name: &str) -> io::Result<Self> {
        let path = named(name)?;
        let _lock = share_names()?;
        if is_namespace(&path) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("network namespace {name} exists already"),
            ));
        }
        remove_path(&path)?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o000).open(&path)?;
        let fd = in_fresh_thread(|| {
            // SAFETY: a network namespace of its own changes nothing about the file descriptors
            // that this thread shares with the others.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            mount_bind(OWN, &path)?;
            open_path(Path::new(OWN))
        })?;
        match fd {
            Ok(fd) => Ok(Self { fd }),
            Err(error) => {
                // The first error tells more than one of cleaning up.
                let _ = remove_path(&path);
                Err(explain(error, &format!("creating network namespace {name}")))
            }
        }
    }

    /// The namespace that `what` means: a path if it has a slash; else the name of one that
    /// `ip netns` lists; else the id of a process in it.
    pub fn open(what: &str) -> io::Result<Self> {
        let path = if what.contains('/') {
            PathBuf::from(what)
        } else {
            let path = named(what)?;
            let pid = what.bytes().all(|b| b.is_ascii_digit());
            if pid && !path.exists() { format!("/proc/{what}/ns/net").into() } else { path }
        };
        let fd = open_path(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(e.kind(), format!("network namespace {what} does not exist"))
            }
            _ => explain(e, &format!("network namespace {what} ({})", path.display())),
        })?;
        Ok(Self { fd })
    }

    /// One that was opened otherwise.
    ///
    /// # Errors
    /// The descriptor is none of a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        check_kind(&fd)?;
        Ok(Self { fd })
    }

    /// What tells it from the others that there are: of one that has ended, another may have it.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The calling thread's own.
    pub fn current() -> io::Result<Self> {
        Ok(Self { fd: open_path(Path::new(OWN))? })
    }

    /// Takes the name away; done if there is none. The namespace ends with its last user.
    pub fn remove(name: &str) -> io::Result<()> {
        let path = named(name)?;
        remove_path(&path).map_err(|e| explain(e, &format!("removing network namespace {name}")))
    }

    /// Another handle of the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Runs `f` on a fresh thread inside the namespace and gives its value; a panic of `f` goes on
    /// here. It blocks: an async task calls it through `spawn_blocking`.
    ///
    /// # Errors
    /// If the thread cannot be made, or may not enter (that needs CAP_SYS_ADMIN).
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_fresh_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| explain(e.into(), "entering a network namespace"))?;
            Ok(f())
        })?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn in_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        thread.join().map_or_else(|panic| resume_unwind(panic), Ok)
    })
}

fn named(name: &str) -> io::Result<PathBuf> {
    let bad = name.is_empty() || name == "." || name == ".." || name.len() > 255;
    if bad || name.bytes().any(|b| b == b'/' || b == 0) {
        let text = format!("{name:?} cannot name a network namespace");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(Path::new(NAMES).join(name))
}

/// Opens without waiting for whatever the path may be, and sees that it is a network namespace.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    check_kind(&fd)?;
    Ok(fd)
}

fn check_kind(fd: &OwnedFd) -> io::Result<()> {
    let network = libc::CLONE_NEWNET;
    // SAFETY: the request takes no argument; on a file of another type it fails.
    let kind = is_nsfs(fd).then(|| unsafe { libc::ioctl(fd_number(fd), libc::NS_GET_NSTYPE) });
    if kind != Some(network) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no network namespace"));
    }
    Ok(())
}

fn fd_number(fd: &OwnedFd) -> std::ffi::c_int {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn is_nsfs(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == NSFS_MAGIC))
}

fn is_namespace(path: &Path) -> bool {
    open_path(path).is_ok()
}

/// Makes the directory of names, makes it a shared mount, and gives the lock that iproute2 takes
/// while it does the same: two at once would mount it over itself twice.
fn share_names() -> io::Result<File> {
    let explain = |e| explain(e, NAMES);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(NAMES).map_err(explain)?;
    let lock = File::open(NAMES).map_err(explain)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| explain(e.into()))?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(NAMES, shared) {
        // It is a plain directory yet.
        Err(Errno::INVAL) => {
            mount_bind_recursive(NAMES, NAMES).map_err(|e| explain(e.into()))?;
            mount_change(NAMES, shared).map_err(|e| explain(e.into()))?;
        }
        done => done.map_err(|e| explain(e.into()))?,
    }
    Ok(lock)
}

fn remove_path(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MOUNTS_MAX {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn explain(error: io::Error, what: &str) -> io::Error {
    let hint = match error.kind() {
        // Without CAP_SYS_PTRACE processes may be out of sight or reach.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied if what.contains("(/proc/") => {
            " (to a systemd unit processes are out of sight: `ip netns attach NAME PID` names it)"
        }
        io::ErrorKind::PermissionDenied => " (it needs root, or CAP_SYS_ADMIN)",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{what}: {error}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(named(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert_eq!(named("bl-master").unwrap(), Path::new("/run/netns/bl-master"));
    }

    #[test]
    fn a_file_that_is_no_network_namespace_is_refused() {
        for other in ["/proc/thread-self/ns/mnt", "/dev/null", "/proc/self/status"] {
            let error = Namespace::open(other).unwrap_err();
            assert!(error.to_string().contains("no network namespace"), "{error}");
        }
        let error = Namespace::open("/no/such/file").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_id_means_that_process_namespace() {
        let own = Namespace::current().unwrap();
        let by_pid = Namespace::open(&std::process::id().to_string()).unwrap();
        let (a, b) = (rustix::fs::fstat(&own).unwrap(), rustix::fs::fstat(&by_pid).unwrap());
        assert_eq!((a.st_dev, a.st_ino), (b.st_dev, b.st_ino));
    }
}
