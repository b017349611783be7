//! A user namespace of one's own, for a process that may not make network namespaces and TAPs.
//!
//! In it an ordinary user is root over what it makes from then on: network namespaces, their TAPs
//! and routes, and mounts in a private copy of the mount table, where `/run` is an empty tmpfs. Outside
//! it is the user that it was. Nothing of this has a name outside, so all of it is gone with the last
//! process in it, however that ends (user_namespaces(7)).
//!
//! Only a process with a single thread can go there, and it cannot return.

#![allow(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe};

/// Where names of namespaces, sockets and locks are.
const RUN: &str = "/run";
/// A file of this process that is never a mount point.
const NO_MOUNT: &str = "/proc/self/status";
const USER_NAMESPACE: &str = "/proc/self/ns/user";

/// Whether this process can give names to network namespaces, and make netdevs, without [`enter`].
#[must_use]
pub fn is_needless() -> bool {
    // The kernel looks at the right first, then at the path. The capability alone does not tell:
    // the mount table can belong to an outer user namespace.
    let mounts = mount_change(NO_MOUNT, MountPropagationFlags::PRIVATE) == Err(Errno::INVAL);
    let netdevs =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::NET_ADMIN));
    mounts && netdevs && accessat(CWD, RUN, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Moves this process into a new user namespace, where it is root and has a network, mounts and a
/// `/run` of its own. On an error it is good for nothing but to end.
///
/// # Errors
/// The step that the kernel refuses. The process has more than one thread.
pub fn enter() -> Result<(), Refused> {
    let (user, group) = (geteuid(), getegid());
    let refused = |step| move |errno: Errno| Refused::new(step, errno, kernel_setting);
    // SAFETY: no descriptor table is unshared, which is what the call is unsafe for.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(refused(Step::User))?;
    // An unprivileged group map is taken only after setgroups(2) is given up.
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("0 {} 1", group.as_raw())),
        ("uid_map", format!("0 {} 1", user.as_raw())),
    ];
    for (file, text) in maps {
        let written = fs::write(Path::new("/proc/self").join(file), text);
        written.map_err(|error| {
            refused(Step::Map(file))(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .map_err(refused(Step::Network))?;
    // Mounts made here stay here: in a mount table of another user namespace all are slaves.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("boardlane", RUN, "tmpfs", flags, c"mode=0755").map_err(refused(Step::Run))
}

/// The setting of the kernel at a path below /proc/sys, if there is one.
fn kernel_setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// What [`enter`] does, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    User,
    /// The file in /proc/self.
    Map(&'static str),
    Network,
    Run,
}

/// Why there is no user namespace for this process. The message is one line, which says what to do.
#[derive(Debug)]
pub struct Refused {
    step: Step,
    errno: Errno,
    remedy: String,
}

impl Refused {
    fn new(step: Step, errno: Errno, setting: impl Fn(&str) -> Option<String>) -> Self {
        Self { step, errno, remedy: remedy(step, errno, setting) }
    }
}

/// What stands against it, as far as the kernel's settings tell, and what to do.
fn remedy(step: Step, errno: Errno, setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| setting(path).is_some_and(|text| text == value);
    match (step, errno) {
        (Step::User, Errno::INVAL | Errno::NOSYS) if Path::new(USER_NAMESPACE).exists() => {
            "this process has more than one thread".to_owned()
        }
        (Step::User, Errno::INVAL | Errno::NOSYS) => {
            "this kernel has none (CONFIG_USER_NS)".to_owned()
        }
        (Step::User, Errno::NOSPC | Errno::USERS) if is("user/max_user_namespaces", "0") => {
            "user.max_user_namespaces is 0; as root, `sysctl -w user.max_user_namespaces=10000`"
                .to_owned()
        }
        // Once in the new user namespace, the settings are that one's.
        (_, Errno::NOSPC | Errno::USERS) => {
            "a limit is reached; as root raise user.max_user_namespaces, user.max_net_namespaces \
             and user.max_mnt_namespaces with `sysctl -w`"
                .to_owned()
        }
        // Debian's kernels have this one, Ubuntu's the next.
        (_, Errno::PERM | Errno::ACCESS) if is("kernel/unprivileged_userns_clone", "0") => {
            "kernel.unprivileged_userns_clone is 0; as root, \
             `sysctl -w kernel.unprivileged_userns_clone=1`"
                .to_owned()
        }
        (_, Errno::PERM | Errno::ACCESS)
            if is("kernel/apparmor_restrict_unprivileged_userns", "1") =>
        {
            "AppArmor restricts them; as root, \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
                .to_owned()
        }
        (_, Errno::PERM | Errno::ACCESS) => {
            "a container's seccomp filter, a chroot or a security module forbids it".to_owned()
        }
        _ => "the kernel does not say why".to_owned(),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Step::User => f.write_str("cannot make a user namespace")?,
            Step::Map(file) => write!(f, "cannot write /proc/self/{file} of a user namespace")?,
            Step::Network => f.write_str("cannot make a network and mounts in a user namespace")?,
            Step::Run => write!(f, "cannot mount a tmpfs on {RUN} in a user namespace")?,
        }
        write!(f, ": {}: {}", io::Error::from(self.errno), self.remedy)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said where the kernel's settings are these.
    fn told(step: Step, errno: Errno, settings: &[(&str, &str)]) -> String {
        let setting = |path: &str| {
            let found = settings.iter().find(|(known, _)| *known == path);
            found.map(|(_, value)| (*value).to_owned())
        };
        let text = Refused::new(step, errno, setting).to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn a_setting_that_forbids_user_namespaces_is_named_with_its_remedy() {
        let debian = [("kernel/unprivileged_userns_clone", "0")];
        let text = told(Step::User, Errno::PERM, &debian);
        assert!(text.ends_with("`sysctl -w kernel.unprivileged_userns_clone=1`"), "{text}");
        let limit = [("user/max_user_namespaces", "0")];
        let text = told(Step::User, Errno::NOSPC, &limit);
        assert!(text.contains("`sysctl -w user.max_user_namespaces=10000`"), "{text}");
    }

    #[test]
    fn apparmor_is_named_wherever_it_shows() {
        let ubuntu = [
            ("kernel/unprivileged_userns_clone", "1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ];
        for step in [Step::User, Step::Map("uid_map"), Step::Network] {
            for errno in [Errno::PERM, Errno::ACCESS] {
                let text = told(step, errno, &ubuntu);
                assert!(text.contains("kernel.apparmor_restrict_unprivileged_userns=0"), "{text}");
            }
        }
        let off = [("kernel/apparmor_restrict_unprivileged_userns", "0")];
        assert!(!told(Step::User, Errno::PERM, &off).contains("AppArmor"));
    }

    #[test]
    fn what_no_setting_explains_is_not_blamed_on_one() {
        let text = told(Step::User, Errno::PERM, &[]);
        assert!(text.contains("seccomp") && !text.contains("sysctl"), "{text}");
        let text = told(Step::User, Errno::NOSPC, &[("user/max_user_namespaces", "9")]);
        assert!(text.contains("a limit is reached"), "{text}");
    }

    #[test]
    fn a_process_with_threads_is_told_so() {
        let told = || enter().unwrap_err().to_string();
        let text = std::thread::scope(|scope| scope.spawn(told).join().unwrap());
        assert!(text.contains("more than one thread"), "{text}");
    }
}
