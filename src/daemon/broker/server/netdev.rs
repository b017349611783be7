//! What is opened in a link's network namespace, and whether that is there still.

use std::os::fd::{AsFd, OwnedFd};

use super::{Granted, Refused, Served};
use crate::daemon::config::LinkConfig;
use crate::daemon::netdev::{open_namespace, open_tap};
use crate::os::announce;
use crate::os::forwarding;
use crate::os::netlink::{move_link, route_socket, watch_socket};
use crate::os::netns::Namespace;
use crate::os::tap::Tap;

/// A TAP that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its index in its network namespace.
    index: u32,
    /// What tells that namespace from others. It lasts as long as the daemon has its sockets.
    home: (u64, u64),
}

impl Served {
    pub(super) fn netdev(&mut self) -> Result<Granted, Refused> {
        let name = self.config.name.clone();
        self.netdev = None;
        let opened = self.inside(|| -> Result<_, String> {
            let home = Namespace::current().and_then(|namespace| namespace.identity());
            let home = home.map_err(|e| format!("network namespace: {e}"))?;
            let (owner, tap) = open_tap(&name).map_err(|e| e.to_string())?;
            let sockets = route_socket().and_then(|route| Ok((route, watch_socket()?)));
            let (route, watch) = sockets.map_err(|e| format!("netlink socket: {e}"))?;
            Ok((home, owner, tap, route, watch))
        })?;
        let (home, owner, tap, route, watch) = opened?;
        let index = tap.index();
        self.netdev = Some(Opened { index, home });
        let mut fds = vec![tap.into_fd(), route, watch];
        fds.extend(owner.into_fd());
        Ok(Granted::new(index, fds))
    }

    /// Moves the netdev back from where somebody has moved it, and gives it its name again.
    pub(super) fn home(&mut self, tap: OwnedFd) -> Result<Granted, Refused> {
        let opened = self.netdev.as_mut().ok_or("the link has no netdev yet")?;
        let name = &self.config.name;
        let tap = Tap::from_parts(tap, name, opened.index);
        let Some(there) = tap.namespace().map_err(|e| e.to_string())? else {
            return Ok(Granted::new(0, Vec::new()));
        };
        let home = match &self.config.netns {
            None => Namespace::current(),
            Some(netns) => open_namespace(netns),
        };
        let home = home.map_err(|e| e.to_string())?;
        let os = |e: std::io::Error| e.to_string();
        if there.identity().map_err(os)? != home.identity().map_err(os)? {
            let now = tap.current_name().map_err(|e| e.to_string())?;
            there.run(|| move_link(&now, home.as_fd(), name)).map_err(os)?.map_err(|e| {
                format!(
                    "{name} is in another network namespace, as {now}, and cannot come back: {e}"
                )
            })?;
        }
        let index = home.run(|| tap.find()).map_err(os)?.map_err(|e| e.to_string())?;
        opened.index = index;
        Ok(Granted::new(index, Vec::new()))
    }

    /// Whether the namespace of the open TAP is not the one any more that the config means.
    pub(super) fn is_stray(&self) -> bool {
        let (Some(opened), Some(netns)) = (&self.netdev, &self.config.netns) else { return false };
        let now = open_namespace(netns).and_then(|namespace| namespace.identity());
        now.ok() != Some(opened.home)
    }

    pub(super) fn queue(&self, tap: OwnedFd) -> Result<Granted, Refused> {
        let index = self.netdev.as_ref().ok_or("the link has no netdev yet")?.index;
        let tap = Tap::from_parts(tap, &self.config.name, index);
        let queue = self.inside(|| tap.another_queue())?.map_err(|e| e.to_string())?;
        Ok(Granted::new(index, vec![queue.into_fd()]))
    }

    pub(super) fn announcer(&self) -> Result<Granted, Refused> {
        let socket = self.inside(announce::socket)?.map_err(|e| e.to_string())?;
        Ok(OwnedFd::from(socket).into())
    }

    /// Has the netdev and its VLANs forward IPv6, or not.
    pub(super) fn forward(&self, on: bool) -> Result<Granted, Refused> {
        let LinkConfig { name, netdev, .. } = &self.config;
        let set = self.inside(|| {
            for vlan in &netdev.vlans {
                // One that has not been made yet comes with another request.
                let _ = forwarding::set(&vlan.netdev(name), on);
            }
            forwarding::set(name, on)
        })?;
        let note = if set.map_err(|e| e.to_string())? { "set" } else { "" };
        Ok(Granted { index: 0, note: note.to_owned(), fds: Vec::new() })
    }

    /// Does something in the link's network namespace, which is looked up each time.
    fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, String> {
        match &self.config.netns {
            None => Ok(f()),
            Some(netns) => {
                let namespace = open_namespace(netns).map_err(|e| e.to_string())?;
                namespace.run(f).map_err(|e| e.to_string())
            }
        }
    }
}
