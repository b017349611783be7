//! Who may connect to a Unix socket: owner and mode of its file, and how both hold from the start.
//!
//! Connecting takes the right to write to the file (unix(7)). Names are looked up in `/etc/passwd` and
//! `/etc/group` and nowhere else: a daemon with few rights has no use for the name services that a C
//! library would load. Who is not in these files has a number.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, fstat, open};
use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 128;

/// Who may connect to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Mode of the file, 0 to 0o777.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
}

impl Default for Access {
    /// Only the user who makes the socket, and root.
    fn default() -> Self {
        Self { mode: 0o600, owner: Owner::default() }
    }
}

/// The owner of a file; `None`: who makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// As people write it: `USER`, `USER:GROUP` or `:GROUP`.
    text: String,
    /// The user's number.
    pub uid: Option<u32>,
    /// The group's number.
    pub gid: Option<u32>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Owner {
    /// The owner that `text` names: `USER`, `USER:GROUP` or `:GROUP`, each a name or a number.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if group == Some("") || (user.is_empty() && group.is_none()) {
            return Err("this names no owner".to_owned());
        }
        let uid = (!user.is_empty()).then(|| number(user, "user", "/etc/passwd")).transpose()?;
        let gid = group.map(|group| number(group, "group", "/etc/group")).transpose()?;
        Ok(Self { text: text.to_owned(), uid, gid })
    }
}

/// The numbers of names that have been looked up, by file: a process that has confined itself since
/// reaches these files no more.
static KNOWN: Mutex<BTreeMap<(&'static str, String), u32>> = Mutex::new(BTreeMap::new());

/// The number of a user or group, which the third field of its line in `file` tells. A name keeps the
/// number that it had when it was first asked for.
fn number(name: &str, what: &str, file: &'static str) -> Result<u32, String> {
    if name.bytes().all(|octet| octet.is_ascii_digit()) {
        // The greatest means "as it is" to chown(2).
        let number = name.parse().ok().filter(|number| *number != u32::MAX);
        return number.ok_or_else(|| format!("{what} {name} is out of range"));
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.get(&(file, name.to_owned())) {
        return Ok(*number);
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    let number = number.ok_or_else(|| format!("there is no {what} {name:?} in {file}"))?;
    known.insert((file, name.to_owned()), number);
    Ok(number)
}

/// The mode that `text` has as three octal digits, with or without a 0 before them.
pub fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.len() == 3 || (text.len() == 4 && text.starts_with('0'));
    let octal = text.bytes().all(|octet| (b'0'..=b'7').contains(&octet));
    (digits && octal).then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

/// Listens at `path`, where nothing may be yet. The listener does not block.
///
/// # Errors
/// The system refuses.
pub fn listen(path: &Path, access: &Access) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file takes the socket's mode, less the umask (unix(7)), and belongs to this process. Its
    // own mode and owner come next, and only then does anybody listen: whoever connects before is
    // refused, whatever his rights are, so nobody gets in by rights of an earlier moment.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if let Err(error) = give(path, access).and_then(|()| socket.listen(BACKLOG)) {
        // Nobody listens on it, so the next start would remove it if this one cannot.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(OwnedFd::from(socket).into())
}

/// Gives the socket at `path` its mode and owner: what stands there now, and not what a link that
/// somebody puts in its place leads to.
fn give(path: &Path, access: &Access) -> io::Result<()> {
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(access.mode);
    if Mode::from_raw_mode(fstat(&file)?.st_mode) != mode {
        // No system call of old kernels changes a mode by such a descriptor, but this path does.
        chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    }
    // Last, since the mode is the owner's to change.
    let Owner { uid, gid, .. } = access.owner;
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    #[test]
    fn an_owner_is_a_user_a_group_or_both_by_name_or_number() {
        for (text, uid, gid) in [
            ("root", Some(0), None),
            ("root:root", Some(0), Some(0)),
            (":root", None, Some(0)),
            ("1000:0", Some(1000), Some(0)),
        ] {
            let owner = Owner::parse(text).unwrap();
            assert_eq!((owner.uid, owner.gid, owner.to_string().as_str()), (uid, gid, text));
        }
        for (text, what) in [
            ("", "this names no owner"),
            (":", "this names no owner"),
            ("root:", "this names no owner"),
            ("no-such", "there is no user \"no-such\" in /etc/passwd"),
            ("root:no-such", "there is no group \"no-such\" in /etc/group"),
            ("4294967295", "user 4294967295 is out of range"),
            ("roo", "there is no user \"roo\" in /etc/passwd"),
        ] {
            assert_eq!(Owner::parse(text).unwrap_err(), what);
        }
    }

    #[test]
    fn a_mode_is_three_octal_digits() {
        assert_eq!(
            ["600", "0660", "000", "0777"].map(parse_mode),
            [Some(0o600), Some(0o660), Some(0), Some(0o777)]
        );
        for bad in ["", "60", "0688", "+660", "1660", "00660", "rw-", "0o660"] {
            assert_eq!(parse_mode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_socket_has_its_mode_whatever_the_umask_is() {
        let path = std::env::temp_dir().join(format!("bl-access-{}.sock", std::process::id()));
        for mode in [0o600, 0o660, 0o666] {
            let _listener = listen(&path, &Access { mode, ..Access::default() }).unwrap();
            let file = fs::symlink_metadata(&path).unwrap();
            assert_eq!(file.permissions().mode() & 0o7777, mode);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn the_owner_of_a_socket_is_given_and_no_link_is_followed() {
        let file = |name: &str| {
            std::env::temp_dir().join(format!("bl-access-{name}-{}", std::process::id()))
        };
        let (path, target) = (file("link"), file("target"));
        fs::write(&target, "").unwrap();
        let before = fs::metadata(&target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        // Who is not root may not give a file away; a link's mode cannot be changed at all.
        let access = Access { mode: 0o660, owner: Owner::parse("65534:65534").unwrap() };
        assert!(give(&path, &access).is_err());
        let after = fs::metadata(&target).unwrap();
        assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
        fs::remove_file(&path).unwrap();
        fs::remove_file(&target).unwrap();
        if rustix::process::geteuid().is_root() {
            let _listener = listen(&path, &access).unwrap();
            let file = fs::symlink_metadata(&path).unwrap();
            assert!(file.file_type().is_socket());
            assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (65534, 65534, 0o660));
            fs::remove_file(&path).unwrap();
        }
    }
}
