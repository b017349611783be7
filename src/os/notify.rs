//! What a process tells the service manager that has started it (sd_notify(3)): that it is ready, how it
//! is, that it lives.
//!
//! The environment names the manager's socket and the watchdog's time. A confined process could not reach
//! the socket any more, so it is connected to before; nothing is read from it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names. A socket that cannot be had is told to the log.
    pub fn of_process() -> Self {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = connect(&path)
            .inspect_err(|e| tracing::warn!("the service manager's socket {path:?}: {e}"));
        let [usec, pid] = ["WATCHDOG_USEC", "WATCHDOG_PID"].map(env::var_os);
        Self { socket: socket.ok(), watchdog: watchdog(usec, pid, std::process::id()) }
    }

    /// The one at the other end of a socket, with a watchdog of this time if it has one.
    pub fn over(socket: UnixDatagram, watchdog: Option<Duration>) -> Self {
        Self { socket: Some(socket), watchdog }
    }

    /// Whether anybody listens.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Within what time it wants to hear `WATCHDOG=1`, again and again.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_there())
    }

    /// Tells it lines of sd_notify(3). One that takes nothing just now misses them.
    pub fn tell(&self, lines: &str) {
        if let Some(socket) = &self.socket {
            if let Err(e) = socket.send(lines.as_bytes()) {
                tracing::debug!("the service manager is not told {lines:?}: {e}");
            }
        }
    }
}

/// A path, or with `@` a name without a file.
fn connect(path: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The time in microseconds, if it is meant for the process with this id: a child inherits both variables.
fn watchdog(usec: Option<OsString>, pid: Option<OsString>, own: u32) -> Option<Duration> {
    let usec = usec?.to_str()?.parse().ok().filter(|usec| *usec > 0)?;
    let own = pid.is_none_or(|pid| pid.to_str() == Some(&own.to_string()));
    own.then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_it_is_told_by_a_path_or_an_abstract_name() {
        let name = format!("boardlane-notify-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let by_path = SocketAddr::from_pathname(&path).unwrap();
        let by_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (address, variable) in
            [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())]
        {
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            let socket = connect(&variable).unwrap();
            Manager::over(socket, None).tell("READY=1\nSTATUS=2 links, 1 up");
            let mut text = [0; 100];
            let len = manager.recv(&mut text).unwrap();
            assert_eq!(&text[..len], b"READY=1\nSTATUS=2 links, 1 up");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(connect(path.as_os_str()).is_err());
    }

    #[test]
    fn one_that_takes_nothing_holds_nobody_up() {
        let (socket, _manager) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::over(socket, None);
        (0..10_000).for_each(|_| manager.tell("WATCHDOG=1"));
        Manager::default().tell("WATCHDOG=1");
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let time = |usec: &str, pid: Option<&str>| {
            watchdog(Some(usec.into()), pid.map(Into::into), 7).map(|time| time.as_millis())
        };
        assert_eq!(time("30000000", Some("7")), Some(30_000));
        assert_eq!(time("30000000", None), Some(30_000));
        for (usec, pid) in [("30000000", Some("8")), ("0", Some("7")), ("-1", None), ("", None)] {
            assert_eq!(time(usec, pid), None, "{usec} {pid:?}");
        }
        assert_eq!(watchdog(None, Some("7".into()), 7), None);
    }
}
