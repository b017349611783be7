//! Which MAC addresses a link's netdevs have.
//!
//! Both ends' are derived from the master's machine id, the slot and the side, so they stay the same
//! when a board is swapped, a board's image is cloned, or a daemon starts anew. The master uses its
//! own and tells the board the other one; the config's `mac` wins over either.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::tunnel::part::Role;

/// Where systemd keeps the machine's id (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
/// Where a machine without one gets a random seed, once.
const SEED: &str = "/var/lib/boardlane/seed";

/// What makes this machine different from others; not secret.
#[derive(Clone, Debug)]
pub struct Identity(Vec<u8>);

impl Identity {
    /// This machine's, from its machine id or a stored random seed. If neither can be had, one that
    /// lasts as long as the process, with a warning.
    pub fn of_machine() -> Self {
        match std::fs::read_to_string(MACHINE_ID) {
            Ok(id) if id.trim().len() == 32 => Self(id.trim().as_bytes().to_vec()),
            _ => stored_seed(Path::new(SEED)).map(Self).unwrap_or_else(|e| {
                tracing::warn!(
                    "no machine id in {MACHINE_ID}, and {SEED} cannot be written ({e}): MAC \
                     addresses will differ after the next start"
                );
                Self(random().to_le_bytes().to_vec())
            }),
        }
    }

    /// The MAC address of one end of a slot's link: locally administered, unicast.
    pub fn mac(&self, slot: u32, side: Role) -> [u8; 6] {
        let side = match side {
            Role::Driver => b'm',
            Role::Device => b'b',
        };
        let words = self.0.iter().copied().chain(slot.to_le_bytes()).chain([side]);
        // FNV-1a (RFC 9923), with its upper half folded in.
        let hash = words.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [_, _, a, b, c, d, e, f] = (hash ^ hash << 29 ^ hash >> 31).to_be_bytes();
        [a & 0xfc | 2, b, c, d, e, f]
    }
}

fn stored_seed(path: &Path) -> io::Result<Vec<u8>> {
    if let Some(seed) = std::fs::read(path).ok().filter(|seed| seed.len() == 8) {
        return Ok(seed);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let seed = random().to_le_bytes();
    let new = path.with_extension(format!("new{}", std::process::id()));
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?
        .write_all(&seed)?;
    std::fs::rename(&new, path)?;
    Ok(seed.to_vec())
}

/// A random number from the kernel, for seeds and epochs.
pub fn random() -> u64 {
    // Seeded by the kernel, once per process and thread; each state counts on from the last.
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_every_slot_has_its_own_lasting_address() {
        let machine = Identity(b"0123456789abcdef0123456789abcdef".to_vec());
        let mut all = std::collections::BTreeSet::new();
        for slot in 0..64 {
            for side in [Role::Driver, Role::Device] {
                let mac = machine.mac(slot, side);
                assert_eq!(mac[0] & 3, 2, "locally administered, unicast");
                assert_eq!(mac, machine.clone().mac(slot, side));
                assert!(all.insert(mac), "slot {slot}");
            }
        }
        let other = Identity(b"1123456789abcdef0123456789abcdef".to_vec());
        assert!((0..64).all(|slot| !all.contains(&other.mac(slot, Role::Driver))));
    }

    #[test]
    fn a_seed_is_made_once() {
        let dir = std::env::temp_dir().join(format!("boardlane-seed-{}", std::process::id()));
        let path = dir.join("seed");
        let first = stored_seed(&path).unwrap();
        assert_eq!(stored_seed(&path).unwrap(), first);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
