//! Where `.ci/peers` has put what it unpacked.

use std::path::{Path, PathBuf};
use std::thread;

use crate::case::there;

/// A piece of it, by its path there.
fn piece(path: &str) -> PathBuf {
    // Its neighbour is the target directory's part for tests.
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers").join(path)
}

pub(crate) fn testpmd() -> PathBuf {
    piece("dpdk/usr/bin/dpdk-testpmd")
}

/// The root of the QEMU that is later than the system's.
pub(crate) fn qemu() -> PathBuf {
    piece("qemu")
}

/// The root of the guests' kernel and its modules.
pub(crate) fn kernel() -> PathBuf {
    piece("kernel")
}

/// The root of what guests of s390x have: a kernel, and programs with their libraries.
pub(crate) fn s390x() -> PathBuf {
    piece("s390x")
}

/// Fails with what is not there.
pub(crate) fn missing() -> Result<(), String> {
    let tools =
        ["qemu-system-x86_64", "busybox", "iperf3", "ethtool", "ping", "ldd", "strip", "stdbuf"];
    if let Some(tool) = tools.iter().find(|tool| !there(tool)) {
        return Err(format!("there is no program {tool}: `.ci/peers install` installs it"));
    }
    let mark = piece("complete-2");
    if !mark.exists() {
        let path = mark.display();
        return Err(format!("there is no {path}: `.ci/peers install` gets the peers"));
    }
    let processors = thread::available_parallelism().map_err(|e| e.to_string())?.get();
    if processors < 2 {
        return Err("it takes two processors".to_owned());
    }
    Ok(())
}
