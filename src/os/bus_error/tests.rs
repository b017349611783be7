use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::mmap;

use super::*;
use crate::memory::{Kind, Mapping};
use crate::os::fabric::vhost_user::memory::{Loss, map};

fn put<const N: usize>(table: &Table<N>, range: Range<usize>) -> Option<&Entry> {
    table.put(range, 4096, std::ptr::null())
}

#[test]
fn a_range_is_found_by_its_addresses_while_it_is_registered() {
    let table = Table::<3>::new();
    let a = put(&table, 0x1000..0x3000).unwrap();
    let b = put(&table, 0x3000..0x4000).unwrap();
    let found = |address| table.find(address).map(|found| found.range);
    assert_eq!(found(0xfff), None);
    assert_eq!((found(0x1000), found(0x2fff)), (Some(0x1000..0x3000), Some(0x1000..0x3000)));
    assert_eq!((found(0x3000), found(0x4000)), (Some(0x3000..0x4000), None));
    a.free();
    assert_eq!((found(0x1000), found(0x3fff)), (None, Some(0x3000..0x4000)));
    b.free();
    assert_eq!(found(0x3000), None);
}

#[test]
fn a_full_table_takes_no_other_range_until_one_goes() {
    let table = Table::<2>::new();
    let a = put(&table, 0x1000..0x2000).unwrap();
    put(&table, 0x2000..0x3000).unwrap();
    assert!(put(&table, 0x3000..0x4000).is_none());
    a.free();
    assert!(put(&table, 0x3000..0x4000).is_some());
    assert!(put(&table, 0x4000..0x5000).is_none());
}

#[test]
fn what_is_found_was_registered_as_it_is_found() {
    let table = Table::<2>::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = Instant::now() + Duration::from_secs(10);
        for thread in 1..=3_usize {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    // All ranges have this address; their length tells where they begin.
                    let start = 0x10_0000 - 0x1000 * (thread + 3 * (n % 5));
                    let len = 2 * (0x10_0000 - start) + 0x1000;
                    if let Some(entry) = put(table, start..start + len) {
                        (0..n % 200).for_each(|_| std::hint::spin_loop());
                        entry.free();
                    }
                    if stop.load(Ordering::Relaxed) || Instant::now() > end {
                        break;
                    }
                }
            });
        }
        let mut found = 0;
        while found < 20_000 && Instant::now() < end {
            let Some(Found { range, .. }) = table.find(0x10_0000) else { continue };
            assert_eq!(range.end - 0x10_0000, 0x10_0000 - range.start + 0x1000, "{range:x?}");
            found += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(found, 20_000, "too few were seen");
    });
}

/// A file of one page that is gone, and a mapping of the page.
fn gone() -> *mut u8 {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 4096).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
    let page =
        unsafe { mmap(null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &fd, 0) }.unwrap();
    ftruncate(&fd, 0).unwrap();
    page.cast()
}

/// What the test below has a child of its own do.
const DO: &str = "BOARDLANE_TEST_BUS_ERROR";

#[test]
fn touches_in_a_child() {
    let Ok(what) = std::env::var(DO) else { return };
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 4096).unwrap();
    let loss = Loss::new();
    let registered = map(fd.as_fd(), 0, 4096, &loss).unwrap();
    ftruncate(&fd, 0).unwrap();
    match what.as_str() {
        "registered" => assert_eq!(registered.view(0, 8).load_le64(0), 0),
        "copied" => copies_over_what_is_gone(),
        // SAFETY: there is no such memory any more, which is what this process is to die of.
        "other" => drop(unsafe { gone().read_volatile() }),
        // SAFETY: the call takes numbers only.
        "sent" => assert_eq!(unsafe { libc::raise(libc::SIGBUS) }, 0),
        "dropped" => {
            let (base, _) = registered.view(0, 8).io_parts().unwrap();
            drop(registered);
            // SAFETY: it replaces nothing: what was there has been unmapped by this, the only thread
            // that maps anything. Nor is there a page behind it.
            let again = unsafe {
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                mmap(base.cast(), 4096, ProtFlags::READ, flags, &fd, 0).unwrap().cast::<u8>()
            };
            // SAFETY: as in "other".
            let _ = unsafe { again.read_volatile() };
        }
        other => panic!("{other}"),
    }
}

/// Copies by string instruction, of which a page in the middle of its way is gone.
fn copies_over_what_is_gone() {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    for lost_is_source in [true, false] {
        ftruncate(&fd, 8192).unwrap();
        let lost = map(fd.as_fd(), 0, 8192, &Loss::new()).unwrap();
        let own = Mapping::anonymous(8192, Kind::Cached);
        lost.view(0, 8192).copy_from(0, &[1; 8192]);
        own.view(0, 8192).copy_from(0, &[2; 8192]);
        ftruncate(&fd, 4096).unwrap();
        let (from, to) = if lost_is_source { (&*lost, &own) } else { (&own, &*lost) };
        from.view(96, 8000).copy_into(&to.view(96, 8000));
        let mut bytes = [0; 8192];
        own.view(0, 8192).copy_to(0, &mut bytes);
        let expected = match lost_is_source {
            true => [[2, 96], [1, 4000], [0, 4000], [2, 96]],
            false => [[2, 8192], [0, 0], [0, 0], [0, 0]],
        };
        let expected =
            expected.map(|[byte, count]| vec![u8::try_from(byte).unwrap(); count]).concat();
        assert!(bytes[..] == expected[..], "{lost_is_source}");
    }
}

#[test]
fn the_process_survives_the_loss_of_what_is_registered_and_of_nothing_else() {
    for (what, signal) in [
        ("registered", None),
        ("copied", None),
        ("other", Some(libc::SIGBUS)),
        ("sent", Some(libc::SIGBUS)),
        ("dropped", Some(libc::SIGBUS)),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "os::bus_error::tests::touches_in_a_child"]);
        let output = child.env(DO, what).output().unwrap();
        assert_eq!(output.status.signal(), signal, "{what}: {output:?}");
        assert!(signal.is_some() || output.status.success(), "{what}: {output:?}");
    }
}
