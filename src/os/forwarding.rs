//! IPv6 forwarding of one netdev: a sysctl of the kernel, which rtnetlink does not set.
//!
//! IPv6 has one switch for a whole namespace, `net.ipv6.conf.all.forwarding`, which is not ours to
//! turn: it changes every netdev, and stops them from taking router advertisements. Since Linux 6.17
//! a netdev's `force_forwarding` has packets that come by it forwarded whatever that switch says
//! (`Documentation/networking/ip-sysctl.rst`).

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// The switches of IPv6 in the calling thread's network namespace.
const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Why a netdev does not forward IPv6.
#[derive(Debug)]
pub struct Lack {
    /// What writing its switch has met.
    error: io::Error,
}

/// Has packets that come by the netdev `name` of the calling thread's network namespace forwarded, or
/// not; `false`: nothing was to be done, as all netdevs of the namespace forward.
///
/// # Errors
/// It has no such switch, or the switch may not be written.
pub fn set(name: &str, on: bool) -> Result<bool, Lack> {
    set_below(Path::new(CONF), name, on)
}

fn set_below(conf: &Path, name: &str, on: bool) -> Result<bool, Lack> {
    let switch = conf.join(name).join("force_forwarding");
    let written = OpenOptions::new().write(true).open(switch);
    let written = written.and_then(|mut file| file.write_all(if on { b"1" } else { b"0" }));
    let all = || std::fs::read_to_string(conf.join("all/forwarding"));
    match written {
        Ok(()) => Ok(true),
        Err(_) if on && all().is_ok_and(|all| all.trim() == "1") => Ok(false),
        Err(error) => Err(Lack { error }),
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            io::ErrorKind::NotFound => {
                f.write_str("this kernel cannot forward IPv6 by single netdevs (Linux 6.17 can)")
            }
            io::ErrorKind::ReadOnlyFilesystem => f.write_str("/proc/sys is read-only here"),
            _ => write!(f, "net.ipv6.conf: {}", self.error),
        }?;
        f.write_str(": set sysctl net.ipv6.conf.all.forwarding=1, which is off")
    }
}

impl std::error::Error for Lack {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_netdev_lacks_all_of_them_may_have() {
        let conf =
            std::env::temp_dir().join(format!("boardlane-forwarding-{}", std::process::id()));
        for dir in ["all", "bl0", "bl1"] {
            std::fs::create_dir_all(conf.join(dir)).unwrap();
        }
        let own = conf.join("bl0/force_forwarding");
        std::fs::write(&own, "0").unwrap();
        assert!(set_below(&conf, "bl0", true).unwrap());
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "1");
        // An older kernel.
        std::fs::write(conf.join("all/forwarding"), "0\n").unwrap();
        let lack = set_below(&conf, "bl1", true).unwrap_err().to_string();
        assert!(lack.contains("Linux 6.17") && lack.contains("all.forwarding=1"), "{lack}");
        std::fs::write(conf.join("all/forwarding"), "1\n").unwrap();
        assert!(!set_below(&conf, "bl1", true).unwrap());
        std::fs::remove_dir_all(&conf).unwrap();
    }
}
