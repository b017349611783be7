//! Child processes that live in a network namespace of their own and die with the thread that
//! started them.
//!
//! The namespace is entered by the child itself, between fork and exec: the parent's threads stay
//! where they are. The death signal (`PR_SET_PDEATHSIG`) is tied to the *thread* that forked, so
//! [`spawn`] must be called from one that lives as long as the children shall. The child leads a
//! process group of its own: Ctrl-C in a terminal reaches the parent only, which then ends its
//! children in the order it likes.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Starts `command` inside the network namespace that `netns` is an open file of (in the caller's
/// namespace without one). The child is killed when the calling thread ends.
///
/// # Errors
/// Those of [`Command::spawn`], and the ones of setns and prctl in the child.
pub fn spawn(command: &mut Command, netns: Option<OwnedFd>) -> io::Result<Child> {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above took effect.
        if getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if let Some(netns) = &netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe work is allowed. `prepare` makes three
    // system calls through rustix (prctl, getppid, setns) and builds errors from their numbers: no
    // allocation, no lock, no access to state that another thread may have been changing.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Whether this process, which [`spawn`] has started, is killed when the thread that did that ends.
///
/// # Errors
/// Those of prctl(2).
pub fn die_with_parent(dies: bool) -> io::Result<()> {
    Ok(set_parent_process_death_signal(dies.then_some(Signal::KILL))?)
}

/// From now on this process ignores what asks one to stop: it ends with its parent.
pub fn ignore_stops() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no handler runs for a signal that is ignored. The number is a signal's, so the call
        // does not fail.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            spawn(command.arg("60").stdin(Stdio::null()), None)
        });
        let mut child = child.join().unwrap().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(10), "the child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_fails_the_spawn() {
        let netns = File::open("/dev/null").unwrap();
        let mut command = Command::new("true");
        assert!(spawn(&mut command, Some(netns.into())).is_err());
    }
}
