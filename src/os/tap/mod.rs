//! Our own TAP device: an Ethernet netdev whose other end is a file descriptor.
//!
//! Theory of operation. A TAP of ours is an Ethernet device without packet information, with a
//! 12-byte little-endian virtio-net header before each frame (virtio 1.4 §5.1.6), multi-queue, and
//! without carrier until [`Tap::set_carrier`] gives it one. The flags asked for are compared with
//! those the kernel kept, because it drops unknown flags silently. Order: flags, header size,
//! byte order, offloads, persistence.
//!
//! Header size, byte order, offloads and the user who may attach belong to the device, not to the
//! descriptor, and outlive the process that set them: [`Tap::adopt`] sets them all again. Attaching to a device with other
//! flags would change its flags under its user, and attaching to a multi-queue device that somebody
//! holds would silently steal part of its flows: so `adopt` looks by netlink first
//! ([`Existing`]), attaches only to what it may, and looks again who else is attached. Whoever is an
//! [`Owner`] first never meets another one there.
//!
//! The descriptor is non-blocking and keeps working when the netdev is renamed or moved into
//! another network namespace; names and indices are those of the calling thread's namespace.

#![allow(unsafe_code)]

mod error;
mod existing;
mod frame;
mod owner;

use std::ffi::{c_int, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, IntegerSetter, Opcode, Setter, Updater, opcode};
use rustix::process::geteuid;

pub use error::TapError;
pub use existing::{Existing, TunFlags};
pub use frame::{IoSpan, IoSpanMut, LostTap, MAX_SPANS, Write};
pub use owner::Owner;

use super::netns::Namespace;
use crate::spec::net::HEADER_LEN;

const TUN_PATH: &str = "/dev/net/tun";
/// Greatest length of a netdev's name, in bytes (Linux: IFNAMSIZ less the closing zero).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

// linux/if_tun.h: requests. The types only size the number: see each use for what is passed.
const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOWNER: Opcode = opcode::write::<c_int>(b'T', 204);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_int>(b'T', 210);
const TUNGETVNETHDRSZ: Opcode = opcode::read::<c_int>(b'T', 215);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);
const TUNSETVNETLE: Opcode = opcode::write::<c_int>(b'T', 220);
const TUNSETCARRIER: Opcode = opcode::write::<c_int>(b'T', 226);
const TUNGETDEVNETNS: c_ulong = 0x54e3;

// linux/if_tun.h: interface flags, which are 16 bits in its requests.
const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_CARRIER: u16 = 0x0040;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_PERSIST: u16 = 0x0800;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;
/// What makes a TAP one of ours.
const OURS: u16 = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;

/// What the kernel may leave unfinished in frames that it hands to us (linux/if_tun.h, TUN_F_*).
///
/// `tso4`, `tso6` and `uso` need `csum`; `ecn` counts only beside a `tso`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Partial checksums.
    pub csum: bool,
    /// TCP segments over IPv4 larger than the MTU.
    pub tso4: bool,
    /// TCP segments over IPv6 larger than the MTU.
    pub tso6: bool,
    /// Such TCP segments with ECN set.
    pub ecn: bool,
    /// UDP datagrams to be segmented, over IPv4 and IPv6: the kernel takes only both. Linux 6.2.
    pub uso: bool,
}

impl Offload {
    /// Everything but [`uso`](Self::uso), which older kernels refuse.
    pub const TCP: Self = Self { csum: true, tso4: true, tso6: true, ecn: true, uso: false };

    fn bits(self) -> libc::c_uint {
        let ecn = self.ecn && (self.tso4 || self.tso6);
        [
            (self.csum, libc::TUN_F_CSUM),
            (self.tso4, libc::TUN_F_TSO4),
            (self.tso6, libc::TUN_F_TSO6),
            (ecn, libc::TUN_F_TSO_ECN),
            (self.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ]
        .into_iter()
        .fold(0, |bits, (on, bit)| if on { bits | bit } else { bits })
    }
}

/// The head of `struct ifreq`, with room for the longest one (40 bytes, on 64-bit machines).
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

impl Request {
    fn new(name: &str, flags: u16) -> Self {
        let mut request = Self { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|b| *b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

/// Whether `name` can be a netdev's name: 1 to [`NAME_MAX`] bytes, and none that the kernel refuses
/// or (`%`) would replace by a number.
pub fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |why| Err(TapError::BadName { name: name.to_owned(), why });
    if name.is_empty() || name.len() > NAME_MAX {
        return bad("it must have 1 to 15 bytes");
    }
    if name == "." || name == ".." {
        return bad("`.` and `..` are directories");
    }
    if name.bytes().any(|b| b"/:%".contains(&b) || !b.is_ascii_graphic()) {
        return bad("it may have printable ASCII characters only, without `/`, `:` and `%`");
    }
    Ok(())
}

/// One open queue of a TAP of ours. Dropping it removes the netdev, unless it is persistent; then it
/// stays, without carrier.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
}

impl Tap {
    /// Makes the TAP `name` in the calling thread's network namespace: no carrier, no offloads.
    ///
    /// # Errors
    /// [`TapError`] says what is missing, or what holds the name already.
    pub fn create(name: &str, persistent: bool) -> Result<Self, TapError> {
        check_name(name)?;
        let fd = open_tun()?;
        let request = Request::new(name, OURS | IFF_NO_CARRIER | IFF_TUN_EXCL);
        match set_iff(&fd, request) {
            Err(Errno::BUSY | Errno::EXIST) => {
                let by = match Existing::of(name)? {
                    Some(existing) => existing.to_string(),
                    None => "something that has just gone away".to_owned(),
                };
                return Err(TapError::NameInUse { name: name.to_owned(), by });
            }
            done => done.map_err(|e| refused(name, e))?,
        }
        let mut tap = Self { fd, name: name.to_owned(), index: 0 };
        tap.prepare()?;
        tap.index = tap.look()?.index;
        if persistent {
            tap.set_persistent(true)?;
        }
        Ok(tap)
    }

    /// Attaches to the persistent TAP `name` that an earlier process left in the calling thread's
    /// network namespace. It then has no carrier and no offloads; addresses, routes, MTU, MAC address
    /// and admin state are as they were. With `alias`, the netdev must bear that alias.
    ///
    /// # Errors
    /// [`TapError::Missing`], [`TapError::Foreign`] or [`TapError::Busy`] say what was found; nothing
    /// has been changed then.
    pub fn adopt(name: &str, alias: Option<&str>) -> Result<Self, TapError> {
        check_name(name)?;
        let missing = || TapError::Missing { name: name.to_owned() };
        let found = Existing::of(name)?.ok_or_else(missing)?;
        let foreign = |found: &Existing, wanted: String| {
            Err(TapError::Foreign { name: name.to_owned(), found: found.to_string(), wanted })
        };
        let adoptable = found.tun.is_some_and(|t| t.flags() == OURS | IFF_PERSIST);
        if !adoptable {
            let wanted = "a persistent multi-queue TAP with virtio-net header".to_owned();
            return foreign(&found, wanted);
        }
        if let Some(alias) = alias.filter(|a| found.alias.as_deref() != Some(a)) {
            return foreign(&found, format!("the alias {alias:?}"));
        }
        check_sole(name, &found, 0)?;
        let fd = open_tun()?;
        set_iff(&fd, Request::new(name, OURS | IFF_NO_CARRIER)).map_err(|e| refused(name, e))?;
        let tap = Self { fd, name: name.to_owned(), index: found.index };
        // Two processes may have seen it free: the later one of them sees two queues now.
        let now = tap.look()?;
        check_sole(name, &now, 1)?;
        // It went away in between, and the kernel made a new one: that goes with the descriptor.
        if now.index != found.index || !now.tun.is_some_and(|t| t.persistent) {
            return Err(missing());
        }
        tap.prepare()?;
        tap.set_offload(Offload::default())?;
        Ok(tap)
    }

    /// The queue that was opened for a netdev of this name and index, in this process or another.
    pub fn from_parts(fd: OwnedFd, name: &str, index: u32) -> Self {
        Self { fd, name: name.to_owned(), index }
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens another queue of the netdev, of whose flows the kernel gives it a part. To be called in the
    /// network namespace that the netdev is in.
    pub fn another_queue(&self) -> Result<Self, TapError> {
        let name = self.current_name()?;
        let fd = open_tun()?;
        // Carrier, header size, byte order and offloads are the device's and stay as they are.
        set_iff(&fd, Request::new(&name, OURS | IFF_NO_CARRIER)).map_err(|e| refused(&name, e))?;
        let queue = Self { fd, name, index: self.index };
        // A netdev that went away in between would have been made anew, and goes with the descriptor.
        if queue.look()?.index != self.index {
            return Err(TapError::Missing { name: queue.name });
        }
        Ok(queue)
    }

    /// Compares flags, then sets what belongs to the device.
    fn prepare(&self) -> Result<(), TapError> {
        let kept = self.get_iff()?.flags & !IFF_PERSIST;
        if kept != OURS {
            return Err(TapError::Flags { name: self.name.clone(), kept, wanted: OURS });
        }
        // Without an owner, any user may attach to it, and be given a part of its flows.
        let owner = usize::try_from(geteuid().as_raw()).unwrap_or(usize::MAX);
        // SAFETY: the argument is an integer, which the kernel takes for a user's number.
        unsafe { ioctl::ioctl(&self.fd, IntegerSetter::<TUNSETOWNER>::new_usize(owner)) }
            .map_err(|e| self.os("TUNSETOWNER", e))?;
        self.set_int::<TUNSETVNETHDRSZ>("TUNSETVNETHDRSZ", HEADER_LEN_INT)?;
        // SAFETY: the kernel writes one int.
        let size = unsafe { ioctl::ioctl(&self.fd, Getter::<TUNGETVNETHDRSZ, c_int>::new()) };
        if size != Ok(HEADER_LEN_INT) {
            return Err(TapError::Unsupported { what: "a 12-byte virtio-net header" });
        }
        // Little-endian is what little-endian hosts do anyway; big-endian ones must be told.
        self.set_int::<TUNSETVNETLE>("TUNSETVNETLE", 1)?;
        // Kernels that do not know IFF_NO_CARRIER (before 6.1) have raised the carrier by now; those
        // that do not know TUNSETCARRIER (before 5.0) keep it raised.
        match self.set_carrier(false) {
            Err(TapError::Unsupported { .. }) => Ok(()),
            done => done,
        }
    }

    /// The netdev's name when it was created or adopted.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The netdev's index in the namespace where it was created or adopted.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The netdev's name now, in whatever namespace it is; fails once it has been deleted.
    pub fn current_name(&self) -> Result<String, TapError> {
        Ok(self.get_iff()?.name())
    }

    /// The netdev's index now, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`TapError::Missing`]: it is not there.
    pub fn find(&self) -> Result<u32, TapError> {
        let name = self.current_name()?;
        let found = Existing::of(&name)?.ok_or(TapError::Missing { name })?;
        Ok(found.index)
    }

    /// The network namespace that the netdev is in now; `None` if this kernel does not tell (before 5.2).
    ///
    /// # Errors
    /// The netdev has been deleted, or CAP_NET_ADMIN is lacking in that namespace.
    pub fn namespace(&self) -> Result<Option<Namespace>, TapError> {
        const DOING: &str = "TUNGETDEVNETNS";
        // SAFETY: the request takes no argument, and gives a new descriptor.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNGETDEVNETNS as _) };
        if fd < 0 {
            return match Errno::from_io_error(&io::Error::last_os_error()) {
                Some(Errno::INVAL | Errno::NOTTY) => Ok(None),
                errno => Err(self.os(DOING, errno.unwrap_or(Errno::IO))),
            };
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let namespace = Namespace::from_fd(unsafe { OwnedFd::from_raw_fd(fd) });
        let failed = |e| self.os(DOING, Errno::from_io_error(&e).unwrap_or(Errno::BADF));
        Ok(Some(namespace.map_err(failed)?))
    }

    /// Says what the kernel may leave unfinished in frames that it hands to us; device-wide.
    ///
    /// It does not bound what we may hand the kernel: that is ours to check.
    ///
    /// # Errors
    /// [`TapError::Unsupported`] if this kernel does not take the combination.
    pub fn set_offload(&self, offload: Offload) -> Result<(), TapError> {
        let bits = usize::try_from(offload.bits()).unwrap_or(usize::MAX);
        // SAFETY: the argument is an integer, of which the kernel checks every bit.
        match unsafe { ioctl::ioctl(&self.fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(bits)) } {
            Err(Errno::INVAL) => {
                Err(TapError::Unsupported { what: "this combination of TAP offloads" })
            }
            done => done.map_err(|e| self.os("TUNSETOFFLOAD", e)),
        }
    }

    /// The greatest offload that this kernel takes: tries, and leaves none set.
    pub fn probe_offload(&self) -> Result<Offload, TapError> {
        let mut best = Offload { uso: true, ..Offload::TCP };
        match self.set_offload(best) {
            Err(TapError::Unsupported { .. }) => best = Offload::TCP,
            done => done?,
        }
        self.set_offload(Offload::default())?;
        Ok(best)
    }

    /// Raises or lowers the carrier.
    ///
    /// # Errors
    /// [`TapError::Unsupported`] before Linux 5.0: the carrier is up while the TAP is open there.
    pub fn set_carrier(&self, up: bool) -> Result<(), TapError> {
        match self.set_int::<TUNSETCARRIER>("TUNSETCARRIER", c_int::from(up)) {
            Err(TapError::Os { errno: Errno::INVAL | Errno::NOTTY, .. }) => {
                Err(TapError::Unsupported { what: "a carrier that is set from user space" })
            }
            done => done,
        }
    }

    /// Whether the netdev stays when the last descriptor is closed.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        let value = usize::from(persistent);
        // SAFETY: the argument is an integer, zero or not.
        unsafe { ioctl::ioctl(&self.fd, IntegerSetter::<TUNSETPERSIST>::new_usize(value)) }
            .map_err(|e| self.os("TUNSETPERSIST", e))
    }

    fn set_int<const REQUEST: Opcode>(
        &self,
        doing: &'static str,
        value: c_int,
    ) -> Result<(), TapError> {
        // SAFETY: each request used here reads one int behind the pointer.
        unsafe { ioctl::ioctl(&self.fd, Setter::<REQUEST, c_int>::new(value)) }
            .map_err(|e| self.os(doing, e))
    }

    fn get_iff(&self) -> Result<Request, TapError> {
        let mut request = Request::new("", 0);
        // SAFETY: the kernel writes one struct ifreq, for which Request has room.
        unsafe { ioctl::ioctl(&self.fd, Updater::<TUNGETIFF, Request>::new(&mut request)) }
            .map_err(|e| self.os("TUNGETIFF", e))?;
        Ok(request)
    }

    fn look(&self) -> Result<Existing, TapError> {
        Existing::of(&self.name)?.ok_or_else(|| TapError::Missing { name: self.name.clone() })
    }

    fn os(&self, doing: &'static str, errno: Errno) -> TapError {
        TapError::Os { name: self.name.clone(), doing, errno }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "twelve")]
const HEADER_LEN_INT: c_int = HEADER_LEN as c_int;

fn open_tun() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(TUN_PATH, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => TapError::NoTun { errno },
        Errno::PERM | Errno::ACCESS => TapError::Closed { errno },
        errno => TapError::Os { name: TUN_PATH.to_owned(), doing: "open", errno },
    })
}

fn set_iff(fd: &OwnedFd, mut request: Request) -> Result<(), Errno> {
    // SAFETY: the kernel reads and writes one struct ifreq, for which Request has room.
    unsafe { ioctl::ioctl(fd, Updater::<TUNSETIFF, Request>::new(&mut request)) }
}

fn refused(name: &str, errno: Errno) -> TapError {
    let name = name.to_owned();
    match errno {
        Errno::PERM | Errno::ACCESS => TapError::Permission { name },
        errno => TapError::Os { name, doing: "TUNSETIFF", errno },
    }
}

fn check_sole(name: &str, found: &Existing, own: u32) -> Result<(), TapError> {
    match found.tun.map_or(0, |t| t.queues).saturating_sub(own) {
        0 => Ok(()),
        queues => Err(TapError::Busy { name: name.to_owned(), queues }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_replace_are_bad() {
        for good in ["bl0", "a", "fifteen-bytes-x", "eth0.5"] {
            check_name(good).unwrap();
        }
        for bad in ["", "sixteen-bytes-xx", "tap%d", "a/b", "a b", "a:1", ".", "..", "a\0", "ü"] {
            assert!(matches!(check_name(bad), Err(TapError::BadName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn uso_is_always_the_pair_and_ecn_needs_a_tso() {
        let uso = Offload { csum: true, uso: true, ..Offload::default() };
        assert_eq!(uso.bits(), 0x61);
        let ecn = Offload { csum: true, ecn: true, ..Offload::default() };
        assert_eq!(ecn.bits(), 0x01);
        assert_eq!(Offload::TCP.bits(), 0x0f);
    }

    #[test]
    fn a_request_is_as_large_as_the_largest_ifreq() {
        assert!(size_of::<Request>() >= size_of::<libc::ifreq>());
        assert_eq!(std::mem::offset_of!(Request, flags), libc::IFNAMSIZ);
        assert_eq!(Request::new("bl0", 0).name(), "bl0");
    }
}
