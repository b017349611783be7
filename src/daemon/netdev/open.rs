//! The TAP of a link: opened for it by whoever may, and removed where a daemon has left it.

use std::io;

use super::ALIAS;
use crate::daemon::config::Netns;
use crate::os::netns::Namespace;
use crate::os::tap::{Existing, Owner, Tap, TapError};

/// The network namespace that a config means.
///
/// # Errors
/// There is none; or it may not be opened.
pub fn open_namespace(netns: &Netns) -> io::Result<Namespace> {
    match netns {
        Netns::Name(name) => Namespace::open(name),
        Netns::Path(path) => Namespace::open(&path.to_string_lossy()),
        Netns::Pid(pid) => Namespace::open(&pid.to_string()),
    }
}

/// Removes the netdev `name` of the calling thread's network namespace, if a daemon has left it; with
/// `dry_run`, only looks. Whether it was one.
///
/// # Errors
/// It is one, and the kernel does not let it be removed.
pub fn remove_dead(name: &str, dry_run: bool) -> Result<bool, TapError> {
    let is_left = Existing::of(name)?.is_some_and(|found| {
        let is_free = found.tun.is_some_and(|tun| tun.persistent && tun.queues == 0);
        is_free && found.alias.as_deref() == Some(ALIAS)
    });
    if !is_left {
        return Ok(false);
    }
    let done = Owner::of(name).and_then(|owner| match dry_run {
        true => Ok(owner),
        false => Tap::adopt(name, Some(ALIAS))?.set_persistent(false).map(|()| owner),
    });
    match done {
        Ok(_) => Ok(true),
        // Somebody was faster, or makes it his just now, or it is like none of ours.
        Err(
            TapError::Owned { .. }
            | TapError::Busy { .. }
            | TapError::Missing { .. }
            | TapError::Foreign { .. },
        ) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes or adopts the TAP, as its owner, in the calling thread's network namespace.
pub(in crate::daemon) fn open_tap(name: &str) -> Result<(Owner, Tap), TapError> {
    let owner = Owner::of(name)?;
    let tap = match Tap::adopt(name, Some(ALIAS)) {
        Err(TapError::Missing { .. }) => Tap::create(name, false),
        done => done,
    };
    Ok((owner, tap?))
}
