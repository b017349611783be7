//! Reads where the daemon's metrics are to be had: `metrics`.
//!
//! They are told to whoever asks, so they stay on this machine: TCP on its loopback only, or a Unix socket
//! with the control socket's mode and owner.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::RUN_DIR;
use super::problem::quoted;
use super::reader::Reader;

/// What a metrics socket in [`RUN_DIR`] ends in: the others there are daemons' and slots'.
pub const SOCKET_END: &str = "metrics.sock";

/// Where metrics are to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// At an address of the loopback.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The place, if the file names one; `control` is the control socket.
pub(super) fn read(reader: &mut Reader<'_>, root: &DeTable<'_>, control: &Path) -> Option<Metrics> {
    let (text, place) = reader.string(root, "metrics")?;
    if !cfg!(feature = "metrics") {
        let remedy = "use a program that is built with the feature metrics";
        reader.problem(place, "metrics are not in this program", remedy);
        return None;
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        if !reader.socket_path(&path, &place) {
            return None;
        }
        let is_named = path.as_os_str().to_string_lossy().ends_with(SOCKET_END);
        if path == control {
            let remedy = format!("write unix:{RUN_DIR}/{SOCKET_END}, or another path");
            reader.problem(place, "this is the control socket", remedy);
            return None;
        } else if path.parent() == Some(Path::new(RUN_DIR)) && !is_named {
            let what = format!("{} would be taken for a daemon's control socket", quoted(text));
            reader.problem(place, what, format!("let its name end in {SOCKET_END}"));
            return None;
        }
        return Some(Metrics::Unix(path));
    }
    let (what, remedy) = match text.parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => (
            format!("{address} is not of this machine's loopback, and metrics are told to anyone"),
            format!(
                "write 127.0.0.1:{} and put a reverse proxy in front of it, or a Unix socket, \
                 unix:{RUN_DIR}/{SOCKET_END}",
                address.port()
            ),
        ),
        Ok(address) if address.port() == 0 => {
            (format!("{address} has no port"), "write the port, as 127.0.0.1:9477".to_owned())
        }
        Ok(address) => return Some(Metrics::Tcp(address)),
        Err(_) => (
            format!("{} is not a place for metrics", quoted(text)),
            format!("write 127.0.0.1:9477, [::1]:9477 or unix:{RUN_DIR}/{SOCKET_END}"),
        ),
    };
    reader.problem(place, what, remedy);
    None
}
