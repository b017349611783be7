//! Landlock (Linux 5.13 and later): one directory is left of the file system, no TCP (6.7), no
//! abstract Unix socket and no signal to other processes (6.12).

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The version of the kernel's interface that this is written for. Of later ones nothing is asked, of
/// earlier ones as much as there is.
const WRITTEN_FOR: ABI = ABI::V6;

/// Leaves the directory: files and sockets directly and deeper in it. Gives what was not to be had.
pub(super) fn leave(dir: &Path) -> io::Result<Option<String>> {
    let dir = PathFd::new(dir).map_err(io::Error::other)?;
    let status = restrict(dir).map_err(io::Error::other)?;
    match status {
        RulesetStatus::FullyEnforced => Ok(None),
        RulesetStatus::PartiallyEnforced => {
            Ok(Some("a part of Landlock, which this kernel does not have yet".to_owned()))
        }
        RulesetStatus::NotEnforced => Err(io::Error::other("this kernel does not have it")),
    }
}

fn restrict(dir: PathFd) -> Result<RulesetStatus, RulesetError> {
    // Not to make sockets: to rename one is to make one, and in place of another.
    let in_dir: BitFlags<AccessFs> = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(WRITTEN_FOR))?
        .handle_access(AccessNet::from_all(WRITTEN_FOR))?
        .scope(Scope::from_all(WRITTEN_FOR))?
        .create()?
        .add_rule(PathBeneath::new(dir, in_dir))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The version of the kernel's interface, if it has one that is switched on.
pub(super) fn version() -> Option<u32> {
    const VERSION: usize = 1;
    // SAFETY: with this flag the call takes no ruleset, and makes none (landlock(7)).
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}
