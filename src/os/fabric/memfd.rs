//! A slot's memory, or a capture's: made and sealed by the server, checked and mapped by the client.
//!
//! Each client holds the file, so any of them could shrink it and thereby kill, by SIGBUS, whoever
//! touches the pages that are gone. So it is sealed against a change of its length before anybody
//! gets it, and a client does not map a file that is not.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::io::Errno;

use super::mapped::Mapped;
use super::{MemoryFault, is_slot_len};
use crate::memory::{Kind, Mapping, ReadOnly};

/// Makes a file of `len` zero bytes whose length nobody can change any more.
pub(crate) fn create(name: &str, len: u64) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag; later ones log a warning without it.
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        made => made?,
    };
    ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Maps the whole of a slot's file; also its length in bytes.
pub(crate) fn map(fd: impl AsFd) -> Result<(Arc<Mapping>, u64), MemoryFault> {
    let (len, bytes) = length(fd.as_fd())?;
    let owner = Mapped::new(fd.as_fd(), 0, bytes, 1).map_err(|e| unmapped(e, len))?;
    let base = owner.base;
    // SAFETY: `owner` has just mapped `base..base + bytes` readable and writable, page-aligned, and
    // unmaps only when the Mapping drops it; the file cannot shrink. Nothing else here uses it.
    let mapping = unsafe { Mapping::from_raw(base, bytes, Kind::Cached, Box::new(owner)) };
    Ok((Arc::new(mapping), len))
}

/// As [`map`], to be read only.
pub(super) fn map_read_only(fd: impl AsFd) -> Result<(ReadOnly, u64), MemoryFault> {
    let (len, bytes) = length(fd.as_fd())?;
    let owner = Mapped::read_only(fd.as_fd(), 0, bytes, 1).map_err(|e| unmapped(e, len))?;
    let base = owner.base;
    // SAFETY: as above, but for writing, of which there is none.
    let memory = unsafe { ReadOnly::from_raw(base, bytes, Kind::Cached, Box::new(owner)) };
    Ok((memory, len))
}

/// The length of a slot's file, which stays as it is, in bytes and as what this process may map.
fn length(fd: BorrowedFd<'_>) -> Result<(u64, usize), MemoryFault> {
    // The seal first: from then on the length that is read stays valid. Only memory files have
    // seals; for another kind of file the call fails.
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        _ => return Err(MemoryFault::NotSealed),
    }
    let size = fstat(fd).map_err(MemoryFault::Os)?.st_size;
    let len = u64::try_from(size).unwrap_or(0);
    if !is_slot_len(len) {
        return Err(MemoryFault::Length(len));
    }
    Ok((len, usize::try_from(len).map_err(|_| MemoryFault::AddressSpace(len))?))
}

fn unmapped(errno: Errno, len: u64) -> MemoryFault {
    match errno {
        Errno::OVERFLOW => MemoryFault::AddressSpace(len),
        errno => MemoryFault::Os(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapped::GUARD;
    use super::*;

    fn file(len: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("test", flags).unwrap();
        ftruncate(&fd, len).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn a_slots_memory_cannot_change_its_length() {
        let fd = create("test", 1 << 20).unwrap();
        assert_eq!(ftruncate(&fd, 4096), Err(Errno::PERM));
        assert_eq!(ftruncate(&fd, 2 << 20), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM));
    }

    #[test]
    fn two_mappings_of_one_file_show_the_same_bytes() {
        let fd = create("test", 1 << 20).unwrap();
        let ((a, len), (b, _)) = (map(&fd).unwrap(), map(&fd).unwrap());
        drop(fd);
        assert_eq!((len, a.len()), (1 << 20, 1 << 20));
        a.view(0, 1 << 20).store_le32((1 << 20) - 4, 0x1234_5678);
        assert_eq!(b.view(0, 1 << 20).load_le32((1 << 20) - 4), 0x1234_5678);
    }

    #[test]
    fn memory_that_is_only_looked_at_cannot_be_written() {
        let fd = create("test", 1 << 20).unwrap();
        let (mapping, (memory, len)) = (map(&fd).unwrap().0, map_read_only(&fd).unwrap());
        mapping.view(0, 1 << 20).store_le64(8, 0x1234_5678_9abc_def0);
        assert_eq!(
            (len, memory.look(8, 8).unwrap().load_le64(0)),
            (1 << 20, 0x1234_5678_9abc_def0)
        );
        let start = memory.look(0, 8).unwrap().address();
        assert_eq!(protection(start).as_deref(), Some("r--s"));
        assert_eq!(
            map_read_only(std::fs::File::open("/dev/null").unwrap()).err(),
            Some(MemoryFault::NotSealed)
        );
    }

    /// The protection of the page at an address of this process, as the kernel shows it.
    fn protection(addr: usize) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let [start, end] = [start, end].map(|n| usize::from_str_radix(n, 16).unwrap());
            (start..end).contains(&addr).then(|| rest[..4].to_owned())
        })
    }

    #[test]
    fn a_mapping_stands_between_guard_pages() {
        let (mapping, len) = map(create("test", 1 << 20).unwrap()).unwrap();
        let start = mapping.view(0, 8).io_parts().unwrap().0.addr();
        let end = start + usize::try_from(len).unwrap();
        for guard in [start - 1, start - GUARD, end, end + GUARD - 1] {
            assert_eq!(protection(guard).as_deref(), Some("---p"), "{guard:#x}");
        }
        for inside in [start, end - 1] {
            assert_eq!(protection(inside).as_deref(), Some("rw-s"), "{inside:#x}");
        }
    }

    /// Where the test that reads for the one below finds how far from a mapping's start.
    const READ_AT: &str = "BOARDLANE_TEST_READ_AT";

    #[test]
    fn reads_in_a_child() {
        let Ok(at) = std::env::var(READ_AT) else { return };
        let (mapping, _) = map(create("test", 1 << 20).unwrap()).unwrap();
        let (base, _) = mapping.view(0, 8).io_parts().unwrap();
        let byte = base.wrapping_offset(at.parse().unwrap());
        // SAFETY: this is the access that cannot be, in a process that is there for nothing else; or it
        // is inside, where nobody writes.
        unsafe { byte.read_volatile() };
    }

    #[test]
    fn a_byte_beyond_either_end_cannot_be_read_and_the_process_dies_of_it() {
        use std::os::unix::process::ExitStatusExt;
        for (at, signal) in [(-1, Some(11)), (0, None), ((1 << 20) - 1, None), (1 << 20, Some(11))]
        {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "os::fabric::memfd::tests::reads_in_a_child"]);
            let output = child.env(READ_AT, at.to_string()).output().unwrap();
            assert_eq!(output.status.signal(), signal, "at {at}: {output:?}");
            assert!(signal.is_some() || output.status.success(), "at {at}: {output:?}");
        }
    }

    #[test]
    fn memory_that_could_hurt_is_refused() {
        let cases = [
            (file(1 << 20, SealFlags::GROW), MemoryFault::NotSealed),
            (file(0, SealFlags::SHRINK), MemoryFault::Length(0)),
            (file(1 << 19, SealFlags::SHRINK), MemoryFault::Length(1 << 19)),
            (file(3 << 20, SealFlags::SHRINK), MemoryFault::Length(3 << 20)),
            (file(1 << 33, SealFlags::SHRINK), MemoryFault::Length(1 << 33)),
            (file(1 << 20, SealFlags::SHRINK | SealFlags::WRITE), MemoryFault::Os(Errno::PERM)),
            (std::fs::File::open("/dev/null").unwrap().into(), MemoryFault::NotSealed),
        ];
        for (fd, fault) in cases {
            assert_eq!(map(fd).map(|_| ()), Err(fault));
        }
    }
}
