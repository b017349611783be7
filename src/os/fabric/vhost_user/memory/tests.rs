use std::fs::File;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;

fn file(len: u64) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

#[test]
fn a_region_is_a_part_of_its_file_wherever_it_begins() {
    let fd = file(1 << 20);
    let loss = Loss::new();
    let all = map(fd.as_fd(), 0, 1 << 20, &loss).unwrap();
    for (offset, len) in
        [(0, 1), (4096, 4096), (8, 5), (4088, 16), (12_296, 70_000), (1_048_568, 8)]
    {
        let region = map(fd.as_fd(), offset, len, &loss).unwrap();
        let (at, size) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        assert_eq!(region.len(), size);
        all.view(at, size).copy_from(size - 1, &[0xa5]);
        let mut last = [0];
        region.view(0, size).copy_to(size - 1, &mut last);
        assert_eq!(last, [0xa5], "{offset}");
        region.view(0, size).copy_from(0, &[0x5a]);
        all.view(at, size).copy_to(0, &mut last);
        assert_eq!(last, [0x5a], "{offset}");
    }
    assert!(!loss.is_lost());
}

#[test]
fn what_is_no_region_is_refused_and_says_why() {
    let fd = file(8192);
    let read_only = File::open("/proc/self/exe").unwrap();
    let null = File::open("/dev/null").unwrap();
    let too_short = |offset, len| RegionError::TooShort { file: 8192, offset, len };
    for (fd, offset, len, error) in [
        (fd.as_fd(), 0, 0, RegionError::Empty),
        (fd.as_fd(), 0, 8193, too_short(0, 8193)),
        (fd.as_fd(), 8192, 1, too_short(8192, 1)),
        (fd.as_fd(), 4096, 1 << 40, too_short(4096, 1 << 40)),
        (fd.as_fd(), 4, 8, RegionError::Misaligned(4)),
        (fd.as_fd(), u64::MAX, 1, RegionError::Overflow { offset: u64::MAX, len: 1 }),
        (fd.as_fd(), 8, u64::MAX - 7, RegionError::Overflow { offset: 8, len: u64::MAX - 7 }),
        (fd.as_fd(), 8, 1 << 63, RegionError::Overflow { offset: 8, len: 1 << 63 }),
        (null.as_fd(), 0, 4096, RegionError::NotMemory),
        (read_only.as_fd(), 0, 4096, RegionError::NotMemory),
    ] {
        assert_eq!(map(fd, offset, len, &Loss::new()).unwrap_err(), error, "{offset} {len}");
    }
    assert_eq!(
        too_short(4096, 8192).to_string(),
        "a region of 8192 bytes at 4096 of a file that has 8192 bytes"
    );
    fcntl_add_seals(&fd, SealFlags::WRITE).unwrap();
    assert_eq!(map(fd.as_fd(), 0, 8, &Loss::new()).unwrap_err(), RegionError::Os(Errno::PERM));
}

#[test]
fn a_connection_has_so_many_regions_and_so_many_bytes_at_a_time() {
    let fd = file(4096);
    let loss = Loss::new();
    let region = || map(fd.as_fd(), 0, 8, &loss);
    let mut regions: Vec<_> = (0..MAX_REGIONS).map(|_| region().unwrap()).collect();
    assert_eq!(region().unwrap_err(), RegionError::TooMany);
    regions.pop();
    regions.push(region().unwrap());
    assert_eq!(region().unwrap_err(), RegionError::TooMany);
    drop(regions);
    // A file takes no memory for what nobody has written.
    let fd = file(2 << 40);
    let half = || map(fd.as_fd(), 0, 1 << 39, &loss);
    let halves = (half().unwrap(), half().unwrap());
    let too_much = |len, mapped| RegionError::TooMuch { len, mapped };
    assert_eq!(half().unwrap_err(), too_much(1 << 39, 1 << 40));
    drop(halves);
    let error = map(fd.as_fd(), 0, (1 << 40) + 4096, &loss).unwrap_err();
    assert_eq!(error, too_much((1 << 40) + 4096, 0));
    drop(map(fd.as_fd(), 0, 1 << 40, &loss).unwrap());
}

#[test]
fn a_file_that_shrinks_under_many_threads_ends_none_of_them() {
    let fd = file(16 << 20);
    let (loss, other) = (Loss::new(), Loss::new());
    let region = map(fd.as_fd(), 8, (16 << 20) - 8, &loss).unwrap();
    let others = file(4096);
    let untouched = map(others.as_fd(), 0, 4096, &other).unwrap();
    untouched.view(0, 8).store_le64(0, 7);
    let touched = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (region, loss, touched) = (&region, &loss, &touched);
            scope.spawn(move || {
                let end = Instant::now() + Duration::from_secs(10);
                let view = region.view(0, region.len());
                for n in 0.. {
                    // Pages all over it, in an order of this thread's own.
                    let at = (thread + 4099 * n) % 4095 * 4096;
                    match n % 3 {
                        0 => view.store_le64(at, 0xffff_ffff_ffff_ffff),
                        1 => drop(view.load_le16(at + 2)),
                        _ => view.copy_from(at, &[1; 100]),
                    }
                    touched.fetch_add(1, Ordering::Relaxed);
                    if loss.is_lost() && n > 10_000 {
                        break;
                    }
                    assert!(Instant::now() < end, "its loss was not told");
                }
            });
        }
        while touched.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        ftruncate(&fd, 4096).unwrap();
    });
    assert!(loss.is_lost());
    // Another connection's is as it was.
    assert!(!other.is_lost());
    assert_eq!(untouched.view(0, 8).load_le64(0), 7);
    // What is lost is this process's own now.
    region.view(0, 8).store_le64(0, 0x1234);
    let again = map(fd.as_fd(), 8, 8, &other).unwrap();
    assert_ne!(again.view(0, 8).load_le64(0), 0x1234);
    drop(region);
    assert!(loss.is_lost(), "what was lost stays so");
}

#[test]
fn regions_come_and_go_while_others_are_lost() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..200 {
                    let fd = file(8192);
                    let loss = Loss::new();
                    let region = map(fd.as_fd(), 0, 8192, &loss).unwrap();
                    region.view(0, 8).store_le64(0, 9);
                    let shrinks = n % 2 == 0;
                    if shrinks {
                        ftruncate(&fd, 4096).unwrap();
                    }
                    // The page that is left goes with the others, once one is touched that is gone.
                    assert_eq!(region.view(4096, 8).load_le64(0), 0);
                    let left = region.view(0, 8).load_le64(0);
                    assert_eq!((loss.is_lost(), left), (shrinks, if shrinks { 0 } else { 9 }));
                }
            });
        }
    });
}

#[test]
#[allow(clippy::print_stderr, reason = "says where a kernel has no huge pages")]
fn huge_pages_are_mapped_and_lost_as_a_whole() {
    const HUGE: u64 = 2 << 20;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let fd = match memfd_create("test", flags) {
        Err(error) => return eprintln!("this kernel has no huge pages of 2 MiB: {error}"),
        Ok(fd) => fd,
    };
    ftruncate(&fd, 4 * HUGE).unwrap();
    let loss = Loss::new();
    let region = map(fd.as_fd(), HUGE + 4104, HUGE, &loss).unwrap();
    assert_eq!(loss.mapped.lock().unwrap().bytes, 2 * HUGE);
    let view = region.view(0, region.len());
    assert!(view.is_aligned(8) && !view.is_aligned(16));
    view.store_le32(0, 5);
    // Without a huge page to spare on this machine, it is lost already.
    let early = loss.is_lost();
    if !early {
        let again = map(fd.as_fd(), HUGE + 4104, 8, &Loss::new()).unwrap();
        assert_eq!(again.view(0, 8).load_le32(0), 5);
    }
    ftruncate(&fd, 0).unwrap();
    view.store_le32(region.len() - 4096, 1);
    assert!(loss.is_lost());
    let first = if early { 5 } else { 0 };
    assert_eq!((view.load_le32(region.len() - 4096), view.load_le32(0)), (1, first));
    drop(region);
    assert_eq!(loss.mapped.lock().unwrap().bytes, 0);
}

#[test]
fn memory_for_the_other_end_is_zero_and_cannot_shrink() {
    let (fd, ours) = create(5000).unwrap();
    assert_eq!(ftruncate(&fd, 4096), Err(Errno::PERM));
    let theirs = map(fd.as_fd(), 0, 5000, &Loss::new()).unwrap();
    assert_eq!(theirs.view(0, 8).load_le64(0), 0);
    theirs.view(0, 5000).copy_from(4999, &[7]);
    let mut last = [0];
    ours.view(0, 5000).copy_to(4999, &mut last);
    assert_eq!(last, [7]);
    assert_eq!(create(0).unwrap_err(), RegionError::Empty);
    assert!(create(u64::MAX).is_err() && create(MAX_MAPPED + 1).is_err());
}
