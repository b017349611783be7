//! `boardlane backplane`.

use std::path::PathBuf;

use boardlane::daemon::{Confine, service};
use boardlane::os::access::{self, Access, Owner};
use boardlane::os::confine::{self, Part};
use boardlane::os::fabric::backplane::{Backplane, BackplaneConfig};
use boardlane::os::notify::Manager;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{failed, in_runtime};
use crate::Failure;

#[derive(Debug, Args)]
#[command(
    after_help = "Example: boardlane backplane --dir /run/boardlane --slots 4 --owner :kvm --mode 0660\n\
    The sockets speak the ivshmem-server protocol: QEMU's ivshmem-doorbell device fits a slot too."
)]
pub(crate) struct Options {
    /// Directory of the sockets slot0.sock, slot1.sock, ...; made if it is missing
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Number of slots, 1 to 256: one for each board
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) slots: u16,
    /// Memory of each slot in bytes, a power of two; K, M and G may follow, as in 64M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size)]
    pub(crate) window: u64,
    /// Doorbell vectors of each end: one for messages and one for each queue pair
    #[arg(long, value_name = "V", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vectors: u16,
    /// Owner of the sockets: USER, USER:GROUP or :GROUP, by name or number [default: this process's]
    #[arg(long, value_name = "OWNER", value_parser = Owner::parse)]
    pub(crate) owner: Option<Owner>,
    /// Mode of the sockets in octal: who may write to a slot's may be an end of it
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    pub(crate) mode: u32,
    /// Leave out a part of what confines the backplane, for debugging: caps (capabilities are dropped),
    /// seccomp (system calls are filtered), landlock (files are out of reach)
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
        value_parser = ["caps", "seccomp", "landlock"], hide_possible_values = true)]
    pub(crate) no_confine: Vec<String>,
}

/// Runs the backplane until SIGTERM or SIGINT.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let config = BackplaneConfig {
        dir: options.dir,
        slots: options.slots,
        slot_len: options.window,
        vectors: options.vectors,
        access: Access { mode: options.mode, owner: options.owner.unwrap_or_default() },
    };
    let manager = Manager::of_process();
    in_runtime(async {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::interrupt()).map_err(failed)?,
        );
        let told = || format!("{} slots", config.slots);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = service::attend(&manager, told, async || Ok(())) => {}
            }
            manager.tell("STOPPING=1");
        };
        let backplane = Backplane::open(&config).map_err(|e| match e.is_config() {
            true => Failure::Usage(e.to_string()),
            false => Failure::Run(e.to_string()),
        })?;
        let walls = Confine::without(&options.no_confine).walls;
        confine::process(Part::Backplane, Some(&config.dir), walls).log();
        manager.tell("READY=1");
        backplane.serve(stop).await;
        Ok(())
    })
}

/// A number of bytes: `4096`, `64K`, `16M`, `1G`.
fn size(text: &str) -> Result<u64, String> {
    let shift = match text.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    let number = if shift == 0 { text } else { &text[..text.len() - 1] };
    // A plain parse would take a sign.
    let digits = number.bytes().all(|octet| octet.is_ascii_digit());
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|_| digits).ok_or_else(|| "write bytes, as 16M, 1G or 1048576".into())
}

fn mode(text: &str) -> Result<u32, String> {
    access::parse_mode(text).ok_or_else(|| "write three octal digits, as 0660".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_with_or_without_a_unit() {
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("16M"), Ok(16 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for bad in ["", "M", "-1", "+1", "1.5M", "16MB", "16 M", "99999999999G", "\u{e9}"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
